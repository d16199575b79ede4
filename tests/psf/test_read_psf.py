# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs of other programs: PSFEx, photutils, oversampled images, models of astropy.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.modeling.models import Gaussian2D, Moffat2D
from astropy.nddata import NDData
from photutils.psf import CircularGaussianPRF, GriddedPSFModel, ImagePSF

from bliss_astro import Exposure
from bliss_astro.psf import PSFExPSF, PSFModel, read_psf

SAMPLING, DEGREE, SIDE = 0.6, 2, 45
ZERO, SCALE = (513.0, 257.0), (1000.0, 500.0)


def exposure_with(psf, shape=(64, 80)):
    return Exposure(np.zeros(shape), bkg_error=1.0, effective_gain=1.0, psf=psf)


def gaussian(fwhm, side, step, center=0.0):
    axis = (np.arange(side) - side // 2) * step
    x, y = np.meshgrid(axis - center, axis)
    sigma = fwhm / 2.354820045
    return np.exp(-(x**2 + y**2) / (2 * sigma**2))


@pytest.fixture
def psfex_file(tmp_path):
    """
    Model whose image is one Gaussian plus x times another, by hand.
    """
    basis = np.zeros((6, SIDE, SIDE))
    basis[0] = gaussian(3.0, SIDE, SAMPLING)
    # Order of PSFEx: 1, x, x^2, y, x y, y^2.
    basis[1] = 0.4 * (gaussian(4.0, SIDE, SAMPLING) - gaussian(2.5, SIDE, SAMPLING))
    column = fits.Column('PSF_MASK', f'{basis.size}E', array=[basis.ravel()])
    column.dim = f'({SIDE},{SIDE},6)'
    table = fits.BinTableHDU.from_columns([column], name='PSF_DATA')
    table.header.update(
        POLNAXIS=2, POLGRP1=1, POLNAME1='X_IMAGE', POLZERO1=ZERO[0], POLSCAL1=SCALE[0]
    )
    table.header.update(POLGRP2=1, POLNAME2='Y_IMAGE', POLZERO2=ZERO[1])
    table.header.update(POLSCAL2=SCALE[1], POLNGRP=1, POLDEG1=DEGREE)
    table.header.update(PSF_FWHM=3.0, PSF_SAMP=SAMPLING, PSFNAXIS=3)
    table.header.update(PSFAXIS1=SIDE, PSFAXIS2=SIDE, PSFAXIS3=6)
    path = tmp_path / 'made.psf'
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


def test_psfex(psfex_file):
    psf = read_psf(psfex_file)
    assert isinstance(psf, PSFExPSF)
    # PSFEx counts from 1: the middle of the polynomial is pixel 512, 256 from 0.
    middle = psf.at(512, 256)
    assert middle.fwhm == pytest.approx(3.0, rel=0.01)
    assert (middle.x_0.value, middle.y_0.value) == (512, 256)
    left, right = psf.at(62, 100), psf.at(962, 400)
    assert left.fwhm < 2.9
    assert right.fwhm > 3.1
    drawn = psf.image(512, 256, offset=(0.3, 0.0))
    expected = gaussian(3.0, 31, 1.0, center=0.3)
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=2e-4)
    # In a cut-out everything moves along.
    assert psf.shifted(450, 144).at(512, 256).fwhm == pytest.approx(right.fwhm)
    exposure = exposure_with(psf, (600, 1100))
    assert exposure[100:, 62:].psf_at(900, 300).fwhm == pytest.approx(right.fwhm)


def test_psfex_columns(psfex_file, tmp_path):
    """
    The Legacy Surveys write cards as columns of a table of one row.
    """
    with fits.open(psfex_file) as hdus:
        mask = np.array(hdus[1].data['PSF_MASK'])
        header = hdus[1].header
        columns = [fits.Column('psf_mask', f'{mask.size}E', array=[mask.ravel()])]
        names = ['polnaxis', 'polzero1', 'polzero2', 'polscal1', 'polscal2']
        names += ['poldeg1', 'psf_samp', 'psfaxis2', 'psfaxis3']
        columns += [fits.Column(name, 'D', array=[header[name]]) for name in names]
    path = tmp_path / 'columns.fits'
    fits.BinTableHDU.from_columns(columns).writeto(path)
    one, other = read_psf(psfex_file), read_psf(path)
    np.testing.assert_allclose(one.image(100, 200), other.image(100, 200))


def test_bad_psfex(psfex_file, tmp_path):
    for key, value, match in (
        ('POLSCAL1', 0.0, 'must be positive'),
        ('POLDEG1', 3, 'must hold 10 images'),
        ('POLNAXIS', 3, 'varies with 3 quantities'),
        ('PSF_SAMP', None, 'lacks the card PSF_SAMP'),
    ):
        with fits.open(psfex_file) as hdus:
            if value is None:
                del hdus[1].header[key]
            else:
                hdus[1].header[key] = value
            with pytest.raises(ValueError, match=match):
                read_psf(hdus)
    with pytest.raises(OSError, match='nowhere'):
        read_psf(tmp_path / 'nowhere.psf')


def test_files_of_psfex(shared_data):
    path = shared_data / 'psf' / 'decam_psfex_test.psf'
    psf = read_psf(path)
    # Between the samples at 1.84 px (0.47 of the peak) and 1.30 px (0.68).
    assert psf.at(5000, 5000).fwhm == pytest.approx(3.55, abs=0.05)
    samples = psf.samples(5000, 5000)
    assert samples.shape == (25, 25)


@pytest.mark.parametrize('oversampling', [3, 4])
def test_oversampled_images(tmp_path, oversampling):
    side = 20 * oversampling + 1
    fine = gaussian(2.0, side, 1 / oversampling)
    # An effective PSF contains the pixel already.
    psf = read_psf(fine, oversampling=oversampling)
    assert isinstance(psf, ImagePSF)
    assert exposure_with(psf).psf_at(10, 10).fwhm == pytest.approx(2.0, rel=0.01)
    # A file that states its sampling is optical: the pixel widens it.
    path = tmp_path / 'webb.fits'
    header = fits.Header({'DET_SAMP': oversampling, 'OVERSAMP': 8})
    fits.PrimaryHDU(fine, header).writeto(path)
    wide = np.sqrt(2.0**2 + 8 * np.log(2) / 12)
    optical = exposure_with(read_psf(path)).psf_at(10, 10)
    assert optical.fwhm == pytest.approx(wide, rel=0.015)
    same = exposure_with(read_psf(path, pixel_response=True)).psf_at(10, 10)
    assert same.fwhm == pytest.approx(2.0, rel=0.01)


def test_models():
    prf = CircularGaussianPRF(fwhm=2.5)
    assert read_psf(prf) is prf
    area = exposure_with(prf).psf_at(9, 9).n_eff
    # Of a Gaussian averaged over pixels: 4 pi sigma^2 with 1/12 px^2 more.
    sigma2 = (2.5 / 2.354820045) ** 2 + 1 / 12
    assert area == pytest.approx(4 * np.pi * sigma2, rel=0.005)
    both = Gaussian2D(1, 5, 6, 1.2, 1.2) + Moffat2D(0.2, 5, 6, 2.0, 3.0)
    found = exposure_with(read_psf(both)).psf_at(30, 20)
    axis = np.linspace(0, 4, 4001)
    values = both(5 + axis, np.full(len(axis), 6.0))
    half = axis[np.argmax(values < values[0] / 2)]
    assert found.fwhm == pytest.approx(2 * half, rel=0.01)


def test_gridded_model():
    places = [(0, 0), (500, 0), (0, 500), (500, 500)]
    stack = [gaussian(w, 101, 0.25) for w in (2.0, 3.0, 2.0, 3.0)]
    stack = [16 * image / image.sum() for image in stack]
    data = NDData(np.array(stack), meta={'grid_xypos': places, 'oversampling': 4})
    exposure = exposure_with(read_psf(GriddedPSFModel(data)), (501, 501))
    left, right = (exposure.psf_at(x, 250).fwhm for x in (0, 500))
    assert left == pytest.approx(2.0, rel=0.02)
    assert right == pytest.approx(3.0, rel=0.02)


def test_fwhm_and_images(tmp_path):
    assert read_psf(2.5).fwhm == pytest.approx(2.5)
    assert read_psf(2.5 * u.pix).fwhm == pytest.approx(2.5)
    image = gaussian(3.0, 31, 1.0)
    np.testing.assert_array_equal(read_psf(image), image)
    path = tmp_path / 'psf.fits'
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image)]).writeto(path)
    np.testing.assert_array_equal(read_psf(path), image)
    model = PSFModel()
    assert read_psf(model) is model


def test_psfield(shared_data):
    path = shared_data / 'sdss' / '94' / '1' / '12' / 'psField-000094-1-0012.fits'
    with pytest.raises(ValueError, match='five bands: give band'):
        read_psf(path)
    assert read_psf(path, band='r').band == 'r'


@pytest.mark.parametrize(
    ('wrong', 'options', 'error', 'match'),
    [
        ({}, {}, TypeError, 'psf must be a FITS file'),
        (np.zeros((5, 5)), {}, ValueError, 'positive sum'),
        (np.ones(5), {}, ValueError, 'two-dimensional'),
        (np.ones((5, 5)), {'oversampling': 1.5}, ValueError, 'be an integer from 1'),
        (np.ones((5, 5)), {'oversampling': 128}, ValueError, 'from 1 to 100; got 128'),
        (PSFModel(), {'oversampling': 2}, ValueError, 'belongs to an image'),
        (-2.0, {}, ValueError, 'fwhm must be'),
    ],
)
def test_refused(wrong, options, error, match):
    with pytest.raises(error, match=match):
        read_psf(wrong, **options)


def pixels_of(kind):
    """
    A PSF of FWHM 3.3 px on 25 pixels, with a fault.
    """
    image = gaussian(3.3, 25, 1.0)
    image = image / image.max()
    if kind == 'nan':
        image[3, 4] = np.nan
    return {'zero': 0 * image, 'negative': -image, 'cube': image[None]}.get(kind, image)


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('nan', r'must be finite; got nan at \[3, 4\]'),
        ('zero', 'must have a positive sum; got zeros only'),
        ('negative', r'must have a positive sum; got a sum of -1\d\.'),
        ('cube', r'must be two-dimensional; got shape \(1, 25, 25\)'),
    ],
)
@pytest.mark.parametrize('take', [read_psf, lambda p: exposure_with(p)])
def test_which_fault_an_image_has(kind, words, take):
    with pytest.raises(ValueError, match=f'^psf.* {words}'):
        take(pixels_of(kind))


@pytest.mark.parametrize(('sky', 'noise'), [(0.01, 0.0), (0.03, 0.1), (1.0, 0.1)])
def test_sky_left_in(sky, noise, rng):
    image = pixels_of('') + sky * (1 + noise * rng.normal(size=(25, 25)))
    with pytest.raises(ValueError, match=r'^psf.* sky subtracted; .* Subtract the med'):
        exposure_with(image)
    fine = np.kron(image, np.ones((3, 3)))
    with pytest.raises(ValueError, match='must have its sky subtracted'):
        read_psf(fine, oversampling=3)
    edge = np.r_[image[0], image[-1], image[1:-1, 0], image[1:-1, -1]]
    assert exposure_with(image - np.median(edge)).psf_at(9, 9).fwhm < 3.5


@pytest.mark.parametrize('beta', [1.2, 1.5, 2.0, 2.5, 4.765])
@pytest.mark.parametrize('fwhm', [1.5, 3.0, 6.0, 10.0])
def test_wings_are_no_sky(beta, fwhm):
    core = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    for side in (11, 25, 51, 101):
        yy, xx = np.mgrid[:side, :side] - side // 2
        image = (1 + (xx**2 + yy**2) / core**2) ** -beta
        if side > 1.5 * fwhm:
            np.testing.assert_array_equal(read_psf(image), image)


def test_real_images_have_no_sky(shared_data):
    folder = shared_data / 'psf'
    images = [np.load(path) for path in sorted(folder.glob('*psf.npy'))]
    images += [np.load(path) for path in sorted(folder.glob('psField*.npy'))]
    images += [fits.getdata(path) for path in sorted(folder.glob('sdss-*.fits'))]
    psfex = folder / 'decam_psfex_test.psf'
    if not images or not psfex.is_file():
        pytest.skip('no PSFs here')
    model = read_psf(psfex)
    images += [model.image(x, y) for x, y in ((10.0, 10.0), (1000.0, 2000.0))]
    for image in images:
        for plane in np.reshape(image, (-1, *np.shape(image)[-2:])):
            assert exposure_with(read_psf(np.array(plane))).psf_at(9, 9).fwhm < 8


def test_absent_files_and_extensions(tmp_path):
    path = tmp_path / 'psf.fits'
    image = fits.ImageHDU(gaussian(3.0, 25, 1.0), name='PSF')
    table = fits.BinTableHDU.from_columns([fits.Column('a', 'E', array=[1.0])])
    fits.HDUList([fits.PrimaryHDU(), image, table]).writeto(path)
    assert read_psf(path, extension='PSF').shape == (25, 25)
    with pytest.raises(ValueError, match=r'no extension BLA; it has .*1 PSF: image'):
        read_psf(path, extension='BLA')
    with pytest.raises(ValueError, match=r'extension 2 of .* is no two-dim'):
        read_psf(path, extension=2)
    with pytest.raises(FileNotFoundError, match=r'psf must be a file; there is no'):
        read_psf(tmp_path / 'absent.fits')
    with pytest.raises(IsADirectoryError, match='is a folder'):
        read_psf(tmp_path)
