# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs estimated from the stars of images, and stated ones held against them.

Stars are drawn by photutils' and astropy's models, not by the package's own.
"""

import functools
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.modeling.models import AiryDisk2D, Gaussian2D, Moffat2D
from astropy.nddata import Cutout2D

from bliss_astro import CoaddSimulator, Exposure, OutOfDomainWarning, StarPrior
from bliss_astro.psf import PolynomialPSF, PSFModel, compare_psf, estimate_psf

SKY, NOISE = 1000.0, 1000.0**0.5
# Sub-pixels along an axis over which a profile is averaged.
FINE = 5


def moffat(slope):
    def profile(fwhm):
        alpha = slope
        gamma = fwhm / (2 * np.sqrt(2 ** (1 / alpha) - 1))
        return Moffat2D(amplitude=1, gamma=gamma, alpha=alpha)

    return profile


def gaussian(fwhm):
    sigma = fwhm / 2.3548
    return Gaussian2D(amplitude=1, x_stddev=sigma, y_stddev=sigma)


def stamp(model, x, y, half):
    """
    Mean of a model over the pixels around a place between -0.5 and 0.5.
    """
    side = 2 * half + 1
    fine = (np.arange(side * FINE) + 0.5) / FINE - 0.5 - half
    values = model(*np.meshgrid(fine - x, fine - y))
    return values.reshape(side, FINE, side, FINE).mean((1, 3))


def scene(profile, fwhm, n_stars, *, seed=1, size=256, n_galaxies=0, snr=(30, 400)):
    """
    Image with stars and galaxies, and the FWHM and effective area of its PSF.
    """
    rng = np.random.default_rng(seed)
    half = 25
    point = stamp(profile(fwhm), 0.0, 0.0, half)
    area = point.sum() ** 2 / np.square(point).sum()
    image = np.zeros((size, size))

    def add(model, flux):
        x, y = rng.uniform(10, size - 10, 2)
        column, row = int(np.rint(x)), int(np.rint(y))
        values = stamp(model, x - column, y - row, half)
        padded = np.zeros((size + 2 * half, size + 2 * half))
        window = np.s_[row : row + 2 * half + 1, column : column + 2 * half + 1]
        padded[window] = flux * values / values.sum()
        image[:] += padded[half:-half, half:-half]

    low, high = snr
    for k in range(n_stars + n_galaxies):
        ratio = low * (high / low) ** rng.random()
        flux = 0.5 * (ratio**2 + np.sqrt(ratio**4 + 4 * ratio**2 * area * SKY))
        wide = fwhm if k < n_stars else fwhm * rng.uniform(1.4, 3)
        add(profile(wide), flux)
    return rng.poisson(image + SKY).astype(float), wide_truth(profile, fwhm)


def wide_truth(profile, fwhm):
    """
    FWHM and effective area of a profile averaged over pixels, within 18.76 px.
    """
    fine, half = 9, 40
    axis = (np.arange((2 * half + 1) * fine) - half * fine - (fine - 1) / 2) / fine
    values = profile(fwhm)(*np.meshgrid(axis, axis))
    from scipy.ndimage import uniform_filter

    values = uniform_filter(values, fine)
    radius = np.hypot(*np.meshgrid(axis, axis))
    total = values[radius < 18.76].sum()
    area = total**2 / np.square(values).sum() / fine**2
    middle = len(axis) // 2
    row = values[middle, middle:] / values.max()
    k = np.argmax(row < 0.5)
    edge = k - 1 + (row[k - 1] - 0.5) / (row[k - 1] - row[k])
    return 2 * edge / fine, area


def exposure_of(image, **more):
    return Exposure(image, background=SKY, bkg_error=NOISE, effective_gain=1.0, **more)


CASES = [
    (gaussian, 1.5),
    (gaussian, 4.0),
    (moffat(2.5), 2.5),
    (moffat(4.765), 3.0),
    (moffat(4.765), 6.0),
    (moffat(20), 3.0),
]


@pytest.mark.parametrize(
    ('profile', 'fwhm', 'n_stars'),
    [*((*case, 20) for case in CASES), (*CASES[0], 5), (*CASES[3], 5)],
)
def test_width_and_area(profile, fwhm, n_stars):
    image, (true_fwhm, true_area) = scene(profile, fwhm, n_stars, n_galaxies=n_stars)
    estimate = estimate_psf(exposure_of(image))
    limits = (0.05, 0.10) if n_stars == 5 else (0.02, 0.05)
    assert estimate.psf.fwhm == pytest.approx(true_fwhm, rel=limits[0])
    assert estimate.psf.n_eff == pytest.approx(true_area, rel=limits[1])
    off = abs(estimate.psf.fwhm / true_fwhm - 1)
    assert off < 3.5 * estimate.psf_error
    assert abs(estimate.psf.n_eff / true_area - 1) < 3.5 * 2 * estimate.psf_error
    assert estimate.psf_error < 0.06
    # Stated for the network: the larger of both, as an error of the width.
    width = estimate.fwhm_error / estimate.psf.fwhm
    area = estimate.effective_area_error / estimate.psf.n_eff
    assert estimate.psf_error == pytest.approx(max(width, area / 2))
    assert 3 <= estimate.n_stars <= n_stars + 2
    assert estimate.findings == ()


def airy(fwhm):
    return AiryDisk2D(amplitude=1, radius=fwhm * 1.21967 / 1.02899)


def test_psf_error_contains_a_profile_beyond_the_model():
    """
    Two Gaussians and a power law have no flat core and no rings.
    """
    image, (true_fwhm, true_area) = scene(airy, 3.0, 20, seed=4)
    estimate = estimate_psf(exposure_of(image))
    off = abs(estimate.psf.fwhm / true_fwhm - 1)
    assert 0.03 < off < 2.5 * estimate.psf_error
    assert abs(estimate.psf.n_eff / true_area - 1) < 2.5 * 2 * estimate.psf_error
    assert estimate.psf_error < 0.1


def test_what_is_no_star_is_left_out(rng):
    image, (true_fwhm, _) = scene(moffat(4.765), 3.0, 15, n_galaxies=10, seed=3)
    yy, xx = np.mgrid[:256, :256]
    # A saturated star, a trail, cosmic rays of one and two pixels.
    image += 3e6 / 30 * np.exp(-0.5 * ((xx - 60) ** 2 + (yy - 70) ** 2) / 1.5**2)
    image += 3e3 * np.exp(-0.5 * ((yy - 200) / 1.3) ** 2) * (abs(xx - 180) < 12)
    rays = rng.integers(10, 246, (25, 2))
    image[rays[:, 0], rays[:, 1]] += 5e3
    image[rays[::3, 0] + 1, rays[::3, 1]] += 4e3
    image = np.minimum(image, 4e4)
    estimate = estimate_psf(exposure_of(image))
    assert estimate.psf.fwhm == pytest.approx(true_fwhm, rel=0.03)
    stars = estimate.stars
    assert not stars['used'][stars['reason'] != ''].any()
    near = np.hypot(stars['x_centroid'].value - 60, stars['y_centroid'].value - 70) < 3
    assert set(stars['reason'][near]) <= {'saturated', 'extended'}
    assert {'extended', 'cosmic ray'} <= set(stars['reason'])


def test_plate_with_scatter_is_told():
    rng = np.random.default_rng(5)
    image = np.zeros((300, 300))
    for k in range(36):
        x, y = 30 + 45 * (k % 6), 30 + 45 * (k // 6)
        values = stamp(moffat(4)(3.0 * np.exp(0.12 * rng.normal())), 0.1, 0.2, 20)
        image[y - 20 : y + 21, x - 20 : x + 21] += 2e4 * values / values.sum()
    image = rng.poisson(image + SKY).astype(float)
    with pytest.warns(OutOfDomainWarning, match='widths of .* stars scatter by'):
        estimate = estimate_psf(exposure_of(image))
    assert 0.04 < estimate.width_scatter < 0.2
    assert estimate.psf_error > 0.04


def test_variation_over_the_field():
    rng = np.random.default_rng(6)
    size, image = 384, np.zeros((384, 384))
    for k in range(64):
        x, y = 24 + 48 * (k % 8), 24 + 48 * (k // 8)
        wide = 3.0 * (1 + 0.15 * (2 * x / size - 1))
        values = stamp(moffat(4)(wide), *rng.uniform(-0.5, 0.5, 2), 20)
        image[y - 20 : y + 21, x - 20 : x + 21] += 3e4 * values / values.sum()
    image = rng.poisson(image + SKY).astype(float)
    estimate = estimate_psf(exposure_of(image))
    assert isinstance(estimate.psf, PolynomialPSF)
    left, right = (estimate.psf.at(x, 192).fwhm for x in (20, 364))
    assert right / left == pytest.approx(1.134 / 0.866, rel=0.04)
    cut = estimate.psf.shifted(100, 50)
    assert cut.at(0, 0).fwhm == pytest.approx(estimate.psf.at(100, 50).fwhm)
    exposure = exposure_of(image, psf=estimate.psf)
    assert exposure[50:, 100:].psf_at(0, 0).fwhm == pytest.approx(cut.at(0, 0).fwhm)
    assert compare_psf(exposure).ratio == pytest.approx(1, abs=0.02)
    # A constant PSF does not get one.
    flat, _ = scene(moffat(4), 3.0, 70, size=340)
    assert isinstance(estimate_psf(exposure_of(flat)).psf, PSFModel)


@pytest.mark.parametrize('n_stars', [1, 2])
def test_few_stars(n_stars):
    image, (true_fwhm, _) = scene(moffat(4), 3.0, n_stars, snr=(100, 200))
    words = 'which may be no star' + ',s'[n_stars - 1]
    with pytest.warns(OutOfDomainWarning, match=words):
        estimate = estimate_psf(exposure_of(image))
    assert estimate.psf.fwhm == pytest.approx(true_fwhm, rel=0.05)
    assert 0.09 < estimate.psf_error <= 0.15


def test_nothing_to_measure(rng):
    image = rng.poisson(SKY, (100, 100)).astype(float)
    with pytest.raises(ValueError, match='give psf or fwhm'):
        estimate_psf(exposure_of(image))
    with pytest.raises(ValueError, match='vary must be'):
        estimate_psf(image, vary='maybe')
    with pytest.raises(ValueError, match='background was given although'):
        estimate_psf(exposure_of(image), background=3.0)
    with pytest.raises(ValueError, match='bkg_error must be positive and finite'):
        estimate_psf(image, bkg_error=-1.0)
    stars, _ = scene(moffat(4), 3.0, 5)
    with pytest.raises(ValueError, match='vary=True needs 10 stars'):
        estimate_psf(exposure_of(stars), vary=True)


def test_array_alone_and_plot():
    import matplotlib as mpl

    mpl.use('Agg')
    image, (true_fwhm, _) = scene(moffat(4), 3.0, 20)
    estimate = estimate_psf(image)
    assert estimate.psf.fwhm == pytest.approx(true_fwhm, rel=0.03)
    assert estimate.residuals.shape == estimate.stamps.shape
    assert 'fit to' in estimate.summary()
    axes = estimate.plot()
    assert [ax.get_xlabel() for ax in axes] == [
        'signal-to-noise ratio',
        'radius / px',
        'x / px',
    ]
    with pytest.raises(ValueError, match='three Axes'):
        estimate.plot(axes=axes[:2])
    import matplotlib.pyplot as plt

    plt.close('all')


def test_images_of_every_kind(tmp_path):
    exposure, _ = CoaddSimulator(1, shape=(140, 140)).sample(rng=1)
    path = tmp_path / 'image.fits'
    fits.writeto(path, np.asarray(exposure.data))
    whole = Cutout2D(exposure.data, (69.5, 69.5), 140)
    expected = estimate_psf(np.asarray(exposure.data)).psf.fwhm
    # The sky and noise of an image alone are those of an exposure read from it.
    read = Exposure.read(path)
    for image in (str(path), read, fits.ImageHDU(exposure.data), whole):
        assert estimate_psf(image).psf.fwhm == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match=r'must .* 2D|two-dim'):
        estimate_psf([1.0, 2.0])


def test_survey_images(shared_data):
    """
    Images of other cameras: widths as judged from their star images by eye.
    """
    from astropy.io import fits

    expected = {
        'sep/image.fits': (2.0, 2.5),
        'cameras/saao1m_ste3_raw.fits': (7.2, 8.8),
        'cameras/kepler_ffi_edge.fits': (1.1, 2.5),
        'cameras/ztf_stamp.fits': (1.9, 2.9),
    }
    for name, (low, high) in expected.items():
        if not (shared_data / name).exists():
            pytest.skip('no images of cameras here')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            data = np.squeeze(fits.getdata(shared_data / name)).astype(float)
            estimate = estimate_psf(data)
        assert low < estimate.central.fwhm < high, name
        assert estimate.central.n_eff < 8 * estimate.central.fwhm**2, name


@functools.cache
def estimated_scene(fwhm):
    """
    Exposure with stars and galaxies, and the estimate of its PSF.
    """
    image, _ = scene(moffat(4.765), fwhm, 20, n_galaxies=10)
    exposure = exposure_of(image)
    return exposure, estimate_psf(exposure)


@pytest.mark.parametrize(
    ('fwhm', 'factor'), [(1.5, 0.9), (1.5, 1.3), (3.0, 0.7), (3.0, 1.1)]
)
def test_stated_psf_is_compared(fwhm, factor):
    exposure, estimate = estimated_scene(fwhm)
    shape = estimate.central.shape_vector
    shape[[0, 1, 3]] *= factor
    found = compare_psf(exposure.replace(psf=PSFModel.from_shape(shape)))
    assert found.ratio == pytest.approx(1 / factor, rel=0.04)
    word = 'narrower' if factor > 1 else 'broader'
    assert f'{word} than the stated psf' in found.finding
    right = exposure.replace(psf=estimate.psf)
    assert compare_psf(right).finding == ''


def test_a_psf_that_is_wrong_in_places_is_not_called_narrow_everywhere():
    """
    The scatter of the ratios counts, not that of the widths, which is small here.
    """

    class Varying:
        def at(self, x, y):
            shape = PSFModel().shape_vector.copy()
            shape[[0, 1, 3]] *= 2.2 if x > 64 else 1.0
            return PSFModel.from_shape(shape)

    sky = StarPrior(density=0.003, flux_min=3000.0)
    exposure, _ = CoaddSimulator(1, sky, shape=(64, 128), margin=4).sample(rng=5)
    assert 'narrower' not in compare_psf(exposure.replace(psf=Varying())).finding


def test_galaxies_alone_are_not_taken_for_a_broad_psf():
    image, _ = scene(moffat(4), 3.0, 0, n_galaxies=25)
    exposure = exposure_of(image, psf=PSFModel.from_fwhm(3.0))
    assert compare_psf(exposure).finding == ''


def test_from_fwhm():
    psf = PSFModel.from_fwhm(2.7)
    assert psf.fwhm == pytest.approx(2.7, rel=1e-6)
    # Between a Gaussian's and that of a Moffat profile of slope 2.
    assert 2.3 < psf.n_eff / psf.fwhm**2 < 4.5
    for wrong in (0.5, -1, np.nan, 'wide', [1, 2]):
        with pytest.raises(ValueError, match='fwhm must be'):
            PSFModel.from_fwhm(wrong)
