# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Settings of the training of an encoder, from the facts of images.
"""

import dataclasses
import math

import numpy as np

from bliss_astro.detection._domain import domain_findings
from bliss_astro.encoders import EncoderConfig
from bliss_astro.encoders._domain import mean_interpolation
from bliss_astro.simulation import SimulationConfig

from ._configuration import TrainingConfig
from ._domain import domain_of_simulation
from ._image_facts import dither_of, usual_widths

__all__ = ['RecipeSettings', 'choose_settings', 'show_range', 'span']

# Factors by which ranges are wider than those of the images, so that the next image
# of the camera lies within; of the correlation, the amount.
_MARGINS = {
    'fwhm': 1.15,
    'background': 2.0,
    'density_low': 10.0,
    'density_high': 3.0,
    'n_exposures': 1.4,
    'correlation': 0.06,
}
# Lowest ends of the densities in sources per pixel.
_LEAST_DENSITIES = (1e-6, 3e-5)
# Depth in exposures taken for a coadd that does not state it.
_USUAL_DEPTH = 8
# Depth up to which random dithers alone spread the correlation from 0 to 0.5.
_RANDOM_DEPTH = 4
# Largest correlation of neighbouring pixels that dithers give deep coadds, and any.
_MAX_CORRELATION_DEEP, _MAX_CORRELATION = 0.3, 0.5
# Range of the noise's sum over all lags, relative to that of dithers, which counts as
# the same.
_USUAL_EXCESS = (0.85, 1.15)
# Share of tiles with more sources than the encoder can describe above which it gets
# more places, and the largest number of places.
_MAX_OVERFULL, _MAX_PLACES = 0.02, 4
# Largest ellipticity that is drawn, and the one that SDSS's scatter reaches.
_MAX_ELLIPTICITY, _SDSS_ELLIPTICITY = 0.12, 0.06
# Largest FWHM in pixels of PSFs that cut-outs of 13 px hold.
_MAX_FWHM = 8.0
# Largest background in electrons of the bundled encoders, and the range of saturation
# over the sky above it: the full wells of SDSS lie far above its sky.
_SDSS_BACKGROUND, _SATURATION = 2200.0, (14, 140)
# Share of the steps, and of the learning rate, of a training that starts from trained
# weights.
_FINE_TUNING_STEPS, _FINE_TUNING_RATE = 0.25, 0.3


@dataclasses.dataclass(frozen=True)
class RecipeSettings:
    """
    Configurations of a training run, with the origin of their numbers.

    Attributes
    ----------
    encoder, simulation, training : configurations
        Those of `~bliss_astro.training.load_config`.

    reasons : dict of str to str
        Origin of the setting of that name.

    limits : tuple of str
        Properties of the images that the simulations lack.
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
    parts : list of `~bliss_astro.training.ImageFacts`
        Facts of the images.

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
    plan = _Plan(parts)
    plan.choose_depth()
    plan.choose_sky()
    plan.choose_psf()
    plan.choose_density()
    plan.check_correlation()
    encoder = plan.sizes(start)
    training = plan.training(start, encoder, n_steps)
    simulation = SimulationConfig(**plan.values)
    plan.check_domain(domain_of_simulation(simulation))
    return RecipeSettings(
        encoder, simulation, training, plan.reasons, tuple(plan.limits)
    )


def span(parts, name):
    """Return the range of a pair over images."""
    low, high = zip(*(getattr(part, name) for part in parts), strict=True)
    return min(low), max(high)


def show_range(low, high, *, digits=3):
    """Return a range as text."""
    low, high = f'{low:.{digits}g}', f'{high:.{digits}g}'
    return low if low == high else f'{low} to {high}'


def _outwards(low, high, digits=3):
    """The range rounded outwards."""
    return _rounded(low, math.floor, digits), _rounded(high, math.ceil, digits)


def _rounded(value, towards, digits):
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f'{towards(value / unit) * unit:.{digits}g}')


def _overfull(density, n_most, tile_size):
    """Share of tiles with more than ``n_most`` sources."""
    mean = density * tile_size**2
    terms = (mean**k / math.factorial(k) for k in range(n_most + 1))
    return 1 - math.exp(-mean) * sum(terms)


class _Plan:
    """Settings of the simulations in the making, with their reasons and limits."""

    def __init__(self, parts):
        self.parts = parts
        self.coadds = [part for part in parts if part.resampled]
        self.values, self.reasons, self.limits = {}, {}, []

    def set(self, name, value, reason):
        self.values[name], self.reasons[name] = value, reason

    # -- depth, dithers and sky ------------------------------------------------

    def choose_depth(self):
        """Choose numbers of exposures and dithers."""
        if not self.coadds:
            reason = (
                'no correlation of the noise: like single exposures, of however many '
                'exposures they are made'
            )
            self.set('n_exposures', (1, 1), reason)
            return
        usual = (_USUAL_DEPTH, _USUAL_DEPTH)
        known = [part.n_exposures or usual for part in self.coadds]
        low, high = min(pair[0] for pair in known), max(pair[1] for pair in known)
        margin = _MARGINS['n_exposures']
        n_single = len(self.parts) - len(self.coadds)
        least = max(1 if low == 1 else 2, math.floor(low / margin))
        least = 1 if n_single else least
        reason = f'{show_range(low, high)} exposures'
        if any(part.n_exposures is None for part in self.coadds):
            reason += f' ({_USUAL_DEPTH} assumed where nothing states it)'
        reason += f', widened by {margin:g} both ways'
        self.set('n_exposures', (least, max(math.ceil(high * margin), 2)), reason)
        if least == 1:
            share = max(n_single / len(self.parts), 0.1)
            self.set(
                'single_fraction',
                round(min(share, 0.9), 2),
                'share of the images that are single exposures',
            )
        self._choose_dither(low)

    def _choose_dither(self, least_depth):
        means = [float(np.mean(part.correlation)) for part in self.coadds]
        margin = _MARGINS['correlation']
        low, high = max(min(means) - margin, 0.0), max(means) + margin
        # Few exposures at random dithers have all correlations anyway, and the usual
        # dithers have correlations of 0.25.
        usual = 0.25 - margin < min(means) and max(means) < 0.25 + margin
        if least_depth <= _RANDOM_DEPTH or usual:
            return
        low, high = dither_of(low), dither_of(min(high, _MAX_CORRELATION_DEEP))
        self.set(
            'dither',
            (math.floor(100 * low) / 100, math.ceil(100 * high) / 100),
            'noise of neighbouring pixels correlates by '
            f'{show_range(min(means), max(means))}, widened by {margin:g}',
        )

    def choose_sky(self):
        """Choose the background of an exposure whose photons make the noise."""
        pairs = [
            tuple(v / _USUAL_DEPTH for v in part.one_exposure_variance)
            if part.resampled and part.n_exposures is None
            else part.one_exposure_variance
            for part in self.parts
        ]
        low, high = min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
        margin = _MARGINS['background']
        pair = _outwards(low / margin, high * margin)
        reason = (
            f'noise of the sky squared, {show_range(low, high)} electrons2 an '
            f'exposure, widened by {margin:g} both ways; read noise is in it'
        )
        self.set('background', pair, reason)
        self.values['read_noise'] = (0.0, 0.0)
        if pair[1] > _SDSS_BACKGROUND:
            saturation = (_rounded(k * pair[1], math.ceil, 2) for k in _SATURATION)
            reason = 'as far above the sky as for the bundled encoder'
            self.set('saturation', tuple(saturation), reason)

    # -- PSF -------------------------------------------------------------------

    def choose_psf(self):
        """Choose widths and ellipticities of the PSFs of exposures."""
        margin = _MARGINS['fwhm']
        low, high = self._one_exposure([part.fwhm for part in self.parts])
        reason = f'{show_range(low, high)} px, widened by {margin:g} both ways'
        if self.coadds:
            reason += '; of one exposure, before interpolation broadens it'
        if not all(part.usual_wings for part in self.parts):
            # The effective area sets the noise of a star's flux, and PSFs with wings
            # unlike SDSS's have another one at the same FWHM.
            usual = usual_widths()[1]
            areas = [part.psf_area for part in self.parts]
            own = self._one_exposure(
                [tuple(math.sqrt(area) / usual for area in pair) for pair in areas]
            )
            reason += (
                f'; and {show_range(*own)} px, the FWHM at which PSFs of SDSS have the '
                'effective area of these '
                f'({show_range(*span(self.parts, "psf_area"))} px2)'
            )
            self.limits.append(
                'the PSFs that are simulated have the wings of SDSS; those of these '
                'images differ, and agree in effective area at most'
            )
            low, high = min(low, own[0]), max(high, own[1])
        pair = _outwards(low / margin, high * margin)
        self.set('fwhm', pair, reason)
        if pair[1] > _MAX_FWHM:
            side = 16 * math.ceil(8 * pair[1] / 16)
            self.set('shape', (side, side), 'eight times the widest PSF')
            self.values['margin'] = -math.ceil(1.1 * pair[1])
        if high > _MAX_FWHM:
            self.limits.append(
                f'a PSF of {high:.1f} px FWHM is far wider than the tiles of 4 px: '
                f'binning the images {round(high / 4)} x {round(high / 4)} loses next '
                'to nothing and serves the encoder better'
            )
        self._choose_ellipticity()

    def _one_exposure(self, pairs):
        """Range of FWHM in the exposures, which no interpolation has broadened."""
        dither = float(np.mean(self.values.get('dither', (0.5, 0.5))))
        # 8 ln 2 turns a variance into the square of a FWHM.
        kernel = 8 * math.log(2) * mean_interpolation(dither)[0]
        ends = [
            math.sqrt(max(fwhm**2 - kernel, 0.25 * fwhm**2)) if part.resampled else fwhm
            for part, pair in zip(self.parts, pairs, strict=True)
            for fwhm in pair
        ]
        return min(ends), max(ends)

    def _choose_ellipticity(self):
        largest = max(part.ellipticity for part in self.parts)
        if largest <= _SDSS_ELLIPTICITY:
            return
        if largest > _MAX_ELLIPTICITY:
            self.limits.append(
                f'PSFs as elliptical as e = {largest:.2f} are not simulated (up to '
                f'{_MAX_ELLIPTICITY:g})'
            )
        value = round(min(largest, _MAX_ELLIPTICITY), 3)
        self.set('ellipticity', value, f'PSFs have up to e = {largest:.2f}')
        tilt = max(float(np.abs(part.psf_shapes[:, 7]).max()) for part in self.parts)
        if tilt > 0.5 * _SDSS_ELLIPTICITY:
            reason = f'they lie oblique to the pixels (e2 {tilt:.2f})'
            self.set('inclined_fraction', 0.5, reason)

    # -- sources and sizes -----------------------------------------------------

    def choose_density(self):
        """Choose the densities of sources."""
        low, high = span(self.parts, 'density')
        down, up = _MARGINS['density_low'], _MARGINS['density_high']
        least, most = _LEAST_DENSITIES
        self.set(
            'density',
            _outwards(max(low / down, least), max(high * up, most), 2),
            f'{show_range(low, high)} sources per pixel, from a tenth of that to '
            f'{up:g} times it',
        )

    def sizes(self, start):
        """Return the sizes of an encoder, with more places a tile where crowded."""
        densest, sizes = self.values['density'][1], start.config
        n_most = sizes.n_most

        def share():
            return _overfull(densest, n_most, sizes.tile_size)

        while n_most < _MAX_PLACES and share() > _MAX_OVERFULL:
            n_most += 1
        if share() > _MAX_OVERFULL:
            self.limits.append(
                f'at {densest:.2g} sources per pixel, {100 * share():.0f} % of the '
                f'tiles hold more than {n_most} sources, and the rest is not detected'
            )
        reason = f'sizes of {start.name!r}'
        if n_most != sizes.n_most:
            reason += f', but {n_most} sources a tile for the crowding'
        self.reasons['encoder'] = reason
        return dataclasses.replace(sizes, n_most=n_most)

    def training(self, start, sizes, n_steps):
        """Return the settings of the training itself."""
        default = TrainingConfig()
        own = start.card.get('training', {})
        values = {'batch_size': int(own.get('batch_size', default.batch_size))}
        steps = _images_seen(own) // values['batch_size'] or default.n_steps
        reason = f'as for {start.name!r}; more sharpen the posterior'
        if sizes == start.config:
            values['start_from'] = start.name
            values['learning_rate'] = _FINE_TUNING_RATE * default.learning_rate
            steps = max(1, round(_FINE_TUNING_STEPS * steps))
            self.reasons['start_from'] = 'the sizes agree, so its weights are a start'
            reason = (
                f'a quarter of those of {start.name!r}, from whose weights it starts '
                '(a rule of thumb); more sharpen the posterior'
            )
        if n_steps is not None:
            steps, reason = n_steps, 'as given'
        self.reasons['n_steps'] = reason
        values['validate_every'] = max(1, min(default.validate_every, steps // 4))
        return TrainingConfig(**values, n_steps=steps, seed=1)

    # -- limits ----------------------------------------------------------------

    def check_correlation(self):
        """Note correlations of the noise that are not simulated."""
        noise = 'the noise of neighbouring pixels correlates by'
        for part in self.parts:
            largest, least = max(part.correlation), min(part.correlation)
            depth = part.n_exposures
            deep = depth is not None and depth[0] > _RANDOM_DEPTH
            most = _MAX_CORRELATION_DEEP if deep else _MAX_CORRELATION
            if largest > most + _MARGINS['correlation']:
                self.limits.append(
                    f'{part.name}: {noise} {largest:.2f}; dithers and bilinear '
                    f'alignment give {most:g} at most, and more is not simulated'
                )
            if least < -0.05:
                self.limits.append(
                    f'{part.name}: {noise} {least:.2f}; negative correlations are not '
                    'simulated'
                )
            usual = float(np.prod(1 + 2 * np.array(part.correlation)))
            low, high = _USUAL_EXCESS
            if not low < part.excess / usual < high:
                self.limits.append(
                    f'{part.name}: the correlation beyond that of dithers (to pixels '
                    'further away than the next) is not simulated'
                )

    def check_domain(self, domain):
        """Note properties of the images that the settings do not reach after all."""
        self.limits += [
            f'{part.name}: the {finding.title} ({finding.value}); reached are '
            f'{finding.allowed}'
            for part in self.parts
            for finding in domain_findings(domain, part.for_domain())
            if finding.name != 'correlation'  # see `check_correlation`
        ]


def _images_seen(training):
    """Images that an encoder was trained on, with those of its initial weights."""
    seen = 0
    while training:
        seen += int(training.get('images_seen', 0))
        training = training.get('started_from')
    return seen
