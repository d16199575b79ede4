# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the PSF of SDSS fields, on made-up and on real psField files.
"""

import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose

from bliss_astro import OutOfDomainWarning
from bliss_astro.psf import DEFAULT_SHAPE, PSFModel
from bliss_astro.surveys.sdss import SDSSPSF

FIELD_94 = 'sdss/94/1/12/psField-000094-1-0012.fits'
FIELD_M2 = 'sdss/2583/2/136/psField-002583-2-0136.fits'
COLUMNS = ('sigma1', 'sigma2', 'b', 'sigmap', 'p0', 'beta')


def made_up(shape=DEFAULT_SHAPE, slope=0.2):
    """
    Make a psField record in r whose PSF becomes rounder and wider along y.
    """
    yy, xx = np.mgrid[-25:26, -25:26]
    narrow = PSFModel.from_shape(shape)(xx, yy)
    wide = np.array(shape)
    wide[[0, 1, 3]] *= 1.1
    wide[6] = 0.1
    other = PSFModel.from_shape(wide)(xx, yy)
    # In powers of (0.001 row, 0.001 column).
    first, second = np.zeros((2, 2)), np.zeros((2, 2))
    first[0, 0], first[1, 0] = 1.0, -slope
    second[1, 0] = slope
    basis = SimpleNamespace(
        rrows=np.stack([narrow, other]),
        coeff=[first, second],
    )
    values = {
        f'psf_{name}': np.full(5, value)
        for name, value in zip(COLUMNS, shape, strict=False)
    }
    return SimpleNamespace(kl={'r': basis}, **values)


@pytest.fixture(scope='module')
def psf():
    """
    The PSF of a made-up field, whose fits are made once.
    """
    return SDSSPSF(made_up(), 'r')


class TestMadeUp:
    def test_kl_sum(self, psf):
        share = 0.2 * 0.001 * (700 + 0.5)
        narrow, wide = made_up().kl['r'].rrows
        expected = (1 - share) * narrow + share * wide
        assert_allclose(psf.kl_sum(123, 700), expected, rtol=1e-12)
        assert_allclose(psf.kl_sum(1900, 700), expected, rtol=1e-12)

    def test_fit_finds_the_shape(self):
        psf = SDSSPSF(made_up(slope=0.0), 'r')
        model = psf.fit_at(500, 500)
        assert_allclose(model.shape_vector, DEFAULT_SHAPE, rtol=1e-3, atol=1e-6)
        assert (model.x_0, model.y_0) == (500, 500)
        assert model.fit_info['residual'] < 1e-6

    def test_grid_is_the_fits(self, psf):
        xs, ys = np.array([1900, 3, 700]), np.array([1200, 40])
        shapes = psf.shape_grid(xs, ys)
        assert shapes.shape == (2, 3, 8)
        for j, y in enumerate(ys):
            for i, x in enumerate(xs):
                exact = psf.fit_at(x, y)
                assert_allclose(shapes[j, i, 0], exact.sigma1.value, rtol=2e-3)
                assert_allclose(psf.at(x, y).fwhm, exact.fwhm, rtol=1e-3)
        assert shapes[0, 0, 6] > shapes[1, 0, 6]
        assert_allclose(psf.shapes_at(xs[1:], ys), shapes[[0, 1], [1, 2]])

    def test_nodes_are_fitted_as_single_places(self, psf):
        shape, exact = psf.at(0, 1488).shape_vector, psf.fit_at(0, 1488)
        assert_allclose(shape, exact.shape_vector, rtol=1e-5, atol=1e-7)

    def test_cut_out_follows(self, psf):
        cut = psf.shifted(300, 900).shifted(10, 20)
        assert cut.origin == (310, 920)
        assert_allclose(cut.kl_sum(5, 6), psf.kl_sum(315, 926), rtol=1e-12)
        assert_allclose(
            cut.at(5, 6).shape_vector, psf.at(315, 926).shape_vector, rtol=1e-9
        )
        assert cut._cache is psf._cache

    def test_outside_the_frame(self, psf):
        assert_allclose(psf.kl_sum(-500, 5000), psf.kl_sum(0, 1488), rtol=1e-12)
        with pytest.raises(ValueError, match='x must be finite'):
            psf.at(np.nan, 3)

    def test_image_flux(self, psf):
        image = psf.image(700, 700)
        yy, xx = np.mgrid[-25:26, -25:26]
        inside = np.hypot(xx, yy) < 18.76
        assert_allclose(image[inside].sum(), 1, rtol=5e-4)

    @pytest.mark.parametrize('band', ['R', 'y', '', 2, None])
    def test_bad_band(self, band):
        with pytest.raises(ValueError, match='band must be one of'):
            SDSSPSF(made_up(), band)
        with pytest.raises(ValueError, match='band must be one of'):
            PSFModel.from_sdss(made_up(), band)

    def test_missing_band(self):
        with pytest.raises(ValueError, match='no eigen-images in band g'):
            SDSSPSF(made_up(), 'g')
        # The analytic fit is there all the same.
        assert_allclose(
            PSFModel.from_sdss(made_up(), 'g').shape_vector, DEFAULT_SHAPE, rtol=1e-9
        )

    def test_one_coordinate(self):
        with pytest.raises(ValueError, match='x and y must be given together'):
            PSFModel.from_sdss(made_up(), 'r', x=3)

    @pytest.mark.parametrize(
        ('change', 'match'),
        [
            ({5: 3.0, 3: 5.0, 4: 1e-7}, 'wing was not fitted'),
            ({5: 3.0}, 'wing was not fitted'),
            ({5: 10.0}, 'ran into its limit'),
            ({2: 3.4}, 'higher than its first'),
        ],
    )
    def test_default_values_warn(self, change, match):
        shape = np.array(DEFAULT_SHAPE)
        for k, value in change.items():
            shape[k] = value
        with pytest.warns(OutOfDomainWarning, match=match):
            PSFModel.from_sdss(made_up(tuple(shape)), 'r')
        with pytest.warns(OutOfDomainWarning, match=match):
            SDSSPSF(made_up(tuple(shape)), 'r')

    @pytest.mark.parametrize(
        ('column', 'value'), [(0, 0), (1, np.nan), (2, -1), (5, 0)]
    )
    def test_unusable_values_raise(self, column, value):
        record = made_up()
        getattr(record, f'psf_{COLUMNS[column]}')[:] = value
        with pytest.raises(ValueError, match='no usable PSF in band r'):
            PSFModel.from_sdss(record, 'r')

    def test_empty_eigen_images(self):
        record = made_up()
        record.kl['r'].rrows[:] = 0
        with pytest.raises(ValueError, match='sum to nothing positive'):
            SDSSPSF(record, 'r').at(3, 3)


class TestRealFiles:
    """
    Files under the shared data; each test is skipped where they are absent.
    """

    def test_analytic(self, shared_data):
        psf = PSFModel.from_sdss(shared_data / FIELD_94, 'r')
        assert_allclose(psf.shape_vector, DEFAULT_SHAPE, rtol=3e-5)
        # The published image of this field is the analytic fit, sampled.
        image = np.load(shared_data / 'psf/psField-000094-1-0012-PSF-image.npy')[0]
        yy, xx = np.mgrid[-12:13, -12:13]
        ours = psf(xx, yy)
        assert_allclose(ours / ours.sum(), image, atol=1e-6 * image.max())

    @pytest.mark.parametrize('band', 'ugriz')
    def test_kl_against_published_images(self, shared_data, band):
        # They were made at row 600, column 500, and are not scaled.
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', OutOfDomainWarning)
            psf = SDSSPSF(shared_data / FIELD_M2, band)
        published = fits.getdata(
            shared_data / f'psf/sdss-002583-2-0136-psf-{band}.fits'
        )
        ours = psf.kl_sum(500, 600)[13:38, 13:38]
        assert_allclose(ours, published, atol=2e-6 * published.max())

    def test_model_follows_the_eigen_images(self, shared_data):
        whole = PSFModel.from_sdss(shared_data / FIELD_94, 'r')
        center = PSFModel.from_sdss(shared_data / FIELD_94, 'r', x=1023.5, y=744)
        assert center.fit_info['residual'] < 0.01
        # The composite profile of the analytic fit is blurred by the variation.
        assert_allclose(center.fwhm, whole.fwhm, rtol=0.03)
        assert_allclose(center.n_eff, whole.n_eff, rtol=0.03)

    def test_default_wing(self, shared_data):
        with pytest.warns(OutOfDomainWarning, match='wing was not fitted'):
            psf = SDSSPSF(shared_data / FIELD_M2, 'r')
        # The stars of such fields have the usual wing all the same.
        model = psf.fit_at(1000, 700)
        assert model.p0 > 0.005
        assert 2.5 < model.beta < 4.5

    def test_a_frame_is_fast(self, shared_data):
        start = time.perf_counter()
        psf = SDSSPSF(shared_data / FIELD_94, 'r')
        shapes = psf.shape_grid(np.arange(0, 2048, 4), np.arange(0, 1489, 4))
        elapsed = time.perf_counter() - start
        assert shapes.shape == (373, 512, 8)
        assert np.isfinite(shapes).all()
        # Below a second on one idle core; the rest is for busy machines.
        assert elapsed < 4
