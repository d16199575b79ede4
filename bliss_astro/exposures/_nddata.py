# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
NDData and CCDData: exposures of them, and made of exposures.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, NDData, StdDevUncertainty

from ._header import HeaderCards, warn_ignored
from ._validate import GivenTwiceError
from ._wcs import whole_wcs

__all__ = []

# Cards under which single numbers travel in the meta.
_KEYWORDS = {
    'effective_gain': 'EFFGAIN',
    'background': 'BKGLEVEL',
    'read_noise': 'RDNOISE',
    'saturation': 'SATURATE',
    'psf_error': 'PSFERR',
    'background_error': 'BKGRELER',
}
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
    """
    Collect the image of an NDData and the arguments of an exposure.

    Parameters
    ----------
    nddata : `~astropy.nddata.NDData`
        Image.

    given : dict
        Arguments of `~bliss_astro.exposures.Exposure` that it does not have.

    Returns
    -------
    data : `~numpy.ndarray` or `~astropy.units.Quantity`
        Image, with its unit.

    arguments : dict
        Arguments of `~bliss_astro.exposures.Exposure`.
    """
    data, arguments, cards, error = collect_nddata(nddata, given)
    unit = getattr(data, 'unit', None)
    sources = {}
    cards.complete(arguments, unit, sources)
    if sources:
        stated = dict(arguments['meta'].get('estimated') or {})
        arguments['meta']['estimated'] = stated | sources
    warn_ignored(cards)
    arguments.setdefault('bkg_error', None)
    if arguments.setdefault('effective_gain', None) is None and error is not None:
        msg = (
            'effective_gain must be given (electrons per data unit), to take the '
            "sources' share out of the uncertainty, which is the total error."
        )
        raise ValueError(msg)
    if error is not None:
        good = np.isfinite(nddata.data) & np.isfinite(error)
        if arguments.get('mask') is not None:
            good &= ~np.asarray(arguments['mask'], dtype=bool)
        noise = sky_noise(
            nddata.data,
            error,
            _plain(arguments['effective_gain'], u.electron / (unit or 1)),
            background=_plain(arguments.get('background', 0.0), unit),
            good=good,
        )
        arguments['bkg_error'] = noise if unit is None else noise * unit
    return data, arguments


def collect_nddata(nddata, given):
    """
    Collect all parts of an NDData, none of which may be given again.

    Returns its data (a Quantity if they have a unit), arguments of an exposure, the
    `HeaderCards` of its meta, and its total error in the unit of the data or None.
    """
    if not isinstance(nddata, NDData):
        msg = f'nddata must be an NDData or CCDData; got {type(nddata).__name__}.'
        raise TypeError(msg)
    arguments = {name: value for name, value in given.items() if value is not None}
    parts = {name: getattr(nddata, name, None) for name in ('data', 'mask', 'wcs')}
    if not np.any(parts['mask']):
        parts['mask'] = None
    parts['psf'] = getattr(nddata, 'psf', None)
    dimensionless = nddata.unit == u.dimensionless_unscaled
    parts['unit'] = None if dimensionless else nddata.unit
    parts['bkg_error'] = parts['weight'] = nddata.uncertainty
    article = 'an' if type(nddata) is NDData else 'a'
    for name, own in parts.items():
        if own is not None and name in arguments:
            part = 'an uncertainty' if name in ('bkg_error', 'weight') else f'a {name}'
            kind = f'{article} {type(nddata).__name__} with {part}'
            raise GivenTwiceError(name, kind)
    for name in ('mask', 'wcs', 'psf', 'unit'):
        arguments.setdefault(name, parts[name])
    arguments['wcs'] = whole_wcs(arguments['wcs'])
    arguments['meta'] = dict(nddata.meta or {}) | dict(arguments.get('meta') or {})
    unit = arguments.pop('unit', None)
    unit = None if unit is None else u.Unit(unit)
    cards = HeaderCards(arguments['meta'], nddata.data, unit)
    for name, key in _KEYWORDS.items():
        if cards.used.get(name) == key:
            del arguments['meta'][key]
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
        msg = (
            'the uncertainty of data must be a standard deviation, variance or '
            f'inverse variance, got {type(uncertainty).__name__}'
        )
        raise TypeError(msg) from failure
    values = np.asarray(error.array, dtype=float)
    if unit is not None and error.unit is not None:
        values = error.quantity.to_value(unit)
    if values.shape != shape:
        msg = (
            f'the uncertainty of data must have the shape of data, {shape}; got '
            f'{values.shape}'
        )
        raise ValueError(msg)
    return values


def _plain(value, unit):
    """Take the unit off a value, if it has one."""
    return value.to_value(unit) if isinstance(value, u.Quantity) else value


def sky_noise(data, error, effective_gain, *, background=0.0, good):
    """
    Take the sources' share out of a total error.

    Parameters
    ----------
    data, error : float `~numpy.ndarray`, shape (ny, nx)
        Image and its total error, standard deviations.

    effective_gain, background : float or `~numpy.ndarray`, shape (ny, nx)
        Electrons per unit of data, and sky in the image.

    good : bool `~numpy.ndarray`, shape (ny, nx)
        Good pixels.

    Returns
    -------
    bkg_error : float `~numpy.ndarray`, shape (ny, nx)
        Noise of the sky. Where the sources leave nothing to measure it
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
    # A pixel shows the noise of the sky if the sky makes most of its variance.
    by_sky = good & (share < 0.5 * total)
    level = np.median(rest[by_sky]) if by_sky.any() else np.nan
    bright = good & (share > 4 * level)
    if not level > 0 or (bright.any() and np.median(rest[bright]) < -0.25 * level):
        msg = (
            'the uncertainty is smaller than the noise of the sources alone with this '
            'effective_gain, so it is not the total error; leave it out and '
            'give bkg_error instead.'
        )
        raise ValueError(msg)
    rest = np.where(good & ~(rest > 0.25 * level), level, rest)
    return np.sqrt(np.where(good, rest, total))


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
        ``BKGRELER``; maps of these are not kept, and `from_nddata` needs them
        again.
    """
    numbers = {key: getattr(exposure, name) for name, key in _KEYWORDS.items()}
    numbers = {key: value for key, value in numbers.items() if isinstance(value, float)}
    return CCDData(
        exposure.data.copy(),
        unit=exposure.unit or u.dimensionless_unscaled,
        uncertainty=StdDevUncertainty(np.array(exposure.total_error())),
        mask=exposure.mask.copy(),
        wcs=exposure.wcs,
        meta=exposure.meta | numbers,
        psf=_psf_image(exposure),
    )


def _psf_image(exposure):
    """Draw the PSF at the centre of an exposure, or return None."""
    if exposure.psf is None:
        return None
    ny, nx = exposure.shape
    model = exposure.psf_at((nx - 1) / 2, (ny - 1) / 2).copy()
    model.flux, model.x_0, model.y_0 = 1.0, 0.0, 0.0
    offsets = np.arange(-_PSF_HALF_SIDE, _PSF_HALF_SIDE + 1, dtype=float)
    return np.asarray(model(*np.meshgrid(offsets, offsets)))
