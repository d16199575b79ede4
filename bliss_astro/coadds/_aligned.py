# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Aligned exposures: images and PSFs in the pixels of another grid.
"""

import numpy as np

from ..exposures import Exposure
from ..psf import PSFModel, VaryingPSF
from ._grid import map_pixels
from ._noise import check_kernel, kernel_of_pair

__all__ = ['AlignedExposure', 'AlignedPSF']


class AlignedExposure(Exposure):
    """
    An exposure that was resampled to another grid.

    `align_exposures` returns them. The sky has been subtracted
    (``background`` is 0), while the noise of the sky is in ``bkg_error``. Pixels
    hold the flux per pixel of the new grid, so that a source has the flux that
    it had; in units of surface brightness (MJy / sr) they hold that, unchanged.

    Parameters
    ----------
    data : 2D array_like
        The image.

    noise_kernel : 2D array_like, optional
        Mean correlation of the noise of two pixels by their distance,
        ``noise_kernel[n + dy, n + dx]`` for a side of ``2 n + 1``: 1 at the
        centre, the same at opposite lags. By default it follows from
        ``noise_correlation``.

    coverage : 2D bool array_like, optional
        `True` where the exposure has data, good or bad; by default everywhere.

    noise_correlation : pair of float, optional
        Correlation of neighbours in x and in y, where there is no
        ``noise_kernel``.

    **kwargs
        See `~bliss_astro.exposures.Exposure`.

    Attributes
    ----------
    noise_kernel : float `~numpy.ndarray`, shape (5, 5)
        See the parameters.

    coverage : bool `~numpy.ndarray`, shape (ny, nx)
        See the parameters.

    See Also
    --------
    align_exposures : Makes them.

    Notes
    -----
    ``bkg_error`` is the noise of single pixels, which resampling reduces. The
    noise of a sum over many pixels is ``bkg_error * sqrt(noise_kernel.sum())``
    times the square root of their number, which it does not.
    """

    _arguments = (*Exposure._arguments, 'noise_kernel', 'coverage')

    def __init__(
        self,
        data,
        *,
        noise_kernel=None,
        coverage=None,
        noise_correlation=None,
        **kwargs,
    ):
        if noise_kernel is not None:
            noise_kernel = check_kernel('noise_kernel', noise_kernel)
            own = _neighbours(noise_kernel)
            if noise_correlation is None:
                noise_correlation = own
            elif not np.allclose(noise_correlation, own, rtol=0, atol=1e-6):
                msg = (
                    f'noise_correlation={tuple(noise_correlation)} does not fit '
                    f'noise_kernel, which has {own}; give one of both.'
                )
                raise ValueError(msg)
        if noise_correlation is None:
            noise_correlation = (0.0, 0.0)
        super().__init__(data, noise_correlation=noise_correlation, **kwargs)
        if noise_kernel is None:
            noise_kernel = kernel_of_pair(*self.noise_correlation)
        self.noise_kernel = noise_kernel
        covered = np.ones(self.shape, dtype=bool)
        if coverage is not None:
            covered = np.asarray(coverage, dtype=bool)
        if covered.shape != self.shape:
            msg = (
                f'coverage must have the shape of data, {self.shape}; got '
                f'{covered.shape}.'
            )
            raise ValueError(msg)
        self.coverage = covered

    def _state(self):
        """Return the constructor's arguments after data, as they are now."""
        state = super()._state()
        # It follows from the kernel; and that is not given as an array, lest a
        # cut-out of a small image takes it for a map.
        state['noise_correlation'] = None
        state['noise_kernel'] = self.noise_kernel.tolist()
        return state


def _neighbours(kernel):
    """Return the correlation of neighbours in x and in y."""
    n = len(kernel) // 2
    if n == 0:
        return 0.0, 0.0
    return float(kernel[n, n + 1]), float(kernel[n + 1, n])


# Half the side, in pixels, of the neighbourhood over which the kernel of the
# interpolation is averaged: the part of a star that decides its flux.
_REACH = 3

# Standard deviation, in output pixels, of the Gaussian with which
# `reproject.reproject_adaptive` averages: half of its kernel_width of 1.3, a
# little less because it ends two pixels from its centre.
_ADAPTIVE_SIGMA = 0.643

# A change of scale smaller than this leaves the normalisation radius as it is.
_SAME_SCALE = 1e-3


class AlignedPSF(VaryingPSF):
    """
    The PSF of an exposure in the pixels of the grid that it was resampled to.

    A place is mapped to the exposure, whose PSF is evaluated there; its lengths
    and its ellipticity are carried over by the derivatives of the mapping,
    and it is broadened by the interpolation's own kernel.

    Parameters
    ----------
    access : object
        The PSF of the exposure in its own pixels: what has a method ``at(x, y)``
        that returns a `~bliss_astro.psf.PSFModel`.

    wcs_out, wcs_in : object
        The WCS of the grid and of the exposure.

    shape_in : tuple of int
        The shape of the exposure, outside of which its PSF is that of the
        nearest place on it.

    method : {'bilinear', 'adaptive', 'exact'}, optional
        How the exposure is resampled.

    origin : tuple of float, optional
        The place (x, y) of the grid on which pixel (0, 0) of the image lies.

    See Also
    --------
    align_exposures : Makes them.

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

    def __init__(
        self, access, wcs_out, wcs_in, shape_in, *, method='bilinear', origin=(0, 0)
    ):
        self._access = access
        self._wcs_out, self._wcs_in = wcs_out, wcs_in
        self._shape_in = tuple(shape_in)
        self.method = method
        self.origin = (float(origin[0]), float(origin[1]))

    def __repr__(self):
        """Name the method and the place."""
        return f'<AlignedPSF, {self.method}, origin {self.origin}>'

    def at(self, x, y):
        """
        Return the PSF at a place.

        Parameters
        ----------
        x, y : float
            The place, pixels of the image.

        Returns
        -------
        psf : `~bliss_astro.psf.PSFModel`
            The model, of unit flux, at ``x_0 = x`` and ``y_0 = y``. Its
            normalisation radius is the same angle on the sky as before.
        """
        shapes, radii = self._shapes(np.array([x]), np.array([y]))
        return PSFModel.from_shape(
            shapes[0], x_0=float(x), y_0=float(y), normalization_radius=radii[0]
        )

    def shape_grid(self, xs, ys):
        """
        Return the shapes on a grid of places.

        Parameters
        ----------
        xs, ys : 1D array
            Columns and rows, pixels of the image.

        Returns
        -------
        shapes : float `~numpy.ndarray`, shape (len(ys), len(xs), 8)
            The shape parameters, in the order of ``SHAPE_NAMES``.
        """
        x, y = np.meshgrid(np.atleast_1d(xs), np.atleast_1d(ys))
        shapes, _ = self._shapes(x.ravel(), y.ravel())
        return shapes.reshape(*x.shape, -1)

    def _shapes(self, x, y):
        """Return shape vectors (n, 8) and normalisation radii (n,) at places (n,)."""
        grid = np.stack([x, y], axis=-1) + self.origin
        places, jacobians = self._linear(grid)
        last = np.array(self._shape_in[::-1]) - 1
        shapes, radii = [], []
        for here, place, jacobian in zip(grid, places, jacobians, strict=True):
            psf = self._access.at(*np.clip(place, 0, last))
            matrix = np.linalg.inv(jacobian)
            # Interpolated is at the pixels of the grid, wherever the star is.
            pixel = place + jacobian @ (np.rint(here) - here)
            kernel = interpolation_kernel(pixel, jacobian, self.method)
            shapes.append(transform_shape(psf.shape_vector, matrix, kernel))
            scale = np.sqrt(np.abs(np.linalg.det(matrix)))
            if abs(scale - 1) < _SAME_SCALE:
                scale = 1.0
            radii.append(psf.normalization_radius * scale)
        return np.array(shapes), np.array(radii)

    def _linear(self, grid):
        """Map places (n, 2) to the exposure (n, 2), with derivatives (n, 2, 2)."""
        if not np.isfinite(grid).all():
            msg = f'x and y must be finite; got {grid - self.origin}.'
            raise ValueError(msg)
        step = np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
        places = grid + step[:, None]
        mapped = np.stack(
            map_pixels(self._wcs_out, self._wcs_in, places[..., 0], places[..., 1])
        )
        centre, right, left, up, down = np.moveaxis(mapped, 1, 0)
        jacobian = np.stack([right - left, up - down])
        if not np.isfinite(jacobian).all():
            msg = (
                'x and y must lie where the coordinates of the exposure reach; got '
                f'{grid - self.origin}.'
            )
            raise ValueError(msg)
        return centre.T, jacobian.transpose(2, 1, 0)


def interpolation_kernel(place, jacobian, method):
    """Return by how much a resampling broadens what it resamples."""
    matrix = np.linalg.inv(jacobian)
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
    output = np.diag(squares @ spread / squares.sum(axis=1))
    return 0.5 * (bilinear + output)


def transform_shape(shape, matrix, kernel):
    """Carry a PSF through a linear mapping and a small convolution."""
    s1, s2, b, sp, p0, beta, e1, e2 = shape
    unit = np.array([[1 + e1, e2], [e2, 1 - e1]]) / np.sqrt(1 - e1**2 - e2**2)
    unit = matrix @ unit @ matrix.T
    area = np.abs(np.linalg.det(matrix))
    covariances = [sigma**2 * unit + kernel for sigma in (s1, s2, sp)]
    new = [np.linalg.det(c) ** 0.25 for c in covariances]
    # What each component loses in height.
    loss = [sigma**2 * area / n**2 for sigma, n in zip((s1, s2, sp), new, strict=True)]
    core = covariances[0]
    trace = np.trace(core)
    return np.array(
        [
            new[0],
            new[1],
            b * loss[1] / loss[0],
            new[2],
            p0 * loss[2] / loss[0],
            beta,
            (core[0, 0] - core[1, 1]) / trace,
            2 * core[0, 1] / trace,
        ]
    )
