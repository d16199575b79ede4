# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files of catalogues: reading and writing, formats by name or ending, damaged files.

`read` and `write` are methods of `~bliss_astro.catalog.ProbabilisticCatalog`.
"""

import os
import tempfile
import zlib
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io.registry import identify_format
from astropy.table import Column, MaskedColumn, QTable
from astropy.table.serialize import represent_mixins_as_columns
from astropy.time import TimeBase
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked

from bliss_astro._atomic import atomic_write
from bliss_astro._warnings import PosteriorDroppedWarning, collect_warnings, warn

from ._columns import COLUMNS, REQUIRED_COLUMNS, SKY_PARTS, describe_column
from ._formats import READERS, WRITERS, write_other
from ._meta import ImageRecord, restore_meta
from ._posterior import CatalogPosterior

__all__ = ['FORMATS', 'find_format', 'read', 'write']

FORMATS = {
    'fits': ('.fits', '.fit', '.fits.gz', '.fit.gz'),
    'ecsv': ('.ecsv',),
    'parquet': ('.parquet', '.pq'),
    'votable': ('.vot', '.votable', '.xml'),
}
"""File formats, and the endings by which they are known."""

# Errors of the parsers of four formats, and of torch, on damaged files.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    zlib.error,
    AstropyUserWarning,
)
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
_ALIASES = {'ascii.ecsv': 'ecsv', 'vot': 'votable', 'fits.gz': 'fits', 'xml': 'votable'}


def write(self, path, *, format=None, overwrite=False, posterior=True, **kwargs):  # noqa: A002
    """
    Write the catalogue to a file, as a whole or not at all.

    Parameters
    ----------
    path : str, `~os.PathLike` or file-like
        Where to write. A file-like object gets the rows only, as by
        `~astropy.table.QTable`.

    format : str or `None`, optional
        ``'fits'``, ``'ecsv'``, ``'parquet'`` (needs pyarrow) or
        ``'votable'``. `None` goes by the ending: ``.fits``,
        ``.fits.gz``, ``.ecsv``, ``.parquet``, ``.vot`` or ``.xml``. Any
        other format and ending of `~astropy.table.QTable` (``.csv``,
        ``.hdf5``) writes the rows as far as that format goes; `read` does
        not read it, `~astropy.table.QTable` does.

    overwrite : bool, optional
        Whether an existing file may be replaced. It stays as it is until
        the new one is complete.

    posterior : bool, optional
        Whether to write the posterior too. Only FITS can; the other
        formats warn when there is one. `False` leaves it out.

    **kwargs
        Passed on for formats that are not listed here.

    Raises
    ------
    OSError
        If the file exists and ``overwrite`` is `False`, or if it cannot
        be written.

    ValueError
        If the format is unknown.

    TypeError
        If a column (a time, a position, text) or a value of ``meta`` would not
        come back from the file as it is. Nothing is written.

    Warns
    -----
    PosteriorDroppedWarning
        If the format cannot keep the posterior.
    """
    if not isinstance(path, str | os.PathLike):
        write_other(self, path, format, **kwargs)
        return
    path = Path(path).expanduser()
    name = find_format(path, format, writing=True)
    kept = self.posterior if posterior else None
    if kept is not None and name != 'fits':
        warn(
            f'The format {name!r} keeps the rows of the catalogue but not '
            'its posterior; FITS keeps both, and posterior=False leaves it out '
            'without this warning.',
            PosteriorDroppedWarning,
        )
    if name in FORMATS:
        if kwargs:
            msg = f'write got unknown keywords for {name!r}: {", ".join(kwargs)}'
            raise TypeError(msg)
        _check_columns(self, name)
    with atomic_write(path, overwrite=overwrite) as temporary:
        if name in FORMATS:
            WRITERS[name](self, temporary, kept)
        else:
            write_other(self, temporary, name, overwrite=True, **kwargs)


def read(cls, path, *, format=None, posterior=True):  # noqa: A002
    """
    Read a catalogue that `write` wrote.

    Parameters
    ----------
    path : str or `~os.PathLike`
        The file.

    format : str or `None`, optional
        As for `write`.

    posterior : bool, optional
        Whether to read the posterior, if the file has one.

    Returns
    -------
    catalog : `ProbabilisticCatalog`
        The catalogue, with its units, descriptions, sky positions and
        meta.

    Raises
    ------
    OSError
        If the file cannot be read, holds no catalogue, or was damaged after it
        was written (FITS files have checksums).

    ValueError
        If the format is unknown.
    """
    path = Path(path).expanduser()
    name = find_format(path, format)
    if name not in FORMATS:
        msg = f'format must be one of {", ".join(FORMATS)}, got {name!r}'
        raise ValueError(msg)
    if not path.is_file():
        msg = f'there is no file {path}'
        raise FileNotFoundError(msg)
    try:
        table, meta, arrays = READERS[name](path, posterior)
        catalog = _restore(cls, table, meta)
        if arrays is not None:
            catalog.posterior = CatalogPosterior.from_arrays(*arrays)
    except (OSError, *_DAMAGE) as error:
        # Errors of the system (no permission) name their cause.
        if getattr(error, 'errno', None) is not None:
            raise
        msg = f'{path} cannot be read as a catalogue in format {name}: {error}'
        raise OSError(msg) from error
    return catalog


def find_format(path, file_format=None, *, writing=False):
    """
    Return a format, by its name or by the ending of the file.

    Parameters
    ----------
    path : str or `~os.PathLike`
        The file.

    file_format : str or None, optional
        The name, if it is given.

    writing : bool, optional
        Whether the file may have any ending that astropy's writers have.

    Returns
    -------
    file_format : str
        A key of `FORMATS`, or a format of astropy's.

    Raises
    ------
    ValueError
        If the ending is unknown.
    """
    if file_format is not None:
        return _ALIASES.get(file_format, file_format)
    name = Path(path).name.lower()
    for known, endings in FORMATS.items():
        if name.endswith(endings):
            return known
    if writing:
        found = identify_format('write', QTable, str(path), None, (QTable(),), {})
        if found:
            return found[0]
    allowed = ', '.join(ending for endings in FORMATS.values() for ending in endings)
    hint = ''
    if writing:
        allowed += ', .csv, .hdf5 (or another of astropy)'
        if name.endswith('.reg'):
            hint = ' (regions of DS9 are written by to_regions)'
    elif identify_format('read', QTable, str(path), None, (), {}):
        hint = " (rows in other formats are read by astropy's QTable.read)"
    msg = (
        f'path must end in one of {allowed}, or format be given; got {str(path)!r}'
        f'{hint}'
    )
    raise ValueError(msg)


def _restore(cls, table, meta):
    """Make a catalogue of the table and meta of a reader."""
    if 'sky_centroid' not in table.colnames and set(SKY_PARTS) <= set(table.colnames):
        table = QTable(table, copy=False)
        sky = SkyCoord(*(u.Quantity(table[name], u.deg) for name in SKY_PARTS))
        table.add_column(sky, index=table.index_column('ra'), name='sky_centroid')
        table.remove_columns(list(SKY_PARTS))
        describe_column(table['sky_centroid'], 'sky_centroid')
    missing = [name for name in REQUIRED_COLUMNS if name not in table.colnames]
    if missing:
        msg = f'it has no columns {", ".join(missing)}'
        raise ValueError(msg)
    catalog = cls({name: _native(table[name], name) for name in table.colnames})
    for name in catalog.colnames:
        info = table[name].info
        catalog[name].info.description = info.description
        if not isinstance(table[name], TimeBase):
            catalog[name].info.format = info.format
        catalog[name].info.meta = dict(info.meta or {})
    catalog.meta.update(restore_meta(meta))
    catalog.meta['image'] = ImageRecord(meta.get('image', {}))
    return catalog


def _native(column, name):
    """Undo a format's changes to a column: byte order, dtype, units on the side."""
    if not isinstance(column, Column | u.Quantity):
        return column
    definition = COLUMNS.get(name)
    dtype = column.dtype if definition is None else np.dtype(definition.dtype)
    if dtype.hasobject or dtype.names:
        return column
    values, mask = getattr(column, 'value', column), getattr(column, 'mask', None)
    values = getattr(values, 'unmasked', values)
    values = np.array(values, dtype=dtype.newbyteorder('='))
    unit = getattr(column, 'unit', None)
    masked = mask is not None and np.any(mask)
    if unit is None:
        return MaskedColumn(values, mask=mask) if masked else Column(values)
    if isinstance(column, u.Quantity) and not isinstance(column, Masked):
        # An angle stays an angle, a magnitude a magnitude.
        return type(column)(values, unit)
    values = values << unit
    return Masked(values, mask=mask) if masked else values


# -- trials --------------------------------------------------------------------------


def _check_columns(catalog, file_format):
    """
    Refuse columns that would not come back from a file as they are.

    Masked columns, text and mixins (times, positions, a user's own) are written and
    read one by one; plain numbers are not tried.
    """
    for name in catalog.colnames:
        column = catalog[name]
        plain = type(column) in (Column, u.Quantity)
        if name == 'sky_centroid' or (plain and column.dtype.str[1:] in _PLAIN):
            continue
        rows = catalog[list(dict.fromkeys((*REQUIRED_COLUMNS, name)))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'trial.{file_format}'
            try:
                # Remarks of astropy's on what it writes come with the file itself.
                with collect_warnings():
                    WRITERS[file_format](rows, path, None)
                    read = _restore(type(rows), *READERS[file_format](path, False)[:2])
                    same = _is_same(read[name], column)
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
            f'column {name!r} ({type(column).__name__}) cannot be written in '
            f'format {file_format!r}: {reason}. Convert or remove it, or write '
            'another format; ECSV keeps the most kinds of columns.'
        )
        raise TypeError(msg) from cause


def _is_same(new, old):
    """Whether a column that was read is equal to the one that was written."""
    if isinstance(old, Column | u.Quantity):
        kind = u.Quantity if isinstance(old, u.Quantity) else Column
        return isinstance(new, kind) and _is_same_array(new, old)
    new, old = (
        represent_mixins_as_columns(QTable({'c': column}, copy=False))
        for column in (new, old)
    )
    kinds = [table.meta.get('__serialized_columns__') for table in (new, old)]
    # Motions are computed anew from what is stored, which rounds.
    return (
        kinds[0] == kinds[1]
        and new.colnames == old.colnames
        and all(_is_same_array(new[name], old[name], 1e-14) for name in old.colnames)
    )


def _is_same_array(new, old, rtol=0.0):
    """Whether values, masks, units and kinds are equal; NaN is equal to NaN."""
    masks = [np.asarray(getattr(v, 'mask', False)) for v in (new, old)]
    if new.unit != old.unit or new.shape != old.shape or np.any(masks[0] != masks[1]):
        return False
    new, old = (getattr(values, 'value', values) for values in (new, old))
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
