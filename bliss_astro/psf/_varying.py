# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs that vary over an image: base class, and polynomials of the position.
"""

from copy import copy

import numpy as np
import torch
from scipy.special import chdtrc

from ._gaussians import GaussianPSF
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._model import PSFModel

# Largest ellipticity of a polynomial PSF.
_MAX_ELLIPTICITY = 0.9
# Stars for a fit of the variation by itself, where vary is True, and per term.
_MIN_VARYING, _MIN_VARYING_FORCED, _STARS_PER_TERM = 60, 10, 8
# Chance of so large an improvement without variation.
_MAX_CHANCE = 1e-4
# A variation of the width by less is left out, whatever its significance.
_MIN_VARIATION = 0.005
# Median of the square of a normal number.
_MEDIAN_SQUARE = 0.455
# Errors of widths and ellipticities beside those of the noise.
_POLYNOMIAL_ERROR = 0.01
# Stars from which a trend over the image is a plane, and how far beyond them, in units
# of half their range, it is followed.
_MIN_TREND, _TREND_END = 20, 1.2


class VaryingPSF:
    """
    Base class of PSFs that vary over an image.

    A subclass has ``shape_grid`` or ``at``, of which either is made of the other.

    Attributes
    ----------
    normalization_radius : float
        Radius in pixels within which the PSF has unit flux.

    origin : tuple of float
        Position (x, y) in the frame of the PSF of pixel (0, 0) of the image.

    middle : tuple of float
        Position (x, y) in pixels of the image to which ``fwhm`` refers.

    varies : bool
        Whether it depends on the place.
    """

    normalization_radius = DEFAULT_NORMALIZATION_RADIUS
    origin = (0.0, 0.0)
    middle = (0.0, 0.0)
    varies = True

    @property
    def fwhm(self):
        """Full width at half maximum in pixels in the middle of the image."""
        return self.at(*self.middle).fwhm

    def at(self, x, y):
        """
        Return the PSF at a place.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image, from 0.

        Returns
        -------
        psf : `PSFModel`
            The model, of unit flux, at ``x_0 = x`` and ``y_0 = y``.
        """
        return PSFModel.from_shape(
            self.shape_grid([x], [y])[0, 0],
            x_0=float(x),
            y_0=float(y),
            normalization_radius=self.normalization_radius,
        )

    def shape_grid(self, xs, ys):
        """
        Return the shapes on a grid of places.

        Parameters
        ----------
        xs, ys : 1D array
            Columns and rows in pixels of the image, from 0.

        Returns
        -------
        shapes : (len(ys), len(xs), 8) array
            Shape vectors, in the order of ``SHAPE_NAMES``.
        """
        return np.array([[self.at(x, y).shape_vector for x in xs] for y in ys])

    def shapes_at(self, x, y):
        """Return the shapes at n places, array ``(n, 8)``."""
        places = zip(x, y, strict=True)
        return np.array([self.shape_grid([x], [y])[0, 0] for x, y in places])

    def shifted(self, dx, dy):
        """
        Return the same PSF for an image cut out of this one.

        Parameters
        ----------
        dx, dy : float
            Position on this image of pixel (0, 0) of the cut-out.

        Returns
        -------
        psf : same type
            The PSF in the cut-out's pixels; fits that were made are shared.
        """
        other = copy(self)
        other.origin = (self.origin[0] + float(dx), self.origin[1] + float(dy))
        return other

    def gaussians(self, xs, ys):
        """
        Return the PSF as sums of Gaussians on a grid of places.

        Parameters
        ----------
        xs, ys : 1D array
            Columns and rows in pixels of the image, from 0.

        Returns
        -------
        psf : `GaussianPSF`
            The batch ``(len(ys), len(xs))``. A PSF that has images is fitted to these,
            relative to its core; ``fit_info['residual']`` is how well.
        """
        options = {'normalization_radius': self.normalization_radius}
        if self.image(xs[0], ys[0]) is None:
            shapes = torch.from_numpy(self.shape_grid(xs, ys))
            return GaussianPSF.from_shape(shapes, **options)
        places = (xs, ys) if self.varies else (xs[:1], ys[:1])
        stamps = [[self._stamps(x, y) for x in places[0]] for y in places[1]]
        images = [[stamp for stamp, _ in row] for row in stamps]
        psf = GaussianPSF.fit(images, phases=stamps[0][0][1], **options)
        return psf.centred().expand(len(ys), len(xs))

    def _stamps(self, x, y):
        """Images (n, s, s) of the PSF at places within a pixel, and these."""
        return [self.image(x, y)], ((0.0, 0.0),)

    def image(self, x, y):
        """
        Return an image of the PSF at a place, where it has one beside the model.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image, from 0.

        Returns
        -------
        image : 2D array or None
            The PSF centred on the middle pixel.
        """
        return


class NodeSplines:
    """Splines of values (len(ys), len(xs), n) at ascending nodes of a grid."""

    def __init__(self, xs, ys, values):
        from scipy.interpolate import RectBivariateSpline

        orders = {'kx': min(3, len(ys) - 1), 'ky': min(3, len(xs) - 1)}
        self._splines = [
            RectBivariateSpline(ys, xs, value, **orders)
            for value in np.moveaxis(values, -1, 0)
        ]

    def __call__(self, xs, ys):
        """Return the values on a grid of places, (len(ys), len(xs), n)."""
        # Splines need their arguments sorted.
        xs, order_x = np.unique(xs, return_inverse=True)
        ys, order_y = np.unique(ys, return_inverse=True)
        values = np.stack([spline(ys, xs) for spline in self._splines], axis=-1)
        return values[order_y][:, order_x]

    def at(self, x, y):
        """Return the values at n places, (n, values)."""
        return np.stack([spline.ev(y, x) for spline in self._splines], axis=-1)


class PolynomialPSF(VaryingPSF):
    """
    A PSF of one profile whose size and ellipticity are polynomials of the place.

    Parameters
    ----------
    psf : `PSFModel`
        The profile.

    log_size, e1, e2 : (order + 1, order + 1) array
        Coefficients [i, j] of ``x**i * y**j`` of the logarithm of the factor on
        all lengths and of the terms added to the ellipticity, with
        ``x = 2 * column / (width - 1) - 1`` and y likewise, held within +-1.

    shape : (rows, columns)
        Shape of the image.

    origin : (x, y), optional
        Position on that image of pixel (0, 0) of the image at hand.
    """

    def __init__(self, psf, log_size, e1, e2, shape, *, origin=(0.0, 0.0)):
        self.psf = psf
        self.coefficients = np.array([log_size, e1, e2], float)
        self.shape = tuple(int(n) for n in shape)
        self.origin = tuple(float(v) for v in origin)
        self.fit_info = {}

    @property
    def normalization_radius(self):
        """Radius in pixels within which the flux is counted."""
        return self.psf.normalization_radius

    @property
    def middle(self):
        """Middle (x, y) of the whole image in pixels of the image at hand."""
        rows, columns = self.shape
        return (columns - 1) / 2 - self.origin[0], (rows - 1) / 2 - self.origin[1]

    def __repr__(self):
        return f'<PolynomialPSF(fwhm={self.fwhm:.3f}, shape={self.shape})>'

    @staticmethod
    def scaled(value, length):
        """Map pixels to -1 .. 1; beyond the image the PSF is that of its edge."""
        return np.clip(2 * np.asarray(value, float) / max(length - 1, 1) - 1, -1, 1)

    def shape_grid(self, xs, ys):
        """Return the shapes on a grid; see `VaryingPSF.shape_grid`."""
        rows, columns = self.shape
        u = self.scaled(np.atleast_1d(xs) + self.origin[0], columns)
        v = self.scaled(np.atleast_1d(ys) + self.origin[1], rows)
        log_size, *tilt = (
            np.polynomial.polynomial.polygrid2d(u, v, c).T for c in self.coefficients
        )
        shapes = np.broadcast_to(self.psf.shape_vector, (*log_size.shape, 8)).copy()
        shapes[..., [0, 1, 3]] *= np.exp(log_size)[..., None]
        shapes[..., 6:] += np.stack(tilt, axis=-1)
        size = np.maximum(np.hypot(shapes[..., 6], shapes[..., 7]), 1e-9)
        shapes[..., 6:] *= np.minimum(1, _MAX_ELLIPTICITY / size)[..., None]
        return shapes


def robust_lstsq(design, values, sigma):
    """
    Least squares with outliers held back: coefficients (terms, k) and chi2.

    ``values`` and ``sigma`` are (n, k); an infinite sigma leaves a value out.
    """
    pull = np.zeros_like(values)
    for _ in range(4):
        share = 1 / (sigma * np.sqrt(1 + (pull / 3) ** 2))
        columns = zip(share.T, values.T, strict=True)
        terms = [np.linalg.lstsq(design * s[:, None], v * s)[0] for s, v in columns]
        terms = np.stack(terms, axis=1)
        pull = (values - design @ terms) / sigma
    return terms, float(np.sum(9 * np.log1p(pull**2 / 9)))


def trend(places, values, sigma):
    """Plane through values (n, k) of stars where they are many, else their median."""
    good = np.isfinite(sigma[:, 0])
    middle = np.median(values[good], axis=0)
    if good.sum() < _MIN_TREND:
        return np.broadcast_to(middle, values.shape)
    low, high = places[good].min(0), places[good].max(0)
    scaled = 2 * (places - low) / np.maximum(high - low, 1) - 1
    design = np.c_[np.ones(len(values)), scaled.clip(-_TREND_END, _TREND_END)]
    return middle + design @ robust_lstsq(design, values - middle, sigma)[0]


def excess_scatter(values, errors):
    """Return the robust scatter beyond the errors, and its significance in sigma."""
    values, errors = values[np.isfinite(errors)], errors[np.isfinite(errors)]
    n = len(values)
    if n < 3:
        return 0.0, 0.0
    off = np.square(values - np.median(values)) * n / ((n - 1) * _MEDIAN_SQUARE)
    # The relative error of the median of squares is that of the sample's variance
    # times 1.6.
    excess = float(np.median(off / errors**2)) - 1
    significance = excess / (1.6 * np.sqrt(2 / n))
    # Half of the squares exceed the sum of this and their own error's.
    variance = float(np.median(off - errors**2)) if excess > 0 else 0.0
    return np.sqrt(max(variance, 0.0)), significance


def fit_polynomial(psf, places, offsets, errors, shape, vary):
    """
    Fit polynomials to the stars' own shapes where these are significant.

    ``offsets`` and ``errors`` (n, 3) are log size and ellipticity of the stars at
    ``places`` (n, 2) relative to ``psf``. Returns the `PolynomialPSF`, or ``psf`` where
    it is taken to be the same everywhere, and the log sizes (n,) relative to it.
    """
    n_good = int(np.isfinite(errors).all(1).sum())
    if vary is True and n_good < _MIN_VARYING_FORCED:
        msg = f'vary=True needs {_MIN_VARYING_FORCED} stars; the image has {n_good}'
        raise ValueError(msg)
    if vary == 'auto' and n_good < _MIN_VARYING:
        return psf, offsets[:, 0]
    x, y = (
        PolynomialPSF.scaled(v, n) for v, n in zip(places.T, shape[::-1], strict=True)
    )
    best = None
    for order in range(3):
        powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
        forced = vary is True and order == 1
        if n_good < _STARS_PER_TERM * len(powers) and order and not forced:
            break
        design = np.stack([x**i * y**j for i, j in powers], axis=1)
        sigma = np.hypot(errors, _POLYNOMIAL_ERROR)
        terms, chi2 = robust_lstsq(design, offsets, sigma)
        if order:
            # Scatter that no polynomial explains makes improvements by chance larger.
            scale = max(1.0, chi2 / max(3 * n_good - terms.size, 1))
            gain, more = (best[-1] - chi2) / scale, terms.size - best[1].size
            if chdtrc(more, gain) > _MAX_CHANCE and not forced:
                continue
        best = powers, terms, design @ terms[:, 0], chi2
    powers, terms, model, _ = best
    grids = np.zeros((3, *(2 * (1 + max(map(max, powers)),))))
    for power, values in zip(powers, terms, strict=True):
        grids[:, *power] = values
    largest = max(np.std(model), *np.abs(grids[1:]).max((1, 2)))
    if len(powers) == 1 or (vary == 'auto' and largest < _MIN_VARIATION):
        return psf, offsets[:, 0]
    # Ellipticities were fitted as e / sqrt(1 - e^2), which is e where it is small.
    return PolynomialPSF(psf, *grids, shape), offsets[:, 0] - model
