# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Columns of a catalogue: names, units, UCDs, descriptions and ranges.

Whatever names, checks, displays or stores a column reads it from `COLUMNS`, the file
``data/catalog/columns.csv``. A new column is a new line there. Its values are an entry
of ``SourceRows.columns`` if they are inferred, or come from ``_derive_columns`` of
``_build.py`` if they follow from other columns.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import Column
from astropy.wcs import WCS

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
    'length': Limits(np.finfo(float).tiny, _LARGEST, 'positive and finite (or NaN)'),
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


COLUMNS = dict(_read_definitions())
"""Definition of each column, by name and in the order of the table."""

SHAPE_COLUMNS = (
    *('disk_fraction', 'disk_axis_ratio', 'bulge_axis_ratio', 'disk_radius'),
    *('bulge_radius', 'angle', 'e1', 'e2'),
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


def error_name(name):
    """Name of the column with the standard error of a column."""
    return f'{name.removesuffix("_centroid")}_err'


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
        column.info.description = definition.description
        column.info.meta = {**(column.info.meta or {}), 'ucd': definition.ucd}


def make_column(name, values, *, unit=None):
    """Copy values to a column, of the defined type and description if there are any."""
    if name in COLUMNS:
        values = np.array(values, dtype=COLUMNS[name].dtype)
    if unit is not None:
        column = u.Quantity(values, unit)
    else:
        # Others (times, quantities) are columns by themselves.
        column = Column(values, name=name) if type(values) is np.ndarray else values
    column.info.name = name
    describe_column(column, name)
    return column


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
