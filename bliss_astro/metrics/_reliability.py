# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reliability diagram of detection probabilities, and calibration of counts.
"""

import numpy as np
from scipy.special import expit, logit, ndtr, stdtr
from scipy.stats import kstest

from ._inputs import (
    as_booleans,
    as_edges,
    as_vector,
    bin_index,
    check_count,
    fraction_columns,
    make_table,
)
from ._ranks import binomial_p_value

# Simulated calibrated catalogues, and the distinct probabilities in each, about.
_N_NULL, _N_LEVELS = 2000, 250

# Largest logit of a probability, as otherwise a single row could decide a test.
_MAX_LOGIT = 9.0


def reliability(probability, is_real, *, bins=None, confidence=0.683):
    """
    Reliability diagram of detection probabilities, with tests.

    Give all candidates, not only those above a threshold: the reliability of those
    cut away cannot be tested.

    Parameters
    ----------
    probability : 1D array_like
        Probability of each candidate, in [0, 1].

    is_real : 1D array_like of bool
        Whether it is real.

    bins : 1D array_like or `None`, optional
        Edges of the bins of probability; by default ten of equal width.

    confidence : float, optional
        Level of the interval of the fraction.

    Returns
    -------
    reliability : `ScoreTable`
        A row per bin ``low`` to ``high``: the numbers of candidates ``n`` and of real
        ones ``n_real``, their mean ``probability``, the ``fraction`` that is real with
        its interval, and the ``p_value`` of the number of real ones. In ``meta``:

        * ``error``: expected calibration error, the mean of abs(fraction -
          probability) over the candidates; ``error_floor`` and ``error_limit``, its
          mean and its 95th percentile for calibrated probabilities in a sample
          like this, and ``error_p_value``;
        * ``excess``: number of real candidates over the sum of probabilities, minus 1,
          with ``excess_err`` and ``excess_p_value``;
        * ``sharpness_p_value``: test whether probabilities are too far from the mean
          (``is_overconfident``) or too near to it (score test of the slope of a
          logistic regression).

    Raises
    ------
    ValueError
        If a probability is not in [0, 1], ``is_real`` is not boolean or lengths
        differ.

    Notes
    -----
    The expected calibration error of perfect probabilities is not 0 in a finite
    sample. Its floor is simulated: the probabilities stay, and the real candidates are
    drawn again from them.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import reliability
    >>> rng = np.random.default_rng(1)
    >>> probability = rng.beta(0.5, 0.5, 5000)
    >>> result = reliability(probability, rng.uniform(size=5000) < probability)
    >>> bool(result.meta['error'] < result.meta['error_limit'])
    True
    """
    probability = as_vector(probability, 'probability', within=(0, 1))
    real = as_booleans(is_real, 'is_real', like=('probability', probability))
    edges = as_edges(np.linspace(0, 1, 11) if bins is None else bins)
    index = bin_index(probability, edges)
    inside = index >= 0
    index, probability, real = index[inside], probability[inside], real[inside]
    n_bins = len(edges) - 1
    n = np.bincount(index, minlength=n_bins)
    n_real = np.bincount(index[real], minlength=n_bins)
    with np.errstate(invalid='ignore'):
        mean = np.bincount(index, probability, n_bins) / n
    columns = {'low': edges[:-1], 'high': edges[1:], 'n': n, 'n_real': n_real}
    columns['probability'] = mean
    columns |= fraction_columns('fraction', n_real, n, confidence)
    p_values = binomial_p_value(n_real, n, np.clip(np.nan_to_num(mean), 0.0, 1.0))
    columns['p_value'] = np.where(n > 0, p_values, np.nan)
    meta = _test_probabilities(probability, real.astype(float), index, n_bins)
    return make_table('reliability', columns, **meta)


def _test_probabilities(probability, real, index, n_bins):
    """Test the whole sample against simulations of a calibrated one."""
    n = len(probability)
    if not n:
        names = ('error', 'error_floor', 'error_limit', 'error_p_value', 'excess')
        names += ('excess_err', 'excess_p_value', 'sharpness_p_value')
        return dict.fromkeys(names, np.nan) | {'is_overconfident': False}
    variance = probability * (1 - probability)
    total = variance.sum()
    edge = expit(-_MAX_LOGIT)
    slope = logit(np.clip(probability, edge, 1 - edge))
    # The slope is that at the best intercept, to keep the two faults apart.
    slope = slope - ((variance * slope).sum() / total if total > 0 else 0.0)
    weights = np.stack([np.ones(n), slope])
    score = weights @ (real - probability)
    spread = np.sqrt((variance * weights**2).sum(axis=1))
    error = np.abs(np.bincount(index, real - probability, n_bins)).sum() / n
    null_errors, null_scores = _simulate(probability, index, n_bins, weights)
    p_values = [
        _score_p_value(value, sigma, null, total)
        for value, sigma, null in zip(score, spread, null_scores.T, strict=True)
    ]
    expected = probability.sum() or np.nan
    n_above = (null_errors >= error).sum()
    return {
        'error': float(error),
        'error_floor': float(null_errors.mean()),
        'error_limit': float(np.quantile(null_errors, 0.95)),
        'error_p_value': float((1 + n_above) / (1 + len(null_errors))),
        'excess': float(score[0] / expected),
        'excess_err': float(spread[0] / expected),
        'excess_p_value': p_values[0],
        'sharpness_p_value': p_values[1],
        'is_overconfident': bool(score[1] < 0),
    }


def _simulate(probability, index, n_bins, weights):
    """Return errors and scores of catalogues drawn from their probabilities."""
    rng = np.random.default_rng(len(probability))
    order = np.lexsort([probability, index])
    n = len(order)
    # Neighbours in probability are drawn together, or large samples would take long.
    size = -(-n // _N_LEVELS)
    change = np.flatnonzero(np.diff(index[order])) + 1
    starts = np.unique(np.concatenate([np.arange(0, n, size), change]))
    counts = np.diff(np.append(starts, n))
    mean = np.add.reduceat(probability[order], starts) / counts
    weight = np.add.reduceat(weights[:, order], starts, axis=1) / counts
    member = index[order][starts][:, np.newaxis] == np.arange(n_bins)
    matrix = np.concatenate([member.astype(float), weight.T], axis=1)
    mean = np.clip(mean, 0.0, 1.0)
    sums = np.empty((_N_NULL, n_bins + len(weights)))
    for block in np.array_split(np.arange(_N_NULL), 40):
        drawn = rng.binomial(counts, mean, size=(len(block), len(counts)))
        sums[block] = (drawn - counts * mean) @ matrix
    return np.abs(sums[:, :n_bins]).sum(axis=1) / n, sums[:, n_bins:]


def _score_p_value(value, error, null, total):
    """Return a two-sided p-value: simulated, Gaussian where simulations end."""
    if error == 0:
        return 1.0 if abs(value) < 1e-9 else 0.0
    beyond = (np.abs(null) >= abs(value) * (1 - 1e-12)).sum()
    simulated = (1 + beyond) / (1 + len(null))
    if beyond >= 10 or total < 25:
        return float(simulated)
    return float(min(simulated, 2 * ndtr(-abs(value) / error)))


def count_calibration(
    true, expected, *, ranks=None, variance=None, bins=None, n_bins=5
):
    """
    Calibration of counts: true minus expected, in bins of the expected count.

    Parameters
    ----------
    true : 1D array_like
        True number of sources in each region. Regions should be independent:
        one per image.

    expected : 1D array_like
        Its posterior mean.

    ranks : 1D array_like or `None`, optional
        Ranks of the true numbers, such as `posterior_ranks` of drawn ones.

    variance : 1D array_like or `None`, optional
        Posterior variance of the number.

    bins : 1D array_like or `None`, optional
        Edges of bins of the EXPECTED count; regions outside all bins are left out of
        them. By default ``n_bins`` of equal size.

    n_bins : int, optional
        Number of bins, if ``bins`` are not given.

    Returns
    -------
    counts : `ScoreTable`
        A row per bin ``low`` to ``high``: the number of regions ``n``, the mean counts
        ``expected`` and ``true``, their ``offset`` with its error ``offset_err`` and
        the ``p_value`` of its t test, and ``relative`` and ``relative_err``, the same
        over the mean expected count. Errors are those of the actual scatter. In
        ``meta``: ``total_relative``, ``total_relative_err`` and ``total_p_value`` of
        all regions; ``spread``, ``spread_err`` and ``spread_p_value``, the
        stated over the actual scatter of true minus expected, below 1 if
        the posterior of the count is too narrow (NaN without ``variance``); and
        ``ks_p_value`` of the ranks (NaN without them).

    Raises
    ------
    ValueError
        If a number is negative or not finite, or lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import count_calibration
    >>> rng = np.random.default_rng(1)
    >>> rate = rng.gamma(3.0, 1.0, 10_000)
    >>> counts = count_calibration(rng.poisson(rate), 0.95 * rate, variance=rate).meta
    >>> print(f'{counts["total_relative"]:.3f} +- {counts["total_relative_err"]:.3f}')
    0.055 +- 0.006
    """
    not_negative = {'finite': True, 'within': (0, np.inf)}
    true = as_vector(true, 'true', **not_negative)
    like = ('true', true)
    expected = as_vector(expected, 'expected', like=like, **not_negative)
    if bins is None and len(true):
        levels = np.linspace(0, 1, check_count(n_bins, 'n_bins') + 1)
        # Fewer bins where many values are the same.
        bins = np.unique(np.quantile(expected, levels))
        bins = bins if len(bins) > 1 else [bins[0], bins[0] + 1]
    edges = as_edges([0, np.inf] if bins is None else bins)
    index = bin_index(expected, edges)
    rows = [
        _offset(true[index == k], expected[index == k]) for k in range(len(edges) - 1)
    ]
    columns = {'low': edges[:-1], 'high': edges[1:]}
    columns |= {name: np.array([row[name] for row in rows]) for name in rows[0]}
    total = _offset(true, expected)
    meta = {
        f'total_{k}': float(total[k]) for k in ('relative', 'relative_err', 'p_value')
    }
    if variance is not None:
        variance = as_vector(variance, 'variance', like=like, **not_negative)
    meta |= _spread(true - expected, variance)
    meta['ks_p_value'] = np.nan
    if ranks is not None:
        ranks = as_vector(ranks, 'ranks', like=like, within=(0, 1))
        meta['ks_p_value'] = float(kstest(ranks, 'uniform').pvalue)
    return make_table('counts', columns, **meta)


def _offset(true, expected):
    """Return the mean of true minus expected with its error and t test."""
    n = len(true)
    names = ('expected', 'true', 'offset', 'offset_err', 'relative', 'relative_err')
    row = {'n': n} | dict.fromkeys((*names, 'p_value'), np.nan)
    if not n:
        return row
    difference = true - expected
    mean = expected.mean()
    # A few rare sources may all be missing; then the scatter is that of Poisson.
    scatter = difference.std(ddof=1) if n > 1 else 0.0
    if not true.any() or scatter == 0:
        scatter = max(scatter, np.sqrt(mean))
    offset, error = difference.mean(), scatter / np.sqrt(n)
    row |= {'expected': mean, 'true': true.mean()}
    row |= {'offset': offset, 'offset_err': error}
    if error > 0:
        row['p_value'] = 2 * stdtr(max(n - 1, 1), -abs(offset) / error)
    if mean > 0:
        row |= {'relative': offset / mean, 'relative_err': error / mean}
    return row


def _spread(difference, variance):
    """Return the stated over the actual scatter, with its error and test."""
    names = ('spread', 'spread_err', 'spread_p_value')
    n, square = len(difference), difference**2
    if variance is None or n < 2 or not variance.sum() or not square.sum():
        return dict.fromkeys(names, np.nan)
    ratio = variance.sum() / square.sum()
    excess = (square - variance).std(ddof=1) / np.sqrt(n)
    z = (square - variance).mean() / excess if excess > 0 else 0.0
    # The error of log(ratio), halved by the square root.
    error = 0.5 * (square - variance / ratio).std(ddof=1) / np.sqrt(n) / square.mean()
    spread = np.sqrt(ratio)
    values = spread, spread * error, 2 * ndtr(-abs(z))
    return dict(zip(names, map(float, values), strict=True))
