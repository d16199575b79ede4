# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The catalogue that a user holds: a table with errors, flags and a posterior.
"""

from bliss_astro._deprecated import deprecated_names

from ._catalog import ProbabilisticCatalog
from ._check import CatalogCheck, CheckFinding
from ._display import CatalogColumns
from ._posterior import CatalogPosterior
from ._reconstruct import reconstruct
from ._reconstruction import Reconstruction, SourceImage

__all__ = [
    'CatalogCheck',
    'CatalogColumns',
    'CatalogPosterior',
    'CheckFinding',
    'ProbabilisticCatalog',
    'Reconstruction',
    'SourceImage',
    'reconstruct',
]

__getattr__ = deprecated_names(__name__)
