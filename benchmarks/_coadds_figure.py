# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The figure of the coadd experiment.
"""

import numpy as np

__all__ = ['PAPER', 'plot']

# What the paper prints: the single-exposure encoder "at about mag 23", a limit
# that holds for all coadd encoders, and flux residuals of the faintest bin.
PAPER = {
    'recall': {'single': 0.25, 'coadd': 0.70},
    'precision': {'single': 0.65},
    'flux residual by true magnitude': {'single': 0.20, 'coadd': 0.10},
}

_COLOURS = {
    1: '#b5443c',
    5: '#d99532',
    10: '#4c8f5b',
    25: '#2f6aa8',
    50: '#7a55a3',
    100: '#444444',
}
_TITLES = {
    'before_alignment': "noise before the alignment (the paper's text)",
    'after_alignment': "noise after the alignment (the paper's code)",
}
_PANELS = {
    'recall': ('recall', 'true magnitude', (0.2, 1.02)),
    'precision': ('precision', 'estimated magnitude', (0.5, 1.01)),
    'flux residual by true magnitude': (
        'flux residual / true flux',
        'true magnitude',
        (-0.2, 0.32),
    ),
}
_SHOWN = (1, 5, 10, 25)
# Where the paper's values for "about mag 23" are drawn.
_FAINTEST = 22.9
_RECALL = 'recall, true mag 22.75 to 23'
_PRECISION = 'precision, estimated mag > 22.5'


def _draw_curve(ax, rows, colour, *, bundled=False):
    rows = rows[rows[:, 0] >= 20]
    middle = 0.5 * (rows[:, 0] + rows[:, 1])
    if bundled:
        ax.plot(middle, rows[:, 3], '--', lw=1.1, color=colour, alpha=0.9)
        return
    ax.fill_between(middle, rows[:, 4], rows[:, 5], color=colour, alpha=0.3, lw=0)
    ax.plot(middle, rows[:, 3], 'o-', ms=2.6, lw=1.3, color=colour)
    for quartile in rows[:, 6:8].T:
        ax.plot(middle, quartile, ':', lw=0.8, color=colour)


def _draw_paper(ax, what):
    printed = PAPER[what]
    style = {'color': 'black', 'ms': 6, 'ls': '', 'zorder': 5, 'clip_on': False}
    ax.plot(_FAINTEST, printed['single'], marker='x', mew=1.6, **style)
    if what == 'recall':
        ax.plot(_FAINTEST, printed['coadd'], marker='^', mfc='white', **style)
    elif 'coadd' in printed:
        limits = [printed['coadd'], -printed['coadd']]
        for limit, marker in zip(limits, 'v^', strict=True):
            ax.plot(_FAINTEST, limit, marker=marker, mfc='white', **style)


def _draw_row(axes, described, order):
    for ax, (what, (label, xlabel, limits)) in zip(axes, _PANELS.items(), strict=True):
        for depth in _SHOWN:
            own = described.get((order, depth)) or described.get(
                ('before_alignment', depth) if depth == 1 else None
            )
            if own is None:
                continue
            _draw_curve(ax, own['own']['curves'][what], _COLOURS[depth])
            if own['bundled'] is not None:
                rows = own['bundled']['curves'][what]
                _draw_curve(ax, rows, _COLOURS[depth], bundled=True)
        _draw_paper(ax, what)
        ax.set(ylabel=label, xlim=(20, 23), ylim=limits)
        ax.set_xlabel(xlabel)
        ax.grid(alpha=0.25)
    axes[2].axhline(0, color='black', lw=0.7)
    axes[0].set_title(_TITLES[order], loc='left', fontsize=10)


def _by_depth(described, order, value):
    rows = []
    for group, own in sorted(described.items(), key=lambda item: item[0][1]):
        if group[0] == order or group[1] == 1:
            rows.append((group[1], *value(own['own'])))
    return np.array(rows).reshape(len(rows), -1)


_STYLES = {
    'before_alignment': {'marker': 'o', 'color': '#2f6aa8', 'ls': '-'},
    'after_alignment': {'marker': 's', 'color': '#c77f1c', 'ls': '-'},
}


def _errorbar(ax, rows, label, **style):
    ax.errorbar(
        *rows[:, :3].T, label=label, ms=4, lw=1.2, capsize=2, elinewidth=0.9, **style
    )


def _draw_depths(axes, described):
    for order, style in _STYLES.items():
        if not any(group[0] == order for group in described):
            continue
        label = order.replace('_', ' ')
        every = _by_depth(described, order, lambda own: own['shares'][_RECALL][:2])
        alone = _by_depth(described, order, lambda own: own['faint_isolated'][:2])
        _errorbar(axes[0], every, f'noise {label}', **style)
        _errorbar(axes[0], alone, None, **(style | {'ls': ':', 'mfc': 'white'}))
        rows = _by_depth(described, order, lambda own: own['shares'][_PRECISION][:2])
        _errorbar(axes[1], rows, None, **style)
        # Scatter of the fluxes at magnitude 22 to 22.5, and the bound.
        rows = _by_depth(described, order, lambda own: own['scatter'][-1, 3:])
        _errorbar(axes[2], rows, None, **style)
        axes[2].plot(rows[:, 0], rows[:, 3], ls=':', lw=1.2, color=style['color'])
    style = {'color': 'black', 'ms': 6, 'ls': '', 'zorder': 5}
    axes[0].plot(1, PAPER['recall']['single'], marker='x', mew=1.6, **style)
    coadds = np.array([5, 10, 25])
    limit = np.full(3, PAPER['recall']['coadd'])
    axes[0].plot(coadds, limit, marker='^', mfc='white', **style)
    axes[1].plot(1, PAPER['precision']['single'], marker='x', mew=1.6, **style)
    labels = (
        'recall, true mag 22.75-23',
        'precision, estimated mag > 22.5',
        'relative flux scatter, mag 22-22.5',
    )
    for ax, label in zip(axes, labels, strict=True):
        ax.set(xscale='log', xlabel='number of exposures d', ylabel=label)
        ax.set_xticks(list(_COLOURS), [str(d) for d in _COLOURS])
        ax.set_xlim(0.85, 118)
        ax.minorticks_off()
        ax.grid(alpha=0.25)
    axes[0].set_ylim(0.2, 1.02)
    axes[1].set_ylim(0.5, 1.01)
    axes[2].set_yscale('log')
    axes[2].set_ylim(0.008, 0.4)
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2]
    axes[2].set_yticks(ticks, [f'{100 * t:g} %' for t in ticks])
    axes[2].minorticks_off()
    axes[0].set_title('every depth', loc='left', fontsize=10)
    style = {'ls': ':', 'color': 'grey'}
    axes[0].plot([], [], marker='o', ms=4, mfc='white', label='isolated alone', **style)
    axes[0].legend(loc='lower right', fontsize=8)
    axes[2].plot([], [], label='Cramer-Rao bound of the coadd', **style)
    axes[2].legend(loc='upper right', fontsize=8)


def _legend(figure, described):
    from matplotlib.lines import Line2D

    depths = [d for d in _SHOWN if any(group[1] == d for group in described)]
    handles = [
        Line2D([], [], color=_COLOURS[d], marker='o', ms=4, label=f'd = {d}')
        for d in depths
    ]
    if any(own['bundled'] is not None for own in described.values()):
        handles.append(
            Line2D([], [], color='grey', ls='--', label="bundled encoder 'stars'")
        )
    black = {'color': 'black', 'ls': '', 'ms': 6}
    handles += [
        Line2D([], [], marker='x', mew=1.6, label='paper, d = 1', **black),
        Line2D(
            [], [], marker='^', mfc='white', label='paper, limit for coadds', **black
        ),
    ]
    figure.legend(handles=handles, loc='outside upper center', ncols=7, fontsize=9)


def plot(described, path):
    """
    Draw the paper's Figure 2 for both orders of the noise, and all depths.

    Parameters
    ----------
    described : dict
        By order of the noise and depth what `describe_group` returns.

    path : path_like
        PNG file.
    """
    import matplotlib as mpl

    mpl.use('agg')
    import matplotlib.pyplot as plt

    orders = [o for o in _TITLES if any(group[0] == o for group in described)]
    figure, axes = plt.subplots(
        len(orders) + 1,
        3,
        figsize=(11, 3.1 * (len(orders) + 1) + 0.4),
        layout='constrained',
        squeeze=False,
    )
    for row, order in zip(axes, orders, strict=False):
        _draw_row(row, described, order)
    _draw_depths(axes[-1], described)
    _legend(figure, described)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(f'figure: {path.name}, {path.stat().st_size / 1e3:.0f} kB')
