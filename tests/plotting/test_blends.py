# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the figure of scores in blends.
"""

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose

from bliss_astro.plotting import plot_blend_scores


def table(snr=(1.0, 10.0, 100.0)):
    """
    Two bins of blendedness, as score_blends writes them.
    """
    blend = (0.0, 0.1, 1.0)
    low = [(a, b) for a in snr[:-1] for b in blend[:-1]]
    high = [(a, b) for a in snr[1:] for b in blend[1:]]
    scores = QTable()
    for k, name in enumerate(('snr', 'blendedness')):
        scores[f'{name}_low'] = [v[k] for v in low]
        scores[f'{name}_high'] = [v[k] for v in high]
    scores['recall'] = np.linspace(0.2, 0.8, len(low))
    scores['recall_err'] = 0.05
    scores['flux_coverage'] = np.r_[np.nan, np.full(len(low) - 1, 0.6)]
    scores['flux_coverage_err'] = np.r_[np.nan, np.full(len(low) - 1, 0.1)]
    return scores


def test_what_is_drawn(ax):
    scores = table()
    assert plot_blend_scores(scores, ax=ax) is ax
    assert ax.get_xscale() == 'log'
    lines = [container.lines[0] for container in ax.containers]
    assert len(lines) == 2
    assert_allclose(lines[0].get_ydata(), scores['recall'][::2])
    assert_allclose(lines[1].get_ydata(), scores['recall'][1::2])
    # In the logarithmic middle of the bins, a little apart.
    assert_allclose(lines[0].get_xdata(), np.array([1, 10]) * 10**0.5, rtol=0.1)
    assert (lines[0].get_xdata() < lines[1].get_xdata()).all()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ['blendedness 0 to 0.1', 'blendedness 0.1 to 1']
    assert ax.get_ylabel() == 'Recall'
    plot_blend_scores(scores, ax=ax, label='other', fmt='--')
    assert len(ax.containers) == 4
    assert ax.containers[2].lines[0].get_linestyle() == '--'


def test_empty_and_open_bins(ax):
    scores = table((-np.inf, 0.0, 10.0, np.inf))
    plot_blend_scores(scores, 'flux_coverage', ax=ax)
    assert ax.get_xscale() == 'linear'
    x = [container.lines[0].get_xdata() for container in ax.containers]
    assert_allclose(x[0], [5, 15], atol=0.5)  # the first is empty
    assert_allclose(x[1], [-5, 5, 15], atol=0.5)


def test_new_figure():
    from matplotlib import pyplot as plt

    axes = plot_blend_scores(table(), 'flux_coverage')
    assert plt.get_fignums() == [axes.figure.number]
    # The nominal level is drawn too.
    assert any(np.allclose(line.get_ydata(), 0.6827) for line in axes.lines)


def test_bad_arguments(ax):
    with pytest.raises(ValueError, match='which'):
        plot_blend_scores(table(), 'f1', ax=ax)
    with pytest.raises(ValueError, match='which'):
        plot_blend_scores(table(), 'flux_median', ax=ax)
    with pytest.raises(ValueError, match='finite bin'):
        plot_blend_scores(table((-np.inf, np.inf)), ax=ax)
