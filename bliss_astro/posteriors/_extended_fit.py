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

from bliss_astro.psf._mixture import (
    elliptical_radius_squared,
    normalization_of_shape,
    profile_slope,
    quadratic_form,
    raw_profile,
)

from ._grid import Rows
from ._shape_layers import ellipticity_to_vector
from ._star_fit import optimal_flux

# Logarithm of the blur's variance in square pixels: start, width of its prior, range.
_LOG_BLUR_START, _LOG_BLUR_SIGMA, _LOG_BLUR_RANGE = 0.5, 1.5, (-4.0, 4.5)
# Width of the prior of the distortion, and its largest length.
_DISTORTION_SIGMA, _DISTORTION_MAX = 0.45, 0.9
# Step of the finite difference in the logarithm of the blur.
_LOG_BLUR_STEP = 0.15
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


def _blurred(patches, ellipses, step=0.0):
    # The stretched PSF (..., N, 1, 1), whose own elongation is replaced.
    variance = (ellipses.log_blur + step).exp()[..., None, None]
    wide = patches.psf.broadened(variance, approximate=True)
    e1, e2 = (e[:, None, None] for e in (ellipses.e1, ellipses.e2))
    return wide.with_ellipticity(e1, e2)


def model_of(patches, ellipses, x, y):
    """Images of the sources alone, of unit flux, ``(N, P, P)``."""
    return _blurred(patches, ellipses)(*patches.offsets(x, y))


def _columns(patches, ellipses, dx, dy, out):
    """
    Put the model and its derivatives by log_blur, e1 and e2 into ``out``.

    Returns what the four ``(N, P, P)`` are to be multiplied by, ``(N, 4)``.
    """
    steps = dx.new_tensor([[0.0], [_LOG_BLUR_STEP]])
    psf = _blurred(patches, ellipses, steps)
    shape, wider = psf.shape
    norm, wider_norm = normalization_of_shape(psf.shape, psf.normalization_radius)
    e1, e2 = ellipses.e1[:, None, None], ellipses.e2[:, None, None]
    r2 = elliptical_radius_squared(shape, dx, dy)
    value, fall = profile_slope(shape, r2)
    out[:, 0] = value
    torch.sub(raw_profile(wider, r2) * (norm / wider_norm), value, out=out[:, 1])
    # Derivatives of the squared radius, but for a factor.
    square = (-e1.square() - e2.square() + 1).reciprocal()
    along = e1 * square, e2 * square
    minus, plus, across = 1 - e1, 1 + e1, -2 * e2
    by_e1 = along[0] * minus - 1, along[0] * plus + 1, along[0] * across
    by_e2 = along[1] * minus, along[1] * plus, along[1] * across - 2
    for k, form in enumerate((by_e1, by_e2), start=2):
        torch.mul(fall, quadratic_form(*form, dx, dy), out=out[:, k])
    norm, stretch = norm.reciprocal()[..., 0], square.sqrt()[..., 0] * -0.5
    return norm * torch.cat(
        [torch.ones_like(norm), torch.full_like(norm, 1 / _LOG_BLUR_STEP)]
        + 2 * [stretch],
        -1,
    )


@torch.no_grad()
def fit_ellipses(patches, ellipses, x, y, floor, *, n_iterations=5):
    """
    Least-squares flux, blur and distortion at given positions.

    Returns the `Ellipses` and the Fisher information ``(N, 4, 4)`` of (flux, log_blur,
    e1, e2), priors included.
    """
    fit, at = ellipses, patches.offsets(x, y)
    prior = x.new_tensor([0.0, _LOG_BLUR_SIGMA**-2, *2 * [_DISTORTION_SIGMA**-2]])
    least = torch.diag(prior)
    least[0, 0] = 1e-9
    # Derivatives and, at last, the residual.
    columns = x.new_empty(len(x), 5, *patches.data.shape[1:])
    for _ in range(n_iterations):
        scale = _columns(patches, fit, *at, columns)
        model = (fit.flux * scale[:, 0])[:, None, None] * columns[:, 0]
        torch.sub(patches.data, model, out=columns[:, 4])
        weighted = columns[:, :4] * patches.weight(model)[:, None]
        # One product of matrices: those with vectors take three times as long.
        gram = weighted.flatten(2) @ columns.flatten(2).mT
        size = torch.maximum(fit.flux, floor)[:, None]
        scale = torch.cat([scale[:, :1], size * scale[:, 1:]], -1)
        gram, score = gram[..., :4] * scale[:, None], gram[..., 4] * scale
        information = gram * scale[..., None] + least
        start = torch.stack([fit.log_blur - _LOG_BLUR_START, fit.e1, fit.e2], -1)
        score = score - torch.nn.functional.pad(start, (1, 0)) * prior
        step = torch.linalg.solve(_scaled(information), score)
        fit = _moved(fit, step)
    return fit, information


def _scaled(information):
    # A little is added to the diagonal, so that it can always be inverted.
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    return information + torch.diag_embed(1e-5 * diagonal)


def _moved(fit, step):
    e1 = fit.e1 + step[:, 2].clamp(-0.3, 0.3)
    e2 = fit.e2 + step[:, 3].clamp(-0.3, 0.3)
    shrink = (_DISTORTION_MAX / torch.hypot(e1, e2).clamp(min=1e-6)).clamp(max=1)
    blur = (fit.log_blur + step[:, 1].clamp(-1, 1)).clamp(*_LOG_BLUR_RANGE)
    # A flux may fall below zero, but one that does so far has nothing to fit.
    flux = torch.maximum(fit.flux + step[:, 0], -fit.flux.abs())
    return Ellipses(flux, blur, e1 * shrink, e2 * shrink)


def ellipse_features(fit, floor):
    """Features for the network of what `fit_ellipses` returns."""
    fit, information = fit
    covariance = torch.linalg.inv(_scaled(information))
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
def measure_sizes(near, far, x, y, star_flux, floor):
    """Fluxes and misfits of blurred stars at given positions, as features."""
    features, log_flux, errors, shifts = [], [], [], []
    least = 0.2 * floor
    star = torch.maximum(star_flux, least)
    for patches, sigmas in ((near, _SIGMAS[:_WIDE_FROM]), (far, _SIGMAS[_WIDE_FROM:])):
        dx, dy = patches.offsets(x, y)
        point = patches.profile(x, y)
        model = star_flux[:, None, None] * point
        # One set of weights for all sizes, so that misfits compare.
        weight = patches.weight(torch.maximum(model, patches.data))
        reference = _sum(weight * (patches.data - model).square())
        if patches is near:
            features += _elongation(patches, weight, dx, dy, model, point)
        for sigma in sigmas:
            psf = patches.psf.broadened(sigma**2, approximate=True)
            shifted = len(errors) >= _SHIFTS_FROM
            p = psf(dx, dy, gradient=shifted)
            p, *slopes = p if shifted else (p,)
            # Two rounds: the weights follow the source's own photon noise.
            flux, information, _ = optimal_flux(patches, p, star, 2)
            left = patches.data - flux[:, None, None] * p
            weighted = weight * left
            gain = reference - _sum(weighted * left)
            safe = torch.maximum(flux, least)
            features.append(torch.log(safe / star).clamp(-3, 6) / 2)
            features.append(torch.asinh(gain / 4) / 3)
            log_flux.append(torch.log(safe / floor))
            errors.append((information.rsqrt() / safe).clamp(1e-4, 5))
            if shifted:
                weighted += weight * (flux - safe)[:, None, None] * p
                shifts += _shift(weight, weighted, slopes, safe)
    names = ('sizes', 'size_log_flux', 'size_error', 'shifts')
    values = (torch.stack(v, -1) for v in (features, log_flux, errors, shifts))
    return dict(zip(names, values, strict=True))


def _shift(weight, residual, slopes, flux):
    # One step of Gauss and Newton along each axis.
    out, total = [], 0.0
    for slope in slopes:
        information = flux.square() * _sum(weight * slope.square()) + _SHIFT_SIGMA**-2
        out.append((flux * _sum(residual * slope) / information).clamp(-4, 4))
        total = total + torch.log(information)
    return [*out, -0.25 * total]


def _elongation(patches, weight, dx, dy, model, point):
    # Signal-to-noise ratio of the two quadrupoles of what a star leaves over.
    r2 = dx**2 + dy**2
    envelope = weight * torch.sqrt(point)
    out = []
    for pattern in (dx**2 - dy**2, 2 * dx * dy):
        kernel = envelope * pattern / (1 + r2)
        signal = _sum(kernel * (patches.data - model))
        noise = _sum(kernel**2 / weight.clamp(min=1e-9)).clamp(min=1e-9).sqrt()
        out.append(signal / noise)
    total = out[0] ** 2 + out[1] ** 2
    residual = _sum(weight * (patches.data - model) * torch.sqrt(point))
    scale = _sum(weight * point).clamp(min=1e-9).sqrt()
    return [torch.log1p(total) / 3, torch.asinh(residual / scale / 2) / math.pi]
