# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimates of what an image does not state: sky, noise and gain.
"""

import astropy.units as u
import numpy as np

from bliss_astro._sample import Sample
from bliss_astro._warnings import warn
from bliss_astro.units import median

from ._areas import has_steps, mask_dark, mask_exact_areas, warn_of_dark
from ._exposure import Exposure
from ._header import gain_failure
from ._nddata import (
    is_total,
    mask_without_error,
    mask_without_weight,
    sky_noise,
    weight_noise,
)
from ._noise import NO_NOISE
from ._sky import estimate_background_error, noise_of, sky_of_image, step_of
from ._validate import check_saturation

# Noise of the sky in electrons where the gain is not known: that of one SDSS
# r exposure.
_ASSUMED_NOISE = 29.0
# Level over noise from which on the sky was not subtracted.
_SKY_LEFT_SIGMA = 10.0
# Noise over the rounding error of the numbers below which there is none.
_ROUNDING_ERRORS = 4.0
# Whole numbers are coarse where the noise is below the first number and the sky so
# many times its variance, which is as large as the sky where photons are counted.
_COARSE_NOISE, _PHOTON_RATIO = 1 / 3, 5.0


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
        exposure = mask_without_error(exposure, error)
    if weight is not None:
        exposure, weight = mask_without_weight(exposure, weight)
    exposure = mask_exact_areas(exposure, estimated)
    image = _Image(exposure, given, estimated, error, cards, weight)
    image.estimate_sky_and_noise()
    if 'background' not in given:
        image.mask_dark()
    if 'bkg_error' not in given and step_of(image.sample):
        image.warn_of_rounding()
    image.estimate_gain()
    if 'noise_correlation' not in given:
        image.estimate_correlation()
    exposure = image.exposure
    if 'background' in given or 'background_error' in given:
        return exposure
    return exposure.replace(background_error=estimate_background_error(image.sample))


class _Image:
    """An image whose exposure is completed by what is given of it."""

    def __init__(self, exposure, given, estimated, error, cards, weight):
        self.exposure, self._noise = exposure, None
        self._given, self._estimated = given, estimated
        self._error, self._cards, self._weight = error, cards, weight

    @property
    def sample(self):
        """The exposure, or the `Sample` of a large one."""
        return Sample(self.exposure.shape, self.exposure.mask).of(self.exposure)

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
            background, self._noise = sky_of_image(
                exposure.data,
                exposure.mask,
                quantum=step_of(self.sample),
                correlation=exposure.noise_correlation if stated else None,
            )
            self._set('mesh as of photutils Background2D', background=background)
        exposure, noise = self.sample, self._noise
        if self._error is None and self._weight is None and 'bkg_error' not in given:
            noise = self._noise = noise or noise_of(exposure)
            # One absurd pixel says nothing about how precisely the others are stated.
            level = float(median(np.abs(exposure.data[~exposure.mask])))
            if noise.sigma <= _ROUNDING_ERRORS * np.spacing(level):
                raise ValueError(NO_NOISE)
            self._set('scatter of empty sky', bkg_error=noise.sigma)
            return
        self._noise = None
        if self._error is not None:
            self._set(bkg_error=self._without_sources(self._error))
        elif self._weight is not None:
            bkg_error, how = weight_noise(self._weight, self.exposure)
            self._set(how, bkg_error=bkg_error)
        elif np.ndim(exposure.bkg_error) and is_total(exposure):
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
        before, noise = self.exposure, self._noise
        self.exposure = mask_dark(before)
        if self.exposure is not before:
            self.estimate_sky_and_noise()
            # Without overscan the rest is even; of two halves of a detector it is not.
            if not has_steps(self.sample):
                warn_of_dark(before, self.exposure, self._estimated)
                return
            self.exposure, self._noise = before, noise
        if has_steps(self.sample):
            warn(
                'the sky of data changes abruptly, and a background on a mesh does not '
                'follow it: fluxes are off there. Give a map, or detect in each half '
                'by itself.'
            )

    def warn_of_rounding(self):
        """Warn of whole numbers that noise hardly changes, but for few photons."""
        level = median(self.sample.background)
        noise = median(self.sample.bkg_error)
        if noise <= _COARSE_NOISE and level >= _PHOTON_RATIO * noise**2:
            warn(
                f'data are whole numbers, in steps of {1 / noise:.2g} times the noise; '
                'faint sources are lost. Give the image before it was rounded.'
            )

    def estimate_gain(self):
        """Check a header's gain by the noise of the sky; estimate one not known."""
        exposure = self.sample
        if 'effective_gain' in self._given:
            why = self._gain_is_of_header() and gain_failure(exposure)
            if not why:
                return
            self._refuse_gain(why)
        noise = float(median(exposure.bkg_error))
        level = float(median(exposure.background))
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
            noise = self._noise or noise_of(self.sample, self.sample.bkg_error)
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
        some = self.sample
        error, good = Sample(good.shape, ~good).pixels(error), ~some.mask
        signal = some.data - some.background
        self._estimated['bkg_error'] = 'median of the uncertainty of the fainter half'
        return float(np.median(error[good & (signal <= np.median(signal[good]))]))

    def _gain_is_of_header(self):
        """Whether the gain was taken from a card of another maker."""
        used = {} if self._cards is None else self._cards.used
        return 'effective_gain' in used and 'effective_gain' in self._estimated

    def _refuse_gain(self, why):
        self._cards.ignore('effective_gain', why)
        del self._estimated['effective_gain'], self._given['effective_gain']
