# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From the options of a command to an image, and back in messages.
"""

import argparse
import re

from ._options import IMAGE_ARGUMENTS, IMAGE_FILES, IMAGE_MAPS
from ._output import UsageError

__all__ = []

# Arguments of functions that stand for the image.
_IMAGE = ('data', 'path', 'image')
_KINDS = {
    'sdss.frame': 'SDSS image',
    'bliss_astro.simulated': 'simulated image',
    'bliss_astro.coadd': 'coadd',
}


def read_image_file(options):
    """Read the image of a command; return an exposure and the kind of its file."""
    from bliss_astro.exposures._read import open_exposure
    from bliss_astro.exposures._validate import GivenTwiceError

    given = {}
    for argument, names in IMAGE_ARGUMENTS.items():
        named = [name for name in names if getattr(options, name) is not None]
        if named:
            given[argument] = getattr(options, named[0])
    if 'psf' in given and 'fwhm' in given:
        msg = '--psf and --fwhm do not go together'
        raise UsageError(msg)
    try:
        exposure, file_format = open_exposure(options.image, **given)
    except GivenTwiceError as error:
        kind = error.kind.rpartition(', ')[2]
        option = _option(options, error.name)
        msg = f'{option} does not go with {options.image}, which is {kind}'
        raise UsageError(msg) from error
    return exposure, _KINDS.get(file_format, 'image')


def read_image_of_many(options, k):
    """Read the k-th image with its own files, or with one that serves for all."""
    from bliss_astro.training._facts import known_exposure

    values = vars(options) | {'image': options.images[k]}
    for name in IMAGE_FILES + IMAGE_MAPS:
        if isinstance(values[name], list):
            values[name] = values[name][k if len(values[name]) > 1 else 0]
    one = argparse.Namespace(**values)
    return known_exposure(read_image_file(one)[0], name=one.image)


def read_exposure(options):
    """Read the image and complete it by estimates; return an exposure."""
    from bliss_astro.detection._estimates import as_exposure

    return as_exposure(read_image_file(options)[0])[0]


def detection_keywords(options):
    """Return the encoder, device and density of a command."""
    from bliss_astro._devices import choose_device
    from bliss_astro.encoders import Encoder

    # Wrong names are found before a large image is read.
    return {
        'device': choose_device(options.device),
        'encoder': Encoder.from_pretrained(options.encoder),
        'density': options.density,
    }


def name_options(text, options):
    """Write the options that a person typed in place of arguments of functions."""
    known = {
        name: '--' + name.replace('_', '-')
        for name, value in vars(options).items()
        if not (callable(value) or name in ('command', 'image', 'images'))
    }
    for argument, names in (IMAGE_ARGUMENTS | {'n_threads': ['threads']}).items():
        if any(hasattr(options, name) for name in names):
            known[argument] = _option(options, argument)
    if hasattr(options, 'image') or hasattr(options, 'images'):
        known |= dict.fromkeys(_IMAGE, 'IMAGE')
    any_name = '|'.join(sorted(known, key=len, reverse=True))
    # As a keyword: psf='file'.
    text = re.sub(
        rf"(?<![\w'])({any_name})='([^']*)'", lambda m: f'{known[m[1]]} {m[2]}', text
    )
    in_a_shell = 'a file, FILE[EXT] or an extension of IMAGE'
    text = re.sub(r'(?:a number, )?an array or a file(?=;)', in_a_shell, text)
    # As the subject, and after "give".
    text = re.sub(rf'^({any_name})(?=:| must)', lambda m: known[m[1]], text)
    text = re.sub(
        rf'\b[Gg]ive (?:(?:{any_name})\b(?:, | or | and )?)+',
        lambda m: re.sub(rf'\b({any_name})\b', lambda n: known[n[1]], m[0]),
        text,
    )
    # Words with an underscore are no prose; in quotes they are a file's.
    return re.sub(
        rf"'[^']*'|(?<![-\w])({any_name})(?![-\w.])",
        lambda m: known[m[1]] if m[1] and '_' in m[1] else m[0],
        text,
    )


def _option(options, argument):
    """Return the option behind an argument."""
    names = (IMAGE_ARGUMENTS | {'n_threads': ['threads']}).get(argument, (argument,))
    used = [name for name in names if getattr(options, name, None) is not None]
    return '--' + (used or names)[0].replace('_', '-')
