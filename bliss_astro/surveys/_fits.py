# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Opening FITS files so that whatever is wrong with one is said plainly.
"""

import contextlib
import os
import zlib
from pathlib import Path

from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning

from bliss_astro._checksums import verify_checksums
from bliss_astro._warnings import collect_warnings

__all__ = ['file_name', 'header_wcs', 'open_fits', 'wrong_type']

# What decompressors and astropy raise on damaged files, by way of many types.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    zlib.error,
    VerifyError,
)


def file_name(source):
    """
    Return the name of a path or of an open HDU list, for messages.

    Parameters
    ----------
    source : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file.

    Returns
    -------
    name : str
        Its name.
    """
    if isinstance(source, fits.HDUList):
        return source.filename() or '<HDUList in memory>'
    return str(source)


def wrong_type(source, parameter, expected, found):
    """
    Make the error for a file that is sound but of another kind.

    Parameters
    ----------
    source : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file.

    parameter : str
        The argument that it was given as.

    expected : str
        What the file should be.

    found : str
        What it lacks or has instead.

    Returns
    -------
    error : `ValueError`
        To be raised by the caller.
    """
    return ValueError(f'{parameter}={file_name(source)!r} is not {expected}: {found}.')


@contextlib.contextmanager
def open_fits(source, parameter):
    """
    Open a FITS file, plain or compressed, with all its data read eagerly.

    Parameters
    ----------
    source : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file; compression (.bz2, .gz) is recognised by content. An open
        HDU list is used as it is and left open.

    parameter : str
        The name of the caller's argument, for messages.

    Yields
    ------
    hdus : `~astropy.io.fits.HDUList`
        The HDU list, with every HDU's data already loaded.

    Raises
    ------
    TypeError
        If ``source`` is neither a path nor an HDU list.

    FileNotFoundError
        If there is no such file.

    OSError
        If the file is not FITS, truncated, or damaged.
    """
    if isinstance(source, fits.HDUList):
        yield source
        return
    if not isinstance(source, (str, os.PathLike)):
        msg = (
            f'{parameter} must be a path or an astropy HDUList; got '
            f'{type(source).__name__}.'
        )
        raise TypeError(msg)
    path = Path(source)
    if not path.is_file():
        msg = f'{parameter}: there is no file {str(path)!r}.'
        raise FileNotFoundError(msg)
    with path.open('rb') as file:
        try:
            hdus = _load(file)
        except _DAMAGE as error:
            msg = (
                f'{parameter}={str(path)!r} cannot be read as FITS; it is truncated, '
                f'damaged, or of another format ({error}).'
            )
            raise OSError(msg) from error
        with hdus:
            yield hdus


def _load(file):
    """
    Open a FITS file and touch all its data, with truncation as an error.
    """
    # Astropy only warns of a file that ends too early. The warnings are
    # collected rather than raised, because raising would leave it half open.
    with collect_warnings() as texts:
        hdus = fits.open(file, memmap=False)
        try:
            verify_checksums(hdus)
            for hdu in hdus:
                _ = hdu.data
        except BaseException:
            hdus.close()
            raise
    for text in texts:
        if 'truncated' in text or 'Error validating header' in text:
            hdus.close()
            raise EOFError(text.splitlines()[0])
    return hdus


def header_wcs(header, shape=None):
    """
    Read the WCS of a header, without remarks on its old-fashioned keywords.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header of an image.

    shape : tuple of int, optional
        The shape (ny, nx) of the image, kept as ``wcs.array_shape``.

    Returns
    -------
    wcs : `~astropy.wcs.WCS`
        The celestial WCS.
    """
    with collect_warnings(FITSFixedWarning), collect_warnings(AstropyUserWarning):
        wcs = WCS(header, naxis=2)
    if shape is not None:
        wcs.array_shape = shape
    return wcs
