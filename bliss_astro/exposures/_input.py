# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of arrays, NDData and FITS images with the arguments of a person.
"""

import os

import astropy.units as u
import numpy as np
from astropy.nddata import Cutout2D, NDData

from bliss_astro._fits import check_file, file_name, open_fits
from bliss_astro.psf import PSFModel
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS
from bliss_astro.units import magnitude_to_flux

from ._estimate import estimate_missing
from ._fits_image import find_plane, parse_location, read_map, trim_section
from ._header import HeaderCards
from ._nddata import collect_nddata
from ._sky import estimate_background_error, measure_background
from ._validate import (
    check_mask,
    check_number,
    join_masks,
    must,
    refuse,
    refuse_both,
    strip_unit,
)

# Arguments by which an image that states everything may be changed.
_CHANGES = ('psf', 'band', 'fwhm', 'mask', 'saturation', 'background', 'zero_point')
# Arguments for images of SDSS alone.
_OF_SDSS = {'fpm', 'tsfield', 'photofield', 'psfield', 'noise', 'bad_planes'}
# Arguments in the unit of the image, and all that may be maps in files.
_IN_UNIT = ('background', 'bkg_error', 'saturation')
_MAPS = (*_IN_UNIT, 'effective_gain', 'read_noise', 'weight', 'mask')
# Units in which a zero point has a meaning, and per second of them.
_COUNTS = (u.electron, u.adu, u.DN, u.ct)
# Largest absolute AB magnitude of a zero point.
_MAX_ZERO_POINT = 100


def exposure_of_array(data, given, estimated):
    """
    Make an exposure of an array, Quantity, Cutout2D or NDData.

    Arguments given are those of `~bliss_astro.exposures.Exposure`, and ``weight``,
    ``fwhm``, ``zero_point``, none `None`. Sources of others are added to ``estimated``.
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
    """Make an exposure of an image in a FITS file of any maker."""
    given = dict(given)
    refuse(_OF_SDSS & set(given), f'{file_name(hdus)!r}, not an SDSS image')
    plane = find_plane(hdus, location.extension, parameter='data')
    shape = plane.data.shape
    cut = location.cut(shape)
    data, unit = plane.data[cut], plane.unit
    if 'unit' in given:
        unit = u.Unit(given['unit'])
        data = data if plane.unit is None else (data * plane.unit).to_value(unit)
    given['unit'] = unit
    if 'wcs' not in given:
        wcs = plane.wcs()
        is_cut = wcs is not None and location.section is not None
        given['wcs'] = wcs.slice(cut) if is_cut else wcs
    cards = HeaderCards(plane.header, data, unit)
    if isinstance(given.get('background'), str) and given['background'] == 'header':
        given['background'] = cards.sky()
    given = {name: value for name, value in given.items() if value is not None}
    own_mask = plane.mask() if 'mask' not in given else None
    error = plane.uncertainty() if not {'bkg_error', 'weight'} & set(given) else None
    given = _read_maps(given, shape=data.shape, unit=unit, cut=cut, hdus=hdus)
    whole = np.zeros(shape, dtype=bool)
    card, exposed = trim_section(plane.header, shape)
    if exposed is not None:
        whole[...] = True
        whole[exposed] = False
    whole = join_masks(shape, whole, own_mask)[cut]
    stated = check_mask('mask', given.get('mask'), data.shape)
    given['mask'] = join_masks(data.shape, whole, stated)
    if exposed is not None and given['mask'].any():
        estimated['mask'] = f'header: {card}'
    given['meta'] = {'file': plane.name} | cards.meta | dict(given.get('meta') or {})
    error = None if error is None else error[cut]
    return _complete(data, given, estimated, error=error, cards=cards)


def _complete(data, given, estimated, *, error=None, cards=None):
    """Estimate numbers neither given nor in the header, and apply the others."""
    given = {name: value for name, value in given.items() if value is not None}
    refuse_both(given, 'bkg_error', 'weight')
    weight = given.pop('weight', None)
    unit = getattr(data, 'unit', None) or given.get('unit')
    fwhm, zero_point = _take_extras(given, None if unit is None else u.Unit(unit))
    exposure = estimate_missing(
        data, given, estimated, error=error, cards=cards, weight=weight
    )
    if cards is not None:
        cards.warn_ignored()
    return _apply_extras(exposure, fwhm, zero_point)


def change_known(exposure, given):
    """Change an exposure that states everything by arguments of the user."""
    refuse(given, 'an image that states everything', allowed=_CHANGES)
    measured = isinstance(given.get('background'), str)
    given = _read_maps(given, shape=exposure.shape)
    fwhm, zero_point = _take_extras(given, exposure.unit)
    measured &= 'background' not in given
    if measured:
        given['background'] = measure_background(exposure.data, exposure.mask)
    if 'mask' in given:
        own = check_mask('mask', given['mask'], exposure.shape)
        given['mask'] = join_masks(exposure.shape, exposure.mask, own)
    for name in {'background', 'saturation'} & set(given):
        given[name] = strip_unit(name, given[name], exposure.unit or u.one)
    if given:
        exposure = exposure.replace(**given)
    if measured:
        error = estimate_background_error(exposure)
        exposure = exposure.replace(background_error=error)
    return _apply_extras(exposure, fwhm, zero_point)


# -- arguments of a person ---------------------------------------------------------


def _read_maps(given, *, shape, unit=None, cut=None, hdus=None):
    """
    Read the maps that were given as files, and leave out ``background='measure'``.

    Numbers that go with an image of a file (``hdus``) lose their unit; maps of the
    whole file are ``cut``.
    """
    given = dict(given)
    sky = given.get('background')
    if isinstance(sky, str) and sky == 'header':
        msg = "background='header' needs a FITS file with a card of the sky"
        raise ValueError(msg)
    if isinstance(sky, str) and sky == 'measure':
        del given['background']
    for name in (name for name in _MAPS if name in given):
        value, file_unit = given[name], None
        if isinstance(value, str | os.PathLike):
            value, file_unit = read_map(value, name, shape=shape, cut=cut, hdus=hdus)
            if name == 'mask':
                # Bit masks of files: whatever is marked is bad.
                value = ~(np.asarray(value) == 0)
            elif file_unit is not None:
                value = value * file_unit
        elif cut is not None and np.ndim(value) == 2 and np.shape(value) != shape:
            value = np.asanyarray(value)[cut]
        if hdus is not None and name in _IN_UNIT:
            # A file may have a unit that the image lacks.
            value = strip_unit(name, value, unit or file_unit or u.one)
        given[name] = value
    return given


def _take_extras(given, unit):
    """
    Take out of the arguments those that `Exposure` does not have.

    The PSF of a file is read; FWHM and zero point, which is checked, are returned.
    """
    refuse_both(given, 'psf', 'fwhm')
    fwhm, zero_point, band = (
        given.pop(name, None) for name in ('fwhm', 'zero_point', 'band')
    )
    if isinstance(given.get('psf'), str | os.PathLike):
        from bliss_astro.psf import read_psf

        location = parse_location(given['psf'])
        check_file(location.path, 'psf', 'a PSF, an image of one, or a file')
        with open_fits(location.path, 'psf') as hdus:
            given['psf'] = read_psf(hdus, band=band, extension=location.extension)
    return fwhm, None if zero_point is None else _check_zero_point(zero_point, unit)


def _apply_extras(exposure, fwhm, zero_point):
    """Set the PSF by its width, and bring an exposure in counts to nanomaggies."""
    if fwhm is not None:
        exposure = exposure.replace(psf=_psf_of_fwhm(fwhm, exposure))
    if zero_point is None:
        return exposure
    factor = magnitude_to_flux(zero_point)
    changes = {'effective_gain': exposure.effective_gain / factor}
    for name in ('data', *_IN_UNIT):
        value = getattr(exposure, name)
        changes[name] = None if value is None else value * factor
    meta = exposure.meta | {'zero_point': zero_point}
    return exposure.replace(**changes, unit=u.nmgy, meta=meta)


def _psf_of_fwhm(fwhm, exposure):
    """Make a PSF of a FWHM in pixels, or an angle by the WCS of the exposure."""
    if isinstance(fwhm, u.Quantity):
        angle = fwhm.unit.is_equivalent(u.arcsec)
        if not angle and not fwhm.unit.is_equivalent(u.pix):
            raise ValueError(must('fwhm', 'be in pixels or an angle', fwhm.unit))
        if angle and exposure.pixel_scale is None:
            msg = 'fwhm is an angle and data has no celestial wcs; give it in pixels.'
            raise ValueError(msg)
        pixel = exposure.pixel_scale * u.arcsec if angle else u.pix
        fwhm = (fwhm / pixel).to_value(u.one)
    value = check_number('fwhm', fwhm, sign='positive')
    widest = 2 * DEFAULT_NORMALIZATION_RADIUS
    if value > widest:
        raise ValueError(must('fwhm', f'be at most {widest:.1f} px', f'{value:g}'))
    return PSFModel.from_fwhm(value)


def _check_zero_point(zero_point, unit):
    """Check the AB magnitude of a flux of 1 in counts."""
    value = check_number('zero_point', getattr(zero_point, 'value', zero_point))
    if abs(value) > _MAX_ZERO_POINT:
        allowed = f'be finite and within +-{_MAX_ZERO_POINT}'
        raise ValueError(must('zero_point', allowed, value))
    allowed = [count / time for count in _COUNTS for time in (1, u.s)]
    if unit is not None and not any(unit.is_equivalent(one) for one in allowed):
        msg = f'zero_point was given although data is in {unit}, a flux; leave it out'
        raise ValueError(msg)
    return value
