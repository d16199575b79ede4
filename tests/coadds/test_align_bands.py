# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of `align_bands`.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.coadds import Coadd, align_bands, align_exposures, coadd_exposures
from bliss_astro.exposures import BANDS, Exposure, ExposureSet, measure_noise
from bliss_astro.psf import PSFModel

pytest.importorskip('reproject')


def make_wcs(x=0.0, y=0.0, *, scale=0.4, ra=150.0):
    """
    A tangent plane whose pixel (x, y) lies at one place.
    """
    cards = {'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CRVAL1': ra, 'CRVAL2': 2}
    step = scale / 3600
    return WCS(
        cards | {'CRPIX1': x + 1, 'CRPIX2': y + 1, 'CDELT1': -step, 'CDELT2': step}
    )


def make(x=40.0, y=30.0, *, shape=(96, 112), flux=2000.0, seed=1, **changes):
    """
    A star of that flux at pixel (x, y), on the same place of the sky always.
    """
    yy, xx = np.indices(shape)
    psf = PSFModel(sigma1=1.4)
    image = flux * psf(xx - x, yy - y) + 10
    image = image + np.random.default_rng(seed).normal(0, 0.5, shape)
    known = {'background': 10.0, 'bkg_error': 0.5, 'effective_gain': 4.0, 'psf': psf}
    return Exposure(image, **known | {'wcs': make_wcs(x, y)} | changes)


def flux_at(exposure, x, y, radius=8):
    """
    Sum within a square aperture.
    """
    part = exposure.data - exposure.background
    return part[y - radius : y + radius + 1, x - radius : x + radius + 1].sum()


def test_everything_follows():
    r = make(meta={'name': 'r'})
    g = make(43.3, 28.6, shape=(100, 110), flux=3000, seed=2, meta={'name': 'g'})
    bands = {'g': g, 'r': r, 'u': None, 'z': make(seed=3)}
    exposures = align_bands(bands, reference='r')
    assert isinstance(exposures, ExposureSet)
    assert list(exposures) == ['r', 'g', 'z']
    assert_array_equal(exposures.present, [True, True, False, True])
    # Neither the reference, nor what is on its grid, is resampled.
    for name in 'rz':
        assert exposures[name].data is bands[name].data
        assert 'resampled' not in exposures[name].meta
    aligned = exposures['g']
    assert isinstance(aligned, Coadd)
    assert aligned.band is BANDS['g']
    assert aligned.meta['resampled'] is True
    assert aligned.meta['name'] == 'g'
    assert 'resampled' not in g.meta
    assert aligned.background == 0
    assert_allclose(flux_at(aligned, 40, 30), flux_at(g, 43, 29), rtol=0.005)
    yy, xx = np.indices((17, 17)) - 8
    stamp = aligned.data[22:39, 32:49]
    assert_allclose((stamp * xx).sum() / stamp.sum(), 0, atol=0.05)
    assert_allclose((stamp * yy).sum() / stamp.sum(), 0, atol=0.05)
    # Columns and rows that g does not cover are bad there.
    assert aligned.mask[:, 107:].all()
    assert not aligned.mask[30, :106].any()
    noise = measure_noise(aligned.data, aligned.mask)
    stated = np.median(aligned.bkg_error[~aligned.mask])
    assert_allclose(noise.sigma, stated, rtol=0.03)
    assert_allclose(noise.kernel[2, 3], aligned.noise_correlation[0], atol=0.05)
    assert aligned.psf_at(40, 30).fwhm > g.psf_at(43, 29).fwhm
    assert align_bands(exposures)['g'] is aligned


def test_band_of_coadds():
    bands = [make(band='HSC.i'), make(40.5, band='HSC.i'), make()]
    aligned = align_exposures(bands)
    assert [each.band for each in aligned] == [BANDS['HSC.i']] * 2 + [None]
    coadd = coadd_exposures(bands[:2])
    assert coadd.band is BANDS['HSC.i']
    assert coadd.meta['band'] == 'i'
    # Filters of one name are not one filter.
    with pytest.raises(ValueError, match=r"in Band\(name='i', wavelength=748.7.*772"):
        coadd_exposures([*bands, make(band='i')])
    mixed = [make(band='i', meta={'band': 'i'}), make(meta={'band': 'i'})]
    assert coadd_exposures(mixed).band is BANDS['i']


def test_unit_and_reference():
    bands = {'i': make(unit=u.nmgy), 'z': make(40.5, unit=u.nJy, seed=2)}
    exposures = align_bands(bands)
    assert exposures.reference == 'i'
    assert exposures['z'].unit == u.nmgy
    assert_allclose(flux_at(exposures['z'], 40, 30), 2000 / 3630.78, rtol=0.02)
    exposures = align_bands(
        {'i': bands['i'], 'z': make(40.5, unit=u.adu)}, 'z', calibration={'i': 3.0}
    )
    assert exposures.reference == 'z'
    assert exposures['i'].unit == u.adu


@pytest.mark.parametrize(
    ('exposure', 'match'),
    [
        (make(wcs=None), r"exposures\['g'\] has no wcs"),
        (make(wcs=make_wcs(ra=152)), "band 'g' does not overlap with the .* band 'r'"),
        (make(wcs=make_wcs(40, 30, scale=1.2)), "wide as those of band 'g'"),
        (make(41, unit=u.nmgy), "band 'g' and band 'r' have units that do not fit"),
        (make(41, band='z'), r"exposures\['g'\] is in the band 'z'"),
    ],
)
def test_bad_input(exposure, match):
    with pytest.raises(ValueError, match=match):
        align_bands({'g': exposure, 'r': make()}, reference='r')
    with pytest.raises(ValueError, match='reference must be one of g, r'):
        align_bands({'g': make(), 'r': make()}, reference='y')
