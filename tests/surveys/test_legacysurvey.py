# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the reader of images of the Legacy Surveys, on small files and on real ones.
"""

import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.coadds import align_bands
from bliss_astro.exposures import BANDS
from bliss_astro.surveys import legacysurvey

NAME = 'c4d_150329_083320_ooi_r_ls9.fits'


@pytest.fixture
def ccds():
    """
    Give the rows of two detectors of one file, and of one of 90prime.
    """
    return Table(
        {
            'image_filename': [f'decam/{NAME} '] * 2 + ['90prime/deep2r-ccd1.fits'],
            'ccdname': ['N11', 'N12', 'ccd1'],
            'camera': ['decam', 'decam', '90prime'],
            'exptime': [100.0, 100.0, 100.0],
            'ccdzpt': [25.0, 25.1, 30.2],
            'ccdraoff': [0.36, 0.0, 0.0],
            'ccddecoff': [-0.18, 0.0, 0.0],
        }
    )


@pytest.fixture
def image(tmp_path):
    """
    Give a file of two detectors, with its weights and codes of bad pixels.
    """
    rng = np.random.default_rng(3)
    cards = {'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CRVAL1': 150.0, 'CRVAL2': 60}
    cards |= {'CRPIX1': 30, 'CRPIX2': 30, 'CDELT1': -7e-5, 'CDELT2': 7e-5}
    codes = np.zeros((64, 80), np.int16)
    codes[3, 4:8] = 1, 7, 3, 4
    planes = {
        'ooi': rng.normal(900, 30, codes.shape).astype('f4'),
        'oow': np.full(codes.shape, 1 / 30**2, 'f4'),
        'ood': codes,
    }
    for kind, data in planes.items():
        first = fits.PrimaryHDU(header=fits.Header({'INSTRUME': 'DECam'}))
        first.header['FILTER'] = 'r DECam SDSS c0002 6415.0 1480.0'
        hdus = [first] + [
            fits.ImageHDU(data, fits.Header(cards), name=name)
            for name in ('N11', 'N12')
        ]
        path = tmp_path / NAME.replace('ooi', kind)
        fits.HDUList(hdus).writeto(path)
    return tmp_path / NAME


def test_numbers(image, ccds):
    exposure = legacysurvey.read_exposure(f'{image}[N11]', ccds=ccds)
    assert exposure.band is BANDS['DECam.r']
    assert exposure.unit == u.nmgy
    # Zero points of DECam are of counts per second.
    factor = 10 ** (-0.4 * (25 + 5 - 22.5))
    assert exposure.meta['zero_point'] == 30
    assert_allclose(np.median(exposure.bkg_error), 30 * factor, rtol=1e-4)
    assert_allclose(np.median(exposure.data), 900 * factor, rtol=0.01)
    # Differences from other epochs are no defects.
    assert_array_equal(exposure.mask[3, 4:8], [True, False, True, True])
    assert exposure.mask.sum() == 3
    assert_array_equal(np.argwhere(exposure.saturated), [[3, 6], [3, 7]])
    assert_allclose(exposure.wcs.wcs.crval, (150 + 2e-4, 60 - 5e-5))
    other = legacysurvey.read_exposure(f'{image}[N12][5:64,3:40]', ccds=ccds)
    assert other.shape == (38, 60)
    assert other.meta['zero_point'] == 30.1
    assert_array_equal(np.argwhere(other.saturated), [[1, 2], [1, 3]])


def test_without_a_table(image):
    exposure = legacysurvey.read_exposure(f'{image}[N11]', mask=None)
    assert exposure.unit is None
    assert_allclose(exposure.wcs.wcs.crval, (150, 60))
    for kind in ('oow', 'ood'):
        Path(str(image).replace('ooi', kind)).unlink()
    exposure = legacysurvey.read_exposure(f'{image}[N11]', zero_point=22.5)
    assert not exposure.mask.any()
    assert 'bkg_error' in exposure.meta['estimated']
    assert exposure.unit == u.nmgy


def test_files_of_bass(image, ccds):
    path = image.with_name('deep2r-ccd1.fits')
    with fits.open(image) as hdus:
        hdus[0].header['INSTRUME'], hdus[0].header['FILTER'] = '90prime', 'bokr'
        hdus[:2].writeto(path)
        hdus[1].data[:] = 1 / 30**2
        hdus[1].data[7] = 0
        hdus[:2].writeto(path.with_suffix('.wht.fits'))
    exposure = legacysurvey.read_exposure(path, ccds=ccds)
    assert exposure.band is BANDS['90prime.r']
    assert exposure.meta['zero_point'] == 30.2
    assert_array_equal(np.flatnonzero(exposure.mask.all(axis=1)), [7])


def test_no_row(image, ccds):
    with pytest.raises(
        ValueError, match=r'ccds must have one row of c4d_.*fits; got 0'
    ):
        legacysurvey.read_exposure(image, ccds=ccds[2:])
    with pytest.raises(ValueError, match=r'one row of c4d_.*fits; got 0'):
        legacysurvey.read_exposure(image, ccds=ccds)


def test_real_files(shared_data):
    """
    Noise as the survey's table states it, of three bands of DECam on one grid.
    """
    folder = shared_data / 'legacysurvey_multi_exposure/testcase3'
    table = Table.read(folder / 'survey-ccds-1.fits.gz')
    exposures = {}
    for row in table:
        path = folder / 'images' / row['image_filename'].strip()
        stem, detector = path.name.removesuffix('.fits').split('.')
        (psf,) = folder.glob(f'calib/psfex-single/**/{stem}-{detector}-psfex.fits')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            exposure = legacysurvey.read_exposure(path, ccds=table, psf=psf)
        assert exposure.band is BANDS[f'DECam.{row["filter"]}']
        assert_allclose(np.median(exposure.bkg_error), row['sig1'], rtol=0.03)
        assert_allclose(exposure.psf_at(20, 25).fwhm, row['fwhm'], rtol=0.08)
        exposures[exposure.band.name] = exposure
    aligned = align_bands(exposures, 'r')
    assert set(aligned) == set('grz')
    # Of a few faint sources.
    shifts = np.array(list(aligned.shifts().values()))
    assert np.abs(shifts).max() < 0.3
