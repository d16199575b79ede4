# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images in FITS files: which HDU, which section of it, and the maps that go with it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from bliss_astro._fits import check_file, file_name, header_wcs, list_hdus, open_fits
from bliss_astro._warnings import warn

from ._header import parse_unit

__all__ = []

# file.fits[EXT][x1:x2,y1:y2], the notation of CFITSIO.
_BRACKETS = re.compile(r'\[([^\[\]]*)\]')
_RANGE = re.compile(r'\s*(?:(\*)|(\d+)\s*:\s*(\d+))\s*')
# Arguments that are never numbers.
_ALWAYS_MAPS = ('mask', 'weight')
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

    Parameters
    ----------
    path : str
        The file.

    extension : int, str, tuple or None
        HDU by number, name, or name and version.

    section : tuple of tuple or None
        First and last pixel in x and in y, counted from 1 and inclusive, as
        CFITSIO counts them; `None` for a whole axis.
    """

    path: str
    extension: object = None
    section: tuple | None = None

    def cut(self, shape):
        """Slices (rows, columns) of the section in an image of that shape."""
        if self.section is None:
            return slice(0, shape[0]), slice(0, shape[1])
        slices = []
        for axis, bounds, length in zip('xy', self.section, shape[::-1], strict=True):
            first, last = bounds or (1, length)
            if not 1 <= first <= last <= length:
                msg = (
                    f'section {first}:{last} in {axis} of {self.path!r} must lie '
                    f'within 1:{length}, first to last.'
                )
                raise ValueError(msg)
            slices.append(slice(first - 1, last))
        return slices[1], slices[0]


def parse_location(source, extension=None):
    """
    Take a file name apart that may name an extension and a section.

    Parameters
    ----------
    source : str or `~os.PathLike`
        Path, perhaps followed by ``[EXT]`` and ``[x1:x2,y1:y2]``.

    extension : int, str, tuple or None
        Extension, if given apart.

    Returns
    -------
    location : `Location`
        Place of the image.

    Raises
    ------
    ValueError
        If the brackets make no sense, or the extension is given twice.
    """
    text = os.fspath(source)
    if isinstance(extension, str):
        extension = _parse_extension(extension)
    if not text.endswith(']') or Path(text).is_file():
        return Location(text, extension)
    path = text[: text.index('[')]
    parts = _BRACKETS.findall(text[len(path) :])
    if ''.join(f'[{part}]' for part in parts) != text[len(path) :] or len(parts) > 2:
        msg = f'{text!r} must end in [EXT], [x1:x2,y1:y2] or both; got {text!r}.'
        raise ValueError(msg)
    section = None
    if ':' in parts[-1] or '*' in parts[-1]:
        section = _parse_section(parts.pop(), text)
    if parts:
        if extension is not None:
            msg = f'extension={extension!r} is given twice, by keyword and in {text!r}.'
            raise ValueError(msg)
        extension = _parse_extension(parts[0])
    return Location(path, extension, section)


def _parse_extension(text):
    """Number, name, or name and version of an extension."""
    name, comma, version = (part.strip() for part in text.partition(','))
    if comma and version.isdigit():
        return name, int(version)
    return int(name) if re.fullmatch(r'-?\d+', name) else name


def _parse_section(text, whole):
    """First and last pixel of both axes."""
    found = [_RANGE.fullmatch(part) for part in text.split(',')]
    if len(found) != 2 or None in found:
        msg = (
            f'the section [{text}] of {whole!r} must be [x1:x2,y1:y2] in pixels that '
            'count from 1, or * for a whole axis.'
        )
        raise ValueError(msg)
    return tuple(None if one[1] else (int(one[2]), int(one[3])) for one in found)


@dataclass
class FITSPlane:
    """
    A two-dimensional image of a FITS file and its header.

    Parameters
    ----------
    data : `~numpy.ndarray`, shape (ny, nx)
        Image, in the machine's byte order.

    header : `~astropy.io.fits.Header`
        Its header.

    unit : `~astropy.units.Unit` or None
        Unit of ``BUNIT``.

    hdus : `~astropy.io.fits.HDUList`
        Open file.

    name : str
        Name of the file.
    """

    data: np.ndarray
    header: fits.Header
    unit: object
    hdus: fits.HDUList
    name: str

    def extension(self, name):
        """Return the HDU of an extension that has the shape of the image, or None."""
        if name not in self.hdus:
            return None
        hdu = self.hdus[name]
        return hdu if np.shape(_plane_of(hdu)) == self.data.shape else None

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
        hdu = self.extension('MASK')
        if hdu is None:
            return None
        return ~(np.asarray(hdu.data).reshape(self.data.shape) == 0)

    def uncertainty(self):
        """Return the standard deviations of UNCERT, as CCDData writes it, or None."""
        hdu = self.extension('UNCERT')
        if hdu is None:
            return None
        kind = str(hdu.header.get('UTYPE', 'StdDevUncertainty'))
        values = np.asarray(hdu.data, dtype=float).reshape(self.data.shape)
        with np.errstate(invalid='ignore', divide='ignore'):
            if kind == 'VarianceUncertainty':
                return np.sqrt(values)
            return 1 / np.sqrt(values) if kind == 'InverseVariance' else values


def _plane_of(hdu):
    """Two-dimensional image of an HDU, without axes of one pixel, or None."""
    if not hdu.is_image or hdu.data is None:
        return None
    data = hdu.data
    while data.ndim > 2 and 1 in data.shape:
        data = np.squeeze(data, data.shape.index(1))
    return data if data.ndim == 2 else None


def find_plane(hdus, extension, *, parameter='path'):
    """
    Find an image: by number or name of its HDU, or the first there is.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        Open file.

    extension : int, str, tuple or None
        HDU; `None` for the first with a two-dimensional image.

    parameter : str, optional
        The caller's argument, for messages.

    Returns
    -------
    plane : `FITSPlane`
        Image. A warning names other images that may be meant, and unknown units.
    """
    name = file_name(hdus)
    if extension is None:
        hdu = next((one for one in hdus if _plane_of(one) is not None), None)
        if hdu is None:
            msg = _absent(hdus, parameter, 'two-dimensional image')
            if any(one.is_image and np.ndim(one.data) > 2 for one in hdus):
                msg += '; take one plane out of the cube first'
            raise ValueError(msg)
        if parameter == 'data':
            _name_others(hdus, hdus.index(hdu), name)
    elif _has(hdus, extension):
        hdu = hdus[extension]
    else:
        raise ValueError(_absent(hdus, parameter, f'extension {extension}'))
    data = _plane_of(hdu)
    if data is None:
        msg = (
            f'{parameter}: extension {extension} of {name!r} is no '
            f'two-dimensional image; the file has {list_hdus(hdus)}'
        )
        raise ValueError(msg)
    data = np.array(data, dtype=data.dtype.newbyteorder('='))
    text = hdu.header.get('BUNIT', '')
    try:
        unit = parse_unit(text)
    except ValueError:
        unit = None
        warn(
            f'header cards ignored: BUNIT {text!r} is unknown to astropy; '
            f'fluxes of {name!r} have none'
        )
    return FITSPlane(data, hdu.header, unit, hdus, name)


def _absent(hdus, parameter, wanted):
    """Message of a file that does not have what is wanted."""
    return f'{parameter}: {file_name(hdus)!r} has no {wanted}; it has {list_hdus(hdus)}'


def _name_others(hdus, number, name):
    """Warn of images after the first that are not known to go with it."""
    # By their headers: the pixels of a whole camera need not be read for this.
    others = [
        k
        for k, hdu in enumerate(hdus)
        if k > number
        and hdu.is_image
        and sum(length > 1 for length in hdu.shape) == 2
        and not _AUXILIARY.match(hdu.name)
    ]
    if not others:
        return
    more = f'{len(others)} more extensions hold one'
    if len(others) == 1:
        more = f'extension {others[0]} holds one too'
    warn(
        f'data: extension {number} of {name!r} was taken, the first image; {more}: '
        'name it by extension, or as file.fits[EXT]'
    )


def read_map(source, parameter, *, shape, cut=None, hdus=None):
    """
    Read a map that goes with an image.

    Parameters
    ----------
    source : str or `~os.PathLike`
        ``file.fits[EXT][x1:x2,y1:y2]``; or number or name of an extension of the
        image's own file.

    parameter : str
        The caller's argument, for messages.

    shape : tuple of int
        Shape (ny, nx) of the image.

    cut : tuple of slice, optional
        Part of its file that the image is; the same part of the map is used
        unless that has the shape of the part.

    hdus : `~astropy.io.fits.HDUList`, optional
        File of the image.

    Returns
    -------
    values : `~numpy.ndarray`, shape (ny, nx)
        The map.

    unit : `~astropy.units.Unit` or None
        Its unit.
    """
    location = parse_location(source)
    own = hdus is not None and not Path(location.path).exists()
    key = _parse_extension(location.path)
    if own and _has(hdus, key):
        plane = find_plane(hdus, key, parameter=parameter)
        name = f'extension {location.path} of {plane.name!r}'
    elif own and '[' not in os.fspath(source) and not Path(location.path).suffix:
        raise ValueError(_absent(hdus, parameter, f'extension {source}'))
    else:
        kinds = 'an array or a file'
        kinds = kinds if parameter in _ALWAYS_MAPS else f'a number, {kinds}'
        check_file(location.path, parameter, kinds)
        with open_fits(location.path, parameter) as opened:
            plane = find_plane(opened, location.extension, parameter=parameter)
        name = repr(os.fspath(source))
    values = plane.data[location.cut(plane.data.shape)]
    if values.shape != shape and cut is not None:
        values = values[cut]
    if values.shape != shape:
        msg = (
            f'{parameter} must have the shape of data, {shape}; {name} has '
            f'{plane.data.shape}.'
        )
        raise ValueError(msg)
    return values, plane.unit


def _has(hdus, key):
    """Whether a file has an HDU of that number or name."""
    try:
        hdus[key]
    except (KeyError, IndexError):
        return False
    return True
