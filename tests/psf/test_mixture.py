# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the PSF as tensors: profile, mixture, broadening, description.
"""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.priors import SeeingPrior
from bliss_astro.psf import DEFAULT_SHAPE, PSFModel
from bliss_astro.psf._mixture import (
    asinh,
    broaden_shape,
    elliptical_radius_squared,
    fwhm_of_shape,
    mixture_of_shape,
    normalization_of_shape,
    profile_of_shape,
    profile_with_gradient,
    scale_to_fwhm,
)
from bliss_astro.psf._profile import describe_shape, integral
from bliss_astro.simulation._camera import align_bilinear

SHAPES = {
    'default': DEFAULT_SHAPE,
    'sharp': (0.8, 1.7, 0.08, 1.6, 0.02, 2.9, 0.0, 0.0),
    'broad': (2.5, 5.1, 0.06, 4.9, 0.008, 3.5, 0.0, 0.0),
    'inclined': (1.4, 2.9, 0.05, 2.9, 0.01, 3.26, 0.06, -0.08),
}
shapes = pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())


def tensor(shape):
    return torch.tensor(shape, dtype=torch.float64)


def offsets(size=41, *, shift=(0.3, -0.2)):
    step = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.broadcast_tensors(step[None] - shift[0], step[:, None] - shift[1])


@shapes
@pytest.mark.parametrize('radius', [5.0, 18.76, math.inf])
def test_the_same_as_the_model(shape, radius):
    dx, dy = offsets()
    model = PSFModel.from_shape(shape, normalization_radius=radius)
    value = profile_of_shape(tensor(shape), dx, dy, radius=radius)
    assert_allclose(value.numpy(), model(dx.numpy(), dy.numpy()), rtol=1e-10)


@shapes
def test_mixture_is_the_profile(shape):
    vector = tensor(shape)
    height, variance = mixture_of_shape(vector)
    r = torch.linspace(0, 100, 400, dtype=torch.float64)
    dx, dy = 0.8 * r, 0.6 * r
    r2 = elliptical_radius_squared(vector, dx, dy)
    sum_of_gaussians = (height * torch.exp(-r2[:, None] / (2 * variance))).sum(-1)
    exact = profile_of_shape(vector, dx, dy)
    assert_allclose(sum_of_gaussians, exact, atol=1e-6 * exact[0], rtol=0)


@pytest.mark.parametrize(('step', 'error'), [(0.7, 1.2e-4), (1.0, 5e-3)])
@pytest.mark.parametrize('beta', [2.5, 4.0, 4.2, 6.0])
def test_mixture_of_a_power_law_alone(beta, step, error):
    vector = tensor((1.9, 3.7, 0.0, 1.9, 1e6, beta, 0.0, 0.0))
    height, variance = mixture_of_shape(vector, step=step)
    r = torch.linspace(0, 60, 121, dtype=torch.float64)
    value = (height * torch.exp(-(r[:, None] ** 2) / (2 * variance))).sum(-1)
    exact = profile_of_shape(vector, r, torch.zeros_like(r))
    assert (value - exact).abs().max() < error * exact[0]


def test_mixture_over_the_prior(generator):
    vectors = SeeingPrior().sample_batch(200, generator=generator).double()
    height, variance = mixture_of_shape(vectors)
    r = torch.linspace(0, 60, 100, dtype=torch.float64)
    zero = torch.zeros_like(r)
    for k, vector in enumerate(vectors):
        r2 = elliptical_radius_squared(vector, r, zero)
        value = (height[k] * torch.exp(-r2[:, None] / (2 * variance[k]))).sum(-1)
        exact = profile_of_shape(vector, r, zero)
        assert (value - exact).abs().max() < 3e-6 * exact[0]


@shapes
def test_coarse_mixture(shape):
    vector = tensor(shape)
    height, variance = mixture_of_shape(vector, step=1.0)
    assert height.shape == variance.shape
    assert len(height) < len(mixture_of_shape(vector)[0])
    r2 = torch.linspace(0, 40, 100, dtype=torch.float64) ** 2
    e = vector.clone()
    e[6:] = 0
    exact = profile_of_shape(e, r2.sqrt(), torch.zeros_like(r2))
    value = (height * torch.exp(-r2[:, None] / (2 * variance))).sum(-1)
    assert (value - exact).abs().max() < 1e-4 * exact[0]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_power_law_whose_integral_is_a_logarithm(dtype):
    betas = torch.tensor([2.0, 2.001, 1.999, 2 + 2e-7, 1.5], dtype=dtype)
    vectors = torch.tensor(SHAPES['default'], dtype=dtype).repeat(len(betas), 1)
    vectors[:, 5] = betas
    expected = [integral(v, 18.76) for v in vectors.double().numpy()]
    assert_allclose(normalization_of_shape(vectors), expected, rtol=2e-4)


def test_batches():
    both = torch.stack([tensor(SHAPES['default']), tensor(SHAPES['broad'])])
    height, variance = mixture_of_shape(both)
    assert height.shape == variance.shape == (2, 19)
    assert normalization_of_shape(both).shape == (2,)
    assert describe_shape(both[:, None]).shape == (2, 1, 8)
    for k in range(2):
        assert_allclose(height[k], mixture_of_shape(both[k])[0])
        assert_allclose(describe_shape(both)[k], describe_shape(both[k]))


@shapes
def test_gradient_against_numerical_one(shape):
    vector = tensor(shape)
    h = 1e-5
    value, d_x, d_y = profile_with_gradient(vector, *offsets())
    assert_allclose(value, profile_of_shape(vector, *offsets()), rtol=1e-12)

    def at(x, y):
        return profile_of_shape(vector, *offsets(shift=(0.3 + x, -0.2 + y)))

    scale = float(value.max())
    assert_allclose(d_x, (at(h, 0) - at(-h, 0)) / (2 * h), atol=1e-8 * scale)
    assert_allclose(d_y, (at(0, h) - at(0, -h)) / (2 * h), atol=1e-8 * scale)


@pytest.mark.parametrize('which', range(8))
def test_autograd_through_the_shape(which):
    vector = tensor(SHAPES['inclined']).requires_grad_()
    value = profile_of_shape(vector, *offsets(9))[3, 5]
    (slope,) = torch.autograd.grad(value, vector)
    step = torch.zeros(8, dtype=torch.float64)
    step[which] = 1e-6
    with torch.no_grad():
        up = profile_of_shape(vector + step, *offsets(9))[3, 5]
        down = profile_of_shape(vector - step, *offsets(9))[3, 5]
    assert_allclose(slope[which], (up - down) / 2e-6, rtol=1e-5, atol=1e-9)


class TestBroadening:
    @shapes
    def test_each_part_keeps_its_share_of_the_flux(self, shape):
        def shares(vector):
            s1, s2, b, sp, p0, beta = vector[:6]
            parts = [s1**2, b * s2**2, p0 * beta * sp**2 / (beta - 2)]
            total = sum(parts)
            return [float(part / total) for part in parts]

        vector = tensor(shape)
        assert_allclose(shares(broaden_shape(vector, 0.3)), shares(vector), rtol=1e-12)

    @shapes
    def test_moments_grow_by_the_variance(self, shape):
        vector = tensor(shape)
        wide = broaden_shape(vector, 0.25)
        for k in (0, 1, 3):
            assert_allclose(wide[k] ** 2 - vector[k] ** 2, 0.25, rtol=1e-10)
        assert_allclose(wide[5], vector[5])

    def test_a_round_kernel_makes_rounder(self):
        vector = tensor(SHAPES['inclined'])
        wide = broaden_shape(vector, 0.5)
        ratio = wide[6:] / vector[6:]
        assert_allclose(ratio[0], ratio[1])
        # Second moments of an elliptical Gaussian: Q +- e Q, of which the
        # difference stays and the sum grows.
        assert_allclose(wide[6] * wide[0] ** 2, vector[6] * vector[0] ** 2)

    def test_nothing_to_do(self):
        vector = tensor(SHAPES['inclined'])
        assert_allclose(broaden_shape(vector, 0.0), vector)

    def test_a_variance_for_each(self):
        vectors = torch.stack([tensor(DEFAULT_SHAPE)] * 3)
        variance = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
        wide = broaden_shape(vectors, variance)
        for k in range(3):
            assert_allclose(wide[k], broaden_shape(vectors[k], float(variance[k])))

    def test_against_interpolated_images(self):
        """
        Bilinear interpolation at a quarter pixel is such a kernel.

        What remains is of the next order: (variance / sigma^2)^2 / 8 of the
        kurtosis of a two-point kernel, less than 1 % of the peak.
        """
        vector = tensor(DEFAULT_SHAPE)
        images = []
        dithers = torch.tensor([[a, b] for a in (-0.5, 0.5) for b in (-0.5, 0.5)])
        for dither in dithers.double():
            dx, dy = offsets(43, shift=dither.tolist())
            images.append(profile_of_shape(vector, dx, dy))
        aligned = align_bilinear(torch.stack(images), dithers.double()).mean(0)
        expected = profile_of_shape(
            broaden_shape(vector, 0.25), *offsets(41, shift=(0, 0))
        )
        before = profile_of_shape(vector, *offsets(41, shift=(0, 0)))
        error = (aligned - expected).abs().max() / before.max()
        change = (aligned - before).abs().max() / before.max()
        assert error < 0.01
        assert change > 5 * error


class TestDescription:
    def test_finite_and_of_unit_size(self, generator):
        vectors = SeeingPrior().sample_batch(500, generator=generator)
        features = describe_shape(vectors)
        assert features.shape == (500, 8)
        assert torch.isfinite(features).all()
        assert features.abs().max() < 6
        assert (features.std(0) > 0.1).all()

    def test_the_effective_area(self):
        vector = tensor(DEFAULT_SHAPE)
        log_area = describe_shape(vector)[1] + 3.3
        assert_allclose(log_area.exp(), PSFModel().n_eff, rtol=2e-3)

    def test_does_not_care_for_the_parametrisation(self):
        """
        Two descriptions of one Gaussian look the same.
        """
        one = tensor((1.5, 1.5, 0.5, 2.0, 0.0, 3.0, 0.0, 0.0))
        other = tensor((1.5, 4.0, 0.0, 3.0, 0.0, 3.3, 0.0, 0.0))
        assert_allclose(describe_shape(one), describe_shape(other), atol=1e-9)


def test_normalisation_of_an_ellipse_by_sum_of_pixels():
    shape = SHAPES['inclined']
    dx, dy = offsets(81)
    r2 = elliptical_radius_squared(tensor(shape), dx, dy)
    inside = r2 < 18.76**2
    total = profile_of_shape(tensor(shape), dx, dy)[inside].sum()
    assert_allclose(float(total), 1, rtol=2e-4)
    assert np.isfinite(float(normalization_of_shape(tensor(shape), radius=math.inf)))


def test_wings_of_narrow_psfs_are_normal_numbers():
    # Work on subnormal ones takes processors many times as long.
    vector = torch.tensor([0.5, 0.7, 0.1, 0.6, 1e-12, 8.0, 0.1, 0.05])[None, None]
    step = torch.arange(-12.0, 13)
    value, *slopes = profile_with_gradient(vector, step[None], step[:, None])
    plain = profile_of_shape(vector, step[None], step[:, None])
    least = torch.finfo(torch.float32).tiny
    for part in (plain, value, plain**2, *(s for s in slopes)):
        assert not ((part.abs() < least) & (part != 0)).any()
    assert_allclose(value, plain, rtol=1e-5)
    # As in double precision, to what single precision holds of the peak.
    wide = profile_of_shape(
        vector.double(), step.double()[None], step.double()[:, None]
    )
    assert_allclose(plain, wide, atol=1e-6 * float(wide.max()))


def test_asinh():
    value = torch.cat([torch.zeros(1), torch.logspace(-6, 25, 400)])
    value = torch.cat([-value, value])
    expected = torch.asinh(value.double().clamp(-1e18, 1e18))
    assert_allclose(asinh(value), expected, rtol=2e-7, atol=3e-7)
    assert torch.isnan(asinh(torch.tensor(torch.nan)))


def test_fwhm_agrees_with_the_model(generator):
    shapes = SeeingPrior().sample_batch(20, generator=generator).double()
    expected = [PSFModel.from_shape(shape.numpy()).fwhm for shape in shapes]
    # Both are roots found to rounding.
    assert_allclose(fwhm_of_shape(shapes).numpy(), expected, rtol=1e-6)


def test_scaled_profiles_have_the_width_and_keep_their_form(generator):
    shapes = SeeingPrior().sample_batch(50, generator=generator).double()
    target = torch.linspace(1.2, 12, 50).double()
    scaled = scale_to_fwhm(shapes, target)
    assert_allclose(fwhm_of_shape(scaled).numpy(), target, rtol=1e-6)
    # Heights, power and ellipticity have no dimension.
    same = [2, 4, 5, 6, 7]
    assert torch.equal(scaled[:, same], shapes[:, same])
    # Without a truncation, areas grow with the square of the lengths.
    area = [describe_shape(s, radius=float('inf'))[:, 1] for s in (shapes, scaled)]
    factor = torch.log(target / fwhm_of_shape(shapes))
    assert_allclose((area[1] - area[0]).numpy(), 2 * factor, atol=2e-3)
