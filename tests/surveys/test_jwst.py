# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the reader of resampled images of JWST, on files in the layout of i2d.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose

from bliss_astro.exposures import Exposure, ExposureSet
from bliss_astro.runs import find_fields
from bliss_astro.surveys import jwst

NMGY = 10 ** (0.4 * (31.4 - 22.5))
# Photons of the sky and read noise by input pixel, nJy; electrons per nJy; what
# drizzling leaves of the scatter of a pixel, and the kernel that it smooths by.
SKY, READ, GAIN, LOWER, KERNEL = 400.0, 20.0, 0.5, 0.7, 0.6
NOISE = np.sqrt(READ**2 + SKY / GAIN)


@pytest.fixture
def write(tmp_path, star_fields):
    """
    Give the writer of a file, without data in the first five columns.
    """

    def write(name='jw1_nircam_clear-f200w_i2d.fits', *, scale=0.03, primary=(), **sci):
        area = (scale * u.arcsec).to_value(u.rad) ** 2
        to_file = 1e-15 / area
        light = star_fields.light()
        photons = (SKY + light) / GAIN
        error = np.sqrt(READ**2 + photons)
        noise = star_fields.noise(1, KERNEL) * LOWER * error
        planes = {'SCI': light + SKY + noise, 'ERR': error}
        planes = {key: values * to_file for key, values in planes.items()}
        planes |= {'WHT': np.ones(light.shape), 'VAR_POISSON': photons * to_file**2}
        for values in planes.values():
            values[:, :5] = np.nan
        planes['WHT'][:, :5] = 0
        cards = {'TELESCOP': 'JWST', 'FILTER': 'F200W', 'PUPIL': 'CLEAR'}
        hdus = [fits.PrimaryHDU(header=fits.Header(cards | dict(primary)))]
        for key, values in planes.items():
            hdus.append(fits.ImageHDU(values.astype('f4'), name=key))
        context = np.ones((1, *light.shape), np.int32)
        hdus.insert(3, fits.ImageHDU(context, name='CON'))
        hdus[1].header.extend(star_fields.wcs_cards(scale))
        cards = {'BUNIT': 'MJy/sr', 'PIXAR_SR': area, 'PHOTMJSR': 2.0} | sci
        hdus[1].header.update({key: v for key, v in cards.items() if v is not None})
        fits.HDUList(hdus).writeto(tmp_path / name, overwrite=True)
        return tmp_path / name

    return write


def test_numbers(write, star_fields):
    exposure = Exposure.read(write())
    assert exposure.unit == u.nmgy
    assert exposure.band.name == 'F200W'
    assert exposure.band.wavelength == 1990
    assert exposure.pixel_scale == pytest.approx(0.03)
    truth = [mag for _, _, mag in star_fields.STARS]
    assert_allclose(star_fields.magnitudes(exposure), truth, rtol=0, atol=0.03)
    assert_allclose(np.median(exposure.background) * NMGY, SKY, atol=3)
    # The scatter of drizzled pixels and their correlation, not the stated error.
    assert star_fields.sky_scatter(exposure) == pytest.approx(1, abs=0.04)
    assert_allclose(np.median(exposure.bkg_error) * NMGY, LOWER * NOISE, rtol=0.04)
    assert exposure.meta['noise_ratio'] == pytest.approx(LOWER, rel=0.04)
    expected = np.exp(-1 / 4 / KERNEL**2)
    assert_allclose(exposure.noise_correlation, expected, atol=0.08)
    assert_allclose(exposure.effective_gain / NMGY, GAIN, rtol=0.05)
    assert exposure.mask[:, :5].all()
    assert exposure.mask.sum() == 5 * 96


def test_area_of_pixels(write, star_fields):
    truth = [mag for _, _, mag in star_fields.STARS]
    exposure = jwst.read_exposure(write(PIXAR_SR=None))
    assert_allclose(star_fields.magnitudes(exposure), truth, rtol=0, atol=0.03)
    # As the area of the detector's pixels, which earlier pipelines left in files.
    with pytest.warns(match='PIXAR_SR .* is 0.5 times the area'):
        exposure = jwst.read_exposure(
            write(PIXAR_SR=0.5 * (0.03 * u.arcsec).to_value(u.rad) ** 2)
        )
    assert_allclose(star_fields.magnitudes(exposure), truth, rtol=0, atol=0.03)
    with (
        pytest.raises(ValueError, match='must state PIXAR_SR, or have a WCS'),
        pytest.warns(match='wcs is left out'),
    ):
        jwst.read_exposure(write(PIXAR_SR=None, CTYPE1='X', CTYPE2='Y'))


def test_units(write, star_fields):
    truth = [mag for _, _, mag in star_fields.STARS]
    for unit in ('DN/s', None):
        with pytest.raises(ValueError, match='must be a surface brightness'):
            jwst.read_exposure(write(BUNIT=unit))
    exposure = jwst.read_exposure(write(BUNIT=None), unit='MJy/sr')
    assert_allclose(star_fields.magnitudes(exposure), truth, rtol=0, atol=0.03)


def test_bands():
    two = {'FILTER': 'F444W', 'PUPIL': 'F470N'}
    assert jwst._exposure._find_band(two).name == 'F470N'
    assert jwst._exposure._find_band({'FILTER': 'OPAQUE'}) is None
    names = {
        'jw1-o2_t3_miri_f770w_i2d.fits': ('jw1-o2_t3_miri', 'F770W'),
        'jw1-o2_t3_nircam_f444w-f470n_i2d.fits.gz': ('jw1-o2_t3_nircam', 'F470N'),
        'jw1-o2_t3_nircam_f150w2-f162m_i2d.fits': ('jw1-o2_t3_nircam', 'F162M'),
        'jw1-o2_t3_nircam_clear-f200w_cat.fits': None,
        # Of a team.
        'ceers_nircam1_f115w_v0.5_i2d.fits.gz': ('ceers_nircam1_v0.5', 'F115W'),
    }
    for name, expected in names.items():
        assert jwst._exposure._parse_name(name) == expected


def test_other_layouts(write):
    path = write()
    with fits.open(path) as hdus:
        del hdus['WHT']
        hdus.writeto(path.with_name('short.fits'))
        hdus['SCI'].data[:] = np.nan
        hdus.append(fits.ImageHDU(np.zeros(hdus['SCI'].data.shape, 'f4'), name='WHT'))
        hdus.writeto(path.with_name('empty.fits'))
    with pytest.raises(ValueError, match=r'short.fits.* lacks SCI, ERR and WHT'):
        jwst.read_exposure(path.with_name('short.fits'))
    with pytest.raises(ValueError, match=r'empty.fits.* must have pixels with data'):
        jwst.read_exposure(path.with_name('empty.fits'))


def test_fields(write):
    """
    Two bands with pixels of their own, on those of the first.
    """
    write('jw1_nircam_clear-f444w_i2d.fits', scale=0.04, primary={'FILTER': 'F444W'})
    path = write()
    [field] = find_fields(path.parent, 'jwst', psf={'F200W': None})
    assert field.id == 'jw1_nircam'
    exposures = field.open()
    assert isinstance(exposures, ExposureSet)
    assert set(exposures) == {'F200W', 'F444W'}
    assert exposures['F444W'].meta['resampled']
    assert_allclose(field.footprint[0], exposures.wcs.calc_footprint()[0])
