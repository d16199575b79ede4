# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of arrays, NDData and FITS images with the arguments of a person.
"""

import os

import astropy.units as u
import numpy as np
from astropy.nddata import Cutout2D, NDData

from bliss_astro._fits import check_file, file_name, open_fits
from bliss_astro.units import magnitude_to_flux

from ._estimate import estimate_missing
from ._fits_image import find_plane, parse_location, read_map
from ._header import HeaderCards, plain_number, trim_section, warn_ignored
from ._nddata import collect_nddata
from ._sky import estimate_background_error, measure_background
from ._validate import (
    check_mask,
    check_number,
    join_masks,
    refuse,
    refuse_both,
)

__all__ = []

# Arguments by which an image that states everything may be changed.
_CHANGES = ('psf', 'band', 'fwhm', 'mask', 'saturation', 'background', 'zero_point')
# Arguments for images of SDSS alone.
_OF_SDSS = {'fpm', 'tsfield', 'photofield', 'psfield', 'noise', 'bad_planes'}
# Arguments in the unit of the image, and all that may be maps in files.
_IN_UNIT = ('background', 'bkg_error', 'saturation')
_MAPS = (*_IN_UNIT, 'effective_gain', 'read_noise', 'weight')
_SKY_CARDS = ('BKGLEVEL', 'SKYLEVEL', 'SKY')
# Units in which a zero point has a meaning, and per second of them.
_COUNTS = (u.electron, u.adu, u.DN, u.ct)
# Largest absolute AB magnitude of a zero point.
_MAX_ZERO_POINT = 100


def exposure_of_array(data, given, estimated):
    """
    Make an exposure of an array, Quantity, Cutout2D or NDData.

    Parameters
    ----------
    data : object
        Image.

    given : dict
        Arguments of `~bliss_astro.exposures.Exposure`, and ``weight``, ``fwhm``,
        ``zero_point``, none of which is `None`.

    estimated : dict
        Source of each number that was not given; changed in place.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything but, perhaps, a PSF.
    """
    cards = error = None
    if isinstance(data, NDData):
        data, given, cards, error = collect_nddata(data, given)
    elif isinstance(data, Cutout2D):
        data, given = data.data, {'wcs': data.wcs} | given
    shape = np.shape(data)
    extra = tuple(k for k, n in enumerate(shape) if n == 1)
    if len(shape) > 2 and len(shape) - len(extra) <= 2:
        # Axes of one pixel of a cube, and of the maps that share its shape.
        extra = extra[: len(shape) - 2]
        given = {
            name: np.squeeze(value, extra) if np.shape(value) == shape else value
            for name, value in given.items()
        }
        data = np.squeeze(data, extra)
        error = None if error is None else np.squeeze(error, extra)
    given = _read_maps(given, shape=np.shape(data))
    return _complete(data, given, estimated, error=error, cards=cards)


def exposure_of_hdus(hdus, location, given, estimated):
    """
    Make an exposure of an image in a FITS file of any maker.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        Open file.

    location : `bliss_astro.exposures._fits_image.Location`
        Extension and section of the image.

    given, estimated : dict
        As for `exposure_of_array`.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything but, perhaps, a PSF.
    """
    given = dict(given)
    refuse(_OF_SDSS & set(given), f'{file_name(hdus)!r}, not an SDSS image')
    plane = find_plane(hdus, location.extension, parameter='data')
    shape = plane.data.shape
    cut = location.cut(shape)
    data, unexposed = plane.data[cut], None
    card, exposed = trim_section(plane.header, shape)
    if exposed is not None:
        unexposed = np.ones(shape, dtype=bool)
        unexposed[exposed] = False
        unexposed = unexposed[cut]
    error = None
    if 'bkg_error' not in given and 'weight' not in given:
        error = plane.uncertainty()
        error = None if error is None else error[cut]
    if 'wcs' not in given:
        wcs = plane.wcs()
        whole = wcs is None or location.section is None
        given['wcs'] = wcs if whole else wcs.slice(cut)
    if isinstance(given.get('background'), str) and given['background'] == 'header':
        given['background'] = _header_sky(plane.header)
    if 'unit' not in given:
        given['unit'] = plane.unit
    elif plane.unit is not None:
        data = (data * plane.unit).to_value(given['unit'])
    given = {name: value for name, value in given.items() if value is not None}
    unit, own_mask = given.get('unit'), None
    if 'mask' not in given:
        own_mask = plane.mask()
        own_mask = None if own_mask is None else own_mask[cut]
    given = _read_maps(given, shape=data.shape, unit=unit, cut=cut, hdus=hdus)
    stated = check_mask('mask', given.get('mask'), data.shape)
    given['mask'] = join_masks(data.shape, unexposed, own_mask, stated)
    if exposed is not None and given['mask'].any():
        estimated['mask'] = f'header: {card}'
    cards = HeaderCards(plane.header, data, unit)
    given['meta'] = {'file': plane.name} | cards.meta | dict(given.get('meta') or {})
    return _complete(data, given, estimated, error=error, cards=cards)


def _header_sky(header):
    """Sky that a header states."""
    for card in _SKY_CARDS:
        value = plain_number(header.get(card))
        if value is not None and np.isfinite(value):
            return value
    msg = f"background='header': the header has none of {', '.join(_SKY_CARDS)}"
    raise ValueError(msg)


def _complete(data, given, estimated, *, error=None, cards=None):
    """Estimate numbers neither given nor in the header, and apply the others."""
    given = {name: value for name, value in given.items() if value is not None}
    refuse_both(given, 'psf', 'fwhm')
    refuse_both(given, 'bkg_error', 'weight')
    fwhm, zero_point, weight, band = (
        given.pop(name, None) for name in ('fwhm', 'zero_point', 'weight', 'band')
    )
    if zero_point is not None:
        unit = getattr(data, 'unit', None) or given.get('unit')
        unit = None if unit is None else u.Unit(unit)
        zero_point = _check_zero_point(zero_point, unit)
    if isinstance(given.get('psf'), str | os.PathLike):
        given['psf'] = _psf_of_file(given['psf'], band)
    exposure = estimate_missing(
        data, given, estimated, error=error, cards=cards, weight=weight
    )
    if cards is not None:
        warn_ignored(cards)
    if fwhm is not None:
        exposure = exposure.replace(psf=_psf_of_fwhm(fwhm, exposure))
    if zero_point is not None:
        exposure = _apply_zero_point(exposure, zero_point)
    return exposure


def change_known(exposure, given):
    """
    Change an exposure that states everything by arguments of the user.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    given : dict
        ``psf``, ``fwhm``, ``mask``, ``saturation``, ``background``,
        ``zero_point``.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        Changed copy.
    """
    refuse(given, 'an image that states everything', allowed=_CHANGES)
    refuse_both(given, 'psf', 'fwhm')
    measured = isinstance(given.get('background'), str)
    given = _read_maps(given, shape=exposure.shape)
    fwhm, zero_point, band = (
        given.pop(name, None) for name in ('fwhm', 'zero_point', 'band')
    )
    if isinstance(given.get('psf'), str | os.PathLike):
        given['psf'] = _psf_of_file(given['psf'], band)
    if fwhm is not None:
        given['psf'] = _psf_of_fwhm(fwhm, exposure)
    measured &= 'background' not in given
    if measured:
        given['background'] = measure_background(exposure.data, exposure.mask)
    if 'mask' in given:
        own = check_mask('mask', given['mask'], exposure.shape)
        given['mask'] = join_masks(exposure.shape, exposure.mask, own)
    for name in ('background', 'saturation'):
        if isinstance(given.get(name), u.Quantity):
            given[name] = given[name].to_value(exposure.unit)
    if given:
        exposure = exposure.replace(**given)
    if measured:
        error = estimate_background_error(exposure)
        exposure = exposure.replace(background_error=error)
    if zero_point is None:
        return exposure
    zero_point = _check_zero_point(zero_point, exposure.unit)
    return _apply_zero_point(exposure, zero_point)


# -- arguments of a person ---------------------------------------------------------


def _read_maps(given, *, shape, unit=None, cut=None, hdus=None):
    """
    Read the maps that were given as files, and take units off where needed.

    Parameters
    ----------
    given : dict
        Arguments by name; those of files are strings or paths.

    shape : tuple of int
        Shape (ny, nx) of the image.

    unit : `~astropy.units.Unit`, optional
        Unit of an image that is itself plain numbers in a file.

    cut : tuple of slice, optional
        Part of its file that the image is.

    hdus : `~astropy.io.fits.HDUList`, optional
        File of the image.

    Returns
    -------
    given : dict
        The same as arrays and numbers; without ``background='measure'``.
    """
    given = dict(given)
    sky = given.get('background')
    if isinstance(sky, str) and sky == 'header':
        msg = "background='header' needs a FITS file with a card of the sky"
        raise ValueError(msg)
    if isinstance(sky, str) and sky == 'measure':
        del given['background']
    own = {'shape': shape, 'cut': cut, 'hdus': hdus}
    for name in (*_MAPS, 'mask'):
        value, file_unit = given.get(name), None
        if isinstance(value, str | os.PathLike):
            value, file_unit = read_map(value, name, **own)
            if name == 'mask':
                # Bit masks of files: whatever is marked is bad.
                value, file_unit = ~(np.asarray(value) == 0), None
            elif file_unit is not None:
                value = value * file_unit
        elif cut is not None and np.ndim(value) == 2 and np.shape(value) != shape:
            value = np.asanyarray(value)[cut]
        if hdus is not None and name in _IN_UNIT and isinstance(value, u.Quantity):
            value = _plain(name, value, unit, stated=file_unit is None)
        if name in given:
            given[name] = value
    return given


def _plain(name, value, unit, *, stated):
    """Take the unit off a number that goes with an image of a file."""
    if unit is None and not stated:
        return value.value
    try:
        return value.to_value(u.dimensionless_unscaled if unit is None else unit)
    except u.UnitConversionError:
        has = 'no unit' if unit is None else f'the unit {unit}'
        msg = f'{name} is in {value.unit} and data has {has}.'
        raise ValueError(msg) from None


def _psf_of_file(source, band):
    """Read the PSF of a file, ``file.fits[EXT]``; of a psField that of a band."""
    from ..psf import read_psf

    location = parse_location(source)
    check_file(location.path, 'psf', 'a PSF, an image of one, or a file')
    with open_fits(location.path, 'psf') as hdus:
        return read_psf(hdus, band=band, extension=location.extension)


def _psf_of_fwhm(fwhm, exposure):
    """Make a PSF of a FWHM in pixels, or an angle by the WCS of the exposure."""
    from ..psf import PSFModel
    from ..psf._mixture import DEFAULT_NORMALIZATION_RADIUS

    if isinstance(fwhm, u.Quantity):
        if fwhm.unit.is_equivalent(u.pix):
            fwhm = fwhm.to_value(u.pix)
        elif not fwhm.unit.is_equivalent(u.arcsec):
            msg = f'fwhm must be in pixels or an angle; got {fwhm.unit}.'
            raise ValueError(msg)
        elif exposure.pixel_scale is None:
            msg = 'fwhm is an angle and data has no celestial wcs; give it in pixels.'
            raise ValueError(msg)
        else:
            fwhm = fwhm.to_value(u.arcsec) / exposure.pixel_scale
    value = check_number('fwhm', fwhm, sign='positive')
    widest = 2 * DEFAULT_NORMALIZATION_RADIUS
    if value > widest:
        msg = (
            f'fwhm must be at most {widest:.1f} px; got {value:g}. Join pixels of the '
            'image first.'
        )
        raise ValueError(msg)
    return PSFModel.from_fwhm(value)


def _check_zero_point(zero_point, unit):
    """Check the AB magnitude of a flux of 1 in counts."""
    if isinstance(zero_point, u.Quantity | u.Magnitude):
        zero_point = zero_point.value
    value = np.asarray(zero_point)
    if value.ndim or value.dtype.kind not in 'fiu':
        msg = f'zero_point must be one AB magnitude; got {zero_point!r:.60}.'
        raise TypeError(msg)
    if not abs(value) <= _MAX_ZERO_POINT:
        msg = f'zero_point must be finite and within +-100; got {zero_point}.'
        raise ValueError(msg)
    if unit is not None and not any(
        unit.is_equivalent(count / time) for count in _COUNTS for time in (1, u.s)
    ):
        msg = (
            f'zero_point was given although data is in {unit}, which is a flux itself; '
            'leave it out'
        )
        raise ValueError(msg)
    return float(value)


def _apply_zero_point(exposure, zero_point):
    """Bring an exposure in counts to nanomaggies."""
    factor = magnitude_to_flux(zero_point)
    changes = {'effective_gain': exposure.effective_gain / factor}
    for name in ('data', 'background', 'bkg_error', 'saturation'):
        value = getattr(exposure, name)
        changes[name] = None if value is None else value * factor
    meta = exposure.meta | {'zero_point': zero_point}
    return exposure.replace(**changes, unit=u.nmgy, meta=meta)
