# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Settings of the training of an encoder, from the facts of images.
"""

import dataclasses
import math

import numpy as np
from scipy.special import pdtrc

from bliss_astro.detection._domain import domain_findings
from bliss_astro.encoders._config import mean_interpolation
from bliss_astro.priors._fields import ELLIPTICITY_MAX
from bliss_astro.simulation import SimulationConfig

from ._configuration import TrainingConfig
from ._domain import domain_of_simulation
from ._facts import dither_of, span, usual_widths

# Factors by which ranges are wider than those of the images, so that the next image
# of the camera lies within; of the correlation, the amount.
_WIDER_FWHM, _WIDER_BACKGROUND, _WIDER_DEPTH, _WIDER_CORRELATION = 1.15, 2.0, 1.4, 0.06
_WIDER_DENSITY = (10.0, 3.0)
# Lowest ends of the densities in sources per pixel.
_LEAST_DENSITIES = (1e-6, 3e-5)
# Depth in exposures taken for a coadd that does not state it.
_USUAL_DEPTH = 8
# Depth up to which random dithers alone spread the correlation from 0 to 0.5; and the
# correlation that dithers up to half a pixel give deep coadds.
_RANDOM_DEPTH, _USUAL_CORRELATION = 4, 0.25
# Largest correlation of neighbouring pixels that dithers give deep coadds, and any;
# and the lowest that is white noise, with its error of measurement.
_MAX_CORRELATION_DEEP, _MAX_CORRELATION, _MIN_CORRELATION = 0.3, 0.5, -0.05
# Range of the noise's sum over all lags, relative to that of dithers, which counts as
# the same.
_USUAL_EXCESS = (0.85, 1.15)
# Share of tiles with more sources than the encoder can describe above which it gets
# more places, and the largest number of places.
_MAX_OVERFULL, _MAX_PLACES = 0.02, 4
# Ellipticity that SDSS's scatter reaches.
_SDSS_ELLIPTICITY = 0.06
# Largest FWHM in pixels of PSFs that cut-outs of 13 px hold.
_MAX_FWHM = 8.0
# Largest background in electrons of the bundled encoders, and the range of saturation
# over the sky above it: the full wells of SDSS lie far above its sky.
_SDSS_BACKGROUND, _SATURATION = 2200.0, (14, 140)
# Share of the steps, and of the learning rate, of a training that starts from trained
# weights.
_FINE_TUNING_STEPS, _FINE_TUNING_RATE = 0.25, 0.3


def choose_settings(parts, start, *, n_steps=None):
    """
    Choose the settings of an encoder for images with given facts.

    Sizes, and weights if they fit, are those of a bundled encoder ``start``. Returns
    the three configurations, the reasons of settings by their names, and limits:
    properties of the images that the simulations lack.
    """
    chosen, limits = {}, []
    for choose in (_exposures, _sky, _psf, _ellipticity, _density, _bands):
        chosen |= choose(parts, chosen, limits)
    values = {name: value for name, (value, _) in chosen.items()}
    reasons = {name: reason for name, (_, reason) in chosen.items()}
    limits += [text for part in parts for text in _noise_limits(part)]
    sizes, reasons['encoder'] = _sizes(start, values['density'][1], limits)
    sizes = dataclasses.replace(sizes, bands='bands' in values)
    training = _training(start, sizes, n_steps, reasons)
    simulation = SimulationConfig(**values)
    domain = domain_of_simulation(simulation)
    limits += [
        f'{part.name}: the {finding.title} ({finding.value}); reached are '
        f'{finding.allowed}'
        for part in parts
        for finding in domain_findings(domain, part.for_domain())
        if finding.name != 'correlation'  # see `_noise_limits`
    ]
    return (sizes, simulation, training), reasons, tuple(limits)


def show_range(low, high):
    """Return a range as text of three digits."""
    low, high = f'{low:.3g}', f'{high:.3g}'
    return low if low == high else f'{low} to {high}'


def _outwards(low, high, digits=3):
    """The range rounded outwards."""
    return _rounded(low, math.floor, digits), _rounded(high, math.ceil, digits)


def _rounded(value, towards, digits):
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f'{towards(value / unit) * unit:.{digits}g}')


# -- simulation ------------------------------------------------------------------
# Each function returns settings with their reasons, given those chosen before.


def _exposures(parts, chosen, limits):
    """Depths and dithers."""
    coadds = [part for part in parts if part.resampled]
    if not coadds:
        reason = (
            'no correlation of the noise: like single exposures, of however many '
            'exposures they are made'
        )
        return {'n_exposures': ((1, 1), reason)}
    known = [part.n_exposures or (_USUAL_DEPTH, _USUAL_DEPTH) for part in coadds]
    low, high = min(pair[0] for pair in known), max(pair[1] for pair in known)
    singles = 1 - len(coadds) / len(parts)
    least = 1 if singles or low == 1 else max(2, math.floor(low / _WIDER_DEPTH))
    reason = f'{show_range(low, high)} exposures'
    if any(part.n_exposures is None for part in coadds):
        reason += f' ({_USUAL_DEPTH} assumed where nothing states it)'
    reason += f', widened by {_WIDER_DEPTH:g} both ways'
    most = max(math.ceil(high * _WIDER_DEPTH), 2)
    settings = {'n_exposures': ((least, most), reason)}
    if least == 1:
        share = round(min(max(singles, 0.1), 0.9), 2)
        reason = 'share of the images that are single exposures'
        settings['single_fraction'] = share, reason
    means = [float(np.mean(part.correlation)) for part in coadds]
    margin, ends = _WIDER_CORRELATION, (min(means), max(means))
    usual = all(abs(value - _USUAL_CORRELATION) < margin for value in ends)
    # Few exposures at random dithers have all correlations anyway.
    if low > _RANDOM_DEPTH and not usual:
        lowest = dither_of(max(ends[0] - margin, 0.0))
        largest = dither_of(min(ends[1] + margin, _MAX_CORRELATION_DEEP))
        pair = math.floor(100 * lowest) / 100, math.ceil(100 * largest) / 100
        reason = f'noise of neighbouring pixels correlates by {show_range(*ends)}'
        settings['dither'] = pair, f'{reason}, widened by {margin:g}'
    return settings


def _sky(parts, chosen, limits):
    """Background of an exposure whose photons make the noise."""
    pairs = np.array([part.one_exposure_variance for part in parts])
    pairs[[p.resampled and p.n_exposures is None for p in parts]] /= _USUAL_DEPTH
    low, high = float(pairs.min()), float(pairs.max())
    pair = _outwards(low / _WIDER_BACKGROUND, high * _WIDER_BACKGROUND)
    reason = (
        f'noise of the sky squared, {show_range(low, high)} electrons2 an '
        f'exposure, widened by {_WIDER_BACKGROUND:g} both ways; read noise is in it'
    )
    settings = {'background': (pair, reason), 'read_noise': ((0.0, 0.0), '')}
    if pair[1] > _SDSS_BACKGROUND:
        wells = tuple(_rounded(k * pair[1], math.ceil, 2) for k in _SATURATION)
        reason = 'as far above the sky as for the bundled encoder'
        settings['saturation'] = wells, reason
    return settings


def _psf(parts, chosen, limits):
    """Widths of the PSFs of exposures, which no interpolation has broadened."""
    dithers, _ = chosen.get('dither', (0.5, ''))
    kernel, _ = mean_interpolation(np.mean(dithers))
    resampled = np.array([[part.resampled] for part in parts])

    def ends(widths):
        # 8 ln 2 turns a variance into the square of a FWHM.
        square = np.square(widths)
        narrower = square - 8 * math.log(2) * kernel * resampled
        narrower = np.sqrt(np.maximum(narrower, 0.25 * square))
        return float(narrower.min()), float(narrower.max())

    low, high = ends([part.fwhm for part in parts])
    reason = f'{show_range(low, high)} px, widened by {_WIDER_FWHM:g} both ways'
    if resampled.any():
        reason += '; of one exposure, before interpolation broadens it'
    if not all(part.usual_wings for part in parts):
        # The effective area sets the noise of a star's flux, and PSFs with wings
        # unlike SDSS's have another one at the same FWHM.
        own = ends([np.sqrt(part.psf_area) / usual_widths()[1] for part in parts])
        reason += (
            f'; and {show_range(*own)} px, the FWHM at which PSFs of SDSS have the '
            f'effective area of these ({show_range(*span(parts, "psf_area"))} px2)'
        )
        limits.append(
            'the PSFs that are simulated have the wings of SDSS; those of these '
            'images differ, and agree in effective area at most'
        )
        low, high = min(low, own[0]), max(high, own[1])
    pair = _outwards(low / _WIDER_FWHM, high * _WIDER_FWHM)
    settings = {'fwhm': (pair, reason)}
    if pair[1] > _MAX_FWHM:
        side = 16 * math.ceil(8 * pair[1] / 16)
        settings['shape'] = (side, side), 'eight times the widest PSF'
        settings['margin'] = -math.ceil(1.1 * pair[1]), ''
    if high > _MAX_FWHM:
        limits.append(
            f'a PSF of {high:.1f} px FWHM is far wider than the tiles of 4 px: '
            f'binning the images {round(high / 4)} x {round(high / 4)} loses next '
            'to nothing and serves the encoder better'
        )
    return settings


def _ellipticity(parts, chosen, limits):
    largest = max(part.ellipticity for part in parts)
    if largest <= _SDSS_ELLIPTICITY:
        return {}
    if largest > ELLIPTICITY_MAX:
        limits.append(
            f'PSFs as elliptical as e = {largest:.2f} are not simulated (up to '
            f'{ELLIPTICITY_MAX:g})'
        )
    value = round(min(largest, ELLIPTICITY_MAX), 3)
    settings = {'ellipticity': (value, f'PSFs have up to e = {largest:.2f}')}
    tilt = max(float(np.abs(part.psf_shapes[:, 7]).max()) for part in parts)
    if tilt > 0.5 * _SDSS_ELLIPTICITY:
        reason = f'they lie oblique to the pixels (e2 {tilt:.2f})'
        settings['inclined_fraction'] = 0.5, reason
    return settings


def _density(parts, chosen, limits):
    low, high = span(parts, 'density')
    (least, most), (down, up) = _LEAST_DENSITIES, _WIDER_DENSITY
    reason = (
        f'{show_range(low, high)} sources per pixel, from a tenth of that to '
        f'{up:g} times it'
    )
    pair = _outwards(max(low / down, least), max(high * up, most), 2)
    return {'density': (pair, reason)}


def _bands(parts, chosen, limits):
    names = tuple(dict.fromkeys(part.band for part in parts if part.band is not None))
    if len(names) < 2:
        return {}
    limits.append(
        'noise and PSFs of the bands of one scene are simulated as those of SDSS go '
        'together; ranges of the reference band are those of all bands of the images'
    )
    reason = 'those of the images; an image of the training has some of them'
    return {'bands': (names, reason)}


def _noise_limits(part):
    """Correlations of the noise of an image that are not simulated."""
    noise = f'{part.name}: the noise of neighbouring pixels correlates by'
    largest, least = max(part.correlation), min(part.correlation)
    deep = part.n_exposures is not None and part.n_exposures[0] > _RANDOM_DEPTH
    most = _MAX_CORRELATION_DEEP if deep else _MAX_CORRELATION
    usual = float(np.prod(1 + 2 * np.array(part.correlation)))
    low, high = _USUAL_EXCESS
    if largest > most + _WIDER_CORRELATION:
        yield (
            f'{noise} {largest:.2f}; dithers and bilinear alignment give {most:g} at '
            'most, and more is not simulated'
        )
    if least < _MIN_CORRELATION:
        yield f'{noise} {least:.2f}; negative correlations are not simulated'
    if not low < part.excess / usual < high:
        yield (
            f'{part.name}: the correlation beyond that of dithers (to pixels further '
            'away than the next) is not simulated'
        )


# -- encoder and training --------------------------------------------------------


def _sizes(start, density, limits):
    """Sizes of the encoder, with more places a tile where crowded, and the reason."""
    sizes, reason = start.config, f'sizes of {start.name!r}'
    mean, n_most = density * sizes.tile_size**2, sizes.n_most
    # Shares of tiles with more sources than places, by Poisson's law.
    while n_most < _MAX_PLACES and pdtrc(n_most, mean) > _MAX_OVERFULL:
        n_most += 1
    if (overfull := pdtrc(n_most, mean)) > _MAX_OVERFULL:
        limits.append(
            f'at {density:.2g} sources per pixel, {100 * overfull:.0f} % of the '
            f'tiles hold more than {n_most} sources, and the rest is not detected'
        )
    if n_most != sizes.n_most:
        reason += f', but {n_most} sources a tile for the crowding'
    return dataclasses.replace(sizes, n_most=n_most), reason


def _training(start, sizes, n_steps, reasons):
    """Settings of the training itself."""
    default, own = TrainingConfig(), start.card.get('training', {})
    values = {'batch_size': int(own.get('batch_size', default.batch_size))}
    seen, earlier = 0, own
    while earlier:
        seen += int(earlier.get('images_seen', 0))
        earlier = earlier.get('started_from')
    steps = seen // values['batch_size'] or default.n_steps
    reason = f'as for {start.name!r}; more sharpen the posterior'
    if dataclasses.replace(sizes, bands=start.config.bands) == start.config:
        values['start_from'] = start.name
        values['learning_rate'] = _FINE_TUNING_RATE * default.learning_rate
        steps = max(1, round(_FINE_TUNING_STEPS * steps))
        reasons['start_from'] = 'the sizes agree, so its weights are a start'
        reason = (
            f'a quarter of those of {start.name!r}, from whose weights it starts '
            '(a rule of thumb); more sharpen the posterior'
        )
    if n_steps is not None:
        steps, reason = n_steps, 'as given'
    reasons['n_steps'] = reason
    values['validate_every'] = max(1, min(default.validate_every, steps // 4))
    return TrainingConfig(**values, n_steps=steps)
