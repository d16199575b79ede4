# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Columns from plain arrays: the checks, units and order of ``from_columns``.
"""

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Column

from ._columns import (
    COLUMNS,
    SHAPE_NAMES,
    ab_magnitude,
    ab_magnitude_error,
    describe_column,
    has_magnitude,
    make_column,
)
from ._shapes import convert_shape, pixel_scale

__all__ = ['make_columns']

# Columns in the unit of the image, and those that from_columns derives itself.
_FLUXES = ('flux', 'flux_err', 'flux_samples')
_DERIVED = ('sky_centroid', 'mag', 'mag_err')
# By how much sums of float32 may exceed a probability of 1.
_ROUNDING = 1e-6


def make_columns(columns, *, wcs, unit):
    """
    Make the columns of a catalogue, in the order of the table and brightest row first.

    The arguments and errors are those of `ProbabilisticCatalog.from_columns`.
    """
    _check_names(columns)
    if wcs is not None and (
        getattr(wcs, 'pixel_n_dim', None) != 2 or not getattr(wcs, 'has_celestial', 1)
    ):
        msg = f'wcs must be a celestial WCS of two pixel axes, got {wcs!r}'
        raise ValueError(msg)
    values, units = dict(columns), {}
    shapes = [name for name in columns if name in SHAPE_NAMES]
    scale = pixel_scale(wcs) if shapes and wcs is not None else None
    for name in shapes:
        values[name], units[name] = convert_shape(name, columns[name], scale=scale)
    unit, values = _convert_fluxes(values, unit)
    units |= {name: unit for name in values if name in _FLUXES}
    values = {name: _filled(name, column) for name, column in values.items()}
    lengths = {name: len(column) for name, column in values.items()}
    if len(set(lengths.values())) > 1:
        listing = ', '.join(f'{name}: {n}' for name, n in lengths.items())
        msg = f'columns must all be of one length, got {listing}'
        raise ValueError(msg)
    for name, definition in COLUMNS.items():
        if definition.default is not None and name not in values:
            values[name] = np.full(lengths['flux'], definition.default)
    _check_values(values)
    # Stable, so that equal fluxes keep their order; NaN goes to the end.
    order = np.argsort(-np.asarray(values['flux'], dtype=float), kind='stable')
    values = {name: column[order] for name, column in values.items()}
    values.setdefault('id', np.arange(1, len(order) + 1))
    return _assemble(values, units, wcs=wcs, unit=unit)


def _check_names(columns):
    """Raise unless the needed columns are there and the derived ones are not."""
    if not isinstance(columns, Mapping):
        msg = f'columns must be a mapping of names to arrays, got {type(columns)!r}'
        raise TypeError(msg)
    needed = [
        name
        for name, definition in COLUMNS.items()
        if definition.required and definition.default is None and name != 'id'
    ]
    missing = [name for name in needed if name not in columns]
    if missing:
        msg = (
            f'columns lacks {", ".join(missing)}; it must hold '
            f'{", ".join(needed)}, got {", ".join(columns) or "nothing"}'
        )
        raise ValueError(msg)
    derived = [name for name in _DERIVED if name in columns]
    if derived:
        msg = (
            f'columns must not hold {", ".join(derived)}: these are computed '
            'from the fluxes and the wcs'
        )
        raise ValueError(msg)


def _convert_fluxes(columns, unit):
    """Convert fluxes to one unit; return it (`None` for none) and plain columns."""
    unit = None if unit is None else u.Unit(unit)
    names = [name for name in columns if name in _FLUXES]
    with_unit = [name for name in names if isinstance(columns[name], u.Quantity)]
    if with_unit and len(with_unit) < len(names):
        plain = [name for name in names if name not in with_unit]
        msg = (
            f'columns: {", ".join(with_unit)} have units and '
            f'{", ".join(plain)} have none; all of them or none must have one'
        )
        raise ValueError(msg)
    if with_unit and unit is None:
        unit = columns['flux'].unit
    for name in with_unit:
        try:
            columns[name] = columns[name].to_value(unit)
        except u.UnitConversionError as error:
            msg = f'columns[{name!r}] is in {columns[name].unit}, not in {unit}'
            raise u.UnitConversionError(msg) from error
    for name, column in columns.items():
        if name in COLUMNS and isinstance(column, u.Quantity):
            msg = f'columns[{name!r}] must hold plain numbers, got {column.unit}'
            raise u.UnitsError(msg)
    return (None if unit == u.dimensionless_unscaled else unit), columns


def _filled(name, values):
    """Return a column as an array (or as it is), masked floats as NaN."""
    if isinstance(values, u.Quantity | SkyCoord):
        return values
    if np.ma.isMaskedArray(values):
        values = values.filled(np.nan if values.dtype.kind == 'f' else None)
    array = np.asarray(values)
    if name not in COLUMNS and array.ndim:
        return array
    if array.dtype.kind not in 'iuf' and array.size:
        msg = f'columns[{name!r}] must hold real numbers, got dtype {array.dtype}'
        raise TypeError(msg)
    if array.ndim != 1:
        msg = f'columns[{name!r}] must be 1-D, got shape {array.shape}'
        raise ValueError(msg)
    return array


def _check_values(values):
    """Raise unless all values lie within the limits of their columns."""
    share = np.asarray(values['probability'], dtype=float)
    values['probability'] = np.where((share > 1) & (share <= 1 + _ROUNDING), 1.0, share)
    for name in COLUMNS.keys() & values.keys():
        limits = COLUMNS[name].limits
        if limits is None:
            continue
        own = np.asarray(values[name], dtype=float)
        bad = (own < limits.low) | (own > limits.high)
        if not limits.nan:
            bad |= np.isnan(own)
        if bad.any():
            msg = f'columns[{name!r}] must be {limits.text}, got {own[bad][0]}'
            raise ValueError(msg)


def _assemble(values, units, *, wcs, unit):
    """Make the columns of checked and sorted values, derived ones among them."""
    made = {
        name: make_column(name, column, unit=units.get(name))
        for name, column in values.items()
        if name in COLUMNS
    }
    if wcs is not None:
        place = made['x_centroid'].data, made['y_centroid'].data
        made['sky_centroid'] = _sky_positions(wcs, *place)
    if has_magnitude(unit):
        fluxes = made['flux'], made['flux_err']
        for name, column in (
            ('mag', ab_magnitude(fluxes[0])),
            ('mag_err', ab_magnitude_error(*fluxes)),
        ):
            made[name] = make_column(name, column.value, unit=u.mag)
    made = {name: made[name] for name in COLUMNS if name in made}
    for name in [name for name in values if name not in COLUMNS]:
        extra = values[name]
        if units.get(name) is not None:
            extra = u.Quantity(extra, units[name])
        # A bare array would be a Column too, but one that shares its memory.
        made[name] = Column(extra) if type(extra) is np.ndarray else extra
    return made


def _sky_positions(wcs, x, y):
    """Convert pixel positions to a described ICRS column."""
    # Nothing to transform, and not every WCS takes empty arrays.
    sky = wcs.pixel_to_world(x, y) if len(x) else SkyCoord([], [], unit='deg')
    sky = SkyCoord(sky.icrs.ra, sky.icrs.dec)
    sky.info.name = 'sky_centroid'
    describe_column(sky, 'sky_centroid')
    return sky
