# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Residuals of matched sources: flux, position, pulls, and their summaries in bins.
"""

import numpy as np

from ._inputs import (
    as_edges,
    as_vector,
    bin_index,
    make_table,
    robust_sigma,
    strip_unit,
)
from ._matching import as_positions


def _pick(estimated, truth, match, name):
    """Return rows that belong together, units reconciled and taken off."""
    estimated, unit = strip_unit(estimated, f'estimated {name}')
    if unit is None and getattr(truth, 'unit', None) is not None:
        msg = f'true {name} has a unit, but estimated {name} has none'
        raise ValueError(msg)
    truth, _ = strip_unit(truth, f'true {name}', like=unit)
    if match is not None:
        return match.pairs(estimated, truth)
    if estimated.shape != truth.shape:
        msg = (
            f'estimated and true {name} must have the same shape without match, '
            f'got {estimated.shape} and {truth.shape}'
        )
        raise ValueError(msg)
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
        error, _ = strip_unit(error, name, like=None if plain else unit)
        if error.shape not in ((), np.shape(values)):
            msg = f'{name} has the shape {error.shape}, the values {np.shape(values)}'
            raise ValueError(msg)
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
    edges = as_edges(bins)
    index = np.zeros(len(residuals), dtype=int)
    if by is not None:
        index = bin_index(as_vector(by, 'by', like=('residuals', residuals)), edges)
    elif bins is not None:
        msg = 'bins needs by, the value of each residual that decides its bin'
        raise ValueError(msg)
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
