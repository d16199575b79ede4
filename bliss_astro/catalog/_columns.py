# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The columns of a catalogue: one table that says what each of them is.

Whatever names, describes, formats or checks a column reads it from `COLUMNS`.
"""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.table import Column

__all__ = [
    'COLUMNS',
    'ERROR_COLUMNS',
    'REQUIRED_COLUMNS',
    'SHAPE_COLUMNS',
    'SKY_PARTS',
    'ColumnDefinition',
    'ab_magnitude',
    'ab_magnitude_error',
    'describe_column',
    'has_magnitude',
    'make_column',
]


@dataclasses.dataclass(frozen=True)
class ColumnDefinition:
    """
    What one column of a catalogue is.

    Parameters
    ----------
    name : str
        Name of the column.

    dtype : str
        NumPy type of its values.

    unit : {None, 'flux', 'mag', 'deg', 'length'}
        Rule for its unit: none at all (positions in pixels are plain
        numbers, as in photutils), the unit of the image, a fixed one, or for
        a length arcsec where there is a WCS and else pix.

    description : str
        One line for a person.

    ucd : str
        Unified content descriptor (IVOA UCD1+), which tells other programs
        what the column is.

    display : str or `None`
        Format for showing values; `None` where it follows from the errors.

    required : bool
        Whether a table without it is no longer a catalogue.

    default : float or `None`
        What it is filled with when not given; `None` where it has to be
        given or is computed.

    limits : tuple of float or `None`
        Range of the values, checked for the shapes of galaxies: both ends
        belong to it, but zero length and 180 degrees do not.
    """

    name: str
    dtype: str
    unit: str | None
    description: str
    ucd: str
    display: str | None = None
    required: bool = False
    default: float | None = None
    limits: tuple[float, float] | None = None


# Name, unit, range, format, UCD and description of each number of a galaxy's
# shape, in the order of the table.
_SHAPES = (
    (
        'disk_fraction',
        (None, (0.0, 1.0), '.3f', 'phot.flux;arith.ratio'),
        'Share of the disk in the flux',
    ),
    (
        'disk_axis_ratio',
        (None, (0.0, 1.0), '.3f', 'phys.size.axisRatio'),
        'Minor over major axis of the disk',
    ),
    (
        'bulge_axis_ratio',
        (None, (0.0, 1.0), '.3f', 'phys.size.axisRatio'),
        'Minor over major axis of the bulge',
    ),
    (
        'disk_radius',
        ('length', (0.0, np.inf), '.3f', 'phys.angSize.smajAxis'),
        'Half-light radius of the disk along its major axis',
    ),
    (
        'bulge_radius',
        ('length', (0.0, np.inf), '.3f', 'phys.angSize.smajAxis'),
        'Half-light radius of the bulge along its major axis',
    ),
    (
        'angle',
        ('deg', (0.0, 180.0), '.1f', 'pos.posAng;instr.det'),
        'Angle of the major axis from +x towards +y in pixels',
    ),
    (
        'e1',
        (None, (-1.0, 1.0), '.3f', 'src.ellipticity'),
        'Ellipticity of the image along x (positive) or y (negative)',
    ),
    (
        'e2',
        (None, (-1.0, 1.0), '.3f', 'src.ellipticity'),
        'Ellipticity of the image along x = y or x = -y (negative)',
    ),
)

SHAPE_COLUMNS = tuple(name for name, _, _ in _SHAPES)
"""What is inferred of galaxies, by encoders that do; each has an error."""


def _shape_definitions():
    """
    Define the columns of shapes, each followed by its error.
    """
    for name, (unit, limits, display, ucd), description in _SHAPES:
        yield ColumnDefinition(
            name,
            'f8',
            unit,
            f'{description}, given a galaxy',
            ucd,
            display,
            limits=limits,
        )
        yield ColumnDefinition(
            f'{name}_err',
            'f8',
            unit,
            f'Half the width of the 68 percent interval of {name}',
            f'stat.error;{ucd}',
            display,
            limits=(0.0, np.inf),
        )


_DEFINITIONS = (
    ColumnDefinition(
        'id', 'i8', None, 'Running number, from 1', 'meta.id;meta.main', required=True
    ),
    ColumnDefinition(
        'probability',
        'f8',
        None,
        'Posterior probability that there is a source',
        'stat.probability',
        '.3f',
        required=True,
    ),
    ColumnDefinition(
        'galaxy_probability',
        'f8',
        None,
        'Posterior probability that the source, if there, is a galaxy',
        'stat.probability;src.class.starGalaxy',
        '.3f',
    ),
    ColumnDefinition(
        'x_centroid',
        'f8',
        None,
        'Column of the source in pixels, the first pixel centred on 0',
        'pos.cartesian.x;instr.det',
        '.3f',
        required=True,
    ),
    ColumnDefinition(
        'y_centroid',
        'f8',
        None,
        'Row of the source in pixels, the first pixel centred on 0',
        'pos.cartesian.y;instr.det',
        '.3f',
        required=True,
    ),
    ColumnDefinition(
        'x_err',
        'f8',
        None,
        'Standard error of x_centroid in pixels',
        'stat.error;pos.cartesian.x;instr.det',
        '.3f',
        required=True,
    ),
    ColumnDefinition(
        'y_err',
        'f8',
        None,
        'Standard error of y_centroid in pixels',
        'stat.error;pos.cartesian.y;instr.det',
        '.3f',
        required=True,
    ),
    ColumnDefinition(
        'x_y_cov',
        'f8',
        None,
        'Covariance of x_centroid and y_centroid in square pixels',
        'stat.covariance;pos.cartesian;instr.det',
        '.1e',
        required=True,
        default=0.0,
    ),
    ColumnDefinition(
        'sky_centroid',
        'f8',
        'deg',
        'Position on the sky (ICRS)',
        'pos.eq;meta.main',
        '{0.ra.deg:.6f},{0.dec.deg:.6f}',
    ),
    ColumnDefinition(
        'flux',
        'f8',
        'flux',
        'Flux of the whole source, the median of its posterior',
        'phot.flux',
        required=True,
    ),
    ColumnDefinition(
        'flux_err',
        'f8',
        'flux',
        'Half the width between the 16 and 84 percent quantiles of the flux',
        'stat.error;phot.flux',
        required=True,
    ),
    ColumnDefinition(
        'mag', 'f8', 'mag', 'AB magnitude that belongs to flux', 'phot.mag', '.3f'
    ),
    ColumnDefinition(
        'mag_err',
        'f8',
        'mag',
        'Standard error of mag, to first order in flux_err / flux',
        'stat.error;phot.mag',
        '.3f',
    ),
    *_shape_definitions(),
    ColumnDefinition(
        'flags',
        'i4',
        None,
        'Sum of warning bits, see decode_flags',
        'meta.code.qual',
        required=True,
        default=0,
    ),
)

COLUMNS = {definition.name: definition for definition in _DEFINITIONS}
"""Definition of each column, by name and in the order of the table."""

REQUIRED_COLUMNS = tuple(
    definition.name for definition in _DEFINITIONS if definition.required
)
"""Without these a table is no longer a catalogue."""

ERROR_COLUMNS = ('x_err', 'y_err', 'flux_err')
"""Columns that may not be negative."""

SKY_PARTS = {
    'ra': ('Right ascension (ICRS)', 'pos.eq.ra;meta.main'),
    'dec': ('Declination (ICRS)', 'pos.eq.dec;meta.main'),
}
"""Names, descriptions and UCDs of sky_centroid in formats without SkyCoord."""

# SDSS's nanomaggies are AB to 0.02 mag; other units go through janskys.
_NANOMAGGY_ZERO_POINT = 22.5
_POGSON = 2.5 / np.log(10.0)


def has_magnitude(unit):
    """
    Say whether fluxes in ``unit`` have an AB magnitude.

    Parameters
    ----------
    unit : `~astropy.units.Unit` or `None`
        Unit of the fluxes.

    Returns
    -------
    has : bool
        `True` for (nano)maggies and for flux densities per frequency.
    """
    if unit is None:
        return False
    return unit.is_equivalent(u.nmgy) or unit.is_equivalent(u.Jy)


def ab_magnitude(flux):
    """
    Turn fluxes into AB magnitudes.

    Parameters
    ----------
    flux : `~astropy.units.Quantity`
        Fluxes in (nano)maggies or in a unit like janskys.

    Returns
    -------
    mag : `~astropy.units.Quantity`
        ``22.5 - 2.5 log10(flux / nmgy)``; NaN where the flux is not
        positive. The unit is plain `~astropy.units.mag`, which every file
        format knows, not ``ABmag``, which few do.

    Examples
    --------
    >>> import astropy.units as u
    >>> from bliss_astro.catalog._columns import ab_magnitude
    >>> ab_magnitude([1, 100] * u.nmgy)
    <Quantity [22.5, 17.5] mag>
    """
    if flux.unit.is_equivalent(u.nmgy):
        value, zero_point = flux.to_value(u.nmgy), _NANOMAGGY_ZERO_POINT
    else:
        value, zero_point = flux.to_value(u.Jy), u.Jy.to(u.ABmag)
    positive = np.where(value > 0, value, np.nan)
    return u.Quantity(zero_point - 2.5 * np.log10(positive), u.mag)


def ab_magnitude_error(flux, flux_err):
    """
    Propagate errors of fluxes to their magnitudes, to first order.

    Parameters
    ----------
    flux, flux_err : `~astropy.units.Quantity`
        Fluxes and their standard errors, in units of one kind.

    Returns
    -------
    mag_err : `~astropy.units.Quantity`
        ``2.5 / ln(10) flux_err / flux``; NaN where the flux is not positive.
    """
    value = flux.value
    positive = np.where(value > 0, value, np.nan)
    return u.Quantity(_POGSON * flux_err.to_value(flux.unit) / positive, u.mag)


def describe_column(column, name):
    """
    Give a column the description and UCD of its definition, in place.

    Parameters
    ----------
    column : `~astropy.table.Column` or mixin
        The column.

    name : str
        Its name. Columns without a definition are left as they are.
    """
    definition = COLUMNS.get(name)
    if definition is None:
        return
    column.info.description = definition.description
    column.info.meta = {**(column.info.meta or {}), 'ucd': definition.ucd}


def make_column(name, values, *, unit=None):
    """
    Make a column of the defined type, with its description and UCD.

    Parameters
    ----------
    name : str
        A key of `COLUMNS`.

    values : array_like
        Plain numbers.

    unit : `~astropy.units.Unit` or `None`, optional
        Unit to attach.

    Returns
    -------
    column : `~astropy.table.Column` or `~astropy.units.Quantity`
        The column, holding its own copy of the values.
    """
    values = np.array(values, dtype=COLUMNS[name].dtype)
    column = Column(values, name=name) if unit is None else u.Quantity(values, unit)
    column.info.name = name
    describe_column(column, name)
    return column
