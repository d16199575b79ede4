# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Skies with steps, numbers that are no light, and noise finer than the numbers.
"""

import re

import astropy.units as u
import numpy as np
import pytest

from bliss_astro.detection._estimates import as_exposure

SKY, NOISE = 100.0, 5.0


@pytest.fixture
def image(rng):
    """
    Stars of three magnitudes on a level sky, 160 px on a side.
    """
    yy, xx = np.mgrid[:160, :160]
    image = np.full((160, 160), SKY)
    for flux in np.repeat([8000.0, 2000.0, 600.0], 12):
        x, y = rng.uniform(5, 155, 2)
        star = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 3.92)
        image += flux / (3.92 * np.pi) * star
    return image + rng.normal(0, NOISE, image.shape)


@pytest.mark.parametrize('factor', [1.5, 2, 3])
@pytest.mark.parametrize('edge', [60, 80, 100, 130])
def test_halves_of_unlike_gain(factor, edge, image):
    """
    Neither is masked; their noise is at least that of the quieter one.
    """
    image[:, edge:] *= factor
    with pytest.warns(match='the sky of data changes abruptly') as record:
        exposure, _ = as_exposure(image)
    assert not [w for w in record if issubclass(w.category, RuntimeWarning)]
    # Cosmic rays are.
    assert np.mean(exposure.mask) < 0.05
    assert exposure.bkg_error > 0.9 * NOISE
    # A map of the sky is all that was missing.
    sky = np.where(np.arange(160) < edge, SKY, factor * SKY)
    exposure, _ = as_exposure(image, background=np.broadcast_to(sky, image.shape))
    assert 0.9 * NOISE < exposure.bkg_error < 1.1 * factor * NOISE


@pytest.mark.parametrize('slope', [0.0, 0.5])
def test_level_and_sloping_skies_have_no_steps(slope, image):
    exposure, _ = as_exposure(image + slope * np.arange(160))
    assert exposure.bkg_error == pytest.approx(NOISE, rel=0.03)


@pytest.mark.parametrize('sigma', [0.25, 0.4, 0.7, 1.5])
@pytest.mark.parametrize('level', [5.0, 5.3, 5.5])
@pytest.mark.filterwarnings('ignore:data are whole numbers')
def test_noise_finer_than_the_numbers(sigma, level, image):
    """
    The scatter of rounded numbers, which most pixels having one value hides.
    """
    signal = level + (image - SKY) * sigma / NOISE
    exposure, _ = as_exposure(np.rint(signal).astype(int))
    noise = np.rint(level + np.random.default_rng(3).normal(0, sigma, 10**6)).std()
    assert exposure.bkg_error == pytest.approx(noise, rel=0.1)
    assert np.median(exposure.background) == pytest.approx(level, abs=0.25)
    assert not exposure.mask.any()


@pytest.mark.filterwarnings('ignore:data are whole numbers')
def test_scale_of_weights_of_whole_numbers(image):
    """
    Weights that state half of the noise.
    """
    weight = np.full(image.shape, 16.0)
    exposure, _ = as_exposure(np.rint(image / 10).astype(int), weight=weight)
    noise = np.hypot(0.5, 12**-0.5)
    assert np.median(exposure.bkg_error) == pytest.approx(noise, rel=0.05)


def test_whole_numbers_without_noise(image):
    image = np.rint(SKY + 100 * (image > 2 * SKY))
    with pytest.raises(ValueError, match='the image has no noise'):
        as_exposure(image)


@pytest.mark.parametrize('value', [1e12, 1e16, 1e20, 1e30, -1e30, 3.4e38, 1e300])
@pytest.mark.parametrize('dtype', ['f4', 'f8'])
@pytest.mark.parametrize('given', [{}, {'background': 100.0}, {'bkg_error': 5.0}])
def test_numbers_that_are_no_light(value, dtype, given, image):
    """
    One pixel is masked, which is told, and changes nothing else.
    """
    plain, _ = as_exposure(image.astype(dtype), **given)
    image[60, 50] = value
    with np.errstate(over='ignore'):
        image = image.astype(dtype)
    exposure, estimated = as_exposure(image, **given)
    assert np.argwhere(exposure.mask).tolist() == [[60, 50]]
    if np.isfinite(image[60, 50]):
        assert estimated['mask'].startswith('1 pixel added that neither sky nor stars')
    assert exposure.bkg_error == pytest.approx(plain.bkg_error, rel=0.01)
    np.testing.assert_allclose(exposure.background, plain.background, atol=0.5)


@pytest.mark.parametrize(
    'unit', [u.mag, u.ABmag, u.dB, u.mag / u.arcsec**2, u.Unit('mmag') / u.pix, u.dex]
)
def test_logarithmic_units(unit, image):
    with pytest.raises(ValueError, match=r'linear in flux; got .* Convert magnitudes'):
        as_exposure(image * unit)


@pytest.mark.parametrize('level', [-5.0, 0.5, 90.0, 101.0, 108.0])
@pytest.mark.parametrize('given', [{}, {'background': 100.0, 'bkg_error': 5.0}])
def test_saturation_within_the_sky(level, given, image):
    words = r'^saturation must lie above (the sky; \d+ of 25600|some of the data)'
    with pytest.raises(ValueError, match=words):
        as_exposure(image, saturation=level, **given)


def test_saturation_of_stars(image):
    exposure, _ = as_exposure(image, saturation=150.0)
    assert np.array_equal(exposure.saturated, image >= 150)


@pytest.mark.parametrize(
    ('shape', 'plane'),
    [((3, 9, 8), '0, :, :'), ((9, 8, 3), ':, :, 0'), ((2, 9, 8, 3), '0, :, :, 0')],
)
def test_cubes(shape, plane):
    words = f'data must be two-dimensional; got shape {shape}. Choose one plane, such '
    with pytest.raises(ValueError, match=re.escape(f'{words}as data[{plane}].')):
        as_exposure(np.ones(shape))


def test_tensors_with_gradients(image):
    import torch

    tensor = torch.tensor(image, requires_grad=True)
    mask = torch.tensor(image > 300)
    exposure, _ = as_exposure(tensor, mask=mask)
    np.testing.assert_array_equal(exposure.data, image)
    assert exposure.mask[image > 300].all()


@pytest.mark.parametrize(('n_good', 'pixels'), [(1, '1 pixel'), (2, '2 pixels')])
def test_hardly_a_pixel(n_good, pixels):
    image = np.full((30, 30), np.nan)
    image[3, :n_good] = 5
    with pytest.raises(ValueError, match=f'estimated from {pixels}; give bkg_error'):
        as_exposure(image, background=0)
