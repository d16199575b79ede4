# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Widths of stars about a joint fit: scatter, variation over the image, errors.
"""

import numpy as np
from scipy.stats import chi2 as chi2_distribution

from ._profile import (
    effective_pixels,
    half_maximum_radius,
    integral,
    profile,
    squared_radius,
)
from ._varying import PolynomialPSF
from ._wing_prior import to_shape

__all__ = ['excess_scatter', 'fit_variation', 'shape_errors', 'smooth_trend']

# Median of the square of a normal number.
_MEDIAN_SQUARE = 0.455
# Stars for a fit of the variation, by itself and where vary is True, and stars per
# term of the polynomial.
_MIN_STARS, _MIN_STARS_FORCED, _STARS_PER_TERM = 60, 10, 8
# Chance of so large an improvement without variation.
_MAX_CHANCE = 1e-4
# A variation of the width by less is left out, whatever its significance.
_MIN_VARIATION = 0.005
# Errors of widths and ellipticities added in fits of polynomials and of planes.
_POLYNOMIAL_ERROR, _PLANE_ERROR = 0.01, 0.02
# Step in theta of numerical derivatives of the width and the area.
_THETA_STEP = 1e-4
# Radius of the core in half-maximum radii, and the limits of the factor on the
# variance of the width from its residuals.
_CORE_RADIUS, _SCALE_RANGE = 2.0, (0.05, 10.0)
# Width of the rings of mean residuals in half-maximum radii, and at least in pixels.
_RING_WIDTH, _MIN_RING_WIDTH = 0.3, 0.4
# Radius of the polynomial of the core's mean residual in half-maximum radii, and the
# fewest pixels for it.
_POLYNOMIAL_RADIUS, _MIN_PIXELS = 1.6, 12
# Significance from which on a misfit is one, and how many stars cannot show a scatter.
_MIN_SIGNIFICANCE, _N_WITHOUT_SCATTER = 2.5, 3


def excess_scatter(values, errors):
    """Return the robust scatter beyond the errors, and its significance in sigma."""
    good = np.isfinite(errors)
    values, errors = values[good], errors[good]
    n = len(values)
    if n < 3:
        return 0.0, 0.0
    off = np.square(values - np.median(values))

    def ratio_to_expected(scatter):
        square = np.median(off / (errors**2 + scatter**2))
        return square / _MEDIAN_SQUARE * n / (n - 1)

    # The relative error of the median of squares is that of the sample's variance
    # times 1.6.
    significance = (ratio_to_expected(0.0) - 1) / (1.6 * np.sqrt(2 / n))
    if significance <= 0:
        return 0.0, float(significance)
    low, high = 0.0, 10 * float(np.max(np.abs(values)) + np.max(errors))
    for _ in range(50):
        middle = 0.5 * (low + high)
        if ratio_to_expected(middle) > 1:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high), float(significance)


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
        Shape of the image.

    vary : {'auto', True}
        Whether it has to be significant.

    Returns
    -------
    varying : `PolynomialPSF` or None
        `None` where the PSF is taken to be the same everywhere.

    left : (n,) array or None
        Log sizes relative to it.
    """
    good = np.isfinite(errors).all(1)
    n_good = int(good.sum())
    if vary is True and n_good < _MIN_STARS_FORCED:
        msg = f'vary=True needs {_MIN_STARS_FORCED} stars; the image has {n_good}'
        raise ValueError(msg)
    linear, quadratic = (
        [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
        for order in (1, 2)
    )
    n_least = _MIN_STARS if vary == 'auto' else _STARS_PER_TERM * len(linear)
    if n_good < n_least:
        return None, None
    u, v = (PolynomialPSF.scaled(places[:, k], shape[1 - k]) for k in (0, 1))
    sigma = np.hypot(errors, _POLYNOMIAL_ERROR)

    def fit(powers):
        design = np.stack([u**i * v**j for i, j in powers], axis=1)
        fits = [_robust_fit(design, offsets[:, k], sigma[:, k], good) for k in range(3)]
        terms, chi2 = zip(*fits, strict=True)
        return powers, design, np.array(terms), sum(chi2)

    constant = best = fit([(0, 0)])
    for powers in (linear, quadratic):
        if n_good < _STARS_PER_TERM * len(powers):
            break
        trial = fit(powers)
        chi2, n_terms = trial[3], 3 * len(powers)
        # Scatter that no polynomial explains makes improvements by chance larger.
        scale = max(1.0, chi2 / max(3 * n_good - n_terms, 1))
        gain, more = (best[3] - chi2) / scale, n_terms - 3 * len(best[0])
        if chi2_distribution.sf(gain, more) < _MAX_CHANCE:
            best = trial
    if best is constant:
        if vary == 'auto':
            return None, None
        best = fit(linear)
    powers, design, terms, _ = best
    order = max(max(p) for p in powers)
    grids = np.zeros((3, order + 1, order + 1))
    for (i, j), values in zip(powers, terms.T, strict=True):
        grids[:, i, j] = values
    model = design @ terms[0]
    largest = max(np.std(model), *np.abs(grids[1:]).max((1, 2)))
    if vary == 'auto' and largest < _MIN_VARIATION:
        return None, None
    # Ellipticities were fitted as e / sqrt(1 - e^2), which is e where it is small.
    return PolynomialPSF(psf, *grids, shape), offsets[:, 0] - model


def smooth_trend(places, values, errors, used):
    """Plane through the values of stars where they are many, else their median."""
    good = used & np.isfinite(errors)
    if good.sum() < 2 * _MIN_STARS_FORCED:
        return np.median(values[used]) if used.any() else 0.0
    low, high = places[good].min(0), places[good].max(0)
    scaled = 2 * (places - low) / np.maximum(high - low, 1) - 1
    design = np.c_[np.ones(len(values)), scaled]
    terms, _ = _robust_fit(design, values, np.hypot(errors, _PLANE_ERROR), good)
    return design @ terms


def _robust_fit(design, values, sigma, good):
    """Weighted least squares with outliers held back; coefficients and chi2."""
    weights = np.where(good, 1 / sigma, 0.0)
    pull = np.zeros_like(values)
    for _ in range(4):
        share = weights / np.sqrt(1 + (pull / 3) ** 2)
        solution = np.linalg.lstsq(design * share[:, None], values * share)[0]
        pull = (values - design @ solution) * weights
    return solution, float(np.sum(9 * np.log1p(pull**2 / 9)))


def shape_errors(fit, stamps, weights, *, photon=0.0):
    """
    Estimate relative errors of the width and of the effective area of a joint fit.

    Both contain the noise, by the covariance of theta, and the misfit: what the
    mean residual of the stars would add to the profile, or where that is nothing, the
    scatter of the stars' residuals beyond their noise.

    Parameters
    ----------
    fit : `StampFit`
        The joint fit.

    stamps, weights : (n, rows, columns) array
        Stars, and inverse standard deviations of their pixels, zero of those that
        do not count.

    photon : float, optional
        Variance that a unit of signal adds to that of the sky, which is 1.

    Returns
    -------
    noise, misfit : (2,) array
        Relative errors of the width and of the area.
    """
    radius = half_maximum_radius(fit.shape)
    noise = np.sqrt(_variances(fit, radius) * _core_scale(fit, stamps, weights, radius))
    return noise, _misfits(fit, stamps, weights, photon, radius)


def _variances(fit, radius):
    """Variances of log width and log area from that of theta."""
    varied = to_shape(fit.theta + _THETA_STEP * np.eye(8))
    widths = half_maximum_radius(varied.T, n_halvings=32) / radius
    areas = np.array([effective_pixels(shape, fit.radius) for shape in varied])
    areas /= effective_pixels(fit.shape, fit.radius)
    slopes = np.log([widths, areas]) / _THETA_STEP
    return np.einsum('ki,ij,kj->k', slopes, fit.covariance, slopes).clip(0)


def _core_scale(fit, stamps, weights, radius):
    """
    Variance of the residuals of the stars' cores in units of what is expected.

    The weights allow for errors of the model; where the residuals are smaller than
    that, or larger, the errors are so too.
    """
    x, y = fit.local[:, 1:3].T[..., None, None]
    yy, xx = np.mgrid[: stamps.shape[1], : stamps.shape[2]]
    core = (np.hypot(xx - x, yy - y) < _CORE_RADIUS * radius) & (weights > 0)
    pulls = ((stamps - fit.model(stamps.shape[1:])) * weights)[core]
    if len(pulls) < 5:
        return 1.0
    # Flux and position of each star were fitted to the same pixels.
    n_left = max(len(pulls) - 3 * len(stamps), 1)
    scale = np.median(np.square(pulls)) / _MEDIAN_SQUARE * len(pulls) / n_left
    return float(np.clip(scale, *_SCALE_RANGE))


def _misfits(fit, stamps, weights, photon, radius):
    """Changes of log width and log area by the mean residual, where significant."""
    flux, x, y, level = fit.local.T[..., None, None]
    yy, xx = np.mgrid[: stamps.shape[1], : stamps.shape[2]]
    apart = np.sqrt(squared_radius(xx - x, yy - y, *fit.shape[6:]))
    model = fit.model(stamps.shape[1:])
    use = (weights > 0) & (apart < min(stamps.shape[1:]) / 2)
    # Weights hold outliers back, and allow for misfits; the noise is the photons'.
    share = np.square(weights * flux)[use]
    mean = ((stamps - model) / flux)[use]
    variance = ((1 + photon * np.maximum(model - level, 0)) / np.square(flux))[use]
    star = np.broadcast_to(np.arange(len(flux))[:, None, None], use.shape)[use]
    pixels = share, mean, variance, star
    found = [
        _width_change(fit, apart[use] / radius, pixels, radius),
        _area_change(fit, apart[use], pixels, radius),
    ]
    changes, variances, scatter = np.array(found).T
    limit = _MIN_SIGNIFICANCE**2 * np.maximum(variances, scatter)
    excess = np.maximum(np.square(changes) - variances, 0)
    # Stars that disagree by more than their noise, as neighbours' wings make them do.
    disagreement = np.maximum(scatter - variances, 0)
    return np.sqrt(np.where(np.square(changes) > limit, excess, disagreement))


def _scatter_of_stars(linear, mean, star):
    """Variance of a weighted sum over pixels from the scatter of the stars' shares."""
    own = np.bincount(star, linear * mean)
    own = own[np.bincount(star) > 0]
    n = len(own)
    if n <= _N_WITHOUT_SCATTER:
        return 0.0
    return np.sum(np.square(own - own.mean())) * n / (n - 1)


def _width_change(fit, apart, pixels, radius):
    """Change of log width by an even polynomial in the core, and its variances."""
    core = apart < _POLYNOMIAL_RADIUS
    if np.count_nonzero(core) < _MIN_PIXELS:
        return 0.0, 0.0, 0.0
    share, mean, variance, star = (values[core] for values in pixels)
    design = np.square(apart[core])[:, None] ** np.arange(3)
    weighted = design * share[:, None]
    inverse = np.linalg.pinv(design.T @ weighted, hermitian=True)
    # At half maximum, less half of what is at the centre, over the slope there.
    linear = weighted @ inverse @ np.array([0.5, 1.0, 1.0])
    ahead, behind = (
        profile(np.square(radius * factor), fit.shape) for factor in (1.02, 0.98)
    )
    slope = (ahead - behind) / 0.04 / integral(fit.shape, fit.radius)
    linear = linear / -slope
    scatter = _scatter_of_stars(linear, mean, star)
    return linear @ mean, np.square(linear) @ variance, scatter


def _area_change(fit, apart, pixels, radius):
    """Change of log area by rings of mean residuals, and its variances."""
    share, mean, variance, star = pixels
    step = max(_RING_WIDTH * radius, _MIN_RING_WIDTH)
    ring = np.rint(apart / step).astype(int)
    n = int(ring.max()) + 1
    total = np.bincount(ring, share, n)
    if not (total > 0).all():
        return 0.0, 0.0, 0.0
    area = np.pi * np.diff(np.square(step * np.append(0, np.arange(n) + 0.5)))
    model = profile(np.square(step * np.arange(n)), fit.shape)
    model /= integral(fit.shape, fit.radius)
    square = 1 / effective_pixels(fit.shape, fit.radius)
    # Of ln(flux^2 / integral of the square), the first order and the second.
    linear = (2 * area * (1 - model / square) / total)[ring] * share
    rings = np.bincount(ring, share * mean, n) / total
    spread = np.bincount(ring, np.square(share) * variance, n) / np.square(total)
    second = np.sum(area * (np.square(rings) - spread)) / square
    scatter = _scatter_of_stars(linear, mean, star)
    return linear @ mean - second, np.square(linear) @ variance, scatter
