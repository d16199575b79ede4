# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues of sources: tables with probabilities, errors, flags and a posterior.
"""

from bliss_astro._deprecated import deprecated_names

from ._catalog import ProbabilisticCatalog
from ._display import CatalogColumns
from ._posterior import CatalogPosterior

__all__ = [
    'CatalogColumns',
    'CatalogPosterior',
    'ProbabilisticCatalog',
]

__getattr__ = deprecated_names(__name__)
