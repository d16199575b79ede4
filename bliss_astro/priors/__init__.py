# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Priors of sources (stars, galaxies) and of observing conditions (fields).
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _band_fields='BandFields band_fields',
    _catalog_prior='CatalogPrior',
    _colours='ColourMixture ColourPrior',
    _field_prior='FieldPrior SeeingPrior TelescopePrior',
    _fields='FieldTable GaussianFields',
    _galaxies='GalaxyPrior GammaShapes MagnitudeShapes',
    _counts='MagnitudeCounts ParetoCounts StarPrior',
    _numbers='GALAXY_SHAPE_NAMES',
)
