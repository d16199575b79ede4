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
    posterior_ranks,
    rank_coverage,
    sharpness,
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
        groups = np.digitize(mean, np.quantile(mean, [1 / 3, 2 / 3]))
        result = rank_coverage(stats.norm.cdf(truth, mean, sigma), groups=groups)
        error = np.sqrt(result['level'] * (1 - result['level']) / result['n'])
        assert len(result) == 12
        assert (abs(result['coverage'] - result['level']) < 4 * error).all()
        assert_array_equal(result['group'], np.repeat([0, 1, 2], 4))

    @pytest.mark.parametrize(('scale', 'sign'), [(1.3, 1), (0.7, -1)])
    def test_wrong_width(self, gaussian, scale, sign):
        truth, mean, sigma = gaussian
        result = rank_coverage(stats.norm.cdf(truth, mean, scale * sigma))
        assert (sign * (result['coverage'] - result['level']) > 0.02).all()

    def test_intervals_and_ranks_agree(self, gaussian):
        truth, mean, sigma = gaussian
        half = stats.norm.ppf(0.84) * sigma
        direct = interval_coverage(truth, mean - half, mean + half, level=0.68)
        ranks = rank_coverage(stats.norm.cdf(truth, mean, sigma), [0.68])
        assert_array_equal(direct['n_covered'], ranks['n_covered'])
        assert direct['level'][0] == 0.68
        assert direct['coverage_low'] < direct['coverage'] < direct['coverage_high']

    def test_confidence_is_that_of_the_interval(self):
        ranks = np.linspace(0.0005, 0.9995, 1000)
        results = [rank_coverage(ranks, [0.5], confidence=q) for q in (0.683, 0.954)]
        half = [(r['coverage_high'] - r['coverage_low'])[0] / 2 for r in results]
        # One and two standard deviations of a binomial share.
        assert_allclose(half, np.array([1, 2]) * 0.5 / np.sqrt(1000), rtol=0.01)

    def test_units_and_groups(self):
        result = interval_coverage(
            [1, 2] * u.Jy, [500, 0] * u.mJy, [1500, 1] * u.mJy, groups=['a', 'b']
        )
        assert_array_equal(result['coverage'], [1, 0])
        assert_array_equal(result['group'], ['a', 'b'])

        with pytest.raises(u.UnitConversionError, match='lower has no unit, but'):
            interval_coverage([1] * u.Jy, [0], [2] * u.Jy)
        with pytest.raises(u.UnitConversionError, match='lower has the unit Jy, but'):
            interval_coverage([1], [0] * u.Jy, [2])
        plain = interval_coverage([1], [0] * u.one, [2])
        assert plain['n_covered'] == 1

    def test_empty(self):
        result = rank_coverage([])
        assert_array_equal(result['n'], 0)
        assert np.isnan(result['coverage']).all()

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
        samples = rng.poisson(rate[:, np.newaxis], (4000, 50))
        ranks = posterior_ranks(samples, rng.poisson(rate), rng=2)
        assert stats.kstest(ranks, 'uniform').pvalue > 0.001

    def test_errors(self):
        with pytest.raises(ValueError, match=r'shape \(2, n_samples\)'):
            posterior_ranks([[1.0, 2.0]], [1.0, 2.0])
        with pytest.raises(ValueError, match='samples must not be NaN'):
            posterior_ranks([[np.nan]], [1.0])


class TestSharpness:
    def test_log_score_of_the_exact_posterior_is_best(self, gaussian):
        truth, mean, sigma = gaussian
        scores = [
            sharpness(stats.norm.logpdf(truth, mean, k * sigma))
            for k in (0.7, 1.0, 1.3)
        ]
        best = scores[1]['log_score']
        assert best > max(scores[0]['log_score'], scores[2]['log_score'])
        entropy = -0.5 * np.log(2 * np.pi * np.e * sigma**2)
        assert abs(best - entropy) < 4 * scores[1]['log_score_err']
        assert_allclose(scores[1]['log_score_err'], np.sqrt(0.5 / N), rtol=0.05)

    def test_log_scores_of_groups(self):
        score = sharpness([-1.0, -3.0, -np.inf], groups=['a', 'a', 'b'])
        assert_array_equal(score['log_score'], [-2, -np.inf])
        assert_allclose(score['log_score_err'][0], 1)
        assert np.isnan(score['log_score_err'][1])
        assert np.isnan(sharpness([])['log_score']).all()

    def test_widths_and_residuals(self):
        rng = np.random.default_rng(13)
        bound = rng.uniform(1, 5, 4000)
        groups = np.where(bound < 3, 'faint', 'bright')
        result = sharpness(
            np.full(4000, -1.0),
            width=1.1 * bound * u.nJy,
            bound=bound * u.nJy,
            residuals=bound / 1000 * rng.normal(0, 1.2, 4000) * u.uJy,
            groups=groups,
        )
        assert_array_equal(result['group'], ['bright', 'faint'])
        assert_allclose(result['width'], 1.1)
        assert_allclose(result['log_score'], -1)
        assert (abs(result['scatter'] - 1.2) < 4 * result['scatter_err']).all()
        # The robust sigma of 2,000 numbers is known to 1.17 / sqrt(2,000).
        assert_allclose(result['scatter_err'], 1.2 * 1.166 / np.sqrt(2000), rtol=0.1)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'width': [1.0]}, 'bound must be given with width'),
            ({}, 'log_prob or bound must be given'),
            ({'bound': [1.0]}, 'bound must be given with width or residuals, and only'),
            ({'width': [1.0], 'bound': [0.0]}, 'bound must be positive'),
            ({'width': [1.0] * u.nJy, 'bound': [1.0]}, 'width has the unit'),
            ({'width': [1.0, 2.0], 'bound': [1.0]}, 'width has 2 values'),
            ({'log_prob': [np.nan]}, 'log_prob must not be NaN'),
        ],
    )
    def test_bad_input(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            sharpness(**arguments)
