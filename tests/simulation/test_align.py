# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the alignment, and of the noise that it is said to leave.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.simulation._camera import align_bilinear, coadd_noise

DITHERS = [(0.0, 0.0), (0.3, -0.4), (-0.5, 0.5), (0.5, 0.1), (-0.07, -0.5), (1.0, -1.0)]


@pytest.mark.parametrize('dither', DITHERS)
def test_the_same_as_scipy(dither, rng):
    ndimage = pytest.importorskip('scipy.ndimage')
    image = rng.normal(100, 10, (17, 22))
    rows, columns = np.mgrid[1:16, 1:21].astype(float)
    expected = ndimage.map_coordinates(
        image, [rows + dither[1], columns + dither[0]], order=1
    )
    aligned = align_bilinear(
        torch.as_tensor(image, dtype=torch.float32), torch.tensor(dither)
    )
    assert aligned.shape == (15, 20)
    assert_allclose(aligned, expected, rtol=1e-5)


def test_batches(generator):
    images = torch.randn(2, 3, 9, 8, generator=generator)
    dither = torch.rand(2, 3, 2, generator=generator) - 0.5
    aligned = align_bilinear(images, dither)
    assert aligned.shape == (2, 3, 7, 6)
    for i in range(2):
        for k in range(3):
            single = align_bilinear(images[i, k], dither[i, k])
            assert_allclose(aligned[i, k], single, atol=1e-6)


def test_nothing_to_do(generator):
    image = torch.randn(9, 8, generator=generator)
    assert torch.equal(align_bilinear(image, torch.zeros(2)), image[1:-1, 1:-1])


def test_a_plane_goes_back_to_its_place():
    """
    A plane is interpolated exactly: its value is a coordinate.
    """
    y, x = np.mgrid[:12, :10].astype(float)
    for dither in DITHERS[1:]:
        seen = torch.as_tensor(2 * (x - dither[0]) - 5 * (y - dither[1]))
        aligned = align_bilinear(seen, torch.tensor(dither, dtype=torch.float64))
        assert_allclose(aligned, (2 * x - 5 * y)[1:-1, 1:-1], atol=1e-10)


@pytest.mark.parametrize('dither', DITHERS[:5])
def test_noise_of_one_aligned_exposure(dither):
    """
    The covariance follows from the response to a single pixel.
    """
    impulse = torch.zeros(7, 7, dtype=torch.float64)
    impulse[3, 3] = 1
    kernel = align_bilinear(impulse, torch.tensor(dither, dtype=torch.float64)).numpy()
    own = (kernel**2).sum()
    lag_x = (kernel[:, 1:] * kernel[:, :-1]).sum()
    lag_y = (kernel[1:] * kernel[:-1]).sum()
    variance, corr_x, corr_y, width = coadd_noise(
        torch.tensor([dither], dtype=torch.float64)
    )
    assert_allclose(variance, own)
    assert_allclose(corr_x, lag_x / own, atol=1e-12)
    assert_allclose(corr_y, lag_y / own, atol=1e-12)
    y, x = np.indices(kernel.shape)
    spread = [
        (kernel * v**2).sum() - (kernel * v).sum() ** 2 for v in (x, y)
    ]  # the kernel sums to one
    assert_allclose(width, np.mean(spread), atol=1e-12)


def test_expected_noise_of_uniform_dithers(generator):
    dither = torch.rand(200_000, 2, generator=generator).double() - 0.5
    variance, corr_x, corr_y, width = coadd_noise(dither)
    # Means over u of 1 - 2 u (1 - u) = 2/3 and of u (1 - u) = 1/6.
    assert_allclose(variance * len(dither), 4 / 9, rtol=2e-3)
    assert_allclose((corr_x, corr_y), 0.25, rtol=5e-3)
    assert_allclose(width, 1 / 6, rtol=5e-3)


def test_independent_noise():
    dither = torch.tensor([[[0.2, 0.3], [0.5, -0.4]]])
    variance, corr_x, corr_y, width = coadd_noise(dither, interpolated=False)
    assert_allclose(variance, 0.5)
    assert corr_x == corr_y == 0
    assert width > 0
