# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Domain of an encoder: the ranges of images that it was trained on.

Computed once, when a training ends, from the simulations of its configuration, and
kept on the card, where warnings, recipes and documentation read it.
"""

import dataclasses
import functools
import json
import math

import torch

from bliss_astro.psf._mixture import LOG_AREA, broaden_shape, describe_shape
from bliss_astro.psf._width import fwhm_of_shape
from bliss_astro.simulation import SceneStream, SimulationConfig
from bliss_astro.simulation._nuisances import USUAL_BACKGROUND_ERROR, USUAL_PSF_ERROR

from ._inputs import WING_FLOOR

__all__ = ['Domain']

# Coadds of that many exposures all have about the same share of dithers.
_MANY = 4
# Features of PSFs that are those of wings, see `describe_shape`.
_WINGS = slice(2, 6)


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

    psf_features : tuple of two tuples of 8 float, or None
        Lowest and highest features of PSFs (`~bliss_astro.psf.describe_shape`), to
        which those of an image are clipped before the network sees them.

    psf_error, background_error : float
        Largest stated errors, see `~bliss_astro.exposures.Exposure`.
    """

    psf_area: tuple[float, float]
    density: tuple[float, float]
    noise: tuple[float, float]
    correlation: float
    floor_snr: tuple[float, float] | None = None
    fwhm: tuple[float, float] | None = None
    n_exposures: tuple[int, int] | None = None
    flux_min: float | None = None
    psf_features: tuple | None = None
    psf_error: float = 3 * USUAL_PSF_ERROR
    background_error: float = 3 * USUAL_BACKGROUND_ERROR

    @classmethod
    def of(cls, encoder):
        """
        The domain of an encoder, from its card.

        Parameters
        ----------
        encoder : `~bliss_astro.encoders.Encoder`
            Trained.

        Returns
        -------
        domain : `Domain` or None
            What its card states; for cards of old what its simulation says; `None`
            if it has none.
        """
        stated = encoder.card.get('domain')
        if stated is not None:
            return cls(**{k: _tuples(v) for k, v in stated.items()})
        simulation = encoder.card.get('simulation')
        return None if simulation is None else cls.of_simulation(simulation)

    def to_card(self):
        """Return the domain as plain values, for JSON."""
        return json.loads(json.dumps(_rounded(dataclasses.asdict(self))))

    @classmethod
    def of_simulation(cls, simulation):
        """
        The domain of an encoder trained on what a dict or configuration says.

        Parameters
        ----------
        simulation : dict or `SimulationConfig`
            What is simulated.
        """
        if dataclasses.is_dataclass(simulation):
            simulation = dataclasses.asdict(simulation)
        return _domain(json.dumps(simulation, sort_keys=True))


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return float(f'{value:.5g}') if isinstance(value, float) else value


@functools.lru_cache
def _domain(text):
    simulation = json.loads(text)
    if simulation.get('population', 'stars') != 'stars':
        return _scene_domain(simulation)
    names = ('psf', 'fwhm', 'ellipticity', 'dither', 'psf_errors', 'background_errors')
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
        psf_features=_features(shape, wide),
        **_errors(config),
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
        psf_features=_features(psf, wide),
        **_errors(config),
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


def _features(shape, wide):
    """Range of the features of PSFs, of exposures and of coadds."""
    described = describe_shape(torch.cat([shape, wide]))
    low, high = described.quantile(0.001, 0), described.quantile(0.999, 0)
    # Wings fainter than nearly all are not seen; the network would see the numbers.
    floor = torch.tensor(WING_FLOOR)
    low[_WINGS] = described.quantile(0.01, 0)[_WINGS].maximum(floor)
    return tuple(low.tolist()), tuple(high.tolist())


def _errors(config):
    pairs = {
        'psf_error': config.psf_errors,
        'background_error': config.background_errors,
    }
    return {name: pair[1] for name, pair in pairs.items() if pair is not None}
