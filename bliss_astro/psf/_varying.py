# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A PSF whose size and ellipticity vary smoothly over an image.
"""

from copy import copy

import numpy as np
from scipy.stats import chi2 as chi2_distribution

from ._model import PSFModel

__all__ = ['VariablePSF', 'VaryingPSF']

# Stars from which a variation is looked for, by itself and where it is asked for,
# and stars per term of the polynomial.
_MIN_STARS, _LEAST_STARS, _PER_TERM = 60, 10, 8
# Chance of so large an improvement without variation.
_CHANCE = 1e-4
# A variation of the width by less is left out, whatever its significance.
_SMALL = 0.005
_SPAN = 0.9


class VariablePSF:
    """
    What PSFs that vary over an image have in common: an origin, and shapes on a grid.

    Each has ``normalization_radius``, ``origin`` and ``shape_grid(xs, ys)``.
    """

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


class VaryingPSF(VariablePSF):
    """
    A PSF of one profile whose size and ellipticity are polynomials of the place.

    Parameters
    ----------
    psf : `PSFModel`
        The profile.

    log_size, e1, e2 : (order + 1, order + 1) array
        Coefficients [i, j] of ``x**i * y**j``, of the logarithm of the factor on
        all lengths and of what is added to the ellipticity, with
        ``x = 2 * column / (width - 1) - 1`` and y likewise, held within +-1.

    shape : (rows, columns)
        Of the image.

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
    def fwhm(self):
        """Full width at half maximum in pixels in the middle of the image."""
        rows, columns = self.shape
        x, y = self.origin
        return self.at((columns - 1) / 2 - x, (rows - 1) / 2 - y).fwhm

    def __repr__(self):
        return f'<VaryingPSF(fwhm={self.fwhm:.3f}, shape={self.shape})>'

    def shape_grid(self, xs, ys):
        """
        Return the shapes on a grid of places.

        Parameters
        ----------
        xs, ys : 1D array
            Columns and rows in pixels of the image.

        Returns
        -------
        shapes : (len(ys), len(xs), 8) array
            Shape vectors.
        """
        rows, columns = self.shape
        u = _scaled(np.atleast_1d(xs) + self.origin[0], columns)
        v = _scaled(np.atleast_1d(ys) + self.origin[1], rows)
        grid = [
            np.polynomial.polynomial.polygrid2d(u, v, c).T for c in self.coefficients
        ]
        shapes = np.broadcast_to(self.psf.shape_vector, (*grid[0].shape, 8)).copy()
        shapes[..., [0, 1, 3]] *= np.exp(grid[0])[..., None]
        shapes[..., 6] += grid[1]
        shapes[..., 7] += grid[2]
        size = np.hypot(shapes[..., 6], shapes[..., 7])
        shapes[..., 6:] *= np.minimum(1, _SPAN / np.maximum(size, 1e-9))[..., None]
        return shapes


def _scaled(value, length):
    """Map pixels to -1 .. 1; beyond the image the PSF is that of its edge."""
    return np.clip(2 * np.asarray(value, float) / max(length - 1, 1) - 1, -1, 1)


def fit_variation(psf, places, offsets, errors, shape, vary):
    """
    Fit polynomials to the stars' own shapes where that is significant.

    Parameters
    ----------
    psf : `PSFModel`
        The joint fit.

    places : (n, 2) array
        Columns and rows of the stars.

    offsets, errors : (n, 3) array
        Log size and (transformed) ellipticity relative to the joint fit.

    shape : (rows, columns)
        Of the image.

    vary : {'auto', True}
        Whether it has to be significant.

    Returns
    -------
    varying : `VaryingPSF` or None
        `None` where the PSF is taken to be the same everywhere.

    left : (n,) array or None
        Log sizes relative to it.
    """
    good = np.isfinite(errors).all(1)
    n_least = _MIN_STARS if vary == 'auto' else _LEAST_STARS
    if good.sum() < n_least:
        if vary is True:
            msg = f'vary=True needs {_LEAST_STARS} stars; the image has {good.sum()}'
            raise ValueError(msg)
        return None, None
    u = _scaled(places[:, 0], shape[1])
    v = _scaled(places[:, 1], shape[0])
    sigma = np.hypot(errors, 0.01)
    best = None
    for order in (1, 2):
        powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
        if good.sum() < _PER_TERM * len(powers):
            break
        design = np.stack([u**i * v**j for i, j in powers], axis=1)
        fits = [_robust_fit(design, offsets[:, k], sigma[:, k], good) for k in range(3)]
        chi2 = sum(each[1] for each in fits)
        n_terms = 3 * len(powers)
        if best is None:
            constant = [
                _robust_fit(np.ones((len(u), 1)), offsets[:, k], sigma[:, k], good)[1]
                for k in range(3)
            ]
            best = (sum(constant), 3, None, None)
        gain, more = best[0] - chi2, n_terms - best[1]
        # Scatter that no polynomial explains makes improvements by chance larger.
        scale = max(1.0, chi2 / max(3 * good.sum() - n_terms, 1))
        if chi2_distribution.sf(gain / scale, more) < _CHANCE:
            best = (chi2, n_terms, powers, [each[0] for each in fits])
    if best is None or (best[2] is None and vary == 'auto'):
        return None, None
    powers, values = best[2], best[3]
    if powers is None:
        powers = [(0, 0), (0, 1), (1, 0)]
        design = np.stack([u**i * v**j for i, j in powers], axis=1)
        values = [
            _robust_fit(design, offsets[:, k], sigma[:, k], good)[0] for k in range(3)
        ]
    order = max(max(p) for p in powers)
    grids = np.zeros((3, order + 1, order + 1))
    for (i, j), terms in zip(powers, np.transpose(values), strict=True):
        grids[:, i, j] = terms
    # Ellipticities were fitted as e / sqrt(1 - e^2), which is e where it is small.
    varying = VaryingPSF(psf, *grids, shape)
    model = sum(values[0][k] * u**i * v**j for k, (i, j) in enumerate(powers))
    if vary == 'auto' and max(np.std(model), *np.abs(grids[1:]).max((1, 2))) < _SMALL:
        return None, None
    return varying, offsets[:, 0] - model


def smooth_trend(places, values, errors, used):
    """
    Plane through the values of stars where they are many, else their median.
    """
    good = used & np.isfinite(errors)
    if good.sum() < 2 * _LEAST_STARS:
        return np.median(values[used]) if used.any() else 0.0
    low, high = places[good].min(0), places[good].max(0)
    scaled = 2 * (places - low) / np.maximum(high - low, 1) - 1
    design = np.c_[np.ones(len(values)), scaled]
    solution, _ = _robust_fit(design, values, np.hypot(errors, 0.02), good)
    return design @ solution


def _robust_fit(design, values, sigma, good):
    """Weighted least squares with outliers held back; coefficients and chi2."""
    weights = np.where(good, 1 / sigma, 0.0)
    pull = np.zeros_like(values)
    for _ in range(4):
        share = weights / np.sqrt(1 + (pull / 3) ** 2)
        solution = np.linalg.lstsq(design * share[:, None], values * share, rcond=None)[
            0
        ]
        pull = (values - design @ solution) * weights
    return solution, float(np.sum(9 * np.log1p(pull**2 / 9)))
