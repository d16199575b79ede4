# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tables of scores, binomial intervals and bootstraps over images.
"""

from typing import NamedTuple

import numpy as np
from astropy.table import QTable

from bliss_astro._random import check_rng

from ._inputs import as_vector, check_count, check_fraction, strip_unit

__all__ = ['ScoreTable', 'bootstrap_bands']


class ScoreTable(QTable):
    """
    Scores by bin or by group, with a figure.

    The results of all metrics are such tables: a row per bin or group, with numbers
    of the whole sample in ``meta``, where ``meta['kind']`` says which metric it is. A
    fraction ``recall`` comes with its interval ``recall_low`` and ``recall_high``, a
    mean ``bias`` with its standard error ``bias_err``; empty bins are NaN.
    """

    def plot(self, **options):
        """
        Draw the scores.

        Parameters
        ----------
        **options
            Those of the function of `bliss_astro.plotting` for this kind of scores,
            such as ``ax``.

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            Axes of the figure.

        Raises
        ------
        ValueError
            If there is no figure of this kind of scores.
        """
        from bliss_astro.plotting._metrics import plot_table

        return plot_table(self, **options)


def make_table(kind, columns, **meta):
    """Make a table of scores with numbers of four decimals."""
    table = ScoreTable(columns, meta={'kind': kind, **meta})
    for name in table.colnames:
        if table[name].dtype.kind == 'f' and name not in ('low', 'high', 'level'):
            small = name.endswith('p_value') or name == 'adjusted'
            table[name].info.format = '.3g' if small else '.4f'
    return table


def wilson_interval(n_success, n_total, *, level=0.683):
    """Return the ends of Wilson's interval of a fraction; NaN where there is none."""
    from astropy.stats import binom_conf_interval

    n = np.asarray(n_total)
    ends = binom_conf_interval(
        n_success, np.maximum(n, 1), check_fraction(level, 'level'), interval='wilson'
    )
    return np.where(n > 0, ends, np.nan)


def fraction_columns(name, n_success, n_total, level):
    """Return the columns of a fraction and of its Wilson interval."""
    low, high = wilson_interval(n_success, n_total, level=level)
    with np.errstate(invalid='ignore'):
        fraction = np.true_divide(n_success, n_total)
    return {name: fraction, f'{name}_low': low, f'{name}_high': high}


def robust_sigma(values, *, axis=None):
    """Return 1.4826 times the median absolute deviation, without NaN."""
    from astropy.stats import mad_std

    values, _ = strip_unit(values, 'values')
    return mad_std(values, axis=axis, ignore_nan=True) if values.size else np.nan


def quantile_groups(values, n_groups=3):
    """Cut values into groups of equal size, 0 for the lowest."""
    values = as_vector(values, 'values', finite=True)
    levels = np.arange(1, check_count(n_groups, 'n_groups')) / n_groups
    return np.digitize(values, np.quantile(values, levels)) if len(values) else values


class BootstrapBands(NamedTuple):
    """A statistic of all rows, its central band, standard deviation and resamples."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    std: np.ndarray
    samples: np.ndarray


def bootstrap_bands(statistic, images, *, n_resamples=1000, level=0.683, rng=None):
    """
    Bootstrap of any statistic over whole images.

    Sources of one image share its sky, its PSF and its blends, so it is images that
    are drawn with replacement, not rows.

    Parameters
    ----------
    statistic : callable
        Called as ``statistic(rows)`` with the row numbers of the drawn images
        (repeated as often as drawn); returns a float or an array of fixed shape.
        NaN entries (e.g. empty bins) are left out of the bands.

    images : 1D array_like, or tuple of them
        Image of each row. For a statistic of two tables, such as estimated and
        true rows, give a tuple of two; the statistic is then called as
        ``statistic(rows_0, rows_1)``.

    n_resamples : int, optional
        Number of resamples.

    level : float, optional
        Central fraction of the resamples inside the band: 0.683 is +-1 sigma,
        0.5 the 25-75 % band.

    rng : int, `~numpy.random.Generator` or `None`, optional
        Source of randomness. The images of the k-th resample depend on it and on
        the set of images only, so that statistics may be compared pair by pair.

    Returns
    -------
    bands : named tuple
        ``estimate`` of all rows, ``low`` and ``high`` of the band, ``std`` of the
        resamples, and ``samples``, the statistic of each resample along the first axis.

    Raises
    ------
    TypeError
        If ``statistic`` is not callable.

    ValueError
        If ``images`` is empty or not one-dimensional.

    Examples
    --------
    The error of a mean over 100 images with 3 equal rows each:

    >>> import numpy as np
    >>> from bliss_astro.metrics import bootstrap_bands
    >>> values = np.repeat(np.arange(100.0), 3)
    >>> images = np.repeat(np.arange(100), 3)
    >>> bands = bootstrap_bands(lambda rows: values[rows].mean(), images, rng=1)
    >>> float(bands.estimate)
    49.5
    >>> bool(2.5 < bands.std < 3.3)  # 28.9 / sqrt(100), not / sqrt(300)
    True
    """
    n_resamples = check_count(n_resamples, 'n_resamples', minimum=2)
    level = check_fraction(level, 'level')
    if not callable(statistic):
        msg = f'statistic must be callable, got {type(statistic).__name__}'
        raise TypeError(msg)
    tables = images if isinstance(images, tuple) else (images,)
    tables = [np.asarray(table) for table in tables]
    for table in tables:
        if table.ndim != 1:
            msg = f'images must be one-dimensional, got the shape {table.shape}'
            raise ValueError(msg)
    labels, index = np.unique(np.concatenate(tables), return_inverse=True)
    if not len(labels):
        msg = 'images is empty: there is nothing to resample'
        raise ValueError(msg)
    tables = np.split(index, np.cumsum([len(table) for table in tables])[:-1])
    rows_of = [_rows_of_images(table, len(labels)) for table in tables]
    rng = check_rng(rng)
    drawn = (rng.integers(len(labels), size=len(labels)) for _ in range(n_resamples))
    samples = [statistic(*(rows(chosen) for rows in rows_of)) for chosen in drawn]
    samples = np.asarray(samples, dtype=float)
    estimate = np.asarray(statistic(*(np.arange(len(table)) for table in tables)))[()]
    # Resamples in which a bin is empty are NaN and must not spoil the band.
    empty = np.isnan(samples).all(axis=0)
    safe = np.where(empty, 0.0, samples)
    tails = [(1 - level) / 2, (1 + level) / 2]
    bands = (*np.nanquantile(safe, tails, axis=0), np.nanstd(safe, axis=0))
    bands = (np.where(empty, np.nan, band)[()] for band in bands)
    return BootstrapBands(estimate, *bands, samples)


def _rows_of_images(index, n_images):
    """Return the function that looks up the rows of drawn images."""
    order = np.argsort(index, kind='stable')
    counts = np.bincount(index, minlength=n_images)
    starts = np.cumsum(counts) - counts

    def rows(drawn):
        repeats = counts[drawn]
        before = np.cumsum(repeats) - repeats
        offset = np.arange(repeats.sum()) - np.repeat(before, repeats)
        return order[np.repeat(starts[drawn], repeats) + offset]

    return rows
