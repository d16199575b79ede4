# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Work on fields of a run: opened, passed through the encoder together, written singly.
"""

import collections
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bliss_astro._threads import use_threads
from bliss_astro._warnings import keep_warnings, messages_about, take_warnings
from bliss_astro.detection._batches import detect_each
from bliss_astro.detection._detect import DetectionOptions
from bliss_astro.encoders._weights import DEFAULT_ENCODER

from ._field import (
    Job,
    arrow_table,
    checksums_of,
    facts_of,
    write_contents,
    write_record,
)
from ._marginals import marginals
from ._worst import worst_place


def catalog_field(ref, folder, *, encoder=DEFAULT_ENCODER, **options):
    """
    Detect the sources of one field of a run, and write them with a record of it.

    The result depends on the arguments and the files alone; a field that is done
    already is not done again.

    Parameters
    ----------
    ref : `FieldRef`
        The field.

    folder : str or `~os.PathLike`
        Folder of the run, made if need be, with ``fields/ID.parquet`` (rows),
        ``fields/ID.npz`` (arrays of the marginals) and ``fields/ID.json`` (record),
        which is written last.

    encoder : `~bliss_astro.encoders.Encoder`, str or path, optional
        The encoder.

    **options
        Keywords of `~bliss_astro.detection.detect_sources` that all fields share:
        numbers and texts.

    Returns
    -------
    record : dict
        ``status`` is ``'done'``, or ``'failed'`` with a ``reason``; ``key``, hash of
        what the result depends on; ``seconds``, ``n_rows``, ``expected_count`` with
        its error, ``area`` (arcmin2), ``depth`` (AB magnitude, or flux, of a star of
        signal-to-noise ratio 5), ``fwhm`` (pixels), ``findings`` of the self-check,
        their ``worst`` place, ``warnings``, ``flags``, ``footprint`` and others.

    Raises
    ------
    OSError
        If the record cannot be written.

    TypeError, ValueError
        If an argument is not allowed.
    """
    (record,) = work_on([ref], folder, Job(encoder, options))
    return record


def work_on(refs, folder, job, leave=None):
    """
    As `catalog_field` for some fields, which go through the encoder together.

    ``leave()`` is called when nothing is left but to write.
    """
    Path(folder, 'fields').mkdir(parents=True, exist_ok=True)
    works, records = [], []
    for ref in refs:
        record = job.done(ref, folder)
        if record is None:
            works.append(_Work(ref, job))
        else:
            records.append(record)
    futures = []
    # One field is written while others are worked on: disks take their time.
    with ThreadPoolExecutor(1) as pool:
        _detect(works, lambda work: futures.append(pool.submit(work.write, folder)))
        if leave is not None:
            leave()
    return records + [future.result() for future in futures]


def _detect(works, end):
    """Detect the sources of fields together, and call ``end(work)`` for each."""
    left, opened, named = [*works], collections.deque(), len(works) > 1
    mark = time.perf_counter()

    def finish(work):
        left.remove(work)
        end(work)

    def pairs():
        nonlocal mark
        for work in works:
            pair = work.open()
            mark += work.seconds['read']
            if pair is None:
                finish(work)
            else:
                opened.append(work)
                yield pair

    with keep_warnings(of_others=True) as kept:
        try:
            for k, catalog in enumerate(detect_each(pairs(), named=named)):
                passed = time.perf_counter() - mark
                for work in opened:
                    work.seconds['infer'] += passed / len(opened)
                work, subject = opened.popleft(), f'image {k}' if named else None
                with messages_about(subject):
                    work.take(catalog)
                # The caller holds it no longer, so that its memory is free.
                del catalog
                work.keep(kept, subject)
                mark = time.perf_counter()
                finish(work)
        except Exception as error:  # noqa: BLE001 (the reason of the record)
            if not named:
                works[0].fail(error)
                works[0].keep(kept)
                finish(works[0])
    # Which of them it was shows when each goes alone.
    for work in left:
        _detect([work], end)


class _Work:
    """A field on its way: its record, and the files that are to be written."""

    def __init__(self, ref, job):
        self.ref, self.job = ref, job

    def open(self):
        """Image and options of its detection, or None if it cannot be read."""
        start, ref, job, pair = time.perf_counter(), self.ref, self.job, None
        checksums = checksums_of(ref)
        key = job.key(ref, checksums)
        self.seconds = dict.fromkeys(('read', 'infer', 'write'), 0.0)
        self.record = {'field': ref.id, 'key': key, 'status': 'failed', 'reason': ''}
        self.record |= {'checksums': checksums, 'seconds': {}, 'n_rows': 0}
        self.record |= {'owned': ref.owned, 'encoder_sha256': job.sha256}
        self.record |= {'warnings': [], 'footprint': ref.footprint}
        with keep_warnings(of_others=True) as kept:
            try:
                # Draws are those of the field, whatever was done before it.
                own = {'n_threads': 1, 'rng': int(key[:15], 16)}
                own |= ref.detection() | job.options
                own |= {'encoder': job.load(), 'progress_bar': False}
                with use_threads(own['n_threads']):
                    pair = ref.open(), DetectionOptions(**own)
            except Exception as error:  # noqa: BLE001 (the reason of the record)
                self.fail(error)
        self.keep(kept)
        self.seconds['read'] = time.perf_counter() - start
        return pair

    def take(self, catalog):
        """Take what is to be written."""
        start = time.perf_counter()
        try:
            facts, rows = facts_of(catalog), arrow_table(catalog, self.ref)
            parts, worst = marginals(catalog), worst_place(catalog)
            both = (parts | worst).items()
            arrays = {k: v for k, v in both if isinstance(v, np.ndarray)}
            facts['marginals'] = {k: v for k, v in parts.items() if k not in arrays}
            facts['worst'] = {k: v for k, v in worst.items() if k not in arrays}
            facts['footprint'] = self.ref.footprint or facts['footprint']
            self.record |= {'status': 'done'} | facts
            self.contents = rows, arrays
        except Exception as error:  # noqa: BLE001 (the reason of the record)
            self.fail(error)
        self.seconds['write'] = time.perf_counter() - start

    def fail(self, error):
        """Set the reason of the record: type and text of an error, with the files."""
        text = ' '.join([str(error), *getattr(error, '__notes__', ())]).strip()
        paths = self.ref.paths()
        if paths and not any(Path(path).name in text for path in paths):
            text = f'{text} ({", ".join(paths)})'.strip()
        self.record['reason'] = f'{type(error).__name__}: {text}'

    def keep(self, kept, subject=None):
        """Put warnings about a subject, without its name, into the record."""
        for given, text, kind in take_warnings(kept, subject):
            part = (given or '').removeprefix(subject or '').removeprefix(': ')
            words = kind.__name__, part, text
            self.record['warnings'].append(': '.join(word for word in words if word))

    def write(self, folder):
        """Write the files, the record last; return that."""
        start = time.perf_counter()
        if self.record['status'] == 'done':
            write_contents(folder, self.ref.id, *self.contents)
            self.seconds['write'] += time.perf_counter() - start
            seconds = {name: round(s, 4) for name, s in self.seconds.items()}
            self.record['seconds'] = seconds
        write_record(folder, self.record)
        return self.record
