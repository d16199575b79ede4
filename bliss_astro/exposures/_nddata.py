# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures to and from astropy's NDData and CCDData.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, NDData, StdDevUncertainty

from ._header import HeaderCards, warn_ignored

__all__ = ['collect_nddata', 'read_nddata', 'sky_noise', 'write_ccddata']

# Cards under which single numbers travel in the meta.
_KEYWORDS = {
    'effective_gain': 'EFFGAIN',
    'background': 'BKGLEVEL',
    'read_noise': 'RDNOISE',
    'saturation': 'SATURATE',
    'psf_error': 'PSFERR',
    'background_error': 'BKGRELER',
}


def read_nddata(nddata, keywords):
    """
    Collect an exposure's arguments from an NDData and from keywords.

    Parameters
    ----------
    nddata : `~astropy.nddata.NDData`
        The image.

    keywords : dict
        Arguments of `~bliss_astro.exposures.Exposure`.

    Returns
    -------
    data : `~numpy.ndarray` or `~astropy.units.Quantity`
        The image, with its unit.

    arguments : dict
        Arguments of `~bliss_astro.exposures.Exposure`.

    Raises
    ------
    TypeError
        If it is not an NDData.

    ValueError
        If something is given twice, or lacking.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If its meta hold header cards that are not sound.
    """
    data, arguments, cards = collect_nddata(nddata, keywords)
    unit = getattr(data, 'unit', None)
    sources = {}
    cards.complete(arguments, unit, sources)
    if sources:
        stated = dict(arguments['meta'].get('estimated') or {})
        arguments['meta']['estimated'] = stated | sources
    warn_ignored(cards)
    arguments.setdefault('effective_gain', None)
    _take_uncertainty(nddata, arguments, unit)
    return data, arguments


def collect_nddata(nddata, keywords):
    """
    Collect what an NDData holds, apart from its uncertainty.

    Parameters
    ----------
    nddata, keywords : object
        See `read_nddata`.

    Returns
    -------
    data : `~numpy.ndarray` or `~astropy.units.Quantity`
        The image, with its unit.

    arguments : dict
        Arguments of `~bliss_astro.exposures.Exposure`.

    cards : `bliss_astro.exposures._header.HeaderCards`
        What its meta say of the detector.
    """
    if not isinstance(nddata, NDData):
        msg = f'nddata must be an NDData or CCDData; got {type(nddata).__name__}.'
        raise TypeError(msg)
    if 'data' in keywords:
        msg = 'data is given twice, by the NDData and by keyword.'
        raise ValueError(msg)
    arguments = dict(keywords)
    for name in ('mask', 'wcs', 'unit', 'psf'):
        own = _own(nddata, name)
        if own is None:
            continue
        if arguments.get(name) is not None:
            msg = f'{name} is given twice, by the NDData and by keyword.'
            raise ValueError(msg)
        arguments[name] = own
    arguments['meta'] = dict(nddata.meta or {}) | dict(arguments.get('meta') or {})
    unit = arguments.pop('unit', None)
    unit = None if unit is None else u.Unit(unit)
    cards = HeaderCards(arguments['meta'], nddata.data, unit)
    for name, key in _KEYWORDS.items():
        if cards.used.get(name) == key:
            del arguments['meta'][key]
    data = nddata.data if unit is None else nddata.data * unit
    return data, arguments, cards


def _own(nddata, name):
    """
    Return an attribute of an NDData that counts as given, or `None`.
    """
    value = getattr(nddata, name, None)
    if name == 'mask' and value is not None and not np.any(value):
        return None
    if name == 'unit' and value == u.dimensionless_unscaled:
        return None
    return value


def _take_uncertainty(nddata, arguments, unit):
    """
    Turn the uncertainty of an NDData into a ``bkg_error``.
    """
    given = arguments.get('bkg_error') is not None
    if nddata.uncertainty is None:
        arguments.setdefault('bkg_error', None)
        return
    if given:
        msg = (
            'bkg_error is given twice, by keyword and as the uncertainty of the '
            'NDData, which is the total error.'
        )
        raise ValueError(msg)
    if arguments['effective_gain'] is None:
        msg = (
            'effective_gain must be given (electrons per data unit), to take the '
            "sources' share out of the uncertainty, which is the total error."
        )
        raise ValueError(msg)
    error = nddata.uncertainty.represent_as(StdDevUncertainty).quantity
    error = error.to_value(unit) if unit is not None else error.value
    gain = _plain(arguments['effective_gain'], u.electron / (unit or 1))
    background = _plain(arguments.get('background', 0.0), unit)
    mask = arguments.get('mask')
    good = np.isfinite(nddata.data) & np.isfinite(error)
    if mask is not None:
        good &= ~np.asarray(mask, dtype=bool)
    noise = sky_noise(nddata.data, error, gain, background=background, good=good)
    arguments['bkg_error'] = noise if unit is None else noise * unit


def _plain(value, unit):
    """
    Take the unit off a value, if it has one.
    """
    if isinstance(value, u.Quantity):
        return value.to_value(unit)
    return value


def sky_noise(data, error, effective_gain, *, background=0.0, good):
    """
    Take the sources' share out of a total error.

    Parameters
    ----------
    data : float `~numpy.ndarray`, shape (ny, nx)
        The image.

    error : float `~numpy.ndarray`, shape (ny, nx)
        Its total error, standard deviations.

    effective_gain : float or `~numpy.ndarray`
        Electrons per unit of data.

    background : float or `~numpy.ndarray`, optional
        The sky in the image.

    good : bool `~numpy.ndarray`, shape (ny, nx)
        The good pixels.

    Returns
    -------
    bkg_error : float `~numpy.ndarray`, shape (ny, nx)
        The noise of the sky. Where the sources leave nothing to measure it
        by, the median of the other pixels; bad pixels keep their error.

    Raises
    ------
    ValueError
        If the error is smaller than the noise of the sources alone where
        these dominate.
    """
    total = np.square(np.asarray(error, dtype=float))
    with np.errstate(invalid='ignore'):
        signal = np.maximum(np.asarray(data, dtype=float) - background, 0)
    share = np.where(good, signal / effective_gain, 0.0)
    rest = total - share
    # A pixel tells the noise of the sky if the sky makes most of its variance.
    telling = good & (share < 0.5 * total)
    level = np.median(rest[telling]) if telling.any() else np.nan
    bright = good & (share > 4 * level)
    if not level > 0 or (bright.any() and np.median(rest[bright]) < -0.25 * level):
        msg = (
            'the uncertainty is smaller than the noise of the sources alone with this '
            'effective_gain, so it is not the total error; leave it out and '
            'give bkg_error instead.'
        )
        raise ValueError(msg)
    unsound = good & ~(rest > 0.25 * level)
    rest = np.where(unsound, level, rest)
    return np.sqrt(np.where(good, rest, total))


def write_ccddata(exposure):
    """
    Turn an exposure into a CCDData.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    Returns
    -------
    ccddata : `~astropy.nddata.CCDData`
        See `Exposure.to_ccddata`.
    """
    meta = dict(exposure.meta)
    for name, key in _KEYWORDS.items():
        value = getattr(exposure, name)
        if isinstance(value, float):
            meta[key] = value
    return CCDData(
        exposure.data.copy(),
        unit=exposure.unit or u.dimensionless_unscaled,
        uncertainty=StdDevUncertainty(np.array(exposure.total_error())),
        mask=exposure.mask.copy(),
        wcs=exposure.wcs,
        meta=meta,
        psf=_psf_image(exposure),
    )


def _psf_image(exposure, half=20):
    """
    Draw the PSF at the centre of an exposure, or return `None`.
    """
    if exposure.psf is None:
        return None
    ny, nx = exposure.shape
    model = exposure.psf_at((nx - 1) / 2, (ny - 1) / 2).copy()
    model.flux, model.x_0, model.y_0 = 1.0, 0.0, 0.0
    offsets = np.arange(-half, half + 1, dtype=float)
    return np.asarray(model(*np.meshgrid(offsets, offsets)))
