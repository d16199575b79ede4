# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs of aligned exposures and of coadds: mapped, broadened, averaged.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt

from bliss_astro._arguments import require
from bliss_astro._filters import sums_of_cells
from bliss_astro.psf import GaussianPSF, PSFModel, VaryingPSF
from bliss_astro.psf._joint_fit import StampFit, minimise
from bliss_astro.psf._profile import unit_profile
from bliss_astro.psf._wing_prior import PRIOR_WIDTH, to_shape, to_theta

from ._grid import map_pixels

# Half the side of an image of the PSF: a little more than the normalisation
# radius, and never more than this.
_LARGEST_HALF = 40
# How far the shape at a node may be from that of the middle: near enough that
# what is interpolated between nodes is one family of descriptions.
_NODE_WIDTH = np.where(np.isinf(PRIOR_WIDTH), np.inf, 0.5 * PRIOR_WIDTH)
# Half the side of what of an image is fitted, in the middle and at the nodes: the
# wing beyond follows from the model, and the time from the number of pixels.
_MIDDLE_HALF, _FITTED_HALF = 16, 12
# Error of a pixel of an image of the PSF: a share of the peak, and of the
# square root of peak and pixel.
_FLOOR, _SHARE = 1e-6, 3e-4


class EffectivePSF(VaryingPSF):
    """
    A PSF given by images on a grid of places, as the one of a coadd is.

    Parameters
    ----------
    images : float array_like, shape (n_y, n_x, s, s)
        The PSF at each place, centred on the middle pixel, s odd: the image of a
        star of unit flux. Shapes that do not fit each other are a `ValueError`.

    xs, ys : float array_like, shape (n_x,) and (n_y,)
        Columns and rows of the grid of places in pixels, ascending.

    normalization_radius : float, optional
        Radius in pixels within which the flux of a star is counted.

    origin : tuple of float, optional
        The place (x, y) of the grid's frame on which pixel (0, 0) of the
        image lies.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro import PSFModel
    >>> from bliss_astro.coadds import EffectivePSF
    >>> yy, xx = np.mgrid[-20:21, -20:21]
    >>> images = [[PSFModel(sigma1=s)(xx, yy) for s in (1.4, 1.6)]]
    >>> psf = EffectivePSF(images, xs=[0, 100], ys=[0])
    >>> round(psf.at(50, 7).fwhm, 2)
    3.62
    """

    def __init__(
        self, images, *, xs, ys, normalization_radius=18.76, origin=(0.0, 0.0)
    ):
        self.images = np.array(images, dtype=float)
        self.xs, self.ys = (np.atleast_1d(np.array(v, dtype=float)) for v in (xs, ys))
        shape = self.images.shape
        sound = len(shape) == 4 and shape[2] == shape[3] and shape[2] % 2
        require(sound, 'images', 'have the shape (n_y, n_x, s, s), s odd', shape)
        n_x, n_y = len(self.xs), len(self.ys)
        allowed = f'name the {shape[1]} columns and {shape[0]} rows of images'
        require(shape[:2] == (n_y, n_x), 'xs and ys', allowed, f'{n_x} and {n_y}')
        for name, values in (('xs', self.xs), ('ys', self.ys)):
            require((np.diff(values) > 0).all(), name, 'ascend', values)
        self.normalization_radius = float(normalization_radius)
        self.origin = (float(origin[0]), float(origin[1]))
        # Filled by the first use, and shared by cut-outs.
        self._thetas = []

    def __repr__(self):
        n_y, n_x, side = self.images.shape[:3]
        places = f'{n_y} x {n_x} place{"" if n_x * n_y == 1 else "s"}'
        return f'<EffectivePSF, {places}, {side} px>'

    def shape_grid(self, xs, ys):
        """
        Return the shapes of the analytic models on a grid of places.

        Parameters
        ----------
        xs, ys : 1D array_like
            Columns and rows of the grid in pixels of the image.

        Returns
        -------
        shapes : float `~numpy.ndarray`, shape (len(ys), len(xs), 8)
            Shape vectors, interpolated linearly between fits to the images.
        """
        if not self._thetas:
            middle = self.images.mean(axis=(0, 1))
            central = fit_middle(middle, self.normalization_radius)
            start = to_theta(central.shape_vector)
            fits = [[self._fit(image, start) for image in row] for row in self.images]
            self._thetas.append(np.array(fits))
        return to_shape(self._interpolate(self._thetas[0], xs, ys))

    def gaussians(self, xs, ys):
        """Return fits to the images on a grid of places; see ``VaryingPSF``."""
        images = self._interpolate(self.images, xs, ys)
        radius = self.normalization_radius
        return GaussianPSF.fit(images, normalization_radius=radius).centred()

    def image_at(self, x, y):
        """
        Return the image of the PSF at a place.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image.

        Returns
        -------
        image : float `~numpy.ndarray`, shape (s, s)
            The PSF centred on the middle pixel, interpolated linearly between
            the images next to the place. Its sum is the flux within it of a
            star of unit flux.
        """
        return self._interpolate(self.images, [x], [y])[0, 0]

    def _interpolate(self, values, xs, ys):
        """Interpolate values (n_y, n_x, ...) linearly; constant beyond the grid."""
        along_y, along_x = (
            # Weights of linear interpolation, (places, nodes).
            np.stack([np.interp(at, nodes, row) for row in np.eye(len(nodes))], axis=-1)
            for at, nodes in (
                (np.atleast_1d(ys) + self.origin[1], self.ys),
                (np.atleast_1d(xs) + self.origin[0], self.xs),
            )
        )
        return np.einsum('ai,bj,ij...->ab...', along_y, along_x, values)

    def _fit(self, image, start):
        """Fit one image, beginning with and staying near the shape of the middle."""
        image = _core(image, _FITTED_HALF)
        middle, peak = len(image) // 2, image.max()
        variance = _SHARE**2 * peak * np.maximum(image, 0) + (_FLOOR * peak) ** 2
        fit = StampFit(
            start.copy(),
            np.array([[1.0, middle, middle, 0.0]]),
            prior_mean=start,
            prior_width=_NODE_WIDTH,
            radius=self.normalization_radius,
        )
        weights = 1 / np.sqrt(variance)
        minimise(fit, image[None], weights[None], with_background=False)
        return fit.theta


def _core(image, half):
    """Cut out the middle of an image, at most ``2 half + 1`` wide."""
    cut = max(image.shape[0] // 2 - half, 0)
    return image[cut:-cut, cut:-cut] if cut else image


def fit_middle(image, radius):
    """Fit the analytic model to an image, without the outermost of its wing."""
    psf = PSFModel.fit(_core(image, _MIDDLE_HALF), normalization_radius=radius)
    return PSFModel.from_shape(psf.shape_vector, normalization_radius=radius)


def _draw_shape(shape, radius):
    """Draw the PSF of a shape vector, of unit flux, in the middle of an image."""
    half = _LARGEST_HALF
    if np.isfinite(radius):
        half = int(min(np.ceil(radius) + 2, half))
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    return unit_profile(xx, yy, shape, radius)


def draw_psf_at(exposure, x, y):
    """Draw the PSF of an exposure at a place."""
    if isinstance(exposure.psf, EffectivePSF):
        return exposure.psf.image_at(x, y)
    model = exposure.psf_at(x, y)
    return _draw_shape(model.shape_vector, model.normalization_radius)


# Sides of the cells for which the PSF is averaged, pixels, and how many of them
# an image has at most along each axis.
_CELL, _MOST_CELLS = 64, 8
# Places within a cell, along each axis.
_PLACES = np.array([0.13, 0.52, 0.84])
# Images that differ by less than this share of the peak are one PSF.
_SAME_PSF = 1e-7


class Cells:
    """The cells of an image over which weights and PSFs are averaged."""

    def __init__(self, shape):
        counts = [min(max(1, round(n / _CELL)), _MOST_CELLS) for n in shape]
        self.edges = [
            np.linspace(0, n, k + 1).astype(int)
            for n, k in zip(shape, counts, strict=True)
        ]
        self.ys, self.xs = ((e[:-1] + e[1:] - 1) / 2 for e in self.edges)
        self.shape = (len(self.ys), len(self.xs))

    def places(self, row, column):
        """Return columns and rows of places that stand for a cell."""
        # The broadening by interpolation changes within a few pixels, if grids
        # are rotated against each other; the places have irregular distances.
        return [
            np.floor(edges[k] + _PLACES * (edges[k + 1] - edges[k]))
            for edges, k in zip(self.edges[::-1], (column, row), strict=True)
        ]

    def sum(self, values):
        """Sum a map over each cell, ``(n_y, n_x)``."""
        return sums_of_cells(values, [edges[:-1] for edges in self.edges])


class PSFMean:
    """Weighted mean of PSFs by cells, gathered exposure by exposure."""

    def __init__(self, cells, shapes=None):
        self.cells = cells
        # Exposures without a PSF; index, image and weight of the others.
        self.lacking, self.central = [], []
        # By exposure and cell: they cost more than all else that is done here.
        self.shapes = {} if shapes is None else shapes
        self._weights = np.zeros((*cells.shape, 1, 1))
        self._images = self._radius = None

    def add(self, exposure, weights, index):
        """Add the PSF of one aligned exposure."""
        if exposure.psf is None:
            self.lacking.append(index)
            return
        # Its PSF where it matters most stands for it in comparisons.
        row, column = np.unravel_index(np.argmax(weights), weights.shape)
        model = exposure.psf_at(self.cells.xs[column], self.cells.ys[row])
        if self._radius is None:
            self._radius = float(model.normalization_radius)
        image = _draw_shape(model.shape_vector, self._radius)
        self.central.append((index, image, float(weights.sum())))
        if self._images is None:
            self._images = np.zeros((*self.cells.shape, *image.shape))
        varies = exposure._psf_access.varies
        for cell in map(tuple, np.argwhere(weights > 0)):
            if varies:
                key = (index, *cell)
                if key not in self.shapes:
                    shapes = exposure.psf_shapes(*self.cells.places(*cell))
                    self.shapes[key] = shapes.mean(axis=(0, 1))
                image = _draw_shape(self.shapes[key], self._radius)
            self._images[cell] += weights[cell] * image
        self._weights[..., 0, 0] += weights

    def finish(self):
        """Return the mean, and its image if that is one for all places."""
        if self.lacking or self._images is None:
            return None, None
        filled = self._weights > 0
        images = self._images / np.where(filled, self._weights, 1)
        # Cells without exposures have the PSF of the nearest one that has some.
        nearest = distance_transform_edt(
            ~filled[..., 0, 0], return_distances=False, return_indices=True
        )
        images = images[tuple(nearest)]
        first = images[0, 0]
        if np.abs(images - first).max() <= _SAME_PSF * first.max():
            return fit_middle(first, self._radius), first
        grid = {'xs': self.cells.xs, 'ys': self.cells.ys}
        return EffectivePSF(images, **grid, normalization_radius=self._radius), None


# -- aligned exposures -------------------------------------------------------------

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
        [shape], [place], [scale] = self._shapes(np.array([[x, y]]))
        radius = float(self._access.at(*place).normalization_radius * scale)
        return PSFModel.from_shape(
            shape, x_0=float(x), y_0=float(y), normalization_radius=radius
        )

    def shape_grid(self, xs, ys):
        """Return the shape vectors on a grid of places; see ``VaryingPSF``."""
        x, y = np.meshgrid(np.atleast_1d(xs), np.atleast_1d(ys))
        return self.shapes_at(x.ravel(), y.ravel()).reshape(*x.shape, -1)

    def shapes_at(self, x, y):
        """Return the shape vectors at n places; see ``VaryingPSF``."""
        return self._shapes(np.stack([x, y], axis=-1))[0]

    def _shapes(self, places):
        """Shape vectors (n, 8), places on the exposure (n, 2), scales of lengths."""
        grid = places + np.array(self.origin)
        mapped = map_pixels(self._wcs_out, self._wcs_in, *(grid + _STEPS[:, None]).T)
        allowed = 'be finite and lie where the coordinates of the exposure reach'
        require(np.isfinite(mapped).all(), 'x and y', allowed, places)
        # (2, n, 5) became centres (n, 2) and derivatives (n, 2, 2).
        places = mapped[..., 0].T
        jacobians = np.moveaxis(mapped[..., 1::2] - mapped[..., 2::2], 0, 1)
        matrices = np.linalg.inv(jacobians)
        # Interpolated is at the pixels of the grid, wherever the star is.
        pixels = places + (jacobians @ (np.rint(grid) - grid)[..., None])[..., 0]
        kernels = _interpolation_kernel(pixels, jacobians, matrices, self.method)
        places = np.clip(places, 0, self._last)
        shapes = self._access.shapes_at(*places.T)
        scales = np.sqrt(np.abs(np.linalg.det(matrices)))
        scales = np.where(np.abs(scales - 1) < _SAME_SCALE, 1.0, scales)
        return _transform_shape(shapes, matrices, kernels), places, scales


def _interpolation_kernel(places, jacobians, matrices, method):
    """Return the covariances by which a resampling broadens what it resamples."""
    if method == 'adaptive':
        # Where it magnifies, the Gaussian is as wide as input pixels need.
        left, singular, _ = np.linalg.svd(jacobians)
        wide = left * (_ADAPTIVE_SIGMA * np.maximum(singular, 1))[:, None]
        wide = matrices @ wide
        return wide @ wide.swapaxes(1, 2)
    steps = np.arange(-_REACH, _REACH + 1)
    offsets = np.stack(np.meshgrid(steps, steps)).reshape(2, -1)
    fraction = (places[..., None] + jacobians @ offsets) % 1
    spread = (fraction * (1 - fraction)).mean(axis=2)
    bilinear = (matrices * spread[:, None]) @ matrices.swapaxes(1, 2)
    if method == 'bilinear':
        return bilinear
    # Exact: half of it is the square of an input pixel, the other that of an
    # output pixel; together they are the bilinear kernel for a pure shift.
    squares = matrices**2
    mean = squares @ spread[..., None] / squares.sum(axis=2, keepdims=True)
    return 0.5 * (bilinear + mean * np.eye(2))


def _transform_shape(shapes, matrices, kernels):
    """Carry PSFs through linear mappings and small convolutions."""
    *_, b, _, p0, beta, e1, e2 = shapes.T
    sigmas = shapes[:, [0, 1, 3], None, None]
    unit = np.array([[1 + e1, e2], [e2, 1 - e1]]) / np.sqrt(1 - e1**2 - e2**2)
    unit = matrices @ np.moveaxis(unit, -1, 0) @ matrices.swapaxes(1, 2)
    covariances = sigmas**2 * unit[:, None] + kernels[:, None]
    new = np.linalg.det(covariances).T ** 0.25
    # Height that each component keeps.
    kept = sigmas[..., 0, 0].T ** 2 * np.abs(np.linalg.det(matrices)) / new**2
    (xx, xy), (_, yy) = np.moveaxis(covariances[:, 0], 0, -1)
    b, p0 = b * kept[1] / kept[0], p0 * kept[2] / kept[0]
    e1, e2 = (xx - yy) / (xx + yy), 2 * xy / (xx + yy)
    return np.stack([new[0], new[1], b, new[2], p0, beta, e1, e2], axis=-1)
