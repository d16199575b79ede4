# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimates of sky, noise and gain of an image that does not state them.
"""

import astropy.units as u
import numpy as np

from bliss_astro._arguments import first_wrong
from bliss_astro._warnings import warn

from ._exposure import Exposure
from ._masks import (
    check_saturation,
    find_dark,
    has_steps,
    mask_exact_areas,
    warn_of_dark,
    warn_of_rounding,
    warn_of_steps,
)
from ._nddata import sky_noise
from ._noise import NO_NOISE, noise_of_residual
from ._sky import estimate_background_error, measure_sky, step_of_values
from ._validate import check_map, must, strip_unit

# Noise of the sky in electrons where the gain is not known: that of one SDSS
# r exposure.
_ASSUMED_NOISE = 29.0
# Level over noise from which on the sky was not subtracted.
_SKY_LEFT_SIGMA = 10.0
# Noise over the rounding error of the numbers below which there is none.
_ROUNDING_ERRORS = 4.0
# Ratio of the sky's photon noise by a header's gain to the variance that is seen, and
# noise of the sky in electrons below that of detectors that do not count photons,
# beyond which that gain is refused.
_MAX_PHOTON_RATIO, _MIN_ELECTRONS = 50.0, 0.5
# Sigma of bright pixels, of which there must be some, and what makes a noise map a
# total error there: its ratio to the usual noise, and rank correlation with the light.
_BRIGHT_SIGMA, _MIN_BRIGHT, _RAISED_RATIO, _RANK_CORRELATION = 10.0, 30, 1.1, 0.8
# A weight map is an inverse variance if the noise it states is right to this factor.
_WEIGHT_FACTOR = 1.25


def estimate_missing(data, given, estimated, *, error=None, cards=None, weight=None):
    """
    Make an exposure of an image, without a PSF, and estimate what is not given.

    That are ``background``, ``bkg_error``, ``effective_gain`` and
    ``noise_correlation``, of which the sources are added to ``estimated``. ``error`` is
    the total error of each pixel, ``weight`` an inverse variance of the sky up to a
    factor; `HeaderCards` are used where nothing else is given.
    """
    # The checks of Exposure come first, with stand-ins for what is missing.
    unit = getattr(data, 'unit', None)
    given = {name: value for name, value in given.items() if value is not None}
    if cards is not None:
        cards.complete(given, unit, estimated)
    stand_ins = {'bkg_error': 1.0 * (unit or 1), 'effective_gain': 1.0}
    exposure = Exposure(data, **(stand_ins | given))
    if 'saturation' in given:
        check_saturation(exposure)
    if error is not None:
        exposure = _mask_without_error(exposure, error)
    exposure = mask_exact_areas(exposure, estimated)
    image = _Image(exposure, given, estimated, error, cards, weight)
    image.estimate_sky_and_noise()
    if 'background' not in given:
        image.mask_dark()
    if 'bkg_error' not in given and _step(image.exposure):
        warn_of_rounding(image.exposure)
    image.estimate_gain()
    if 'noise_correlation' not in given:
        image.estimate_correlation()
    exposure = image.exposure
    if 'background' in given or 'background_error' in given:
        return exposure
    return exposure.replace(background_error=estimate_background_error(exposure))


def _step(exposure):
    """Step of an exposure's whole numbers, 0 for others."""
    return step_of_values(exposure.data[~exposure.mask])


def _noise(exposure, scale=1.0, mask=False):
    """Noise of an exposure in units of a scale, without masked pixels."""
    residual = (exposure.data - exposure.background) / scale
    quantum = _step(exposure) / np.nanmedian(scale)
    return noise_of_residual(residual, exposure.mask | mask, quantum=quantum)


class _Image:
    """An image whose exposure is completed by what is given of it."""

    def __init__(self, exposure, given, estimated, error, cards, weight):
        self.exposure, self._noise = exposure, None
        self._given, self._estimated = given, estimated
        self._error, self._cards, self._weight = error, cards, weight

    def _set(self, how=None, **changes):
        """Change the exposure, and note how a number was estimated."""
        self.exposure = self.exposure.replace(**changes)
        if how is not None:
            self._estimated[next(iter(changes))] = how

    def estimate_sky_and_noise(self):
        """Set background and noise, and keep the noise where it was measured."""
        # An exposure's own numbers have no units, and so have those put in here.
        given, exposure, self._noise = self._given, self.exposure, None
        if 'background' not in given:
            stated = 'noise_correlation' in given
            background, self._noise = measure_sky(
                exposure.data,
                exposure.mask,
                quantum=_step(exposure),
                correlation=exposure.noise_correlation if stated else None,
            )
            self._set('photutils Background2D', background=background)
        exposure, noise = self.exposure, self._noise
        if self._error is None and self._weight is None and 'bkg_error' not in given:
            noise = self._noise = noise or _noise(exposure)
            # One absurd pixel says nothing about how precisely the others are stated.
            level = float(np.median(np.abs(exposure.data[~exposure.mask])))
            if noise.sigma <= _ROUNDING_ERRORS * np.spacing(level):
                raise ValueError(NO_NOISE)
            self._set('scatter of empty sky', bkg_error=noise.sigma)
            return
        self._noise = None
        if self._error is not None:
            self._set(bkg_error=self._without_sources(self._error))
        elif self._weight is not None:
            bkg_error, how = _weight_noise(self._weight, exposure)
            mask = exposure.mask | ~np.isfinite(bkg_error)
            self._set(how, bkg_error=bkg_error, mask=mask)
        elif np.ndim(exposure.bkg_error) and _is_total(exposure):
            warn(
                'bkg_error grows with the light of sources, as a total error does: the '
                'noise of the sky in it is used; give that, or a total error as the '
                'uncertainty of an NDData.'
            )
            self._set(bkg_error=self._without_sources(exposure.bkg_error))
            how = 'bkg_error less the photons of sources'
            self._estimated.setdefault('bkg_error', how)

    def mask_dark(self):
        """Mask areas far below the sky, unless it has steps and they are sky."""
        dark, before, noise = find_dark(self.exposure), self.exposure, self._noise
        if dark is not None:
            self._set(mask=before.mask | dark)
            self.estimate_sky_and_noise()
            # Without overscan the rest is even; of two halves of a detector it is not.
            if not has_steps(self.exposure, _step(self.exposure)):
                warn_of_dark(before, dark, self._estimated)
                return
            self.exposure, self._noise = before, noise
        if has_steps(before, _step(before)):
            warn_of_steps()

    def estimate_gain(self):
        """Check a header's gain by the noise of the sky; estimate one not known."""
        exposure = self.exposure
        if 'effective_gain' in self._given:
            why = self._gain_is_of_header() and _gain_failure(exposure)
            if not why:
                return
            self._refuse_gain(why)
        noise = float(np.median(exposure.bkg_error))
        level = float(np.median(exposure.background))
        gain, how = 1.0, 'data are in electrons'
        if exposure.unit != u.electron:
            gain = level / noise**2
            how = 'background over its variance (photon noise)'
            if level <= _SKY_LEFT_SIGMA * noise:
                gain = _ASSUMED_NOISE / noise
                how = f'assumed: sky noise of {_ASSUMED_NOISE:g} electrons'
        self._set(how, effective_gain=gain)

    def estimate_correlation(self):
        """Set the correlation of neighbours, measured in empty sky."""
        try:
            noise = self._noise or _noise(self.exposure, self.exposure.bkg_error)
            x, y = noise.significant_correlation
        except ValueError:
            # An image without any noise, whose noise was stated.
            x, y = 0.0, 0.0
        how = f'of empty sky, {x:.2f} in x and {y:.2f} in y'
        self._set(how, noise_correlation=(x, y))

    def _without_sources(self, error):
        """Noise of the sky of a total error."""
        exposure, good = self.exposure, ~self.exposure.mask
        if 'effective_gain' in self._given:
            sky, gain = exposure.background, exposure.effective_gain
            try:
                return sky_noise(exposure.data, error, gain, background=sky, good=good)
            except ValueError:
                if not self._gain_is_of_header():
                    raise
                self._refuse_gain('sources have more noise than uncertainty')
        # Without a gain the sources' share of a total error cannot be taken
        # out pixel by pixel; the fainter half of the pixels has next to none.
        signal = exposure.data - exposure.background
        self._estimated['bkg_error'] = 'median of the uncertainty of the fainter half'
        return float(np.median(error[good & (signal <= np.median(signal[good]))]))

    def _gain_is_of_header(self):
        """Whether the gain was taken from a card of another maker."""
        used = {} if self._cards is None else self._cards.used
        return 'effective_gain' in used and 'effective_gain' in self._estimated

    def _refuse_gain(self, why):
        self._cards.ignore('effective_gain', why)
        del self._estimated['effective_gain'], self._given['effective_gain']


def _gain_failure(exposure):
    """Contradiction of a gain and the noise of the sky in words, or None."""
    # A bias may still be in the sky, so only what is far off is refused.
    level, noise, gain = (
        float(np.median(value))
        for value in (exposure.background, exposure.bkg_error, exposure.effective_gain)
    )
    ratio = np.sqrt(max(level, 0.0) / gain) / noise
    if ratio**2 > _MAX_PHOTON_RATIO:
        return f'its sky noise is {ratio:.0f} times what is seen'
    if noise * gain < _MIN_ELECTRONS and not _step(exposure):
        # Of an image whose unit was changed; counted photons are whole numbers.
        return f'with it the noise of the sky is {noise * gain:.2g} electrons'
    return None


def _is_total(exposure):
    """Whether a map of the noise holds the photons of sources too."""
    from scipy.stats import spearmanr

    good = ~exposure.mask
    signal = (exposure.data - exposure.background)[good]
    error = exposure.bkg_error[good]
    noise = np.median(error)
    bright = signal > _BRIGHT_SIGMA * noise
    signal, error = signal[bright], error[bright]
    if len(signal) < _MIN_BRIGHT or np.median(error) < _RAISED_RATIO * noise:
        return False
    # Noise of the sky does not follow the light of sources.
    return spearmanr(signal, error).statistic > _RANK_CORRELATION


def _weight_noise(weight, exposure):
    """Noise of the sky of a weight map (NaN where that is 0), and its source."""
    weight = strip_unit('weight', weight, (exposure.unit or u.one) ** -2)
    weight = np.asarray(check_map('weight', weight, exposure.shape), dtype=float)
    if weight.ndim == 0:
        allowed = 'be a map (bkg_error may be a number)'
        raise ValueError(must('weight', allowed, float(weight)))
    sound = np.isfinite(weight) & (weight > 0)
    if np.any(weight < 0) or not np.any(sound & ~exposure.mask):
        got = first_wrong(weight, ~(weight < 0)) if np.any(weight < 0) else 'none'
        allowed = 'not be negative, and positive in some good pixels'
        raise ValueError(must('weight', allowed, got))
    with np.errstate(divide='ignore', invalid='ignore'):
        noise = np.where(sound, 1 / np.sqrt(weight), np.nan)
    factor = _noise(exposure, noise, ~sound).sigma
    if 1 / _WEIGHT_FACTOR < factor < _WEIGHT_FACTOR:
        return noise, 'given: weight, an inverse variance'
    return noise * factor, f'weight, its scale {factor:.3g} from empty sky'


def _mask_without_error(exposure, error):
    """Mask pixels without a finite error; refuse errors that are not positive."""
    bad = exposure.mask | ~np.isfinite(error)
    if np.any(~bad & ~(error > 0)):
        got = first_wrong(error, bad | (error > 0))
        raise ValueError(must('the uncertainty of data', 'be positive', got))
    return exposure.replace(mask=bad)
