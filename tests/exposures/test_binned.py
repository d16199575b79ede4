# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures with joined pixels: noise, PSF, mask and coordinates follow.
"""

import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from bliss_astro import Exposure, PSFModel
from bliss_astro.exposures import measure_noise

SHAPE = (241, 250)


@pytest.fixture(params=['CDELT', 'CD'])
def wcs(request):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval, wcs.wcs.crpix = (10, 20), (100, 120)
    if request.param == 'CD':
        wcs.wcs.cd = 1e-4 * np.array([[-0.8, 0.6], [0.6, 0.8]])
    else:
        wcs.wcs.cdelt = -1e-4, 1e-4
    return wcs


@pytest.mark.parametrize('n', [2, 3])
@pytest.mark.parametrize('kernel', [0.0, 1.0])
def test_noise_is_what_is_stated(n, kernel, rng):
    noise = rng.normal(size=(2 * SHAPE[0], 2 * SHAPE[1]))
    if kernel:
        noise = gaussian_filter(noise, kernel, mode='wrap')
        noise /= noise.std()
    r = float(np.exp(-0.25 / kernel**2)) if kernel else 0.0
    exposure = Exposure(
        7 + noise[: SHAPE[0], : SHAPE[1]],
        background=7.0,
        bkg_error=1.0,
        effective_gain=5.0,
        noise_correlation=(r, r),
    )
    binned = exposure.binned(n)
    assert binned.shape == (SHAPE[0] // n, SHAPE[1] // n)
    assert binned.background == pytest.approx(7 * n * n)
    assert binned.effective_gain == pytest.approx(5)
    measured = measure_noise(binned.data, background=binned.background)
    assert measured.sigma == pytest.approx(binned.bkg_error, rel=0.02)
    assert_allclose(measured.noise_correlation, binned.noise_correlation, atol=0.03)
    # The sky's error is that of the sums, in units of their noise.
    level = 0.05 * n * n / binned.bkg_error
    assert binned.background_error == pytest.approx(level)


def test_stars_and_their_places(wcs):
    psf = PSFModel(sigma1=3.0, sigma2=6.0, sigmap=5.0)
    star = PSFModel(sigma1=3.0, sigma2=6.0, sigmap=5.0, flux=1e4, x_0=130.3, y_0=99.8)
    yy, xx = np.indices(SHAPE)
    exposure = Exposure(
        star(xx, yy), bkg_error=1.0, effective_gain=9.0, psf=psf, wcs=wcs
    )
    for n in (2, 3):
        binned = exposure.binned(n)
        x, y = ((v + 0.5) / n - 0.5 for v in (130.3, 99.8))
        there = binned.wcs.pixel_to_world(x, y)
        assert there.separation(wcs.pixel_to_world(130.3, 99.8)).arcsec < 1e-6
        assert binned.pixel_scale == pytest.approx(0.36 * n)
        model = binned.psf_at(x, y).copy()
        model.flux, model.x_0, model.y_0 = 1e4, x, y
        expected = model(*np.meshgrid(*(np.arange(k) for k in binned.shape[::-1])))
        assert np.abs(binned.data - expected).max() < 0.02 * expected.max()
        assert binned.meta == {'binned': n}
    # Twice two is four.
    once, twice = exposure.binned(4), exposure.binned(2).binned(2)
    assert_allclose(twice.data, once.data)
    assert twice.meta == {'binned': 4}
    assert float(twice.psf.fwhm) == pytest.approx(float(once.psf.fwhm), rel=0.02)


def test_masks_and_maps(rng):
    data = rng.normal(size=(8, 12))
    data[3, 4] = np.nan
    saturated = np.zeros(data.shape, bool)
    saturated[6, 1] = True
    noise = rng.uniform(1, 2, data.shape)
    exposure = Exposure(data, bkg_error=noise, effective_gain=2.0, saturated=saturated)
    binned = exposure.binned(2)
    assert_array_equal(np.argwhere(binned.mask), [[1, 2], [3, 0]])
    assert_array_equal(np.argwhere(binned.saturated), [[3, 0]])
    assert binned.bkg_error[0, 0] == pytest.approx(np.sqrt(np.sum(noise[:2, :2] ** 2)))
    assert exposure.binned(1) is exposure


def test_a_psf_that_varies(rng):
    class Varying:
        def at(self, x, y):
            return PSFModel(sigma1=2 + 0.01 * x)

    exposure = Exposure(
        rng.normal(size=(64, 400)), bkg_error=1.0, effective_gain=1.0, psf=Varying()
    )
    binned = exposure.binned(2)
    left, right = (float(binned.psf_at(x, 16).fwhm) for x in (0, 192))
    assert right > 1.8 * left
    assert float(binned[:, 64:].psf_at(128, 16).fwhm) == pytest.approx(right)


def test_distorted_coordinates():
    header = WCS(naxis=2).to_header()
    header.update(
        CTYPE1='RA---TAN-SIP', CTYPE2='DEC--TAN-SIP', CRVAL1=30.0, CRVAL2=-5.0,
        CRPIX1=60.0, CRPIX2=50.0, CD1_1=-1e-4, CD1_2=0.0, CD2_1=0.0, CD2_2=1e-4,
        A_ORDER=2, B_ORDER=2, A_2_0=2e-5, B_0_2=-3e-5, A_1_1=1e-5, B_1_1=0.0,
    )  # fmt: skip
    wcs = WCS(header)
    exposure = Exposure(np.ones((100, 120)), bkg_error=1, effective_gain=1, wcs=wcs)
    binned = exposure.binned(2)
    sky = binned.wcs.pixel_to_world([2, 50], [3, 40])
    expected = wcs.pixel_to_world([4.5, 100.5], [6.5, 80.5])
    # The distortions are fitted anew: within a hundredth of a pixel.
    assert np.all(sky.separation(expected).arcsec < 0.01 * binned.pixel_scale)


@pytest.mark.parametrize(
    ('n', 'error'),
    [(0, ValueError), (99, ValueError), (2.5, TypeError), (True, TypeError)],
)
def test_bad_numbers(n, error):
    exposure = Exposure(np.ones((40, 50)), bkg_error=1.0, effective_gain=1.0)
    with pytest.raises(error, match='n must be'):
        exposure.binned(n)
