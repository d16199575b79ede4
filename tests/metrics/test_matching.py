# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the matching of two catalogues.
"""

import time

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from bliss_astro.metrics import _matching, match_catalogs


def brute_force(a, b, radius, metric='euclidean'):
    """
    Number of pairs and summed distance of the optimal match, as one dense problem.
    """
    distance = cdist(a, b, metric)
    penalty = 10.0 * radius * (min(distance.shape) + 1)
    cost = np.where(distance <= radius, distance, penalty)
    row, col = linear_sum_assignment(cost)
    good = distance[row, col] <= radius
    return good.sum(), distance[row, col][good].sum()


class TestOptimal:
    @pytest.mark.parametrize('metric', ['euclidean', 'chebyshev'])
    @pytest.mark.parametrize('n', [(60, 80), (80, 60), (5, 40), (1, 7), (7, 1)])
    @pytest.mark.parametrize('radius', [0.3, 1.0, 3.0])
    def test_against_dense_assignment(self, metric, n, radius):
        rng = np.random.default_rng(12)
        for _ in range(5):
            a = rng.uniform(0, 12, (n[0], 2))
            b = rng.uniform(0, 12, (n[1], 2))
            match = match_catalogs(a, b, radius=radius, metric=metric)
            n_pairs, total = brute_force(a, b, radius, metric)
            assert len(match) == n_pairs
            assert_allclose(match.distance.sum(), total, atol=1e-9)

    @pytest.mark.parametrize('radius', [0.3, 2.0])
    def test_large_groups_and_many_blocks(self, radius):
        # 600 pairs and more: several blocks of groups, or one group larger than one.
        rng = np.random.default_rng(3)
        a, b = rng.uniform(0, 10, (2, 400, 2))
        match = match_catalogs(a, b, radius=radius)
        n_pairs, total = brute_force(a, b, radius)
        assert len(match) == n_pairs
        assert_allclose(match.distance.sum(), total, rtol=1e-9)

    def test_most_pairs_come_before_short_distances(self):
        # The greedy partner of 0 is 0.1 away and would leave 1 alone.
        match = match_catalogs([(0.0, 0), (1.0, 0)], [(0.1, 0), (-0.9, 0)])
        assert_array_equal(match.truth_index, [1, 0])
        assert_allclose(match.distance, [0.9, 0.9])

    def test_indices_are_consistent(self):
        rng = np.random.default_rng(1)
        a, b = rng.uniform(0, 30, (2, 300, 2))
        match = match_catalogs(a, b[:200], radius=1.5)
        assert (np.diff(match.estimated_index) > 0).all()
        assert len(np.unique(match.truth_index)) == len(match)
        delta = a[match.estimated_index] - b[match.truth_index]
        assert_allclose(np.hypot(*delta.T), match.distance, rtol=1e-12)
        both = np.r_[match.estimated_index, match.unmatched_estimated]
        assert_array_equal(np.sort(both), np.arange(300))
        assert (match.n_estimated, match.n_truth) == (300, 200)
        assert match.is_matched_estimated.sum() == match.is_matched_truth.sum()
        assert match.precision == len(match) / 300
        assert match.recall == len(match) / 200
        assert match.f1 == pytest.approx(2 * len(match) / 500)
        assert f'{len(match)} pairs' in repr(match)
        pairs = match.pairs(a, b[:200])
        assert_array_equal(pairs[0] - pairs[1], delta)
        with pytest.raises(
            ValueError, match='truth must have 200 rows as match; got 300'
        ):
            match.pairs(a, b)

    def test_radius_is_inclusive(self):
        assert len(match_catalogs([(0, 0)], [(1, 0)], radius=1.0)) == 1
        assert len(match_catalogs([(0, 0)], [(1, 1)], radius=1.0)) == 0
        assert len(match_catalogs([(0, 0)], [(1, 1)], metric='chebyshev')) == 1

    def test_coincident_rows(self):
        match = match_catalogs([(2, 2)] * 3, [(2, 2)] * 2)
        assert len(match) == 2
        assert_array_equal(match.distance, [0, 0])

    def test_symmetric(self):
        rng = np.random.default_rng(8)
        a, b = rng.uniform(0, 20, (2, 200, 2))
        forth, back = match_catalogs(a, b), match_catalogs(b, a)
        pairs = set(zip(forth.estimated_index, forth.truth_index, strict=True))
        assert pairs == set(zip(back.truth_index, back.estimated_index, strict=True))


class TestInput:
    def test_kinds_of_positions(self):
        table = QTable({'x_centroid': [1.0, 5.0], 'y_centroid': [2.0, 6.0]})
        for catalog in (table, ([1.0, 5.0], [2.0, 6.0]), [[1, 2], [5, 6]]):
            # The last one is a unit that equals u.pix and is another object.
            for radius in (0.5, 0.5 * u.pix, 0.5 * u.pix**2 / u.pix):
                match = match_catalogs(catalog, table, radius=radius)
                assert_array_equal(match.truth_index, [0, 1])

    @pytest.mark.parametrize('n', [(0, 3), (3, 0), (0, 0)])
    def test_empty(self, n):
        a, b = np.zeros((n[0], 2)), np.zeros((n[1], 2))
        match = match_catalogs(a, b, images=(np.zeros(n[0], int), np.zeros(n[1], int)))
        assert len(match) == 0
        assert match.distance.shape == (0,)
        assert_array_equal(match.unmatched_estimated, np.arange(n[0]))
        assert_array_equal(match.unmatched_truth, np.arange(n[1]))
        assert np.isnan(match.precision) == (n[0] == 0)
        assert np.isnan(match.f1) == (sum(n) == 0)
        assert len(match_catalogs([], [])) == 0

    @pytest.mark.parametrize('radius', [0, -1.0, np.nan, np.inf, [1.0, 2.0]])
    def test_bad_radius(self, radius):
        with pytest.raises(ValueError, match='radius must be one positive finite'):
            match_catalogs([(0, 0)], [(0, 0)], radius=radius)

    def test_radius_with_wrong_unit(self):
        with pytest.raises(u.UnitTypeError, match='pixels or an angle'):
            match_catalogs([(0, 0)], [(0, 0)], radius=1 * u.m)

    def test_bad_positions(self):
        with pytest.raises(
            ValueError, match=r'positions of truth must be finite; got nan at .1, 0.'
        ):
            match_catalogs([(0, 0)], [(0, 0), (np.nan, 1)])
        with pytest.raises(ValueError, match=r'shape \(n, 2\); got \(1, 3\)'):
            match_catalogs([(0, 0, 0)], [(0, 0)])
        with pytest.raises(ValueError, match='y of estimated has 1 values'):
            match_catalogs(([0, 1], [0]), [(0, 0)])
        with pytest.raises(ValueError, match="lacks the column 'x_centroid'"):
            match_catalogs(QTable({'x': [1.0]}), [(0, 0)])
        with pytest.raises(TypeError, match='must be numeric'):
            match_catalogs([('a', 'b')], [(0, 0)])
        with pytest.raises(ValueError, match='metric must be one of'):
            match_catalogs([(0, 0)], [(0, 0)], metric='manhattan')

    def test_too_many_pairs(self, monkeypatch):
        monkeypatch.setattr(_matching, '_MAX_PAIRS', 1000)
        points = np.random.default_rng(0).uniform(0, 10, (50, 2))
        with pytest.raises(ValueError, match='radius is too large'):
            match_catalogs(points, points, radius=20)


class TestMagnitudes:
    def test_tolerance(self):
        a = QTable({'x_centroid': [0.0], 'y_centroid': [0.0], 'mag': [20.0]})
        b = QTable(
            {'x_centroid': [0.1, 0.9], 'y_centroid': [0.0, 0.0], 'mag': [23.0, 20.4]}
        )
        assert_array_equal(match_catalogs(a, b).truth_index, [0])
        match = match_catalogs(a, b, magnitude_tolerance=0.5)
        assert_array_equal(match.truth_index, [1])

    def test_nan_never_matches(self):
        kwargs = {'magnitude_tolerance': 5.0}
        match = match_catalogs(
            [(0, 0)], [(0, 0)], magnitudes=([np.nan], [20]), **kwargs
        )
        assert len(match) == 0

    def test_errors(self):
        with pytest.raises(ValueError, match="estimated lacks the column 'mag'"):
            match_catalogs([(0, 0)], [(0, 0)], magnitude_tolerance=1)
        with pytest.raises(ValueError, match='magnitudes of truth has 2 values'):
            match_catalogs(
                [(0, 0)], [(0, 0)], magnitude_tolerance=1, magnitudes=([1], [1, 2])
            )
        with pytest.raises(ValueError, match='only used together'):
            match_catalogs([(0, 0)], [(0, 0)], magnitudes=([1], [1]))
        with pytest.raises(ValueError, match='>= 0'):
            match_catalogs([(0, 0)], [(0, 0)], magnitude_tolerance=-1)


class TestImages:
    def test_same_as_one_by_one(self):
        rng = np.random.default_rng(5)
        images = np.sort(rng.integers(0, 40, (2, 300)), axis=1)
        a, b = rng.uniform(0, 8, (2, 300, 2))
        match = match_catalogs(a, b, images=tuple(images), radius=1.5)
        truth_of = dict(zip(match.estimated_index, match.truth_index, strict=True))
        n_pairs = 0
        for image in range(40):
            i, j = (np.flatnonzero(im == image) for im in images)
            single = match_catalogs(a[i], b[j], radius=1.5)
            for p, q in zip(single.estimated_index, single.truth_index, strict=True):
                assert truth_of[i[p]] == j[q]
            n_pairs += len(single)
        assert n_pairs == len(match)

    def test_column_and_strings(self):
        a = QTable({'x_centroid': [0.0], 'y_centroid': [0.0], 'image': ['a']})
        b = QTable(
            {'x_centroid': [0.0, 0.0], 'y_centroid': [0.0, 0.1], 'image': ['b', 'a']}
        )
        assert_array_equal(match_catalogs(a, b, images='image').truth_index, [1])

    def test_errors(self):
        with pytest.raises(ValueError, match=r'images of truth must have the shape'):
            match_catalogs([(0, 0)], [(0, 0)], images=([1], [1, 2]))
        with pytest.raises(TypeError, match='integers or strings'):
            match_catalogs([(0, 0)], [(0, 0)], images=([1.5], [1.5]))
        with pytest.raises(ValueError, match="column 'image'"):
            match_catalogs([(0, 0)], [(0, 0)], images='image')
        with pytest.raises(ValueError, match='must be a pair'):
            match_catalogs([(0, 0)], [(0, 0)], images=([1],))

    def test_speed(self):
        rng = np.random.default_rng(0)
        images = np.repeat(np.arange(40_000), 3)
        truth = rng.uniform(0, 40, (120_000, 2))
        estimated = truth + rng.normal(0, 0.2, truth.shape)
        start = time.perf_counter()
        match = match_catalogs(estimated, truth, images=(images, images))
        assert time.perf_counter() - start < 10  # 0.6 s on an idle core
        assert len(match) > 0.999 * 120_000


class TestSky:
    def test_against_separation(self):
        rng = np.random.default_rng(2)
        a = SkyCoord(
            rng.uniform(10, 10.02, 100), rng.uniform(80, 80.01, 100), unit='deg'
        )
        b = SkyCoord(rng.uniform(10, 10.02, 90), rng.uniform(80, 80.01, 90), unit='deg')
        match = match_catalogs(a, b, radius=2 * u.arcsec)
        separation = a[match.estimated_index].separation(b[match.truth_index])
        assert match.distance.unit == u.arcsec
        assert_allclose(match.distance.value, separation.arcsec, rtol=1e-6)
        cost = a[:, np.newaxis].separation(b[np.newaxis]).arcsec
        row, col = linear_sum_assignment(np.where(cost <= 2, cost, 1e4))
        good = cost[row, col] <= 2
        assert len(match) == good.sum() > 5
        assert_allclose(match.distance.value.sum(), cost[row, col][good].sum())

    def test_frames_and_wrap(self):
        a = SkyCoord([0.00001, 120], [0, -89.9999], unit='deg')
        b = SkyCoord([359.99999, 300], [0, -89.9999], unit='deg').galactic
        match = match_catalogs(a, b, radius=1 * u.arcsec, images=([1, 2], [1, 2]))
        assert_array_equal(match.truth_index, [0, 1])
        assert_allclose(match.distance.value, [0.072, 0.72], rtol=1e-5)

    def test_table(self):
        table = QTable({'sky_centroid': SkyCoord([1, 2], [3, 4], unit='deg')})
        match = match_catalogs(table, table, radius=1 * u.arcsec)
        assert_array_equal(match.truth_index, [0, 1])

    def test_errors(self):
        sky = SkyCoord([1], [2], unit='deg')
        with pytest.raises(TypeError, match='give radius as an angle'):
            match_catalogs(sky, sky, radius=1)
        with pytest.raises(TypeError, match='must be a SkyCoord'):
            match_catalogs([(0, 0)], sky, radius=1 * u.arcsec)
        with pytest.raises(ValueError, match=r'lacks the column .*sky_centroid'):
            match_catalogs(QTable({'x': [1.0]}), sky, radius=1 * u.arcsec)
        with pytest.raises(ValueError, match='must be "euclidean"'):
            match_catalogs(sky, sky, radius=1 * u.arcsec, metric='chebyshev')
        bad = SkyCoord([np.nan], [2], unit='deg')
        with pytest.raises(ValueError, match='sky positions of truth'):
            match_catalogs(sky, bad, radius=1 * u.arcsec)
