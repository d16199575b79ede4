# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Columns of photometric catalogues that a prior is fitted to.
"""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.table import Table, vstack

from bliss_astro._plugins import load_surveys
from bliss_astro.units import flux_to_magnitude

# Converters of the tables of surveys, which their plug-ins add: the columns by which
# a table is recognised, and the function that makes the columns of the fit of them.
SURVEY_CONVERTERS = []

# Magnitudes outside of these are codes for missing ones.
MAGNITUDE_RANGE = (5.0, 35.0)


def need_columns(table, names):
    """Raise an error for something that is no table or lacks columns."""
    if not isinstance(table, Table):
        msg = (
            f'table must be an astropy Table (or a list of them), got '
            f'{type(table).__name__}'
        )
        raise TypeError(msg)
    missing = [name for name in names if name not in table.colnames]
    if missing:
        msg = (
            f'table lacks the column(s) {", ".join(missing)}; it has '
            f'{", ".join(table.colnames)}'
        )
        raise ValueError(msg)


def float_column(table, name, unit=None):
    """Column as float array in a unit, masked values as NaN."""
    column = table[name]
    given = getattr(column, 'unit', None)
    if given is not None and unit is not None:
        try:
            column = u.Quantity(np.ma.filled(column, np.nan), given).to_value(
                unit, u.zero_point_flux(1 * u.AB)
            )
        except u.UnitConversionError:
            msg = f'table[{name!r}] must be in a unit like {unit}, got {given}'
            raise ValueError(msg) from None
    values = getattr(column, 'value', column)
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(float), np.nan)
    return np.array(values, dtype=float)


@dataclasses.dataclass(frozen=True, eq=False)
class CatalogColumns:
    """
    Checked columns of a catalogue.

    Attributes
    ----------
    magnitude : float array ``(n,)``
        AB.

    is_galaxy : bool array ``(n,)``
        The class.

    radius : float array ``(n,)``
        Half-light radius (semi-major axis) of the whole galaxy in arcsec.

    bulge_to_disk : float array ``(n,)``
        Ratio of the radii.

    disk_axis_ratio, bulge_axis_ratio, disk_fraction : float array ``(n,)``
        NaN where unknown.

    area : float
        Square degrees.
    """

    magnitude: np.ndarray
    is_galaxy: np.ndarray
    radius: np.ndarray
    bulge_to_disk: np.ndarray
    disk_axis_ratio: np.ndarray
    bulge_axis_ratio: np.ndarray
    disk_fraction: np.ndarray
    area: float

    @classmethod
    def from_table(cls, table, *, area=None):
        """Check a table and take its columns."""
        first = table[0] if isinstance(table, (list, tuple)) and table else table
        need_columns(first, ())
        load_surveys()
        for names, convert in SURVEY_CONVERTERS:
            if set(names) <= set(first.colnames):
                table = convert(table)
        if isinstance(table, (list, tuple)):
            table = vstack(list(table), metadata_conflicts='silent')
        if area is None:
            area = table.meta.get('area')
        magnitude = _magnitude(table)
        is_galaxy = _class(table)
        known = np.isfinite(magnitude)
        shapes = _shapes(table, is_galaxy)
        return cls(
            magnitude=magnitude[known],
            is_galaxy=is_galaxy[known],
            **{name: value[known] for name, value in shapes.items()},
            area=_area(area),
        )


def _area(area):
    """Area as square degrees."""
    if area is None:
        msg = 'area must be given, in square degrees (or as table.meta["area"])'
        raise ValueError(msg)
    if isinstance(area, u.Quantity):
        try:
            area = area.to_value(u.deg**2)
        except u.UnitConversionError:
            msg = f'area must be a solid angle, got {area}'
            raise ValueError(msg) from None
    if not (np.isscalar(area) and np.isfinite(area) and area > 0):
        msg = f'area must be positive, in square degrees, got {area!r}'
        raise ValueError(msg)
    return float(area)


def _magnitude(table):
    """AB magnitudes from ``magnitude`` or ``flux``."""
    has = [name for name in ('magnitude', 'flux') if name in table.colnames]
    if len(has) != 1:
        msg = (
            "table must have either 'magnitude' or 'flux', one of the two; it has "
            f'{", ".join(table.colnames)}'
        )
        raise ValueError(msg)
    if has == ['flux']:
        flux = float_column(table, 'flux', u.nmgy)
        if (flux <= 0).any():
            msg = f"table['flux'] must be positive, got {np.nanmin(flux)}"
            raise ValueError(msg)
        return flux_to_magnitude(flux)
    unit = getattr(table['magnitude'], 'unit', None)
    if unit not in (None, u.mag, u.ABmag):
        msg = (
            f"table['magnitude'] must be in mag (AB), got {unit}; fluxes belong in "
            "a column 'flux'"
        )
        raise ValueError(msg)
    magnitude = float_column(table, 'magnitude')
    wrong = ~((magnitude > MAGNITUDE_RANGE[0]) & (magnitude < MAGNITUDE_RANGE[1]))
    wrong &= np.isfinite(magnitude)
    if wrong.any():
        msg = (
            f"table['magnitude'] must lie between {MAGNITUDE_RANGE[0]} and "
            f'{MAGNITUDE_RANGE[1]} (mask or drop missing ones), got '
            f'{magnitude[wrong][0]}'
        )
        raise ValueError(msg)
    return magnitude


def _class(table):
    """Whether each row is a galaxy."""
    if 'is_galaxy' in table.colnames:
        value = float_column(table, 'is_galaxy')
    else:
        if 'probpsf' not in table.colnames:
            need_columns(table, ['is_galaxy'])
        value = 1 - float_column(table, 'probpsf')
    if not np.isin(value, (0, 1)).all():
        wrong = value[~np.isin(value, (0, 1))][0]
        msg = f"table['is_galaxy'] (or 'probpsf') must be 0 or 1, got {wrong}"
        raise ValueError(msg)
    return value == 1


def _shapes(table, is_galaxy):
    """Checked shape columns; those of stars are NaN."""

    def read(name, low, high, allowed, unit=None):
        value = np.where(is_galaxy, float_column(table, name, unit), np.nan)
        wrong = np.isfinite(value) & ~((value >= low) & (value <= high))
        if wrong.any():
            msg = (
                f'table[{name!r}] of galaxies must be {allowed} (mask failed fits, '
                f'or make them NaN), got {value[wrong][0]}'
            )
            raise ValueError(msg)
        return value

    tiny = np.nextafter(0, 1)
    names = {}
    for what in ('radius', 'axis_ratio'):
        pair = (f'disk_{what}', f'bulge_{what}')
        both = all(name in table.colnames for name in pair)
        names[what] = pair if both else (what, what)
    need_columns(table, [*dict.fromkeys(names['radius'] + names['axis_ratio'])])
    need_columns(table, ['disk_fraction'])
    fraction = read('disk_fraction', 0, 1, 'in [0, 1]')
    disk, bulge = (
        read(name, tiny, np.inf, 'positive', u.arcsec) for name in names['radius']
    )
    ratios = [read(name, tiny, 1, 'in (0, 1]') for name in names['axis_ratio']]
    with np.errstate(invalid='ignore', divide='ignore'):
        # A component without light says nothing.
        log_disk = np.where(fraction > 0, np.log(disk), 0.0)
        log_bulge = np.where(fraction < 1, np.log(bulge), 0.0)
        radius = np.exp(fraction * log_disk + (1 - fraction) * log_bulge)
        one = names['radius'][0] == 'radius'
        ratio = np.full(len(radius), np.nan) if one else bulge / disk
    return {
        'radius': radius,
        'bulge_to_disk': ratio,
        'disk_axis_ratio': ratios[0],
        'bulge_axis_ratio': ratios[1],
        'disk_fraction': fraction,
    }
