# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of bands: their table, their names in headers, and the band of an exposure.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose

from bliss_astro.coadds import Coadd
from bliss_astro.exposures import BANDS, Band, Exposure
from bliss_astro.exposures._bands import find_band
from bliss_astro.simulation import CoaddSimulator
from bliss_astro.simulation._images import write_simulated
from bliss_astro.units import BAND_WAVELENGTHS

OWN = Band('F814W', 804.5, 154.0)


def make(**changes):
    """
    Make a small exposure.
    """
    return Exposure(np.zeros((8, 9)), **{'bkg_error': 1, 'effective_gain': 2} | changes)


def test_table():
    found = {name: BANDS[name].wavelength for name in BAND_WAVELENGTHS}
    assert found == BAND_WAVELENGTHS
    assert BANDS['r'].description == (0.0, 0.0)
    assert BANDS['g'] is BANDS['SDSS.g']
    assert BANDS['y'] is BANDS['LSST.y']
    assert_allclose(
        np.exp(BANDS['DECam.r'].description), (640.3 / 616.8, 148.4 / 115.3)
    )
    for name, band in BANDS.items():
        assert name.split('.')[-1] == band.name == str(band)
        assert 300 < band.wavelength < 1100
        assert 40 < band.width < 170
    # Letters mean about the same wavelength everywhere, in order.
    for survey in ('SDSS', 'LSST', 'DECam', 'HSC'):
        lengths = [b.wavelength for n, b in BANDS.items() if n.startswith(survey)]
        assert lengths == sorted(lengths)


def test_band_of_the_user():
    assert Band('V', 5510 * u.AA, 880 * u.AA) == Band('V', 551.0, 88.0)
    with pytest.raises(ValueError, match='wavelength must be positive and finite'):
        Band('V', -3, 88)
    with pytest.raises(TypeError, match='name must be str'):
        Band(3, 551, 88)
    with pytest.raises(ValueError, match='name must not be empty'):
        Band(' ', 551, 88)
    # Columns are flux_NAME and flux_NAME_err.
    for name in ('err', 'g_err', 'g\n', ' g', 'gé'):
        with pytest.raises(ValueError, match=r'name must be of ASCII .*not end in'):
            Band(name, 551, 88)
    for name in ('g', 'my band', 'r.MP9601', "r'"):
        assert Band(name, 551, 88).name == name


@pytest.mark.parametrize(
    ('cards', 'band'),
    [
        ({'FILTER': 'r'}, BANDS['r']),
        ({'FILTER': "g'"}, BANDS['g']),
        ({'FILTER': 'R'}, None),
        ({'FILTER': 'I', 'INSTRUME': 'Mosaic3'}, None),
        ({'FILTER': 'r.MP9601'}, None),
        ({'FILTER': 'i DECam SDSS c0003 7835.0 1470.0'}, BANDS['DECam.i']),
        ({'FILTER': 'Y DECam c0005 10095.0 1130.0'}, BANDS['DECam.Y']),
        ({'FILTER': 'VR DECam c0007 6300.0 2600.0'}, None),
        ({'FILTER': 'zd DECam k1038', 'INSTRUME': 'Mosaic3'}, BANDS['Mosaic.z']),
        ({'FILTER': 'g', 'INSTRUME': '90prime'}, BANDS['90prime.g']),
        ({'FILTER': 'bokr', 'INSTRUME': '90prime'}, BANDS['90prime.r']),
        ({'FILTER': 'z', 'INSTRUME': '90prime'}, None),
        ({'FILTER': 'HSC-R2'}, BANDS['HSC.r']),
        ({'FILTER': 'y_10', 'INSTRUME': 'LSSTCam'}, BANDS['LSST.y']),
        ({'FILTER': 'r', 'BAND': 'r'}, BANDS['r']),
        ({'FILTER': 'grism'}, None),
        ({}, None),
    ],
)
def test_names_in_headers(cards, band):
    assert find_band(cards) == band
    assert find_band(fits.Header(cards)) == band


def test_exposure_has_a_band():
    assert make().band is None
    exposure = make(band='g')
    assert exposure.band is BANDS['g']
    assert repr(exposure) == '<Exposure 8 x 9 px, g, bkg_error 1>'
    assert exposure[2:, 3:].band is BANDS['g']
    assert exposure.replace(bkg_error=2).band is BANDS['g']
    assert exposure.binned(2).band is BANDS['g']
    assert exposure.replace(band=OWN).band is OWN
    with pytest.raises(ValueError, match=r"band must be one of u, g, .*DECam.*got 'V'"):
        make(band='V')
    with pytest.raises(TypeError, match='band must be str or Band; got int'):
        make(band=3)


@pytest.mark.parametrize('band', [BANDS['HSC.i'], OWN])
def test_band_in_files_and_nddata(band, tmp_path):
    ccddata = make(band=band, meta={'FILTER': 'r'}).to_ccddata()
    back = Exposure.from_nddata(ccddata)
    assert back.band == band
    assert back.meta == {'FILTER': 'r'}
    coadd = Coadd(np.zeros((8, 9)), bkg_error=1, effective_gain=2, band=band)
    assert Coadd.from_nddata(coadd.to_ccddata()).band == band
    coadd.write(tmp_path / 'coadd.fits')
    assert Coadd.read(tmp_path / 'coadd.fits').band == band
    assert Exposure.read(tmp_path / 'coadd.fits').band == band
    assert Exposure.read(tmp_path / 'coadd.fits', band='r').band is BANDS['r']
    assert coadd[1:].band == band
    coadd.replace(band=None).write(tmp_path / 'coadd.fits', overwrite=True)
    assert Coadd.read(tmp_path / 'coadd.fits').band is None


def test_band_in_simulated_files(tmp_path):
    path = tmp_path / 'simulated.fits'
    exposure, truth = CoaddSimulator(3, shape=(64, 64)).sample(rng=1)
    truth['mag'] = 22.0
    for band in (OWN, None):
        known = exposure.replace(band=band)
        write_simulated(known, truth, path, overwrite=True)
        assert Exposure.read(path).band == band


def test_band_of_a_fits_file(tmp_path):
    noise = np.random.default_rng(1).normal(100, 5, (64, 64)).astype(np.float32)
    first, image = fits.PrimaryHDU(), fits.ImageHDU(noise)
    first.header['FILTER'], first.header['INSTRUME'] = 'r DECam c0002', 'DECam'
    fits.HDUList([first, image]).writeto(tmp_path / 'image.fits')
    known = {'effective_gain': 4.0, 'bkg_error': 5.0}
    exposure = Exposure.read(tmp_path / 'image.fits', **known)
    assert exposure.band is BANDS['DECam.r']
    exposure = Exposure.read(tmp_path / 'image.fits', band='g', **known)
    assert exposure.band is BANDS['g']
