# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of residuals and their summaries.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.stats import mad_std
from astropy.table import MaskedColumn
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.metrics import (
    flux_residuals,
    match_catalogs,
    pulls,
    summarize_residuals,
)
from bliss_astro.metrics._residuals import position_residuals


@pytest.fixture
def match():
    return match_catalogs([(0, 0), (9, 9), (5, 5.5)], [(5, 5), (0, 0.25)])


class TestResiduals:
    def test_flux_with_match(self, match):
        residuals = flux_residuals([110, 7, 45], [50, 100], match=match)
        assert_allclose(residuals, [0.1, -0.1])
        absolute = flux_residuals([110, 7, 45], [50, 100], match=match, relative=False)
        assert_allclose(absolute, [10, -5])

    def test_units(self, match):
        a, b = [110, 7, 45] * u.nJy, [0.05, 0.1] * u.uJy
        assert_allclose(flux_residuals(a, b, match=match), [0.1, -0.1])
        with pytest.raises(u.UnitConversionError, match='cannot be converted'):
            flux_residuals(a, [1, 2] * u.m, match=match)
        with pytest.raises(u.UnitConversionError, match='has no unit'):
            flux_residuals(a, [1, 2], match=match)
        with pytest.raises(ValueError, match='true flux has the unit'):
            flux_residuals([1, 2, 3], b, match=match)

    def test_zero_truth(self):
        assert np.isnan(flux_residuals([1.0], [0.0])).all()

    def test_position(self, match):
        residuals = position_residuals(
            [(0, 0), (9, 9), (5, 5.5)], [(5, 5), (0, 0.25)], match=match
        )
        assert_allclose(residuals, [(0, -0.25), (0, 0.5)])

    def test_lengths(self, match):
        with pytest.raises(
            ValueError, match='estimated must have 3 rows as match; got 2'
        ):
            flux_residuals([1, 2], [1, 2], match=match)
        with pytest.raises(
            ValueError, match='must have the shape of the true without match'
        ):
            flux_residuals([1, 2], [1])

    def test_pulls(self):
        rng = np.random.default_rng(9)
        n = 20_000
        errors = rng.uniform(1, 3, (2, n))
        a, b = 100 + rng.normal(size=(2, n)) * errors
        result = pulls(a, b, estimated_err=errors[0], reference_err=errors[1])
        # The MAD of a Gaussian knows sigma to 1.167 / sqrt(n).
        assert_allclose(mad_std(result), 1, atol=4 * 1.167 / np.sqrt(n))
        with_unit = pulls([3] * u.Jy, [1] * u.Jy, estimated_err=[1000] * u.mJy)
        assert_allclose(with_unit, [2])
        assert np.isnan(pulls([1.0], [1.0], estimated_err=0.0)).all()
        # A masked value has no pull, whatever the units.
        masked = MaskedColumn([3, 3], mask=[False, True], unit='mJy')
        result = pulls([3, 3] * u.Jy, [1, 1] * u.Jy, estimated_err=masked)
        assert_allclose(result, [2000 / 3, np.nan])
        with pytest.raises(
            ValueError, match='estimated_err must be a number or of shape'
        ):
            pulls([1.0, 2.0], [1.0, 2.0], estimated_err=[1.0])


class TestSummary:
    def test_bins(self):
        rng = np.random.default_rng(6)
        by = rng.uniform(18, 22, 5000)
        residuals = rng.normal(0.1, 0.2, 5000)
        residuals[:10] = np.nan
        summary = summarize_residuals(residuals, [18, 20, 22, 30], by=by)
        for k, (low, high) in enumerate([(18, 20), (20, 22)]):
            chosen = residuals[(by >= low) & (by < high) & ~np.isnan(residuals)]
            assert summary['n'][k] == len(chosen)
            quartiles = [summary['q25'][k], summary['median'][k], summary['q75'][k]]
            assert_allclose(quartiles, np.quantile(chosen, [0.25, 0.5, 0.75]))
        assert summary['n'][2] == 0
        assert np.isnan(summary['median'][2])
        assert (abs(summary['median'][:2] - 0.1) < 4 * summary['median_err'][:2]).all()
        assert len(summary) == 3
        assert summary.meta['quantity'] == 'magnitude'

    def test_median_error(self):
        rng = np.random.default_rng(2)
        trial = np.repeat(np.arange(500), 101)
        summary = summarize_residuals(
            rng.normal(size=len(trial)), np.arange(501) - 0.5, by=trial
        )
        # 500 trials: 3 %; bias 3 %
        assert_allclose(summary['median_err'].mean(), summary['median'].std(), rtol=0.1)

    def test_empty_and_errors(self):
        summary = summarize_residuals([])
        assert_array_equal(summary['n'], [0])
        assert np.isnan(summary['robust_sigma']).all()
        with pytest.raises(ValueError, match='by must be given with bins'):
            summarize_residuals([1.0], [0, 1])
        with pytest.raises(ValueError, match='by has 2 values, but residuals has 1'):
            summarize_residuals([1.0], [0, 1], by=[0.5, 0.6])
