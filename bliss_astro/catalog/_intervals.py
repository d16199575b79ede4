# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Credible intervals and samples of the columns of a catalogue.

The functions are methods of `~bliss_astro.catalog.ProbabilisticCatalog`.
"""

import statistics

import astropy.units as u
import numpy as np
from astropy.uncertainty import Distribution

from bliss_astro._random import check_rng

from ._columns import (
    COLUMNS,
    SHAPE_NAMES,
    ab_magnitude,
    error_name,
    explain_no_shapes,
    has_magnitude,
)
from ._rows import draw_quantiles

_DEFAULT_SAMPLES = 1000


def credible_interval(self, column, level=0.68, *, gaussian=False):
    """
    Central credible interval of a column, row by row.

    The posterior holds ``level`` of the probability between the limits, and equal
    shares below and above, given that the source exists.

    Parameters
    ----------
    column : str
        ``'x_centroid'``, ``'y_centroid'``, ``'flux'`` or ``'mag'``, a
        shape (``'disk_radius'``, say), given that the source is a galaxy,
        or another column that has samples.

    level : float, optional
        Probability within the interval, between 0 and 1.

    gaussian : bool, optional
        `True` takes the normal distribution with the row's value as its
        mean and the row's error as its standard deviation, whether
        there is a posterior or not. That is the way out for rows whose
        posterior is gone; it is poor for faint sources, whose fluxes
        have skewed posteriors.

    Returns
    -------
    lower, upper : `~numpy.ndarray` or `~astropy.units.Quantity`
        Limits, in the unit of the column. Without ``gaussian`` they come
        from `posterior`, or where that is gone from the samples that the
        table holds in a column ``<column>_samples``. Limits of the angle
        lie around it and may be below 0 or above 180 degrees.

    Raises
    ------
    ValueError
        If there is no such column, if ``level`` is not between 0 and 1,
        or if there is nothing to take the interval from.
    """
    _check_column(self, column)
    if not 0 < level < 1:
        msg = f'level must be between 0 and 1 (exclusive), got {level!r}'
        raise ValueError(msg)
    if gaussian:
        return _gaussian_interval(self, column, level)
    if column == 'mag':
        low, high = self.credible_interval('flux', level)
        # A brighter limit has the smaller magnitude.
        return ab_magnitude(high), ab_magnitude(low)
    if self.posterior is not None:
        limits = np.empty((2, 0))
        if len(self):
            limits = self.posterior.interval(self, column, level=level)
    elif f'{column}_samples' in self.colnames:
        draws = _without_column(self[f'{column}_samples'])
        tails = [0.5 * (1 - level), 0.5 * (1 + level)]
        if column == 'angle':
            # Plain numbers are degrees.
            draws = u.Quantity(draws, getattr(draws, 'unit', u.deg)).to_value(u.deg)
        limits = draw_quantiles(column, draws, tails)
    else:
        msg = (
            'this table has no posterior (it was read from a format that keeps '
            'rows only, stacked from several images or made without one) and no '
            f"column '{column}_samples'; gaussian=True gives the interval of a "
            "normal distribution with the row's error"
        )
        raise ValueError(msg)
    lower, upper = (_in_unit_of(self[column], limit) for limit in limits)
    return lower, upper


def samples(self, column, *, n_samples=None, rng=None):
    """
    Posterior samples of a column as an astropy distribution.

    Parameters
    ----------
    column : str
        Name of the column.

    n_samples : int or `None`, optional
        Number of samples to draw from the posterior. `None` takes the samples
        that the table holds in ``<column>_samples``, or else draws 1000.

    rng : `None`, int or `~numpy.random.Generator`, optional
        Source of randomness (SPEC 7).

    Returns
    -------
    distribution : `~astropy.uncertainty.Distribution`
        Samples of each row given that its source exists, of shape
        (n_rows,), in the unit of the column.

    Raises
    ------
    ValueError
        If there is no such column, or if neither the table holds samples
        nor its posterior gives them.
    """
    _check_column(self, column)
    if column == 'mag':
        flux = self.samples('flux', n_samples=n_samples, rng=rng)
        return Distribution(ab_magnitude(flux.distribution))
    stored = f'{column}_samples'
    if n_samples is None and stored in self.colnames:
        # Out of the Column class, which Distribution cannot extend.
        return Distribution(_without_column(self[stored]))
    if self.posterior is None:
        msg = (
            f'there are no draws of {column!r}: the table has no column '
            f'{stored!r}, and no posterior that gives draws row by row'
        )
        raise ValueError(msg)
    n_samples = _DEFAULT_SAMPLES if n_samples is None else n_samples
    drawn = self.posterior.sample_rows(
        self, column, n_samples=n_samples, rng=check_rng(rng)
    )
    return Distribution(_in_unit_of(self[column], drawn))


def _check_column(catalog, column):
    """Raise unless a column is there, and can have an interval."""
    if column not in catalog.colnames:
        if column in SHAPE_NAMES:
            raise ValueError(explain_no_shapes(column, catalog.meta.get('encoder')))
        msg = f'column must be one of {", ".join(catalog.colnames)}, got {column!r}'
        raise ValueError(msg)
    if column == 'mag' and not has_magnitude(catalog['flux'].unit):
        msg = (
            f"column 'mag' needs fluxes with a magnitude, not in {catalog['flux'].unit}"
        )
        raise ValueError(msg)


def _in_unit_of(column, values):
    """Convert values in the unit of the posterior's tables to that of a column."""
    unit = getattr(column, 'unit', None)
    if unit is None:
        return np.asarray(values)
    return u.Quantity(values, getattr(values, 'unit', unit)).to(unit)


def _without_column(values):
    """Quantities for columns with a unit, arrays for others."""
    unit = getattr(values, 'unit', None)
    return np.asarray(values) if unit is None else u.Quantity(values, unit)


def _gaussian_interval(catalog, column, level):
    """Interval of the normal distribution with the row's error."""
    error = error_name(column)
    if error not in COLUMNS or error not in catalog.colnames:
        known = ', '.join(name for name in COLUMNS if error_name(name) in COLUMNS)
        msg = (
            f'gaussian=True needs a column with the error of {column!r}; '
            f'there is one for {known}'
        )
        raise ValueError(msg)
    centre, error = (_without_column(catalog[name]) for name in (column, error))
    half = statistics.NormalDist().inv_cdf(0.5 + level / 2) * error
    return centre - half, centre + half
