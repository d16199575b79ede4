# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues against their images: the posterior predictive check.

::

    _model        the image that a catalogue stands for
    _refine       bright sources as sharp as the data allow
    _galaxies     shapes of galaxies
    _statistics   what residuals should be like, and are
    _stars        stars against the PSF
    _places       light that is missing, or too much
    _off          sources that are not what the catalogue says
    _findings     all tests
    _words        places in plain words
    _result       what the user holds
"""

from ._result import CatalogCheck, check_catalog
from ._words import CheckFinding

__all__ = ['CatalogCheck', 'CheckFinding', 'check_catalog']
