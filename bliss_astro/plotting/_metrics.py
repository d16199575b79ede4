# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of scores by bin: detections, residuals, blends, galaxy models.
"""

import numpy as np

from bliss_astro._arguments import check_choice, require

from . import _axes

# Colour, marker, line and title of the scores of detections.
_SCORES = {
    'precision': (_axes.BLUE, 'o', '-', 'Precision (by estimated {})'),
    'recall': (_axes.ORANGE, 's', '--', 'Recall (by true {})'),
    'f1': (_axes.GREEN, '^', ':', 'F1'),
}

# Label of each score of blends, and the value of a perfect one: for intervals of
# 1 sigma, their nominal level.
_BLEND_SCORES = {
    'recall': ('Recall', None),
    'class_accuracy': ('Accuracy of the class', None),
    'star_accuracy': ('Accuracy of the class of stars', None),
    'galaxy_accuracy': ('Accuracy of the class of galaxies', None),
    'flux_median': ('Median of (estimated - true) / true flux', 0.0),
    'flux_scatter': ('Robust scatter of (estimated - true) / true flux', None),
    'flux_coverage': ('Coverage of the intervals of flux', 0.6827),
    'ellipticity_slope': ('Estimated ellipticity along the truth / truth', 1.0),
    'ellipticity_scatter': ('Robust scatter of e1 and e2', None),
    'ellipticity_coverage': ('Coverage of the intervals of ellipticity', 0.6827),
}


def plot_table(table, **options):
    """Draw any table of scores with the figure of its kind."""
    from . import _calibration as calibration

    figures = {
        'detection scores': plot_precision_recall,
        'residuals': plot_residuals,
        'blend scores': plot_blend_scores,
        'coverage': calibration.plot_coverage,
        'ranks': calibration.plot_ranks,
        'reliability': calibration.plot_reliability,
        'counts': calibration.plot_counts,
        'sharpness': calibration.plot_sharpness,
    }
    kind = table.meta.get('kind')
    if kind not in figures:
        raise ValueError(f'there is no figure of {kind!r}, only of {sorted(figures)}')
    return figures[kind](table, **options)


def _bins(table, name):
    """Return centres and half widths of finite bins."""
    low, high = np.asarray(table['low']), np.asarray(table['high'])
    sound = np.isfinite([low, high]).all()
    require(sound, name, 'have finite bins to be drawn', f'{low} to {high}')
    return (low + high) / 2, (high - low) / 2


def _label_bins(ax, table):
    quantity = table.meta['quantity']
    ax.set_xlim(table['low'][0], table['high'][-1])
    ax.set_xlabel(quantity[:1].upper() + quantity[1:])


def plot_precision_recall(
    scores, *, ax=None, which=('precision', 'recall'), label=None, color=None
):
    """
    Draw precision, recall or F1 in bins with their error bands.

    Call it again with the same ``ax``, another ``color`` and a ``label`` to compare.

    Parameters
    ----------
    scores : `~bliss_astro.metrics.ScoreTable`
        Table of `~bliss_astro.metrics.detection_scores`.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure. By default those of a new one.

    which : str or tuple of str, optional
        Scores among ``'precision'``, ``'recall'`` and ``'f1'``.

    label : str or `None`, optional
        Text before the names of the scores in the legend.

    color : str or `None`, optional
        One colour for all scores. By default each has its own.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        Axes of the figure.

    Raises
    ------
    ValueError
        If ``which`` is no score or the bins are not finite.
    """
    which = (which,) if isinstance(which, str) else tuple(which)
    sound = which and not set(which) - set(_SCORES)
    require(sound, 'which', f'be among {list(_SCORES)}', which)
    centre, _ = _bins(scores, 'scores')
    ax = _axes.get_axes(ax)
    ax.set_ylim(0, 1.03)
    prefix = '' if label is None else f'{label}: '
    for name in which:
        hue, marker, line, title = _SCORES[name]
        hue = color or hue
        title = prefix + title.format(scores.meta['quantity'])
        values = np.asarray(scores[name])
        good = np.isfinite(values)
        ends = scores[f'{name}_low'], scores[f'{name}_high']
        ax.fill_between(centre, *ends, where=good, color=hue, alpha=0.2, lw=0)
        ax.plot(centre[good], values[good], line, marker=marker, color=hue, label=title)
    _label_bins(ax, scores)
    ax.set_ylabel('Fraction')
    _axes.add_legend(ax, loc='lower left')
    return ax


def plot_residuals(
    summary, *, ax=None, by=None, residuals=None, label=None, color=None
):
    """
    Draw the median of residuals in bins with the band of their quartiles.

    Parameters
    ----------
    summary : `~bliss_astro.metrics.ScoreTable`
        Table of `~bliss_astro.metrics.summarize_residuals`. The band holds the middle
        half of the residuals, the error bars are the standard errors of the medians.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure. By default those of a new one.

    by, residuals : 1D array_like or `None`, optional
        Single residuals to draw as points, and the values they are binned by.

    label : str or `None`, optional
        Text before the entries of the legend.

    color : str or `None`, optional
        Colour.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        Axes of the figure.

    Raises
    ------
    ValueError
        If the bins are not finite, or ``by`` and ``residuals`` do not belong together.
    """
    centre, half = _bins(summary, 'summary')
    sound = (by is None) == (residuals is None) and np.shape(by) == np.shape(residuals)
    got = f'the shapes {np.shape(by)} and {np.shape(residuals)}'
    require(sound, 'by and residuals', 'be given together with the same length', got)
    is_new, ax = ax is None, _axes.get_axes(ax)
    if is_new:
        _axes.add_reference(ax)
        reach = np.nanmax(np.abs([summary['q25'], summary['q75']]), initial=0)
        if reach > 0:
            ax.set_ylim(-2.5 * reach, 2.5 * reach)
    if residuals is not None:
        ax.plot(by, residuals, '.', color='0.78', ms=2, zorder=0, rasterized=True)
    color = color or _axes.BLUE
    prefix = '' if label is None else f'{label}: '
    edges = np.stack([summary['low'], summary['high']], axis=1).ravel()
    band = (np.repeat(summary[name], 2) for name in ('q25', 'q75'))
    style = {'color': color, 'alpha': 0.22, 'lw': 0}
    ax.fill_between(edges, *band, label=f'{prefix}25-75 %', **style)
    half = half[np.isfinite(summary['median'])]
    style = {'color': color, 'capsize': 0, 'label': f'{prefix}median'}
    _axes.draw_points(ax, centre, summary, 'median', xerr=half, **style)
    _label_bins(ax, summary)
    ax.set_ylabel('(estimated - true) / true flux')
    _axes.add_legend(ax)
    return ax


def plot_blend_scores(scores, which='recall', *, ax=None, label=None, fmt='-'):
    """
    Draw a score of blended sources by SNR, a line for each bin of blendedness.

    Call it again with the same ``ax``, a ``label`` and another ``fmt`` to compare.

    Parameters
    ----------
    scores : `~bliss_astro.metrics.ScoreTable`
        Table of `~bliss_astro.metrics.score_blends`.

    which : str, optional
        Name of the score.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure. By default those of a new one.

    label : str or `None`, optional
        Text before the bins of blendedness in the legend.

    fmt : str, optional
        Style of the lines.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        Axes of the figure. The SNR is logarithmic if all its edges are positive and
        finite; points are in the middle of their bins, those of an open bin beside its
        finite edge.

    Raises
    ------
    ValueError
        If ``which`` is no score, or the table has no bins or only open ones.
    """
    known = [name for name in _BLEND_SCORES if name in scores.colnames]
    check_choice('which', which, known)
    edges = np.unique([*scores['snr_low'], *scores['snr_high']])
    finite = edges[np.isfinite(edges)]
    sound = len(finite) >= 2
    require(sound, 'scores', 'have a finite bin of snr', f'the edges {edges}')
    ylabel, ideal = _BLEND_SCORES[which]
    is_new, ax = ax is None, _axes.get_axes(ax)
    if is_new and ideal is not None:
        _axes.add_reference(ax, ideal)
    log = finite[0] > 0
    ax.set_xscale('log' if log else 'linear')
    forward, back = (np.log, np.exp) if log else (np.array, np.array)
    # Open bins are as wide as their neighbours.
    closed = forward(finite)
    below = [2 * closed[0] - closed[1]] if np.isneginf(edges[0]) else []
    above = [2 * closed[-1] - closed[-2]] if np.isposinf(edges[-1]) else []
    closed = np.concatenate([below, closed, above])
    limits = zip(scores['blendedness_low'], scores['blendedness_high'], strict=True)
    limits = sorted(set(limits))
    shift = _axes.side_by_side(len(limits), 0.05 * np.diff(closed).min())
    for k, (low, high) in enumerate(limits):
        own = scores[scores['blendedness_low'] == low]
        place = np.searchsorted(edges, own['snr_low'])
        middle = back(0.5 * (closed[place] + closed[place + 1]) + shift[k])
        name = f'{f"{label}: " if label else ""}blendedness {low:g} to {high:g}'
        marker = _axes.MARKERS[k % len(_axes.MARKERS)] + fmt
        _axes.draw_points(ax, middle, own, which, k=k, fmt=marker, label=name)
    ax.set_xlabel('True signal-to-noise ratio')
    ax.set_ylabel(ylabel)
    _axes.add_legend(ax)
    return ax


# -- galaxy models -------------------------------------------------------------------


def draw_report(report):
    """Draw a `ReconstructionReport` of a galaxy model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 7.8), layout='constrained')
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    _draw_examples(above, report)
    _draw_scores(below, report.table[:-1])
    return figure


def _draw_examples(figure, report):
    data, model, residual = (part.numpy() for part in report.examples)
    axes = figure.subplots(3, len(data), sharex=True, sharey=True)
    names = ('data', 'model', 'residual / noise')
    for k in range(len(data)):
        noise = np.std((data - model)[k])
        top = max(5.0, float(np.arcsinh(model[k].max() / noise)))
        for row, image in enumerate((data, model)):
            shown = np.arcsinh(image[k] / noise)
            axes[row, k].imshow(shown, cmap='gray', vmin=-1.5, vmax=top)
        drawn = axes[2, k].imshow(residual[k], cmap='RdBu_r', vmin=-4, vmax=4)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.invert_yaxis()
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name)
    figure.colorbar(drawn, ax=axes[2].tolist(), shrink=0.8)


def _draw_scores(figure, table):
    axes = figure.subplots(1, 3)
    snr = np.sqrt(table['snr_min'] * table['snr_max'])
    # The last bin has no meaningful middle.
    snr[-1] = table['snr_min'][-1] * 1.5
    quantities = (
        ('chi2', 'chi-square per pixel', (0.97, 1.03)),
        ('flux_bias', 'median flux bias', (-0.01, 0.01)),
        ('e_bias', 'ellipticity bias along the true one', (-0.01, 0.01)),
    )
    style = {'fmt': 'o-', 'ms': 4}
    for ax, (name, title, band) in zip(axes, quantities, strict=True):
        ax.axhspan(*band, color='0.92')
        label = 'model' if name == 'chi2' else None
        _axes.draw_points(ax, snr, table, name, color='C0', label=label, **style)
        ax.set(xscale='log', xlabel='signal-to-noise ratio')
        ax.set_title(title, fontsize='medium')
        ax.set_xticks([10, 20, 40, 80], labels=['10', '20', '40', '80'])
        ax.minorticks_off()
    style |= {'color': '0.5', 'label': 'expected'}
    _axes.draw_points(axes[0], snr, table, 'chi2_expected', **style)
    axes[0].legend(fontsize='small', loc='lower right')
