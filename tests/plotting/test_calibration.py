# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the figures of calibration: what is drawn where, and what is left alone.
"""

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from bliss_astro.metrics import (
    CalibrationReport,
    count_calibration,
    interval_coverage,
    rank_uniformity,
    reliability,
    sharpness,
)
from bliss_astro.plotting import (
    plot_calibration,
)


@pytest.fixture(scope='module')
def ranks():
    rng = np.random.default_rng(1)
    return rank_uniformity(
        rng.uniform(size=600) ** 1.5, groups=np.repeat(['a', 'b'], 300), n_bins=10
    )


def points(ax):
    """
    The data of the points with error bars.
    """
    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    return [np.array(bar.lines[0].get_data()) for bar in bars]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


class TestRanks:
    def test_histogram(self, ax, ranks):
        assert ranks.plot(ax=ax) is ax
        first, second = ax.lines[1:]
        assert_allclose(first.get_ydata()[::2], ranks['counts'][0] / 30)
        assert_allclose(second.get_ydata()[::2], ranks['counts'][1] / 30)
        # One band serves groups of one size.
        assert len(ax.collections) == 1
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert_allclose(band.max(), ranks['counts_high'][0, 0] / 30)
        assert legend(ax) == ['95 % if calibrated', 'a', 'b']
        ax.figure.canvas.draw()

    def test_ecdf(self, ax, ranks):
        ranks.plot(ax=ax, kind='ecdf', label=['one', 'two'])
        x, y = ax.lines[1].get_data()
        assert_allclose(y[1:-1], ranks['ecdf'][0] - ranks.meta['points'])
        assert (x[0], x[-1], y[0], y[-1]) == (0, 1, 0, 0)
        assert legend(ax)[1:] == ['one', 'two']

    def test_unequal_groups_have_bands_of_their_own(self, ax):
        groups = np.repeat(['a', 'b'], [100, 500])
        result = rank_uniformity(
            np.random.default_rng(2).uniform(size=600), groups=groups
        )
        result.plot(ax=ax)
        assert len(ax.collections) == 2

    def test_new_figure_and_errors(self, ranks):
        assert ranks.plot().get_xlabel() == 'Rank of the truth in its posterior'
        with pytest.raises(ValueError, match="kind must be one of 'histogram', 'ecdf'"):
            ranks.plot(kind='hist')
        with pytest.raises(ValueError, match='label must name 2 groups; got 1'):
            ranks.plot(label='one')

    def test_few(self, ax):
        rank_uniformity([0.2, 0.4]).plot(ax=ax, kind='ecdf')
        ax.figure.canvas.draw()


class TestOthers:
    def test_reliability(self, ax):
        rng = np.random.default_rng(3)
        p = rng.uniform(0, 0.5, 500)
        result = reliability(p, rng.uniform(size=500) < p)
        result.plot(ax=ax)
        [drawn] = points(ax)
        assert_allclose(drawn, [result['probability'][:5], result['fraction'][:5]])
        heights = [bar.get_height() for bar in ax.patches]
        assert_allclose(heights, 0.2 * result['n'] / result['n'].max())
        assert f'{result.meta["error"]:.3f}' in legend(ax)[0]
        ax.figure.canvas.draw()
        reliability([], []).plot()

    def test_counts(self, ax):
        rng = np.random.default_rng(4)
        rate = rng.gamma(3, 1, 400)
        result = count_calibration(rng.poisson(rate), rate, ranks=rng.uniform(size=400))
        result.plot(ax=ax, tolerance=0.05)
        [drawn] = points(ax)
        assert_allclose(drawn, [result['expected'], 100 * result['relative']])
        assert legend(ax) == ['within 5 %']
        assert 'KS p' in ax.get_title()
        ax.figure.canvas.draw()

    def test_sharpness(self, ax):
        result = sharpness(
            width=[1.0, 1.2], bound=[1.0, 1.0], residuals=[0.1, 0.2], groups=['a', 'b']
        )
        result.plot(ax=ax)
        width, _ = points(ax)
        assert_allclose(width[1], [1.0, 1.2])
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ['a', 'b']
        ax.figure.canvas.draw()
        alone = sharpness([-1.0, -2.0]).plot()
        assert alone.get_ylabel() == 'Mean log score (nats)'
        assert_allclose(points(alone)[0][1], [-1.5])


class TestReport:
    def test_all_panels(self):
        rng = np.random.default_rng(5)
        n = 400
        truth = rng.normal(size=n)
        rate = rng.gamma(3, 1, n)
        p = rng.uniform(size=n)
        report = CalibrationReport(
            {'flux': rng.uniform(size=n)},
            intervals={
                'size': interval_coverage(truth, truth - 1, truth + 1, level=0.9)
            },
            true_counts=rng.poisson(rate),
            expected_counts=rate,
            probability=p,
            is_real=rng.uniform(size=n) < p,
            log_prob={'flux': rng.normal(size=n)},
        )
        axes = report.plot()
        titles = [ax.get_title() for ax in axes]
        assert titles[:3] == [
            'flux: histogram of ranks',
            'flux: distribution of ranks',
            'flux: coverage',
        ]
        assert titles[3:] == ['size', 'counts', 'detection', 'flux: sharpness']
        offset = 100 * (
            report.coverage['flux']['coverage'] - report.coverage['flux']['level']
        )
        assert_allclose(points(axes[2])[0][1], offset)
        axes[0].figure.canvas.draw()

    def test_given_figure(self):
        from matplotlib import pyplot as plt

        figure = Figure()
        report = CalibrationReport(probability=[0.2, 0.8], is_real=[False, True])
        axes = plot_calibration(report, figure=figure)
        assert figure.axes == axes
        assert plt.get_fignums() == []
