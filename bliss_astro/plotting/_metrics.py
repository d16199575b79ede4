# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of metrics.
"""

import numpy as np

from ._axes import BLUE, COLORS, GREEN, MARKERS, ORANGE, new_axes

__all__ = ['plot_coverage', 'plot_precision_recall', 'plot_residuals']

_SCORE_STYLE = {
    'precision': (BLUE, 'o', '-'),
    'recall': (ORANGE, 's', '--'),
    'f1': (GREEN, '^', ':'),
}
_SCORE_TITLE = {
    'precision': 'Precision (by estimated {})',
    'recall': 'Recall (by true {})',
    'f1': 'F1',
}


def _centres(bins, what):
    """
    Centres and half widths of finite bins.
    """
    bins = np.asarray(bins, dtype=float)
    if not np.isfinite(bins).all():
        msg = f'{what} must have finite bins to be drawn, got {bins}'
        raise ValueError(msg)
    return (bins[1:] + bins[:-1]) / 2, np.diff(bins) / 2


def plot_precision_recall(
    scores,
    *,
    ax=None,
    which=('precision', 'recall'),
    label=None,
    color=None,
    xlabel=None,
):
    """
    Draw precision, recall or F1 in bins with their error bands.

    Call it again with the same ``ax``, another ``color`` and a ``label`` to compare.

    Parameters
    ----------
    scores : `~bliss_astro.metrics.DetectionScores`
        The scores.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    which : str or tuple of str, optional
        Which of ``'precision'``, ``'recall'`` and ``'f1'`` to draw.

    label : str or `None`, optional
        Put before the names of the scores in the legend.

    color : str or `None`, optional
        One colour for all scores. By default each has its own.

    xlabel : str or `None`, optional
        The label of the x axis.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    which = (which,) if isinstance(which, str) else tuple(which)
    unknown = set(which) - set(_SCORE_STYLE)
    if unknown or not which:
        msg = f'which must be among {list(_SCORE_STYLE)}, got {which}'
        raise ValueError(msg)
    centre, half = _centres(scores.bins, 'scores')
    if ax is None:
        ax = new_axes((6.4, 4.4))
        ax.set_ylim(0, 1.03)
        ax.grid(alpha=0.25, lw=0.6)
    for name in which:
        own_color, marker, line = _SCORE_STYLE[name]
        hue = color or own_color
        title = _SCORE_TITLE[name].format(scores.quantity)
        if label is not None:
            title = f'{label}: {title}'
        values = getattr(scores, name)
        good = np.isfinite(values)
        ax.fill_between(
            centre,
            getattr(scores, f'{name}_low'),
            getattr(scores, f'{name}_high'),
            where=good,
            color=hue,
            alpha=0.2,
            lw=0,
        )
        ax.plot(centre[good], values[good], line, marker=marker, color=hue, label=title)
    ax.set_xlim(centre[0] - half[0], centre[-1] + half[-1])
    if xlabel is None:
        xlabel = _capital(scores.quantity)
    ax.set_xlabel(xlabel)
    ax.set_ylabel('Fraction')
    ax.legend(loc='lower left', framealpha=0.9)
    return ax


def _capital(text):
    return text[:1].upper() + text[1:]


def plot_residuals(
    summary,
    *,
    ax=None,
    by=None,
    residuals=None,
    label=None,
    color=None,
    xlabel=None,
    ylabel='(estimated - true) / true flux',
):
    """
    Draw the median of residuals in bins with the band of their quartiles.

    Parameters
    ----------
    summary : `~bliss_astro.metrics.ResidualSummary`
        The summary. The band holds the middle half of the residuals, the error bars
        are the standard errors of the medians.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    by, residuals : 1D array_like or `None`, optional
        Single residuals to draw as points, and the values they are binned by.

    label : str or `None`, optional
        For the legend.

    color : str or `None`, optional
        The colour.

    xlabel, ylabel : str or `None`, optional
        The labels of the axes.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    centre, half = _centres(summary.bins, 'summary')
    if (by is None) != (residuals is None) or np.shape(by) != np.shape(residuals):
        msg = (
            'by and residuals must be given together with the same length, '
            f'got the shapes {np.shape(by)} and {np.shape(residuals)}'
        )
        raise ValueError(msg)
    color = color or BLUE
    if ax is None:
        ax = new_axes((6.4, 4.4))
        ax.axhline(0, color='0.3', lw=0.9, zorder=1)
        ax.grid(alpha=0.25, lw=0.6)
        reach = np.nanmax(np.abs([summary.q25, summary.q75, summary.median]), initial=0)
        if reach > 0:
            ax.set_ylim(-1.8 * reach, 1.8 * reach)
    if residuals is not None:
        ax.plot(by, residuals, '.', color='0.78', ms=2, zorder=0, rasterized=True)
    prefix = '' if label is None else f'{label}: '
    good = np.isfinite(summary.median)
    step = np.repeat(summary.bins, 2)[1:-1]
    ax.fill_between(
        step,
        np.repeat(summary.q25, 2),
        np.repeat(summary.q75, 2),
        color=color,
        alpha=0.22,
        lw=0,
        label=f'{prefix}25-75 %',
    )
    ax.errorbar(
        centre[good],
        summary.median[good],
        yerr=summary.median_err[good],
        xerr=half[good],
        fmt='o',
        color=color,
        ms=4,
        capsize=0,
        label=f'{prefix}median',
    )
    ax.set_xlim(centre[0] - half[0], centre[-1] + half[-1])
    ax.set_xlabel(_capital(summary.quantity) if xlabel is None else xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(loc='best', framealpha=0.9)
    return ax


def plot_coverage(coverage, *, ax=None, label=None, tolerance=0.03):
    """
    Draw the coverage of intervals against their nominal level.

    Parameters
    ----------
    coverage : `~bliss_astro.metrics.Coverage`
        The coverage, from `~bliss_astro.metrics.rank_coverage`, or from
        `~bliss_astro.metrics.interval_coverage` with a ``level``.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    label : str, sequence of str or `None`, optional
        The names of the groups for the legend. By default their labels.

    tolerance : float or `None`, optional
        The half width of the shaded band around perfect calibration.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    if np.isnan(coverage.levels).any():
        msg = 'coverage has no nominal level; give level to interval_coverage'
        raise ValueError(msg)
    labels = coverage.labels if label is None else np.atleast_1d(label)
    if len(labels) != len(coverage.labels):
        msg = f'label must name {len(coverage.labels)} groups, got {len(labels)} names'
        raise ValueError(msg)
    if ax is None:
        ax = new_axes((5.2, 4.8))
        ax.grid(alpha=0.25, lw=0.6)
        ends = np.array([0.0, 100.0])
        ax.plot(ends, ends, color='0.3', lw=0.9, label='calibrated', zorder=1)
        if tolerance:
            width = 100 * tolerance
            ax.fill_between(
                ends,
                ends - width,
                ends + width,
                color='0.5',
                alpha=0.18,
                lw=0,
                label=f'within {width:g} points',
            )
        ax.set_aspect('equal')
        low = min(np.nanmin(coverage.low, initial=1), coverage.levels.min())
        start = max(0.0, 100 * low - 10)
        ax.set_xlim(start, 100)
        ax.set_ylim(start, 100)
    # Side by side, so that the error bars of groups do not hide one another.
    shift = 0.5 * (np.arange(len(labels)) - (len(labels) - 1) / 2)
    for k, name in enumerate(labels):
        value = coverage.coverage[k]
        good = np.isfinite(value)
        below, above = value - coverage.low[k], coverage.high[k] - value
        ax.errorbar(
            100 * coverage.levels[good] + shift[k],
            100 * value[good],
            yerr=100 * np.maximum([below[good], above[good]], 0),
            fmt=MARKERS[k % len(MARKERS)],
            color=COLORS[k % len(COLORS)],
            ms=5,
            capsize=2,
            label=str(name),
        )
    ax.set_xlabel('Nominal level of the interval (%)')
    ax.set_ylabel('Intervals that hold the truth (%)')
    ax.legend(loc='upper left', framealpha=0.9)
    return ax
