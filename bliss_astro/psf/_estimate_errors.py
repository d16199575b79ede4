# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Errors of the width and of the effective area of a PSF estimated from stars.
"""

import numpy as np

from ._engine import to_shape
from ._profile import (
    effective_pixels,
    half_maximum_radius,
    integral,
    profile,
    squared_radius,
)
from ._wings import half_maximum_radii

__all__ = []

_STEP = 1e-4
# Radius of the core in half-maximum radii, and the limits of the factor on the
# variance of the width that its residuals tell.
_CORE, _SCALES = 2.0, (0.05, 10.0)
# Width of the rings of mean residuals in half-maximum radii, and at least in pixels.
_RING, _LEAST_RING = 0.3, 0.4
# Radius of the polynomial of the core's mean residual in half-maximum radii, and the
# fewest pixels for it.
_POLYNOMIAL, _LEAST_PIXELS = 1.6, 12
# Significance from which on a misfit is one, and how many stars cannot show a scatter.
_SIGNIFICANT, _FEW_STARS = 2.5, 3


def shape_errors(fit, stamps, weights, *, photon=0.0):
    """
    Relative errors of the width and of the effective area of a joint fit.

    Both contain the noise, by the covariance of theta, and the misfit: what the
    mean residual of the stars would add to the profile, or where that is nothing, the
    scatter of the stars' residuals beyond their noise.

    Parameters
    ----------
    fit : `~bliss_astro.psf._engine.StampFit`
        The joint fit.

    stamps, weights : (n, rows, columns) array
        Stars, and inverse standard deviations of their pixels, zero of those that
        do not count.

    photon : float, optional
        Variance that a unit of signal adds to that of the sky, which is 1.

    Returns
    -------
    noise, misfit : (2,) array
        Of the width and of the area.
    """
    radius = half_maximum_radius(fit.shape)
    noise = np.sqrt(_variances(fit, radius) * _core_scale(fit, stamps, weights, radius))
    return noise, _misfits(fit, stamps, weights, photon, radius)


def _variances(fit, radius):
    """Variances of log width and log area from that of theta."""
    varied = to_shape(fit.theta + _STEP * np.eye(8))
    widths = half_maximum_radii(np.moveaxis(varied, -1, 0)) / radius
    areas = np.array([effective_pixels(shape, fit.radius) for shape in varied])
    areas /= effective_pixels(fit.shape, fit.radius)
    slopes = np.log([widths, areas]) / _STEP
    return np.einsum('ki,ij,kj->k', slopes, fit.covariance, slopes).clip(0)


def _core_scale(fit, stamps, weights, radius):
    """
    Variance of the residuals of the stars' cores in units of what is expected.

    The weights allow for errors of the model; where the residuals are smaller than
    that, or larger, the errors are so too.
    """
    x, y = fit.local[:, 1:3].T[..., None, None]
    yy, xx = np.mgrid[: stamps.shape[1], : stamps.shape[2]]
    core = (np.hypot(xx - x, yy - y) < _CORE * radius) & (weights > 0)
    pulls = ((stamps - fit.model(stamps.shape[1:])) * weights)[core]
    if len(pulls) < 5:
        return 1.0
    # Flux and position of each star were fitted to the same pixels.
    n_left = max(len(pulls) - 3 * len(stamps), 1)
    scale = np.median(np.square(pulls)) / 0.455 * len(pulls) / n_left
    return float(np.clip(scale, *_SCALES))


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
    significant = np.square(changes) > _SIGNIFICANT**2 * np.maximum(variances, scatter)
    excess = np.maximum(np.square(changes) - variances, 0)
    # Stars that disagree by more than their noise, as neighbours' wings make them do.
    disagreement = np.maximum(scatter - variances, 0)
    return np.sqrt(np.where(significant, excess, disagreement))


def _of_stars(linear, mean, star):
    """Variance of a weighted sum over pixels from the scatter of the stars' shares."""
    own = np.bincount(star, linear * mean)
    own = own[np.bincount(star) > 0]
    n = len(own)
    return np.sum(np.square(own - own.mean())) * n / (n - 1) if n > _FEW_STARS else 0.0


def _width_change(fit, apart, pixels, radius):
    """Change of log width by an even polynomial in the core, and its variances."""
    core = apart < _POLYNOMIAL
    if np.count_nonzero(core) < _LEAST_PIXELS:
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
    own = _of_stars(linear, mean, star)
    return linear @ mean, np.square(linear) @ variance, own


def _area_change(fit, apart, pixels, radius):
    """Change of log area by rings of mean residuals, and its variances."""
    share, mean, variance, star = pixels
    step = max(_RING * radius, _LEAST_RING)
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
    own = _of_stars(linear, mean, star)
    return linear @ mean - second, np.square(linear) @ variance, own
