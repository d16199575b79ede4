# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of threads, of warnings in threads, and of progress.
"""

import os
import platform
import re
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.utils.exceptions import AstropyUserWarning

import bliss_astro
from bliss_astro import ProbabilisticCatalog, _threads
from bliss_astro._threads import check_n_threads, map_threads, split_work, use_threads
from bliss_astro._warnings import (
    NoDetectionsWarning,
    collect_warnings,
    mute_warnings,
    warn,
)

# -- threads -----------------------------------------------------------------------


@pytest.mark.parametrize('n_threads', [1, 3])
def test_results_in_order(n_threads):
    with use_threads(n_threads):
        assert map_threads(lambda k: k**2, range(7)) == [k**2 for k in range(7)]
    assert map_threads(lambda k: k + 1, range(3)) == [1, 2, 3]


def test_operations_have_one_thread_and_gradients_stay_off():
    both = threading.Barrier(2, timeout=10)

    def state(wait):
        own = threading.current_thread() is threading.main_thread()
        if wait:
            both.wait()
        # Nor are there threads inside.
        assert not wait or _threads.n_workers() is None
        return own, torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad(), use_threads(2):
        assert torch.get_num_threads() == 1
        # This thread is one of the two, so that there are no more than that.
        states = map_threads(state, [True] * 4)
        assert set(states) == {(False, 1, False), (True, 1, False)}
        assert _threads.n_workers() == 2
    with use_threads(1):
        assert map_threads(state, [False] * 2) == [(True, 1, True)] * 2


def test_number_of_threads_comes_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with use_threads(), use_threads(3):
            pass
        assert torch.get_num_threads() == 2

        def work(_):
            with use_threads(2):
                # A detection inside of another one leaves the number at one.
                with use_threads():
                    pass
                inside = torch.get_num_threads()
                map_threads(time.sleep, [0.001] * 3)
            return inside, torch.get_num_threads()

        with ThreadPoolExecutor(4) as pool:
            assert {inside for inside, _ in pool.map(work, range(40))} == {1}
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of its allocator')
def test_memory_is_not_returned_between_operations():
    code = """
import resource, torch
from bliss_astro._threads import use_threads

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**21)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with use_threads(1):
    faults()
    print(faults())
"""
    run = [sys.executable, '-c', code]
    found = subprocess.run(run, capture_output=True, text=True, check=True)
    # Of 40,960 pages.
    assert int(found.stdout) < 4000


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_an_error_ends_the_work(error):
    before, done = torch.get_num_threads(), []

    def work(k):
        if k == 1:
            raise error('stop')
        time.sleep(0.02)
        done.append(k)

    with pytest.raises(error, match='stop'), use_threads(2):
        map_threads(work, range(100))
    assert len(done) < 10
    assert torch.get_num_threads() == before
    assert _threads.n_workers() is None


def test_check_n_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(_threads, '_PROC', tmp_path)
    assert check_n_threads(np.int64(3)) == 3
    assert check_n_threads(None) == min(torch.get_num_threads(), os.cpu_count())
    with pytest.raises(TypeError, match='n_threads must be an integer of at least 1'):
        check_n_threads(1.5)
    for bad in (0, -1):
        with pytest.raises(ValueError, match='n_threads must be an integer of at'):
            check_n_threads(bad)


@pytest.mark.parametrize(
    ('n_running', 'n_own', 'expected'),
    [
        (0, 1, 4),
        (1, 1, 4),
        (2, 1, 3),
        (4, 1, 1),
        (9, 1, 1),
        ('?', 1, 4),
        # Threads of one's own that have not ended yet; the counts may be of two times.
        (4, 4, 4),
        (6, 4, 2),
        (2, 4, 4),
        (2, 0, 3),
    ],
)
def test_no_more_threads_than_free_processors(
    tmp_path, monkeypatch, n_running, n_own, expected
):
    load = tmp_path / 'loadavg'
    load.write_text(f'0.1 0.2 0.3 {n_running}/96 1234')
    monkeypatch.setattr(_threads, '_PROC', tmp_path)
    for number, state in enumerate('R' * n_own + 'S'):
        task = tmp_path / f'self/task/{number}'
        task.mkdir(parents=True)
        (task / 'stat').write_text(f'{number} (name (of) R) {state} 1 2')
    monkeypatch.setattr(os, 'cpu_count', lambda: 4)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(4), raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        assert check_n_threads(None) == expected
        assert check_n_threads(8) == 8
        with use_threads():
            # That threads of one's own run does not matter.
            load.write_text('0.1 0.2 0.3 9/96 1234')
            assert check_n_threads(None) == expected
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(check_n_threads, None).result() == expected
        assert torch.get_num_threads() == 8
    finally:
        torch.set_num_threads(before)


def test_split_work():
    def sizes(n, device=None):
        return [part.stop - (part.start or 0) for part in split_work(n, 512, device)]

    assert sizes(1000) == [512, 488]
    with use_threads(2):
        assert sizes(600) == [300, 300]
        # Too few to share.
        assert sizes(100) == [100]
    assert sizes(0) == [0]
    # As few pieces as memory allows where operations have a price of their own.
    assert sizes(1000, torch.device('cuda')) == [1000]
    assert sizes(100_000, torch.device('cuda')) == [65_536, 34_464]


# -- warnings ------------------------------------------------------------------------


def _shout(text='hello'):
    warnings.warn(text, RuntimeWarning, stacklevel=1)


def test_warnings_are_collected_whatever_the_filters():
    with collect_warnings() as texts:
        _shout()
        _shout('again')
    assert texts == ['hello', 'again']
    with warnings.catch_warnings():
        warnings.simplefilter('default')
        with pytest.warns(RuntimeWarning, match='hello'):
            _shout()
        # What was shown already is seen all the same.
        with collect_warnings(RuntimeWarning) as texts:
            _shout()
    assert texts == ['hello']


def test_other_kinds_of_warnings_are_left_alone():
    with (
        pytest.warns(RuntimeWarning, match='hello'),
        collect_warnings(AstropyUserWarning) as texts,
    ):
        _shout()
    assert texts == []
    before = list(warnings.filters)
    with pytest.raises(ValueError, match='stop'), collect_warnings():
        raise ValueError('stop')
    assert warnings.filters == before


def test_threads_leave_no_filter_behind():
    before = list(warnings.filters)

    def work(_):
        with collect_warnings() as texts:
            for _ in range(20):
                _shout()
                # As photutils and astropy do.
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore', RuntimeWarning)
        return len(texts)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(100))) == {20}
    assert warnings.filters == before


def test_warnings_of_other_threads_are_not_taken():
    ready, done = threading.Event(), threading.Event()

    def other():
        with collect_warnings() as texts:
            ready.set()
            done.wait(10)
        return texts

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(other)
        ready.wait(10)
        with pytest.warns(RuntimeWarning, match='hello'):
            _shout()
        done.set()
        assert future.result() == []


def test_muted_warnings():
    with mute_warnings(NoDetectionsWarning):
        warn('nothing', NoDetectionsWarning)
        with pytest.warns(AstropyUserWarning, match='something') as record:
            warn('something', AstropyUserWarning)
    assert record[0].filename == __file__


def test_reading_in_threads_leaves_no_filter_behind(tmp_path):
    one = np.ones(5)
    names = ('probability', 'x_centroid', 'y_centroid', 'x_err', 'y_err')
    columns = dict.fromkeys((*names, 'flux', 'flux_err'), one)
    path = tmp_path / 'catalog.fits'
    ProbabilisticCatalog.from_columns(columns).write(path)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        lengths = pool.map(lambda _: len(ProbabilisticCatalog.read(path)), range(16))
        assert set(lengths) == {5}
    assert warnings.filters == before
    with pytest.warns(UserWarning, match='truncated'):
        warnings.warn('axis labels were truncated', stacklevel=1)


# -- progress -------------------------------------------------------------------------


def test_progress_appears_when_it_takes_long(capsys, monkeypatch):
    with use_threads(1, progress_bar=True, title='working'):
        map_threads(abs, range(5))
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(_threads, '_BAR_DELAY', 0.0)
    with use_threads(2, progress_bar=True, title='working'):
        map_threads(lambda _: time.sleep(0.15), range(4))
    assert 'working' in capsys.readouterr().err
    # Not in a terminal.
    with use_threads(1, progress_bar='auto'):
        map_threads(lambda _: time.sleep(0.15), range(2))
    assert capsys.readouterr().err == ''
    with pytest.raises(ValueError, match='progress_bar must be'):
        use_threads(1, progress_bar='yes').__enter__()
    assert _threads.n_workers() is None


def test_the_package_replaces_no_filters():
    """
    Warnings are caught by `collect_warnings`, which threads may do.
    """
    root = Path(bliss_astro.__file__).parent
    # A shell command is a process of its own.
    allowed = {root / '_warnings.py', root / 'cli' / '__init__.py'}
    # Examples aside.
    replaces = re.compile(r'^(?!\s*>>>).*catch_warnings\(', re.MULTILINE)
    found = [
        str(path.relative_to(root))
        for path in set(root.rglob('*.py')) - allowed
        if replaces.search(path.read_text())
    ]
    assert found == []
