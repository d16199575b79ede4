# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
File formats of catalogues: FITS, ECSV, Parquet and VOTable.

FITS and ECSV tables are written by astropy as they are, so that a plain
``QTable.read`` gives the sky positions back too. VOTable and Parquet tables get the sky
position as two columns ``ra`` and ``dec``. What a format cannot hold by itself goes in
as JSON text, the card: nested meta, and of columns the format of display, exact units,
and masks. FITS also keeps the posterior, one extension for each array.

Writers take the catalogue, the file and a posterior (or `None`). Readers take the file
and whether a posterior is wanted, and return the table, its meta, and the arrays and
meta of the posterior (or `None`).
"""

import io
import json

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.table.serialize import (
    _construct_mixins_from_columns,
    represent_mixins_as_columns,
)
from astropy.time import TimeBase
from astropy.utils.data_info import serialize_context_as
from astropy.utils.masked import Masked

from bliss_astro._fits import CREATOR, open_fits
from bliss_astro._warnings import collect_warnings
from bliss_astro.units import is_text_exact, unit_text

from ._columns import COLUMNS, SKY_PARTS
from ._meta import plain_value

# Key of the card in VOTable and Parquet, and its version.
_CARD_KEY, _CARD_VERSION = 'bliss_astro', 1
# Keys of the meta of an ECSV table.
_N_ROWS_KEY, _COLUMNS_KEY = 'n_rows', 'column_attributes'
# Extension of a FITS file with the card.
_CARD_EXTENSION = 'BLISS_META'


def plain_table(catalog, *, flat=False):
    """
    Plain table of a catalogue, which astropy's writers store without loss.

    The columns share its memory. Formats of display are left out, as they round the
    numbers of text files. A ``flat`` table has ``ra`` and ``dec``, no sky_centroid.
    """
    # Of views, so that the catalogue's own columns keep their formats.
    table = QTable(catalog[:], copy=False)
    table.meta = plain_value(dict(catalog.meta))
    for name in table.colnames:
        if isinstance(table[name], Column | u.Quantity):
            table[name].info.format = None
        unit = getattr(table[name], 'unit', None)
        if isinstance(unit, u.UnitBase) and not is_text_exact(unit):
            relabel(table, name, u.Unit(unit_text(unit), parse_strict='silent'))
    if flat and 'sky_centroid' in table.colnames:
        sky = table['sky_centroid'].icrs
        place = table.index_column('sky_centroid')
        for name, values in (('dec', sky.dec), ('ra', sky.ra)):
            column = u.Quantity(values.to_value(u.deg), u.deg)
            table.add_column(column, index=place, name=name)
            info, (description, ucd) = table[name].info, SKY_PARTS[name]
            info.description, info.meta = description, {'ucd': ucd}
        table.remove_column('sky_centroid')
    return table


def relabel(table, name, unit):
    """Give a column another name of its unit, or none; the numbers stay."""
    column = table[name]
    if not isinstance(column, u.Quantity):
        column.unit = unit
        return
    info = column.info
    if unit is None:
        kind = MaskedColumn if isinstance(column, Masked) else Column
        column = kind(column.value, description=info.description, meta=info.meta)
    else:
        column = type(column)(column.value, unit, copy=False)
        column.info = info
    table.replace_column(name, column)


def _describe_columns(catalog):
    """Formats of display, kinds of times, and units with a scale, by column."""
    attributes = {'formats': {}, 'units': {}, 'times': {}}
    for name, column in catalog.items():
        if isinstance(column, TimeBase):
            attributes['times'][name] = column.format
            continue
        if isinstance(column.info.format, str):
            attributes['formats'][name] = column.info.format
        if (unit := _foreign_unit(column)) is not None:
            attributes['units'][name] = unit_text(unit)
    return {key: value for key, value in attributes.items() if value}


def _foreign_unit(column):
    """Unit of a column, if FITS, the format with the fewest, does not give it back."""
    unit = getattr(column, 'unit', None)
    if not isinstance(unit, u.UnitBase):
        return None
    try:
        unit.to_string('fits')
    except u.UnitScaleError:
        return unit
    except ValueError:
        pass  # a name that the standard lacks (nmgy), which astropy notes by itself
    return None if is_text_exact(unit) else unit


def restore_columns(table, attributes):
    """Give columns back the attributes of `_describe_columns`; return the table."""
    for name in table.colnames:
        if name in attributes.get('units', {}):
            unit = u.Unit(attributes['units'][name], parse_strict='silent')
            relabel(table, name, unit)
        if name in attributes.get('formats', {}):
            table[name].info.format = attributes['formats'][name]
        if name in attributes.get('times', {}):
            table[name].format = attributes['times'][name]
    return table


def make_card(catalog, **more):
    """Card of a catalogue with further plain values, JSON text in ASCII."""
    card = {'card_version': _CARD_VERSION, 'meta': plain_value(dict(catalog.meta))}
    return json.dumps(card | _describe_columns(catalog) | more)


def read_card(text):
    """Values of a card; raise if a newer version of the package wrote it."""
    card = json.loads(text)
    if card['card_version'] > _CARD_VERSION:
        msg = (
            f'it was written by a newer version (card {card["card_version"]}, this '
            f'version reads up to {_CARD_VERSION})'
        )
        raise ValueError(msg)
    return card


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


def write_ecsv(catalog, path, posterior):
    """Write ECSV, which holds everything but the posterior by itself."""
    table = plain_table(catalog)
    # Text has no end mark: without this a file that was cut short would read
    # as a catalogue of fewer sources.
    table.meta[_N_ROWS_KEY] = len(table)
    # Text that is empty and text that is masked are the same in this format.
    attributes = _describe_columns(catalog)
    if any(column.dtype.kind in 'SU' for column in table.columns.isinstance(Column)):
        attributes['masked'] = _masked_places(table, 'SU')
    if attributes:
        table.meta[_COLUMNS_KEY] = attributes
    table.write(path, format='ascii.ecsv', overwrite=True)


def read_ecsv(path, posterior):
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
    return restore_columns(table, attributes), meta, None


def write_votable(catalog, path, posterior):
    """Write VOTable, with UCDs, the coordinate system and the card as an INFO."""
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys, Info

    # Units of the field (nmgy, electron) are not in the VO's list, and the
    # search for similar ones meets deprecated ones; they are read back well.
    with collect_warnings():
        # Columns with units instead of quantities.
        flat = Table(plain_table(catalog, flat=True), copy=False)
        votable = from_table(flat)
        table = votable.get_first_table()
        # NaN and masked are the same in this format.
        card = make_card(catalog, masked=_masked_places(flat, 'fcSUO'))
        table.infos.append(Info(name=_CARD_KEY, value=card))
        fields = [f for f in table.fields if f.name in SKY_PARTS]
        if fields:
            system = CooSys(ID='sky', system='ICRS')
            votable.resources[0].coordinate_systems.append(system)
        for field in fields:
            field.ref = 'sky'
        # Not by the writer in C, which writes a byte behind its buffer where a row
        # fills that, and so breaks the heap (astropy issue 20419).
        votable.to_xml(str(path), _debug_python_based_parser=True)


def read_votable(path, posterior):
    """Read VOTable."""
    from astropy.io.votable import parse

    with collect_warnings():
        votable = parse(str(path)).get_first_table()
        table = votable.to_table(use_names_over_ids=True)
    cards = [info.value for info in votable.infos if info.name == _CARD_KEY]
    card = read_card(cards[0]) if cards else {'meta': {}}
    for column in table.itercols():
        if column.unit is not None:
            # For units that the VO lacks (nmgy) the parser makes one up, which is
            # equal to no other.
            column.unit = u.Unit(str(column.unit), parse_strict='silent')
        # Long descriptions come back wrapped.
        column.description = ' '.join((column.description or '').split()) or None
        column.meta = {key: column.meta[key] for key in ('ucd',) if key in column.meta}
    _restore_masks(table, card.get('masked', {}), 'fcUO')
    return restore_columns(table, card), card['meta'], None


def write_parquet(catalog, path, posterior):
    """Write Parquet, with astropy's own description of the columns in its schema."""
    # Whatever is no plain column becomes several, as astropy would have it.
    with serialize_context_as('parquet'):
        table = represent_mixins_as_columns(plain_table(catalog, flat=True))
    # Parquet keeps rows of arrays but flattens each of them.
    shapes = {name: table[name].shape[1:] for name in table.colnames}
    table.meta[_CARD_KEY] = make_card(catalog, shapes=shapes)
    table.write(path, format='parquet', overwrite=True)


def read_parquet(path, posterior):
    """Read Parquet with pyarrow alone (astropy's reader needs pandas too)."""
    from astropy.table.meta import get_header_from_yaml
    from pyarrow import ArrowInvalid, parquet

    try:
        content = parquet.read_table(path)
    except ArrowInvalid as error:
        raise ValueError(str(error)) from error
    described = (content.schema.metadata or {}).get(b'table_meta_yaml', b'').decode()
    if _CARD_KEY not in described:
        msg = 'it was not written by ProbabilisticCatalog.write'
        raise ValueError(msg)
    header = get_header_from_yaml(described.split('\n'))
    card = read_card(header['meta'].pop(_CARD_KEY))
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
    return restore_columns(table, card), card['meta'], None


# -- FITS ------------------------------------------------------------------------------


def write_fits(catalog, path, posterior):
    """Write FITS: the table, the card, the arrays of the posterior (or `None`)."""
    table = plain_table(catalog)
    # The card has the meta; headers cannot hold what is nested.
    table.meta = {}
    for name in table.colnames:
        if _foreign_unit(table[name]) is not None:
            # Plain numbers; the card and the comment of the column have the unit.
            relabel(table, name, None)
        if isinstance(table[name], MaskedColumn | Masked):
            # The mask gets a column; a value that stands for "masked" might be real.
            table[name].info.serialize_method['fits'] = 'data_mask'
    stream = io.BytesIO()
    # Astropy warns of units that FITS lacks, and keeps them all the same.
    with collect_warnings():
        table.write(stream, format='fits')
    stream.seek(0)
    arrays, card = [], {}
    if posterior is not None:
        least = float(np.min(catalog['probability'], initial=1.0))
        arrays, card['posterior'] = _write_arrays(*posterior.to_arrays(least))
    text = np.array([make_card(catalog, **card).encode('ascii')])
    # One row with one string: any FITS browser shows it.
    column = fits.Column('JSON', format=f'{text.itemsize}A', array=text)
    with fits.open(stream) as hdus:
        rows = hdus[1]
        rows.name = 'CATALOG'
        for i, name in enumerate(rows.columns.names, start=1):
            if name not in COLUMNS:
                continue
            # TOPCAT and others read UCDs and comments.
            rows.header[f'TUCD{i}'] = COLUMNS[name].ucd
            comment = COLUMNS[name].description
            unit = getattr(catalog[name], 'unit', None)
            # TUNIT would be refused by astropy's reader for units that are not in
            # the standard (nmgy); without it, it finds them in its own notes.
            if isinstance(unit, u.UnitBase) and f'TUNIT{i}' not in rows.header:
                comment = f'{comment} [{unit}]'
            rows.header[f'TCOMM{i}'] = comment
        card_hdu = fits.BinTableHDU.from_columns([column], name=_CARD_EXTENSION)
        primary = fits.PrimaryHDU()
        primary.header['CREATOR'] = CREATOR
        hdus = fits.HDUList([primary, rows, card_hdu, *arrays])
        hdus.writeto(path, overwrite=True, checksum=True)


def read_fits(path, posterior):
    """Read FITS: table, meta, and arrays and meta of the posterior (or `None`)."""
    with open_fits(path, 'path') as hdus:
        # NaN is a value here, such as the magnitude of no flux.
        options = {'mask_invalid': False, 'character_as_bytes': False}
        hdu = 'CATALOG' if 'CATALOG' in hdus else 1
        table = QTable.read(hdus, hdu, format='fits', astropy_native=True, **options)
        if _CARD_EXTENSION not in hdus:
            # Tables of other programs have none; one of ours lost it.
            if hdus[0].header.get('CREATOR') == CREATOR:
                raise ValueError(f'extension {_CARD_EXTENSION} is missing')
            return table, {}, None
        card = read_card(str(hdus[_CARD_EXTENSION].data['JSON'][0]))
        arrays = None
        if posterior and card.get('posterior'):
            arrays = _read_arrays(hdus, card['posterior'])
        return restore_columns(table, card), card['meta'], arrays


def _write_arrays(arrays, meta):
    """Image extensions of arrays, and the description that `_read_arrays` needs."""
    described, hdus = {}, []
    for name, array in arrays.items():
        extension = f'BLISS_{name}'.upper()
        shape, dtype = list(array.shape), array.dtype.str[1:]
        described[name] = {'extension': extension, 'dtype': dtype, 'shape': shape}
        # FITS has no numbers of half precision, and no empty images.
        array = array.view('i2') if dtype == 'f2' else array
        if name == 'FLAGS':
            hdus.append(
                fits.CompImageHDU(array, compression_type='GZIP_1', name=extension)
            )
        elif array.size:
            hdus.append(fits.ImageHDU(array, name=extension))
    return hdus, {'arrays': described, 'meta': plain_value(dict(meta))}


def _read_arrays(hdus, description):
    """Arrays, in native byte order, and plain values of what `_write_arrays` made."""
    arrays = {}
    for name, entry in description['arrays'].items():
        extension, shape = entry['extension'], tuple(entry['shape'])
        data = np.empty(shape) if 0 in shape else None
        if data is None and extension in hdus:
            data = np.asarray(hdus[extension].data)
        if np.shape(data) != shape:
            raise ValueError(f'extension {extension} of shape {shape} is missing')
        dtype = entry['dtype']
        data = data.astype('i2' if dtype == 'f2' else dtype)
        arrays[name] = data.view(dtype)
    return arrays, description['meta']
