# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Domain of an encoder from its training simulations, for its card.
"""

import math

import torch

from bliss_astro.encoders import Domain
from bliss_astro.encoders._domain import mean_interpolation
from bliss_astro.encoders._normalization import WING_FLOOR
from bliss_astro.psf._mixture import (
    LOG_AREA,
    broaden_shape,
    describe_shape,
    fwhm_of_shape,
)
from bliss_astro.simulation import SimulationStream

__all__ = ['domain_of_simulation']

# PSFs that are drawn: their extreme quantiles scatter by about 1 %.
_N_DRAWN = 20000
# Depth in exposures from which the dithers' mean sets the noise of a coadd.
_DEEP = 4
# Correlation of the noise of two exposures half a pixel apart is 0.5.
_LARGEST_CORRELATION = 0.51
# Correlation of white noise, with its error of measurement.
_WHITE = 0.02
# Features of PSFs that are those of wings, see `describe_shape`.
_WINGS = slice(2, 6)


def domain_of_simulation(config):
    """
    Compute the domain of an encoder from the simulations that it is trained on.

    Parameters
    ----------
    config : `~bliss_astro.simulation.SimulationConfig`
        Settings of the simulations.

    Returns
    -------
    domain : `~bliss_astro.encoders.Domain`
        Ranges, from quantiles of draws with a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    least, most = config.n_exposures
    correlated = most > 1 and config.noise_order != 'after_alignment'
    facts = (_star_fields if config.population == 'stars' else _scene_fields)(
        config, generator
    )
    psf, variance, density, floor_snr = facts
    wide = psf
    if most > 1:
        wide = broaden_shape(psf, mean_interpolation(config.dither[1])[0])
    # A coadd of d exposures has 1.5 sqrt(d) times the noise in electrons.
    gain = 1.0
    if config.population == 'stars' and correlated and least >= _DEEP:
        gain = max(1.0, 0.9 / mean_interpolation(config.dither[0])[1])
    errors = {
        'psf_error': config.psf_errors,
        'background_error': config.background_errors,
    }
    return Domain(
        psf_area=_ends(_area(psf), _area(wide)),
        density=density,
        noise=(
            0.95 * gain * math.sqrt(variance[0] * least),
            1.6 * math.sqrt(variance[1] * most),
        ),
        correlation=_LARGEST_CORRELATION if correlated else _WHITE,
        floor_snr=floor_snr,
        fwhm=_ends(fwhm_of_shape(psf), fwhm_of_shape(wide)),
        n_exposures=(least, most),
        flux_min=config.flux_min if config.population == 'stars' else None,
        psf_features=_features(psf, wide),
        **{name: pair[1] for name, pair in errors.items() if pair is not None},
    )


def _star_fields(config, generator):
    """PSFs, and ranges of noise variance, density and signal-to-noise at the floor."""
    n = 1 if config.psf == 'paper' and config.fwhm is None else _N_DRAWN
    psf = config.sample_psf(n, generator=generator)
    low, high = config.background
    variance = (low, high + config.read_noise[1] ** 2)
    floor_snr = None if config.flux_min is not None else tuple(config.floor_snr)
    return psf, variance, tuple(config.density), floor_snr


def _scene_fields(config, generator):
    """The same of stars and galaxies, from draws of the stream."""
    stream = SimulationStream(config)
    name = 'npe' if config.population == 'npe' else 'sky'
    fields = stream.sample_fields(_N_DRAWN, population=name, generator=generator)
    density = stream.sample_densities(5000, generator=generator)
    variance, density = (
        tuple(float(value.quantile(q)) for q in (0.002, 0.998))
        for value in (fields.variance, density)
    )
    floor_snr = None if name == 'npe' else tuple(config.floor_snr)
    return fields.psf, variance, density, floor_snr


def _area(shape):
    return torch.exp(describe_shape(shape)[:, 1] + LOG_AREA)


def _ends(narrow, broad):
    """Range of nearly all that is drawn, widened by 3 %."""
    return 0.97 * float(narrow.quantile(0.002)), 1.03 * float(broad.quantile(0.998))


def _features(shape, wide):
    """Range of the features of the PSFs of exposures and of coadds."""
    described = describe_shape(torch.cat([shape, wide]))
    low, high = described.quantile(0.001, 0), described.quantile(0.999, 0)
    # Wings fainter than nearly all leave no light in the image, only numbers.
    floor = torch.tensor(WING_FLOOR)
    low[_WINGS] = described.quantile(0.01, 0)[_WINGS].maximum(floor)
    return tuple(low.tolist()), tuple(high.tolist())
