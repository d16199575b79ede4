# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Is a posterior calibrated: coverage of intervals, ranks, log score.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from bliss_astro._messages import first_wrong
from bliss_astro._random import check_rng

from ._bootstrap import wilson_interval
from ._inputs import as_groups, as_vector, check_count, check_fraction, strip_unit

__all__ = [
    'Coverage',
    'LogScore',
    'interval_coverage',
    'mean_log_score',
    'posterior_ranks',
    'quantile_groups',
    'randomized_pit',
    'rank_coverage',
]


@dataclass(frozen=True, eq=False)
class Coverage:
    """
    How often intervals hold the truth, by group and nominal level.

    Attributes
    ----------
    labels : (n_groups,) `~numpy.ndarray`
        The names of the groups.

    levels : (n_levels,) `~numpy.ndarray`
        The nominal levels; NaN where none was stated.

    n : (n_groups,) `~numpy.ndarray`
        The number of intervals in a group.

    n_covered : (n_groups, n_levels) `~numpy.ndarray`
        How many of them hold the truth.

    coverage, low, high : (n_groups, n_levels) `~numpy.ndarray`
        The fraction and its Wilson interval; NaN in empty groups.

    confidence : float
        The confidence level of ``low`` and ``high``.
    """

    labels: np.ndarray
    levels: np.ndarray
    n: np.ndarray
    n_covered: np.ndarray
    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray
    confidence: float

    @classmethod
    def _from_hits(cls, hits, levels, groups, confidence):
        confidence = check_fraction(confidence, 'confidence')
        labels, index = as_groups(groups, len(hits))
        n = np.bincount(index, minlength=len(labels))
        covered = [np.bincount(index[hit], minlength=len(labels)) for hit in hits.T]
        covered = np.stack(covered, axis=1)
        total = np.broadcast_to(n[:, np.newaxis], covered.shape)
        low, high = wilson_interval(covered, total, level=confidence)
        with np.errstate(invalid='ignore'):
            fraction = np.true_divide(covered, total)
        return cls(
            labels, np.asarray(levels), n, covered, fraction, low, high, confidence
        )

    def to_table(self):
        """
        Return the coverage as a table with a row per group and level.

        Returns
        -------
        table : `~astropy.table.QTable`
            One row per group and nominal level.
        """
        n_groups, n_levels = self.coverage.shape
        table = QTable()
        table['group'] = np.repeat(self.labels, n_levels)
        table['level'] = np.tile(self.levels, n_groups)
        table['n'] = np.repeat(self.n, n_levels)
        table['n_covered'] = self.n_covered.ravel()
        for name in ('coverage', 'low', 'high'):
            table[name] = getattr(self, name).ravel()
            table[name].info.format = '.4f'
        table.meta['confidence'] = self.confidence
        return table

    def __repr__(self):
        return '\n'.join(['<Coverage>', *self.to_table().pformat()])


def interval_coverage(
    truth, lower, upper, *, level=None, groups=None, confidence=0.683
):
    """
    How often intervals hold the truth.

    Parameters
    ----------
    truth, lower, upper : 1D array_like or `~astropy.units.Quantity`
        The true values and the ends of their intervals (inclusive).

    level : float or `None`, optional
        The nominal level of the intervals, kept for tables and plots.

    groups : 1D array_like or `None`, optional
        A label per row, e.g. from `quantile_groups`. Group by DATA, such as the
        posterior median: in fine bins of the truth even the exact posterior is not
        calibrated.

    confidence : float, optional
        The confidence level of the binomial (Wilson) errors.

    Returns
    -------
    coverage : `Coverage`
        The fractions with their errors.

    Raises
    ------
    ValueError
        If an interval is upside down or a value is NaN.

    Examples
    --------
    >>> from bliss_astro.metrics import interval_coverage
    >>> result = interval_coverage([1, 2, 3, 4], [0, 0, 0, 0], [3, 3, 3, 3], level=0.68)
    >>> result.coverage
    array([[0.75]])
    """
    truth, unit = strip_unit(truth, 'truth')
    truth = as_vector(truth, 'truth')
    ends = []
    for values, name in ((lower, 'lower'), (upper, 'upper')):
        values, _ = strip_unit(values, name, like=unit)
        ends.append(as_vector(values, name, n=len(truth), n_name='truth'))
    lower, upper = ends
    for values, name in ((truth, 'truth'), (lower, 'lower'), (upper, 'upper')):
        if np.isnan(values).any():
            msg = f'{name} must not be NaN, got {np.isnan(values).sum()} NaN values'
            raise ValueError(msg)
    if (lower > upper).any():
        msg = f'lower must not exceed upper, got {(lower > upper).sum()} such rows'
        raise ValueError(msg)
    level = np.nan if level is None else check_fraction(level, 'level')
    hits = ((lower <= truth) & (truth <= upper))[:, np.newaxis]
    return Coverage._from_hits(hits, [level], groups, confidence)


def rank_coverage(
    ranks, levels=(0.5, 0.68, 0.9, 0.95), *, groups=None, confidence=0.683
):
    """
    Coverage of equal-tailed intervals from the ranks of the truth.

    Parameters
    ----------
    ranks : 1D array_like
        The posterior's distribution function at the truth, in [0, 1] (see
        `posterior_ranks`, `randomized_pit`). Uniform if the posterior is calibrated.

    levels : array_like, optional
        The nominal levels: the interval of level q holds the truth if its rank lies
        between (1 - q) / 2 and (1 + q) / 2.

    groups : 1D array_like or `None`, optional
        A label per row, e.g. from `quantile_groups`.

    confidence : float, optional
        The confidence level of the binomial (Wilson) errors.

    Returns
    -------
    coverage : `Coverage`
        The fractions with their errors.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import rank_coverage
    >>> rank_coverage(np.linspace(0.0005, 0.9995, 1000)).coverage
    array([[0.5 , 0.68, 0.9 , 0.95]])
    """
    ranks = as_vector(ranks, 'ranks')
    sound = (ranks >= 0) & (ranks <= 1)
    if not sound.all():
        msg = f'ranks must be between 0 and 1, got {first_wrong(ranks, sound)}'
        raise ValueError(msg)
    levels = np.atleast_1d(np.asarray(levels, dtype=float))
    for level in levels:
        check_fraction(level, 'levels')
    # The tiny slack keeps ranks that fall on an end, as 0.025 does for 95 %.
    hits = np.abs(ranks[:, np.newaxis] - 0.5) <= levels / 2 + 1e-12
    return Coverage._from_hits(hits, levels, groups, confidence)


def posterior_ranks(samples, truth, *, rng=None):
    """
    Rank of the truth among posterior samples, as a number in (0, 1).

    If truth and samples come from the same distribution, the ranks are uniform:
    ``(number below + uniform share of ties and of one more) / (n_samples + 1)``.

    Parameters
    ----------
    samples : (n, n_samples) array_like
        Posterior samples.

    truth : (n,) array_like
        The true values.

    rng : int, `~numpy.random.Generator` or `None`, optional
        The source of randomness for ties and for the place between two samples.

    Returns
    -------
    ranks : (n,) `~numpy.ndarray`
        The randomised ranks.

    References
    ----------
    Talts et al. 2018, arXiv:1804.06788.
    """
    samples, unit = strip_unit(samples, 'samples')
    truth, _ = strip_unit(truth, 'truth', like=unit)
    truth = as_vector(truth, 'truth', finite=True)
    if samples.ndim != 2 or len(samples) != len(truth) or not samples.shape[1]:
        msg = (
            f'samples must have the shape ({len(truth)}, n_samples), '
            f'got {samples.shape}'
        )
        raise ValueError(msg)
    if np.isnan(samples).any():
        msg = f'samples must not be NaN, got {first_wrong(samples, samples == samples)}'
        raise ValueError(msg)
    rng = check_rng(rng)
    below = (samples < truth[:, np.newaxis]).sum(axis=1)
    ties = (samples == truth[:, np.newaxis]).sum(axis=1)
    share = rng.uniform(size=len(truth)) * (ties + 1)
    return (below + share) / (samples.shape[1] + 1)


def randomized_pit(cdf_below, cdf_at, *, rng=None):
    """
    Randomised probability integral transform of a discrete variable, such as a count.

    Parameters
    ----------
    cdf_below, cdf_at : 1D array_like
        The posterior probability of values smaller than the truth, and of values
        smaller or equal.

    rng : int, `~numpy.random.Generator` or `None`, optional
        The source of randomness.

    Returns
    -------
    ranks : 1D `~numpy.ndarray`
        Uniform draws between the two; uniform in [0, 1] over a calibrated posterior.
    """
    cdf_below = as_vector(cdf_below, 'cdf_below', finite=True)
    cdf_at = as_vector(cdf_at, 'cdf_at', n=len(cdf_below), n_name='cdf_below')
    ordered = (cdf_below >= 0) & (cdf_below <= cdf_at) & (cdf_at <= 1 + 1e-6)
    if not ordered.all():
        k = int(np.argmin(ordered))
        msg = (
            'cdf_below and cdf_at must satisfy 0 <= cdf_below <= cdf_at <= 1, got '
            f'{cdf_below[k]:g} and {cdf_at[k]:g} at [{k}]'
        )
        raise ValueError(msg)
    share = check_rng(rng).uniform(size=len(cdf_at))
    return np.minimum(cdf_below + share * (cdf_at - cdf_below), 1.0)


def quantile_groups(values, n_groups=3):
    """
    Cut values into groups of equal size, e.g. thirds by posterior median.

    Parameters
    ----------
    values : 1D array_like
        The values.

    n_groups : int, optional
        The number of groups.

    Returns
    -------
    groups : 1D int `~numpy.ndarray`
        0 for the lowest values to ``n_groups - 1`` for the highest. Equal values
        stay together.

    Examples
    --------
    >>> from bliss_astro.metrics import quantile_groups
    >>> quantile_groups([5.0, 1.0, 3.0, 2.0, 6.0, 4.0])
    array([2, 0, 1, 0, 2, 1])
    """
    values = as_vector(values, 'values', finite=True)
    n_groups = check_count(n_groups, 'n_groups')
    if not len(values):
        return np.zeros(0, dtype=int)
    edges = np.quantile(values, np.arange(1, n_groups) / n_groups)
    return np.searchsorted(edges, values, side='right')


@dataclass(frozen=True, eq=False)
class LogScore:
    """
    Mean log score by group.

    Attributes
    ----------
    labels : (n_groups,) `~numpy.ndarray`
        The names of the groups.

    n : (n_groups,) `~numpy.ndarray`
        The number of values.

    mean, mean_err : (n_groups,) `~numpy.ndarray`
        The mean in nats and its standard error.
    """

    labels: np.ndarray
    n: np.ndarray
    mean: np.ndarray
    mean_err: np.ndarray


def mean_log_score(log_prob, *, groups=None):
    """
    Mean log posterior density of the truth: calibration and sharpness in one number.

    Higher is better, and no posterior beats the exact one on average. A coverage
    that is right proves little without it: the prior is calibrated too.

    Parameters
    ----------
    log_prob : 1D array_like
        The log of the posterior density at the truth, in nats. -inf (a truth that
        was declared impossible) makes the mean -inf.

    groups : 1D array_like or `None`, optional
        A label per row.

    Returns
    -------
    score : `LogScore`
        Mean and standard error per group.

    Examples
    --------
    >>> from bliss_astro.metrics import mean_log_score
    >>> mean_log_score([-1.0, -3.0]).mean
    array([-2.])
    """
    log_prob = as_vector(log_prob, 'log_prob')
    if np.isnan(log_prob).any():
        msg = f'log_prob must not be NaN, got {np.isnan(log_prob).sum()} NaN values'
        raise ValueError(msg)
    labels, index = as_groups(groups, len(log_prob))
    n = np.bincount(index, minlength=len(labels))
    with np.errstate(invalid='ignore', divide='ignore'):
        mean = np.bincount(index, log_prob, minlength=len(labels)) / n
        square = (log_prob - mean[index]) ** 2
        variance = np.bincount(index, square, minlength=len(labels)) / (n - 1)
        error = np.where(n > 1, np.sqrt(variance / n), np.nan)
    return LogScore(labels, n, mean, error)
