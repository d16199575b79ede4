# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
FITS files of catalogues: the table, the card, the arrays of the posterior.
"""

import gzip
import io

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked

from bliss_astro._fits import CREATOR, verify_checksums
from bliss_astro._warnings import collect_warnings, warn

from ._card import make_card, plain_table, read_card, restore_columns
from ._columns import COLUMNS
from ._meta import plain_value

__all__ = ['read_fits', 'write_fits']

_CARD_EXTENSION = 'BLISS_META'


def write_fits(catalog, path, posterior):
    """Write FITS: the table, the card, the arrays of the posterior (or `None`)."""
    table = plain_table(catalog)
    # The card has the meta; headers cannot hold what is nested.
    table.meta = {}
    for name in table.colnames:
        _prepare_column(table, name)
    stream = io.BytesIO()
    # Astropy warns of units that FITS lacks, and keeps them all the same.
    with collect_warnings():
        table.write(stream, format='fits')
    stream.seek(0)
    arrays, card = [], {}
    if posterior is not None:
        arrays, card['posterior'] = _write_arrays(*posterior.to_arrays())
    text = np.array([make_card(catalog, **card).encode('ascii')])
    with fits.open(stream) as hdus:
        rows = hdus[1]
        rows.name = 'CATALOG'
        _label_columns(rows, catalog)
        # One row with one string: any FITS browser shows it.
        column = fits.Column('JSON', format=f'{text.itemsize}A', array=text)
        card_hdu = fits.BinTableHDU.from_columns([column], name=_CARD_EXTENSION)
        primary = fits.PrimaryHDU()
        primary.header['CREATOR'] = CREATOR
        hdus = fits.HDUList([primary, rows, card_hdu, *arrays])
        hdus.writeto(path, overwrite=True, checksum=True)


def _prepare_column(table, name):
    """Change a column so that FITS keeps its mask and its numbers."""
    column = table[name]
    if isinstance(column, MaskedColumn | Masked):
        # The mask gets a column; a value that stands for "masked" might be real.
        column.info.serialize_method['fits'] = 'data_mask'
    unit = getattr(column, 'unit', None)
    if not isinstance(unit, u.UnitBase):
        return
    try:
        unit.to_string('fits')
    except u.UnitScaleError:
        # Plain numbers; the card and the comment of the column have the unit.
        if isinstance(column, u.Quantity):
            kind = MaskedColumn if isinstance(column, Masked) else Column
            plain = kind(column.value, description=column.info.description)
            plain.info.meta = column.info.meta
            table.replace_column(name, plain)
            _prepare_column(table, name)
        else:
            column.unit = None
    except ValueError:
        # Not in the standard: astropy keeps it in notes of its own.
        return


def _label_columns(rows, catalog):
    """Add UCDs and comments to the header, where TOPCAT and others read them."""
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

    Decompressing all of it shows whether it is whole and undamaged; the FITS reader
    stops at the last extension that it can make out.
    """
    content = path.read_bytes()
    if content[:2] != b'\x1f\x8b':
        return io.BytesIO(content)
    return io.BytesIO(gzip.decompress(content))


def read_fits(path, posterior):
    """Read FITS: table, meta, and arrays and meta of the posterior (or `None`)."""
    with collect_warnings(AstropyUserWarning) as texts:
        content = _read_hdus(path, posterior)
    for text in texts:
        if 'truncated' in text:
            # A file that was cut short must not give a shorter catalogue.
            raise ValueError(text)
        warn(text)
    return content


def _read_hdus(path, posterior):
    """Read the extensions of a FITS file."""
    with fits.open(_whole_file(path), memmap=False) as hdus:
        verify_checksums(hdus)
        named = 'CATALOG' in hdus
        table = QTable.read(
            hdus,
            format='fits',
            hdu='CATALOG' if named else 1,
            # NaN is a value here, such as the magnitude of no flux.
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


# -- arrays of the posterior ---------------------------------------------------------


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
    """
    Arrays, in native byte order, and plain values of what `_write_arrays` made.

    Raises ValueError if an extension is missing or has another shape than described.
    """
    arrays = {}
    for name, entry in description['arrays'].items():
        dtype, shape = np.dtype(entry['dtype']), tuple(entry['shape'])
        if 0 in shape:
            arrays[name] = np.empty(shape, dtype)
            continue
        if entry['extension'] not in hdus:
            msg = f'extension {entry["extension"]} is missing'
            raise ValueError(msg)
        data = np.asarray(hdus[entry['extension']].data)
        if data.shape != shape:
            msg = f'{entry["extension"]} has shape {data.shape}, expected {shape}'
            raise ValueError(msg)
        arrays[name] = data.astype(dtype)
    return arrays, description['meta']
