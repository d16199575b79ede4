# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Batches of images in several processes: `detect_each` in workers and in this process.

Most of the time of a small image is Python's, which runs in one thread of a process at
a time. A worker imports the package, and not the script of its user, as processes of
`multiprocessing` do; so that needs no ``if __name__ == '__main__'``. Pickles go through
its standard input and output, the encoder once. What cannot be pickled, and what ends
with an error, is worked on in this process, where the error belongs.
"""

import collections
import contextlib
import dataclasses
import gc
import io
import os
import pickle
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from bliss_astro._warnings import keep_warnings, show_warnings, take_warnings
from bliss_astro.encoders import Encoder

from ._batches import batches_of, detect_each

# Ctrl-C is for the first process, which ends the others.
_START = (
    'import pickle, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); '
    'sys.path[:] = pickle.load(sys.stdin.buffer); '
    f'from {__name__} import serve; serve()'
)
_ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')
# Bytes of a pixel in a file, and pixels where nothing is known of them.
_PIXEL_BYTES, _PIXELS_UNKNOWN = 4, 100_000
# What a process that has ended, or is ended, leaves of a pickle.
_CUT = EOFError, OSError, ValueError, pickle.UnpicklingError


def detect_in_processes(pairs, n_processes=None, **options):
    """
    As `detect_each`, in so many processes with one thread each, this one included.

    Two batches for each process are taken ahead. Without an ``n_processes`` above 1 all
    is as without.
    """
    if (n_processes or 1) == 1:
        yield from detect_each(pairs, **options)
        return
    batches, waiting, error = batches_of(pairs, _pickled), collections.deque(), None
    with _Workers(n_processes - 1, options) as workers:
        while True:
            while error is None and len(waiting) < 2 * n_processes:
                try:
                    waiting.append(workers.begin(next(batches)))
                except Exception as found:  # noqa: BLE001 (raised below)
                    error = found
            if not waiting:
                break
            workers.finish(waiting[0])
            yield from _shown(*waiting.popleft().found, options.get('named'))
    if not isinstance(error, StopIteration):
        raise error


def _shown(first, results, kept, error, named):
    """Yield results after the warnings about them; then those of the error, and it."""
    for k in range(first, first + len(results)):
        show_warnings(take_warnings(kept, f'image {k}' if named else None))
        yield results.pop(0)
    show_warnings(kept)
    if error is not None:
        raise error


# -- pickles -------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    """Pickler of all but the encoder, which each process has; tensors are arrays."""

    def persistent_id(self, value):
        return 'encoder' if isinstance(value, Encoder) else None

    def reducer_override(self, value):
        if type(value) is torch.Tensor and value.device.type == 'cpu':
            # Torch's own way takes ten times as long.
            with contextlib.suppress(TypeError):
                return torch.from_numpy, (value.detach().numpy(),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, content, encoder):
        super().__init__(io.BytesIO(content))
        self.encoder = encoder

    def persistent_load(self, _):
        return self.encoder


def _pickle(value):
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def _pickled(k, data, options):
    """Index, pickle and encoder of an image with its options; and its pixels."""
    encoder = options.load_encoder()
    own = {'encoder': encoder, 'n_threads': options.n_threads or 1}
    pair = data, dataclasses.replace(options, progress_bar=False, **own)
    # Now: an iterator may use an array again for the next image.
    with contextlib.suppress(Exception):
        pair = _pickle(pair)
    return (k, pair, encoder), _n_pixels(data)


def _n_pixels(data):
    """Pixels of an image, and roughly those of a file."""
    with contextlib.suppress(Exception):
        if isinstance(data, str | os.PathLike):
            return Path(data).stat().st_size // _PIXEL_BYTES
        if isinstance(data, Mapping):
            return sum(_n_pixels(one) for one in data.values() if one is not None)
        values = getattr(data, 'data', data)
        # A cube is of bands.
        if np.ndim(values) in (2, 3):
            return np.size(values)
    return _PIXELS_UNKNOWN


# -- workers -------------------------------------------------------------------------


@dataclasses.dataclass
class _Batch:
    """Images, pickled where that is possible, and what was found in them."""

    first: int
    pairs: list
    encoder: Encoder
    results: tuple | None = None
    done: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def is_sent(self):
        """Whether it can be sent to another process."""
        return all(isinstance(pair, bytes) for pair in self.pairs)

    @property
    def found(self):
        """Index of the first image, results, warnings, error."""
        return self.first, *self.results

    def work(self, options, **own):
        """Set results, and end with the first error."""
        results, error = [], None
        pairs = (
            _Unpickler(pair, self.encoder).load() if isinstance(pair, bytes) else pair
            for pair in self.pairs
        )
        with keep_warnings(**own) as kept:
            try:
                # What came before an error stays in the list.
                results.extend(detect_each(pairs, first=self.first, **options))
            except Exception as found:  # noqa: BLE001 (raised in its turn)
                error = found
        self.results = results, kept, error
        self.done.set()


class _Workers:
    """
    Processes that work on batches, each with a thread that waits for it.

    Parameters
    ----------
    most : int
        Number of processes that are started at most.

    options : dict
        Those of `detect_each`.
    """

    def __init__(self, most, options):
        self.most, self.options, self.n_begun = most, options, 0
        self.todo, self.lost = queue.SimpleQueue(), []
        self.running = []
        self.end = weakref.finalize(self, _end, self.running, self.todo)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def begin(self, images):
        """Make a `_Batch` of pickled images, which the next free process takes."""
        indices, pairs, encoders = zip(*images, strict=True)
        batch = _Batch(indices[0], list(pairs), encoders[0])
        self.n_begun += 1
        if batch.is_sent:
            self.todo.put(batch)
            # The first batch is for this process, which need not be started.
            if len(self.running) < min(self.most, self.n_begun - 1):
                self.running.append(self._start(batch.encoder))
        return batch

    def _start(self, encoder):
        process = subprocess.Popen(
            [sys.executable, '-c', _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _ONE_THREAD,
        )
        content = pickle.dumps((encoder, self.options))
        given = process, content, encoder, self.todo, self.lost
        thread = threading.Thread(target=_drive, args=given, daemon=True)
        thread.start()
        return process, thread

    def finish(self, batch):
        """Wait for a batch, and work on others meanwhile."""
        while not batch.done.is_set():
            try:
                other = self.todo.get_nowait() if batch.is_sent else batch
            except queue.Empty:
                batch.done.wait()
            else:
                other.work(self.options)
        if self.lost:
            codes = ', '.join(str(process.wait()) for process in self.lost)
            raise RuntimeError(
                f'a worker process has ended (exit code {codes}), as when it is killed '
                'or memory is short'
            )
        if batch.results is None:
            batch.work(self.options)


def _end(running, todo):
    """End processes at once, and wait for their threads."""
    for process, _ in running:
        process.kill()
        todo.put(None)
    for process, thread in running:
        thread.join()
        with contextlib.suppress(OSError), process:
            pass


def _drive(process, content, encoder, todo, lost):
    """Hand batches to a process until one is None, in a thread of this process."""
    batch = None
    try:
        pickle.dump(sys.path, process.stdin)
        process.stdin.write(content)
        process.stdin.flush()
        # It is ready, and until then this process may take what is to be done.
        pickle.load(process.stdout)
        while (batch := todo.get()) is not None:
            pickle.dump((batch.first, batch.pairs), process.stdin)
            process.stdin.flush()
            reply = pickle.load(process.stdout)
            with contextlib.suppress(Exception):
                batch.results = _Unpickler(reply, encoder).load()
            batch.done.set()
    except _CUT:
        lost.append(process)
        if batch is not None:
            batch.done.set()


def serve():
    """Work on batches from the standard input until it ends: a worker's process."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), 'wb')
    # What other packages print is no reply.
    os.dup2(2, 1)
    with contextlib.suppress(*_CUT):
        encoder, options = pickle.load(requests)
        # What has been imported need not be searched for garbage again and again.
        gc.freeze()
        reply = b''
        while True:
            pickle.dump(reply, replies)
            replies.flush()
            batch = _Batch(*pickle.load(requests), encoder)
            batch.work(options, of_others=True)
            # Whatever is wrong shows where the batch came from.
            reply = b''
            with contextlib.suppress(Exception):
                reply = b'' if batch.results[2] else _pickle(batch.results)
