# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs of aligned exposures: mapped to the grid and broadened by the interpolation.
"""

import numpy as np

from ..psf import PSFModel, VaryingPSF
from ._grid import map_pixels

# Half the side, in pixels, of the neighbourhood over which the kernel of the
# interpolation is averaged: the part of a star that decides its flux.
_REACH = 3
# Standard deviation, in output pixels, of the Gaussian with which
# `reproject.reproject_adaptive` averages: half of its kernel_width of 1.3, a
# little less because it ends two pixels from its centre.
_ADAPTIVE_SIGMA = 0.643
# A change of scale smaller than this leaves the normalisation radius as it is.
_SAME_SCALE = 1e-3
# Steps (x, y) in pixels by which the mapping is differentiated.
_STEPS = np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])


class AlignedPSF(VaryingPSF):
    """
    PSF of an exposure in the pixels of the grid that it was resampled to.

    A place is mapped to the exposure, whose PSF is evaluated there (outside of the
    exposure at the nearest place on it); its lengths and its ellipticity are carried
    over by the derivatives of the mapping, and it is broadened by the kernel of the
    interpolation.

    Parameters
    ----------
    access : object
        PSF of the exposure in its own pixels, with a method ``at(x, y)``.

    wcs_out, wcs_in : object
        WCS of the grid and of the exposure.

    shape_in : tuple of int
        Shape (ny, nx) of the exposure.

    method : {'bilinear', 'adaptive', 'exact'}
        Method of resampling.

    Notes
    -----
    With A the derivatives of the exposure's pixels with respect to those of
    the grid, a PSF of covariance C becomes one of covariance
    :math:`A^{-1} (C + K) A^{-T}`. Bilinear interpolation at the fraction f of a
    pixel adds :math:`K = \\mathrm{diag}(f_x (1 - f_x), f_y (1 - f_y))`, the mean of
    which over all fractions is 1/6. It is averaged over the fractions
    that occur within three pixels: one and the same for a pure shift, all of them
    under a rotation.
    """

    def __init__(self, access, wcs_out, wcs_in, shape_in, method):
        self._access = access
        self._wcs_out, self._wcs_in = wcs_out, wcs_in
        self._last = np.array(shape_in[::-1]) - 1
        self.method = method

    def __repr__(self):
        return f'<AlignedPSF, {self.method}, origin {self.origin}>'

    def at(self, x, y):
        """Return the PSF at a place; the radius of its flux is the same angle."""
        [shape], [radius] = self._shapes(np.array([[x, y]]))
        return PSFModel.from_shape(
            shape, x_0=float(x), y_0=float(y), normalization_radius=radius
        )

    def shape_grid(self, xs, ys):
        """Return the shape vectors on a grid of places; see ``VaryingPSF``."""
        x, y = np.meshgrid(np.atleast_1d(xs), np.atleast_1d(ys))
        shapes, _ = self._shapes(np.stack([x.ravel(), y.ravel()], axis=-1))
        return shapes.reshape(*x.shape, -1)

    def _shapes(self, places):
        """Shape vectors (n, 8) and normalisation radii (n,) at places (n, 2)."""
        grid = places + np.array(self.origin)
        mapped = map_pixels(self._wcs_out, self._wcs_in, *(grid + _STEPS[:, None]).T)
        if not np.isfinite(mapped).all():
            msg = (
                'x and y must be finite and lie where the coordinates of the exposure '
                f'reach; got {places}.'
            )
            raise ValueError(msg)
        # (2, n, 5) became centres (n, 2) and derivatives (n, 2, 2).
        places = mapped[..., 0].T
        jacobians = np.moveaxis(mapped[..., 1::2] - mapped[..., 2::2], 0, 1)
        shapes, radii = [], []
        for here, place, jacobian in zip(grid, places, jacobians, strict=True):
            psf = self._access.at(*np.clip(place, 0, self._last))
            matrix = np.linalg.inv(jacobian)
            # Interpolated is at the pixels of the grid, wherever the star is.
            pixel = place + jacobian @ (np.rint(here) - here)
            kernel = _interpolation_kernel(pixel, jacobian, matrix, self.method)
            shapes.append(_transform_shape(psf.shape_vector, matrix, kernel))
            scale = np.sqrt(np.abs(np.linalg.det(matrix)))
            scale = 1.0 if abs(scale - 1) < _SAME_SCALE else scale
            radii.append(psf.normalization_radius * scale)
        return np.array(shapes), np.array(radii)


def _interpolation_kernel(place, jacobian, matrix, method):
    """Return the covariance by which a resampling broadens what it resamples."""
    if method == 'adaptive':
        # Where it magnifies, the Gaussian is as wide as input pixels need.
        left, singular, _ = np.linalg.svd(jacobian)
        wide = left * (_ADAPTIVE_SIGMA * np.maximum(singular, 1))
        return matrix @ wide @ wide.T @ matrix.T
    steps = np.arange(-_REACH, _REACH + 1)
    offsets = np.stack(np.meshgrid(steps, steps)).reshape(2, -1)
    fraction = (place[:, None] + jacobian @ offsets) % 1
    spread = (fraction * (1 - fraction)).mean(axis=1)
    bilinear = (matrix * spread) @ matrix.T
    if method == 'bilinear':
        return bilinear
    # Exact: half of it is the square of an input pixel, the other that of an
    # output pixel; together they are the bilinear kernel for a pure shift.
    squares = matrix**2
    return 0.5 * (bilinear + np.diag(squares @ spread / squares.sum(axis=1)))


def _transform_shape(shape, matrix, kernel):
    """Carry a PSF through a linear mapping and a small convolution."""
    *_, b, _, p0, beta, e1, e2 = shape
    sigmas = np.array(shape)[[0, 1, 3]]
    unit = np.array([[1 + e1, e2], [e2, 1 - e1]]) / np.sqrt(1 - e1**2 - e2**2)
    unit = matrix @ unit @ matrix.T
    covariances = sigmas[:, None, None] ** 2 * unit + kernel
    s1, s2, sp = new = np.linalg.det(covariances) ** 0.25
    # Height that each component keeps.
    kept = sigmas**2 * np.abs(np.linalg.det(matrix)) / new**2
    (xx, xy), (_, yy) = covariances[0]
    b, p0 = b * kept[1] / kept[0], p0 * kept[2] / kept[0]
    e1, e2 = (xx - yy) / (xx + yy), 2 * xy / (xx + yy)
    return np.array([s1, s2, b, sp, p0, beta, e1, e2])
