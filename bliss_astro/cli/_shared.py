# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What the commands share: types of arguments, outputs, messages.
"""

import argparse
import contextlib
import importlib.util
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

__all__ = [
    'PROGRAM',
    'UsageError',
    'add_device',
    'add_overwrite',
    'binning',
    'check_catalog_path',
    'check_inputs',
    'check_outputs',
    'check_picture_path',
    'check_table_path',
    'choose_device',
    'density',
    'image_shape',
    'is_terminal',
    'magnitude',
    'positive_float',
    'positive_int',
    'print_table',
    'probability',
    'save_picture',
    'say',
    'seed',
    'status',
    'write_catalog',
]

PROGRAM = 'bliss-astro'
# What formats of catalogues need beside astropy.
_PACKAGES = {'parquet': 'pyarrow', 'hdf5': 'h5py', 'reg': 'regions'}


class UsageError(Exception):
    """
    The arguments cannot be meant together; ends with exit code 2.
    """


# -- messages ----------------------------------------------------------------


def say(text, *, label):
    """
    Print one line to the standard error.

    Parameters
    ----------
    text : str
        The line.

    label : str
        ``'error'`` or ``'warning'``, or nothing.
    """
    middle = f' {label}:' if label else ''
    # A standard error that went away is no reason to lose the results.
    with contextlib.suppress(BrokenPipeError):
        print(f'{PROGRAM}:{middle} {text}', file=sys.stderr, flush=True)


def status(options, text):
    """
    Tell what is being done, unless asked to be quiet.

    Parameters
    ----------
    options : `argparse.Namespace`
        Parsed arguments, with ``quiet``.

    text : str
        What is being done.
    """
    if not options.quiet:
        say(text, label='')


def is_terminal(stream):
    """
    Tell whether a person watches a stream.
    """
    return bool(getattr(stream, 'isatty', lambda: False)())


def print_table(table):
    """
    Print a whole table to the standard output.

    Parameters
    ----------
    table : `~astropy.table.Table`
        On a terminal as wide as that, elsewhere with all columns.
    """
    import shutil

    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else -1
    print('\n'.join(table.pformat(max_lines=-1, max_width=width)))


# -- types of arguments ----------------------------------------------------------


def _number(text, kind, allowed, condition):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not condition(value):
        msg = f'{text!r} is not {allowed}'
        raise argparse.ArgumentTypeError(msg)
    return value


def positive_int(text):
    """
    Parse a whole number above zero.
    """
    return _number(text, int, 'a positive whole number', lambda v: v > 0)


def binning(text):
    """
    Parse a number of pixels to join, or ``auto``.
    """
    return text if text == 'auto' else positive_int(text)


def seed(text):
    """
    Parse a whole number that is not negative.
    """
    return _number(text, int, 'a whole number, 0 or more', lambda v: v >= 0)


def positive_float(text):
    """
    Parse a finite number above zero.
    """
    return _number(text, float, 'a positive number', lambda v: 0 < v < float('inf'))


def magnitude(text):
    """
    Parse a finite number.
    """
    finite = float('-inf'), float('inf')
    return _number(text, float, 'a magnitude', lambda v: finite[0] < v < finite[1])


def density(text):
    """
    Parse a density of sources per pixel.
    """
    return _number(
        text,
        float,
        'a number of sources per pixel between 0 and 1',
        lambda v: 0 < v < 1,
    )


def probability(text):
    """
    Parse a number between 0 and 1.
    """
    return _number(text, float, 'a probability between 0 and 1', lambda v: 0 < v < 1)


def image_shape(text):
    """
    Parse ``NYxNX`` or one number for a square.
    """
    parts = text.lower().replace(',', 'x').split('x')
    if len(parts) == 1:
        parts = parts * 2
    if len(parts) != 2 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        msg = f'{text!r} is not a shape such as 300x400 (rows x columns) or 300'
        raise argparse.ArgumentTypeError(msg)
    return int(parts[0]), int(parts[1])


def add_overwrite(parser):
    """
    Add the options ``--overwrite`` and ``--quiet``.
    """
    parser.add_argument(
        '--overwrite', action='store_true', help='replace files that exist'
    )
    parser.add_argument(
        '-q', '--quiet', action='store_true', help='do not tell what is being done'
    )


def add_device(parser):
    """
    Add the option ``--device``.
    """
    parser.add_argument(
        '--device',
        default='auto',
        help='cpu, cuda, ...; by default a GPU if there is one',
    )


def choose_device(name):
    """
    Check the name of a device before anything is done.

    Parameters
    ----------
    name : str
        ``'auto'`` or what torch understands.

    Returns
    -------
    device : `torch.device`
        The device.
    """
    # Commands without a network must not wait for torch.
    from bliss_astro._devices import choose_device as choose

    return choose(name)


# -- outputs -----------------------------------------------------------------------


def check_inputs(*paths):
    """
    Refuse files that are not there, before any of them is read.
    """
    for path in paths:
        if path is None or (place := _place(path)).is_file():
            continue
        if place.is_dir():
            msg = f'{place} is a folder, not a file'
            raise IsADirectoryError(msg)
        msg = f'there is no file {place}'
        raise FileNotFoundError(msg)


def _place(path):
    """
    Return the file of ``FILE[EXT][x1:x2,y1:y2]``.
    """
    from bliss_astro.exposures._fits_image import parse_location

    return Path(parse_location(path).path)


def check_outputs(*paths, overwrite, inputs=(), names=('-o', '--plot')):
    """
    Refuse, before the work begins, what could not be written after it.

    Parameters
    ----------
    *paths : str, `~os.PathLike` or None
        Files that will be written.

    overwrite : bool
        Whether they may exist.

    inputs : iterable of str, `~os.PathLike` or None, optional
        Files that will be read, which must not be among them.

    names : iterable of str, optional
        The options that name the outputs, for messages.
    """
    read = {_place(path).resolve() for path in inputs if path is not None}
    seen = set()
    for name, path in zip_longest(names, paths):
        if path is None:
            continue
        path = Path(path)
        place = path.resolve()
        said = str(path) if name is None else f'{name} {path}'
        if place in read:
            msg = f'{said} is read from and cannot be written to as well'
            raise UsageError(msg)
        if place in seen:
            msg = f'{said} is named twice as an output'
            raise UsageError(msg)
        seen.add(place)
        if path.is_dir():
            msg = f'{said} is a folder, not a file'
            raise IsADirectoryError(msg)
        if path.exists() and not overwrite:
            msg = f'{said} exists; --overwrite replaces it'
            raise FileExistsError(msg)
        _check_folder(place.parent, f'{said} cannot be written')


def _check_folder(folder, said):
    """
    Refuse a folder in which no file can be made, by making one.
    """
    if not folder.is_dir():
        msg = f'{said}: the folder {folder} does not exist'
        raise FileNotFoundError(msg)
    try:
        # What os.access says is not always so: of network folders, or for root.
        with tempfile.NamedTemporaryFile(prefix='.tmp-', dir=folder):
            pass
    except OSError as error:
        msg = f'{said}: {error.strerror or error}'
        raise type(error)(msg) from error


def check_catalog_path(path, *, posterior=False, option='-o'):
    """
    Check that the format of a catalogue is known by its ending.

    Parameters
    ----------
    path : str or None
        Where the catalogue will be written.

    posterior : bool, optional
        Whether its posterior is to be kept.

    option : str, optional
        The option that named it, for messages.
    """
    from bliss_astro.catalog._io import find_format

    if path is None:
        if posterior:
            msg = '--posterior needs -o and a FITS file'
            raise UsageError(msg)
        return
    if str(path).lower().endswith('.reg'):
        found = 'reg'
    else:
        try:
            found = find_format(path, writing=True)
        except ValueError as error:
            known = str(error).partition(' one of ')[2].partition(', or format')[0]
            msg = (
                f'{option} {path}: the ending must be one of {known}, or .reg for '
                'regions of DS9'
            )
            raise UsageError(msg) from None
    if posterior and found != 'fits':
        msg = f'{option} {path}: only FITS can keep the posterior'
        raise UsageError(msg)
    package = _PACKAGES.get(found)
    if package is not None and importlib.util.find_spec(package) is None:
        msg = (
            f'{option} {path}: this format needs the package {package}, which is absent'
        )
        raise ValueError(msg)


def write_catalog(catalog, path, *, overwrite, posterior=False):
    """
    Write a catalogue in the format that the ending of its file names.

    Parameters
    ----------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        The catalogue.

    path : str
        Where to; ``.reg`` for regions of DS9.

    overwrite : bool
        Whether ``path`` may exist.

    posterior : bool, optional
        Whether to keep the posterior.
    """
    if str(path).lower().endswith('.reg'):
        catalog.to_regions(path, overwrite=overwrite)
    else:
        catalog.write(path, overwrite=overwrite, posterior=posterior)


def check_table_path(path):
    """
    Check the ending of a table of results.
    """
    endings = ('.ecsv', '.csv', '.fits', '.txt', '.tex', '.html')
    if path is not None and not str(path).lower().endswith(endings):
        msg = f'-o {path}: the ending must be one of {", ".join(endings)}'
        raise UsageError(msg)


def check_picture_path(path, option='--plot'):
    """
    Check that matplotlib knows the format of a picture by its ending.
    """
    if path is None:
        return
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(path).suffix.lower().lstrip('.') not in known:
        msg = f'{option} {path}: the ending must be one of .{", .".join(known)}'
        raise UsageError(msg)


def save_picture(figure, path, *, overwrite, dpi=150):
    """
    Write a figure, whole or not at all.

    Parameters
    ----------
    figure : `~matplotlib.figure.Figure`
        The figure.

    path : str or `~os.PathLike`
        Where to.

    overwrite : bool
        Whether ``path`` may exist.

    dpi : float, optional
        Dots per inch.
    """
    from bliss_astro._atomic import atomic_write

    with atomic_write(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, dpi=dpi, format=Path(path).suffix.lower()[1:])
