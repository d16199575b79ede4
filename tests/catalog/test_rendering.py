# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues drawn as images: block by block as in one pass, and by the columns' rules.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import CoaddSimulator, PSFModel, detect_sources
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.exposures._psf import PSFAccess
from bliss_astro.priors import GALAXY_SHAPE_NAMES
from bliss_astro.rendering import _scene, render_galaxies, render_stars
from bliss_astro.rendering._scene import ModelRenderer, Sources, psf_grid

NOISE = 20.0
SCALE = 0.396
# Disk fraction, angle (radians), axis ratios, radii (pixels).
GALAXY = np.array([0.6, 0.7, 0.5, 0.8, 4.0, 2.5])


class VaryingPSF:
    """
    A PSF that is wider at larger x.
    """

    def at(self, x, y):
        vector = np.array(PSFModel().shape_vector, dtype=float)
        vector[[0, 1, 3]] *= 1 + 0.001 * float(x)
        return PSFModel.from_shape(vector)


def columns_of(x, y, flux, galaxy=None, **more):
    """
    Columns of a catalogue; ``galaxy`` (n, 6) in pixels and radians, NaN for stars.
    """
    x, y, flux = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (x, y, flux))
    one = np.ones(len(x))
    out = {
        'probability': one,
        'x_centroid': x,
        'y_centroid': y,
        'x_err': 0.1 * one,
        'y_err': 0.1 * one,
        'flux': flux,
        'flux_err': 200.0 * one,
    }
    if galaxy is not None:
        galaxy = np.atleast_2d(galaxy)
        out['galaxy_probability'] = np.isfinite(galaxy[:, 0]).astype(float)
        values = dict(zip(GALAXY_SHAPE_NAMES, galaxy.T, strict=True))
        values['angle'] = np.rad2deg(values['angle'])
        out |= values
    return out | more


def make_catalog(*args, image_shape=(60, 70), **kwargs):
    made = {name: kwargs.pop(name) for name in ('wcs', 'unit') if name in kwargs}
    columns = columns_of(*args, **kwargs)
    return ProbabilisticCatalog.from_columns(columns, image_shape=image_shape, **made)


def star_image(x, y, flux, shape, psf=None):
    """
    Stars in one pass, in double precision.
    """
    vector = torch.tensor((psf or PSFModel()).shape_vector, dtype=torch.float64)
    parts = [torch.tensor(np.atleast_1d(v), dtype=torch.float64)[None] for v in (x, y)]
    flux = torch.tensor(np.atleast_1d(flux), dtype=torch.float64)[None]
    return render_stars(vector[None], *parts, flux, size=shape)[0].numpy()


def galaxy_image(x, y, flux, galaxy, shape):
    """
    Galaxies in one pass.
    """
    vector = torch.tensor(PSFModel().shape_vector, dtype=torch.float32)[None]
    parts = [torch.tensor(np.atleast_1d(v), dtype=torch.float32)[None] for v in (x, y)]
    flux = torch.tensor(np.atleast_1d(flux), dtype=torch.float32)[None]
    galaxy = torch.tensor(np.atleast_2d(galaxy), dtype=torch.float32)[None]
    return render_galaxies(vector, *parts, flux, galaxy, size=shape)[0].numpy()


@pytest.fixture
def wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval, wcs.wcs.crpix = (150.0, 2.0), (30, 30)
    wcs.wcs.cdelt = -SCALE / 3600, SCALE / 3600
    return wcs


# -- blocks --------------------------------------------------------------------


def renderer_for(shape, psf=None):
    grid = psf_grid(shape, PSFAccess(PSFModel() if psf is None else psf))
    return ModelRenderer(shape, grid, NOISE)


@pytest.mark.parametrize('number', [8, 1], ids=['few', 'crowd'])
def test_stars_in_blocks_are_those_of_one_pass(number, monkeypatch, rng):
    monkeypatch.setattr(_scene, '_CELL', 64)
    monkeypatch.setattr(_scene, '_STARS', number)
    monkeypatch.setattr(_scene, '_MANY', 1)
    monkeypatch.setattr(_scene, '_PIXELS', 10**5)
    shape, n = (300, 400), 150
    x, y = rng.uniform(-3, 402, n), rng.uniform(-3, 302, n)
    flux = np.exp(rng.uniform(np.log(500), np.log(5e6), n))
    renderer = renderer_for(shape)
    sources = Sources(x, y, flux, np.zeros(n, dtype=bool))
    sizes = []

    def spied(*args, size, **kwargs):
        sizes.extend([size] * len(args[1]))
        return render_stars(*args, size=size, **kwargs)

    monkeypatch.setattr(_scene, 'render_stars', spied)
    drawn = renderer(sources)
    # Many squares around some stars each, for those of all three reaches.
    assert len(set(renderer.reach_of(sources))) == 3
    assert len(sizes) > 60
    assert {max(size) for size in sizes} == {32 + 48, 32 + 144, 400}
    # What is cut off a star is fainter than 0.5 % of the noise; sums of such
    # are small, as most stars are far from being cut there.
    assert_allclose(drawn, star_image(x, y, flux, shape), rtol=3e-5, atol=0.02 * NOISE)


def test_the_very_brightest_are_drawn_to_the_ends():
    # 280 pixels away, in another cell and beyond the largest of the reaches.
    shape = (310, 60)
    renderer = renderer_for(shape)
    flux = 1e9
    sources = Sources(*np.array([[10.0], [20.0], [flux]]), np.zeros(1, dtype=bool))
    assert renderer.halo_of(sources)[0] == np.inf
    truth = star_image(10.0, 20.0, flux, shape)
    assert truth[300, 10] > 0.005 * NOISE
    assert_allclose(renderer(sources)[300, 10], truth[300, 10], rtol=1e-3)


def test_galaxies_in_blocks_are_those_of_one_pass(monkeypatch, rng):
    monkeypatch.setattr(_scene, '_CELL', 64)
    shape, n = (256, 300), 40
    x, y = rng.uniform(0, 299, n), rng.uniform(0, 255, n)
    flux = np.exp(rng.uniform(np.log(1e3), np.log(3e5), n))
    galaxy = GALAXY * np.ones((n, 1))
    galaxy[:, 1] = rng.uniform(0, np.pi, n)
    galaxy[:, 4:] = rng.lognormal(1.0, 0.7, (n, 2))
    # A large, bright galaxy on the corner of four cells, seen 60 pixels away.
    x[0], y[0], flux[0], galaxy[0] = 128.2, 127.9, 3e6, [1.0, 0.4, 0.4, 0.5, 15.0, 5.0]
    renderer = renderer_for(shape)
    sources = Sources(x, y, flux, np.ones(n, dtype=bool), galaxy)
    drawn = renderer(sources)
    whole = galaxy_image(x, y, flux, galaxy, shape)
    assert renderer.halo_of(sources)[0] > 60
    near = (slice(120, 136), slice(120, 136))
    # The renderer's own accuracy (3e-4 of the peak) where its plan differs with
    # the size of the image, and what is cut off.
    atol = 3e-4 * whole[near].max()
    assert_allclose(drawn, whole, atol=0.02 * NOISE + atol)
    far = np.hypot(*np.mgrid[-128:128, -128:172]) > 100
    assert_allclose(drawn[far], whole[far], rtol=0.01, atol=0.03 * NOISE)


def test_reach_of_galaxies_goes_by_their_size():
    renderer = renderer_for((500, 500))
    galaxy = GALAXY * np.ones((3, 1))
    galaxy[:, 4] = [0.5, 3.0, 20.0]
    galaxy[:, 0] = 1
    place = np.full(3, 250.0)
    sources = Sources(place, place, np.full(3, 3e4), np.ones(3, dtype=bool), galaxy)
    halo = renderer.halo_of(sources)
    assert halo[0] <= halo[1] < halo[2]
    stars = Sources(place, place, sources.flux, np.zeros(3, dtype=bool), galaxy)
    assert_array_equal(renderer.halo_of(stars), halo[0])


@pytest.mark.parametrize('cutout', [np.s_[3:33, 250:290], np.s_[:, -20:], np.s_[90:]])
def test_cutouts_are_those_of_the_whole(cutout, rng):
    n, shape = 400, (280, 300)
    galaxy = GALAXY * np.ones((n, 1))
    galaxy[::2] = np.nan
    place = rng.uniform(0, 299, n), rng.uniform(0, 279, n)
    flux = rng.uniform(1e3, 1e5, n)
    catalog = make_catalog(*place, flux, galaxy=galaxy, image_shape=shape)
    whole = catalog.render(psf=PSFModel())
    part = catalog.render(psf=PSFModel(), cutout=cutout)
    assert part.shape == whole[cutout].shape
    assert part.max() > 100
    assert_allclose(part, whole[cutout], rtol=1e-5, atol=3e-4 * whole.max())


# -- rules of the columns ---------------------------------------------------------


def test_galaxies_come_from_the_columns(wcs):
    shape, place = (60, 70), (31.3, 28.6)
    truth = galaxy_image(*place, 5e4, GALAXY, shape)
    plain = make_catalog(*place, 5e4, galaxy=GALAXY).render(psf=PSFModel())
    assert_allclose(plain, truth, rtol=1e-4, atol=1e-4 * truth.max())
    # Radii in arcsec, angles in radians, flux in nanomaggies.
    angles = {
        'disk_radius': [GALAXY[4] * SCALE] * u.arcsec,
        'bulge_radius': [GALAXY[5] * SCALE / 3600] * u.deg,
        'angle': [GALAXY[1]] * u.rad,
    }
    catalog = make_catalog(*place, 5e4, galaxy=GALAXY, **angles, wcs=wcs, unit=u.nmgy)
    drawn = catalog.render(psf=PSFModel())
    assert drawn.unit == u.nmgy
    # Written the other way round the angle would be off by far more.
    assert_allclose(drawn.value, truth, rtol=1e-4, atol=1e-4 * truth.max())
    flipped = galaxy_image(*place, 5e4, GALAXY * [1, -1, 1, 1, 1, 1], shape)
    assert np.abs(flipped - truth).max() > 0.1 * truth.max()


def test_what_is_no_galaxy_is_a_star():
    shapes = GALAXY * np.ones((5, 1))
    shapes[1] = np.nan
    shapes[2, 4] = np.nan
    shapes[3, 2] = 0
    catalog = make_catalog(np.full(5, 30.0), np.full(5, 30.0), 1e4 - np.arange(5.0))
    for name, values in zip(GALAXY_SHAPE_NAMES, shapes.T, strict=True):
        catalog[name] = np.rad2deg(values) if name == 'angle' else values
    catalog['galaxy_probability'] = [0.5, 1.0, 1.0, 1.0, 0.51]
    star = star_image(30.0, 30.0, 1e4, (60, 70))
    peaks = [float(catalog[k : k + 1].render(psf=PSFModel()).max()) for k in range(5)]
    assert_allclose(peaks[:4], star.max(), rtol=2e-3)
    assert peaks[4] < 0.5 * star.max()


def test_without_shapes_all_are_stars_and_it_says_so():
    catalog = make_catalog([20.0, 40.0], [30.0, 30.0], [2e4, 1e4])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        drawn = catalog.render(psf=PSFModel())
    catalog['galaxy_probability'] = [0.9, 0.1]
    with pytest.warns(AstropyUserWarning, match='its 1 galaxies are drawn as stars'):
        warned = catalog.render(psf=PSFModel())
    assert_array_equal(warned, drawn)
    truth = star_image([20.0, 40.0], [30.0, 30.0], [2e4, 1e4], (60, 70))
    assert_allclose(drawn, truth, rtol=1e-4, atol=0.01)


def test_fluxes_that_are_not_known_are_not_drawn():
    catalog = make_catalog([20.0, 40.0], [30.0, 30.0], [2e4, np.nan])
    drawn = catalog.render(psf=PSFModel())
    assert_allclose(drawn, star_image(20.0, 30.0, 2e4, (60, 70)), atol=0.01)


def test_empty_catalogues_are_dark():
    catalog = make_catalog([], [], [], unit=u.nmgy)
    drawn = catalog.render(psf=PSFModel())
    assert drawn.unit == u.nmgy
    assert drawn.shape == (60, 70)
    assert not drawn.value.any()


def test_another_shape_has_the_same_pixels():
    catalog = make_catalog([20.0], [30.0], [2e4])
    small = catalog.render(psf=PSFModel())
    large = catalog.render(psf=PSFModel(), shape=(90, 100))
    assert large.shape == (90, 100)
    assert_allclose(large[:60, :70], small, rtol=1e-5, atol=1e-4)


# -- PSFs --------------------------------------------------------------------------


def test_the_psf_follows_the_place():
    shape = (100, 1000)
    catalog = make_catalog([64.0, 960.0], [50.0, 50.0], [1e5, 1e5], image_shape=shape)
    drawn = catalog.render(psf=VaryingPSF())
    for x in (64.0, 960.0):
        # In the middle of a cell of 128 pixels the PSF is exactly that.
        own = VaryingPSF().at(x // 128 * 128 + 63.5, 50)
        part = np.s_[:, int(x) - 30 : int(x) + 30]
        truth = star_image(x, 50.0, 1e5, shape, psf=own)[part]
        assert_allclose(drawn[part], truth, atol=2e-4 * truth.max())
    assert drawn[50, 64] > 2.5 * drawn[50, 960]


@pytest.mark.parametrize('psf', [PSFModel(), VaryingPSF()])
def test_the_psf_of_the_posterior(psf):
    """
    What the encoder was told draws what the exposure's own PSF draws.
    """
    simulator = CoaddSimulator(shape=(64, 320))
    exposure, _ = simulator.sample(rng=3)
    exposure = exposure.replace(psf=psf)
    catalog = detect_sources(exposure, encoder='stars', density=1e-3)
    assert len(catalog) > 0
    drawn = catalog.render()
    assert drawn.unit == exposure.unit
    assert drawn.shape == exposure.shape
    truth = catalog.render(psf=psf)
    assert_allclose(drawn.value, truth.value, rtol=0, atol=0.01 * truth.value.max())
    # Parts of a catalogue know the image too.
    assert_allclose(
        catalog[:1].render().value.sum(), catalog['flux'][0].value, rtol=0.1
    )


# -- what cannot be drawn ------------------------------------------------------------


def test_bad_arguments_are_told(wcs):
    catalog = make_catalog([20.0], [30.0], [2e4])
    with pytest.raises(ValueError, match=r'no posterior .* psf='):
        catalog.render()
    with pytest.raises(TypeError, match='psf must be'):
        catalog.render(psf='narrow')
    for cutout, error in (
        (np.s_[3, 4], TypeError),
        (np.s_[3:3, :], ValueError),
        (np.s_[::2, :], ValueError),
    ):
        with pytest.raises(error, match='cutout'):
            catalog.render(psf=PSFModel(), cutout=cutout)
    for shape in ((0, 5), (5.5, 5), 7, 'large'):
        with pytest.raises(ValueError, match='shape must be two positive'):
            catalog.render(psf=PSFModel(), shape=shape)
    nowhere = make_catalog([20.0], [30.0], [2e4], image_shape=None)
    with pytest.raises(ValueError, match='shape of its image'):
        nowhere.render(psf=PSFModel())
    angles = {'disk_radius': [1.0] * u.arcsec, 'bulge_radius': [1.0] * u.arcsec}
    blind = make_catalog([20.0], [30.0], [2e4], galaxy=GALAXY, **angles)
    with pytest.raises(ValueError, match='no celestial wcs'):
        blind.render(psf=PSFModel())
