# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What an encoder was trained on, and whether an image lies within it.
"""

import dataclasses
import functools
import json
import math

import numpy as np
import torch

from bliss_astro.catalog import CatalogFlag
from bliss_astro.encoders import SceneStream, SimulationConfig
from bliss_astro.psf._mixture import LOG_AREA, broaden_shape, describe_shape
from bliss_astro.psf._width import fwhm_of_shape

from ._pixel_statistics import PIXEL_LIMITS

__all__ = ['Domain', 'DomainFinding', 'check_domain', 'domain_findings']

# How far beyond the stated ranges is still near enough.
_SLACK = 1.05
# The noise may anticorrelate by that much: what a measurement of none gives.
_LEAST_CORRELATION = -0.05
# Coadds of that many exposures all have about the same share of dithers.
_MANY = 4


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

    fwhm : tuple of float or None
        Full width at half maximum of the PSF in pixels, for information.

    n_exposures : tuple of int or None
        Depth of the coadds, for information.

    flux_min : float or None
        The one flux floor, in electrons of an exposure, of an encoder that was
        trained for no other.
    """

    psf_area: tuple[float, float]
    density: tuple[float, float]
    noise: tuple[float, float]
    correlation: float
    floor_snr: tuple[float, float] | None = None
    fwhm: tuple[float, float] | None = None
    n_exposures: tuple[int, int] | None = None
    flux_min: float | None = None

    @classmethod
    def of(cls, encoder):
        """The domain of an encoder, from its card; `None` without one."""
        simulation = encoder.card.get('simulation')
        return None if simulation is None else cls.of_simulation(simulation)

    @classmethod
    def of_simulation(cls, simulation):
        """The domain of an encoder trained on what a dict or config says."""
        if dataclasses.is_dataclass(simulation):
            simulation = dataclasses.asdict(simulation)
        return _domain(json.dumps(simulation, sort_keys=True))


@functools.lru_cache
def _domain(text):
    simulation = json.loads(text)
    if simulation.get('population', 'stars') != 'stars':
        return _scene_domain(simulation)
    names = ('psf', 'fwhm', 'ellipticity', 'dither')
    known = {k: v for k, v in simulation.items() if k in names and v is not None}
    config = SimulationConfig(**known)
    n = 1 if config.psf == 'paper' and config.fwhm is None else 20000
    shape = config.draw_psf(n, generator=torch.Generator().manual_seed(0))
    least, most = simulation['n_exposures']
    deep = most > 1
    correlated = deep and simulation.get('noise_order') != 'after_alignment'
    kernel, _ = mean_interpolation(config.dither[1])
    wide = broaden_shape(shape, kernel) if deep else shape
    sky = simulation['background']
    read = simulation['read_noise'][1]
    # A coadd of d exposures has 1.5 sqrt(d) times the noise in electrons.
    gain = 1.0
    if correlated and least >= _MANY:
        gain = max(1.0, 0.9 / mean_interpolation(config.dither[0])[1])
    return Domain(
        psf_area=_ends(_area(shape), _area(wide)),
        density=tuple(simulation['density']),
        noise=(
            0.95 * gain * math.sqrt(sky[0] * least),
            1.6 * math.sqrt((sky[1] + read**2) * most),
        ),
        # Two exposures half a pixel apart reach 0.5.
        correlation=0.51 if correlated else 0.02,
        floor_snr=None
        if simulation.get('flux_min') is not None
        else tuple(simulation['floor_snr']),
        fwhm=_ends(fwhm_of_shape(shape), fwhm_of_shape(wide)),
        n_exposures=(least, most),
        flux_min=simulation.get('flux_min'),
    )


def _scene_domain(simulation):
    # Of stars and galaxies: what the stream of simulations draws.
    known = {field.name for field in dataclasses.fields(SimulationConfig)}
    config = SimulationConfig(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in simulation.items()
            if name in known
        }
    )
    stream = SceneStream(config)
    generator = torch.Generator().manual_seed(0)
    name = 'npe' if config.population == 'npe' else 'sky'
    psf, background, read_noise, _ = stream.draw_fields(
        20000, population=name, generator=generator
    )
    variance = background + read_noise**2
    least, most = config.n_exposures
    deep = most > 1
    correlated = deep and config.noise_order != 'after_alignment'
    wide = broaden_shape(psf, mean_interpolation(config.dither[1])[0]) if deep else psf
    density = stream.draw_densities(5000, generator=generator)
    low, high = (float(variance.quantile(q)) for q in (0.002, 0.998))
    return Domain(
        psf_area=_ends(_area(psf), _area(wide)),
        density=(float(density.quantile(0.002)), float(density.quantile(0.998))),
        noise=(0.95 * math.sqrt(low * least), 1.6 * math.sqrt(high * most)),
        correlation=0.51 if correlated else 0.02,
        floor_snr=None if name == 'npe' else config.floor_snr,
        fwhm=_ends(fwhm_of_shape(psf), fwhm_of_shape(wide)),
        n_exposures=(least, most),
    )


def mean_interpolation(dither):
    """
    What bilinear alignment does on average, for dithers up to a distance.

    Parameters
    ----------
    dither : float
        The largest dither in pixels.

    Returns
    -------
    kernel_variance : float
        By how much the PSF broadens along an axis, in square pixels.

    kept : float
        Share of the noise's standard deviation that is left in a pixel of a
        deep coadd; the noise of neighbours correlates by
        ``kernel_variance / kept``.
    """
    kernel = dither / 2 - dither**2 / 3
    return kernel, 1 - 2 * kernel


def _area(shape):
    return torch.exp(describe_shape(shape)[:, 1] + LOG_AREA)


def _ends(narrow, broad):
    # Nearly all of what is drawn, and a little more.
    return 0.97 * float(narrow.quantile(0.002)), 1.03 * float(broad.quantile(0.998))


@dataclasses.dataclass(frozen=True, eq=False)
class DomainFinding:
    """
    One way in which an image is unlike those that an encoder was trained on.

    Attributes
    ----------
    name : str
        ``'psf_area'``, ``'density'``, ``'noise'``, ``'correlation'``,
        ``'floor_snr'``, ``'pixel_scatter'``, ``'pixel_level'`` or
        ``'pixel_holes'``.

    title, value, allowed : str
        What it is, how much of it the image has, and what was trained on.

    flag : `~bliss_astro.catalog.CatalogFlag` or None
        What rows are flagged with.

    outside : bool array
        Where it applies, by tile (or one).
    """

    name: str
    title: str
    value: str
    allowed: str
    flag: CatalogFlag | None
    outside: np.ndarray

    def message(self, encoder):
        """
        Say it in a sentence.

        Parameters
        ----------
        encoder : str
            Name of the encoder.

        Returns
        -------
        text : str
            Without a full stop.
        """
        trained = f'the encoder {encoder!r} was trained on ({self.allowed})'
        if self.name == 'floor_snr':
            return f'{self.title} of {self.value}, outside what {trained}'
        text = f'the {self.title} ({self.value}) is outside what {trained}'
        if self.name == 'correlation':
            return text
        return f'{text}; rows concerned are flagged {self.flag.name.lower()}'


def domain_findings(domain, facts):
    """
    Find what of an image lies outside an encoder's domain.

    Parameters
    ----------
    domain : `Domain`
        What the encoder was trained on.

    facts : dict
        As for `check_domain`.

    Returns
    -------
    findings : list of `DomainFinding`
        Empty if the encoder covers the image.
    """
    findings = []
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
        (
            'floor_snr',
            domain.floor_snr if facts.get('floor_snr') is not None else None,
            None,
            'flux_min stands for a signal-to-noise ratio',
            lambda v: f'{v:.3g}',
        ),
    )
    for name, pair, flag, title, show in checks:
        if pair is None:
            continue
        low, high = pair
        value = np.atleast_2d(facts[name])
        outside = (value < low / _SLACK) | (value > high * _SLACK)
        if outside.any():
            worst = show(value[outside].flat[0])
            allowed = f'{show(low)} to {show(high)}'
            findings.append(DomainFinding(name, title, worst, allowed, flag, outside))
    findings += _pixel_findings(facts)
    correlation = facts['correlation']
    beyond = max(correlation) > domain.correlation
    if beyond or min(correlation) < _LEAST_CORRELATION:
        finding = DomainFinding(
            'correlation',
            'noise correlation',
            ', '.join(map('{:.2f}'.format, correlation)),
            f'up to {domain.correlation}',
            CatalogFlag.NOISE_OUT_OF_DOMAIN,
            np.ones((1, 1), dtype=bool),
        )
        findings.append(finding)
    return findings


_PIXEL_TITLES = {
    'pixel_scatter': 'scatter of the pixels over the stated noise',
    'pixel_level': 'median of the pixels, in units of the noise',
    'pixel_holes': 'share of pixels 7 sigma below the background',
}


def _pixel_findings(facts):
    """Where pixels are not distributed as background and noise say."""
    findings = []
    for name, (low, high) in PIXEL_LIMITS.items():
        value = np.atleast_2d(facts.get(name, np.nan))
        with np.errstate(invalid='ignore'):
            outside = (value < low) | (value > high)
        if not outside.any():
            continue
        finding = DomainFinding(
            name,
            _PIXEL_TITLES[name],
            f'{value[outside].flat[0]:.2g}',
            f'{low:g} to {high:g}',
            CatalogFlag.NOISE_OUT_OF_DOMAIN,
            outside,
        )
        findings.append(finding)
    return findings


def check_domain(encoder, facts):
    """
    What of an image lies outside of an encoder's domain.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Its card states the domain.

    facts : dict
        ``psf_area``, ``noise``, ``density`` (arrays by tile or scalars),
        ``correlation`` (pair of float) and ``floor_snr`` (array, or `None`
        for the usual one); what
        `~bliss_astro.detection._pixel_statistics.pixel_statistics` finds may
        be left out.

    Returns
    -------
    flags : int array
        Flags by tile (or one).

    messages : list of str
        What is to be warned of.
    """
    flags, messages = np.zeros((1, 1), dtype=np.int64), []
    domain = Domain.of(encoder)
    if domain is None:
        return flags, messages
    for finding in domain_findings(domain, facts):
        messages.append(finding.message(encoder.name))
        if finding.flag is not None:
            flags = flags | np.where(finding.outside, int(finding.flag), 0)
    return flags, messages


def _width(area):
    # FWHM of the Gaussian of that effective area, 4 pi sigma^2.
    return f'FWHM about {2.355 * math.sqrt(area / (4 * math.pi)):.2g} px'
