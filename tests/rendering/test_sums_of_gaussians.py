# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of stars and galaxies rendered with any sum of Gaussians as their PSF.
"""

import torch
from numpy.testing import assert_allclose

from bliss_astro.psf import DEFAULT_SHAPE, GaussianPSF
from bliss_astro.rendering import TorchRenderer, render_galaxies, render_stars

SHAPE = torch.tensor([(*DEFAULT_SHAPE[:6], 0.05, -0.08), DEFAULT_SHAPE]).double()
SIZE = (37, 41)
GALAXY = (0.6, 0.4, 0.5, 0.8, 3.0, 2.0)


def sources():
    x, y = torch.tensor([[20.3, 8.0], [18.0, 31.2]]).double().unbind(0)
    flux = torch.tensor([[100.0, 40.0], [70.0, 0.0]]).double()
    return x.expand(2, 2), y.expand(2, 2), flux


def lopsided():
    parts = torch.tensor(
        [[0.9, 0.1], [2.2, 6.0], [0.0, 0.8], [0.1, -0.3], [0.05, -0.2], [-0.1, 0.1]]
    )
    return GaussianPSF(*parts.double()).normalized()


def test_stars_of_an_expansion():
    psf = GaussianPSF.from_shape(SHAPE)
    drawn = render_stars(GaussianPSF(*psf.components), *sources(), size=SIZE)
    expected = render_stars(SHAPE, *sources(), size=SIZE)
    assert_allclose(drawn, expected, atol=1e-8)
    assert_allclose(render_stars(psf, *sources(), size=SIZE), expected)


def test_stars_of_a_lopsided_psf():
    psf, (x, y, flux) = lopsided()[None].expand(2), sources()
    dx = torch.arange(SIZE[1]) - x[..., None, None]
    dy = torch.arange(SIZE[0])[:, None] - y[..., None, None]
    expected = (flux[..., None, None] * lopsided()(dx, dy)).sum(1)
    drawn = render_stars(psf, x, y, flux, size=SIZE)
    assert_allclose(drawn, expected, atol=1e-5 * float(expected.max()))


def test_galaxies_of_an_expansion():
    psf, galaxy = GaussianPSF.from_shape(SHAPE), torch.tensor(GALAXY).double()
    galaxy = galaxy.expand(2, 2, 6)
    expected = render_galaxies(SHAPE, *sources(), galaxy, size=SIZE)
    drawn = render_galaxies(GaussianPSF(*psf.components), *sources(), galaxy, size=SIZE)
    # Periods and stamps follow a width that is measured otherwise.
    assert_allclose(drawn, expected, atol=5e-4 * float(expected.max()))


def test_a_tiny_galaxy_is_the_lopsided_star():
    x, y, flux = (v[:1, :1] for v in sources())
    galaxy = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.01, 0.01]).double().expand(1, 1, 6)
    psf = lopsided()[None]
    drawn = render_galaxies(psf, x, y, flux, galaxy, size=SIZE)
    star = render_stars(psf, x, y, flux, size=SIZE)
    assert_allclose(drawn, star, atol=1e-3 * float(star.max()))


def test_renderer_of_one_field():
    psf, (x, y, flux) = lopsided(), (v[0].numpy() for v in sources())
    image = TorchRenderer().render(psf, x, y, flux, SIZE)
    expected = render_stars(psf[None], *(v[:1] for v in sources()), size=SIZE)
    assert_allclose(image, expected[0], rtol=1e-4, atol=1e-5)
    image = TorchRenderer().render(psf, x, y, flux, SIZE, galaxy=[GALAXY] * 2)
    assert 0.9 * flux.sum() < image.sum() < flux.sum()
