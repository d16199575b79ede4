# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The catalogue that a user holds: a table with errors, flags and a posterior.
"""

from ._catalog import ProbabilisticCatalog
from ._check import CatalogCheck, CheckFinding
from ._display import CatalogColumns
from ._flags import CatalogFlag, decode_flags
from ._posterior import CatalogPosterior
from ._reconstruct import reconstruct
from ._reconstruction import Reconstruction, SourceImage

__all__ = [
    'CatalogCheck',
    'CatalogColumns',
    'CatalogFlag',
    'CatalogPosterior',
    'CheckFinding',
    'ProbabilisticCatalog',
    'Reconstruction',
    'SourceImage',
    'decode_flags',
    'reconstruct',
]
