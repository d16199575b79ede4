# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posteriors over catalogues: tiles, chain, sampling and loss.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _factors='LogFluxFactor',
    _candidates='find_sources',
    _grid='TileCatalog TileGrid',
    _loss='npe_loss',
    _marginals='PLACE_RADIUS SourceMarginals',
    _shape_layers='shape_to_vector vector_to_shape',
    _source_parameters='PARAMETERS SourceColumn SourceParameter',
    _tile_posterior='TilePosterior',
)
