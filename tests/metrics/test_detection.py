# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of precision, recall, F1 and their errors.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.metrics import (
    bootstrap_bands,
    detection_scores,
    match_catalogs,
)


@pytest.fixture(scope='module')
def survey():
    """
    500 images with 3 true sources each, of which 70 % are found, and 20 % junk.
    """
    rng = np.random.default_rng(4)
    n = 1500
    truth = rng.uniform(0, 1000, (n, 2))
    found = rng.uniform(size=n) < 0.7
    junk = rng.uniform(2000, 3000, (260, 2))
    estimated = np.concatenate([truth[found], junk])
    images = np.repeat(np.arange(500), 3)
    images_est = np.r_[images[found], rng.integers(0, 500, 260)]
    mag = rng.uniform(18, 23, n)
    mag_est = np.r_[mag[found], rng.uniform(18, 23, 260)]
    match = match_catalogs(estimated, truth, radius=1e-6)
    return match, mag_est, mag, (images_est, images), found


class TestScores:
    def test_counts(self, survey):
        match, mag_est, mag, _, found = survey
        bins = [18, 20, 22, 23]
        scores = detection_scores(match, bins, estimated=mag_est, truth=mag)
        n_truth, _ = np.histogram(mag, bins)
        n_found, _ = np.histogram(mag[found], bins)
        n_est, _ = np.histogram(mag_est, bins)
        assert_array_equal(scores['n_truth'], n_truth)
        assert_array_equal(scores['n_truth_matched'], n_found)
        assert_array_equal(scores['n_estimated'], n_est)
        assert_allclose(scores['recall'], n_found / n_truth)
        assert_allclose(scores['precision'], n_found / n_est)
        p, r = scores['precision'], scores['recall']
        assert_allclose(scores['f1'], 2 * p * r / (p + r))
        assert (scores['f1_low'] < scores['f1']).all()
        assert (scores['f1_high'] > scores['f1']).all()

    def test_bins_of_estimate_and_of_truth(self):
        # One pair whose magnitudes fall into different bins.
        match = match_catalogs([(0, 0)], [(0, 0)])
        scores = detection_scores(match, [20, 21, 22], estimated=[21.2], truth=[20.8])
        assert_array_equal(scores['n_estimated_matched'], [0, 1])
        assert_array_equal(scores['n_truth_matched'], [1, 0])
        assert_array_equal(np.isnan(scores['precision']), [True, False])
        assert np.isnan(scores['f1']).all()

    def test_one_bin_counts_everything(self, survey):
        match, mag_est, mag, _, _ = survey
        mag_est = mag_est.copy()
        mag_est[:5] = np.nan
        scores = detection_scores(match, estimated=mag_est, truth=mag)
        assert scores['precision'][0] == match.precision
        assert scores['recall'][0] == match.recall
        assert scores['f1'][0] == pytest.approx(match.f1)

    def test_bootstrap_agrees_with_wilson(self, survey):
        # Independent sources: both must give the binomial error; 400 resamples
        # know it to 1/sqrt(800) = 3.5 %.
        match, mag_est, mag, images, _ = survey
        args = {'estimated': mag_est, 'truth': mag}
        wilson = detection_scores(match, [18, 20, 23], **args)
        boot = detection_scores(
            match,
            [18, 20, 23],
            **args,
            errors='bootstrap',
            images=images,
            n_resamples=400,
            rng=3,
        )
        for score in ('precision', 'recall'):
            widths = [s[f'{score}_high'] - s[f'{score}_low'] for s in (wilson, boot)]
            assert_allclose(widths[0], widths[1], rtol=0.2)
        assert ((boot['f1_low'] < boot['f1']) & (boot['f1'] < boot['f1_high'])).all()

    def test_empty(self):
        match = match_catalogs([], [])
        scores = detection_scores(match, [18, 20], estimated=[], truth=[])
        assert np.isnan(scores['precision']).all()
        assert np.isnan(scores['recall_low']).all()
        assert_array_equal(scores['n_truth'], [0])

    def test_nothing_right(self):
        match = match_catalogs([(0, 0)], [(9, 9)])
        scores = detection_scores(match, estimated=[20], truth=[20])
        assert scores['f1'][0] == 0
        assert scores['precision_low'][0] == 0

    def test_table(self, survey):
        match, mag_est, mag, _, _ = survey
        scores = detection_scores(
            match, [18, 20, 23], estimated=mag_est, truth=mag, quantity='SNR'
        )
        assert scores.meta['quantity'] == 'SNR'
        assert len(scores) == 2
        part = scores[1:]['low', 'recall']
        assert type(part) is type(scores)
        assert part.meta == scores.meta

    def test_errors(self, survey):
        match, mag_est, mag, _, _ = survey
        args = {'estimated': mag_est, 'truth': mag}
        with pytest.raises(ValueError, match='strictly increasing'):
            detection_scores(match, [3, 2], **args)
        with pytest.raises(ValueError, match='estimated has 3 values, but match has'):
            detection_scores(match, estimated=[1, 2, 3], truth=mag)
        with pytest.raises(ValueError, match='needs images'):
            detection_scores(match, **args, errors='bootstrap')
        with pytest.raises(ValueError, match='errors must be'):
            detection_scores(match, **args, errors='poisson')
        with pytest.raises(ValueError, match='images must have the shape'):
            detection_scores(
                match, **args, errors='bootstrap', images=(mag_est, [1, 2])
            )


class TestBootstrapBands:
    def test_error_of_a_mean(self):
        rng = np.random.default_rng(7)
        images = np.repeat(np.arange(200), 4)
        values = rng.normal(size=200)[images]  # rows of an image are identical
        bands = bootstrap_bands(
            lambda rows: values[rows].mean(), images, n_resamples=2000, rng=1
        )
        expected = np.std(values) / np.sqrt(200)
        assert_allclose(bands.std, expected, rtol=4 / np.sqrt(4000))
        assert_allclose((bands.high - bands.low) / 2, expected, rtol=0.1)
        assert bands.estimate == values.mean()

    def test_two_tables(self):
        groups = (np.array([0, 0, 1]), np.array([0, 1, 1, 2]))

        def ratio(a, b):
            assert np.isin(groups[0][a], groups[1][b]).all()
            return [len(a) / len(b), np.nan]

        bands = bootstrap_bands(ratio, groups, n_resamples=50, rng=1)
        assert bands.estimate[0] == 0.75
        assert bands.samples.shape == (50, 2)
        assert np.isnan(bands.low[1])

    def test_reproducible(self):
        kwargs = {'n_resamples': 10, 'level': 0.5}
        a = bootstrap_bands(np.mean, np.arange(9), rng=5, **kwargs)
        b = bootstrap_bands(np.mean, np.arange(9), rng=5, **kwargs)
        assert_array_equal(a.samples, b.samples)

    def test_errors(self):
        with pytest.raises(ValueError, match='images must not be empty'):
            bootstrap_bands(np.mean, [])
        with pytest.raises(TypeError, match='must be callable'):
            bootstrap_bands(1, [1])
        with pytest.raises(ValueError, match='must be an integer of at least 2'):
            bootstrap_bands(np.mean, [1], n_resamples=0)
        with pytest.raises(ValueError, match='one-dimensional'):
            bootstrap_bands(np.mean, [[1]])
