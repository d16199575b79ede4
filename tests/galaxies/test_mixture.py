# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of sums of Gaussians, the decoder that makes them, and their drawing.
"""

import math

import numpy as np
import pytest
import torch

from bliss_astro.galaxies import GalaxyMixture
from bliss_astro.galaxies._mixture import draw_stamps
from bliss_astro.psf import PSFModel
from bliss_astro.psf._mixture import profile_of_shape
from bliss_astro.rendering import adaptive_moments


def inclined(sigma, ratio, angle):
    """
    Covariance of an ellipse of semi-major width sigma.
    """
    mean, half = 0.5 * sigma**2 * (1 + ratio**2), 0.5 * sigma**2 * (1 - ratio**2)
    cos2, sin2 = math.cos(2 * angle), math.sin(2 * angle)
    return [mean + half * cos2, half * sin2, mean - half * cos2]


@pytest.fixture
def two():
    """
    Give one galaxy of two Gaussians.
    """
    covariance = torch.tensor([inclined(1.5, 0.5, 0.4), inclined(4.0, 0.3, 0.4)])
    return GalaxyMixture(torch.tensor([0.4, 0.6]), covariance)


class TestMixture:
    def test_points_look_like_the_psf(self, psf):
        point = GalaxyMixture(torch.ones(8, 1), torch.zeros(8, 1, 3))
        x = torch.full((8,), 20.3)
        image = point.convolved(psf).image(x, x, size=(41, 43))
        dx = torch.arange(43) - 20.3
        dy = torch.arange(41)[:, None] - 20.3
        wide = psf[:, None, None]
        expected = profile_of_shape(wide, dx, dy)
        # The power law as 17 Gaussians: 1e-6 of the peak, then float32.
        peak = expected.amax((1, 2))
        assert float(((image - expected).abs().amax((1, 2)) / peak).max()) < 1e-5

    def test_agrees_with_galsim(self, two, psf):
        galsim = pytest.importorskip('galsim')
        parts = [
            galsim.Gaussian(sigma=s * math.sqrt(q), flux=f).shear(
                q=q, beta=0.4 * galsim.radians
            )
            for s, q, f in ((1.5, 0.5, 0.4), (4.0, 0.3, 0.6))
        ]
        model = PSFModel.from_shape(psf[0].double().numpy()).to_galsim()
        seen = galsim.Convolve([galsim.Add(parts), model])
        # On a wide grid, so that the wings do not come back.
        wide = galsim.ImageD(galsim.BoundsI(-100, 140, -100, 140))
        center = galsim.PositionD(20.0, 19.5)
        seen.drawImage(image=wide, method='no_pixel', center=center, scale=1.0)
        expected = wide[galsim.BoundsI(0, 40, 0, 40)].array
        x, y = torch.tensor(20.0), torch.tensor(19.5)
        image = two.convolved(psf[0]).image(x, y, size=(41, 41)).numpy()
        # GalSim's own transform is good to some 1e-4.
        assert np.abs(image - expected).max() < 5e-4 * expected.max()

    def test_flux(self, two, psf):
        seen = two.convolved(psf)
        assert seen.weight.shape == (8, 38)
        # All of the power law's flux, also that beyond the normalisation radius.
        assert float(seen.weight.sum(-1).min()) > 1
        assert float(seen.weight.sum(-1).max()) < 1.1

    def test_moments_of_one_gaussian(self):
        covariance = torch.tensor([inclined(3.0, 0.6, 0.5)])
        e1, e2, size = GalaxyMixture(torch.ones(1), covariance).adaptive_moments()
        distortion = (1 - 0.36) / (1 + 0.36)
        assert float(e1) == pytest.approx(distortion * math.cos(1.0), abs=1e-4)
        assert float(e2) == pytest.approx(distortion * math.sin(1.0), abs=1e-4)
        assert float(size) == pytest.approx(3 * math.sqrt(0.6), rel=1e-4)

    def test_moments_agree_with_images(self, two, psf):
        galsim = pytest.importorskip('galsim')
        e1, e2, size = two.convolved(psf).adaptive_moments()
        centre = torch.full((8,), 50.0)
        images = two.convolved(psf).image(centre, centre, size=(101, 101))
        for k, image in enumerate(images.double().numpy()):
            moments = galsim.hsm.FindAdaptiveMom(galsim.Image(image, scale=1.0))
            assert float(e1[k]) == pytest.approx(moments.observed_shape.e1, abs=2e-3)
            assert float(e2[k]) == pytest.approx(moments.observed_shape.e2, abs=2e-3)
            assert float(size[k]) == pytest.approx(moments.moments_sigma, rel=2e-3)

    def test_moments_of_stars(self, psf):
        point = GalaxyMixture(torch.ones(8, 1), torch.full((8, 1, 3), 0.0))
        found = point.convolved(psf).adaptive_moments()
        # The same PSFs by the other implementation: a galaxy of no size.
        speck = torch.tensor([0.5, 0.0, 1.0, 1.0, 1e-3, 1e-3]).expand(8, 6)
        expected = adaptive_moments(psf, speck)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=5e-3)

    def test_scaled(self, two):
        big = two.scaled(2.0)
        assert torch.allclose(big.covariance, 4 * two.covariance)
        for a, b, factor in zip(
            big.adaptive_moments(), two.adaptive_moments(), (1, 1, 2), strict=True
        ):
            assert torch.allclose(a, factor * b, rtol=1e-4)


class TestDecoder:
    def test_is_a_galaxy(self, tiny, generator):
        latent = 3 * torch.randn(500, 5, generator=generator)
        mixture = tiny.decode(latent)
        assert mixture.weight.shape == (500, 4)
        assert mixture.covariance.shape == (500, 4, 3)
        assert bool((mixture.weight > 0).all())
        assert torch.allclose(mixture.weight.sum(-1), torch.ones(500))
        xx, xy, yy = mixture.covariance.double().unbind(-1)
        assert bool(((xx > 0) & (yy > 0)).all())
        assert bool((xx * yy - xy**2 > 0).all())

    def test_turns_with_the_latent(self, tiny, generator):
        latent = torch.randn(50, 5, generator=generator)
        turn = 0.7
        cos2, sin2 = math.cos(2 * turn), math.sin(2 * turn)
        turned = latent.clone()
        turned[:, 0] = cos2 * latent[:, 0] - sin2 * latent[:, 1]
        turned[:, 1] = sin2 * latent[:, 0] + cos2 * latent[:, 1]
        before, after = tiny.decode(latent), tiny.decode(turned)
        assert torch.allclose(before.weight, after.weight, atol=1e-5)

        def matrix(m):
            xx, xy, yy = m.covariance.unbind(-1)
            return torch.stack([xx, xy, xy, yy], -1).unflatten(-1, (2, 2))

        rotation = torch.tensor(
            [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
        )
        expected = rotation @ matrix(before) @ rotation.T
        scale = expected.abs().amax((-2, -1), keepdim=True)
        assert float(((matrix(after) - expected) / scale).abs().max()) < 1e-4

    def test_round_at_zero(self, tiny):
        latent = torch.zeros(5)
        mixture = tiny.decode(latent)
        xx, xy, yy = mixture.covariance.unbind(-1)
        assert torch.allclose(xx, yy)
        assert float(xy.abs().max()) == 0

    def test_wild_latents_stay_finite(self, tiny):
        mixture = tiny.decode(torch.tensor([[1e4] * 5, [-1e4] * 5]))
        assert bool(torch.isfinite(mixture.covariance).all())
        assert bool(torch.isfinite(mixture.weight).all())


class TestDrawing:
    def test_agrees_with_the_exact_image(self, bundled, psf):
        latent = bundled.sample(8, rng=4)
        mixture = bundled.decode(latent)
        # On wide stamps, so that no light comes back.
        x, middle = torch.linspace(98.0, 102.0, 8), slice(80, 121)
        fast = draw_stamps(psf, mixture, x, 200 - x, (201, 201))
        fast = fast[:, 0, middle, middle]
        exact = mixture.convolved(psf).image(x - 80, 120 - x, size=(41, 41))
        peak = exact.amax((1, 2))
        assert float(((fast - exact).abs().amax((1, 2)) / peak).max()) < 5e-3

    def test_has_gradients(self, tiny, psf):
        latent = torch.zeros(8, 5, requires_grad=True)
        x = torch.full((8,), 12.0)
        image = draw_stamps(psf, tiny.decode(latent + 0.3), x, x, (25, 25))
        (image**2).sum().backward()
        assert bool(torch.isfinite(latent.grad).all())
        assert bool((latent.grad != 0).any(1).all())
