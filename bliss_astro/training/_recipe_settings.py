# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From what images are like to the settings of an encoder for them.
"""

import dataclasses
import math

import numpy as np

from bliss_astro.detection._domain import domain_findings
from bliss_astro.detection._facts import dither_of, usual_widths
from bliss_astro.encoders import EncoderConfig
from bliss_astro.encoders._domain import mean_interpolation
from bliss_astro.simulation import SimulationConfig

from ._configuration import TrainingConfig
from ._domain import domain_of_simulation

__all__ = ['RecipeSettings']

# By how much the ranges are wider than what was measured.
MARGINS = {
    'fwhm': 1.15,
    'background': 2.0,
    'density_low': 10.0,
    'density_high': 3.0,
    'n_exposures': 1.4,
    'correlation': 0.06,
    'ellipticity': 1.0,
}
# The depth taken for a coadd that does not say it.
_USUAL_DEPTH = 8
# Depths up to which dithers alone spread the correlation from 0 to 0.5.
_FEW = 4
# Most correlation that deep coadds get from dithers, and any coadd.
_MOST_DEEP, _MOST_ANY = 0.3, 0.5
# A density is too high for a tile if more than this share of tiles holds
# more sources than the encoder can say.
_TOO_FULL = 0.02
_MOST_SOURCES = 4
# Largest ellipticity that is drawn, and the one that SDSS's scatter reaches.
_MOST_ELLIPTIC, _USUAL_ELLIPTIC = 0.12, 0.06
# PSFs that the cut-outs of 13 px hold, in pixels of FWHM.
_WIDEST = 8.0
# Fine-tuning takes this share of the steps, at this share of the rate.
_TUNING_STEPS, _TUNING_RATE = 0.25, 0.3


@dataclasses.dataclass(frozen=True)
class RecipeSettings:
    """
    The three configurations of a training run, and where numbers came from.

    Attributes
    ----------
    encoder, simulation, training : configurations
        As of `~bliss_astro.encoders.load_config`.

    reasons : dict of str to str
        Where the setting of that name comes from.

    limits : tuple of str
        What of the images the simulations do not have.
    """

    encoder: EncoderConfig
    simulation: SimulationConfig
    training: TrainingConfig
    reasons: dict
    limits: tuple[str, ...]


def choose_settings(parts, start, *, n_steps=None):
    """
    Choose the settings of an encoder for some images.

    Parameters
    ----------
    parts : list of `~bliss_astro.detection.ImageFacts`
        The images.

    start : `~bliss_astro.encoders.Encoder`
        The bundled encoder whose sizes are taken, and with whose weights the
        training starts if they fit.

    n_steps : int, optional
        Steps of the training.

    Returns
    -------
    settings : `RecipeSettings`
        The settings.
    """
    reasons, limits = {}, []
    values = _depth(parts, reasons)
    values |= _sky(parts, reasons)
    values |= _psf(parts, values, reasons, limits)
    values |= _crowding(parts, reasons)
    _judge_correlation(parts, limits)
    sizes, why = _sizes(start, values, limits)
    reasons['encoder'] = why
    training = _training(start, sizes, n_steps, reasons)
    simulation = SimulationConfig(**values)
    limits += _beyond(parts, simulation)
    return RecipeSettings(sizes, simulation, training, reasons, tuple(limits))


def _beyond(parts, simulation):
    """What the settings do not reach after all, which is to be said."""
    domain = domain_of_simulation(simulation)
    return [
        f'{part.name}: the {finding.title} ({finding.value}); reached are '
        f'{finding.allowed}'
        for part in parts
        for finding in domain_findings(domain, part.for_domain())
        if finding.name != 'correlation'  # which is judged on its own
    ]


def _span(parts, name):
    low, high = zip(*(getattr(part, name) for part in parts), strict=True)
    return min(low), max(high)


def _show(low, high):
    low, high = f'{low:.3g}', f'{high:.3g}'
    return low if low == high else f'{low} to {high}'


def _pair(low, high, digits=3):
    """The pair rounded outwards."""
    return _rounded(low, math.floor, digits), _rounded(high, math.ceil, digits)


def _rounded(value, towards, digits):
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f'{towards(value / unit) * unit:.{digits}g}')


# -- depth ---------------------------------------------------------------------


def _depth(parts, reasons):
    """Numbers of exposures and dithers."""
    deep = [part for part in parts if part.resampled]
    n_flat = len(parts) - len(deep)
    if not deep:
        reasons['n_exposures'] = (
            'no correlation of the noise: like single exposures, of however many '
            'exposures they are made'
        )
        return {'n_exposures': (1, 1)}
    known = [part.n_exposures or (_USUAL_DEPTH, _USUAL_DEPTH) for part in deep]
    low, high = min(pair[0] for pair in known), max(pair[1] for pair in known)
    margin = MARGINS['n_exposures']
    least = max(1 if low == 1 else 2, math.floor(low / margin))
    most = max(math.ceil(high * margin), 2)
    reasons['n_exposures'] = f'{_show(low, high)} exposures' + (
        f' ({_USUAL_DEPTH} assumed where nothing says it)'
        if any(part.n_exposures is None for part in deep)
        else ''
    )
    reasons['n_exposures'] += f', widened by {margin:g} both ways'
    values = {'n_exposures': (1 if n_flat else least, most)}
    if values['n_exposures'][0] == 1:
        share = max(n_flat / len(parts), 0.1)
        values['single_fraction'] = round(min(share, 0.9), 2)
        reasons['single_fraction'] = 'share of the images that are single exposures'
    values |= _dither(deep, low, reasons)
    return values


def _dither(deep, least, reasons):
    means = [float(np.mean(part.correlation)) for part in deep]
    margin = MARGINS['correlation']
    low, high = max(min(means) - margin, 0.0), max(means) + margin
    usual = 0.25 if min(means) > 0.25 - margin and max(means) < 0.25 + margin else None
    if least <= _FEW or usual is not None:
        # Few exposures at random dithers have all correlations anyway.
        return {}
    pair = (dither_of(low), dither_of(min(high, _MOST_DEEP)))
    pair = (math.floor(100 * pair[0]) / 100, math.ceil(100 * pair[1]) / 100)
    reasons['dither'] = (
        'noise of neighbouring pixels correlates by '
        f'{_show(min(means), max(means))}, widened by {margin:g}'
    )
    return {'dither': pair}


def _judge_correlation(parts, limits):
    for part in parts:
        largest, least = max(part.correlation), min(part.correlation)
        deep = part.n_exposures is not None and part.n_exposures[0] > _FEW
        most = _MOST_DEEP if deep else _MOST_ANY
        if largest > most + MARGINS['correlation']:
            limits.append(
                f'{part.name}: the noise of neighbouring pixels correlates by '
                f'{largest:.2f}; dithers and bilinear alignment give {most:g} at '
                'most, and more is not simulated'
            )
        if least < -0.05:
            limits.append(
                f'{part.name}: the noise of neighbouring pixels correlates by '
                f'{least:.2f}; negative correlations are not simulated'
            )
        usual = float(np.prod(1 + 2 * np.array(part.correlation)))
        if not 0.85 < part.excess / usual < 1.15:
            limits.append(
                f'{part.name}: the correlation beyond what dithers give (to pixels '
                'further away than the next) is not simulated'
            )


# -- sky -----------------------------------------------------------------------


def _sky(parts, reasons):
    """Noise of an exposure, as a background whose photons would make it."""
    low, high = _span(parts, 'one_exposure_variance')
    if any(part.resampled and part.n_exposures is None for part in parts):
        deep = [part for part in parts if part.resampled and part.n_exposures is None]
        flat = [part for part in parts if part not in deep]
        pairs = [part.one_exposure_variance for part in flat]
        pairs += [
            tuple(v / _USUAL_DEPTH for v in part.one_exposure_variance) for part in deep
        ]
        low, high = min(p[0] for p in pairs), max(p[1] for p in pairs)
    margin = MARGINS['background']
    pair = _pair(low / margin, high * margin)
    reasons['background'] = (
        f'noise of the sky squared, {_show(low, high)} electrons2 an exposure, '
        f'widened by {margin:g} both ways; read noise is in it'
    )
    values = {'background': pair, 'read_noise': (0.0, 0.0)}
    # The full wells of SDSS lie far above its sky, and so must these.
    if pair[1] > 2200.0:
        values['saturation'] = (_up(14 * pair[1]), _up(140 * pair[1]))
        reasons['saturation'] = 'as far above the sky as for the bundled encoder'
    return values


def _up(value):
    return _rounded(value, math.ceil, 2)


# -- PSF -----------------------------------------------------------------------


def _psf(parts, values, reasons, limits):
    margin = MARGINS['fwhm']
    low, high = _one_exposure(parts, 'fwhm', values)
    reasons['fwhm'] = f'{_show(low, high)} px, widened by {margin:g} both ways'
    if any(part.resampled for part in parts):
        reasons['fwhm'] += '; of one exposure, before interpolation broadens it'
    low, high = _with_wings(parts, low, high, values, reasons, limits)
    out = {'fwhm': _pair(low / margin, high * margin)}
    wide = out['fwhm'][1]
    if wide > _WIDEST:
        side = 16 * math.ceil(8 * wide / 16)
        out['shape'], out['margin'] = (side, side), -math.ceil(1.1 * wide)
        reasons['shape'] = 'eight times the widest PSF'
    if high > _WIDEST:
        limits.append(
            f'a PSF of {high:.1f} px FWHM is far wider than the tiles of 4 px: '
            f'binning the images {round(high / 4)} x {round(high / 4)} loses next to '
            'nothing and serves the encoder better'
        )
    return out | _ellipticity(parts, reasons, limits)


def _one_exposure(parts, name, values, scale=1.0):
    """Range of widths in the exposures, which no interpolation has broadened."""
    ends = []
    for part in parts:
        widths = [scale * v for v in getattr(part, name)]
        if part.resampled:
            widths = [_unbroadened(v, values) for v in widths]
        ends += widths
    return min(ends), max(ends)


def _with_wings(parts, low, high, values, reasons, limits):
    """
    Widen a range of FWHM to that of SDSS's PSFs with the areas of these.

    It is the effective area that sets the noise of a star's flux, and PSFs with
    wings unlike SDSS's have another one at the same FWHM.
    """
    if all(part.usual_wings for part in parts):
        return low, high
    usual = usual_widths()[1]
    roots = [
        dataclasses.replace(part, psf_area=tuple(math.sqrt(v) for v in part.psf_area))
        for part in parts
    ]
    own = _one_exposure(roots, 'psf_area', values, 1 / usual)
    reasons['fwhm'] += (
        f'; and {_show(*own)} px, the FWHM at which PSFs of SDSS have the effective '
        f'area of these ({_show(*_span(parts, "psf_area"))} px2)'
    )
    limits.append(
        'the PSFs that are simulated have the wings of SDSS; those of these images '
        'differ, and agree in effective area at most'
    )
    return min(low, own[0]), max(high, own[1])


def _unbroadened(fwhm, values):
    kernel, _ = mean_interpolation(float(np.mean(values.get('dither', (0.5, 0.5)))))
    # 8 ln 2 turns a variance into the square of a FWHM.
    return math.sqrt(max(fwhm**2 - 8 * math.log(2) * kernel, 0.25 * fwhm**2))


def _ellipticity(parts, reasons, limits):
    largest = max(part.ellipticity for part in parts)
    if largest <= _USUAL_ELLIPTIC:
        return {}
    if largest > _MOST_ELLIPTIC:
        limits.append(
            f'PSFs as elliptical as e = {largest:.2f} are not simulated (up to '
            f'{_MOST_ELLIPTIC:g})'
        )
    tilt = max(float(np.abs(part.psf_shapes[:, 7]).max()) for part in parts)
    reasons['ellipticity'] = f'PSFs have up to e = {largest:.2f}'
    out = {'ellipticity': round(min(largest, _MOST_ELLIPTIC), 3)}
    if tilt > 0.5 * _USUAL_ELLIPTIC:
        out['inclined_fraction'] = 0.5
        reasons['inclined_fraction'] = f'they lie oblique to the pixels (e2 {tilt:.2f})'
    return out


# -- crowding and sizes ----------------------------------------------------------


def _crowding(parts, reasons):
    low, high = _span(parts, 'density')
    down, up = MARGINS['density_low'], MARGINS['density_high']
    reasons['density'] = (
        f'{_show(low, high)} sources per pixel, from a tenth of that to {up:g} times it'
    )
    return {'density': _pair(max(low / down, 1e-6), max(high * up, 3e-5), 2)}


def _overfull(density, n_most, tile_size):
    """Share of tiles with more than ``n_most`` sources."""
    mean = density * tile_size**2
    terms = (mean**k / math.factorial(k) for k in range(n_most + 1))
    return 1 - math.exp(-mean) * sum(terms)


def _sizes(start, values, limits):
    sizes = dataclasses.replace(start.config)
    densest = values['density'][1]
    n_most = sizes.n_most
    while (
        n_most < _MOST_SOURCES
        and _overfull(densest, n_most, sizes.tile_size) > _TOO_FULL
    ):
        n_most += 1
    share = _overfull(densest, n_most, sizes.tile_size)
    if share > _TOO_FULL:
        limits.append(
            f'at {densest:.2g} sources per pixel, {100 * share:.0f} % of the tiles '
            f'hold more than {n_most} sources, and the rest is not seen'
        )
    if n_most == sizes.n_most:
        return sizes, f'sizes of {start.name!r}'
    why = f'sizes of {start.name!r}, but {n_most} sources a tile for the crowding'
    return dataclasses.replace(sizes, n_most=n_most), why


def _training(start, sizes, n_steps, reasons):
    default = TrainingConfig()
    own = start.card.get('training', {})
    values = {'batch_size': int(own.get('batch_size', default.batch_size))}
    whole = _images_seen(own) // values['batch_size'] or default.n_steps
    known = {field.name for field in dataclasses.fields(TrainingConfig)}
    if 'start_from' in known and sizes == start.config:
        values['start_from'] = start.name
        values['learning_rate'] = _TUNING_RATE * default.learning_rate
        steps = max(1, round(_TUNING_STEPS * whole))
        reasons['start_from'] = 'the sizes agree, so its weights are a start'
        reasons['n_steps'] = (
            f'a quarter of those of {start.name!r}, from whose weights it starts (a '
            'rule of thumb); more sharpen the posterior'
        )
    else:
        steps = whole
        reasons['n_steps'] = f'as for {start.name!r}; more sharpen the posterior'
    if n_steps is not None:
        steps, reasons['n_steps'] = n_steps, 'as asked for'
    values['n_steps'] = steps
    values['validate_every'] = max(1, min(default.validate_every, steps // 4))
    return TrainingConfig(**values, seed=1)


def _images_seen(training):
    """Images that an encoder was trained on, with those of where it started."""
    seen = 0
    while training:
        seen += int(training.get('images_seen', 0))
        training = training.get('started_from')
    return seen
