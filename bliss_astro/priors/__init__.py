# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Priors of sources (stars, galaxies) and of observing conditions (fields).
"""

from bliss_astro._deprecated import deprecated_names

from ._catalog_fit import fit_catalog_prior
from ._catalogs import CatalogBatch, CatalogPrior
from ._field_gaussian import GaussianFields
from ._field_prior import FieldBatch, FieldPrior
from ._field_tables import FieldTable
from ._fields import SeeingPrior, TelescopePrior
from ._galaxies import GALAXY_SHAPE_NAMES, GalaxyPrior, GammaShapes, MagnitudeShapes
from ._populations import MagnitudeCounts, ParetoCounts
from ._stars import StarPrior

__all__ = [
    'GALAXY_SHAPE_NAMES',
    'CatalogBatch',
    'CatalogPrior',
    'FieldBatch',
    'FieldPrior',
    'FieldTable',
    'GalaxyPrior',
    'GammaShapes',
    'GaussianFields',
    'MagnitudeCounts',
    'MagnitudeShapes',
    'ParetoCounts',
    'SeeingPrior',
    'StarPrior',
    'TelescopePrior',
    'fit_catalog_prior',
]

__getattr__ = deprecated_names(__name__)
