# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks and conversions shared by the metrics.
"""

import astropy.units as u
import numpy as np

__all__ = []


def strip_unit(values, name, *, like=None):
    """
    Take the unit off a vector, converting to the unit of another one.

    Parameters
    ----------
    values : array_like, `~astropy.units.Quantity` or table column
        The input.

    name : str
        The name of the parameter, for messages.

    like : `~astropy.units.Unit` or `None`, optional
        The unit that ``values`` must be convertible to. `None` keeps theirs.

    Returns
    -------
    values : `~numpy.ndarray`
        Floats; masked entries are NaN.

    unit : `~astropy.units.Unit` or `None`
        The unit that was taken off.
    """
    unit = getattr(values, 'unit', None)
    if unit is not None and like is not None:
        try:
            values = u.Quantity(values).to(like)
        except u.UnitConversionError:
            msg = f'{name} has the unit {unit}, which cannot be converted to {like}'
            raise u.UnitConversionError(msg) from None
        unit = like
    elif (unit is None) != (like is None) and like is not None:
        msg = f'{name} has no unit, but it must be convertible to {like}'
        raise u.UnitConversionError(msg)
    values = getattr(values, 'value', values)
    if hasattr(values, 'unmasked'):  # astropy.utils.masked
        values = np.ma.array(values.unmasked, mask=values.mask)
    if isinstance(values, np.ma.MaskedArray):
        values = values.astype(float).filled(np.nan)
    try:
        values = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        msg = f'{name} must be numeric, got {values!r:.60}'
        raise TypeError(msg) from None
    return values, unit


def as_vector(values, name, *, n=None, n_name=None, finite=False):
    """
    Return ``values`` as a 1D float array of a given length.

    Parameters
    ----------
    values : array_like
        The input; scalars become vectors of length 1.

    name : str
        The name of the parameter, for messages.

    n : int or `None`, optional
        The length it must have.

    n_name : str or `None`, optional
        What has that length, for messages.

    finite : bool, optional
        Whether NaN and infinity are refused.

    Returns
    -------
    values : `~numpy.ndarray`
        1D floats.
    """
    values, _ = strip_unit(values, name)
    values = np.atleast_1d(values)
    if values.ndim != 1:
        msg = f'{name} must be one-dimensional, got the shape {values.shape}'
        raise ValueError(msg)
    if n is not None and len(values) != n:
        msg = f'{name} has {len(values)} values, but {n_name or "the data"} has {n}'
        raise ValueError(msg)
    if finite:
        check_finite(values, name)
    return values


def check_finite(values, name):
    """
    Raise a ValueError that counts the non-finite rows of an array.
    """
    bad = ~np.isfinite(values)
    if values.ndim > 1:
        bad = bad.any(axis=tuple(range(1, values.ndim)))
    if bad.any():
        msg = (
            f'{name} must be finite, got {bad.sum()} of {len(bad)} rows with NaN, '
            f'infinity or a masked value (the first is row {np.flatnonzero(bad)[0]})'
        )
        raise ValueError(msg)


def check_fraction(value, name):
    """
    Return a float in (0, 1) or raise a ValueError.
    """
    value = float(value)
    if not 0 < value < 1:
        msg = f'{name} must be between 0 and 1 (exclusive), got {value}'
        raise ValueError(msg)
    return value


def check_count(value, name, *, minimum=1):
    """
    Return a positive integer or raise.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        msg = f'{name} must be an integer, got {value!r}'
        raise TypeError(msg)
    if value < minimum:
        msg = f'{name} must be at least {minimum}, got {value}'
        raise ValueError(msg)
    return int(value)


def as_edges(bins):
    """
    Return bin edges as an increasing float array; `None` is one bin over everything.
    """
    if bins is None:
        return np.array([-np.inf, np.inf])
    edges = as_vector(bins, 'bins')
    if len(edges) < 2 or np.isnan(edges).any() or (np.diff(edges) <= 0).any():
        msg = f'bins must be two or more strictly increasing edges, got {bins!r}'
        raise ValueError(msg)
    return edges


def bin_index(values, edges):
    """
    The bin of each value: half-open bins, the last one closed; -1 outside or NaN.
    """
    index = np.searchsorted(edges, values, side='right') - 1
    index[values == edges[-1]] = len(edges) - 2
    index[(index >= len(edges) - 1) | np.isnan(values)] = -1
    return index


def as_groups(groups, n, name='groups'):
    """
    Return the sorted labels and the index of each row's label.

    Parameters
    ----------
    groups : array_like or `None`
        A label per row; `None` puts all rows in one group called ``'all'``.

    n : int
        The number of rows.

    name : str, optional
        The name of the parameter, for messages.

    Returns
    -------
    labels : `~numpy.ndarray`
        The distinct labels.

    index : `~numpy.ndarray`
        For each row, the place of its label.
    """
    if groups is None:
        return np.array(['all']), np.zeros(n, dtype=int)
    groups = np.asarray(groups)
    if groups.shape != (n,):
        msg = f'{name} must have the shape ({n},), got {groups.shape}'
        raise ValueError(msg)
    labels, index = np.unique(groups, return_inverse=True)
    return labels, index
