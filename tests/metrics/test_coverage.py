# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the calibration metrics with right, too wide and too narrow posteriors.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bliss_astro.metrics import (
    interval_coverage,
    mean_log_score,
    posterior_ranks,
    quantile_groups,
    randomized_pit,
    rank_coverage,
)

N = 20_000


@pytest.fixture(scope='module')
def gaussian():
    """
    Truth ~ N(0, 1), data = truth + N(0, 1): the posterior is N(data / 2, 1 / 2).
    """
    rng = np.random.default_rng(11)
    truth = rng.normal(size=N)
    mean = (truth + rng.normal(size=N)) / 2
    return truth, mean, np.sqrt(0.5)


class TestCoverage:
    def test_exact_posterior(self, gaussian):
        truth, mean, sigma = gaussian
        groups = quantile_groups(mean)
        result = rank_coverage(stats.norm.cdf(truth, mean, sigma), groups=groups)
        error = np.sqrt(result.levels * (1 - result.levels) / result.n[:, np.newaxis])
        assert result.coverage.shape == (3, 4)
        assert (abs(result.coverage - result.levels) < 4 * error).all()
        assert_array_equal(result.labels, [0, 1, 2])

    @pytest.mark.parametrize(('scale', 'sign'), [(1.3, 1), (0.7, -1)])
    def test_wrong_width(self, gaussian, scale, sign):
        truth, mean, sigma = gaussian
        result = rank_coverage(stats.norm.cdf(truth, mean, scale * sigma))
        assert (sign * (result.coverage - result.levels) > 0.02).all()

    def test_intervals_and_ranks_agree(self, gaussian):
        truth, mean, sigma = gaussian
        half = stats.norm.ppf(0.84) * sigma
        direct = interval_coverage(truth, mean - half, mean + half, level=0.68)
        ranks = rank_coverage(stats.norm.cdf(truth, mean, sigma), [0.68])
        assert_array_equal(direct.n_covered, ranks.n_covered)
        assert direct.levels[0] == 0.68
        assert direct.low < direct.coverage < direct.high

    def test_units_and_groups(self):
        result = interval_coverage(
            [1, 2] * u.Jy, [500, 0] * u.mJy, [1500, 1] * u.mJy, groups=['a', 'b']
        )
        assert_array_equal(result.coverage, [[1], [0]])
        assert len(result.to_table()) == 2
        assert 'group' in repr(result)

    def test_empty(self):
        result = rank_coverage([])
        assert_array_equal(result.n, [0])
        assert np.isnan(result.coverage).all()

    def test_errors(self):
        with pytest.raises(ValueError, match='lower must not exceed upper'):
            interval_coverage([1], [2], [1])
        with pytest.raises(ValueError, match='upper has 2 values, but truth has 1'):
            interval_coverage([1], [0], [1, 2])
        with pytest.raises(ValueError, match='truth must not be NaN'):
            interval_coverage([np.nan], [0], [1])
        with pytest.raises(ValueError, match='ranks must be between'):
            rank_coverage([1.2])
        with pytest.raises(ValueError, match='levels must be between'):
            rank_coverage([0.2], [68])
        with pytest.raises(ValueError, match=r'groups must have the shape \(1,\)'):
            rank_coverage([0.2], groups=[1, 2])


class TestRanks:
    def test_samples(self, gaussian):
        truth, mean, sigma = gaussian[0][:4000], gaussian[1][:4000], gaussian[2]
        rng = np.random.default_rng(1)
        samples = rng.normal(mean[:, np.newaxis], sigma, (len(mean), 19))
        ranks = posterior_ranks(samples, truth, rng=2)
        assert stats.kstest(ranks, 'uniform').pvalue > 0.001

    def test_counts(self):
        rng = np.random.default_rng(3)
        rate = rng.gamma(2.0, 1.0, 4000)
        truth = rng.poisson(rate)
        below, at = stats.poisson.cdf(truth - 1, rate), stats.poisson.cdf(truth, rate)
        assert stats.kstest(randomized_pit(below, at, rng=1), 'uniform').pvalue > 0.001
        samples = rng.poisson(rate[:, np.newaxis], (4000, 50))
        ranks = posterior_ranks(samples, truth, rng=2)
        assert stats.kstest(ranks, 'uniform').pvalue > 0.001

    def test_errors(self):
        with pytest.raises(ValueError, match=r'shape \(2, n_samples\)'):
            posterior_ranks([[1.0, 2.0]], [1.0, 2.0])
        with pytest.raises(ValueError, match='samples must not be NaN'):
            posterior_ranks([[np.nan]], [1.0])
        with pytest.raises(ValueError, match='cdf_below <= cdf_at'):
            randomized_pit([0.5], [0.4])

    def test_quantile_groups(self):
        values = np.random.default_rng(0).normal(size=999)
        groups = quantile_groups(values, 3)
        assert_array_equal(np.bincount(groups), [333, 333, 333])
        assert values[groups == 0].max() < values[groups == 1].min()
        assert len(quantile_groups([])) == 0
        with pytest.raises(ValueError, match='n_groups must be at least 1'):
            quantile_groups([1.0], 0)


class TestLogScore:
    def test_exact_posterior_is_best(self, gaussian):
        truth, mean, sigma = gaussian
        scores = [
            mean_log_score(stats.norm.logpdf(truth, mean, k * sigma))
            for k in (0.7, 1.0, 1.3)
        ]
        assert scores[1].mean > scores[0].mean
        assert scores[1].mean > scores[2].mean
        entropy = -0.5 * np.log(2 * np.pi * np.e * sigma**2)
        assert abs(scores[1].mean - entropy) < 4 * scores[1].mean_err
        assert_allclose(scores[1].mean_err, np.sqrt(0.5 / N), rtol=0.05)

    def test_groups_and_impossible(self):
        score = mean_log_score([-1.0, -3.0, -np.inf], groups=['a', 'a', 'b'])
        assert_array_equal(score.mean, [-2, -np.inf])
        assert_allclose(score.mean_err[0], 1)
        assert np.isnan(score.mean_err[1])
        assert np.isnan(mean_log_score([]).mean).all()
        with pytest.raises(ValueError, match='log_prob must not be NaN'):
            mean_log_score([np.nan])
