# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coma and trefoil of PSFs.
"""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.psf import PSFModel
from bliss_astro.psf._mixture import (
    asymmetry_of_image,
    asymmetry_of_psf,
    lobe_kernel,
)


def gaussian(n, x, y, sigma):
    grid_y, grid_x = np.mgrid[:n, :n]
    value = np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * sigma**2))
    return value / value.sum()


@pytest.mark.parametrize('angle', [0.0, 0.7, 2.5, -1.6])
def test_a_lobe_is_found_where_it_is(angle):
    distance, share, sigma = 5.0, 0.03, 1.4
    x, y = 20 + distance * math.cos(angle), 20 + distance * math.sin(angle)
    image = (1 - share) * gaussian(41, 20, 20, sigma) + share * gaussian(41, x, y, 1.2)
    value = asymmetry_of_psf(image, 2.355 * sigma)
    assert_allclose(math.atan2(value[1], value[0]), angle, atol=0.02)
    # Most of the lobe lies in the ring.
    assert 0.8 * share < math.hypot(value[0], value[1]) < 1.02 * share
    # Three times the angle in the third harmonic.
    phase = np.exp(1j * math.atan2(value[3], value[2]))
    assert_allclose(phase, np.exp(3j * angle), atol=0.05)


def test_ellipses_have_none():
    psf = PSFModel(e1=0.2, e2=-0.1)
    y, x = np.mgrid[:51, :51]
    # Off the middle of a pixel too: the core's own place is the centre.
    for shift in (0.0, 0.3):
        psf.x_0, psf.y_0 = 25 + shift, 25 - shift
        assert np.abs(asymmetry_of_psf(psf(x, y), psf.fwhm)).max() < 6e-4


def test_three_lobes_have_a_third_harmonic_alone():
    share = torch.full((1, 3), 0.02)
    angle = torch.tensor([[0.3, 0.3 + 2 * math.pi / 3, 0.3 - 2 * math.pi / 3]])
    distance, width = torch.full((1, 3), 4.0), torch.full((1, 3), 0.8)
    image = torch.from_numpy(gaussian(49, 24, 24, 1.3)).float()[None]
    padded = torch.fft.rfft2(image, s=(98, 98))
    moved = torch.fft.irfft2(
        padded * lobe_kernel(share, distance, angle, width, (49, 49)), s=(98, 98)
    )[:, :49, :49]
    assert_allclose(float(moved.sum()), 1.0, atol=1e-4)
    value = asymmetry_of_image(moved, torch.tensor([3.06]))[0].numpy()
    assert np.hypot(*value[:2]) < 1e-3
    assert_allclose(math.atan2(value[3], value[2]), 0.9, atol=0.02)
    # The blur of the core takes half of so fine a pattern.
    assert 0.02 < np.hypot(*value[2:]) < 0.06
