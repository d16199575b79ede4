# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What posteriors keep: marginals, all or numbers by tile, and what is computed anew.
"""

import pickle
import warnings

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import (
    CoaddSimulator,
    Encoder,
    PosteriorDroppedWarning,
    ProbabilisticCatalog,
    detect_sources,
)
from bliss_astro.catalog import _candidates
from bliss_astro.catalog._rows import rows_of
from bliss_astro.posteriors import find_sources
from bliss_astro.priors import StarPrior

_KEEP = ('marginals', 'posterior', None)


@pytest.fixture(scope='module')
def default():
    return Encoder.from_pretrained()


@pytest.fixture(scope='module')
def exposure():
    sky = StarPrior(density=0.006)
    return CoaddSimulator(1, sky, shape=(64, 68), margin=6).sample(rng=5)[0]


@pytest.fixture(scope='module')
def found(exposure, default):
    """Catalogues of the default encoder by what they keep."""
    own = {'encoder': default, 'check': False}
    return {keep: detect_sources(exposure, keep=keep, **own) for keep in _KEEP}


@pytest.fixture
def passes(default, monkeypatch):
    """A list that grows by one with each pass of the network."""
    calls, features = [], default.inner_features

    def count(inputs, margins, **stem):
        calls.append(len(inputs.image))
        return features(inputs, margins, **stem)

    monkeypatch.setattr(default, 'inner_features', count)
    return calls


def fresh(exposure, default, keep='marginals', **own):
    """A catalogue of which nothing was asked yet."""
    own = {'encoder': default, 'check': False, 'keep': keep, **own}
    return detect_sources(exposure, **own)


# -- memory ----------------------------------------------------------------------


def test_sizes(exposure, default):
    """
    Of marginals at most 2.5 kB a row, 2 bytes a pixel and 1 kB for the rest.
    """
    sizes = {}
    for keep in _KEEP:
        catalog = fresh(exposure, default, keep)
        sizes[keep] = catalog.posterior.nbytes
    n_pixels = exposure.data.size
    assert sizes[None] < 2 * n_pixels + 1000
    assert sizes['marginals'] < 2500 * len(catalog) + sizes[None]
    assert 20 * n_pixels < sizes['posterior'] < 40 * n_pixels
    catalog.drop_posterior()
    assert catalog.posterior is None


def test_what_was_computed_anew_counts(exposure, default):
    posterior = fresh(exposure, default).posterior
    before = posterior.nbytes
    posterior.sample(1)
    assert posterior.nbytes > before + 30 * exposure.data.size
    assert posterior.to('cpu').nbytes == before


def test_flags_are_those_of_each_pixel(exposure, default):
    flags = fresh(exposure, default).posterior.flags
    assert flags.shape == exposure.shape
    assert flags.dtype == np.int16
    assert flags[0, 0] == 2


# -- the same numbers ------------------------------------------------------------


def test_same_rows(found):
    for name in found['marginals'].colnames:
        one, all_, none = (
            np.asarray(getattr(found[k][name], 'value', found[k][name])) for k in _KEEP
        )
        assert_array_equal(one, none)
        # Features are rounded where they are kept.
        assert_allclose(all_, one, rtol=0.01, atol=0.01 * np.ptp(one))
    shares = [np.asarray(found[k]['probability']) for k in _KEEP[:2]]
    assert_allclose(*shares, atol=0.002)
    fluxes = [found[k]['flux'].value for k in _KEEP[:2]]
    error = found['marginals']['flux_err'].value
    assert np.all(np.abs(np.subtract(*fluxes)) < 0.01 * error)


@pytest.mark.parametrize('keep', _KEEP)
def test_all_questions_after_detection(exposure, default, keep):
    catalog = fresh(exposure, default, keep)
    posterior = catalog.posterior
    assert len(posterior.sample(2, rng=1)) == 2
    assert len(posterior.at_threshold(0.05)) > len(catalog)
    assert len(posterior.sources) >= len(posterior.at_threshold(0.05))
    low, high = catalog.credible_interval('flux', 0.9)
    assert np.all(low < high)
    assert catalog.samples('e1', n_samples=7, rng=1).distribution.shape[1] == 7
    tiles = posterior.tile_posterior
    assert np.isfinite(float(tiles.log_prob(tiles.mode())))
    assert catalog.check(n_draws=1, rng=1) is not None
    assert catalog.render().shape == exposure.shape


def test_computed_anew_once_and_alike(exposure, default, passes):
    catalog = fresh(exposure, default)
    n_passes = len(passes)
    assert n_passes == 2
    posterior = catalog.posterior
    catalog.credible_interval('flux', 0.9)
    posterior.at_threshold(0.7, n_samples=3, rng=1)
    posterior.expected_counts()
    catalog.render()
    assert len(passes) == n_passes
    draws = posterior.sample(2, rng=3)
    lower = posterior.at_threshold(0.1)
    posterior.sample(1, rng=3)
    assert len(passes) == n_passes + 1
    alike = default.infer(exposure, threshold=0.1)
    table = alike.at_threshold(0.1)
    assert_array_equal(table['source_index'], lower['source_index'])
    assert_allclose(table['flux'], lower['flux'], rtol=1e-5)
    for one, other in zip(draws, alike.sample(2, rng=3), strict=True):
        assert_allclose(one['flux'], other['flux'], rtol=1e-4)
    # The first rows are what they were.
    again = posterior.at_threshold(0.5)
    assert_array_equal(again['flux'], catalog['flux'])


def test_kept_features_need_no_pass(exposure, default, passes):
    posterior = fresh(exposure, default, 'posterior').posterior
    n_passes = len(passes)
    posterior.at_threshold(0.1)
    posterior.sample(1)
    posterior.to('cpu').sample(1)
    assert len(passes) == n_passes


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'own',
    [
        {'bin': 2},
        {'population': 'npe'},
        {'density': 0.01},
        {'density': np.linspace(1e-4, 0.02, 64 * 68).reshape(64, 68)},
        {'flux_min': 900.0 * u.electron},
    ],
    ids=lambda own: next(iter(own)),
)
def test_with_the_same_prior(exposure, default, own):
    posterior = fresh(exposure, default, **own).posterior
    expected = fresh(exposure, default, 'posterior', **own).posterior
    for name in ('log_density', 'log_flux_floor', 'population', 'image'):
        values = (getattr(p.tile_posterior.inputs, name) for p in (posterior, expected))
        assert_array_equal(*values)
    features = (p.tile_posterior.features.float() for p in (posterior, expected))
    assert_allclose(*features, atol=5e-3)


@pytest.mark.filterwarnings('ignore')
def test_an_image_that_is_full(exposure, default, monkeypatch):
    from bliss_astro.detection import _images

    flags = np.zeros((16, 17), int)
    monkeypatch.setattr(_images, 'check_fullness', lambda *_: (flags, None, True))
    for keep in _KEEP:
        catalog = fresh(exposure, default, keep)
        assert catalog.posterior.tile_posterior.coarse
        assert len(catalog.posterior.at_threshold(0.5)) == len(catalog)


def test_rounded_marginals(exposure, default):
    posterior = default.infer(exposure)
    kept = posterior.at_threshold(0.5)
    sources = rows_of(posterior, kept).sources
    full = find_sources(posterior.tile_posterior, least=0.5)
    full = full.select(full.probability >= 0.5)
    assert_allclose(
        sources.probability.sort()[0], full.probability.sort()[0], rtol=1e-5
    )
    order, own = (s.x.mean(1).argsort() for s in (full, sources))
    sources, full = sources.select(own), full.select(order)
    for name in ('x', 'y', 'shapes', 'ellipticity'):
        one, other = (getattr(s, name) for s in (sources, full))
        error = other.std(1, keepdim=True)
        assert ((one - other).abs() < 1e-3 * error + 1e-6).all(), name
    assert_allclose(sources.galaxy, full.galaxy, atol=3e-4)
    for q in (0.05, 0.5, 0.95):
        one, other = (s.quantile_flux(q) for s in (sources, full))
        width = full.quantile_flux(0.84) - full.quantile_flux(0.16)
        assert ((one - other).abs() < 5e-3 * width).all()


def test_rows_that_rounding_left_out(exposure, default, monkeypatch):
    """
    A row of a lower threshold that the first candidates lack is found all the same.
    """
    posterior = fresh(exposure, default).posterior
    lower = posterior.at_threshold(0.05)
    first, second = posterior._found
    monkeypatch.setattr(first, 'keys', first.keys + 10**6)
    some = lower[lower['probability'] > 0.6]
    low, _ = posterior.interval(some, 'flux', level=0.9)
    assert len(low) == len(some)
    monkeypatch.setattr(second, 'keys', second.keys + 10**6)
    with pytest.raises(ValueError, match='rows must come from this posterior'):
        posterior.interval(some, 'flux', level=0.9)


# -- files and copies --------------------------------------------------------------


def test_files_of_marginals(exposure, default, same_rows, tmp_path):
    catalog = fresh(exposure, default)
    sizes = {}
    for keep in _KEEP[:2]:
        path = tmp_path / f'{keep}.fits'
        fresh(exposure, default, keep).write(path)
        sizes[keep] = path.stat().st_size
    assert sizes['marginals'] < 0.5 * sizes['posterior']
    again = ProbabilisticCatalog.read(tmp_path / 'marginals.fits')
    posterior = again.posterior
    same_rows(again, catalog)
    same_rows(
        posterior.at_threshold(0.6, n_samples=3, rng=1),
        catalog.posterior.at_threshold(0.6, n_samples=3, rng=1),
    )
    for column in ('flux', 'angle'):
        for one, other in zip(
            again.credible_interval(column, 0.9),
            catalog.credible_interval(column, 0.9),
            strict=True,
        ):
            assert_array_equal(one, other)
    assert posterior.expected_counts() == catalog.posterior.expected_counts()
    assert_array_equal(posterior.flags, catalog.posterior.flags)
    assert_array_equal(again.render(), catalog.render())
    assert posterior.nbytes == catalog.posterior.nbytes
    for ask in (
        lambda: posterior.sample(1),
        lambda: posterior.at_threshold(0.3),
        lambda: posterior.sources,
        lambda: posterior.tile_posterior,
        lambda: again.check(exposure),
    ):
        with pytest.raises(ValueError, match="keep='posterior'"):
            ask()
    assert again.check(exposure, n_draws=0) is not None
    # And on.
    again.write(tmp_path / 'again.fits')
    third = ProbabilisticCatalog.read(tmp_path / 'again.fits')
    same_rows(third.posterior.at_threshold(0.5), catalog)


def test_files_of_rows_of_lower_probability(exposure, default, tmp_path):
    catalog = fresh(exposure, default).posterior.at_threshold(0.02)
    assert np.min(catalog['probability']) < 0.2
    catalog.write(tmp_path / 'low.fits')
    again = ProbabilisticCatalog.read(tmp_path / 'low.fits')
    limits = [one.credible_interval('flux', 0.9) for one in (again, catalog)]
    assert_array_equal(*limits)
    assert len(again.posterior.at_threshold(0.02)) == len(catalog)
    # No larger than it must be.
    fresh(exposure, default).write(tmp_path / 'at_first.fits')
    catalog.posterior.at_threshold(0.5).write(tmp_path / 'later.fits')
    sizes = [
        (tmp_path / name).stat().st_size for name in ('at_first.fits', 'later.fits')
    ]
    assert sizes[0] == sizes[1]


def test_files_of_numbers_by_tile(exposure, default, tmp_path):
    fresh(exposure, default, None).write(tmp_path / 'none.fits')
    posterior = ProbabilisticCatalog.read(tmp_path / 'none.fits').posterior
    assert posterior.expected_counts() > 0
    with pytest.raises(ValueError, match="keep='posterior'"):
        posterior.at_threshold(0.5)


def test_without_exposure(exposure, default):
    posterior = fresh(exposure, default).posterior
    posterior.exposure = None
    with pytest.raises(ValueError, match="keep='posterior'"):
        posterior.sample(1)
    posterior = fresh(exposure, default, 'posterior').posterior
    posterior.exposure = None
    assert len(posterior.sample(1)) == 1


@pytest.mark.parametrize('name', ['data', 'mask', 'background'])
def test_changed_image(exposure, default, name):
    own = exposure.replace(data=exposure.data.copy())
    marginals, features = (fresh(own, default, k).posterior for k in _KEEP[:2])
    expected = len(features.at_threshold(0.01))
    copied = pickle.loads(pickle.dumps(marginals))
    if name == 'background':
        own.background = own.background + 1.0
    else:
        values = getattr(own, name)
        values[3, 4] = values[3, 4] + 1
    assert len(marginals.at_threshold(0.5)) > 0
    assert len(features.at_threshold(0.01)) == expected
    assert len(copied.at_threshold(0.01)) == expected
    for ask in (lambda: marginals.sample(1), lambda: marginals.at_threshold(0.01)):
        with pytest.raises(ValueError, match='exposure has been changed since'):
            ask()


def test_one_array_for_all_images(exposure, default):
    image = exposure.data.copy()
    own = exposure.replace(data=image)

    def read():
        for scale in (1.0, 1.5):
            image[:] = scale * exposure.data
            yield own

    first, second = default.infer(read())
    assert len(second.at_threshold(0.01)) > 0
    with pytest.raises(ValueError, match='exposure has been changed since'):
        first.at_threshold(0.01)


@pytest.mark.parametrize('keep', _KEEP)
def test_copies(exposure, default, same_rows, keep):
    catalog = fresh(exposure, default, keep)
    moved = catalog.posterior.to('cpu')
    assert moved.exposure is catalog.posterior.exposure
    assert moved.tile_posterior is not catalog.posterior.tile_posterior
    same_rows(moved.at_threshold(0.5), catalog)
    again = pickle.loads(pickle.dumps(catalog))
    same_rows(again.posterior.at_threshold(0.5), catalog)
    assert len(again.posterior.sample(1, rng=1)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error', PosteriorDroppedWarning)
        assert catalog[1:].posterior is catalog.posterior


def test_wrong_values(exposure, default):
    for keep in ('all', True, 'Marginals'):
        with pytest.raises(ValueError, match="keep must be one of 'marginals'"):
            default.infer(exposure, keep=keep)


def test_counts_alone_find_no_sources(exposure, default, monkeypatch):
    expected = default.infer(exposure).expected_counts()
    with monkeypatch.context() as patch:
        patch.setattr(_candidates, 'find_sources', None)
        posterior = default.infer(exposure, keep=None)
        assert posterior.expected_counts() == expected
    assert len(posterior.at_threshold(0.5)) > 0
