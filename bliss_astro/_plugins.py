# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Plug-ins: modules that register their readers with folders above them.

`bliss_astro.exposures`, `bliss_astro.psf` and `bliss_astro.priors` hold lists of
readers, to which a plug-in (a survey, the files of coadds and simulations) adds those
of its files when it is imported.
"""

import importlib

_SURVEYS = ('sdss',)


def survey(name):
    """Import the plug-in of a survey."""
    return importlib.import_module(f'bliss_astro.surveys.{name}')


def load_surveys():
    """Import all plug-ins, so that their formats are known."""
    for name in _SURVEYS:
        survey(name)


def load_readers():
    """Import surveys and simulations, so that their files are read as exposures."""
    load_surveys()
    importlib.import_module('bliss_astro.simulation._images')


def load_coadds():
    """Import coadds, so that their files are read as exposures."""
    importlib.import_module('bliss_astro.coadds._coadd')


def exposure_of(image, given):
    """Make an exposure of an image of any kind; what is not given is estimated."""
    return importlib.import_module('bliss_astro.exposures._read').exposure_of(
        image, {name: value for name, value in given.items() if value is not None}, {}
    )
