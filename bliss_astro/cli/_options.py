# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Options of the commands: one table of their names, types and help texts.
"""

import argparse
import math

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

# Type, name of the value, and help of each option; its flag is its name.
OPTIONS = {
    # Measurement.
    'image': (str, 'IMAGE', 'a FITS file'),
    'images': (str, 'IMAGE', 'FITS files'),
    'threshold': (probability, 'P', 'smallest probability of a source (default: 0.5)'),
    'encoder': (str, 'NAME', 'bundled encoder or .safetensors (default: %(default)s)'),
    'density': (density, 'X', 'expected sources per pixel; by default estimated'),
    'device': (str, 'NAME', 'cpu, cuda, ...; by default a GPU if there is one'),
    'threads': (positive_int, 'N', 'threads on the CPU; by default those of torch'),
    'bin': (binning, 'N|auto', 'join N x N pixels if the PSF is too broad otherwise'),
    'draws': (positive_int, 'N', 'draws of the posterior (default: %(default)s)'),
    'seed': (seed, 'N', 'seed of the random numbers'),
    # The image.
    'psf': (str, 'FILE', 'psField, or image of the PSF; by default fitted to stars'),
    'fwhm': (positive_float, 'PX', 'FWHM of the PSF in pixels, in place of --psf'),
    'background': (background, 'header|measure|VALUE', 'sky still in the image'),
    'extension': (str, 'N', 'number or name of the image in the file'),
    'mask': (str, 'FILE', 'bad pixels (not 0): FILE, FILE[EXT], extension of IMAGE'),
    'noise': (positive_float, 'S', 'standard deviation of the sky'),
    'rms': (str, 'FILE', 'map of the standard deviation of the sky, FILE[EXT]'),
    'weight': (str, 'FILE', 'map of the inverse variance up to a factor, FILE[EXT]'),
    'gain': (positive_float, 'G', 'electrons per data unit'),
    'saturation': (positive_float, 'LEVEL', 'saturation level, in data units'),
    'zero_point': (magnitude, 'MAG', 'AB magnitude of 1 data unit; makes fluxes nmgy'),
    'band': (tuple('ugriz'), None, 'a check; needed for any psField'),
    'fpm': (str, 'FILE', 'fpM: mask planes of the field'),
    'tsfield': (str, 'FILE', 'tsField: calibration of fpC'),
    'photofield': (str, 'FILE', 'photoField'),
    # Completeness and evaluation.
    'magnitudes': (
        bin_edges,
        'FIRST:LAST:STEP',
        'edges of bins; by default SNR 2 to 60',
    ),
    'sources': (positive_int, 'N', 'sources of each type (default: %(default)s)'),
    'types': (('star', 'galaxy'), None, 'types to inject'),
    'radius': (positive_float, 'R', 'largest distance of a pair (default: 1)'),
    'sky': (bool, None, 'match on the sky, in arcsec, instead of in pixels'),
    # Coadds.
    'weights': (('inverse_variance', 'uniform'), None, 'weights of the exposures'),
    'match_background': (('constant', 'plane'), None, 'subtract differences of skies'),
    'sigma_clip': (positive_float, 'N', 'leave out pixels N sigma off the others'),
    'method': (('bilinear', 'adaptive', 'exact'), None, 'method of resampling'),
    'zero_points': (
        float,
        'MAG',
        'AB magnitude of 1 data unit, of each IMAGE or of all',
    ),
    # Recipes and training.
    'stack': (bool, None, 'for the coadd that these exposures would make'),
    'always': (bool, None, 'make a recipe even if a bundled encoder covers the images'),
    'n_steps': (
        positive_int,
        'N',
        'training steps; by default as the nearest encoder',
    ),
    'no_timing': (bool, None, 'do not measure how long the training will take'),
    'field': (str, 'FIELD', 'print one entry of the card only'),
    'name': (str, 'NAME', 'name of the encoder; by default that of the CONFIG'),
    'start_from': (str, 'ENCODER', 'encoder of the same sizes to begin with'),
    'resume': (bool, None, 'continue the run in FOLDER'),
    'max_minutes': (positive_float, 'M', 'stop after this time, to be resumed later'),
    # Simulated fields.
    'faintest': (float, 'MAG', 'magnitude of the faintest stars; by default SNR 3.4'),
    'n_exposures': (positive_int, 'D', 'exposures in the coadd (default: %(default)s)'),
    'shape': (image_shape, 'NYxNX', 'size in pixels (default: 256x256)'),
    # Output.
    'output': (str, 'FILE', 'file to write'),
    'posterior': (bool, None, 'keep the posterior in the FITS file, for samples later'),
    'plot': (str, 'PICTURE', 'draw the result'),
    'overwrite': (bool, None, 'replace files that exist'),
    'quiet': (bool, None, 'show no progress'),
}
_SHORT_FLAGS = {
    'threshold': '-t',
    'n_exposures': '-d',
    'sources': '-n',
    'output': '-o',
    'quiet': '-q',
}
_DEFAULTS = {
    'threshold': 0.5,
    'encoder': 'stars-galaxies',
    'device': 'auto',
    'method': 'bilinear',
    'radius': 1.0,
    'shape': (256, 256),
    'sources': 400,
    'weights': 'inverse_variance',
}
_LISTS = ('images', 'types', 'zero_points')

# Arguments of `detect_sources` and `Exposure.read` that have other names.
_ARGUMENTS = {
    'noise': 'bkg_error',
    'rms': 'bkg_error',
    'gain': 'effective_gain',
    'threads': 'n_threads',
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
for _group in IMAGE_GROUPS.values():
    for _name in np.hstack(_group).tolist():
        IMAGE_ARGUMENTS.setdefault(_ARGUMENTS.get(_name, _name), []).append(_name)


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
        kind, metavar, text = OPTIONS[name]
        keywords = {'help': text, 'default': _DEFAULTS.get(name)}
        if kind is bool:
            keywords |= {'action': 'store_true', 'default': False}
        elif isinstance(kind, tuple):
            keywords['choices'] = kind
        else:
            keywords |= {'type': kind, 'metavar': metavar}
        if name in _LISTS:
            keywords['nargs'] = '+'
        flags = [_SHORT_FLAGS.get(name), '--' + name.replace('_', '-')]
        if name in ('image', 'images'):
            flags = [name]
        parser.add_argument(*filter(None, flags), **(keywords | changes.get(name, {})))
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
