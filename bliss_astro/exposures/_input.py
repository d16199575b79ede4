# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From arrays, NDData and HDUs to an exposure that has everything but a PSF.
"""

import os

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D, NDData, StdDevUncertainty

from .._fits import file_name
from ._estimate import estimate_missing
from ._exposure import Exposure
from ._fits_image import find_plane, parse_location
from ._given import (
    apply_zero_point,
    check_zero_point,
    psf_of_file,
    psf_of_fwhm,
    read_maps,
    refuse,
    refuse_both,
)
from ._header import HeaderCards, plain_number, trim_section, warn_ignored
from ._nddata import collect_nddata
from ._sky import estimate_background_error, measure_background
from ._validate import check_mask

__all__ = ['change_known', 'exposure_of', 'exposure_of_hdus', 'whole_wcs']

# What is changed in images that state all of it themselves.
_CHANGES = ('psf', 'band', 'fwhm', 'mask', 'saturation', 'background', 'zero_point')
# Side in pixels of the cells in which their sky is measured anew.
_BOX = 64
# What is said of images of SDSS alone.
_OF_SDSS = {'fpm', 'tsfield', 'photofield', 'psfield', 'noise', 'bad_planes'}
_HDUS = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)


def exposure_of(data, given, estimated):
    """
    Make an exposure of an image of whatever kind, and estimate what is missing.

    Parameters
    ----------
    data : object
        An `~bliss_astro.exposures.Exposure`, NDData, Cutout2D, HDU, list of HDUs,
        Quantity or array.

    given : dict
        Arguments of `~bliss_astro.exposures.Exposure`, and ``weight``, ``fwhm``,
        ``zero_point`` and ``extension``, none of which is `None`.

    estimated : dict
        Where each number comes from, if it was not given; changed in place.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything but, perhaps, a PSF.
    """
    given = dict(given)
    if isinstance(data, _HDUS):
        data = fits.HDUList([data])
    if isinstance(data, fits.HDUList):
        return exposure_of_hdus(data, given, estimated)
    if 'extension' in given:
        msg = (
            f'extension was given although data is of type {type(data).__name__} and '
            'no file; leave it out'
        )
        raise ValueError(msg)
    if isinstance(data, Exposure):
        own = () if data.psf is None else ('psf', 'fwhm')
        allowed = {'psf', 'fwhm'} - set(own)
        refuse(given, 'an Exposure', allowed=allowed)
        stated = dict(data.meta.get('estimated') or {})
        estimated |= {key: how for key, how in stated.items() if isinstance(how, str)}
        return change_known(data, given)
    if isinstance(data, NDData):
        return _from_nddata(data, given, estimated)
    if isinstance(data, Cutout2D):
        given.setdefault('wcs', data.wcs)
        given = {name: value for name, value in given.items() if value is not None}
        data = data.data
    data, given = _drop_axes(data, given)
    given = read_maps(given, shape=np.shape(data))
    return _complete(data, given, estimated)


def _drop_axes(data, given):
    """
    Drop axes of one pixel of a cube, and of the maps that share its shape.
    """
    shape = np.shape(data)
    extra = tuple(k for k, n in enumerate(shape) if n == 1)
    if len(shape) <= 2 or len(shape) - len(extra) > 2:
        return data, given
    extra = extra[: len(shape) - 2]
    dropped = {
        name: np.squeeze(value, extra) if np.shape(value) == shape else value
        for name, value in given.items()
    }
    return np.squeeze(data, extra), dropped


def change_known(exposure, given):
    """
    Change what the user knows better than an image that states everything.

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
        The changed one.
    """
    refuse(given, 'an image that states everything', allowed=_CHANGES)
    refuse_both(given, 'psf', 'fwhm')
    sky = given.get('background')
    given = read_maps(given, shape=exposure.shape)
    if isinstance(given.get('psf'), str | os.PathLike):
        given['psf'] = psf_of_file(given['psf'], band=given.pop('band', None))
    if isinstance(sky, str) and sky == 'measure':
        level = measure_background(exposure.data, exposure.mask, box_size=_BOX)
        given['background'] = level
    fwhm, zero_point = given.pop('fwhm', None), given.pop('zero_point', None)
    if 'mask' in given:
        own = check_mask('mask', given['mask'], exposure.shape)
        given['mask'] = exposure.mask if own is None else exposure.mask | own
    for name in ('background', 'saturation'):
        if isinstance(given.get(name), u.Quantity):
            given[name] = given[name].to_value(exposure.unit)
    if fwhm is not None:
        given['psf'] = psf_of_fwhm(fwhm, exposure)
    if given:
        exposure = exposure.replace(**given)
    if isinstance(sky, str) and sky == 'measure':
        error = estimate_background_error(exposure)
        exposure = exposure.replace(background_error=error)
    if zero_point is None:
        return exposure
    return apply_zero_point(exposure, check_zero_point(zero_point, exposure.unit))


# -- NDData --------------------------------------------------------------------


def _from_nddata(data, given, estimated):
    """
    Take an NDData with all that it knows.
    """
    name = type(data).__name__
    kind = f'an {name}' if name == 'NDData' else f'a {name}'
    # What the NDData itself holds must not be given a second time.
    for name in ('mask', 'wcs', 'psf'):
        own = getattr(data, name, None)
        empty = own is None or (name == 'mask' and not np.any(own))
        if name in given and not empty:
            refuse([name], f'{kind} with a {name}')
    for name in ('bkg_error', 'weight'):
        if data.uncertainty is not None and name in given:
            refuse([name], f'{kind} with an uncertainty')
    shape = np.shape(data.data)
    given = read_maps(given, shape=shape)
    apart = {
        key: given.pop(key) for key in ('weight', 'fwhm', 'zero_point') if key in given
    }
    plain = NDData(
        data.data,
        mask=data.mask,
        wcs=data.wcs,
        unit=data.unit,
        meta=data.meta,
        psf=getattr(data, 'psf', None),
    )
    values, arguments, cards = collect_nddata(plain, given)
    arguments['wcs'] = whole_wcs(arguments.get('wcs'))
    error = None
    if data.uncertainty is not None:
        error = _total_error(data.uncertainty, getattr(values, 'unit', None), shape)
    arguments |= apart
    known = {name: value for name, value in arguments.items() if value is not None}
    values, known = _drop_axes(values, known)
    if error is not None:
        error = error.reshape(np.shape(values))
    return _complete(values, known, estimated, error=error, cards=cards)


def whole_wcs(wcs):
    """
    Return a FITS WCS again, where astropy wrapped one up to cut it.

    Parameters
    ----------
    wcs : object
        Any WCS.

    Returns
    -------
    wcs : object
        The FITS WCS of a cut-out, or the same.
    """
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    base = getattr(low_level, '_wcs', None)
    slices = getattr(low_level, '_slices_array', None)
    if base is None or slices is None or not hasattr(base, 'slice'):
        return wcs
    if any(not isinstance(part, slice) for part in slices):
        return wcs
    return base.slice(tuple(slices))


def _total_error(uncertainty, unit, shape):
    """
    Return the total error of an NDData as a plain array.
    """
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


# -- FITS ------------------------------------------------------------------------


def exposure_of_hdus(hdus, given, estimated, *, location=None):
    """
    Make an exposure of an image in a FITS file of any maker.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.

    given, estimated : dict
        See `exposure_of`.

    location : `bliss_astro.exposures._fits_image.Location`, optional
        Where the image is; by default ``given['extension']`` or the first one.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything but, perhaps, a PSF.
    """
    given = dict(given)
    extension = given.pop('extension', None)
    if location is None:
        location = parse_location('', extension)
    refuse(_OF_SDSS & set(given), f'{file_name(hdus)!r}, not an SDSS image')
    plane = find_plane(hdus, location.extension, parameter='data')
    shape = plane.data.shape
    cut = location.cut(shape)
    card, exposed = trim_section(plane.header, shape)
    masks = []
    if exposed is not None:
        masks.append(np.ones(shape, dtype=bool))
        masks[0][exposed] = False
    if 'mask' not in given and plane.extension('MASK') is not None:
        masks.append(~(np.asarray(plane.hdus['MASK'].data).reshape(shape) == 0))
    error = None
    if not {'bkg_error', 'weight'} & set(given):
        error = _uncertainty(plane)
        error = None if error is None else error[cut]
    if 'wcs' not in given:
        wcs = plane.wcs()
        if wcs is not None and location.section is not None:
            wcs = wcs.slice(cut)
        given['wcs'] = wcs
    data = plane.data[cut]
    sky = given.get('background')
    if isinstance(sky, str) and sky == 'header':
        given['background'] = _header_sky(plane)
    if given.get('unit') is None:
        given['unit'] = plane.unit
    elif plane.unit is not None:
        data = (data * plane.unit).to_value(given['unit'])
    given = {name: value for name, value in given.items() if value is not None}
    unit = given.get('unit')
    given = read_maps(given, shape=data.shape, unit=unit, cut=cut, hdus=hdus)
    masks = [mask[cut] for mask in masks]
    own = check_mask('mask', given.get('mask'), data.shape)
    if own is not None:
        masks.append(own)
    given['mask'] = np.logical_or.reduce([np.zeros(data.shape, dtype=bool), *masks])
    if exposed is not None and given['mask'].any():
        estimated['mask'] = f'header: {card}'
    cards = HeaderCards(plane.header, data, unit)
    given['meta'] = {'file': plane.name} | cards.meta | dict(given.get('meta') or {})
    return _complete(data, given, estimated, error=error, cards=cards)


def _header_sky(plane):
    """
    Return the sky that the header states.
    """
    for key in ('BKGLEVEL', 'SKYLEVEL', 'SKY'):
        value = plain_number(plane.header.get(key))
        if value is not None and np.isfinite(value):
            return value
    msg = "background='header': the header has none of BKGLEVEL, SKYLEVEL, SKY"
    raise ValueError(msg)


def _uncertainty(plane):
    """
    Read the extension UNCERT, as CCDData writes it, as a standard deviation.
    """
    hdu = plane.extension('UNCERT')
    if hdu is None:
        return None
    kind = str(hdu.header.get('UTYPE', 'StdDevUncertainty'))
    values = np.asarray(hdu.data, dtype=float).reshape(plane.data.shape)
    with np.errstate(invalid='ignore', divide='ignore'):
        if kind == 'VarianceUncertainty':
            return np.sqrt(values)
        if kind == 'InverseVariance':
            return 1 / np.sqrt(values)
    return values


# -- all of them -------------------------------------------------------------------


def _complete(data, given, estimated, *, error=None, cards=None):
    """
    Estimate what is neither given nor in the header, and apply what is apart.
    """
    given = {name: value for name, value in given.items() if value is not None}
    refuse_both(given, 'psf', 'fwhm')
    refuse_both(given, 'bkg_error', 'weight')
    apart = {name: given.pop(name, None) for name in ('fwhm', 'zero_point', 'weight')}
    band = given.pop('band', None)
    if apart['zero_point'] is not None:
        unit = getattr(data, 'unit', None) or given.get('unit')
        unit = None if unit is None else u.Unit(unit)
        apart['zero_point'] = check_zero_point(apart['zero_point'], unit)
    if isinstance(given.get('psf'), str | os.PathLike):
        given['psf'] = psf_of_file(given['psf'], band=band)
    exposure = estimate_missing(
        data, given, estimated, error=error, cards=cards, weight=apart['weight']
    )
    if cards is not None:
        warn_ignored(cards)
    if apart['fwhm'] is not None:
        exposure = exposure.replace(psf=psf_of_fwhm(apart['fwhm'], exposure))
    if apart['zero_point'] is not None:
        exposure = apply_zero_point(exposure, apart['zero_point'])
    return exposure
