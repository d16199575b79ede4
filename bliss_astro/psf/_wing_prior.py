# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Prior of the wings of point-spread functions: the range of real telescopes.

Quite different parameters give nearly the same PSF, so the prior is one of the
profile itself: of its height, relative to the centre, at multiples of its
half-maximum radius.
"""

import functools

import numpy as np
from scipy.special import j1

from ._mixture import DEFAULT_SHAPE
from ._profile import half_maximum_radius, profile, scaled

__all__ = []

# Radii, in units of that of half maximum, at which the profile has a prior.
_RADII = np.array([0.3, 0.6, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0])
# Heights below this, in units of the centre's, are all the same to an image.
_LEAST_HEIGHT = 3e-5
# Moffat slopes of ground-based PSFs: 4.765 is the Kolmogorov turbulence of
# Trujillo et al. 2001, 2 to 3.5 what telescopes with scattered light have.
_MOFFAT_SLOPES = (2.0, 2.3, 2.7, 3.2, 4.0, 4.765, 7.0, 15.0)
# The covariance of so few profiles is widened by this factor, and by relative errors
# at every radius: small near the centre, where no telescope has a spike that falls
# between the pixels.
_COVARIANCE_FACTOR = 1.5
_HEIGHT_ERRORS = np.array([0.02, 0.05, *(0.1,) * 7])
# Full width at half maximum in pixels below which no PSF is, as it contains the
# pixel, and the softness of that limit in the logarithm.
_PIXEL_FWHM, _PIXEL_SOFTNESS = 1.15, 0.02
# Step in theta of the numerical derivatives of the heights.
_THETA_STEP = 1e-4
# Halvings of the bracket of half-maximum radii: 2^-32 of it.
_N_HALVINGS = 32
# So weak a prior of theta that it stops only what no height depends on.
LOOSE_WIDTH = np.array([np.inf, 1.5, 3.0, 1.5, 4.0, 2.0, 0.15, 0.15])
LOOSE_MEAN = np.array([0.0, 0.6, -2.0, 0.4, -2.0, 1.0, 0.0, 0.0])
# Heights and beta - 2 below this have no logarithm of use.
_LEAST_LOG = 1e-7


def to_theta(shape):
    """Map a shape vector to the unbounded vector theta that is fitted."""
    s1, s2, b, sp, p0, beta, e1, e2 = np.asarray(shape, float)
    heights = np.log(np.maximum([b, p0, beta - 2], _LEAST_LOG))
    eta = np.array([e1, e2]) / np.sqrt(1 - e1 * e1 - e2 * e2)
    lengths = np.log([s1, s2 / s1, sp / s1])
    # Order of the shape vector: sigma1, sigma2, b, sigmap, p0, beta, e1, e2.
    return np.concatenate([lengths, heights, eta])[[0, 1, 3, 2, 4, 5, 6, 7]]


def to_shape(theta):
    """Map fitted vectors (..., 8) back to shape vectors (..., 8)."""
    theta = np.asarray(theta, float)
    shape = np.exp(theta)
    shape[..., 1] *= shape[..., 0]
    shape[..., 3] *= shape[..., 0]
    shape[..., 5] += 2
    eta = theta[..., 6:]
    shape[..., 6:] = eta / np.sqrt(1 + np.sum(eta**2, axis=-1, keepdims=True))
    return shape


def _heights(theta):
    """
    Return logarithms of the heights at `_RADII` of fitted vectors (..., 8).

    The last entry is not of the wings: how far the FWHM lies below what the
    pixel alone makes of a point.
    """
    shape = np.moveaxis(to_shape(theta), -1, 0)[..., None]
    radius = half_maximum_radius(shape, n_halvings=_N_HALVINGS)
    values = profile(np.square(radius * _RADII), shape) / profile(0.0, shape)
    below = np.maximum(np.log(_PIXEL_FWHM / (2 * radius)), 0)
    return np.concatenate([np.log(values + _LEAST_HEIGHT), below], axis=-1)


def _airy(radius, obscuration):
    """Evaluate the diffraction pattern of a round aperture, 1 at the centre."""

    def disk(x):
        x = np.maximum(np.abs(x), 1e-9)
        return 2 * j1(x) / x

    amplitude = disk(radius) - obscuration**2 * disk(obscuration * radius)
    return np.square(amplitude / (1 - obscuration**2))


def _airy_heights(obscuration):
    """Heights of an Airy pattern, averaged over its rings as pixels do."""
    grid = np.linspace(0, 4, 4001)
    half = grid[np.argmax(_airy(grid, obscuration) < 0.5)]
    around = np.linspace(-0.5, 0.5, 101) * np.minimum(0.4 * _RADII, 1.6)[:, None]
    return _airy(half * (_RADII[:, None] + around), obscuration).mean(1)


@functools.cache
def wing_prior():
    """
    Return mean (m,) and whitening matrix (m, m) of the heights of real telescopes.

    The members: a Gaussian, Airy patterns of open and obscured apertures,
    Moffat profiles from 2 on, and SDSS's with a half and twice its halo.
    """
    members = [np.exp(-np.log(2) * np.square(_RADII))]
    members += [_airy_heights(obscuration) for obscuration in (0.0, 0.35)]
    for slope in _MOFFAT_SLOPES:
        wide = (2 ** (1 / slope) - 1) * np.square(_RADII)
        members.append((1 + wide) ** -slope)
    for factor in (0.5, 1.0, 2.0):
        shape = np.array(DEFAULT_SHAPE)
        shape[[2, 4]] *= factor
        radius = half_maximum_radius(shape)
        members.append(profile(np.square(radius * _RADII), shape) / profile(0, shape))
    values = np.log(np.array(members) + _LEAST_HEIGHT)
    covariance = _COVARIANCE_FACTOR * np.cov(values.T) + np.diag(_HEIGHT_ERRORS**2)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance)).T
    n = len(_RADII)
    whole = np.zeros((n + 1, n + 1))
    whole[:n, :n], whole[n, n] = whiten, 1 / _PIXEL_SOFTNESS
    return np.append(values.mean(0), 0.0), whole


def wing_pull(theta):
    """Return the whitened distance of a fitted vector from the prior, (m,)."""
    mean, whiten = wing_prior()
    return whiten @ (_heights(theta) - mean)


def wing_pull_slopes(theta):
    """Return `wing_pull` and its derivatives by theta, (m,) and (m, 8)."""
    mean, whiten = wing_prior()
    values = _heights(np.vstack([theta, theta + _THETA_STEP * np.eye(8)]))
    slopes = (values[1:] - values[0]).T / _THETA_STEP
    return whiten @ (values[0] - mean), whiten @ slopes


def typical_shape(fwhm):
    """Return the shape of a given FWHM whose wings are the prior's mean, (8,)."""
    return scaled(_typical_shape(), fwhm)


@functools.cache
def _typical_shape():
    """Fit the prior's mean by a shape of unit FWHM."""
    from scipy.optimize import least_squares

    def off(theta):
        full = np.concatenate([[2.0], theta, [0.0, 0.0]])
        loose = (full - LOOSE_MEAN)[1:6] / LOOSE_WIDTH[1:6]
        return np.concatenate([wing_pull(full), 0.1 * loose])

    theta = least_squares(off, LOOSE_MEAN[1:6]).x
    shape = to_shape(np.concatenate([[0.0], theta, [0.0, 0.0]]))
    return scaled(shape, 1 / (2 * half_maximum_radius(shape)))
