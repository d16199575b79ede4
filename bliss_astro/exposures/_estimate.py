# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimates of sky, noise and gain of an image that does not state them.
"""

from functools import partial

import astropy.units as u
import numpy as np

from bliss_astro._warnings import warn

from ._exact_areas import mask_exact_areas
from ._exposure import Exposure
from ._given import weight_noise
from ._nddata import sky_noise
from ._sky import measure_background
from ._sky_error import estimate_background_error
from ._sky_noise import NO_NOISE, estimate_sky_noise
from ._unsound import (
    check_saturation,
    find_dark,
    has_steps,
    warn_of_dark,
    warn_of_rounding,
    warn_of_steps,
)

__all__ = ['estimate_missing', 'estimate_noise_correlation']

# What is assumed where an image tells nothing: the noise of one SDSS r
# exposure in electrons.
_USUAL_NOISE = 29.0
# A sky of so many sigma was not subtracted.
_SKY_LEFT = 10.0
# What is left of a constant image when its sky is off, in steps of its numbers.
_ROUNDING = 4.0
# Photon noise of the sky may exceed the variance that is seen so many times.
_MUCH_NOISE = 50.0
# Noise of the sky in electrons below that of detectors that do not count photons.
_LEAST_NOISE = 0.5
# Pixels so many times as bright as the noise, of which there must be some, tell whether
# a noise map is a total error: by how much it is raised there, and how closely it
# follows the light (rank correlation).
_BRIGHT, _FEWEST_BRIGHT, _RAISED, _FOLLOWS = 10.0, 30, 1.1, 0.8


def estimate_missing(data, given, estimated, *, error=None, cards=None, weight=None):
    """
    Make an exposure of an image, and estimate what is not given.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The image.

    given : dict
        Arguments of `~bliss_astro.exposures.Exposure`; what is absent of
        ``background``, ``bkg_error``, ``effective_gain`` and
        ``noise_correlation`` is estimated.

    estimated : dict
        How each was estimated; changed in place.

    error : float `~numpy.ndarray`, shape (ny, nx), optional
        The total error of each pixel, in the unit of ``data``.

    cards : `bliss_astro.exposures._header.HeaderCards`, optional
        What the header says; taken where nothing else is given.

    weight : 2D array_like, optional
        Inverse variance of the sky up to a factor.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything but a PSF.
    """
    # The checks of Exposure come first, with stand-ins for what is missing.
    unit = getattr(data, 'unit', None)
    if cards is not None:
        given = _from_cards(cards, given, unit, estimated)
    stand_ins = {'bkg_error': 1.0 if unit is None else 1.0 * unit}
    stand_ins['effective_gain'] = 1.0
    exposure = Exposure(data, **(stand_ins | given))
    if given.get('saturation') is not None:
        check_saturation(exposure)
    if error is not None:
        exposure = _with_error(exposure, error)
    exposure = mask_exact_areas(exposure, estimated)
    given = {name: value for name, value in given.items() if value is not None}
    own = {'error': error, 'weight': weight, 'cards': cards}
    exposure, found = _sky_and_noise(exposure, given, estimated, **own)
    if 'background' not in given:
        measure = partial(_sky_and_noise, given=given, estimated=estimated, **own)
        exposure, found = _without_dark(exposure, found, estimated, measure)
    if 'bkg_error' not in given and _quantum(exposure):
        warn_of_rounding(exposure)
    if 'effective_gain' in given and _is_from(cards, 'effective_gain', estimated):
        exposure = _check_gain(exposure, given, estimated, cards)
    if 'effective_gain' not in given:
        gain, how = _gain(exposure)
        estimated['effective_gain'] = how
        exposure = exposure.replace(effective_gain=gain)
    if 'noise_correlation' not in given:
        exposure = estimate_noise_correlation(exposure, estimated, found=found)
    if 'background' in given or 'background_error' in given:
        return exposure
    return exposure.replace(background_error=estimate_background_error(exposure))


def estimate_noise_correlation(exposure, estimated, *, found=None):
    """
    Estimate the correlation of the noise of neighbouring pixels.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    estimated : dict
        How it was estimated; changed in place.

    found : tuple, optional
        What `estimate_sky_noise` found in these pixels already.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With ``noise_correlation``.
    """
    if found is None:
        pull = (exposure.data - exposure.background) / exposure.bkg_error
        try:
            quantum = _quantum(exposure) / np.median(exposure.bkg_error)
            found = estimate_sky_noise(pull, exposure.mask, quantum=quantum)
        except ValueError:
            # An image without any noise, whose noise was stated.
            found = 0.0, (0.0, 0.0)
    correlation = found[1]
    estimated['noise_correlation'] = 'of empty sky, {:.2f} in x and {:.2f} in y'.format(
        *correlation
    )
    return exposure.replace(noise_correlation=correlation)


def _sky_and_noise(exposure, given, estimated, *, error, weight, cards):
    """
    Estimate the background, then the noise, if they are not given.

    Returns the exposure and, where its noise was measured, what was found.
    """
    # An exposure's own numbers have no units, and so have those put in here.
    found = None
    if 'background' not in given:
        exposure = exposure.replace(background=_background(exposure))
        estimated['background'] = 'photutils Background2D'
        found = _noise(exposure)
        correlation = (0.0, 0.0) if found is None else found[1]
        if 'noise_correlation' in given:
            correlation = exposure.noise_correlation
        if max(correlation) > 0:
            again = _background(exposure, correlation=correlation)
            exposure, found = exposure.replace(background=again), None
    if error is not None:
        noise = _without_sources(exposure, error, given, estimated, cards)
        exposure, found = exposure.replace(bkg_error=noise), None
    elif weight is not None:
        noise, estimated['bkg_error'] = weight_noise(
            weight, exposure, estimate_sky_noise, quantum=_quantum(exposure)
        )
        exposure = exposure.replace(
            bkg_error=noise, mask=exposure.mask | ~np.isfinite(noise)
        )
        found = None
    elif 'bkg_error' not in given:
        if found is None:
            found = _measured(exposure)
        noise = found[0]
        # One absurd pixel says nothing about how precisely the others are stated.
        level = float(np.median(np.abs(exposure.data[~exposure.mask])))
        if noise <= _ROUNDING * np.spacing(level):
            raise ValueError(NO_NOISE)
        exposure = exposure.replace(bkg_error=noise)
        estimated['bkg_error'] = 'scatter of empty sky'
    else:
        found = None
        stated = np.asarray(exposure.bkg_error)
        if stated.ndim == 2 and _is_total(exposure, stated):
            warn(
                'bkg_error grows with the light of sources, as a total error does: the '
                'noise of the sky in it is used; give that, or a total error as the '
                'uncertainty of an NDData.'
            )
            noise = _without_sources(exposure, stated, given, estimated, cards)
            estimated.setdefault('bkg_error', 'bkg_error less the photons of sources')
            exposure = exposure.replace(bkg_error=noise)
    return exposure, found


def _is_total(exposure, error):
    """
    Tell whether a map of the noise holds the photons of sources too.
    """
    from scipy.stats import spearmanr

    good = ~exposure.mask
    signal = (exposure.data - exposure.background)[good]
    error = error[good]
    noise = np.median(error)
    bright = signal > _BRIGHT * noise
    signal, error = signal[bright], error[bright]
    if len(signal) < _FEWEST_BRIGHT or np.median(error) < _RAISED * noise:
        return False
    # Noise of the sky knows nothing of how bright a source is.
    return spearmanr(signal, error).statistic > _FOLLOWS


def _from_cards(cards, given, unit, estimated):
    """
    Add what the header says to what was given.
    """
    for name, value in cards.known.items():
        if given.get(name) is not None:
            continue
        if unit is not None and name in ('background', 'saturation'):
            value = value * unit
        given = given | {name: value}
        if name in cards.sources:
            estimated[name] = cards.sources[name]
    return given


def _is_from(cards, name, estimated):
    """
    Tell whether a number was taken from a card of another maker.
    """
    return cards is not None and name in cards.used and name in estimated


def _check_gain(exposure, given, estimated, cards):
    """
    Drop a gain of the header that the noise of the sky contradicts.
    """
    # A bias may still be in the sky, so only what is far off is refused.
    level = np.median(np.broadcast_to(exposure.background, exposure.shape))
    variance = np.median(np.square(np.asarray(exposure.bkg_error, dtype=float)))
    gain = float(np.median(exposure.effective_gain))
    noise = gain * np.sqrt(variance)
    if level / gain > _MUCH_NOISE * variance:
        ratio = np.sqrt(level / gain / variance)
        why = f'its sky noise is {ratio:.0f} times what is seen'
    elif noise < _LEAST_NOISE and not _quantum(exposure):
        # Of an image whose unit was changed; counted photons are whole numbers.
        why = f'with it the noise of the sky is {noise:.2g} electrons'
    else:
        return exposure
    cards.ignore('effective_gain', why)
    del estimated['effective_gain'], given['effective_gain']
    return exposure


def _without_sources(exposure, error, given, estimated, cards):
    """
    Return the noise of the sky of a total error.
    """
    if 'effective_gain' in given:
        try:
            return sky_noise(
                exposure.data,
                error,
                exposure.effective_gain,
                background=exposure.background,
                good=~exposure.mask,
            )
        except ValueError:
            if not _is_from(cards, 'effective_gain', estimated):
                raise
            cards.ignore('effective_gain', 'sources have more noise than uncertainty')
            del estimated['effective_gain'], given['effective_gain']
    estimated['bkg_error'] = 'median of the uncertainty of the fainter half'
    return _faint_noise(exposure, error)


def _noise(exposure):
    """
    Return the noise of the sky and its correlation, or None where there is none.
    """
    try:
        return _measured(exposure)
    except ValueError:
        return None


def _measured(exposure):
    """
    Return the noise of the sky and its correlation.
    """
    residual = exposure.data - exposure.background
    return estimate_sky_noise(residual, exposure.mask, quantum=_quantum(exposure))


def _quantum(exposure):
    """
    Return the step of whole numbers, 0 where there are others.
    """
    good = exposure.data[~exposure.mask]
    # Of other numbers a few tell, at once.
    for some in (good[:1000], good):
        if not np.all(some == np.rint(some)):
            return 0.0
    return 1.0


def _background(exposure, *, correlation=(0.0, 0.0)):
    """
    Measure the sky on a mesh.
    """
    box = 64 if min(exposure.shape) >= 128 else 128
    return measure_background(
        exposure.data,
        exposure.mask,
        box_size=box,
        quantum=_quantum(exposure),
        correlation=correlation,
    )


def _without_dark(exposure, found, estimated, measure):
    """
    Mask areas far below the sky, or say that the sky has steps and they are sky.
    """
    dark = find_dark(exposure)
    if dark is not None:
        masked, found_then = measure(exposure.replace(mask=exposure.mask | dark))
        # Without overscan the rest is even; of two halves of a detector it is not.
        if not has_steps(masked, _quantum(masked)):
            warn_of_dark(exposure, dark, estimated)
            return masked, found_then
    if has_steps(exposure, _quantum(exposure)):
        warn_of_steps(exposure)
    return exposure, found


def _faint_noise(exposure, error):
    # Without a gain the sources' share of a total error cannot be taken
    # out pixel by pixel; the fainter half of the pixels has next to none.
    signal = exposure.data - exposure.background
    good = ~exposure.mask
    faint = good & (signal <= np.median(signal[good]))
    return float(np.median(error[faint]))


def _with_error(exposure, error):
    """
    Mask pixels without a finite error; refuse errors that are not positive.
    """
    bad = exposure.mask | ~np.isfinite(error)
    unsound = ~bad & ~(error > 0)
    if unsound.any():
        y, x = np.argwhere(unsound)[0]
        msg = (
            'the uncertainty of data must be positive in every good pixel; it is not '
            f'in {np.count_nonzero(unsound)} of them, the first at x={x}, y={y} with '
            f'{error[y, x]}'
        )
        raise ValueError(msg)
    return exposure.replace(mask=bad)


def _gain(exposure):
    """
    Estimate electrons per unit, and say how.
    """
    if exposure.unit == u.electron:
        return 1.0, 'data are in electrons'
    noise = float(np.median(exposure.bkg_error))
    level = float(np.median(exposure.background))
    if level > _SKY_LEFT * noise:
        return level / noise**2, 'background over its variance (photon noise)'
    return _USUAL_NOISE / noise, f'assumed: sky noise of {_USUAL_NOISE:g} electrons'
