# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The flux at which half, or nine tenths, of the sources are found.
"""

import numpy as np

__all__ = ['binomial_interval', 'recall_limits']

# Resamplings that make the errors of limits.
_N_BOOTSTRAP = 100
# The fewest sources that a curve is fitted to.
_FEWEST = 20


def binomial_interval(n_success, n_total):
    """
    Confidence interval of 68.3 % of a binomial fraction (Wilson 1927).

    Parameters
    ----------
    n_success, n_total : int array_like
        Numbers.

    Returns
    -------
    low, high : float `~numpy.ndarray`
        Limits; NaN where there are none.
    """
    k, n = np.asarray(n_success, dtype=float), np.asarray(n_total, dtype=float)
    with np.errstate(invalid='ignore', divide='ignore'):
        share = k / n
        middle = (share + 0.5 / n) / (1 + 1 / n)
        half = np.sqrt(share * (1 - share) / n + 0.25 / n**2) / (1 + 1 / n)
    # At the ends they meet the share, but for rounding.
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)


def _fit(z, found, start):
    from scipy.optimize import minimize

    def loss(parameters):
        middle, log_width, plateau = parameters
        height = 1 / (1 + np.exp(-plateau))
        scaled = (z - middle) * np.exp(-log_width)
        rise = 1 / (1 + np.exp(-np.clip(scaled, -40, 40)))
        share = np.clip(height * rise, 1e-9, 1 - 1e-9)
        value = -np.sum(np.where(found, np.log(share), np.log1p(-share)))
        # Of the share, then of the parameters.
        slope = np.where(found, -1 / share, 1 / (1 - share)) * height * rise
        fall = slope * (1 - rise)
        gradient = np.array(
            [
                -np.sum(fall) * np.exp(-log_width),
                -np.sum(fall * scaled),
                np.sum(slope) * (1 - height),
            ]
        )
        # Widths and plateaus that no data would tell are kept sane.
        away = np.array([0.0, 0.1 * (log_width + 1.5), 0.04 * (plateau - 4)])
        ridge = 0.05 * (log_width + 1.5) ** 2 + 0.02 * (plateau - 4) ** 2
        return value + ridge, gradient + away

    bounds = [(z.min() - 3, z.max() + 3), (-6.0, 3.0), (-4.0, 12.0)]
    return minimize(loss, start, jac=True, method='L-BFGS-B', bounds=bounds).x


def _crossing(parameters, level):
    """Logarithm of the flux at which a share is found; NaN if it never is."""
    middle, log_width, plateau = parameters
    height = 1 / (1 + np.exp(-plateau))
    if height <= level:
        return np.nan
    return middle - np.exp(log_width) * np.log(height / level - 1)


def recall_limits(flux, found, levels, rng):
    """
    Fluxes at which given shares of the sources are found.

    Parameters
    ----------
    flux : float `~numpy.ndarray`, shape (N,)
        Of sources, positive.

    found : bool `~numpy.ndarray`, shape (N,)
        Which of them were found.

    levels : sequence of float
        Shares.

    rng : `numpy.random.Generator`
        For the errors, which are those of resampled sources.

    Returns
    -------
    limits, errors : float `~numpy.ndarray`, shape (len(levels),)
        Natural logarithms of the fluxes, and their standard errors; NaN where the
        share lies outside what was put in.
    """
    limits, errors = np.full(len(levels), np.nan), np.full(len(levels), np.nan)
    if len(flux) < _FEWEST or found.all() or not found.any():
        return limits, errors
    z = np.log(flux)
    best = _fit(z, found, (np.median(z), -1.5, 4.0))
    drawn = []
    for _ in range(_N_BOOTSTRAP):
        pick = rng.integers(len(z), size=len(z))
        drawn.append(_fit(z[pick], found[pick], best))
    for k, level in enumerate(levels):
        value = _crossing(best, level)
        if z.min() <= value <= z.max():
            others = np.array([_crossing(parameters, level) for parameters in drawn])
            limits[k] = value
            low, high = np.nanpercentile(others, [15.87, 84.13])
            errors[k] = 0.5 * (high - low)
    return limits, errors
