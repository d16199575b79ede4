# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Batches of images in several processes: results, messages, and how they end.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import types
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bliss_astro import NoDetectionsWarning, PSFModel, detect_many
from bliss_astro.detection import _batches, _processes

_SIDE = 32
_KNOWN = {'background': 0.0, 'effective_gain': 29.0, 'psf': PSFModel()}


@pytest.fixture
def known(encoder, monkeypatch):
    """
    Keywords with which each image is a batch of its own.
    """
    monkeypatch.setattr(_batches, '_PIXELS', _SIDE**2)
    given = {'bkg_error': 1.0, 'density': 1e-3, 'check': False, 'encoder': encoder}
    return _KNOWN | given


@pytest.fixture
def started(monkeypatch):
    """
    Processes that are started, all of which have ended at the end.
    """
    before, processes, start = threading.active_count(), [], subprocess.Popen

    def keep(*args, **kwargs):
        processes.append(start(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(_processes.subprocess, 'Popen', keep)
    yield processes
    assert all(process.poll() is not None for process in processes)
    assert threading.active_count() == before


@pytest.fixture
def idle(monkeypatch):
    """
    This process leaves all that can be sent to the others.
    """

    class Patient(queue.Queue):
        def get_nowait(self):
            raise queue.Empty

    monkeypatch.setattr(_processes.queue, 'SimpleQueue', Patient)


@pytest.fixture
def images():
    """
    Noise, a star on the second image alone.
    """
    cube = np.random.default_rng(2).normal(size=(4, _SIDE, _SIDE))
    y, x = np.mgrid[:_SIDE, :_SIDE] - 15.3
    cube[1] += 40 * np.exp(-(x**2 + y**2) / 4)
    return list(cube)


@pytest.fixture
def unknown(monkeypatch):
    """
    Kind of arrays of a module that another process does not find.
    """
    module = types.ModuleType('module_of_a_notebook')
    own = {'__module__': module.__name__}
    module.Unknown = type('Unknown', (np.ndarray,), own)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.Unknown


def _run(images, **options):
    """Catalogues until an error, that, and texts of warnings."""
    found, error = [], None
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter('always')
        try:
            found.extend(detect_many(images, 0.9, rng=5, n_samples=3, **options))
        except Exception as caught:  # noqa: BLE001 (compared)
            error = caught
    assert {item.filename for item in record} == {__file__}
    return found, error, [(str(item.message), item.category) for item in record]


def _assert_same(one, other):
    assert one.colnames == other.colnames
    for name in one.colnames:
        assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), name)
    tables = (table.posterior.sample(1, rng=1)[0] for table in (one, other))
    assert_array_equal(*(np.asarray(table['flux']) for table in tables))


def test_same_as_in_one_process(images, known, unknown, started, idle, monkeypatch):
    worked = []
    work = _processes._Batch.work

    def count(batch, options, **own):
        worked.append(batch.first)
        work(batch, options, **own)

    monkeypatch.setattr(_processes._Batch, 'work', count)
    pairs = [*images, images[1].view(unknown), images[1], 'nowhere.fits', images[0]]
    runs = [_run(pairs, n_processes=n, **known) for n in (None, 2)]
    # What cannot be read there, or ends with an error, is worked on here.
    assert worked == [4, 6]
    assert len(started) == 1
    (one, error, texts), (two, other, again) = runs
    assert [len(catalog) > 0 for catalog in two] == [0, 1, 0, 0, 1, 1]
    for pair in zip(one, two, strict=True):
        _assert_same(*pair)
    assert np.any(two[1]['flux_samples'] != two[5]['flux_samples'])
    assert two[1].posterior.kept._source.encoder is known['encoder']
    assert type(other) is type(error) is FileNotFoundError
    assert str(other) == str(error)
    assert str(other).startswith('image 6: ')
    assert sorted(again) == sorted(texts)
    names = [text[:8] for text, kind in again if kind is NoDetectionsWarning]
    assert names == ['image 0:', 'image 2:', 'image 3:']


def test_order_of_warnings():
    """
    Those about a band of an image come before those about the next image.
    """
    subjects = 'image 4', "image 3: band 'g'", 'image 30', None
    kept = [(subject, str(k), UserWarning) for k, subject in enumerate(subjects)]
    shown = _processes._shown(3, ['a', 'b'], kept, None, named=True)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter('always')
        assert next(shown) == 'a'
        first = [str(item.message) for item in record]
        assert list(shown) == ['b']
    assert first == ["image 3: band 'g': 1", '3']
    texts = [str(item.message) for item in record]
    assert texts == [*first, 'image 4: 0', 'image 30: 2']


def test_a_worker_that_ends(images, known, started, idle):
    many = detect_many(iter(images * 3), 0.9, n_processes=2, **known)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        next(many)
        # Ctrl-C is for the first process alone.
        os.kill(started[0].pid, signal.SIGINT)
        for _ in range(4):
            next(many)
        started[0].kill()
        with pytest.raises(RuntimeError, match=r'worker process has ended \(exit code'):
            list(many)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('how', ['close', 'throw', 'delete'])
def test_end_before_the_last_image(images, known, started, how):
    taken = []

    def take():
        for k in range(20):
            taken.append(k)
            yield images[1]

    many = detect_many(take(), n_processes=2, **known)
    assert taken == []
    assert len(next(many)) > 0
    # Two batches for each process.
    assert len(taken) == 4
    assert len(started) == 1
    if how == 'close':
        many.close()
    elif how == 'throw':
        with pytest.raises(KeyboardInterrupt):
            many.throw(KeyboardInterrupt)
    del many


def test_images_that_cannot_be_pickled(images, known, started):
    class Local(np.ndarray):
        pass

    own = [image.view(Local) for image in images]
    (one, _, texts), (two, _, again) = (
        _run(v, n_processes=2, **known) for v in (own, images[:1])
    )
    assert len(one) == 4
    assert len(two) == 1
    assert len(texts) == 3
    assert len(again) == 1
    # One batch alone is for this process.
    assert not started


def test_warnings_that_are_errors(images, known, started):
    many = detect_many(images[1:], 0.9, n_processes=2, **known)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(next(many)) > 0
        with pytest.raises(NoDetectionsWarning, match=r'^image 1: (?!image)'):
            next(many)


@pytest.mark.filterwarnings('ignore')
def test_posteriors(images, encoder, started):
    del started
    own = _KNOWN | {'bkg_error': 1.0}
    one, two = (
        [p.expected_counts() for p in encoder.infer(images, n_processes=n, **own)]
        for n in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize('value', [0, 1.5, 'two'])
def test_wrong_numbers(images, value):
    with pytest.raises((TypeError, ValueError), match='n_processes must be an integer'):
        detect_many(images, n_processes=value)


def test_sizes(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(bytes(400))
    assert _processes._n_pixels(path) == 100
    assert _processes._n_pixels(np.zeros((3, 4))) == 12
    assert _processes._n_pixels([[1, 2], [3, 4]]) == 4
    assert _processes._n_pixels({'r': np.zeros((3, 4)), 'g': path, 'i': None}) == 112
    assert _processes._n_pixels(np.zeros((2, 3, 4))) == 24
    for other in ('nowhere', [], None):
        assert _processes._n_pixels(other) == _processes._PIXELS_UNKNOWN
