# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of star/galaxy scores and ROC curves.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_equal
from scipy.stats import mannwhitneyu, norm

from bliss_astro.metrics import class_scores, roc_curve


def _sources(rng, n_images=400, per_image=5):
    n = n_images * per_image
    image = np.repeat(np.arange(n_images), per_image)
    galaxy = rng.uniform(size=n) < 0.4
    value = rng.normal(np.where(galaxy, 1.0, 0.0))
    probability = norm.cdf(value)
    return image, galaxy, probability


def test_counts_of_a_small_table():
    galaxy = np.array([1, 1, 1, 0, 0, 1], dtype=bool)
    probability = [0.9, 0.4, 0.6, 0.7, 0.5, 0.99]
    mag = [18.0, 18.5, 20.5, 20.1, 20.2, 25.0]
    scores = class_scores(galaxy, probability, bins=[17, 20, 21], values=mag)
    assert_equal(scores['n_galaxies'], [2, 1])
    assert_equal(scores['n_stars'], [0, 2])
    assert_equal(scores['n_galaxies_right'], [1, 1])
    # A probability of one half is not above it.
    assert_equal(scores['n_stars_right'], [0, 1])
    assert_allclose(scores['accuracy'], [0.5, 2 / 3])
    assert_allclose(scores['star_accuracy'], [np.nan, 0.5])
    assert_allclose(scores['galaxy_precision'], [1, 0.5])
    assert_allclose(scores['star_precision'], [0, 1])
    assert scores.meta['threshold'] == 0.5


def test_threshold_moves_sources_between_classes(rng):
    _, galaxy, probability = _sources(rng)
    low, high = (class_scores(galaxy, probability, threshold=t) for t in (0.2, 0.8))
    assert low['galaxy_accuracy'] > high['galaxy_accuracy']
    assert low['star_accuracy'] < high['star_accuracy']


def test_bootstrap_and_binomial_bands_agree_for_independent_sources(rng):
    image, galaxy, probability = _sources(rng)
    wilson = class_scores(galaxy, probability)
    bootstrap = class_scores(
        galaxy, probability, errors='bootstrap', images=image, rng=1
    )
    for name in ('accuracy', 'galaxy_accuracy', 'star_accuracy'):
        widths = [s[f'{name}_high'] - s[f'{name}_low'] for s in (wilson, bootstrap)]
        # Half-widths from 1000 resamples are known to about 3 %; 400 clusters add
        # 4 %.
        assert_allclose(widths[1], widths[0], rtol=0.2)


def test_bootstrap_of_images_with_shared_faults(rng):
    image = np.repeat(np.arange(100), 20)
    right = np.repeat(rng.uniform(size=100) < 0.7, 20)
    probability = np.where(right, 1.0, 0.0)
    truth = np.ones(2000, dtype=bool)
    wilson = class_scores(truth, probability)
    bootstrap = class_scores(
        truth, probability, errors='bootstrap', images=image, rng=1
    )
    narrow, wide = (s['accuracy_high'] - s['accuracy_low'] for s in (wilson, bootstrap))
    assert_allclose(wide / narrow, np.sqrt(20), rtol=0.2)


def test_area_is_that_of_the_rank_test(rng):
    _, galaxy, probability = _sources(rng)
    # Ties too.
    probability = np.round(probability, 2)
    curve = roc_curve(galaxy, probability)
    statistic = mannwhitneyu(probability[galaxy], probability[~galaxy]).statistic
    assert_allclose(curve.meta['auc'], statistic / (galaxy.sum() * (~galaxy).sum()))
    assert_allclose(
        curve.meta['auc'],
        np.trapezoid(curve['true_positive_rate'], curve['false_positive_rate']),
    )
    # Two unit Gaussians one sigma apart.
    error = np.sqrt(1 / 12 * (1 / galaxy.sum() + 1 / (~galaxy).sum()))
    assert_allclose(curve.meta['auc'], norm.cdf(np.sqrt(0.5)), atol=4 * error)


def test_curve_is_that_of_counting(rng):
    _, galaxy, probability = _sources(rng, n_images=20)
    curve = roc_curve(galaxy, probability)
    assert curve['false_positive_rate'][0] == curve['true_positive_rate'][0] == 0
    assert curve['false_positive_rate'][-1] == curve['true_positive_rate'][-1] == 1
    for k in range(1, len(curve['threshold']), 7):
        called = probability >= curve['threshold'][k]
        assert_allclose(curve['true_positive_rate'][k], called[galaxy].mean())
        assert_allclose(curve['false_positive_rate'][k], called[~galaxy].mean())


def test_error_of_the_area(rng):
    areas, errors = [], []
    for _ in range(40):
        image, galaxy, probability = _sources(rng, n_images=100)
        curve = roc_curve(galaxy, probability, images=image, n_resamples=40, rng=3)
        areas.append(curve.meta['auc'])
        errors.append(curve.meta['auc_err'])
        assert curve.meta['auc_low'] < curve.meta['auc'] < curve.meta['auc_high']
    # The scatter of 40 areas is known to 11 %.
    assert_allclose(np.mean(errors), np.std(areas, ddof=1), rtol=0.35)


def test_resamples_are_paired(rng):
    image, galaxy, probability = _sources(rng)
    worse = np.clip(probability + rng.normal(0, 0.1, len(probability)), 0, 1)
    curves = [
        roc_curve(galaxy, p, images=image, n_resamples=50, rng=5)
        for p in (probability, worse)
    ]
    difference = curves[0].meta['auc_samples'] - curves[1].meta['auc_samples']
    assert np.std(difference) < 0.5 * np.hypot(
        curves[0].meta['auc_err'], curves[1].meta['auc_err']
    )
    again = roc_curve(galaxy, probability, images=image, n_resamples=50, rng=5)
    assert_equal(again.meta['auc_samples'], curves[0].meta['auc_samples'])


def test_nothing_and_one_kind_only():
    assert np.isnan(roc_curve([], []).meta['auc'])
    assert np.isnan(roc_curve([True, True], [0.1, 0.9]).meta['auc'])
    scores = class_scores([], [], bins=[18, 20], values=[])
    assert np.isnan(scores['accuracy'][0])


@pytest.mark.parametrize(
    ('arguments', 'options', 'message'),
    [
        (([0.5], [0.5]), {}, 'is_galaxy must hold booleans'),
        (([True], [1.5]), {}, 'galaxy_probability must be between 0 and 1'),
        (([True], [np.nan]), {}, 'galaxy_probability must be between'),
        (([True], [0.5, 0.6]), {}, 'galaxy_probability has 2 values'),
        (([True], [0.5]), {'bins': [1, 2]}, 'values must be given with bins'),
        (([True], [0.5]), {'errors': 'jackknife'}, 'errors must be'),
        (([True], [0.5]), {'errors': 'bootstrap'}, 'needs images'),
        (
            ([True], [0.5]),
            {'errors': 'bootstrap', 'images': [1, 2]},
            r'images must have the shape \(1,\)',
        ),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        class_scores(*arguments, **options)
