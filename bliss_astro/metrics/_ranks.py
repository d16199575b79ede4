# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulation-based calibration: ranks of the truth, with bands of their distribution.
"""

import functools

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtr, bdtrc, ndtr, ndtri, owens_t
from scipy.stats import binom, kstwo

from bliss_astro._arguments import check_fraction, check_integer, check_rng, require

from ._inputs import (
    as_groups,
    as_vector,
    check_values,
    make_table,
    strip_unit,
)

# Points at which a distribution function is compared, and the fewest ranks for that.
_POINTS, _MIN_RANKS = np.arange(1, 100) / 100, 10

# Simulated samples of uniform numbers, which know 5 % to 0.35 %, and the size of the
# largest one: beyond it the distribution of the statistic no longer depends on it.
_N_NULL, _MAX_NULL_SIZE = 4000, 5000

SCALE_ERROR = np.pi / np.sqrt(15)
"""Error of the log scale of a calibrated posterior from one rank: the standard
deviation of the squared distance of ranks from 1/2 over its slope."""


def posterior_ranks(samples, truth, *, rng=None):
    """
    Rank of the truth among posterior samples, as a number in (0, 1).

    If truth and samples come from the same distribution, the ranks are uniform:
    ``(number below + uniform share of ties and of one more) / (n_samples + 1)``.

    Parameters
    ----------
    samples : (n, n_samples) array_like
        Posterior samples, also of discrete quantities such as counts.

    truth : (n,) array_like
        True values.

    rng : int, `~numpy.random.Generator` or `None`, optional
        Source of randomness for ties and for the place between two samples.

    Returns
    -------
    ranks : (n,) `~numpy.ndarray`
        Randomised ranks.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is NaN.

    References
    ----------
    Talts et al. 2018, arXiv:1804.06788.
    """
    samples, unit = strip_unit(samples, 'samples')
    truth = as_vector(truth, 'truth', finite=True, unit=unit)
    sound = samples.ndim == 2 and len(samples) == len(truth) and samples.shape[1] > 0
    require(sound, 'samples', f'have shape ({len(truth)}, n_samples)', samples.shape)
    check_values(samples, 'samples')
    below = (samples < truth[:, np.newaxis]).sum(axis=1)
    ties = (samples == truth[:, np.newaxis]).sum(axis=1)
    share = check_rng(rng).uniform(size=len(truth)) * (ties + 1)
    return (below + share) / (samples.shape[1] + 1)


def rank_uniformity(ranks, *, groups=None, images=None, n_bins=None, level=0.95):
    """
    Uniformity of the ranks of the truth, with bias and scale of the posterior.

    Bias and scale are those of a Gaussian posterior of the wrong centre and width
    whose ranks have the same mean and variance. Both are bounded, so no outlier can
    spoil them.

    Parameters
    ----------
    ranks : 1D array_like
        Posterior distribution function at the truth, in [0, 1] (see
        `posterior_ranks`).

    groups : 1D array_like or `None`, optional
        Label of each row. Group by data, never by truth.

    images : 1D array_like or `None`, optional
        Image of each row. Sources of one image may share a fault of its sky;
        the errors and p-values then count images rather than sources.

    n_bins : int or `None`, optional
        Bins of the histogram; by default 20, fewer for less than 200 ranks.

    level : float, optional
        Probability with which a calibrated posterior stays inside the bands.

    Returns
    -------
    uniformity : `ScoreTable`
        A row per ``group``; tests are NaN in groups of less than 10 ranks.

        * ``n``, the number of ranks, and ``n_effective``, that of independent ranks
          with the same information, smaller if ``images`` share faults;
        * ``bias``: centre of the posterior minus truth in units of the stated error,
          positive if values come out too high; ``scale``: stated error over the right
          one, 1.08 for 8 % too wide; each with ``_err`` and ``_p_value``;
        * ``ks_p_value`` of the Kolmogorov-Smirnov test, and ``ecdf_p_value`` of the
          test that belongs to the band, which has more power in the tails;
        * ``counts`` in the ``n_bins`` bins of the histogram, whose edges are
          ``meta['bins']``, and the empirical distribution function ``ecdf`` at the 99
          ``meta['points']``; each with the band ``_low`` to ``_high`` that holds all of
          it with probability ``level`` if the posterior is calibrated.

    Raises
    ------
    ValueError
        If a rank is not in [0, 1], or lengths differ.

    References
    ----------
    Talts et al. 2018, arXiv:1804.06788; Saeilynoja, Buerkner and Vehtari 2022,
    Statistics and Computing 32, 32.

    Examples
    --------
    Errors that are stated 25 % too large:

    >>> import numpy as np
    >>> from scipy import stats
    >>> from bliss_astro.metrics import rank_uniformity
    >>> truth = np.random.default_rng(1).normal(size=5000)
    >>> result = rank_uniformity(stats.norm.cdf(truth, scale=1.25))
    >>> print(f'{result["scale"][0]:.2f} +- {result["scale_err"][0]:.2f}')
    1.25 +- 0.01
    >>> bool(result['ecdf_p_value'] < 0.001)
    True
    """
    ranks = as_vector(ranks, 'ranks', within=(0, 1))
    level = check_fraction('level', level)
    labels, index = as_groups(groups, len(ranks))
    clusters = None
    if images is not None:
        clusters = as_groups(images, len(ranks), 'images')[1]
    n = np.bincount(index, minlength=len(labels))
    if n_bins is None:
        n_bins = int(np.clip(n.max(initial=0) // 10, 4, 20))
    n_bins = check_integer('n_bins', n_bins, 1)
    rows = []
    for own in (index == k for k in range(len(labels))):
        images = None if clusters is None else clusters[own]
        rows.append(_test_ranks(ranks[own], images, n_bins, level))
    columns = {'group': labels, 'n': n}
    columns |= {name: np.array([row[name] for row in rows]) for name in rows[0]}
    meta = {'bins': np.linspace(0, 1, n_bins + 1), 'level': level}
    return make_table('ranks', columns, points=_POINTS, **meta)


def _test_ranks(ranks, images, n_bins, level):
    """Return the columns of one group."""
    n = len(ranks)
    below = ecdf_counts(ranks)
    unknown = np.full(len(below), np.nan)
    names = ('bias', 'scale')
    row = {'n_effective': float(n)}
    row |= {f'{a}{b}': np.nan for a in names for b in ('', '_err', '_p_value')}
    row |= {'ks_p_value': np.nan, 'ecdf_p_value': np.nan}
    tail = (1 - level) / (2 * n_bins)
    row['counts'] = np.histogram(ranks, n_bins, (0, 1))[0]
    row['counts_low'] = np.full(n_bins, binom.ppf(tail, n, 1 / n_bins))
    row['counts_high'] = np.full(n_bins, binom.isf(tail, n, 1 / n_bins))
    row['ecdf'] = below / n if n else unknown
    if n < _MIN_RANKS:
        return row | {'ecdf_low': unknown, 'ecdf_high': unknown}
    row |= _bias_and_scale(ranks, images)
    n_effective = max(int(row['n_effective']), 1)
    row['ecdf_low'], row['ecdf_high'] = ecdf_band(n_effective, level)
    if n_effective < n:
        below = np.rint(below * (n_effective / n))
    row['ecdf_p_value'] = ecdf_pvalue(below, n_effective)
    steps, ranks = np.arange(n + 1) / n, np.sort(ranks)
    distance = max((steps[1:] - ranks).max(), (ranks - steps[:-1]).max())
    row['ks_p_value'] = float(kstwo.sf(distance, n_effective))
    return row


def _bias_and_scale(ranks, images):
    """Return bias and scale of a Gaussian posterior of the same mean and variance."""
    n = len(ranks)
    moments = np.stack([ranks, ranks**2])
    mean = moments.mean(axis=1)
    effect = 1.0
    if images is not None:
        # Variance of a mean over that of independent ranks, as images share faults.
        residuals = moments - mean[:, np.newaxis]
        shared = [(np.bincount(images, values) ** 2).sum() for values in residuals]
        effect = max(1.0, *(shared / np.maximum((residuals**2).sum(axis=1), 1e-300)))
    covariance = np.cov(moments) / n * effect
    bias, log_scale = _invert(*mean)
    jacobian = np.empty((2, 2))
    for k, step in enumerate(1e-4 * np.sqrt(np.diagonal(covariance) + 1e-30)):
        high, low = (mean + sign * step * np.eye(2)[k] for sign in (1, -1))
        jacobian[:, k] = (np.array(_invert(*high)) - _invert(*low)) / (2 * step)
    errors = np.sqrt(np.diagonal(jacobian @ covariance @ jacobian.T))
    # The variances of a calibrated posterior are known. That of the scale also
    # depends on its bias, which a small sample constrains poorly.
    bias_z = (mean[0] - 0.5) * np.sqrt(12 * n / effect)
    scale_z = log_scale / max(errors[1], SCALE_ERROR * np.sqrt(effect / n))
    scale = np.exp(log_scale)
    return {
        'n_effective': n / effect,
        'bias': bias,
        'bias_err': errors[0],
        'bias_p_value': 2 * ndtr(-np.abs(bias_z)),
        'scale': scale,
        'scale_err': scale * errors[1],
        'scale_p_value': 2 * ndtr(-np.abs(scale_z)),
    }


def _invert(first, second):
    """
    Return bias and log scale from the mean rank and the mean squared rank.

    With (truth - centre) / stated error ~ N(d, a^2), the ranks Phi(.) have the mean
    Phi(h) and the mean square P(v1 < h, v2 < h) of two unit Gaussians with the
    correlation rho, where h = d / sqrt(1 + a^2) and rho = a^2 / (1 + a^2).
    """
    first = np.clip(first, 1e-9, 1 - 1e-9)
    h = ndtri(first)

    def excess(rho):
        slope = np.sqrt((1 - rho) / (1 + rho))
        return first - 2 * owens_t(h, slope) - second

    low, high = 1e-12, 1 - 1e-12
    if excess(low) >= 0:
        rho = low
    elif excess(high) <= 0:
        rho = high
    else:
        rho = brentq(excess, low, high, xtol=1e-14)
    ratio = rho / (1 - rho)  # a^2
    return -h * np.sqrt(1 + ratio), -0.5 * np.log(ratio)


# -- bands of the distribution function of uniform numbers -----------------------


def ecdf_counts(values):
    """Count the values that are at most 0.01, 0.02, ..., 0.99."""
    return np.searchsorted(np.sort(values), _POINTS, side='right')


def binomial_p_value(counts, n, points):
    """Return two-sided p-values of binomial counts."""
    counts = np.asarray(counts, dtype=float)
    below = bdtr(counts, n, points)
    above = np.where(counts > 0, bdtrc(np.maximum(counts - 1, 0), n, points), 1.0)
    return np.minimum(2 * np.minimum(below, above), 1.0)


def _null(n):
    """Return sorted smallest tail probabilities of samples of n uniform numbers."""
    # Two digits of n, as beyond some hundred numbers it hardly matters.
    if n > 200:
        digits = 1 - int(np.floor(np.log10(n)))
        n = min(round(n, digits), _MAX_NULL_SIZE)
    return _simulated_null(int(n))


@functools.lru_cache(maxsize=64)
def _simulated_null(n):
    """Simulate the samples of `_null`."""
    # Always the same draws: this is an integral, not an experiment.
    n_bins = len(_POINTS) + 1
    rng = np.random.default_rng([n, n_bins])
    share = np.full(n_bins, 1 / n_bins)
    counts = rng.multinomial(n, share, size=_N_NULL)[:, :-1].cumsum(axis=1)
    smallest = np.ones(_N_NULL)
    for point, column in zip(_POINTS, counts.T, strict=True):
        # Each count is looked up: there are far fewer counts than samples.
        first = column.min()
        table = binomial_p_value(np.arange(first, column.max() + 1), n, point)
        np.minimum(smallest, table[column - first], out=smallest)
    return np.sort(smallest)


@functools.lru_cache(maxsize=64)
def ecdf_band(n, level):
    """
    Return the band that holds the distribution function of n uniform numbers.

    The marginal intervals are binomial, each of the same level, which is chosen so
    that all points together lie inside with probability ``level`` (Saeilynoja et
    al. 2022).
    """
    gamma = np.quantile(_null(n), 1 - level)
    low = binom.ppf(gamma / 2, n, _POINTS)
    high = binom.isf(gamma / 2, n, _POINTS)
    return low / n, high / n


def ecdf_pvalue(counts, n):
    """Return the p-value of `ecdf_counts`, by Bonferroni where simulations end."""
    worst = binomial_p_value(counts, n, _POINTS).min()
    null = _null(n)
    simulated = (1 + np.searchsorted(null, worst, side='right')) / (1 + len(null))
    return float(min(simulated, len(counts) * worst))
