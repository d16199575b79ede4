# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The check of a catalogue: calibrated, and not blind.

A posterior whose draws are the truth stands in for the exact one: over many images
the pair of an exact draw and its data is distributed as the pair of truth and data.
"""

import os

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable
from astropy.utils.exceptions import AstropyDeprecationWarning
from scipy.stats import kstest

from bliss_astro import (
    CoaddSimulator,
    Exposure,
    OutOfDomainWarning,
    PSFModel,
    detect_sources,
)
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.checks._residuals import cells_of
from bliss_astro.coadds._noise import correlated_noise, kernel_of_pair
from bliss_astro.priors import StarPrior
from bliss_astro.rendering import render_stars
from bliss_astro.rendering._scene import ModelRenderer, Sources

SKY = 865.0
# Images of a test of calibration: more in the run that takes minutes.
N_IMAGES = 50 if 'BLISS_ASTRO_RUN_SLOW' in os.environ else 20


class TruePosterior:
    """
    Draws the truth, or what is left of it.
    """

    def __init__(self, sources, shape, unit=None):
        self.sources, self.shape, self.unit = sources, shape, unit

    def sample(self, n=1, *, rng=None):
        flux = self.sources.flux
        table = QTable(
            {
                'x_centroid': self.sources.x,
                'y_centroid': self.sources.y,
                'flux': flux if self.unit is None else flux * self.unit,
            }
        )
        if self.sources.is_galaxy.any():
            table['is_galaxy'] = self.sources.is_galaxy
        return [table.copy() for _ in range(n)]


def make_catalog(sources, shape, unit=None, posterior=True):
    flux = sources.flux if unit is None else sources.flux * unit
    columns = {
        'probability': np.ones(len(sources)),
        'x_centroid': sources.x,
        'y_centroid': sources.y,
        'x_err': np.full(len(sources), 0.1),
        'y_err': np.full(len(sources), 0.1),
        'flux': flux,
        'flux_err': 0.05 * flux,
    }
    return ProbabilisticCatalog.from_columns(
        columns,
        image_shape=shape,
        posterior=TruePosterior(sources, shape, unit) if posterior else None,
    )


def draw_stars(rng, shape, n, low=600, high=3e4):
    ny, nx = shape
    x, y = rng.uniform(0, nx - 1, n), rng.uniform(0, ny - 1, n)
    flux = np.exp(rng.uniform(np.log(low), np.log(high), n))
    return Sources(x, y, flux, np.zeros(n, dtype=bool))


def observe(rng, sources, shape, *, psf=None, correlation=(0.0, 0.0)):
    """
    An exposure of sources in electrons, with a sky of 865 of them.
    """
    exposure = Exposure(
        np.zeros(shape),
        background=SKY,
        bkg_error=np.sqrt(SKY),
        effective_gain=1.0,
        psf=PSFModel() if psf is None else psf,
        noise_correlation=correlation,
    )
    signal = ModelRenderer.of(exposure)(sources)
    noise = correlated_noise(shape, kernel_of_pair(*correlation), rng)
    data = SKY + signal + noise * np.sqrt(SKY + signal)
    return exposure.replace(data=data)


@pytest.fixture(scope='module')
def scene():
    """
    60 stars in 200 x 240 pixels: (sources, exposure, catalogue).
    """
    rng = np.random.default_rng(5)
    sources = draw_stars(rng, (200, 240), 60)
    return (
        sources,
        observe(rng, sources, (200, 240)),
        make_catalog(sources, (200, 240)),
    )


@pytest.fixture(scope='module')
def checked(scene):
    """
    The check of the scene, which changes neither image nor rows.
    """
    _, exposure, catalog = scene
    data, rows = exposure.data.copy(), catalog.copy()
    check = catalog.check(exposure, rng=1)
    np.testing.assert_array_equal(exposure.data, data)
    np.testing.assert_array_equal(catalog['flux'], rows['flux'])
    return check


def scaled_psf(factor):
    vector = np.array(PSFModel().shape_vector, dtype=float)
    vector[[0, 1, 3]] *= factor
    return PSFModel.from_shape(vector)


def kinds(check):
    return set(check.findings['kind'])


# -- calibration ------------------------------------------------------------------


@pytest.mark.parametrize('correlation', [(0.0, 0.0), (0.4, 0.4)])
def test_p_values_are_uniform(correlation):
    shape = (96, 96)
    rng = np.random.default_rng(11)
    whole, cells, alarms, pulls, scatter = [], [], 0, [], []
    for k in range(N_IMAGES):
        sources = draw_stars(rng, shape, 12)
        exposure = observe(rng, sources, shape, correlation=correlation)
        check = make_catalog(sources, shape).check(exposure, n_draws=1, rng=k)
        whole.append(check.p_value)
        cells.extend(check.cells['p_value'])
        pulls.extend(check.cells['offset'] / check.cells['offset_err'])
        excess = check.cells['chi2'] - check.cells['chi2_expected']
        scatter.extend(excess / check.cells['chi2_err'])
        alarms += not check.passed
    assert kstest(whole, 'uniform').pvalue > 0.01
    assert len(cells) == 16 * N_IMAGES
    # Cells share no pixels; their noise is all but independent.
    assert kstest(cells, 'uniform').pvalue > 0.01
    # 3 standard errors of a standard deviation, and a little for the correlations
    # that cells' edges cut.
    assert np.std(pulls) == pytest.approx(1, abs=3 / np.sqrt(2 * len(pulls)) + 0.03)
    # Without the correlations of squares it would be 1.32.
    assert np.std(scatter) == pytest.approx(1, abs=3 / np.sqrt(2 * len(pulls)) + 0.03)
    # 1 % of images get a finding: 4 of 50, or 3 of 20, have one of 0.002 or less.
    assert alarms <= (3 if N_IMAGES == 50 else 2)


def test_fits_take_nothing_off_the_noise():
    """
    2700 fitted numbers would lower the chi-square by that, without a second noise.
    """
    rng = np.random.default_rng(13)
    excess = n_pixels = 0
    for k in range(6):
        sources = draw_stars(rng, (96, 96), 150, low=3e3)
        exposure = observe(rng, sources, (96, 96))
        check = make_catalog(sources, (96, 96)).check(exposure, n_draws=1, rng=k)
        excess += (check.cells['chi2'] - check.cells['chi2_expected']).sum()
        n_pixels += check.cells['n_pixels'].sum()
    # The standard deviation is 300.
    assert abs(excess) < 3.5 * np.sqrt(2 * n_pixels)


def test_encoder_and_its_own_images_agree(encoder):
    exposure, _ = CoaddSimulator(
        1, StarPrior(density=0.003), shape=(150, 160), margin=8
    ).sample(rng=8)
    check = detect_sources(exposure, encoder=encoder).check(exposure, rng=2)
    assert check.p_value > 1e-3
    assert not kinds(check) & {'psf', 'noise', 'background', 'photon noise', 'cells'}
    wrong = exposure.replace(psf=scaled_psf(1.1))
    with pytest.warns(OutOfDomainWarning, match='narrower than the stated psf'):
        catalog = detect_sources(wrong, encoder=encoder)
    check = catalog.check(wrong, n_draws=1, rng=2)
    (finding,) = [f for f in check.findings if f['kind'] == 'psf']
    assert finding['value'] == pytest.approx(-0.1, abs=0.02)
    assert 'narrower than the PSF' in finding['text']
    assert 'ring' in finding['text']


# -- what must be found ------------------------------------------------------------


def test_nothing_found_where_nothing_is_wrong(checked):
    assert checked.passed
    assert 'nothing found' in repr(checked)
    assert repr(checked).startswith('<CatalogCheck of 200 x 240 px: chi2 / n = ')
    with pytest.warns(AstropyDeprecationWarning, match='Use CatalogCheck.tests'):
        assert checked.to_table() is checked.tests


def test_wrong_psf(scene):
    _, exposure, catalog = scene
    for factor, word in ((1.1, 'narrower'), (1 / 1.1, 'broader')):
        check = catalog.check(
            exposure.replace(psf=scaled_psf(factor)), n_draws=1, rng=1
        )
        (finding,) = [f for f in check.findings if f['kind'] == 'psf']
        # The derivative is taken at the wrong PSF: good to second order.
        assert finding['value'] == pytest.approx(1 / factor - 1, abs=0.02)
        assert word in finding['text']
        # The stars themselves are no findings then.
        assert not kinds(check) & {'source shape', 'missing source', 'surplus light'}


def test_elongated_psf(scene):
    _, exposure, catalog = scene
    vector = np.array(PSFModel().shape_vector, dtype=float)
    vector[6] = 0.08
    check = catalog.check(
        exposure.replace(psf=PSFModel.from_shape(vector)), n_draws=1, rng=1
    )
    (finding,) = [f for f in check.findings if f['kind'] == 'psf']
    assert finding['value'] == pytest.approx(-0.08, abs=0.02)
    assert 'elongated' in finding['text']


@pytest.mark.parametrize('offset', [0.2, -0.2])
def test_wrong_background(scene, offset):
    _, exposure, catalog = scene
    wrong = exposure.replace(background=SKY + offset * np.sqrt(SKY))
    check = catalog.check(wrong, n_draws=1, rng=1)
    (finding,) = [f for f in check.findings if f['kind'] == 'background']
    assert finding['value'] == pytest.approx(-offset, abs=0.04)
    assert 'everywhere' in finding['text']
    assert finding['error'] < 0.02


def test_stripes_are_a_cause(scene):
    _, exposure, catalog = scene
    rng = np.random.default_rng(12)
    stripes = np.repeat(rng.normal(size=(200, 1)), 240, axis=1)
    wrong = exposure.replace(data=exposure.data + 2 * np.sqrt(SKY) * stripes)
    check = catalog.check(wrong, n_draws=0, rng=1)
    assert 'stripes of the detector' in check.summary()


def test_background_in_a_corner(scene):
    _, exposure, catalog = scene
    level = np.full(exposure.shape, SKY)
    level[:66, :80] -= 0.3 * np.sqrt(SKY)
    check = catalog.check(exposure.replace(background=level), n_draws=1, rng=1)
    (finding,) = [f for f in check.findings if f['kind'] == 'background']
    assert 'in the lower left' in finding['text']
    assert finding['value'] == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize('factor', [1.2, 1 / 1.2])
def test_wrong_noise(scene, factor):
    _, exposure, catalog = scene
    wrong = exposure.replace(bkg_error=exposure.bkg_error / factor)
    check = catalog.check(wrong, n_draws=1, rng=1)
    (finding,) = [f for f in check.findings if f['kind'] == 'noise']
    assert finding['value'] == pytest.approx(factor - 1, abs=0.03)


def test_wrong_gain():
    # 120 bright stars: photons of the sources are most of the noise somewhere.
    rng = np.random.default_rng(6)
    shape = (180, 180)
    sources = draw_stars(rng, shape, 120, low=1e4, high=6e4)
    exposure = observe(rng, sources, shape)
    catalog = make_catalog(sources, shape)
    assert 'photon noise' not in kinds(catalog.check(exposure, n_draws=1, rng=1))
    for factor in (1.6, 0.5):
        wrong = exposure.replace(effective_gain=factor)
        check = catalog.check(wrong, n_draws=1, rng=1)
        (finding,) = [f for f in check.findings if f['kind'] == 'photon noise']
        assert finding['value'] == pytest.approx(factor - 1, abs=4 * finding['error'])
        assert finding['error'] < 0.12


def test_missing_star(scene):
    sources, exposure, _ = scene
    # The faintest star of a signal-to-noise ratio above 12 with no other near.
    apart = np.hypot(sources.x[:, None] - sources.x, sources.y[:, None] - sources.y)
    np.fill_diagonal(apart, 99)
    inner = (np.abs(sources.x - 120) < 100) & (np.abs(sources.y - 100) < 80)
    alone = np.nonzero((apart.min(1) > 15) & inner & (sources.flux > 2000))[0]
    k = alone[np.argmin(sources.flux[alone])]
    left = sources.select(np.arange(len(sources)) != k)
    check = make_catalog(left, exposure.shape).check(exposure, rng=1)
    places = [f for f in check.findings if f['kind'] == 'missing source']
    assert len(places) == 1
    assert np.hypot(places[0]['x'] - sources.x[k], places[0]['y'] - sources.y[k]) < 1.5
    assert places[0]['value'] == pytest.approx(sources.flux[k], rel=0.3)
    assert 'that the catalogue lacks' in places[0]['text']


def test_star_too_many(scene):
    sources, exposure, _ = scene
    false = {'x': 20.0, 'y': 150.0, 'flux': 3000.0, 'is_galaxy': False}
    more = Sources(*(np.append(getattr(sources, k), v) for k, v in false.items()))
    check = make_catalog(more, exposure.shape).check(exposure, rng=1)
    # It is moved to what the image has there, which is next to nothing.
    assert 'missing source' not in kinds(check)
    assert check.p_value > 1e-3


def test_galaxy_that_stars_do_not_describe():
    rng = np.random.default_rng(9)
    sources = draw_stars(rng, (160, 160), 20)
    sources.x[0], sources.y[0], sources.flux[0] = 80, 70, 2e4
    sources.is_galaxy[0] = True
    sources.galaxy = np.tile([1.0, 0.5, 0.7, 0.7, 3.0, 3.0], (20, 1))
    exposure = observe(rng, sources, (160, 160))
    stars = Sources(sources.x, sources.y, sources.flux, np.zeros(20, dtype=bool))
    check = make_catalog(stars, (160, 160)).check(exposure, rng=1)
    near = [f for f in check.findings if np.hypot(f['x'] - 80, f['y'] - 70) < 6]
    assert near
    assert near[0]['kind'] == 'source shape'
    assert 'galaxy' in near[0]['text']
    assert not kinds(check) & {'psf', 'noise', 'background'}
    # With its type known, its shape is fitted and explains the light.
    known = make_catalog(sources, (160, 160))
    assert known.check(exposure, rng=1).passed


def test_lone_extended_source():
    rng = np.random.default_rng(10)
    sources = draw_stars(rng, (160, 160), 12)
    sources.x[0], sources.y[0], sources.flux[0] = 80, 70, 9e3
    sources.is_galaxy[0] = True
    sources.galaxy = np.tile([1.0, 0.5, 0.9, 0.9, 5.0, 5.0], (12, 1))
    sources.x[1:] = np.where(np.abs(sources.x[1:] - 80) < 25, 20, sources.x[1:])
    exposure = observe(rng, sources, (160, 160))
    rest = sources.select(np.arange(12) > 0)
    check = make_catalog(rest, (160, 160)).check(exposure, rng=1)
    (finding,) = [f for f in check.findings if np.hypot(f['x'] - 80, f['y'] - 70) < 5]
    assert finding['kind'] == 'extended source'


# -- kinds of exposures --------------------------------------------------------------


class TiltedPSF:
    """
    A PSF that is broader on the right.
    """

    def at(self, x, y):
        return scaled_psf(0.9 + 0.4 * x / 240)


def test_psf_that_varies():
    rng = np.random.default_rng(3)
    sources = draw_stars(rng, (140, 280), 60)
    exposure = observe(rng, sources, (140, 280), psf=TiltedPSF())
    catalog = make_catalog(sources, (140, 280))
    assert catalog.check(exposure, n_draws=1, rng=1).passed
    constant = exposure.replace(psf=TiltedPSF().at(140, 70))
    assert not catalog.check(constant, n_draws=1, rng=1).passed


def test_masked_pixels_do_not_count(scene):
    _, exposure, catalog = scene
    mask = np.zeros(exposure.shape, dtype=bool)
    mask[50:60, 30:90] = mask[:, 100] = True
    data = np.where(mask, 1e6, exposure.data)
    one = catalog.check(exposure.replace(mask=mask), n_draws=1, rng=1)
    two = catalog.check(exposure.replace(data=data, mask=mask), n_draws=1, rng=1)
    assert two.passed
    assert np.isnan(two.residual[mask]).all()
    assert np.isfinite(two.residual[~mask]).all()
    np.testing.assert_array_equal(one.cells['chi2'], two.cells['chi2'])
    border = 2 * (200 + 240) * 6
    assert 0 < mask.size - two.cells['n_pixels'].sum() - mask.sum() < border


def test_units_change_nothing(scene, checked):
    sources, exposure, _ = scene
    maps = {
        'background': SKY * u.electron,
        'bkg_error': np.sqrt(SKY) * u.electron,
    }
    same = Exposure(
        exposure.data * u.electron, effective_gain=1.0, psf=exposure.psf, **maps
    )
    with_unit = make_catalog(sources, exposure.shape, unit=u.electron)
    two = with_unit.check(same, rng=1)
    np.testing.assert_array_equal(checked.cells['chi2'], two.cells['chi2'])


def test_maps_of_noise_and_gain(scene, checked):
    _, exposure, catalog = scene
    maps = {name: np.array(value) for name, value in exposure.maps().items()}
    two = catalog.check(exposure.replace(**maps), rng=1)
    np.testing.assert_allclose(checked.cells['chi2'], two.cells['chi2'], rtol=1e-5)


# -- the object ------------------------------------------------------------------------


def test_same_seed_same_check(scene, checked):
    _, exposure, catalog = scene
    same, other = (catalog.check(exposure, rng=seed) for seed in (1, 5))
    np.testing.assert_array_equal(checked.residual, same.residual)
    assert checked.p_value == same.p_value
    assert checked.p_value != other.p_value


def test_rows_without_posterior(scene):
    sources, exposure, _ = scene
    rows = make_catalog(sources, exposure.shape, posterior=False)
    check = rows.check(exposure, n_draws=0, rng=1)
    assert check.passed
    assert check.n_draws == 0


def test_tables_and_maps(scene):
    _, exposure, catalog = scene
    check = catalog.check(exposure, rng=1, regions=(4, 5))
    assert check.residual.shape == check.shape == check.labels.shape == (200, 240)
    assert check.grid == (4, 5)
    assert len(check.cells) == 20
    np.testing.assert_array_equal(check.cells['chi2_expected'], check.cells['n_pixels'])
    table = check.tests
    assert {'noise', 'background', 'psf', 'cells'} <= set(table['kind'])
    # The median over draws has no more scatter than noise has.
    assert np.nanstd(check.residual) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ('regions', 'n_regions'), [(None, 64), (40, 30), ((2, 3), 6), (1000, 1)]
)
def test_regions(regions, n_regions):
    labels, grid = cells_of(regions, (200, 240))
    if regions is None:
        n_regions = grid[0] * grid[1]
        assert 200 / grid[0] >= 24
    assert labels.max() + 1 == n_regions
    assert len(np.unique(labels)) == n_regions


def test_own_labels(scene):
    _, exposure, catalog = scene
    labels = np.full(exposure.shape, -1)
    labels[20:60, 20:60] = 0
    labels[100:150, 20:60] = 7
    check = catalog.check(exposure, rng=1, regions=labels)
    assert list(check.cells['region']) == [0, 7]
    assert list(check.cells['n_pixels']) == [1600, 2000]
    assert check.grid is None


def test_cells_and_sources_of_large_images(scene):
    # Drawn cell by cell, as in one piece.
    rng = np.random.default_rng(2)
    shape = (300, 520)
    sources = draw_stars(rng, shape, 80, high=1e6)
    exposure = observe(rng, sources, shape)
    whole = render_stars(
        torch.tensor(np.array(PSFModel().shape_vector), dtype=torch.float32)[None],
        *(
            torch.tensor(v, dtype=torch.float32)[None]
            for v in (sources.x, sources.y, sources.flux)
        ),
        size=shape,
    )[0].numpy()
    drawn = ModelRenderer.of(exposure)(sources)
    # Sources are left out where they are below 0.005 of the noise.
    assert np.abs(drawn - whole).max() < 0.05 * np.sqrt(SKY) + 1e-5 * whole.max()


def test_image_without_sources():
    rng = np.random.default_rng(4)
    nothing = draw_stars(rng, (100, 100), 0)
    exposure = observe(rng, nothing, (100, 100))
    check = make_catalog(nothing, (100, 100)).check(exposure, n_draws=1, rng=1)
    assert check.passed
    assert not check.model.any()


def test_crowded_image_without_empty_sky():
    rng = np.random.default_rng(4)
    sources = draw_stars(rng, (40, 40), 60, low=2e4, high=2e5)
    exposure = observe(rng, sources, (40, 40))
    check = make_catalog(sources, (40, 40)).check(exposure, n_draws=1, rng=1)
    assert np.isfinite(check.p_value)
    assert 'background' not in kinds(check)


def test_small_image():
    rng = np.random.default_rng(4)
    sources = draw_stars(rng, (20, 24), 2)
    exposure = observe(rng, sources, (20, 24))
    check = make_catalog(sources, (20, 24)).check(exposure, n_draws=1, rng=1)
    assert len(check.cells) >= 1
    assert np.isfinite(check.p_value)


# -- bad input ---------------------------------------------------------------------


def test_bad_exposures(scene):
    sources, exposure, catalog = scene
    with pytest.raises(TypeError, match='exposure must be an Exposure, got ndarray'):
        catalog.check(exposure.data)
    with pytest.raises(ValueError, match=r'exposure has shape \(100, 240\)'):
        catalog.check(exposure[:100])
    without = Exposure(
        exposure.data, background=SKY, bkg_error=29.0, effective_gain=1.0
    )
    with pytest.raises(ValueError, match='exposure has no psf'):
        catalog.check(without)
    with_unit = make_catalog(sources, exposure.shape, unit=u.nmgy)
    with pytest.raises(ValueError, match='exposure has the unit None'):
        with_unit.check(exposure)


def test_bad_arguments(scene):
    sources, exposure, catalog = scene
    rows = make_catalog(sources, exposure.shape, posterior=False)
    with pytest.raises(ValueError, match='no posterior to draw from'):
        rows.check(exposure)
    for n in (-1, 1.5, True):
        with pytest.raises(ValueError, match='n_draws must be an integer'):
            catalog.check(exposure, n_draws=n)
    for regions in ('all', True, (1, 2, 3), (1.5, 2), 3.5):
        with pytest.raises(TypeError, match='regions must be'):
            catalog.check(exposure, regions=regions)
    for regions in (0, -3, (0, 4), (201, 4)):
        with pytest.raises(ValueError, match='regions must have at least a pixel'):
            catalog.check(exposure, regions=regions)
    for regions in (np.zeros((3, 3), int), np.zeros((200, 240))):
        with pytest.raises(ValueError, match='regions must be a map of whole numbers'):
            catalog.check(exposure, regions=regions)
    with pytest.raises(ValueError, match='regions must hold a region'):
        catalog.check(exposure, regions=np.full((200, 240), -1))
