# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Areas of one exact value hold no data, except where the noise itself is rounded.
"""

import numpy as np
import pytest

from bliss_astro.exposures._masks import find_exact_areas

GOOD = np.zeros((200, 200), bool)


def found(data):
    return [(v, int(m.sum()), bool(f)) for v, m, f in find_exact_areas(data, GOOD)]


@pytest.fixture
def image(rng):
    return rng.normal(100, 1, GOOD.shape)


def test_a_plain_image_has_none(image, rng):
    assert found(image) == []
    assert found(image.astype(np.float32)) == []


def test_zeros_around_a_drizzled_field(image):
    yy, xx = np.indices(image.shape)
    outside = np.hypot(yy - 100, xx - 100) > 95
    image[outside] = 0.0
    areas = find_exact_areas(image, GOOD)
    marked = np.logical_or.reduce([mask for _, mask, _ in areas])
    assert {value for value, _, _ in areas} == {0.0}
    assert not np.any(marked & ~outside)
    # At most some pixels of the ragged border have no like around them.
    assert np.count_nonzero(outside & ~marked) < 0.01 * outside.sum()


def test_collateral_columns_and_a_plateau(image):
    image[:, :12] = 0.0
    image[50:70, 90:120] = 4e5
    assert found(image) == [(0.0, 2400, False), (4e5, 600, True)]


@pytest.mark.parametrize('scatter', [0.2, 0.3, 0.5, 0.8, 2.0])
def test_rounded_noise(scatter, rng):
    data = np.rint(rng.normal(10, scatter, GOOD.shape))
    assert found(data) == []
    data[:, :40] = 0.0
    assert found(data) == [(0.0, 8000, False)]


@pytest.mark.parametrize('mean', [0.01, 0.05, 0.3, 3.0])
def test_few_photons(mean, rng):
    assert found(rng.poisson(mean, GOOD.shape).astype(float)) == []


def test_bad_pixels_are_no_area(image):
    image[:, :30] = np.nan
    assert found(image) == []
    mask = GOOD.copy()
    mask[:30] = True
    image[:30] = 0.0
    assert find_exact_areas(image, mask) == []
