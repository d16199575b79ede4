# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Threads and progress bars of work on pieces of an image; batches drawn ahead.

The many small operations on cut-outs lose time when each is split over torch's
own threads, and on a busy machine those threads wait for each other, spinning.
So every operation runs in one thread, and blocks of an image or pieces of a list of
sources are handed to as many threads as wanted, which meet only at the end.
No parallel region of OpenMP is entered, so nothing is left that a fork breaks.
"""

import contextlib
import contextvars
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import torch

from bliss_astro._arguments import check_choice, check_integer

# Fewer sources than this are not worth a thread of their own.
_MIN_PIECE = 256

# Pixels of cut-outs that a processor's cache holds: half a megabyte in single
# precision, as several such lists are in use.
_CACHED_PIXELS = 2**17

# Bytes of the largest block whose release makes the allocator of glibc keep as much of
# what is freed, where it otherwise returns arrays of some MB to the system and gets
# them again page by page: a fifth of the time of joint draws.
_KEPT = 2**25 - 2**16

# Where Linux says how many threads run, and which of them are ours.
_PROC = Path('/proc')

# Devices with such caches, and how much longer pieces are elsewhere: those of most
# images are whole then, of some gigabytes at most.
_CACHED, _WIDER = {'cpu'}, 128

# Threads that the work in progress may use; None outside of `use_threads`.
_N_WORKERS = contextvars.ContextVar('n_workers', default=None)
# Bar that shows its progress, and the seconds before it appears.
_BAR = contextvars.ContextVar('bar', default=None)
_BAR_DELAY = 2.0


class _Outer:
    """Torch's number of threads, 1 inside, as it was before the outermost work."""

    def __init__(self):
        self.lock, self.depth, self.number = threading.Lock(), 0, 1
        # Threads of which each has a processor, as of when that was not begun.
        self.free = 1

    def __enter__(self):
        with self.lock:
            if self.depth == 0:
                torch.empty(_KEPT, dtype=torch.uint8)
                self.number = torch.get_num_threads()
            self.depth += 1
            torch.set_num_threads(1)

    def __exit__(self, *_):
        with self.lock:
            self.depth -= 1
            torch.set_num_threads(self.number)


_OUTER = _Outer()


def _after_fork():
    # The parent's pool of threads does not exist here, and waiting for it
    # would never end; torch's own data loaders do the same.
    global _OUTER  # noqa: PLW0603 (a lock that another thread held)
    _OUTER = _Outer()
    torch.set_num_threads(1)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)


def check_n_threads(n_threads):
    """Number of threads of an argument ``n_threads``; None for those that are free."""
    if n_threads is not None:
        return check_integer('n_threads', n_threads, 1)
    if n_workers() is not None:
        return n_workers()
    if not _OUTER.depth:
        # Inside of another detection torch's number is one, and threads of it run.
        number = torch.get_num_threads()
        _OUTER.free = max(1, min(number, _n_free_processors())) if number > 1 else 1
    return _OUTER.free


def _n_free_processors():
    """Processors that this process may use, less those that others compute on."""
    affinity = getattr(os, 'sched_getaffinity', None)
    n_processors = os.cpu_count() or 1
    number = len(affinity(0)) if affinity else n_processors
    try:
        n_running = int((_PROC / 'loadavg').read_text().split()[3].partition('/')[0])
        tasks = (_PROC / 'self/task').glob('*/stat')
        states = [task.read_text().rpartition(')')[2].split()[0] for task in tasks]
    except (OSError, IndexError, ValueError):
        return number
    # Some of ours are about to end, or wait for work of OpenMP, spinning.
    n_others = max(n_running - max(states.count('R'), 1), 0)
    return min(number, n_processors - n_others)


def n_workers():
    """Threads that the work in progress may use, or None outside of it."""
    return _N_WORKERS.get()


def _progress(progress_bar, title):
    """Bar of an argument ``progress_bar``, which appears after a while, or None."""
    check_choice('progress_bar', progress_bar, (True, False, None, 'auto'))
    if progress_bar in ('auto', None):
        progress_bar = bool(getattr(sys.stderr, 'isatty', bool)())
    if not progress_bar:
        return None
    from tqdm import tqdm

    return tqdm(total=0, desc=title, unit='piece', delay=_BAR_DELAY, leave=False)


@contextlib.contextmanager
def use_threads(n_threads=None, *, progress_bar=False, title=''):
    """
    Run torch's operations in one thread each, and pieces of work in several.

    `map_threads` uses ``n_threads`` inside, by default as many as are free, and a
    progress bar shows its pieces, with ``'auto'`` in a terminal. Torch's own number is
    afterwards what it was before, also where several detections run at once.
    """
    # Inside of another one, torch has one thread already.
    inside = n_workers() is not None
    n_threads = check_n_threads(n_threads)
    bar = _progress(progress_bar, title)
    token = _N_WORKERS.set(n_threads)
    shown = _BAR.set(_BAR.get() if bar is None else bar)
    try:
        with contextlib.nullcontext() if inside else _OUTER:
            yield
    finally:
        _N_WORKERS.reset(token)
        _BAR.reset(shown)
        if bar is not None:
            bar.close()


def split_work(n, most, device=None):
    """Slices of n things of at most ``most``, one a thread or more."""
    share = -(-n // (_N_WORKERS.get() or 1))
    return _slices(n, min(most, max(share, _MIN_PIECE)), device)


def split_pixels(n, n_pixels, device):
    """Slices of n cut-outs of so many pixels that fit into a cache."""
    # Others are written to the memory and read again in each of many operations.
    return _slices(n, max(1, _CACHED_PIXELS // n_pixels), device)


def _slices(n, size, device):
    """Slices of n things, longer on a GPU, where each operation has its price."""
    size *= 1 if device is None or device.type in _CACHED else _WIDER
    return [slice(k, min(k + size, n)) for k in range(0, n, size)] or [slice(0)]


def map_threads(function, items):
    """Apply a function to items, in the threads that `use_threads` allows, in order."""
    items, bar = list(items), _BAR.get()
    number = min(_N_WORKERS.get() or 1, len(items))
    results, todo = [None] * len(items), iter(enumerate(items))
    if bar is not None:
        bar.total += len(items)
    grad = torch.is_grad_enabled()

    # Gradients are off in the threads as they are outside.
    def work():
        try:
            with torch.set_grad_enabled(grad):
                for k, item in todo:
                    results[k] = function(item)
                    if bar is not None:
                        with bar.get_lock():
                            bar.update()
        finally:
            # After an error, or Ctrl-C, what has not begun is dropped.
            deque(todo, 0)

    if number < 2:
        work()
        return results
    own = {'initializer': torch.set_num_threads, 'initargs': (1,)}
    with ThreadPoolExecutor(number - 1, **own) as pool:
        futures = [pool.submit(work) for _ in range(number - 1)]
        # This thread works too, as each one holds memory of its own, of a frame some
        # 130 MB. Inside, none of them has further threads.
        contextvars.Context().run(work)
    for future in futures:
        future.result()
    return results


class Batches:
    """
    Batches that ``draw()`` returns, in order, by a generator that is used nowhere else.

    The ``state`` is that of the generator before the next batch, whether that is drawn
    already or not. To set it forgets what was drawn.
    """

    def __init__(self, draw, generator):
        self._draw, self._generator = draw, generator
        # Thread that draws ahead; the state before the batch that it draws, and the
        # future of that.
        self._pool = self._ahead = None

    @contextlib.contextmanager
    def ahead(self):
        """
        Draw the next batch meanwhile, in one of torch's threads.

        Where there is one alone, there is none to spare.
        """
        number = torch.get_num_threads()
        if number == 1:
            yield
            return
        torch.set_num_threads(number - 1)
        own = {'initializer': torch.set_num_threads, 'initargs': (1,)}
        try:
            with ThreadPoolExecutor(1, **own) as self._pool:
                yield
        finally:
            self.state, self._pool = self.state, None
            torch.set_num_threads(number)

    @contextlib.contextmanager
    def beside(self, work):
        """
        Give a function that returns the result of some work.

        The thread that draws ahead does the work, as soon as a batch is drawn, unless
        the function is called before that. Where others help this thread, it needs no
        such help.
        """
        if self._pool is None or torch.get_num_threads() > 1:
            yield work
            return
        future = self._pool.submit(work)
        try:
            yield lambda: work() if future.cancel() else future.result()
        finally:
            if not future.cancel():
                wait([future])

    @property
    def state(self):
        if self._ahead is None:
            return self._generator.get_state()
        return self._ahead[0]

    @state.setter
    def state(self, state):
        if self._ahead is not None:
            wait([self._ahead[1]])
            self._ahead = None
        self._generator.set_state(state)

    def take(self, *, last=False):
        """The next batch; unless it is the last one, that after it is begun."""
        if self._pool is None:
            return self._draw()
        if self._ahead is None:
            self._begin()
        batch, self._ahead = self._ahead[1].result(), None
        if not last:
            self._begin()
        return batch

    def _begin(self):
        state = self._generator.get_state()
        self._ahead = state, self._pool.submit(self._draw)
