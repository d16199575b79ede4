# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Columns of a catalogue: the one table of names, units, UCDs, descriptions and formulae.

Whatever names, computes, checks, displays or stores a column reads it from `COLUMNS`;
a new column is a new entry there.
"""

import dataclasses
from collections.abc import Callable

import astropy.units as u
import numpy as np
from astropy.table import Column

from bliss_astro.units import NANOMAGGY_ZERO_POINT, flux_to_magnitude

__all__ = [
    'COLUMNS',
    'REQUIRED_COLUMNS',
    'SHAPE_COLUMNS',
    'SHAPE_NAMES',
    'SKY_PARTS',
    'ColumnDefinition',
    'ab_magnitude',
    'ab_magnitude_error',
    'describe_column',
    'has_magnitude',
    'make_column',
]


@dataclasses.dataclass(frozen=True)
class Limits:
    """
    Range of the values of a column, both ends included.

    Parameters
    ----------
    low, high : float
        Ends of the range.

    text : str
        The range in words, for error messages.

    nan : bool
        Whether NaN (an unknown value) is allowed.
    """

    low: float
    high: float
    text: str
    nan: bool = True


_LARGEST = np.finfo(float).max
_PROBABILITY = Limits(0.0, 1.0, 'within [0, 1]', nan=False)
_PLACE = Limits(-_LARGEST, _LARGEST, 'finite', nan=False)
_ERROR = Limits(0.0, np.inf, '0 or more (or NaN)')
_FRACTION = Limits(0.0, 1.0, 'within [0, 1] (or NaN)')
_ELLIPTICITY = Limits(-1.0, 1.0, 'within [-1, 1] (or NaN)')
_LENGTH = Limits(np.finfo(float).tiny, _LARGEST, 'positive and finite (or NaN)')
_ANGLE = Limits(0.0, np.nextafter(180.0, 0.0), 'in [0, 180) degrees (or NaN)')


@dataclasses.dataclass(frozen=True)
class ColumnDefinition:
    """
    Definition of one column of a catalogue.

    Parameters
    ----------
    name : str
        Name of the column.

    description : str
        One line of text.

    ucd : str
        Unified content descriptor (IVOA UCD1+), by which other programs recognise
        the quantity.

    unit : {None, 'flux', 'mag', 'deg', 'length'}
        Rule for the unit: none at all (positions in pixels are plain numbers, as in
        photutils), the unit of the image, a fixed one, or for a length arcsec where
        there is a WCS and else pix.

    display : str or `None`
        Format for showing values; `None` where it follows from the errors.

    compute : callable or `None`
        Function of the `~bliss_astro.catalog._rows.SourceRows` of a table that
        returns the values, or `None` where the encoder does not infer them. Columns
        without one are derived from the others by ``from_columns``.

    limits : `Limits` or `None`
        Range of the values.

    error : str or `None`
        Name of the column with the standard error.

    required : bool
        Whether a table without the column is not a catalogue.

    default : float or `None`
        Value where ``from_columns`` is given none.

    dtype : str
        NumPy type of the values.
    """

    name: str
    description: str
    ucd: str
    unit: str | None = None
    display: str | None = '.3f'
    compute: Callable | None = None
    limits: Limits | None = None
    error: str | None = None
    required: bool = False
    default: float | None = None
    dtype: str = 'f8'


# Name, unit, range, format, UCD and description of each number of a galaxy's shape.
_SHAPES = (
    (
        *('disk_fraction', None, _FRACTION, '.3f', 'phot.flux;arith.ratio'),
        'Share of the disk in the flux',
    ),
    (
        *('disk_axis_ratio', None, _FRACTION, '.3f', 'phys.size.axisRatio'),
        'Minor over major axis of the disk',
    ),
    (
        *('bulge_axis_ratio', None, _FRACTION, '.3f', 'phys.size.axisRatio'),
        'Minor over major axis of the bulge',
    ),
    (
        *('disk_radius', 'length', _LENGTH, '.3f', 'phys.angSize.smajAxis'),
        'Half-light radius of the disk along its major axis',
    ),
    (
        *('bulge_radius', 'length', _LENGTH, '.3f', 'phys.angSize.smajAxis'),
        'Half-light radius of the bulge along its major axis',
    ),
    (
        *('angle', 'deg', _ANGLE, '.1f', 'pos.posAng;instr.det'),
        'Angle of the major axis from +x towards +y in pixels',
    ),
    (
        *('e1', None, _ELLIPTICITY, '.3f', 'src.ellipticity'),
        'Ellipticity of the image along x (positive) or y (negative)',
    ),
    (
        *('e2', None, _ELLIPTICITY, '.3f', 'src.ellipticity'),
        'Ellipticity of the image along x = y or x = -y (negative)',
    ),
)

SHAPE_COLUMNS = tuple(name for name, *_ in _SHAPES)
"""Shape parameters of galaxies, for encoders that infer them; each has an error."""

SHAPE_NAMES = frozenset((*SHAPE_COLUMNS, *(f'{name}_err' for name in SHAPE_COLUMNS)))
"""All columns of shapes, errors included."""


def _shape_definitions():
    """Define the columns of shapes, each followed by its error."""
    for name, unit, limits, display, ucd, description in _SHAPES:
        error = f'{name}_err'
        yield ColumnDefinition(
            name,
            f'{description}, given a galaxy',
            ucd,
            unit,
            display,
            lambda rows, name=name: rows.shape_summary(name)[0],
            limits,
            error,
        )
        yield ColumnDefinition(
            error,
            f'Half the width of the 68 percent interval of {name}',
            f'stat.error;{ucd}',
            unit,
            display,
            lambda rows, name=name: rows.shape_summary(name)[1],
            _ERROR,
        )


_DEFINITIONS = (
    ColumnDefinition(
        'id',
        'Running number, from 1',
        'meta.id;meta.main',
        display=None,
        required=True,
        dtype='i8',
    ),
    ColumnDefinition(
        'probability',
        'Posterior probability that there is a source',
        'stat.probability',
        compute=lambda rows: rows.probability,
        limits=_PROBABILITY,
        required=True,
    ),
    ColumnDefinition(
        'galaxy_probability',
        'Posterior probability that the source, if there, is a galaxy',
        'stat.probability;src.class.starGalaxy',
        compute=lambda rows: rows.galaxy_probability,
        limits=_PROBABILITY,
    ),
    ColumnDefinition(
        'x_centroid',
        'Column of the source in pixels, the first pixel centred on 0',
        'pos.cartesian.x;instr.det',
        compute=lambda rows: rows.place[0],
        limits=_PLACE,
        error='x_err',
        required=True,
    ),
    ColumnDefinition(
        'y_centroid',
        'Row of the source in pixels, the first pixel centred on 0',
        'pos.cartesian.y;instr.det',
        compute=lambda rows: rows.place[1],
        limits=_PLACE,
        error='y_err',
        required=True,
    ),
    ColumnDefinition(
        'x_err',
        'Standard error of x_centroid in pixels',
        'stat.error;pos.cartesian.x;instr.det',
        compute=lambda rows: np.sqrt(rows.covariance(0, 0)),
        limits=_ERROR,
        required=True,
    ),
    ColumnDefinition(
        'y_err',
        'Standard error of y_centroid in pixels',
        'stat.error;pos.cartesian.y;instr.det',
        compute=lambda rows: np.sqrt(rows.covariance(1, 1)),
        limits=_ERROR,
        required=True,
    ),
    ColumnDefinition(
        'x_y_cov',
        'Covariance of x_centroid and y_centroid in square pixels',
        'stat.covariance;pos.cartesian;instr.det',
        display='.1e',
        compute=lambda rows: rows.covariance(0, 1),
        required=True,
        default=0.0,
    ),
    ColumnDefinition(
        'sky_centroid',
        'Position on the sky (ICRS)',
        'pos.eq;meta.main',
        'deg',
        '{0.ra.deg:.6f},{0.dec.deg:.6f}',
    ),
    ColumnDefinition(
        'flux',
        'Flux of the whole source, the median of its posterior',
        'phot.flux',
        'flux',
        None,
        lambda rows: rows.flux_levels[1],
        error='flux_err',
        required=True,
    ),
    ColumnDefinition(
        'flux_err',
        'Half the width between the 16 and 84 percent quantiles of the flux',
        'stat.error;phot.flux',
        'flux',
        None,
        lambda rows: 0.5 * (rows.flux_levels[2] - rows.flux_levels[0]),
        _ERROR,
        required=True,
    ),
    ColumnDefinition(
        'mag', 'AB magnitude that belongs to flux', 'phot.mag', 'mag', error='mag_err'
    ),
    ColumnDefinition(
        'mag_err',
        'Standard error of mag, to first order in flux_err / flux',
        'stat.error;phot.mag',
        'mag',
    ),
    *_shape_definitions(),
    ColumnDefinition(
        'flags',
        'Sum of warning bits, see decode_flags',
        'meta.code.qual',
        display=None,
        compute=lambda rows: rows.flags,
        required=True,
        default=0,
        dtype='i4',
    ),
    ColumnDefinition(
        'source_index',
        'Index of the source in the posterior of its image',
        'meta.id',
        display=None,
        compute=lambda rows: rows.keys,
        dtype='i8',
    ),
)

COLUMNS = {definition.name: definition for definition in _DEFINITIONS}
"""Definition of each column, by name and in the order of the table."""

REQUIRED_COLUMNS = tuple(name for name, column in COLUMNS.items() if column.required)
"""Columns that every catalogue has."""

SKY_PARTS = {
    'ra': ('Right ascension (ICRS)', 'pos.eq.ra;meta.main'),
    'dec': ('Declination (ICRS)', 'pos.eq.dec;meta.main'),
}
"""Names, descriptions and UCDs of sky_centroid in formats without SkyCoord."""


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


def ab_magnitude_error(flux, flux_err):
    """Errors of AB magnitudes to first order; NaN where the flux is not positive."""
    positive = np.where(flux.value > 0, flux.value, np.nan)
    error = 2.5 / np.log(10.0) * flux_err.to_value(flux.unit) / positive
    return u.Quantity(error, u.mag)


def describe_column(column, name):
    """Attach the description and UCD of its definition, if any, to a column."""
    if (definition := COLUMNS.get(name)) is not None:
        column.info.description = definition.description
        column.info.meta = {**(column.info.meta or {}), 'ucd': definition.ucd}


def make_column(name, values, *, unit=None):
    """Copy plain numbers to a column of the defined type and description."""
    values = np.array(values, dtype=COLUMNS[name].dtype)
    column = Column(values, name=name) if unit is None else u.Quantity(values, unit)
    column.info.name = name
    describe_column(column, name)
    return column
