# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files that are written whole or not at all, and folders locked for one process.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

_FULL = {errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC)}
# Bytes left on a disk below which it is full, for writers that give no reason.
_FULL_BYTES = 2**16
# File of the lock of a folder.
_LOCK = '.lock'


@contextlib.contextmanager
def atomic_write(path, *, overwrite=False):
    """
    Write a file so that its name never points to a half-written one.

    The body of the ``with`` statement writes to a temporary file, which exists, in the
    folder of ``path`` and with its suffixes. After it the file is flushed to the disk
    and renamed onto ``path`` in one step; where it raises (a full disk, Ctrl-C),
    ``path`` is left as it was. A file that exists, even one that someone else makes
    meanwhile, is a `FileExistsError` without ``overwrite``.
    """
    # A link keeps pointing where it did: its target is what gets replaced.
    path = Path(os.path.realpath(path))
    check_target(path, overwrite=overwrite)
    with explain_full_disk(path):
        handle, name = tempfile.mkstemp(
            prefix='.tmp-', suffix=f'-{path.name}', dir=path.parent
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with explain_full_disk(path):
            yield temporary
            _flush(temporary)
        check_target(path, overwrite=overwrite)
        _copy_permissions(path, temporary)
        # Renaming within one folder is atomic, also over an existing file.
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


@contextlib.contextmanager
def explain_full_disk(path):
    """Raise an `OSError` that names a full disk, whatever a writer raised for it."""
    try:
        yield
    except Exception as error:
        if not _is_full(error, Path(path).parent):
            raise
        number = getattr(error, 'errno', None) or errno.ENOSPC
        msg = f'the disk is full (or the quota used up); not written: {path}'
        raise OSError(number, msg) from error


def _is_full(error, folder):
    """Tell whether a writer failed because there was no room in the folder."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__
    numbers = {getattr(error, 'errno', None) for error in chain} - {None}
    if numbers:
        return not numbers.isdisjoint(_FULL)
    # Those of astropy and torch, which do not hand the number on.
    vague = any(type(error) in (OSError, RuntimeError) for error in chain)
    return vague and shutil.disk_usage(folder).free < _FULL_BYTES


def check_target(path, *, overwrite):
    """Refuse a ``path`` that may not or cannot be written."""
    if path.is_dir():
        raise IsADirectoryError(f'path is a folder, not a file: {path}')
    if path.exists() and not overwrite:
        msg = f'File {path} already exists; pass overwrite=True to replace it.'
        raise FileExistsError(msg)
    if not path.parent.is_dir():
        raise FileNotFoundError(f'The folder of path does not exist: {path.parent}')


def _copy_permissions(path, temporary):
    """Give the temporary file the mode ``path`` has, or would get when new."""
    if path.exists():
        mode = path.stat().st_mode & 0o777
    else:
        # mkstemp makes private files; a plain open() would honour the umask,
        # which can only be read by setting it.
        umask = os.umask(0)
        os.umask(umask)
        mode = 0o666 & ~umask
    temporary.chmod(mode)


def _flush(path):
    """Force the content of a file to the disk."""
    with path.open('rb+') as file:
        os.fsync(file.fileno())


def _flush_folder(folder):
    """Force a renaming to the disk, where the system lets folders be opened."""
    if os.name != 'posix':
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock_folder(folder, *, work='work'):
    """
    Keep others from working in a folder: a `BlockingIOError` that names their process.

    The lock is the system's, on a file that holds the number of the process: it ends
    with the process, so that a killed one leaves nothing that has to be cleared.
    """
    path = Path(folder) / _LOCK
    file = _open_locked(path, work)
    try:
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        # While it is still locked, so that nobody holds a file without a name.
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _open_locked(path, work):
    """Open and lock the file; again where it was unlinked in between."""
    while True:
        file = path.open('a+')
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or 'unknown'
            file.close()
            msg = (
                f'another {work} (process {owner}) is at work in {path.parent}; wait '
                'for it, stop it, or take another folder'
            )
            raise BlockingIOError(msg) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _lock(file):
    """Lock an open file without waiting."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover (Windows)
        import msvcrt

        # Beyond the end, as a locked part cannot be read by others.
        file.seek(2**20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
