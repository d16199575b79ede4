# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of calibration: a report, and its panels one by one.
"""

import numpy as np

from ._axes import BLUE, COLORS, MARKERS, ORANGE, new_axes

__all__ = [
    'plot_calibration',
    'plot_counts',
    'plot_ranks',
    'plot_reliability',
    'plot_sharpness',
]

_PANEL = (4.3, 3.7)  # inches
_COLUMNS = 3


def plot_ranks(uniformity, *, ax=None, kind='histogram', label=None):
    """
    Draw ranks of the truth with the band of a calibrated posterior.

    Parameters
    ----------
    uniformity : `~bliss_astro.metrics.RankUniformity`
        The ranks.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    kind : {'histogram', 'ecdf'}, optional
        The histogram, as a ratio to what is expected, or the empirical distribution
        function minus the uniform one, which needs no bins. The bands hold all of a
        curve with probability ``uniformity.level``.

    label : str, sequence of str or `None`, optional
        The names of the groups for the legend. By default their labels.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    if kind not in ('histogram', 'ecdf'):
        msg = f"kind must be 'histogram' or 'ecdf', got {kind!r}"
        raise ValueError(msg)
    labels = _group_labels(uniformity.labels, label)
    ax = _axes(ax)
    flat = 1.0 if kind == 'histogram' else 0.0
    ax.axhline(flat, color='0.3', lw=0.9, zorder=1)
    filled = np.flatnonzero(uniformity.n)
    same = len(filled) and np.ptp(uniformity.n[filled]) <= 0.1 * uniformity.n.max()
    for k in filled:
        curves = _histogram(uniformity, k) if kind == 'histogram' else None
        x, value, low, high = curves or _ecdf_difference(uniformity, k)
        color = COLORS[k % len(COLORS)]
        if k == filled[0] or not same:
            one = same or len(filled) == 1
            ax.fill_between(
                x,
                low,
                high,
                color='0.5' if one else color,
                alpha=0.22 if one else 0.1,
                lw=0,
                label=f'{100 * uniformity.level:.0f} % if calibrated' if one else None,
            )
        ax.plot(x, value, color=color, lw=1.4, label=labels[k])
    ax.set_xlim(0, 1)
    ax.set_xlabel('Rank of the truth in its posterior')
    if kind == 'histogram':
        ax.set_ylabel('Ranks per bin / expected')
    else:
        ax.set_ylabel('Share below minus stated')
    _legend(ax)
    return ax


def _histogram(uniformity, k):
    """
    Steps of the histogram and its band over the expected number.
    """
    expected = uniformity.n[k] / uniformity.counts.shape[1]
    x = np.repeat(uniformity.bins, 2)[1:-1]
    names = ('counts', 'counts_low', 'counts_high')
    return x, *(np.repeat(getattr(uniformity, n)[k] / expected, 2) for n in names)


def _ecdf_difference(uniformity, k):
    """
    The distribution function and its band minus the uniform one, with both ends.
    """
    x = np.concatenate([[0.0], uniformity.points, [1.0]])
    names = ('ecdf', 'ecdf_low', 'ecdf_high')
    return x, *(np.pad(getattr(uniformity, n)[k] - uniformity.points, 1) for n in names)


def plot_reliability(result, *, ax=None, label=None, color=None):
    """
    Draw the reliability diagram of a probability.

    Parameters
    ----------
    result : `~bliss_astro.metrics.Reliability`
        The diagram. Bars at the bottom show how the candidates are distributed.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    label : str or `None`, optional
        For the legend.

    color : str or `None`, optional
        The colour.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    ax = _axes(ax)
    color = color or BLUE
    ax.plot([0, 1], [0, 1], color='0.3', lw=0.9, zorder=1)
    share = result.n / max(result.n.max(initial=1), 1)
    ax.bar(
        result.bins[:-1],
        0.2 * share,
        width=np.diff(result.bins),
        align='edge',
        color=color,
        alpha=0.18,
        lw=0,
        zorder=0,
    )
    good = result.n > 0
    value = result.fraction[good]
    below, above = value - result.low[good], result.high[good] - value
    error = (
        f'calibration error {result.error:.3f}\n({result.error_floor:.3f} if perfect)'
    )
    ax.errorbar(
        result.probability[good],
        value,
        yerr=np.maximum([below, above], 0),
        fmt='o',
        color=color,
        ms=4,
        capsize=2,
        label=error if label is None else f'{label}: {error}',
    )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel('Probability of detection')
    ax.set_ylabel('Fraction that is real')
    _legend(ax, loc='upper left')
    return ax


def plot_counts(counts, *, ax=None, label=None, color=None, tolerance=0.02):
    """
    Draw true minus expected counts in bins of the expected one.

    Parameters
    ----------
    counts : `~bliss_astro.metrics.CountCalibration`
        The counts.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    label : str or `None`, optional
        For the legend.

    color : str or `None`, optional
        The colour.

    tolerance : float or `None`, optional
        The half width of the shaded band.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    ax = _axes(ax)
    ax.axhline(0, color='0.3', lw=0.9, zorder=1)
    if tolerance:
        width = 100 * tolerance
        ax.axhspan(
            -width, width, color='0.5', alpha=0.18, lw=0, label=f'within {width:g} %'
        )
    good = np.isfinite(counts.relative)
    ax.errorbar(
        counts.expected[good],
        100 * counts.relative[good],
        yerr=100 * counts.relative_err[good],
        fmt='o',
        color=color or BLUE,
        ms=4,
        capsize=2,
        label=label,
    )
    ax.set_xlabel('Expected number of sources')
    ax.set_ylabel('(true - expected) / expected (%)')
    if counts.ranks is not None:
        ax.set_title(
            f'randomised PIT: KS p = {counts.ks_p_value:.2g}', fontsize='small'
        )
    _legend(ax)
    return ax


def plot_sharpness(result, *, ax=None):
    """
    Draw widths and residuals against the Cramer-Rao bound, or log scores.

    Parameters
    ----------
    result : `~bliss_astro.metrics.Sharpness`
        The numbers, drawn group by group. Log scores are drawn if there are no widths.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    ax = _axes(ax)
    place = np.arange(len(result.labels))
    curves = [('width', 'stated errors', BLUE), ('scatter', 'residuals', ORANGE)]
    curves = [c for c in curves if np.isfinite(getattr(result, c[0])).any()]
    title = 'In units of the Cramer-Rao bound'
    if curves:
        ax.axhline(1, color='0.3', lw=0.9, zorder=1)
    else:
        curves = [('log_score', None, BLUE)]
        title = 'Mean log score (nats)'
    for k, (name, label, color) in enumerate(curves):
        ax.errorbar(
            place + 0.12 * (k - (len(curves) - 1) / 2),
            getattr(result, name),
            yerr=np.nan_to_num(getattr(result, f'{name}_err')),
            fmt=MARKERS[k],
            color=color,
            ms=4,
            capsize=2,
            label=label,
        )
    ax.set_xticks(place, [str(label).replace(' ', '\n') for label in result.labels])
    ax.set_xlim(-0.5, len(place) - 0.5)
    ax.set_ylabel(title)
    _legend(ax)
    return ax


def plot_calibration(report, *, figure=None, tolerance=None):
    """
    Draw a calibration report: a row of panels per quantity, then the other parts.

    Parameters
    ----------
    report : `~bliss_astro.metrics.CalibrationReport`
        The report.

    figure : `~matplotlib.figure.Figure` or `None`, optional
        An empty figure. By default a new one.

    tolerance : float or `None`, optional
        The half width of the shaded bands; by default that of the report.

    Returns
    -------
    axes : list of `~matplotlib.axes.Axes`
        The panels in the order in which they were drawn.
    """
    tolerance = report.tolerance if tolerance is None else tolerance
    rows = [_rank_panels(report, name, tolerance) for name in report.ranks]
    rest = [
        (name, _coverage_panel, coverage, {'tolerance': tolerance})
        for name, coverage in report.intervals.items()
    ]
    if report.counts is not None:
        rest.append(('counts', plot_counts, report.counts, {'tolerance': tolerance}))
    if report.reliability is not None:
        rest.append(('detection', plot_reliability, report.reliability, {}))
    rest += [
        (f'{name}: sharpness', plot_sharpness, result, {})
        for name, result in report.sharpness.items()
    ]
    rows += [rest[k : k + _COLUMNS] for k in range(0, len(rest), _COLUMNS)]
    if figure is None:
        from matplotlib import pyplot as plt

        n_columns = max(len(row) for row in rows)
        size = (_PANEL[0] * n_columns, _PANEL[1] * len(rows))
        figure = plt.figure(figsize=size, layout='constrained')
    n_columns = max(len(row) for row in rows)
    grid = figure.add_gridspec(len(rows), n_columns)
    axes = []
    for i, row in enumerate(rows):
        for j, (title, draw, result, options) in enumerate(row):
            ax = figure.add_subplot(grid[i, j])
            draw(result, ax=ax, **options)
            _entitle(ax, title)
            axes.append(ax)
    return axes


def _rank_panels(report, name, tolerance):
    """
    The panels of one quantity: what to draw, and how.
    """
    ranks = report.ranks[name]
    coverage = report.coverage[name]
    return [
        (f'{name}: histogram of ranks', plot_ranks, ranks, {'kind': 'histogram'}),
        (f'{name}: distribution of ranks', plot_ranks, ranks, {'kind': 'ecdf'}),
        (f'{name}: coverage', _coverage_panel, coverage, {'tolerance': tolerance}),
    ]


def _coverage_panel(coverage, *, ax, tolerance):
    """
    Coverage minus its nominal level, where a point can be seen.
    """
    ax.grid(alpha=0.25, lw=0.6)
    ax.axhline(0, color='0.3', lw=0.9, zorder=1)
    if tolerance:
        width = 100 * tolerance
        ax.axhspan(
            -width,
            width,
            color='0.5',
            alpha=0.18,
            lw=0,
            label=f'within {width:g} points',
        )
    shift = 0.8 * (np.arange(len(coverage.labels)) - (len(coverage.labels) - 1) / 2)
    for k, name in enumerate(coverage.labels):
        value = coverage.coverage[k]
        below, above = value - coverage.low[k], coverage.high[k] - value
        ax.errorbar(
            100 * coverage.levels + shift[k],
            100 * (value - coverage.levels),
            yerr=100 * np.maximum([below, above], 0),
            fmt=MARKERS[k % len(MARKERS)],
            color=COLORS[k % len(COLORS)],
            ms=4,
            capsize=2,
            label=str(name),
        )
    ax.set_xlabel('Nominal level of the interval (%)')
    ax.set_ylabel('Coverage minus nominal (points)')
    _legend(ax)


def _entitle(ax, title):
    below = ax.get_title()
    ax.set_title(f'{title} ({below})' if below else title, fontsize='medium')


def _group_labels(labels, given):
    names = labels if given is None else np.atleast_1d(given)
    if len(names) != len(labels):
        msg = f'label must name {len(labels)} groups, got {len(names)} names'
        raise ValueError(msg)
    return [str(name) for name in names]


def _axes(ax):
    if ax is None:
        ax = new_axes(_PANEL)
    ax.grid(alpha=0.25, lw=0.6)
    return ax


def _legend(ax, loc='best'):
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc=loc, framealpha=0.9, fontsize='small')
