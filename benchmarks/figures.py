# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of the performance page, drawn from the results table.

``python benchmarks/figures.py`` writes ``docs/_static/performance_*.png``.
"""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
from harness import OURS, read_results

mpl.use('Agg')
import matplotlib.pyplot as plt

STATIC = Path(__file__).parents[1] / 'docs' / '_static'
COLORS = {OURS: 'tab:blue', 'SEP': 'tab:orange', 'photutils': 'tab:green'}


def select(table, benchmark, quantity, method=OURS):
    """Rows of one quantity by their case."""
    keep = (table['benchmark'] == benchmark) & (table['quantity'] == quantity)
    return {row['case']: row for row in table[keep & (table['method'] == method)]}


def completeness(table):
    """Completeness and purity of stars by magnitude and depth."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True, sharey=True)
    quantities = ('recall by true magnitude', 'precision by estimated magnitude')
    names = ('completeness', 'purity')
    for axis, quantity, name in zip(axes, quantities, names, strict=True):
        points = {}
        for case, row in select(table, 'stars_accuracy', quantity).items():
            depth, low, high = re.fullmatch(
                r'd = (\d+), magnitude ([\d.]+) to ([\d.]+)', case
            ).groups()
            middle = 0.5 * (float(low) + float(high))
            points.setdefault(depth, []).append((middle, row['value'], row['error']))
        for depth, values in points.items():
            x, y, error = np.transpose(sorted(values))
            axis.errorbar(x, y, error, label=f'd = {depth}', marker='.', capsize=2)
        axis.set(xlim=(17.5, 23), ylim=(0.45, 1.02), ylabel=name)
    axes[0].set_xlabel('true magnitude')
    axes[1].set_xlabel('estimated magnitude')
    axes[1].legend(title='exposures')
    return figure


def blends(table):
    """Completeness of blends by blendedness, and of pairs by their separation."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    cases = ('blendedness < 0.2', 'blendedness 0.2 to 0.5', 'blendedness > 0.5')
    quantity = 'recall at the precision of SEP, SNR > 7'
    for k, method in enumerate(('SEP', 'photutils', OURS)):
        name = 'recall, SNR > 7' if method == 'photutils' else quantity
        rows = select(table, 'blends', name, method)
        heights = [rows[case]['value'] for case in cases]
        x = np.arange(3) + 0.27 * (k - 1)
        axes[0].bar(x, heights, width=0.25, label=method, color=COLORS[method])
    axes[0].set_xticks(range(3), ['< 0.2', '0.2 to 0.5', '> 0.5'])
    axes[0].set(xlabel='blendedness', ylabel='completeness, SNR > 7')
    axes[0].legend()
    for quantity in ('fainter galaxy found', 'both galaxies found'):
        rows = select(table, 'separation', quantity)
        points = [
            (float(c.split()[1]), r['value'], r['error']) for c, r in rows.items()
        ]
        x, y, error = np.transpose(sorted(points))
        axes[1].errorbar(x, y, error, marker='.', capsize=2, label=quantity)
    axes[1].set(xlabel='separation of two galaxies (px)', xlim=(0, 10))
    axes[1].axvline(4, color='0.6', linestyle=':', label='FWHM of the PSF')
    axes[1].legend(loc='lower right')
    return figure


def time(table):
    """Time of a frame beside photutils and SEP, and of its stages."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    for method in ('SEP', 'photutils', OURS):
        row = select(table, 'speed', 'time', method)['SDSS frame, sparse']
        axes[0].barh(method, row['value'], color=COLORS[method])
    axes[0].set(xlabel='time of an SDSS frame (s)')
    for case, row in reversed(select(table, 'speed', 'CPU time').items()):
        if case.startswith('frame, '):
            axes[1].barh(case.removeprefix('frame, '), row['value'], color='tab:blue')
    axes[1].set(xlabel='CPU time of its stages (s)')
    return figure


def main():
    table = read_results()
    for draw in (completeness, blends, time):
        figure = draw(table)
        figure.tight_layout()
        figure.savefig(STATIC / f'performance_{draw.__name__}.png', dpi=130)


if __name__ == '__main__':
    main()
