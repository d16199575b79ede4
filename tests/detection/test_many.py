# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Many images at once: catalogues, order, arguments, errors and warnings by image.
"""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro import (
    BlissFinder,
    CoaddSimulator,
    NoDetectionsWarning,
    PSFModel,
    StarPrior,
    detect_many,
    detect_sources,
)
from bliss_astro.catalog import CatalogPosterior
from bliss_astro.catalog._columns import SHAPE_COLUMNS
from bliss_astro.detection import _batches, _detect, _images
from bliss_astro.encoders import Encoder
from bliss_astro.posteriors import _candidates

_KNOWN = {'background': 0.0, 'effective_gain': 29.0, 'psf': PSFModel()}


@pytest.fixture(scope='module')
def default():
    return Encoder.from_pretrained()


@pytest.fixture(scope='module')
def exposures():
    """
    Exposures of two sizes, sparse and dense.
    """
    kinds = [(0.001, (48, 60)), (0.01, (48, 60)), (0.004, (40, 44)), (0.02, (48, 60))]
    simulators = [
        CoaddSimulator(k + 1, StarPrior(density=density), shape=shape, margin=8)
        for k, (density, shape) in enumerate(kinds)
    ]
    return [simulator.sample(rng=k)[0] for k, simulator in enumerate(simulators)]


def _assert_same(one, other):
    assert one.colnames == other.colnames
    assert len(one) == len(other)
    for name in one.colnames:
        pair = [np.asarray(getattr(t[name], 'value', t[name])) for t in (one, other)]
        # Shapes of four draws follow the rounding of products in a batch.
        scale = np.ptp(pair[0]) if len(one) and name.startswith(SHAPE_COLUMNS) else 1e-3
        assert_allclose(*pair, rtol=1e-3, atol=0.01 * scale, err_msg=name)
    for name in ('probability', 'x_centroid', 'y_centroid'):
        assert_allclose(one[name], other[name], rtol=2e-6)
    fluxes = (getattr(t['flux'], 'value', t['flux']) for t in (one, other))
    assert_allclose(*fluxes, rtol=5e-6)
    counts = [t.meta['image']['expected_count'] for t in (one, other)]
    assert_allclose(*counts, rtol=1e-5)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['types', 'stars'])
def test_as_alone(exposures, default, encoder, kind):
    own = default if kind == 'types' else encoder
    known = {'encoder': own, 'n_samples': 4}
    densities = [None, 0.01, None, None]
    many = detect_many(exposures, rng=[3, 4, 5, 6], density=densities, **known)
    for k, (exposure, catalog) in enumerate(zip(exposures, many, strict=True)):
        alone = detect_sources(exposure, rng=3 + k, density=densities[k], **known)
        _assert_same(catalog, alone)
        facts = [dict(t.meta['estimated']) for t in (catalog, alone)]
        # Sums over several images round otherwise in some versions of torch.
        found = [fact.pop('density')['value'] for fact in facts]
        assert_allclose(*found, rtol=1e-5)
        assert facts[0] == facts[1]
        assert catalog.meta['check']['passed'] == alone.meta['check']['passed']
        # The posterior is that of its image alone.
        assert catalog.posterior.nbytes == alone.posterior.nbytes
        assert len(catalog.posterior.tile_posterior) == 1
        draws = (t.posterior.sample(1, rng=2)[0] for t in (catalog, alone))
        assert abs(np.subtract(*map(len, draws))) <= 1


@pytest.mark.filterwarnings('ignore')
def test_bounds_are_those_of_each_image(exposures, default, monkeypatch):
    """
    Work that is bounded for one image is no less for another beside it.
    """
    monkeypatch.setattr(_candidates, '_MAX_IN_SEQUENCE', (4, 0.0))
    same = [exposures[k] for k in (0, 1, 3)]
    options = {'encoder': default, 'check': False}
    catalogs = list(detect_many(same, **options))
    assert len(catalogs[0]) <= 4 < len(catalogs[2])
    for exposure, catalog in zip(same, catalogs, strict=True):
        _assert_same(catalog, detect_sources(exposure, **options))


@pytest.mark.filterwarnings('ignore')
def test_a_full_image_beside_others(default, monkeypatch):
    rng = np.random.default_rng(1)
    images = rng.normal(0, [[[1.0]], [[3.0]], [[1.0]]], (3, 48, 48))

    def check_fullness(encoder, posterior, image=0):
        """As if the noisy one were full of sources."""
        flags = np.zeros(posterior.grid.shape, int)
        return flags, None, bool(posterior.inputs.image[image].std() > 2)

    monkeypatch.setattr(_images, 'check_fullness', check_fullness)
    options = _KNOWN | {'encoder': default, 'bkg_error': 1.0, 'check': False}
    catalogs = list(detect_many(images, **options))
    assert [bool(c.posterior.tile_posterior.coarse) for c in catalogs] == [0, 1, 0]
    assert len(catalogs[1]) > 0
    for image, catalog in zip(images, catalogs, strict=True):
        _assert_same(catalog, detect_sources(image, **options))


@pytest.mark.parametrize('n_threads', [1, 2])
def test_images_are_taken_as_needed(exposures, encoder, monkeypatch, n_threads):
    monkeypatch.setattr(_batches, '_PIXELS', 2 * exposures[0].data.size)
    taken, options = [], {'encoder': encoder, 'check': False, 'n_threads': n_threads}

    def images():
        for k in range(5):
            taken.append(k)
            yield exposures[1]

    many = detect_many(images(), **options)
    assert taken == []
    first = next(many)
    assert len(taken) == 2
    assert len(list(many)) == 4
    again = list(detect_many((exposures[1],), **options))
    _assert_same(first, again[0])
    assert list(detect_many([], encoder=encoder)) == []


def test_large_images_are_taken_one_by_one(exposures, encoder, monkeypatch):
    monkeypatch.setattr(_batches, '_PIXELS', 1)
    taken = []

    def images():
        for exposure in exposures:
            taken.append(exposure)
            yield exposure

    options = {'encoder': encoder, 'check': False, 'n_threads': 2}
    for k, _ in enumerate(detect_many(images(), **options)):
        assert len(taken) == k + 1


@pytest.mark.parametrize('n_images', [3, 4, 5])
def test_batches_in_two_threads(exposures, encoder, monkeypatch, n_images):
    """
    Order, draws and errors are those of one thread; torch's number of threads stays.
    """
    monkeypatch.setattr(_batches, '_PIXELS', 2 * exposures[0].data.size)
    images = [exposures[k % 2] for k in range(n_images)]
    known = {'encoder': encoder, 'n_samples': 2, 'check': False}
    one, two = ([*detect_many(images, rng=3, n_threads=n, **known)] for n in (1, 2))
    for own, other in zip(one, two, strict=True):
        _assert_same(own, other)
    found, number = [], torch.get_num_threads()
    with pytest.raises(FileNotFoundError, match=f'^image {n_images}: '):
        for catalog in detect_many([*images, 'nowhere.fits'], n_threads=2, **known):
            assert torch.get_num_threads() == number
            found.append(len(catalog))
    assert found == [*map(len, one)]
    many = detect_many(images, n_threads=2, **known)
    next(many)
    many.close()
    assert torch.get_num_threads() == number

    def fail(*_, **__):
        raise ValueError('stop')

    monkeypatch.setattr(_batches, 'infer_posteriors', fail)
    with pytest.raises(ValueError, match='stop'):
        list(detect_many(images, n_threads=2, **known))


def test_one_rng_for_all(exposures, encoder):
    """
    Each image has a seed of its own, whatever is found in those before.
    """
    known = {'encoder': encoder, 'n_samples': 3, 'check': False}
    one, two = detect_many((exposures[3], exposures[1]), rng=7, **known)
    seeds = np.random.default_rng(7).integers(2**63, size=2)
    for catalog, k, seed in zip((one, two), (3, 1), seeds, strict=True):
        alone = detect_sources(exposures[k], rng=int(seed), **known)
        # Within the rounding of a batch; other draws differ by percents.
        assert_allclose(catalog['flux_samples'], alone['flux_samples'], rtol=1e-3)


def _cube(n=3):
    return np.random.default_rng(2).normal(size=(n, 24, 32))


@pytest.mark.filterwarnings('ignore')
def test_values_of_each_image(encoder):
    cube = _cube()
    masks = np.zeros(cube.shape, bool)
    masks[1, :, 16:] = True
    known = _KNOWN | {'encoder': encoder, 'check': False}
    noise = np.array([1.0, 1.1, 1.2])
    catalogs = list(detect_many(cube, mask=masks, bkg_error=noise, **known))
    for k, catalog in enumerate(catalogs):
        exposure = catalog.posterior.exposure
        assert exposure.bkg_error == noise[k]
        assert exposure.mask[:, 16:].all() == (k == 1)
    # One map for all.
    catalogs = detect_many(cube, mask=masks[1], bkg_error=1.0, **known)
    assert all(c.posterior.exposure.mask[:, 16:].all() for c in catalogs)


@pytest.mark.filterwarnings('ignore')
def test_lists_of_another_length(encoder):
    known = _KNOWN | {'encoder': encoder, 'check': False}
    with pytest.raises(ValueError, match='bkg_error has 2 values for 3 images'):
        detect_many(_cube(), bkg_error=[1.0, 1.0], **known)
    for n in (2, 4):
        found = []
        with pytest.raises(ValueError, match=f'bkg_error has {n} values for'):
            for catalog in detect_many(iter(_cube()), bkg_error=[1.0] * n, **known):
                found.append(catalog)  # noqa: PERF402 (what came before the error)
        assert len(found) == min(n, 3)


@pytest.mark.parametrize(
    ('images', 'options', 'match'),
    [
        ('image.fits', {}, 'images must be a list of images'),
        (np.zeros((4, 4)), {}, r'shape \(4, 4\); detect_sources takes one image'),
        (3, {}, 'got int'),
        ([], {'treshold': 1}, "detect_many has no argument 'treshold'"),
        ([], {'rng': 'a'}, 'rng must be'),
    ],
)
def test_wrong_arguments(images, options, match):
    with pytest.raises(TypeError, match=match):
        detect_many(images, **options)
    with pytest.raises(ValueError, match='unknown encoder'):
        detect_many([], encoder='none')


def test_errors_and_warnings_name_the_image(encoder):
    known = _KNOWN | {'encoder': encoder, 'bkg_error': 1.0, 'density': 1e-5}
    images = [*_cube(2), 'nowhere.fits', _cube(1)[0]]
    many, found = detect_many(images, check=False, **known), []
    with pytest.raises(FileNotFoundError) as caught, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for catalog in many:
            found.append(catalog)  # noqa: PERF402 (what came before the error)
    assert len(found) == 2
    assert str(caught.value).startswith('image 2: ')
    match = r'^image 1: bkg_error must be'
    own = {'bkg_error': [1.0, -1.0]}
    with pytest.raises(ValueError, match=match), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        list(detect_many(_cube(2), check=False, **(known | own)))
    with pytest.warns(NoDetectionsWarning) as record:
        list(detect_many(_cube(2), 0.99, check=False, **known))
    texts = [str(w.message) for w in record if w.category is NoDetectionsWarning]
    assert [text[:8] for text in texts] == ['image 0:', 'image 1:']
    assert record[0].filename == __file__
    # One image has no name.
    with pytest.warns(NoDetectionsWarning, match='^no source'):
        detect_sources(_cube()[0], 0.99, check=False, **known)


def test_warnings_that_are_errors_name_the_image_once(encoder):
    sky = np.random.default_rng(0).normal(size=(24, 24))
    # Filters turn the first one into an error, "psf was not given ...".
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(Warning, match=r'^image 0: (?!image)'):
            next(detect_many([sky], encoder=encoder))


def test_errors_of_tables_name_the_image(encoder, monkeypatch):
    def refuse(*_, **__):
        raise ValueError('no table')

    monkeypatch.setattr(CatalogPosterior, 'at_threshold', refuse)
    known = _KNOWN | {'encoder': encoder, 'bkg_error': 1.0}
    with pytest.raises(ValueError, match=r'^image 0: no table'):
        list(detect_many(_cube(2), **known))


def test_errors_of_several_parts_have_a_note(encoder, monkeypatch):
    def refuse(*_):
        raise OSError(5, 'no more files')

    monkeypatch.setattr(_batches, 'prepare_bands', refuse)
    with pytest.raises(OSError, match='no more files') as caught:
        list(detect_many(_cube(1), encoder=encoder))
    assert caught.value.__notes__ == ['image 0']


def test_bundled_encoder_is_loaded_once_a_process(monkeypatch):
    _detect._bundled_encoder.cache_clear()
    loaded, load = [], Encoder.from_pretrained

    def count(name=None):
        loaded.append(name)
        return load(name)

    monkeypatch.setattr(Encoder, 'from_pretrained', count)
    finder = BlissFinder(
        encoder='stars', bkg_error=1.0, density=1e-3, check=False, **_KNOWN
    )
    assert loaded == []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for image in _cube():
            finder(image)
        assert loaded == ['stars']
        detect_sources(image, encoder='stars', check=False)
    assert loaded == ['stars']
