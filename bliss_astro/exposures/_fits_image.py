# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images in FITS files: which HDU, which section of it, and the maps that go with it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits

from bliss_astro._arguments import require
from bliss_astro._fits import (
    absent,
    check_file,
    file_name,
    find_image,
    has_hdu,
    header_wcs,
    image_plane,
    open_fits,
)
from bliss_astro._warnings import warn

from ._header import parse_unit
from ._validate import check_shape, is_word, strip_unit

# file.fits[EXT][x1:x2,y1:y2], the notation of CFITSIO.
_LOCATION = re.compile(r'([^\[]*)(?:\[([^\[\]:*]+)\])?(?:\[([^\[\]]*[:*][^\[\]]*)\])?')
_RANGE = re.compile(r'\s*(?:(\*)|(\d+)\s*:\s*(\d+))\s*')
# Arguments in the unit of the image, those that are never numbers, and all that may be
# maps in files.
IN_UNIT, _ALWAYS_MAPS = ('background', 'bkg_error', 'saturation'), ('weight', 'mask')
MAPS = (*IN_UNIT, 'effective_gain', 'read_noise', *_ALWAYS_MAPS)
# Cards of the third axis of a cube.
_THIRD = re.compile(r'[A-Z]+3|(CD|PC)(3_\d|\d_3)')
# Names of extensions that go with an image, and are none of the sky.
_AUXILIARY = re.compile(
    r'(ERR|UNC|RMS|SIG|STD|NOISE|VAR|WEIGHT|WHT|WT|IVAR|INV|EXP|TIME|DQ|MASK|FLAG|CTX|CON'
    r'|BACK|BKG|SKY|PSF|MOD|RES|COV|HIT|AREA|CHI|WCS|D2IM|NPOL|SEG|CAT|GAIN|FLAT|NEXP)',
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Location:
    """
    An image in a file: ``file.fits[EXT][x1:x2,y1:y2]``.

    The extension is number, name, or name and version; the section the first and last
    pixel in x and in y, counted from 1 and inclusive, `None` for a whole axis.
    """

    path: str
    extension: object = None
    section: tuple | None = None

    def cut(self, shape):
        """Slices (rows, columns) of the section in an image of that shape."""
        slices = []
        section = self.section or (None, None)
        for axis, bounds, length in zip('xy', section, shape[::-1], strict=True):
            first, last = bounds or (1, length)
            good, name = 1 <= first <= last <= length, f'section in {axis}'
            name = f'{name} of {self.path!r}'
            require(good, name, f'lie within 1:{length}', f'{first}:{last}')
            slices.append(slice(first - 1, last))
        return slices[1], slices[0]


def parse_location(source, extension=None):
    """Take a file name apart that may name an extension and a section."""
    text = os.fspath(source)
    if isinstance(extension, str):
        extension = _parse_extension(extension)
    if not text.endswith(']') or Path(text).is_file():
        return Location(text, extension)
    found = _LOCATION.fullmatch(text)
    if found is None:
        raise ValueError(f'{text!r} must end in [EXT], [x1:x2,y1:y2] or both.')
    path, own, section = found.groups()
    if own is not None and extension is not None:
        msg = f'extension={extension!r} is given twice, by keyword and in {text!r}.'
        raise ValueError(msg)
    extension = extension if own is None else _parse_extension(own)
    return Location(path, extension, section and _parse_section(section, text))


def _parse_extension(text):
    """Number, name, or name and version of an extension."""
    name, comma, version = (part.strip() for part in text.partition(','))
    if comma and version.isdigit():
        return name, int(version)
    return int(name) if re.fullmatch(r'-?\d+', name) else name


def _parse_section(text, whole):
    """First and last pixel of both axes."""
    found = [_RANGE.fullmatch(part) for part in text.split(',')]
    good, name = len(found) == 2 and None not in found, f'the section of {whole!r}'
    require(good, name, 'be [x1:x2,y1:y2] from 1, or * for a whole axis', text)
    return tuple(None if one[1] else (int(one[2]), int(one[3])) for one in found)


def trim_section(header, shape):
    """
    Part of an image of that shape that its header declares exposed to the sky.

    Returns the card (``TRIMSEC`` or ``DATASEC``) and slices of rows and columns, or
    `None` twice if there is no card, or it does not fit the image, or is all of it.
    """
    for card in ('TRIMSEC', 'DATASEC'):
        try:
            section = _parse_section(str(header[card]).strip(' []'), card)
            cut = Location(card, None, section).cut(shape)
        except (KeyError, ValueError, fits.VerifyError):
            continue
        if cut != Location(card).cut(shape):
            return card, cut
    return None, None


@dataclass
class FITSPlane:
    """
    A two-dimensional image of a FITS file, with header, unit and file.

    Pixels are in the machine's byte order.
    """

    data: np.ndarray
    header: fits.Header
    unit: object
    hdus: fits.HDUList
    name: str

    def extension(self, name, dtype=None):
        """Return header and pixels of an extension that has this shape, or None."""
        data = image_plane(self.hdus[name]) if name in self.hdus else None
        if np.shape(data) != self.data.shape:
            return None
        return self.hdus[name].header, np.asarray(data, dtype=dtype)

    def wcs(self):
        """Return the WCS or None; with a warning where the header's has errors."""
        if not any(f'CTYPE{k}' in self.header for k in (1, 2, 3)):
            return None
        try:
            return header_wcs(self.header, self.data.shape, self.hdus)
        except Exception as error:  # noqa: BLE001
            # wcslib fails in many ways, none of which spoils the image.
            reason = ' '.join(str(error).split())
            warn(f'wcs of {self.name!r} cannot be used: {reason}')
            return None

    def mask(self):
        """Return the pixels marked in the extension MASK, or None."""
        found = self.extension('MASK')
        return None if found is None else ~(found[1] == 0)

    def uncertainty(self):
        """Return the standard deviations of UNCERT, as CCDData writes it, or None."""
        found = self.extension('UNCERT', float)
        if found is None:
            return None
        header, values = found
        powers = {'VarianceUncertainty': 0.5, 'InverseVariance': -0.5}
        with np.errstate(invalid='ignore', divide='ignore'):
            return values ** powers.get(str(header.get('UTYPE')), 1)


def cube_planes(source, parameter):
    """HDUs of the planes of the first cube of a file, or of an HDU."""
    key = None
    if isinstance(source, str | os.PathLike):
        location = parse_location(source)
        source, key = location.path, location.extension
    elif not isinstance(source, fits.HDUList):
        source = fits.HDUList([source])
    with open_fits(source, parameter) as hdus:
        some = hdus if key is None else [hdus[key]] if has_hdu(hdus, key) else []
        cubes = (one for one in some if one.is_image and np.ndim(one.data) == 3)
        hdu = next(cubes, None)
        if hdu is None:
            raise ValueError(absent(hdus, parameter, 'cube (F, ny, nx) of bands'))
        header = hdu.header.copy()
        for card in filter(_THIRD.fullmatch, list(header)):
            del header[card]
        return [fits.ImageHDU(plane, header) for plane in hdu.data]


def find_plane(hdus, extension, *, parameter='path'):
    """
    Find an image: by number or name of its HDU, or the first there is.

    A warning names other images that may be meant, and unknown units.
    """
    name, hdu = file_name(hdus), find_image(hdus, extension, parameter)
    if extension is None and parameter == 'data':
        _name_others(hdus, hdus.index(hdu), name)
    data = image_plane(hdu)
    data = np.array(data, dtype=data.dtype.newbyteorder('='))
    try:
        text = hdu.header.get('BUNIT')
        unit = parse_unit('' if isinstance(text, fits.card.Undefined | None) else text)
    except (ValueError, fits.VerifyError) as error:
        unit = None
        warn(f'header cards ignored: BUNIT {error}; fluxes of {name!r} have none')
    return FITSPlane(data, hdu.header, unit, hdus, name)


def _name_others(hdus, number, name):
    """Warn of images after the first that are not known to go with it."""
    # By their headers: the pixels of a whole camera need not be read for this.
    n_others = sum(
        hdu.is_image
        and sum(length > 1 for length in hdu.shape) == 2
        and not _AUXILIARY.match(hdu.name)
        for hdu in hdus[number + 1 :]
    )
    if n_others:
        warn(
            f'data: extension {number} of {name!r} was taken, the first of '
            f'{n_others + 1} images: name one by extension, or as file.fits[EXT]'
        )


def read_maps(given, *, shape, unit=None, cut=None, hdus=None):
    """
    Read the maps that were given as files, and leave out ``background='measure'``.

    Numbers that go with an image of a file (``hdus``) lose their unit; maps of the
    whole file are ``cut``.
    """
    given = dict(given)
    if is_word(given.get('background'), 'header'):
        msg = "background='header' needs a FITS file with a card of the sky"
        raise ValueError(msg)
    if is_word(given.get('background'), 'measure'):
        del given['background']
    for name in (name for name in MAPS if name in given):
        value, file_unit = given[name], None
        if isinstance(value, str | os.PathLike):
            value, file_unit = _read_map(value, name, shape=shape, cut=cut, hdus=hdus)
            if name == 'mask':
                # Bit masks of files: whatever is marked is bad.
                value = ~(np.asarray(value) == 0)
            elif file_unit is not None:
                value = value * file_unit
        elif cut is not None and np.ndim(value) == 2 and np.shape(value) != shape:
            value = np.asanyarray(value)[cut]
        if hdus is not None and name in IN_UNIT:
            # A file may have a unit that the image lacks.
            value = strip_unit(name, value, unit or file_unit or u.one)
        given[name] = value
    return given


def _read_map(source, parameter, *, shape, cut=None, hdus=None):
    """
    Read a map that goes with an image of a shape, and its unit.

    The source is ``file.fits[EXT][x1:x2,y1:y2]``, or number or name of an extension of
    the image's own ``hdus``. Of a map of the whole file the ``cut`` is taken.
    """
    location = parse_location(source)
    own = hdus is not None and not Path(location.path).exists()
    key = _parse_extension(location.path)
    if own and has_hdu(hdus, key):
        plane = find_plane(hdus, key, parameter=parameter)
    elif own and '[' not in os.fspath(source) and not Path(location.path).suffix:
        raise ValueError(absent(hdus, parameter, f'extension {source}'))
    else:
        kinds = 'an array or a file'
        kinds = kinds if parameter in _ALWAYS_MAPS else f'a number, {kinds}'
        check_file(location.path, parameter, kinds)
        with open_fits(location.path, parameter) as opened:
            plane = find_plane(opened, location.extension, parameter=parameter)
    values = plane.data[location.cut(plane.data.shape)]
    if values.shape != shape and cut is not None:
        values = values[cut]
    check_shape(parameter, values, shape)
    return values, plane.unit
