# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Validation of the arguments of metrics: vectors, units, positions, bins and groups.
"""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table

from bliss_astro._messages import first_wrong

__all__ = []


def strip_unit(values, name, *, like=None):
    """Return floats (NaN where masked) and their unit; convert to the unit ``like``."""
    unit = getattr(values, 'unit', None)
    if like is not None:
        if unit is None:
            msg = f'{name} has no unit, but it must be convertible to {like}'
            raise u.UnitConversionError(msg)
        try:
            values, unit = u.Quantity(values).to(like), like
        except u.UnitConversionError:
            msg = f'{name} has the unit {unit}, which cannot be converted to {like}'
            raise u.UnitConversionError(msg) from None
    values = getattr(values, 'value', values)
    if hasattr(values, 'unmasked'):  # astropy.utils.masked
        values = np.ma.array(values.unmasked, mask=values.mask)
    if isinstance(values, np.ma.MaskedArray):
        values = values.astype(float).filled(np.nan)
    try:
        return np.asarray(values, dtype=float), unit
    except (TypeError, ValueError):
        msg = f'{name} must be numeric, got {values!r:.60}'
        raise TypeError(msg) from None


def as_vector(values, name, *, like=None, finite=False, within=None):
    """
    Return a 1D float array.

    ``like = (name, vector)`` fixes its length, ``within`` its limits (inclusive).
    """
    values = np.atleast_1d(strip_unit(values, name)[0])
    if values.ndim != 1:
        msg = f'{name} must be one-dimensional, got the shape {values.shape}'
        raise ValueError(msg)
    if like is not None and len(values) != len(like[1]):
        n = len(like[1])
        msg = f'{name} has {len(values)} values, but {like[0]} has {n}'
        raise ValueError(msg)
    if finite:
        check_finite(values, name)
    if within is not None:
        sound = (values >= within[0]) & (values <= within[1])
        if not sound.all():
            msg = (
                f'{name} must be between {within[0]:g} and {within[1]:g}, and not '
                f'NaN, got {first_wrong(values, sound)}'
            )
            raise ValueError(msg)
    return values


def as_booleans(values, name, *, like=None):
    """Return a 1D array of booleans, which may be given as 0 and 1."""
    values = as_vector(values, name, like=like)
    known = np.isin(values, (0, 1))
    if not known.all():
        msg = f'{name} must hold booleans, got {first_wrong(values, known)}'
        raise ValueError(msg)
    return values.astype(bool)


def check_finite(values, name):
    """Raise a ValueError that counts the rows that are not finite."""
    bad = ~np.isfinite(values)
    bad = bad.any(axis=1) if bad.ndim > 1 else bad
    if bad.any():
        msg = (
            f'{name} must be finite, got {bad.sum()} of {len(bad)} rows with NaN, '
            f'infinity or a masked value (the first is row {np.flatnonzero(bad)[0]})'
        )
        raise ValueError(msg)


def check_fraction(value, name):
    """Return a float in (0, 1)."""
    if not 0 < float(value) < 1:
        msg = f'{name} must be between 0 and 1 (exclusive), got {value}'
        raise ValueError(msg)
    return float(value)


def check_count(value, name, *, minimum=1):
    """Return a positive integer."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        msg = f'{name} must be an integer, got {value!r}'
        raise TypeError(msg)
    if value < minimum:
        msg = f'{name} must be at least {minimum}, got {value}'
        raise ValueError(msg)
    return int(value)


def as_edges(bins):
    """Return increasing bin edges; `None` is one bin over everything."""
    if bins is None:
        return np.array([-np.inf, np.inf])
    edges = as_vector(bins, 'bins')
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        msg = f'bins must be two or more strictly increasing edges, got {bins!r}'
        raise ValueError(msg)
    return edges


def bin_index(values, edges):
    """Return the bin of each value (half-open, the last closed); -1 outside or NaN."""
    index = np.searchsorted(edges, values, side='right') - 1
    index[values == edges[-1]] = len(edges) - 2
    index[(index >= len(edges) - 1) | np.isnan(values)] = -1
    return index


def as_groups(groups, n, name='groups'):
    """Return the sorted labels (``'all'`` without any) and the label of each row."""
    if groups is None:
        return np.array(['all']), np.zeros(n, dtype=int)
    groups = np.asarray(groups)
    if groups.shape != (n,):
        msg = f'{name} must have the shape ({n},), got {groups.shape}'
        raise ValueError(msg)
    return np.unique(groups, return_inverse=True)


def columns_of(catalog, names, name):
    """Return columns of a table."""
    missing = sorted(set(names) - set(catalog.colnames))
    if missing:
        msg = f'{name} lacks the columns {missing}; it has {catalog.colnames}'
        raise ValueError(msg)
    return tuple(catalog[column] for column in names)


def as_positions(catalog, name):
    """Return pixel positions of a catalogue as an (n, 2) array."""
    if isinstance(catalog, SkyCoord):
        msg = f'{name} is a SkyCoord: give radius as an angle to match on the sky'
        raise TypeError(msg)
    if isinstance(catalog, Table):
        catalog = columns_of(catalog, ('x_centroid', 'y_centroid'), name)
    if isinstance(catalog, tuple) and len(catalog) == 2:
        x = as_vector(catalog[0], f'x of {name}')
        y = as_vector(catalog[1], f'y of {name}', like=(f'x of {name}', x))
        points = np.stack([x, y], axis=1)
    else:
        points, _ = strip_unit(catalog, name)
        points = points if points.size else points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        msg = f'{name} must have the shape (n, 2), got {points.shape}'
        raise ValueError(msg)
    check_finite(points, f'the positions of {name}')
    return points


def column_of_both(catalogs, column, argument):
    """Return a column of both tables."""
    for name, catalog in catalogs.items():
        if not isinstance(catalog, Table) or column not in catalog.colnames:
            msg = f'{argument} needs the column {column!r} in {name}'
            raise ValueError(msg)
    return [catalog[column] for catalog in catalogs.values()]
