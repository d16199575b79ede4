# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Columns of a catalogue: names, units, UCDs, descriptions, ranges, display.

Whatever names, checks, displays or stores a column reads it from `COLUMNS`: the file
``data/catalog/columns.csv``, and the columns of further parameters of a source. A new
column is a new line there, or part of the entry of its parameter. Its values are draws
of that parameter, an entry of ``SourceRows.columns``, or come from ``_derive_columns``
of ``_build.py`` if they follow from other columns.
"""

import csv
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import QTable
from astropy.table.pprint import TableFormatter
from astropy.wcs import WCS

from bliss_astro.flags import decode_flags
from bliss_astro.posteriors._source_chain import ELLIPTICITY, PARAMETERS, SHAPE
from bliss_astro.units import NANOMAGGY_ZERO_POINT, flux_to_magnitude


class Limits(NamedTuple):
    """Range of a column, both ends included, and whether NaN is allowed."""

    low: float
    high: float
    text: str
    nan: bool = True


_LARGEST = np.finfo(float).max
_LIMITS = {
    '': None,
    'probability': Limits(0.0, 1.0, 'within [0, 1]', nan=False),
    'finite': Limits(-_LARGEST, _LARGEST, 'finite', nan=False),
    'error': Limits(0.0, np.inf, '0 or more (or NaN)'),
    'fraction': Limits(0.0, 1.0, 'within [0, 1] (or NaN)'),
    'ellipticity': Limits(-1.0, 1.0, 'within [-1, 1] (or NaN)'),
    'positive': Limits(np.finfo(float).tiny, _LARGEST, 'positive and finite (or NaN)'),
    'angle': Limits(0.0, np.nextafter(180.0, 0.0), 'in [0, 180) degrees (or NaN)'),
}


class ColumnDefinition(NamedTuple):
    """
    Definition of one column of a catalogue.

    Parameters
    ----------
    dtype : str
        NumPy type of the values.

    unit : {'', 'flux', 'mag', 'deg', 'length'}
        Rule for the unit: none at all (positions in pixels are plain numbers, as in
        photutils), the unit of the image, a fixed one, or for a length arcsec where
        there is a WCS and else pix.

    display : str
        Format for showing values; empty where it follows from the errors.

    limits : `Limits` or `None`
        Range of the values.

    ucd : str
        Unified content descriptor (IVOA UCD1+), by which other programs recognise
        the quantity.

    description : str
        One line of text.
    """

    dtype: str
    unit: str
    display: str
    limits: Limits | None
    ucd: str
    description: str


def _read_definitions():
    path = Path(__file__).parent.parent / 'data' / 'catalog' / 'columns.csv'
    with path.open(encoding='utf-8', newline='') as file:
        _, *rows = csv.reader(file)
    for name, dtype, unit, display, limits, *texts in rows:
        yield name, ColumnDefinition(dtype, unit, display, _LIMITS[limits], *texts)


def error_name(name):
    """Name of the column with the standard error of a column."""
    return f'{name.removesuffix("_centroid")}_err'


def _define(column):
    """Definitions of a `SourceColumn` and of its error."""
    name, ucd, text, unit, display, limits = column
    values = 'f8', unit, display, _LIMITS[limits], ucd, text
    yield name, ColumnDefinition(*values)
    text = f'Half the width of the 68 percent interval of {name}'
    values = 'f8', unit, display, _LIMITS['error'], f'stat.error;{ucd}', text
    yield error_name(name), ColumnDefinition(*values)


class _Columns(Mapping):
    """Columns of the file; those of further parameters stand before the last two."""

    def __init__(self):
        self._own = dict(_read_definitions())

    def _all(self):
        columns = (c for entry in PARAMETERS.values() for c in entry.columns)
        more = [pair for c in columns if not isinstance(c, str) for pair in _define(c)]
        own = list(self._own.items())
        return dict([*own[:-2], *more, *own[-2:]])

    def __getitem__(self, name):
        return self._own.get(name) or self._all()[name]

    def __iter__(self):
        return iter(self._all())

    def __len__(self):
        return len(self._all())


COLUMNS = _Columns()
"""Definition of each column, by name and in the order of the table."""

SHAPE_COLUMNS = tuple(
    name for name in COLUMNS if name in SHAPE.columns + ELLIPTICITY.columns
)
"""Shape parameters of galaxies, for encoders that infer them; each has an error."""

SHAPE_NAMES = frozenset((*SHAPE_COLUMNS, *(f'{name}_err' for name in SHAPE_COLUMNS)))
"""All columns of shapes, errors included."""

REQUIRED_COLUMNS = (
    *('id', 'probability', 'x_centroid', 'y_centroid', 'x_err', 'y_err', 'x_y_cov'),
    *('flux', 'flux_err', 'flags'),
)
"""Columns that every catalogue has."""

SKY_PARTS = {
    'ra': ('Right ascension (ICRS)', 'pos.eq.ra;meta.main'),
    'dec': ('Declination (ICRS)', 'pos.eq.dec;meta.main'),
}
"""Names, descriptions and UCDs of sky_centroid in formats without SkyCoord."""


def is_direction(name):
    """Whether values of a column are angles that are the same after 180 degrees."""
    return name in COLUMNS and COLUMNS[name].limits is _LIMITS['angle']


def filled(values):
    """Replace masked elements: NaN for floats, otherwise 0 or empty text."""
    if not hasattr(values, 'mask') or not hasattr(values, 'filled'):
        return values
    return values.filled(np.nan if values.dtype.kind == 'f' else values.dtype.type())


def plain_numbers(values):
    """Numbers of a column as floats without unit; masked ones are NaN."""
    return np.asarray(filled(getattr(values, 'value', values)), dtype=float)


def has_magnitude(unit):
    """Whether fluxes in ``unit`` have an AB magnitude: (nano)maggies, janskys."""
    return unit is not None and (unit.is_equivalent(u.nmgy) or unit.is_equivalent(u.Jy))


def ab_magnitude(flux):
    """
    Convert fluxes in (nano)maggies or in a unit like janskys to AB magnitudes.

    Magnitudes are NaN where the flux is not positive, and in plain
    `~astropy.units.mag`, which every file format has, not ``ABmag``, which few have.

    Examples
    --------
    >>> import astropy.units as u
    >>> from bliss_astro.catalog._columns import ab_magnitude
    >>> ab_magnitude([1, 100] * u.nmgy)
    <Quantity [22.5, 17.5] mag>
    """
    # SDSS's nanomaggies are AB to 0.02 mag; other units go through janskys.
    nanomaggies = flux.unit.is_equivalent(u.nmgy)
    zero_point = NANOMAGGY_ZERO_POINT if nanomaggies else u.Jy.to(u.ABmag)
    value = flux.to_value(u.nmgy if nanomaggies else u.Jy)
    positive = np.where(value > 0, value, np.nan)
    return u.Quantity(flux_to_magnitude(positive, zero_point), u.mag)


def describe_column(column, name):
    """Attach the description and UCD of its definition, if any, to a column."""
    if (definition := COLUMNS.get(name)) is not None:
        info = column.info
        info.description = definition.description
        info.meta = {**(info.meta or {}), 'ucd': definition.ucd}


def typed_column(name, values, *, unit=None):
    """Copy values of a column to the defined type, if there is one, and unit."""
    if (definition := COLUMNS.get(name)) is not None:
        values = np.array(values, dtype=definition.dtype)
    # Others (times, quantities) are columns by themselves.
    return values if unit is None else u.Quantity(values, unit, copy=False)


def pixel_scale(wcs):
    """
    Arcsec per pixel of a celestial WCS of two pixel axes, the mean over both.

    For a FITS WCS at its reference pixel, for another kind at the middle of its array
    (or at the first pixel where it has none).
    """
    if isinstance(wcs, WCS):
        scales = u.Quantity(wcs.proj_plane_pixel_scales())
        return float(scales.to_value(u.arcsec).mean())
    ny, nx = getattr(wcs, 'array_shape', None) or (1, 1)
    x, y = 0.5 * (nx - 1), 0.5 * (ny - 1)
    places = wcs.pixel_to_world([x, x + 1, x], [y, y, y + 1])
    return float(places[1:].separation(places[0]).to_value(u.arcsec).mean())


def explain_no_shapes(name, encoder, *, others=False):
    """
    Reason why a table has no column of shapes, and the encoders that infer them.

    Parameters
    ----------
    name : str
        Name of the column.

    encoder : str, dict or `None`
        Encoder of the table as its meta names it.

    others : bool, optional
        Whether there are other columns of shapes.
    """
    encoder = encoder.get('name') if isinstance(encoder, dict) else encoder
    text = f'there is no column {name!r} in this table'
    if others:
        return (
            f'{text}: it was removed, or its encoder {encoder!r} describes galaxies '
            'by a learned model, of which only e1 and e2 are columns'
        )
    able = _able_encoders()
    if encoder in able:
        return (
            f'{text}, although its encoder {encoder!r} infers shapes of galaxies: it '
            'was left out or removed'
        )
    reason = 'it comes from no encoder that infers shapes of galaxies'
    if encoder is not None:
        reason = f'its encoder {encoder!r} infers no shapes of galaxies'
    return (
        f'{text}: {reason}; of the bundled encoders these do: '
        f'{" and ".join(map(repr, able)) or "none"} (see available_encoders)'
    )


def _able_encoders():
    """Names of the bundled encoders that infer shapes, by their cards."""
    from bliss_astro.encoders._weights import ENCODERS

    cards = {name: ENCODERS.read_card(name) for name in ENCODERS.available()}
    return [name for name, card in cards.items() if card['encoder'].get('shapes')]


# -- display -----------------------------------------------------------------------

# Formats are chosen when a table is shown and are not stored in its columns: they
# depend on the errors of the rows, so stored ones would differ between catalogues and
# make every `~astropy.table.vstack` warn, and writers of text files round to them.

_SHAPE_ERRORS = tuple(f'{name}_err' for name in SHAPE_COLUMNS)
# Columns that are displayed only where columns are selected.
_HIDDEN = ('source_index',)
# Columns to leave out where there is no room for all, in this order.
_EXPENDABLE = (
    *_SHAPE_ERRORS[::-1],
    *('bulge_axis_ratio', 'disk_axis_ratio', 'angle'),
    *('bulge_radius', 'disk_radius', 'disk_fraction'),
    *('x_y_cov', 'y_err', 'x_err', 'mag_err', 'sky_centroid', 'e2', 'e1', 'flags'),
)
# Least width of notes below a table, in characters.
_MIN_NOTE_WIDTH = 60
# Number of columns of shapes up to which those left out are named one by one.
_MAX_NAMED_SHAPES = 3


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
        for name in _EXPENDABLE if max_width != -1 else ():
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
    """List columns in one line, many columns of shapes by their number."""
    others = [name for name in names if name not in SHAPE_NAMES]
    if (n_shapes := len(names) - len(others)) > _MAX_NAMED_SHAPES:
        names = [*others, f'{n_shapes} columns of shapes']
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
