# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests that the ripples of an interpolation's noise do not reach the stars.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bliss_astro.detection._inputs import even_noise
from bliss_astro.exposures import Exposure

NY, NX = 96, 128


def rippled(correlation=(0.2, 0.2), *, depth=1.0, mask=None):
    """
    An exposure whose variance swings by a factor of 3, its gain likewise.
    """
    y, x = np.mgrid[:NY, :NX]
    swing = 1 + 0.5 * np.sin(2 * np.pi * (0.31 * x + 0.12 * y))
    variance = 4.0 * swing / depth
    return Exposure(
        np.zeros((NY, NX)),
        bkg_error=np.sqrt(variance),
        effective_gain=40.0 / variance,
        noise_correlation=correlation,
        mask=mask,
    )


def test_ripples_are_averaged():
    noise, _ = even_noise(rippled())
    inner = (slice(20, -20), slice(20, -20))
    assert_allclose(noise[inner], 2.0, rtol=0.01)


def test_sources_noise_follows():
    # Noise of the sky in electrons, the square root of bkg_error**2 * gain * gain.
    exposure = rippled()
    noise, gain = even_noise(exposure)
    stated = exposure.bkg_error**2 * exposure.effective_gain
    assert_allclose(noise**2 * gain, stated, rtol=1e-4)


def test_depth_is_kept():
    depth = np.where(np.arange(NX) < 64, 1.0, 4.0)
    noise, _ = even_noise(rippled(depth=depth))
    assert_allclose(noise[20:-20, 16:44], 2.0, rtol=0.01)
    assert_allclose(noise[20:-20, 84:112], 1.0, rtol=0.01)


def test_bad_pixels_do_not_count():
    mask = np.zeros((NY, NX), dtype=bool)
    mask[40:50, 40:60] = True
    exposure = rippled(mask=mask)
    exposure.bkg_error[mask] = 1e6
    noise, _ = even_noise(exposure)
    assert_allclose(noise[20:-20, 20:-20][~mask[20:-20, 20:-20]], 2.0, rtol=0.05)


@pytest.mark.parametrize('kind', ['map of an unresampled image', 'number'])
def test_left_as_it_is(kind):
    exposure = rippled((0.0, 0.0))
    if kind == 'number':
        exposure = exposure.replace(
            bkg_error=2.0, effective_gain=3.0, noise_correlation=(0.2, 0.2)
        )
    noise, gain = even_noise(exposure)
    assert noise is exposure.bkg_error
    assert gain is exposure.effective_gain
