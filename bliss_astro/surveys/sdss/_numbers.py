# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Run, camera column, field and band: of the header, else of the file's name.
"""

import re
from pathlib import Path

from .._fits import card_number, file_name

__all__ = ['field_numbers', 'name_band']

# frame-r-001000-1-0100, fpC-001000-r1-0100, tsField-001000-1-40-0100 and others.
_NAME = re.compile(
    r'-(?:(?P<band>[ugriz])-)?(?P<run>\d{6})-(?P<band_too>[ugriz]?)(?P<camcol>[1-6])'
    r'(?:-\d{1,3})?-(?P<field>\d{4})\b'
)


def field_numbers(header, source, *, field=None):
    """
    Return the numbers of a field, of which no pixel depends on any.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header; cards that hold no number are passed over.

    source : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file, whose name holds the numbers too.

    field : int, optional
        The number of the field, if it stands elsewhere in the file.

    Returns
    -------
    numbers : dict of str to int
        ``run``, ``camcol`` and ``field``; -1 where nobody says.
    """
    named = _NAME.search(Path(file_name(source)).name)
    numbers = {}
    for name in ('run', 'camcol', 'field'):
        value = card_number(header, name.upper())
        if name == 'field' and value is None:
            value = field
        if value is None:
            value = -1 if named is None else named[name]
        numbers[name] = int(value)
    return numbers


def name_band(source):
    """
    Return the band in the name of a file.

    Parameters
    ----------
    source : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file.

    Returns
    -------
    band : str
        Its letter, or an empty string.
    """
    named = _NAME.search(Path(file_name(source)).name)
    return '' if named is None else named['band'] or named['band_too'] or ''
