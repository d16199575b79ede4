# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
FITS files of catalogues, and the plain tables and cards of metadata of all formats.

A card is JSON text of what a format cannot hold by itself: nested meta, and of columns
the format of display, exact units, and masks.
"""

import io
import json

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable
from astropy.time import TimeBase
from astropy.utils.masked import Masked

from bliss_astro._fits import CREATOR, open_fits
from bliss_astro._warnings import collect_warnings
from bliss_astro.units import is_text_exact, unit_text

from ._columns import COLUMNS, SKY_PARTS
from ._meta import plain_value

# Extension of the card, and its version.
_CARD_EXTENSION, _CARD_VERSION = 'BLISS_META', 1


# -- plain tables and cards ------------------------------------------------------------


def plain_table(catalog, *, flat=False):
    """
    Plain table of a catalogue, which astropy's writers store without loss.

    The columns share the catalogue's memory. Formats of display are left out, as they
    round the numbers of text files; the meta are plain values, the posterior is not
    among them. A ``flat`` table has ``ra`` and ``dec`` in place of sky_centroid.
    """
    # Of views, so that the catalogue's own columns keep their formats.
    table = QTable(catalog[:], copy=False)
    table.meta = plain_value(dict(catalog.meta))
    for name in table.colnames:
        if isinstance(table[name], Column | u.Quantity):
            table[name].info.format = None
        unit = getattr(table[name], 'unit', None)
        if isinstance(unit, u.UnitBase) and not is_text_exact(unit):
            _relabel(table, name, u.Unit(unit_text(unit), parse_strict='silent'))
    if flat and 'sky_centroid' in table.colnames:
        sky = table['sky_centroid'].icrs
        place = table.index_column('sky_centroid')
        for name, values in (('dec', sky.dec), ('ra', sky.ra)):
            column = u.Quantity(values.to_value(u.deg), u.deg)
            table.add_column(column, index=place, name=name)
            description, ucd = SKY_PARTS[name]
            table[name].info.description = description
            table[name].info.meta = {'ucd': ucd}
        table.remove_column('sky_centroid')
    return table


def _relabel(table, name, unit):
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


def describe_columns(catalog):
    """Formats of display, kinds of times, and units with a scale, by column."""
    attributes = {'formats': {}, 'units': {}, 'times': {}}
    for name, column in catalog.items():
        if isinstance(column, TimeBase):
            attributes['times'][name] = column.format
            continue
        if isinstance(column.info.format, str):
            attributes['formats'][name] = column.info.format
        unit = getattr(column, 'unit', None)
        if isinstance(unit, u.UnitBase) and not _is_fits(unit):
            attributes['units'][name] = unit_text(unit)
    return {key: value for key, value in attributes.items() if value}


def _is_fits(unit):
    """Whether FITS, of all formats the one with the fewest units, gives a unit back."""
    if not is_text_exact(unit):
        return False
    try:
        unit.to_string('fits')
    except u.UnitScaleError:
        return False
    except ValueError:
        # A name that the standard lacks (nmgy), which astropy notes by itself.
        return True
    return True


def restore_columns(table, attributes):
    """Give columns back the attributes of `describe_columns`; return the table."""
    for name in table.colnames:
        if name in attributes.get('units', {}):
            unit = u.Unit(attributes['units'][name], parse_strict='silent')
            _relabel(table, name, unit)
        if name in attributes.get('formats', {}):
            table[name].info.format = attributes['formats'][name]
        if name in attributes.get('times', {}):
            table[name].format = attributes['times'][name]
    return table


def make_card(catalog, **more):
    """Card of a catalogue with further plain values, JSON text in ASCII."""
    card = {'card_version': _CARD_VERSION, 'meta': plain_value(dict(catalog.meta))}
    return json.dumps(card | describe_columns(catalog) | more)


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


# -- FITS ------------------------------------------------------------------------------


def write_fits(catalog, path, posterior):
    """Write FITS: the table, the card, the arrays of the posterior (or `None`)."""
    table = plain_table(catalog)
    # The card has the meta; headers cannot hold what is nested.
    table.meta = {}
    for name in table.colnames:
        unit = getattr(table[name], 'unit', None)
        if isinstance(unit, u.UnitBase) and not _is_fits(unit):
            # Plain numbers; the card and the comment of the column have the unit.
            _relabel(table, name, None)
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
        arrays, card['posterior'] = _write_arrays(*posterior.to_arrays())
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
        table = QTable.read(
            hdus,
            format='fits',
            hdu='CATALOG' if 'CATALOG' in hdus else 1,
            mask_invalid=False,
            character_as_bytes=False,
            astropy_native=True,
        )
        if _CARD_EXTENSION not in hdus:
            # Tables of other programs have none; one of ours lost it.
            if hdus[0].header.get('CREATOR') == CREATOR:
                msg = f'extension {_CARD_EXTENSION} is missing'
                raise ValueError(msg)
            return table, {}, None
        card = read_card(str(hdus[_CARD_EXTENSION].data['JSON'][0]))
        arrays = None
        if posterior and card.get('posterior'):
            arrays = _read_arrays(hdus, card['posterior'])
        return restore_columns(table, card), card['meta'], arrays


def _write_arrays(arrays, meta):
    """
    Image extensions of named arrays, and the description that `_read_arrays` needs.

    There is one extension ``BLISS_<NAME>`` for each array that is not empty, as FITS
    has no empty images.
    """
    described = {
        name: {
            'extension': f'BLISS_{name}'.upper(),
            'dtype': array.dtype.str[1:],
            'shape': list(array.shape),
        }
        for name, array in arrays.items()
    }
    hdus = [
        fits.ImageHDU(array, name=described[name]['extension'])
        for name, array in arrays.items()
        if array.size
    ]
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
            msg = f'extension {extension} of shape {shape} is missing'
            raise ValueError(msg)
        arrays[name] = data.astype(entry['dtype'])
    return arrays, description['meta']
