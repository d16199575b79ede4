# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of files: where the image is, what goes with it, what is damaged.
"""

import bz2
import gzip
import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits, registry
from astropy.nddata import Cutout2D
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import Coadd, PSFModel
from bliss_astro.detection._estimates import as_exposure
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._fits_image import Location, parse_location

GAIN, SKY = 2.0, 100.0
NOISE = np.sqrt(SKY / GAIN)


@pytest.fixture
def image(rng):
    """
    Sky of 60 x 90 px with its photon noise, and one star.
    """
    yy, xx = np.mgrid[:60, :90]
    star = PSFModel(flux=4000, x_0=50, y_0=30)(xx, yy)
    return (rng.poisson((SKY + star) * GAIN) / GAIN).astype(np.float32)


@pytest.fixture
def header():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = (150, 2), (40, 30), (-1e-4, 1e-4)
    header = wcs.to_header()
    header['BUNIT'], header['GAIN'], header['SATURATE'] = 'ADU', GAIN, 60000.0
    return header


@pytest.fixture
def path(tmp_path, image, header):
    """
    A file with an empty primary HDU, an image, its maps and a table.
    """
    bad = np.zeros(image.shape, np.int16)
    bad[3, 4] = 16
    rms = np.full(image.shape, NOISE, np.float32)
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(image, header, name='SCI'),
        fits.ImageHDU(bad, name='DQ'),
        fits.ImageHDU(rms, name='RMS'),
        fits.ImageHDU(7 * rms**-2, name='WHT'),
        fits.BinTableHDU.from_columns([fits.Column('a', 'J', array=[1])], name='T'),
    ]
    path = tmp_path / 'image.fits'
    fits.HDUList(hdus).writeto(path)
    return path


class TestLocation:
    @pytest.mark.parametrize(
        ('text', 'location'),
        [
            ('a.fits', Location('a.fits')),
            ('a.fits[1]', Location('a.fits', 1)),
            ('a.fits[SCI]', Location('a.fits', 'SCI')),
            ('a.fits[SCI,2]', Location('a.fits', ('SCI', 2))),
            ('a.fits[3:5,2:9]', Location('a.fits', None, ((3, 5), (2, 9)))),
            ('a.fits[1][*,2:9]', Location('a.fits', 1, (None, (2, 9)))),
        ],
    )
    def test_notation(self, text, location):
        assert parse_location(text) == location

    def test_x_comes_first_and_counts_from_one(self):
        rows, columns = parse_location('a.fits[3:5,2:9]').cut((20, 30))
        assert (rows, columns) == (slice(1, 9), slice(2, 5))

    @pytest.mark.parametrize(
        ('text', 'words'),
        [
            ('a.fits[1][2][3:4,5:6]', r'must end in \[EXT\]'),
            ('a.fits[1]x[2:3,4:5]', r'must end in \[EXT\]'),
            ('a.fits[3:4]', 'the section'),
            ('a.fits[3:4,5:6,7:8]', 'the section'),
            ('a.fits[1:9:2,1:5]', 'the section'),
            ('a.fits[-*,1:5]', 'the section'),
        ],
    )
    def test_what_makes_no_sense(self, text, words):
        with pytest.raises(ValueError, match=words):
            parse_location(text)

    @pytest.mark.parametrize('text', ['0:5,1:5', '5:3,1:5', '1:31,1:5', '1:5,1:21'])
    def test_sections_beyond_the_image(self, text):
        with pytest.raises(ValueError, match='must lie within 1:'):
            parse_location(f'a.fits[{text}]').cut((20, 30))

    def test_a_name_with_brackets(self, tmp_path, path):
        odd = tmp_path / 'odd[1].fits[2]'
        odd.write_bytes(path.read_bytes())
        assert parse_location(odd) == Location(str(odd))

    def test_extension_given_twice(self, path):
        with pytest.raises(ValueError, match='extension=1 is given twice'):
            Exposure.read(f'{path}[1]', extension=1)


class TestImage:
    def test_the_first_image(self, path, image):
        exposure = Exposure.read(path)
        assert_array_equal(exposure.data, image)
        assert exposure.unit == u.adu
        assert exposure.effective_gain == GAIN
        assert exposure.saturation == 60000
        assert exposure.wcs.has_celestial
        assert exposure.bkg_error == pytest.approx(NOISE, rel=0.05)
        assert exposure.psf is None
        assert exposure.meta['estimated']['effective_gain'] == 'header: GAIN'
        assert exposure.meta['file'] == str(path)

    @pytest.mark.parametrize('squeeze', [(1, 60, 90), (60, 1, 90), (1, 1, 60, 90)])
    def test_a_degenerate_axis(self, tmp_path, image, header, squeeze):
        # The WCS goes with the axes that are left.
        place = [k + 1 for k, n in enumerate(squeeze[::-1]) if n > 1]
        head = fits.Header({'WCSAXES': len(squeeze)})
        for key, value in header.items():
            if key[:-1] in ('CTYPE', 'CRVAL', 'CRPIX', 'CDELT', 'CUNIT'):
                head[f'{key[:-1]}{place[int(key[-1]) - 1]}'] = value
        fits.writeto(tmp_path / 'cube.fits', image.reshape(squeeze), head)
        exposure = Exposure.read(tmp_path / 'cube.fits')
        assert exposure.shape == image.shape
        sky = exposure.wcs.pixel_to_world(10, 20)
        assert sky.separation(WCS(header).pixel_to_world(10, 20)).arcsec < 1e-6

    def test_a_section(self, path, image, header):
        exposure = Exposure.read(f'{path}[SCI][11:80,6:55]', mask=f'{path}[DQ]')
        assert_array_equal(exposure.data, image[5:55, 10:80])
        sky = exposure.wcs.pixel_to_world(0, 0)
        assert sky.separation(WCS(header).pixel_to_world(10, 5)).arcsec < 1e-6
        assert not exposure.mask.any()
        assert Exposure.read(f'{path}[SCI][1:80,1:55]', mask='DQ').mask[3, 4]

    def test_compressed(self, path, image, tmp_path):
        for ending, pack in (('gz', gzip.compress), ('bz2', bz2.compress)):
            packed = tmp_path / f'x.fits.{ending}'
            packed.write_bytes(pack(path.read_bytes()))
            assert_array_equal(Exposure.read(packed).data, image)
        fits.HDUList(
            [
                fits.PrimaryHDU(),
                fits.CompImageHDU(image, compression_type='GZIP_1', quantize_level=0),
            ]
        ).writeto(tmp_path / 'x.fits.fz')
        assert_array_equal(Exposure.read(tmp_path / 'x.fits.fz').data, image)

    def test_integers_with_blank_and_zero_level(self, tmp_path):
        data = np.arange(30000, 30000 + 40 * 50).astype(np.uint16).reshape(40, 50)
        fits.writeto(tmp_path / 'raw.fits', data)
        known = {'bkg_error': 5.0, 'background': 3e4, 'effective_gain': 1.0}
        assert_array_equal(Exposure.read(tmp_path / 'raw.fits', **known).data, data)

    def test_overscan(self, tmp_path, rng):
        data = rng.normal(100, 3, (60, 80))
        data[:, :10] = rng.normal(20, 3, (60, 10))
        header = fits.Header({'TRIMSEC': '[11:80,1:60]'})
        fits.writeto(tmp_path / 'raw.fits', data, header)
        exposure = Exposure.read(tmp_path / 'raw.fits')
        assert exposure.mask[:, :10].all()
        assert not exposure.mask[:, 10:].any()
        assert 'TRIMSEC' in exposure.meta['estimated']['mask']

    def test_lookup_distortions(self, tmp_path, image, header):
        """
        As in images of HST: tables in the file move the pixels.
        """
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header, name='SCI')]
        for axis, shift in ((1, 3.0), (2, 0.0)):
            table = fits.ImageHDU(np.full((2, 2), shift, np.float32), name='WCSDVARR')
            for key, value in {'CRPIX': 1.0, 'CRVAL': 1.0, 'CDELT': 100.0}.items():
                table.header[f'{key}1'] = table.header[f'{key}2'] = value
            table.header['EXTVER'] = axis
            hdus.append(table)
            header = hdus[1].header
            header[f'CPDIS{axis}'] = 'LOOKUP'
            for words in (f'EXTVER: {axis}', 'NAXES: 2', 'AXIS.1: 1', 'AXIS.2: 2'):
                header.append(fits.Card(f'DP{axis}', f'{words}.0'))
        fits.HDUList(hdus).writeto(tmp_path / 'hst.fits')
        exposure = Exposure.read(tmp_path / 'hst.fits')
        exact = exposure.wcs.pixel_to_world(20, 20)
        plain = exposure.wcs.deepcopy()
        plain.cpdis1 = plain.cpdis2 = None
        assert exact.separation(plain.pixel_to_world(23, 20)).arcsec < 1e-3

    def test_an_unknown_unit(self, tmp_path, image):
        fits.writeto(tmp_path / 'x.fits', image, fits.Header({'BUNIT': 'parsnip'}))
        with pytest.warns(AstropyUserWarning, match="ignored: BUNIT 'parsnip'"):
            assert Exposure.read(tmp_path / 'x.fits').unit is None


class TestMaps:
    def test_noise_maps(self, path):
        assert_allclose(Exposure.read(path, bkg_error='RMS').bkg_error, NOISE)
        assert_allclose(Exposure.read(path, bkg_error=f'{path}[3]').bkg_error, NOISE)
        # A weight is an inverse variance up to a factor, found in the sky.
        exposure = Exposure.read(path, weight='WHT')
        assert_allclose(exposure.bkg_error, NOISE, rtol=0.05)
        assert 'weight' in exposure.meta['estimated']['bkg_error']
        exposure = Exposure.read(path, weight=np.full((60, 90), NOISE**-2))
        assert_allclose(exposure.bkg_error, NOISE, rtol=1e-6)

    def test_weights_of_zero_are_bad(self, image):
        weight = np.full(image.shape, 3.0)
        weight[:, :7] = 0
        exposure, _ = as_exposure(image, weight=weight, psf=PSFModel())
        assert_array_equal(exposure.mask[10], np.arange(90) < 7)
        # Whatever their pixels are, the sky does not see them.
        strange = np.where(weight == 0, 9e3, image)
        other, _ = as_exposure(strange, weight=weight, psf=PSFModel())
        assert_array_equal(other.background, exposure.background)
        assert_array_equal(other.bkg_error, exposure.bkg_error)

    def test_numbers_are_in_the_unit_of_the_image(self, path):
        exposure = Exposure.read(path, bkg_error=NOISE, background=SKY * u.adu)
        assert (exposure.bkg_error, exposure.background) == (NOISE, SKY)
        with pytest.raises(ValueError, match='background must have units of adu'):
            Exposure.read(path, background=1 * u.Jy)

    def test_masks(self, path, image, tmp_path):
        given = np.zeros(image.shape, bool)
        given[9, 9] = True
        fits.writeto(tmp_path / 'bad.fits', 4 * given.astype('i2'))
        for mask in (given, tmp_path / 'bad.fits', f'{tmp_path / "bad.fits"}[0]'):
            assert_array_equal(
                np.argwhere(Exposure.read(path, mask=mask).mask), [[9, 9]]
            )
            again, _ = as_exposure(image, mask=mask, psf=PSFModel())
            assert_array_equal(again.mask, given)

    def test_what_does_not_fit(self, path, tmp_path):
        fits.writeto(tmp_path / 'small.fits', np.ones((5, 5)))
        with pytest.raises(ValueError, match='bkg_error must have the shape of data'):
            Exposure.read(path, bkg_error=f'{tmp_path / "small.fits"}')
        with pytest.raises(ValueError, match=r'mask: .* has no extension FLAGS'):
            Exposure.read(path, mask='FLAGS')
        with pytest.raises(FileNotFoundError, match=r'weight must be .* no file'):
            Exposure.read(path, weight='absent.fits')
        with pytest.raises(ValueError, match='bkg_error and weight were both given'):
            Exposure.read(path, weight='WHT', bkg_error=1.0)
        with pytest.raises(ValueError, match=r'fpm was given although .* not an SDSS'):
            Exposure.read(path, fpm='x.fits')

    def test_width_of_the_psf(self, path):
        assert float(Exposure.read(path, fwhm=4.2).psf.fwhm) == pytest.approx(4.2)
        angle = Exposure.read(path, fwhm=1.44 * u.arcsec)
        assert float(angle.psf.fwhm) == pytest.approx(4.0, rel=1e-3)
        with pytest.raises(ValueError, match=r'psf and fwhm were both given'):
            Exposure.read(path, fwhm=4.2, psf=PSFModel())
        for fwhm, error in ((0.0, ValueError), ('wide', TypeError)):
            with pytest.raises(error, match='fwhm must be'):
                Exposure.read(path, fwhm=fwhm)

    def test_zero_point(self, path):
        plain, exposure = Exposure.read(path), Exposure.read(path, zero_point=25.0)
        assert exposure.unit == u.nmgy
        assert_allclose(exposure.data, plain.data * 0.1)
        assert_allclose(exposure.bkg_error, plain.bkg_error * 0.1)
        assert exposure.effective_gain == pytest.approx(10 * GAIN)
        with pytest.raises(ValueError, match='zero_point was given although data is'):
            as_exposure(np.ones((40, 40)) * u.Jy, zero_point=25.0)

    def test_psf_of_a_file(self, path, tmp_path):
        yy, xx = np.mgrid[-12:13, -12:13]
        fits.writeto(tmp_path / 'psf.fits', PSFModel(sigma1=1.8)(xx, yy))
        exposure = Exposure.read(path, psf=tmp_path / 'psf.fits')
        expected = float(PSFModel(sigma1=1.8).fwhm)
        assert float(exposure.psf_at(3, 4).fwhm) == pytest.approx(expected, rel=0.02)


class TestObjects:
    def test_hdus_and_cut_outs(self, path, image, header):
        with fits.open(path) as hdus:
            for given in (hdus, hdus['SCI']):
                exposure, _ = as_exposure(given, psf=PSFModel())
                assert_array_equal(exposure.data, image)
                assert exposure.unit == u.adu
                assert exposure.wcs is not None
            exposure, _ = as_exposure(
                hdus, extension='RMS', psf=PSFModel(), bkg_error=1.0, background=0.0
            )
            assert_allclose(exposure.data, NOISE)
        cut = Cutout2D(image, (50, 30), (40, 60), wcs=WCS(header))
        exposure, _ = as_exposure(cut, psf=PSFModel())
        assert exposure.shape == (40, 60)
        sky = exposure.wcs.pixel_to_world(0, 0)
        assert sky.separation(WCS(header).pixel_to_world(20, 10)).arcsec < 1e-6
        with pytest.raises(ValueError, match='extension was given although'):
            as_exposure(image, extension=1)

    def test_own_files_are_known_by_content(self, tmp_path):
        coadd = Coadd(
            np.random.default_rng(0).normal(size=(40, 50)),
            bkg_error=1.0,
            effective_gain=5.0,
            psf=PSFModel(),
            noise_kernel=np.outer([0.2, 1, 0.2], [0.2, 1, 0.2]),
        )
        coadd.write(tmp_path / 'coadd.fits')
        again = Exposure.read(tmp_path / 'coadd.fits')
        assert isinstance(again, Coadd)
        assert again.noise_correlation == pytest.approx((0.2, 0.2))
        assert Exposure.read(f'{tmp_path}/coadd.fits[3:20,2:9]').shape == (8, 18)
        with pytest.raises(
            ValueError, match=r'effective_gain was given although .*coadd'
        ):
            Exposure.read(tmp_path / 'coadd.fits', effective_gain=3.0)

    def test_a_registered_format(self, tmp_path, image):
        def read(path, **given):
            return Exposure(np.load(path), effective_gain=1.0, **given)

        def is_npy(origin, path, fileobj, *args, **kwargs):
            return path is not None and path.endswith('.npy')

        registry.register_reader('npy', Exposure, read)
        registry.register_identifier('npy', Exposure, is_npy)
        try:
            np.save(tmp_path / 'image.npy', image)
            exposure = Exposure.read(tmp_path / 'image.npy', bkg_error=2.0)
            assert_array_equal(exposure.data, image)
            assert (
                as_exposure(str(tmp_path / 'image.npy'), bkg_error=2.0, psf=PSFModel())[
                    0
                ].bkg_error
                == 2
            )
        finally:
            registry.unregister_reader('npy', Exposure)
            registry.unregister_identifier('npy', Exposure)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'there is no file .*absent\.fits'):
            Exposure.read(tmp_path / 'absent.fits')
        with pytest.raises(IsADirectoryError, match=r'path must be a file; .* folder'):
            Exposure.read(tmp_path)
        with pytest.raises(TypeError, match='path must be a path'):
            Exposure.read(3)


class TestDamage:
    """
    Whatever is wrong with a file, the error says which.
    """

    def refused(self, path):
        with pytest.raises((OSError, ValueError), match=path.name):
            Exposure.read(path)

    def test_cut_short(self, path, tmp_path):
        content = path.read_bytes()
        for tenths in range(10):
            short = tmp_path / f'short{tenths}.fits'
            short.write_bytes(content[: len(content) * tenths // 10])
            self.refused(short)
            for pack, ending in ((gzip.compress, 'gz'), (bz2.compress, 'bz2')):
                packed = tmp_path / f'short{tenths}.fits.{ending}'
                whole = pack(content)
                packed.write_bytes(whole[: len(whole) * tenths // 10])
                self.refused(packed)

    @pytest.mark.parametrize(
        ('card', 'value'),
        [
            ('NAXIS', 100000000),
            ('NAXIS', 1000),
            ('NAXIS', -2),
            ('NAXIS1', 2000000000),
            ('NAXIS2', -60),
            ('NAXIS1', 'wide'),
            ('BITPIX', -3200000),
            ('PCOUNT', 1 << 40),
            ('GCOUNT', -1),
            # Of a tile-compressed image.
            ('ZNAXIS', 100000000),
            ('ZNAXIS', 1),
            ('ZNAXIS', 'two'),
            ('ZNAXIS2', 50),
            ('ZTILE1', 0),
            ('ZBITPIX', 12),
            ('TFIELDS', 2000000000),
            ('ZTILE2', None),
            ('ZBITPIX', None),
        ],
    )
    def test_headers_that_promise_too_much(self, tmp_path, image, card, value):
        path = tmp_path / 'liar.fits'
        compressed = card.startswith(('Z', 'TF'))
        hdu = (fits.CompImageHDU if compressed else fits.ImageHDU)(image)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
        content = bytearray(path.read_bytes())
        start = content.index(f'{card:8s}='.encode(), 2880)
        text = 'COMMENT' if value is None else f'{card:8s}= {value!r:>20}'
        content[start : start + 80] = text.ljust(80).encode()
        path.write_bytes(content)
        with pytest.raises(OSError, match=r'path=.*liar.fits.* truncated, damaged, or'):
            Exposure.read(path)

    @pytest.mark.filterwarnings('ignore::astropy.utils.exceptions.AstropyUserWarning')
    def test_flipped_bytes(self, path, tmp_path, rng):
        """
        An image, perhaps with other pixels, or an error that names the file.
        """
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for k in range(40):
            spoilt = content.copy()
            places = rng.integers(0, 3 * 2880, 1 + 10 * (k % 3))
            spoilt[places] = rng.integers(0, 256, len(places))
            file = tmp_path / f'flip{k}.fits'
            file.write_bytes(spoilt.tobytes())
            try:
                exposure = Exposure.read(
                    file, bkg_error=1.0, background=0.0, effective_gain=1.0, wcs=None
                )
            except (OSError, ValueError) as error:
                assert file.name in str(error)  # noqa: PT017
            else:
                assert exposure.data.ndim == 2


def test_simulated_files(tmp_path):
    from bliss_astro.cli import main

    path = tmp_path / 'sim.fits'
    assert (
        main(['simulate', '--shape', '40', '-q', '--seed', '1', '-o', str(path)]) == 0
    )
    exposure = Exposure.read(path)
    assert exposure.unit == u.nmgy
    assert exposure.psf is not None
    assert 'estimated' not in exposure.meta
    again = Exposure.read(path, format='bliss_astro.simulated', background='measure')
    assert np.ndim(again.background) == 2


def test_the_first_of_several_images_is_named(tmp_path):
    data = np.random.default_rng(1).normal(100, 5, (64, 64)).astype('f4')
    path = tmp_path / 'mosaic.fits'
    hdus = [fits.ImageHDU(data, name=name) for name in ('CCD1', 'ERR', 'CCD2')]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    with pytest.warns(AstropyUserWarning, match='extension 1 of .* first of 2 images'):
        Exposure.read(path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Exposure.read(path, extension='CCD2')
        hdus = [fits.ImageHDU(data, name=name) for name in ('SCI', 'ERR', 'DQ')]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
        Exposure.read(path)
