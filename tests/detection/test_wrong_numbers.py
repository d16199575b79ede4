# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Numbers that no image has are refused by the name of the argument.
"""

import numpy as np
import pytest

from bliss_astro import detect_sources
from bliss_astro.detection._estimates import estimate_record
from bliss_astro.exposures import Exposure
from bliss_astro.psf import PSFModel


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).normal(10, 1, (40, 50))


GIVEN = {'background': 10.0, 'bkg_error': 1.0, 'effective_gain': 1.0}


@pytest.mark.parametrize('side', [5, 11, 21])
def test_a_flat_image_is_no_psf(image, side):
    # Once its fit was 100,000 px wide, and drawing it took all memory.
    with pytest.raises(ValueError, match='psf: image shows no PSF: the fit is'):
        detect_sources(image, psf=np.ones((side, side)), **GIVEN)


def test_the_background_of_a_psf_is_named_where_it_hides_the_psf():
    psf = PSFModel.from_fwhm(3.0)
    y, x = np.mgrid[-12:13, -12:13]
    assert PSFModel.fit(psf(x, y)).fwhm == pytest.approx(3.0, rel=0.02)
    with pytest.raises(ValueError, match='background taken off'):
        PSFModel.fit(1.0 + 1e-3 * psf(x, y))


def test_small_images_of_psfs(image):
    with pytest.raises(ValueError, match='psf: an image must have at least 5 x 5'):
        detect_sources(image, psf=np.ones((4, 4)), **GIVEN)


def test_zero_points_that_are_none(image):
    with pytest.raises(ValueError, match='zero_point must be finite and within'):
        detect_sources(image, zero_point=1e9, fwhm=3.0, **GIVEN)


def test_a_saturation_below_all_pixels(image):
    with pytest.raises(ValueError, match='saturation must lie above some of the data'):
        detect_sources(image, saturation=-1.0, fwhm=3.0, **GIVEN)


def test_a_saturation_that_is_no_number(image):
    with pytest.raises(ValueError, match='saturation must'):
        detect_sources(image, saturation=np.nan, fwhm=3.0, **GIVEN)


@pytest.mark.parametrize('shape', [(1, 1), (2, 2), (1, 8)])
def test_too_few_pixels_for_their_noise(shape):
    with pytest.raises(ValueError, match='bkg_error cannot be estimated'):
        detect_sources(np.full(shape, 7.0), fwhm=3.0)


def test_one_depth_in_the_record_and_in_the_exposure(image):
    exposure = Exposure(
        image, psf=PSFModel.from_fwhm(3.0), noise_correlation=(0.3, 0.2), **GIVEN
    )
    depth = estimate_record(exposure, {}, density=0.001)['depth']['value']
    assert f'5 sigma at {depth:.3g}' in repr(exposure)


def test_an_image_of_another_shape_is_not_drawn_under_a_catalogue(image):
    image = 9 * (image - 10) + 10
    catalog = detect_sources(
        image, 1e-3, fwhm=3.0, density=0.002, check=False, **GIVEN | {'bkg_error': 9.0}
    )
    with pytest.raises(ValueError, match=r'image has the shape \(10, 50\)'):
        catalog.plot(image[:10])
    assert catalog.plot(image) is not None
