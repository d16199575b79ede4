# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of PSFs that are no ellipses: what is beside the analytic form is taken off.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import fftconvolve

from bliss_astro import detect_sources
from bliss_astro.detection._inputs import match_psf, matching_kernel
from bliss_astro.exposures import Exposure
from bliss_astro.psf import PSFModel


def moved(shape, x, y, size=61):
    grid_y, grid_x = np.indices((size, size))
    return PSFModel.from_shape(shape)(grid_x - x, grid_y - y)


def psf_with_ghost(share, size=61):
    """The usual PSF with a share of its light 7 px away, and the PSF without."""
    shape, middle = PSFModel().shape_vector, size // 2
    plain = moved(shape, middle, middle, size)
    ghost = moved(shape, middle - 5, middle - 5, size)
    return (1 - share) * plain + share * ghost, plain


@pytest.mark.parametrize('share', [0.003, 0.03])
def test_the_kernel_takes_the_ghost_off(share):
    image, plain = psf_with_ghost(share)
    image, plain = image / image.sum(), plain / plain.sum()
    kernel = matching_kernel(image, plain)
    assert kernel.shape == (51, 51)
    left = image - fftconvolve(image, kernel, mode='same') - plain
    before = np.abs(image - plain).max()
    assert np.abs(left).max() < 0.05 * before
    # Light that is moved is not lost.
    assert abs(kernel.sum()) < 0.1 * share


def test_rings_far_from_the_centre_are_taken_off():
    # Airy's second and third rings lay where the kernel had faded: with a PSF of
    # 3.5 px, half of the rows of an image of stars were pieces of them.
    _, plain = psf_with_ghost(0.0)
    middle = plain.shape[0] // 2
    grid_y, grid_x = np.indices(plain.shape) - middle
    radius = np.hypot(grid_x, grid_y)
    rings = sum(np.exp(-0.5 * ((radius - r) / 1.2) ** 2) for r in (8.0, 12.5))
    image = plain + 0.005 * plain.max() * rings
    image, plain = image / image.sum(), plain / plain.sum()
    kernel = matching_kernel(image, plain)
    left = image - fftconvolve(image, kernel, mode='same') - plain
    at_rings = (radius > 5) & (radius < 15)
    before = np.abs(image - plain)[at_rings].max()
    assert np.abs(left)[at_rings].max() < 0.1 * before


def exposure_of(psf, *, stars, share=0.03, noise=1.0, size=160, seed=0):
    """Bright stars with the ghost, and what is stated of it."""
    drawn, _ = psf_with_ghost(share, 121)
    image = np.zeros((size + 120, size + 120))
    for x, y, flux in stars:
        image[y : y + 121, x : x + 121] += flux * drawn
    image = image[60:-60, 60:-60]
    image += np.random.default_rng(seed).normal(size=image.shape) * noise
    return Exposure(
        image, bkg_error=noise, effective_gain=30.0, psf=psf, background=0.0
    )


STARS = [(30, 40, 5e3), (110, 30, 8e3), (70, 90, 3e3), (125, 120, 6e3)]


def test_ghosts_are_taken_off_the_image_and_the_noise_stays():
    image, _ = psf_with_ghost(0.03)
    exposure = exposure_of(image, stars=STARS)
    data = exposure.data.astype(np.float32)
    matched = data.copy()
    asymmetry = match_psf(matched, exposure)
    plain = exposure_of(PSFModel(), stars=[])
    assert_allclose(asymmetry, 0, atol=2e-3)
    # The same stars, 3 % fainter, and the same noise without the ghost.
    fainter = [(x, y, 0.97 * flux) for x, y, flux in STARS]
    wanted = exposure_of(PSFModel(), stars=fainter, share=0.0).data
    ghost = np.s_[33:38, 23:28]
    before = (data - wanted)[ghost].sum()
    assert before > 70
    # The fit of the analytic form gives the wings a little of the ghost.
    assert abs((matched - wanted)[ghost].sum()) < 0.15 * before
    empty = np.s_[:, 140:]
    assert_allclose(matched[empty].std(), plain.data[empty].std(), rtol=0.05)


def test_an_analytic_psf_is_left_alone():
    exposure = exposure_of(PSFModel(), stars=STARS)
    data = exposure.data.astype(np.float32)
    matched = data.copy()
    assert match_psf(matched, exposure) is None
    assert_array_equal(matched, data)


def test_no_companions_of_bright_stars_where_the_psf_has_a_ghost():
    image, _ = psf_with_ghost(0.03)

    def companions(psf):
        catalog = detect_sources(exposure_of(psf, stars=STARS), encoder='stars')
        n = 0
        for x, y, _ in STARS:
            apart = np.hypot(
                catalog['x_centroid'] - (x - 5), catalog['y_centroid'] - (y - 5)
            )
            n += int((apart < 1.5).sum())
        return n

    assert companions(PSFModel()) >= 3
    assert companions(image) == 0
