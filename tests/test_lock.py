# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of folders that one process at a time works in.
"""

import os
import signal
import subprocess
import sys

import pytest

from bliss_astro._atomic import lock_folder

CODE = """
import sys, time
from bliss_astro._atomic import lock_folder

with lock_folder(sys.argv[1]):
    print('locked', flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """
    Another process that has the lock.
    """
    process = subprocess.Popen(
        [sys.executable, '-c', CODE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'locked\n'
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process(tmp_path, other):
    message = rf'another work \(process {other.pid}\) is at work in'
    with pytest.raises(BlockingIOError, match=message), lock_folder(tmp_path):
        pytest.fail('the body must not run')
    other.send_signal(getattr(signal, 'SIGKILL', signal.SIGTERM))
    other.wait()
    # It left its file, which is nobody's now.
    assert (tmp_path / '.lock').exists()
    with lock_folder(tmp_path):
        assert (tmp_path / '.lock').read_text() == str(os.getpid())
    assert not list(tmp_path.iterdir())


def test_twice_in_one_process(tmp_path):
    with lock_folder(tmp_path):
        with (
            pytest.raises(BlockingIOError, match=f'process {os.getpid()}'),
            lock_folder(tmp_path),
        ):
            pytest.fail('the body must not run')
        # The second call took nothing away.
        assert (tmp_path / '.lock').exists()
    with lock_folder(tmp_path):
        pass


def test_released_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock_folder(tmp_path):
        raise KeyboardInterrupt
    with lock_folder(tmp_path):
        pass
