# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Intervals and draws of single columns, from whatever a catalogue has.
"""

import statistics

import astropy.units as u
import numpy as np

from bliss_astro._random import check_rng

from ._columns import COLUMNS, SHAPE_COLUMNS, ab_magnitude, has_magnitude
from ._shapes import SHAPE_NAMES, angle_quantiles, explain_no_shapes

__all__ = ['draws', 'interval']

# Which column holds the standard error of which.
_ERROR_OF = {
    'x_centroid': 'x_err',
    'y_centroid': 'y_err',
    'flux': 'flux_err',
    'mag': 'mag_err',
    **{name: f'{name}_err' for name in SHAPE_COLUMNS},
}


def interval(catalog, column, level, *, gaussian=False):
    """
    Do the work of `ProbabilisticCatalog.credible_interval`.

    Parameters
    ----------
    catalog : `ProbabilisticCatalog`
        The rows.

    column, level, gaussian
        As there.

    Returns
    -------
    lower, upper : `~numpy.ndarray` or `~astropy.units.Quantity`
        The limits.
    """
    _check_column(catalog, column)
    if not 0 < level < 1:
        msg = f'level must be between 0 and 1 (exclusive), got {level!r}'
        raise ValueError(msg)
    if gaussian:
        return _gaussian_interval(catalog, column, level)
    if column == 'mag':
        low, high = interval(catalog, 'flux', level)
        # A brighter limit has the smaller magnitude.
        return ab_magnitude(high), ab_magnitude(low)
    if catalog.posterior is not None:
        return _posterior_interval(catalog, column, level)
    if f'{column}_samples' in catalog.colnames:
        return _sample_interval(catalog, column, level)
    msg = (
        'this table has no posterior (it was read from a format that keeps '
        'rows only, stacked from several images or made without one) and no '
        f"column '{column}_samples'; gaussian=True gives the interval of a "
        "normal distribution with the row's error"
    )
    raise ValueError(msg)


def draws(catalog, column, *, n_samples=None, rng=None):
    """
    Do the work of `ProbabilisticCatalog.samples`.

    Parameters
    ----------
    catalog : `ProbabilisticCatalog`
        The rows.

    column, n_samples, rng
        As there.

    Returns
    -------
    distribution : `~astropy.uncertainty.Distribution`
        The draws.
    """
    from astropy.uncertainty import Distribution

    _check_column(catalog, column)
    if column == 'mag':
        flux = draws(catalog, 'flux', n_samples=n_samples, rng=rng)
        return Distribution(ab_magnitude(flux.distribution))
    stored = f'{column}_samples'
    if n_samples is None and stored in catalog.colnames:
        values = catalog[stored]
        # Out of the Column class, which Distribution cannot extend.
        return Distribution(
            getattr(values, 'data', values)
            if values.unit is None
            else u.Quantity(values)
        )
    draw = getattr(catalog.posterior, 'sample_rows', None)
    if draw is None:
        msg = (
            f'there are no draws of {column!r}: the table has no column '
            f'{stored!r}, and no posterior that gives draws row by row'
        )
        raise ValueError(msg)
    n_samples = 1000 if n_samples is None else n_samples
    values = draw(catalog, column, n_samples, rng=check_rng(rng))
    _check_shape(values, (len(catalog), n_samples))
    return Distribution(_with_unit(catalog, column, values))


def _check_column(catalog, column):
    """
    Check that a column is there, and can have an interval.
    """
    if column not in catalog.colnames and column in SHAPE_NAMES:
        raise ValueError(explain_no_shapes(column, catalog.meta.get('encoder')))
    if column not in catalog.colnames:
        msg = f'column must be one of {", ".join(catalog.colnames)}, got {column!r}'
        raise ValueError(msg)
    if column == 'mag' and not has_magnitude(catalog['flux'].unit):
        msg = (
            f"column 'mag' needs fluxes with a magnitude, not in {catalog['flux'].unit}"
        )
        raise ValueError(msg)


def _check_shape(values, shape):
    """
    Check what the posterior returned.
    """
    if np.shape(values) != shape:
        msg = f'the posterior gave an array of shape {np.shape(values)}, not {shape}'
        raise ValueError(msg)


def _with_unit(catalog, column, values):
    """
    Give plain numbers from the posterior the unit of a column.
    """
    unit = getattr(catalog[column], 'unit', None)
    if unit is None:
        return np.asarray(values)
    # The posterior speaks the unit of the image; the column may have been
    # converted since.
    own = catalog.image.get('unit', unit) if column == 'flux' else unit
    if column in SHAPE_NAMES:
        own = _shape_unit(column, unit)
    return u.Quantity(values, own).to(unit)


def _shape_unit(column, unit):
    """
    Find the unit in which a posterior gives a shape from that of its column.
    """
    if COLUMNS[column].unit == 'deg':
        return u.deg
    return u.arcsec if unit.is_equivalent(u.arcsec) else u.pix


def _posterior_interval(catalog, column, level):
    """
    Ask the posterior for an interval.
    """
    if len(catalog) == 0:
        limits = np.empty(0), np.empty(0)
    else:
        limits = catalog.posterior.interval(catalog, column, level)
    for limit in limits:
        _check_shape(limit, (len(catalog),))
    lower, upper = (_with_unit(catalog, column, limit) for limit in limits)
    return lower, upper


def _sample_interval(catalog, column, level):
    """
    Take the interval of the draws that a table holds.
    """
    tail = (1 - level) / 2
    samples, tails = catalog[f'{column}_samples'], [tail, 1 - tail]
    values = samples if isinstance(samples, u.Quantity) else np.asarray(samples)
    if column == 'angle':
        degrees = values.to_value(u.deg) if hasattr(values, 'unit') else values
        lower, upper = _with_unit(catalog, column, angle_quantiles(degrees, tails))
    else:
        lower, upper = np.quantile(values, tails, axis=1)
    return lower, upper


def _gaussian_interval(catalog, column, level):
    """
    Take the interval of a normal distribution.
    """
    error = _ERROR_OF.get(column)
    if error is None or error not in catalog.colnames:
        msg = (
            f'gaussian=True needs a column with the error of {column!r}; '
            f'there is one for {", ".join(_ERROR_OF)}'
        )
        raise ValueError(msg)
    centre, half = catalog[column], catalog[error]
    # Out of the Column class, which would carry the name of another one.
    if not isinstance(centre, u.Quantity):
        centre, half = np.asarray(centre), np.asarray(half)
    half = statistics.NormalDist().inv_cdf(0.5 + level / 2) * half
    return centre - half, centre + half
