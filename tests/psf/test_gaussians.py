# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of `GaussianPSF`: formula, mappings, numbers and fits.
"""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter, map_coordinates

from bliss_astro.psf import DEFAULT_SHAPE, GaussianPSF, PSFModel, _gaussian_sums

INCLINED = (1.4, 2.9, 0.05, 2.9, 0.01, 3.26, 0.06, -0.08)
# Height, variance, x, y, e1, e2 of a PSF with coma.
COMATIC = (
    (0.9, 0.1, 0.02),
    (2.2, 6.0, 40.0),
    (0.0, 0.8, -0.5),
    (0.0, -0.3, 0.4),
    (0.05, -0.2, 0.1),
    (-0.1, 0.1, 0.0),
)


def closed(shape=INCLINED):
    return GaussianPSF.from_shape(torch.tensor(shape, dtype=torch.float64))


def comatic():
    return GaussianPSF(*torch.tensor(COMATIC, dtype=torch.float64)).normalized()


def grid(half, step=1.0):
    axis = torch.arange(-half, half + step / 2, step, dtype=torch.float64)
    return axis[None], axis[:, None]


def draw(psf, half=25, step=1.0):
    return psf(*grid(half, step)).numpy()


@pytest.fixture(params=[closed, comatic])
def psf(request):
    return request.param()


class TestFormula:
    def test_sum_of_gaussians(self):
        psf = comatic()
        dx, dy = (v.numpy() for v in grid(6))
        total = 0
        for h, v, x, y, e1, e2 in torch.stack(psf.components, 1).numpy():
            matrix = v * np.array([[1 + e1, e2], [e2, 1 - e1]])
            matrix /= math.sqrt(1 - e1**2 - e2**2)
            (a, b), (_, d) = np.linalg.inv(matrix)
            form = a * (dx - x) ** 2 + 2 * b * (dx - x) * (dy - y) + d * (dy - y) ** 2
            total = total + h * np.exp(-form / 2)
        assert_allclose(draw(psf, 6), total, rtol=1e-12, atol=1e-15)

    def test_closed_form_and_expansion(self):
        psf = closed()
        expanded = GaussianPSF(*psf.components)
        peak = draw(psf).max()
        assert_allclose(draw(expanded), draw(psf), atol=1e-6 * peak)
        assert_allclose(expanded.fwhm, psf.fwhm, rtol=1e-5)
        assert_allclose(expanded.effective_area, psf.effective_area, rtol=1e-12)
        assert_allclose(expanded.flux, psf.flux, rtol=1e-8)
        assert_allclose(expanded.describe(), psf.describe(), atol=1e-6)

    def test_gradient_by_differences(self, psf):
        dx, dy = grid(5)
        step = 1e-5
        value, d_x, d_y = psf(dx, dy, gradient=True)
        assert_allclose(value, psf(dx, dy), rtol=1e-12)
        by_x = (psf(dx - step, dy) - psf(dx + step, dy)) / (2 * step)
        by_y = (psf(dx, dy - step) - psf(dx, dy + step)) / (2 * step)
        assert_allclose(d_x, by_x, atol=1e-8)
        assert_allclose(d_y, by_y, atol=1e-8)

    def test_whole_numbers(self):
        psf = GaussianPSF([1, 2], [0.5, 1.5])
        assert_allclose(psf.variance, [0.5, 1.5])
        assert_allclose(psf.normalized().flux, 1)

    def test_batches(self, psf):
        two = psf[None].expand(2)
        assert repr(two).startswith('<GaussianPSF, batch (2,), ')
        dx, dy = grid(3)
        assert_allclose(two[:, None, None](dx, dy)[1], psf(dx, dy))
        assert two.fwhm.shape == two.flux.shape == two.effective_area.shape == (2,)
        assert two.describe().shape == (2, 8)
        assert_allclose(
            two.broadened(torch.tensor([0.1, 0.2]))[0].fwhm, psf.broadened(0.1).fwhm
        )
        assert two.to(torch.float32).height.dtype == torch.float32

    def test_batches_one_behind_the_other(self, psf):
        both = psf[None].followed_by(psf[None], psf[None])
        assert both.height.shape[0] == 3
        assert torch.equal(both[2](*grid(3)), psf(*grid(3)))

    def test_in_pieces_that_fit_into_memory(self, psf, monkeypatch):
        dx, dy = grid(3)
        expanded = GaussianPSF(*psf.components)
        whole = *expanded(dx, dy, gradient=True), expanded.transform(dx, dy)
        monkeypatch.setattr(_gaussian_sums, '_ELEMENTS', 50)
        parts = *expanded(dx, dy, gradient=True), expanded.transform(dx, dy)
        for part, other in zip(parts, whole, strict=True):
            assert_allclose(part, other, rtol=1e-10, atol=1e-14)

    def test_transform_of_a_drawing(self):
        psf = comatic()
        dx, dy = (v.numpy() for v in grid(60))
        kx, ky = torch.tensor([[0.0, 0.3, -0.5], [0.0, 0.2, 0.4]]).double()
        waves = np.exp(-1j * (kx.numpy() * dx[..., None] + ky.numpy() * dy[..., None]))
        expected = (draw(psf, 60)[..., None] * waves).sum((0, 1))
        assert_allclose(psf.transform(kx, ky), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ('change', 'words'),
        [
            ({'variance': -1.0}, 'variance must be positive'),
            ({'variance': np.nan}, 'variance must be positive'),
            ({'e1': 1.0}, 'below 1'),
            ({'height': [0.1, np.nan]}, 'height must be finite'),
            ({'height': 0.1, 'variance': 2.0}, 'height must have a last axis'),
            ({'height': [], 'variance': 2.0}, 'height must have a last axis'),
            ({'height': [1.0, 2.0], 'variance': [1.0, 2.0, 3.0]}, 'must broadcast'),
            ({'normalization_radius': 0.0}, 'normalization_radius must be positive'),
        ],
    )
    def test_what_is_no_gaussian(self, change, words):
        with pytest.raises(ValueError, match=words):
            GaussianPSF(**{'height': torch.ones(1), 'variance': 1.0} | change)


class TestMappings:
    def test_broadened_as_a_convolution(self, psf):
        # On a fine grid a sum of Gaussians is its own integral over pixels.
        step, variance = 0.25, 0.7
        expected = gaussian_filter(
            draw(psf, 30, step), math.sqrt(variance) / step, truncate=10
        )
        found = draw(psf.broadened(variance), 30, step)
        inner = np.s_[40:-40, 40:-40]
        assert_allclose(found[inner], expected[inner], atol=1e-6 * expected.max())

    @pytest.mark.parametrize(('variance', 'error'), [(1 / 6, 1.7e-4), (4.0, 2.9e-3)])
    def test_the_approximation_of_the_bundled_encoders(self, variance, error):
        psf = closed(DEFAULT_SHAPE)
        exact, rough = (
            psf.broadened(variance),
            psf.broadened(variance, approximate=True),
        )
        assert rough.shape is not None
        difference = np.abs(draw(rough) - draw(exact)).max() / draw(exact).max()
        assert 0.3 * error < difference < 1.2 * error
        # A sum without closed form has no approximation.
        twice = exact.broadened(0.1, approximate=True)
        assert_allclose(draw(twice), draw(exact.broadened(0.1)))

    def test_transformed_as_a_resampling(self, psf):
        matrix = np.array([[1.3, 0.2], [-0.1, 0.8]])
        found = psf.transformed(matrix)
        fine, step = draw(psf, 20, 0.1), 0.1
        dx, dy = np.meshgrid(np.arange(-8.0, 9), np.arange(-8.0, 9))
        x, y = np.linalg.inv(matrix) @ [dx.ravel(), dy.ravel()]
        places = [y / step + 200, x / step + 200]
        expected = map_coordinates(fine, places, order=5).reshape(17, 17)
        expected = expected / np.linalg.det(matrix)
        assert_allclose(draw(found, 8), expected, atol=1e-6 * expected.max())
        scale = found.normalization_radius / psf.normalization_radius
        assert_allclose(scale, math.sqrt(np.linalg.det(matrix)))

    def test_ellipticities_of_all(self, psf):
        e1, e2 = torch.tensor(0.2).double(), torch.tensor(-0.1).double()
        tilted = psf.with_ellipticity(e1, e2)
        assert_allclose(tilted.e1, 0.2)
        assert_allclose(tilted.variance, psf.variance)

    def test_singular(self):
        with pytest.raises(ValueError, match='regular 2 x 2'):
            comatic().transformed([[1.0, 2.0], [2.0, 4.0]])


class TestNumbers:
    def test_effective_area(self, psf):
        fine = draw(psf, 60, 0.25)
        expected = 1 / (np.square(fine).sum() / 16)
        assert_allclose(psf.effective_area, expected, rtol=1e-4)

    def test_fwhm_is_that_of_the_area_above_half(self, psf):
        fine = draw(psf, 5, 0.005)
        area = (fine > 0.5 * fine.max()).sum() * 0.005**2
        # Coma moves the peak off the core's centre a little.
        assert_allclose(psf.fwhm, 2 * math.sqrt(area / math.pi), rtol=2e-3)

    def test_flux_within_the_radius(self, psf):
        dx, dy = (v.numpy() for v in grid(25, 0.25))
        e1, e2 = (float(v) for v in psf._core[1:])
        r2 = (1 - e1) * dx**2 - 2 * e2 * dx * dy + (1 + e1) * dy**2
        inside = r2 < psf.normalization_radius**2 * math.sqrt(1 - e1**2 - e2**2)
        total = (draw(psf, 25, 0.25) * inside).sum() / 16
        assert_allclose(total, 1, rtol=1e-4)
        assert_allclose(psf.flux, 1, rtol=1e-5)

    def test_the_model_and_its_sum(self):
        model = PSFModel.from_shape(INCLINED)
        psf = model.gaussians([3, 4, 5], [6, 7])
        assert psf.height.shape == (2, 3, 19)
        assert_allclose(psf.fwhm, model.fwhm)
        assert_allclose(psf.effective_area, model.n_eff, rtol=1e-3)
        yy, xx = np.mgrid[-5:6, -5:6].astype(float)
        assert_allclose(draw(psf[1, 2], 5), model(xx, yy), rtol=1e-12)

    def test_features_are_those_of_the_training(self):
        # As the first encoders were trained.
        expected = [-0.018255426, 0.243559188, 0.007067777, -0.055065201]
        expected += [-0.354418931, -0.542808651, 0.6, -0.8]
        assert_allclose(closed().describe(), expected, atol=1e-6)

    def test_features_are_clipped(self):
        features = closed().describe()
        limits = (-math.inf,) * 8, (*features[:1].tolist(), *(-1.0,) * 7)
        clipped = closed().describe(limits)
        assert clipped[0] == features[0]
        assert (clipped[1:] == features[1:].clamp(max=-1)).all()

    def test_ellipticity_of_the_core(self):
        # Moments of a Gaussian are its own, wherever it lies.
        psf = GaussianPSF(*torch.tensor([[1.0], [2.0], [0.3], [-0.2], [0.2], [0.1]]))
        assert_allclose(
            torch.cat([psf._core[0], torch.stack(psf._core[1:])]),
            [0.3, -0.2, 0.2, 0.1],
            atol=1e-5,
        )


class TestFits:
    def test_a_smooth_profile(self):
        dx, dy = (v.numpy() for v in grid(25))
        image = (1 + np.hypot(dx, dy) ** 2 / 2.5**2) ** -2.5
        psf = GaussianPSF.fit(7 * image)
        assert psf.fit_info['residual'] < 2e-6
        assert_allclose(draw(psf) / draw(psf).max(), image, atol=2e-6)
        assert_allclose(psf.flux, 1, rtol=1e-9)
        width = 5 * math.sqrt(2**0.4 - 1)
        assert_allclose(psf.fwhm, width, rtol=1e-3)

    def test_the_same_features_as_the_profile(self):
        model = PSFModel.from_shape(INCLINED)
        yy, xx = np.mgrid[-25:26, -25:26].astype(float)
        psf = GaussianPSF.fit(model(xx, yy))
        assert psf.fit_info['residual'] < 5e-5
        assert_allclose(psf.describe(), closed().describe(), atol=2e-3)

    def test_coma(self):
        psf = GaussianPSF.fit(draw(comatic()))
        assert psf.fit_info['residual'] < 1e-3
        assert_allclose(psf.effective_area, comatic().effective_area, rtol=1e-3)
        assert_allclose(psf.fwhm, comatic().fwhm, rtol=2e-3)

    def test_phases_determine_a_narrow_core(self):
        parts = torch.tensor([[1.0], [0.4], [0.0], [0.0], [0.1], [0.0]]).double()
        narrow = GaussianPSF(*parts).normalized()
        phases = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
        dx, dy = grid(10)
        images = [narrow(dx - x, dy - y).numpy() for x, y in phases]
        psf = GaussianPSF.fit(images, phases=phases)
        assert psf.fit_info['residual'] < 1e-3
        assert_allclose(psf.effective_area, narrow.effective_area, rtol=2e-3)

    def test_batches_have_as_many_gaussians(self):
        images = np.stack([draw(comatic(), 15), draw(closed(), 15)])[:, None]
        psf = GaussianPSF.fit(images)
        assert psf.height.shape[:2] == psf.fit_info['residual'].shape == (2, 1)
        for k, one in enumerate((comatic(), closed())):
            assert_allclose(draw(psf[k, 0], 3), draw(one, 3), rtol=1e-2)

    @pytest.mark.parametrize(
        'image', [np.ones((4, 4)), np.ones((5, 7)), np.zeros((5, 5)), np.ones(5)]
    )
    def test_what_is_no_image(self, image):
        with pytest.raises(ValueError, match='images must'):
            GaussianPSF.fit(image)
