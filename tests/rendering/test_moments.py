# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the adaptive moments of galaxies against GalSim's on pixels.
"""

import galsim
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import integrate, special

from bliss_astro.priors import GammaShapes, SeeingPrior
from bliss_astro.psf import DEFAULT_SHAPE, PSFModel
from bliss_astro.rendering import TorchRenderer, adaptive_moments
from bliss_astro.rendering import _moments as module
from bliss_astro.units import SDSS_PIXEL_SCALE

ROUND = torch.tensor(DEFAULT_SHAPE)
SHARP = ROUND * torch.tensor([0.7, 0.7, 1.0, 0.7, 1.0, 1.0, 1.0, 1.0])
BROAD = ROUND * torch.tensor([1.6, 1.6, 1.0, 1.6, 1.0, 1.0, 1.0, 1.0])


def with_ellipticity(shape, e1, e2):
    return torch.cat([shape[:6], torch.tensor([e1, e2])])


PSFS = {
    'round': ROUND,
    'sharp': SHARP,
    'broad': BROAD,
    'elongated': with_ellipticity(ROUND, 0.12, -0.08),
    'elongated sharp': with_ellipticity(SHARP, -0.05, 0.15),
}
GALAXIES = {
    'disk': [1.0, 0.4, 0.5, 0.5, 3.0, 1.0],
    'round disk': [1.0, 0.4, 1.0, 0.5, 3.0, 1.0],
    'thin large disk': [1.0, 2.2, 0.1, 0.5, 15.0, 1.0],
    'small disk': [1.0, 1.2, 0.4, 0.5, 0.5, 0.5],
    'bulge': [0.0, 2.8, 0.6, 0.4, 3.0, 3.0],
    'large bulge': [0.0, 1.0, 0.6, 0.3, 3.0, 15.0],
    'small bulge': [0.0, 1.0, 0.6, 0.5, 3.0, 0.5],
    'both': [0.6, 1.7, 0.4, 0.8, 6.0, 2.0],
    'tiny bulge in a large disk': [0.7, 0.3, 0.3, 0.9, 8.0, 0.5],
}


def measure(psf, galaxy, *, side=121):
    """
    HSM on the noiseless image of one galaxy, which is GalSim's to 1e-5 of the moments.
    """
    model = PSFModel.from_shape(psf.double().numpy())
    centre = [side // 2 + 0.3], [side // 2 - 0.2]
    renderer = TorchRenderer(dtype=torch.float64)
    image = renderer.render(model, *centre, [1e4], (side, side), galaxy=[galaxy])
    found = galsim.hsm.FindAdaptiveMom(galsim.Image(image))
    return found.observed_shape.e1, found.observed_shape.e2, found.moments_sigma


@pytest.mark.parametrize('kind', PSFS)
@pytest.mark.parametrize('name', GALAXIES)
def test_against_galsim(kind, name):
    galaxy = GALAXIES[name]
    e1, e2, size = measure(PSFS[kind], galaxy)
    ours = adaptive_moments(PSFS[kind], torch.tensor(galaxy))
    assert_allclose([float(v) for v in ours[:2]], [e1, e2], atol=0.002)
    assert_allclose(float(ours[2]), size, rtol=0.005)


def test_galaxies_of_the_prior(generator):
    psf = SeeingPrior().sample_batch(60, generator=generator)
    galaxy = GammaShapes().sample_batch(torch.zeros(60), generator=generator)
    galaxy[:, 4:] /= SDSS_PIXEL_SCALE
    e1, e2, size = adaptive_moments(psf, galaxy)
    # Large galaxies do not fit on the image, and sums over pixels are no integrals
    # where a PSF is narrower than they.
    usual = torch.nonzero((size < 10) & (psf[:, 0] > 1))[:25, 0]
    assert len(usual) == 25
    expected = np.array([measure(psf[k], galaxy[k].tolist()) for k in usual])
    error = torch.stack([e1, e2], -1)[usual].numpy() - expected[:, :2]
    assert np.abs(error).max() < 0.002
    assert np.abs(error).mean() < 0.0005


@pytest.mark.parametrize(
    ('table', 'index'), [(module._DISK, 1), (module._BULGE, 4)], ids=['disk', 'bulge']
)
def test_the_mixtures(table, index):
    """
    Light under Gaussians of many widths, against the integral.
    """
    slope = special.gammaincinv(2 * index, 0.5)

    def light(width):
        def integrand(t):  # r = t^n
            r = t**index
            return np.exp(-slope * t - r**2 / 2 / width**2) * r * t ** (index - 1)

        edges = [0, (0.1 * width) ** (1 / index), (10 * width) ** (1 / index)]
        pieces = [
            integrate.quad(integrand, *pair, limit=500, epsabs=1e-14)[0]
            for pair in zip(edges, [*edges[1:], np.inf], strict=True)
        ]
        return sum(pieces) * slope ** (2 * index) / special.gamma(2 * index)

    widths = np.geomspace(0.03, 60, 15)
    share, sigma = np.array(table).T
    assert_allclose(share.sum(), 1, atol=3e-5)
    mixture = (share / (1 + (sigma / widths[:, None]) ** 2)).sum(1)
    assert_allclose(mixture, [light(w) for w in widths], rtol=0.003)


def test_one_gaussian(monkeypatch):
    """
    A Gaussian galaxy and a Gaussian PSF have exact moments.
    """
    monkeypatch.setattr(module, '_DISK', ((1.0, 1.0),))
    psf = torch.tensor([1.5, 3.0, 0.0, 3.0, 0.0, 3.3, 0.1, 0.2], dtype=torch.float64)
    galaxy = torch.tensor([1.0, 0.7, 0.3, 0.3, 4.0, 1.0], dtype=torch.float64)
    cos, sin = np.cos(0.7), np.sin(0.7)
    turn = np.array([[cos, -sin], [sin, cos]])
    moments = turn @ np.diag([16.0, 16.0 * 0.09]) @ turn.T
    norm = 2.25 / np.sqrt(1 - 0.05)
    moments += norm * np.array([[1.1, 0.2], [0.2, 0.9]])
    trace = np.trace(moments)
    expected = (moments[0, 0] - moments[1, 1]) / trace, 2 * moments[0, 1] / trace
    e1, e2, size = adaptive_moments(psf, galaxy)
    assert_allclose([e1, e2], expected, rtol=1e-6)
    assert_allclose(size, np.linalg.det(moments) ** 0.25, rtol=1e-6)


def test_convergence_and_precision(generator):
    psf = SeeingPrior().sample_batch(1500, generator=generator)
    psf[:, 6:] = 0.4 * torch.rand(1500, 2, generator=generator) - 0.2
    galaxy = GammaShapes().sample_batch(torch.zeros(1500), generator=generator)
    galaxy[:, 4:] /= SDSS_PIXEL_SCALE
    single = adaptive_moments(psf, galaxy)
    exact = adaptive_moments(psf.double(), galaxy.double(), n_iterations=60)
    for ours, expected in zip(single[:2], exact[:2], strict=True):
        error = (ours - expected).abs()
        # Some points in broad disks have two solutions.
        assert error.quantile(0.998) < 1e-4


def test_broadcasting_and_turning():
    galaxy = torch.tensor(list(GALAXIES.values()))
    e1, e2, size = adaptive_moments(torch.stack(list(PSFS.values()))[:, None], galaxy)
    assert e1.shape == e2.shape == size.shape == (5, 9)
    alone = adaptive_moments(PSFS['broad'], galaxy[7])
    assert_allclose([e1[2, 7], e2[2, 7], size[2, 7]], alone, rtol=1e-5)
    # A round PSF: the ellipticity turns with the galaxy.
    turned = galaxy.clone()
    turned[:, 1] += 0.5
    f1, f2, _ = adaptive_moments(ROUND, turned)
    ours = torch.complex(e1[0], e2[0]) * np.exp(1j)
    assert_allclose(f1, ours.real, atol=1e-5)
    assert_allclose(f2, ours.imag, atol=1e-5)
    assert [len(v) for v in adaptive_moments(ROUND, galaxy[:0])] == [0, 0, 0]


def test_degenerate_galaxies_stay_finite():
    galaxy = torch.tensor(
        [
            [1.0, 0.3, 1e-6, 1e-6, 3e3, 3e3],
            [0.0, 0.3, 1e-6, 1e-6, 3e3, 3e3],
            [0.5, 0.3, 1e-6, 1.0, 1e-6, 300.0],
            [0.5, 0.3, 0.5, 0.5, 0.0, 0.0],
        ]
    )
    for psf in PSFS.values():
        e1, e2, size = adaptive_moments(psf, galaxy)
        e = torch.hypot(e1, e2)
        assert torch.isfinite(e1 + e2 + size).all()
        assert (e < 1).all()
        assert (size > 0).all()
    # No galaxy at all leaves the PSF.
    e1, e2, _ = adaptive_moments(PSFS['elongated'].double(), galaxy[3].double())
    assert_allclose([e1, e2], [0.12, -0.08], atol=1e-6)


def test_bad_arguments():
    galaxy = torch.tensor(GALAXIES['both'])
    with pytest.raises(ValueError, match='psf must have 8'):
        adaptive_moments(ROUND[:7], galaxy)
    with pytest.raises(ValueError, match='galaxy must have 6'):
        adaptive_moments(ROUND, galaxy[:5])
    with pytest.raises(ValueError, match='n_iterations'):
        adaptive_moments(ROUND, galaxy, n_iterations=0)
