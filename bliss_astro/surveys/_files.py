# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files of a survey: those of a folder, a glob or a list of paths.
"""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from bliss_astro._arguments import must, require

_WILD = set('*?')


def list_files(where, ending='', *, parameter='fields'):
    """
    Return the absolute paths of files, sorted, as text.

    ``where`` is a folder, of which those with a pattern of their ``ending``, at any
    depth, are taken; a glob, also with ``**``; one path, or several, which are
    returned in their order, whether they exist or not.
    """
    if not isinstance(where, str | os.PathLike):
        allowed = 'be a folder, a glob, a path, or a list or table of paths'
        several = isinstance(where, Iterable)
        require(several, parameter, allowed, type(where).__name__, TypeError)
        return [absolute(os.fspath(path)) for path in where]
    text = absolute(os.fspath(where))
    if Path(text).is_dir():
        found = [str(path) for path in Path(text).rglob(f'*{ending}')]
    elif _WILD & set(text) and '://' not in text:
        found = glob.glob(text, recursive=True)  # noqa: PTH207 (of any folder)
    else:
        # An extension and a section may follow.
        is_file = Path(text).is_file() or Path(text.partition('[')[0]).is_file()
        # Brackets of neither are a set of letters.
        found = [text] * (is_file or '://' in text) or glob.glob(text)  # noqa: PTH207
    if not found:
        raise FileNotFoundError(must(parameter, 'name files', f'{text!r} with none'))
    return sorted(path for path in found if not Path(path).is_dir())


def absolute(path):
    """The absolute path of a file, also of one in ``~``, or a URL, as text."""
    if '://' in path:
        return path
    # A ~ may be a part of the name as well.
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111


def beside(paths):
    """Return the files in the folders of some paths, sorted, as text."""
    folders = {Path(path).parent for path in paths}
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return sorted(map(str, found))
