# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of files that are written whole or not at all.
"""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest

from bliss_astro._atomic import atomic_write


def _names(folder):
    return [path.name for path in folder.iterdir()]


def test_new_file(tmp_path):
    path = tmp_path / 'new.txt'
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == '.txt'
        assert not path.exists()
        temporary.write_text('all')
    assert path.read_text() == 'all'
    assert _names(tmp_path) == ['new.txt']


def test_existing_file_is_kept_unless_asked(tmp_path):
    path = tmp_path / 'old.txt'
    path.write_text('old')
    with pytest.raises(OSError, match='already exists'), atomic_write(path):
        pytest.fail('the body must not run')
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text('new')
    assert path.read_text() == 'new'


def test_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / 'race.txt'
    with pytest.raises(FileExistsError), atomic_write(path) as temporary:
        temporary.write_text('mine')
        path.write_text('theirs')
    assert path.read_text() == 'theirs'
    assert _names(tmp_path) == ['race.txt']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, OSError])
def test_interrupted_body_leaves_no_trace(tmp_path, error):
    path = tmp_path / 'old.txt'
    path.write_text('old')
    with pytest.raises(error), atomic_write(path, overwrite=True) as temporary:
        temporary.write_text('half')
        raise error
    assert path.read_text() == 'old'
    assert _names(tmp_path) == ['old.txt']


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='needs POSIX signals')
def test_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / 'old.txt'
    path.write_text('old')
    code = (
        'import os, signal, sys\n'
        'from bliss_astro._atomic import atomic_write\n'
        'with atomic_write(sys.argv[1], overwrite=True) as temporary:\n'
        "    temporary.write_text('half')\n"
        '    os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    done = subprocess.run([sys.executable, '-c', code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == 'old'


@pytest.mark.skipif(os.name != 'posix', reason='POSIX permissions')
def test_permissions(tmp_path):
    path = tmp_path / 'mode.txt'
    plain = tmp_path / 'plain.txt'
    plain.touch()
    with atomic_write(path) as temporary:
        temporary.write_text('1')
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    path.chmod(0o640)
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text('2')
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != 'posix', reason='symbolic links')
def test_link_stays_a_link(tmp_path):
    target, link = tmp_path / 'target.txt', tmp_path / 'link.txt'
    target.write_text('old')
    link.symlink_to(target)
    with atomic_write(link, overwrite=True) as temporary:
        temporary.write_text('new')
    assert link.is_symlink()
    assert target.read_text() == 'new'


def _failures():
    """
    How writers of files fail on a full disk.
    """
    torch_like = RuntimeError('[enforce fail at inline_container.cc:672] . pos 7')
    yield OSError(errno.ENOSPC, 'No space left on device'), True
    yield OSError('Not enough space on disk: requested 810202, available 0.'), False
    yield torch_like, False


@pytest.mark.parametrize(('error', 'numbered'), list(_failures()))
def test_full_disk(tmp_path, monkeypatch, error, numbered):
    path = tmp_path / 'old.txt'
    path.write_text('old')
    # What is free says it for those who do not.
    free = 10**9 if numbered else 0
    usage = shutil._ntuple_diskusage(10**10, 10**10 - free, free)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with (
        pytest.raises(OSError, match=r'the disk is full.*old\.txt') as caught,
        atomic_write(path, overwrite=True),
    ):
        raise error
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == 'old'
    assert _names(tmp_path) == ['old.txt']


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.EACCES, 'Permission denied'),
        RuntimeError('shapes differ'),
        ValueError('there is not enough space on the disk for such a value'),
    ],
)
def test_other_failures_on_a_disk_with_room(tmp_path, error):
    with (
        pytest.raises(type(error)) as caught,
        atomic_write(tmp_path / 'new.txt'),
    ):
        raise error
    assert caught.value is error


def test_impossible_targets(tmp_path):
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path):
        pytest.fail('the body must not run')
    missing = tmp_path / 'missing' / 'file.txt'
    with pytest.raises(FileNotFoundError), atomic_write(missing):
        pytest.fail('the body must not run')
