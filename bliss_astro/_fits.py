# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
FITS files: opening with checks of damage, cards, names, WCS.
"""

import bz2
import contextlib
import functools
import gzip
import io
import itertools
import lzma
import math
import os
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning

from bliss_astro._arguments import must
from bliss_astro._threads import map_threads, n_workers, use_threads
from bliss_astro._warnings import collect_warnings, warn

CREATOR = 'bliss_astro'
"""Value of the card CREATOR of the files that the package writes."""

# Marks of a block and of the end of a bzip2 stream, 48 bits each at any bit; 32 bits of
# a check sum follow.
_BZ2_BLOCK, _BZ2_END = 0x314159265359, 0x177245385090
# Bytes of a block and the largest number of axes and columns, by the FITS standard.
_BLOCK, _MAX_AXES = 2880, 999


def card_number(header, name, default=None):
    """Return the finite number of a header card, or the default without one."""
    try:
        value = header.get(name)
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, VerifyError):
        return default
    return number if math.isfinite(number) else default


def file_name(source):
    """Return the name of a path or of an open HDU list, for messages."""
    if isinstance(source, fits.HDUList):
        return source.filename() or '<HDUList in memory>'
    return str(source)


def check_file(path, parameter, kinds):
    """Raise `OSError` if the file of an argument, which may be ``kinds``, is absent."""
    path = Path(path)
    if path.is_dir():
        msg = f'{parameter} must be {kinds}; {str(path)!r} is a folder.'
        raise IsADirectoryError(msg)
    if not path.is_file():
        msg = f'{parameter} must be {kinds}; there is no file {str(path)!r}.'
        raise FileNotFoundError(msg)


def list_hdus(hdus):
    """Return number, name, kind and size of each HDU of an open file, as text."""
    words = []
    for k, hdu in enumerate(hdus):
        shape = getattr(hdu.data, 'shape', None)
        name = f' {hdu.name}' if hdu.name else ''
        kind = 'table' if not hdu.is_image else 'image' if shape else 'nothing'
        size = f' {" x ".join(map(str, shape[::-1]))}' if hdu.is_image and shape else ''
        words.append(f'{k}{name}: {kind}{size}')
    return ', '.join(words)


def image_plane(hdu):
    """Two-dimensional image of an HDU, without axes of one pixel, or None."""
    if not hdu.is_image or hdu.data is None:
        return None
    data = hdu.data
    while data.ndim > 2 and 1 in data.shape:
        data = np.squeeze(data, data.shape.index(1))
    return data if data.ndim == 2 else None


def find_image(hdus, extension, parameter, wanted='two-dimensional image'):
    """Return the HDU of an image: by number or name, or the first there is."""
    if extension is None:
        hdu = next((one for one in hdus if image_plane(one) is not None), None)
        if hdu is None:
            text = absent(hdus, parameter, wanted)
            if any(one.is_image and np.ndim(one.data) > 2 for one in hdus):
                text += '; take one plane out of the cube first'
            raise ValueError(text)
        return hdu
    if not has_hdu(hdus, extension):
        raise ValueError(absent(hdus, parameter, f'extension {extension}'))
    if image_plane(hdus[extension]) is None:
        msg = (
            f'{parameter}: extension {extension} of {file_name(hdus)!r} is no '
            f'two-dimensional image; the file has {list_hdus(hdus)}'
        )
        raise ValueError(msg)
    return hdus[extension]


def has_hdu(hdus, key):
    """Whether a file has an HDU of that number or name."""
    try:
        hdus[key]
    except (KeyError, IndexError):
        return False
    return True


def absent(hdus, parameter, wanted):
    """Message of a file that does not have what is wanted."""
    return f'{parameter}: {file_name(hdus)!r} has no {wanted}; it has {list_hdus(hdus)}'


def wrong_type(source, parameter, expected, found):
    """Make the error for a sound file of another kind, given as ``parameter``."""
    return ValueError(f'{parameter}={file_name(source)!r} is not {expected}: {found}.')


@contextlib.contextmanager
def open_fits(source, parameter, only=None):
    """
    Open a FITS file, plain or compressed, with all its data read eagerly.

    Or ``only`` those of one extension, as of a file of many detectors.

    Compression is recognised by content; an open HDU list is used as it is. Files that
    are absent, damaged or no FITS are an `OSError` with the name of the ``parameter``.
    """
    if isinstance(source, fits.HDUList):
        yield source
        return
    if not isinstance(source, (str, os.PathLike)):
        allowed = 'be a path or an astropy HDUList'
        raise TypeError(must(parameter, allowed, type(source).__name__))
    path = Path(source)
    check_file(path, parameter, 'a file')
    with path.open('rb') as file:
        try:
            file = _decompressed(file)
            _check_headers(file)
            hdus = _load(file, only)
        except Exception as error:
            # Parsers and decompressors fail in many ways on damaged files.
            msg = (
                f'{parameter}={str(path)!r} cannot be read as FITS; it is truncated, '
                f'damaged, or of another format ({error or type(error).__name__}).'
            )
            raise OSError(msg) from error
        with hdus:
            _drop_unreadable(hdus, path)
            yield hdus


def _decompressed(file):
    """Return a file, or the content of a compressed one under the name of that."""
    start = file.read(6)
    file.seek(0)
    # Whole files are decompressed, so that damage anywhere in one is found.
    for magic, decompress in (
        (b'\x1f\x8b', gzip.decompress),
        (b'BZh', _bunzip),
        (b'\xfd7zXZ', lzma.decompress),
    ):
        if start.startswith(magic):
            content = io.BytesIO(decompress(file.read()))
            content.name = str(file.name)
            return content
    return file


def _bunzip(content):
    """Decompress a file of bzip2, its blocks in threads."""
    with use_threads():
        if n_workers() > 1:
            with contextlib.suppress(OSError, ValueError):
                decompress = functools.partial(_decompress_block, content)
                return b''.join(map_threads(decompress, _bz2_blocks(content)))
    # One thread; several streams in one file; or damage.
    return bz2.decompress(content)


def _bz2_blocks(content):
    """First and last bit of each block of a bzip2 stream, or `ValueError`."""
    n = 8 * len(content)
    places = _find_bits(content, _BZ2_BLOCK)
    places += [k for k in range(n - 87, n - 79) if _bits(content, k, 48) == _BZ2_END]
    spans, total = list(itertools.pairwise(places)), 0
    for first, _ in spans:
        crc = _bits(content, first + 48, 32)
        total = ((total << 1 | total >> 31) & 0xFFFFFFFF) ^ crc
    stated = _bits(content, places[-1] + 48, 32) if places else None
    if places != sorted(places) or total != stated:
        msg = 'not one stream of bzip2 with its check sum'
        raise ValueError(msg)
    return spans


def _decompress_block(content, span):
    """Decompress a block of a bzip2 stream as one of its own."""
    first, stop = span
    crc = _bits(content, first + 48, 32)
    # The sum of a stream of one block is that of the block.
    stream = _bits(content, first, stop - first) << 80 | _BZ2_END << 32 | crc
    n_bytes, fill = -(-(stop - first + 80) // 8), -(stop - first + 80) % 8
    return bz2.decompress(content[:4] + (stream << fill).to_bytes(n_bytes, 'big'))


def _bits(content, first, n):
    """Number of n bits of a file."""
    number = int.from_bytes(content[first // 8 : -(-(first + n) // 8)], 'big')
    return number >> -(first + n) % 8 & ((1 << n) - 1)


def _find_bits(content, mark):
    """Places of 48 bits in a file, ascending."""
    places = []
    for shift in range(8):
        # Five whole bytes of the mark that begins after so many bits of a byte.
        whole = (mark >> shift & (1 << 40) - 1).to_bytes(5, 'big')
        at = content.find(whole, 1)
        while at >= 0:
            first = 8 * (at - 1) + shift
            if _bits(content, first, 48) == mark:
                places.append(first)
            at = content.find(whole, at + 1)
    return sorted(places)


def _check_headers(file):
    """Raise an error where a header promises other data than the file holds."""
    # Astropy spends minutes on damaged numbers of axes or columns, and ends in its own
    # errors where the tiles of a compressed image are not those of its size.
    size, place = file.seek(0, os.SEEK_END), 0
    while place + _BLOCK <= size:
        file.seek(place)
        if place and file.read(8) != b'XTENSION':
            break  # records that are no HDU may follow the last
        file.seek(place)
        with collect_warnings(VerifyWarning):
            header = fits.Header.fromfile(file)
            shape, packed, _ = (
                _axes(header, name) for name in ('NAXIS', 'ZNAXIS', 'TFIELDS')
            )
        n_bytes = abs(header.get('BITPIX', 8)) // 8 * header.get('GCOUNT', 1)
        n_bytes *= header.get('PCOUNT', 0) + (math.prod(shape) if shape else 0)
        left = size - file.tell()
        if not 0 <= n_bytes <= left:
            msg = f'truncated: a header promises {n_bytes} bytes, {left} are left'
            raise EOFError(msg)
        # By default a tile is a row of the image.
        tiles = [
            header.get(f'ZTILE{k + 1}', 1 if k else n) for k, n in enumerate(packed)
        ]
        n_tiles = math.prod(
            -(-n // max(m, 1)) for n, m in zip(packed, tiles, strict=True)
        )
        if packed and n_tiles != shape[1]:
            raise ValueError(f'a compressed image of {n_tiles} tiles has {shape[1]}')
        place = file.tell() + -(-n_bytes // _BLOCK) * _BLOCK
    file.seek(0)


def _axes(header, name):
    """Return the lengths of the axes of a header."""
    n_axes = header.get(name, 0)
    if not 0 <= n_axes <= _MAX_AXES:
        raise ValueError(f'{name} is {n_axes}, beyond 0 to {_MAX_AXES}')
    return [header.get(f'{name}{k + 1}', 0) for k in range(n_axes)]


def _load(file, only=None):
    """Open a FITS file and touch all its data, with truncation as an error."""
    # Astropy only warns of some files that end too early. The warnings are
    # collected rather than raised, because raising would leave it half open.
    with collect_warnings() as texts:
        hdus = fits.open(file, memmap=False)
        try:
            verify_checksums(hdus)
            one = only is not None and has_hdu(hdus, only)
            for hdu in [hdus[only]] if one else hdus:
                _ = hdu.data
        except BaseException:
            hdus.close()
            raise
    for text in texts:
        if 'truncated' in text or 'Error validating header' in text:
            hdus.close()
            raise EOFError(text.splitlines()[0])
    return hdus


def _drop_unreadable(hdus, path):
    """Leave out cards that cannot be parsed, with a warning."""
    dropped = []
    for hdu in hdus:
        for card in list(hdu.header.cards):
            try:
                _ = card.keyword, card.value
            except (VerifyError, ValueError):
                dropped.append(card.keyword)
                hdu.header.remove(card.keyword, ignore_missing=True)
    if dropped:
        names = ', '.join(dropped)
        warn(f'header cards ignored: {names} of {str(path)!r} cannot be read')


def verify_checksums(hdus):
    """
    Compare the parts of a file of this package with their CHECKSUM and DATASUM cards.

    Files of other programs are let through, because their headers are often edited
    without a new sum. The file has just been opened: sums are those of the bytes,
    which astropy forgets when it has made arrays of them.
    """
    if hdus[0].header.get('CREATOR') != CREATOR:
        return
    for place, hdu in enumerate(hdus):
        # 2 stands for no sum: files of earlier versions.
        if hdu.verify_datasum() == 0 or hdu.verify_checksum() == 0:
            msg = (
                f'extension {place} ({hdu.name}) was damaged after it was written: '
                'its checksum differs (if it was edited on purpose, write it with '
                'checksum=True, or without the cards CHECKSUM and DATASUM)'
            )
            raise OSError(msg)


def header_wcs(header, shape=None, hdus=None):
    """
    Read the WCS of the axes longer than a pixel, without remarks on old keywords.

    The shape (ny, nx) is kept; the file has the tables of lookup distortions.
    """
    lengths = [header.get(f'NAXIS{k + 1}', 0) for k in range(header.get('NAXIS', 0))]
    with collect_warnings(FITSFixedWarning), collect_warnings(AstropyUserWarning):
        long = [k + 1 for k, n in enumerate(lengths) if n > 1]
        if len(lengths) > 2 and len(long) == 2 and long != [1, 2]:
            wcs = WCS(header, fobj=hdus).sub(long)
        else:
            wcs = WCS(header, fobj=hdus, naxis=2)
    if shape is not None:
        wcs.array_shape = shape
    return wcs
