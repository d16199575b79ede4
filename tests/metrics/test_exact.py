# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the posterior of one star at most, by integrals that are known otherwise.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, stats

from bliss_astro.metrics import ExactStarPosterior, cramer_rao_bound
from bliss_astro.priors import StarPrior

SKY = 100.0
NOISE = 10.0


def gaussian(dx, dy, sigma=1.2):
    return np.exp(-(dx**2 + dy**2) / 2 / sigma**2) / (2 * np.pi * sigma**2)


def star(flux, x, y, shape):
    rows, columns = np.indices(shape)
    return flux * gaussian(columns - x, rows - y)


def noisy(mean, rng):
    # As the simulator: the variance of a pixel is its mean.
    return mean + np.sqrt(mean) * rng.normal(size=mean.shape)


@pytest.fixture
def prior():
    return StarPrior(density=0.004, flux_min=100.0, flux_max=1e5)


class TestKnownLimits:
    def test_flux_alone(self, prior):
        # In a tiny region and with constant noise, the likelihood is a Gaussian of
        # the flux and one integral is left.
        rng = np.random.default_rng(3)
        shape, place = (11, 11), (5.2, 4.9)
        data = SKY + star(150.0, *place, shape) + NOISE * rng.normal(size=shape)
        half = 1e-3
        region = (place[0] - half, place[0] + half, place[1] - half, place[1] + half)
        posterior = ExactStarPosterior(
            data,
            gaussian,
            prior=prior,
            background=SKY,
            bkg_error=NOISE,
            effective_gain=np.inf,
            region=region,
        )
        profile = star(1.0, *place, shape)
        best = (profile * (data - SKY)).sum() / (profile**2).sum()
        error = NOISE / np.sqrt((profile**2).sum())

        def density(flux):
            peak = np.exp(-0.5 * ((flux - best) / error) ** 2)
            return peak * np.exp(prior.log_prob_flux(flux))

        evidence, _ = integrate.quad(density, 100, 100 + 20 * error, epsrel=1e-10)
        expected = np.log(evidence) + 0.5 * (best / error) ** 2
        # The star moves by 1e-3 px within the region.
        assert_allclose(posterior.log_evidence_ratio, expected, atol=1e-4)
        middle, _ = integrate.quad(density, 100, posterior.flux, epsrel=1e-10)
        assert_allclose(middle / evidence, 0.5, atol=2e-3)

    def test_bright_star(self, prior):
        # Far above the noise the posterior is the Gaussian of the Fisher matrix.
        # The prior's slope and the next order both enter as 1 / SNR^2, here 5e-4.
        shape, place, flux = (21, 21), (10.3, 9.8), 2000.0
        mean = star(flux, *place, shape)
        region = (8.5, 12.5, 7.5, 11.5)
        posterior = ExactStarPosterior(
            SKY + mean,
            gaussian,
            prior=prior,
            background=SKY,
            bkg_error=NOISE,
            effective_gain=np.inf,
            region=region,
        )
        bound = cramer_rao_bound(
            gaussian,
            flux,
            bkg_error=NOISE,
            position=(place[0] - 10, place[1] - 10),
            shape=shape,
        )
        assert flux / bound['flux_err'][0] > 40
        assert_allclose(posterior.flux_err, bound['flux_err'][0], rtol=0.01)
        assert_allclose(posterior.x_err, bound['x_err'][0], rtol=0.01)
        assert_allclose(posterior.y_err, bound['y_err'][0], rtol=0.01)
        assert_allclose(posterior.x_centroid, place[0], atol=0.01 * bound['x_err'][0])
        assert_allclose(posterior.y_centroid, place[1], atol=0.01 * bound['y_err'][0])
        assert_allclose(posterior.flux, flux, atol=0.1 * bound['flux_err'][0])
        volume = np.sqrt(np.linalg.det(2 * np.pi * bound['covariance'][0]))
        expected = (
            0.5 * (mean**2).sum() / NOISE**2
            + np.log(volume)
            + prior.log_prob_flux(flux)
            - np.log(16.0)
        )
        assert_allclose(posterior.log_evidence_ratio, expected, atol=0.02)
        assert posterior.probability == pytest.approx(1)

    @pytest.mark.parametrize('flux', [0.0, 250.0, 700.0])
    def test_dense_grid(self, prior, flux):
        # The same integral on one even grid in all three dimensions, term by term.
        rng = np.random.default_rng(int(flux) + 5)
        shape = (9, 9)
        data = noisy(SKY + star(flux, 4.4, 3.7, shape), rng)
        region = (2.5, 5.5, 2.5, 5.5)
        posterior = ExactStarPosterior(
            data, gaussian, prior=prior, background=SKY, bkg_error=NOISE, region=region
        )
        x = y = 2.5 + 0.125 * (np.arange(24) + 0.5)
        # Beyond 2000 the likelihood is nil.
        step = np.log(2000 / 100) / 200
        value = 100 * np.exp(step * (np.arange(200) + 0.5))
        grid = np.empty((24, 24, 200))
        for i in range(24):
            for j in range(24):
                mean = SKY + value[:, None, None] * star(1.0, x[i], y[j], shape)
                ratio = (data - mean) ** 2 / mean - (data - SKY) ** 2 / SKY
                grid[i, j] = -0.5 * (ratio + np.log(mean / SKY)).sum((1, 2))
        weight = np.exp(grid + prior.log_prob_flux(value)) * value * step / 576
        evidence = weight.sum()
        assert_allclose(posterior.log_evidence_ratio, np.log(evidence), atol=5e-3)
        odds = 0.004 * 9 * evidence
        assert_allclose(posterior.probability, odds / (1 + odds), rtol=6e-3)
        weight /= evidence
        cdf = weight.sum((0, 1)).cumsum()
        edges = 100 * np.exp(step * np.arange(1, 201))
        expected = np.interp([0.15865525, 0.5, 0.84134475], cdf, edges)
        half = 0.5 * (expected[2] - expected[0])
        assert_allclose(posterior.flux, expected[1], atol=0.02 * half)
        assert_allclose(posterior.flux_err, half, rtol=0.02)
        mean_x = weight.sum((1, 2)) @ x
        spread = np.sqrt(weight.sum((1, 2)) @ (x - mean_x) ** 2)
        assert_allclose(posterior.x_centroid, mean_x, atol=0.02 * spread)
        assert_allclose(posterior.x_err, spread, rtol=0.02)
        left = weight[:12].sum() * odds / (1 + odds)
        assert_allclose(
            posterior.probability_within((2.5, 4.0, 2.5, 5.5)), left, atol=5e-3
        )


class TestCalibration:
    def test_on_draws_of_the_prior(self):
        # Of an exact posterior: the mean probability is the share of stars, and the
        # truth is any quantile of the flux with the same probability.
        prior = StarPrior(density=0.1, flux_min=60.0, flux_max=400.0)
        rng = np.random.default_rng(11)
        shape, region, n = (8, 8), (1.5, 4.5, 2.5, 5.5), 25
        expected = 0.1 * 9
        there = rng.uniform(size=n) < expected / (1 + expected)
        probability, ranks = np.empty(n), []
        for k in range(n):
            x, y = rng.uniform(1.5, 4.5), rng.uniform(2.5, 5.5)
            flux = prior.flux_quantile(rng.uniform())
            posterior = ExactStarPosterior(
                noisy(SKY + there[k] * star(flux, x, y, shape), rng),
                gaussian,
                prior=prior,
                background=SKY,
                bkg_error=NOISE,
                region=region,
            )
            probability[k] = posterior.probability
            if there[k]:
                levels = np.linspace(0.001, 0.999, 999)
                values = posterior.flux_quantile(levels)
                ranks.append(np.interp(flux, values, levels))
        variance = (probability * (1 - probability)).sum()
        assert variance > 1.3  # uncertain enough to tell
        assert abs(there.sum() - probability.sum()) < 3 * np.sqrt(variance)
        # Those that are unsure are right about that: the Brier score is what it
        # should be. Its scatter is at most half a unit for each uncertain image.
        brier = ((there - probability) ** 2).sum()
        assert abs(brier - variance) < 3 * 0.5 * np.sqrt(variance)
        assert stats.kstest(ranks, 'uniform').pvalue > 1e-3


class TestOptions:
    def make(self, prior, **keywords):
        rng = np.random.default_rng(2)
        data = noisy(SKY + star(500.0, 5.1, 6.3, (12, 12)), rng)
        keywords = {'background': SKY, 'bkg_error': NOISE, **keywords}
        return ExactStarPosterior(
            keywords.pop('data', data), gaussian, prior=prior, **keywords
        )

    def test_whole_image_by_default(self, prior):
        whole = self.make(prior)
        named = self.make(prior, region=(-0.5, 11.5, -0.5, 11.5))
        assert whole.probability == named.probability
        total = whole.probability_within((-1, 12, -1, 12))
        assert_allclose(total, whole.probability, rtol=1e-12)
        # A circle that is wide enough, and half of the star's own position.
        assert_allclose(whole.probability_near(5, 6, radius=20), total, rtol=1e-12)
        width = 0.5 * (whole.x_err + whole.y_err)
        place = whole.x_centroid, whole.y_centroid
        half = whole.probability_near(*place, radius=1.177 * width)
        # A normal distribution holds half within that; cells are 0.4 widths.
        assert_allclose(half, 0.5 * total, atol=0.06)

    def test_density(self, prior):
        # The odds are those of the prior times the evidence.
        faint = SKY + star(180.0, 5.1, 6.3, (12, 12))
        one = self.make(prior, data=faint, region=(4, 6, 5, 7))
        other = StarPrior(density=4e-7, flux_min=100.0, flux_max=1e5)
        two = self.make(other, data=faint, region=(4, 6, 5, 7))
        assert_allclose(one.log_evidence_ratio, two.log_evidence_ratio)
        odds = [p.probability / (1 - p.probability) for p in (one, two)]
        assert_allclose(odds[0] / odds[1], 1e4, rtol=1e-3)

    def test_masked_pixels_tell_nothing(self, prior):
        rng = np.random.default_rng(2)
        data = noisy(SKY + star(500.0, 5.1, 6.3, (12, 12)), rng)
        mask = np.zeros((12, 12), dtype=bool)
        mask[:, 9:] = True
        spoilt = np.where(mask, np.nan, data)
        masked = self.make(prior, data=spoilt, mask=mask, region=(4, 7, 5, 8))
        cut = self.make(prior, data=data[:, :9], region=(4, 7, 5, 8))
        assert_allclose(masked.flux, cut.flux, rtol=1e-12)
        assert_allclose(masked.probability, cut.probability, rtol=1e-12)

    def test_maps_as_numbers(self, prior):
        maps = self.make(
            prior,
            background=np.full((12, 12), SKY),
            bkg_error=np.full((12, 12), NOISE),
        )
        assert maps.flux == self.make(prior).flux

    def test_brighter_than_the_prior(self):
        prior = StarPrior(density=0.004, flux_min=100.0, flux_max=150.0)
        posterior = self.make(prior)
        assert 100 < posterior.flux < 150
        assert np.isfinite(posterior.log_evidence_ratio)

    @pytest.mark.parametrize(
        ('keywords', 'match'),
        [
            ({'data': np.zeros(5)}, 'data must be two-dimensional'),
            ({'background': np.zeros((3, 3))}, 'background must be'),
            ({'bkg_error': 0.0}, 'bkg_error positive'),
            ({'effective_gain': 0.0}, 'effective_gain must be positive'),
            ({'region': (3, 2, 0, 5)}, 'region must be'),
            ({'mask': np.ones((12, 12), dtype=bool)}, 'mask must leave'),
            ({'data': np.full((12, 12), np.nan)}, 'must be finite'),
        ],
    )
    def test_bad_input(self, prior, keywords, match):
        with pytest.raises(ValueError, match=match):
            self.make(prior, **keywords)

    def test_bad_density(self):
        with pytest.raises(ValueError, match='positive density'):
            self.make(StarPrior(density=0.0, flux_min=100.0, flux_max=1e5))

    def test_bad_quantile(self, prior):
        posterior = self.make(prior)
        with pytest.raises(ValueError, match='q must be between'):
            posterior.flux_quantile(1.5)
