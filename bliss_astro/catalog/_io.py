# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues to files and back: formats, overwriting, damaged files.
"""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io.registry import identify_format
from astropy.table import Column, MaskedColumn, QTable
from astropy.time import TimeBase
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked

from .._atomic import atomic_write
from .._warnings import PosteriorDroppedWarning, warn
from ._columns import COLUMNS, REQUIRED_COLUMNS, SKY_PARTS, describe_column
from ._formats import READERS, WRITERS, write_other
from ._record import FACT_KEYS, DateText, FactRecord, ImageRecord
from ._trial import check_columns

__all__ = ['FORMATS', 'find_format', 'read_catalog', 'write_catalog']

FORMATS = {
    'fits': ('.fits', '.fit', '.fits.gz', '.fit.gz'),
    'ecsv': ('.ecsv',),
    'parquet': ('.parquet', '.pq'),
    'votable': ('.vot', '.votable', '.xml'),
}
"""File formats, and the endings by which they are known."""

# How the parsers of four formats, and torch, fail on damaged files.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    zlib.error,
    AstropyUserWarning,
)
_ALIASES = {'ascii.ecsv': 'ecsv', 'vot': 'votable', 'fits.gz': 'fits', 'xml': 'votable'}


def write_catalog(catalog, path, *, file_format, overwrite, posterior=True, **kwargs):
    """
    Write a catalogue; the work behind `ProbabilisticCatalog.write`.

    Parameters
    ----------
    catalog : `ProbabilisticCatalog`
        What to write.

    path : str, `~os.PathLike` or file-like
        Where to.

    file_format : str or `None`
        A key of `FORMATS` or a format of astropy's.

    overwrite : bool
        Whether an existing file may be replaced.

    posterior : bool, optional
        Whether to write the posterior.

    **kwargs
        Passed on to astropy's writer for its own formats.
    """
    if not isinstance(path, str | os.PathLike):
        write_other(catalog, path, file_format, **kwargs)
        return
    path = Path(path).expanduser()
    file_format = find_format(path, file_format, writing=True)
    kept = catalog.posterior if posterior else None
    if kept is not None and file_format != 'fits':
        warn(
            f'The format {file_format!r} keeps the rows of the catalogue but not '
            'its posterior; FITS keeps both, and posterior=False leaves it out '
            'without this warning.',
            PosteriorDroppedWarning,
        )
    if file_format in FORMATS and kwargs:
        msg = f'write got unknown keywords for {file_format!r}: {", ".join(kwargs)}'
        raise TypeError(msg)
    if file_format in FORMATS:
        check_columns(
            catalog,
            file_format,
            write=lambda rows, to: WRITERS[file_format](rows, to, None),
            read=lambda written: _restore(
                type(catalog), *READERS[file_format](written, False)[:2]
            ),
        )
    with atomic_write(path, overwrite=overwrite) as temporary:
        if file_format in FORMATS:
            WRITERS[file_format](catalog, temporary, kept)
        else:
            write_other(catalog, temporary, file_format, overwrite=True, **kwargs)


def read_catalog(cls, path, *, file_format, posterior=True, posterior_class=None):
    """
    Read a catalogue; the work behind `ProbabilisticCatalog.read`.

    Parameters
    ----------
    cls : type
        `ProbabilisticCatalog` or a subclass.

    path : str or `~os.PathLike`
        The file.

    file_format : str or `None`
        A key of `FORMATS`.

    posterior : bool, optional
        Whether to read the posterior.

    posterior_class : type or `None`, optional
        Class of the posterior.

    Returns
    -------
    catalog : `ProbabilisticCatalog`
        The catalogue.
    """
    path = Path(path).expanduser()
    file_format = find_format(path, file_format)
    if file_format not in FORMATS:
        msg = f'format must be one of {", ".join(FORMATS)}, got {file_format!r}'
        raise ValueError(msg)
    if not path.is_file():
        msg = f'there is no file {path}'
        raise FileNotFoundError(msg)
    try:
        table, meta, arrays = READERS[file_format](path, posterior)
        catalog = _restore(cls, table, meta)
        if arrays is not None:
            catalog.posterior = _posterior_class(posterior_class).from_arrays(*arrays)
    except OSError as error:
        # Those of the system (no permission) speak for themselves.
        if error.errno is not None:
            raise
        msg = f'{path} cannot be read as a catalogue in format {file_format}: {error}'
        raise OSError(msg) from error
    except _DAMAGE as error:
        msg = f'{path} cannot be read as a catalogue in format {file_format}: {error}'
        raise OSError(msg) from error
    return catalog


def _posterior_class(given):
    """
    Return the class that turns arrays into a posterior.
    """
    if given is not None:
        return given
    from ._posterior import CatalogPosterior

    return CatalogPosterior


def find_format(path, file_format=None, *, writing=False):
    """
    Settle the format from its name or from the ending of the file.

    Parameters
    ----------
    path : str or `~os.PathLike`
        The file.

    file_format : str or None, optional
        The name, if it is given.

    writing : bool, optional
        Whether the file may have any ending that astropy's writers know.

    Returns
    -------
    file_format : str
        A key of `FORMATS`, or a format of astropy's.

    Raises
    ------
    ValueError
        If the ending is not known.
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
        allowed += ', .csv, .hdf5 (or another that astropy knows)'
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
    """
    Make a catalogue of what a reader returned.
    """
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
    catalog.meta.update(meta)
    if 'date' in meta:
        catalog.meta['date'] = DateText(meta['date'])
    for name in FACT_KEYS:
        if isinstance(meta.get(name), Mapping):
            catalog.meta[name] = FactRecord(meta[name])
    catalog.meta['image'] = ImageRecord(meta.get('image', {}))
    return catalog


def _native(column, name):
    """
    Undo what a format does to a column: byte order, dtype, units on the side.
    """
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
