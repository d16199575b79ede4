# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the mean of real exposures: what it says of itself has to be true.
"""

import tracemalloc
import warnings
from collections.abc import Sequence

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.stats import SigmaClip
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import Exposure, PSFModel, align_exposures, coadd_exposures
from bliss_astro.simulation._camera import align_bilinear, coadd_noise

pytest.importorskip('reproject')

SKY, GAIN = 20.0, 4.0  # data units, electrons per unit
NOISE = np.sqrt(SKY / GAIN)


def tan(shape, dx=0.0, dy=0.0, angle=0.0):
    """
    Coordinates of an image turned about the field's centre and shifted.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ('RA---TAN', 'DEC--TAN'), (150.0, 2.0)
    wcs.wcs.crpix = (shape[1] + 1) / 2 + dx, (shape[0] + 1) / 2 + dy
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = 1e-4 * np.array([[-c, s], [s, c]])
    wcs.array_shape = shape
    return wcs


def render(psf, x, y, flux, shape, half=22):
    """
    Draw stars, each within a stamp that reaches beyond the normalisation radius.
    """
    image = np.zeros(shape)
    for a, b, f in zip(x, y, np.broadcast_to(flux, np.shape(x)), strict=True):
        i, j = round(float(a)), round(float(b))
        rows = slice(max(j - half, 0), max(min(j + half + 1, shape[0]), 0))
        columns = slice(max(i - half, 0), max(min(i + half + 1, shape[1]), 0))
        if rows.start < rows.stop and columns.start < columns.stop:
            yy, xx = np.mgrid[rows, columns]
            image[rows, columns] += f * psf(xx - a, yy - b)
    return image


def expose(wcs, shape, rng, *, stars=None, grid=None, sigma=1.4, noisy=True, **changes):
    """
    Record stars, given by (x, y, flux) on ``grid``, as a camera would.
    """
    psf = PSFModel(sigma1=sigma, sigma2=2 * sigma, sigmap=1.9 * sigma)
    signal = np.zeros(shape)
    if stars is not None:
        x, y, flux = stars
        x, y = wcs.all_world2pix(*grid.all_pix2world(x, y, 0), 0)
        signal = render(psf, x, y, flux, shape)
    data = signal
    if noisy:
        data = signal + rng.normal(0, np.sqrt((SKY + signal) / GAIN))
    arguments = {'bkg_error': NOISE, 'effective_gain': GAIN, 'psf': psf, 'wcs': wcs}
    return Exposure(data, **(arguments | changes))


def flat(level, *, shape=(40, 50), wcs=None, **changes):
    """
    An exposure of one level everywhere.
    """
    arguments = {
        'bkg_error': 1.0,
        'effective_gain': 5.0,
        'psf': PSFModel(),
        'wcs': tan(shape) if wcs is None else wcs,
    }
    return Exposure(np.full(shape, float(level)), **(arguments | changes))


POINTINGS = [(0.3, -0.2, 0.0), (0.6, 0.4, 7.0), (-1.4, 2.3, -33.0), (0.1, 0.8, 90.5)]


# -- what the coadd says of its noise and its PSF ------------------------------------


@pytest.mark.parametrize(('method', 'side'), [('bilinear', 150), ('exact', 50)])
def test_noise_is_what_is_stated(method, side, rng, few_realisations):
    """
    Blank sky: variance and correlation against the map and the kernel.

    The squares of n pixels are correlated as the squares of the kernel (sum 1.4):
    variances are known to sqrt(2.8 / n), and correlations to about
    sqrt(1.4 / n). Allowed is four times that: 4.5 and 3.2 % for the larger image;
    what 8 realisations of four exposures state is three times as certain.
    """
    shape, size = (side, side), (3 * side // 2, 3 * side // 2)
    exposures = [expose(tan(size, *pointing), size, rng) for pointing in POINTINGS]
    coadd = coadd_exposures(
        exposures, wcs_out=tan(shape), shape_out=shape, method=method, rng=1
    )
    assert not coadd.mask.any()
    scaled = coadd.data / coadd.bkg_error
    assert_allclose(scaled.var(), 1, atol=4 * np.sqrt(2.8) / side)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = scaled[: side - dy, max(-dx, 0) : side - max(dx, 0)]
        two = scaled[dy:, max(dx, 0) : side + min(dx, 0)]
        stated = coadd.noise_kernel[2 + dy, 2 + dx]
        assert_allclose(np.mean(one * two), stated, atol=4 * np.sqrt(1.4) / side)
    assert coadd.noise_correlation == (
        coadd.noise_kernel[2, 3],
        coadd.noise_kernel[3, 2],
    )
    # A mean of four, and less again by what the interpolation took.
    assert np.median(coadd.bkg_error) < NOISE / 2


def measure(coadd, x, y, half=9):
    """
    Fluxes by the coadd's PSF, and the errors that its noise implies.
    """
    fluxes, errors = [], []
    n = 2 * half + 1
    yy, xx = (value.ravel() for value in np.mgrid[:n, :n])
    lag_y, lag_x = yy[:, None] - yy, xx[:, None] - xx
    near = (np.abs(lag_y) <= 2) & (np.abs(lag_x) <= 2)
    correlation = np.where(
        near,
        coadd.noise_kernel[np.clip(lag_y + 2, 0, 4), np.clip(lag_x + 2, 0, 4)],
        0.0,
    )
    for a, b in zip(x, y, strict=True):
        i, j = round(float(a)) - half, round(float(b)) - half
        box = slice(j, j + n), slice(i, i + n)
        model = coadd.psf_at(a, b).copy()
        model.x_0, model.y_0 = 0, 0
        weight = model(xx - (a - i), yy - (b - j))
        flux = weight @ coadd.data[box].ravel() / (weight @ weight)
        signal = np.maximum(flux * weight, 0) / coadd.effective_gain[box].ravel()
        noise = weight * np.sqrt(coadd.bkg_error[box].ravel() ** 2 + signal)
        fluxes.append(flux)
        errors.append(np.sqrt(noise @ correlation @ noise) / (weight @ weight))
    return np.array(fluxes), np.array(errors)


def test_fluxes_and_their_errors(rng):
    """
    PSF photometry of 64 faint and bright stars on a coadd of four seeings.

    The mean is known to its scatter over sqrt(64); the PSF model adds 0.2 %.
    The scatter is known to 1 / sqrt(2 x 32) = 13 % for either half; allowed is three
    times that. Rotated pixels broaden a PSF differently from place to place, by
    0.4 % of the flux, which the PSF of the coadd averages over.
    """
    shape, size = (240, 240), (350, 350)
    grid = tan(shape)
    places = np.arange(30, 220, 25.5)
    x, y = (v.ravel() for v in np.meshgrid(places, places + 0.37))
    flux = np.where(np.arange(64) % 2, 400.0, 4000.0)
    seeing = (1.2, 1.5, 1.4, 1.8)
    exposures = [
        expose(tan(size, *p), size, rng, stars=(x, y, flux), grid=grid, sigma=s)
        for p, s in zip(POINTINGS, seeing, strict=True)
    ]
    coadd = coadd_exposures(exposures, wcs_out=grid, shape_out=shape)
    measured, error = measure(coadd, x, y)
    pulls = (measured - flux) / np.hypot(error, 0.004 * flux)
    for bright in (False, True):
        use = (flux > 1000) == bright
        weight = (flux[use] / error[use]) ** 2
        mean = np.average(measured[use] / flux[use], weights=weight)
        assert_allclose(mean, 1, atol=3 / np.sqrt(weight.sum()) + 2e-3)
        assert_allclose(pulls[use].std(), 1, atol=0.38)


def test_the_same_as_the_simulator(rng):
    """
    Pure shifts: the simulator's aligner and noise, to 1e-5.
    """
    dithers = rng.uniform(-0.5, 0.5, (5, 2))
    images = rng.normal(0, NOISE, (5, 66, 74))
    inner = images[0, 1:-1, 1:-1].shape
    exposures = [
        # A source at (x, y) of the grid lies at (x + 1 + dx, y + 1 + dy) here.
        Exposure(
            image,
            bkg_error=NOISE,
            effective_gain=GAIN,
            psf=PSFModel(),
            wcs=tan(image.shape, *dither),
        )
        for image, dither in zip(images, dithers, strict=True)
    ]
    coadd = coadd_exposures(exposures, wcs_out=tan(inner), shape_out=inner)
    expected = align_bilinear(torch.tensor(images), torch.tensor(dithers)).mean(0)
    assert_allclose(coadd.data, expected, atol=1e-5 * NOISE)
    variance, in_x, in_y, kernel = coadd_noise(torch.tensor(dithers))
    assert_allclose(coadd.bkg_error, NOISE * variance.sqrt(), rtol=1e-5)
    assert_allclose(coadd.effective_gain, GAIN / variance, rtol=1e-5)
    assert_allclose(coadd.noise_correlation, (in_x, in_y), atol=1e-5)
    # The simulator's PSF is broadened by the mean kernel, ours is a mean.
    broad = PSFModel().shape_vector
    width = np.sqrt(broad[0] ** 2 + float(kernel)) / broad[0]
    assert_allclose(coadd.psf_at(30, 30).fwhm, PSFModel().fwhm * width, rtol=0.01)


def test_aligned_exposures_give_the_same(rng):
    shape = (50, 50)
    exposures = [expose(tan((80, 80), *p), (80, 80), rng) for p in POINTINGS[:3]]
    grid = {'wcs_out': tan(shape), 'shape_out': shape}
    at_once = coadd_exposures(exposures, **grid)
    in_two = coadd_exposures(align_exposures(exposures, **grid))
    assert_array_equal(at_once.data, in_two.data)
    assert_array_equal(at_once.bkg_error, in_two.bkg_error)
    assert_allclose(at_once.noise_kernel, in_two.noise_kernel)


def test_errors_of_psf_and_sky_follow():
    """
    Errors of the skies are independent; in units of the noise they stay.
    """
    shape = (40, 50)
    grid = tan(shape)
    same = [flat(0, wcs=grid, psf_error=0.02, background_error=0.2)] * 3
    coadd = coadd_exposures(same)
    assert coadd.psf_error == pytest.approx(0.02)
    assert coadd.background_error == pytest.approx(0.2)
    two = coadd_exposures([same[0], same[0].replace(psf_error=0.06)], 'uniform')
    assert two.psf_error == pytest.approx(0.04)
    # Resampling by half a pixel halves the noise of a pixel, not the error of the sky.
    moved = coadd_exposures(same[:1], wcs_out=tan(shape, 0.5, 0.5), shape_out=shape)
    assert np.median(moved.bkg_error) == pytest.approx(0.5, rel=0.01)
    assert moved.background_error == pytest.approx(0.4, rel=0.02)


def test_nothing_is_resampled_without_need():
    """
    Exposures of one grid: a plain mean, with independent noise.
    """
    levels = (1.0, 2.0, 6.0)
    coadd = coadd_exposures([flat(level) for level in levels])
    assert_allclose(coadd.data, 3)
    assert_allclose(coadd.bkg_error, 1 / np.sqrt(3))
    assert_allclose(coadd.effective_gain, 15)
    assert coadd.noise_correlation == (0, 0)
    assert_array_equal(coadd.n_exposures, 3)
    assert_allclose(coadd.psf_at(0, 0).fwhm, PSFModel().fwhm, rtol=1e-3)


def test_the_grid_covers_all(rng):
    near = expose(tan((60, 60)), (60, 60), rng)
    far = expose(tan((60, 60), -20.5, 10), (60, 60), rng)
    coadd = coadd_exposures([near, far])
    # The centres of pixels that lie within the second exposure count.
    assert coadd.shape == (70, 80)
    assert set(np.unique(coadd.n_exposures)) == {0, 1, 2}
    assert_array_equal(coadd.mask, coadd.n_exposures == 0)
    assert np.isnan(coadd.data[coadd.mask]).all()
    # The grid is that of the first: whole pixels away, and its own pixels where
    # it lies alone.
    x, y = coadd.wcs.world_to_pixel(near.wcs.pixel_to_world(0, 0))
    assert_allclose([x, y], np.round([x, y]), atol=1e-6)
    x, y = round(float(x)), round(float(y))
    part = slice(y, y + 60), slice(x, x + 60)
    alone = coadd.n_exposures[part] == 1
    assert alone.any()
    assert_allclose(coadd.data[part][alone], near.data[alone], rtol=1e-6)


# -- weights and scales ------------------------------------------------------------


def test_weights():
    """
    Of two exposures of noise 1 and 2 and levels 0 and 10.
    """
    pair = [flat(0.0), flat(10.0, bkg_error=2.0)]
    by_noise = coadd_exposures(pair)
    assert_allclose(by_noise.data, 2)
    assert_allclose(by_noise.bkg_error, np.sqrt(0.8))
    assert_allclose(by_noise.effective_gain, 5 / (0.8**2 + 0.2**2))
    alike = coadd_exposures(pair, 'uniform')
    assert_allclose(alike.data, 5)
    assert_allclose(alike.bkg_error, np.sqrt(5) / 2)
    given = coadd_exposures(pair, [3, 1])
    assert_allclose(given.data, 2.5)
    assert given.meta['weights'] == [3, 1]
    none = coadd_exposures(pair, [1, 0])
    assert_allclose(none.data, 0)
    assert_array_equal(none.n_exposures, 1)


def test_weights_do_not_follow_the_interpolation():
    """
    Half of the variance is gone where pixels lie between others, but no noise:
    weights of exposures alike are alike in each pixel, whatever their phases.
    """
    shape, size = (80, 80), (130, 130)
    pointings = ((0.0, 0.0, 3.0), (0.3, 0.2, 40.0))
    exposures = [
        flat(level, shape=size, wcs=tan(size, *p))
        for level, p in zip((0.0, 1.0), pointings, strict=True)
    ]
    coadd = coadd_exposures(exposures, wcs_out=tan(shape), shape_out=shape)
    assert np.ptp(coadd.bkg_error) > 0.2 * coadd.bkg_error.mean()
    assert np.ptp(coadd.data) < 1e-3
    assert_allclose(coadd.data, 0.5, atol=5e-3)


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ('median', "'inverse_variance', 'uniform' or a number"),
        ([1, 2, 3], 'a number for each of 2 exposures; got 3'),
        ([1], 'a number for each of at least 2 exposures; got 1'),
        ([1, -1], 'negative'),
        ([0, 0], 'not all 0'),
        (3.0, 'got 3.0'),
    ],
)
def test_impossible_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        coadd_exposures([flat(0), flat(1)], weights)


def test_zero_points():
    """
    A star of magnitude 20 has 100 counts at zero point 25, 251.2 at 26.
    """
    counts = [
        flat(100.0, unit=u.adu),
        flat(100 * 10**0.4, unit=u.adu, bkg_error=10**0.4, effective_gain=5 / 10**0.4),
    ]
    coadd = coadd_exposures(counts, zero_points=[25, 26])
    assert_allclose(coadd.data, 100)
    assert_allclose(coadd.bkg_error, 1 / np.sqrt(2))
    assert_allclose(coadd.effective_gain, 10)
    assert coadd.unit == u.adu
    assert coadd.meta['zero_point'] == 25
    assert coadd.meta['zero_points'] == [25, 26]
    nmgy = coadd_exposures(counts, zero_points=[25, 26], zero_point_out=22.5)
    assert nmgy.unit == u.nmgy
    assert_allclose(nmgy.data, 10)  # 22.5 - 2.5 log10(10) = 20
    assert_allclose(nmgy.effective_gain, 100)


def test_counts_without_zero_points():
    with pytest.warns(AstropyUserWarning, match='zero_points is None'):
        coadd_exposures([flat(1, unit=u.electron), flat(1, unit=u.electron)])
    with pytest.raises(ValueError, match='differ in unit'):
        coadd_exposures([flat(1, unit=u.nmgy), flat(1, unit=u.adu)])
    with pytest.raises(ValueError, match='differ in unit'):
        coadd_exposures([flat(1, unit=u.nmgy), flat(1)])


def test_units_that_can_be_converted():
    coadd = coadd_exposures(
        [flat(1, unit=u.mJy), flat(3000, unit=u.uJy, bkg_error=1e3)]
    )
    assert coadd.unit == u.mJy
    assert_allclose(coadd.data, 2)


BRIGHTNESS = u.MJy / u.sr


def nebula(shape, rng, *, scale=1.0, unit=BRIGHTNESS, level=10.0):
    """
    A sky of one brightness, seen with pixels of some size.
    """
    wcs = tan(shape)
    wcs.wcs.cd = wcs.wcs.cd * scale
    noise = level / 1000
    data = rng.normal(level, noise, shape)
    given = {'bkg_error': noise, 'effective_gain': 1e4 / level, 'psf': PSFModel()}
    return Exposure(data, wcs=wcs, unit=unit, **given)


def test_surface_brightness_of_two_cameras(rng):
    coarse, fine = nebula((60, 60), rng, scale=1.5), nebula((90, 90), rng)
    alone = coadd_exposures([coarse], wcs_out=fine.wcs)
    both = coadd_exposures([coarse, fine])
    for coadd in (alone, both):
        assert coadd.unit == BRIGHTNESS
        assert_allclose(np.nanmedian(coadd.data), 10, rtol=1e-3)
    # In another unit of the same kind.
    fine = nebula((90, 90), rng, unit=u.kJy / u.sr, level=1e4)
    other = coadd_exposures([coarse, fine])
    assert_allclose(np.nanmedian(other.data), 10, rtol=1e-3)


def test_surface_brightness_and_zero_points(rng):
    exposures = [nebula((40, 40), rng) for _ in range(2)]
    exposures[1] = exposures[1].replace(data=exposures[1].data / 2.5**2)
    coadd = coadd_exposures(exposures, zero_points=[25, 25 - 2.5 * np.log10(2.5**2)])
    assert_allclose(np.nanmedian(coadd.data), 10, rtol=1e-3)
    with pytest.raises(ValueError, match=r'nanomaggies per pixel.*surface brightness'):
        coadd_exposures(exposures, zero_points=25, zero_point_out=22.5)
    mixed = [exposures[0], nebula((40, 40), rng, unit=u.nJy)]
    with pytest.raises(ValueError, match='one of both is a surface brightness'):
        coadd_exposures(mixed, zero_points=25)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'zero_points': [25, 26, 27]}, 'zero_points must have a number for each of 2'),
        (
            {'zero_points': [25]},
            'zero_points must have a number for each of at least 2',
        ),
        ({'zero_points': 'AB'}, 'zero_points must be an AB magnitude'),
        ({'zero_point_out': 25}, 'zero_point_out needs zero_points'),
        ({'zero_points': 25, 'zero_point_out': [1, 2]}, 'must be one AB magnitude'),
        ({'match_background': 'spline'}, "False, True, 'constant' or 'plane'"),
        ({'match_background': 2}, "False, True, 'constant' or 'plane'"),
        ({'sigma_clip': -1}, 'sigma_clip must be a positive'),
        ({'sigma_clip': 'yes'}, 'sigma_clip must be a positive'),
        ({'sigma_clip': True}, 'sigma_clip must be a positive'),
        ({'method': 'nearest'}, 'method must be one of'),
        ({'shape_out': (5, 5)}, r'shape_out=.* needs wcs_out'),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        coadd_exposures([flat(0), flat(1)], **arguments)


# -- bad pixels, backgrounds, outliers -------------------------------------------------


def test_bad_pixels_are_left_out_and_counted():
    mask = np.zeros((40, 50), dtype=bool)
    mask[5:9, 5:9] = True
    full = np.zeros_like(mask)
    full[20, 30:33] = True
    everywhere = mask.copy()
    everywhere[30:, 40:] = True
    coadd = coadd_exposures(
        [
            flat(1, mask=everywhere),
            flat(5, mask=everywhere, saturated=full),
            flat(3, mask=everywhere & ~mask),
        ]
    )
    assert coadd.meta['n_masked'] == [116, 116, 100]
    assert coadd.meta['n_saturated'] == [0, 3, 0]
    assert_allclose(coadd.data[0, 0], 3)
    assert_allclose(coadd.data[6, 6], 3)
    assert coadd.n_exposures[6, 6] == 1
    assert_allclose(coadd.data[20, 30:33], 2)
    assert not coadd.saturated.any(), 'the others had good pixels there'
    assert coadd.mask[35, 45], 'no exposure has a good pixel there'
    assert_array_equal(coadd.n_exposures == 0, coadd.mask)
    assert coadd.mask.sum() == 100


def test_saturated_in_all():
    full = np.zeros((40, 50), dtype=bool)
    full[9, 9] = True
    coadd = coadd_exposures([flat(1, saturated=full), flat(1, mask=full)])
    assert coadd.saturated.sum() == 1
    assert coadd.saturated[9, 9]


@pytest.mark.parametrize('kind', [True, 'plane'])
def test_backgrounds_are_matched(kind, rng):
    """
    Skies that were left in are found to the noise of their mean.

    Half of 240 x 240 pixels, of noise 2.2, fix a constant to 0.02; robust fits
    and stars of another seeing cost a little: allowed is 0.1.
    """
    shape = (240, 240)
    grid = tan(shape)
    stars = rng.uniform(20, 220, (2, 12))
    xx = np.mgrid[-119.5:120, -119.5:120][1]
    skies = [0.0, 3.0, -5.0]
    slopes = [0.0, 0.02, -0.01] if kind == 'plane' else [0, 0, 0]
    exposures = []
    for sky, slope, sigma in zip(skies, slopes, (1.3, 1.5, 1.8), strict=True):
        exposure = expose(
            grid, shape, rng, stars=(*stars, 5000.0), grid=grid, sigma=sigma
        )
        exposures.append(exposure.replace(data=exposure.data + sky + slope * xx))
    coadd = coadd_exposures(exposures, match_background=kind)
    offsets = coadd.meta['background_offsets']
    assert_allclose([offset[0] for offset in offsets], skies, atol=0.1)
    if kind == 'plane':
        assert_allclose([offset[1] for offset in offsets], slopes, atol=2e-3)
        assert_allclose([offset[2] for offset in offsets], 0, atol=2e-3)
    assert_allclose(np.median(coadd.data), 0, atol=0.15)


def test_nothing_to_match():
    shape = (40, 50)
    exposures = [flat(1), flat(4, wcs=tan(shape, -48, 0))]
    with pytest.warns(AstropyUserWarning, match='exposure 1 has too few pixels'):
        coadd = coadd_exposures(exposures, match_background='constant')
    assert coadd.meta['background_offsets'] == [[0.0], None]


def test_cosmic_rays_go_and_stars_stay(rng):
    """
    Bright stars in seeing from 2.6 to 4.7 pixels are untouched, rays are gone.
    """
    shape, size = (160, 160), (240, 240)
    grid = tan(shape)
    stars = (np.array([30.2, 80.7, 120.4]), np.array([110.3, 40.1, 120.8]))
    flux = np.array([1e6, 1e5, 3e3])
    exposures = [
        expose(tan(size, *p), size, rng, stars=(*stars, flux), grid=grid, sigma=s)
        for p, s in zip(
            [*POINTINGS, (0.4, -0.6, 13.0)], (1.1, 1.3, 1.5, 1.7, 2), strict=True
        )
    ]
    aligned = align_exposures(exposures, grid, shape)
    clean = coadd_exposures(aligned)
    left = coadd_exposures(aligned, sigma_clip=5)
    # Of 128,000 pixels, chance has less than one beyond 5 sigma.
    assert sum(left.meta['n_clipped']) <= 2

    hit, n_rays = [], 30
    for exposure in exposures:
        data = exposure.data.copy()
        for row, column in rng.integers(60, 180, (n_rays, 2)):
            data[row, column : column + 4] += rng.uniform(40, 2000)
        hit.append(exposure.replace(data=data))
    aligned = align_exposures(hit, grid, shape)
    dirty = coadd_exposures(aligned)
    clipped = coadd_exposures(aligned, sigma_clip=SigmaClip(sigma=5))
    damage = np.abs(dirty.data - clean.data) / clean.total_error()
    rest = np.abs(clipped.data - clean.data) / clean.total_error()
    assert (damage > 5).sum() > 1000
    # What is left lies next to the stars, where seeing explains as much, or
    # where rays hit one pixel in several exposures.
    yy, xx = np.mgrid[:160, :160]
    away = np.min(
        [np.hypot(xx - x, yy - y) for x, y in zip(*stars, strict=True)], axis=0
    )
    assert ((rest > 5) & (away > 20)).sum() < 0.015 * (damage > 5).sum()
    assert (rest > 5).sum() < 0.06 * (damage > 5).sum()
    assert all(100 < n < 800 for n in clipped.meta['n_clipped'])
    assert_array_equal(
        clipped.n_exposures.sum(), 5 * 160 * 160 - sum(clipped.meta['n_clipped'])
    )
    # Fluxes of the stars, in apertures, are as before. Rays near them may
    # cost a pixel, which its four others stand for.
    for x, y, f in zip(*stars, flux, strict=True):
        i, j = round(x), round(y)
        box = slice(j - 8, j + 9), slice(i - 8, i + 9)
        error = np.sqrt((clean.total_error()[box] ** 2).sum())
        change = left.data[box].sum() - clean.data[box].sum()
        assert abs(change) < 1e-4 * f
        change = clipped.data[box].sum() - clean.data[box].sum()
        assert abs(change) < 0.003 * f + 3 * error


def test_a_ray_on_a_star_is_seen_if_seeing_is_alike(rng):
    grid = tan((60, 60))
    exposures = [
        expose(grid, (60, 60), rng, stars=([30.0], [30.0], 1e4), grid=grid)
        for _ in range(4)
    ]
    peak = exposures[0].data.max()
    data = exposures[2].data.copy()
    data[30, 31] += 0.5 * peak
    exposures[2] = exposures[2].replace(data=data)
    coadd = coadd_exposures(exposures, sigma_clip=5)
    assert coadd.meta['n_clipped'] == [0, 0, 1, 0]
    assert coadd.n_exposures[30, 31] == 3


@pytest.mark.parametrize('n_exposures', [1, 2, 3])
def test_clipping_few(n_exposures, rng):
    """
    One alone is not clipped; of two, the higher one is the outlier.
    """
    grid = tan((60, 60))
    exposures = [expose(grid, (60, 60), rng) for _ in range(n_exposures)]
    data = exposures[0].data.copy()
    data[20, 20] += 100 * NOISE
    exposures[0] = exposures[0].replace(data=data)
    coadd = coadd_exposures(exposures, sigma_clip=5)
    expected = [1, 0, 0][:n_exposures] if n_exposures > 1 else [0]
    assert coadd.meta['n_clipped'] == expected
    assert coadd.n_exposures[20, 20] == max(n_exposures - 1, 1)


def test_what_is_too_low_is_clipped(rng):
    grid = tan((60, 60))
    exposures = [expose(grid, (60, 60), rng) for _ in range(4)]
    data = exposures[1].data.copy()
    data[20, 20] -= 100 * NOISE
    exposures[1] = exposures[1].replace(data=data)
    coadd = coadd_exposures(exposures, sigma_clip=5)
    assert coadd.meta['n_clipped'] == [0, 1, 0, 0]


# -- bad input, and many ---------------------------------------------------------------


def test_one_exposure():
    exposure = flat(7, background=2.0)
    coadd = coadd_exposures([exposure])
    assert_allclose(coadd.data, 5)
    assert_allclose(coadd.bkg_error, 1)
    assert_array_equal(coadd.n_exposures, 1)


def test_an_exposure_elsewhere():
    shape = (40, 50)
    away = flat(9, wcs=tan(shape, 500, 0))
    grid = {'wcs_out': tan(shape), 'shape_out': shape}
    with pytest.warns(AstropyUserWarning, match='exposure 1 does not lie on the grid'):
        coadd = coadd_exposures([flat(1), away, flat(3)], **grid)
    assert_allclose(coadd.data, 2)
    assert coadd.meta['outside'] == [1]
    assert coadd.meta['n_exposures'] == 2
    with pytest.raises(ValueError, match='overlap'):
        coadd_exposures([flat(1), away])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(ValueError, match='have good pixels on the grid'):
            coadd_exposures([away], **grid)


def test_exposures_without_a_psf():
    with pytest.warns(AstropyUserWarning, match=r'exposures \[1\] have no psf'):
        coadd = coadd_exposures([flat(1), flat(1, psf=None)])
    assert coadd.psf is None
    assert coadd.psf_image is None


@pytest.mark.parametrize(
    ('exposures', 'error', 'message'),
    [
        ([], ValueError, 'must not be empty'),
        (3, TypeError, 'must be a list'),
        (flat(1), TypeError, 'must be a list'),
        ([flat(1), np.ones((3, 3))], TypeError, r'exposures\[1\] must be Exposure'),
        ([flat(1), flat(1).replace(wcs=None)], ValueError, r'exposures\[1\].*wcs'),
        (
            [flat(1, meta={'band': 'r'}), flat(1, meta={'band': 'g'})],
            ValueError,
            r"differ in band: exposures\[1\] is in 'g'",
        ),
    ],
)
def test_what_is_no_set_of_exposures(exposures, error, message):
    with pytest.raises(error, match=message):
        coadd_exposures(exposures)


def test_generators():
    shape = (40, 50)
    grid = {'wcs_out': tan(shape), 'shape_out': shape}
    coadd = coadd_exposures((flat(level) for level in (1, 3)), **grid)
    assert_allclose(coadd.data, 2)
    with pytest.raises(TypeError, match='without wcs_out'):
        coadd_exposures(flat(level) for level in (1, 3))
    with pytest.raises(TypeError, match='with sigma_clip'):
        coadd_exposures((flat(level) for level in (1, 3)), sigma_clip=5, **grid)


class Lazy(Sequence):
    """
    Exposures that are made when they are needed, as if read from files.
    """

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        if not 0 <= k < self.n:
            raise IndexError(k)
        rng = np.random.default_rng(k)
        return expose(tan((64, 64), *rng.uniform(-1, 1, 2)), (64, 64), rng)


def test_many_take_the_memory_of_a_few():
    """
    What grows is an image of the PSF for each, 15 kB, and a few numbers; the
    images and maps of each would be 150 kB.
    """
    grid = {'wcs_out': tan((64, 64)), 'shape_out': (64, 64), 'sigma_clip': 6}
    coadd_exposures(Lazy(2), **grid)  # imports
    few, many, peaks = 2, 5, {}
    for n in (few, many):
        tracemalloc.start()
        coadd = coadd_exposures(Lazy(n), **grid)
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert coadd.n_exposures.max() == many
    assert peaks[many] < 1.1 * peaks[few] + 2 * (many - few) * 20e3
    scaled = (coadd.data / coadd.bkg_error)[2:-2, 2:-2]
    # 3600 pixels with correlation 1/4: known to sqrt(2 x 1.27 / 3600) = 2.7 %.
    assert_allclose(scaled.var(), 1, atol=0.11)


def test_progress_bar(capsys):
    coadd_exposures([flat(1), flat(2)], sigma_clip=5, progress_bar=True)
    assert 'adding' in capsys.readouterr().err


def test_detection_follows_the_depth(rng):
    """
    Where one exposure of four lies, errors are twice as large.
    """
    from bliss_astro import detect_sources

    shape = (96, 192)
    grid = tan(shape)
    x, y = (
        v.ravel() for v in np.meshgrid(np.arange(14, 190, 24.0), [16.3, 48.1, 80.2])
    )
    stars = (x + 0.2, y, 2500.0)
    exposures = []
    for k in range(4):
        mask = np.zeros(shape, dtype=bool)
        if k:
            mask[:, 96:] = True
        exposure = expose(grid, shape, rng, stars=stars, grid=grid)
        exposures.append(exposure.replace(mask=mask))
    coadd = coadd_exposures(exposures)
    catalog = detect_sources(coadd)
    assert len(catalog) > 0.9 * len(x)
    deep = np.asarray(catalog['x_centroid']) < 90
    shallow = np.asarray(catalog['x_centroid']) > 102
    error = np.asarray(catalog['flux_err'])
    ratio = np.median(error[shallow]) / np.median(error[deep])
    assert_allclose(ratio, 2, rtol=0.25)
