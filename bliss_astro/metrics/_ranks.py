# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulation-based calibration: are ranks of the truth uniform, and how are they not.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from ._ecdf import ecdf_band, ecdf_counts, ecdf_pvalue
from ._inputs import as_groups, as_vector, check_count, check_fraction

__all__ = ['RankUniformity', 'rank_uniformity']

_N_POINTS = 100
_N_LEAST = 10  # fewer ranks than this are not judged

# Errors for one rank of bias and log scale, measured on a calibrated posterior:
# the standard deviations of rank and squared distance from 1/2 over the slopes.
BIAS_ERROR = np.sqrt(np.pi / 3)
SCALE_ERROR = np.pi / np.sqrt(15)


@dataclass(frozen=True, eq=False)
class RankUniformity:
    """
    Ranks of the truth held against the uniform distribution, by group.

    Attributes
    ----------
    labels : (n_groups,) `~numpy.ndarray`
        The names of the groups.

    n : (n_groups,) `~numpy.ndarray`
        The number of ranks.

    n_effective : (n_groups,) `~numpy.ndarray`
        The number of independent ranks that tell as much; ``n`` unless ``images``
        were given.

    bins : (n_bins + 1,) `~numpy.ndarray`
        The edges of the histogram.

    counts, counts_low, counts_high : (n_groups, n_bins) `~numpy.ndarray`
        The histogram, and the band that holds all bins of a calibrated posterior
        with probability ``level``.

    points : (n_points,) `~numpy.ndarray`
        Where the distribution function is looked at.

    ecdf, ecdf_low, ecdf_high : (n_groups, n_points) `~numpy.ndarray`
        The empirical distribution function, and the band that holds all of it with
        probability ``level`` if the posterior is calibrated.

    ks_p_value, ecdf_p_value : (n_groups,) `~numpy.ndarray`
        Of the Kolmogorov-Smirnov test, and of the test that belongs to the band,
        which sees the tails better.

    bias, bias_err, bias_p_value : (n_groups,) `~numpy.ndarray`
        The centre of the posterior minus the truth, in units of the stated error:
        positive if values come out too high.

    scale, scale_err, scale_p_value : (n_groups,) `~numpy.ndarray`
        The stated error over the right one: 1.08 is 8 % too wide.

    level : float
        The level of the bands.
    """

    labels: np.ndarray
    n: np.ndarray
    n_effective: np.ndarray
    bins: np.ndarray
    counts: np.ndarray
    counts_low: np.ndarray
    counts_high: np.ndarray
    points: np.ndarray
    ecdf: np.ndarray
    ecdf_low: np.ndarray
    ecdf_high: np.ndarray
    ks_p_value: np.ndarray
    ecdf_p_value: np.ndarray
    bias: np.ndarray
    bias_err: np.ndarray
    bias_p_value: np.ndarray
    scale: np.ndarray
    scale_err: np.ndarray
    scale_p_value: np.ndarray
    level: float

    def to_table(self):
        """
        Return the tests as a table with a row per group.

        Returns
        -------
        table : `~astropy.table.QTable`
            Bias, scale and p-values.
        """
        table = QTable({'group': self.labels, 'n': self.n})
        for name in ('bias', 'scale'):
            for column in (name, f'{name}_err', f'{name}_p_value'):
                table[column] = getattr(self, column)
        for name in ('ks_p_value', 'ecdf_p_value'):
            table[name] = getattr(self, name)
        for name in table.colnames[2:]:
            table[name].info.format = '.3g' if 'p_value' in name else '.3f'
        table.meta['level'] = self.level
        return table

    def __repr__(self):
        return '\n'.join(['<RankUniformity>', *self.to_table().pformat()])


def rank_uniformity(ranks, *, groups=None, images=None, n_bins=None, level=0.95):
    """
    Test whether ranks of the truth are uniform, and measure bias and scale.

    If not only the shape of the histogram but a number is wanted: the ranks are those
    of a Gaussian posterior of the wrong centre and width, whose bias and scale follow
    from the mean and the variance of the ranks. Both are bounded, so no outlier can
    spoil them.

    Parameters
    ----------
    ranks : 1D array_like
        The posterior's distribution function at the truth, in [0, 1] (see
        `posterior_ranks`, `randomized_pit`).

    groups : 1D array_like or `None`, optional
        A label per row, e.g. from `quantile_groups`. Group by data, never by truth.

    images : 1D array_like or `None`, optional
        The image of each row. Sources of one image may share a fault of its sky;
        the errors and p-values then count images rather than sources.

    n_bins : int or `None`, optional
        Bins of the histogram; by default 20, fewer for less than 200 ranks.

    level : float, optional
        The probability with which a calibrated posterior stays inside the bands.

    Returns
    -------
    uniformity : `RankUniformity`
        Tests, bands and measurements; NaN in groups of less than 10 ranks.

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
    >>> print(f'{result.scale[0]:.2f} +- {result.scale_err[0]:.2f}')
    1.25 +- 0.01
    >>> bool(result.ecdf_p_value < 0.001)
    True
    """
    ranks = as_ranks(ranks, 'ranks')
    level = check_fraction(level, 'level')
    labels, index = as_groups(groups, len(ranks))
    clusters = None if images is None else as_groups(images, len(ranks), 'images')[1]
    n = np.bincount(index, minlength=len(labels))
    if n_bins is None:
        n_bins = int(np.clip(n.max(initial=0) // 10, 4, 20))
    n_bins = check_count(n_bins, 'n_bins')
    rows = []
    for k in range(len(labels)):
        chosen = index == k
        own = None if clusters is None else clusters[chosen]
        rows.append(_judge(ranks[chosen], own, n_bins, level))
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return RankUniformity(
        labels=labels,
        n=n,
        bins=np.linspace(0, 1, n_bins + 1),
        points=np.arange(1, _N_POINTS) / _N_POINTS,
        level=level,
        **columns,
    )


def as_ranks(ranks, name):
    """
    Return ranks as a vector in [0, 1] or raise.
    """
    ranks = as_vector(ranks, name)
    bad = ~((ranks >= 0) & (ranks <= 1))
    if bad.any():
        msg = f'{name} must be between 0 and 1, got {bad.sum()} others or NaN'
        raise ValueError(msg)
    return ranks


def _judge(ranks, clusters, n_bins, level):
    """
    All numbers of one group.
    """
    from scipy.stats import binom

    n = len(ranks)
    points, below = ecdf_counts(ranks, _N_POINTS)
    nothing = np.full(len(points), np.nan)
    counts = np.histogram(ranks, n_bins, (0, 1))[0]
    tail = (1 - level) / (2 * n_bins)
    row = {
        'n_effective': float(n),
        'counts': counts,
        'counts_low': np.full(n_bins, binom.ppf(tail, n, 1 / n_bins)),
        'counts_high': np.full(n_bins, binom.isf(tail, n, 1 / n_bins)),
        'ecdf': below / n if n else nothing,
        'ecdf_low': nothing,
        'ecdf_high': nothing,
    }
    names = ('bias', 'scale')
    row |= {f'{a}{b}': np.nan for a in names for b in ('', '_err', '_p_value')}
    row |= {'ks_p_value': np.nan, 'ecdf_p_value': np.nan}
    if n < _N_LEAST:
        return row
    row |= _bias_and_scale(ranks, clusters)
    n_effective = max(int(row['n_effective']), 1)
    row['ecdf_low'], row['ecdf_high'] = ecdf_band(n_effective, _N_POINTS, level)
    if n_effective < n:
        below = np.rint(below * (n_effective / n))
    row['ecdf_p_value'] = ecdf_pvalue(below, n_effective, points)
    row['ks_p_value'] = _ks_pvalue(ranks, n_effective)
    return row


def _ks_pvalue(ranks, n):
    """
    Kolmogorov-Smirnov test against the uniform distribution, worth n ranks.
    """
    from scipy.stats import kstwo

    steps = np.arange(len(ranks) + 1) / len(ranks)
    ranks = np.sort(ranks)
    distance = max((steps[1:] - ranks).max(), (ranks - steps[:-1]).max())
    return float(kstwo.sf(distance, n))


def _bias_and_scale(ranks, clusters):
    """
    Bias and scale of a Gaussian posterior with the same mean and variance of ranks.
    """
    from scipy.special import ndtr

    n = len(ranks)
    moments = np.stack([ranks, ranks**2])
    mean = moments.mean(axis=1)
    covariance = np.cov(moments) / n
    effect = 1.0
    if clusters is not None:
        effect = _design_effect(moments - mean[:, np.newaxis], clusters)
        covariance = covariance * effect
    bias, log_scale = _invert(*mean)
    jacobian = np.empty((2, 2))
    for k, step in enumerate(1e-4 * np.sqrt(np.diagonal(covariance) + 1e-30)):
        high, low = (mean + sign * step * np.eye(2)[k] for sign in (1, -1))
        jacobian[:, k] = (np.array(_invert(*high)) - _invert(*low)) / (2 * step)
    errors = np.sqrt(np.diagonal(jacobian @ covariance @ jacobian.T))
    # Of a calibrated posterior the variances are known. That of the scale also
    # depends on its bias, which the sample tells, but poorly if it is small.
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
    Bias and log scale from the mean rank and the mean squared rank.

    With (truth - centre) / stated error ~ N(d, a^2), the ranks Phi(.) have the mean
    Phi(h) and the mean square P(v1 < h, v2 < h) of two unit Gaussians with the
    correlation rho, where h = d / sqrt(1 + a^2) and rho = a^2 / (1 + a^2).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri, owens_t

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


def _design_effect(residuals, clusters):
    """
    How many times larger the variance of a mean is because clusters hang together.
    """
    effects = []
    for values in residuals:
        sums = np.bincount(clusters, values)
        effects.append((sums**2).sum() / max((values**2).sum(), 1e-300))
    return float(max(1.0, *effects))
