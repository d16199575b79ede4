# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a source looks like beside stars and blurred stars, as features.

Whether a source is extended, and how much of its light lies where a star's
would not, is told by how well the PSF fits it and how well the PSF blurred to a few
sizes does.  These are sums over pixels that a network would have to make up
for every PSF anew; it is given them, and learns what they mean.
"""

import math

import torch

from bliss_astro.psf._mixture import broaden_shape, profile_with_gradient

__all__ = ['N_SHIFTS', 'N_SIZES', 'N_TOLD', 'measure_sizes']

# Widths in pixels of the Gaussians that the PSF is blurred with, and which of
# them are measured on the wider cut-outs.
_SIGMAS = (0.5, 1.0, 1.8, 3.2, 5.6)
_WIDE_FROM = 3
N_SIZES = len(_SIGMAS)
# Numbers that `measure_sizes` tells of each source.
N_TOLD = 2 * N_SIZES + 2
# From this size on it tells too where such a source would lie: three numbers each.
_SHIFTS_FROM = 2
N_SHIFTS = 3 * (N_SIZES - _SHIFTS_FROM)
# Weak prior in pixels that keeps noise from moving a source far.
_REACH = 2.0


def _sum(value):
    return value.sum((-2, -1))


def _flux_and_misfit(patches, p, start):
    # Two rounds: the weights follow the source's own photon noise.
    flux = start
    for _ in range(2):
        weighted = patches.weight(flux[:, None, None] * p) * p
        information = _sum(weighted * p).clamp(min=1e-9)
        flux = _sum(weighted * patches.data) / information
    return flux, information.rsqrt()


def _chi2(patches, weight, model):
    return _sum(weight * (patches.data - model).square())


@torch.no_grad()
def measure_sizes(near, far, x, y, star_flux, floor):
    """
    Fluxes and misfits of blurred stars at given positions.

    Parameters
    ----------
    near, far : `StarPatches`
        Cut-outs of small and of large size.

    x, y : tensor ``(N,)``
        Positions in pixels.

    star_flux : tensor ``(N,)``
        Flux of a star there, in units of the noise.

    floor : tensor ``(N,)``
        The flux floor in the same unit.

    Returns
    -------
    told : tensor ``(N, N_TOLD)``
        Features of order one.

    log_flux : tensor ``(N, N_SIZES)``
        Logarithm of each size's flux over the floor.

    relative_error : tensor ``(N, N_SIZES)``
        Its error.

    shifts : tensor ``(N, N_SHIFTS)``
        For the larger sizes, by how many pixels a better position differs in x
        and in y, and the logarithm of its error.
    """
    told, log_flux, errors, shifts = [], [], [], []
    least = 0.2 * floor
    star = torch.maximum(star_flux, least)
    for patches, sigmas in ((near, _SIGMAS[:_WIDE_FROM]), (far, _SIGMAS[_WIDE_FROM:])):
        dx, dy = patches.offsets(x, y)
        point = patches.profile(x, y)
        model = star_flux[:, None, None] * point
        # One set of weights for all sizes, so that misfits compare.
        weight = patches.weight(torch.maximum(model, patches.data))
        reference = _chi2(patches, weight, model)
        if patches is near:
            told += _elongation(patches, weight, dx, dy, model, point)
        for sigma in sigmas:
            shape = broaden_shape(patches.shape, sigma**2)
            p, *slopes = profile_with_gradient(shape, dx, dy, radius=patches.radius)
            flux, error = _flux_and_misfit(patches, p, star)
            gain = reference - _chi2(patches, weight, flux[:, None, None] * p)
            safe = torch.maximum(flux, least)
            told.append(torch.log(safe / star).clamp(-3, 6) / 2)
            told.append(torch.asinh(gain / 4) / 3)
            log_flux.append(torch.log(safe / floor))
            errors.append((error / safe).clamp(1e-4, 5))
            if len(errors) > _SHIFTS_FROM:
                shifts += _shift(patches, weight, p, slopes, safe)
    return tuple(torch.stack(v, -1) for v in (told, log_flux, errors, shifts))


def _shift(patches, weight, p, slopes, flux):
    # One step of Gauss and Newton along each axis.
    flux = flux[:, None, None]
    residual = weight * (patches.data - flux * p)
    out, total = [], 0.0
    for slope in slopes:
        slope = flux * slope
        information = _sum(weight * slope.square()) + _REACH**-2
        out.append((_sum(residual * slope) / information).clamp(-4, 4))
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
