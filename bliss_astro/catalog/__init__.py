# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues of sources: tables with probabilities, errors, flags and a posterior.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _catalog='ProbabilisticCatalog',
    _display='CatalogColumns',
    _posterior='CatalogPosterior',
)
