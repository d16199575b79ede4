# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Domain of the images that an encoder was trained on, which its card states.
"""

import dataclasses
import math

import torch

from bliss_astro.encoders import Domain
from bliss_astro.encoders._config import WING_FLOOR, mean_interpolation
from bliss_astro.psf import GaussianPSF
from bliss_astro.simulation import SimulationStream
from bliss_astro.simulation._camera import Draws
from bliss_astro.simulation._sources import sample_expected, sample_fields

# PSFs, densities and images that are drawn: extreme quantiles of PSFs scatter by 1 %.
_N_DRAWN, _N_DENSITIES, _N_IMAGES = 20000, 5000, 2000
# Depth in exposures from which the dithers' mean sets the noise of a coadd.
_DEEP = 4
# Correlation of the noise of two exposures half a pixel apart is 0.5; that of white
# noise has an error of measurement.
_LARGEST_CORRELATION, _WHITE = 0.51, 0.02
# Features of PSFs that are those of wings, see `GaussianPSF.describe`.
_WINGS = slice(2, 6)


def domain_of_simulation(config):
    """Ranges of a `SimulationConfig` for a `Domain`, of draws with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    stars = config.population == 'stars'
    least, most = config.n_exposures
    resampled = most > 1 or len(config.bands) > 1
    correlated = resampled and config.noise_order != 'after_alignment'
    # A coadd of d exposures has 1.5 sqrt(d) times the noise in electrons.
    gain, floor_snr = 1.0, tuple(config.floor_snr)
    if stars:
        n = 1 if config.psf == 'paper' and config.fwhm is None else _N_DRAWN
        psf = config.sample_psf(n, generator=generator)
        low, high = config.background
        variance, density = (low, high + config.read_noise[1] ** 2), config.density
        floor_snr = None if config.flux_min is not None else floor_snr
        if correlated and least >= _DEEP:
            gain = max(1.0, 0.9 / mean_interpolation(config.dither[0])[1])
    else:
        psf, variance, density = _scene_fields(config, generator)
        floor_snr = None if config.population == 'npe' else floor_snr
    noise = [0.95 * gain * math.sqrt(variance[0] * least)]
    noise.append(1.6 * math.sqrt(variance[1] * most))
    if stars and config.bands:
        psf, noise = _star_bands(config, generator)
    seen = [GaussianPSF.from_shape(psf)] * 2
    if most > 1 and not (stars and config.bands):
        kernel, _ = mean_interpolation(config.dither[1])
        seen[1] = seen[0].broadened(kernel, approximate=True)
    return Domain(
        psf_area=_ends(*(one.effective_area for one in seen)),
        density=tuple(density),
        noise=tuple(noise),
        correlation=_LARGEST_CORRELATION if correlated else _WHITE,
        floor_snr=floor_snr,
        fwhm=_ends(*(one.fwhm for one in seen)),
        n_exposures=(least, most),
        flux_min=config.flux_min if stars else None,
        psf_features=_features(torch.cat([one.describe() for one in seen])),
        **{
            f'{name}_error': getattr(config, f'{name}_errors')[1]
            for name in ('psf', 'background')
            if getattr(config, f'{name}_errors') is not None
        },
    )


def _star_bands(config, generator):
    """PSFs, and range of the noise in electrons, of images of stars in all bands."""
    small = {'shape': (9, 9), 'margin': 0, 'confined_fraction': 0.0}
    small |= {'density': (1e-3, 1e-3), 'psf_errors': None, 'psf_error': 0.0}
    stream = SimulationStream(dataclasses.replace(config, **small), device='cpu')
    images = stream.sample_batch(_N_IMAGES, generator=generator)
    pairs = list(zip(images.images, images.present.T, strict=True))
    psf = torch.cat([own.psf[there] for own, there in pairs])
    noise = [(own.bkg_error * own.effective_gain)[there] for own, there in pairs]
    return psf, _ends(torch.cat(noise), torch.cat(noise))


def _scene_fields(config, generator):
    """PSFs, and ranges of noise variance and density, of stars and galaxies."""
    stream, name, draw = SimulationStream(config), config.population, Draws(generator)
    of_psf = 'npe' if name == 'npe' else 'sky'
    fields = stream.sample_fields(_N_DRAWN, population=of_psf, generator=generator)
    densities = []
    for population in ('npe', 'sky') if name == 'both' else (name,):
        depth = 1 if population == 'npe' else config.n_exposures[1]
        some = sample_fields(
            draw, config, stream.field_prior, _N_DENSITIES, population, depth
        )
        prior = stream.priors[population]
        *_, expected = sample_expected(draw, config, prior, some, population)
        densities.append(expected)
    variance, density = (
        tuple(float(value.quantile(q)) for q in (0.002, 0.998))
        for value in (fields.variance, torch.cat(densities))
    )
    return fields.psf, variance, density


def _ends(narrow, broad):
    """Range of nearly all that is drawn, widened by 3 %."""
    return 0.97 * float(narrow.quantile(0.002)), 1.03 * float(broad.quantile(0.998))


def _features(described):
    """Range of the features of PSFs."""
    low, faint, high = described.quantile(torch.tensor([0.001, 0.01, 0.999]), 0)
    # Wings fainter than nearly all leave no light in the image, only numbers.
    low[_WINGS] = faint[_WINGS].maximum(torch.tensor(WING_FLOOR))
    return tuple(low.tolist()), tuple(high.tolist())
