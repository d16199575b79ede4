# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise of an image and its correlation: white or smoothed, sparse or crowded.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter

from bliss_astro import CoaddSimulator
from bliss_astro.coadds._noise import correlated_noise, kernel_of_pair
from bliss_astro.exposures import measure_noise
from bliss_astro.priors import StarPrior
from bliss_astro.psf import PSFModel


def _pair_kernel(noise):
    n = len(noise.kernel) // 2
    return noise.kernel[n, n + 1], noise.kernel[n + 1, n]


def test_white_noise(rng):
    data = rng.normal(50, 3, (300, 320))
    noise = measure_noise(data, background=50.0)
    # 96,000 pixels: 0.23 % in sigma, 0.32 % in each correlation. Four sigma.
    assert_allclose(noise.sigma, 3, rtol=0.01)
    assert_allclose(noise.sigma_error, 3 / np.sqrt(2 * noise.n_pixels), rtol=0.01)
    off = noise.kernel.copy()
    off[2, 2] = 0
    assert np.abs(off).max() < 0.013
    assert noise.kernel[2, 2] == 1
    assert noise.kernel_error[2, 2] == 0
    assert_allclose(noise.kernel_error[2, 3], noise.n_pixels**-0.5, rtol=0.02)
    assert noise.n_pixels > 0.9 * data.size


@pytest.mark.parametrize('pair', [(0.45, 0.0), (-0.2, 0.3)])
def test_correlated_noise(pair, rng):
    kernel = kernel_of_pair(*pair)
    data = 2 * correlated_noise((300, 310), kernel, rng)
    noise = measure_noise(data)
    assert_allclose(noise.noise_correlation, pair, atol=0.015)
    assert_allclose(noise.sigma, 2, rtol=0.02)
    assert_allclose(noise.kernel, kernel, atol=0.02)
    assert_allclose(noise.kernel, noise.kernel[::-1, ::-1])
    # The noise of sums: from the sums of blocks of 10 x 10 pixels, of which
    # 930 have it to 2.3 %; what a block shares with others is about 5 %.
    blocks = data[:300, :310].reshape(30, 10, 31, 10).sum((1, 3)) / 10
    assert_allclose(noise.area_sigma, blocks.std(), rtol=0.15)


def test_errors_are_those_of_repetitions(rng):
    """
    Stated errors, against the scatter over 60 images (9 % each).
    """
    kernel = kernel_of_pair(0.4, 0.2)
    found = [
        measure_noise(correlated_noise((64, 70), kernel, rng), background=0.0)
        for _ in range(60)
    ]
    sigmas = np.array([noise.sigma for noise in found])
    assert_allclose(
        sigmas.std(), np.mean([noise.sigma_error for noise in found]), rtol=0.3
    )
    for place in ((2, 3), (3, 2), (3, 3), (4, 2)):
        values = np.array([noise.kernel[place] for noise in found])
        stated = np.mean([noise.kernel_error[place] for noise in found])
        assert_allclose(values.std(), stated, rtol=0.3)
        assert abs(values.mean() - kernel[place]) < 4 * stated / np.sqrt(60) + 0.005
    # The sky is unknown here: without the correction for the mean, and for the
    # pixels left out, the small images would all say too little.
    assert_allclose(sigmas.mean(), 1, atol=0.008)


def test_sources_are_left_out(rng):
    ny, nx = 256, 256
    data = rng.normal(0, 2, (ny, nx))
    clean = measure_noise(data)
    yy, xx = np.indices(data.shape)
    for x, y, flux in zip(
        rng.uniform(0, nx, 40),
        rng.uniform(0, ny, 40),
        np.geomspace(60, 1e5, 40),
        strict=True,
    ):
        rows, columns = (
            slice(max(int(v) - 25, 0), int(v) + 26) for v in (y, x)
        )  # fmt: skip
        star = PSFModel(flux=flux, x_0=x, y_0=y)
        data[rows, columns] += star(xx[rows, columns], yy[rows, columns])
    noise = measure_noise(data)
    assert data.std() > 10 * clean.sigma
    assert_allclose(noise.sigma, clean.sigma, rtol=0.015)
    assert_allclose(_pair_kernel(noise), _pair_kernel(clean), atol=0.02)
    assert noise.blank.shape == data.shape
    assert np.count_nonzero(noise.blank) < 0.9 * data.size


def test_bad_pixels_and_a_noisy_corner(rng):
    data = rng.normal(0, 1, (320, 320))
    data[:64, :64] *= 5
    mask = np.zeros(data.shape, dtype=bool)
    mask[100:110] = True
    data[100:110] = 1e6
    data[200, 50:60] = np.nan
    noise = measure_noise(data, mask)
    assert_allclose(noise.sigma, 1, rtol=0.012)
    assert not noise.blank[100:110].any()
    assert not noise.blank[200, 50:60].any()


def test_a_sky_that_varies(rng):
    yy, xx = np.indices((256, 256))
    sky = 100 + 0.02 * xx + 1e-4 * (yy - 130) ** 2
    noise = measure_noise(rng.normal(sky, 1.5))
    assert_allclose(noise.sigma, 1.5, rtol=0.015)
    assert np.abs(_pair_kernel(noise)).max() < 0.015
    noise = measure_noise(rng.normal(sky, 1.5), background=sky)
    assert_allclose(noise.sigma, 1.5, rtol=0.012)


def test_units(rng):
    data = rng.normal(5, 1, (100, 100))
    plain = measure_noise(data, background=5.0)
    noise = measure_noise(data * u.nJy, background=5 * u.nJy)
    assert_allclose(noise.sigma.to_value(u.nJy), plain.sigma)
    assert noise.sigma_error.unit == u.nJy
    assert noise.area_sigma.unit == u.nJy
    assert 'NoiseMeasurement' in repr(noise)
    assert 'correlation' in repr(plain)


def test_bad_input(rng):
    data = rng.normal(0, 1, (40, 40))
    with pytest.raises(TypeError, match='max_lag must be an integer'):
        measure_noise(data, max_lag=1.5)
    with pytest.raises(ValueError, match='max_lag must be an integer from 1 to 19'):
        measure_noise(data, max_lag=0)
    with pytest.raises(ValueError, match='max_lag must be an integer from 1 to 19'):
        measure_noise(data, max_lag=20)
    with pytest.raises(ValueError, match='mask must have the shape'):
        measure_noise(data, np.zeros((3, 3), dtype=bool))
    with pytest.raises(ValueError, match='background must be a number or have'):
        measure_noise(data, background=np.zeros(3))
    with pytest.raises(ValueError, match='at least 100 good pixels; got 25'):
        measure_noise(data[:5, :5])


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
    noise = measure_noise(image)
    return noise.sigma, noise.significant_correlation


@pytest.mark.parametrize('sigma', [0.1, 0.6, 1.06, 2.86])
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
    assert_allclose(pair, correlation, atol=0.03)


@pytest.mark.parametrize('scale', [1e-30, 1e20])
def test_any_scale(scale, rng):
    noise, _ = smoothed(1.0, rng, shape=(128, 128))
    sigma, pair = measured(noise)
    again, pair_again = measured(noise * scale)
    assert again / scale == pytest.approx(sigma, rel=1e-3)
    assert_allclose(pair_again, pair, atol=1e-3)


@pytest.mark.parametrize(('n_exposures', 'density'), [(1, 0.008), (10, 0.008)])
def test_crowds_are_no_noise(n_exposures, density):
    """
    Faint stars make neighbouring pixels alike, as smoothing does.
    """
    simulator = CoaddSimulator(
        n_exposures, StarPrior(density=density), shape=(200, 200), margin=2
    )
    scene, _ = simulator.sample(rng=1)
    sigma, pair = measured(np.array(scene.data))
    assert sigma == pytest.approx(scene.bkg_error, rel=0.06)
    assert_allclose(pair, scene.noise_correlation, atol=0.09)
    # Errors go with the noise and the correlation that are returned.
    found = measure_noise(np.array(scene.data), max_lag=2)
    error = found.sigma * np.sqrt(np.sum(found.kernel**2) / (2 * found.n_pixels))
    assert found.sigma_error == pytest.approx(error)


def test_large_images_are_sampled(rng):
    noise = rng.normal(size=(1100, 1500))
    found = measure_noise(noise, background=0.0)
    assert found.sigma == pytest.approx(1, rel=0.005)
    assert found.significant_correlation == (0.0, 0.0)
    assert found.n_pixels == np.count_nonzero(found.blank) < noise.size / 2


def test_no_noise():
    with pytest.raises(ValueError, match='the image has no noise; give bkg_error'):
        measure_noise(np.zeros((40, 40)), background=0.0)


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
