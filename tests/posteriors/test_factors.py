# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the factors: one checklist for all of them, extremes included.
"""

import functools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.posteriors._factors import (
    CountFactor,
    LogFluxFactor,
    PositionFactor,
    _truncated_cdf,
    _truncated_quantile,
)

N_DRAWS = 2000


def t(*values):
    return torch.tensor(values, dtype=torch.float32)


def position(logits, mean_x, mean_y, scale_x, scale_y, slope):
    parts = (logits, mean_x, mean_y, scale_x, scale_y, slope)
    return PositionFactor(*(t(*part) for part in parts))


POSITIONS = {
    'one component': position([0.0], [0.4], [0.7], [0.1], [0.2], [0.0]),
    'correlated': position([0.0], [0.5], [0.5], [0.2], [0.05], [-0.9]),
    'two components': position(
        [0.0, 1.0], [0.2, 0.8], [0.3, 0.6], [0.05, 0.3], [0.1, 0.2], [0.5, -1.0]
    ),
    'flat': position([0.0], [0.5], [0.5], [2.7], [2.7], [0.0]),
    'very narrow': position([0.0], [0.317], [0.871], [2e-4], [2e-4], [0.0]),
    'narrow and wide': position(
        [2.0, 0.0], [0.3, 0.5], [0.6, 0.5], [2e-3, 0.4], [1e-3, 0.4], [0.4, 0.0]
    ),
    'mean outside': position([0.0], [1.3], [-0.2], [0.1], [0.08], [0.0]),
    'mean far outside': position([0.0], [-0.6], [1.6], [0.1], [0.1], [0.0]),
    'narrow at the edge': position([0.0], [1.001], [0.0], [2e-4], [2e-4], [0.0]),
}


def log_flux(logits, mean, scale, low=0.0, high=12.0):
    parts = (t(*part) for part in (logits, mean, scale))
    return LogFluxFactor(*parts, torch.tensor(low), torch.tensor(high))


FLUXES = {
    'one component': log_flux([0.0], [3.0], [0.5]),
    'two components': log_flux([0.0, 0.5], [1.0, 6.0], [0.4, 1.0]),
    'very narrow': log_flux([0.0], [7.123], [3e-4]),
    'narrow and wide': log_flux([2.0, 0.0], [5.0, 4.0], [1e-3, 2.0]),
    'piled up at the floor': log_flux([0.0], [-0.5], [0.4]),
    'mean far below': log_flux([0.0], [-40.0], [0.2]),
    'mean far above': log_flux([0.0], [60.0], [0.5]),
    'short range': log_flux([0.0, 1.0], [0.3, 0.5], [0.1, 1.0], 0.0, 0.4),
    'very short range': log_flux([0.0], [2.0], [1.0], 0.0, 1e-3),
}

positions = pytest.mark.parametrize('factor', POSITIONS.values(), ids=POSITIONS.keys())
fluxes = pytest.mark.parametrize('factor', FLUXES.values(), ids=FLUXES.keys())


def expanded(factor, *shape):
    """
    The same factor for a batch.
    """
    new = object.__new__(type(factor))
    for name, value in vars(factor).items():
        setattr(new, name, value.expand(*shape, *value.shape))
    if isinstance(factor, LogFluxFactor):
        new.low = factor.low.expand(*shape, 1)
        new.high = factor.high.expand(*shape, 1)
    return new


def cdf_x(factor, x):
    """
    Marginal distribution function of x.
    """
    parts = _truncated_cdf(factor.mean_x, factor.scale_x, 0.0, 1.0)(x[..., None])
    return (factor.log_weights.exp() * parts).sum(-1)


def cdf_y(factor, y, *, n_nodes=32):
    """
    Marginal distribution function of y.

    The mean over x, component by component, is that over points of equal probability.
    """
    total = torch.zeros_like(factor.mean_y)
    for node in range(n_nodes):
        q = torch.full_like(factor.mean_x, (node + 0.5) / n_nodes)
        x = _truncated_quantile(q, factor.mean_x, factor.scale_x, 0.0, 1.0)
        mean = factor.mean_y + factor.slope * (x - factor.mean_x)
        total += _truncated_cdf(mean, factor.scale_y, 0.0, 1.0)(y[..., None])
    return (factor.log_weights.exp() * total).sum(-1) / n_nodes


def knots(low, high, means, scales, n=300):
    """
    A grid that is dense wherever a component is.
    """
    inner = torch.linspace(-9, 9, n, dtype=torch.float64)
    parts = [low + (high - low) * torch.linspace(0, 1, n, dtype=torch.float64)]
    for mean, scale in zip(means, scales, strict=True):
        parts.append((mean + scale * inner).clamp(low, high))
    return torch.cat(parts).sort()[0].float()


def everything():
    yield 'count', CountFactor(t(0.3, -1.0, 0.5, 2.0))
    for name, factor in POSITIONS.items():
        yield f'position: {name}', factor
    for name, factor in FLUXES.items():
        yield f'flux: {name}', factor


@pytest.mark.parametrize(
    'factor',
    [factor for _, factor in everything()],
    ids=[name for name, _ in everything()],
)
class TestEveryFactor:
    def test_shapes(self, factor, generator):
        many = expanded(factor, 5, 3)
        draws = many.sample(generator=generator)
        axes = (2,) if isinstance(factor, PositionFactor) else ()
        assert draws.shape == many.mode().shape == (5, 3, *axes)
        assert many.log_prob(draws).shape == (5, 3)

    def test_density_of_draws_is_finite(self, factor, generator):
        many = expanded(factor, N_DRAWS)
        draws = many.sample(generator=generator)
        assert torch.isfinite(many.log_prob(draws)).all()

    def test_reproducible(self, factor):
        many = expanded(factor, 50)
        first, second = (
            many.sample(generator=torch.Generator().manual_seed(2)) for _ in range(2)
        )
        assert torch.equal(first, second)

    def test_likely_at_its_mode(self, factor, generator):
        many = expanded(factor, N_DRAWS)
        draws = many.sample(generator=generator)
        at_mode = many.log_prob(many.mode())[0]
        assert torch.isfinite(at_mode)
        if not isinstance(factor, CountFactor):
            assert at_mode > many.log_prob(draws).quantile(0.5)


class TestCount:
    logits = t(0.3, -1.0, 0.5, 2.0)

    def test_normalised(self):
        count = torch.arange(4)
        factor = expanded(CountFactor(self.logits), 4)
        assert_allclose(factor.log_prob(count).exp().sum(), 1, rtol=1e-5)
        assert_allclose(factor.probs[0].sum(), 1, rtol=1e-5)

    def test_moments(self):
        factor = CountFactor(self.logits)
        probs = factor.probs.numpy()
        assert_allclose(factor.presence, 1 - probs[0], rtol=1e-5)
        assert_allclose(factor.mean, (probs * np.arange(4)).sum(), rtol=1e-5)

    def test_draws(self, generator):
        factor = CountFactor(self.logits)
        draws = expanded(factor, N_DRAWS).sample(generator=generator)
        share = torch.bincount(draws, minlength=4) / N_DRAWS
        error = (factor.probs * (1 - factor.probs) / N_DRAWS).sqrt()
        assert ((share - factor.probs).abs() < 4 * error).all()

    @pytest.mark.parametrize(
        ('probs', 'threshold', 'expected'),
        [
            ([0.6, 0.3, 0.1], 0.5, 0),
            ([0.4, 0.5, 0.1], 0.5, 1),
            ([0.1, 0.3, 0.6], 0.5, 2),
            ([0.4, 0.3, 0.3], 0.5, 1),
            ([0.6, 0.3, 0.1], 0.3, 1),
            ([0.6, 0.3, 0.1], 0.05, 2),
            ([0.1, 0.3, 0.6], 0.95, 0),
        ],
    )
    def test_mode(self, probs, threshold, expected):
        assert CountFactor(t(*probs).log()).mode(threshold) == expected

    def test_presence_of_the_all_but_impossible(self):
        factor = CountFactor(t(30.0, 0.0, -5.0))
        assert 0 <= factor.presence < 1e-6
        assert torch.isfinite(factor.log_prob(torch.tensor(2)))


@functools.cache
def density_on_grid(factor):
    """
    Density of a position on a grid that is dense where its components are.
    """
    x = knots(0, 1, factor.mean_x, factor.scale_x)
    y = torch.stack([knots(0, 1, factor._mean_y_at(v), factor.scale_y, 200) for v in x])
    many = expanded(factor, *y.shape)
    position = torch.stack([x[:, None].expand_as(y), y], -1)
    density = many.log_prob(position).exp()
    return x.double(), y.double(), density.double()


@positions
class TestPosition:
    def test_normalised(self, factor):
        x, y, density = density_on_grid(factor)
        total = torch.trapezoid(torch.trapezoid(density, y, dim=1), x)
        assert_allclose(total, 1, atol=0.01)

    def test_draws_follow_the_distribution_function(self, factor, generator):
        stats = pytest.importorskip('scipy.stats')
        many = expanded(factor, N_DRAWS)
        x, y = many.sample(generator=generator).T
        for value in (x, y):
            assert (value >= 0).all()
            assert (value <= 1).all()
        assert stats.kstest(cdf_x(many, x).numpy(), 'uniform').pvalue > 0.01

    def test_distribution_function_of_y(self, factor, generator):
        many = expanded(factor, N_DRAWS)
        _, y = many.sample(generator=generator).T
        value = cdf_y(many, y).sort()[0]
        expected = (torch.arange(N_DRAWS) + 0.5) / N_DRAWS
        # 1.9 / sqrt(N) is passed by one set of draws in a thousand; the 32
        # nodes in x may add half of one of theirs.
        assert (value - expected).abs().max() < 1.9 / np.sqrt(N_DRAWS) + 0.5 / 32

    def test_moments_of_draws(self, factor, generator):
        many = expanded(factor, N_DRAWS)
        x, y = many.sample(generator=generator).double().numpy().T
        gx, gy, density = density_on_grid(factor)

        def mean(value):
            inner = torch.trapezoid(density * value, gy, dim=1)
            return float(torch.trapezoid(inner, gx))

        norm = mean(torch.ones_like(gy))
        column = gx[:, None].expand_as(gy)
        for draw, value in ((x, column), (y, gy), (x * y, column * gy)):
            # 4 standard errors, and the rounding of single precision
            tolerance = 4 * draw.std() / np.sqrt(N_DRAWS) + 1e-5
            assert_allclose(draw.mean(), mean(value) / norm, atol=tolerance)

    def test_distribution_function_is_the_integral(self, factor):
        x = knots(0, 1, factor.mean_x, factor.scale_x)
        cdf = cdf_x(expanded(factor, len(x)), x)
        assert_allclose(cdf[0], 0, atol=1e-5)
        assert_allclose(cdf[-1], 1, atol=1e-5)
        assert (cdf.diff() > -1e-5).all()


@fluxes
class TestLogFlux:
    def test_normalised(self, factor):
        low, high = float(factor.low), float(factor.high)
        grid = knots(low, high, factor.mean, factor.scale, 3000)
        density = expanded(factor, len(grid)).log_prob(grid).exp().double()
        assert_allclose(torch.trapezoid(density, grid.double()), 1, atol=0.01)

    def test_draws_follow_the_distribution_function(self, factor, generator):
        stats = pytest.importorskip('scipy.stats')
        many = expanded(factor, N_DRAWS)
        value = many.sample(generator=generator)
        assert (value >= factor.low).all()
        assert (value <= factor.high).all()
        assert stats.kstest(many.cdf(value).numpy(), 'uniform').pvalue > 0.01

    def test_distribution_function_is_the_integral(self, factor):
        low, high = float(factor.low), float(factor.high)
        grid = knots(low, high, factor.mean, factor.scale, 3000)
        many = expanded(factor, len(grid))
        density = many.log_prob(grid).exp().double()
        integral = torch.cumulative_trapezoid(density, grid.double())
        assert_allclose(many.cdf(grid)[1:], integral, atol=0.01)
        assert_allclose(many.cdf(grid)[[0, -1]], [0, 1], atol=1e-4)

    def test_quantiles_invert_it(self, factor):
        if len(factor.mean) > 1:
            pytest.skip('draws of mixtures need two uniform numbers')
        q = torch.linspace(0.01, 0.99, 33)
        many = expanded(factor, 33)
        value = many.quantile_draw(torch.stack([torch.full_like(q, 0.5), q], -1))
        assert_allclose(many.cdf(value), q, atol=2e-3)


def test_gradients_are_finite_in_the_extremes():
    for name, factor in everything():
        if name == 'count':
            continue
        kind = type(factor)
        if kind is PositionFactor:
            names = ('mean_x', 'mean_y', 'scale_x', 'scale_y', 'slope')
            leaves = [getattr(factor, n).clone().requires_grad_() for n in names]
            new = kind(factor.log_weights, *leaves)
            value = new.log_prob(torch.tensor([0.9, 0.2]))
        else:
            leaves = [factor.mean.clone().requires_grad_(), factor.scale.clone()]
            new = kind(factor.log_weights, *leaves, factor.low[0], factor.high[0])
            value = new.log_prob(0.5 * (factor.low + factor.high)[0])
        value.backward()
        for leaf in leaves:
            if leaf.grad is not None:
                assert torch.isfinite(leaf.grad).all(), name


@fluxes
@pytest.mark.parametrize('q', [0.02, 0.16, 0.5, 0.84, 0.98])
def test_quantiles_invert_the_distribution_function(factor, q):
    value = factor.quantile(q)
    step = 1e-5 * (factor.high - factor.low)[..., 0]
    below, above = factor.cdf(value - step), factor.cdf(value + step)
    assert below - 1e-4 <= q <= above + 1e-4


def test_quantiles_of_peaks_far_apart():
    """
    Narrow ones, of little weight, and one of which the range has nothing.
    """
    factor = log_flux(
        [0.0, -3.0, -8.0, -1.0],
        [2.0, 9.0, 0.1, 70.0],
        [0.002, 0.4, 2.0, 0.1],
        0.0,
        11.0,
    )
    q = torch.tensor([1e-4, 0.16, 0.5, 0.84, 0.93, 0.955, 0.98, 0.9999])
    value = factor.quantile(q)
    assert (value.diff() > 0).all()
    assert_allclose(factor.cdf(value.double()), q, atol=3e-4)


def test_quantiles_of_one_component():
    from scipy.stats import truncnorm

    factor = log_flux([0.0], [3.0], [0.5], 2.5, 4.0)
    for q in (0.1, 0.5, 0.95):
        exact = truncnorm.ppf(q, -1.0, 2.0, loc=3.0, scale=0.5)
        assert_allclose(factor.quantile(q).item(), exact, rtol=1e-5)
    both = expanded(factor, 2)
    assert_allclose(
        both.quantile(torch.tensor([0.1, 0.95])),
        [factor.quantile(0.1), factor.quantile(0.95)],
        rtol=1e-6,
    )


@pytest.mark.parametrize('scale', [3e-4, 1e-2, 0.5])
@pytest.mark.parametrize('value', [0.001, 0.5, 5.9, 11.99])
def test_gradient_of_a_narrow_factor_far_away(scale, value):
    """
    A value 40,000 standard deviations off still pulls in the right direction.
    """
    mean = t(6.0).requires_grad_()
    factor = LogFluxFactor(
        t(0.0), mean, t(scale), torch.tensor(0.0), torch.tensor(12.0)
    )
    log_prob = factor.log_prob(torch.tensor(value))
    log_prob.backward()
    assert torch.isfinite(log_prob)
    # Truncation at 12 standard deviations or more moves nothing.
    assert_allclose(mean.grad.item(), (value - 6) / scale**2, rtol=1e-4)


def test_gradient_where_the_mean_is_far_outside():
    mean = t(1.5).requires_grad_()
    factor = PositionFactor(t(0.0), t(0.5), mean, t(0.3), t(2e-4), t(0.0))
    log_prob = factor.log_prob(torch.tensor([0.5, 0.9999]))
    log_prob.backward()
    # An exponential: the derivative of -(1 - y) (mean - 1) / scale^2.
    assert_allclose(mean.grad.item(), -1e-4 / 2e-4**2, rtol=0.2)
