# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Residuals of matched sources: flux, position, pulls, and their summaries in bins.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from ._inputs import as_edges, as_vector, bin_index, strip_unit
from ._matching import _positions

__all__ = [
    'ResidualSummary',
    'flux_residuals',
    'mean_absolute_percentage_error',
    'position_residuals',
    'pulls',
    'robust_sigma',
    'summarize_residuals',
]

_MAD_TO_SIGMA = 1.482602218505602  # 1 / Phi^-1(3/4)


def _pick(estimated, truth, match, name):
    """
    Rows of two vectors that belong together, units reconciled and taken off.
    """
    estimated, unit = strip_unit(estimated, f'estimated {name}')
    if unit is None and getattr(truth, 'unit', None) is not None:
        msg = f'true {name} has a unit, but estimated {name} has none'
        raise ValueError(msg)
    truth, _ = strip_unit(truth, f'true {name}', like=unit)
    if match is None:
        if estimated.shape != truth.shape:
            msg = (
                f'estimated and true {name} must have the same shape without match, '
                f'got {estimated.shape} and {truth.shape}'
            )
            raise ValueError(msg)
        return estimated, truth
    for values, n, side in (
        (estimated, match.n_estimated, 'estimated'),
        (truth, match.n_truth, 'true'),
    ):
        if values.shape[:1] != (n,):
            msg = f'{side} {name} has the shape {values.shape}, but match has {n} rows'
            raise ValueError(msg)
    return estimated[match.estimated_index], truth[match.truth_index]


def flux_residuals(estimated_flux, true_flux, *, match=None, relative=True):
    """
    Flux residuals, (estimated - true) / true.

    Parameters
    ----------
    estimated_flux, true_flux : 1D array_like or `~astropy.units.Quantity`
        Fluxes; both carry a unit or none does.

    match : `CatalogMatch` or `None`, optional
        Which rows belong together. By default row k with row k.

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
        The positions, as in `match_catalogs`.

    match : `CatalogMatch` or `None`, optional
        Which rows belong together. By default row k with row k.

    Returns
    -------
    residuals : (n, 2) `~numpy.ndarray`
        dx and dy of each pair.
    """
    estimated = _positions(estimated, 'estimated')
    truth = _positions(truth, 'truth')
    estimated, truth = _pick(estimated, truth, match, 'positions')
    return estimated - truth


def pulls(estimated, reference, *, estimated_err, reference_err=0.0, match=None):
    """
    Differences in units of their errors, (a - b) / sqrt(a_err^2 + b_err^2).

    For honest errors the pulls have a robust sigma of 1.

    Parameters
    ----------
    estimated, reference : 1D array_like or `~astropy.units.Quantity`
        The two measurements.

    estimated_err, reference_err : array_like or `~astropy.units.Quantity`, optional
        Their 1 sigma errors, per row or one for all. The error of a truth is 0.

    match : `CatalogMatch` or `None`, optional
        Which rows belong together. By default row k with row k.

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
    a_err, b_err = _pick(*errors, match, 'errors')
    width = np.hypot(a_err, b_err)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(width > 0, (a - b) / width, np.nan)


def robust_sigma(values, *, axis=None):
    """
    Standard deviation estimated from the median absolute deviation.

    Parameters
    ----------
    values : array_like
        The values; NaN are ignored.

    axis : int or `None`, optional
        The axis along which to compute.

    Returns
    -------
    sigma : float or `~numpy.ndarray`
        1.4826 times the median absolute deviation from the median; NaN if empty.
    """
    values, _ = strip_unit(values, 'values')
    if values.size == 0:
        return np.nan
    centre = np.nanmedian(values, axis=axis, keepdims=True)
    return _MAD_TO_SIGMA * np.nanmedian(np.abs(values - centre), axis=axis)


def mean_absolute_percentage_error(estimated, truth, *, match=None):
    """
    100 / n times the sum of abs(estimated - true) / abs(true).

    Parameters
    ----------
    estimated, truth : 1D array_like or `~astropy.units.Quantity`
        The values.

    match : `CatalogMatch` or `None`, optional
        Which rows belong together. By default row k with row k.

    Returns
    -------
    error : float
        In percent; NaN without pairs.
    """
    residuals = np.abs(flux_residuals(estimated, truth, match=match))
    return 100 * float(residuals.mean()) if len(residuals) else np.nan


@dataclass(frozen=True, eq=False)
class ResidualSummary:
    """
    Residuals summarised in bins.

    Attributes
    ----------
    bins : (n + 1,) `~numpy.ndarray`
        The bin edges.

    quantity : str
        What the bins are bins of.

    n : (n,) `~numpy.ndarray`
        The number of residuals.

    median, median_err : (n,) `~numpy.ndarray`
        The median and its standard error, robust sigma x sqrt(pi / 2n).

    q25, q75 : (n,) `~numpy.ndarray`
        The quartiles.

    robust_sigma : (n,) `~numpy.ndarray`
        1.4826 times the median absolute deviation.
    """

    bins: np.ndarray
    quantity: str
    n: np.ndarray
    median: np.ndarray
    median_err: np.ndarray
    q25: np.ndarray
    q75: np.ndarray
    robust_sigma: np.ndarray

    def to_table(self):
        """
        Return the summary as a table with a row per bin.

        Returns
        -------
        table : `~astropy.table.QTable`
            ``low`` and ``high`` are the bin edges.
        """
        table = QTable({'low': self.bins[:-1], 'high': self.bins[1:], 'n': self.n})
        for name in ('median', 'median_err', 'q25', 'q75', 'robust_sigma'):
            table[name] = getattr(self, name)
            table[name].info.format = '.4f'
        table.meta['quantity'] = self.quantity
        return table

    def __repr__(self):
        lines = self.to_table().pformat()
        return '\n'.join([f'<ResidualSummary by {self.quantity}>', *lines])


def summarize_residuals(residuals, bins=None, *, by=None, quantity='magnitude'):
    """
    Median, quartiles and robust sigma of residuals, in bins.

    Parameters
    ----------
    residuals : 1D array_like
        The residuals; NaN are left out.

    bins : 1D array_like or `None`, optional
        Increasing edges of ``by``; bins are half-open, the last one closed. `None`
        is one bin of everything.

    by : 1D array_like or `None`, optional
        The value of each residual's source that decides its bin. A calibrated
        posterior is unbiased in bins of the ESTIMATED value, not of the true one.

    quantity : str, optional
        The name of ``by``, for tables and plots.

    Returns
    -------
    summary : `ResidualSummary`
        NaN in empty bins.

    Examples
    --------
    >>> from bliss_astro.metrics import summarize_residuals
    >>> summary = summarize_residuals([0.1, 0.0, -0.1, 0.4], [0, 1, 2],
    ...                               by=[0.5, 0.6, 0.7, 1.5])
    >>> summary.median
    array([0. , 0.4])
    """
    residuals = as_vector(residuals, 'residuals')
    edges = as_edges(bins)
    if bins is not None and by is None:
        msg = 'bins needs by, the value of each residual that decides its bin'
        raise ValueError(msg)
    if by is None:
        index = np.zeros(len(residuals), dtype=int)
    else:
        by = as_vector(by, 'by', n=len(residuals), n_name='residuals')
        index = bin_index(by, edges)
    index = np.where(np.isnan(residuals), -1, index)
    n_bins = len(edges) - 1
    quartiles = np.full((3, n_bins), np.nan)
    sigma = np.full(n_bins, np.nan)
    n = np.bincount(index[index >= 0], minlength=n_bins)
    for k in np.flatnonzero(n):
        chosen = residuals[index == k]
        quartiles[:, k] = np.quantile(chosen, [0.25, 0.5, 0.75])
        sigma[k] = robust_sigma(chosen)
    return ResidualSummary(
        bins=edges,
        quantity=quantity,
        n=n,
        median=quartiles[1],
        median_err=sigma * np.sqrt(np.pi / 2 / np.maximum(n, 1)),
        q25=quartiles[0],
        q75=quartiles[2],
        robust_sigma=sigma,
    )
