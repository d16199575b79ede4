# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Plug-ins of surveys: modules above the core that register their readers with it.

`bliss_astro.exposures`, `bliss_astro.psf` and `bliss_astro.priors` hold lists of
readers, to which a plug-in adds those of its files when it is imported.
"""

import importlib

__all__ = ['load_surveys', 'survey']

_SURVEYS = ('sdss',)


def survey(name):
    """Import the plug-in of a survey."""
    return importlib.import_module(f'bliss_astro.surveys.{name}')


def load_surveys():
    """Import all plug-ins, so that their formats are known."""
    for name in _SURVEYS:
        survey(name)
