# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The error of a measured background that an exposure states, against the true one.

Scenes are drawn by photutils' and scipy's functions, with the noise of a pixel 10.
"""

import functools
import warnings

import numpy as np
import pytest
from astropy.modeling.models import Moffat2D
from astropy.stats import SigmaClip
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose
from photutils.background import (
    Background2D,
    MeanBackground,
    SExtractorBackground,
)
from scipy.ndimage import gaussian_filter

from bliss_astro import PSFModel
from bliss_astro.detection._estimates import as_exposure
from bliss_astro.exposures._cells import cells_of
from bliss_astro.exposures._estimate import estimate_missing
from bliss_astro.exposures._mesh import _filtered, _spline
from bliss_astro.exposures._sky import measure_background

NOISE, SIDE = 10.0, 256


@functools.cache
def sources(density, seed, *, galaxies=0.3, fwhm=3.5):
    """
    Stars and exponential disks of a power law of counts from SNR 2 on.
    """
    rng = np.random.default_rng([seed, 17])
    n = rng.poisson(density * SIDE**2)
    half = 25
    image = np.zeros((SIDE + 2 * half, SIDE + 2 * half))
    axis = np.arange(-half, half + 1)
    gamma = fwhm / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
    snr = np.minimum(2 * rng.random(n) ** (-1 / 0.7), 2000)
    for ratio, galaxy in zip(snr, rng.random(n) < galaxies, strict=True):
        x, y = rng.uniform(-0.5, 0.5, 2)
        column, row = rng.integers(0, SIDE, 2)
        if galaxy:
            stretched = (axis[:, None] - y) * rng.uniform(1, 2)
            radius = np.hypot(axis - x, stretched)
            star = gaussian_filter(
                np.exp(-1.68 * radius / rng.uniform(1, 5)), fwhm / 2.3548
            )
        else:
            star = Moffat2D(gamma=gamma, alpha=3.5)(axis - x, axis[:, None] - y)
        flux = NOISE * ratio * np.sqrt(2.6 * fwhm**2)
        window = np.s_[row : row + 2 * half + 1, column : column + 2 * half + 1]
        image[window] += flux * star / star.sum()
    return image[half:-half, half:-half]


def white(rng):
    return rng.normal(size=(SIDE, SIDE))


def smooth(rng):
    noise = gaussian_filter(white(rng), 0.7, mode='wrap')
    return noise / noise.std()


def plane(height):
    ramp = np.arange(SIDE) / SIDE - 0.5
    return height * NOISE * (ramp + 0.5 * ramp[:, None])


CASES = {
    'noise': (0.0, white, 0.0),
    'sparse': (0.002, white, 0.0),
    'dense': (0.012, white, 0.0),
    'gradient': (0.002, white, 2.0),
    'correlated': (0.002, smooth, 0.0),
}


@pytest.mark.parametrize('name', CASES)
def test_stated_error_is_the_true_one(name):
    density, noise, height = CASES[name]
    stated, true = [], []
    for seed in range(3):
        rng = np.random.default_rng([seed, 18])
        sky = 1000 + plane(height)
        image = sky + sources(density, seed) + NOISE * noise(rng)
        exposure = estimate_missing(image, {}, {})
        off = (exposure.background - sky) / exposure.bkg_error
        true.append(float(np.mean(np.square(off))))
        stated.append(exposure.background_error**2)
    ratio = np.sqrt(np.mean(stated) / np.mean(true))
    # Confusion, without which the dense sky's would be 0.66, is known best.
    limit = 1.3 if name == 'dense' else 1.7
    assert 1 / limit < ratio < limit


def test_correlated_noise_is_not_taken_for_sources():
    rng = np.random.default_rng(3)
    exposure = estimate_missing(1000 + NOISE * smooth(rng), {}, {})
    assert abs(np.mean(exposure.background) - 1000) < 0.05 * NOISE


def test_gradient_of_the_sky_is_followed_to_the_edges():
    """
    A mesh ends at the middle of its outer cells.
    """
    rng = np.random.default_rng(4)
    sky = 1000 + plane(30.0)
    image = sky + sources(0.002, 1) + NOISE * white(rng)
    exposure = estimate_missing(image, {}, {})
    off = (exposure.background - sky) / NOISE
    assert np.sqrt(np.mean(np.square(off))) < 0.15
    assert np.abs(off).max() < 0.4
    assert not exposure.mask.any()


def test_error_stays_in_the_domain():
    rng = np.random.default_rng(1)
    waves = 3 * NOISE * np.sin(2 * np.pi * np.arange(SIDE) / 100)
    exposure = estimate_missing(1000 + waves + NOISE * white(rng), {}, {})
    assert exposure.background_error == 0.3


@pytest.mark.parametrize('shape', [(150, 90), (128, 128), (20, 33)])
def test_mesh_is_interpolated_as_by_photutils(shape, rng):
    box = tuple(min(32, n) for n in shape)
    mesh = Background2D(rng.normal(size=shape), box, filter_size=1)
    place = [slice(0, n) for n in shape]
    found = _spline(mesh.background_mesh, place, box)
    bounds = mesh.background_mesh.min(), mesh.background_mesh.max()
    assert_allclose(found.clip(*bounds), mesh.background, atol=1e-12)


@pytest.mark.parametrize('mode', [True, False])
def test_mesh_is_that_of_photutils(mode, rng):
    image = sources(0.002, 1)[:150, :90] / NOISE + rng.normal(size=(150, 90))
    image, box = image.astype(np.float32), (32, 32)
    bad = rng.random(image.shape) < 0.1
    # A cell without, and one with few good pixels; values that no sum may meet.
    bad[:32, :32] = True
    bad[32:64, :30] = True
    image[100, 50], image[120, :3] = 1e15, -1e12
    estimator = SExtractorBackground() if mode else MeanBackground()
    options = {'exclude_percentile': 90, 'sigma_clip': SigmaClip(3.0, maxiters=10)}
    with warnings.catch_warnings(action='ignore'):
        expected = Background2D(
            image, box, mask=bad, bkg_estimator=estimator, **options
        )
    level, scatter = map(_filtered, cells_of(image, bad, box, mode=mode))
    assert_allclose(level, expected.background_mesh, rtol=1e-4, atol=1e-5)
    assert_allclose(scatter, expected.background_rms_mesh, rtol=1e-4)


@pytest.mark.parametrize('scale', [0.1, 1.0])
def test_images_of_few_values_have_a_sky(scale):
    """
    Most cells have no scatter: of photons in units of their own, or of one value.
    """
    counts = np.random.default_rng(1).poisson(0.05, (SIDE, SIDE)) * scale
    for image in (counts, np.full((SIDE, SIDE), 7.5 * scale)):
        sky = measure_background(image, np.zeros(image.shape, bool))
        assert_allclose(sky, image.min(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('large', [50_000, 100_000])
def test_what_is_exposed_between_windows_is_measured(large, monkeypatch, rng):
    for name, value in {'LARGE': large, '_MAX_PIXELS': 8_000, '_MARGIN': 8}.items():
        monkeypatch.setattr(f'bliss_astro._sample.{name}', value)
    image = 500 + sources(2e-3, 1) + rng.normal(0, NOISE, (SIDE, SIDE))
    # The windows of a sample end before.
    image[:, :185] = np.nan
    exposure, estimated = as_exposure(image)
    assert exposure.bkg_error == pytest.approx(NOISE, rel=0.05)
    assert estimated['psf'].startswith('fit to')
    weight = np.where(np.isnan(image), 0, 1.0)
    noise = rng.normal(500, NOISE, image.shape)
    weighted, _ = as_exposure(np.where(weight > 0, image, noise), weight=weight)
    assert np.median(weighted.bkg_error) == pytest.approx(NOISE, rel=0.05)


def test_what_is_given_is_kept():
    rng = np.random.default_rng(2)
    image = 1000 + NOISE * white(rng)
    known = estimate_missing(image, {'background': 1000.0}, {})
    assert known.background_error == 0.05
    own = estimate_missing(image, {'background_error': 0.2}, {})
    assert own.background_error == 0.2


@pytest.mark.parametrize('gain', [None, 4.0])
def test_a_total_error_is_not_the_noise_of_the_sky(gain):
    rng = np.random.default_rng(8)
    yy, xx = np.mgrid[:128, :128]
    image = np.full((128, 128), 100.0)
    for x, y in rng.uniform(8, 120, (20, 2)):
        image += 800 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 8)
    image += rng.normal(size=image.shape) * np.sqrt(image / 4)
    psf = PSFModel.from_fwhm(4.7)
    given = {'effective_gain': gain, 'psf': psf, 'background': 100.0}
    with pytest.warns(AstropyUserWarning, match='as a total error does'):
        exposure, _ = as_exposure(image, bkg_error=np.sqrt(image / 4), **given)
    noise = np.broadcast_to(exposure.bkg_error, image.shape)
    assert_allclose(noise[image > 300], 5.0, rtol=0.1)
    # Noise that varies otherwise is left as it is.
    uneven = 5 + 0.01 * xx
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        exposure, _ = as_exposure(image, bkg_error=uneven, **given)
    assert_allclose(exposure.bkg_error, uneven)
