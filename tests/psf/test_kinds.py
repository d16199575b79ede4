# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of PSFs of all kinds as sums of Gaussians, and of a user's own kind.
"""

import numpy as np
import pytest
import torch
from astropy.nddata import NDData
from numpy.testing import assert_allclose

from bliss_astro import CoaddSimulator, detect_sources
from bliss_astro.coadds import EffectivePSF
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._psf import PSFAccess
from bliss_astro.priors import CatalogPrior
from bliss_astro.psf import (
    DEFAULT_SHAPE,
    GaussianPSF,
    PolynomialPSF,
    PSFExPSF,
    PSFModel,
    read_psf,
)
from bliss_astro.psf._fit import PHASES
from bliss_astro.psf._kinds import GaussiansPSF, ModelPSF
from bliss_astro.rendering import TorchRenderer

YY, XX = np.mgrid[-25:26, -25:26].astype(float)


class MoffatPSF:
    """A user's kind of PSF: Moffat profiles that grow with the column."""

    def __init__(self, fwhm, slope, growth=0.0):
        self.fwhm, self.slope, self.growth = fwhm, slope, growth

    def gaussians(self, xs, ys):
        fwhm = self.fwhm + self.growth * np.asarray(xs)[:, None, None]
        width = fwhm / (2 * np.sqrt(2 ** (1 / self.slope) - 1))
        images = (1 + (XX**2 + YY**2) / width**2) ** -self.slope
        return GaussianPSF.fit(images)[None].expand(len(ys), len(xs))


def drawn(psf, half=25):
    axis = torch.arange(-half, half + 1).double()
    return psf(axis[None], axis[:, None]).numpy()


def lopsided(x=0.0, y=0.0):
    """Image of a PSF with a lobe on one side, around (x, y)."""
    core = PSFModel(x_0=x, y_0=y, e1=0.04)(XX, YY)
    return 0.95 * core + 0.05 * PSFModel(x_0=x + 2, y_0=y - 1, sigma1=1.3)(XX, YY)


def grid_of_images():
    pytest.importorskip('photutils')
    from photutils.psf import GriddedPSFModel

    images = np.array([lopsided()] * 4) * np.array([1, 1, 1, 1])[:, None, None]
    meta = {'grid_xypos': [(0, 0), (100, 0), (0, 100), (100, 100)], 'oversampling': 1}
    return GriddedPSFModel(NDData(images / images[0].sum(), meta=meta))


def image_psf():
    pytest.importorskip('photutils')
    from photutils.psf import ImagePSF

    return ImagePSF(lopsided())


def psfex():
    basis = [lopsided(), 0 * lopsided(), 0 * lopsided()]
    return PSFExPSF(basis, 1.0, (50, 50), (100, 100), 1)


@pytest.mark.parametrize(
    ('make', 'error'),
    [
        (lopsided, 1e-3),
        (image_psf, 3e-3),
        (grid_of_images, 3e-3),
        (psfex, 3e-3),
        (lambda: EffectivePSF([[lopsided()]], xs=[0], ys=[0]), 1e-3),
    ],
    ids=['image', 'ImagePSF', 'GriddedPSFModel', 'PSFEx', 'EffectivePSF'],
)
def test_images_become_sums(make, error):
    psf = PSFAccess(make()).gaussians([10, 20], [30, 40, 50])
    assert psf.height.shape[:2] == (3, 2)
    assert psf.fit_info['residual'].max() < 2 * error
    one = psf[1, 1]
    # Centred on the core, which the lobe draws to itself a little.
    x, y = GaussianPSF.fit(lopsided())._core[0].tolist()
    assert np.hypot(x, y) < 0.1
    expected = lopsided(-x, -y)
    found = drawn(one) / drawn(one).sum() * expected.sum()
    assert_allclose(found, expected, atol=error * expected.max())
    area = GaussianPSF.fit(lopsided()).effective_area
    assert_allclose(one.effective_area, area, rtol=0.02)


def test_models_keep_their_closed_form():
    grid = np.zeros((2, 2))
    grid[1, 0] = 0.1
    model = PSFModel.from_shape(DEFAULT_SHAPE, normalization_radius=12.0)
    psf = PolynomialPSF(model, grid, 0 * grid, 0 * grid, (100, 100))
    for source in (psf, psf.at(0, 0)):
        found = PSFAccess(source).gaussians([0, 99], [50])
        assert found.normalization_radius == 12.0
        assert found.shape.shape == (1, 2, 8)
        expected = [source.at(x, 50) if source is psf else source for x in (0, 99)]
        assert_allclose(found.fwhm[0], [one.fwhm for one in expected], rtol=1e-9)


def test_joined_pixels_of_a_psf_that_varies():
    psf = MoffatPSF(6.0, 3.5, growth=0.005)
    noise = np.random.default_rng(2).normal(size=(64, 150))
    exposure = Exposure(noise, bkg_error=1.0, effective_gain=1.0, psf=psf)
    joined = exposure.binned(2)
    # Of the fits at columns 0 and 256, and a little broader by the pixels.
    found = [joined.psf_at(x, 16).fwhm for x in (0, 64)]
    assert_allclose(found, [3.0, 3.64], rtol=0.03)
    assert joined.psf_gaussians([0, 64], [16]).shape.shape == (1, 2, 8)
    assert joined._psf_access.drawn_with_model(64, 16) is None


class TestUsersKind:
    def test_exposure(self):
        psf = MoffatPSF(3.0, 3.5, growth=0.01)
        exposure = Exposure(
            np.zeros((9, 300)), bkg_error=1.0, effective_gain=1.0, psf=psf
        )
        assert exposure.psf is psf
        assert_allclose(exposure.psf_at(0, 4).fwhm, 3.0, rtol=0.01)
        assert_allclose(exposure.psf_at(256, 4).fwhm, 5.56, rtol=0.01)
        # Cut-outs count from their own corner.
        part = exposure[:, 40:]
        assert_allclose(part.psf_at(216, 4).fwhm, 5.56, rtol=0.01)
        assert_allclose(part.psf_gaussians(0, [0]).fwhm, [[3.4]], rtol=1e-3)
        assert read_psf(psf) is psf
        with pytest.raises(ValueError, match='has no psf'):
            exposure.replace(psf=None).psf_gaussians([0], [0])

    @pytest.mark.parametrize('n_exposures', [1, 3])
    def test_simulator_and_detection(self, n_exposures):
        psf = MoffatPSF(3.0, 3.5)
        options = {'psf': psf, 'shape': (64, 64), 'margin': 10, 'background': 100.0}
        exposure, truth = CoaddSimulator(n_exposures, **options).sample(rng=3)
        if n_exposures == 1:
            assert_allclose(exposure.psf.fwhm, 3.0, rtol=1e-3)
            assert exposure.psf.shape is None
        catalog = detect_sources(exposure.replace(psf=psf))
        bright = truth[truth['flux'].value > 3000]
        assert len(bright) >= 2
        for row in bright:
            distance = np.hypot(
                catalog['x_centroid'] - row['x_centroid'],
                catalog['y_centroid'] - row['y_centroid'],
            )
            at = np.argmin(distance)
            assert distance[at] < 0.3
            pull = (catalog['flux'] - row['flux'])[at] / catalog['flux_err'][at]
            assert abs(float(pull)) < 5

    def test_detection_in_an_array(self):
        psf = MoffatPSF(3.0, 3.5)
        star = 1e4 * drawn(psf.gaussians([0], [0])[0, 0])
        noise = np.random.default_rng(0).normal(0, np.sqrt(100 + star))
        known = {'background': 100.0, 'bkg_error': 10.0, 'effective_gain': 1.0}
        [row] = detect_sources(100 + star + noise, psf=psf, **known)
        assert abs(row['flux'] - 1e4) < 4 * row['flux_err']

    def test_galaxies(self):
        simulator = CoaddSimulator(1, CatalogPrior.sky(), psf=MoffatPSF(3.0, 3.5))
        exposure, _ = simulator.sample(rng=0)
        assert np.isfinite(exposure.data).all()

    def test_drawn_as_it_is(self):
        image = TorchRenderer().render(MoffatPSF(3.0, 3.5), [25], [25], [100], (51, 51))
        width = 3.0 / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
        expected = (1 + (XX**2 + YY**2) / width**2) ** -3.5
        assert_allclose(image / image.max(), expected, atol=1e-5)

    def test_one_sum_everywhere(self):
        psf = MoffatPSF(3.0, 3.5).gaussians([0], [0])[0, 0]
        exposure = Exposure(
            np.zeros((90, 300)), bkg_error=1.0, effective_gain=1.0, psf=psf
        )
        assert not exposure._psf_access.varies
        assert_allclose(exposure.psf_at(290, 4).fwhm, 3.0, rtol=0.01)

    @pytest.mark.parametrize(
        'found', [GaussianPSF([0.1], [2.0]), None, (0.1, 2.0), PSFModel()]
    )
    def test_another_batch(self, found):
        class Wrong:
            def gaussians(self, xs, ys):
                return found

        access = PSFAccess(Wrong())
        for ask in (access.gaussians, access.at):
            places = ([0], [0]) if ask == access.gaussians else (0, 0)
            with pytest.raises(ValueError, match=r'return a GaussianPSF .* \(1, 1\)'):
                ask(*places)


def test_drawings_of_a_sum_are_those_of_the_model():
    model = PSFModel(e1=0.1, e2=-0.05)
    pairs = ModelPSF(model), GaussiansPSF(model.gaussians([0], [0])[0, 0])
    expected, found = (psf._stamps(3.0, 4.0) for psf in pairs)
    assert expected[1] == found[1] == PHASES
    assert_allclose(found[0], expected[0], atol=1e-9)
    assert_allclose(*(psf.at(0, 0).shape_vector for psf in pairs), rtol=1e-4, atol=1e-4)
