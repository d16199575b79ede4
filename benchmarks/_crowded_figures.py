# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of the crowded field: the cut-out with everyone's stars, F1 by magnitude.
"""

from pathlib import Path

import numpy as np

__all__ = ['draw_field', 'draw_scores']


def _size(mag):
    return 4 + 26 * np.clip(21.5 - mag, 0, 5)


def draw_field(image, cells, catalogs, path, *, window, limit=21.0):
    """
    The image with the true stars, and on each panel one catalogue's.

    Parameters
    ----------
    image : 2D array
        The frame's part of ``window``, in units of its noise.

    cells : `~_crowded_truth.Cells`
        Shaded where nothing counts.

    catalogs : dict of dict
        By title; the first one is the truth.

    path : path_like
        A PNG file.

    window : pair of pair of int
        First and last column and row on the frame.

    limit : float, optional
        Faintest magnitude that is drawn.
    """
    from matplotlib.figure import Figure

    (x0, x1), (y0, y1) = window
    extent = (x0 - 0.5, x1 - 0.5, y0 - 0.5, y1 - 0.5)
    names = list(catalogs)
    truth = catalogs[names[0]]
    figure = Figure(figsize=(4.2 * len(names), 4.4), layout='constrained')
    panels = np.atleast_1d(figure.subplots(1, len(names), sharex=True, sharey=True))
    inside = cells.mask(image.shape, (x0, y0))
    for axes, name in zip(panels, names, strict=True):
        axes.imshow(
            np.arcsinh(image / 20),
            origin='lower',
            extent=extent,
            cmap='gray',
            vmax=3.5,
        )
        axes.contour(
            inside, [0.5], extent=extent, colors='tab:green', linewidths=0.6, alpha=0.8
        )
        bright = truth['mag'] < limit
        axes.scatter(
            truth['x'][bright],
            truth['y'][bright],
            s=_size(truth['mag'][bright]),
            facecolor='none',
            edgecolor='tab:orange',
            linewidth=0.8,
        )
        if name != names[0]:
            own = catalogs[name]
            bright = own['mag'] < limit
            axes.plot(own['x'][bright], own['y'][bright], 'c+', ms=5, mew=1.0)
        axes.set(title=name, xlabel='x (px)', xlim=(x0, x1), ylim=(y0, y1))
    panels[0].set_ylabel('y (px)')
    figure.savefig(path, dpi=110)
    _say(path)


def draw_scores(scores, path):
    """
    Precision, recall and F1 by magnitude.

    Parameters
    ----------
    scores : dict of list of dict
        By method, from `~_crowded_scores.score_bins`.

    path : path_like
        A PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.4), layout='constrained')
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, key in zip(panels, ('precision', 'recall', 'f1'), strict=True):
        for k, (name, rows) in enumerate(scores.items()):
            middle = [0.5 * (row['low'] + row['high']) for row in rows]
            middle = np.array(middle) + 0.04 * k
            value = [row[key] for row in rows]
            error = [row['f1_err'] for row in rows] if key == 'f1' else None
            axes.errorbar(middle, value, error, marker='o', ms=4, label=name, capsize=2)
        axes.set(title='F1' if key == 'f1' else key, xlabel='r (mag)', ylim=(0, 1))
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    _say(path)


def _say(path):
    path = Path(path)
    print(f'figure: {path.name}, {path.stat().st_size / 1e3:.0f} kB')
