# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Residuals of fluxes and positions, pulls, summaries in bins, and calibration of counts.
"""

import numpy as np
from scipy.special import ndtr, stdtr
from scipy.stats import kstest

from bliss_astro._arguments import check_integer, require

from ._inputs import (
    ANY_UNIT,
    as_edges,
    as_vector,
    bin_index,
    bin_rows,
    check_maps,
    make_table,
    robust_sigma,
    strip_unit,
)
from ._matching import as_positions


def _pick(estimated, truth, match, name):
    """Return rows that belong together, units reconciled and taken off."""
    estimated, unit = strip_unit(estimated, f'estimated {name}')
    truth, _ = strip_unit(truth, f'true {name}', like=unit)
    if match is not None:
        return match.pairs(estimated, truth)
    allowed = f'have the shape of the true without match, {truth.shape}'
    sound = estimated.shape == truth.shape
    require(sound, f'estimated {name}', allowed, estimated.shape)
    return estimated, truth


def flux_residuals(estimated_flux, true_flux, *, match=None, relative=True):
    """
    Flux residuals, (estimated - true) / true.

    Parameters
    ----------
    estimated_flux, true_flux : 1D array_like or `~astropy.units.Quantity`
        Fluxes; both carry a unit or none does.

    match : `CatalogMatch` or `None`, optional
        Pairs of rows. By default row k belongs to row k.

    relative : bool, optional
        Whether to divide by the true flux. Otherwise the result is in the unit of
        ``estimated_flux``, which is left off.

    Returns
    -------
    residuals : 1D `~numpy.ndarray`
        One value per pair; NaN where the true flux is 0.

    Examples
    --------
    >>> from bliss_astro.metrics import flux_residuals
    >>> flux_residuals([102.0, 45.0], [100.0, 50.0])
    array([ 0.02, -0.1 ])
    """
    estimated, truth = _pick(estimated_flux, true_flux, match, 'flux')
    residual = estimated - truth
    if not relative:
        return residual
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(truth == 0, np.nan, residual / truth)


def position_residuals(estimated, truth, *, match=None):
    """
    Position residuals in pixels, estimated - true.

    Parameters
    ----------
    estimated, truth : table, (n, 2) array_like or tuple (x, y)
        Positions, as in `match_catalogs`.

    match : `CatalogMatch` or `None`, optional
        Pairs of rows. By default row k belongs to row k.

    Returns
    -------
    residuals : (n, 2) `~numpy.ndarray`
        dx and dy of each pair.
    """
    positions = as_positions(estimated, 'estimated'), as_positions(truth, 'truth')
    estimated, truth = _pick(*positions, match, 'positions')
    return estimated - truth


def pulls(estimated, reference, *, estimated_err, reference_err=0.0, match=None):
    """
    Differences in units of their errors, (a - b) / sqrt(a_err^2 + b_err^2).

    Pulls of calibrated Gaussian errors have the standard deviation 1; compare with
    `astropy.stats.mad_std`.

    Parameters
    ----------
    estimated, reference : 1D array_like or `~astropy.units.Quantity`
        Two measurements.

    estimated_err, reference_err : array_like or `~astropy.units.Quantity`, optional
        Their 1 sigma errors, per row or one for all. The error of a truth is 0.

    match : `CatalogMatch` or `None`, optional
        Pairs of rows. By default row k belongs to row k.

    Returns
    -------
    pulls : 1D `~numpy.ndarray`
        One value per pair; NaN where the error is not positive.
    """
    unit = getattr(estimated, 'unit', None)
    errors = []
    for error, values, name in (
        (estimated_err, estimated, 'estimated_err'),
        (reference_err, reference, 'reference_err'),
    ):
        plain = np.isscalar(error) and error == 0
        error, _ = strip_unit(error, name, like=ANY_UNIT if plain else unit)
        check_maps(np.shape(values), **{name: error})
        errors.append(np.broadcast_to(error, np.shape(values)))
    a, b = _pick(estimated, reference, match, 'values')
    width = np.hypot(*_pick(*errors, match, 'errors'))
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(width > 0, (a - b) / width, np.nan)


def summarize_residuals(residuals, bins=None, *, by=None, quantity='magnitude'):
    """
    Median, quartiles and robust standard deviation of residuals, in bins.

    Parameters
    ----------
    residuals : 1D array_like
        Residuals; NaN are left out.

    bins : 1D array_like or `None`, optional
        Increasing edges of ``by``; bins are half-open, the last one closed. `None`
        is one bin of everything.

    by : 1D array_like or `None`, optional
        Value of each residual's source that decides its bin. A calibrated
        posterior is unbiased in bins of the ESTIMATED value, not of the true one.

    quantity : str, optional
        Name of ``by``, for tables and plots.

    Returns
    -------
    summary : `ScoreTable`
        A row per bin ``low`` to ``high``: the number ``n``; ``median`` and its
        standard error ``median_err`` (robust sigma times sqrt(pi / 2n)); the quartiles
        ``q25`` and ``q75``; ``robust_sigma``, 1.4826 times the median absolute
        deviation. NaN in empty bins.

    Raises
    ------
    ValueError
        If lengths differ, or there are ``bins`` without ``by``.

    Examples
    --------
    >>> from bliss_astro.metrics import summarize_residuals
    >>> summary = summarize_residuals([0.1, 0.0, -0.1, 0.4], [0, 1, 2],
    ...                               by=[0.5, 0.6, 0.7, 1.5])
    >>> print(summary['low', 'high', 'n', 'median'])
    low high  n  median
    --- ---- --- ------
    0.0  1.0   3 0.0000
    1.0  2.0   1 0.4000
    """
    residuals = as_vector(residuals, 'residuals')
    edges, index = bin_rows(by, 'by', bins, like=('residuals', residuals))
    index = np.where(np.isnan(residuals), -1, index)
    parts = [residuals[index == k] for k in range(len(edges) - 1)]
    n = np.array([len(part) for part in parts])
    quartiles = [
        np.quantile(part, [0.25, 0.5, 0.75]) if len(part) else np.full(3, np.nan)
        for part in parts
    ]
    q25, median, q75 = np.transpose(quartiles)
    sigma = np.array([robust_sigma(part) for part in parts])
    error = sigma * np.sqrt(np.pi / 2 / np.maximum(n, 1))
    columns = {'low': edges[:-1], 'high': edges[1:], 'n': n, 'median': median}
    columns |= {'median_err': error, 'q25': q25, 'q75': q75, 'robust_sigma': sigma}
    return make_table('residuals', columns, quantity=quantity)


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
        levels = np.linspace(0, 1, check_integer('n_bins', n_bins, 1) + 1)
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
