# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From plain arrays to the columns of a catalogue.

Everything that comes from outside is checked here.
"""

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Column

from ._columns import (
    COLUMNS,
    ERROR_COLUMNS,
    ab_magnitude,
    ab_magnitude_error,
    describe_column,
    has_magnitude,
    make_column,
)
from ._shapes import SHAPE_NAMES, convert_shape, pixel_scale

__all__ = ['make_columns']

# What from_columns computes and therefore does not accept.
_COMPUTED = ('sky_centroid', 'mag', 'mag_err')


def make_columns(columns, *, wcs, unit):
    """
    Check arrays and make the columns of a catalogue, brightest row first.

    Parameters
    ----------
    columns : mapping of str to array_like or `~astropy.units.Quantity`
        As for `ProbabilisticCatalog.from_columns`.

    wcs : WCS object or `None`
        WCS of the image.

    unit : unit-like or `None`
        Unit of the fluxes.

    Returns
    -------
    made : dict of str to column
        The columns in the order of the table.
    """
    _check_names(columns)
    _check_wcs(wcs)
    columns, shape_units = _convert_shapes(columns, wcs)
    unit, columns = _take_units_off(columns, unit)
    values = {name: _filled(name, column) for name, column in columns.items()}
    n_rows = _check_lengths(values)
    for name, definition in COLUMNS.items():
        if definition.default is not None and name not in values:
            values[name] = np.full(n_rows, definition.default)
    _check_values(values)
    # Stable, so that equal fluxes keep their order; NaN goes to the end.
    order = np.argsort(-np.asarray(values['flux'], dtype=float), kind='stable')
    values = {name: column[order] for name, column in values.items()}
    values.setdefault('id', np.arange(1, n_rows + 1))
    return _assemble(values, wcs=wcs, unit=unit, shape_units=shape_units)


def _check_names(columns):
    """
    Check that the needed columns are there and the computed ones are not.
    """
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
    computed = [name for name in _COMPUTED if name in columns]
    if computed:
        msg = (
            f'columns must not hold {", ".join(computed)}: these are computed '
            'from the fluxes and the wcs'
        )
        raise ValueError(msg)


def _check_wcs(wcs):
    """
    Check that a WCS, if there is one, gives positions on the sky.
    """
    if wcs is None:
        return
    n_dim = getattr(wcs, 'pixel_n_dim', None)
    if n_dim != 2 or not getattr(wcs, 'has_celestial', True):
        msg = f'wcs must be a celestial WCS of two pixel axes, got {wcs!r}'
        raise ValueError(msg)


def _convert_shapes(columns, wcs):
    """
    Convert shapes to the units of the table; return columns and units.
    """
    columns, units = dict(columns), {}
    names = [name for name in columns if name in SHAPE_NAMES]
    scale = pixel_scale(wcs) if names and wcs is not None else None
    for name in names:
        converted = convert_shape(name, columns[name], scale=scale)
        columns[name], units[name] = converted
    return columns, units


def _take_units_off(columns, unit):
    """
    Convert the fluxes to one unit and return that unit and plain columns.

    Fluxes are either all quantities or all plain numbers; ``None`` stands
    for no unit, also for dimensionless quantities.
    """
    unit = None if unit is None else u.Unit(unit)
    names = [name for name in columns if _is_flux(name)]
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
    columns = dict(columns)
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


def _is_flux(name):
    """
    Say whether a column is in the unit of the image.
    """
    return name in ('flux', 'flux_err', 'flux_samples')


def _filled(name, values):
    """
    Return a column as an array (or a `Quantity`), masked floats as NaN.
    """
    if isinstance(values, u.Quantity | SkyCoord):
        return values
    if np.ma.isMaskedArray(values):
        fill = np.nan if values.dtype.kind == 'f' else None
        values = values.filled(fill)
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


def _check_lengths(values):
    """
    Check that all columns are of one length, and return it.
    """
    lengths = {name: len(column) for name, column in values.items()}
    if len(set(lengths.values())) > 1:
        listing = ', '.join(f'{name}: {n}' for name, n in lengths.items())
        msg = f'columns must all be of one length, got {listing}'
        raise ValueError(msg)
    return lengths['flux']


def _check_values(values):
    """
    Check the ranges of the columns that have one.
    """
    probability = np.asarray(values['probability'], dtype=float)
    # Written so that NaN fails too. Sums of float32 may pass 1 by rounding.
    bad = ~((probability >= 0) & (probability <= 1 + 1e-6))
    if bad.any():
        msg = f"columns['probability'] must be within [0, 1], got {probability[bad][0]}"
        raise ValueError(msg)
    values['probability'] = np.minimum(probability, 1)
    if 'galaxy_probability' in values:
        share = np.asarray(values['galaxy_probability'], dtype=float)
        bad = ~((share >= 0) & (share <= 1))
        if bad.any():
            msg = (
                "columns['galaxy_probability'] must be within [0, 1], got "
                f'{share[bad][0]}'
            )
            raise ValueError(msg)
    for name in ('x_centroid', 'y_centroid'):
        bad = ~np.isfinite(np.asarray(values[name], dtype=float))
        if bad.any():
            msg = f'columns[{name!r}] must be finite, got {values[name][bad][0]}'
            raise ValueError(msg)
    for name in ERROR_COLUMNS:
        bad = np.asarray(values[name], dtype=float) < 0
        if bad.any():
            msg = f'columns[{name!r}] must not be negative, got {values[name][bad][0]}'
            raise ValueError(msg)
    for name in SHAPE_NAMES & set(values):
        _check_shape(name, np.asarray(values[name], dtype=float))


def _check_shape(name, values):
    """
    Check the range of a column of shapes, which may hold NaN.
    """
    low, high = COLUMNS[name].limits
    unit = COLUMNS[name].unit
    bad, allowed = (values < low) | (values > high), f'within [{low:g}, {high:g}]'
    if name.endswith('_err'):
        allowed = 'not negative'
    elif unit == 'length':
        bad, allowed = ~(values > 0) | np.isinf(values), 'positive and finite'
        bad &= ~np.isnan(values)
    elif unit == 'deg':
        bad, allowed = bad | (values == high), 'in [0, 180) degrees'
    if bad.any():
        msg = f'columns[{name!r}] must be {allowed} (or NaN), got {values[bad][0]}'
        raise ValueError(msg)


def _assemble(values, *, wcs, unit, shape_units):
    """
    Make the columns of checked and sorted values.
    """
    units = {name: unit for name in values if _is_flux(name)} | shape_units
    made = {
        name: make_column(name, values[name], unit=units.get(name))
        for name in COLUMNS
        if name in values
    }
    if wcs is not None:
        made['sky_centroid'] = _sky_positions(
            wcs, made['x_centroid'].data, made['y_centroid'].data
        )
    if has_magnitude(unit):
        mag = ab_magnitude(made['flux'])
        mag_err = ab_magnitude_error(made['flux'], made['flux_err'])
        made['mag'] = make_column('mag', mag.value, unit=u.mag)
        made['mag_err'] = make_column('mag_err', mag_err.value, unit=u.mag)
    made = {name: made[name] for name in COLUMNS if name in made}
    for name in [name for name in values if name not in COLUMNS]:
        extra = values[name]
        if unit is not None and _is_flux(name):
            extra = u.Quantity(extra, unit)
        # A bare array would be a Column too, but one that shares its memory.
        made[name] = Column(extra) if type(extra) is np.ndarray else extra
    return made


def _sky_positions(wcs, x, y):
    """
    Turn pixel positions into a described ICRS column.
    """
    # Nothing to transform, and not every WCS takes empty arrays.
    sky = wcs.pixel_to_world(x, y) if len(x) else SkyCoord([], [], unit='deg')
    sky = sky.icrs
    sky = SkyCoord(sky.ra, sky.dec)
    sky.info.name = 'sky_centroid'
    describe_column(sky, 'sky_centroid')
    return sky
