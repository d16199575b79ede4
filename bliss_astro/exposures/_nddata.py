# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
NDData, total errors and weights: exposures of them, and CCDData of exposures.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from scipy.ndimage import distance_transform_edt

from bliss_astro._arguments import first_wrong, must, require, require_type
from bliss_astro._sample import Sample

from ._bands import CARDS, band_cards
from ._geometry import whole_wcs
from ._header import KEYWORDS, HeaderCards
from ._psf import draw_psf_model
from ._sky import noise_of
from ._validate import GivenTwiceError, check_map, check_shape, strip_unit

# Sigma of bright pixels, of which there must be some, and what makes a noise map a
# total error there: its ratio to the usual noise, and rank correlation with the light.
_BRIGHT_SIGMA, _MIN_BRIGHT, _RAISED_RATIO, _RANK_CORRELATION = 10.0, 30, 1.1, 0.8
# A weight map is an inverse variance if the noise it states is right to this factor.
_WEIGHT_FACTOR = 1.25
# Share of sources in the variance of a pixel up to which the rest is that of its sky.
_SOURCE_SHARE = 0.2
# Half side of the image of the PSF in a CCDData, pixels.
_PSF_HALF_SIDE = 20


def from_nddata(cls, nddata, **kwargs):
    """
    Make an exposure of an NDData or CCDData.

    An exposure keeps the noise of the sky and that of the sources apart. The
    sources' share is therefore taken out of the uncertainty:
    ``bkg_error**2 = error**2 - max(data - background, 0) / effective_gain``.
    Where little is left (below a quarter of its median over the pixels in which
    the sky dominates), the difference says nothing and that median is used.

    Parameters
    ----------
    nddata : `~astropy.nddata.NDData` or `~astropy.nddata.CCDData`
        Image with mask, WCS, unit and meta; with a PSF image in the ``psf`` of a
        CCDData; and with its uncertainty, the TOTAL error of each pixel.

    **kwargs
        Arguments of `Exposure` that the NDData does not have. ``effective_gain``
        is needed, unless the meta hold ``EFFGAIN`` (as after `to_ccddata`).

    Returns
    -------
    exposure : `Exposure`
        Image with the noise of its sky.

    Raises
    ------
    TypeError
        If it is not an NDData.

    ValueError
        If something is given twice, or the uncertainty is smaller than
        the noise of the sources alone.
    """
    data, arguments = read_nddata(nddata, kwargs)
    return cls(data, **arguments)


def read_nddata(nddata, given):
    """Image of an NDData, with its unit, and all arguments of its exposure."""
    data, arguments, cards, error = collect_nddata(nddata, given)
    unit = getattr(data, 'unit', None)
    sources = dict(arguments['meta'].get('estimated') or {})
    cards.complete(arguments, unit, sources)
    if sources:
        arguments['meta']['estimated'] = sources
    cards.warn_ignored()
    arguments.setdefault('bkg_error', None)
    gain = arguments.setdefault('effective_gain', None)
    if error is not None:
        got = 'an uncertainty that has the noise of sources'
        require(gain is not None, 'effective_gain', 'be given', got)
        good = np.isfinite(nddata.data) & np.isfinite(error)
        if arguments.get('mask') is not None:
            good &= ~np.asarray(arguments['mask'], dtype=bool)
        gain = strip_unit('effective_gain', gain, u.electron / (unit or 1))
        sky = strip_unit('background', arguments.get('background', 0.0), unit)
        noise = sky_noise(nddata.data, error, gain, background=sky, good=good)
        arguments['bkg_error'] = noise if unit is None else noise * unit
    return data, arguments


def collect_nddata(nddata, given):
    """
    Collect all parts of an NDData, none of which may be given again.

    Returns its data (a Quantity if they have a unit), arguments of an exposure, the
    `HeaderCards` of its meta, and its total error in the unit of the data or None.
    """
    require_type('nddata', nddata, NDData)
    arguments = {name: value for name, value in given.items() if value is not None}
    names = ('data', 'mask', 'wcs', 'unit', 'psf', 'uncertainty')
    parts = {name: getattr(nddata, name, None) for name in names}
    if not np.any(parts['mask']):
        parts['mask'] = None
    if parts['unit'] == u.dimensionless_unscaled:
        parts['unit'] = None
    article = 'an' if type(nddata) is NDData else 'a'
    for name in ('bkg_error', 'weight', *names):
        part = 'uncertainty' if name in ('bkg_error', 'weight') else name
        if parts[part] is not None and name in arguments:
            with_part = f'with {"an" if part == "uncertainty" else "a"} {part}'
            kind = f'{article} {type(nddata).__name__} {with_part}'
            raise GivenTwiceError(name, kind)
    for name in ('mask', 'wcs', 'psf', 'unit'):
        arguments.setdefault(name, parts[name])
    arguments['wcs'] = whole_wcs(arguments['wcs'])
    arguments['meta'] = dict(nddata.meta or {}) | dict(arguments.get('meta') or {})
    unit = arguments.pop('unit', None)
    unit = None if unit is None else u.Unit(unit)
    cards = HeaderCards(arguments['meta'], nddata.data, unit)
    for name, key in KEYWORDS.items():
        if cards.used.get(name) == key:
            del arguments['meta'][key]
    for key in CARDS:
        arguments['meta'].pop(key, None)
    data = nddata.data if unit is None else nddata.data * unit
    error = None
    if nddata.uncertainty is not None:
        error = _total_error(nddata.uncertainty, unit, np.shape(nddata.data))
    return data, arguments, cards, error


def _total_error(uncertainty, unit, shape):
    """Standard deviations of an uncertainty in a unit."""
    error = uncertainty
    try:
        # Not for standard deviations, which would lose their sign.
        if not isinstance(uncertainty, StdDevUncertainty):
            with np.errstate(divide='ignore', invalid='ignore'):
                error = uncertainty.represent_as(StdDevUncertainty)
    except (TypeError, AttributeError) as failure:
        allowed = 'be a standard deviation, variance or inverse variance'
        got = type(uncertainty).__name__
        raise TypeError(must('the uncertainty of data', allowed, got)) from failure
    in_unit = unit is not None and error.unit is not None
    values = error.quantity.to_value(unit) if in_unit else error.array
    values = np.asarray(values, dtype=float)
    check_shape('the uncertainty of data', values, shape)
    return values


def sky_noise(data, error, effective_gain, *, background=0.0, good):
    """
    Take the sources' share out of a total error; bad pixels keep theirs.

    Where sources make much of it, the rest would follow each pixel's own noise, and is
    that of the nearest other pixel. The error must not be below the noise of sources.
    """
    total = np.square(np.asarray(error, dtype=float))
    with np.errstate(invalid='ignore'):
        signal = np.maximum(np.asarray(data, dtype=float) - background, 0)
    share = np.where(good, signal / effective_gain, 0.0)
    rest = total - share
    # A pixel shows the noise of the sky if the sky makes most of its variance.
    by_sky = good & (share < 0.5 * total)
    level = np.median(rest[by_sky]) if by_sky.any() else np.nan
    bright = good & (share > 4 * level)
    if not level > 0 or (bright.any() and np.median(rest[bright]) < -0.25 * level):
        msg = (
            'the uncertainty is smaller than the noise of the photons of sources, '
            'so it is not the total error; give bkg_error in its place.'
        )
        raise ValueError(msg)
    shows_sky = good & (share < _SOURCE_SHARE * total) & (rest > 0.25 * level)
    if shows_sky.any():
        rows, columns = distance_transform_edt(
            ~shows_sky, return_distances=False, return_indices=True
        )
        rest = rest[rows, columns]
    else:
        rest = np.where(rest > 0.25 * level, rest, level)
    return np.sqrt(np.where(good, rest, total))


def is_total(exposure):
    """Whether a map of the noise holds the photons of sources too."""
    from scipy.stats import spearmanr

    exposure = Sample(exposure.shape, exposure.mask).of(exposure)
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


def mask_without_weight(exposure, weight):
    """Mask pixels without a positive weight; and the weights without their unit."""
    weight = strip_unit('weight', weight, (exposure.unit or u.one) ** -2)
    weight = np.asarray(check_map('weight', weight, exposure.shape), dtype=float)
    allowed = 'be a map (bkg_error may be a number)'
    require(weight.ndim > 0, 'weight', allowed, weight)
    sound = np.isfinite(weight) & (weight > 0)
    got = first_wrong(weight, ~(weight < 0)) if np.any(weight < 0) else 'none'
    good = got == 'none' and np.any(sound & ~exposure.mask)
    allowed = 'not be negative, and positive in some good pixels'
    require(good, 'weight', allowed, got)
    return exposure.replace(mask=exposure.mask | ~sound), weight


def weight_noise(weight, exposure):
    """Noise of the sky of a weight map (NaN where that is 0), and its source."""
    sound = np.isfinite(weight) & (weight > 0)
    with np.errstate(divide='ignore', invalid='ignore'):
        noise = np.where(sound, 1 / np.sqrt(weight), np.nan)
    sample = Sample(exposure.shape, exposure.mask | ~sound)
    factor = noise_of(sample.of(exposure), sample.pixels(noise), sample.pixels(~sound))
    factor = factor.sigma
    if 1 / _WEIGHT_FACTOR < factor < _WEIGHT_FACTOR:
        return noise, 'given: weight, an inverse variance'
    return noise * factor, f'weight, its scale {factor:.3g} from empty sky'


def mask_without_error(exposure, error):
    """Mask pixels without a finite error; refuse errors that are not positive."""
    bad = exposure.mask | ~np.isfinite(error)
    good = bad | (error > 0)
    got = first_wrong(error, good)
    require(good.all(), 'the uncertainty of data', 'be positive', got)
    return exposure.replace(mask=bad)


def to_ccddata(exposure):
    """
    Make a CCDData of the exposure.

    Returns
    -------
    ccddata : `~astropy.nddata.CCDData`
        Image, mask, WCS, unit (dimensionless if there is none), meta, an
        image of the PSF at the centre, and as its uncertainty the total
        error. Single numbers for all pixels stand in its meta under
        ``EFFGAIN``, ``BKGLEVEL``, ``RDNOISE``, ``SATURATE``, ``PSFERR`` and
        ``BKGRELER``, the band under ``BAND``, ``BANDWAVE`` and ``BANDFWHM``;
        maps of numbers are not kept, and `from_nddata` needs them
        again.
    """
    numbers = {key: getattr(exposure, name) for name, key in KEYWORDS.items()}
    numbers = {key: value for key, value in numbers.items() if isinstance(value, float)}
    psf = None
    if exposure.psf is not None:
        ny, nx = exposure.shape
        offsets = np.arange(-_PSF_HALF_SIDE, _PSF_HALF_SIDE + 1, dtype=float)
        psf = draw_psf_model(exposure.psf_at((nx - 1) / 2, (ny - 1) / 2), offsets)
    return CCDData(
        exposure.data.copy(),
        unit=exposure.unit or u.dimensionless_unscaled,
        uncertainty=StdDevUncertainty(np.array(exposure.total_error())),
        mask=exposure.mask.copy(),
        wcs=exposure.wcs,
        meta=exposure.meta | numbers | band_cards(exposure.band),
        psf=psf,
    )
