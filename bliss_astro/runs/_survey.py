# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Runs over many fields on dask.distributed: what is done, what is left, what failed.
"""

import collections
import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np

from bliss_astro._arguments import (
    as_list,
    check_integer,
    counted,
    must,
    require,
    require_type,
)
from bliss_astro._atomic import lock_folder
from bliss_astro._warnings import warn
from bliss_astro.encoders._weights import DEFAULT_ENCODER

from ._done import LEFT_OUT, difference
from ._field import check_packages, read_record, work_on, write_record
from ._fields import FieldRef, check_bands, check_fields
from ._folder import make_folder, write_provenance
from ._open import open_survey
from ._prepare import prepare_all
from ._table import RETURNED, row_of, write_table

# Fields for each thread of the workers that are submitted ahead: one that is worked on,
# one that waits for it there, and one at the scheduler.
_AHEAD = 3
# Fields of one unit and band after which another one fails, and stops no run.
_SETTLED = 10
# Seconds between looks at the number of workers, and between tables of the fields.
_LOOK, _SAVE = 5.0, 60.0
# Usual address of the page of a cluster.
_HERE, _PORT = '127.0.0.1', 8787
# Dask makes workers return memory at once, so that each operation asks for it again.
_KEEP_MEMORY = {'distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_': None}


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
        Fields, such as `find_fields` returns. They may be further ones of a run: fields
        of earlier calls stay in the survey, with a warning.

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

    ConnectionError, RuntimeError
        If the scheduler cannot be reached; if it is lost.

    Warns
    -----
    AstropyUserWarning
        If the cluster has no workers yet, if fields of earlier calls are not in the
        list, or if no field has a place on the sky.

    TypeError, ValueError
        If an argument is not allowed; if the first fields have fluxes in different
        units or reference bands. A later one that differs from them fails.

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
    check_fields(fields)
    check_bands(fields)
    retries = check_integer('retries', retries)
    if workers is not None:
        require(client is None, 'workers', 'be left out with a client', workers)
        workers = check_integer('workers', workers, 1)
    check_packages()
    output = make_folder(output)
    with lock_folder(output, work='run'), contextlib.ExitStack() as stack:
        options = {'threshold': threshold} | options
        job = write_provenance(output, encoder, options, overwrite)
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


class _Run:
    """Fields on their way through the workers."""

    def __init__(self, fields, output, job, retries, progress_bar):
        self.output, self.job, self.retries = output, job, retries
        self.shown = progress_bar
        # Lines of the table, of fields of earlier calls too.
        self.rows, self.saved, self.pause = {}, time.monotonic(), _SAVE
        # Unit and band of fluxes, and the number of fields that have them.
        self.first, self.n_alike = {}, 0
        self.todo, self.tries = collections.deque(), collections.Counter()
        own = {field.id for field in fields}
        names = sorted(path.stem for path in (output / 'fields').glob('*.json'))
        earlier = [name for name in names if name not in own]
        for name in earlier:
            self.add(read_record(output, name))
        if earlier:
            named = ', '.join(earlier[:3]) + ' ...' * (len(earlier) > 3)
            warn(
                f'the survey keeps {counted(len(earlier), "field")} of earlier calls '
                f'({named}). {LEFT_OUT} {output}/fields.'
            )
        for field in fields:
            record = job.done(field, output)
            if record is None:
                self.todo.append(field)
            else:
                self.add(record)
        self.counts = {'fields': len(fields), 'skipped': len(fields) - len(self.todo)}
        self.counts |= {'done': 0, 'failed': 0}

    def add(self, record):
        """Take a line of the table from a record, failed if it is of no one survey."""
        if record is None:
            return
        # Without a place on the sky it is in no catalogue.
        if record['status'] == 'done' and record['footprint']:
            name, (band, *_) = record['field'], record['bands']
            text = difference(self.first, name, record.get('unit'), band)
            if text and self.n_alike < _SETTLED:
                raise ValueError(f'{text} {LEFT_OUT} {self.output}/fields.')
            if text:
                record |= self.failed(name, text)
            self.n_alike += 1
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
        text = ' '.join(str(error).split())
        return self.failed(field.id, f'KilledWorker: {text}')

    def failed(self, name, reason):
        """Write the record of a field that failed, and return it."""
        record = {'field': name, 'key': '', 'status': 'failed', 'reason': reason}
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
            stack.enter_context(dask.config.set(_KEEP_MEMORY))
            with _interrupts_ignored():
                client = LocalCluster(**own, dashboard_address=_dashboard())
            stack.enter_context(client)
        try:
            opened = Client(client)
        except (OSError, ValueError) as error:
            allowed = "be the address of a scheduler that runs, 'tcp://HOST:8786'"
            got = f'{client!r} ({" ".join(str(error).split())})'
            raise ConnectionError(must('client', allowed, got)) from error
        yield stack.enter_context(opened)


def _dashboard():
    """Address of the page of a cluster here: on another port where that is in use."""
    with contextlib.suppress(OSError), socket.create_server((_HERE, _PORT)):
        return f'{_HERE}:{_PORT}'
    return f'{_HERE}:0'


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
