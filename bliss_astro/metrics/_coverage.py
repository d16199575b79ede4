# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coverage of intervals, reliability of probabilities, and sharpness of posteriors.
"""

import numpy as np
from scipy.special import expit, logit, ndtr

from bliss_astro._arguments import check_fraction, require

from ._inputs import (
    EVERYTHING,
    as_booleans,
    as_edges,
    as_groups,
    as_vector,
    bin_index,
    fraction_columns,
    make_table,
    mean_and_error,
    wilson_interval,
)
from ._ranks import binomial_p_value

LEVELS = (0.5, 0.68, 0.9, 0.95)
"""Nominal levels of intervals whose coverage is computed by default."""

# Simulated calibrated catalogues, and the distinct probabilities in each, about.
_N_NULL, _N_LEVELS = 2000, 250

# Largest logit of a probability, as otherwise a single row could decide a test.
_MAX_LOGIT = 9.0


def interval_coverage(
    truth, lower, upper, *, level=None, groups=None, confidence=0.683
):
    """
    Coverage: the fraction of intervals that hold the truth.

    Parameters
    ----------
    truth, lower, upper : 1D array_like or `~astropy.units.Quantity`
        True values and ends of their intervals (inclusive).

    level : float or `None`, optional
        Nominal level of the intervals, for tables and plots.

    groups : 1D array_like or `None`, optional
        Label of each row. Group by DATA, such as the posterior median: in fine bins
        of the truth even the exact posterior is not calibrated.

    confidence : float, optional
        Level of the interval of the coverage.

    Returns
    -------
    coverage : `ScoreTable`
        A row per group: ``group``, ``level`` (NaN if not given), the number of
        intervals ``n`` and of those that hold the truth ``n_covered``, and
        ``coverage`` with its interval (Wilson).

    Raises
    ------
    ValueError
        If an interval is upside down or a value is NaN.

    Examples
    --------
    >>> from bliss_astro.metrics import interval_coverage
    >>> result = interval_coverage([1, 2, 3, 4], [0, 0, 0, 0], [3, 3, 3, 3], level=0.68)
    >>> print(result)
    group level  n  n_covered coverage coverage_low coverage_high
    ----- ----- --- --------- -------- ------------ -------------
      all  0.68   4         3   0.7500       0.4998        0.9001
    """
    options = {'within': EVERYTHING, 'unit': getattr(truth, 'unit', None)}
    truth = as_vector(truth, 'truth', **options)
    lower = as_vector(lower, 'lower', like=('truth', truth), **options)
    upper = as_vector(upper, 'upper', like=('truth', truth), **options)
    n_wrong = (lower > upper).sum()
    require(not n_wrong, 'lower', 'not exceed upper', f'{n_wrong} rows where it does')
    level = np.nan if level is None else check_fraction('level', level)
    hits = ((lower <= truth) & (truth <= upper))[:, np.newaxis]
    return _coverage(hits, np.array([level]), groups, confidence)


def rank_coverage(ranks, levels=LEVELS, *, groups=None, confidence=0.683):
    """
    Coverage of equal-tailed intervals from the ranks of the truth.

    Parameters
    ----------
    ranks : 1D array_like
        Posterior distribution function at the truth, in [0, 1] (see
        `posterior_ranks`). Uniform if the posterior is calibrated.

    levels : array_like, optional
        Nominal levels: the interval of level q holds the truth if its rank lies
        between (1 - q) / 2 and (1 + q) / 2.

    groups : 1D array_like or `None`, optional
        Label of each row; group by data, never by truth.

    confidence : float, optional
        Level of the interval of the coverage.

    Returns
    -------
    coverage : `ScoreTable`
        As `interval_coverage`, with a row for each group and level.

    Raises
    ------
    ValueError
        If a rank is not in [0, 1] or a level not in (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import rank_coverage
    >>> print(rank_coverage(np.linspace(0.0005, 0.9995, 1000))['level', 'coverage'])
    level coverage
    ----- --------
      0.5   0.5000
     0.68   0.6800
      0.9   0.9000
     0.95   0.9500
    """
    ranks = as_vector(ranks, 'ranks', within=(0, 1))
    levels = [check_fraction('levels', level) for level in np.atleast_1d(levels)]
    # Rounding must not exclude ranks that fall on an end, as 0.025 does for 95 %.
    hits = np.abs(ranks[:, np.newaxis] - 0.5) <= np.array(levels) / 2 + 1e-12
    return _coverage(hits, levels, groups, confidence)


def _coverage(hits, levels, groups, confidence):
    """Return the table of intervals (rows of ``hits``) that hold the truth."""
    labels, index = as_groups(groups, len(hits))
    n = np.bincount(index, minlength=len(labels))
    covered = [np.bincount(index[hit], minlength=len(labels)) for hit in hits.T]
    columns = {'group': np.repeat(labels, len(levels))}
    columns['level'] = np.tile(levels, len(labels))
    columns['n'] = np.repeat(n, len(levels))
    columns['n_covered'] = np.stack(covered, axis=1).ravel()
    n_covered = columns['n_covered']
    columns |= fraction_columns('coverage', n_covered, columns['n'], confidence)
    return make_table('coverage', columns)


def worst_coverage(coverage, weight=1.0):
    """Return the largest offset from nominal, and the 95 % limit of its size."""
    n = np.rint(coverage['n'] * weight).astype(int)
    filled = n > 0
    if not filled.any():
        return np.nan, np.nan
    n, share = n[filled], np.asarray(coverage['coverage'])[filled]
    level = np.asarray(coverage['level'])[filled]
    ends = wilson_interval(np.rint(share * n), n, level=0.95)
    offset = share - level
    return float(offset[np.abs(offset).argmax()]), float(np.abs(ends - level).max())


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


def sharpness(log_prob=None, *, width=None, bound=None, residuals=None, groups=None):
    """
    Sharpness of a posterior: mean log score, widths and residuals over the bound.

    Calibration alone proves little, as the prior is calibrated too: of two calibrated
    posteriors the sharper one contains more information. The log score joins both,
    and no posterior beats the exact one on average.

    Parameters
    ----------
    log_prob : 1D array_like or `None`, optional
        Log posterior density of the truth, in nats. -inf (a truth that was declared
        impossible) makes the mean -inf.

    width : 1D array_like, `~astropy.units.Quantity` or `None`, optional
        Stated 1 sigma errors, such as ``flux_err``.

    bound : 1D array_like, `~astropy.units.Quantity` or `None`, optional
        Smallest possible ones, from `cramer_rao_bound`; in the unit of ``width``.

    residuals : 1D array_like, `~astropy.units.Quantity` or `None`, optional
        Estimate minus truth, in the same unit.

    groups : 1D array_like or `None`, optional
        Label of each source, e.g. bins of estimated magnitude.

    Returns
    -------
    sharpness : `ScoreTable`
        A row per ``group`` of ``n`` sources: ``log_score``, the mean log density;
        ``width``, the mean of stated over smallest possible error; ``scatter``, the
        robust sigma of residual over smallest possible error; each with its standard
        error ``_err``. Columns of arguments that were not given are NaN.

    Raises
    ------
    ValueError
        If neither ``log_prob`` nor ``bound`` with ``width`` or ``residuals`` is given,
        ``bound`` is not positive, or lengths or units differ.

    Examples
    --------
    >>> from bliss_astro.metrics import sharpness
    >>> result = sharpness([-1.0, -3.0, -2.0], width=[1.1, 2.2, 3.3], bound=[1, 2, 3])
    >>> print(result['group', 'n', 'log_score', 'width'])
    group  n  log_score width
    ----- --- --------- ------
      all   3   -2.0000 1.1000
    """
    sound = (bound is None) == (width is None and residuals is None)
    allowed = 'be given with width or residuals, and only with them'
    require(sound, 'bound', allowed, f'{bound!r:.60}')
    some = log_prob is not None or bound is not None
    require(some, 'log_prob or bound', 'be given', 'neither')
    values, like = {}, None
    if log_prob is not None:
        values['log_score'] = as_vector(log_prob, 'log_prob', within=EVERYTHING)
        like = ('log_prob', values['log_score'])
    if bound is not None:
        unit = getattr(bound, 'unit', None)
        bound = as_vector(bound, 'bound', like=like, finite=True)
        like = ('bound', bound)
        require((bound > 0).all(), 'bound', 'be positive', bound.min(initial=1))
    given = (('width', 'width', width), ('scatter', 'residuals', residuals))
    for key, name, own in given:
        if own is None:
            continue
        values[key] = as_vector(own, name, like=like, finite=True, unit=unit) / bound
    labels, index = as_groups(groups, len(like[1]))
    columns = {'group': labels, 'n': np.bincount(index, minlength=len(labels))}
    for name in ('log_score', 'width', 'scatter'):
        own = values.get(name, np.empty(0))
        of_group = [own[index == k] if len(own) else own for k in range(len(labels))]
        summary = [mean_and_error(v, robust=name == 'scatter') for v in of_group]
        columns[name], columns[f'{name}_err'] = np.reshape(summary, (-1, 2)).T
    return make_table('sharpness', columns)
