# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the prior of stars.
"""

import astropy.units as u
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro._arguments import torch_generator
from bliss_astro.priors import StarPrior

stats = pytest.importorskip('scipy.stats')


class TestFlux:
    def test_quantiles_are_those_of_scipy(self):
        prior = StarPrior()
        # papers: scipy's truncpareto has its support from scale to c * scale.
        reference = stats.truncpareto(
            prior.slope, prior.flux_max / prior.flux_min, scale=prior.flux_min
        )
        q = np.array([0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
        assert_allclose(prior.flux_quantile(q), reference.ppf(q), rtol=1e-9)

    def test_density(self):
        prior = StarPrior(slope=1.3, flux_min=2.0, flux_max=50.0)
        flux = np.geomspace(2.0, 50.0, 20001)
        density = np.exp(prior.log_prob_flux(flux))
        assert_allclose(np.trapezoid(density, flux), 1, rtol=1e-6)
        below = prior.flux_quantile(0.3)
        inside = np.geomspace(2.0, below, 20001)
        share = np.trapezoid(np.exp(prior.log_prob_flux(inside)), inside)
        assert_allclose(share, 0.3, rtol=1e-6)
        assert (prior.log_prob_flux([1.999, 50.01]) == -np.inf).all()

    def test_draws_follow_it(self, generator):
        prior = StarPrior(density=0.02)
        _, _, flux, _ = prior.sample_batch(50, (50, 50), generator=generator)
        flux = flux[flux > 0].double().numpy()
        assert flux.min() >= prior.flux_min * (1 - 1e-6)
        assert flux.max() <= prior.flux_max * (1 + 1e-6)
        reference = stats.truncpareto(
            prior.slope, prior.flux_max / prior.flux_min, scale=prior.flux_min
        )
        assert stats.kstest(flux, reference.cdf).pvalue > 0.01


class TestBatch:
    def test_counts_are_poisson(self, generator):
        prior = StarPrior()
        *_, count = prior.sample_batch(4000, (40, 40), generator=generator)
        mean = count.double().mean().item()
        # 5 standard errors of the mean and of the variance of a Poisson(3)
        assert_allclose(mean, 3, atol=5 * np.sqrt(3 / 4000))
        spread = np.sqrt((3 + 2 * 9) / 4000)
        assert_allclose(count.double().var().item(), 3, atol=5 * spread)

    def test_positions_are_uniform_in_the_image(self, generator):
        prior = StarPrior(density=0.02)
        x, y, flux, count = prior.sample_batch(50, (30, 60), generator=generator)
        used = flux > 0
        assert used.sum() == count.sum()
        for value, n in ((x, 60), (y, 30)):
            value = value[used].double().numpy()
            assert stats.kstest((value + 0.5) / n, 'uniform').pvalue > 0.01

    def test_padding(self, generator):
        x, y, flux, count = StarPrior(density=0.002).sample_batch(
            30, (40, 40), generator=generator
        )
        assert x.shape == y.shape == flux.shape == (30, int(count.max()))
        place = torch.arange(x.shape[1])
        assert ((flux > 0) == (place < count[:, None])).all()

    def test_an_empty_sky(self, generator):
        x, _, flux, count = StarPrior(density=0.0).sample_batch(
            3, (9, 9), generator=generator
        )
        assert x.shape == (3, 1)
        assert not flux.any()
        assert not count.any()

    def test_image_by_image(self, generator):
        density = torch.tensor([0.0, 0.01, 0.1])
        floor = torch.tensor([1.0, 10.0, 1000.0])
        _, _, flux, count = StarPrior().sample_batch(
            3, (60, 60), density=density, flux_min=floor, generator=generator
        )
        assert count[0] == 0
        assert count[2] > count[1] > 0
        for k in (1, 2):
            used = flux[k][flux[k] > 0]
            assert used.min() >= floor[k] * (1 - 1e-6)
            assert used.max() <= floor[k] * 1e6 / 622 * (1 + 1e-6)

    def test_largest_count(self, generator):
        *_, count = StarPrior(density=0.1, max_count=8).sample_batch(
            5, (20, 20), generator=generator
        )
        assert (count == 8).all()

    def test_reproducible(self):
        draws = [
            StarPrior().sample_batch(5, (40, 40), generator=torch_generator(seed))
            for seed in (3, 3, 4)
        ]
        for first, second in zip(draws[0], draws[1], strict=True):
            assert torch.equal(first, second)
        assert draws[0][2].shape != draws[2][2].shape or not torch.equal(
            draws[0][2], draws[2][2]
        )


class TestTable:
    def test_brightest_first(self):
        stars = StarPrior(density=0.01).sample((40, 50), rng=2)
        assert len(stars) > 5
        assert stars['flux'].unit == u.electron
        assert (np.diff(stars['flux'].value) <= 0).all()
        assert (stars['x_centroid'] < 49.5).all()
        assert (stars['y_centroid'] < 39.5).all()

    def test_same_seed_same_stars(self):
        prior = StarPrior()
        one, other = prior.sample((99, 99), rng=5), prior.sample((99, 99), rng=5)
        assert (one['flux'] == other['flux']).all()

    def test_none_at_all(self):
        stars = StarPrior(density=0.0).sample((9, 9), rng=1)
        assert len(stars) == 0
        assert stars['flux'].unit == u.electron


class TestGenerator:
    def test_passes_through(self):
        generator = torch.Generator()
        assert torch_generator(generator) is generator

    def test_numpy_generators_move_on(self):
        rng = np.random.default_rng(1)
        first, second = torch_generator(rng), torch_generator(rng)
        assert first.initial_seed() != second.initial_seed()

    def test_none(self):
        assert torch_generator().initial_seed() != torch_generator().initial_seed()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'density': -1e-3}, 'density must be'),
        ({'density': np.inf}, 'density must be'),
        ({'density': np.nan}, 'density must be'),
        ({'flux_min': 0.0}, 'flux_min must be'),
        ({'flux_min': 10.0, 'flux_max': 10.0}, 'flux_min must be'),
        ({'flux_min': np.nan}, 'flux_min must be'),
        ({'slope': 0.0}, 'slope must be'),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        StarPrior(**arguments)
