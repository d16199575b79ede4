# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the readers of SDSS images and masks.
"""

import bz2
import gzip

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.surveys import sdss
from bliss_astro.surveys.sdss._camera import (
    band_index,
    camera_dark_variance,
    camera_gain,
)
from bliss_astro.surveys.sdss._images import read_image


class TestFrame:
    def test_contents(self, sdss_field):
        frame = sdss.Frame.read(sdss_field.frame())
        assert (frame.run, frame.camcol, frame.field) == (94, 1, 12)
        assert frame.band == 'r'
        assert frame.data.dtype == np.float32
        assert frame.data.dtype.isnative
        assert_allclose(frame.calibration, sdss_field.calibration, rtol=1e-6)
        assert_allclose(frame.sky(), sdss_field.sky(), rtol=1e-6)
        assert_array_equal(frame.sky(slice(3, 9)), frame.sky()[3:9])
        assert_allclose(frame.counts(), sdss_field.counts, rtol=2e-6)
        assert frame.wcs.array_shape == frame.data.shape
        assert_allclose(frame.wcs.wcs_pix2world(40, 30, 0), (336.5, -0.9))
        assert repr(frame) == '<Frame 94-1-12 r, 60 x 80 px>'

    @pytest.mark.parametrize(
        ('card', 'value'),
        [
            ('FIELD', 'NA'),
            ('FIELD', None),
            ('FRAME', None),
            ('RUN', 'NA'),
            ('RUN', None),
            ('CAMCOL', ''),
            ('FILTER', ''),
        ],
    )
    def test_cards_that_no_pixel_needs(self, sdss_field, tmp_path, card, value):
        """
        The name of the file has the numbers too; without that they are unknown.
        """
        with fits.open(sdss_field.frame()) as hdus:
            hdus[0].header.remove('FRAME', ignore_missing=True)
            hdus[0].header['FIELD'] = 12
            hdus[0].header.remove(card, ignore_missing=True)
            if value is not None:
                hdus[0].header[card] = value
            hdus.writeto(tmp_path / 'frame-r.fits')
        content = (tmp_path / 'frame-r.fits').read_bytes()
        packed = tmp_path / 'frame-r-000094-1-0012.fits'
        packed.write_bytes(bz2.compress(content))
        for path, numbers in (
            (packed, (94, 1, 12)),
            (tmp_path / 'frame-r.fits', None),
        ):
            if card == 'FILTER' and numbers is None:
                with pytest.raises(ValueError, match="FILTER is ''"):
                    sdss.Frame.read(path)
                continue
            frame = sdss.Frame.read(path)
            assert frame.data.shape == (60, 80)
            found = (frame.run, frame.camcol, frame.field)
            unknown = [
                -1 if card == key else n
                for key, n in zip(('RUN', 'CAMCOL', 'FIELD'), (94, 1, 12), strict=True)
            ]
            assert found == (numbers or tuple(unknown))

    @pytest.mark.parametrize('band', 'ugriz')
    def test_field_number_in_every_band(self, sdss_files, tmp_path, band):
        # The header counts frames of each CCD, not fields.
        path = sdss_files.Field(tmp_path, band=band).frame()
        assert sdss.Frame.read(path).field == 12

    @pytest.mark.parametrize(('suffix', 'module'), [('.bz2', bz2), ('.gz', gzip)])
    def test_compressed(self, sdss_field, suffix, module):
        plain = sdss_field.frame()
        packed = plain.with_name(plain.name + suffix)
        packed.write_bytes(module.compress(plain.read_bytes()))
        expected, frame = sdss.Frame.read(plain), sdss.Frame.read(str(packed))
        assert_array_equal(frame.data, expected.data)

    def test_hdu_list_stays_open(self, sdss_field):
        with fits.open(sdss_field.frame()) as hdus:
            sdss.Frame.read(hdus)
            assert sdss.Frame.read(hdus).data.shape == (60, 80)

    def test_read_image_recognises(self, sdss_field):
        assert isinstance(read_image(sdss_field.frame()), sdss.Frame)
        assert isinstance(read_image(sdss_field.fpc()), sdss.CorrectedFrame)
        with pytest.raises(ValueError, match='not an SDSS frame or fpC file'):
            read_image(sdss_field.tsfield())

    def test_wrong_type(self, sdss_field):
        with pytest.raises(ValueError, match=r'frame=.*fpC.* is not an SDSS frame'):
            sdss.Frame.read(sdss_field.fpc())
        with pytest.raises(TypeError, match='frame must be a path'):
            sdss.Frame.read(12)

    def test_vectors_of_another_size(self, sdss_field):
        hdus = sdss_field.frame_hdus()
        hdus[1] = fits.ImageHDU(np.ones(7, dtype='f4'))
        with pytest.raises(ValueError, match='not a whole SDSS frame'):
            sdss.Frame.read(sdss_field.write(hdus, 'short.fits'))
        hdus[1] = fits.ImageHDU(np.zeros(80, dtype='f4'))
        with pytest.raises(ValueError, match='not calibrated'):
            sdss.Frame.read(sdss_field.write(hdus, 'zero.fits'))

    def test_unknown_band(self, sdss_field):
        hdus = sdss_field.frame_hdus()
        hdus[0].header['FILTER'] = 'V'
        with pytest.raises(ValueError, match="FILTER is 'v'"):
            sdss.Frame.read(sdss_field.write(hdus, 'v.fits'))


class TestDamage:
    @pytest.mark.parametrize('keep', [100, 3000, 10000, 26000])
    def test_truncated(self, sdss_field, keep):
        path = sdss_field.frame()
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(OSError, match=r'frame=.*cannot be read as FITS'):
            sdss.Frame.read(path)

    @pytest.mark.parametrize(('suffix', 'module'), [('.bz2', bz2), ('.gz', gzip)])
    def test_truncated_compressed(self, sdss_field, suffix, module):
        plain = sdss_field.frame()
        path = plain.with_name(plain.name + suffix)
        packed = module.compress(plain.read_bytes())
        path.write_bytes(packed[: len(packed) // 2])
        with pytest.raises(OSError, match=r'frame=.*cannot be read as FITS'):
            sdss.Frame.read(path)

    def test_not_fits(self, tmp_path):
        path = tmp_path / 'image.png'
        path.write_bytes(b'\x89PNG and so on' * 500)
        with pytest.raises(OSError, match=r'psfield=.*cannot be read as FITS'):
            sdss.PsField.read(path)
        path.write_bytes(b'')
        with pytest.raises(OSError, match=r'fpm=.*cannot be read as FITS'):
            sdss.FieldMask.read(path)

    def test_absent(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match='tsfield must be a file; there is no'
        ):
            sdss.TsField.read(tmp_path / 'nothing.fit')


class TestCorrectedFrame:
    def test_contents(self, sdss_field):
        image = sdss.CorrectedFrame.read(sdss_field.fpc())
        assert image.data.dtype == np.float32
        # Rounded to whole counts, soft bias taken off.
        assert np.abs(image.data - sdss_field.counts).max() <= 0.51
        assert image.soft_bias == 1000
        assert image.flux20 == 2000
        assert image.sky_level == 150
        assert_allclose(image.exposure_time, 53.907456)

    def test_placeholders_are_none(self, sdss_field):
        image = sdss.CorrectedFrame.read(sdss_field.fpc(FLUX20=-9999.0, SKY=-9999.0))
        assert image.flux20 is None
        assert image.sky_level is None

    def test_wrong_type(self, sdss_field):
        with pytest.raises(ValueError, match='not an SDSS fpC file'):
            sdss.CorrectedFrame.read(sdss_field.frame())


class TestMask:
    def test_planes(self, sdss_field):
        path = sdss_field.fpm(
            INTERP=[(0, 0, [(0, 3, 3), (1, 3, 5)]), (10, 20, [(2, 1, 4)])],
            CR=[(0, 0, [(1, 5, 9)])],
        )
        mask = sdss.FieldMask.read(path)
        expected = np.zeros((60, 80), dtype=bool)
        expected[0, 3] = expected[1, 3:6] = expected[12, 21:25] = True
        assert_array_equal(mask.plane('INTERP'), expected)
        assert not mask.plane('SATUR').any()
        expected[1, 5:10] = True
        assert_array_equal(mask.combine(), expected)
        assert_array_equal(mask.combine(['INTERP', 'CR', 'CR']), expected)
        assert not mask.combine([]).any()
        assert mask.names[:2] == ('INTERP', 'SATUR')
        assert repr(mask) == '<FieldMask 94-1-12, 60 x 80 px: INTERP, CR>'

    def test_spans_beyond_the_image_are_clipped(self, sdss_field):
        spans = [(-1, 0, 5), (60, 0, 5), (4, -3, 1), (5, 78, 95), (6, 90, 95)]
        plane = sdss.FieldMask.read(sdss_field.fpm(SATUR=[(0, 0, spans)])).plane(
            'SATUR'
        )
        expected = np.zeros((60, 80), dtype=bool)
        expected[4, :2] = expected[5, 78:] = True
        assert_array_equal(plane, expected)

    def test_errors(self, sdss_field):
        mask = sdss.FieldMask.read(sdss_field.fpm())
        with pytest.raises(ValueError, match="no mask plane 'DUST'"):
            mask.plane('DUST')
        with pytest.raises(ValueError, match='not an SDSS fpM file'):
            sdss.FieldMask.read(sdss_field.psfield())


@pytest.mark.parametrize('band', ['x', '', 5, -1, None, True, 2.0])
def test_band_index_errors(band):
    with pytest.raises(ValueError, match='band must be one of u, g, r, i, z'):
        band_index(band)


def test_camera_table():
    assert camera_gain(2, 'u', run=756) == 1.595
    assert camera_gain(2, 'u') == 1.825
    assert camera_gain(2, 'i', run=1458) == 6.565
    assert camera_gain(2, 'i', run=2583) == 5.195
    assert camera_dark_variance(4, 'z', run=125) == 9.61
    assert camera_dark_variance(6, 4) == 1.21
    with pytest.raises(ValueError, match='camcol must be an integer from 1 to 6'):
        camera_gain(7, 'r')


class TestRealImages:
    def test_frame(self, shared_data):
        folder = shared_data / 'sdss' / '2583' / '2' / '136'
        frame = read_image(folder / 'frame-r-002583-2-0136.fits.bz2')
        assert frame.data.shape == (1489, 2048)
        assert (frame.run, frame.camcol, frame.field) == (2583, 2, 136)
        assert_allclose(frame.sky().mean(), 149.14, atol=0.01)
        assert_allclose(np.median(frame.calibration), 0.00547, rtol=0.03)
        # The converter gave whole counts; undoing everything must find them,
        # to the accuracy with which the survey keeps its frames.
        counts = frame.counts()[700:760, 1500:1600]
        assert np.abs(counts.mean() - 149) < 5

    def test_fpc(self, shared_data):
        folder = shared_data / 'sdss_two_epoch' / '4192' / '4' / '300'
        image = read_image(folder / 'fpC-004192-r4-0300.fit.gz')
        assert isinstance(image, sdss.CorrectedFrame)
        assert_allclose(np.median(image.data), 145, atol=1.5)
        assert image.flux20 == 1981.78

    def test_mask_pixels_agree_with_the_file(self, shared_data):
        folder = shared_data / 'sdss' / '3900' / '6' / '269'
        path = folder / 'fpM-003900-r6-0269.fit.gz'
        mask = sdss.FieldMask.read(path)
        with fits.open(path) as hdus:
            # Objects of one plane may overlap, so the file's sum is an upper
            # limit; those of SATUR hardly do.
            n_pixels = int(hdus[2].data['npix'].sum())
        painted = int(mask.plane('SATUR').sum())
        assert 0.85 * n_pixels <= painted <= n_pixels
