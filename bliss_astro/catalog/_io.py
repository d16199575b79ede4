# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files of catalogues: reading and writing, formats by name or ending, damaged files.

`read`, `write`, `to_samp`: methods of `~bliss_astro.catalog.ProbabilisticCatalog`.
"""

import functools
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io.registry import identify_format
from astropy.table import Column, QTable
from astropy.table.serialize import represent_mixins_as_columns
from astropy.utils.data_info import serialize_context_as
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked

from bliss_astro._arguments import check_choice, require
from bliss_astro._atomic import atomic_write
from bliss_astro._warnings import PosteriorDroppedWarning, collect_warnings, warn

from . import _formats
from ._bands import learn_bands
from ._columns import COLUMNS, REQUIRED_COLUMNS, SKY_PARTS, describe_column
from ._meta import restore_meta


class _Format(NamedTuple):
    endings: tuple
    write: Callable
    read: Callable


FORMATS = {
    'fits': _Format(
        ('.fits', '.fit', '.fits.gz', '.fit.gz'),
        _formats.write_fits,
        _formats.read_fits,
    ),
    'ecsv': _Format(('.ecsv',), _formats.write_ecsv, _formats.read_ecsv),
    'parquet': _Format(
        ('.parquet', '.pq'), _formats.write_parquet, _formats.read_parquet
    ),
    'votable': _Format(
        ('.vot', '.votable', '.xml'), _formats.write_votable, _formats.read_votable
    ),
}
"""File formats that keep catalogues: the endings of their names, writers, readers."""

# Errors of the parsers and writers of four formats, and of torch, on damaged files and
# on unknown kinds of columns.
_FAILURES = (
    *(ValueError, TypeError, LookupError, EOFError, RuntimeError, zlib.error),
    *(AttributeError, OSError, AstropyUserWarning),
)
# Types that every format keeps: booleans and numbers, which tests vouch for.
_PLAIN = {'b1', 'u1', 'i2', 'i4', 'i8', 'f4', 'f8'}
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
        Whether to write the posterior too, as far as it is kept: draws of whole
        catalogues need ``keep='posterior'`` in the detection. Only FITS can; the
        other formats warn when there is one. `False` leaves it out.

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
        _write_other(self, path, format, **kwargs)
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
            FORMATS[name].write(self, temporary, kept)
        else:
            _write_other(self, temporary, name, overwrite=True, **kwargs)


def _write_other(catalog, path, file_format, **kwargs):
    """Write the rows in a format of astropy's, as far as that format goes."""
    table = _formats.plain_table(catalog)
    if file_format == 'hdf5':
        kwargs = {'path': 'catalog', 'serialize_meta': True, **kwargs}
    family = (file_format or '').partition('.')[0]
    if family in ('ascii', 'html') and file_format != 'ascii.ecsv':
        # Text in columns: a position or a time of several numbers gets one for each.
        with serialize_context_as('ecsv'):
            table = represent_mixins_as_columns(
                _formats.plain_table(catalog, flat=True)
            )
        table.meta.pop('__serialized_columns__', None)
    table.write(path, format=file_format, **kwargs)


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
    check_choice('format', name, FORMATS)
    if not path.is_file():
        raise FileNotFoundError(f'there is no file {path}')
    try:
        table, meta, arrays = FORMATS[name].read(path, posterior)
        catalog = restore(cls, table, meta)
        if arrays is not None:
            from ._posterior import CatalogPosterior

            catalog.posterior = CatalogPosterior.from_arrays(*arrays)
    except _FAILURES as error:
        # Errors of the system (no permission) name their cause.
        if getattr(error, 'errno', None) is not None:
            raise
        msg = f'{path} cannot be read as a catalogue in format {name}: {error}'
        raise OSError(msg) from error
    return catalog


def to_samp(self, name='bliss_astro', *, client=None):
    """
    Send the table to other programs on this computer: TOPCAT, Aladin, DS9.

    Through the hub of SAMP, which TOPCAT and Aladin start, as a VOTable.

    Parameters
    ----------
    name : str, optional
        Name under which programs show the table.

    client : str, optional
        Name of one program, such as ``'topcat'``; by default all that take tables.

    Returns
    -------
    clients : list of str
        Names of the programs to which it was sent.

    Raises
    ------
    ConnectionError, ValueError
        If no hub runs; if no program of that name takes tables.
    """
    from astropy.samp import SAMPHubError, SAMPIntegratedClient

    samp = SAMPIntegratedClient('bliss_astro', callable=False)
    try:
        samp.connect()
    except SAMPHubError as error:
        msg = 'to_samp needs a running hub of SAMP: start TOPCAT or Aladin first.'
        raise ConnectionError(msg) from error
    try:
        takers = samp.get_subscribed_clients('table.load.votable')
        takers = {key: samp.get_metadata(key).get('samp.name', key) for key in takers}
        if client is not None:
            same = client.casefold()
            takers = {k: n for k, n in takers.items() if n.casefold() == same}
        require(takers, 'client', 'run and take tables', repr(client))
        path = Path(tempfile.mkdtemp(dir=_samp_folder().name), 'table.vot')
        write(self, path, posterior=False)
        values = {'url': path.as_uri(), 'table-id': path.parent.name, 'name': name}
        message = {'samp.mtype': 'table.load.votable', 'samp.params': values}
        for key in takers:
            samp.notify(key, message)
    finally:
        samp.disconnect()
    return sorted(takers.values())


@functools.cache
def _samp_folder():
    """Folder of tables that were sent, which lasts until Python ends."""
    return tempfile.TemporaryDirectory(prefix='bliss_astro_')


def find_format(path, file_format=None, *, writing=False):
    """
    Return a format, by its name or by the ending of the file.

    It is a key of `FORMATS` or, for writing, any format of astropy's.
    """
    if file_format is not None:
        return _ALIASES.get(file_format, file_format)
    name = Path(path).name.lower()
    for known, kind in FORMATS.items():
        if name.endswith(kind.endings):
            return known
    if writing:
        found = identify_format('write', QTable, str(path), None, (QTable(),), {})
        if found:
            return found[0]
    allowed = ', '.join(e for kind in FORMATS.values() for e in kind.endings)
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


def restore(cls, table, meta):
    """Make a catalogue of the table and meta of a reader."""
    if 'sky_centroid' not in table.colnames and set(SKY_PARTS) <= set(table.colnames):
        table = QTable(table, copy=False)
        sky = SkyCoord(*(u.Quantity(table[name], u.deg) for name in SKY_PARTS))
        table.add_column(sky, index=table.index_column('ra'), name='sky_centroid')
        table.remove_columns(list(SKY_PARTS))
        describe_column(table['sky_centroid'], 'sky_centroid')
    learn_bands(meta.get('image', {}))
    missing = [name for name in REQUIRED_COLUMNS if name not in table.colnames]
    if missing:
        raise ValueError(f'it has no columns {", ".join(missing)}')
    catalog = cls({name: _native(table[name], name) for name in table.colnames})
    catalog.meta.update(restore_meta(meta))
    return catalog


def _native(column, name):
    """Undo a format's changes to a column: byte order, type, masks without masked."""
    if not isinstance(column, Column | u.Quantity):
        return column
    dtype = np.dtype(COLUMNS[name].dtype) if name in COLUMNS else column.dtype
    if dtype.hasobject or dtype.names:
        return column
    column = column.astype(dtype.newbyteorder('='))
    if not np.any(getattr(column, 'mask', False)):
        if isinstance(column, Masked):
            return column.unmasked
        return column if isinstance(column, u.Quantity) else Column(column)
    return column


# -- trials --------------------------------------------------------------------------


def _check_columns(catalog, file_format):
    """
    Refuse columns that would not come back from a file as they are.

    Masked columns, text and mixins (times, positions, a user's own) are written and
    read one by one; plain numbers are not tried.
    """
    kind = FORMATS[file_format]
    for name, column in catalog.items():
        plain = type(column) in (Column, u.Quantity)
        if name == 'sky_centroid' or (plain and column.dtype.str[1:] in _PLAIN):
            continue
        reason, cause = 'it would come back changed', None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'trial.{file_format}'
            try:
                # Remarks of astropy's on what it writes come with the file itself.
                with collect_warnings():
                    kind.write(QTable({name: column}, copy=False), path, None)
                    read = QTable(kind.read(path, False)[0], copy=False)
                    if _is_same(_native(read[name], name), column):
                        continue
            except _FAILURES as error:
                # Not of a full disk.
                if getattr(error, 'errno', None) is not None:
                    raise
                reason, cause = str(error) or type(error).__name__, error
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
    equal = new == old
    if old.dtype.kind in 'fc':
        equal = np.isclose(new, old, rtol=rtol, atol=0, equal_nan=True)
    return bool(np.all(equal | masks[1]))
