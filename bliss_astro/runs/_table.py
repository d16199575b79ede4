# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Table of the fields of a run, a line for each.
"""

import astropy.units as u
import numpy as np
from astropy.table import QTable

from bliss_astro._atomic import atomic_write

from ._sky import to_degrees, to_vectors

_TEXTS = ('field', 'status', 'reason', 'bands', 'findings', 'warnings')
# Numbers of a record, and units of columns.
_NUMBERS = ('expected_count', 'expected_count_error', 'area', 'depth', 'fwhm')
_NUMBERS += ('pixel_scale',)
_UNITS = {'seconds': u.s, 'area': u.arcmin**2, 'fwhm': u.pix}
_UNITS |= {'pixel_scale': u.arcsec / u.pix, 'ra': u.deg, 'dec': u.deg}
_TYPES = dict.fromkeys(_TEXTS, str) | {'n_rows': int}
_TYPES |= dict.fromkeys(('seconds', *_NUMBERS, 'ra', 'dec'), float)
# Entries of a record that a line needs.
RETURNED = {'seconds', 'footprint', 'n_rows', 'unit', *_TEXTS, *_NUMBERS}


def row_of(record):
    """Line of the table, from the record of a field."""
    row = dict.fromkeys(_TYPES, np.nan) | {'n_rows': record.get('n_rows') or 0}
    for name in _TEXTS:
        text = record.get(name) or ''
        if not isinstance(text, str):
            known = [str(one) for one in text if one is not None]
            text = ('' if name == 'bands' else '; ').join(known)
        row[name] = ' '.join(text.split())
    for name in _NUMBERS:
        if record.get(name) is not None:
            row[name] = record[name]
    row['seconds'] = float(sum((record.get('seconds') or {}).values()))
    corners = np.array(record.get('footprint') or [[np.nan, np.nan]])
    row['ra'], row['dec'] = map(float, to_degrees(to_vectors(*corners.T).mean(0)))
    return row


def table_of(rows, **types):
    """Table of lines by name of the field, with further columns of such types."""
    rows, table = sorted(rows, key=lambda row: row['field']), QTable()
    for name, kind in {**_TYPES, **types}.items():
        table[name] = np.array([row[name] for row in rows], dtype=kind)
        if name in _UNITS:
            table[name].unit = _UNITS[name]
    return QTable(table)


def write_table(folder, rows, counts):
    """Write lines to a file, with the numbers of the last call as meta."""
    table = table_of(rows)
    table.meta = dict(counts)
    with atomic_write(folder / 'fields.ecsv', overwrite=True) as path:
        table.write(path, format='ascii.ecsv', overwrite=True)
