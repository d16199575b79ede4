# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What an encoder was trained on, and whether an image lies within it.
"""

import dataclasses
import functools
import json
import math
import warnings

import numpy as np
import torch

from bliss_astro._warnings import OutOfDomainWarning
from bliss_astro.catalog import CatalogFlag
from bliss_astro.priors import SeeingPrior
from bliss_astro.psf._mixture import (
    DEFAULT_SHAPE,
    LOG_AREA,
    broaden_shape,
    describe_shape,
)

__all__ = ['Domain', 'check_domain']


@dataclasses.dataclass(frozen=True)
class Domain:
    """
    Ranges that an encoder was trained on.

    Attributes
    ----------
    psf_area : tuple of float
        Effective area ``1 / sum(p^2)`` of the PSF in square pixels.

    density : tuple of float
        Stars per pixel above the flux floor.

    noise : tuple of float
        Noise of empty sky in electrons.

    correlation : float
        Largest correlation of the noise of neighbouring pixels.

    floor_snr : tuple of float or None
        Signal-to-noise ratio of a source at the flux floor.
    """

    psf_area: tuple[float, float]
    density: tuple[float, float]
    noise: tuple[float, float]
    correlation: float
    floor_snr: tuple[float, float] | None = None

    @classmethod
    def of(cls, encoder):
        """The domain of an encoder, from its card; `None` without one."""
        simulation = encoder.card.get('simulation')
        if simulation is None:
            return None
        return _domain(json.dumps(simulation, sort_keys=True))


@functools.lru_cache
def _domain(text):
    simulation = json.loads(text)
    if simulation['psf'] == 'paper':
        shape = torch.tensor([DEFAULT_SHAPE])
    else:
        generator = torch.Generator().manual_seed(0)
        shape = SeeingPrior().sample_batch(20000, generator=generator)
    deep = simulation['n_exposures'][1] > 1
    area = describe_shape(shape)[:, 1] + LOG_AREA
    broad = (
        describe_shape(broaden_shape(shape, 1 / 6))[:, 1] + LOG_AREA if deep else area
    )
    low, high = float(area.quantile(0.002).exp()), float(broad.quantile(0.998).exp())
    sky = simulation['background']
    read = simulation['read_noise'][1]
    most = simulation['n_exposures'][1]
    # A coadd of d exposures has 1.5 sqrt(d) times the noise in electrons.
    return Domain(
        psf_area=(0.97 * low, 1.03 * high),
        density=tuple(simulation['density']),
        noise=(
            0.95 * math.sqrt(sky[0]),
            1.6 * math.sqrt((sky[1] + read**2) * most),
        ),
        # Two exposures half a pixel apart reach 0.5.
        correlation=0.51 if deep else 0.02,
        floor_snr=None
        if simulation.get('flux_min') is not None
        else tuple(simulation['floor_snr']),
    )


def check_domain(encoder, facts):
    """
    Warn of what lies outside an encoder's domain.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Its card states the domain.

    facts : dict
        ``psf_area``, ``noise``, ``density`` (arrays by tile or scalars),
        ``correlation`` (pair of float) and ``floor_snr`` (array, or `None`
        for the usual one).

    Returns
    -------
    flags : int array
        Flags by tile (or one).
    """
    domain = Domain.of(encoder)
    if domain is None:
        return np.zeros((1, 1), dtype=np.int64)
    slack = 1.05
    checks = (
        ('psf_area', domain.psf_area, CatalogFlag.PSF_OUT_OF_DOMAIN, 'PSF', _width),
        (
            'density',
            (0.0, domain.density[1]),
            CatalogFlag.DENSITY_OUT_OF_DOMAIN,
            'density of sources',
            lambda v: f'{v:.2g} per pixel',
        ),
        (
            'noise',
            domain.noise,
            CatalogFlag.NOISE_OUT_OF_DOMAIN,
            'noise of the sky',
            lambda v: f'{v:.3g} electrons',
        ),
    )
    flags = 0
    for name, (low, high), flag, title, show in checks:
        value = np.atleast_2d(facts[name])
        outside = (value < low / slack) | (value > high * slack)
        flags = flags | np.where(outside, int(flag), 0)
        if outside.any():
            worst = value[outside].flat[0]
            warnings.warn(
                f'the {title} ({show(worst)}) is outside what the encoder '
                f'{encoder.name!r} was trained on ({show(low)} to {show(high)}); '
                f'rows concerned are flagged {flag.name.lower()}',
                OutOfDomainWarning,
                stacklevel=4,
            )
    correlation = facts['correlation']
    if max(correlation) > domain.correlation or min(correlation) < -0.05:
        flags = flags | int(CatalogFlag.NOISE_OUT_OF_DOMAIN)
        warnings.warn(
            f'the noise correlation ({", ".join(map("{:.2f}".format, correlation))}) '
            'is outside what the encoder '
            f'{encoder.name!r} was trained on (up to {domain.correlation})',
            OutOfDomainWarning,
            stacklevel=4,
        )
    if domain.floor_snr is not None and facts.get('floor_snr') is not None:
        low, high = domain.floor_snr
        value = np.atleast_2d(facts['floor_snr'])
        outside = (value < low / slack) | (value > high * slack)
        if outside.any():
            warnings.warn(
                f'flux_min stands for a signal-to-noise ratio of '
                f'{value[outside].flat[0]:.3g}, outside what the encoder '
                f'{encoder.name!r} was trained on ({low:g} to {high:g})',
                OutOfDomainWarning,
                stacklevel=4,
            )
    return flags


def _width(area):
    # FWHM of the Gaussian of that effective area, 4 pi sigma^2.
    return f'FWHM about {2.355 * math.sqrt(area / (4 * math.pi)):.2g} px'
