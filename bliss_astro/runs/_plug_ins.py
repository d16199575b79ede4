# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Plug-ins of fields: of surveys, and ``'fits'`` for images of any camera.
"""

from astropy.io import fits

from bliss_astro._arguments import require
from bliss_astro._lazy import survey as load_survey
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._read import OF_SDSS, other_formats
from bliss_astro.surveys._bands import opener
from bliss_astro.surveys.legacysurvey import read_coadd


def keywords_of(survey):
    """Names of the options of fields of a survey, or None where they may be any."""
    if survey == 'mosaic':
        return None
    if survey != 'fits':
        return getattr(plug_in(survey).open_field, 'keywords', None)
    return None if other_formats() else open_field.keywords


def _read(path, band, /, **options):
    options = {'band': band} | options
    if '://' not in path:
        return Exposure.read(path, **options)
    with fits.open(path, use_fsspec=True) as hdus:
        return Exposure.read(hdus, **options)


# Images of any camera, with options of surveys whose images are recognised: 'fits'.
open_field = opener(_read, read_coadd)
open_field.keywords |= {'extension', 'format', *OF_SDSS}


def plug_in(name):
    """Module of a survey that has fields."""
    module = load_survey(name)
    sound = hasattr(module, 'find_fields') and hasattr(module, 'open_field')
    require(sound, 'survey', 'be one with fields', repr(name))
    return module
