# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The figures of the experiment with stars and galaxies.
"""

import numpy as np

__all__ = ['LABELS', 'plot_all']

LABELS = {
    'single-field': 'single field',
    'many-fields-image': 'many fields, image only',
    'many-fields-all': 'many fields, told background and PSF',
    'ours': 'ours',
}
_COLOURS = {
    'single-field': '#b5443c',
    'many-fields-image': '#d99532',
    'many-fields-all': '#2f6aa8',
    'ours': '#4c8f5b',
}
_TESTS = {'many': 'tested on many fields', 'single': 'tested on the single field'}
# What the paper prints: a limit and the magnitude up to which it is said to hold.
PRINTED = {'precision': (0.95, 21.5), 'recall': (0.90, 21.2), 'accuracy': (0.96, 22.0)}
_BRIGHT_END = 16.8


def _start():
    import matplotlib as mpl

    mpl.use('agg')
    import matplotlib.pyplot as plt

    return plt


def _middle(rows):
    low = np.where(np.isfinite(rows[:, 0]), rows[:, 0], _BRIGHT_END)
    return 0.5 * (low + rows[:, 1])


def _draw(ax, rows, label, *, places=None):
    # Rows: low, high, n, value, error, band.
    rows = np.array(rows, dtype=float)
    x = _middle(rows) if places is None else places
    colour = _COLOURS.get(label, 'black')
    ax.fill_between(x, rows[:, 5], rows[:, 6], color=colour, alpha=0.25, lw=0)
    ax.plot(x, rows[:, 3], 'o-', ms=3, lw=1.2, color=colour, label=LABELS.get(label))


def _draw_oracle(ax, oracle, name):
    if oracle is None:
        return
    rows = np.array(oracle['tenths'][name], dtype=float)
    style = {'color': 'black', 'ms': 3, 'lw': 1, 'capsize': 2, 'zorder': 4}
    ax.errorbar(
        _middle(rows), rows[:, 3], rows[:, 4], fmt='s:', label='oracle', **style
    )


def _draw_printed(ax, name):
    value, last = PRINTED[name]
    style = {'color': 'black', 'lw': 0.9, 'ls': '--'}
    ax.plot([_BRIGHT_END, last], [value, value], label='paper, limit', **style)


def _log_axis(ax):
    values = np.concatenate([line.get_ydata() for line in ax.get_lines()])
    if not (values > 0).any():  # nothing was found
        return
    ax.set_yscale('log')
    ticks = [1, 2, 5, 10, 20, 50]
    ax.set_yticks(ticks, [f'{t:g}' for t in ticks])
    ax.minorticks_off()


def _save(figure, plt, folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}.png'
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(f'figure: {path.name}, {path.stat().st_size / 1e3:.0f} kB')


def _legend(figure, ax, ncols=6):
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside upper center', ncols=ncols, fontsize=8.5
    )


def _detection(plt, described, folder):
    figure, axes = plt.subplots(
        len(described), 2, figsize=(9, 2.9 * len(described) + 0.5), squeeze=False
    )
    figure.set_layout_engine('constrained')
    for row, (which, encoders) in zip(axes, described.items(), strict=True):
        for ax, name in zip(row, ('precision', 'recall'), strict=True):
            for label, own in encoders.items():
                _draw(ax, own['tenths'][name], label)
            _draw_printed(ax, name)
            by = 'estimated' if name == 'precision' else 'true'
            ax.set(xlabel=f'{by} r', ylabel=name)
            ax.set_ylim(min(0.7, ax.get_ylim()[0]), 1.01)
            ax.grid(alpha=0.25)
        row[0].set_title(_TESTS[which], loc='left', fontsize=10)
    _legend(figure, axes[0, 0], ncols=3)
    _save(figure, plt, folder, 'fields_detection')


def _classes(plt, described, oracle, folder):
    encoders = described['many']
    figure, axes = plt.subplots(2, 2, figsize=(9, 7.2), layout='constrained')
    ax = axes[0, 0]
    for label, own in encoders.items():
        _draw(ax, own['tenths']['accuracy'], label)
    _draw_oracle(ax, oracle, 'expected accuracy')
    _draw_printed(ax, 'accuracy')
    ax.set(xlabel='true r', ylabel='star/galaxy accuracy')
    names = ('all', 'brightest tenth', 'faintest tenth')
    for ax, name in zip(axes.flat[1:], names, strict=True):
        for label, own in encoders.items():
            curve = own['roc'][name]
            ax.plot(
                curve['false_positive_rate'],
                curve['true_positive_rate'],
                color=_COLOURS[label],
                lw=1.3,
                label=f'{LABELS[label]}: {curve["auc"][1]:.3f}',
            )
        if oracle is not None:
            curve = oracle['roc'][name]
            ax.plot(
                curve['false_positive_rate'],
                curve['true_positive_rate'],
                'k:',
                lw=1,
                label=f'oracle: {curve["auc"][1]:.3f}',
            )
        ax.set(xlabel='stars called galaxies', ylabel='galaxies called galaxies')
        ax.set_title(f'ROC, {name}', loc='left', fontsize=10)
        ax.legend(loc='lower right', fontsize=7.5, title='area', title_fontsize=8)
        if name == 'brightest tenth':
            ax.set(xlim=(0, 0.2), ylim=(0.8, 1.005))
    for ax in axes.flat:
        ax.grid(alpha=0.25)
    _legend(figure, axes[0, 0], ncols=3)
    _save(figure, plt, folder, 'fields_classes')


def _fluxes(plt, described, oracle, folder):
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout='constrained')
    for ax, kind in zip(axes, ('all', 'stars', 'galaxies'), strict=True):
        name = 'mape' if kind == 'all' else f'mape, {kind}'
        for label, own in described['many'].items():
            _draw(ax, own['tenths'][name], label)
        _draw_oracle(ax, oracle, name)
        ax.set(xlabel='true r', ylabel=f'flux MAPE in %, {kind}')
        _log_axis(ax)
        ax.grid(alpha=0.25)
    _legend(figure, axes[0])
    _save(figure, plt, folder, 'fields_fluxes')


def _coverage(plt, described, folder):
    figure, axes = plt.subplots(
        len(described),
        2,
        figsize=(9, 3.1 * len(described) + 0.5),
        layout='constrained',
        squeeze=False,
    )
    for row, (which, encoders) in zip(axes, described.items(), strict=True):
        for ax, kind in zip(row, ('stars', 'galaxies'), strict=True):
            for label, own in encoders.items():
                table = own['coverage']['protocol'][kind]
                levels = np.array(table['curve_levels'])
                rows = np.array(table['curve'], dtype=float)
                ax.fill_between(
                    levels,
                    rows[:, 3] - levels,
                    rows[:, 4] - levels,
                    color=_COLOURS[label],
                    alpha=0.25,
                    lw=0,
                )
                ax.plot(levels, rows[:, 1] - levels, color=_COLOURS[label], lw=1.3)
            ax.plot([], [])
            ax.axhline(0, color='black', lw=0.7)
            ax.axhspan(-0.02, 0.02, color='black', alpha=0.06, lw=0)
            # The paper: 60 % cover 48 % (single field) and 70 % (told the PSF).
            ax.plot(0.6, -0.12, 'x', color=_COLOURS['single-field'], mew=1.6)
            ax.plot(0.6, 0.10, 'x', color=_COLOURS['many-fields-all'], mew=1.6)
            ax.set(xlabel='nominal level', ylabel='coverage minus level', xlim=(0, 1))
            ax.set_title(f'{kind}, {_TESTS[which]}', loc='left', fontsize=10)
            ax.grid(alpha=0.25)
    from matplotlib.lines import Line2D

    names = {label: None for own in described.values() for label in own}
    handles = [
        Line2D([], [], color=_COLOURS[label], label=LABELS[label]) for label in names
    ]
    handles.append(Line2D([], [], marker='x', ls='', color='black', label='paper'))
    figure.legend(handles=handles, loc='outside upper center', ncols=3, fontsize=8.5)
    _save(figure, plt, folder, 'fields_coverage')


def _counts(plt, described, folder):
    figure, axes = plt.subplots(
        1, len(described), figsize=(4.6 * len(described), 3.7), squeeze=False
    )
    figure.set_layout_engine('constrained')
    for ax, (which, encoders) in zip(axes[0], described.items(), strict=True):
        for label, own in encoders.items():
            rows = np.array(own['counts']['of draws'], dtype=float)[:-1]
            ax.errorbar(
                rows[:, 0],
                rows[:, 2],
                rows[:, 3],
                fmt='o-',
                ms=3.5,
                lw=1.2,
                capsize=2,
                color=_COLOURS[label],
                label=LABELS[label],
            )
        ax.axhline(0, color='black', lw=0.7)
        ax.axhspan(-0.02, 0.02, color='black', alpha=0.06, lw=0)
        ax.set(xlabel='expected count of an image')
        ax.set_ylabel('(true - expected) / expected')
        ax.set_title(_TESTS[which], loc='left', fontsize=10)
        ax.grid(alpha=0.25)
    _legend(figure, axes[0, 0], ncols=2)
    _save(figure, plt, folder, 'fields_counts')


def _by_snr(plt, described, folder):
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout='constrained')
    for ax, name in zip(axes, ('recall', 'accuracy', 'mape'), strict=True):
        for label, own in described['many'].items():
            rows = np.array(own['by_snr'][name], dtype=float)
            low = np.maximum(rows[:, 0], 3)
            high = np.where(np.isfinite(rows[:, 1]), rows[:, 1], 1000)
            _draw(ax, rows, label, places=np.sqrt(low * high))
        ax.set(xlabel='optimal SNR of the isolated source', xscale='log')
        ax.set_ylabel('flux MAPE in %' if name == 'mape' else name)
        ax.grid(alpha=0.25)
    _log_axis(axes[2])
    _legend(figure, axes[0])
    _save(figure, plt, folder, 'fields_snr')


def plot_all(described, oracle, folder):
    """
    Draw the paper's figures 4 to 9, and one more by SNR.

    Parameters
    ----------
    described : dict
        By kind of images and encoder what `describe` returns.

    oracle : dict or None
        From `describe_oracle`.

    folder : path_like
        For the PNG files ``fields_*.png``.
    """
    plt = _start()
    _detection(plt, described, folder)
    if 'many' in described:
        _classes(plt, described, oracle, folder)
        _fluxes(plt, described, oracle, folder)
        _by_snr(plt, described, folder)
    _coverage(plt, described, folder)
    _counts(plt, described, folder)
