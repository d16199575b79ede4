# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Options of the commands: one table of their names, types and help texts.
"""

import argparse
import math
from typing import NamedTuple

import numpy as np

__all__ = []

ROWS_SHOWN = 20
"""Rows that ``bliss-astro detect`` prints."""


# -- types ---------------------------------------------------------------------------


def _number(kind, allowed, condition):
    """Make the type of an argument: a number that meets a condition."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not condition(value):
            msg = f'{text!r} is not {allowed}'
            raise argparse.ArgumentTypeError(msg)
        return value

    return parse


positive_int = _number(int, 'a positive whole number', lambda v: v > 0)
seed = _number(int, 'a whole number, 0 or more', lambda v: v >= 0)
positive_float = _number(float, 'a positive number', lambda v: 0 < v < math.inf)
magnitude = _number(float, 'a magnitude', math.isfinite)
probability = _number(float, 'a probability between 0 and 1', lambda v: 0 < v < 1)
density = _number(
    float, 'a number of sources per pixel between 0 and 1', lambda v: 0 < v < 1
)


def binning(text):
    """Parse a number of pixels to join, or ``auto``."""
    return text if text == 'auto' else positive_int(text)


def background(text):
    """Parse ``header``, ``measure`` or a level."""
    if text in ('header', 'measure'):
        return text
    allowed = f"{text!r} is neither 'header' nor 'measure' nor a number"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(allowed)
    return value


def image_shape(text):
    """Parse ``NYxNX`` or one number for a square."""
    parts = text.lower().replace(',', 'x').split('x')
    parts = parts * 2 if len(parts) == 1 else parts
    if len(parts) != 2 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        msg = f'{text!r} is not a shape such as 300x400 (rows x columns) or 300'
        raise argparse.ArgumentTypeError(msg)
    return int(parts[0]), int(parts[1])


def bin_edges(text):
    """Parse ``FIRST:LAST:STEP`` or edges separated by commas."""
    try:
        if ':' in text:
            first, last, step = (float(part) for part in text.split(':'))
            edges = np.arange(first, last + 0.5 * step, step)
        else:
            edges = np.array([float(part) for part in text.split(',')])
    except (ValueError, ZeroDivisionError):
        edges = np.empty(0)
    if len(edges) < 2 or not np.all(np.diff(edges) > 0):
        msg = (
            f'{text!r} is neither FIRST:LAST:STEP nor increasing edges such as 18,20,22'
        )
        raise argparse.ArgumentTypeError(msg)
    return edges


# -- the table -----------------------------------------------------------------------


class Option(NamedTuple):
    """An option, and the argument of a function that it stands for."""

    flags: list
    keywords: dict
    argument: str | None


def _option(flags, text, *, argument=None, **keywords):
    return Option(flags.split(), {'help': text, **keywords}, argument)


def _flag(flags, text):
    return _option(flags, text, action='store_true')


OPTIONS = {
    # Measurement.
    'image': _option('image', 'a FITS file', metavar='IMAGE'),
    'images': _option('images', 'FITS files', metavar='IMAGE', nargs='+'),
    'threshold': _option(
        '-t --threshold',
        'smallest probability of a source (default: %(default)s)',
        type=probability,
        default=0.5,
        metavar='P',
    ),
    'encoder': _option(
        '--encoder',
        'a bundled encoder or a .safetensors file (default: %(default)s)',
        default='stars-galaxies',
        metavar='NAME',
    ),
    'density': _option(
        '--density',
        'expected sources per pixel; by default estimated in a first pass',
        type=density,
        metavar='X',
    ),
    'device': _option(
        '--device', 'cpu, cuda, ...; by default a GPU if there is one', default='auto'
    ),
    'threads': _option(
        '--threads',
        'threads on the CPU; by default as many as torch uses',
        argument='n_threads',
        type=positive_int,
        metavar='N',
    ),
    'bin': _option(
        '--bin',
        'join N x N pixels where the PSF is too broad for the encoder',
        type=binning,
        metavar='N|auto',
    ),
    'draws': _option(
        '--draws',
        'number of catalogues drawn from the posterior (default: %(default)s)',
        type=positive_int,
        metavar='N',
    ),
    'seed': _option('--seed', 'seed of the random numbers', type=seed, metavar='N'),
    # The image.
    'psf': _option(
        '--psf',
        'psField of SDSS, or for other images a FITS image of the PSF; by default '
        'fitted to bright stars',
        argument='psf',
        metavar='FILE',
    ),
    'fwhm': _option(
        '--fwhm',
        'full width at half maximum of the PSF in pixels, in place of --psf',
        argument='fwhm',
        type=positive_float,
        metavar='PX',
    ),
    'background': _option(
        '--background',
        'sky that is still in the image, in its unit',
        argument='background',
        type=background,
        metavar='header|measure|VALUE',
    ),
    'extension': _option(
        '--extension',
        'number or name of the image in the file',
        argument='extension',
        metavar='N',
    ),
    'mask': _option(
        '--mask',
        'bad pixels (not 0): FILE, FILE[EXT], or an extension of IMAGE',
        argument='mask',
        metavar='FILE',
    ),
    'noise': _option(
        '--noise',
        'standard deviation of the sky',
        argument='bkg_error',
        type=positive_float,
        metavar='S',
    ),
    'rms': _option(
        '--rms',
        'map of the standard deviation of the sky, FILE[EXT]',
        argument='bkg_error',
        metavar='FILE',
    ),
    'weight': _option(
        '--weight',
        'map of the inverse variance of the sky up to a factor, FILE[EXT]',
        argument='weight',
        metavar='FILE',
    ),
    'gain': _option(
        '--gain',
        'electrons per data unit',
        argument='effective_gain',
        type=positive_float,
        metavar='G',
    ),
    'saturation': _option(
        '--saturation',
        'level from which a pixel is saturated, in data units',
        argument='saturation',
        type=positive_float,
        metavar='LEVEL',
    ),
    'zero_point': _option(
        '--zero-point',
        'AB magnitude of a flux of 1 data unit; fluxes are then in nmgy',
        argument='zero_point',
        type=magnitude,
        metavar='MAG',
    ),
    'band': _option(
        '--band', 'a check; needed for any psField', argument='band', choices='ugriz'
    ),
    'fpm': _option(
        '--fpm', 'fpM: mask planes of the field', argument='fpm', metavar='FILE'
    ),
    'tsfield': _option(
        '--tsfield', 'tsField: calibration of fpC', argument='tsfield', metavar='FILE'
    ),
    'photofield': _option(
        '--photofield', 'photoField', argument='photofield', metavar='FILE'
    ),
    # Simulated fields.
    'n_exposures': _option(
        '-d --n-exposures',
        'exposures in the coadd (default: %(default)s)',
        type=positive_int,
        metavar='D',
    ),
    'shape': _option(
        '--shape',
        'size in pixels (default: 256x256)',
        type=image_shape,
        default=(256, 256),
        metavar='NYxNX',
    ),
    # Output.
    'output': _option('-o --output', 'file to write'),
    'posterior': _flag(
        '--posterior',
        'keep the posterior in the FITS file, for intervals and samples later',
    ),
    'plot': _option('--plot', 'draw the result', metavar='PICTURE'),
    'overwrite': _flag('--overwrite', 'replace files that exist'),
    'quiet': _flag('-q --quiet', 'show no progress'),
}

IMAGE_FILES = ('psf', 'fpm', 'tsfield', 'photofield')
"""Options that name files of an image."""

IMAGE_MAPS = ('mask', 'rms', 'weight')
"""Options that name files or extensions of the image."""

IMAGE_GROUPS = {
    'properties of the image': (
        *('psf', 'fwhm', 'background', 'extension', 'mask', ('noise', 'rms', 'weight')),
        *('gain', 'saturation', 'zero_point'),
    ),
    'files of SDSS': ('band', 'fpm', 'tsfield', 'photofield'),
}
"""Options of an image by group; those of an inner tuple exclude one another."""

IMAGE_ARGUMENTS = {}
"""Options by the argument of `Exposure.read` that they stand for."""
for _name, _entry in OPTIONS.items():
    if _entry.argument is not None and _name != 'threads':
        IMAGE_ARGUMENTS.setdefault(_entry.argument, []).append(_name)


def add_command(commands, name, run, *, summary, description=None):
    """Add the parser of a command."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_options(parser, names, *, title=None, **changes):
    """Add options of the table by name, with changed keywords of some."""
    parser = parser.add_argument_group(title) if title else parser
    for name in names.split():
        flags, keywords, _ = OPTIONS[name]
        parser.add_argument(*flags, **(keywords | changes.get(name, {})))
    return parser


def add_image_options(parser, *, many=False):
    """Add the options of the image, or of ``many`` with a file for each."""
    for title, entries in IMAGE_GROUPS.items():
        group = parser.add_argument_group(title)
        for entry in entries:
            names = entry if isinstance(entry, tuple) else (entry,)
            target = group
            if len(names) > 1:
                target = group.add_mutually_exclusive_group()
            for name in names:
                is_list = many and name in IMAGE_FILES + IMAGE_MAPS
                change = {name: {'nargs': '+'}} if is_list else {}
                add_options(target, name, **change)
