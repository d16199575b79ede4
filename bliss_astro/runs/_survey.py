# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Runs over many fields on dask.distributed: what is done, what is left, what failed.
"""

import collections
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from bliss_astro._arguments import as_list, check_integer, require, require_type
from bliss_astro._atomic import atomic_write, lock_folder
from bliss_astro._warnings import collect_warnings, warn
from bliss_astro.catalog._meta import default_meta
from bliss_astro.encoders import Encoder
from bliss_astro.encoders._weights import DEFAULT_ENCODER

from ._field import Job, check_packages, read_record, work_on, write_record
from ._fields import FieldRef, check_unique
from ._open import open_survey
from ._prepare import prepare_all
from ._table import RETURNED, row_of, write_table

# Fields for each thread of the workers that are submitted ahead: one that is worked on,
# one that waits for it there, and one at the scheduler.
_AHEAD = 3
# Seconds between looks at the number of workers, and between tables of the fields.
_LOOK, _SAVE = 5.0, 60.0
# Dask makes workers return memory at once, so that each operation asks for it again.
_KEEP_MEMORY = {'distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_': None}
# Files and folders of a run.
_PARTS = ('fields', 'catalog', 'fields.ecsv', 'encoder.safetensors', 'encoder.json')
_PARTS += ('mosaics', 'depth.fits', 'completeness.fits', 'report.html', 'run.json')


def run_survey(
    fields,
    output,
    *,
    client=None,
    workers=None,
    encoder=DEFAULT_ENCODER,
    threshold=0.5,
    retries=1,
    progress_bar=True,
    overwrite=False,
    **options,
):
    """
    Detect the sources of many fields in parallel, and write one catalogue of them.

    Each field is written when it is done. A run that was stopped, whatever by, goes on
    where it was when it is started again: fields that are done are skipped, those that
    failed, or whose files have changed, are done anew. Results do not depend on the
    workers, or on the order of the fields.

    Parameters
    ----------
    fields : list of `FieldRef`
        Fields, such as `find_fields` returns. They may be further ones of a run.

    output : str or `~os.PathLike`
        Folder of the run, which all workers have to see.

    client : ``distributed.Client`` or str, optional
        Dask cluster, or the address of its scheduler. By default processes of this
        machine, for which a script needs the usual ``if __name__ == '__main__':``.

    workers : int, optional
        Processes on this machine, with one thread each; by default one a processor.

    encoder : `~bliss_astro.encoders.Encoder`, str or path, optional
        The encoder; one in memory is saved in the folder.

    threshold : float, optional
        Smallest probability of a source.

    retries : int, optional
        How many times a field is tried again after its worker was lost several times,
        or could not write.

    progress_bar : bool, optional
        Whether to show progress, and the address of the dashboard.

    overwrite : bool, optional
        Whether a run of another encoder, version or other options that is in the folder
        is deleted.

    **options
        Keywords of `~bliss_astro.detection.detect_sources` that all fields share.

    Returns
    -------
    survey : `Survey`
        The results.

    Raises
    ------
    FileExistsError
        If the folder holds another run, which is described, or is none of a run.

    BlockingIOError
        If another process is at work on the run.

    OSError
        If files of the run cannot be written.

    ModuleNotFoundError
        If packages of the extra ``survey`` are missing.

    RuntimeError
        If the scheduler is lost.

    Warns
    -----
    AstropyUserWarning
        If the cluster has no workers yet, or no field has a place on the sky.

    TypeError, ValueError
        If an argument is not allowed.

    Examples
    --------
    >>> from bliss_astro.runs import find_fields, run_survey
    >>> fields = find_fields('boss/photoObj', 'sdss', bands='r')  # doctest: +SKIP
    >>> survey = run_survey(fields, 'sdss-r', workers=16)  # doctest: +SKIP
    """
    fields = as_list('fields', fields, 'be a list of FieldRef')
    for field in fields:
        require_type('fields', field, FieldRef)
    require(bool(fields), 'fields', 'have a field', 'none')
    check_unique(fields)
    retries = check_integer('retries', retries)
    if workers is not None:
        require(client is None, 'workers', 'be left out with a client', workers)
        workers = check_integer('workers', workers, 1)
    output = Path(output).expanduser().absolute()
    check_packages()
    _check_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    with lock_folder(output, work='run'), contextlib.ExitStack() as stack:
        job = _prepare(output, encoder, {'threshold': threshold} | options, overwrite)
        # Workers are started when there is work.
        connect = functools.cache(
            lambda: stack.enter_context(_client_of(client, workers))
        )
        fields = prepare_all(fields, output / 'mosaics', connect, job)
        run = _Run(fields, output, job, retries, progress_bar)
        run.work(connect)
        stack.close()
        survey = open_survey(output)
        if run.counts['done'] or not survey.is_written:
            survey.write()
    return survey


def _check_folder(output):
    """Raise if a folder has anything but a run."""
    if output.is_dir() and not (output / 'run.json').is_file():
        names = {path.name for path in output.iterdir()} - {*_PARTS, '.lock'}
        # Those of a process that was killed while it wrote are removed later.
        strange = sorted(name for name in names if not name.startswith('.tmp-'))
        if strange:
            msg = (
                f'output must be a new folder or that of a run; {output} has other '
                f'files: {", ".join(strange[:3])}'
            )
            raise FileExistsError(msg)


def _prepare(output, encoder, options, overwrite):
    """Write the provenance of a run, unless it is there; return its job."""
    with tempfile.TemporaryDirectory() as folder:
        path = encoder
        if isinstance(encoder, Encoder):
            path = Path(folder, 'encoder.safetensors')
            encoder.save(path)
        job = Job(path, options)
    run = default_meta() | {'encoder': job.name} | job.provenance
    old = None
    with contextlib.suppress(OSError, ValueError):
        old = json.loads((output / 'run.json').read_text())
    differs = _differences(old, run) if old else []
    if differs and not overwrite:
        msg = (
            f'the folder {output} holds another run: {"; ".join(differs)}. Take '
            'another folder, or pass overwrite=True to delete that run.'
        )
        raise FileExistsError(msg)
    if differs:
        # The provenance last: all that is left before was of that run.
        for path in (output / name for name in _PARTS):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (output / 'fields').mkdir(exist_ok=True)
    if isinstance(encoder, Encoder):
        job.encoder = str(output / 'encoder.safetensors')
        encoder.save(job.encoder, overwrite=True)
    if not old or differs:
        with atomic_write(output / 'run.json', overwrite=True) as path:
            path.write_text(json.dumps(run, indent=1))
    # Files of processes that were killed while they wrote.
    for path in [*(output / 'fields').glob('.tmp-*'), *output.glob('.tmp-*')]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return job


def _differences(old, new):
    """How the provenance of a run differs from that of another, in words."""

    def parts(run):
        version, digest = run['version'].get('bliss_astro'), run['encoder_sha256']
        encoder = f'{run["encoder"]} ({digest[:12]})'
        return {'bliss_astro': version, 'encoder': encoder} | run['options']

    old, new = parts(old), parts(new)
    return [
        f'{name} {old.get(name)}, not {new.get(name)}'
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


class _Run:
    """Fields on their way through the workers."""

    def __init__(self, fields, output, job, retries, progress_bar):
        self.output, self.job, self.retries = output, job, retries
        self.shown = progress_bar
        # Lines of the table, of fields of earlier calls too.
        self.rows, self.saved, self.pause = {}, time.monotonic(), _SAVE
        self.todo, self.tries = collections.deque(), collections.Counter()
        own = {field.id for field in fields}
        for path in (output / 'fields').glob('*.json'):
            if path.stem not in own:
                self.add(read_record(output, path.stem))
        for field in fields:
            record = job.done(field, output)
            if record is None:
                self.todo.append(field)
            else:
                self.add(record)
        self.counts = {'fields': len(fields), 'skipped': len(fields) - len(self.todo)}
        self.counts |= {'done': 0, 'failed': 0}

    def add(self, record):
        """Take a line of the table from a record."""
        if record is not None:
            self.rows[record['field']] = row_of(record)

    def work(self, connect):
        """Work on all fields that are not done."""
        if self.todo:
            client = connect()
            with _bar(self.counts, self.shown) as bar:
                if self.shown and client.dashboard_link:
                    bar.write(f'dashboard: {client.dashboard_link}', file=sys.stderr)
                try:
                    for record in self.records(client):
                        self.add(record)
                        self.counts[record['status']] += 1
                        bar.set_postfix(failed=self.counts['failed'], refresh=False)
                        bar.update()
                        self.save()
                finally:
                    self.save(last=True)
        self.save(last=True)

    def records(self, client):
        """Yield the records of fields as they are done, in any order."""
        from distributed import as_completed

        running, done, looked = {}, as_completed(), -np.inf
        try:
            while self.todo or running:
                if time.monotonic() > looked + _LOOK:
                    threads = sum(client.nthreads().values())
                    if not threads and looked < 0:
                        warn('the cluster has no workers yet; waiting for them')
                    most = max(1, _AHEAD * threads)
                    looked = time.monotonic()
                # One that lost its worker goes alone, at the end: if it did so itself,
                # it takes no others with it.
                while self.todo and len(running) < (
                    1 if self.tries[self.todo[0].id] else most
                ):
                    field = self.todo.popleft()
                    future = client.submit(
                        _work, field, str(self.output), self.job, pure=False
                    )
                    running[future] = field
                    done.add(future)
                future = next(done)
                record = self.result(client, future, running.pop(future))
                if record is not None:
                    yield record
        finally:
            client.cancel(list(running), force=True)

    def result(self, client, future, field):
        """Record of a future, or None if its field is to be tried again."""
        from distributed import CancelledError, KilledWorker

        try:
            return future.result()
        except (Exception, CancelledError) as found:  # noqa: BLE001 (of the task, or the cluster)
            error = found
        if client.status != 'running':
            msg = (
                'the scheduler was lost; what is done is kept, and the same command '
                'goes on with it'
            )
            raise RuntimeError(msg) from error
        # A scheduler that was started again has lost its tasks, which says nothing of
        # the field.
        self.tries[field.id] += not isinstance(error, CancelledError)
        if self.tries[field.id] <= self.retries:
            self.todo.append(field)
            return None
        if not isinstance(error, KilledWorker):
            raise error
        reason = f'KilledWorker: {" ".join(str(error).split())}'
        record = {'field': field.id, 'key': '', 'status': 'failed', 'reason': reason}
        record |= {'checksums': {}, 'seconds': {}, 'n_rows': 0, 'warnings': []}
        write_record(self.output, record)
        return record

    def save(self, *, last=False):
        """Write the table of the fields, every so often."""
        start = time.monotonic()
        if self.rows and (last or start > self.saved + self.pause):
            write_table(self.output, self.rows.values(), self.counts)
            self.saved = time.monotonic()
            # No more than a twentieth of the time.
            self.pause = max(_SAVE, 20 * (self.saved - start))


def _work(field, output, job):
    """Work on a field on a worker; return its record without what files have."""
    if not Path(output, 'run.json').is_file():
        msg = f'output={output!r} is not seen on {socket.gethostname()}, of a worker'
        raise FileNotFoundError(msg)
    record = work_on(field, output, job)
    return {name: v for name, v in record.items() if name in RETURNED}


@contextlib.contextmanager
def _client_of(client, workers):
    """Client of a cluster: of this machine, of an address, or as it is."""
    import dask
    from distributed import Client, LocalCluster

    if isinstance(client, Client):
        yield client
        return
    with contextlib.ExitStack() as stack:
        if client is None:
            own = {'n_workers': workers, 'threads_per_worker': 1, 'processes': True}
            # Workers have variables of the environment, which are set in this process
            # too and taken away at the end.
            before = {*os.environ}
            stack.callback(lambda: [os.environ.pop(k) for k in {*os.environ} - before])
            # The page moves to another port where that is in use.
            stack.enter_context(dask.config.set(_KEEP_MEMORY))
            with collect_warnings(UserWarning), _interrupts_ignored():
                client = LocalCluster(**own, dashboard_address='127.0.0.1:8787')
            stack.enter_context(client)
        yield stack.enter_context(Client(client))


@contextlib.contextmanager
def _interrupts_ignored():
    """Ignore Ctrl-C, which processes that start in here inherit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def _bar(counts, shown):
    from tqdm.auto import tqdm

    own = {'initial': counts['skipped'], 'disable': not shown, 'file': sys.stderr}
    return tqdm(total=counts['fields'], unit='field', **own)
