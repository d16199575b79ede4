# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Columns of a catalogue: names, units, UCDs, descriptions, ranges, display.

Whatever names, checks, displays or stores a column reads it from `COLUMNS`: the file
``data/catalog/columns.csv``, and the columns of further parameters of a source. A new
column is a new line there, one for all bands where its name holds ``{band}``, or part
of the entry of its parameter. Its values are draws of that parameter, an entry of
``SourceRows.columns``, or come from ``_derive_columns`` of ``_build.py`` if they follow
from other columns.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.wcs import WCS

from bliss_astro.posteriors._source_parameters import ELLIPTICITY, PARAMETERS, SHAPE
from bliss_astro.units import NANOMAGGY_ZERO_POINT, flux_to_magnitude

from ._bands import WAVELENGTHS, by_wavelength, ucd_word


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
        self._of_bands = [name for name in self._own if '{band}' in name]
        self._first = list(self._own).index(self._of_bands[0])
        self._known, self._made = None, {}

    def _all(self):
        # Bands are added and never changed.
        known = len(WAVELENGTHS), *PARAMETERS.values()
        if known != self._known:
            self._known, self._made = known, self._make()
        return self._made

    def _make(self):
        columns = (c for entry in PARAMETERS.values() for c in entry.columns)
        more = [pair for c in columns if not isinstance(c, str) for pair in _define(c)]
        own = [pair for pair in self._own.items() if pair[0] not in self._of_bands]
        bands = [pair for band in by_wavelength() for pair in self.of(band)]
        first = self._first
        return dict([*own[:first], *bands, *own[first:-2], *more, *own[-2:]])

    def of(self, band):
        """Names and definitions of the columns of a band."""
        texts = {'band': band, 'em': ucd_word(band)}
        for name in self._of_bands:
            *values, ucd, text = self._own[name]
            more = ucd.format(**texts), text.format(**texts)
            yield name.format(**texts), ColumnDefinition(*values, *more)

    def __getitem__(self, name):
        return self._all()[name]

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


def flux_of(name):
    """Name of the flux that a magnitude belongs to; None for other columns."""
    flux = f'flux{name.removeprefix("mag")}'
    is_magnitude = name.startswith('mag') and not name.endswith('_err')
    return flux if is_magnitude and {name, flux} <= COLUMNS.keys() else None


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
