# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A folder that one process at a time works in.
"""

import contextlib
import os
from pathlib import Path

__all__ = []

_NAME = '.lock'


@contextlib.contextmanager
def lock_folder(folder, *, work='work'):
    """
    Keep other processes from working in a folder.

    The lock is the system's, on a file ``.lock`` that holds the number of the
    process: it ends with the process, however that ends, so that a killed one
    leaves nothing that would have to be cleared.

    Parameters
    ----------
    folder : path_like
        An existing folder.

    work : str, optional
        Name of the work there, for the message.

    Raises
    ------
    BlockingIOError
        If another process, or another call in this one, has the lock.
    """
    path = Path(folder) / _NAME
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
