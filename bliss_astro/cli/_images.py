# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From the options of a command to an image that can be measured, and back in messages.
"""

import re

from ._shared import UsageError

__all__ = ['files_of', 'name_options', 'read_image_file']

# Options by the arguments of Exposure.read that they stand for.
_OPTIONS = {
    'bkg_error': ('noise', 'rms'),
    'effective_gain': ('gain',),
    'background': ('background',),
    'weight': ('weight',),
    'mask': ('mask',),
    'saturation': ('saturation',),
    'zero_point': ('zero_point',),
    'psf': ('psf',),
    'fwhm': ('fwhm',),
    'extension': ('extension',),
    'band': ('band',),
    'fpm': ('fpm',),
    'tsfield': ('tsfield',),
    'photofield': ('photofield',),
}
# Others whose option has another name, and what stands for the image.
_NAMED_OTHERWISE = {'n_threads': ('threads',)}
_IMAGE = ('data', 'path', 'image')
_IN_A_SHELL = 'a file, FILE[EXT] or an extension of IMAGE'
# Options that name files; those of the second kind may name an extension of IMAGE.
_FILES = ('psf', 'fpm', 'tsfield', 'photofield')
_MAPS = ('mask', 'rms', 'weight')
_KINDS = {
    'sdss.frame': 'SDSS image',
    'bliss_astro.simulated': 'simulated image',
    'bliss_astro.coadd': 'coadd',
}


def read_image_file(options):
    """
    Read the image that a command was given.

    Parameters
    ----------
    options : `argparse.Namespace`
        Parsed arguments of the command.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, perhaps without a PSF.

    kind : str
        What the file is, for messages.

    Raises
    ------
    UsageError
        If options do not go with each other or with the image.
    """
    from bliss_astro.exposures._validate import GivenTwiceError
    from bliss_astro.exposures._read import open_exposure

    given = {}
    for argument, names in _OPTIONS.items():
        named = [name for name in names if getattr(options, name) is not None]
        if len(named) > 1:
            msg = f'--{named[0]} and --{named[1]} do not go together'
            raise UsageError(msg)
        if named:
            given[argument] = getattr(options, named[0])
    for one, other in (('psf', 'fwhm'), ('bkg_error', 'weight')):
        if one in given and other in given:
            msg = f'{_option(options, one)} and --{other} do not go together'
            raise UsageError(msg)
    try:
        exposure, file_format = open_exposure(options.image, **given)
    except GivenTwiceError as error:
        kind = error.kind.rpartition(', ')[2]
        option = _option(options, error.name)
        msg = f'{option} does not go with {options.image}, which is {kind}'
        raise UsageError(msg) from error
    return exposure, _KINDS.get(file_format, 'image')


def files_of(options, *, maps=False):
    """
    Files beside IMAGE that a command was given.

    Parameters
    ----------
    options : `argparse.Namespace`
        Parsed arguments of the command.

    maps : bool, optional
        Whether to add what may as well be an extension of IMAGE.

    Returns
    -------
    files : list of str or None
        The files.
    """
    return [getattr(options, name) for name in _FILES + maps * _MAPS]


def name_options(text, options):
    """
    Name the options that a person typed in a message about arguments of functions.

    Parameters
    ----------
    text : str
        The message of an error or a warning.

    options : `argparse.Namespace`
        Parsed arguments of the command.

    Returns
    -------
    text : str
        With ``--rms`` in place of ``bkg_error`` and the like.
    """
    known = {
        name: '--' + name.replace('_', '-')
        for name, value in vars(options).items()
        if not (callable(value) or name in ('command', 'image', 'images'))
    }
    for argument, names in (_OPTIONS | _NAMED_OTHERWISE).items():
        if any(hasattr(options, name) for name in names):
            known[argument] = _option(options, argument)
    if hasattr(options, 'image') or hasattr(options, 'images'):
        known |= dict.fromkeys(_IMAGE, 'IMAGE')
    any_name = '|'.join(sorted(known, key=len, reverse=True))
    # As a keyword: psf='file'.
    text = re.sub(
        rf"(?<![\w'])({any_name})='([^']*)'", lambda m: f'{known[m[1]]} {m[2]}', text
    )
    text = re.sub(r'(?:a number, )?an array or a file(?=;)', _IN_A_SHELL, text)
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
    """
    Return the option behind an argument.
    """
    names = (_OPTIONS | _NAMED_OTHERWISE).get(argument, (argument,))
    used = [name for name in names if getattr(options, name, None) is not None]
    return '--' + (used or names)[0].replace('_', '-')
