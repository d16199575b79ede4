# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
File formats of catalogues: FITS, ECSV, Parquet and VOTable by astropy's own writers.

FITS and ECSV tables are written by astropy as they are, so that a plain ``QTable.read``
gives the sky positions back too. VOTable and Parquet tables get the sky position as two
columns ``ra`` and ``dec``. What a format cannot hold by itself goes in as JSON text,
the card: nested meta, and of columns the format of display, exact units, and masks.
FITS also keeps the posterior, one extension for each array.

A writer takes the catalogue, the file and a posterior (or `None`); a reader takes the
file and whether a posterior is wanted, and returns the table, its meta, and the arrays
and meta of the posterior (or `None`).
"""

from collections.abc import Callable
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.table.serialize import (
    _construct_mixins_from_columns,
    represent_mixins_as_columns,
)
from astropy.utils.data_info import serialize_context_as

from bliss_astro._warnings import collect_warnings

from . import _fits
from ._columns import SKY_PARTS

CARD_KEY = 'bliss_astro'
"""Key of the card in VOTable and Parquet files."""

# Keys of the meta of an ECSV table.
_N_ROWS_KEY, _COLUMNS_KEY = 'n_rows', 'column_attributes'


def _masked_places(table, kinds):
    """Masked elements of the columns of some kinds of types, by column."""
    return {
        column.name: np.flatnonzero(column.mask).tolist()
        for column in table.itercols()
        if isinstance(column, MaskedColumn)
        and column.dtype.kind in kinds
        and np.any(column.mask)
    }


def _restore_masks(table, places, kinds):
    """Undo the masking of NaN and empty text by a reader, but for masked places."""
    for column in list(table.itercols()):
        if not isinstance(column, MaskedColumn) or column.dtype.kind not in kinds:
            continue
        values = column.filled('' if column.dtype.kind in 'UO' else np.nan)
        if column.name in places:
            mask = np.zeros(values.shape, dtype=bool)
            mask.flat[places[column.name]] = True
            values = MaskedColumn(values, mask=mask)
        table.replace_column(column.name, values)


def _write_ecsv(catalog, path, posterior):
    """Write ECSV, which holds everything but the posterior by itself."""
    table = _fits.plain_table(catalog)
    # Text has no end mark: without this a file that was cut short would read
    # as a catalogue of fewer sources.
    table.meta[_N_ROWS_KEY] = len(table)
    # Text that is empty and text that is masked are the same in this format.
    attributes = _fits.describe_columns(catalog)
    if any(column.dtype.kind in 'SU' for column in table.columns.isinstance(Column)):
        attributes['masked'] = _masked_places(table, 'SU')
    if attributes:
        table.meta[_COLUMNS_KEY] = attributes
    table.write(path, format='ascii.ecsv', overwrite=True)


def _read_ecsv(path, posterior):
    """Read ECSV."""
    # The last number of a line without an end may lack its last digits.
    if not path.read_bytes().endswith(b'\n'):
        msg = 'its last line has no end, so that it may have been cut short'
        raise ValueError(msg)
    table = QTable.read(path, format='ascii.ecsv')
    meta = dict(table.meta)
    n_rows = meta.pop(_N_ROWS_KEY, len(table))
    if n_rows != len(table):
        msg = (
            f'it has {len(table)} rows and its header promises {n_rows}; if the '
            f'rows were edited on purpose, edit {_N_ROWS_KEY} in the header too'
        )
        raise ValueError(msg)
    attributes = meta.pop(_COLUMNS_KEY, {})
    if 'masked' in attributes:
        _restore_masks(table, attributes['masked'], 'U')
    return _fits.restore_columns(table, attributes), meta, None


def _write_votable(catalog, path, posterior):
    """Write VOTable, with UCDs, the coordinate system and the card as an INFO."""
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys, Info

    # Units of the field (nmgy, electron) are not in the VO's list, and the
    # search for similar ones meets deprecated ones; they are read back well.
    with collect_warnings():
        # Columns with units instead of quantities.
        flat = Table(_fits.plain_table(catalog, flat=True), copy=False)
        votable = from_table(flat)
        table = votable.get_first_table()
        # NaN and masked are the same in this format.
        card = _fits.make_card(catalog, masked=_masked_places(flat, 'fcSUO'))
        table.infos.append(Info(name=CARD_KEY, value=card))
        fields = [f for f in table.fields if f.name in SKY_PARTS]
        if fields:
            system = CooSys(ID='sky', system='ICRS')
            votable.resources[0].coordinate_systems.append(system)
        for field in fields:
            field.ref = 'sky'
        # Not by the writer in C, which writes a byte behind its buffer where a row
        # fills that, and so breaks the heap (astropy issue 20419).
        votable.to_xml(str(path), _debug_python_based_parser=True)


def _read_votable(path, posterior):
    """Read VOTable."""
    from astropy.io.votable import parse

    with collect_warnings():
        votable = parse(str(path)).get_first_table()
        table = votable.to_table(use_names_over_ids=True)
    cards = [info.value for info in votable.infos if info.name == CARD_KEY]
    card = _fits.read_card(cards[0]) if cards else {'meta': {}}
    for column in table.itercols():
        if column.unit is not None:
            # For units that the VO lacks (nmgy) the parser makes one up, which is
            # equal to no other.
            column.unit = u.Unit(str(column.unit), parse_strict='silent')
        # Long descriptions come back wrapped.
        column.description = ' '.join((column.description or '').split()) or None
        column.meta = {key: column.meta[key] for key in ('ucd',) if key in column.meta}
    _restore_masks(table, card.get('masked', {}), 'fcUO')
    return _fits.restore_columns(table, card), card['meta'], None


def _write_parquet(catalog, path, posterior):
    """Write Parquet, with astropy's own description of the columns in its schema."""
    # Whatever is no plain column becomes several, as astropy would have it.
    with serialize_context_as('parquet'):
        table = represent_mixins_as_columns(_fits.plain_table(catalog, flat=True))
    # Parquet keeps rows of arrays but flattens each of them.
    shapes = {name: table[name].shape[1:] for name in table.colnames}
    table.meta[CARD_KEY] = _fits.make_card(catalog, shapes=shapes)
    table.write(path, format='parquet', overwrite=True)


def _read_parquet(path, posterior):
    """Read Parquet with pyarrow alone (astropy's reader needs pandas too)."""
    from astropy.table.meta import get_header_from_yaml
    from pyarrow import ArrowInvalid, parquet

    try:
        content = parquet.read_table(path)
    except ArrowInvalid as error:
        raise ValueError(str(error)) from error
    described = (content.schema.metadata or {}).get(b'table_meta_yaml', b'').decode()
    if CARD_KEY not in described:
        msg = 'it was not written by ProbabilisticCatalog.write'
        raise ValueError(msg)
    header = get_header_from_yaml(described.split('\n'))
    card = _fits.read_card(header['meta'].pop(CARD_KEY))
    table = Table(meta=header['meta'])
    for attributes in header['datatype']:
        name = attributes['name']
        chunks, shape = content[name], card['shapes'][name]
        if shape:
            values = chunks.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            values = values.reshape(len(chunks), *shape)
        else:
            values = chunks.to_numpy()
        # Strings come as objects.
        table[name] = Column(values.astype(str) if values.dtype == object else values)
        for key in ('unit', 'description', 'meta'):
            if key in attributes:
                setattr(table[name].info, key, attributes[key])
    table = _construct_mixins_from_columns(table)
    return _fits.restore_columns(table, card), card['meta'], None


class _Format(NamedTuple):
    endings: tuple
    write: Callable
    read: Callable


FORMATS = {
    'fits': _Format(
        ('.fits', '.fit', '.fits.gz', '.fit.gz'), _fits.write_fits, _fits.read_fits
    ),
    'ecsv': _Format(('.ecsv',), _write_ecsv, _read_ecsv),
    'parquet': _Format(('.parquet', '.pq'), _write_parquet, _read_parquet),
    'votable': _Format(('.vot', '.votable', '.xml'), _write_votable, _read_votable),
}
"""File formats that keep catalogues: the endings of their names, writers, readers."""


def write_other(catalog, path, file_format, **kwargs):
    """Write the rows in a format of astropy's, as far as that format goes."""
    table = _fits.plain_table(catalog)
    if file_format == 'hdf5':
        kwargs = {'path': 'catalog', 'serialize_meta': True, **kwargs}
    family = (file_format or '').partition('.')[0]
    if family in ('ascii', 'html') and file_format != 'ascii.ecsv':
        # Text in columns: a position or a time of several numbers gets one for each.
        with serialize_context_as('ecsv'):
            table = represent_mixins_as_columns(_fits.plain_table(catalog, flat=True))
        table.meta.pop('__serialized_columns__', None)
    table.write(path, format=file_format, **kwargs)
