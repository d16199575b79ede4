# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sources put into an image: what is counted, and what it comes to.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.stats import binom_conf_interval

from bliss_astro import (
    BlissFinder,
    CoaddSimulator,
    Exposure,
    PSFModel,
    detect_sources,
)
from bliss_astro.checks import Completeness, completeness
from bliss_astro.checks._completeness import draw_positions
from bliss_astro.checks._recall import Injector, recall_limits, recall_table
from bliss_astro.detection._detect import DetectionOptions
from bliss_astro.priors import CatalogPrior, StarPrior
from bliss_astro.rendering._scene import Sources

# Of SDSS's r band in run 94, camcol 1, field 12: 987.31 electrons per nmgy.
ZERO_POINT = 22.5 + 2.5 * np.log10(987.31)


@pytest.fixture(scope='module')
def sparse():
    """
    A single exposure in electrons, 208 x 240 pixels.
    """
    sky = StarPrior(density=0.001)
    return CoaddSimulator(1, sky, shape=(208, 240), margin=6).sample(rng=17)[0]


@pytest.fixture(scope='module')
def finder(encoder):
    return BlissFinder(encoder=encoder)


@pytest.fixture(scope='module')
def result(sparse, finder):
    """
    96 stars of signal-to-noise ratios 2 to 60 put into it.
    """
    return completeness(sparse, finder, n_sources=96, spacing=32, rng=4)


# -- the answer ---------------------------------------------------------------------


def test_recall_rises_with_flux(result):
    table = result.table
    assert len(table) == 8
    assert list(table['n']) == [12] * 8
    # Signal-to-noise ratios 2 to 3: below the flux floor of 3.4.
    assert table['recall'][0] < 0.5
    # 15 to 60: a blend may hide one.
    assert np.all(table['recall'][5:] >= 0.9)
    interval = binom_conf_interval(table['n_found'], table['n'], interval='wilson')
    np.testing.assert_allclose([table['recall_low'], table['recall_high']], interval)
    assert np.all(np.isnan(table['accuracy']))


def test_errors_of_bright_sources_are_calibrated(result):
    bright = result.table[-4:]
    n = 4 * 12
    pooled = np.mean(bright['bias'])
    # The standard error of the mean of four medians, and the network's own.
    assert abs(pooled) < 3 * 1.25 / np.sqrt(n) + 0.15
    assert np.mean(bright['scatter']) == pytest.approx(1, abs=0.35)
    assert np.all(np.abs(bright['relative_bias']) < 0.1)


def test_limits(result):
    half, most = result.limits
    assert half['recall'] == 0.5
    noise = np.sqrt(865 * PSFModel().n_eff)
    # The floor of the prior is at 3.4 times the noise.
    assert 2.5 < half['flux_limit'].value / noise < 6
    assert half['flux_limit'] < most['flux_limit']
    assert 0 < half['flux_limit_err'] < 0.5 * half['flux_limit']


def test_what_is_kept(result):
    sources = result.sources
    assert len(sources) == 96
    assert sources['flux'].unit == u.electron
    found = sources['found']
    assert np.all(np.isfinite(sources['flux_estimate'][found]))
    assert np.all(np.isnan(sources['flux_estimate'][~found]))
    # Half a FWHM.
    assert np.all(sources['offset'][found] < 0.5 * PSFModel().fwhm)
    total = sum(row['n_found'] for row in result.table)
    assert total == np.count_nonzero(found)
    assert isinstance(result, Completeness)
    assert '96 sources injected' in repr(result)
    assert '50 % of the stars at' in repr(result)


def test_magnitudes_and_galaxies(sparse, finder):
    found = completeness(
        sparse,
        finder,
        magnitudes=[19.0, 20.5, 22.0],
        zero_point=ZERO_POINT,
        types=('star', 'galaxy'),
        n_sources=24,
        spacing=48,
        rng=5,
    )
    table = found.table
    assert list(table['type']) == ['star', 'star', 'galaxy', 'galaxy']
    np.testing.assert_allclose(table['mag_low'].value, [19, 20.5, 19, 20.5])
    np.testing.assert_allclose(table['mag_high'].value, [20.5, 22, 20.5, 22])
    flux = 10 ** (-0.4 * (table['mag_high'].value - ZERO_POINT))
    np.testing.assert_allclose(table['flux_low'].value, flux)
    assert np.all(table['n'] == 12)
    assert np.sum(found.sources['is_galaxy']) == 24
    # An encoder of stars takes part of a galaxy's light for a star.
    stars, galaxies = table['relative_bias'][0], table['relative_bias'][2]
    assert galaxies < stars - 0.02
    assert 'mag_limit' in found.limits.colnames
    one = CatalogPrior.sky().galaxies
    again = completeness(
        sparse[:64, :64],
        finder,
        magnitudes=[19.0, 20.5],
        zero_point=ZERO_POINT,
        types='galaxy',
        galaxies=one,
        n_sources=2,
        rng=5,
    )
    assert len(again.table) == 1


def test_same_seed_same_answer(sparse, finder):
    part = sparse[:64, :64]
    keywords = {'n_sources': 2, 'spacing': 32, 'fluxes': [2e3, 1e4] * u.electron}
    one, two, three = (
        completeness(part, finder, rng=seed, **keywords) for seed in (1, 1, 2)
    )
    assert np.all(one.sources['x_centroid'] == two.sources['x_centroid'])
    assert np.all(one.sources['found'] == two.sources['found'])
    assert np.all(one.sources['x_centroid'] != three.sources['x_centroid'])


def test_masked_and_crowded_places_are_counted(sparse, finder):
    data = sparse.data.copy()
    mask = np.zeros(data.shape, dtype=bool)
    mask[:, :120] = True
    found = completeness(
        sparse.replace(mask=mask),
        finder,
        fluxes=[4e3, 8e3] * u.electron,
        n_sources=20,
        spacing=48,
        rng=6,
    )
    (row,) = found.table
    np.testing.assert_array_equal(sparse.data, data)
    assert row['n_masked'] == np.sum(found.sources['masked'])
    # Half of the image: 10 expected, with a standard deviation of 2.2.
    assert 3 <= row['n_masked'] <= 17
    assert row['recall'] < 0.85
    assert row['recall_clear'] > 0.85
    left = found.sources['x_centroid'] < 112
    assert not np.any(found.sources['found'][left])


def test_a_source_that_was_there_is_not_found_again(sparse, encoder):
    # Faint ones on top of bright ones: the bright one is no detection of them.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        before = detect_sources(sparse, encoder=encoder)
    bright = before[:5]
    n = len(bright)
    faint = Sources(
        np.asarray(bright['x_centroid']) + 0.3,
        np.asarray(bright['y_centroid']),
        np.full(n, 700.0),
        np.zeros(n, dtype=bool),
    )
    options = DetectionOptions(density=0.001)
    injector = Injector(sparse, encoder, options, 1.8)
    (rows,) = injector.run([faint], np.random.default_rng(1))
    assert not rows['found'].any()
    assert rows['blended'].all()


@pytest.mark.parametrize('is_map', [False, True])
def test_prior_density_of_joined_pixels(encoder, is_map):
    """
    Injected images have the prior of the image, per pixel of the image.
    """
    noise = np.random.default_rng(2).normal(0, 10, (121, 130))
    psf = PSFModel.from_fwhm(7.0)
    exposure = Exposure(noise, bkg_error=10, effective_gain=1.0, psf=psf)
    density = np.full(noise.shape, 0.0004) if is_map else 0.0004
    if is_map:
        density[:, 64:] = 0.001
    options = DetectionOptions(encoder=encoder, density=density, bin=2)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        injector = Injector(exposure, encoder, options, None)
    np.testing.assert_allclose(injector.options.density, density, rtol=1e-5)


# -- parts ----------------------------------------------------------------------------


@pytest.fixture
def _few_resamplings(monkeypatch):
    monkeypatch.setattr('bliss_astro.checks._recall._N_BOOTSTRAP', 30)


def test_positions_are_uniform_and_apart():
    rng = np.random.default_rng(3)
    places = [draw_positions((90, 200), 32.0, 1000, rng) for _ in range(300)]
    x, y = (np.concatenate(part) for part in zip(*places, strict=True))
    assert x.min() >= -0.5
    assert x.max() < 199.5
    # One in each cell of 32 x 32 pixels.
    assert len(x) == pytest.approx(300 * 90 * 200 / 32**2, rel=0.03)
    counts, _, _ = np.histogram2d(
        x, y, bins=(5, 3), range=[(-0.5, 199.5), (-0.5, 89.5)]
    )
    mean = len(x) / 15
    # Less than Poisson, as the grid spreads them.
    assert np.all(np.abs(counts - mean) < 4 * np.sqrt(mean))
    for px, py in places[:20]:
        apart = np.hypot(px[:, None] - px, py[:, None] - py)
        np.fill_diagonal(apart, np.inf)
        assert apart.min() >= 16
    assert len(draw_positions((90, 200), 32.0, 4, rng)[0]) == 4


@pytest.mark.usefixtures('_few_resamplings')
def test_each_source_is_in_one_bin():
    n, edges = 4, [1.0, 2.0, 4.0]
    yes, no = np.ones(n, bool), np.zeros(n, bool)
    found = dict.fromkeys(('is_galaxy', 'masked', 'blended'), no) | {'found': yes}
    found['flux'] = found['flux_estimate'] = np.array([1.0, 2.0, 3.0, 4.0])
    found |= dict.fromkeys(('flux_err', 'galaxy_probability'), np.ones(n))
    for zero_point, numbers in ((None, [1, 3]), (22.5, [3, 1])):
        by_magnitude = zero_point is not None
        table = recall_table(found, edges, ['star'], None, zero_point, by_magnitude)
        assert list(table['n']) == numbers


def test_limits_of_a_known_curve():
    rng = np.random.default_rng(8)
    pulls, n = [], 3
    truth = 6.5 - 0.2 * np.log(0.97 / np.array([0.5, 0.9]) - 1)
    for _ in range(n):
        z = rng.uniform(5, 9, 400)
        found = rng.random(400) < 0.97 / (1 + np.exp(-(z - 6.5) / 0.2))
        limits, errors = recall_limits(np.exp(z), found, (0.5, 0.9), rng)
        pulls.append((limits - truth) / errors)
    pulls = np.array(pulls)
    # 3 standard errors of the mean and of the scatter of n pulls, whose unit 30
    # resamplings give to 13 %.
    assert np.all(np.abs(np.nanmean(pulls, 0)) < 3 / np.sqrt(n))
    assert np.all(np.nanstd(pulls, 0) < 1 + 3 / np.sqrt(2 * n))


@pytest.mark.usefixtures('_few_resamplings')
def test_limits_outside_of_the_data():
    rng = np.random.default_rng(8)
    flux = np.geomspace(1, 100, 50)
    for found in (np.ones(50, dtype=bool), np.zeros(50, dtype=bool)):
        limits, _ = recall_limits(flux, found, (0.5, 0.9), rng)
        assert np.isnan(limits).all()
    # A plateau of 0.7 never reaches 0.9.
    flux = np.geomspace(1, 1e3, 600)
    found = (rng.random(600) < 0.7) & (flux > 10)
    limits, _ = recall_limits(flux, found, (0.5, 0.9), rng)
    assert np.log(8) < limits[0] < np.log(13)
    assert np.isnan(limits[1])


# -- bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ('keywords', 'message'),
    [
        ({'n_sources': 0}, 'n_sources must be an integer of at least 1; got 0'),
        ({'n_sources': -3}, 'n_sources must be an integer'),
        ({'n_per_image': 0}, 'n_per_image must be an integer of at least 1'),
        ({'spacing': -1}, 'spacing must be positive'),
        ({'radius': 0}, 'radius must be positive'),
        ({'fluxes': [-1.0, 5.0] * u.electron}, 'fluxes must be positive; got -1'),
        ({'fluxes': [5.0, 2.0] * u.electron}, 'fluxes must be finite and increasing'),
        ({'fluxes': [5.0] * u.electron}, 'fluxes must be at least two edges'),
        ({'fluxes': [1.0, 2.0]}, 'data has a unit and fluxes has none'),
        ({'fluxes': [1.0, 2.0] * u.nmgy}, 'fluxes must have units of electron'),
        ({'magnitudes': [20, 21]}, 'magnitudes need a zero_point'),
        ({'magnitudes': [21, 20], 'zero_point': 30}, 'magnitudes must be finite and'),
        (
            {'magnitudes': [20, 21], 'fluxes': [1, 2], 'zero_point': 30},
            'give magnitudes or fluxes, not both',
        ),
        ({'types': 'quasar'}, "types must be 'star', 'galaxy' or both"),
        ({'types': ()}, "types must be 'star', 'galaxy' or both"),
        ({'types': 'galaxy'}, 'galaxies need a zero_point'),
        ({'zero_point': np.nan}, 'zero_point must be finite'),
    ],
)
def test_bad_values(sparse, finder, keywords, message):
    with pytest.raises(ValueError, match=message):
        completeness(sparse, finder, **keywords)


def test_bad_kinds(sparse, finder):
    with pytest.raises(TypeError, match="unexpected keyword argument 'magnitude'"):
        completeness(sparse, magnitude=[20, 21])
    with pytest.raises(TypeError, match='galaxies must be CatalogPrior or'):
        completeness(sparse, finder, types='galaxy', zero_point=30, galaxies='sky')
    with pytest.raises(TypeError, match='finder must be BlissFinder; got int'):
        completeness(sparse, 3)


def test_galaxies_need_a_zero_point_and_are_left_out_without(sparse, default_encoder):
    small, finder = sparse[:64, :64], BlissFinder(encoder=default_encoder)
    result = completeness(small, finder, n_sources=2, rng=4)
    assert set(result.table['type']) == {'star'}
