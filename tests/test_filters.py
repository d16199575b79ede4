# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the filters of images, against scipy's.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter, maximum_filter

from bliss_astro._filters import local_maxima, smooth, spread_cells, sums_of_cells


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
