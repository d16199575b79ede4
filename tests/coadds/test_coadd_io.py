# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of coadds in files: our own, damaged ones, and those of other makers.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import convolve

from bliss_astro import Coadd, PSFModel
from bliss_astro.coadds import EffectivePSF
from bliss_astro.surveys.sdss import SDSSPSF

KERNEL = np.outer([0.0, 0.2, 1, 0.2, 0], [0.0, 0.3, 1, 0.3, 0])


def small_wcs():
    """
    Coordinates of an image of 40 x 50 pixels.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval, wcs.wcs.cdelt, wcs.wcs.crpix = (150, 2), (-1e-4, 1e-4), (20, 20)
    return wcs


@pytest.fixture
def coadd():
    """
    A coadd with maps and numbers, bad and saturated pixels, and a varying PSF.
    """
    rng = np.random.default_rng(8)
    data = rng.normal(0, 1, (40, 50)).astype(np.float32)
    data[0, 0] = np.nan
    counts = np.full(data.shape, 7)
    counts[0, 0] = 0
    saturated = np.zeros(data.shape, dtype=bool)
    saturated[9, 9] = True
    yy, xx = np.mgrid[-20:21, -20:21]
    images = [[PSFModel(sigma1=s)(xx, yy) for s in (1.3, 1.9)]]
    return Coadd(
        data,
        bkg_error=rng.uniform(0.9, 1.1, data.shape),
        effective_gain=rng.uniform(9, 11, data.shape).astype(np.float32),
        background=0.25,
        read_noise=3.0,
        saturation=1e4,
        saturated=saturated,
        mask=rng.random(data.shape) < 0.1,
        psf=EffectivePSF(images, xs=[0, 60], ys=[20]),
        wcs=small_wcs(),
        unit=u.nmgy,
        noise_kernel=KERNEL,
        n_exposures=counts,
        psf_error=0.03,
        background_error=0.11,
        meta={'band': 'r', 'n_clipped': [1, 2], 'number': np.float64(2.5)},
    )


def assert_same(one, other):
    """
    Check that two coadds are one.
    """
    assert other.data.dtype == one.data.dtype
    for name in ('data', 'mask', 'saturated', 'noise_kernel', 'n_exposures'):
        assert_array_equal(getattr(other, name), getattr(one, name))
    for name in ('bkg_error', 'effective_gain', 'background', 'read_noise'):
        assert_array_equal(getattr(other, name), getattr(one, name))
        assert np.ndim(getattr(other, name)) == np.ndim(getattr(one, name))
    assert other.saturation == one.saturation
    assert other.psf_error == one.psf_error
    assert other.background_error == one.background_error
    assert other.unit == one.unit
    assert other.meta == one.meta
    assert_allclose(other.psf_at(11, 3).shape_vector, one.psf_at(11, 3).shape_vector)
    assert_allclose(other.psf_image, one.psf_image)
    sky = one.wcs.pixel_to_world([0, 49], [0, 39])
    assert_allclose(other.wcs.world_to_pixel(sky), ([0, 49], [0, 39]), atol=1e-6)


def test_round_trip(coadd, tmp_path):
    path = tmp_path / 'coadd.fits.gz'
    coadd.write(path)
    assert_same(coadd, Coadd.read(path))
    with fits.open(path) as hdus:
        # What other programs look for is where they look for it.
        assert_array_equal(hdus[0].data, coadd.data)
        assert hdus[0].header['BUNIT'] == 'nmgy'
        assert {'BKGERR', 'MASK', 'NEXP', 'PSFIMAGE'} <= {hdu.name for hdu in hdus}


def test_round_trip_of_a_cut_out(coadd, tmp_path):
    cut = coadd[4:30, 6:40]
    cut.write(tmp_path / 'cut.fits')
    back = Coadd.read(tmp_path / 'cut.fits')
    assert_allclose(back.psf_at(5, 5).fwhm, coadd.psf_at(11, 9).fwhm, rtol=1e-9)
    assert_array_equal(back.mask, cut.mask)


def test_round_trip_of_a_bare_one(tmp_path):
    bare = Coadd(np.arange(12.0).reshape(3, 4), bkg_error=1, effective_gain=2)
    bare.write(tmp_path / 'bare.fits')
    back = Coadd.read(tmp_path / 'bare.fits')
    assert back.psf is None
    assert back.wcs is None
    assert back.unit is None
    assert back.n_exposures is None
    assert_array_equal(back.data, bare.data)


@pytest.mark.parametrize('kind', ['model', 'foreign', 'sdss'])
def test_other_kinds_of_psf(coadd, tmp_path, kind, shared_data):
    """
    What is read back draws the same star, whatever made it.
    """
    if kind == 'model':
        psf = PSFModel(sigma1=1.6, e1=0.1, normalization_radius=15.0)
    elif kind == 'foreign':
        from astropy.modeling.models import Moffat2D

        psf = Moffat2D(gamma=2.5, alpha=2.5)
    else:
        path = shared_data / 'sdss' / '3900' / '6' / '269'
        psf = SDSSPSF(path / 'psField-003900-6-0269.fit', 'r')
    before = coadd.replace(psf=psf)
    before.write(tmp_path / 'x.fits')
    after = Coadd.read(tmp_path / 'x.fits')
    assert_allclose(after.psf_at(25, 20).fwhm, before.psf_at(25, 20).fwhm, rtol=3e-3)
    assert_allclose(
        after.psf_image, before.psf_image, atol=3e-3 * before.psf_image.max()
    )


def test_never_half_written(coadd, tmp_path, monkeypatch):
    path = tmp_path / 'coadd.fits'
    coadd.write(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match='overwrite=True'):
        coadd.write(path)

    def full_disk(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(fits.HDUList, 'writeto', full_disk)
        with pytest.raises(OSError, match=r'the disk is full.*coadd\.fits'):
            coadd.write(path, overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ['coadd.fits']
    coadd[:20].write(path, overwrite=True)
    assert Coadd.read(path).shape == (20, 50)


def test_coordinates_that_fits_cannot_hold(coadd, tmp_path):
    part = SlicedLowLevelWCS(coadd.wcs, (slice(0, 40), slice(0, 50)))
    other = HighLevelWCSWrapper(part)
    with pytest.warns(AstropyUserWarning, match='wcs is a HighLevelWCSWrapper'):
        coadd.replace(wcs=other).write(tmp_path / 'x.fits')
    assert Coadd.read(tmp_path / 'x.fits').wcs is None


@pytest.mark.parametrize(
    ('damage', 'error', 'message'),
    [
        (lambda h: h.pop('MASK'), ValueError, 'no extension MASK'),
        (lambda h: h.pop('BKGERR'), ValueError, 'no extension BKGERR'),
        (lambda h: h[0].header.set('BLISSVER', 99), ValueError, 'version 99'),
        (
            lambda h: setattr(h['BKGERR'], 'data', np.ones((3, 3))),
            ValueError,
            'do not make a coadd: bkg_error must be',
        ),
    ],
)
def test_files_that_lack_something(coadd, tmp_path, damage, error, message):
    path = tmp_path / 'coadd.fits'
    coadd.write(path)
    with fits.open(path, memmap=False) as hdus:
        damage(hdus)
        hdus.writeto(path, overwrite=True, checksum=True)
    with pytest.raises(error, match=message):
        Coadd.read(path)


@pytest.mark.parametrize('part', range(8))
def test_changed_byte(coadd, tmp_path, part):
    path = tmp_path / 'coadd.fits'
    coadd.write(path)
    with fits.open(path) as hdus:
        start = hdus[part].fileinfo()['datLoc']
        assert {'CHECKSUM', 'DATASUM'} <= set(hdus[part].header)
    content = bytearray(path.read_bytes())
    content[start] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r'coadd.fits.*its checksum differs'):
        Coadd.read(path)


def test_unit_of_a_user(tmp_path):
    unit = u.def_unit('hscflux', 57.54 * u.nJy)
    Coadd(np.ones((9, 9)), bkg_error=1, effective_gain=1, unit=unit).write(
        tmp_path / 'coadd.fits'
    )
    assert Coadd.read(tmp_path / 'coadd.fits').unit == unit


def test_files_that_are_none(coadd, tmp_path):
    with pytest.raises(FileNotFoundError, match='no file'):
        Coadd.read(tmp_path / 'nothing.fits')
    (tmp_path / 'text.fits').write_text('no FITS')
    with pytest.raises(OSError, match='cannot be read as FITS'):
        Coadd.read(tmp_path / 'text.fits')
    coadd.write(tmp_path / 'coadd.fits')
    whole = (tmp_path / 'coadd.fits').read_bytes()
    # Cut within the image, and within the noise map.
    for length in (5000, 20000):
        (tmp_path / 'cut.fits').write_bytes(whole[:length])
        with pytest.raises(OSError, match='truncated'):
            Coadd.read(tmp_path / 'cut.fits')
    # Cut between two extensions, where FITS itself does not notice.
    with fits.open(tmp_path / 'coadd.fits') as hdus:
        end = hdus['NOISEKER']._header_offset
    (tmp_path / 'cut.fits').write_bytes(whole[:end])
    with pytest.raises(ValueError, match='not a whole coadd'):
        Coadd.read(tmp_path / 'cut.fits')
    fits.BinTableHDU.from_columns([fits.Column('a', 'D', array=[1.0])]).writeto(
        tmp_path / 'table.fits'
    )
    with pytest.raises(ValueError, match='no two-dimensional image'):
        Coadd.read(tmp_path / 'table.fits')


# -- files of other makers -----------------------------------------------------------


@pytest.fixture
def foreign(tmp_path):
    """
    A plain image with correlated noise of known sigma, and stars.
    """
    rng = np.random.default_rng(3)
    weights = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    noise = convolve(rng.normal(0, 1, (300, 320)), weights, mode='wrap')
    noise *= 0.2 / np.sqrt((weights**2).sum())
    yy, xx = np.mgrid[-12:13, -12:13]
    for x, y in rng.integers(15, 280, (25, 2)):
        noise[y - 12 : y + 13, x - 12 : x + 13] += 40 * PSFModel()(xx, yy)
    noise[:9, :9] = np.nan
    header = small_wcs().to_header()
    header['BUNIT'] = 'nanomaggy'
    path = tmp_path / 'foreign.fits'
    fits.HDUList(
        [fits.PrimaryHDU(), fits.ImageHDU(noise.astype('f4'), header, name='SCI')]
    ).writeto(path)
    return path


def test_noise_of_a_foreign_file_is_measured(foreign):
    """
    Sigma and correlation as they were drawn.

    Some 80,000 pixels of correlated noise are worth 80,000 / sum(rho^2) of about
    3.7 independent ones: their sigma is known to 0.5 %, correlations to 0.01.
    The largest errors allowed are four times that, for what faint wings add.
    """
    with pytest.warns(AstropyUserWarning, match='no noise map'):
        coadd = Coadd.read(foreign)
    assert coadd.unit == u.nmgy
    assert coadd.wcs is not None
    assert coadd.mask[:9, :9].all()
    assert_allclose(coadd.bkg_error, 0.2, rtol=0.02)
    # (0.25, 0.5, 0.25) has the autocorrelation 2/3, 1/6 at distances 1 and 2.
    assert_allclose(coadd.noise_correlation, 2 / 3, atol=0.04)
    assert set(coadd.meta['estimated']) == {
        'background',
        'bkg_error',
        'effective_gain',
        'noise_kernel',
    }


def test_what_is_known_is_not_measured(foreign):
    coadd = Coadd.read(
        foreign,
        hdu='SCI',
        bkg_error=0.3 * u.nmgy,
        effective_gain=500.0,
        background=0.0,
        noise_kernel=KERNEL,
        psf=PSFModel(),
    )
    assert coadd.bkg_error == 0.3
    assert coadd.effective_gain == 500
    assert_array_equal(coadd.noise_kernel, KERNEL)
    assert 'estimated' not in coadd.meta


def test_foreign_files_that_are_no_images(foreign):
    with pytest.raises(ValueError, match='no extension WHT'):
        Coadd.read(foreign, hdu='WHT')
    with pytest.raises(ValueError, match=r'extension 0 .* no two-dimensional image'):
        Coadd.read(foreign, hdu=0)
    with pytest.raises(TypeError, match="unknown keyword 'sigma'"):
        Coadd.read(foreign, sigma=3)
