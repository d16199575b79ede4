# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of calibration: a report, and its panels one by one.
"""

import numpy as np

from bliss_astro._arguments import check_choice, require

from . import _axes

_PANEL = (4.3, 3.7)  # inches
_N_COLUMNS = 3


def plot_coverage(coverage, *, ax=None, label=None, tolerance=0.03, difference=False):
    """
    Draw the coverage of intervals against their nominal level.

    Parameters
    ----------
    coverage : `~bliss_astro.metrics.ScoreTable`
        Table of `~bliss_astro.metrics.rank_coverage`, or of
        `~bliss_astro.metrics.interval_coverage` with a ``level``.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure. By default those of a new one.

    label : str, sequence of str or `None`, optional
        Names of the groups for the legend. By default their labels.

    tolerance : float or `None`, optional
        Half width of the shaded band around perfect calibration.

    difference : bool, optional
        Whether to draw the coverage minus the nominal level, in points.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        Axes of the figure.

    Raises
    ------
    ValueError
        If there is no nominal level, or ``label`` does not name all groups.
    """
    if np.isnan(coverage['level']).any():
        msg = 'coverage has no nominal level; give level to interval_coverage'
        raise ValueError(msg)
    groups = list(dict.fromkeys(coverage['group'].tolist()))
    labels = _group_labels(groups, label)
    is_new, ax = ax is None, _axes.get_axes(ax, (5.2, 4.8))
    width = 100 * (tolerance or 0)
    if difference:
        _axes.add_reference(ax, 0.0, width, f'within {width:g} points')
    elif is_new:
        ax.plot([0, 100], [0, 100], color='0.3', lw=0.9, label='calibrated', zorder=1)
        ends, style = np.array([0, 100]), {'color': '0.5', 'alpha': 0.18, 'lw': 0}
        name = f'within {width:g} points' if width else None
        ax.fill_between(ends, ends - width, ends + width, label=name, **style)
        ax.set_aspect('equal')
        lowest = np.nanmin([coverage['coverage_low'], coverage['level']], initial=1)
        limits = max(0.0, 100 * lowest - 10), 100
        ax.set(xlim=limits, ylim=limits)
    shift = _axes.side_by_side(len(groups), 0.8 if difference else 0.5)
    for k, group in enumerate(groups):
        own = coverage[coverage['group'] == group]
        level = np.asarray(own['level'])
        zero = level if difference else 0.0
        style = {'k': k, 'scale': 100, 'zero': zero, 'label': labels[k]}
        _axes.draw_points(ax, 100 * level + shift[k], own, 'coverage', **style)
    ax.set_xlabel('Nominal level of the interval (%)')
    ax.set_ylabel(
        'Coverage minus nominal (points)'
        if difference
        else 'Intervals that hold the truth (%)'
    )
    _axes.add_legend(ax, fontsize='small' if difference else None)
    return ax


def plot_ranks(uniformity, *, ax=None, kind='histogram', label=None):
    """
    Draw ranks of the truth with the band of a calibrated posterior.

    The histogram, as a ratio to the expected number, or with ``kind='ecdf'`` the
    empirical distribution function minus the uniform one, which needs no bins. The
    bands hold all of a curve with probability ``uniformity.meta['level']``; labels name
    the groups.
    """
    check_choice('kind', kind, ('histogram', 'ecdf'))
    labels = _group_labels(uniformity['group'], label)
    ax = _axes.get_axes(ax, _PANEL)
    _axes.add_reference(ax, 1.0 if kind == 'histogram' else 0.0)
    n = np.asarray(uniformity['n'])
    filled = np.flatnonzero(n)
    # One band serves groups of about one size.
    same = len(filled) and np.ptp(n[filled]) <= 0.1 * n.max()
    for k in filled:
        x, value, low, high = _rank_curves(uniformity, k, kind)
        color = _axes.COLORS[k % len(_axes.COLORS)]
        if k == filled[0] or not same:
            style = {'color': color, 'alpha': 0.1}
            if same:
                name = f'{100 * uniformity.meta["level"]:.0f} % if calibrated'
                style = {'color': '0.5', 'alpha': 0.22, 'label': name}
            ax.fill_between(x, low, high, lw=0, **style)
        ax.plot(x, value, color=color, lw=1.4, label=labels[k])
    ax.set_xlim(0, 1)
    ax.set_xlabel('Rank of the truth in its posterior')
    title = 'Ranks per bin / expected'
    ax.set_ylabel(title if kind == 'histogram' else 'Share below minus stated')
    _axes.add_legend(ax, fontsize='small')
    return ax


def _rank_curves(uniformity, k, kind):
    """Return x and the curve of a group with the ends of its band."""
    row, meta = uniformity[int(k)], uniformity.meta
    if kind == 'histogram':
        expected = row['n'] / len(row['counts'])
        curves = (row[f'counts{end}'] / expected for end in ('', '_low', '_high'))
        return np.repeat(meta['bins'], 2)[1:-1], *(np.repeat(c, 2) for c in curves)
    curves = (row[f'ecdf{end}'] - meta['points'] for end in ('', '_low', '_high'))
    return np.pad(meta['points'], 1, constant_values=(0, 1)), *(
        np.pad(c, 1) for c in curves
    )


def plot_reliability(result, *, ax=None, label=None, color=None):
    """
    Draw the reliability diagram of a probability.

    Bars at the bottom show the distribution of the candidates.
    """
    ax = _axes.get_axes(ax, _PANEL)
    ax.plot([0, 1], [0, 1], color='0.3', lw=0.9, zorder=1)
    n, low, high = (np.asarray(result[name]) for name in ('n', 'low', 'high'))
    style = {'color': color or _axes.BLUE, 'alpha': 0.18, 'lw': 0, 'zorder': 0}
    height = 0.2 * n / max(n.max(initial=1), 1)
    ax.bar(low, height, width=high - low, align='edge', **style)
    error, floor = result.meta['error'], result.meta['error_floor']
    text = f'calibration error {error:.3f}\n({floor:.3f} if perfect)'
    text = text if label is None else f'{label}: {text}'
    style = {'color': color, 'label': text}
    _axes.draw_points(ax, result['probability'], result, 'fraction', **style)
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    ax.set_xlabel('Probability of detection')
    ax.set_ylabel('Fraction that is real')
    _axes.add_legend(ax, loc='upper left', fontsize='small')
    return ax


def plot_counts(counts, *, ax=None, label=None, color=None, tolerance=0.02):
    """Draw true minus expected counts in bins of the expected one, in percent."""
    ax = _axes.get_axes(ax, _PANEL)
    width = 100 * (tolerance or 0)
    _axes.add_reference(ax, 0.0, width, f'within {width:g} %')
    style = {'scale': 100, 'color': color, 'label': label}
    _axes.draw_points(ax, counts['expected'], counts, 'relative', **style)
    ax.set_xlabel('Expected number of sources')
    ax.set_ylabel('(true - expected) / expected (%)')
    p_value = counts.meta['ks_p_value']
    if np.isfinite(p_value):
        ax.set_title(f'ranks: KS p = {p_value:.2g}', fontsize='small')
    _axes.add_legend(ax, fontsize='small')
    return ax


def plot_sharpness(result, *, ax=None):
    """Draw widths and residuals over the Cramer-Rao bound by group, or log scores."""
    ax = _axes.get_axes(ax, _PANEL)
    place = np.arange(len(result))
    curves = {'width': 'stated errors', 'scatter': 'residuals'}
    curves = {k: v for k, v in curves.items() if np.isfinite(result[k]).any()}
    title = 'In units of the Cramer-Rao bound'
    if curves:
        _axes.add_reference(ax, 1.0)
    else:
        curves, title = {'log_score': None}, 'Mean log score (nats)'
    shift = _axes.side_by_side(len(curves), 0.12)
    for k, (name, label) in enumerate(curves.items()):
        _axes.draw_points(ax, place + shift[k], result, name, k=k, label=label)
    ax.set_xticks(place, [str(group).replace(' ', '\n') for group in result['group']])
    ax.set_xlim(-0.5, len(place) - 0.5)
    ax.set_ylabel(title)
    _axes.add_legend(ax, fontsize='small')
    return ax


def plot_calibration(report, *, figure=None, tolerance=None):
    """
    Draw a calibration report: a row of panels per quantity, then the other parts.

    Parameters
    ----------
    report : `~bliss_astro.metrics.CalibrationReport`
        Report.

    figure : `~matplotlib.figure.Figure` or `None`, optional
        An empty figure. By default a new one.

    tolerance : float or `None`, optional
        Half width of the shaded bands; by default that of the report.

    Returns
    -------
    axes : list of `~matplotlib.axes.Axes`
        Panels in the order in which they were drawn.
    """
    width = {'tolerance': report.tolerance if tolerance is None else tolerance}
    coverage = {'difference': True, **width}
    rows = [
        [
            (f'{name}: histogram of ranks', plot_ranks, ranks, {'kind': 'histogram'}),
            (f'{name}: distribution of ranks', plot_ranks, ranks, {'kind': 'ecdf'}),
            (f'{name}: coverage', plot_coverage, report.coverage[name], coverage),
        ]
        for name, ranks in report.ranks.items()
    ]
    rest = [(name, plot_coverage, v, coverage) for name, v in report.intervals.items()]
    if report.counts is not None:
        rest.append(('counts', plot_counts, report.counts, width))
    if report.reliability is not None:
        rest.append(('detection', plot_reliability, report.reliability, {}))
    for name, result in report.sharpness.items():
        rest.append((f'{name}: sharpness', plot_sharpness, result, {}))
    rows += [rest[k : k + _N_COLUMNS] for k in range(0, len(rest), _N_COLUMNS)]
    n_columns = max(len(row) for row in rows)
    figure = figure or _axes.new_figure((_PANEL[0] * n_columns, _PANEL[1] * len(rows)))
    grid = figure.add_gridspec(len(rows), n_columns)
    axes = []
    for i, row in enumerate(rows):
        for j, (title, draw, result, options) in enumerate(row):
            ax = draw(result, ax=figure.add_subplot(grid[i, j]), **options)
            below = ax.get_title()
            ax.set_title(f'{title} ({below})' if below else title, fontsize='medium')
            axes.append(ax)
    return axes


def _group_labels(groups, given):
    """Return the names of the groups."""
    names = groups if given is None else np.atleast_1d(given)
    sound = len(names) == len(groups)
    require(sound, 'label', f'name {len(groups)} groups', f'{len(names)} names')
    return [str(name) for name in names]
