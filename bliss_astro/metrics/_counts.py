# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Are the counts of sources calibrated: true minus expected, in bins of expected.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from ._inputs import as_edges, as_vector, bin_index, check_count
from ._ranks import RankUniformity, rank_uniformity

__all__ = ['CountCalibration', 'count_calibration']


@dataclass(frozen=True, eq=False)
class CountCalibration:
    """
    True against expected counts, in bins of the expected one.

    Attributes
    ----------
    bins : (n_bins + 1,) `~numpy.ndarray`
        The edges of the bins of the expected count.

    n : (n_bins,) `~numpy.ndarray`
        The number of regions.

    expected, true : (n_bins,) `~numpy.ndarray`
        The mean expected and the mean true count.

    offset, offset_err, p_value : (n_bins,) `~numpy.ndarray`
        The mean of true minus expected, its standard error and its t test.

    relative, relative_err : (n_bins,) `~numpy.ndarray`
        The offset over the mean expected count.

    total_relative, total_relative_err, total_p_value : float
        The same over all regions.

    spread, spread_err, spread_p_value : float
        The stated over the actual scatter of true minus expected: below 1 if the
        posterior of the count is too narrow. NaN without ``variance``.

    ranks : `RankUniformity` or `None`
        Of the randomised probability integral transform.
    """

    bins: np.ndarray
    n: np.ndarray
    expected: np.ndarray
    true: np.ndarray
    offset: np.ndarray
    offset_err: np.ndarray
    p_value: np.ndarray
    relative: np.ndarray
    relative_err: np.ndarray
    total_relative: float
    total_relative_err: float
    total_p_value: float
    spread: float
    spread_err: float
    spread_p_value: float
    ranks: RankUniformity | None

    @property
    def ks_p_value(self):
        """
        The p-value of the KS test of the randomised PIT (float, NaN without it).
        """
        return np.nan if self.ranks is None else float(self.ranks.ks_p_value[0])

    def to_table(self):
        """
        Return the counts as a table with a row per bin.

        Returns
        -------
        table : `~astropy.table.QTable`
            ``low`` and ``high`` are the edges of the bins of the expected count.
        """
        table = QTable({'low': self.bins[:-1], 'high': self.bins[1:], 'n': self.n})
        for name in ('expected', 'true', 'offset', 'offset_err'):
            table[name] = getattr(self, name)
        for name in ('relative', 'relative_err', 'p_value'):
            table[name] = getattr(self, name)
        for name in table.colnames:
            if name != 'n':
                table[name].info.format = '.3g' if name == 'p_value' else '.4f'
        table.meta['total_relative'] = self.total_relative
        table.meta['total_relative_err'] = self.total_relative_err
        table.meta['ks_p_value'] = self.ks_p_value
        return table

    def __repr__(self):
        return '\n'.join(['<CountCalibration>', *self.to_table().pformat()])


def count_calibration(
    true, expected, *, ranks=None, variance=None, bins=None, n_bins=5, level=0.95
):
    """
    Hold the numbers of sources in many regions against those expected.

    Parameters
    ----------
    true : 1D array_like
        The true number of sources in each region. Regions should be independent:
        one per image.

    expected : 1D array_like
        Its posterior mean.

    ranks : 1D array_like or `None`, optional
        The `randomized_pit` of the true numbers.

    variance : 1D array_like or `None`, optional
        The posterior variance of the number.

    bins : 1D array_like or `None`, optional
        Edges of bins of the EXPECTED count; regions outside all bins are left out of
        them. By default ``n_bins`` of equal size.

    n_bins : int, optional
        The number of bins, if ``bins`` are not given.

    level : float, optional
        The level of the bands of the ranks.

    Returns
    -------
    counts : `CountCalibration`
        Offsets with their errors, which are those of the actual scatter, not of the
        stated one.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import count_calibration
    >>> rng = np.random.default_rng(1)
    >>> rate = rng.gamma(3.0, 1.0, 10_000)
    >>> counts = count_calibration(rng.poisson(rate), 0.95 * rate, variance=rate)
    >>> print(f'{counts.total_relative:.3f} +- {counts.total_relative_err:.3f}')
    0.055 +- 0.006
    """
    true = as_vector(true, 'true', finite=True)
    expected = as_vector(expected, 'expected', n=len(true), n_name='true', finite=True)
    for values, name in ((true, 'true'), (expected, 'expected')):
        if (values < 0).any():
            msg = f'{name} must not be negative, got {values.min()}'
            raise ValueError(msg)
    if bins is None:
        bins = _equal_bins(expected, check_count(n_bins, 'n_bins'))
    edges = as_edges(bins)
    index = bin_index(expected, edges)
    rows = [
        _offset(true[index == k], expected[index == k]) for k in range(len(edges) - 1)
    ]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    total = _offset(true, expected)
    if ranks is not None:
        ranks = as_vector(ranks, 'ranks', n=len(true), n_name='true')
        ranks = rank_uniformity(ranks, level=level)
    return CountCalibration(
        bins=edges,
        **columns,
        total_relative=float(total['relative']),
        total_relative_err=float(total['relative_err']),
        total_p_value=float(total['p_value']),
        **_spread(true - expected, variance),
        ranks=ranks,
    )


def _equal_bins(values, n_bins):
    """
    Edges of bins of equal size; fewer where many values are the same.
    """
    if not len(values):
        return np.array([0.0, np.inf])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1])


def _offset(true, expected):
    """
    Mean of true minus expected with its error and t test.
    """
    from scipy.special import stdtr

    n = len(true)
    names = ('expected', 'true', 'offset', 'offset_err', 'p_value', 'relative')
    row = dict.fromkeys((*names, 'relative_err'), np.nan) | {'n': n}
    if not n:
        return row
    difference = true - expected
    row |= {'expected': expected.mean(), 'true': true.mean()}
    row['offset'] = difference.mean()
    # A few rare sources may all be missing; then the scatter is that of Poisson.
    scatter = difference.std(ddof=1) if n > 1 else 0.0
    poisson = np.sqrt(row['expected'])
    error = (
        scatter if true.any() and scatter > 0 else max(scatter, poisson)
    ) / np.sqrt(n)
    row['offset_err'] = error
    if error > 0:
        t = abs(row['offset']) / error
        row['p_value'] = 2 * stdtr(max(n - 1, 1), -t)
    if row['expected'] > 0:
        row['relative'] = row['offset'] / row['expected']
        row['relative_err'] = error / row['expected']
    return row


def _spread(difference, variance):
    """
    Stated over actual scatter.
    """
    from scipy.special import ndtr

    result = dict.fromkeys(('spread', 'spread_err', 'spread_p_value'), np.nan)
    if variance is None:
        return result
    variance = as_vector(
        variance, 'variance', n=len(difference), n_name='true', finite=True
    )
    if (variance < 0).any():
        msg = f'variance must not be negative, got {variance.min()}'
        raise ValueError(msg)
    n = len(difference)
    square = difference**2
    if n < 2 or not variance.sum() or not square.sum():
        return result
    ratio = variance.sum() / square.sum()
    excess = (square - variance).std(ddof=1) / np.sqrt(n)
    z = (square - variance).mean() / excess if excess > 0 else 0.0
    # The error of log(ratio), halved by the square root.
    error = 0.5 * (square - variance / ratio).std(ddof=1) / np.sqrt(n) / square.mean()
    spread = np.sqrt(ratio)
    return {
        'spread': float(spread),
        'spread_err': float(spread * error),
        'spread_p_value': float(2 * ndtr(-abs(z))),
    }
