# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Prior of the wings of point-spread functions: the range of real telescopes.

The shape of a PSF is fitted as a vector ``theta`` without bounds: logarithms of the
lengths' ratios and heights, and an ellipticity that cannot reach one. Quite different
parameters give nearly the same PSF, so the prior is one of the profile itself: of its
height, relative to the centre, at multiples of its half-maximum radius. SDSS's images
have the distribution of theta in SDSS's own fits instead.
"""

import functools

import numpy as np
from scipy.special import j1

from ._mixture import DEFAULT_SHAPE
from ._profile import half_maximum_radius, profile, scaled

# Mean and width of theta over the fields of three SDSS runs, bands g, r, i and
# z, widened by about two; the size itself is left free. In words: sigma2/sigma1
# = 2.25, b = 0.035, sigmap/sigma1 = 1.8, p0 = 0.0105, beta = 3.2, e = 0.
PRIOR_MEAN = np.array(
    [0.3, np.log(2.25), np.log(0.035), np.log(1.8), np.log(0.0105), np.log(1.2), 0, 0]
)
PRIOR_WIDTH = np.array([np.inf, 0.2, 1.0, 0.4, 0.3, 0.6, 0.15, 0.15])
# So weak a prior of theta that it stops only what no height depends on.
LOOSE_WIDTH = np.array([np.inf, 1.5, 3.0, 1.5, 4.0, 2.0, 0.15, 0.15])
LOOSE_MEAN = np.array([0.0, 0.6, -2.0, 0.4, -2.0, 1.0, 0.0, 0.0])
# Step in theta of numerical derivatives.
THETA_STEP = 1e-4
# Heights and beta - 2 below this have no logarithm of use.
_LEAST_LOG = 1e-7

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
# Shape of unit FWHM that is nearest to the prior's mean, by least squares.
_TYPICAL_SHAPE = (
    *(0.40965294, 0.67147433, 0.17245606, 0.30491512, 0.14934374, 3.4149615),
    *(0.0, 0.0),
)


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
    shape[..., [1, 3]] *= shape[..., :1]
    shape[..., 5] += 2
    eta = theta[..., 6:]
    shape[..., 6:] = eta / np.sqrt(1 + np.sum(eta**2, axis=-1, keepdims=True))
    return shape


def shape_jacobian(theta, shape):
    """Derivatives of shape vectors by theta, (..., 8 shape, 8 theta)."""
    jacobian = np.eye(8) * shape[..., None]
    jacobian[..., [1, 3], 0] = shape[..., [1, 3]]
    jacobian[..., 5, 5] -= 2
    eta = theta[..., 6:, None]
    pair = eta * eta.swapaxes(-1, -2)
    size = 1 + np.square(eta).sum((-2, -1), keepdims=True)
    jacobian[..., 6:, 6:] = (np.eye(2) - pair / size) / np.sqrt(size)
    return jacobian


def _heights(theta):
    """
    Logarithms of the heights at `_RADII` of fitted vectors (..., 8).

    The last entry is not of the wings: how far the FWHM lies below what the
    pixel alone makes of a point.
    """
    shape = np.moveaxis(to_shape(theta), -1, 0)[..., None]
    radius = half_maximum_radius(shape)
    values = profile(np.square(radius * _RADII), shape) / profile(0.0, shape)
    below = np.maximum(np.log(_PIXEL_FWHM / (2 * radius)), 0)
    return np.concatenate([np.log(values + _LEAST_HEIGHT), below], axis=-1)


def _airy(radius, obscuration):
    """Diffraction pattern of a round aperture, 1 at the centre."""
    r = np.maximum(np.abs(radius), 1e-9)
    amplitude = 2 * (j1(r) - obscuration * j1(obscuration * r)) / r
    return np.square(amplitude / (1 - obscuration**2))


def _airy_heights(obscuration):
    """Heights of an Airy pattern, averaged over its rings as pixels do."""
    grid = np.linspace(0, 4, 4001)
    half = grid[np.argmax(_airy(grid, obscuration) < 0.5)]
    around = np.linspace(-0.5, 0.5, 101) * np.minimum(0.4 * _RADII, 1.6)[:, None]
    return _airy(half * (_RADII[:, None] + around), obscuration).mean(1)


@functools.cache
def _wing_prior():
    """
    Mean (m,) and whitening matrix (m, m) of the heights of real telescopes.

    The members: a Gaussian, Airy patterns of open and obscured apertures,
    Moffat profiles from 2 on, and SDSS's with a half and twice its halo.
    """
    members = [np.exp(-np.log(2) * np.square(_RADII))]
    members += [_airy_heights(obscuration) for obscuration in (0.0, 0.35)]
    members += [
        (1 + (2 ** (1 / slope) - 1) * np.square(_RADII)) ** -slope
        for slope in _MOFFAT_SLOPES
    ]
    for factor in (0.5, 1.0, 2.0):
        shape = np.array(DEFAULT_SHAPE)
        shape[[2, 4]] *= factor
        radius = half_maximum_radius(shape)
        members.append(profile(np.square(radius * _RADII), shape) / profile(0, shape))
    values = np.log(np.array(members) + _LEAST_HEIGHT)
    covariance = _COVARIANCE_FACTOR * np.cov(values.T) + np.diag(_HEIGHT_ERRORS**2)
    whole = np.diag(np.append(np.zeros(len(_RADII)), 1 / _PIXEL_SOFTNESS))
    whole[:-1, :-1] = np.linalg.cholesky(np.linalg.inv(covariance)).T
    return np.append(values.mean(0), 0.0), whole


def wing_pull(theta):
    """Whitened distance of fitted vectors (..., 8) from the prior, (..., m)."""
    mean, whiten = _wing_prior()
    return (_heights(theta) - mean) @ whiten.T


def typical_shape(fwhm):
    """Shape vector of a given FWHM whose wings are the prior's mean."""
    return scaled(_TYPICAL_SHAPE, fwhm)
