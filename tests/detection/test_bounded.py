# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests that the work is bounded by the number of pixels, and of threads.
"""

import os
import sys
import time
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter

from bliss_astro import (
    CatalogFlag,
    CatalogPosterior,
    CoaddSimulator,
    OutOfDomainWarning,
    PSFModel,
    detect_sources,
)
from bliss_astro.detection._domain import check_fullness
from bliss_astro.encoders import Encoder
from bliss_astro.posteriors import (
    TileGrid,
    _candidates,
    _sweep,
    _tile_chain,
)
from bliss_astro.priors import StarPrior

_KNOWN = {'background': 0.0, 'bkg_error': 1.0, 'effective_gain': 10.0}


@pytest.fixture(scope='module')
def default():
    """
    The bundled encoder of stars and galaxies.
    """
    return Encoder.from_pretrained('stars-galaxies')


@pytest.fixture
def work(monkeypatch):
    """
    Counts of sources that stars, and in sequence, were fitted to.
    """
    counts = types.SimpleNamespace(stars=0, scene=0)
    fit_star = _tile_chain.fit_star
    in_sequence = _candidates._describe_in_sequence

    def count_stars(patches, x, *args, **kwargs):
        counts.stars += len(x)
        return fit_star(patches, x, *args, **kwargs)

    def count_scene(sequence, sources, chosen, most):
        counts.scene += min(len(chosen), most)
        return in_sequence(sequence, sources, chosen, most)

    monkeypatch.setattr(_tile_chain, 'fit_star', count_stars)
    monkeypatch.setattr(_candidates, '_describe_in_sequence', count_scene)
    return counts


# One of each pair is enough for every day; the others take a minute together.
SLOW = (
    pytest.mark.slow,
    pytest.mark.skipif(
        'BLISS_ASTRO_RUN_SLOW' not in os.environ,
        reason='takes minutes; set BLISS_ASTRO_RUN_SLOW to run it',
    ),
)


def _hard_image(kind, n, rng):
    """Image that is hard to fit, with noise of unit variance."""
    y, x = np.mgrid[:n, :n]
    noise = rng.normal(size=(n, n))
    radius = np.hypot(x - n / 2, 1.4 * (y - n / 2))
    if kind == 'noise':
        return noise
    if kind == 'galaxy':
        phase = 2 * np.arctan2(y - n / 2, x - n / 2) + 18 * radius / n
        light = 200 * np.exp(-10 * radius / n) * (1 + 0.5 * np.cos(phase))
        return light * np.exp(0.5 * _texture(rng, n, 2.0)) + noise
    if kind == 'nebula':
        return 30 * np.exp(_texture(rng, n, 1.3, 2, 4, 8, 16, 32)) + noise
    if kind == 'stripes':
        drift = np.cumsum(0.3 * rng.normal(size=n)) + 1.5 * rng.normal(size=n)
        return noise + drift[:, None] + rng.normal(size=n)
    if kind == 'crowd':
        return _stars(rng, n, int(1e5 * (n / 512) ** 2), 1.5) + noise
    if kind == 'undersampled crowd':
        return _stars(rng, n, int(0.1 * n**2), 0.6) + noise
    if kind == 'checkerboard':
        return 20.0 * ((x // 3 + y // 3) % 2) + noise
    return 10 * np.cos(radius / 3) + noise


def _texture(rng, n, *scales):
    fields = [gaussian_filter(rng.normal(size=(n, n)), scale) for scale in scales]
    return sum(field / field.std() for field in fields) / len(scales) ** 0.5


def _stars(rng, n, n_stars, sigma):
    image = np.zeros((n, n))
    np.add.at(
        image, tuple(rng.integers(0, n, (2, n_stars))), 100 * rng.pareto(1.2, n_stars)
    )
    return gaussian_filter(image, sigma)


_KINDS = ['noise', 'nebula', 'stripes', 'undersampled crowd']
_KINDS += [
    pytest.param(kind, marks=SLOW)
    for kind in ('galaxy', 'crowd', 'checkerboard', 'rings')
]


@pytest.mark.slow
@pytest.mark.parametrize('stated', [False, pytest.param(True, marks=SLOW)])
@pytest.mark.parametrize('kind', _KINDS)
def test_work_is_bounded(kind, stated, work, default):
    image = _hard_image(kind, 80, np.random.default_rng(1))
    known = _KNOWN | {'psf': PSFModel()} if stated else {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        start = time.process_time()
        catalog = detect_sources(image, encoder=default, check=False, **known)
        seconds = time.process_time() - start
    # Sweeps of two passes, candidates with up to four tiles each.
    assert work.stars <= 0.7 * image.size
    assert work.scene <= 500 + 0.01 * image.size
    assert len(catalog) <= 500 + 0.04 * image.size
    # What 512 x 512 pixels may take, and much more than was measured here.
    assert seconds < 40


def test_bound_of_the_number_of_sources(work, default, monkeypatch):
    exposure, _ = CoaddSimulator(
        1, StarPrior(density=0.01), shape=(48, 48), margin=4
    ).sample(rng=2)
    monkeypatch.setattr(_sweep, '_MAX_SOURCES', (1, 0.0))
    known = {'density': 0.01, 'encoder': default}
    few = detect_sources(exposure, check=False, **known)
    # The most probable one of each of four colours, and one candidate of them.
    assert 0 < len(few) <= 2
    monkeypatch.undo()
    assert len(detect_sources(exposure, **known)) > 5


def test_most_probable():
    # Of each image, the second of which has few.
    candidate = torch.tensor([[[True, False], [True, True]], [[False, True]] * 2])
    chance = torch.tensor([[[0.3, 0.9], [0.5, 0.4]], [[0.8, 0.2]] * 2])
    assert _sweep.most_probable(candidate, chance, 1) is candidate
    few = _sweep.most_probable(candidate, chance, -498 / 0.04)
    assert few[0].tolist() == [[False, False], [True, True]]
    assert few[1].tolist() == candidate[1].tolist() == [[False, True]] * 2
    assert candidate[0, 0, 0]


def _posterior_of(count, tile_size=4):
    count = torch.as_tensor(count)[None]
    shape = tuple(tile_size * n for n in count.shape[1:])
    catalog = types.SimpleNamespace(count=count)
    return types.SimpleNamespace(
        grid=TileGrid(shape, tile_size), decided=lambda: (catalog, None)
    )


def test_fullness(default):
    rng = np.random.default_rng(4)
    sparse = (rng.random((64, 64)) < 0.2).astype(int)
    flags, message, mostly = check_fullness(default, _posterior_of(sparse))
    assert not flags.any()
    assert message is None
    assert not mostly
    # A galaxy fills a corner.
    part = sparse.copy()
    part[:24, :24] = 2
    flags, message, mostly = check_fullness(default, _posterior_of(part))
    assert flags[4, 4] == CatalogFlag.DENSITY_OUT_OF_DOMAIN
    assert flags[50, 50] == 0
    assert f'in {100 * (flags > 0).mean():.0f} % of the image' in message
    assert not mostly
    flags, message, mostly = check_fullness(default, _posterior_of(sparse * 0 + 1))
    assert flags.all()
    assert 'all of the image' in message
    assert 'not refined' in message
    assert mostly


def test_full_image_is_not_refined(default, monkeypatch, tmp_path):
    from bliss_astro import ProbabilisticCatalog
    from bliss_astro.detection import _domain

    exposure, _ = CoaddSimulator(
        1, StarPrior(density=0.015), shape=(48, 48), margin=4
    ).sample(rng=2)
    monkeypatch.setattr(_domain, '_FULL', 0.0)
    monkeypatch.setattr(_domain, '_FULL_MARGIN', 0.0)
    with pytest.warns(OutOfDomainWarning, match='nearly everywhere') as record:
        catalog = detect_sources(exposure, density=0.015, encoder=default, check=False)
    assert len(record) == 1
    assert catalog.meta['warnings'] == [str(record[0].message)]
    assert np.all(catalog['flags'] & CatalogFlag.DENSITY_OUT_OF_DOMAIN)
    assert np.isfinite(catalog['e1']).all()
    # The file gives the same rows.
    catalog.write(tmp_path / 'full.fits')
    again = ProbabilisticCatalog.read(tmp_path / 'full.fits')
    assert_allclose(again.posterior.at_threshold(0.5)['flux'], catalog['flux'])


# -- less probable sources -----------------------------------------------------------


def test_shapes_of_less_probable_sources_on_demand(default):
    exposure, _ = CoaddSimulator(
        1, StarPrior(density=0.01), shape=(48, 48), margin=4
    ).sample(rng=3)
    posterior = detect_sources(exposure, encoder=default).posterior
    rows = posterior.at_threshold(0.5)
    (kept,) = posterior._found
    assert (kept.sources.probability >= 0.5).all()
    more = posterior.at_threshold(0.1)
    assert len(more) > len(rows)
    assert np.isfinite(more['e1']).all()
    assert posterior.sources.shapes.isfinite().all()
    # The same as if they had been computed at once.
    fresh = CatalogPosterior(posterior.tile_posterior, posterior.flux_floor)
    assert_allclose(fresh.at_threshold(0.1)['e1'], more['e1'], atol=1e-5)
    common = more[: len(more)][more['probability'] >= 0.5]
    assert_allclose(common['e1'], rows['e1'], atol=1e-5)
    low, high = posterior.interval(more, 'e1', level=0.68)
    assert np.all(low < high)


# -- threads -------------------------------------------------------------------------


def test_number_of_threads(field, encoder):
    exposure, _ = field
    one, two = (detect_sources(exposure, encoder=encoder, n_threads=n) for n in (1, 2))
    for name in ('x_centroid', 'flux', 'probability'):
        assert_allclose(one[name], two[name], rtol=1e-4)
    with pytest.raises(ValueError, match='n_threads must be'):
        detect_sources(exposure, encoder=encoder, n_threads=0)


def test_bands_of_threads():
    from bliss_astro.detection._infer import _blocks

    most = 36_000
    assert _blocks((40, 40), 2, most) == [(slice(0, 40), slice(0, 40))]
    columns = slice(0, 64), slice(64, 128)
    assert _blocks((100, 128), 2, most) == [(slice(0, 100), own) for own in columns]
    assert _blocks((155, 155), 1, most) == [(slice(0, 155), slice(0, 155))]
    # Even ones of at most 36,000 tiles, as many for each thread.
    assert len(_blocks((300, 200), 1, most)) == 2
    assert len(_blocks((400, 200), 2, most)) == 4
    assert len(_blocks((1500, 1500), 1, most)) == 63
    # Every tile once.
    for n_threads in (1, 2, 16):
        seen, sizes = np.zeros((300, 200), int), []
        for block in _blocks((300, 200), n_threads, most):
            seen[block] += 1
            sizes.append(seen[block].size)
        assert (seen == 1).all()
        assert max(sizes) < 1.1 * min(sizes)
        assert max(sizes) <= most


@pytest.mark.slow
def test_detection_in_threads(encoder):
    image = np.random.default_rng(1).normal(0, 1, (48, 48))
    known = _KNOWN | {'psf': PSFModel()}

    def warned():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('default')
            detect_sources(image, encoder=encoder, **known)
        return [str(entry.message) for entry in caught]

    once = warned()
    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        inside = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            lengths = pool.map(
                lambda _: len(detect_sources(image, encoder=encoder, **known)), range(4)
            )
            assert set(lengths) == {0}
        assert warnings.filters == inside
    assert warnings.filters == before
    assert warned() == once
    assert 'no source has a probability above 0.5' in once


@pytest.fixture(scope='module')
def forked(default):
    """
    Detections in a process that was forked after one: results, threads, memory (MB).
    """
    if not hasattr(os, 'fork'):
        pytest.skip('counts and forks of POSIX')
    import multiprocessing
    import resource

    data = np.random.default_rng(1).normal(size=(320, 320))
    given = _KNOWN | {'psf': PSFModel(), 'encoder': default, 'n_threads': 1}
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)

    def detect(n):
        n_sources = len(detect_sources(data[:n, :n], check=False, **given))
        # Large enough for a parallel region, had torch more threads than one.
        parallel = float(torch.ones(400_000).exp().mean()) > 2
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Kilobytes, but bytes on macOS.
        peak /= 1024**2 if sys.platform == 'darwin' else 1024
        return n_sources, parallel, torch.get_num_threads(), peak

    def child():
        sender.send([detect(n) for n in (64, 320)])

    with warnings.catch_warnings():
        # That forks of processes with threads may hang is what is tested.
        warnings.simplefilter('ignore')
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        detect(48)
        process = context.Process(target=child)
        process.start()
        torch.set_num_threads(before)
    found = receiver.recv() if receiver.poll(120) else None
    process.kill()
    process.join()
    return found


def test_fork_after_a_detection(forked):
    assert [tuple(entry[:3]) for entry in forked] == 2 * [(0, True, 1)]


def test_memory_is_bounded(forked):
    # 31 MB for these pixels beyond what a small image takes.
    small, large = (peak for *_, peak in forked)
    assert large - small < 70
