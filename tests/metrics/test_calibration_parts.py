# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of ranks, counts and probabilities, one by one.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bliss_astro.metrics import (
    count_calibration,
    rank_uniformity,
    reliability,
)
from bliss_astro.metrics._ranks import ecdf_band, ecdf_counts, ecdf_pvalue


class TestBand:
    @pytest.mark.parametrize('n', [30, 700, 20_000])
    def test_holds_all_points(self, n):
        # 2,000 samples know 95 % to 0.5 %; the simulation of the band adds 0.35 %.
        # Few numbers have few values: the band is then a little too wide.
        low, high = ecdf_band(n, 0.95)
        rng = np.random.default_rng(n)
        counts = rng.multinomial(n, np.full(100, 0.01), 2000)[:, :-1].cumsum(1)
        inside = ((counts / n >= low) & (counts / n <= high)).all(axis=1).mean()
        assert 0.93 < inside < 0.98
        assert (low < high).all()
        assert (low <= np.arange(1, 100) / 100).all()

    def test_pvalue_and_band_agree(self):
        rng = np.random.default_rng(1)
        low, high = ecdf_band(500, 0.95)
        for power in np.linspace(0.8, 1.25, 20):
            counts = ecdf_counts(rng.uniform(size=500) ** power)
            inside = ((counts / 500 >= low) & (counts / 500 <= high)).all()
            p_value = ecdf_pvalue(counts, 500)
            assert inside == (p_value > 0.05) or abs(p_value - 0.05) < 0.01

    def test_counts(self):
        assert_array_equal(
            ecdf_counts(np.array([0.1, 0.25, 0.25, 0.9]))[[9, 24, 49, 89]], [1, 3, 3, 4]
        )


class TestRanks:
    @pytest.mark.parametrize('scale', [0.5, 0.9, 1.0, 1.2, 3.0])
    @pytest.mark.parametrize('bias', [-0.5, 0.0, 0.2])
    def test_bias_and_scale(self, scale, bias):
        # (truth - centre) / stated error is N(-bias, 1 / scale^2) by definition.
        pull = np.random.default_rng(2).normal(-bias, 1 / scale, 20_000)
        result = rank_uniformity(stats.norm.cdf(pull))
        assert abs(result['scale'][0] - scale) < 4 * result['scale_err'][0]
        assert abs(result['bias'][0] - bias) < 4 * result['bias_err'][0]
        assert (result['scale_p_value'][0] < 1e-6) == (scale != 1)
        assert (result['bias_p_value'][0] < 1e-6) == (bias != 0)

    def test_errors_are_those_of_many_samples(self):
        rng = np.random.default_rng(3)
        pull = rng.normal(0.1, 1.2, (150, 400))
        result = rank_uniformity(
            stats.norm.cdf(pull).ravel(), groups=np.repeat(np.arange(150), 400)
        )
        # The scatter of 150 values is known to 6 %.
        for name in ('scale', 'bias'):
            stated = np.median(result[f'{name}_err'])
            assert_allclose(np.std(result[name]), stated, rtol=0.2)

    def test_exact_posterior(self):
        rng = np.random.default_rng(4)
        result = rank_uniformity(
            rng.uniform(size=36_000), groups=np.repeat(np.arange(180), 200)
        )
        # 180 tests of 5 %: 9 +- 2.9.
        for name in ('ks', 'ecdf', 'scale', 'bias'):
            assert 0 < (result[f'{name}_p_value'] < 0.05).sum() < 19

    def test_histogram(self):
        ranks = np.random.default_rng(5).uniform(size=4000) ** 2
        result = rank_uniformity(ranks, n_bins=10)
        assert_array_equal(result['counts'][0], np.histogram(ranks, 10, (0, 1))[0])
        assert result['counts'][0, 0] > result['counts_high'][0, 0]
        assert_allclose(result['ecdf'][0, 49], (ranks <= 0.5).mean())
        assert result['ecdf'][0, 49] > result['ecdf_high'][0, 49]

    def test_outliers_do_not_spoil(self):
        ranks = np.random.default_rng(6).uniform(size=5000)
        ranks[:5] = 0.0
        ranks[5:10] = 1.0
        result = rank_uniformity(ranks)
        assert abs(result['scale'][0] - 1) < 4 * result['scale_err'][0]

    def test_few(self):
        result = rank_uniformity([0.1, 0.5], groups=['a', 'b'])
        assert np.isnan(result['scale']).all()
        assert len(result) == 2
        assert rank_uniformity([])['n'] == 0
        assert np.isfinite(rank_uniformity(np.full(20, 0.5))['scale_p_value']).all()

    def test_errors(self):
        with pytest.raises(
            ValueError, match=r'ranks must be between 0 and 1, .* and 1 more'
        ):
            rank_uniformity([0.5, np.nan, -0.1])
        with pytest.raises(ValueError, match=r'images must have the shape \(2,\)'):
            rank_uniformity([0.5, 0.2], images=[1])
        with pytest.raises(ValueError, match='level must be between'):
            rank_uniformity([0.5], level=95)


class TestCounts:
    @pytest.fixture(scope='class')
    @staticmethod
    def world():
        rng = np.random.default_rng(7)
        rate = rng.gamma(3.0, 1.0, 20_000)
        true = rng.poisson(rate)
        below, at = stats.poisson.cdf(true - 1, rate), stats.poisson.cdf(true, rate)
        pit = rng.uniform(below, at)
        return true, rate, pit

    def test_exact(self, world):
        true, rate, pit = world
        result = count_calibration(true, rate, ranks=pit, variance=rate)
        assert_array_equal(result['n'], 4000)
        assert (abs(result['offset']) < 4 * result['offset_err']).all()
        # Poisson: the error of a mean over 4,000 is the root of the rate / 4,000,
        # and that of its estimate 1 %.
        assert_allclose(
            result['offset_err'], np.sqrt(result['expected'] / 4000), rtol=0.06
        )
        assert (
            abs(result.meta['total_relative']) < 4 * result.meta['total_relative_err']
        )
        assert abs(result.meta['spread'] - 1) < 4 * result.meta['spread_err']
        assert result.meta['ks_p_value'] > 0.001

    def test_wrong_in_one_bin(self, world):
        true, rate, _ = world
        expected = np.where(rate > 4, 1.1 * rate, rate)
        result = count_calibration(true, expected, bins=[0, 2, 4, 100])
        assert (result['p_value'][:2] > 0.001).all()
        assert result['p_value'][2] < 1e-6
        assert (
            abs(result['relative'][2] - (1 / 1.1 - 1)) < 4 * result['relative_err'][2]
        )
        assert np.isnan(result.meta['spread'])
        assert np.isnan(result.meta['ks_p_value'])

    def test_no_source_at_all(self):
        result = count_calibration(np.zeros(50), np.full(50, 0.1))
        # 5 expected, none seen: sqrt(5) sigma.
        assert_allclose(
            result.meta['total_relative'] / result.meta['total_relative_err'],
            -np.sqrt(5),
        )
        assert np.isfinite(result['p_value']).all()
        empty = count_calibration([], [])
        assert empty['n'].sum() == 0

    def test_errors(self):
        with pytest.raises(ValueError, match='expected has 1 values, but true has 2'):
            count_calibration([1, 2], [1])
        with pytest.raises(ValueError, match='expected must be between 0 and inf'):
            count_calibration([1], [-1])
        with pytest.raises(ValueError, match='variance must be between 0 and inf'):
            count_calibration([1], [1], variance=[-1])


class TestReliability:
    def test_exact(self):
        rng = np.random.default_rng(8)
        probability = rng.beta(0.5, 0.5, 20_000)
        result = reliability(probability, rng.uniform(size=20_000) < probability)
        assert result.meta['error'] < 1.3 * result.meta['error_limit']
        assert (result['p_value'] > 1e-4).all()
        gap = abs(result['fraction'] - result['probability'])
        assert_allclose(result.meta['error'], (gap * result['n']).sum() / 20_000)
        assert (result['fraction_low'] <= result['fraction']).all()
        assert result['n'].sum() == 20_000

    def test_floor_is_what_perfect_ones_reach(self):
        rng = np.random.default_rng(9)
        probability = rng.beta(0.4, 0.8, 3000)
        errors = [
            reliability(probability, rng.uniform(size=3000) < probability)
            for _ in range(16)
        ]
        own = np.array([r.meta['error'] for r in errors])
        # 16 values: the mean is known to std / 4, and 0.8 +- 0.9 exceed the limit.
        assert abs(
            own.mean() - errors[0].meta['error_floor']
        ) < 4 * own.std() / np.sqrt(16)
        assert (own > errors[0].meta['error_limit']).sum() <= 4

    def test_large_sample_is_simulated_in_blocks(self):
        rng = np.random.default_rng(10)
        p = rng.uniform(size=2000)
        small = reliability(p, rng.uniform(size=2000) < p)
        large = reliability(np.repeat(p, 25), np.repeat(rng.uniform(size=2000) < p, 25))
        # The floor shrinks with the square root.
        assert_allclose(
            large.meta['error_floor'], small.meta['error_floor'] / 5, rtol=0.1
        )

    @pytest.mark.parametrize('sure', [0.7, 1.4])
    def test_sureness(self, sure):
        rng = np.random.default_rng(11)
        logit = rng.normal(0, 2, 5000)
        real = rng.uniform(size=5000) < 1 / (1 + np.exp(-logit))
        result = reliability(1 / (1 + np.exp(-sure * logit)), real)
        assert result.meta['sharpness_p_value'] < 1e-6
        assert result.meta['is_overconfident'] == (sure > 1)
        assert result.meta['error'] > result.meta['error_limit']

    def test_excess(self):
        rng = np.random.default_rng(12)
        p = rng.uniform(0, 0.5, 5000)
        result = reliability(p, rng.uniform(size=5000) < 1.2 * p)
        assert abs(result.meta['excess'] - 0.2) < 4 * result.meta['excess_err']
        assert result.meta['excess_p_value'] < 1e-6

    def test_impossible_and_empty(self):
        result = reliability([0.0, 0.0, 1.0], [False, True, True])
        assert result['p_value'][0] == 0
        assert result.meta['excess_p_value'] == 0
        sure = reliability([0.0, 1.0], [0, 1])
        assert sure.meta['error'] == 0
        assert sure.meta['excess_p_value'] == 1
        assert np.isnan(reliability([], []).meta['error'])
        assert len(reliability([0.3], [True])) == 10

    def test_errors(self):
        with pytest.raises(ValueError, match='probability must be between'):
            reliability([1.2], [True])
        with pytest.raises(ValueError, match='is_real must hold booleans'):
            reliability([0.2], [3])
        with pytest.raises(ValueError, match='is_real has 1 values'):
            reliability([0.2, 0.3], [1])
