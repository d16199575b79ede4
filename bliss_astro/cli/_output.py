# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Messages of the commands, and checks and writing of their files.
"""

import contextlib
import importlib.util
import sys
import tempfile
from pathlib import Path

from ._options import IMAGE_FILES, IMAGE_MAPS

__all__ = []

PROGRAM = 'bliss-astro'

# Packages of formats of catalogues beside astropy.
_PACKAGES = {'parquet': 'pyarrow', 'hdf5': 'h5py', 'reg': 'regions'}

# Endings of outputs by kind, beside catalogues and pictures.
_ENDINGS = {
    'table': ('.ecsv', '.csv', '.fits', '.txt', '.tex', '.html'),
    'image': ('.fits', '.fits.gz', '.fit', '.fit.gz'),
    'recipe': ('.toml',),
}


class UsageError(Exception):
    """Arguments that exclude one another; ends with exit code 2."""


# -- messages ------------------------------------------------------------------------


def say(text, *, label=''):
    """Print one line to the standard error, perhaps as an error or warning."""
    middle = f' {label}:' if label else ''
    # A standard error that went away is no reason to lose the results.
    with contextlib.suppress(BrokenPipeError):
        print(f'{PROGRAM}:{middle} {text}', file=sys.stderr, flush=True)


def status(options, text):
    """Print the present step, unless the user wants quiet."""
    if not options.quiet:
        say(text)


def shows_progress(options):
    """Return whether a person watches the progress."""
    return is_terminal(sys.stderr) and not options.quiet


def is_terminal(stream):
    """Return whether a person watches a stream."""
    return bool(getattr(stream, 'isatty', lambda: False)())


def print_table(table):
    """Print a whole table; on a terminal as wide as that, elsewhere all columns."""
    import shutil

    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else -1
    print('\n'.join(table.pformat(max_lines=-1, max_width=width)))


def count(n, noun='source'):
    """Write a number of things."""
    return f'{n} {noun}{"" if n == 1 else "s"}'


# -- checks before the work ----------------------------------------------------------


def check_paths(options, kind, *inputs):
    """
    Refuse files that cannot be read or written, before the work begins.

    ``kind`` is that of ``--output``: a catalogue, table, image or recipe; ``inputs``
    are read beside the files of the images.
    """
    values = vars(options)
    copy, picture = values.get('catalog_copy'), values.get('plot')
    outputs = {'-o': options.output, '--catalog': copy, '--plot': picture}
    if kind == 'catalog':
        _check_catalog(options.output, posterior=values.get('posterior', False))
    elif options.output is not None:
        _check_ending(f'-o {options.output}', _ENDINGS[kind])
    if copy is not None:
        _check_catalog(copy, option='--catalog')
    if picture is not None:
        from matplotlib.backend_bases import FigureCanvasBase

        known = sorted(FigureCanvasBase.get_supported_filetypes())
        _check_ending(f'--plot {picture}', [f'.{ending}' for ending in known])
    files = [*inputs, values.get('image'), *(values.get('images') or ())]
    maps = []
    for name in IMAGE_FILES + IMAGE_MAPS:
        own = values.get(name) or []
        own = own if isinstance(own, list) else [own]
        (maps if name in IMAGE_MAPS else files).extend(own)
    files = [path for path in files if path is not None]
    check_inputs(*files)
    check_outputs(outputs, overwrite=options.overwrite, inputs=[*files, *maps])


def check_inputs(*paths):
    """Refuse files that are not there, before any of them is read."""
    for path in map(_place, paths):
        if path.is_dir():
            msg = f'{path} is a folder, not a file'
            raise IsADirectoryError(msg)
        if not path.is_file():
            msg = f'there is no file {path}'
            raise FileNotFoundError(msg)


def _place(path):
    """Return the file of ``FILE[EXT][x1:x2,y1:y2]``."""
    from bliss_astro.exposures._fits_image import parse_location

    return Path(parse_location(path).path)


def check_outputs(outputs, *, overwrite, inputs=()):
    """Refuse outputs, by option, that could not be written after the work."""
    read = {_place(path).resolve() for path in inputs}
    seen = set()
    for option, path in outputs.items():
        if path is None:
            continue
        path = Path(path)
        place = path.resolve()
        named = f'{option} {path}' if option.startswith('-') else str(path)
        if place in read:
            msg = f'{named} is read from and cannot be written to as well'
            raise UsageError(msg)
        if place in seen:
            msg = f'{named} is named twice as an output'
            raise UsageError(msg)
        seen.add(place)
        if path.is_dir():
            msg = f'{named} is a folder, not a file'
            raise IsADirectoryError(msg)
        if path.exists() and not overwrite:
            msg = f'{named} exists; --overwrite replaces it'
            raise FileExistsError(msg)
        _check_folder(place.parent, f'{named} cannot be written')


def _check_folder(folder, reason):
    """Refuse a folder in which no file can be made, by making one."""
    if not folder.is_dir():
        msg = f'{reason}: the folder {folder} does not exist'
        raise FileNotFoundError(msg)
    try:
        # os.access is wrong for some network folders, and for root.
        with tempfile.NamedTemporaryFile(prefix='.tmp-', dir=folder):
            pass
    except OSError as error:
        msg = f'{reason}: {error.strerror or error}'
        raise type(error)(msg) from error


def _check_ending(named, endings):
    if not named.lower().endswith(tuple(endings)):
        known = ('one of ' if len(endings) > 1 else '') + ', '.join(endings)
        msg = f'{named}: the ending must be {known}'
        raise UsageError(msg)


def _check_catalog(path, *, posterior=False, option='-o'):
    """Refuse unknown formats of catalogues, and those that lose the posterior."""
    from bliss_astro.catalog._io import find_format

    if path is None:
        if posterior:
            msg = '--posterior needs -o and a FITS file'
            raise UsageError(msg)
        return
    found = 'reg'
    if not str(path).lower().endswith('.reg'):
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


# -- writing, whole or not at all ------------------------------------------------------


def write_catalog(options, catalog, path, *, posterior=False):
    """Write a catalogue in the format of the ending; ``.reg`` are regions of DS9."""
    if path is None:
        return
    if str(path).lower().endswith('.reg'):
        catalog.to_regions(path, overwrite=options.overwrite)
    else:
        catalog.write(path, overwrite=options.overwrite, posterior=posterior)
    status(options, f'wrote {path}')


def write_table(options, table, path):
    """Write a table of results."""
    if path is None:
        return
    from bliss_astro._atomic import atomic_write

    formats = {'txt': 'ascii.fixed_width', 'tex': 'ascii.latex', 'html': 'ascii.html'}
    formats |= {'ecsv': 'ascii.ecsv', 'csv': 'ascii.csv', 'fits': 'fits'}
    ending = str(path).lower().rpartition('.')[2]
    with atomic_write(path, overwrite=options.overwrite) as temporary:
        table.write(temporary, format=formats[ending], overwrite=True)
    status(options, f'wrote {path}')


def write_picture(options, draw, path, *, figsize, n_panels=0):
    """Make a figure, call ``draw`` with it or with its panels, and write it."""
    if path is None:
        return
    from matplotlib.figure import Figure

    from bliss_astro._atomic import atomic_write

    figure = Figure(figsize=figsize, layout='constrained')
    draw(figure.subplots(1, n_panels) if n_panels else figure)
    with atomic_write(path, overwrite=options.overwrite) as temporary:
        figure.savefig(temporary, dpi=150, format=Path(path).suffix.lower()[1:])
    status(options, f'wrote {path}')
