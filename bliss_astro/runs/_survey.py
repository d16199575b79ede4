# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Runs over many fields on dask.distributed: what is done, what is left, what failed.
"""

import collections
import contextlib
import functools
import socket
import sys
import time
from pathlib import Path

import numpy as np

from bliss_astro._arguments import (
    as_list,
    check_integer,
    counted,
    require,
    require_type,
)
from bliss_astro._atomic import lock_folder
from bliss_astro._warnings import warn
from bliss_astro.encoders._weights import DEFAULT_ENCODER

from ._cluster import client_of
from ._done import LEFT_OUT, difference
from ._field import check_packages, read_record, write_record
from ._fields import FieldRef, check_bands, check_fields
from ._folder import make_folder, write_provenance
from ._open import open_survey
from ._prepare import prepare_all
from ._table import RETURNED, row_of, write_table
from ._work import work_on

# Fields for each thread of the workers that are submitted ahead: one that is worked on,
# one that waits for it there, and one at the scheduler.
_AHEAD = 3
# Fields of one unit and band after which another one fails, and stops no run.
_SETTLED = 10
# Seconds between looks at the number of workers, and between tables of the fields.
_LOOK, _SAVE = 5.0, 60.0


def run_survey(
    fields,
    output,
    *,
    client=None,
    workers=None,
    encoder=DEFAULT_ENCODER,
    threshold=0.5,
    batch_size=1,
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

    batch_size : int, optional
        Fields that a worker takes at a time, of which as many go through the encoder
        together as have 500,000 pixels in all. Small fields take a fraction of the
        time; each of them still has its own record, and one that fails takes no others
        with it. By default of 1 results do not depend on the other fields at all; else
        to the rounding of single precision (relative differences of fluxes were 1e-6,
        those of shapes and errors up to 2e-4). So a run may be resumed with another
        number.

    retries : int, optional
        How many times a field is tried again after its worker was lost several times,
        or could not write.

    progress_bar : bool, optional
        Whether to show progress, and the address of the dashboard.

    overwrite : bool, optional
        Whether a run of another encoder, version or other options that is in the folder
        is deleted.

    **options
        Keywords of `~bliss_astro.detection.detect_sources` that all fields share. What
        describes an image (``psf``, ``zero_point``) is an option of the fields.

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

    TypeError, ValueError
        If an argument is not allowed; if the first fields have fluxes in different
        units or reference bands. A later one that differs from them fails.

    Warns
    -----
    AstropyUserWarning
        If the cluster has no workers yet, if fields of earlier calls are not in the
        list, or if no field has a place on the sky.

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
    batch_size = check_integer('batch_size', batch_size, 1)
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
            lambda: stack.enter_context(client_of(client, workers))
        )
        fields = prepare_all(fields, output / 'mosaics', connect, job)
        run = _Run(fields, output, job, (batch_size, retries), progress_bar)
        run.work(connect)
        stack.close()
        survey = open_survey(output)
        if run.counts['done'] or not survey.is_written:
            survey.write()
    return survey


class _Run:
    """Fields on their way through the workers."""

    def __init__(self, fields, output, job, numbers, progress_bar):
        self.output, self.job, self.shown = output, job, progress_bar
        self.batch_size, self.retries = numbers
        # Lines of the table, of fields of earlier calls too.
        self.rows, self.saved, self.pause = {}, time.monotonic(), _SAVE
        # Unit and band of fluxes, and the number of fields that have them.
        self.first, self.n_alike = {}, 0
        self.todo, self.tries = collections.deque(), collections.Counter()
        # Ids of fields that have lost their worker.
        self.lost = set()
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
                while self.todo and len(running) < (
                    1 if self.todo[0].id in self.lost else most
                ):
                    own = self.batch(), str(self.output), self.job
                    future = client.submit(_work, *own, pure=False)
                    running[future] = own[0]
                    done.add(future)
                future = next(done)
                yield from self.result(client, future, running.pop(future))
        finally:
            client.cancel(list(running), force=True)

    def batch(self):
        """Take the next fields that a worker gets together."""
        fields = [self.todo.popleft()]
        # One that lost its worker goes alone, at the end: if it did so itself, it takes
        # no others with it.
        while (
            self.todo
            and len(fields) < self.batch_size
            and self.lost.isdisjoint((fields[0].id, self.todo[0].id))
        ):
            fields.append(self.todo.popleft())
        return fields

    def result(self, client, future, fields):
        """Records of a future; none if its fields are to be tried again."""
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
        # the fields; and of several it may have been any.
        if not isinstance(error, CancelledError):
            self.lost.update(field.id for field in fields)
            self.tries[fields[0].id] += len(fields) == 1
        if self.tries[fields[0].id] <= self.retries:
            self.todo.extend(fields)
            return []
        if not isinstance(error, KilledWorker):
            raise error
        text = ' '.join(str(error).split())
        return [self.failed(fields[0].id, f'KilledWorker: {text}')]

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


def _work(fields, output, job):
    """Work on fields on a worker; return their records without what files have."""
    from distributed import secede

    if not Path(output, 'run.json').is_file():
        msg = f'output={output!r} is not seen on {socket.gethostname()}, of a worker'
        raise FileNotFoundError(msg)
    # The worker begins with others while these are written.
    records = work_on(fields, output, job, leave=secede)
    return [{k: v for k, v in record.items() if k in RETURNED} for record in records]


def _bar(counts, shown):
    from tqdm.auto import tqdm

    own = {'initial': counts['skipped'], 'disable': not shown, 'file': sys.stderr}
    return tqdm(total=counts['fields'], unit='field', **own)
