# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images in FITS files: which HDU, which part of it, and the maps that go with it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from bliss_astro._warnings import warn

from .._fits import check_file, file_name, header_wcs, list_hdus, open_fits
from ._units import parse_unit

__all__ = [
    'FITSPlane',
    'Location',
    'find_plane',
    'parse_location',
    'plane_of',
    'read_map',
]

# file.fits[EXT][x1:x2,y1:y2], the notation of CFITSIO.
_BRACKETS = re.compile(r'\[([^\[\]]*)\]')
# What arguments that may be files are else, those of the first kind never numbers.
_ALWAYS_MAPS = ('mask', 'weight')
_NUMBER_OR_MAP = 'a number, an array or a file'
_RANGE = re.compile(r'\s*(?:(\*)|(\d+)\s*:\s*(\d+))\s*')


@dataclass(frozen=True)
class Location:
    """
    An image in a file: ``file.fits[EXT][x1:x2,y1:y2]``.

    Parameters
    ----------
    path : str
        The file.

    extension : int, str, tuple or None
        The HDU by number, name, or name and version.

    section : tuple of tuple or None
        First and last pixel in x and in y, counted from 1 and inclusive, as
        CFITSIO counts them; `None` for a whole axis.
    """

    path: str
    extension: object = None
    section: tuple | None = None

    def cut(self, shape):
        """
        Return the section as slices of rows and columns.

        Parameters
        ----------
        shape : tuple of int
            The shape (ny, nx) of the image.

        Returns
        -------
        slices : tuple of slice
            Rows and columns.

        Raises
        ------
        ValueError
            If the section reaches beyond the image.
        """
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
        A path, perhaps followed by ``[EXT]`` and ``[x1:x2,y1:y2]``.

    extension : int, str, tuple or None
        The extension, if given apart.

    Returns
    -------
    location : `Location`
        Where the image is.

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
    """
    Return a number, a name, or name and version.
    """
    name, comma, version = (part.strip() for part in text.partition(','))
    if comma and version.isdigit():
        return name, int(version)
    return int(name) if re.fullmatch(r'-?\d+', name) else name


def _parse_section(text, whole):
    """
    Return first and last pixel of both axes.
    """
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
    A two-dimensional image of a FITS file and what its header says of it.

    Parameters
    ----------
    data : `~numpy.ndarray`, shape (ny, nx)
        The image, in the machine's byte order.

    header : `~astropy.io.fits.Header`
        Its header.

    unit : `~astropy.units.Unit` or None
        The unit of ``BUNIT``.

    hdus : `~astropy.io.fits.HDUList`
        The open file.

    name : str
        The name of the file.
    """

    data: np.ndarray
    header: fits.Header
    unit: object
    hdus: fits.HDUList
    name: str

    def extension(self, name):
        """
        Return an extension that has the shape of the image, or `None`.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        hdu : HDU or None
            The extension.
        """
        if name not in self.hdus or not self.hdus[name].is_image:
            return None
        hdu = self.hdus[name]
        return hdu if np.shape(plane_of(hdu)) == self.data.shape else None

    def wcs(self):
        """
        Return the WCS of the image, or `None` with a warning.

        Returns
        -------
        wcs : `~astropy.wcs.WCS` or None
            The WCS; `None` without a warning if the header has none.
        """
        if not any(f'CTYPE{k}' in self.header for k in (1, 2, 3)):
            return None
        try:
            return header_wcs(self.header, self.data.shape, self.hdus)
        except Exception as error:  # noqa: BLE001
            # wcslib fails in many ways, none of which spoils the image.
            reason = ' '.join(str(error).split())
            warn(f'wcs of {self.name!r} cannot be used: {reason}')
            return None


def plane_of(hdu):
    """
    Return the two-dimensional image of an HDU, or `None`.

    Parameters
    ----------
    hdu : HDU
        Any HDU.

    Returns
    -------
    data : `~numpy.ndarray`, shape (ny, nx), or None
        The image, without axes of a single pixel.
    """
    if not hdu.is_image or hdu.data is None:
        return None
    data = hdu.data
    while data.ndim > 2 and 1 in data.shape:
        data = np.squeeze(data, data.shape.index(1))
    return data if data.ndim == 2 else None


# Names of extensions that go with an image, and are none of the sky.
_AUXILIARY = re.compile(
    r'(ERR|UNC|RMS|SIG|STD|NOISE|VAR|WEIGHT|WHT|WT|IVAR|INV|EXP|TIME|DQ|MASK|FLAG|CTX|CON'
    r'|BACK|BKG|SKY|PSF|MOD|RES|COV|HIT|AREA|CHI|WCS|D2IM|NPOL|SEG|CAT|GAIN|FLAT|NEXP)',
    re.IGNORECASE,
)


def find_plane(hdus, extension, *, parameter='path'):
    """
    Find the image that is meant: by number or name, or the first there is.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.

    extension : int, str, tuple or None
        Which HDU; `None` for the first with a two-dimensional image.

    parameter : str, optional
        The caller's argument, for messages.

    Returns
    -------
    plane : `FITSPlane`
        The image.

    Raises
    ------
    ValueError
        If there is no such HDU, or it is no image.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If nobody knows the unit.
    """
    name = file_name(hdus)
    if extension is not None:
        try:
            hdu = hdus[extension]
        except (KeyError, IndexError) as error:
            msg = (
                f'{parameter}: {name!r} has no extension {extension}; it has '
                f'{list_hdus(hdus)}'
            )
            raise ValueError(msg) from error
        data = plane_of(hdu)
        if data is None:
            msg = (
                f'{parameter}: extension {extension} of {name!r} is no '
                f'two-dimensional image; the file has {list_hdus(hdus)}'
            )
            raise ValueError(msg)
    else:
        for hdu in hdus:
            data = plane_of(hdu)
            if data is not None:
                break
        else:
            msg = (
                f'{parameter}: {name!r} has no two-dimensional image; it has '
                f'{list_hdus(hdus)}'
            )
            if any(hdu.is_image and np.ndim(hdu.data) > 2 for hdu in hdus):
                msg += '; take one plane out of the cube first'
            raise ValueError(msg)
        if parameter == 'data':
            _name_others(hdus, hdus.index(hdu), name)
    data = np.array(data, dtype=data.dtype.newbyteorder('='))
    return FITSPlane(data, hdu.header, _unit(hdu.header, name), hdus, name)


def _name_others(hdus, number, name):
    """
    Warn of images after the first that are not known to go with it.
    """
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


def _unit(header, name):
    """
    Read BUNIT; an unknown one is left out with a warning.
    """
    text = header.get('BUNIT', '')
    try:
        return parse_unit(text)
    except ValueError:
        warn(
            f'header cards ignored: BUNIT {text!r} is no unit that astropy knows; '
            f'fluxes of {name!r} have none'
        )
        return None


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
        The shape (ny, nx) of the image.

    cut : tuple of slice, optional
        The part of its file that the image is, which is taken of the map too
        unless that has the shape of the part.

    hdus : `~astropy.io.fits.HDUList`, optional
        The file of the image.

    Returns
    -------
    values : `~numpy.ndarray`, shape (ny, nx)
        The map.

    unit : `~astropy.units.Unit` or None
        Its unit.

    Raises
    ------
    OSError
        If the file is absent or damaged.

    ValueError
        If there is no such map, or it has another shape.
    """
    location = parse_location(source)
    key = _parse_extension(location.path)
    own = hdus is not None and not Path(location.path).exists()
    if own and _has(hdus, key):
        plane = find_plane(hdus, key, parameter=parameter)
        name = f'extension {location.path} of {plane.name!r}'
    elif own and '[' not in os.fspath(source) and not Path(location.path).suffix:
        msg = (
            f'{parameter}: {file_name(hdus)!r} has no extension {source}; it has '
            f'{list_hdus(hdus)}'
        )
        raise ValueError(msg)
    else:
        kinds = 'an array or a file' if parameter in _ALWAYS_MAPS else _NUMBER_OR_MAP
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
    """
    Tell whether a file has an HDU of that number or name.
    """
    try:
        hdus[key]
    except (KeyError, IndexError):
        return False
    return True
