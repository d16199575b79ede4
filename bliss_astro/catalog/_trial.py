# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Unusual columns in files: trials whether a format gives them back as they are.
"""

import tempfile
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Column
from astropy.time import TimeBase

from bliss_astro._warnings import collect_warnings

from ._columns import REQUIRED_COLUMNS

__all__ = ['check_columns']

# Types that every format keeps: booleans and numbers, which tests vouch for.
_PLAIN = {'b1', 'u1', 'i2', 'i4', 'i8', 'f4', 'f8'}
# Errors of writers and parsers of four formats on unknown kinds of columns.
_FAILURES = (
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def check_columns(catalog, file_format, *, write, read):
    """
    Refuse columns that would not come back from a file as they are.

    Masked columns, text and mixins (times, positions, a user's own) are written and
    read one by one; plain numbers are not tried.

    Parameters
    ----------
    catalog : `ProbabilisticCatalog`
        The catalogue.

    file_format : str
        The format, for the message and the ending.

    write, read : callable
        ``write(catalog, path)`` and ``read(path)``.

    Raises
    ------
    TypeError
        If a column is refused or changed.
    """
    for name in catalog.colnames:
        if _is_plain(catalog[name]) or name == 'sky_centroid':
            continue
        rows = catalog[list(dict.fromkeys((*REQUIRED_COLUMNS, name)))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'trial.{file_format}'
            try:
                # Remarks of astropy's on what it writes come with the file itself.
                with collect_warnings():
                    write(rows, path)
                    same = _is_same(read(path)[name], rows[name])
            except _FAILURES as error:
                # Not of a full disk.
                if getattr(error, 'errno', None) is not None:
                    raise
                reason, cause = str(error) or type(error).__name__, error
            else:
                if same:
                    continue
                reason, cause = 'it would come back changed', None
        msg = (
            f'column {name!r} ({type(catalog[name]).__name__}) cannot be written in '
            f'format {file_format!r}: {reason}. Convert or remove it, or write '
            'another format; ECSV keeps the most kinds of columns.'
        )
        raise TypeError(msg) from cause


def _is_plain(column):
    """Whether a column is of numbers without a mask."""
    if type(column) not in (Column, u.Quantity):
        return False
    return column.dtype.str[1:] in _PLAIN


def _is_same(new, old):
    """Whether a column that was read is equal to the one that was written."""
    if isinstance(old, TimeBase):
        if type(new) is not type(old):
            return False
        kinds = [(time.scale, time.format, time.mask.tolist()) for time in (new, old)]
        return kinds[0] == kinds[1] and bool(np.all(np.asarray(new == old) | old.mask))
    if isinstance(old, SkyCoord):
        return isinstance(new, SkyCoord) and _is_same_sky(new, old)
    if isinstance(old, Column | u.Quantity):
        kinds = (u.Quantity, Column)
        alike = all(isinstance(new, k) == isinstance(old, k) for k in kinds)
        unit = getattr(old, 'unit', None)
        return alike and getattr(new, 'unit', None) == unit and _is_same_array(new, old)
    return type(new) is type(old) and bool(np.all(new == old))


def _is_same_sky(new, old):
    """Whether positions and, where there are any, distances and motions are equal."""
    motions = old.data.differentials
    if not new.is_equivalent_frame(old) or set(new.data.differentials) != set(motions):
        return False
    stored = [(new.data, old.data)]
    stored += [(new.data.differentials[key], motions[key]) for key in motions]
    # Motions are computed anew from what is stored, which rounds.
    return all(
        _is_same_array(getattr(a, name), getattr(b, name), rtol=1e-14)
        for a, b in stored
        for name in b.components
    )


def _is_same_array(new, old, rtol=0.0):
    """Whether values, masks and kinds are equal; NaN is equal to NaN."""
    new, old = (getattr(values, 'value', values) for values in (new, old))
    masks = [np.asarray(getattr(v, 'mask', False)) for v in (new, old)]
    if new.shape != old.shape or np.any(masks[0] != masks[1]):
        return False
    new, old = (np.asarray(getattr(v, 'unmasked', v)) for v in (new, old))
    if old.dtype.kind == 'S':
        # Bytes come back as the text that they stand for.
        old = np.char.decode(old, 'utf-8')
    if new.dtype.kind != old.dtype.kind:
        return False
    if old.dtype.kind in 'fc':
        equal = np.isclose(new, old, rtol=rtol, atol=0, equal_nan=True)
    else:
        equal = new == old
    return bool(np.all(equal | masks[1]))
