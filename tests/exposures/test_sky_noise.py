# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise of empty sky and its correlation, white or smoothed, sparse or crowded.
"""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bliss_astro import CoaddSimulator, PSFModel
from bliss_astro.exposures._sky import measure_background
from bliss_astro.exposures._sky_noise import estimate_sky_noise
from bliss_astro.priors import StarPrior


def smoothed(sigma, rng, *, shape=(256, 256)):
    """
    Noise of unit variance that a Gaussian kernel smoothed, and its correlation.
    """
    size = (2 * shape[0], 2 * shape[1])
    noise = gaussian_filter(rng.normal(size=size), sigma, mode='wrap')
    noise /= np.sqrt(np.mean(noise**2))
    correlation = np.mean(noise * np.roll(noise, 1, 0))
    return noise[: shape[0], : shape[1]], correlation


def measured(image):
    sky = measure_background(image, np.zeros(image.shape, bool), box_size=64)
    return estimate_sky_noise(image - sky, np.zeros(image.shape, bool))


@pytest.mark.parametrize('sigma', [0.1, 0.45, 0.6, 0.78, 1.06, 1.54, 2.1, 2.86])
def test_smoothed_noise(sigma, rng):
    """
    From white noise to a correlation of 0.97, with stars above it.
    """
    noise, correlation = smoothed(sigma, rng)
    yy, xx = np.mgrid[: noise.shape[0], : noise.shape[1]]
    image = 100 + noise
    for _ in range(25):
        x, y = rng.uniform(0, 256, 2)
        star = PSFModel(flux=10 ** rng.uniform(1, 3), x_0=x, y_0=y)
        image += star(xx, yy)
    sigma, pair = measured(image)
    # The mesh takes off a little of what is as smooth as its cells.
    assert sigma == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(pair, correlation, atol=0.03)


@pytest.mark.parametrize('scale', [1e-30, 1e-12, 1e20])
def test_any_scale(scale, rng):
    noise, _ = smoothed(1.0, rng, shape=(128, 128))
    sigma, pair = measured(noise)
    again, pair_again = measured(noise * scale)
    assert again / scale == pytest.approx(sigma, rel=1e-3)
    np.testing.assert_allclose(pair_again, pair, atol=1e-3)


@pytest.mark.parametrize(
    ('n_exposures', 'density'), [(1, 0.008), (10, 0.004), (25, 0.008)]
)
def test_crowds_are_no_noise(n_exposures, density):
    """
    Faint stars make neighbouring pixels alike, as smoothing does.
    """
    simulator = CoaddSimulator(
        n_exposures, StarPrior(density=density), shape=(200, 200), margin=2
    )
    for seed in (1, 2):
        scene, _ = simulator.simulate(rng=seed)
        sigma, pair = measured(np.array(scene.data))
        assert sigma == pytest.approx(scene.bkg_error, rel=0.06)
        np.testing.assert_allclose(pair, scene.noise_correlation, atol=0.09)


def test_large_images_are_sampled(rng):
    noise = rng.normal(size=(1100, 1500))
    sigma, pair = estimate_sky_noise(noise, np.zeros(noise.shape, bool))
    assert sigma == pytest.approx(1, rel=0.005)
    assert pair == (0.0, 0.0)


def test_no_noise():
    with pytest.raises(ValueError, match='the image has no noise; give bkg_error'):
        estimate_sky_noise(np.zeros((40, 40)), np.zeros((40, 40), bool))


def test_plates_and_oversampled_images(shared_data):
    """
    Against SEP's scatter and the correlation of blank pixels, see its README.
    """
    fits = pytest.importorskip('astropy.io.fits')
    cameras = shared_data / 'cameras'
    for name, noise, least in (
        ('supercosmos_r_plane.fits', 30.0, 0.55),
        ('wise_w3_n5584.fits', 7e-7, 0.93),
    ):
        if not (cameras / name).is_file():
            pytest.skip('no images of cameras here')
        sigma, pair = measured(fits.getdata(cameras / name).astype(float))
        assert sigma == pytest.approx(noise, rel=0.15)
        assert min(pair) > least
