# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the optimal SNR and of the Cramer-Rao bounds.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.models import Gaussian2D
from numpy.testing import assert_allclose
from photutils.psf import CircularGaussianPSF

from bliss_astro.metrics import cramer_rao_bound, optimal_snr

# Field 94-1-12, r band: sigma1, sigma2, b, sigmap, p0, beta.
SHAPE = (1.48996, 2.99404, 0.049229, 2.89229, 0.010495, 3.26380)
GAIN = 987.31  # electrons per nmgy
SKY = 865.0  # electrons


def sdss_psf(radius):
    """
    SDSS's analytic PSF with unit flux within a radius, written out independently.
    """
    s1, s2, b, sp, p0, beta = SHAPE
    edge = np.asarray(radius**2)
    power = 1 - (1 + edge / (beta * sp**2)) ** (1 - beta / 2)
    total = (
        2 * np.pi * s1**2 * (1 - np.exp(-edge / 2 / s1**2))
        + 2 * np.pi * b * s2**2 * (1 - np.exp(-edge / 2 / s2**2))
        + 2 * np.pi * p0 * beta * sp**2 / (beta - 2) * power
    )

    def psf(dx, dy):
        r2 = dx**2 + dy**2
        profile = (
            np.exp(-r2 / 2 / s1**2)
            + b * np.exp(-r2 / 2 / s2**2)
            + p0 * (1 + r2 / (beta * sp**2)) ** (-beta / 2)
        )
        return profile / total

    return psf


def gaussian(dx, dy, sigma=1.5):
    return np.exp(-(dx**2 + dy**2) / 2 / sigma**2) / (2 * np.pi * sigma**2)


class TestSNR:
    @pytest.mark.parametrize(('mag', 'expected'), [(20, 45.64), (23, 3.390)])
    def test_numbers_of_the_coadd_paper(self, mag, expected):
        flux = GAIN * 10 ** (0.4 * (22.5 - mag))
        kwargs = {'bkg_error': np.sqrt(SKY), 'effective_gain': 1.0, 'shape': (101, 101)}
        snr = optimal_snr(sdss_psf(18.76), flux, **kwargs)
        assert_allclose(snr, expected, rtol=2e-4)

    def test_sum_of_a_stamp_as_norm(self):
        # With unit sum over 25 x 25 px it gives the numbers of the papers' model.
        psf = sdss_psf(18.76)
        y, x = np.mgrid[-12:13, -12:13]
        total = psf(x, y).sum()
        flux = GAIN * 10 ** (0.4 * (22.5 - np.array([20, 23])))
        snr = optimal_snr(
            lambda dx, dy: psf(dx, dy) / total,
            flux,
            bkg_error=np.sqrt(SKY),
            effective_gain=1.0,
        )
        assert_allclose(snr, [45.9, 3.41], rtol=6e-4)
        stack = optimal_snr(
            psf, 25 * flux, bkg_error=np.sqrt(25 * SKY), effective_gain=1.0
        )
        one = optimal_snr(psf, flux, bkg_error=np.sqrt(SKY), effective_gain=1.0)
        assert_allclose(stack, 5 * one)

    def test_psf_model(self):
        psf_module = pytest.importorskip('bliss_astro.psf')
        flux = GAIN * 10 ** (0.4 * (22.5 - np.array([20, 23])))
        psf = psf_module.PSFModel(flux=7.0, x_0=3.0)  # replaced by ours
        snr = optimal_snr(psf, flux, bkg_error=np.sqrt(SKY), effective_gain=1.0)
        assert_allclose(snr, [45.64, 3.390], rtol=2e-4)
        assert psf.flux == 7.0

    def test_units(self):
        expected = optimal_snr(
            gaussian, 10.0 * GAIN, bkg_error=np.sqrt(SKY), effective_gain=1.0
        )
        nmgy = u.def_unit('nmgy_')
        snr = optimal_snr(
            gaussian,
            10.0 * nmgy,
            bkg_error=np.sqrt(SKY) / GAIN * nmgy,
            effective_gain=GAIN * u.electron / nmgy,
        )
        assert_allclose(snr, expected)
        assert optimal_snr(gaussian, 0.0, bkg_error=1.0) == 0


def simulate_fits(flux, bkg, gain, *, n, n_iter=6, include_variance):
    """
    Maximum-likelihood (flux, x, y) of n simulated stars, by Fisher scoring.

    The log likelihood is that of Gaussian pixels whose variance depends on the source;
    without ``include_variance`` the variance is held at its truth.
    """
    rng = np.random.default_rng(42)
    y, x = (g.ravel() for g in np.mgrid[-7:8, -7:8].astype(float))
    sigma2 = 1.5**2

    def model(theta):
        dx, dy = x - theta[:, 1:2], y - theta[:, 2:3]
        p = np.exp(-(dx**2 + dy**2) / 2 / sigma2) / (2 * np.pi * sigma2)
        s = theta[:, :1] * p
        return s, np.stack([p, s * dx / sigma2, s * dy / sigma2], axis=-1)

    truth = np.array([[flux, 0.2, -0.1]])
    signal, _ = model(truth)
    v_true = bkg**2 + signal / gain
    data = signal + rng.normal(size=(n, len(x))) * np.sqrt(v_true)
    theta = np.repeat(truth, n, axis=0)
    for _ in range(n_iter):
        s, ds = model(theta)
        v = bkg**2 + s / gain if include_variance else v_true
        r = data - s
        score = np.einsum('np,npi->ni', r / v, ds)
        fisher = np.einsum('npi,npj->nij', ds / np.sqrt(v)[..., None] ** 2, ds)
        if include_variance:
            dv = ds / gain
            score += 0.5 * np.einsum('np,npi->ni', (r**2 / v - 1) / v, dv)
            fisher += 0.5 * np.einsum('npi,npj->nij', dv / v[..., None] ** 2, dv)
        theta += np.linalg.solve(fisher, score[..., None])[..., 0]
    return theta


class TestBound:
    @pytest.mark.parametrize(
        ('flux', 'bkg', 'gain', 'include'),
        [(3000.0, 10.0, 1.0, False), (400.0, 1.0, 0.3, True)],
    )
    def test_against_maximum_likelihood(self, flux, bkg, gain, include):
        n = 1500
        theta = simulate_fits(flux, bkg, gain, n=n, include_variance=include)
        bound = cramer_rao_bound(
            gaussian,
            flux,
            bkg_error=bkg,
            effective_gain=gain,
            position=(0.2, -0.1),
            shape=(15, 15),
            variance_information=include,
        )
        expected = [bound[f'{name}_err'][0] for name in ('flux', 'x', 'y')]
        # 4 sigma of a standard deviation, plus 1 % for the fits' own second order.
        assert_allclose(theta.std(axis=0), expected, rtol=4 / np.sqrt(2 * n) + 0.01)

    def test_analytic_gaussian(self):
        sigma, bkg, flux = 2.0, 3.0, 500.0
        bound = cramer_rao_bound(
            CircularGaussianPSF(fwhm=sigma * np.sqrt(8 * np.log(2))),
            flux,
            bkg_error=bkg,
            position=(0.3, -0.2),
        )
        assert_allclose(bound['flux_err'], bkg * sigma * np.sqrt(4 * np.pi), rtol=1e-5)
        x_err = bkg * np.sqrt(8 * np.pi) * sigma**2 / flux
        assert_allclose([bound['x_err'], bound['y_err']], x_err, rtol=1e-5)
        assert np.isnan(bound['background_err'])
        assert bound.meta['parameters'] == ['flux', 'x', 'y']
        assert_allclose(np.sqrt(bound['covariance'][0, 1, 1]), bound['x_err'])

    def test_free_parameters_only_add_error(self):
        args = {'bkg_error': 10.0, 'effective_gain': 1.0, 'position': (0.3, 0.4)}
        known = cramer_rao_bound(gaussian, 900.0, **args, free_position=False)
        free = cramer_rao_bound(gaussian, 900.0, **args)
        more = cramer_rao_bound(gaussian, 900.0, **args, free_background=True)
        assert known['flux_err'] <= free['flux_err'] < more['flux_err']
        assert more['background_err'] > 10 / 51
        snr = optimal_snr(gaussian, 900.0, **args)
        assert_allclose(snr, 900 / known['flux_err'])

    def test_many_fluxes_and_units(self):
        flux = np.array([10.0, 100.0, 1000.0])
        bound = cramer_rao_bound(gaussian, flux * u.nJy, bkg_error=1 * u.nJy)
        assert bound['flux_err'].unit == u.nJy
        assert len(bound) == 3
        assert bound['covariance'].shape == (3, 3, 3)
        assert_allclose(bound['x_err'][0], 10 * bound['x_err'][1])
        snr = optimal_snr(gaussian, flux[np.newaxis] * u.nJy, bkg_error=1 * u.nJy)
        assert snr.shape == (1, 3)

    def test_zero_flux(self):
        bound = cramer_rao_bound(gaussian, 0.0, bkg_error=1.0, effective_gain=1.0)
        assert np.isinf(bound['x_err'])
        assert_allclose(bound['flux_err'], 1.5 * np.sqrt(4 * np.pi), rtol=1e-6)

    @pytest.mark.parametrize('include', [False, True])
    def test_correlated_noise_against_dense_covariance(self, include):
        n, flux, bkg, gain, rho = 11, 300.0, 2.0, 0.5, (0.25, 0.15)
        y, x = np.mgrid[-5:6, -5:6].astype(float)

        def line(r):
            return np.eye(n) + r * (np.eye(n, k=1) + np.eye(n, k=-1))

        correlation = np.kron(line(rho[1]), line(rho[0]))

        def moments(theta):
            s = theta[0] * gaussian(x - theta[1], y - theta[2])
            sd = np.sqrt(bkg**2 + s / gain).ravel()
            return s.ravel(), sd[:, np.newaxis] * correlation * sd

        theta, steps = np.array([flux, 0.1, 0.3]), np.diag([1e-2, 1e-4, 1e-4])
        _, c = moments(theta)
        inverse = np.linalg.inv(c)
        fisher = np.zeros((3, 3))
        slopes = []
        for step in steps:
            (m1, c1), (m0, c0) = moments(theta + step), moments(theta - step)
            slopes.append(((m1 - m0) / step.sum() / 2, (c1 - c0) / step.sum() / 2))
        for i, (mi, ci) in enumerate(slopes):
            for j, (mj, cj) in enumerate(slopes):
                fisher[i, j] = mi @ inverse @ mj
                if include:
                    fisher[i, j] += 0.5 * np.trace(inverse @ ci @ inverse @ cj)
        bound = cramer_rao_bound(
            gaussian,
            flux,
            bkg_error=bkg,
            effective_gain=gain,
            position=(0.1, 0.3),
            shape=(n, n),
            noise_correlation=rho,
            variance_information=include,
        )
        assert_allclose(
            bound['covariance'][0], np.linalg.inv(fisher), rtol=1e-4, atol=1e-9
        )

    def test_maps_and_mask(self):
        mask = np.zeros((51, 51), dtype=bool)
        mask[:, 24:27] = True
        noisy = np.where(mask, 1e9, 2.0)
        args = {'effective_gain': np.full((51, 51), 2.0)}
        masked = cramer_rao_bound(gaussian, 50.0, bkg_error=2.0, mask=mask, **args)
        mapped = cramer_rao_bound(gaussian, 50.0, bkg_error=noisy, **args)
        clean = cramer_rao_bound(gaussian, 50.0, bkg_error=2.0, **args)
        assert_allclose(masked['flux_err'], mapped['flux_err'], rtol=1e-6)
        assert masked['flux_err'] > 1.5 * clean['flux_err']

    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            ({'bkg_error': 0.0}, 'bkg_error must be positive'),
            ({'bkg_error': np.ones((3, 4))}, 'bkg_error must be a number or of shape'),
            ({'effective_gain': -1.0}, 'effective_gain must be positive'),
            ({'noise_correlation': (0.5, 0)}, 'noise_correlation must be two numbers'),
            ({'shape': (1, 5)}, 'shape must be two integers'),
            (
                {'noise_correlation': (0.2, 0), 'mask': np.ones((51, 51), bool)},
                'mask cannot be combined',
            ),
        ],
    )
    def test_errors(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            cramer_rao_bound(gaussian, 1.0, **{'bkg_error': 1.0, **kwargs})

    def test_other_errors(self):
        with pytest.raises(ValueError, match='flux must be between 0 and inf'):
            cramer_rao_bound(gaussian, -1.0, bkg_error=1.0)
        with pytest.raises(TypeError, match='psf must be a model'):
            cramer_rao_bound(Gaussian2D(), 1.0, bkg_error=1.0)
        with pytest.raises(
            u.UnitConversionError, match=r'bkg_error has the unit Jy, but .* none'
        ):
            cramer_rao_bound(gaussian, 1.0, bkg_error=1.0 * u.Jy)
        with pytest.raises(u.UnitConversionError, match='electrons per unit of flux'):
            cramer_rao_bound(
                gaussian, 1.0 * u.Jy, bkg_error=1 * u.Jy, effective_gain=3 * u.m
            )
