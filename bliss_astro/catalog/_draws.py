# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Summaries of draws: medians, errors and quantiles of columns, directions among them.
"""

import astropy.units as u
import numpy as np

from bliss_astro.posteriors._source_parameters import after_flux

from ._build import convert_column
from ._columns import COLUMNS, is_direction
from ._shared_light import SIGMA_QUANTILES

# Rows whose draws are sorted at once.
_PIECE = 1024


def columns_after_flux(entries):
    """
    Columns of what follows the flux, in the order of tables.

    Each has the name of its parameter and the index of its number there. The latent
    numbers of a learned model mean nothing by themselves, and have none.
    """
    places = {
        name: (entry.name, k)
        for entry in after_flux(entries)
        for k, name in enumerate(entry.column_names)
    }
    return {name: places[name] for name in COLUMNS if name in places}


def in_range(name, values, binning=1):
    """Degrees for radians, pixels for joined ones, and no ratio above 1 by rounding."""
    if is_direction(name):
        return _half_turn(np.rad2deg(values))
    if (limits := COLUMNS[name].limits) is not None:
        values = np.clip(values, limits.low, limits.high)
    return values * binning if COLUMNS[name].unit == 'length' else values


def quantity_of(name, values, *, scale):
    """Plain values, lengths in pixels and angles in degrees, in the table's unit."""
    values, unit = convert_column(name, values, scale=scale)
    return values if unit is None else u.Quantity(values, unit)


def summarize_draws(draws):
    """
    Medians, for directions the mean ones, and half widths of the 68 % intervals.

    Draws ``(N, P)`` by column. A direction that the data leave open has an error of
    61.4 degrees.
    """
    if not draws:
        return {}
    # Those of directions are differences from the mean.
    centred = [_centred(name, values) for name, values in draws.items()]
    pieces = (
        np.stack([values[first : first + _PIECE] for _, values in centred])
        for first in range(0, max(len(centred[0][1]), 1), _PIECE)
    )
    limits = [np.quantile(piece, SIGMA_QUANTILES, axis=-1) for piece in pieces]
    quantiles = np.concatenate(limits, axis=-1).swapaxes(0, 1)
    return {
        name: (mean if is_direction(name) else middle, 0.5 * (high - low))
        for name, (mean, _), (low, middle, high) in zip(
            draws, centred, quantiles, strict=True
        )
    }


def _centred(name, draws):
    """Mean and differences from it of draws of a direction; of others 0 and they."""
    if not is_direction(name):
        return 0.0, draws
    mean = mean_angle(draws)
    return mean, (np.asarray(draws) - mean[:, None] + 90.0) % 180.0 - 90.0


def mean_angle(angle):
    """
    Mean of directions without a sign over the last axis, in degrees in [0, 180).

    Half the argument of the mean of ``exp(2 i angle)``; 0 and 180 are the same.
    """
    phase = np.exp(2j * np.deg2rad(np.asarray(angle, dtype=float))).mean(-1)
    return _half_turn(0.5 * np.rad2deg(np.angle(phase)))


def draw_quantiles(name, draws, q):
    """
    Quantiles ``(..., N)`` of draws ``(N, P)`` of a column.

    Those of directions (``'angle'``, in degrees) are quantiles of the differences from
    `mean_angle`, which lie within 90 degrees, added to it: they may be below 0 or above
    180, so that the lower one of two is the smaller.
    """
    mean, apart = _centred(name, draws)
    return mean + np.quantile(apart, q, axis=1)


def _half_turn(angle):
    """Angles in [0, 180), whatever rounding does."""
    angle = np.mod(angle, 180.0)
    return np.where(angle >= 180.0, 0.0, angle)
