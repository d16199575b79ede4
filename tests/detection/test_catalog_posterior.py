# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
CatalogPosterior: tables, intervals, draws, counts and storage.
"""

import numpy as np
import pytest
import torch

from bliss_astro import ProbabilisticCatalog, detect_sources
from bliss_astro._threads import use_threads
from bliss_astro._warnings import NoDetectionsWarning
from bliss_astro.catalog import CatalogPosterior
from bliss_astro.catalog import _posterior as module
from bliss_astro.encoders._inputs import OF_BANDS
from bliss_astro.exposures import Exposure
from bliss_astro.psf import PSFModel


@pytest.fixture(scope='module')
def posterior(catalog):
    return catalog.posterior


# -- thresholds --------------------------------------------------------------


def test_at_threshold_is_what_detection_gives(posterior, catalog, same_rows):
    again = posterior.at_threshold(0.5)
    same_rows(again, catalog)
    assert again.meta['threshold'] == 0.5
    assert again.posterior is posterior


def test_a_higher_threshold_gives_a_subset(posterior):
    tables = [posterior.at_threshold(p) for p in (0.1, 0.5, 0.9)]
    assert len(tables[0]) >= len(tables[1]) >= len(tables[2]) > 0
    for p, table in zip((0.1, 0.5, 0.9), tables, strict=True):
        assert np.all(table['probability'] >= p)
        assert np.all(table['probability'] <= 1)
        assert np.all(np.diff(table['flux'].value) <= 0)
    assert set(tables[2]['x_centroid']) <= set(tables[0]['x_centroid'])


def test_rows_do_not_depend_on_what_was_computed_before(field, encoder, same_rows):
    first = detect_sources(field[0], encoder=encoder)
    posterior = first.posterior
    assert len(posterior.at_threshold(0.02)) > len(first)
    same_rows(posterior.at_threshold(0.5), first)


def test_columns_are_sound(catalog):
    for name in ('x_err', 'y_err', 'flux_err', 'flux'):
        assert np.all(np.asarray(catalog[name]) > 0)
    bound = catalog['x_err'] * catalog['y_err']
    assert np.all(np.abs(catalog['x_y_cov']) <= bound * (1 + 1e-6))
    assert catalog['flags'].dtype.kind == 'i'


# -- counts ------------------------------------------------------------------


def test_expected_counts(posterior, field):
    ny, nx = field[0].shape
    total, error = posterior.expected_counts(), posterior.expected_counts_error()
    # Poisson at the most, as every tile holds two at the most.
    assert 0 < error < np.sqrt(total) + 1
    assert posterior.expected_counts() == total
    everywhere = np.ones((ny, nx), bool)
    assert posterior.expected_counts(everywhere) == pytest.approx(total)
    halves = [
        posterior.expected_counts((slice(None), part))
        for part in (slice(0, 50), slice(50, None))
    ]
    assert sum(halves) == pytest.approx(total)
    assert posterior.expected_counts((slice(3, 3), slice(None))) == 0


@pytest.mark.parametrize(
    'region',
    [
        np.ones((4, 4), bool),
        np.ones((96, 104)),
        (slice(None),),
        (3, 4),
        'all',
    ],
)
def test_regions_that_are_none(posterior, region):
    with pytest.raises(ValueError, match='region must be a pair of slices'):
        posterior.expected_counts(region)


def test_probability_map(posterior, catalog):
    chance = posterior.probability_map
    assert chance.shape == (24, 26)
    assert np.all((chance >= 0) & (chance <= 1))
    sure = catalog[catalog['probability'] > 0.95]
    rows = ((sure['y_centroid'] + 0.5) // 4).astype(int)
    columns = ((sure['x_centroid'] + 0.5) // 4).astype(int)
    # A source on a border may be in the next tile.
    padded = np.pad(chance, 1)
    near = [
        padded[r : r + 3, c : c + 3].max() for r, c in zip(rows, columns, strict=True)
    ]
    assert np.mean(np.array(near) > 0.5) > 0.9


# -- intervals and draws of rows -----------------------------------------------


@pytest.mark.parametrize('column', ['flux', 'x_centroid', 'y_centroid'])
def test_intervals(catalog, column):
    middle = np.asarray(catalog[column])
    previous = None
    for level in (0.5, 0.68, 0.9, 0.95):
        lower, upper = (
            np.asarray(limit) for limit in catalog.credible_interval(column, level)
        )
        assert np.all(lower < upper)
        if previous is not None:
            assert np.all(lower <= previous[0] + 1e-9 * abs(middle))
            assert np.all(upper >= previous[1] - 1e-9 * abs(middle))
        previous = lower, upper
    assert catalog.credible_interval('flux', 0.9)[0].unit == catalog['flux'].unit


def test_flux_err_is_half_the_68_percent_interval(catalog):
    lower, upper = catalog.credible_interval('flux', 0.6826895)
    np.testing.assert_allclose(0.5 * (upper - lower), catalog['flux_err'], rtol=1e-3)


def test_intervals_of_some_rows_in_any_order(catalog):
    every = catalog.credible_interval('flux', 0.9)
    index = np.arange(len(catalog))[::-2]
    some = catalog[index].credible_interval('flux', 0.9)
    for a, b in zip(every, some, strict=True):
        np.testing.assert_allclose(a[index].value, b.value, rtol=1e-6)


def test_bad_questions(catalog, posterior):
    with pytest.raises(ValueError, match='column must be'):
        posterior.interval(catalog, 'colour', level=0.9)
    with pytest.raises(ValueError, match='column must be one of'):
        posterior.sample_rows(catalog, 'colour', n_samples=3)
    for level in (0, 1, -1, 2):
        with pytest.raises(ValueError, match='level must be between 0 and 1'):
            posterior.interval(catalog, 'flux', level=level)
    for n in (-1, 1.5, True):
        with pytest.raises(ValueError, match='n must be an integer'):
            posterior.sample(n)
    strange = catalog.copy()
    strange['source_index'][0] += 10**6
    with pytest.raises(ValueError, match='rows must come from this posterior; row 0'):
        posterior.interval(strange, 'flux', level=0.9)


def test_draws_follow_the_interval(catalog):
    # 400 draws: the share below a limit has a standard deviation of 0.025,
    # and that of the mean over rows less; 128 positions quantise further.
    lower, upper = catalog.credible_interval('flux', 0.68)
    drawn = catalog.samples('flux', n_samples=400, rng=2).distribution
    assert drawn.unit == catalog['flux'].unit
    inside = np.mean((drawn > lower[:, None]) & (drawn < upper[:, None]), axis=1)
    assert np.mean(inside) == pytest.approx(0.68, abs=0.05)
    x = catalog.samples('x_centroid', n_samples=400, rng=2).distribution
    error = np.asarray(catalog['x_err'])
    np.testing.assert_allclose(x.mean(1), catalog['x_centroid'], atol=0.3 * error.max())
    np.testing.assert_allclose(x.std(1) / error, 1, atol=0.25)
    # Not a handful of positions only.
    assert min(len(np.unique(row)) for row in np.asarray(x)) > 50


def test_rows_are_linked_by_an_index(catalog, posterior):
    """
    Also where their positions were changed; without an index, by their positions.
    """
    expected = catalog.credible_interval('flux', 0.9)[0]
    moved = catalog[::-1].copy()
    moved['x_centroid'] += 0.3
    assert np.all(moved.credible_interval('flux', 0.9)[0] == expected[::-1])
    plain = catalog.copy()
    del plain['source_index']
    assert np.all(plain.credible_interval('flux', 0.9)[0] == expected)
    del moved['source_index']
    with pytest.raises(ValueError, match='row 0 has the position'):
        moved.credible_interval('flux', 0.9)
    for threshold in (0.05, 0.9):
        other = posterior.at_threshold(threshold)
        same = np.isin(other['source_index'], catalog['source_index'])
        assert len(set(other['source_index'])) == len(other)
        assert same.sum() == min(len(other), len(catalog))


# -- draws of whole catalogues -------------------------------------------------


def test_whole_catalogues(posterior, catalog, field):
    draws = posterior.sample(8, rng=3)
    assert len(draws) == 8
    numbers = np.array([len(draw) for draw in draws])
    mean, error = posterior.expected_counts(), posterior.expected_counts_error()
    # The mean of the draws, and what conditioning on the sweep leaves out.
    assert abs(numbers.mean() - mean) < 5 * error / np.sqrt(8) + 0.15 * mean
    for draw in draws[:3]:
        assert np.all(np.diff(draw['flux'].value) <= 0)
        assert draw['flux'].unit == catalog['flux'].unit
        ny, nx = field[0].shape
        assert np.all((draw['x_centroid'] > -1) & (draw['x_centroid'] < nx + 3))
        assert np.all((draw['y_centroid'] > -1) & (draw['y_centroid'] < ny + 3))
    # A source that is certain is in every draw.
    star = catalog[catalog['probability'] > 0.999][0]
    reach = 6 * (star['x_err'] + star['y_err']) + 0.1
    for draw in draws:
        apart = np.hypot(
            draw['x_centroid'] - star['x_centroid'],
            draw['y_centroid'] - star['y_centroid'],
        )
        assert apart.min() < reach


def test_draws_repeat_with_their_seed(posterior, same_rows):
    first, second = posterior.sample(2, rng=8), posterior.sample(2, rng=8)
    for a, b in zip(first, second, strict=True):
        same_rows(a, b)
    assert len(first[0]) != len(first[1]) or np.any(
        first[0]['flux'] != first[1]['flux']
    )
    assert posterior.sample(0) == []


def test_draws_of_an_empty_sky():
    noise = np.random.default_rng(3).normal(size=(32, 36)) * 30
    given = {'background': 0.0, 'bkg_error': 30.0, 'effective_gain': 1.0}
    sky = Exposure(noise, psf=PSFModel(), **given)
    with pytest.warns(NoDetectionsWarning):
        found = detect_sources(sky, density=3e-4, check=False, keep='posterior')
    draws = found.posterior.sample(8, rng=1)
    assert len(found) == 0
    assert sum(len(draw) for draw in draws) < 8
    assert {'is_galaxy', 'disk_radius'} < set(draws[0].colnames)


def test_draws_in_chunks_do_not_depend_on_threads(posterior, same_rows, monkeypatch):
    """
    Chunks bound the memory; each has random numbers of its own.
    """
    sizes, sample = [], type(posterior.tile_posterior).sample

    def counted(self, *, n_draws=1, generator=None):
        sizes.append(n_draws)
        return sample(self, n_draws=n_draws, generator=generator)

    monkeypatch.setattr(type(posterior.tile_posterior), 'sample', counted)
    monkeypatch.setattr(module, '_DRAWN_TILES', 3 * posterior.n_tiles)
    both = []
    for n_threads in (1, 2):
        with use_threads(n_threads):
            both.append(posterior.sample(8, rng=8))
    assert sizes == 2 * [3, 3, 2]
    assert len({len(draw) for draw in both[0]}) > 1
    for a, b in zip(*both, strict=True):
        same_rows(a, b)


# -- storage -------------------------------------------------------------------


def test_arrays_and_back(field, encoder, same_rows):
    catalog = detect_sources(field[0], encoder=encoder, keep='posterior')
    posterior, state = catalog.posterior, torch.random.get_rng_state()
    arrays, meta = posterior.to_arrays()
    again = CatalogPosterior.from_arrays(arrays, meta)
    assert torch.equal(torch.random.get_rng_state(), state)
    same_rows(again.at_threshold(0.5), catalog)
    same_rows(
        again.at_threshold(0.3, n_samples=5, rng=4),
        posterior.at_threshold(0.3, n_samples=5, rng=4),
    )
    for a, b in zip(again.sample(3, rng=1), posterior.sample(3, rng=1), strict=True):
        same_rows(a, b)
    assert again.expected_counts() == posterior.expected_counts()


@pytest.mark.parametrize('keep', ['marginals', 'posterior'])
def test_arrays_of_the_other_byte_order(field, encoder, same_rows, keep):
    catalog = detect_sources(field[0], encoder=encoder, keep=keep)
    arrays, meta = catalog.posterior.to_arrays()
    swapped = {k: v.astype(v.dtype.newbyteorder('>')) for k, v in arrays.items()}
    same_rows(CatalogPosterior.from_arrays(swapped, meta).at_threshold(0.5), catalog)


def test_arrays_of_earlier_versions(field, encoder, same_rows):
    """
    Files of earlier versions have one band without an axis of it.
    """
    posterior = detect_sources(field[0], encoder=encoder, keep='posterior').posterior
    arrays, meta = posterior.to_arrays()
    old = {
        name: v[:, 0] if name.removeprefix('IN_').lower() in OF_BANDS else v
        for name, v in arrays.items()
        if name != 'IN_PRESENT'
    }
    assert old['IN_IMAGE'].ndim == 3
    assert old['IN_PSF'].ndim == 4
    again = CatalogPosterior.from_arrays(old, meta)
    for a, b in zip(again.sample(2, rng=1), posterior.sample(2, rng=1), strict=True):
        same_rows(a, b)


@pytest.mark.parametrize('varying', [False, True])
def test_fits_and_back(field, wcs, encoder, same_rows, tmp_path, varying):
    exposure = field[0][:61, :70].replace(wcs=wcs)
    if varying:
        maps = {name: np.array(value) for name, value in exposure.maps().items()}
        exposure = exposure.replace(**maps)
    found = detect_sources(exposure, encoder=encoder, keep='posterior')
    path = tmp_path / 'cat.fits'
    found.write(path)
    again = ProbabilisticCatalog.read(path)
    same_rows(again, found)
    same_rows(again.posterior.at_threshold(0.5), found)
    for a, b in zip(
        again.posterior.sample(2, rng=1), found.posterior.sample(2, rng=1), strict=True
    ):
        same_rows(a, b)
    for a, b in zip(
        again.credible_interval('flux', 0.9),
        found.credible_interval('flux', 0.9),
        strict=True,
    ):
        np.testing.assert_allclose(a.value, b.value, rtol=1e-6)
    assert again.posterior.meta == found.posterior.meta
    assert again.posterior.shape == (61, 70)


def test_repr(posterior):
    assert repr(posterior) == '<CatalogPosterior of 96 x 104 px, 624 tiles>'
