# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of the experiments with blends.
"""

import itertools
from pathlib import Path

import numpy as np

__all__ = ['figure_path', 'plot_apart', 'plot_blends', 'plot_seams']

_COLOURS = ('#2f6aa8', '#d99532', '#4c8f5b', '#b5443c')
_MARKERS = 'osD^'


def figure_path(name, arguments):
    """
    Where a figure goes: as told, or into the documentation after a full run.

    Parameters
    ----------
    name : str
        Of the file.

    arguments : `argparse.Namespace`
        With ``figure``, ``quick`` and ``output``.
    """
    if arguments.figure or arguments.quick or arguments.output:
        return arguments.figure
    return Path(__file__).resolve().parent.parent / 'docs' / '_static' / f'{name}.png'


def _figure(n_panels, size):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    return figure, np.atleast_1d(figure.subplots(1, n_panels))


def _styles(labels):
    pairs = zip(itertools.cycle(_COLOURS), itertools.cycle(_MARKERS), strict=False)
    return dict(zip(labels, pairs, strict=False))


def _bars(ax, x, pairs, **style):
    values, errors = np.array(pairs, dtype=float).reshape(-1, 2).T
    ax.errorbar(x, values, errors, capsize=0, ms=3, lw=1, **style)


def plot_apart(all_curves, path):
    """
    Draw the case study of two galaxies drawn apart.

    Parameters
    ----------
    all_curves : dict
        Curves by encoder.

    path : path_like
        File to write.
    """
    has_model = any(
        np.isfinite(np.array(c['chi2'], dtype=float)).any() for c in all_curves.values()
    )
    n_panels = 4 if has_model else 3
    figure, panels = _figure(n_panels, (3.4 * n_panels, 3.6))
    styles = _styles(all_curves)
    many = len(all_curves) > 1
    for label, curves in all_curves.items():
        colour, marker = styles[label]
        x = curves['separation']
        name = f'{label}, ' if many else ''
        own = {'color': colour, 'marker': marker}
        second = {'color': colour if many else _COLOURS[1], 'marker': marker}
        for k, kind in enumerate(('found', 'flux')):
            dashed = {'ls': '--', 'mfc': 'w'}
            _bars(
                panels[k], x, curves[f'{kind}_bright'], label=f'{name}brighter', **own
            )
            _bars(
                panels[k],
                x,
                curves[f'{kind}_faint'],
                label=f'{name}fainter',
                **second,
                **dashed,
            )
        _bars(panels[2], x, curves['total_catalog'], label=f'{name}catalogue', **own)
        if np.isfinite(np.array(curves['total_posterior'], dtype=float)).any():
            _bars(
                panels[2],
                x,
                curves['total_posterior'],
                label=f'{name}posterior',
                **second,
                ls='--',
                mfc='w',
            )
        if has_model:
            _bars(panels[3], x, curves['chi2'], label=f'{name}reconstruction', **own)
            _bars(
                panels[3], x, curves['chi2_truth'], color='0.5', ls=':', label='truth'
            )
    _finish_apart(panels)
    figure.savefig(path, dpi=110)


def _finish_apart(panels):
    titles = (
        'found',
        'median flux / truth',
        'median total flux / truth',
        'chi-square per pixel',
    )
    for ax, title in zip(panels, titles, strict=False):
        ax.set(xlabel='separation (px)', title=title)
        ax.legend(fontsize=7)
    panels[0].set_ylim(-0.02, 1.02)
    panels[0].plot([3.5, 6], [0.5, 0.95], 'k+', ms=9)
    for ax in panels[1:3]:
        ax.axhline(1, color='0.7', lw=1, zorder=0)
    panels[2].axhspan(0.97, 1.03, color='0.93', zorder=0)


def plot_seams(profiles, path):
    """
    Draw detection probabilities across the borders of tiles.

    Parameters
    ----------
    profiles : dict
        By case, ``place`` (px from the border), and by axis the share found over its
        mean with errors.

    path : path_like
        File to write.
    """
    figure, panels = _figure(2, (9.0, 3.6))
    styles = _styles(profiles)
    for ax, axis in zip(panels, 'xy', strict=True):
        for label, own in profiles.items():
            colour, marker = styles[label]
            _bars(
                ax,
                own['place'],
                own[axis],
                color=colour,
                marker=marker,
                label=label,
            )
        ax.axhspan(0.98, 1.02, color='0.93', zorder=0)
        ax.axvline(0, color='0.6', lw=1, ls=':')
        ax.set(
            xlabel=f'{axis} from the border of tiles (px)',
            ylabel='detection probability / its mean',
        )
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


# Scores of the full table, their titles and where they should lie.
_PANELS = (
    ('recall', 'recall', None),
    ('class_accuracy', 'star/galaxy accuracy', None),
    ('flux_median', 'median flux residual', (-0.02, 0.02)),
    ('flux_coverage', 'coverage of 68 % of flux', (0.66, 0.70)),
    ('ellipticity_slope', 'slope of ellipticity', (0.97, 1.03)),
    ('ellipticity_coverage', 'coverage of 68 % of ellipticity', (0.66, 0.70)),
)
_DASHES = {'SEP': '--', 'photutils': ':'}


def plot_blends(details, path):
    """
    Draw the scores of the blend set by SNR and blendedness.

    Parameters
    ----------
    details : dict
        Of the report: ``scores`` by encoder, of which the first is drawn, and
        ``rivals``.

    path : path_like
        File to write.
    """
    label, ours = next(iter(details['scores'].items()))
    panels = [
        panel
        for panel in _PANELS
        if np.isfinite(np.array(ours[panel[0]], dtype=float)).any()
    ]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.3 * -(-len(panels) // 3)), layout='constrained')
    axes = figure.subplots(-(-len(panels) // 3), 3, squeeze=False).ravel()
    for ax, (name, title, band) in zip(axes, panels, strict=False):
        _by_snr(ax, ours, name)
        if name == 'recall':
            for rival, table in details['rivals'].items():
                _by_snr(ax, table, name, ls=_DASHES[rival])
        if band is not None:
            ax.axhspan(*band, color='0.93', zorder=0)
        ax.set(xscale='log', xlabel='SNR', title=title)
    for rival in details['rivals']:
        axes[0].plot([], [], color='0.4', ls=_DASHES[rival], label=rival)
    axes[0].legend(fontsize=7, title=label, title_fontsize=8)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.savefig(path, dpi=110)


def _by_snr(ax, table, name, *, ls='-'):
    columns = {k: np.array(table[k], dtype=float) for k in table}
    pairs = sorted(
        set(zip(columns['blendedness_low'], columns['blendedness_high'], strict=True))
    )
    for k, (low, high) in enumerate(pairs):
        own = (columns['blendedness_low'] == low) & (columns['n_matched'] >= 20)
        first, last = columns['snr_low'][own], columns['snr_high'][own]
        x = np.sqrt(np.maximum(first, 4) * np.minimum(last, 400))
        ours = ls == '-'
        words = f'blendedness {low:g} to {high:g}' if ours else None
        pair = np.stack([columns[name][own], columns[f'{name}_err'][own]], 1)
        style = {'color': _COLOURS[k % len(_COLOURS)], 'ls': ls}
        marker = _MARKERS[k % len(_MARKERS)] if ours else None
        _bars(ax, x, pair, marker=marker, label=words, **style)
