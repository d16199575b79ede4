# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the PSF model.
"""

import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.table import QTable
from numpy.testing import assert_allclose

from bliss_astro.psf import DEFAULT_SHAPE, SHAPE_NAMES, PSFModel

SHAPES = {
    'default': DEFAULT_SHAPE,
    'elliptical': (1.2, 2.6, 0.08, 2.4, 0.012, 3.1, 0.12, -0.2),
    'steep': (0.9, 2.1, 0.3, 2.0, 0.05, 8.0, -0.3, 0.1),
    'flat wing': (1.0, 2.3, 0.06, 1.6, 0.01, 1.7, 0.0, 0.1),
    'wing of slope 2': (1.0, 2.3, 0.06, 1.6, 0.01, 2.0, 0.05, 0.0),
    'no wing': (1.3, 2.7, 0.05, 3.0, 0.0, 3.0, 0.1, 0.1),
}
shapes = pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())


def grid(size=31):
    y, x = np.mgrid[:size, :size].astype(float)
    return x, y


class TestProfile:
    @shapes
    @pytest.mark.parametrize('radius', [5.0, 18.76])
    def test_flux_within_radius(self, shape, radius):
        psf = PSFModel.from_shape(shape, flux=7, normalization_radius=radius)
        r = np.linspace(0, radius, 20001)
        mid = 0.5 * (r[1:] + r[:-1])
        total = np.sum(psf.radial_profile(mid) * 2 * np.pi * mid) * (r[1] - r[0])
        assert_allclose(total, 7, rtol=1e-7)
        assert_allclose(psf.encircled_flux(radius), 7, rtol=1e-12)

    def test_infinite_radius(self):
        psf = PSFModel(normalization_radius=np.inf)
        assert_allclose(psf.encircled_flux(1e9), 1, rtol=1e-9)
        assert psf.encircled_flux(18.76) < 1

    def test_sum_of_pixels(self):
        # Sampling at pixel centres keeps the integral, as the PSF is well
        # sampled; 1e-4 is the coarse edge of the aperture.
        psf = PSFModel.from_shape(SHAPES['default'], flux=3, x_0=40.3, y_0=39.8)
        x, y = grid(81)
        inside = np.hypot(x - 40.3, y - 39.8) < 18.76
        assert_allclose(psf(x, y)[inside].sum(), 3, rtol=1e-4)

    @pytest.mark.parametrize(('e1', 'e2'), [(0.3, 0.0), (0.0, 0.3), (-0.2, 0.1)])
    def test_moments_have_the_ellipticity(self, e1, e2):
        x, y = grid(61)
        psf = PSFModel(x_0=30, y_0=30, b=0, p0=0, e1=e1, e2=e2, sigma1=2.5)
        image = psf(x, y)
        xx, yy, xy = (
            np.sum(image * m) / image.sum()
            for m in ((x - 30) ** 2, (y - 30) ** 2, (x - 30) * (y - 30))
        )
        assert_allclose((xx - yy) / (xx + yy), e1, atol=1e-6)
        assert_allclose(2 * xy / (xx + yy), e2, atol=1e-6)
        # The ellipse keeps its area.
        assert_allclose(xx * yy - xy**2, 2.5**4, rtol=1e-5)

    @shapes
    def test_fwhm(self, shape):
        psf = PSFModel.from_shape(shape)
        half = psf.radial_profile(psf.fwhm / 2)
        assert_allclose(half, psf.radial_profile(0) / 2, rtol=1e-12)

    @shapes
    def test_n_eff(self, shape):
        x, y = grid(301)
        psf = PSFModel.from_shape(shape, x_0=150.2, y_0=150.4)
        assert_allclose(psf.n_eff, 1 / np.sum(psf(x, y) ** 2), rtol=2e-3)

    def test_known_gaussian(self):
        psf = PSFModel(b=0, p0=0, sigma1=2, normalization_radius=np.inf)
        assert_allclose(psf.fwhm, 2 * 2 * np.sqrt(2 * np.log(2)), rtol=1e-12)
        assert_allclose(psf.n_eff, 4 * np.pi * 4, rtol=1e-9)


class TestDerivatives:
    @shapes
    @pytest.mark.parametrize('radius', [18.76, np.inf])
    def test_against_numerical(self, shape, radius):
        if radius == np.inf and shape[5] <= 2:
            pytest.skip('infinite flux')
        x, y = grid(21)
        psf = PSFModel.from_shape(
            shape, flux=50, x_0=9.7, y_0=10.2, normalization_radius=radius
        )
        values = psf.parameters.copy()
        analytic = psf.fit_deriv(x, y, *values)
        assert len(analytic) == len(psf.param_names)
        for k, name in enumerate(psf.param_names):
            step = 1e-5 * max(abs(values[k]), 0.1)
            up, down = values.copy(), values.copy()
            up[k] += step
            down[k] -= step
            numeric = (psf.evaluate(x, y, *up) - psf.evaluate(x, y, *down)) / (2 * step)
            scale = np.abs(numeric).max()
            assert_allclose(analytic[k], numeric, atol=1e-6 * scale, err_msg=name)

    def test_fitter_uses_them(self):
        from astropy.modeling.fitting import TRFLSQFitter

        x, y = grid(31)
        truth = PSFModel.from_shape(SHAPES['elliptical'], flux=9, x_0=15.3, y_0=14.8)
        start = PSFModel.from_shape(SHAPES['elliptical'], flux=5, x_0=15, y_0=15)
        start.sigma1 = 1.5
        start.e1 = 0.0
        for name in ('sigma1', 'e1'):
            getattr(start, name).fixed = False
        fit = TRFLSQFitter()(start, x, y, truth(x, y))
        assert_allclose(fit.parameters, truth.parameters, rtol=1e-5)
        assert fit.normalization_radius == truth.normalization_radius


class TestConstruction:
    @pytest.mark.parametrize('name', ['sigma1', 'sigma2', 'sigmap', 'beta'])
    @pytest.mark.parametrize('value', [0.0, -1.0, np.nan, np.inf])
    def test_positive(self, name, value):
        with pytest.raises(ValueError, match=f'{name} must be finite and > 0'):
            PSFModel(**{name: value})

    @pytest.mark.parametrize('name', ['b', 'p0'])
    def test_not_negative(self, name):
        PSFModel(**{name: 0.0})
        with pytest.raises(ValueError, match=f'{name} must be finite and >= 0'):
            PSFModel(**{name: -0.1})

    @pytest.mark.parametrize('e', [(1.0, 0.0), (0.8, 0.7), (np.nan, 0.0)])
    def test_ellipticity(self, e):
        with pytest.raises(ValueError, match='below 1'):
            PSFModel(e1=e[0], e2=e[1])

    def test_later_assignment_is_checked(self):
        psf = PSFModel()
        with pytest.raises(ValueError, match='sigma1 must be'):
            psf.sigma1 = -1

    @pytest.mark.parametrize('radius', [0, -3, np.nan, 'wide', None])
    def test_radius(self, radius):
        with pytest.raises(ValueError, match='normalization_radius must be'):
            PSFModel(normalization_radius=radius)

    def test_infinite_flux(self):
        with pytest.raises(ValueError, match='beta must be > 2'):
            PSFModel(beta=2.0, normalization_radius=np.inf)
        psf = PSFModel(beta=2.0)
        with pytest.raises(ValueError, match='beta must be > 2'):
            psf.normalization_radius = np.inf
        assert psf.normalization_radius == 18.76

    def test_shape_vector(self):
        psf = PSFModel.from_shape(SHAPES['elliptical'])
        assert_allclose(psf.shape_vector, SHAPES['elliptical'], rtol=1e-15)
        with pytest.raises(ValueError, match='shape must hold the 8 numbers'):
            PSFModel.from_shape([1, 2, 3])

    def test_copy_and_pickle(self):
        psf = PSFModel(normalization_radius=10, e1=0.1)
        for other in (psf.copy(), pickle.loads(pickle.dumps(psf))):
            assert_allclose(other(1, 2), psf(1, 2), rtol=1e-15)
            assert other.normalization_radius == 10
            assert 'normalization_radius=10' in repr(other)

    def test_shape_is_fixed(self):
        psf = PSFModel()
        assert [n for n in psf.param_names if not psf.fixed[n]] == [
            'flux',
            'x_0',
            'y_0',
        ]
        assert psf.param_names == ('flux', 'x_0', 'y_0', *SHAPE_NAMES)


class TestGalSim:
    @shapes
    def test_same_image(self, shape):
        galsim = pytest.importorskip('galsim')
        psf = PSFModel.from_shape(shape, flux=4, x_0=25, y_0=25)
        image = galsim.Image(51, 51, scale=1.0, dtype=float)
        psf.to_galsim().drawImage(image, method='no_pixel')
        x, y = grid(51)
        ours = psf(x, y)
        assert_allclose(image.array, ours, atol=1e-6 * ours.max())

    def test_pixel_scale(self):
        pytest.importorskip('galsim')
        psf = PSFModel()
        assert_allclose(
            psf.to_galsim(pixel_scale=0.396).flux, psf.to_galsim().flux, rtol=1e-12
        )


class TestPhotutils:
    """
    Stars 8 px apart at least, so that their fluxes are their own.
    """

    positions = np.array([(14.3, 15.2), (41.8, 20.1), (28.4, 44.6)])
    fluxes = np.array([900.0, 2500.0, 4000.0])

    def scene(self, psf, unit=None):
        flux = self.fluxes if unit is None else self.fluxes * unit
        yy, xx = np.mgrid[:60, :60]
        image = 0
        for x, y, f in zip(*self.positions.T, flux, strict=True):
            star = psf.copy()
            star.x_0, star.y_0, star.flux = x, y, f
            image = image + star(xx, yy)
        return image

    def test_make_model_image(self):
        from photutils.datasets import make_model_image

        psf = PSFModel(e1=0.1)
        params = QTable()
        params['x_0'], params['y_0'] = self.positions.T
        params['flux'] = self.fluxes
        image = self.scene(psf)
        made = make_model_image((60, 60), psf, params)
        # Beyond its bounding box, ten FWHM, a star is fainter than 3e-5 of its peak.
        assert_allclose(made, image, atol=3e-5 * image.max())

    def test_make_psf_model_image(self):
        from photutils.psf import make_psf_model_image

        psf = PSFModel()
        image, params = make_psf_model_image(
            (200, 200), psf, 3, flux=(500, 900), min_separation=20, seed=0
        )
        yy, xx = np.mgrid[:200, :200]
        ours = 0
        for row in params:
            psf.x_0, psf.y_0, psf.flux = row['x_0'], row['y_0'], row['flux']
            ours = ours + psf(xx, yy)
        # Beyond its bounding box, ten FWHM, a star is fainter than 3e-5 of its peak.
        assert_allclose(image, ours, atol=5e-5 * ours.max())

    @pytest.mark.parametrize('kind', ['array', 'quantity', 'ccddata'])
    def test_photometry(self, kind):
        from photutils.psf import PSFPhotometry

        unit = None if kind == 'array' else u.nmgy
        psf = PSFModel(e1=0.05, e2=-0.04)
        if unit is not None:
            psf.flux = 1 * unit
        image = self.scene(psf, unit)
        error = np.full(image.shape, 0.1)
        if kind == 'ccddata':
            from astropy.nddata import StdDevUncertainty

            data = CCDData(image.value, unit=unit, uncertainty=StdDevUncertainty(error))
            error = None
        else:
            data, error = image, error if unit is None else error * unit
        init = QTable()
        init['x'], init['y'] = self.positions.T + 0.3
        init['flux'] = self.fluxes * 0.8 * (1 if unit is None else unit)
        photometry = PSFPhotometry(PSFModel(e1=0.05, e2=-0.04), (11, 11))
        result = photometry(data, error=error, init_params=init)
        flux = result['flux_fit']
        if unit is not None:
            assert flux.unit == unit
            flux = flux.value
        # What the neighbours' wings leave in a fit box without a background.
        assert_allclose(flux, self.fluxes, rtol=2e-2)
        assert_allclose(result['x_fit'], self.positions[:, 0], atol=0.02)
        assert_allclose(result['y_fit'], self.positions[:, 1], atol=0.02)

    def test_units_by_hand(self):
        psf = PSFModel(flux=2 * u.nmgy)
        assert psf(0, 0).unit == u.nmgy
        assert_allclose(psf(0, 0).value, PSFModel(flux=2)(0, 0), rtol=1e-14)
        assert psf.encircled_flux(3).unit == u.nmgy
        assert psf.radial_profile(3).unit == u.nmgy
