# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the distributions of shapes and of the numbers that they are over.
"""

import math

import pytest
import torch
from scipy.stats import kstest, multivariate_normal

from bliss_astro.posteriors import shape_to_vector, vector_to_shape
from bliss_astro.posteriors._shape_layers import (
    MixtureFactor,
    ellipticity_to_vector,
    vector_to_ellipticity,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def draw_shapes(n, generator):
    unit = torch.rand(n, 6, generator=generator)
    low = torch.tensor([0.01, 0.0, 0.05, 0.05, 0.3, 0.2])
    high = torch.tensor([0.99, math.pi - 1e-3, 0.98, 0.98, 30.0, 20.0])
    return low + (high - low) * unit


class TestVectors:
    def test_shapes_there_and_back(self, generator):
        shape = draw_shapes(500, generator)
        back = vector_to_shape(shape_to_vector(shape))
        torch.testing.assert_close(back, shape, rtol=2e-4, atol=2e-4)

    def test_angle_has_no_seam(self):
        shape = torch.tensor([[0.5, 1e-4, 0.5, 0.5, 3.0, 2.0]] * 2)
        shape[1, 1] = math.pi - 1e-4
        one, other = shape_to_vector(shape)
        assert float((one - other).abs().max()) < 1e-3

    def test_ends_are_finite(self):
        shape = torch.tensor([[0.0, 0.3, 0.0, 0.0, 0.0, 0.0], [1, 3, 1, 1, 1e6, 1e6]])
        vector = shape_to_vector(shape)
        assert torch.isfinite(vector).all()
        assert torch.isfinite(vector_to_shape(1e3 * vector)).all()

    def test_ellipticities_there_and_back(self, generator):
        angle = 6.3 * torch.rand(300, generator=generator)
        size = 0.98 * torch.rand(300, generator=generator)
        e1, e2 = size * torch.cos(angle), size * torch.sin(angle)
        vector = ellipticity_to_vector(e1, e2)
        # The vector's length is - ln q, the distortion (1 - q^2) / (1 + q^2).
        q = torch.exp(-vector.norm(dim=-1))
        torch.testing.assert_close((1 - q**2) / (1 + q**2), size, atol=1e-5, rtol=1e-4)
        back = vector_to_ellipticity(vector)
        torch.testing.assert_close(back[:, 0], e1, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(back[:, 1], e2, atol=1e-5, rtol=1e-4)

    def test_round_is_zero(self):
        zero = torch.zeros(3)
        assert torch.equal(ellipticity_to_vector(zero, zero), torch.zeros(3, 2))


class TestMixtureFactor:
    @pytest.fixture
    def factor(self, generator):
        raw = torch.randn(4, MixtureFactor.n_raw(3, 2), generator=generator)
        return MixtureFactor.from_raw(
            raw, 3, mean=torch.tensor([0.5, -1.0, 2.0]), log_scale=-0.7
        )

    def test_density_is_that_of_scipy(self, factor, generator):
        value = torch.randn(4, 3, generator=generator)
        got = factor.log_prob(value)
        for k in range(4):
            total = 0.0
            for m in range(2):
                precision = factor.factor[k, m].T @ factor.factor[k, m]
                normal = multivariate_normal(
                    factor.mean[k, m].double().numpy(),
                    torch.linalg.inv(precision.double()).numpy(),
                )
                weight = float(factor.log_weights[k, m].exp())
                total += weight * normal.pdf(value[k].double().numpy())
            assert float(got[k]) == pytest.approx(math.log(total), abs=1e-4)

    def test_draws_follow_the_density(self, factor, generator):
        """
        Whitened by its own component, a draw is a standard normal vector.
        """
        n = 4000
        one = MixtureFactor.from_raw(
            torch.randn(MixtureFactor.n_raw(3, 1), generator=generator).expand(n, -1), 3
        )
        drawn = one.sample(generator=generator)
        apart = (drawn - one.mean[:, 0])[..., None]
        unit = (one.factor[:, 0] @ apart)[..., 0]
        for k in range(3):
            assert kstest(unit[:, k].numpy(), 'norm').pvalue > 1e-3
        correlation = torch.corrcoef(unit.T) - torch.eye(3)
        assert float(correlation.abs().max()) < 4 / math.sqrt(n)

    def test_components_are_drawn_by_their_weights(self, generator):
        n = 5000
        factor = MixtureFactor(
            torch.log(torch.tensor([0.3, 0.7])).expand(n, 2),
            torch.tensor([[-50.0], [50.0]]).expand(n, 2, 1),
            torch.ones(n, 2, 1, 1),
        )
        share = float((factor.sample(generator=generator) > 0).float().mean())
        assert abs(share - 0.7) < 4 * math.sqrt(0.21 / n)

    def test_scale_and_mean_are_units(self, generator):
        """
        A change of units moves draws and density as it should.
        """
        raw = torch.randn(5, MixtureFactor.n_raw(2, 3), generator=generator)
        mean, log_scale = torch.tensor([3.0, -2.0]), torch.tensor([-1.0, 0.4])
        plain = MixtureFactor.from_raw(raw, 2)
        moved = MixtureFactor.from_raw(raw, 2, mean=mean, log_scale=log_scale)
        value = torch.randn(5, 2, generator=generator)
        other = mean + log_scale.exp() * value
        torch.testing.assert_close(
            moved.log_prob(other), plain.log_prob(value) - log_scale.sum()
        )
        q = torch.rand(5, 3, generator=generator)
        torch.testing.assert_close(
            moved.quantile_draw(q), mean + log_scale.exp() * plain.quantile_draw(q)
        )

    def test_extreme_outputs_stay_finite(self):
        for size in (-1e4, 1e4):
            raw = torch.full((1, MixtureFactor.n_raw(2, 2)), size)
            factor = MixtureFactor.from_raw(raw, 2)
            assert torch.isfinite(factor.mean).all()
            assert torch.isfinite(factor.factor).all()
