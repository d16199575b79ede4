# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the reference renderer, and of the torch renderer against it.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.psf import PSFModel
from bliss_astro.rendering import GalSimRenderer, TorchRenderer

galsim = pytest.importorskip('galsim')

# sigma1, sigma2, b, sigmap, p0, beta, e1, e2: a typical field, one of sharp
# and one of bad seeing, and inclined ones.
SHAPES = {
    'typical': (1.48996, 2.99404, 0.049229, 2.89229, 0.010495, 3.26380, 0, 0),
    'sharp': (1.02, 2.1, 0.08, 2.2, 0.012, 3.0, 0, 0),
    'broad': (2.6, 5.1, 0.06, 4.9, 0.008, 3.35, 0, 0),
    'along x': (1.49, 2.99, 0.049, 2.89, 0.0105, 3.26, 0.08, 0),
    'inclined': (1.49, 2.99, 0.049, 2.89, 0.0105, 3.26, -0.03, 0.07),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def psf(request):
    return PSFModel.from_shape(request.param)


def _truth(psf, x, y, flux, shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    image = np.zeros(shape)
    for x_0, y_0, f in zip(x, y, flux, strict=True):
        unit = PSFModel.from_shape(
            psf.shape_vector, flux=f, x_0=x_0, y_0=y_0,
            normalization_radius=psf.normalization_radius,
        )  # fmt: skip
        image += unit(columns, rows)
    return image


def test_draws_the_formula(psf):
    """
    GalSim's sum of profiles is the model, at the right place on the grid.
    """
    x, y, flux = [12.3, 0.0, -4.2, 44.5], [8.9, 0.0, 20.1, 29.5], [1e3, 5e2, 2e3, -70]
    shape = (31, 45)
    image = GalSimRenderer().render(psf, x, y, flux, shape)
    assert image.shape == shape
    assert image.dtype == float
    expected = _truth(psf, x, y, flux, shape)
    # papers: the two forms of the power law agree to 6e-8 of the peak; GalSim
    # tabulates Moffats of this kind to about that.
    assert_allclose(image, expected, atol=1e-6 * expected.max(), rtol=0)


def test_torch_agrees_with_galsim(psf):
    """
    The two renderers agree to 1e-4 of the peak, and to 1e-4 in flux.
    """
    rng = np.random.default_rng(5)
    shape = (60, 64)
    for _ in range(5):
        x, y = rng.uniform(26, 34, 2)
        one = ([x], [y], [1000.0], shape)
        reference = GalSimRenderer().render(psf, *one)
        image = TorchRenderer().render(psf, *one)
        assert_allclose(image, reference, atol=1e-4 * reference.max(), rtol=0)
        assert_allclose(image.sum(), reference.sum(), rtol=1e-4)


def test_crowd(psf):
    rng = np.random.default_rng(6)
    shape = (40, 50)
    x, y = rng.uniform(-5, 50, 30), rng.uniform(-5, 45, 30)
    flux = rng.lognormal(6, 1, 30)
    reference = GalSimRenderer().render(psf, x, y, flux, shape)
    image = TorchRenderer(dtype=torch.float64).render(psf, x, y, flux, shape)
    assert_allclose(image, reference, atol=1e-4 * reference.max(), rtol=0)


def test_flux_is_that_within_the_normalisation_radius():
    psf = PSFModel()
    radius = psf.normalization_radius
    image = GalSimRenderer().render(psf, [50], [50], [100], (101, 101))
    rows, columns = np.mgrid[:101, :101]
    inside = np.hypot(columns - 50, rows - 50) <= radius
    # The profile falls so slowly at the radius that the jagged edge of a
    # circle of pixels (about 120 of them) averages out to much less than this.
    assert_allclose(image[inside].sum(), 100, rtol=2e-4)
    assert image.sum() > 100


def test_psf_flux_and_position_play_no_part():
    plain = PSFModel()
    other = PSFModel(flux=7, x_0=3, y_0=-2)
    star = ([10.2], [9.7], [50], (20, 20))
    for renderer in (
        GalSimRenderer(),
        GalSimRenderer(interpolated=True),
        TorchRenderer(),
    ):
        assert_allclose(renderer.render(plain, *star), renderer.render(other, *star))


def test_interpolated():
    """
    Interpolating a pixel image of the PSF is right at its pixels' centres.
    """
    psf = PSFModel()
    renderer = GalSimRenderer(interpolated=True, psf_size=41)
    exact = GalSimRenderer()
    whole = ([30.0], [25.0], [100.0], (61, 61))
    image, reference = renderer.render(psf, *whole), exact.render(psf, *whole)
    stamp = (slice(25 - 20, 25 + 21), slice(30 - 20, 30 + 21))
    assert_allclose(image[stamp], reference[stamp], atol=1e-6 * reference.max())
    outside = np.ones_like(image, bool)
    outside[stamp] = False
    assert not image[outside].any()
    # Between the pixels quintic interpolation is off by 0.7 % of the peak for
    # a PSF of sigma 1.5 px: the reason why the formula is the reference.
    shifted = ([30.5], [25.25], [100.0], (61, 61))
    image, reference = renderer.render(psf, *shifted), exact.render(psf, *shifted)
    assert_allclose(image[stamp], reference[stamp], atol=1e-2 * reference.max())
    difference = np.abs(image[stamp] - reference[stamp]).max()
    assert difference > 1e-3 * reference.max()


@pytest.mark.parametrize(('size', 'below', 'above'), [(5, 2, 2), (6, 3, 2), (1, 0, 0)])
def test_stamps(size, below, above):
    psf = PSFModel()
    star = ([10.4], [6.6], [1.0], (15, 20))
    whole = GalSimRenderer().render(psf, *star)
    image = GalSimRenderer().render(psf, *star, stamp_size=size)
    stamp = (slice(7 - below, 7 + above + 1), slice(10 - below, 10 + above + 1))
    assert_allclose(image[stamp], whole[stamp])
    assert np.count_nonzero(image) == size**2


def test_nothing_to_draw():
    renderer = GalSimRenderer()
    assert not renderer.render(PSFModel(), [], [], [], (4, 5)).any()
    assert not renderer.render(PSFModel(), [2], [2], [0], (4, 5)).any()
    far = renderer.render(PSFModel(), [200], [2], [9], (4, 5), stamp_size=41)
    assert not far.any()


@pytest.mark.parametrize(
    ('stars', 'message'),
    [
        (([1, 2], [1], [1]), 'same length'),
        (([np.nan], [1], [1]), 'x must be'),
        (([1], [[1]], [1]), 'y must be'),
        (([1], [1], [np.inf]), 'flux must be'),
    ],
)
def test_bad_stars(stars, message):
    with pytest.raises(ValueError, match=message):
        GalSimRenderer().render(PSFModel(), *stars, (5, 5))


@pytest.mark.parametrize('shape', [(5,), (5, 0), (5.5, 5), (5, 5, 5)])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match='shape must be'):
        GalSimRenderer().render(PSFModel(), [1], [1], [1], shape)


def test_bad_settings():
    with pytest.raises(ValueError, match='psf_size'):
        GalSimRenderer(psf_size=50)
    with pytest.raises(ValueError, match='stamp_size'):
        GalSimRenderer().render(PSFModel(), [1], [1], [1], (5, 5), stamp_size=0)


def test_repr():
    assert repr(GalSimRenderer(interpolated=True)) == (
        'GalSimRenderer(interpolated=True, psf_size=51, period=None, gsparams=None)'
    )
