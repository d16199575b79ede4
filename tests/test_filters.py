# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the filters of images, against scipy's.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter, maximum_filter, uniform_filter

from bliss_astro._filters import (
    box_mean,
    local_maxima,
    smooth,
    spread_cells,
    sums_of_cells,
)
from bliss_astro.units import median


@pytest.mark.parametrize('shape', [(1, 3), (5, 7), (61, 300), (129, 200)])
@pytest.mark.parametrize('sigma', [0.7, 1.8, 20.0])
def test_smooth(rng, shape, sigma):
    image = rng.normal(size=shape).astype(np.float32)
    for reflect, mode in ((True, 'reflect'), (False, 'constant')):
        expected = gaussian_filter(image.astype(float), sigma, mode=mode)
        assert_allclose(smooth(image, sigma, reflect=reflect), expected, atol=3e-6)


@pytest.mark.parametrize('reach', [1, 3])
def test_local_maxima(rng, reach):
    image = rng.normal(size=(60, 45)).round(1)
    image[0, 0], image[-1, 20] = 4.0, 5.0
    highest = (image == maximum_filter(image, 2 * reach + 1)) & (image > 1.0)
    assert_array_equal(
        np.transpose(local_maxima(image, 1.0, reach)), np.argwhere(highest)
    )
    assert len(local_maxima(image, 9.0, reach)[0]) == 0


def test_cells(rng):
    starts, shape = ([0, 2, 3], [0, 4]), (7, 5)
    values = rng.normal(size=(3, 2))
    image = spread_cells(values, starts, shape)
    assert image.shape == shape
    assert image[2, 3] == values[1, 0]
    assert image[6, 4] == values[2, 1]
    n_pixels = np.outer([2, 1, 4], [4, 1])
    assert_allclose(sums_of_cells(image, starts), n_pixels * values)


@pytest.mark.parametrize('side', [3, 5])
def test_box_mean(rng, side):
    image = rng.normal(size=(17, 30)).astype(np.float32)
    expected = uniform_filter(image, side, mode='nearest')
    assert_allclose(box_mean(image, side), expected, atol=1e-6)


@pytest.mark.parametrize('shape', [(7, 9), (4, 5)])
@pytest.mark.parametrize('dtype', [np.float32, '>f4', float, int])
def test_median(rng, shape, dtype):
    values = (100 * rng.normal(size=shape)).astype(dtype)
    assert median(values) == np.median(values)
    assert median(values).dtype == np.median(values).dtype
    if dtype is not int:
        values[2, 3] = np.nan
        assert np.isnan(median(values))
