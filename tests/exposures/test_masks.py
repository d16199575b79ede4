# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Masks of pixels without sky, skies with steps, and noise finer than the numbers.
"""

import re

import astropy.units as u
import numpy as np
import pytest

from bliss_astro import PSFModel
from bliss_astro.detection._estimates import as_exposure
from bliss_astro.exposures._areas import find_exact_areas

SKY, NOISE = 100.0, 5.0
GOOD = np.zeros((200, 200), bool)


def exposure_of(image, **given):
    """Exposure of an image, whose PSF is not estimated, and sources of its numbers."""
    return as_exposure(image, psf=PSFModel(), **given)


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


@pytest.mark.parametrize(('factor', 'edge'), [(1.5, 80), (3, 130)])
def test_halves_of_unlike_gain(factor, edge, image):
    """
    Neither is masked; their noise is at least that of the quieter one.
    """
    image[:, edge:] *= factor
    with pytest.warns(match='the sky of data changes abruptly') as record:
        exposure, _ = exposure_of(image)
    assert not [w for w in record if issubclass(w.category, RuntimeWarning)]
    # Cosmic rays are.
    assert np.mean(exposure.mask) < 0.05
    assert exposure.bkg_error > 0.9 * NOISE
    # A map of the sky is all that was missing.
    sky = np.where(np.arange(160) < edge, SKY, factor * SKY)
    exposure, _ = exposure_of(image, background=np.broadcast_to(sky, image.shape))
    assert 0.9 * NOISE < exposure.bkg_error < 1.1 * factor * NOISE


@pytest.mark.parametrize('slope', [0.0, 0.5])
def test_level_and_sloping_skies_have_no_steps(slope, image):
    exposure, _ = exposure_of(image + slope * np.arange(160))
    assert exposure.bkg_error == pytest.approx(NOISE, rel=0.03)


@pytest.mark.parametrize(
    ('sigma', 'level'), [(0.25, 5.3), (0.4, 5.0), (0.7, 5.3), (1.5, 5.0)]
)
@pytest.mark.filterwarnings('ignore:data are whole numbers')
def test_noise_finer_than_the_numbers(sigma, level, image):
    """
    The scatter of rounded numbers, which most pixels having one value hides.
    """
    signal = level + (image - SKY) * sigma / NOISE
    exposure, _ = exposure_of(np.rint(signal).astype(int))
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
    exposure, _ = exposure_of(np.rint(image / 10).astype(int), weight=weight)
    noise = np.hypot(0.5, 12**-0.5)
    assert np.median(exposure.bkg_error) == pytest.approx(noise, rel=0.05)


def test_whole_numbers_without_noise(image):
    image = np.rint(SKY + 100 * (image > 2 * SKY))
    with pytest.raises(ValueError, match='the image has no noise'):
        exposure_of(image)


@pytest.mark.parametrize(
    ('value', 'dtype', 'given'),
    [
        (1e12, 'f8', {}),
        (1e20, 'f4', {'background': 100.0}),
        (-1e30, 'f4', {'bkg_error': 5.0}),
        (3.4e38, 'f4', {}),
        (1e300, 'f8', {'background': 100.0}),
    ],
)
def test_numbers_that_are_no_light(value, dtype, given, image):
    """
    One pixel is masked, which is told, and changes nothing else.
    """
    plain, _ = exposure_of(image.astype(dtype), **given)
    image[60, 50] = value
    with np.errstate(over='ignore'):
        image = image.astype(dtype)
    exposure, estimated = exposure_of(image, **given)
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
        exposure_of(image * unit)


@pytest.mark.parametrize('level', [-5.0, 90.0, 108.0])
@pytest.mark.parametrize('given', [{}, {'background': 100.0, 'bkg_error': 5.0}])
def test_saturation_within_the_sky(level, given, image):
    words = r'^saturation must lie above (the sky; got \d+ of 25600|some of the data)'
    with pytest.raises(ValueError, match=words):
        exposure_of(image, saturation=level, **given)


def test_saturation_of_stars(image):
    exposure, _ = exposure_of(image, saturation=150.0)
    assert np.array_equal(exposure.saturated, image >= 150)


@pytest.mark.parametrize(
    ('shape', 'plane'),
    [((3, 9, 8), '0, :, :'), ((9, 8, 3), ':, :, 0'), ((2, 9, 8, 3), '0, :, :, 0')],
)
def test_cubes(shape, plane):
    words = f'data must be two-dimensional; got shape {shape}. Choose one plane, such '
    with pytest.raises(ValueError, match=re.escape(f'{words}as data[{plane}]')):
        exposure_of(np.ones(shape))


def test_tensors_with_gradients(image):
    import torch

    tensor = torch.tensor(image, requires_grad=True)
    mask = torch.tensor(image > 300)
    exposure, _ = exposure_of(tensor, mask=mask)
    np.testing.assert_array_equal(exposure.data, image)
    assert exposure.mask[image > 300].all()


@pytest.mark.parametrize(('n_good', 'pixels'), [(1, '1 pixel'), (2, '2 pixels')])
def test_hardly_a_pixel(n_good, pixels):
    image = np.full((30, 30), np.nan)
    image[3, :n_good] = 5
    with pytest.raises(ValueError, match=f'estimated from {pixels}; give bkg_error'):
        exposure_of(image, background=0)


# -- areas of one exact value ---------------------------------------------------------


def found(data):
    return [(v, int(m.sum()), bool(f)) for v, m, f in find_exact_areas(data, GOOD)]


@pytest.fixture
def noise(rng):
    return rng.normal(100, 1, GOOD.shape)


def test_a_plain_image_has_none(noise, rng):
    assert found(noise) == []
    assert found(noise.astype(np.float32)) == []


def test_zeros_around_a_drizzled_field(noise):
    yy, xx = np.indices(noise.shape)
    outside = np.hypot(yy - 100, xx - 100) > 95
    noise[outside] = 0.0
    areas = find_exact_areas(noise, GOOD)
    marked = np.logical_or.reduce([mask for _, mask, _ in areas])
    assert {value for value, _, _ in areas} == {0.0}
    assert not np.any(marked & ~outside)
    # At most some pixels of the ragged border have no equals around them.
    assert np.count_nonzero(outside & ~marked) < 0.01 * outside.sum()


def test_collateral_columns_and_a_plateau(noise):
    noise[:, :12] = 0.0
    noise[50:70, 90:120] = 4e5
    assert found(noise) == [(0.0, 2400, False), (4e5, 600, True)]


@pytest.mark.parametrize('scatter', [0.2, 0.5, 2.0])
def test_rounded_noise(scatter, rng):
    data = np.rint(rng.normal(10, scatter, GOOD.shape))
    assert found(data) == []
    data[:, :40] = 0.0
    assert found(data) == [(0.0, 8000, False)]


@pytest.mark.parametrize('mean', [0.01, 0.05, 0.3, 3.0])
def test_few_photons(mean, rng):
    assert found(rng.poisson(mean, GOOD.shape).astype(float)) == []


def test_bad_pixels_are_no_area(noise):
    noise[:, :30] = np.nan
    assert found(noise) == []
    mask = GOOD.copy()
    mask[:30] = True
    noise[:30] = 0.0
    assert find_exact_areas(noise, mask) == []
