# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of scores in blends.
"""

import numpy as np

from ._axes import COLORS, MARKERS, new_axes

__all__ = ['plot_blend_scores']

_LABELS = {
    'recall': 'Recall',
    'class_accuracy': 'Called what they are',
    'star_accuracy': 'Stars called stars',
    'galaxy_accuracy': 'Galaxies called galaxies',
    'flux_median': 'Median of (estimated - true) / true flux',
    'flux_scatter': 'Robust scatter of (estimated - true) / true flux',
    'flux_coverage': 'Flux intervals that hold the truth',
    'ellipticity_slope': 'Estimated ellipticity along the truth / truth',
    'ellipticity_scatter': 'Robust scatter of e1 and e2',
    'ellipticity_coverage': 'Ellipticity intervals that hold the truth',
}

# Where a perfect measurement lies; of intervals, their nominal level.
_IDEAL = {
    'flux_median': 0.0,
    'flux_coverage': 0.6827,
    'ellipticity_slope': 1.0,
    'ellipticity_coverage': 0.6827,
}


def plot_blend_scores(scores, which='recall', *, ax=None, label=None, fmt='-'):
    """
    Draw a score of blended sources by SNR, a line for each bin of blendedness.

    Call it again with the same ``ax``, a ``label`` and another ``fmt`` to compare.

    Parameters
    ----------
    scores : `~astropy.table.QTable`
        From `~bliss_astro.metrics.score_blends`.

    which : str, optional
        The name of the score.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    label : str or `None`, optional
        Put before the bins of blendedness in the legend.

    fmt : str, optional
        Style of the lines.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes. The SNR is logarithmic if all its edges are positive and finite;
        points are in the middle of their bins, those of an open bin beside its finite
        edge.

    Raises
    ------
    ValueError
        If ``which`` is no score, or the table has no bins or only open ones.
    """
    if which not in _LABELS or which not in scores.colnames:
        msg = f'which must be one of {list(_LABELS)}, got {which!r}'
        raise ValueError(msg)
    edges = np.unique([*scores['snr_low'], *scores['snr_high']])
    finite = edges[np.isfinite(edges)]
    if len(finite) < 2:
        msg = f'scores must have a finite bin of snr, got the edges {edges}'
        raise ValueError(msg)
    ax, is_new = (new_axes((6.4, 4.4)), True) if ax is None else (ax, False)
    if is_new:
        ax.grid(alpha=0.25, lw=0.6)
        if which in _IDEAL:
            ax.axhline(_IDEAL[which], color='0.3', lw=0.9, zorder=1)
    forward, back = (np.log, np.exp) if finite[0] > 0 else (np.array, np.array)
    if finite[0] > 0:
        ax.set_xscale('log')
    closed = _closed(forward(finite), edges)
    pairs = sorted(
        set(zip(scores['blendedness_low'], scores['blendedness_high'], strict=True))
    )
    width = np.diff(closed).min()
    for k, (low, high) in enumerate(pairs):
        own = scores[scores['blendedness_low'] == low]
        own = own[np.isfinite(own[which])]
        place = np.searchsorted(edges, own['snr_low'])
        middle = 0.5 * (closed[place] + closed[place + 1])
        # Side by side, so that error bars do not hide one another.
        middle = middle + 0.05 * width * (k - (len(pairs) - 1) / 2)
        name = f'blendedness {low:g} to {high:g}'
        ax.errorbar(
            back(middle),
            own[which],
            yerr=own[f'{which}_err'],
            fmt=MARKERS[k % len(MARKERS)] + fmt,
            color=COLORS[k % len(COLORS)],
            ms=4.5,
            capsize=2,
            label=name if label is None else f'{label}: {name}',
        )
    ax.set_xlabel('True signal-to-noise ratio')
    ax.set_ylabel(_LABELS[which])
    ax.legend(loc='best', framealpha=0.9)
    return ax


def _closed(finite, edges):
    """
    Finite edges on the axis, open bins as wide as their neighbours.
    """
    closed = list(finite)
    if np.isneginf(edges[0]):
        closed.insert(0, 2 * finite[0] - finite[1])
    if np.isposinf(edges[-1]):
        closed.append(2 * finite[-1] - finite[-2])
    return np.array(closed)
