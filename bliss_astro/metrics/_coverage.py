# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coverage of intervals, ranks of the truth, and sharpness of posteriors.
"""

import numpy as np

from bliss_astro._arguments import check_rng

from ._inputs import (
    as_groups,
    as_vector,
    check_fraction,
    check_values,
    fraction_columns,
    make_table,
    robust_sigma,
    strip_unit,
)

LEVELS = (0.5, 0.68, 0.9, 0.95)
"""Nominal levels of intervals whose coverage is computed by default."""

# Standard error of the robust sigma of n Gaussian numbers, times sqrt(n) / sigma.
_ROBUST_ERROR = 1.1664


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
    if samples.ndim != 2 or len(samples) != len(truth) or not samples.shape[1]:
        msg = (
            f'samples must have the shape ({len(truth)}, n_samples), '
            f'got {samples.shape}'
        )
        raise ValueError(msg)
    check_values(samples, 'samples')
    below = (samples < truth[:, np.newaxis]).sum(axis=1)
    ties = (samples == truth[:, np.newaxis]).sum(axis=1)
    share = check_rng(rng).uniform(size=len(truth)) * (ties + 1)
    return (below + share) / (samples.shape[1] + 1)


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
    truth, unit = strip_unit(truth, 'truth')
    options = {'within': (-np.inf, np.inf)}
    truth = as_vector(truth, 'truth', **options)
    options |= {'like': ('truth', truth), 'unit': unit}
    lower = as_vector(lower, 'lower', **options)
    upper = as_vector(upper, 'upper', **options)
    if (lower > upper).any():
        msg = f'lower must not exceed upper, got {(lower > upper).sum()} such rows'
        raise ValueError(msg)
    level = np.nan if level is None else check_fraction(level, 'level')
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
    levels = [check_fraction(level, 'levels') for level in np.atleast_1d(levels)]
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
    if (bound is None) != (width is None and residuals is None):
        msg = 'bound must be given with width or residuals, and only with them'
        raise ValueError(msg)
    if log_prob is None and bound is None:
        msg = 'log_prob or bound must be given'
        raise ValueError(msg)
    values, like = {}, None
    if log_prob is not None:
        no_nan = (-np.inf, np.inf)
        values['log_score'] = as_vector(log_prob, 'log_prob', within=no_nan)
        like = ('log_prob', values['log_score'])
    if bound is not None:
        bound, unit = strip_unit(bound, 'bound')
        bound = as_vector(bound, 'bound', like=like, finite=True)
        like = ('bound', bound)
        if not (bound > 0).all():
            msg = f'bound must be positive, got {bound.min()}'
            raise ValueError(msg)
    given = {'width': ('width', width), 'scatter': ('residuals', residuals)}
    for key, (name, own) in given.items():
        if own is None:
            continue
        if unit is None and getattr(own, 'unit', None) is not None:
            msg = f'{name} has the unit {own.unit}, but bound has none'
            raise ValueError(msg)
        values[key] = as_vector(own, name, like=like, finite=True, unit=unit) / bound
    labels, index = as_groups(groups, len(like[1]))
    columns = {'group': labels, 'n': np.bincount(index, minlength=len(labels))}
    for name in ('log_score', 'width', 'scatter'):
        own = values.get(name, np.empty(0))
        of_group = [own[index == k] if len(own) else own for k in range(len(labels))]
        summary = [_summarize(v, robust=name == 'scatter') for v in of_group]
        columns[name], columns[f'{name}_err'] = np.reshape(summary, (-1, 2)).T
    return make_table('sharpness', columns)


def _summarize(values, *, robust):
    """Return mean or robust sigma with its standard error; NaN of too few values."""
    n = len(values)
    if not n:
        return np.nan, np.nan
    if robust:
        sigma = robust_sigma(values)
        return sigma, _ROBUST_ERROR * sigma / np.sqrt(n)
    with np.errstate(invalid='ignore'):
        return values.mean(), values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
