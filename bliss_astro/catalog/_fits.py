# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
FITS files of catalogues: the table, the card, and the arrays of the posterior.
"""

import io

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import MaskedColumn, QTable
from astropy.utils.masked import Masked

from bliss_astro._fits import CREATOR, open_fits
from bliss_astro._warnings import collect_warnings

from ._columns import COLUMNS
from ._formats import (
    is_fits_unit,
    make_card,
    plain_table,
    read_card,
    relabel,
    restore_columns,
)
from ._meta import plain_value

_CARD_EXTENSION = 'BLISS_META'


def write_fits(catalog, path, posterior):
    """Write FITS: the table, the card, the arrays of the posterior (or `None`)."""
    table = plain_table(catalog)
    # The card has the meta; headers cannot hold what is nested.
    table.meta = {}
    for name in table.colnames:
        unit = getattr(table[name], 'unit', None)
        if isinstance(unit, u.UnitBase) and not is_fits_unit(unit):
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
            msg = f'extension {extension} of shape {shape} is missing'
            raise ValueError(msg)
        dtype = entry['dtype']
        data = data.astype('i2' if dtype == 'f2' else dtype)
        arrays[name] = data.view(dtype)
    return arrays, description['meta']
