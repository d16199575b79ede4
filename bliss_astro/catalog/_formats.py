# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
One writer and one reader for each file format.

FITS and ECSV tables are written by astropy as they are, so that a plain
``QTable.read`` gives the sky positions back too. VOTable and Parquet tables
get the sky position as two columns ``ra`` and ``dec``. What a format cannot
hold by itself (nested meta) goes in as one JSON text, the card. FITS also
keeps the posterior, one extension for each array.

A writer takes the catalogue, the file and a posterior (or `None`); a reader
takes the file and whether a posterior is wanted, and returns the table, its
meta, and the arrays and meta of the posterior (or `None`).
"""

import gzip
import io
import json
import warnings

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Column, QTable, Table
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro._warnings import collect_warnings

from ._arrays import read_arrays, write_arrays
from ._columns import COLUMNS, SKY_PARTS
from ._meta import plain_value

__all__ = ['READERS', 'WRITERS', 'plain_table']

_CARD_VERSION = 1
# Keys under which the card is found.
_CARD_KEY = 'bliss_astro'
_CARD_EXTENSION = 'BLISS_META'
_N_ROWS_KEY = 'n_rows'


def plain_table(catalog):
    """
    Make a plain table whose meta any YAML or JSON writer understands.

    Parameters
    ----------
    catalog : `ProbabilisticCatalog`
        A catalogue.

    Returns
    -------
    table : `~astropy.table.QTable`
        Its rows, without the posterior; the columns share their memory.
    """
    table = QTable(catalog, copy=False)
    table.meta = plain_value(dict(catalog.meta))
    return table


def _flat_table(catalog):
    """
    Make a plain table with ``ra`` and ``dec`` in place of sky_centroid.
    """
    table = plain_table(catalog)
    if 'sky_centroid' in table.colnames:
        sky = table['sky_centroid'].icrs
        place = table.index_column('sky_centroid')
        for name, values in (('dec', sky.dec), ('ra', sky.ra)):
            column = u.Quantity(values.to_value(u.deg), u.deg)
            table.add_column(column, index=place, name=name)
            description, ucd = SKY_PARTS[name]
            table[name].info.description = description
            table[name].info.meta = {'ucd': ucd}
        table.remove_column('sky_centroid')
    # Columns with units instead of quantities; nothing else is left to encode.
    return Table(table, copy=False)


def _card(catalog, **more):
    """
    Write what a format cannot hold by itself as JSON text, in ASCII.
    """
    content = {'card_version': _CARD_VERSION, 'meta': plain_value(dict(catalog.meta))}
    return json.dumps({**content, **more})


def _read_card(text):
    """
    Read a card and check its version.
    """
    card = json.loads(text)
    if card['card_version'] > _CARD_VERSION:
        msg = (
            f'it was written by a newer version (card {card["card_version"]}, this '
            f'version reads up to {_CARD_VERSION})'
        )
        raise ValueError(msg)
    return card


def _write_ecsv(catalog, path, posterior):
    """
    Write ECSV, which holds everything but the posterior by itself.
    """
    table = plain_table(catalog)
    # Text has no end mark: without this a file that was cut short would read
    # as a catalogue of fewer sources.
    table.meta[_N_ROWS_KEY] = len(table)
    table.write(path, format='ascii.ecsv', overwrite=True)


def _read_ecsv(path, posterior):
    """
    Read ECSV.
    """
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
    return table, meta, None


def _write_votable(catalog, path, posterior):
    """
    Write VOTable, with UCDs, the coordinate system and the card as an INFO.
    """
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys, Info

    # Units of the field (nmgy, electron) are not in the VO's list, and the
    # search for similar ones meets deprecated ones; they are read back well.
    with collect_warnings():
        votable = from_table(_flat_table(catalog))
        table = votable.get_first_table()
        table.infos.append(Info(name=_CARD_KEY, value=_card(catalog)))
        fields = [f for f in table.fields if f.name in SKY_PARTS]
        if fields:
            system = CooSys(ID='sky', system='ICRS')
            votable.resources[0].coordinate_systems.append(system)
        for field in fields:
            field.ref = 'sky'
        votable.to_xml(str(path))


def _read_votable(path, posterior):
    """
    Read VOTable.
    """
    from astropy.io.votable import parse

    with collect_warnings():
        votable = parse(str(path)).get_first_table()
        table = votable.to_table(use_names_over_ids=True)
    cards = [info.value for info in votable.infos if info.name == _CARD_KEY]
    for column in table.itercols():
        if column.unit is not None:
            # The VO parser makes up a unit of its own where it knows none
            # (nmgy), which is equal to no other.
            column.unit = u.Unit(str(column.unit))
        # Long descriptions come back wrapped.
        column.description = ' '.join((column.description or '').split()) or None
        column.meta = {key: column.meta[key] for key in ('ucd',) if key in column.meta}
    return table, _read_card(cards[0])['meta'] if cards else {}, None


def _write_parquet(catalog, path, posterior):
    """
    Write Parquet, with astropy's own description of the columns in its schema.
    """
    table = _flat_table(catalog)
    # Parquet keeps rows of arrays but flattens each of them.
    shapes = {name: table[name].shape[1:] for name in table.colnames}
    table.meta = {_CARD_KEY: _card(catalog, shapes=shapes)}
    table.write(path, format='parquet', overwrite=True)


def _read_parquet(path, posterior):
    """
    Read Parquet with pyarrow alone (astropy's reader needs pandas too).
    """
    from pyarrow import ArrowInvalid, parquet

    try:
        content = parquet.read_table(path)
    except ArrowInvalid as error:
        raise ValueError(str(error)) from error
    schema = content.schema.metadata or {}
    described = schema.get(b'table_meta_yaml', b'').decode()
    if _CARD_KEY not in described:
        msg = 'it was not written by ProbabilisticCatalog.write'
        raise ValueError(msg)
    from astropy.table.meta import get_header_from_yaml

    header = get_header_from_yaml(described.split('\n'))
    card = _read_card(header['meta'][_CARD_KEY])
    table = Table()
    for attributes in header['datatype']:
        name = attributes['name']
        table[name] = _parquet_column(content[name], card['shapes'][name])
        for key in ('unit', 'description', 'meta'):
            if key in attributes:
                setattr(table[name].info, key, attributes[key])
    return table, card['meta'], None


def _parquet_column(chunks, shape):
    """
    Turn a column of pyarrow's into one of NumPy's.
    """
    if shape:
        values = chunks.combine_chunks()
        values = values.flatten().to_numpy(zero_copy_only=False)
        return Column(values.reshape(len(chunks), *shape))
    values = chunks.to_numpy()
    # Strings come as objects.
    return Column(values.astype(str) if values.dtype.kind == 'O' else values)


def _write_fits(catalog, path, posterior):
    """
    Write FITS: the table, the card, the arrays of the posterior.
    """
    table = plain_table(catalog)
    # The card has the meta; headers cannot hold what is nested.
    table.meta = {}
    for name in table.colnames:
        table[name].info.format = None
    stream = io.BytesIO()
    # Astropy warns of units that FITS does not know, and keeps them all the same.
    with collect_warnings():
        table.write(stream, format='fits')
    stream.seek(0)
    arrays, card = [], {}
    if posterior is not None:
        arrays, card['posterior'] = write_arrays(*posterior.to_arrays())
    text = np.array([_card(catalog, **card).encode('ascii')])
    with fits.open(stream) as hdus:
        rows = hdus[1]
        rows.name = 'CATALOG'
        _label_fits_columns(rows, catalog)
        # One row with one string: any FITS browser shows it.
        column = fits.Column('JSON', format=f'{text.itemsize}A', array=text)
        card_hdu = fits.BinTableHDU.from_columns([column], name=_CARD_EXTENSION)
        primary = fits.PrimaryHDU()
        primary.header['CREATOR'] = 'bliss_astro'
        hdus = fits.HDUList([primary, rows, card_hdu, *arrays])
        hdus.writeto(path, overwrite=True)


def _label_fits_columns(rows, catalog):
    """
    Add UCDs and comments to the header, where TOPCAT and others read them.
    """
    for i, name in enumerate(rows.columns.names, start=1):
        if name not in COLUMNS:
            continue
        definition = COLUMNS[name]
        comment = definition.description
        unit = getattr(catalog[name], 'unit', None)
        # TUNIT would be refused by astropy's reader for units that are not in
        # the standard (nmgy); without it, it finds them in its own notes.
        if isinstance(unit, u.UnitBase) and f'TUNIT{i}' not in rows.header:
            comment = f'{comment} [{unit}]'
        rows.header[f'TUCD{i}'] = definition.ucd
        rows.header[f'TCOMM{i}'] = comment


def _whole_file(path):
    """
    Read a file into memory and decompress it.

    Decompressing all of it finds out whether it is whole and undamaged; the
    FITS reader stops at the last extension that it can make out.
    """
    content = path.read_bytes()
    if content[:2] != b'\x1f\x8b':
        return io.BytesIO(content)
    return io.BytesIO(gzip.decompress(content))


def _read_fits(path, posterior):
    """
    Read FITS: table, meta, and the arrays and meta of the posterior or `None`.
    """
    with collect_warnings(AstropyUserWarning) as texts:
        content = _read_hdus(path, posterior)
    for text in texts:
        if 'truncated' in text:
            # A file that was cut short must not give a shorter catalogue.
            raise ValueError(text)
        warnings.warn(text, AstropyUserWarning, stacklevel=4)
    return content


def _read_hdus(path, posterior):
    """
    Read the extensions of a FITS file.
    """
    with fits.open(_whole_file(path), memmap=False) as hdus:
        named = 'CATALOG' in hdus
        table = QTable.read(
            hdus,
            format='fits',
            hdu='CATALOG' if named else 1,
            # NaN is a value here, such as the magnitude of no flux.
            mask_invalid=False,
            character_as_bytes=False,
        )
        if _CARD_EXTENSION not in hdus:
            # Tables of other programs have none; one of ours lost it.
            if hdus[0].header.get('CREATOR') == _CARD_KEY:
                msg = f'extension {_CARD_EXTENSION} is missing'
                raise ValueError(msg)
            return table, {}, None
        card = _read_card(str(hdus[_CARD_EXTENSION].data['JSON'][0]))
        arrays = None
        if posterior and card.get('posterior'):
            arrays = read_arrays(hdus, card['posterior'])
        return table, card['meta'], arrays


WRITERS = {
    'fits': _write_fits,
    'ecsv': _write_ecsv,
    'parquet': _write_parquet,
    'votable': _write_votable,
}
READERS = {
    'fits': _read_fits,
    'ecsv': _read_ecsv,
    'parquet': _read_parquet,
    'votable': _read_votable,
}
