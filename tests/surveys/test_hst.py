# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the reader of drizzled images of HST, on files in the layout of drz.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose

from bliss_astro.exposures import Exposure
from bliss_astro.runs import find_fields
from bliss_astro.surveys import hst

# AB zero point of electrons per second, seconds, noise of the sky in nJy where all
# exposures are, and what drizzling leaves of it.
ZERO, TIME, SIGMA, LOWER = 25.94, 2000.0, 20.0, 0.7
PIVOT, WIDTH = 8045.0, 653.0
NMGY = 10 ** (0.4 * (31.4 - 22.5))


@pytest.fixture
def write(tmp_path, star_fields):
    """
    Give the writer of a file, with half of the exposures below and none at the left.
    """
    stflam = u.erg / u.s / u.cm**2 / u.AA
    density = (ZERO * u.ABmag).to_value(stflam, u.spectral_density(PIVOT * u.AA))

    def write(kind='seconds', name='hst_1_acs_wfc_f814w_a_drc.fits', **sci):
        seconds = np.full(star_fields.SHAPE, TIME)
        seconds[:48] /= 2
        seconds[:, :5] = 0
        error = SIGMA * np.sqrt(TIME / np.maximum(seconds, 1))
        noise = star_fields.noise(2, 0.6) * LOWER * error
        data = (star_fields.light() + noise) * 10 ** (0.4 * (ZERO - 31.4))
        error *= 10 ** (0.4 * (ZERO - 31.4))
        weights = {'seconds': seconds, 'odd': seconds * 1e-6}
        weights['variances'] = np.where(seconds > 0, error**-2.0, 0)
        cards = {'BUNIT': 'ELECTRONS/S', 'PHOTFLAM': density, 'PHOTPLAM': PIVOT}
        cards |= {'PHOTBW': WIDTH} | sci
        if not str(cards['BUNIT']).endswith('/S'):
            data *= TIME
            weights['variances'] /= TIME**2
        data[:, :5] = 0
        first = {'TELESCOP': 'HST', 'INSTRUME': 'ACS', 'FILTER1': 'CLEAR1L'}
        first |= {'FILTER2': 'F814W', 'EXPTIME': TIME}
        hdus = [
            fits.PrimaryHDU(header=fits.Header(first)),
            fits.ImageHDU(data.astype('f4'), star_fields.wcs_cards(0.05), name='SCI'),
            fits.ImageHDU(weights[kind].astype('f4'), name='WHT'),
            fits.ImageHDU(np.ones(data.shape, np.int32), name='CTX'),
        ]
        hdus[1].header.update({key: v for key, v in cards.items() if v is not None})
        fits.HDUList(hdus).writeto(tmp_path / name, overwrite=True)
        return tmp_path / name

    return write


@pytest.mark.parametrize('unit', ['ELECTRONS/S', 'ELECTRONS'])
@pytest.mark.parametrize('kind', ['seconds', 'variances'])
def test_numbers(write, star_fields, kind, unit):
    exposure = Exposure.read(write(kind, BUNIT=unit))
    assert exposure.unit == u.nmgy
    assert exposure.band.name == 'F814W'
    assert exposure.band.wavelength == pytest.approx(804.5)
    assert exposure.band.width == pytest.approx(0.1 * 12**0.5 * WIDTH)
    assert exposure.pixel_scale == pytest.approx(0.05)
    truth = [mag for _, _, mag in star_fields.STARS]
    assert_allclose(star_fields.magnitudes(exposure), truth, rtol=0, atol=0.03)
    assert star_fields.sky_scatter(exposure) == pytest.approx(1, abs=0.04)
    noise = exposure.bkg_error[[70, 20], 60] * NMGY
    assert_allclose(noise, LOWER * SIGMA * np.array([1, 2**0.5]), rtol=0.05)
    assert_allclose(exposure.noise_correlation, 0.5, atol=0.1)
    assert exposure.mask[:, :5].all()
    assert exposure.mask.sum() == 5 * 96
    # Electrons of a source of 1 nmgy, where all exposures are.
    gain = np.broadcast_to(exposure.effective_gain, exposure.shape)
    assert_allclose(gain[70, 60], TIME * 10 ** (0.4 * (ZERO - 22.5)), rtol=1e-4)
    by_place = (kind, unit) == ('seconds', 'ELECTRONS/S')
    assert_allclose(gain[20, 60] / gain[70, 60], 0.5 if by_place else 1)


def test_finer_pixels(write, tmp_path):
    """
    Weights go with the area of pixels, electrons do not.
    """
    cards = {'D001ISCL': 0.05, 'D001SCAL': 0.03}
    with fits.open(write()) as hdus:
        whole = Exposure.read(hdus)
        hdus['WHT'].data *= 0.6**2
        hdus[0].header.update(cards)
        hdus.writeto(tmp_path / 'fine_drz.fits')
    exposure = Exposure.read(tmp_path / 'fine_drz.fits')
    assert_allclose(exposure.effective_gain, whole.effective_gain, rtol=1e-5)
    assert_allclose(exposure.bkg_error, whole.bkg_error, rtol=1e-5)


def test_kinds_of_weights(write, star_fields):
    path = write('odd')
    with pytest.warns(match='neither exposure times nor inverse variances'):
        one = Exposure.read(path)
    other = Exposure.read(path, format='hst.drz', weight='inverse variance')
    assert_allclose(one.bkg_error, other.bkg_error)
    assert star_fields.sky_scatter(one) == pytest.approx(1, abs=0.04)
    # A map of the user, and his own noise.
    path = write()
    weights = np.full(star_fields.SHAPE, 3.0)
    given = hst.read_exposure(path, weight=weights)
    assert np.ptp(given.bkg_error[:, 5:]) == 0
    given = hst.read_exposure(path, bkg_error=0.1)
    assert_allclose(given.bkg_error, 0.1 * 10 ** (0.4 * (22.5 - ZERO)))


def test_separate_files(write, tmp_path):
    with fits.open(write()) as hdus:
        first = hdus['SCI'].header.copy()
        first.update(hdus[0].header)
        sci = fits.PrimaryHDU(hdus['SCI'].data, first)
        whole = Exposure.read(hdus)
        fits.writeto(tmp_path / 'xdf_f814w_wht.fits', hdus['WHT'].data)
    for kind in ('drz', 'sci'):
        path = tmp_path / f'xdf_f814w_{kind}.fits'
        sci.writeto(path)
        exposure = hst.read_exposure(path)
        assert_allclose(exposure.bkg_error, whole.bkg_error)
    (tmp_path / 'xdf_f814w_wht.fits').unlink()
    with pytest.raises(ValueError, match=r'weight must be given; .*xdf_f814w_wht.fits'):
        hst.read_exposure(path)


def test_unknown_numbers(write):
    with pytest.raises(ValueError, match=r'be electrons or counts.*; got None'):
        hst.read_exposure(write(BUNIT=None))
    with (
        pytest.raises(ValueError, match='must be electrons or counts'),
        pytest.warns(match='BUNIT'),
    ):
        hst.read_exposure(write(BUNIT='FURLONG'))
    with pytest.warns(match='states no zero point'):
        exposure = hst.read_exposure(write(PHOTFLAM=0.0), unit='electron/s')
    assert exposure.unit == u.electron / u.s
    exposure = hst.read_exposure(write(PHOTFLAM=0.0), zero_point=ZERO)
    assert exposure.unit == u.nmgy
    # Counts, whose gain no card has.
    exposure = hst.read_exposure(write(BUNIT='COUNTS/S'))
    assert exposure.meta['estimated']['effective_gain'].startswith('assumed')


def test_fields(write, tmp_path):
    write()
    write(name='hst_1_acs_wfc_f606w_a_drc.fits')
    write(name='hst_1_acs_wfc_total_a_drc.fits')
    write(name='ja0101010_drz.fits')
    fields = find_fields(tmp_path, 'hst')
    assert [(field.id, set(field.files)) for field in fields] == [
        ('hst_1_acs_wfc_a', {'F606W', 'F814W'}),
        ('ja0101010', {''}),
    ]
    assert fields[1].open().band.name == 'F814W'
    assert len(fields[0].footprint) == 4
