# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Least-squares fits of extended sources, as features for a network.

Elongation and size are to a galaxy what flux and position are to a star: a
few weighted sums over pixels that depend on the PSF, found exactly by least
squares.  The model is the PSF, blurred to a few sizes (`measure_sizes`) or blurred and
stretched (`fit_ellipses`); real profiles are not quite that, and the network learns
what the difference means.

Bands share blur and distortion, each with a flux of its own, which is eliminated from
the normal equations before these add up.
"""

import dataclasses
import functools
import math

import torch
from torch.nn import functional as F

from ._grid import Rows
from ._shape_layers import ellipticity_to_vector
from ._star_fit import optimal_flux

# Logarithm of the blur's variance in square pixels at the start; step of its finite
# difference.
_LOG_BLUR_START, _LOG_BLUR_STEP = 0.5, 0.15
# Largest length of the distortion.
_DISTORTION_MAX = 0.9
# Of log_blur, e1 and e2: inverse variance of the prior, its centre, the unit of
# derivatives, the largest step and the range.
_PARAMETERS = (
    (1.5**-2, 0.45**-2, 0.45**-2),
    (_LOG_BLUR_START, 0.0, 0.0),
    (1 / _LOG_BLUR_STEP, -0.5, -0.5),
    (1.0, 0.3, 0.3),
    (-4.0, -math.inf, -math.inf),
    (4.5, math.inf, math.inf),
)
# Widths in pixels of the Gaussians that the PSF is blurred with, and which of
# them are measured on the wider cut-outs.
_SIGMAS = (0.5, 1.0, 1.8, 3.2, 5.6)
_WIDE_FROM = 3
N_SIZES = len(_SIGMAS)
# Number of features of `measure_sizes`.
N_SIZE_FEATURES = 2 * N_SIZES + 2
# Sizes from this one on have shifts of the position too: three numbers each.
_SHIFTS_FROM = 2
N_SHIFTS = 3 * (N_SIZES - _SHIFTS_FROM)
# Width in pixels of a weak prior that keeps noise from moving a source far.
_SHIFT_SIGMA = 2.0
# Information of fluxes below which there are no good pixels.
_NOTHING = 2e-9
# Least flux in units of the noise in bands other than the reference band.
_LEAST_FLUX = 1e-3
# Variance of a flux by what neighbours leave, over that by as much white noise in the
# area of the PSF: simulated crowds are calibrated with it. And misfits up to which
# there is nothing but noise, one standard deviation above the mean of 81 pixels.
_OF_NEIGHBOURS, _USUAL_MISFIT = 0.2, 1.15
# Least share of the information about a star that a level of the sky leaves.
_LEAST_KNOWN = 0.02


@dataclasses.dataclass
class Ellipses(Rows):
    """
    Blurred and stretched PSFs of N sources.

    Attributes
    ----------
    flux : tensor ``(N, F)``
        Flux in each band in units of its noise.

    log_blur, e1, e2 : tensor ``(N,)``
        Logarithm of the kernel's variance in square pixels, and distortion of the
        whole.
    """

    flux: torch.Tensor
    log_blur: torch.Tensor
    e1: torch.Tensor
    e2: torch.Tensor

    @classmethod
    def round(cls, flux):
        """Round and of typical size, from fluxes."""
        zero = torch.zeros_like(flux[:, 0])
        return cls(flux, zero + _LOG_BLUR_START, zero, zero.clone())

    def in_bands(self, n):
        """The same in the first n bands; in those that are new, fluxes are 0."""
        flux = F.pad(self.flux, (0, n - self.flux.shape[1]))
        return dataclasses.replace(self, flux=flux)


def _squares(dx, dy):
    """Squared radius, and what ellipticities e1 and e2 add to it, axis -3."""
    x2, y2 = dx.square(), dy.square()
    return x2 + y2, torch.stack([y2 - x2, dx * dy * -2], -3)


def _elliptical(squares, tilt):
    """Squared elliptical radius at distortions ``(N, 2)``, and its stretch."""
    total, (by_e1, by_e2) = squares[0], squares[1].unbind(-3)
    stretch = (1 - tilt.square().sum(1, keepdim=True)).rsqrt()
    scale = torch.cat([stretch, stretch * tilt], 1)[..., None, None, None]
    scale, e1, e2 = scale.unbind(1)
    return (total * scale).addcmul_(by_e1, e1).addcmul_(by_e2, e2), stretch


def model_of(patches, ellipses, x, y):
    """Images of the sources alone, of unit flux, ``(N, F, P, P)``."""
    blur = ellipses.log_blur.exp()[:, None, None, None]
    # Their own elongation is replaced.
    tilt = [e[:, None, None, None] for e in (ellipses.e1, ellipses.e2)]
    form = patches.psf.form.blurred(blur, tilt)
    return form.profile(*patches.offsets(x, y))


@functools.cache
def _constants(device):
    """Constants of `fit_ellipses`."""
    prior, start, units, *ranges = torch.tensor(_PARAMETERS, device=device)
    # Of the model, its derivatives and the residual; a little is added to the diagonal,
    # so that it can always be inverted.
    units, more = F.pad(units, (1, 1), value=1.0), 1e-5
    scales = (torch.eye(4, 5, device=device) * more + 1) * units[:4, None] * units
    prior_matrix = torch.diag(prior * (1 + more))
    wide = torch.tensor([1.0, math.exp(_LOG_BLUR_STEP)], device=device)
    wide = wide[:, None, None, None, None]
    return prior, start, *ranges, prior_matrix, scales, wide


@torch.no_grad()
def fit_ellipses(patches, ellipses, x, y, floor, *, n_iterations=5):
    """
    Least-squares fluxes, blur and distortion at given positions.

    ``floor`` ``(N,)`` is the least flux in the reference band that derivatives have.
    Returns the `Ellipses`, the Fisher information ``(N, 3, 3)`` of (log_blur, e1, e2),
    priors included and fluxes eliminated, with a diagonal greater by 1e-5, what each
    of these adds to fluxes ``(N, F, 3)``, and the information of fluxes ``(N, F)``.
    """
    squares, least = _squares(*patches.offsets(x, y)), patches.of_bands(floor)
    prior, start, limit, low, high, prior_matrix, scales, wide = _constants(x.device)
    one = torch.ones_like(least)[..., None]
    # The model, its derivatives and the residual.
    n, n_bands, *size = patches.data.shape
    columns, flux = x.new_empty(n, n_bands, 5, *size), ellipses.flux
    fit = torch.stack([ellipses.log_blur, ellipses.e1, ellipses.e2], 1)
    for _ in range(n_iterations):
        log_blur, tilt = fit[:, :1], fit[:, 1:]
        blur = log_blur.exp()[..., None, None] * wide
        form = patches.psf.form.blurred(blur, tilt.unbind(1))
        r2, stretch = _elliptical(squares, tilt)
        (value, wider), slope = form.value_and_slope(r2, slice(1))
        columns[:, :, 0] = value
        torch.sub(wider, value, out=columns[:, :, 1])
        by_tilt = (tilt * stretch)[:, None, :, None, None]
        by_tilt = torch.addcmul(squares[1], r2[:, :, None], by_tilt)
        torch.mul(by_tilt, slope[0, :, :, None], out=columns[:, :, 2:4])
        model = flux[..., None, None] * value
        torch.sub(patches.data, model, out=columns[:, :, 4])
        weighted = columns[:, :, :4] * patches.weight(model)[:, :, None]
        # One product of matrices: those with vectors take three times as long.
        gram = weighted.flatten(3) @ columns.flatten(3).mT
        size = torch.maximum(flux, least)[..., None]
        scale = [one, size, *2 * [size * stretch[:, None]], one]
        scale = torch.cat(scale, -1)[..., None, :]
        gram = gram * scales * scale[..., :4].mT * scale
        own = gram[..., 0, 0].clamp(min=1e-9)
        share = gram[..., 0, 1:] / own[..., None]
        gram = gram[..., 1:, 1:].addcmul(
            gram[..., 1:, :1], share[..., None, :], value=-1
        )
        gram = gram.sum(1)
        information = gram[..., :3] + prior_matrix
        score = gram[..., 3].addcmul(fit - start, prior, value=-1)
        step = torch.linalg.solve_ex(information, score)[0]
        by_shape = share[..., :3]
        moved = share[..., 3] - (by_shape * step[:, None]).sum(-1)
        # A flux may fall below zero, but one that does so far has nothing to fit.
        flux = torch.maximum(flux + moved, -flux.abs())
        fit = (fit + step.clamp(-limit, limit)).clamp(low, high)
        tilt = fit[:, 1:]
        size = torch.linalg.vector_norm(tilt, dim=1, keepdim=True)
        tilt *= _DISTORTION_MAX / size.clamp_(min=_DISTORTION_MAX)
    return Ellipses(flux, *fit.unbind(1)), (information, by_shape, own)


def ellipse_features(fit, floor, n_bands=None):
    """Features of what `fit_ellipses` returns, and fluxes in so many bands."""
    fit, (information, by_shape, own) = fit
    covariance = torch.linalg.inv_ex(information)[0]
    sigma = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).sqrt()
    variance = (by_shape @ covariance * by_shape).sum(-1) + 1 / own
    errors = variance.clamp(min=1e-12).sqrt()
    flux, error_of_flux = fit.flux[:, 0], errors[:, 0]
    safe = torch.maximum(flux, 0.2 * floor)
    vector = ellipticity_to_vector(fit.e1, fit.e2)
    # Near |e| = 1 the vector moves faster than the distortion.
    stretch = 1 / (1 - fit.e1**2 - fit.e2**2)
    error = (0.5 * (sigma[:, 1] + sigma[:, 2]) * stretch).clamp(1e-3, 2)
    log_flux = torch.log(safe / floor)
    flux_error = (error_of_flux / safe).clamp(1e-4, 5)
    features = [
        log_flux / 4,
        torch.log(flux_error),
        fit.log_blur / 2,
        torch.log(sigma[:, 0].clamp(1e-3, 3)),
        *vector.unbind(-1),
        torch.log(error),
        vector.norm(dim=-1),
        (flux / error_of_flux).clamp(-3, 30) / 10,
    ]
    found = {
        'ellipse': torch.stack(features, -1),
        'ellipse_flux': log_flux,
        'ellipse_error': flux_error,
        'vector': vector,
        'vector_error': error,
    }
    errors = _errors_of_ratios(fit.flux, by_shape, covariance, own)
    return found | band_fluxes(fit.flux, errors, own, n_bands, '_extended')


def _errors_of_ratios(flux, by_shape, covariance, information):
    """
    Errors ``(N, F)`` of fluxes but for the factor that the bands have in common.

    A shape that is a little wrong changes all fluxes by nearly one factor, which ratios
    do not see. It is the one that leaves least, so that as much as can be is in common.
    """
    weighted = information * flux
    total = (weighted * flux).sum(1).clamp(min=1e-9)
    factor = (weighted[..., None] * by_shape).sum(1) / total[:, None]
    own = by_shape - flux[..., None] * factor[:, None]
    variance = (own @ covariance * own).sum(-1) + 1 / information
    return variance.clamp(min=1e-12).sqrt()


def band_fluxes(flux, error, information, n_bands=None, name=''):
    """
    Fluxes ``(N, F)`` of several bands and their errors, for the factor of colours.

    Both are in units of each band's noise; where nothing is known of a band, as beyond
    those that are given, its error is infinite. Of one band, whose flux is among the
    features, there are none.
    """
    more = (0, (n_bands or flux.shape[1]) - flux.shape[1])
    if sum(more) + flux.shape[1] == 1:
        return {}
    error = torch.where(information > _NOTHING, error, torch.inf)
    error = F.pad(error, more, value=torch.inf)
    return {f'band_flux{name}': F.pad(flux, more), f'band_error{name}': error}


def fluxes_in_crowds(patches, x, y, flux):
    """
    Fluxes ``(N, F)`` of stars over a level of the sky of their own, and errors.

    The level takes errors of the sky, and most light of neighbours where stars are
    everywhere; what is left of this counts as noise whose patches are as large as the
    PSF. Weights follow given fluxes ``(N, F)``. Errors are infinite where star and sky
    look alike in the few good pixels.
    """
    p = patches.profile(x, y)
    variance = patches.variance_of(flux, p)
    weight = patches.quality / variance
    weighted, total = weight * p, _sum(weight).clamp(min=1e-9)
    share = _sum(weighted) / total
    own = weighted - weight * share[..., None, None]
    information = _sum(own * p)
    known = information > _LEAST_KNOWN * _sum(weighted * p)
    information = torch.where(known, information, torch.inf)
    flux = _sum(own * patches.data) / information
    level = _sum(weight * patches.data) / total - share * flux
    left = patches.data - flux[..., None, None] * p - level[..., None, None]
    chi2 = _sum(left.square() * weight) / _sum(patches.good).clamp(min=1)
    noise = patches.covariance(own[:, :, None], variance)[..., 0, 0]
    area = 1 / _sum(p.square()).clamp(min=1e-9)
    noise = noise * (1 + _OF_NEIGHBOURS * area * (chi2 - _USUAL_MISFIT).clamp(min=0))
    error = noise.clamp(min=1e-12).sqrt() / information
    return flux, torch.where(known, error, torch.inf)


def _sum(value):
    return value.sum((-2, -1))


@torch.no_grad()
def measure_sizes(near, far, x, y, star_flux, floor, *, shifts=True):
    """
    Fluxes and misfits of blurred stars at given positions, as features.

    Misfits, and ratios to the fluxes ``(N, F)`` of stars, are those of all bands.
    """
    least = near.of_bands(0.2 * floor, _LEAST_FLUX)
    at, none = (x, y, star_flux, least), N_SIZES * (not shifts)
    since = _SHIFTS_FROM + none, none
    elongation, *small = _blurred_stars(near, _SIGMAS[:_WIDE_FROM], since[0], *at)
    _, *large = _blurred_stars(far, _SIGMAS[_WIDE_FROM:], since[1], *at)
    (flux, relative, gain, error), shifts = (
        torch.cat(pair, -2) for pair in zip(small, large, strict=True)
    )
    sizes = torch.stack([relative, gain], 1).flatten(0, 1)
    return {
        'sizes': torch.cat([elongation, sizes]).T,
        'size_log_flux': torch.log(flux / floor).T,
        'size_error': error.T,
        'shifts': shifts.movedim(0, 1).flatten(0, 1).T,
    }


def _blurred_stars(patches, sigmas, since, x, y, star_flux, least):
    """Elongation; fluxes and the like of J blurs ``(4, J, N)``; shifts of the last."""
    dx, dy = patches.offsets(x, y)
    blurs = x.new_tensor([0.0, *(sigma**2 for sigma in sigmas)])
    form = patches.psf.form.blurred(blurs[:, None, None, None, None])
    r2, shifted = form.radius_squared(dx, dy), slice(1 + since, None)
    value, slope = form.value_and_slope(r2, shifted)
    point, p = value[0], value[1:]
    model = star_flux[..., None, None] * point
    # One set of weights for all sizes, so that misfits compare.
    weight = patches.weight(torch.maximum(model, patches.data))
    reference = _sum(weight * (patches.data - model).square())
    star, elongation = torch.maximum(star_flux, least), None
    if len(sigmas) == _WIDE_FROM:
        elongation = _elongation(patches, weight, dx, dy, star, model, point)
    # Two rounds: the weights follow the source's own photon noise.
    flux, information, _ = optimal_flux(patches, p, star, 2)
    left = patches.data - flux[..., None, None] * p
    weighted = weight * left
    gain = (reference - _sum(weighted * left)).sum(-1)
    safe = torch.maximum(flux, least)
    # One ratio of all bands, which is that of one where there is one.
    power = information * star
    ratio = (power * safe).sum(-1) / (power * star).sum(-1)
    first = safe[..., 0]
    numbers = [
        first,
        torch.log(ratio).clamp(-3, 6) / 2,
        torch.asinh(gain / 4) / 3,
        (information[..., 0].rsqrt() / first).clamp(1e-4, 5),
    ]
    # One step of Gauss and Newton along each axis.
    safe, excess = safe[since:], (flux - safe)[since:, ..., None, None]
    residual = (weight * excess).mul_(p[since:]).add_(weighted[since:])
    slopes = torch.stack(form.along(slope, dx, dy, shifted))
    information = (safe.square() * _sum(weight * slopes.square())).sum(-1)
    information = information + _SHIFT_SIGMA**-2
    shift = (safe * _sum(residual * slopes)).sum(-1) / information
    total = information.log().sum(0, keepdim=True) * -0.25
    return elongation, torch.stack(numbers), torch.cat([shift.clamp(-4, 4), total])


def _elongation(patches, weight, dx, dy, star, model, point):
    # Signal-to-noise ratio of the two quadrupoles of what stars leave over.
    r2, patterns = _squares(dx, dy)
    root, left = torch.sqrt(point), patches.data - model
    envelope = weight * root
    kernel = patterns * (envelope / (1 + r2))[:, :, None]
    noise = _sum(kernel.square() / weight.clamp(min=1e-9)[:, :, None])
    ratio = _in_all_bands(star[..., None], _sum(kernel * left[:, :, None]), noise)
    total = ratio.square().sum(1)
    part = _in_all_bands(star, _sum(envelope * left), _sum(weight * point))
    return torch.stack([torch.log1p(total) / 3, torch.asinh(part / 2) / math.pi])


def _in_all_bands(star, signal, noise):
    """Signal-to-noise ratio of signals ``(N, F, ...)`` that fluxes of stars scale."""
    signal, noise = (star * signal).sum(1), (star.square() * noise).sum(1)
    return signal / noise.clamp(min=1e-9).sqrt()
