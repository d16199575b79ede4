# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the fits of the PSF model.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import Table
from numpy.testing import assert_allclose

from bliss_astro.psf import PSFModel
from bliss_astro.psf._wing_prior import to_shape, to_theta

TRUTH = (1.1, 2.4, 0.06, 2.2, 0.011, 3.1, 0.06, -0.04)


def psf_image(shape=TRUTH, **kwargs):
    yy, xx = np.mgrid[:51, :51]
    return PSFModel.from_shape(shape, x_0=25.2, y_0=24.7, **kwargs)(xx, yy)


@pytest.fixture
def frame():
    """
    Give a frame of 12 stars, a galaxy and a cosmic ray: data, positions, fluxes.
    """
    rng = np.random.default_rng(5)
    y, x = (20 + 40 * np.indices((4, 4)).reshape(2, -1))[:, :13]
    positions = np.column_stack([x, y]) + rng.uniform(-0.5, 0.5, (13, 2))
    flux = 10 ** rng.uniform(4.0, 5.5, 13)
    yy, xx = np.mgrid[:160, :160]
    data = np.full((160, 160), 3.0)
    for k, ((x, y), f) in enumerate(zip(positions, flux, strict=True)):
        shape = np.array(TRUTH)
        if k == 12:
            shape[[0, 1, 3]] *= 2
            f = 1e6
        data += PSFModel.from_shape(shape, flux=f, x_0=x, y_0=y)(xx, yy)
    data += rng.normal(size=data.shape) * np.sqrt(100 + np.maximum(data, 0))
    data[22:24, 15] += 5e3
    return data, np.rint(positions), flux, positions


class TestTheta:
    def test_round_trip(self):
        assert_allclose(to_shape(to_theta(TRUTH)), TRUTH, rtol=1e-12)


class TestImage:
    def test_exact(self):
        psf = PSFModel.fit(psf_image(flux=5))
        assert_allclose(psf.shape_vector, TRUTH, rtol=1e-5)
        assert_allclose([psf.flux.value, psf.x_0.value, psf.y_0.value], [5, 25.2, 24.7])
        assert psf.fit_info['converged']
        assert psf.fit_info['residual'] < 1e-8

    def test_noisy(self, rng):
        image = psf_image(flux=1e5)
        error = np.sqrt(image + 25)
        noisy = image + rng.normal(size=image.shape) * error
        psf = PSFModel.fit(noisy, error=error)
        # 1e5 electrons know a width to about 1/sqrt(2e5), and an ellipticity
        # to twice that; the two Gaussians and the wing share it.
        assert_allclose(psf.fwhm, PSFModel.from_shape(TRUTH).fwhm, rtol=0.02)
        assert_allclose(psf.shape_vector[6:], TRUTH[6:], atol=0.02)
        assert_allclose(psf.flux.value, 1e5, rtol=0.02)

    def test_mask_nan_and_units(self):
        image = psf_image(flux=5)
        mask = np.zeros(image.shape, bool)
        mask[20, 20], image[20, 20] = True, 1e6
        image[30, 20] = np.nan
        psf = PSFModel.fit(image * u.nmgy, mask=mask)
        assert psf.flux.unit == u.nmgy
        assert_allclose(psf.shape_vector, TRUTH, rtol=1e-5)

    def test_background(self):
        psf = PSFModel.fit(psf_image(flux=5) + 0.01, background=True)
        assert_allclose(psf.shape_vector, TRUTH, rtol=1e-3)

    def test_another_model(self):
        from photutils.psf import CircularGaussianPSF

        other = CircularGaussianPSF(fwhm=3.2)
        psf = PSFModel.fit(other)
        assert_allclose(psf.fwhm, 3.2, rtol=2e-3)
        assert_allclose(psf(25, 25), other(0, 0), rtol=5e-3)

    @pytest.mark.parametrize('obscuration', [0.0, 0.3])
    def test_rings_do_not_spoil_the_area(self, obscuration):
        """
        The model has no diffraction rings; fluxes of faint stars need the area.
        """
        galsim = pytest.importorskip('galsim')
        shape = galsim.Airy(lam_over_diam=3.0, obscuration=obscuration)
        image = shape.drawImage(nx=51, ny=51, scale=1.0).array.astype(float)
        psf = PSFModel.fit(image)
        yy, xx = np.mgrid[:51, :51]
        model = PSFModel.from_shape(psf.shape_vector, x_0=25, y_0=25)(xx, yy)
        within = image[np.hypot(xx - 25, yy - 25) < 18.76].sum()
        area = within**2 / np.square(image).sum()
        assert_allclose(psf.n_eff, area, rtol=0.06)
        # A faint star's flux with the model as the weight.
        flux = np.sum(model * image) / np.sum(model**2) / within
        assert_allclose(flux, 1, atol=0.05)

    def test_cut_outs(self, rng):
        yy, xx = np.mgrid[:25, :25]
        centers = 12 + rng.uniform(-0.5, 0.5, (6, 2))
        flux = np.array([1, 2, 3, 4, 5, 6]) * 1e4
        stamps = np.stack(
            [
                PSFModel.from_shape(TRUTH, flux=f, x_0=x, y_0=y)(xx, yy)
                for f, (x, y) in zip(flux, centers, strict=True)
            ]
        )
        stamps += rng.normal(size=stamps.shape) * 3 + 50
        psf = PSFModel.fit(stamps, error=3)
        info = psf.fit_info
        assert info['used'].all()
        assert_allclose(psf.fwhm, PSFModel.from_shape(TRUTH).fwhm, rtol=0.01)
        # The wing beyond the cut-outs is what the prior makes it.
        assert_allclose(info['flux'], flux, rtol=0.03)
        assert_allclose(np.column_stack([info['x'], info['y']]), centers, atol=0.01)
        assert_allclose(info['background'], 50, atol=1.5)

    @pytest.mark.parametrize(
        ('image', 'kwargs', 'match'),
        [
            (np.ones(5), {}, 'must be 2D or 3D'),
            (np.ones((3, 9)), {}, 'at least 5 pixels'),
            (np.full((9, 9), np.nan), {}, 'at least one pixel'),
            (-np.ones((9, 9)), {}, 'no star to fit'),
            (np.ones((9, 9), complex), {}, 'must be real numbers'),
            (np.ones((9, 9), bool), {}, 'must be real numbers'),
            (np.ones((9, 9)), {'mask': np.ones((2, 2), bool)}, 'mask must be a bool'),
            (np.ones((9, 9)), {'error': np.ones((2, 2))}, 'error must be a number'),
            (np.ones((9, 9)), {'error': 0}, 'error must be > 0'),
            (np.ones((9, 9)), {'error': 1 * u.nmgy}, 'the image has none'),
        ],
    )
    def test_bad_input(self, image, kwargs, match):
        with pytest.raises(ValueError, match=match):
            PSFModel.fit(image, **kwargs)


class TestStars:
    def check(self, psf, frame):
        _, _, flux, positions = frame
        info = psf.fit_info
        assert_allclose(info['used'], np.arange(13) < 12)
        truth = PSFModel.from_shape(TRUTH)
        assert_allclose(psf.fwhm, truth.fwhm, rtol=0.02)
        assert_allclose(psf.shape_vector[6:], TRUTH[6:], atol=0.02)
        # 1e4 electrons over a sky of 100 in about 20 px: 1.1 % at the faint end.
        ratio = (
            np.asarray(getattr(info['flux'], 'value', info['flux']))[:12] / flux[:12]
        )
        assert abs(np.median(ratio) - 1) < 0.02
        assert np.max(np.abs(ratio - 1)) < 0.06
        assert_allclose(info['x'][:12], positions[:12, 0], atol=0.06)
        assert_allclose(info['y'][:12], positions[:12, 1], atol=0.06)

    def test_frame(self, frame):
        data, positions = frame[:2]
        psf = PSFModel.fit_stars(data, positions, error=10, effective_gain=1)
        self.check(psf, frame)
        assert psf.flux == 1
        assert psf.x_0 == psf.y_0 == 0

    def test_error_is_measured(self, frame):
        data, positions = frame[:2]
        self.check(PSFModel.fit_stars(data, positions, effective_gain=1), frame)

    def test_ccddata_and_table(self, frame):
        data, positions = frame[:2]
        uncertainty = StdDevUncertainty(np.full(data.shape, 10.0))
        mask = np.zeros(data.shape, bool)
        mask[22:24, 15] = True
        ccd = CCDData(data, unit='nmgy', uncertainty=uncertainty, mask=mask)
        for names in (('x_centroid', 'y_centroid'), ('x', 'y')):
            table = Table(positions, names=names)
            psf = PSFModel.fit_stars(ccd, table, effective_gain=1)
            assert psf.fit_info['flux'].unit == u.nmgy
            self.check(psf, frame)

    def test_star_near_the_edge(self, frame):
        data, positions = frame[:2]
        cut = data[14:, 14:]
        moved = positions - 14
        moved[5] = -50, 3
        psf = PSFModel.fit_stars(cut, moved, error=10, effective_gain=1)
        assert 5 not in psf.fit_info['index']
        assert_allclose(psf.fwhm, PSFModel.from_shape(TRUTH).fwhm, rtol=0.02)

    @pytest.mark.parametrize(
        ('positions', 'kwargs', 'match'),
        [
            ([], {}, r'shape \(n, 2\)'),
            ([[1, 2, 3]], {}, r'shape \(n, 2\)'),
            ([[np.nan, 2]], {}, 'must be finite'),
            ([[-99, 2]], {}, 'lie on the image'),
            (Table({'a': [1]}), {}, 'columns x_centroid'),
            ([[20, 20]], {'size': 24}, 'size must be odd'),
            ([[20, 20]], {'model_error': -1}, 'model_error must be'),
            ([[20, 20]], {'effective_gain': 0}, 'effective_gain must be > 0'),
        ],
    )
    def test_bad_input(self, frame, positions, kwargs, match):
        with pytest.raises(ValueError, match=match):
            PSFModel.fit_stars(frame[0], positions, **kwargs)


def test_fits_return_the_class():
    class Mine(PSFModel):
        pass

    assert type(Mine.fit(psf_image())) is Mine
