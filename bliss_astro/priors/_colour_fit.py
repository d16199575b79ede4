# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit of the prior of colours: extreme deconvolution of a catalogue of several bands.
"""

import math

import numpy as np

from bliss_astro._arguments import check_rng, must
from bliss_astro.units import NANOMAGGY_ZERO_POINT

from ._numbers import float_column, need_columns

# Natural logarithm of the flux ratio of one magnitude.
LOG_PER_MAGNITUDE = 0.4 * math.log(10)
# Extinction over E(B-V) in u, g, r, i, z and y (Schlafly & Finkbeiner 2011, ApJ 737,
# 103, table 6, R_V = 3.1).
_EXTINCTION = np.array([4.239, 3.303, 2.285, 1.698, 1.263, 1.088])
# Width of bins of equal weight in magnitudes, and sources of a bin of full weight.
_BIN_WIDTH, _FULL_BIN = 0.5, 30
# Least standard deviation of a component along any axis, in log flux.
_LEAST_WIDTH = 0.02
# Fewest sources per component.
_N_MIN = 10
# Widths of the outliers' components of stars and galaxies over that of all sources,
# and more, in log flux. Wide ones dominate in bands other than r if counts are steep.
_OUTLIER_WIDTHS, _OUTLIER_MORE = (2.5, 1.5), 0.3


def fit_colours(
    table,
    matrix,
    *,
    n_components=8,
    outlier_fraction=0.02,
    reddening=0.03,
    slopes=(0.15, 0.4),
    magnitude_range=(13.0, 26.0),
    n_iterations=100,
    rng=0,
):
    """
    Log weights, means and factors of the mixtures of stars and of galaxies.

    The columns ``mag_KEY`` are, in log flux, ``matrix[KEY]`` times the coordinates.
    """
    keys = list(matrix)
    need_columns(table, [f'mag_{key}' for key in keys] + ['is_galaxy'])
    mag = np.stack([float_column(table, f'mag_{key}') for key in keys], -1)
    error = np.stack(
        [
            float_column(table, f'mag_{key}_err')
            if f'mag_{key}_err' in table.colnames
            else np.full(len(table), 0.02)
            for key in keys
        ],
        -1,
    )
    weight = float_column(table, 'weight') if 'weight' in table.colnames else None
    weight = np.ones(len(table)) if weight is None else weight
    is_galaxy = float_column(table, 'is_galaxy') > 0
    rows = np.stack([matrix[key] for key in keys])
    flux = LOG_PER_MAGNITUDE * (NANOMAGGY_ZERO_POINT - mag)
    error = LOG_PER_MAGNITUDE * error
    ends = [LOG_PER_MAGNITUDE * (NANOMAGGY_ZERO_POINT - m) for m in magnitude_range]
    rng = check_rng(rng)
    parts = []
    groups = ('stars', 'galaxies'), (~is_galaxy, is_galaxy), slopes, _OUTLIER_WIDTHS
    for name, chosen, slope, wide in zip(*groups, strict=True):
        data = _Data(flux[chosen], error[chosen], weight[chosen], rows, ends)
        if len(data.flux) < _N_MIN * n_components:
            allowed = f'hold at least {_N_MIN * n_components} {name} for a fit'
            raise ValueError(must('table', allowed, len(data.flux)))
        mixture = _deconvolve(
            data, n_components, (outlier_fraction, wide), n_iterations, rng
        )
        parts.append(_finish(*mixture, reddening, 2.5 * slope))
    return parts


def _finish(weight, mean, cov, reddening, slope):
    """Add reddening, and weigh magnitudes by the slope of the counts; round."""
    red = -LOG_PER_MAGNITUDE * (_EXTINCTION - _EXTINCTION[2])
    red = reddening * np.append(0, np.delete(red, 2))
    cov = cov + np.outer(red, red)
    # A Gaussian times an exponential is a Gaussian.
    log_weight = np.log(weight) - slope * mean[:, 0] + 0.5 * slope**2 * cov[:, 0, 0]
    mean = mean - slope * cov[:, :, 0]
    log_weight -= log_weight.max() + np.log(np.exp(log_weight - log_weight.max()).sum())
    factor = np.linalg.cholesky(cov)
    rows, columns = np.tril_indices(mean.shape[1])
    return (
        log_weight.round(3).tolist(),
        mean.round(3).tolist(),
        factor[:, rows, columns].round(4).tolist(),
    )


class _Data:
    """Sources with a magnitude in range: groups that lack the same bands."""

    def __init__(self, flux, error, weight, rows, ends):
        good = np.isfinite(flux) & np.isfinite(error) & (error > 0)
        # Log flux in r, or in what is nearest to it.
        near = np.abs(rows[:, 1:]).sum(-1)
        order = np.argsort(near)
        first = order[good[:, order].argmax(-1)]
        level = flux[np.arange(len(flux)), first]
        keep = good.any(-1) & (level <= ends[0]) & (level >= ends[1]) & (weight > 0)
        keep &= good.sum(-1) > 1
        self.flux, self.error, level = flux[keep], error[keep], level[keep]
        self.good, self.rows = good[keep], rows
        place = ((level - ends[1]) / LOG_PER_MAGNITUDE / _BIN_WIDTH).astype(int)
        weight = weight[keep]
        total = np.bincount(place, weight)
        full = np.minimum(np.bincount(place) / _FULL_BIN, 1)
        weight = weight * (full / np.maximum(total, 1e-30))[place]
        self.weight = weight * len(weight) / max(weight.sum(), 1e-30)
        patterns, group = np.unique(self.good, axis=0, return_inverse=True)
        self.groups = [
            (pattern, np.flatnonzero(group.ravel() == k))
            for k, pattern in enumerate(patterns)
        ]


def _deconvolve(data, n_components, outliers, n_iterations, rng):
    """Weights, means and covariances by expectation maximisation with known errors."""
    dim, (outlier_fraction, width) = data.rows.shape[1], outliers
    # One Gaussian first: what it predicts of bands that are missing is where to start.
    one = np.ones(1), np.zeros((1, dim)), np.eye(dim)[None]
    for _ in range(n_iterations):
        one = _maximise(*_moments(data, *one)[0])
    start = _moments(data, *one)[1][:, 0]
    _, average, whole = one
    share = data.weight / data.weight.sum()
    mean = start[rng.choice(len(start), n_components, replace=False, p=share)]
    cov = np.repeat(whole / 4, n_components, 0)
    weight = np.full(n_components, (1 - outlier_fraction) / n_components)
    wide = width**2 * whole + _OUTLIER_MORE**2 * np.eye(dim)
    mixture, outliers = (weight, mean, cov), ([outlier_fraction], average, wide)
    for _ in range(n_iterations):
        sums = _moments(data, *map(np.concatenate, zip(mixture, outliers, strict=True)))
        weight, mean, cov = _maximise(*(value[:-1] for value in sums[0]))
        mixture = (1 - outlier_fraction) * weight, mean, cov
    return list(map(np.concatenate, zip(mixture, outliers, strict=True)))


def _maximise(total, first, second):
    """Weights, means and covariances of largest expected likelihood."""
    mean = first / total[:, None]
    cov = second / total[:, None, None] - mean[:, :, None] * mean[:, None]
    # Simulated loci have no width at all.
    value, vector = np.linalg.eigh(cov)
    value = value.clip(min=_LEAST_WIDTH**2)[:, None]
    return total / total.sum(), mean, vector * value @ vector.transpose(0, 2, 1)


def _moments(data, weight, mean, cov):
    """
    Sums of responsibilities, of expected values and of their squares; the values.
    """
    k, dim = mean.shape
    total, first, second = np.zeros(k), np.zeros((k, dim)), np.zeros((k, dim, dim))
    values = np.empty((len(data.flux), k, dim))
    for pattern, index in data.groups:
        rows = data.rows[pattern]
        noise = data.error[index][:, pattern] ** 2
        across = cov @ rows.T
        inner = (rows @ across)[None] + np.eye(len(rows)) * noise[:, None, None, :]
        away = data.flux[index][:, None, pattern] - mean @ rows.T
        inverse = np.linalg.inv(inner)
        solved = np.einsum('nkab,nkb->nka', inverse, away)
        size = np.linalg.slogdet(inner)[1]
        log_p = np.log(weight) - 0.5 * (size + (away * solved).sum(-1))
        log_p -= log_p.max(-1, keepdims=True)
        share = np.exp(log_p)
        share *= (data.weight[index] / share.sum(-1))[:, None]
        value = mean + np.einsum('kda,nka->nkd', across, solved)
        values[index] = value
        rest = np.einsum('nk,nkab->kab', share, inverse)
        total += share.sum(0)
        first += np.einsum('nk,nkd->kd', share, value)
        scaled = (share[..., None] * value).transpose(1, 2, 0)
        second += scaled @ value.transpose(1, 0, 2)
        second += share.sum(0)[:, None, None] * cov
        second -= across @ rest @ across.transpose(0, 2, 1)
    return (total, first, second), values
