# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the simulator of coadds.
"""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.utils.exceptions import AstropyDeprecationWarning
from numpy.testing import assert_allclose

from bliss_astro.exposures import Exposure
from bliss_astro.priors import CatalogPrior, StarPrior
from bliss_astro.psf import DEFAULT_SHAPE, PSFModel
from bliss_astro.simulation import BadPixelPrior, CoaddSimulator

ORDERS = ('before_alignment', 'after_alignment')


@pytest.fixture(scope='module')
def sky():
    """
    Empty coadds of ten exposures each: 4,000 dithers in all.
    """
    simulator = CoaddSimulator(10, StarPrior(density=0.0), shape=(40, 40), margin=0)
    return simulator.sample_batch(400, generator=torch.Generator().manual_seed(8))


def covariance(data, dy, dx):
    ny, nx = data.shape[1:]
    a = data[:, dy:, max(dx, 0) : nx + min(dx, 0)]
    b = data[:, : ny - dy, max(-dx, 0) : nx - max(dx, 0)]
    return float((a * b).mean())


class TestNoise:
    """
    Dithers scatter the factors by 0.3 of themselves: 4,000 give 0.5 %.
    """

    def test_variance_factor(self, sky):
        residual = (sky.data - 865).double()
        factor = residual.var().item() / 865 * 10
        assert_allclose(factor, 4 / 9, rtol=0.02)

    def test_correlation(self, sky):
        residual = (sky.data - 865).double()
        variance = covariance(residual, 0, 0)
        assert_allclose(covariance(residual, 0, 1) / variance, 0.25, atol=0.01)
        assert_allclose(covariance(residual, 1, 0) / variance, 0.25, atol=0.01)
        for dx in (-1, 1):
            assert_allclose(covariance(residual, 1, dx) / variance, 1 / 16, atol=0.01)
        assert_allclose(covariance(residual, 0, 2) / variance, 0, atol=0.01)

    def test_covariance_sum_is_conserved(self, sky):
        residual = (sky.data - 865).double()
        total = covariance(residual, 0, 0)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            total += 2 * covariance(residual, dy, dx)
        assert_allclose(total * 10 / 865, 1, rtol=0.03)

    def test_every_coadd_states_its_own(self, sky):
        residual = (sky.data - 865) / sky.bkg_error[:, None, None]
        # 1,600 pixels, correlated: some 700 independent ones.
        assert_allclose(residual.std((1, 2)), 1, atol=5 / np.sqrt(2 * 700))
        assert_allclose(residual.var().item(), 1, rtol=0.01)
        lag = (residual[:, :, 1:] * residual[:, :, :-1]).mean((1, 2))
        assert_allclose((lag - sky.correlation[:, 0]).mean(), 0, atol=0.005)

    @pytest.mark.parametrize('order', ORDERS)
    @pytest.mark.parametrize('depth', [1, 5])
    def test_both_orders_of_the_noise(self, order, depth):
        simulator = CoaddSimulator(
            depth,
            StarPrior(density=0.0),
            shape=(40, 40),
            margin=0,
            noise_order=order,
            read_noise=10.0,
        )
        batch = simulator.sample_batch(60, generator=torch.Generator().manual_seed(3))
        residual = (batch.data - 865) / batch.bkg_error[:, None, None]
        assert_allclose(residual.var().item(), 1, rtol=0.03)
        lag = (residual[:, :, 1:] * residual[:, :, :-1]).mean().item()
        if order == 'after_alignment' or depth == 1:
            assert_allclose(lag, 0, atol=0.015)
            assert not batch.correlation.any()
            assert_allclose(batch.bkg_error, np.sqrt(965 / depth), rtol=1e-5)
            assert_allclose(batch.effective_gain, depth, rtol=1e-5)
        else:
            assert_allclose(lag, batch.correlation[:, 0].mean(), atol=0.015)
            assert (batch.effective_gain > depth).all()


def bright(depth, *, n=30, seed=1, **keywords):
    """
    One bright star on most of the images.
    """
    prior = StarPrior(
        density=1 / 400, flux_min=1e6, flux_max=1.01e6, slope=1.0, max_count=1
    )
    simulator = CoaddSimulator(depth, prior, shape=(61, 65), margin=20, **keywords)
    return simulator.sample_batch(n, generator=torch.Generator().manual_seed(seed))


def centroid(image, x, y, *, sigma=2.0):
    # Moments in a Gaussian window that follows the star (as SExtractor's).
    yy, xx = np.indices(image.shape)
    for _ in range(12):
        weight = image * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * sigma**2))
        x += 2 * (weight * (xx - x)).sum() / weight.sum()
        y += 2 * (weight * (yy - y)).sum() / weight.sum()
    return x, y


class TestTruth:
    @pytest.mark.parametrize('depth', [1, 2, 9])
    def test_positions(self, depth):
        batch = bright(depth)
        shift = []
        for k in torch.nonzero(batch.count)[:, 0].tolist():
            x, y = float(batch.x[k, 0]), float(batch.y[k, 0])
            image = (batch.data[k] - 865).double().numpy()
            row, column = np.unravel_index(image.argmax(), image.shape)
            found = centroid(image, float(column), float(row))
            shift.append((found[0] - x, found[1] - y))
        shift = np.array(shift)
        assert len(shift) > 15
        # Photon noise moves such a star by 0.002 px; the weights 1 / (sky +
        # signal) of dithered images by some 0.01 px.
        assert np.abs(shift).max() < 0.03
        assert np.abs(shift.mean(0)).max() < 0.005

    def test_flux_of_a_single_exposure(self):
        batch = bright(1)
        for k in torch.nonzero(batch.count)[:, 0].tolist():
            x, y = float(batch.x[k, 0]), float(batch.y[k, 0])
            yy, xx = np.mgrid[:61, :65]
            near = np.hypot(xx - x, yy - y) < 18.76
            flux = (batch.data[k].double().numpy() - 865)[near].sum()
            # photon noise of star and sky: 1.4e3 of 1e6
            assert_allclose(flux, float(batch.flux[k, 0]), rtol=0.007)

    def test_stars_keep_the_margin(self):
        simulator = CoaddSimulator(2, StarPrior(density=0.05), shape=(40, 50), margin=9)
        batch = simulator.sample_batch(10, generator=torch.Generator().manual_seed(1))
        used = batch.flux > 0
        x_low, x_high, y_low, y_high = batch.region[0]
        assert (x_low, x_high, y_low, y_high) == (8.5, 40.5, 8.5, 30.5)
        assert ((batch.x >= x_low) & (batch.x <= x_high))[used].all()
        assert ((batch.y >= y_low) & (batch.y <= y_high))[used].all()
        assert batch.y[used].max() > 29

    def test_a_negative_margin_puts_some_outside(self):
        simulator = CoaddSimulator(
            1, StarPrior(density=0.05), shape=(16, 16), margin=-8
        )
        batch = simulator.sample_batch(10, generator=torch.Generator().manual_seed(1))
        used = batch.flux > 0
        assert batch.x[used].min() < -4
        assert batch.x[used].max() > 19

    def test_the_effective_psf(self):
        """
        It describes noiseless faint stars on a coadd, to 2 % of the peak.
        """
        prior = StarPrior(
            density=1 / 400, flux_min=1.0, flux_max=1.001, slope=1.0, max_count=1
        )
        simulator = CoaddSimulator(
            25, prior, shape=(61, 61), margin=20, background=1e-6,
            noise_order='after_alignment',
        )  # fmt: skip
        batch = simulator.sample_batch(4, generator=torch.Generator().manual_seed(5))
        assert batch.count.any()
        for k in torch.nonzero(batch.count)[:, 0].tolist():
            psf = PSFModel.from_shape(batch.psf[k].double().numpy())
            plain = PSFModel.from_shape(DEFAULT_SHAPE)
            assert 1.01 < psf.fwhm / plain.fwhm < 1.06


class TestSingleExposure:
    def test_neither_dithered_nor_resampled(self):
        batch = bright(1)
        assert_allclose(batch.psf, torch.tensor([DEFAULT_SHAPE]).expand(30, 8))
        assert not batch.correlation.any()
        assert_allclose(batch.effective_gain, 1)
        assert_allclose(batch.bkg_error, np.sqrt(865), rtol=1e-6)

    def test_the_image_is_the_model_and_its_noise(self):
        batch = bright(1, n=6)
        for k in torch.nonzero(batch.count)[:, 0].tolist():
            star = PSFModel(
                flux=float(batch.flux[k, 0]),
                x_0=float(batch.x[k, 0]),
                y_0=float(batch.y[k, 0]),
            )
            yy, xx = np.mgrid[:61, :65]
            mean = star(xx, yy) + 865
            pull = (batch.data[k].double().numpy() - mean) / np.sqrt(mean)
            assert_allclose(pull.std(), 1, atol=5 / np.sqrt(2 * pull.size))
            assert_allclose(pull.mean(), 0, atol=5 / np.sqrt(pull.size))


class TestReproducible:
    @pytest.mark.parametrize('depth', [1, 3])
    def test_generator(self, depth):
        one, same, other = (bright(depth, n=3, seed=s) for s in (5, 5, 6))
        assert torch.equal(one.data, same.data)
        assert torch.equal(one.x, same.x)
        assert not torch.equal(one.data, other.data)

    def test_rng(self):
        simulator = CoaddSimulator(3, shape=(30, 32), margin=4)
        one, truth = simulator.sample(rng=1)
        same, _ = simulator.sample(rng=1)
        other, _ = simulator.sample(rng=2)
        assert np.array_equal(one.data, same.data)
        assert not np.array_equal(one.data, other.data)
        assert truth.colnames == ['x_centroid', 'y_centroid', 'flux']


class TestExposure:
    def test_all_that_a_measurement_needs(self):
        simulator = CoaddSimulator(4, StarPrior(density=0.01), shape=(40, 44), margin=4)
        coadd, truth = simulator.sample(rng=np.random.default_rng(3))
        assert isinstance(coadd, Exposure)
        assert coadd.data.shape == (40, 44)
        assert coadd.unit == u.electron
        assert 0.1 < coadd.noise_correlation[0] < 0.35
        assert coadd.meta['n_exposures'] == 4
        assert truth['flux'].unit == u.electron
        assert (np.diff(truth['flux'].value) <= 0).all()

    def test_bad_pixels(self):
        simulator = CoaddSimulator(
            1,
            shape=(40, 40),
            margin=4,
            bad_pixels=BadPixelPrior(fraction_of_images=1.0, n_columns=5.0),
        )
        batch = simulator.sample_batch(5, generator=torch.Generator().manual_seed(1))
        assert batch.mask.any()
        assert not batch.mask.all()

    def test_saturated_cores_are_masked(self):
        prior = BadPixelPrior(fraction_of_images=0.0, saturation=(5e3, 5e3))
        batch = bright(1, bad_pixels=prior)
        assert torch.equal(batch.mask, batch.data > 5e3)
        assert batch.mask.any()


class TestStarsAndGalaxies:
    @pytest.mark.parametrize('depth', [1, 6])
    def test_the_light_is_that_of_the_truth(self, depth):
        simulator = CoaddSimulator(
            depth, CatalogPrior.sky(), shape=(200, 200), margin=20, background=100.0
        )
        coadd, truth = simulator.sample(rng=2)
        assert coadd.unit == truth['flux'].unit == u.nmgy
        assert truth.colnames[3] == 'is_galaxy'
        galaxy = truth['is_galaxy']
        assert galaxy.any()
        assert not galaxy.all()
        assert np.isfinite(truth['disk_radius'][galaxy].value).all()
        assert np.isnan(truth['disk_radius'][~galaxy].value).all()
        assert (np.diff(truth['flux'].value) <= 0).all()
        light = (coadd.data - coadd.background).sum(dtype=float)
        # Noise of 40,000 pixels, correlated in a coadd; the wings are cut off.
        error = 200 * coadd.bkg_error * (1.5 if depth > 1 else 1)
        total = truth['flux'].value.sum()
        assert abs(light - total) < 5 * error + 0.1 * total

    def test_units_and_overrides(self):
        simulator = CoaddSimulator(1, CatalogPrior(), unit='electron')
        exposure, truth = simulator.sample(rng=1)
        assert exposure.unit == truth['flux'].unit == u.electron
        with pytest.raises(ValueError, match='are for a StarPrior'):
            simulator.sample_batch(2, density=torch.ones(2))
        in_nmgy, _ = CoaddSimulator(1, unit='nmgy').sample(rng=1)
        in_electrons, _ = CoaddSimulator(1).sample(rng=1)
        ratio = in_electrons.bkg_error / in_nmgy.bkg_error
        assert_allclose(ratio, simulator.electrons_per_nmgy)

    def test_old_name(self):
        with pytest.warns(AstropyDeprecationWarning, match='sample'):
            CoaddSimulator(shape=(20, 20), margin=2).simulate(rng=1)


def test_psf_of_a_model():
    psf = PSFModel(sigma1=1.1, e1=0.05, normalization_radius=12.0)
    simulator = CoaddSimulator(1, psf=psf, shape=(20, 20), margin=2)
    assert_allclose(simulator.psf_shape, psf.shape_vector, rtol=1e-6)
    coadd, _ = simulator.sample(rng=1)
    assert coadd.psf_at(3, 3).normalization_radius == 12.0


def test_overrides_image_by_image():
    simulator = CoaddSimulator(2, shape=(24, 24), margin=2)
    background = torch.tensor([100.0, 400.0])
    batch = simulator.sample_batch(
        2,
        background=background,
        read_noise=torch.tensor([0.0, 3.0]),
        density=torch.zeros(2),
        flux_min=torch.tensor([7.0, 9.0]),
        generator=torch.Generator().manual_seed(1),
    )
    assert_allclose(batch.data.mean((1, 2)), background, rtol=0.05)
    assert batch.flux_min.tolist() == [7.0, 9.0]
    assert len(batch) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'n_exposures': 0}, 'n_exposures must be'),
        ({'n_exposures': 1.5}, 'n_exposures must be'),
        ({'noise_order': 'never'}, 'noise_order must be one of'),
        ({'dither': 1.5}, 'dither must be'),
        ({'dither': np.nan}, 'dither must be'),
        ({'background': 0.0}, 'background must be'),
        ({'background': np.nan}, 'background must be'),
        ({'read_noise': -1.0}, 'read_noise must be'),
        ({'shape': (0, 5)}, 'shape must be'),
        ({'shape': (5, 5, 5)}, 'shape must be'),
        ({'margin': 44}, 'margin must be less than half'),
        ({'psf': [1.0, 2.0]}, 'psf must be'),
        ({'unit': 'mJy'}, 'unit must be'),
        ({'electrons_per_nmgy': 0.0}, 'electrons_per_nmgy must be'),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoaddSimulator(**arguments)


def test_repr():
    assert repr(CoaddSimulator(5)) == (
        'CoaddSimulator(5, shape=(88, 88), background=865, '
        "noise_order='before_alignment')"
    )
