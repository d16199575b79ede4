# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of any image: files through astropy's unified input and output, and arrays.
"""

import os

from astropy.io import fits, registry
from astropy.io.fits.connect import is_fits

from bliss_astro._fits import check_file, file_name, open_fits
from bliss_astro._plugins import load_coadds, load_readers

from ._exposure import Exposure
from ._fits_image import parse_location
from ._input import change_known, exposure_of_array, exposure_of_hdus
from ._validate import must, refuse

# Format of coadds and the module that registers its reader.
_COADD = 'bliss_astro.coadd'
_HDUS = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)
# Arguments that may be given for files of this package.
_FOR_OWN_FILES = ('psf', 'band', 'fwhm', 'mask', 'saturation', 'background')


class ExposureRead(registry.UnifiedReadWrite):
    """
    Read an exposure from a file.

    Any FITS image is read, plain or compressed: the first two-dimensional one, or
    that of ``extension``, with its unit, WCS, the extensions MASK and UNCERT, and the
    header cards of gain, saturation level and read noise where they are sound. Frames
    and corrected frames of SDSS, and the files that this package writes, are
    recognised by their content. Numbers neither in the file nor given are estimated;
    ``meta['estimated']`` holds their sources. Other formats are added by
    `astropy.io.registry.register_reader`.

    Parameters
    ----------
    path : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        File. In the notation of CFITSIO an extension and a section may follow,
        ``'file.fits[SCI][101:400,201:500]'``: first x, then y, pixels that count from
        1, the last one included. As a slice that is ``[200:500, 100:400]``.

    format : str, optional
        ``'fits'``, ``'sdss.frame'``, ``'bliss_astro.simulated'``,
        ``'bliss_astro.coadd'`` or a registered one; by default by the content.

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

        For SDSS images the arguments of `Exposure.from_sdss`.

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

    Arguments given are those of `Exposure.read`, none `None`; sources of the others are
    added to ``estimated``.
    """
    if isinstance(data, _HDUS):
        data = fits.HDUList([data])
    if isinstance(data, str | os.PathLike | fits.HDUList):
        data, _ = open_exposure(data, parameter='data', **given)
        given = {}
    if 'extension' in given:
        kind = f'of type {type(data).__name__} and no file'
        msg = f'extension was given although data is {kind}; leave it out'
        raise ValueError(msg)
    if not isinstance(data, Exposure):
        return exposure_of_array(data, given, estimated)
    refuse(given, 'an Exposure', allowed=('psf', 'fwhm') if data.psf is None else ())
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
        return _read_hdus(path, location, file_format, given)
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
        return _read_hdus(hdus, location, file_format, given)


def _read_hdus(hdus, location, file_format, given):
    """Read a FITS file: one that states everything itself, or any image."""
    if file_format is None and location.extension is None:
        names = (name for name, (_, is_it) in _FITS_FORMATS.items() if is_it(hdus))
        file_format = next(names, 'fits')
    if file_format in (None, 'fits'):
        estimated = {}
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
    if isinstance(given.get('background'), str) and given['background'] == 'header':
        del given['background']
    refuse(given, f'{file_name(hdus)!r}, {kind}', allowed=_FOR_OWN_FILES)
    return change_known(exposure, given)


def _read_coadd(hdus, given):
    load_coadds()
    coadd = registry.get_reader(_COADD, Exposure)(hdus)
    return change_own_file(coadd, hdus, given, 'a coadd')


def _is_coadd(hdus):
    return hdus[0].header.get('BLISSTYP') == 'COADD'


# Readers of open FITS files, and how these are recognised.
_FITS_FORMATS = {}


def register_fits_format(name, reader, identifier):
    """
    Add a format of FITS files, by which `Exposure.read` makes exposures.

    The reader makes one of an open `~astropy.io.fits.HDUList` and the dictionary of
    what the user states of it; the identifier recognises an open HDU list.
    """
    _FITS_FORMATS[name] = (reader, identifier)
    if name != _COADD:
        _register(name)


def _register(name):
    registry.register_reader(
        name,
        Exposure,
        lambda path, **given: open_exposure(path, file_format=name, **given)[0],
    )


register_fits_format(_COADD, _read_coadd, _is_coadd)
_register('fits')
registry.register_identifier('fits', Exposure, is_fits)
Exposure.read = registry.UnifiedReadWriteMethod(ExposureRead)
