# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posteriors over catalogues: tiles, factors, chain, sampling and loss.
"""

from bliss_astro._deprecated import deprecated_names

from ._factors import CountFactor, LogFluxFactor, PositionFactor, TypeFactor
from ._find_sources import find_sources
from ._grid import TileCatalog, TileGrid
from ._loss import npe_loss, sequence_loss
from ._marginals import PLACE_RADIUS, SourceMarginals
from ._shape_layers import MixtureFactor, shape_to_vector, vector_to_shape
from ._tile_posterior import TilePosterior

__all__ = [
    'PLACE_RADIUS',
    'CountFactor',
    'LogFluxFactor',
    'MixtureFactor',
    'PositionFactor',
    'SourceMarginals',
    'TileCatalog',
    'TileGrid',
    'TilePosterior',
    'TypeFactor',
    'find_sources',
    'npe_loss',
    'sequence_loss',
    'shape_to_vector',
    'vector_to_shape',
]

__getattr__ = deprecated_names(__name__)
