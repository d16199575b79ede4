# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simultaneous bands of the distribution function of uniform numbers.
"""

import functools

import numpy as np

__all__ = []

_N_NULL = 4000  # samples of uniform numbers; 5 % is known to 0.35 %
_N_MOST = 5000  # numbers in a sample


def ecdf_counts(values, n_points):
    """
    How many values are at most 1/K, 2/K, ..., (K - 1)/K.

    Parameters
    ----------
    values : (n,) `~numpy.ndarray`
        Numbers in [0, 1].

    n_points : int
        K.

    Returns
    -------
    points, counts : (K - 1,) `~numpy.ndarray`
        The points and the counts.
    """
    points = np.arange(1, n_points) / n_points
    return points, np.searchsorted(np.sort(values), points, side='right')


def tail_probability(counts, n, points):
    """
    Two-sided tail probability of each count, which is binomial if all is uniform.
    """
    from scipy.special import bdtr, bdtrc

    counts = np.asarray(counts, dtype=float)
    below = bdtr(counts, n, points)
    above = np.where(counts > 0, bdtrc(np.maximum(counts - 1, 0), n, points), 1.0)
    return np.minimum(2 * np.minimum(below, above), 1.0)


@functools.lru_cache(maxsize=64)
def _null(n, n_points):
    """
    Sorted smallest tail probabilities of samples that are uniform.
    """
    # Always the same draws: this is an integral, not an experiment.
    rng = np.random.default_rng([n, n_points])
    share = np.full(n_points, 1 / n_points)
    counts = rng.multinomial(n, share, size=_N_NULL)[:, :-1].cumsum(axis=1)
    smallest = np.ones(_N_NULL)
    for k, column in enumerate(counts.T, start=1):
        # Each count is looked up: there are far fewer counts than samples.
        first = column.min()
        table = tail_probability(
            np.arange(first, column.max() + 1), n, np.float64(k / n_points)
        )
        np.minimum(smallest, table[column - first], out=smallest)
    return np.sort(smallest)


def _null_of(n, n_points):
    # Beyond some hundred numbers the null hardly depends on how many there are, and
    # beyond some thousand not at all.
    if n > 200:
        digits = 1 - int(np.floor(np.log10(n)))
        n = min(round(n, digits), _N_MOST)
    return _null(int(n), int(n_points))


@functools.lru_cache(maxsize=64)
def ecdf_band(n, n_points, level):
    """
    Band that the distribution function of n uniform numbers leaves with 1 - level.

    The marginal intervals are binomial, each of the same level, which is chosen so
    that all points together lie inside with probability ``level``.

    Parameters
    ----------
    n : int
        How many numbers.

    n_points : int
        The function is looked at in 1/K, ..., (K - 1)/K.

    level : float
        The probability of staying inside everywhere.

    Returns
    -------
    low, high : (K - 1,) `~numpy.ndarray`
        The band, as fractions, ends included.

    References
    ----------
    Saeilynoja, Buerkner and Vehtari 2022, Statistics and Computing 32, 32.
    """
    from scipy.stats import binom

    points = np.arange(1, n_points) / n_points
    gamma = np.quantile(_null_of(n, n_points), 1 - level)
    low = binom.ppf(gamma / 2, n, points)
    high = binom.isf(gamma / 2, n, points)
    return low / n, high / n


def ecdf_pvalue(counts, n, points):
    """
    Probability that n uniform numbers leave their expectation at least as far.

    Parameters
    ----------
    counts, points : (K - 1,) `~numpy.ndarray`
        As from `ecdf_counts`.

    n : int
        How many numbers.

    Returns
    -------
    p_value : float
        Simulated; where the simulation ends, the bound of Bonferroni.
    """
    worst = tail_probability(counts, n, points).min()
    null = _null_of(n, len(points) + 1)
    simulated = (1 + np.searchsorted(null, worst, side='right')) / (1 + len(null))
    return float(min(simulated, len(points) * worst))
