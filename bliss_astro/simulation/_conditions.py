# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Observing conditions of training images: depth, PSF, sky, calibration, flux floor.
"""

import math

import torch

from bliss_astro.psf._mixture import LOG_AREA, describe_shape
from bliss_astro.units import NANOMAGGY_ZERO_POINT

from ._draws import log_uniform, uniform, unit

__all__ = [
    'npe_floor',
    'psf_area',
    'sample_conditions',
    'sample_depth',
    'sample_floor',
    'sample_pixel_scale',
]

# Share of the images of the sky, with fields of telescopes, that are not SDSS's.
_TELESCOPE_FRACTION = 0.65
# Signal-to-noise ratio at a typical flux floor, the middle of `typical_floor_snr`.
_TYPICAL_FLOOR_SNR = 3.4
# Electrons per nanomaggy of images that are not SDSS's, around its 943.
_ELECTRONS_PER_NMGY = (400.0, 2000.0)
# Largest read noise over the noise of the sky.
_READ_FRACTION = 0.7
# Depth up to which coadds may have inclined PSFs, which are slow to render.
_INCLINED_DEPTH = 8


def sample_depth(n_exposures, *, generator):
    """Draw the number of exposures of coadds, log-uniform and at least 2 of a range."""
    low, high = n_exposures
    place = float(unit((), generator=generator))
    if low == high:
        return low
    low = max(low, 2)
    ratio = math.log((high + 0.5) / (low - 0.5))
    return min(max(round((low - 0.5) * math.exp(place * ratio)), low), high)


def sample_conditions(config, prior, n, population, depth, *, generator):
    """
    Draw PSF, sky, read noise and calibration of exposures.

    Parameters
    ----------
    config : `SimulationConfig`
        Ranges.

    prior : `~bliss_astro.priors.FieldPrior`
        Prior of fields of stars and galaxies.

    n : int
        Number of images B.

    population : {'stars', 'npe', 'sky'}
        Population of the sources; that of the NPE paper is seen by SDSS alone.

    depth : int
        Number of exposures of a coadd.

    generator : `torch.Generator`
        Source of randomness.

    Returns
    -------
    psf : tensor ``(B, 8)``
        Shapes of the PSFs.

    background, read_noise, electrons_per_nmgy : tensor ``(B,)``
        In electrons of one exposure; stars alone have no calibration, `None`.
    """
    inclined = bool(unit((), generator=generator) < config.inclined_fraction)
    if population == 'stars':
        psf = config.sample_psf(
            n, inclined=inclined and depth <= _INCLINED_DEPTH, generator=generator
        )
        sky = log_uniform(config.background, n, generator=generator)
        read_noise = uniform(config.read_noise, n, generator=generator)
        return psf, sky, read_noise, None
    drawn = prior.sample_batch(n, generator=generator, device=generator.device)
    given = (drawn.psf, drawn.background, drawn.read_noise, drawn.electrons_per_nmgy)
    if population == 'sky' and config.fields in ('wide', 'telescopes'):
        if config.fields == 'wide':
            share, other = 0.5, _any_sky(config, n, generator)
        else:
            share = _TELESCOPE_FRACTION
            other = _any_telescope(config, n, depth, inclined, generator)
        is_other = unit(n, generator=generator) < share
        given = tuple(
            torch.where(is_other[:, None] if new.dim() > 1 else is_other, new, old)
            for new, old in zip(other, given, strict=True)
        )
    if depth > _INCLINED_DEPTH:
        round_or_upright = given[0].clone()
        round_or_upright[:, 7] = 0.0
        given = (round_or_upright, *given[1:])
    return given


def _any_sky(config, n, generator):
    """Conditions of other cameras and skies."""
    return (
        config.sample_psf(n, inclined=False, generator=generator),
        log_uniform(config.background, n, generator=generator),
        uniform(config.read_noise, n, generator=generator),
        log_uniform(_ELECTRONS_PER_NMGY, n, generator=generator),
    )


def _any_telescope(config, n, depth, inclined, generator):
    """Conditions of any telescope, by the noise and the magnitude at the floor."""
    psf = config.sample_psf(n, inclined=inclined and depth == 1, generator=generator)
    noise = log_uniform(config.noise, n, generator=generator)
    read_noise = uniform(config.read_noise, n, generator=generator)
    read_noise = read_noise.minimum(_READ_FRACTION * noise)
    limit = uniform(config.limits, n, generator=generator)
    floor = _TYPICAL_FLOOR_SNR * noise * torch.sqrt(psf_area(psf) / depth)
    scale = floor * 10 ** (0.4 * (limit - NANOMAGGY_ZERO_POINT))
    return psf, noise**2 - read_noise**2, read_noise, scale


def sample_pixel_scale(config, population, *, generator):
    """Draw the side of a pixel in arcsec."""
    if config.fields != 'telescopes' or population != 'sky':
        return config.pixel_scale
    coin = float(unit((), generator=generator))
    drawn = float(log_uniform(config.pixel_scales, 1, generator=generator))
    return drawn if coin < _TELESCOPE_FRACTION else config.pixel_scale


def sample_floor(config, fields, *, generator):
    """Flux floors ``(n,)`` in electrons, from signal-to-noise ratios of coadds."""
    n = len(fields)
    if config.flux_min is not None:
        return torch.full_like(fields.background, float(config.flux_min))
    snr = log_uniform(config.floor_snr, n, generator=generator)
    if config.typical_floor_snr is not None:
        typical = log_uniform(config.typical_floor_snr, n, generator=generator)
        coin = unit(n, generator=generator) < 0.5
        snr = torch.where(coin, typical, snr)
    return snr * torch.sqrt(fields.variance * psf_area(fields.psf) / fields.depth)


def npe_floor(config, flux_min, scale, *, generator):
    """Flux floors ``(n,)`` in electrons of the NPE paper's prior, whole or cut."""
    floor = torch.full_like(scale, flux_min)
    if config.npe_floor is not None:
        # Half of the images have the whole of the prior.
        cut = log_uniform(config.npe_floor, len(scale), generator=generator)
        coin = unit(len(scale), generator=generator) < 0.5
        floor = torch.where(coin, torch.maximum(cut, floor), floor)
    return floor * scale


def psf_area(psf):
    """Effective areas ``(n,)`` of PSFs in square pixels."""
    return torch.exp(describe_shape(psf)[:, 1] + LOG_AREA)
