# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Display of catalogues: digits by the errors, columns left out, flags by name.

Formats are chosen when a table is shown and are not stored in its columns: they depend
on the errors of the rows, so stored ones would differ between catalogues and make every
`~astropy.table.vstack` warn, and writers of text files round to them.
"""

import textwrap

import numpy as np
from astropy.table import QTable
from astropy.table.pprint import TableFormatter

from bliss_astro.flags import decode_flags

from ._bands import WAVELENGTHS, by_wavelength
from ._columns import (
    COLUMNS,
    REQUIRED_COLUMNS,
    SHAPE_COLUMNS,
    SHAPE_NAMES,
    plain_numbers,
)

_SHAPE_ERRORS = tuple(f'{name}_err' for name in SHAPE_COLUMNS)
# Columns that are displayed only where columns are selected.
_HIDDEN = ('source_index',)
# Columns to leave out where there is no room for all, in this order; those with {band}
# of all bands, the reddest first.
_EXPENDABLE = (
    *_SHAPE_ERRORS[::-1],
    *('bulge_axis_ratio', 'disk_axis_ratio', 'angle'),
    *('bulge_radius', 'disk_radius', 'disk_fraction'),
    *('mag_{band}_err', 'flux_{band}_err', 'flux_{band}'),
    *('x_y_cov', 'y_err', 'x_err', 'mag_err', 'sky_centroid', 'mag_{band}'),
    *('e2', 'e1', 'flags'),
)
# Least width of notes below a table, in characters.
_MIN_NOTE_WIDTH = 60
# Number of columns of shapes, or bands, up to which those left out are named.
_MAX_NAMED = 3


class CatalogFormatter(TableFormatter):
    """
    Formatter of the columns of a catalogue, with digits by the errors of the rows.

    Columns to which a user gave a format keep it. On a narrow terminal columns are
    left out, shapes first, and named below the table.
    """

    def _pformat_table(self, table, max_lines=-1, max_width=-1, **kwargs):
        view = _shown(table)
        lines, outs = super()._pformat_table(view, max_lines, max_width, **kwargs)
        left_out = []
        # HTML has no width; on a terminal a table that is too wide is shortened.
        for name in _expendable() if max_width != -1 else ():
            whole, _ = super()._pformat_table(view, max_lines, -1, **kwargs)
            if len(whole[0]) <= len(lines[0]):
                break
            if name in view.colnames:
                view.remove_column(name)
                left_out.append(name)
                lines, outs = super()._pformat_table(
                    view, max_lines, max_width, **kwargs
                )
        if not kwargs.get('html'):
            lines.extend(_explain_flags(view, len(lines[0])))
        if left_out:
            ordered = [name for name in table.colnames if name in left_out]
            lines.append(f'Not shown: {_enumerate(ordered)}')
        return lines, outs


class CatalogColumns(QTable):
    """
    Selected columns of a catalogue: a `~astropy.table.QTable` that prints like it.

    Made by ``catalog['x_centroid', 'flux']`` where a column is left out that a
    `ProbabilisticCatalog` needs.  Digits are chosen for display alone, and are
    not stored in the columns: text files get all digits.
    """

    TableFormatter = CatalogFormatter


def _expendable():
    """Names of columns to leave out, in this order."""
    for name in _EXPENDABLE:
        of_bands = by_wavelength()[::-1] if '{band}' in name else ('',)
        yield from (name.format(band=band) for band in of_bands)


def _explain_flags(table, width):
    """Names of the bits that occur in a column of flags, as lines below a table."""
    if 'flags' not in table.colnames or not len(table):
        return []
    flags = np.ma.filled(table['flags'], 0)
    if flags.dtype.kind not in 'iu' or flags.min() < 0:
        return []
    bits = int(np.bitwise_or.reduce(flags, axis=None))
    values = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    names = map('{} {}'.format, values, decode_flags(bits))
    text = f'Flags: {", ".join(names)}'
    return textwrap.wrap(text, max(width, _MIN_NOTE_WIDTH)) if bits else []


def _enumerate(names):
    """List columns in one line, many columns of shapes, or bands, by their number."""
    bands = {name for band in WAVELENGTHS for name, _ in COLUMNS.of(band)}
    for kind, own in (('shapes', SHAPE_NAMES), ('bands', bands)):
        others = [name for name in names if name not in own]
        if (n_own := len(names) - len(others)) > _MAX_NAMED:
            names = [*others, f'{n_own} columns of {kind}']
    return ', '.join(names)


def _shown(table):
    """View of a table whose columns have formats, without hidden ones."""
    view = QTable(table[:], copy=False)
    if set(REQUIRED_COLUMNS) <= set(view.colnames):
        view.remove_columns([name for name in _HIDDEN if name in view.colnames])
    flux = flux_format(view)
    for name, column in view.columns.items():
        definition = COLUMNS.get(name)
        if definition is None or column.info.format is not None:
            continue
        display = flux if definition.unit == 'flux' else definition.display
        column.info.format = display or None
    return view


def flux_format(table):
    """
    Format of fluxes: two significant digits of the median error, if there is one.

    Without errors four of the median flux.
    """
    for name, digits in (('flux_err', 2), ('flux', 4)):
        if name not in table.colnames:
            continue
        values = np.abs(plain_numbers(table[name]))
        values = values[np.isfinite(values) & (values > 0)]
        if values.size == 0:
            return '.4g'
        decimals = digits - 1 - int(np.floor(np.log10(np.median(values))))
        in_range = digits - 7 < decimals < digits + 6
        return f'.{max(decimals, 0)}f' if in_range else '.4g'
    return '.4g'
