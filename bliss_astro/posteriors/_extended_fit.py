# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Least-squares fits of extended sources, as features for a network.

Elongation and size are to a galaxy what flux and position are to a star: a
few weighted sums over pixels that depend on the PSF, found exactly by least
squares.  The model is the PSF, blurred to a few sizes (`measure_sizes`) or blurred and
stretched (`fit_ellipses`); real profiles are not quite that, and the network learns
what the difference means.
"""

import dataclasses
import math

import torch

from ._grid import Rows
from ._shape_layers import ellipticity_to_vector
from ._star_fit import optimal_flux

# Logarithm of the blur's variance in square pixels at the start; step of its finite
# difference.
_LOG_BLUR_START, _LOG_BLUR_STEP = 0.5, 0.15
# Largest length of the distortion.
_DISTORTION_MAX = 0.9
# Of flux, log_blur, e1 and e2: inverse variance of the prior, its centre, the unit of
# derivatives, the largest step and the range.
_PARAMETERS = (
    (0.0, 1.5**-2, 0.45**-2, 0.45**-2),
    (0.0, _LOG_BLUR_START, 0.0, 0.0),
    (1.0, 1 / _LOG_BLUR_STEP, -0.5, -0.5),
    (math.inf, 1.0, 0.3, 0.3),
    (-math.inf, -4.0, -math.inf, -math.inf),
    (math.inf, 4.5, math.inf, math.inf),
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


@dataclasses.dataclass
class Ellipses(Rows):
    """
    Blurred and stretched PSFs of N sources.

    Attributes
    ----------
    flux, log_blur, e1, e2 : tensor ``(N,)``
        Flux in units of the noise, logarithm of the kernel's variance in square
        pixels, and distortion of the whole.
    """

    flux: torch.Tensor
    log_blur: torch.Tensor
    e1: torch.Tensor
    e2: torch.Tensor

    @classmethod
    def round(cls, flux):
        """Round and of typical size, from fluxes."""
        zero = torch.zeros_like(flux)
        return cls(flux, zero + _LOG_BLUR_START, zero, zero.clone())


def _squares(dx, dy):
    """Squared radius, and what ellipticities e1 and e2 add to it ``(N, 2, P, P)``."""
    x2, y2 = dx.square(), dy.square()
    return x2 + y2, torch.stack([y2 - x2, dx * dy * -2], 1)


def _elliptical(squares, tilt):
    """Squared elliptical radius at distortions ``(N, 2)``, and its stretch."""
    total, (by_e1, by_e2) = squares[0], squares[1].unbind(1)
    stretch = (1 - tilt.square().sum(1, keepdim=True)).rsqrt()
    scale, e1, e2 = torch.cat([stretch, stretch * tilt], 1)[..., None, None].unbind(1)
    return (total * scale).addcmul_(by_e1, e1).addcmul_(by_e2, e2), stretch


def model_of(patches, ellipses, x, y):
    """Images of the sources alone, of unit flux, ``(N, P, P)``."""
    blur = ellipses.log_blur.exp()[..., None, None]
    # Their own elongation is replaced.
    tilt = [e[:, None, None] for e in (ellipses.e1, ellipses.e2)]
    form = patches.psf.form.blurred(blur, tilt)
    return form.profile(*patches.offsets(x, y))


@torch.no_grad()
def fit_ellipses(patches, ellipses, x, y, floor, *, n_iterations=5):
    """
    Least-squares flux, blur and distortion at given positions.

    Returns the `Ellipses` and the Fisher information ``(N, 4, 4)`` of (flux, log_blur,
    e1, e2), priors included, with a diagonal greater by 1e-5.
    """
    squares = _squares(*patches.offsets(x, y))
    prior, start, units, limit, low, high = x.new_tensor(_PARAMETERS)
    least = torch.diag(prior.clamp(min=1e-9))
    # A little is added to the diagonal, so that it can always be inverted.
    damping = torch.eye(4, device=x.device) * 1e-5 + 1
    wide = x.new_tensor([1.0, math.exp(_LOG_BLUR_STEP)])[:, None, None, None]
    # The model, its derivatives and the residual.
    columns = x.new_empty(len(x), 5, *patches.data.shape[1:])
    fit = torch.stack([ellipses.flux, ellipses.log_blur, ellipses.e1, ellipses.e2], 1)
    for _ in range(n_iterations):
        flux, log_blur, tilt = fit[:, :1], fit[:, 1:2], fit[:, 2:]
        blur = log_blur.exp()[..., None] * wide
        form = patches.psf.form.blurred(blur, tilt.unbind(1))
        r2, stretch = _elliptical(squares, tilt)
        (value, wider), slope = form.value_and_slope(r2, slice(1))
        columns[:, 0] = value
        torch.sub(wider, value, out=columns[:, 1])
        by_tilt = torch.addcmul(
            squares[1], r2[:, None], (tilt * stretch)[..., None, None]
        )
        torch.mul(by_tilt, slope[0, :, None], out=columns[:, 2:4])
        model = flux[..., None] * value
        torch.sub(patches.data, model, out=columns[:, 4])
        weighted = columns[:, :4] * patches.weight(model)[:, None]
        # One product of matrices: those with vectors take three times as long.
        gram = weighted.flatten(2) @ columns.flatten(2).mT
        size = torch.maximum(flux, floor[:, None])
        scale = torch.cat([torch.ones_like(size), size, *2 * [size * stretch]], 1)
        scale = scale * units
        information = gram[..., :4] * scale[:, None] * scale[..., None]
        information = (information + least).mul_(damping)
        score = (gram[..., 4] * scale).addcmul_(fit - start, prior, value=-1)
        step = torch.linalg.solve_ex(information, score)[0]
        moved = (fit + step.clamp(-limit, limit)).clamp(low, high)
        tilt = moved[:, 2:]
        size = torch.linalg.vector_norm(tilt, dim=1, keepdim=True)
        tilt *= _DISTORTION_MAX / size.clamp_(min=_DISTORTION_MAX)
        # A flux may fall below zero, but one that does so far has nothing to fit.
        fit = torch.cat([torch.maximum(moved[:, :1], -flux.abs()), moved[:, 1:]], 1)
    return Ellipses(*fit.unbind(1)), information


def ellipse_features(fit, floor):
    """Features for the network of what `fit_ellipses` returns."""
    fit, information = fit
    covariance = torch.linalg.inv_ex(information)[0]
    sigma = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).sqrt()
    safe = torch.maximum(fit.flux, 0.2 * floor)
    vector = ellipticity_to_vector(fit.e1, fit.e2)
    # Near |e| = 1 the vector moves faster than the distortion.
    stretch = 1 / (1 - fit.e1**2 - fit.e2**2)
    error = (0.5 * (sigma[:, 2] + sigma[:, 3]) * stretch).clamp(1e-3, 2)
    log_flux = torch.log(safe / floor)
    flux_error = (sigma[:, 0] / safe).clamp(1e-4, 5)
    features = [
        log_flux / 4,
        torch.log(flux_error),
        fit.log_blur / 2,
        torch.log(sigma[:, 1].clamp(1e-3, 3)),
        *vector.unbind(-1),
        torch.log(error),
        vector.norm(dim=-1),
        (fit.flux / sigma[:, 0]).clamp(-3, 30) / 10,
    ]
    return {
        'ellipse': torch.stack(features, -1),
        'ellipse_flux': log_flux,
        'ellipse_error': flux_error,
        'vector': vector,
        'vector_error': error,
    }


def _sum(value):
    return value.sum((-2, -1))


@torch.no_grad()
def measure_sizes(near, far, x, y, star_flux, floor, *, shifts=True):
    """Fluxes and misfits of blurred stars at given positions, as features."""
    at, none = (x, y, star_flux, 0.2 * floor), N_SIZES * (not shifts)
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
    form = patches.psf.form.blurred(blurs[:, None, None, None])
    r2, shifted = form.radius_squared(dx, dy), slice(1 + since, None)
    value, slope = form.value_and_slope(r2, shifted)
    point, p = value[0], value[1:]
    model = star_flux[:, None, None] * point
    # One set of weights for all sizes, so that misfits compare.
    weight = patches.weight(torch.maximum(model, patches.data))
    reference = _sum(weight * (patches.data - model).square())
    elongation = None
    if len(sigmas) == _WIDE_FROM:
        elongation = _elongation(patches, weight, dx, dy, model, point)
    star = torch.maximum(star_flux, least)
    # Two rounds: the weights follow the source's own photon noise.
    flux, information, _ = optimal_flux(patches, p, star, 2)
    left = patches.data - flux[..., None, None] * p
    weighted = weight * left
    gain = reference - _sum(weighted * left)
    safe = torch.maximum(flux, least)
    numbers = [
        safe,
        torch.log(safe / star).clamp(-3, 6) / 2,
        torch.asinh(gain / 4) / 3,
        (information.rsqrt() / safe).clamp(1e-4, 5),
    ]
    # One step of Gauss and Newton along each axis.
    safe, excess = safe[since:], (flux - safe)[since:, :, None, None]
    residual = (weight * excess).mul_(p[since:]).add_(weighted[since:])
    slopes = torch.stack(form.along(slope, dx, dy, shifted))
    information = safe.square() * _sum(weight * slopes.square()) + _SHIFT_SIGMA**-2
    shift = (safe * _sum(residual * slopes) / information).clamp(-4, 4)
    total = information.log().sum(0, keepdim=True) * -0.25
    return elongation, torch.stack(numbers), torch.cat([shift, total])


def _elongation(patches, weight, dx, dy, model, point):
    # Signal-to-noise ratio of the two quadrupoles of what a star leaves over.
    r2, patterns = _squares(dx, dy)
    root, left = torch.sqrt(point), patches.data - model
    envelope = weight * root
    kernel = patterns * (envelope / (1 + r2))[:, None]
    noise = _sum(kernel.square() / weight.clamp(min=1e-9)[:, None])
    ratio = _sum(kernel * left[:, None]) / noise.clamp(min=1e-9).sqrt()
    total = ratio.square().sum(1)
    residual = _sum(envelope * left)
    scale = _sum(weight * point).clamp(min=1e-9).sqrt()
    parts = torch.log1p(total) / 3, torch.asinh(residual / scale / 2) / math.pi
    return torch.stack(parts)
