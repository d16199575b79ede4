# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Clusters of Dask for runs: settings of workers, processes of this machine.
"""

import contextlib
import os
import signal
import socket
import threading

from bliss_astro._arguments import must

# Usual address of the page of a cluster.
_HERE, _PORT = '127.0.0.1', 8787

DASK_SETTINGS = {
    # By default they return memory at once, and each operation asks for it again.
    'distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_': None,
    # Each field has another thread, and else memory of its own is kept for each.
    'distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX': 1,
    # Looks at the stacks of all tasks, a hundred times a second.
    'distributed.worker.profile.enabled': False,
    # Each time the thread that works has to wait: 20 and 100 ms by default.
    'distributed.admin.tick.interval': '1s',
    'distributed.worker.memory.monitor-interval': '1s',
}
"""
Settings of Dask with which workers of a run lose no time.

`run_survey` has them for workers that it starts; for others see :ref:`survey_tutorial`.
"""


@contextlib.contextmanager
def client_of(client, workers):
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
            stack.enter_context(dask.config.set(DASK_SETTINGS))
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
