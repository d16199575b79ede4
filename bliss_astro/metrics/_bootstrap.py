# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Errors of metrics: binomial intervals and bootstraps over images.
"""

from dataclasses import dataclass

import numpy as np

from bliss_astro._messages import first_wrong
from bliss_astro._random import check_rng

from ._inputs import check_count, check_fraction

__all__ = ['BootstrapBands', 'bootstrap_bands', 'wilson_interval']

_CHUNK = 32  # resamples of all images that are held in memory at once


def wilson_interval(n_success, n_total, *, level=0.683):
    """
    Confidence interval of a binomial fraction (Wilson's score interval).

    Unlike the usual ``sqrt(p (1 - p) / n)`` it stays within [0, 1] and does not
    shrink to nothing at 0 and 1.

    Parameters
    ----------
    n_success, n_total : int or array_like of int
        The numbers of successes and of trials.

    level : float, optional
        The confidence level, between 0 and 1.

    Returns
    -------
    low, high : float or `~numpy.ndarray`
        The ends of the interval; NaN where ``n_total`` is 0.

    Raises
    ------
    ValueError
        If there are more successes than trials, or negative numbers.

    References
    ----------
    Wilson 1927, J. Am. Stat. Assoc. 22, 209.

    Examples
    --------
    >>> from bliss_astro.metrics import wilson_interval
    >>> low, high = wilson_interval(9, 10)
    >>> print(f'{low:.3f} {high:.3f}')
    0.766 0.961
    """
    from scipy.special import ndtri

    level = check_fraction(level, 'level')
    k = np.asarray(n_success, dtype=float)
    n = np.asarray(n_total, dtype=float)
    sound = (k >= 0) & (k <= n)
    if not np.all(sound):
        msg = f'n_success must lie between 0 and n_total, got {first_wrong(k, sound)}'
        raise ValueError(msg)
    z2 = ndtri(0.5 + level / 2) ** 2
    with np.errstate(invalid='ignore', divide='ignore'):
        p = k / n
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    low = np.where(k == 0, np.where(n > 0, 0.0, np.nan), centre - half)
    high = np.where((k == n) & (n > 0), 1.0, centre + half)
    return low[()], high[()]


@dataclass(frozen=True, eq=False)
class BootstrapBands:
    """
    A statistic and its spread over resampled images.

    Attributes
    ----------
    estimate : float or `~numpy.ndarray`
        The statistic of all rows.

    low, high : float or `~numpy.ndarray`
        The central band of the resamples at ``level``.

    std : float or `~numpy.ndarray`
        The standard deviation of the resamples.

    samples : `~numpy.ndarray`
        The statistic of each resample, along the first axis.

    level : float
        The fraction of the resamples inside the band.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    std: np.ndarray
    samples: np.ndarray
    level: float

    @classmethod
    def _from_samples(cls, estimate, samples, level):
        tails = [(1 - level) / 2, (1 + level) / 2]
        # Resamples in which a bin is empty are NaN and must not spoil the band.
        empty = np.isnan(samples).all(axis=0)
        safe = np.where(empty, 0.0, samples)
        low, high = np.nanquantile(safe, tails, axis=0)
        std = np.nanstd(safe, axis=0)
        low, high, std = (np.where(empty, np.nan, v)[()] for v in (low, high, std))
        return cls(np.asarray(estimate)[()], low, high, std, samples, level)


def bootstrap_bands(statistic, groups, *, n_resamples=1000, level=0.683, rng=None):
    """
    Bootstrap any statistic over whole images.

    Sources of one image share its sky, its PSF and its blends, so it is images that
    are drawn with replacement, not rows.

    Parameters
    ----------
    statistic : callable
        Called as ``statistic(rows)`` with the row numbers of the drawn images
        (repeated as often as drawn); returns a float or an array of fixed shape.
        NaN entries (e.g. empty bins) are left out of the bands.

    groups : 1D array_like, or tuple of them
        The image of each row. For a statistic of two tables, such as estimated and
        true rows, give a tuple of two; the statistic is then called as
        ``statistic(rows_0, rows_1)``.

    n_resamples : int, optional
        The number of resamples.

    level : float, optional
        The central fraction of the resamples inside the band: 0.683 is +-1 sigma,
        0.5 the 25-75 % band.

    rng : int, `~numpy.random.Generator` or `None`, optional
        The source of randomness.

    Returns
    -------
    bands : `BootstrapBands`
        The estimate, the band and all resamples.

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
    tables = groups if isinstance(groups, tuple) else (groups,)
    tables = [np.asarray(table) for table in tables]
    for table in tables:
        if table.ndim != 1:
            msg = f'groups must be one-dimensional, got the shape {table.shape}'
            raise ValueError(msg)
    labels, index = np.unique(np.concatenate(tables), return_inverse=True)
    if not len(labels):
        msg = 'groups is empty: there is nothing to resample'
        raise ValueError(msg)
    tables = np.split(index, np.cumsum([len(table) for table in tables])[:-1])
    sorters = [_RowsOfGroups(table, len(labels)) for table in tables]
    rng = check_rng(rng)
    samples = []
    for _ in range(n_resamples):
        drawn = rng.integers(len(labels), size=len(labels))
        samples.append(statistic(*(sorter(drawn) for sorter in sorters)))
    estimate = statistic(*(np.arange(len(table)) for table in tables))
    return BootstrapBands._from_samples(
        estimate, np.asarray(samples, dtype=float), level
    )


class _RowsOfGroups:
    """
    Look up the rows of many groups at once.
    """

    def __init__(self, index, n_groups):
        self.rows = np.argsort(index, kind='stable')
        self.counts = np.bincount(index, minlength=n_groups)
        self.starts = np.cumsum(self.counts) - self.counts

    def __call__(self, drawn):
        counts = self.counts[drawn]
        before = np.cumsum(counts) - counts
        offset = np.arange(counts.sum()) - np.repeat(before, counts)
        return self.rows[np.repeat(self.starts[drawn], counts) + offset]


def resample_sums(counts, n_resamples, rng):
    """
    Sums of per-image numbers over bootstrap resamples of the images.

    Parameters
    ----------
    counts : 2D `~numpy.ndarray`
        Numbers per image (first axis).

    n_resamples : int
        The number of resamples.

    rng : int, `~numpy.random.Generator` or `None`
        The source of randomness.

    Returns
    -------
    sums : 2D `~numpy.ndarray`
        A row of sums per resample.
    """
    rng = check_rng(rng)
    n_images = len(counts)
    counts = counts.astype(float)  # the product of integers is not done by BLAS
    sums = np.empty((n_resamples, counts.shape[1]))
    for start in range(0, n_resamples, _CHUNK):
        block = sums[start : start + _CHUNK]
        drawn = rng.integers(n_images, size=(len(block), n_images))
        times = [np.bincount(row, minlength=n_images) for row in drawn]
        block[:] = np.asarray(times, dtype=float) @ counts
    return sums
