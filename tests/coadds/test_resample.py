# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of real exposures on a common grid: pixels, fluxes, masks and grids.
"""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, Sip
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.coadds import Coadd, align_exposures
from bliss_astro.exposures import Exposure
from bliss_astro.psf import PSFModel
from bliss_astro.simulation._camera import align_bilinear

reproject = pytest.importorskip('reproject')

# Other tests are on how good the noise is.
pytestmark = pytest.mark.usefixtures('few_realisations')

METHODS = ('bilinear', 'adaptive', 'exact')


def make_wcs(x, y, *, angle=0.0, scale=0.4, flip=False, sip=0.0, ra=150.0):
    """
    A tangent plane whose pixel (x, y) lies at one place, turned by an angle.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [ra, 2.0]
    wcs.wcs.crpix = [x + 1, y + 1]
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    if flip:
        wcs.wcs.cd = wcs.wcs.cd @ np.diag([-1, 1])
    if sip:
        wcs.wcs.ctype = ['RA---TAN-SIP', 'DEC--TAN-SIP']
        a, b = np.zeros((3, 3)), np.zeros((3, 3))
        a[2, 0], a[1, 1], b[0, 2], b[2, 0] = sip, -sip / 2, sip, sip / 3
        wcs.sip = Sip(a, b, None, None, [x + 1, y + 1])
    return wcs


def make_exposure(data, wcs, **kwargs):
    arguments = {'bkg_error': 2.0, 'effective_gain': 5.0} | kwargs
    return Exposure(data, wcs=wcs, **arguments)


def star_field(psf, places, shape, flux=1000.0):
    yy, xx = np.indices(shape)
    image = np.zeros(shape)
    for x, y in places:
        star = psf.copy()
        star.flux, star.x_0, star.y_0 = flux, x, y
        image += star(xx, yy)
    return image


# Input and output WCS and shapes: turned with other pixels, mirrored, distorted.
GEOMETRIES = {
    'turned': ((50, 52), {}, (45, 47), {'angle': 20, 'scale': 0.52}, (92, 96)),
    'finer': ((50, 52), {}, (72, 70), {'angle': -7, 'scale': 0.3}, (142, 144)),
    'mirrored': ((50, 52), {'flip': True}, (61, 60), {'angle': 140}, (122, 124)),
    'distorted': ((50, 52), {'sip': 2e-4}, (61, 60), {'angle': 37}, (122, 124)),
    'onto distorted': ((50, 52), {}, (55, 52), {'sip': -1e-4}, (110, 112)),
}


def geometry(name):
    place, options, place_out, options_out, shape_out = GEOMETRIES[name]
    return make_wcs(*place, **options), make_wcs(*place_out, **options_out), shape_out


# -- pixels ------------------------------------------------------------------------


@pytest.mark.parametrize(
    'dither', [(0.3, -0.4), (-0.5, 0.5), (0.0, 0.1), (-0.07, -0.5), (0.0, 0.0)]
)
def test_the_same_as_the_simulator(dither, rng):
    """
    For pure shifts this is what the simulator does.
    """
    image = rng.normal(100, 10, (41, 52))
    exposure = make_exposure(image, make_wcs(20 + dither[0], 18 + dither[1]))
    (aligned,) = align_exposures([exposure], make_wcs(20, 18), image.shape)
    expected = align_bilinear(torch.as_tensor(image), torch.tensor(dither).double())
    assert_allclose(aligned.data[1:-1, 1:-1], expected, rtol=1e-5)
    assert not aligned.mask[1:-1, 1:-1].any()


def test_surface_brightness_is_that_of_reproject(rng):
    """
    Without our own weights: reproject times the ratio of pixel areas on the sky.
    """
    wcs, wcs_out, shape_out = geometry('turned')
    data = rng.normal(0, 1, (104, 100))
    (aligned,) = align_exposures([make_exposure(data, wcs)], wcs_out, shape_out)
    expected, _ = reproject.reproject_interp((data, wcs), wcs_out, shape_out)
    inside = aligned.n_exposures > 0
    assert_allclose(aligned.data[inside], 1.3**2 * expected[inside], rtol=1e-6)
    assert np.isnan(aligned.data[~inside]).all()
    assert aligned.mask[~inside].all()
    # Only the rim of half a pixel, where reproject extrapolates, is not taken.
    missing = np.isfinite(expected) & ~inside
    assert 0 < missing.sum() < 4 * 104


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', GEOMETRIES)
def test_flux_and_place_are_kept(name, method):
    """
    A star keeps its flux, and lies where its coordinates say.
    """
    wcs, wcs_out, shape_out = geometry(name)
    psf = PSFModel(sigma1=1.6, b=0, p0=0, normalization_radius=np.inf)
    x, y = 47.3, 55.8
    image = star_field(psf, [(x, y)], (104, 100))
    exposure = make_exposure(image + 7, wcs, background=7.0)
    (aligned,) = align_exposures(
        [exposure], wcs_out, shape_out, method, rng=1, n_noise=1
    )
    assert aligned.background == 0
    light = np.where(aligned.mask, 0, aligned.data)
    # A pixel's own flux is the brightness at its centre times its area: 0.1 % is
    # what distortions of 1 % over an image leave of that.
    assert_allclose(light.sum(), 1000, rtol=1e-3)
    yy, xx = np.indices(aligned.shape)
    place = (light * xx).sum() / light.sum(), (light * yy).sum() / light.sum()
    sky = wcs.pixel_to_world(x, y)
    assert_allclose(place, wcs_out.world_to_pixel(sky), atol=0.02)


def test_parallel_is_the_same(rng):
    wcs, wcs_out, shape_out = geometry('turned')
    exposure = make_exposure(rng.normal(0, 1, (104, 100)), wcs)
    (one,) = align_exposures([exposure], wcs_out, shape_out)
    (two,) = align_exposures(
        [exposure], wcs_out, shape_out, parallel=2, block_size=(40, 40)
    )
    assert_allclose(two.data, one.data, rtol=1e-9)
    assert_array_equal(two.mask, one.mask)


def test_single_precision_stays_single(rng):
    exposure = make_exposure(
        rng.normal(0, 1, (30, 30)).astype(np.float32) * u.nmgy,
        make_wcs(15, 15),
        bkg_error=2 * u.nmgy,
    )
    (aligned,) = align_exposures([exposure], make_wcs(15.2, 15), (30, 30))
    assert aligned.data.dtype == aligned.bkg_error.dtype == np.float32
    assert aligned.unit == u.nmgy


# -- masks -------------------------------------------------------------------------


@pytest.mark.parametrize('method', METHODS)
def test_bad_pixels(method, rng):
    """
    What a bad pixel touches is bad, and nothing else changes.
    """
    wcs, wcs_out, shape_out = geometry('turned')
    data = rng.normal(0, 1, (104, 100))
    (clean,) = align_exposures(
        [make_exposure(data, wcs)], wcs_out, shape_out, method, rng=1, n_noise=1
    )
    bad = data.copy()
    bad[40, 30] = np.nan
    bad[60, 70] = 1e9
    mask = np.zeros(data.shape, dtype=bool)
    mask[50, 50] = True
    bad[50, 50] = -1e9
    exposure = make_exposure(bad, wcs, mask=mask, saturation=1e8)
    (aligned,) = align_exposures(
        [exposure], wcs_out, shape_out, method, rng=1, n_noise=1
    )
    assert_array_equal(aligned.n_exposures, clean.n_exposures)
    good = ~aligned.mask
    # Contributions of less than a thousandth are let pass, as sky.
    assert_allclose(aligned.data[good], clean.data[good], atol=0.01)
    touched = aligned.mask & (aligned.n_exposures > 0)
    yy, xx = np.nonzero(touched)
    x, y = wcs.world_to_pixel(wcs_out.pixel_to_world(xx, yy))
    distance = np.min(
        [np.hypot(x - a, y - b) for a, b in ((30, 40), (70, 60), (50, 50))], axis=0
    )
    reach = {'bilinear': 1.42, 'exact': 1.7, 'adaptive': 3.7}[method]
    assert distance.max() < reach
    for a, b in ((30, 40), (70, 60), (50, 50)):
        assert (np.hypot(x - a, y - b) < 1).any()
    yy, xx = np.nonzero(aligned.saturated)
    x, y = wcs.world_to_pixel(wcs_out.pixel_to_world(xx, yy))
    assert len(x) > 0
    assert np.hypot(x - 70, y - 60).max() < reach
    assert aligned.mask[aligned.saturated].all()


def test_no_weight_no_contribution(rng):
    """
    Where the shift is none, a bad pixel does not spread.
    """
    data = rng.normal(0, 1, (20, 20))
    data[8, 9] = np.nan
    (aligned,) = align_exposures([make_exposure(data, make_wcs(10, 10))])
    assert_array_equal(aligned.mask, ~np.isfinite(data))
    # Half a pixel in x: two columns, and still one row.
    (aligned,) = align_exposures(
        [make_exposure(data, make_wcs(10, 10))], make_wcs(10.5, 10), (20, 20)
    )
    expected = np.zeros(data.shape, dtype=bool)
    expected[8, 9:11] = True
    expected[:, 0] = True
    assert_array_equal(aligned.mask, expected)
    assert_array_equal(aligned.n_exposures[:, 0], 0)
    assert_array_equal(aligned.n_exposures[:, 1:], 1)


# -- grids -------------------------------------------------------------------------


def test_the_first_grid_extended(rng):
    first = make_exposure(rng.normal(0, 1, (30, 40)), make_wcs(20, 15, sip=1e-6))
    right = make_exposure(rng.normal(0, 1, (30, 40)), make_wcs(9.6, 18))
    aligned = align_exposures([first, right])
    # The second covers x from 10.4 to 49.4 and y from -3 to 26 of the first.
    assert all(a.shape == (33, 50) for a in aligned)
    assert_allclose(aligned[0].data[3:, :40], first.data, atol=1e-6)
    assert aligned[0].n_exposures.sum() == first.data.size
    assert_array_equal(np.nonzero(aligned[1].n_exposures.any(0))[0][[0, -1]], [11, 49])
    assert_array_equal(np.nonzero(aligned[1].n_exposures.any(1))[0][[0, -1]], [0, 29])
    sky = first.wcs.pixel_to_world(12.0, 13.0)
    assert_allclose(aligned[0].wcs.world_to_pixel(sky), (12, 16), atol=1e-4)


def test_a_header_knows_its_shape(rng):
    exposure = make_exposure(rng.normal(0, 1, (30, 40)), make_wcs(20, 15))
    wcs = make_wcs(10, 10)
    header = wcs.to_header()
    header['NAXIS'], header['NAXIS1'], header['NAXIS2'] = 2, 22, 21
    (aligned,) = align_exposures([exposure], header)
    assert aligned.shape == (21, 22)
    wcs.array_shape = (21, 22)
    (aligned,) = align_exposures([exposure], wcs)
    assert aligned.shape == (21, 22)


def test_one_by_one(rng):
    """
    On a grid that is given, a loop with one exposure in memory gives the same.
    """
    exposures = [
        make_exposure(rng.normal(0, 1, (20, 20)), make_wcs(10 + 0.1 * k, 10))
        for k in range(3)
    ]
    grid = make_wcs(10, 10), (20, 20)
    for exposure, aligned in zip(
        exposures, align_exposures(iter(exposures), *grid), strict=True
    ):
        (alone,) = align_exposures([exposure], *grid)
        assert_array_equal(alone.data, aligned.data)
        assert_array_equal(alone.bkg_error, aligned.bkg_error)


def test_aligned_exposures_in_files(rng, tmp_path):
    wcs, wcs_out, shape_out = geometry('turned')
    exposure = make_exposure(rng.normal(0, 1, (104, 100)), wcs, psf=PSFModel())
    (aligned,) = align_exposures([exposure], wcs_out, shape_out)
    aligned.write(tmp_path / 'aligned.fits')
    back = Coadd.read(tmp_path / 'aligned.fits')
    assert_array_equal(back.data, aligned.data)
    assert_array_equal(back.n_exposures, aligned.n_exposures)
    assert_allclose(back.noise_kernel, aligned.noise_kernel)
    assert_allclose(back.psf_at(50, 50).fwhm, aligned.psf_at(50, 50).fwhm, rtol=3e-3)


def test_far_from_the_grid_nothing_comes_back(rng):
    """
    The other side of the sky has the same tangent-plane coordinates.
    """
    exposure = make_exposure(rng.normal(0, 1, (20, 20)), make_wcs(10, 10, ra=330.0))
    exposure.wcs.wcs.crval = [330.0, -2.0]
    with pytest.raises(ValueError, match=r'exposures\[0\] does not overlap'):
        align_exposures([exposure], make_wcs(10, 10), (20, 20))


def test_a_cutout_keeps_all(rng):
    wcs, wcs_out, shape_out = geometry('turned')
    exposure = make_exposure(rng.normal(0, 1, (104, 100)), wcs, psf=PSFModel())
    (aligned,) = align_exposures([exposure], wcs_out, shape_out)
    cut = aligned[40:45, 30:35]
    assert isinstance(cut, Coadd)
    assert_array_equal(cut.noise_kernel, aligned.noise_kernel)
    assert cut.noise_correlation == aligned.noise_correlation
    assert_array_equal(cut.n_exposures, aligned.n_exposures[40:45, 30:35])
    assert_allclose(cut.psf_at(2, 3).shape_vector, aligned.psf_at(32, 43).shape_vector)


# -- bad input ---------------------------------------------------------------------


def _exposures(rng, n=2, **kwargs):
    return [
        make_exposure(rng.normal(0, 1, (20, 20)), make_wcs(10 + k, 10), **kwargs)
        for k in range(n)
    ]


def test_bad_exposures(rng):
    good, other = _exposures(rng)
    with pytest.raises(ValueError, match='exposures must not be empty'):
        align_exposures([])
    with pytest.raises(ValueError, match='exposures must not be empty'):
        align_exposures([], make_wcs(10, 10), (20, 20))
    with pytest.raises(TypeError, match=r'exposures\[1\] must be Exposure; got nda'):
        align_exposures([good, good.data])
    with pytest.raises(TypeError, match='exposures must be a list'):
        align_exposures(3)
    with pytest.raises(ValueError, match=r'exposures\[1\] has no wcs'):
        align_exposures([good, other.replace(wcs=None)])
    linear = WCS(naxis=2)
    linear.wcs.ctype = ['LINEAR', 'LINEAR']
    with pytest.warns(AstropyUserWarning, match='wcs is left out'):
        without_sky = other.replace(wcs=linear)
    with pytest.raises(ValueError, match=r'exposures\[1\] has no wcs'):
        align_exposures([good, without_sky])
    with pytest.raises(ValueError, match=r'\[0\] is in None and exposures\[1\] in nJy'):
        align_exposures([good, other.replace(unit='nJy')])
    bands = [good.replace(meta={'band': 'r'}), other.replace(meta={'band': 'g'})]
    with pytest.raises(
        ValueError, match=r"band: exposures\[1\] is in 'g', those before it in 'r'"
    ):
        align_exposures(bands)
    apart = make_exposure(good.data, make_wcs(200, 10))
    with pytest.raises(ValueError, match=r'exposures\[2\] does not overlap with the'):
        align_exposures([good, other, apart])
    with pytest.raises(
        ValueError, match=r'exposures\[1\] does not overlap with the gr'
    ):
        align_exposures([good, apart], good.wcs, good.shape)
    # A chain that hangs together is one grid.
    between = make_exposure(rng.normal(0, 1, (20, 200)), make_wcs(195, 10))
    assert len(align_exposures([good, apart, between])) == 3


def test_a_masked_overlap(rng):
    good, _ = _exposures(rng)
    mask = np.ones((20, 20), dtype=bool)
    mask[:5] = False
    masked = make_exposure(good.data, make_wcs(10, 10), mask=mask)
    with pytest.raises(ValueError, match='has no good pixel there'):
        align_exposures([masked], make_wcs(10, 0), (10, 20))


@pytest.mark.parametrize('scale', [0.19, 0.81])
def test_pixels_of_another_size(scale, rng):
    good, _ = _exposures(rng)
    with pytest.raises(ValueError, match=r'those of exposures\[0\]; allowed is 0.5 to'):
        align_exposures([good], make_wcs(20, 20, scale=scale), (40, 40))
    near = 0.21 if scale < 0.4 else 0.79
    assert align_exposures([good], make_wcs(20, 20, scale=near), (40, 40))


def test_bad_arguments(rng):
    (good,) = _exposures(rng, 1)
    with pytest.raises(ValueError, match="method must be one of 'bilinear'"):
        align_exposures([good], method='bicubic')
    with pytest.raises(ValueError, match='n_noise must be an integer of at least 1'):
        align_exposures([good], n_noise=0)
    with pytest.raises(ValueError, match='shape_out must be given'):
        align_exposures([good], make_wcs(10, 10))
    with pytest.raises(ValueError, match='shape_out must be two positive integers'):
        align_exposures([good], make_wcs(10, 10), (20, -3))
    with pytest.raises(ValueError, match='shape_out must be two positive integers'):
        align_exposures([good], make_wcs(10, 10), (20.5, 20))
    with pytest.raises(ValueError, match=r'shape_out=.* needs wcs_out'):
        align_exposures([good], shape_out=(20, 20))
    with pytest.raises(TypeError, match='wcs_out must be a FITS header'):
        align_exposures([good], 'north up', (20, 20))
    with pytest.raises(ValueError, match='wcs_out must have two celestial axes'):
        align_exposures([good], WCS(naxis=2), (20, 20))


SURFACE_BRIGHTNESS = [u.MJy / u.sr, u.nmgy / u.arcsec**2, u.Jy / u.beam, u.K]


@pytest.mark.parametrize(
    ('method', 'unit'),
    [
        *(('bilinear', unit) for unit in SURFACE_BRIGHTNESS),
        *((method, SURFACE_BRIGHTNESS[0]) for method in METHODS[1:]),
    ],
)
def test_surface_brightness_does_not_depend_on_the_pixels(unit, method):
    rng = np.random.default_rng(4)
    data = 10 + rng.normal(0, 2, (40, 40))
    given = {'wcs': make_wcs(19, 19, scale=0.4), 'background_error': 0.2}
    grid = make_wcs(29, 29, scale=0.4 / 1.5, angle=20)
    options = {'wcs_out': grid, 'shape_out': (60, 60), 'method': method, 'rng': 1}
    options['n_noise'] = 2  # the same realisations of both
    (flux,) = align_exposures([make_exposure(data, unit=u.nJy, **given)], **options)
    (bright,) = align_exposures([make_exposure(data, unit=unit, **given)], **options)
    good = ~flux.mask
    assert_allclose(np.median(bright.data[good]), 10, rtol=0.02)
    # The same image but for the area of a pixel, with the same significance of all.
    area = 1 / 1.5**2
    factors = {'data': area, 'bkg_error': area, 'effective_gain': 1 / area}
    for name, factor in factors.items():
        one, two = (getattr(image, name)[good] for image in (flux, bright))
        assert_allclose(one, two * factor, rtol=2e-4)
    assert_allclose(flux.background_error, bright.background_error, rtol=1e-4)
    assert bright.unit == unit
