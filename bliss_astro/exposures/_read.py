# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of any image: files through astropy's unified input and output, and arrays.
"""

import os
from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.io import fits, registry
from astropy.io.fits.connect import is_fits
from astropy.nddata import Cutout2D, NDData

from bliss_astro._arguments import check_number, must, require
from bliss_astro._fits import check_file, file_name, open_fits
from bliss_astro._lazy import load_coadds, load_readers
from bliss_astro.units import magnitude_to_flux

from ._bands import as_band, find_band
from ._estimate import estimate_missing
from ._exposure import Exposure
from ._fits_image import IN_UNIT, find_plane, parse_location, read_maps, trim_section
from ._header import COUNTS, HeaderCards
from ._nddata import collect_nddata
from ._psf import psf_of_fwhm
from ._sky import estimate_background_error, measure_background, step_of
from ._validate import check_mask, is_word, join_masks, refuse, refuse_both, strip_unit

# Format of coadds, whose module registers its reader.
_COADD = 'bliss_astro.coadd'
_HDUS = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)
FILES = (str, os.PathLike, fits.HDUList, *_HDUS)
# Arguments that may be given for files of this package, and by which an image that
# states everything may be changed.
_FOR_OWN_FILES = ('psf', 'band', 'fwhm', 'mask', 'saturation', 'background')
_CHANGES = (*_FOR_OWN_FILES, 'zero_point')
# Arguments for images of SDSS alone.
OF_SDSS = {'fpm', 'tsfield', 'photofield', 'psfield', 'noise', 'bad_planes'}
# Largest absolute AB magnitude of a zero point.
_MAX_ZERO_POINT = 100


class ExposureRead(registry.UnifiedReadWrite):
    """
    Read an exposure from a file.

    Any FITS image is read, plain or compressed: the first two-dimensional one, or
    that of ``extension``, with its unit, WCS, the extensions MASK and UNCERT, and the
    header cards of gain, saturation level and read noise where they are sound. Images
    of SDSS, the Legacy Surveys, HSC and LSST, JWST and HST, and the files that this
    package writes, are recognised by their content. Numbers neither in the file nor
    given are estimated; ``meta['estimated']`` holds their sources. Other formats are
    added by `astropy.io.registry.register_reader`.

    Parameters
    ----------
    path : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        File. In the notation of CFITSIO an extension and a section may follow,
        ``'file.fits[SCI][101:400,201:500]'``: first x, then y, pixels that count from
        1, the last one included. As a slice that is ``[200:500, 100:400]``.

    format : str, optional
        ``'fits'``, that of a survey, such as ``'sdss.frame'``, or of this package, such
        as ``'bliss_astro.coadd'``, or a registered one; by default by the content.

    extension : int, str or tuple, optional
        The HDU of the image: number, name, or name and version.

    **given
        Arguments of `Exposure` that replace numbers of the file, of which
        ``background``, ``bkg_error``, ``effective_gain``, ``saturation`` and
        ``mask`` may be files too (any value but 0 of a mask is bad), and

        * ``weight``: inverse variance of the sky up to a factor, array or file, 0 in
          bad pixels. Unless it states the noise that empty sky has to 25 %, it
          is scaled to it;
        * ``fwhm``: in place of ``psf`` its full width at half maximum, in pixels or
          as an angle;
        * ``zero_point``: AB magnitude of a flux of 1; the exposure is then in nmgy.

        For images of surveys the arguments of their readers.

    Returns
    -------
    exposure : `Exposure`
        The image.

    Raises
    ------
    OSError
        If the file is absent, truncated, damaged, or of no known format.

    TypeError, ValueError
        If an argument cannot be used; the message names it.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If header cards, the WCS or areas of the image are not sound and left out.

    Notes
    -----
    Formats are known to astropy's unified input and output, which others may extend.
    """

    def __init__(self, instance, cls):
        load_readers()
        super().__init__(instance, cls, 'read', registry=None)

    def __call__(self, path, *, format=None, extension=None, **given):  # noqa: A002
        """
        Read an exposure; see the class.
        """
        exposure, _ = open_exposure(
            path, cls=self._cls, file_format=format, extension=extension, **given
        )
        return exposure


def exposure_of(data, given, estimated):
    """
    Make an exposure of an image of whatever kind, and estimate what is missing.

    Arguments are those of `Exposure.read`, none `None`; ``estimated`` gets the others.
    """
    allowed = "be one image, such as data['r']"
    require(not isinstance(data, Mapping), 'data', allowed, 'one by band', TypeError)
    data = fits.HDUList([data]) if isinstance(data, _HDUS) else data
    if isinstance(data, FILES):
        data, _ = open_exposure(data, parameter='data', **given)
        given = {}
    if 'extension' in given:
        kind = f'of type {type(data).__name__} and no file'
        raise ValueError(f'extension was given although data is {kind}; leave it out')
    if not isinstance(data, Exposure):
        return exposure_of_array(data, given, estimated)
    lacking = [*('psf', 'fwhm') * (data.psf is None), *('band',) * (data.band is None)]
    refuse(given, 'an Exposure', allowed=lacking)
    stated = data.meta.get('estimated') or {}
    estimated |= {name: how for name, how in stated.items() if isinstance(how, str)}
    return change_known(data, given)


def open_exposure(
    path, *, cls=Exposure, file_format=None, extension=None, parameter='path', **given
):
    """Read the exposure of a file (the caller's ``parameter``), and its format."""
    load_readers()
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(path, fits.HDUList):
        location = parse_location('', extension)
        return read_hdus(path, location, file_format, given)
    if not isinstance(path, str | os.PathLike):
        allowed = 'be a path or an astropy HDUList'
        raise TypeError(must(parameter, allowed, type(path).__name__))
    location = parse_location(path, extension)
    kinds = 'a file' if parameter == 'path' else 'an image or a file'
    check_file(location.path, parameter, kinds)
    if file_format is None:
        # Others first: what is left is FITS, or refused by its reader.
        names = registry.identify_format('read', cls, location.path, None, [path], {})
        file_format = next((name for name in names if name != 'fits'), None)
    if file_format not in (None, 'fits', *_FITS_FORMATS):
        if extension is not None:
            given['extension'] = extension
        return registry.read(cls, path, format=file_format, **given), file_format
    with open_fits(location.path, parameter) as hdus:
        return read_hdus(hdus, location, file_format, given)


def read_hdus(hdus, location, file_format, given, estimated=None):
    """Read a FITS file: one that states everything itself, or any image."""
    if file_format is None and location.extension is None:
        names = (name for name, (_, is_it) in _FITS_FORMATS.items() if is_it(hdus))
        file_format = next(names, 'fits')
    if file_format in (None, 'fits'):
        estimated = {} if estimated is None else estimated
        exposure = exposure_of_hdus(hdus, location, given, estimated)
        if estimated:
            exposure = exposure.replace(meta=exposure.meta | {'estimated': estimated})
        return exposure, 'fits'
    exposure = _FITS_FORMATS[file_format][0](hdus, given)
    if location.section is not None:
        exposure = exposure[location.cut(exposure.shape)]
    return exposure, file_format


def change_own_file(exposure, hdus, given, kind):
    """Change the exposure of a file of this package by arguments of the user."""
    given = dict(given)
    if is_word(given.get('background'), 'header'):
        del given['background']
    refuse(given, f'{file_name(hdus)!r}, {kind}', allowed=_FOR_OWN_FILES)
    return change_known(exposure, given)


def exposure_of_array(data, given, estimated):
    """Make an exposure of an array, Quantity, Cutout2D or NDData."""
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
    given = read_maps(given, shape=np.shape(data))
    return _complete(data, given, estimated, error=error, cards=cards)


def exposure_of_hdus(hdus, location, given, estimated):
    """Make an exposure of an image in a FITS file of any maker."""
    given = dict(given)
    refuse(OF_SDSS & set(given), f'{file_name(hdus)!r}, not an SDSS image')
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
    # Cards of a camera with several detectors are in the first header.
    cards.band = cards.band or find_band(hdus[0].header)
    if is_word(given.get('background'), 'header'):
        given['background'] = cards.sky()
    given = {name: value for name, value in given.items() if value is not None}
    masks = [] if 'mask' in given else [plane.mask()]
    error = plane.uncertainty() if not {'bkg_error', 'weight'} & set(given) else None
    given = read_maps(given, shape=data.shape, unit=unit, cut=cut, hdus=hdus)
    card, exposed = trim_section(plane.header, shape)
    if exposed is not None:
        masks.append(np.ones(shape, dtype=bool))
        masks[-1][exposed] = False
    stated = check_mask('mask', given.get('mask'), data.shape)
    given['mask'] = join_masks(data.shape, join_masks(shape, *masks)[cut], stated)
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
    given = read_maps(given, shape=exposure.shape)
    fwhm, zero_point = _take_extras(given, exposure.unit)
    measured &= 'background' not in given
    if measured:
        given['background'] = measure_background(
            exposure.data, exposure.mask, quantum=step_of(exposure)
        )
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


def _take_extras(given, unit):
    """
    Take out of the arguments those that `Exposure` does not have.

    The PSF of a file is read; FWHM and zero point, which is checked, are returned.
    """
    refuse_both(given, 'psf', 'fwhm')
    fwhm, zero_point = (given.pop(name, None) for name in ('fwhm', 'zero_point'))
    if isinstance(given.get('psf'), str | os.PathLike):
        from bliss_astro.psf import read_psf

        location = parse_location(given['psf'])
        check_file(location.path, 'psf', 'a PSF, an image of one, or a file')
        band = as_band(given.get('band'))
        with open_fits(location.path, 'psf') as hdus:
            given['psf'] = read_psf(
                hdus, band=band and band.name, extension=location.extension
            )
    if zero_point is not None:
        value = getattr(zero_point, 'value', zero_point)
        zero_point = check_number('zero_point', value)
        good, allowed = abs(zero_point) <= _MAX_ZERO_POINT, f'+-{_MAX_ZERO_POINT}'
        require(good, 'zero_point', f'be finite and within {allowed}', zero_point)
        allowed = [n / time for n in (u.electron, *COUNTS) for time in (1, u.s)]
        if unit is not None and not any(map(unit.is_equivalent, allowed)):
            msg = f'zero_point was given although data is in {unit}, a flux'
            raise ValueError(f'{msg}; leave it out')
    return fwhm, zero_point


def _apply_extras(exposure, fwhm, zero_point):
    """Set the PSF by its width, and bring an exposure in counts to nanomaggies."""
    if fwhm is not None:
        exposure = exposure.replace(psf=psf_of_fwhm(fwhm, exposure))
    if zero_point is None:
        return exposure
    meta = exposure.meta | {'zero_point': zero_point}
    return scaled(exposure, magnitude_to_flux(zero_point), u.nmgy).replace(meta=meta)


def scaled(exposure, factor, unit):
    """Return an exposure in another unit, its numbers multiplied by a factor."""
    changes = {'effective_gain': exposure.effective_gain / factor}
    for name in ('data', *IN_UNIT):
        value = getattr(exposure, name)
        changes[name] = None if value is None else value * factor
    return exposure.replace(**changes, unit=unit)


# -- formats -----------------------------------------------------------------------


def _read_coadd(hdus, given):
    load_coadds()
    coadd = registry.get_reader(_COADD, Exposure)(hdus)
    return change_own_file(coadd, hdus, given, 'a coadd')


def _is_coadd(hdus):
    return hdus[0].header.get('BLISSTYP') == 'COADD'


# Readers of open FITS files, and how these are recognised.
_FITS_FORMATS = {_COADD: (_read_coadd, _is_coadd)}


def register_fits_format(name, reader, identifier):
    """
    Add a format of FITS files, by which `Exposure.read` makes exposures.

    The reader makes one of an open `~astropy.io.fits.HDUList` and the dictionary of
    what the user states of it; the identifier recognises an open HDU list.
    """
    _FITS_FORMATS[name] = (reader, identifier)
    _register(name)


def other_formats():
    """Names of formats of others, whose readers may take any keyword."""
    names = registry.get_formats(Exposure, 'Read')['Format']
    return {*map(str, names)} - {'fits', *_FITS_FORMATS}


def _register(name):
    registry.register_reader(
        name,
        Exposure,
        lambda path, **given: open_exposure(path, file_format=name, **given)[0],
    )


_register('fits')
registry.register_identifier('fits', Exposure, is_fits)
Exposure.read = registry.UnifiedReadWriteMethod(ExposureRead)
