# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files of the commands, checked and written, and messages to their user.
"""

import contextlib
import functools
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

from bliss_astro._arguments import counted
from bliss_astro._atomic import atomic_write, check_target

PROGRAM = 'bliss-astro'

IMAGE_FILES = ('psf', 'fpm', 'tsfield', 'photofield')
"""Options that name files of an image."""

IMAGE_MAPS = ('mask', 'rms', 'weight')
"""Options that name files or extensions of the image."""

# Packages of formats of catalogues beside astropy.
_PACKAGES = {'parquet': 'pyarrow', 'hdf5': 'h5py', 'reg': 'regions'}
# Formats of tables by their endings, and endings of other outputs.
_TABLES = {
    '.ecsv': 'ascii.ecsv',
    '.csv': 'ascii.csv',
    '.fits': 'fits',
    '.txt': 'ascii.fixed_width',
    '.tex': 'ascii.latex',
    '.html': 'ascii.html',
}
_ENDINGS = {
    'table': tuple(_TABLES),
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
    """Whether a person watches the progress."""
    return is_terminal(sys.stderr) and not options.quiet


def is_terminal(stream):
    """Whether a person watches a stream."""
    return bool(getattr(stream, 'isatty', lambda: False)())


def print_table(table):
    """Print a whole table; on a terminal as wide as that, elsewhere all columns."""
    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else -1
    print('\n'.join(table.pformat(max_lines=-1, max_width=width)))


def count_text(catalog):
    """Number of the sources of a catalogue, in words."""
    return counted(len(catalog), 'source')


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
    if kind != 'catalog':
        _check_ending('-o', options.output, _ENDINGS[kind])
    elif options.output is not None:
        _check_catalog('-o', options.output, posterior=options.posterior)
    elif options.posterior:
        msg = '--posterior needs -o and a FITS file'
        raise UsageError(msg)
    if copy is not None:
        _check_catalog('--catalog', copy)
    if picture is not None:
        from matplotlib.backend_bases import FigureCanvasBase

        known = sorted(FigureCanvasBase.get_supported_filetypes())
        _check_ending('--plot', picture, [f'.{ending}' for ending in known])
    bands = split_bands(values.get('image') or [])
    typed = bands or values.get('bands')
    files = [*inputs, *bands.values(), *(values.get('images') or ())]
    maps = []
    for name in IMAGE_FILES + IMAGE_MAPS:
        own = values.get(name)
        target = maps if name in IMAGE_MAPS else files
        own = (
            own if isinstance(own, list) else [of_band(own, b) for b in typed or [None]]
        )
        target.extend(own)
    files, maps = (
        [_place(path) for path in paths if path is not None] for paths in (files, maps)
    )
    for path in files:
        if not path.is_file():
            msg = f'{path} is a folder' if path.is_dir() else f'there is no file {path}'
            raise FileNotFoundError(msg)
    outputs = {f'{option} {path}': path for option, path in outputs.items() if path}
    check_outputs(outputs, overwrite=options.overwrite, inputs=[*files, *maps])


def split_bands(paths):
    """Paths by band of BAND=FILE; by None that of an image without a band."""
    paths, found, keys = [paths] if isinstance(paths, str) else paths, {}, []
    for path in paths:
        band, file = split_band(path)
        if len(paths) > 1 and band is None:
            raise UsageError(f'{path}: several images are given as BAND=FILE')
        if (key := str(as_key(band))) in keys:
            raise UsageError(f'the band {key} is given twice')
        keys.append(key)
        found[band] = file
    return found


def split_band(path):
    """Band, as it was typed, and path of BAND=FILE; None and a path without a band."""
    band, _, file = path.partition('=')
    if not file or Path(path).is_file():
        return None, path
    try:
        as_key(band)
    except (TypeError, ValueError) as error:
        msg = (
            f'{path}: the band must be one of ugrizy, one of a survey such as '
            'DECam.g, or NAME@WAVELENGTH,WIDTH in nm'
        )
        raise UsageError(msg) from error
    return band, file


def by_band(kind):
    """Make the parser of one value for all bands, or of BAND=VALUE,BAND=VALUE."""

    @functools.wraps(kind)
    def parse(text):
        if '=' not in text:
            return kind(text)
        pairs = (part.partition('=') for part in text.split(','))
        return {band.strip(): kind(value) for band, _, value in pairs}

    return parse


def check_by_band(options, bands):
    """Refuse values by band, of any option, for bands that there are not."""
    known = [band.partition('@')[0] for band in bands if band]
    for name, value in vars(options).items():
        if isinstance(value, dict) and not value.keys() <= set(known):
            flag, names = '--' + name.replace('_', '-'), ', '.join(known)
            raise UsageError(f'{flag} must name bands of IMAGE ({names or "none"})')


def as_key(text):
    """Band of a text, by its letter where that is enough; ``NAME@WAVELENGTH,WIDTH``."""
    from bliss_astro.exposures._bands import BANDS, Band, as_band

    name, _, numbers = (text or '').partition('@')
    if numbers:
        return Band(name, *map(float, numbers.split(',')))
    as_band(text, 'the band')
    return BANDS[text] if text in BANDS and '.' in text else text


def of_band(value, band):
    """Value of an option by band, or a path in which a band stands for ``{band}``."""
    name = None if band is None else band.partition('@')[0]
    if isinstance(value, dict):
        return value.get(name)
    return value.replace('{band}', name) if name and isinstance(value, str) else value


def _place(path):
    """Return the file of ``FILE[EXT][x1:x2,y1:y2]``."""
    from bliss_astro.exposures._fits_image import parse_location

    return Path(parse_location(path).path)


def check_outputs(outputs, *, overwrite, inputs=()):
    """Refuse outputs, by their names, that could not be written after the work."""
    read, seen = {path.resolve() for path in inputs}, set()
    for named, path in outputs.items():
        place = Path(path).resolve()
        if place in read:
            raise UsageError(f'{named} is read from and cannot be written to as well')
        if place in seen:
            raise UsageError(f'{named} is named twice as an output')
        seen.add(place)
        try:
            check_target(Path(path), overwrite=overwrite)
            # os.access is wrong for some network folders, and for root.
            with tempfile.NamedTemporaryFile(prefix='.tmp-', dir=place.parent):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise type(error)(f'{named} cannot be written: {reason}') from error


def _check_ending(option, path, endings):
    if path is not None and not path.lower().endswith(tuple(endings)):
        known = ('one of ' if len(endings) > 1 else '') + ', '.join(endings)
        raise UsageError(f'{option} {path}: the ending must be {known}')


def _check_catalog(option, path, *, posterior=False):
    """Refuse unknown formats of catalogues, and those that lose the posterior."""
    from bliss_astro.catalog._io import FORMATS, find_format

    found = 'reg'
    if not path.lower().endswith('.reg'):
        try:
            found = find_format(path, writing=True)
        except ValueError:
            known = [ending for kind in FORMATS.values() for ending in kind.endings]
            _check_ending(option, path, [*known, '.csv', '.hdf5', '.reg'])
    if posterior and found != 'fits':
        raise UsageError(f'{option} {path}: only FITS can keep the posterior')
    package = _PACKAGES.get(found)
    if package is not None and importlib.util.find_spec(package) is None:
        msg = f'{option} {path}: this format needs the package {package}, not installed'
        raise ValueError(msg)


# -- writing, whole or not at all ------------------------------------------------------


def write_catalog(options, catalog, path, *, posterior=False):
    """Write a catalogue in the format of the ending; ``.reg`` are regions of DS9."""
    if path is None:
        return
    if path.lower().endswith('.reg'):
        catalog.to_regions(path, overwrite=options.overwrite)
    else:
        catalog.write(path, overwrite=options.overwrite, posterior=posterior)
    status(options, f'wrote {path}')


def write_results(options, table, draw, **figure):
    """Write the table and the picture of a command, where they are wanted."""
    if options.output is not None:
        file_format = _TABLES[Path(options.output).suffix.lower()]
        with atomic_write(options.output, overwrite=options.overwrite) as temporary:
            table.write(temporary, format=file_format, overwrite=True)
        status(options, f'wrote {options.output}')
    write_picture(options, draw, options.plot, **figure)


def write_picture(options, draw, path, *, figsize=(11.5, 5.0), n_panels=0, n_rows=1):
    """Make a figure, call ``draw`` with it or with its panels, and write it."""
    if path is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout='constrained')
    draw(figure.subplots(n_rows, n_panels // n_rows) if n_panels else figure)
    with atomic_write(path, overwrite=options.overwrite) as temporary:
        figure.savefig(temporary, dpi=150, format=Path(path).suffix.lower()[1:])
    status(options, f'wrote {path}')
