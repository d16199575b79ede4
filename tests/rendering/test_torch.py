# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the torch renderer: moments, batches, stars off the image, GalSim.
"""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.priors import SeeingPrior
from bliss_astro.psf import DEFAULT_SHAPE, PSFModel
from bliss_astro.psf._mixture import profile_of_shape
from bliss_astro.rendering import GalSimRenderer, TorchRenderer, render_stars
from bliss_astro.rendering import _batches as module


def one_star(shape, x, y, flux=1.0, size=(61, 61), **keywords):
    vector = torch.tensor([shape], dtype=torch.float64)
    star = (torch.tensor([[v]], dtype=torch.float64) for v in (x, y, flux))
    return render_stars(vector, *star, size=size, **keywords)[0]


def moments(image):
    y, x = np.indices(image.shape)
    total = image.sum()
    mx, my = (image * x).sum() / total, (image * y).sum() / total
    xx = (image * (x - mx) ** 2).sum() / total
    yy = (image * (y - my) ** 2).sum() / total
    xy = (image * (x - mx) * (y - my)).sum() / total
    return mx, my, xx, yy, xy


@pytest.mark.parametrize(
    ('e1', 'e2'), [(0, 0), (0.1, 0), (0, 0.1), (-0.05, 0.12), (0.3, -0.3)]
)
def test_moments_of_a_gaussian(e1, e2):
    """
    Centre, area and ellipticity of the image are those of the numbers.
    """
    sigma = 2.0
    shape = (sigma, 4.0, 0.0, 3.0, 0.0, 3.0, e1, e2)
    image = one_star(shape, 30.2, 29.6, 5.0, radius=math.inf).numpy()
    mx, my, xx, yy, xy = moments(image)
    assert_allclose(image.sum(), 5, rtol=1e-5)
    assert_allclose((mx, my), (30.2, 29.6), atol=1e-4)
    # The distortion is (Qxx - Qyy)/(Qxx + Qyy), and det Q stays sigma^4.
    assert_allclose((xx - yy) / (xx + yy), e1, atol=1e-4)
    assert_allclose(2 * xy / (xx + yy), e2, atol=1e-4)
    assert_allclose(xx * yy - xy**2, sigma**4, rtol=1e-3)


@pytest.mark.parametrize('tolerance', [1e-4, 1e-6])
def test_within_its_tolerance_over_the_prior(generator, tolerance):
    shapes = SeeingPrior().sample_batch(25, generator=generator).double()
    x = 15 + torch.rand(25, 1, generator=generator).double()
    y = 14 + torch.rand(25, 1, generator=generator).double()
    one = torch.ones_like(x)
    images = render_stars(shapes, x, y, one, size=(30, 31), tolerance=tolerance)
    dx = torch.arange(31.0)[None, None] - x[..., None]
    dy = torch.arange(30.0)[None, :, None] - y[..., None]
    exact = profile_of_shape(shapes[:, None, None], dx, dy)
    peak = exact.amax((1, 2), keepdim=True)
    assert ((images - exact).abs() / peak).max() < max(tolerance, 1e-5)


def test_against_galsim_over_the_prior(generator):
    """
    The target of the package: 1e-4 of the peak, and 1e-4 in flux.
    """
    pytest.importorskip('galsim')
    for shape in SeeingPrior().sample_batch(6, generator=generator):
        psf = PSFModel.from_shape(shape.double().numpy())
        star = ([25.4], [24.3], [1e4], (51, 50))
        reference = GalSimRenderer().render(psf, *star)
        image = TorchRenderer().render(psf, *star)
        assert_allclose(image, reference, atol=1e-4 * reference.max(), rtol=0)
        assert_allclose(image.sum(), reference.sum(), rtol=1e-4)


def test_batched_is_single(generator):
    shapes = SeeingPrior().sample_batch(5, generator=generator).double()
    unit = torch.rand(3, 5, 4, generator=generator).double()
    x, y, flux = 20 * unit[0], 18 * unit[1], 100 * unit[2]
    flux[2, 3] = 0
    batch = render_stars(shapes, x, y, flux, size=(18, 20))
    assert batch.shape == (5, 18, 20)
    for k in range(5):
        # The order of the series is set by the most inclined of a batch.
        single = render_stars(
            shapes[k : k + 1],
            x[k : k + 1],
            y[k : k + 1],
            flux[k : k + 1],
            size=(18, 20),
        )
        assert_allclose(batch[k], single[0], atol=2e-6 * float(batch[k].max()))


def test_pieces_do_not_matter(generator, monkeypatch):
    shapes = SeeingPrior().sample_batch(4, generator=generator)
    unit = torch.rand(3, 4, 6, generator=generator)
    stars = (20 * unit[0], 20 * unit[1], unit[2])
    whole = render_stars(shapes, *stars, size=(20, 20))
    monkeypatch.setattr(module, '_CACHE_ELEMENTS', 1)
    pieces = render_stars(shapes, *stars, size=(20, 20))
    assert_allclose(pieces, whole, rtol=1e-5, atol=1e-7)


def test_linear_in_flux_and_order_of_stars_is_free():
    shape = torch.tensor([DEFAULT_SHAPE], dtype=torch.float64)
    x = torch.tensor([[3.0, 9.5]], dtype=torch.float64)
    y = torch.tensor([[4.2, 7.7]], dtype=torch.float64)
    flux = torch.tensor([[10.0, -3.0]], dtype=torch.float64)
    both = render_stars(shape, x, y, flux, size=(12, 14))[0]
    turned = render_stars(shape, x.flip(1), y.flip(1), flux.flip(1), size=(12, 14))[0]
    parts = one_star(DEFAULT_SHAPE, 3.0, 4.2, 10.0, (12, 14)) + one_star(
        DEFAULT_SHAPE, 9.5, 7.7, -3.0, (12, 14)
    )
    assert_allclose(both, turned, atol=1e-12)
    assert_allclose(both, parts, atol=1e-12)


@pytest.mark.parametrize(('x', 'y'), [(-7.3, 5.0), (50.2, -12.0), (4.0, 90.0)])
def test_stars_off_the_image(x, y):
    """
    The image is a window on an endless sky: only the window moves.
    """
    size = (24, 30)
    image = one_star(DEFAULT_SHAPE, x, y, 1e4, size)
    dx = torch.arange(30.0, dtype=torch.float64)[None] - x
    dy = torch.arange(24.0, dtype=torch.float64)[:, None] - y
    exact = profile_of_shape(torch.tensor(DEFAULT_SHAPE, dtype=torch.float64), dx, dy)
    peak = 1e4 / (2 * math.pi * DEFAULT_SHAPE[0] ** 2)
    assert image.max() > 0
    assert_allclose(image, 1e4 * exact, atol=1e-6 * peak)


def test_a_shift_by_whole_pixels():
    image = one_star(DEFAULT_SHAPE, 20.3, 18.8)
    moved = one_star(DEFAULT_SHAPE, 23.3, 17.8)
    assert_allclose(moved[:-1, 3:], image[1:, :-3], atol=1e-9)


@pytest.mark.parametrize(('e1', 'e2'), [(0.0, 0.6), (0.2, -0.65)])
def test_strong_inclination_in_single_precision(e1, e2):
    """
    Series of more than 20 terms, whose factorials are no integers of torch's.
    """
    shape = torch.tensor([[*DEFAULT_SHAPE[:6], e1, e2]])
    place = (torch.tensor([[v]]) for v in (20.3, 19.8, 1.0))
    image = render_stars(shape, *place, size=(41, 41))[0]
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing='ij')
    truth = profile_of_shape(shape, x - 20.3, y - 19.8)
    assert module._series_order(abs(e2) / math.sqrt(1 - e1**2), 1e-6) > 20
    assert_allclose(image, truth, atol=1e-4 * float(truth.max()))


def test_symmetry_of_an_inclined_star():
    shape = (*DEFAULT_SHAPE[:6], 0.0, 0.1)
    image = one_star(shape, 30, 30)
    assert_allclose(image, image.T, atol=1e-9)
    assert_allclose(image, image.flip(0, 1), atol=1e-9)
    mirrored = one_star((*DEFAULT_SHAPE[:6], 0.0, -0.1), 30, 30)
    assert_allclose(image, mirrored.flip(0), atol=1e-8)


def test_gradients_flow_to_the_stars():
    shape = torch.tensor([DEFAULT_SHAPE])
    x = torch.tensor([[6.0]], requires_grad=True)
    flux = torch.tensor([[100.0]], requires_grad=True)
    image = render_stars(shape, x, torch.tensor([[6.0]]), flux, size=(13, 13))
    image[0, 6, 7].backward()
    assert x.grad.item() > 0
    assert_allclose(flux.grad.item(), image[0, 6, 7].item() / 100, rtol=1e-5)


def test_unused_places():
    """
    They leave no light and cost nothing, but have gradients.
    """
    shape = torch.tensor([DEFAULT_SHAPE, DEFAULT_SHAPE])
    x = torch.tensor([[3.0, 9.0, 5.0], [1.0, 2.0, 8.0]])
    flux = torch.tensor([[0.0, 40.0, 0.0], [0.0, 20.0, 70.0]])
    first, *_, count = module._without_unused(x, x, flux)
    assert first.tolist() == [[9.0, 3.0, 5.0], [2.0, 8.0, 1.0]]
    assert count.tolist() == [1, 2]
    images = render_stars(shape, x, x, flux, size=(13, 13))
    own = x[:1, 1:2], x[:1, 1:2], flux[:1, 1:2]
    alone = render_stars(shape[:1], *own, size=(13, 13))
    assert_allclose(images[0], alone[0], atol=1e-6)
    assert not render_stars(shape, x, x, 0 * flux, size=(13, 13)).any()
    flux.requires_grad_()
    render_stars(shape, x, x, flux, size=(13, 13)).sum().backward()
    assert (flux.grad > 0.5).all()


def test_images_with_other_numbers_of_stars():
    """
    Images go together that have about as many, and are what each is alone.
    """
    number = torch.tensor([0, 90, 3, 70, 30, 1])
    assert [(index.tolist(), n) for index, n in module._alike(number, 100)] == [
        ([1], 90),
        ([3], 70),
        ([4], 30),
        ([2, 5, 0], 3),
    ]
    generator = torch.Generator().manual_seed(1)
    x, y, flux = 20 * torch.rand(3, 6, 90, generator=generator)
    flux *= torch.arange(90) < number[:, None]
    shape = torch.tensor([DEFAULT_SHAPE] * 6)
    images = render_stars(shape, x, y, flux, size=(20, 18))
    for k, image in enumerate(images):
        own = shape[:1], x[k : k + 1], y[k : k + 1], flux[k : k + 1]
        alone = render_stars(*own, size=(20, 18))[0]
        assert_allclose(image, alone, atol=1e-5 * max(1, image.max()))


def test_the_class():
    renderer = TorchRenderer(dtype=torch.float64)
    psf = PSFModel(normalization_radius=10.0)
    image = renderer.render(psf, 5.5, 4, 7.0, (9, 11))
    assert isinstance(image, np.ndarray)
    assert image.shape == (9, 11)
    model = PSFModel(flux=7, x_0=5.5, y_0=4, normalization_radius=10.0)
    yy, xx = np.mgrid[:9, :11]
    assert_allclose(image, model(xx, yy), atol=1e-6)
    assert "TorchRenderer(device='cpu', dtype=torch.float64" in repr(renderer)
    assert not renderer.render(psf, [], [], [], (4, 5)).any()
