# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the readers of SDSS's tables.
"""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import NoDetectionsWarning
from bliss_astro.surveys import sdss
from bliss_astro.surveys.sdss._camera import BANDS, camera_gain


class TestPsField:
    def test_contents(self, sdss_field, sdss_files):
        psfield = sdss.PsField.read(sdss_field.psfield())
        assert (psfield.run, psfield.camcol, psfield.field) == (94, 1, 12)
        assert tuple(psfield.kl) == BANDS
        basis = psfield.basis('r')
        assert basis.rrows.shape == (2, 51, 51)
        assert_allclose(basis.rrows[0], sdss_files.gaussian(1.3), atol=1e-8)
        assert [c.shape for c in basis.coeff] == [(1, 1), (2, 3)]
        # Row is the first axis: 0.2 goes with the first power of the column.
        assert_allclose(basis.coeff[1], [[0, 0.2, 0], [0, 0, 0]])
        assert_allclose(psfield.gain, sdss_files.GAIN, rtol=1e-6)
        assert_allclose(psfield.psf_sigmap, 2.9)
        assert not psfield.is_default.any()
        assert 'r 1.20"' in repr(psfield)

    def test_defaults_are_flagged(self, sdss_field):
        path = sdss_field.psfield(psf_beta=[3, 3.2, 3, 10, 3.2], psf_sigmap=5.0)
        assert_array_equal(
            sdss.PsField.read(path).is_default, [True, False, True, True, False]
        )
        path = sdss_field.psfield(psf_sigma1=[0, -1, np.nan, 1, 1], psf_b=30.0)
        assert sdss.PsField.read(path).is_default.all()

    def test_band_without_psf(self, sdss_field):
        psfield = sdss.PsField.read(sdss_field.psfield(dark_bands='u'))
        assert 'u' not in psfield.kl
        with pytest.raises(ValueError, match="has no PSF in band 'u'"):
            psfield.basis('u')

    def test_wrong_type(self, sdss_field):
        with pytest.raises(ValueError, match=r'psfield=.* is not an SDSS psField'):
            sdss.PsField.read(sdss_field.frame())
        with pytest.raises(ValueError, match='its table lacks'):
            sdss.PsField.read(sdss_field.fpm())

    def test_real_file(self, shared_data):
        folder = shared_data / 'sdss' / '94' / '1' / '12'
        psfield = sdss.PsField.read(folder / 'psField-000094-1-0012.fits')
        assert_allclose(psfield.psf_sigma1[2], 1.48996, rtol=1e-5)
        assert_allclose(psfield.psf_beta[2], 3.26380, rtol=1e-5)
        assert psfield.basis('r').rrows.shape[1:] == (51, 51)
        assert psfield.psp_status == 0


class TestFields:
    def test_tsfield(self, sdss_field, sdss_files):
        ts = sdss.TsField.read(sdss_field.tsfield())
        assert_allclose(ts.nmgy_per_count, sdss_files.NMGY, rtol=1e-6)
        assert_allclose(ts.sky, sdss_files.SKY, rtol=1e-6)
        assert_allclose(ts.exposure_time, 53.907456)
        assert repr(ts) == '<TsField 94-1-12>'
        with pytest.raises(ValueError, match='not an SDSS tsField file'):
            sdss.TsField.read(sdss_field.photofield())

    def test_photofield(self, sdss_field, sdss_files):
        fields = sdss.PhotoField.read(sdss_field.photofield())
        assert len(fields) == 3
        assert fields.row(13) == 1
        assert_allclose(fields.sky, sdss_files.SKY, rtol=1e-6)
        assert_allclose(fields.sky_nmgy, sdss_files.SKY * sdss_files.NMGY, rtol=1e-6)
        assert fields.gain.shape == (3, 5)
        with pytest.raises(ValueError, match='field 99 is not in'):
            fields.row(99)

    def test_photofield_without_rows(self, sdss_field):
        with pytest.raises(ValueError, match='with rows: it has none'):
            sdss.PhotoField.read(sdss_field.photofield(n=0))

    def test_no_table(self, sdss_field):
        with pytest.raises(ValueError, match='HDU 1 is not a table'):
            sdss.PhotoField.read(sdss_field.fpc())

    def test_the_files_agree_with_each_other(self, shared_data):
        # One field's numbers, in two of the survey's files.
        folder = shared_data / 'sdss' / '2583' / '2'
        fields = sdss.PhotoField.read(folder / 'photoField-002583-2.fits')
        psfield = sdss.PsField.read(folder / '136' / 'psField-002583-2-0136.fits')
        row = fields.row(136)
        assert_allclose(fields.sky[row], psfield.sky, rtol=1e-6)
        assert_allclose(fields.gain[row], psfield.gain)
        assert_allclose(fields.psf_beta[row], psfield.psf_beta)
        assert_array_equal(psfield.is_default, [False, False, True, False, False])
        for index, band in enumerate(BANDS):
            gain = camera_gain(2, band, run=2583)
            assert_allclose(gain, psfield.gain[index], rtol=1e-6)

    def test_tsfield_agrees_with_the_header(self, shared_data):
        folder = shared_data / 'sdss_two_epoch' / '6377' / '4' / '399'
        ts = sdss.TsField.read(folder / 'tsField-006377-4-40-0399.fit')
        fpc = sdss.CorrectedFrame.read(folder / 'fpC-006377-r4-0399.fit.gz')
        # FLUX20 is a rough calibration, good to about a percent.
        assert_allclose(ts.nmgy_per_count[2], 10 / fpc.flux20, rtol=0.01)
        assert_allclose(ts.sky[2], np.median(fpc.data), rtol=0.01)


class TestPhotoObj:
    def test_contents(self, sdss_field):
        objects = sdss.read_photoobj(sdss_field.photoobj())
        assert_allclose(objects['x'][:, 2], [30, 55])
        assert_allclose(objects['y'][:, 2], [20, 41])
        assert objects.meta['field'] == 12

    def test_no_objects(self, sdss_field):
        with pytest.warns(NoDetectionsWarning, match='has no objects'):
            objects = sdss.read_photoobj(sdss_field.photoobj(empty=True))
        assert len(objects) == 0
        assert objects['x'].shape == (0, 5)
        assert objects['PSFFLUX'].dtype == np.float32

    def test_wrong_type(self, sdss_field):
        with pytest.raises(ValueError, match='its table lacks'):
            sdss.read_photoobj(sdss_field.tsfield())
        with pytest.raises(ValueError, match='HDU 1 is not a table'):
            sdss.read_photoobj(sdss_field.frame())
        path = sdss_field.write([fits.PrimaryHDU()], 'alone.fits')
        with pytest.raises(ValueError, match='HDU 1 is not a table'):
            sdss.read_photoobj(path)
        table = fits.BinTableHDU(Table({'RA': [1.0]}))
        path = sdss_field.write([fits.PrimaryHDU(), table], 'other.fits')
        with pytest.raises(ValueError, match='COLC'):
            sdss.read_photoobj(path)

    def test_real_empty_file(self, shared_data):
        folder = shared_data / 'sdss' / '2583' / '2' / '136'
        with pytest.warns(NoDetectionsWarning):
            objects = sdss.read_photoobj(folder / 'photoObj-002583-2-0136.fits')
        assert len(objects) == 0
