# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Options of the commands: one table of them, images that they describe, messages.
"""

import argparse
import inspect
import re
from pathlib import Path

from ._files import IMAGE_FILES, IMAGE_MAPS, UsageError, by_band, of_band
from ._types import (
    background,
    bin_edges,
    binning,
    density,
    image_shape,
    magnitude,
    positive_float,
    positive_int,
    probability,
    seed,
)

CONFIGS = Path(__file__).parent.parent / 'data' / 'configs'
"""Folder of the bundled configurations."""

ROWS_SHOWN = 20
"""Rows that ``bliss-astro detect`` prints."""


def bundled_configs():
    """Return the names of the bundled configurations."""
    return sorted(path.stem for path in CONFIGS.glob('*.toml'))


# -- the table -----------------------------------------------------------------------

# Texts that fill more than a line.
_CATALOGS = (
    '.fits, .ecsv, .parquet, .vot, .csv, .hdf5 or .reg (DS9); without it the '
    f'{ROWS_SHOWN} brightest sources are printed'
)
_DEPTH = 'exposures in each IMAGE, if it is a coadd whose header does not say'
_SKY = 'sky of an exposure, electrons per pixel (default: %(default)g)'
_STEPS = (
    'training steps; by default as many as the bundled encoder had, or a quarter of '
    'them where it starts from that'
)
# Type, name of the value, and help of each option, which its flag names; after a colon
# stands what it is in some command.
OPTIONS = {
    # Measurement.
    'image': (str, 'IMAGE', 'a FITS file'),
    'image:bands': (str, 'IMAGE', 'a FITS file, or BAND=FILE for each band'),
    'images': (str, 'IMAGE', 'FITS files, or BAND=FILE of several bands'),
    'images:coadd': (
        str,
        'IMAGE',
        'FITS files, or BAND=FILE for each of several bands; the first sets the pixels',
    ),
    'fields': (
        str,
        'FIELDS',
        'a folder, FITS files, a glob in quotes, or a table of files (.ecsv, .csv)',
    ),
    'survey': (str, 'NAME', 'survey of the files: sdss, legacysurvey, ...'),
    'bands:survey': (
        str,
        'BANDS',
        'bands that are wanted, gri; by default those there are',
    ),
    'reference': (str, 'BAND', 'reference band; by default r, or the first'),
    'threshold': (probability, 'P', 'smallest probability of a source'),
    'encoder': (str, 'NAME', 'bundled encoder or .safetensors'),
    'density': (density, 'X', 'sources per pixel; by default from a first pass'),
    'device': (str, 'NAME', 'cpu, cuda, ...; by default a GPU if there is one'),
    'threads': (positive_int, 'N', 'threads on the CPU; by default those of torch'),
    'bin': (binning, 'N|auto', 'join N x N pixels if the PSF is too broad otherwise'),
    'draws:check': (positive_int, 'N', 'draws of the posterior'),
    'draws:model': (positive_int, 'N', 'write images of N draws of the posterior too'),
    'seed': (seed, 'N', 'seed of the random numbers'),
    'seed:field': (seed, 'N', 'same number, same field'),
    # The image.
    'psf': (str, 'FILE', 'psField, or image of the PSF; by default fitted to stars'),
    'fwhm': (positive_float, 'PX', 'FWHM of the PSF in pixels, in place of --psf'),
    'background': (
        background,
        'header|measure|VALUE',
        'sky still in the image, in its unit',
    ),
    'extension': (str, 'N', 'number or name of the image in the file'),
    'mask': (str, 'FILE', 'bad pixels (not 0): FILE, FILE[EXT], extension of IMAGE'),
    'noise': (positive_float, 'S', 'standard deviation of the sky'),
    'rms': (str, 'FILE', 'map of the standard deviation of the sky, FILE[EXT]'),
    'weight': (str, 'FILE', 'map of the inverse variance up to a factor, FILE[EXT]'),
    'gain': (positive_float, 'G', 'electrons per data unit'),
    'saturation': (positive_float, 'LEVEL', 'saturation level, in data units'),
    'zero_point': (magnitude, 'MAG', 'AB magnitude of 1 data unit; makes fluxes nmgy'),
    'band': (tuple('ugriz'), None, 'of SDSS a check; needed for any psField'),
    'band:field': (tuple('ugriz'), None, 'band of that PSF (default: r)'),
    'fpm': (str, 'FILE', 'fpM: mask planes of the field'),
    'tsfield': (str, 'FILE', 'tsField: calibration of fpC'),
    'photofield': (str, 'FILE', 'photoField'),
    # Completeness and evaluation.
    'catalog': (str, 'CATALOG', 'a table of detections'),
    'truth': (str, 'TRUTH', 'a table of true sources'),
    'magnitudes': (bin_edges, 'FROM:TO:STEP', 'edges of bins; by default SNR 2 to 60'),
    'sources': (positive_int, 'N', 'sources of each type'),
    'types': (('star', 'galaxy'), None, 'types to inject'),
    'radius': (positive_float, 'R', 'largest distance of a pair (--sky: in arcsec)'),
    'bin:scores': (positive_float, 'MAG', 'width of a bin'),
    'sky': (bool, None, 'match on the sky, in arcsec, instead of in pixels'),
    # Coadds.
    'weights': (('inverse_variance', 'uniform'), None, 'weights of the exposures'),
    'match_background': (('constant', 'plane'), None, 'subtract differences of skies'),
    'sigma_clip': (positive_float, 'N', 'leave out pixels N sigma off the others'),
    'method': (('bilinear', 'adaptive', 'exact'), None, 'method of resampling'),
    'zero_points': (float, 'MAG', 'AB magnitude of 1 data unit, of each IMAGE or all'),
    # Recipes and training.
    'config': (str, 'CONFIG.toml', f'a file, or one of {", ".join(bundled_configs())}'),
    'card': (str, 'NAME', 'a bundled encoder or a .safetensors file'),
    'stack': (bool, None, 'for the coadd that these exposures would make'),
    'always': (bool, None, 'make a recipe even if a bundled encoder covers the images'),
    'n_steps': (positive_int, 'N', _STEPS),
    'no_timing': (bool, None, 'do not measure how long the training will take'),
    'field': (str, 'FIELD', 'print one entry of the card only'),
    'name': (str, 'NAME', 'name of the encoder; by default that of the CONFIG'),
    'start_from': (str, 'ENCODER', 'encoder of the same sizes to begin with'),
    'chunk': (positive_int, 'PX', 'cut mosaics into chunks of this side, as of 2048'),
    'workers': (positive_int, 'N', 'processes; by default one a processor'),
    'scheduler': (str, 'ADDRESS', 'scheduler of a Dask cluster, in place of --workers'),
    'batch_size': (positive_int, 'N', 'small fields that a worker takes together'),
    'retries': (seed, 'N', 'how often a field is tried again that lost its worker'),
    'resume': (bool, None, 'continue the run in FOLDER'),
    'max_minutes': (positive_float, 'M', 'stop after this time, to be resumed later'),
    # Simulated fields.
    'faintest': (float, 'MAG', 'magnitude of the faintest stars; by default SNR 3.4'),
    'n_exposures': (positive_int, 'D', _DEPTH),
    'n_exposures:field': (positive_int, 'D', 'exposures in the coadd'),
    'density:field': (density, 'X', 'stars per pixel'),
    'psf:field': (str, 'PSFIELD', 'PSF at the centre of an SDSS field'),
    'background:field': (positive_float, 'B', _SKY),
    'shape': (image_shape, 'NYxNX', 'size in pixels (default: 256x256)'),
    'bands': (str, 'BANDS', 'such as gri or DECam.g,DECam.r: a file for each'),
    # Output.
    'output:catalog': (str, 'CATALOG', _CATALOGS),
    'output:table': (str, 'TABLE', '.ecsv, .csv or .fits'),
    'output:model': (str, 'OUT.fits', 'model, residual and catalogue, .fits(.gz)'),
    'output:coadd': (str, 'COADD.fits', 'file to write; {band} stands for the band'),
    'output:image': (str, 'IMAGE.fits', 'file to write; {band} stands for the band'),
    'output:recipe': (str, 'RECIPE.toml', 'file to write; without it, it is printed'),
    'output:run': (str, 'FOLDER', 'checkpoint, log and weights; by default as CONFIG'),
    'output:demo': (str, 'FOLDER', 'made if it is not there (default: %(default)s)'),
    'output:survey': (str, 'FOLDER', 'folder of the results; the same one resumes'),
    'catalog_copy': (str, 'CATALOG', 'the catalogue in a file of its own as well'),
    'posterior': (bool, None, 'keep the posterior in the FITS file, for samples later'),
    'plot': (str, 'PICTURE', 'draw the result'),
    'overwrite': (bool, None, 'replace files that exist'),
    'overwrite:survey': (bool, None, 'delete a run of other options in FOLDER'),
    'quiet': (bool, None, 'show no progress'),
}
_FLAGS = {
    'threshold': ('-t', '--threshold'),
    'n_exposures': ('-d', '--n-exposures'),
    'sources': ('-n', '--sources'),
    'output': ('-o', '--output'),
    'quiet': ('-q', '--quiet'),
    'catalog_copy': ('--catalog',),
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
    'survey': 'fits',
    'batch_size': 1,
    'retries': 1,
    'draws:check': 3,
    'draws:model': 0,
    'bin:scores': 0.5,
    'seed:field': 1,
    'n_exposures:field': 1,
    'density:field': 0.003,
    'background:field': 865.0,
    'output:demo': '.',
}
_LISTS = ('fields', 'images', 'image:bands', 'types', 'zero_points')
_REQUIRED = ('output:model', 'output:coadd', 'output:image', 'output:survey')
# Options without a flag.
_POSITIONS = ('fields', 'image', 'images', 'catalog', 'truth', 'config', 'card')

# Options of an image by group; those with a slash exclude one another.
_IMAGE_GROUPS = {
    'properties of the image': 'psf/fwhm background extension mask noise/rms/weight '
    'gain saturation zero_point',
    'files of SDSS': 'band fpm tsfield photofield',
}
# Arguments of functions that have other names than their options.
_ARGUMENTS = {'noise': 'bkg_error', 'rms': 'bkg_error', 'gain': 'effective_gain'}
# Options by the argument of `Exposure.read` that they stand for.
_IMAGE_ARGUMENTS = {}
for _name in re.split('[ /]', ' '.join(_IMAGE_GROUPS.values())):
    _IMAGE_ARGUMENTS.setdefault(_ARGUMENTS.get(_name, _name), []).append(_name)
_ALL_ARGUMENTS = {'n_threads': ['threads'], 'client': ['scheduler']} | _IMAGE_ARGUMENTS


def add_command(commands, name, run, options, output=''):
    """
    Add a command with options of the table by name, some of them in a group "output".

    Its help is the docstring of the function. A command of an image has all options
    of images; for the coadd with a file for each.
    """
    text = inspect.getdoc(run) or name
    parser = commands.add_parser(
        name,
        help=text.partition('.\n')[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    many = IMAGE_FILES + IMAGE_MAPS if name == 'coadd' else ()
    several = options.startswith(('image:bands', 'images'))
    groups = {'': options}
    if options.startswith(('image', 'fields')):
        groups |= _IMAGE_GROUPS
    for title, words in (groups | {'output': output}).items():
        group = parser.add_argument_group(title) if title else parser
        for word in words.split():
            names, target = word.split('/'), group
            if len(names) > 1:
                target = group.add_mutually_exclusive_group()
            for option in names:
                own = {'bands': several and title in _IMAGE_GROUPS}
                _add_option(target, option, (*_LISTS, *many), **own)


def _add_option(parser, option, lists, *, bands):
    kind, metavar, text = OPTIONS[option]
    kind = by_band(kind) if bands and callable(kind) and kind is not str else kind
    name = option.partition(':')[0]
    keywords = {'help': text, 'default': _DEFAULTS.get(option)}
    if keywords['default'] is not None and 'default' not in text:
        keywords['help'] += ' (default: %(default)s)'
    if kind is bool:
        keywords |= {'action': 'store_true', 'default': False}
    elif isinstance(kind, tuple):
        keywords['choices'] = kind
    else:
        keywords |= {'type': kind, 'metavar': metavar}
    if {name, option} & {*lists}:
        keywords['nargs'] = '+'
    if name in _POSITIONS:
        nargs = {'nargs': '?'} if name == 'card' else {}
        parser.add_argument(name, **keywords | nargs)
        return
    flags = _FLAGS.get(name, (_flag(name),))
    parser.add_argument(*flags, dest=name, required=option in _REQUIRED, **keywords)


def _flag(name):
    return '--' + name.replace('_', '-')


# -- from options to images ----------------------------------------------------------

_KINDS = {
    'sdss.frame': 'SDSS image',
    'bliss_astro.simulated': 'simulated image',
    'bliss_astro.coadd': 'coadd',
}


def read_image_file(options):
    """Read the image of a command; return an exposure and the kind of its file."""
    from bliss_astro.exposures._read import open_exposure
    from bliss_astro.exposures._validate import GivenTwiceError

    try:
        exposure, file_format = open_exposure(options.image, **image_keywords(options))
    except GivenTwiceError as error:
        kind = error.kind.rpartition(', ')[2]
        option = _option(options, error.name)
        msg = f'{option} does not go with {options.image}, which is {kind}'
        raise UsageError(msg) from error
    return exposure, _KINDS.get(file_format, 'image')


def image_keywords(options):
    """Keywords of `Exposure.read` by the options of an image, None where not given."""
    given = {}
    for argument, names in _IMAGE_ARGUMENTS.items():
        values = [getattr(options, name) for name in names]
        given[argument] = next((value for value in values if value is not None), None)
    return given


def read_image_of_many(options, k, band=None):
    """Read the k-th image, in a band, with its own files, or one for all images."""
    from bliss_astro.training._facts import known_exposure

    values = dict(vars(options))
    for name in IMAGE_FILES + IMAGE_MAPS:
        if isinstance(values[name], list):
            values[name] = values[name][k if len(values[name]) > 1 else 0]
    values = {name: of_band(v, band) for name, v in values.items()}
    one = argparse.Namespace(**values | {'image': options.images[k]})
    return known_exposure(read_image_file(one)[0], name=one.image)


def detection_keywords(options):
    """Return encoder, device and density; wrong names fail before an image is read."""
    from bliss_astro._arguments import choose_device
    from bliss_astro.encoders import Encoder

    return {
        'device': choose_device(options.device),
        'encoder': Encoder.from_pretrained(options.encoder),
        'density': options.density,
    }


# -- from arguments to options, in messages ------------------------------------------


def name_options(text, options):
    """Write the options that a person typed in place of arguments of functions."""
    known = {
        name: _flag(name)
        for name, value in vars(options).items()
        if not (callable(value) or name in ('command', *_POSITIONS))
    }
    for argument, names in _ALL_ARGUMENTS.items():
        if any(hasattr(options, name) for name in names):
            known[argument] = _option(options, argument)
    if hasattr(options, 'image') or hasattr(options, 'images'):
        known |= dict.fromkeys(('data', 'path', 'image'), 'IMAGE')
    any_name = '|'.join(sorted(known, key=len, reverse=True))
    in_a_shell = 'a file, FILE[EXT] or an extension of IMAGE'
    for pattern, new in (
        # As keywords: psf='file', overwrite=True.
        (rf"(?<![\w'])({any_name})='([^']*)'", lambda m: f'{known[m[1]]} {m[2]}'),
        (rf'\b({any_name})=True', lambda m: known[m[1]]),
        (r'(?:a number, )?an array or a file(?=;)', in_a_shell),
        # As the subject, of a band too, and after "give".
        (
            rf"^(band '.*?': )?({any_name})(?=:| must)",
            lambda m: f'{m[1] or ""}{known[m[2]]}',
        ),
        (
            rf'\b[Gg]ive (?:(?:{any_name})\b(?:, | or | and )?)+',
            lambda m: re.sub(rf'\b({any_name})\b', lambda n: known[n[1]], m[0]),
        ),
        # Words with an underscore are no prose; in quotes they are a file's.
        (
            rf"'[^']*'|(?<![-\w])({any_name})(?![-\w.])",
            lambda m: known[m[1]] if m[1] and '_' in m[1] else m[0],
        ),
    ):
        text = re.sub(pattern, new, text)
    return text


def _option(options, argument):
    """Return the option behind an argument."""
    names = _ALL_ARGUMENTS.get(argument, (argument,))
    used = [name for name in names if getattr(options, name, None) is not None]
    return _flag((used or names)[0])
