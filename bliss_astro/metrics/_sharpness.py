# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Is a posterior sharp: its log score, and its widths against what is possible.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from ._coverage import mean_log_score
from ._inputs import as_groups, as_vector, strip_unit
from ._residuals import robust_sigma

__all__ = ['Sharpness', 'sharpness']

# Standard error of the robust sigma of n Gaussian numbers, times sqrt(n) / sigma.
_ROBUST_ERROR = 1.1664


@dataclass(frozen=True, eq=False)
class Sharpness:
    """
    How much a posterior says, by group.

    Attributes
    ----------
    labels : (n_groups,) `~numpy.ndarray`
        The names of the groups.

    n : (n_groups,) `~numpy.ndarray`
        The number of sources.

    log_score, log_score_err : (n_groups,) `~numpy.ndarray`
        The mean log density of the truth in nats, and its standard error.

    width, width_err : (n_groups,) `~numpy.ndarray`
        The mean of stated error over smallest possible one, and its standard error.

    scatter, scatter_err : (n_groups,) `~numpy.ndarray`
        The robust sigma of residual over smallest possible error, likewise.

    Notes
    -----
    What was not given is NaN.
    """

    labels: np.ndarray
    n: np.ndarray
    log_score: np.ndarray
    log_score_err: np.ndarray
    width: np.ndarray
    width_err: np.ndarray
    scatter: np.ndarray
    scatter_err: np.ndarray

    def to_table(self):
        """
        Return the numbers as a table with a row per group.

        Returns
        -------
        table : `~astropy.table.QTable`
            The attributes as columns.
        """
        table = QTable({'group': self.labels, 'n': self.n})
        for name in ('log_score', 'width', 'scatter'):
            for column in (name, f'{name}_err'):
                table[column] = getattr(self, column)
                table[column].info.format = '.4f'
        return table

    def __repr__(self):
        return '\n'.join(['<Sharpness>', *self.to_table().pformat()])


def sharpness(*, log_prob=None, width=None, bound=None, residuals=None, groups=None):
    """
    Mean log score, and widths and residuals against the Cramer-Rao bound.

    Calibration alone proves little: the prior is calibrated too. Of two posteriors
    that are, the sharper one has learned more.

    Parameters
    ----------
    log_prob : 1D array_like or `None`, optional
        The log posterior density of the truth, see `mean_log_score`.

    width : 1D array_like, `~astropy.units.Quantity` or `None`, optional
        The stated 1 sigma errors, such as ``flux_err``.

    bound : 1D array_like, `~astropy.units.Quantity` or `None`, optional
        The smallest possible ones, from `cramer_rao_bound`; in the unit of ``width``.

    residuals : 1D array_like, `~astropy.units.Quantity` or `None`, optional
        Estimate minus truth, in the same unit.

    groups : 1D array_like or `None`, optional
        A label per source, e.g. bins of estimated magnitude.

    Returns
    -------
    sharpness : `Sharpness`
        Means with their errors.

    Examples
    --------
    >>> from bliss_astro.metrics import sharpness
    >>> sharpness(width=[1.1, 2.2, 3.3], bound=[1.0, 2.0, 3.0]).width
    array([1.1])
    """
    if (width is not None or residuals is not None) and bound is None:
        msg = 'bound must be given with width or residuals'
        raise ValueError(msg)
    if bound is not None and width is None and residuals is None:
        msg = 'bound needs width, residuals or both'
        raise ValueError(msg)
    given = next((v for v in (log_prob, bound) if v is not None), None)
    if given is None:
        msg = 'log_prob or bound must be given'
        raise ValueError(msg)
    n = len(np.atleast_1d(np.asarray(given)))
    labels, index = as_groups(groups, n)
    columns = {}
    nothing = np.full(len(labels), np.nan)
    for name in ('log_score', 'width', 'scatter'):
        columns |= {name: nothing.copy(), f'{name}_err': nothing.copy()}
    if log_prob is not None:
        score = mean_log_score(log_prob, groups=groups)
        columns |= {'log_score': score.mean, 'log_score_err': score.mean_err}
    ratios = _ratios({'width': width, 'residuals': residuals}, bound, n)
    for k in range(len(labels)):
        if 'width' in ratios:
            values = ratios['width'][index == k]
            if len(values):
                columns['width'][k] = values.mean()
            if len(values) > 1:
                columns['width_err'][k] = values.std(ddof=1) / np.sqrt(len(values))
        if 'residuals' in ratios:
            values = ratios['residuals'][index == k]
            sigma = robust_sigma(values)
            columns['scatter'][k] = sigma
            error = _ROBUST_ERROR * sigma / np.sqrt(max(len(values), 1))
            columns['scatter_err'][k] = error
    n = np.bincount(index, minlength=len(labels))
    return Sharpness(labels=labels, n=n, **columns)


def _ratios(values, bound, n):
    """
    Widths and residuals over the bound.
    """
    if bound is None:
        return {}
    bound, unit = strip_unit(bound, 'bound')
    bound = as_vector(bound, 'bound', n=n, n_name='log_prob', finite=True)
    if not (bound > 0).all():
        msg = f'bound must be positive, got {bound.min()}'
        raise ValueError(msg)
    ratios = {}
    for name, own in values.items():
        if own is None:
            continue
        own, own_unit = strip_unit(own, name, like=unit)
        if own_unit is not None and unit is None:
            msg = f'{name} has the unit {own_unit}, but bound has none'
            raise ValueError(msg)
        own = as_vector(own, name, n=n, n_name='bound', finite=True)
        ratios[name] = own / bound
    return ratios
