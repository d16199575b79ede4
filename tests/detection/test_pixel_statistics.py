# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the look at an image's pixels.
"""

import numpy as np
import pytest

from bliss_astro import CoaddSimulator, OutOfDomainWarning, detect_sources
from bliss_astro.detection._domain import PIXEL_LIMITS, pixel_statistics
from bliss_astro.exposures import Exposure
from bliss_astro.flags import CatalogFlag


def noise(shape=(300, 300), seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def outside(facts):
    return {
        name
        for name, (low, high) in PIXEL_LIMITS.items()
        if ((facts[name] < low) | (facts[name] > high)).any()
    }


def test_white_noise_is_ordinary():
    image = noise()
    facts = pixel_statistics(image, np.ones(image.shape, bool), shape=(75, 75))
    assert not outside(facts)
    # A quantile at 2 sigma of 5,600 pixels is good to 4 per cent.
    np.testing.assert_allclose(facts['pixel_scatter'], 1, atol=0.1)
    np.testing.assert_allclose(facts['pixel_level'], 0, atol=0.08)
    assert facts['pixel_scatter'].shape == (75, 75)


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        (lambda image: 1.35 * image, 'pixel_scatter'),
        (lambda image: 0.75 * image, 'pixel_scatter'),
        (lambda image: image - 0.8, 'pixel_level'),
        (lambda image: np.where(noise(seed=2) > 2.5, -20, image), 'pixel_holes'),
    ],
)
def test_what_is_not_as_stated_is_reported(change, name):
    image = change(noise())
    facts = pixel_statistics(image, np.ones(image.shape, bool), shape=(4, 4))
    assert name in outside(facts)


def test_crowding_is_not_taken_for_noise():
    image = noise() + 0.8 + 3 * np.abs(noise(seed=5))
    facts = pixel_statistics(image, np.ones(image.shape, bool), shape=(4, 4))
    assert 'pixel_scatter' not in outside(facts)


def test_masked_images_have_no_statistics():
    image = 5 * noise((40, 40))
    facts = pixel_statistics(image, np.zeros(image.shape, bool), shape=(10, 10))
    assert np.isnan(facts['pixel_scatter']).all()
    assert not outside(facts)


def test_a_wrong_noise_warns_and_flags():
    coadd, _ = CoaddSimulator(1).sample(rng=3)
    wrong = Exposure(
        coadd.data,
        background=coadd.background,
        bkg_error=0.6 * coadd.bkg_error,
        effective_gain=coadd.effective_gain,
        psf=coadd.psf,
    )
    with pytest.warns(OutOfDomainWarning, match='scatter of the pixels'):
        catalog = detect_sources(wrong, encoder='stars')
    assert (catalog['flags'] & int(CatalogFlag.NOISE_OUT_OF_DOMAIN)).all()
