# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the noise and the PSF that resampled exposures state.
"""

import numpy as np
import pytest
import torch
from astropy.wcs import WCS
from numpy.testing import assert_allclose

from bliss_astro.coadds import Coadd, align_exposures
from bliss_astro.coadds._align import Resampler
from bliss_astro.coadds._noise import (
    correlated_noise,
    kernel_of_pair,
    kernel_of_sums,
    lagged_sums,
    monte_carlo_noise,
)
from bliss_astro.exposures import Exposure
from bliss_astro.psf import PSFModel
from bliss_astro.simulation._camera import coadd_noise

reproject = pytest.importorskip('reproject')

METHODS = ('bilinear', 'adaptive', 'exact')


def make_wcs(x, y, *, angle=0.0, scale=0.4, flip=False):
    """
    A tangent plane whose pixel (x, y) lies at one place, turned by an angle.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [x + 1, y + 1]
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]]) @ np.diag([1 - 2 * flip, 1])
    return wcs


def interpolated(stack, wcs, wcs_out, shape_out):
    """
    Interpolate an image, or a stack of them, bilinearly by an independent program.
    """
    images, options = (stack, wcs), {'roundtrip_coords': False}
    return reproject.reproject_interp(images, wcs_out, shape_out, **options)[0]


def response(shape, wcs, wcs_out, shape_out):
    """
    The matrix of the resampling, (output pixels, input pixels), from impulses.
    """
    flat = Exposure(np.ones(shape), bkg_error=1.0, effective_gain=1.0, wcs=wcs)
    (area,) = align_exposures([flat], wcs_out, shape_out)
    impulses = np.eye(shape[0] * shape[1]).reshape(-1, *shape)
    images = interpolated(impulses, wcs, wcs_out, shape_out) * area.data
    return np.nan_to_num(images).reshape(len(impulses), -1).T


def covariance_of(kernel, shape):
    """
    The covariance matrix of noise of unit variance with a given kernel.
    """
    n = len(kernel) // 2
    y, x = (v.ravel() for v in np.indices(shape))
    dy, dx = y[:, None] - y, x[:, None] - x
    near = (np.abs(dy) <= n) & (np.abs(dx) <= n)
    return np.where(near, kernel[np.clip(dy, -n, n) + n, np.clip(dx, -n, n) + n], 0)


TURNED = {'x': 7.2, 'y': 6.9, 'angle': 25, 'scale': 0.44}


# -- exactly -----------------------------------------------------------------------


def test_variance_and_gain_by_brute_force(rng):
    """
    The noise of sky and sources, against the matrix of the resampling.
    """
    shape, shape_out = (11, 12), (14, 15)
    wcs, wcs_out = make_wcs(5, 5), make_wcs(**TURNED)
    matrix = response(shape, wcs, wcs_out, shape_out)
    sigma = rng.uniform(1, 3, shape)
    gain = rng.uniform(3, 6, shape)
    exposure = Exposure(
        np.full(shape, 50.0), bkg_error=sigma, effective_gain=gain, wcs=wcs
    )
    (aligned,) = align_exposures([exposure], wcs_out, shape_out)
    good = ~aligned.mask
    assert good.sum() > 60
    expected = np.sqrt(matrix**2 @ sigma.ravel() ** 2).reshape(shape_out)
    assert_allclose(aligned.bkg_error[good], expected[good], rtol=1e-6)
    # With the same gain everywhere sources are exact too.
    exposure = exposure.replace(effective_gain=4.0, bkg_error=2.0)
    (aligned,) = align_exposures([exposure], wcs_out, shape_out)
    expected = np.sqrt(matrix**2 @ exposure.total_error().ravel() ** 2)
    assert_allclose(
        aligned.total_error()[good], expected.reshape(shape_out)[good], rtol=1e-6
    )


@pytest.fixture(scope='module')
def turned():
    """
    A resampling of 15 x 15 px: its coordinates, shapes and matrix.
    """
    shape, shape_out = (15, 15), (19, 19)
    wcs, wcs_out = make_wcs(7, 7), make_wcs(9.2, 8.9, angle=25, scale=0.44)
    matrix = response(shape, wcs, wcs_out, shape_out)
    return shape, shape_out, wcs, wcs_out, matrix


@pytest.mark.parametrize('pair', [(0.0, 0.0), 'kernel'])
def test_kernel_by_brute_force(pair, turned):
    """
    Noise that was correlated before: variances and mean covariances.
    """
    shape, shape_out, wcs, wcs_out, matrix = turned
    if pair == 'kernel':
        kernel = kernel_of_pair(0.2, 0.3)
        kernel[1, 1] = kernel[3, 3] = 0.15
        kernel[2, 4] = kernel[2, 0] = 0.05
    else:
        kernel = kernel_of_pair(*pair)
    exposure = Coadd(
        np.ones(shape), bkg_error=2.0, effective_gain=4.0, wcs=wcs, noise_kernel=kernel
    )
    (aligned,) = align_exposures([exposure], wcs_out, shape_out)
    covariance = matrix @ covariance_of(kernel, shape) @ matrix.T
    good = ~aligned.mask.ravel()
    assert_allclose(
        aligned.bkg_error.ravel()[good],
        2 * np.sqrt(np.diag(covariance)[good]),
        rtol=1e-5,
    )
    # Mean covariance by lag, over the pairs that exist: a tenth fewer than
    # places, at other fractions of a pixel. Hence not closer than 0.025.
    y, x = (v.ravel() for v in np.indices(shape_out))
    variance = np.diag(covariance)[good].mean()
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 1)):
        pairs = (y[:, None] + dy == y) & (x[:, None] + dx == x)
        pairs &= good[:, None] & good
        expected = covariance[pairs].mean() / variance
        assert_allclose(aligned.noise_kernel[2 + dy, 2 + dx], expected, atol=0.025)


@pytest.mark.parametrize(
    ('method', 'dither'),
    [
        *(('bilinear', d) for d in ((0.3, -0.4), (0.5, 0.5), (0.0, 0.1), (0.0, 0.0))),
        ('exact', (0.3, -0.4)),
    ],
)
def test_pure_shifts(dither, method, rng, few_realisations):
    """
    What the simulator states of one exposure; areas weigh as bilinear does.
    """
    wcs = make_wcs(20 + dither[0], 18 + dither[1])
    exposure = make_exposure(rng.normal(0, 2, (41, 52)), wcs, psf=PSFModel())
    (aligned,) = align_exposures(
        [exposure], make_wcs(20, 18), exposure.shape, method, rng=2, n_noise=40
    )
    variance, along_x, along_y, _ = coadd_noise(torch.tensor([dither]).double())
    # By Monte Carlo over 25 x 25 pixels and 40 realisations, correlated with about
    # two others: 1.4 %; the largest of 2,000 boxes, 3.5 times as far.
    close = 1e-6 if method == 'bilinear' else 0.06
    inside = ~aligned.mask
    assert_allclose(aligned.bkg_error[inside] ** 2 / 4, variance, rtol=close)
    assert_allclose(aligned.noise_correlation, (along_x, along_y), atol=close)
    assert_allclose(aligned.effective_gain[inside], 5 / variance, rtol=close)
    # Nothing is gained: the sum of all covariances is what it was.
    total = aligned.noise_kernel.sum() * variance
    assert_allclose(total, 1, atol=1e-6 if method == 'bilinear' else 0.06)


def make_exposure(data, wcs, **kwargs):
    arguments = {'bkg_error': 2.0, 'effective_gain': 5.0} | kwargs
    return Exposure(data, wcs=wcs, **arguments)


# -- Monte Carlo, and both against each other --------------------------------------


def test_monte_carlo_against_the_formula():
    """
    Realisations of the noise pushed through bilinear weights.
    """
    wcs, wcs_out, shape_out = make_wcs(40, 42), make_wcs(50, 50, angle=20), (101, 101)
    yy, _ = np.indices((84, 81))
    exposure = make_exposure(
        np.zeros((84, 81)), wcs, bkg_error=1 + yy / 84, noise_correlation=(0.2, 0.1)
    )
    (aligned,) = align_exposures([exposure], wcs_out, shape_out)

    def resample(stack):
        return np.array([interpolated(v, wcs, wcs_out, shape_out) for v in stack])

    use = ~aligned.mask
    level = np.where(use, np.nan_to_num(resample([exposure.bkg_error])[0]), 1.0)
    reduction, kernel = monte_carlo_noise(
        exposure, resample, level, use, n_noise=40, rng=np.random.default_rng(3)
    )
    exact = (aligned.bkg_error / level) ** 2
    # 2e5 values or more, each correlated with about three others.
    assert_allclose(reduction[use].mean(), exact[use].mean(), rtol=0.015)
    assert_allclose(kernel, aligned.noise_kernel, atol=0.012)
    # Within a box of 25 x 25: 40 x 625 values.
    middle = (slice(48, 53), slice(48, 53))
    assert_allclose(reduction[middle].mean(), exact[38:63, 38:63].mean(), rtol=0.04)


@pytest.mark.parametrize('method', METHODS)
def test_stated_against_blank_images(method, rng, few_realisations):
    """
    The noise of resampled blank images is the stated one.
    """
    wcs, wcs_out = make_wcs(30, 29), make_wcs(26, 27, angle=20, scale=0.48)
    shape, shape_out = (60, 62), (54, 54)
    n_images = 12
    sums, squares, expected = 0.0, 0.0, None
    resampler = Resampler(method, parallel=False, block_size=None, n_noise=1)
    for k in range(n_images):
        exposure = make_exposure(rng.normal(0, 2, shape), wcs)
        if k == 0:
            (aligned,) = align_exposures(
                [exposure], wcs_out, shape_out, method, rng=4, n_noise=20
            )
            use = ~aligned.mask
            expected = (aligned.bkg_error[use] ** 2).mean()
            data, area = aligned.data, 1.2**2
        else:
            own = method == 'bilinear'
            resample = interpolated if own else resampler.reproject
            data = resample(exposure.data, wcs, wcs_out, shape_out) * area
        values = np.where(use, data, 0)
        squares += (values[use] ** 2).mean() / n_images
        sums = sums + lagged_sums(values, use, 2)
    # About 2,200 pixels x 12 images, of which the squares are correlated with up to
    # four others: 1.7 % in the variance, and 0.9 % in a correlation; what 20
    # realisations state is as certain.
    assert_allclose(squares, expected, rtol=0.07)
    assert_allclose(kernel_of_sums(*sums), aligned.noise_kernel, atol=0.035)


def test_noise_of_sums_is_that_of_the_sky(rng):
    """
    ``bkg_error`` and kernel together give the noise of a large aperture.
    """
    wcs, wcs_out = make_wcs(100, 100), make_wcs(100, 100, angle=30)
    image = rng.normal(0, 2, (201, 201))
    (aligned,) = align_exposures([make_exposure(image, wcs)], wcs_out, (201, 201))
    variance = np.mean(aligned.bkg_error[~aligned.mask] ** 2)
    # The pixel variance alone would be less than half of this.
    assert variance < 0.5 * 4
    assert_allclose(variance * aligned.noise_kernel.sum(), 4, rtol=0.02)


def test_correlated_noise_has_the_given_kernel(rng):
    kernel = kernel_of_pair(0.3, -0.2)
    noise = correlated_noise((400, 420), kernel, rng)
    use = np.ones(noise.shape, dtype=bool)
    assert_allclose(noise.var(), 1, rtol=0.015)
    assert_allclose(kernel_of_sums(*lagged_sums(noise, use, 2)), kernel, atol=0.012)


def test_the_same_seed_the_same_noise(rng, few_realisations):
    exposure = make_exposure(rng.normal(0, 1, (40, 40)), make_wcs(20, 20))
    grid = make_wcs(20, 20, angle=10)
    one, two, other = (
        align_exposures([exposure], grid, (40, 40), 'adaptive', rng=seed)[0]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one.bkg_error, two.bkg_error)
    assert not np.array_equal(one.bkg_error, other.bkg_error)


# -- the PSF -----------------------------------------------------------------------


def photometry(aligned, wcs, places, flux=1000.0, half=8):
    """
    Fluxes by the stated PSF at the true places, over the true flux.
    """
    ratios = []
    for x, y in places:
        at_x, at_y = aligned.wcs.world_to_pixel(wcs.pixel_to_world(x, y))
        column, row = round(float(at_x)), round(float(at_y))
        window = (
            slice(row - half, row + half + 1),
            slice(column - half, column + half + 1),
        )
        if min(row, column) < half or aligned.mask[window].shape != (17, 17):
            continue
        if aligned.mask[window].any():
            continue
        rows, columns = np.mgrid[window]
        model = aligned.psf_at(at_x, at_y)(columns, rows)
        light = aligned.data[window]
        ratios.append((model * light).sum() / (model**2).sum() / flux)
    return np.array(ratios)


PLACES = {
    'turned, larger pixels': (
        {'x': 75, 'y': 75},
        {'x': 58, 'y': 58, 'angle': 20, 'scale': 0.52},
        116,
    ),
    'half a pixel': ({'x': 75.5, 'y': 75.5}, {'x': 75, 'y': 75}, 150),
    'a quarter in x': ({'x': 75.25, 'y': 75}, {'x': 75, 'y': 75}, 150),
    'mirrored and turned': (
        {'x': 75, 'y': 75, 'flip': True},
        {'x': 95, 'y': 95, 'angle': 130},
        190,
    ),
}


@pytest.mark.parametrize(
    ('method', 'name'),
    [
        *(('bilinear', name) for name in PLACES),
        ('adaptive', 'turned, larger pixels'),
        ('adaptive', 'half a pixel'),
        # Of pure shifts it has the weights of bilinear interpolation.
        ('exact', 'turned, larger pixels'),
    ],
)
def test_psf_photometry(name, method, rng, few_realisations):
    """
    Fluxes with the stated PSF, for an elliptical PSF of 3.1 pixels.
    """
    options, options_out, side = PLACES[name]
    wcs, wcs_out = make_wcs(**options), make_wcs(**options_out)
    psf = PSFModel(sigma1=1.3, sigma2=2.6, sigmap=2.5, e1=0.12, e2=-0.1)
    grid = np.arange(20.0, 131, 22)
    places = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    places += rng.uniform(-0.5, 0.5, places.shape)
    yy, xx = np.indices((150, 150))
    image = sum(
        psf.from_shape(psf.shape_vector, flux=1e3, x_0=x, y_0=y)(xx, yy)
        for x, y in places
    )
    exposure = make_exposure(image, wcs, psf=psf)
    (aligned,) = align_exposures(
        [exposure], wcs_out, (side, side), method, rng=1, n_noise=1
    )
    ratio = photometry(aligned, wcs, places)
    assert len(ratio) > 15
    assert abs(ratio.mean() - 1) < 0.005
    # Turned stars lie at other fractions of a pixel each, more widely with
    # larger pixels; for a shift the broadening is the same for all.
    assert ratio.std() < (0.01 if 'turned' in name else 0.002)


def test_psf_follows_the_place(rng):
    """
    A PSF that varies is evaluated where the star was, cut-outs included.
    """

    class Varying:
        def at(self, x, y):
            return PSFModel(sigma1=1 + 0.01 * x + 0.002 * y, x_0=x, y_0=y)

    wcs, wcs_out = make_wcs(50, 50), make_wcs(50, 50, angle=90)
    exposure = make_exposure(rng.normal(0, 1, (101, 101)), wcs, psf=Varying())
    (aligned,) = align_exposures([exposure], wcs_out, (101, 101))
    for x, y in ((50, 50), (20, 70)):
        at_x, at_y = wcs.world_to_pixel(wcs_out.pixel_to_world(x, y))
        # Turned by a right angle, no pixel is interpolated.
        expected = 1 + 0.01 * at_x + 0.002 * at_y
        assert_allclose(aligned.psf_at(x, y).sigma1, expected, rtol=1e-4)
        assert aligned.psf_at(x, y).x_0 == x
    shapes = aligned.psf_shapes([20, 50], [50, 70])
    assert shapes.shape == (2, 2, 8)
    assert_allclose(shapes[1, 0], aligned.psf_at(20, 70).shape_vector)
    cut = aligned[60:, 10:]
    assert_allclose(cut.psf_at(10, 10).shape_vector, shapes[1, 0])


def test_psf_of_another_scale():
    """
    Lengths, ellipticity and normalisation radius go by the mapping.
    """
    psf = PSFModel(sigma1=2.0, e1=0.2)
    exposure = make_exposure(np.ones((40, 40)), make_wcs(20, 20), psf=psf)
    (aligned,) = align_exposures(
        [exposure], make_wcs(25, 25, angle=90, scale=0.32), (50, 50)
    )
    model = aligned.psf_at(25, 25)
    assert_allclose(model.normalization_radius, psf.normalization_radius * 1.25)
    # Turned by 90 degrees, the ellipse lies along the other axis; interpolation
    # adds up to a quarter of a square pixel to the variance of 4.
    assert -0.2 < model.e1 < -0.18
    assert abs(model.e2) < 0.005
    assert 2.5 < model.sigma1 < 2.5 * np.sqrt(4.25 / 4)
    (same,) = align_exposures([exposure])
    assert_allclose(same.psf_at(20, 20).shape_vector, psf.shape_vector, atol=1e-6)
    assert same.psf_at(20, 20).normalization_radius == psf.normalization_radius


def test_no_psf_no_psf(rng):
    exposure = make_exposure(rng.normal(0, 1, (20, 20)), make_wcs(10, 10))
    (aligned,) = align_exposures([exposure])
    assert aligned.psf is None
