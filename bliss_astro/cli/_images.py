# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From the options of a command to an image that can be measured.
"""

from ._shared import UsageError

__all__ = ['read_image_file']

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
    from bliss_astro.exposures._given import GivenTwiceError
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


def _option(options, argument):
    """
    Return the option behind an argument.
    """
    names = _OPTIONS.get(argument, (argument,))
    used = [name for name in names if getattr(options, name, None) is not None]
    return '--' + (used or names)[0].replace('_', '-')
