# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxy model: a variational autoencoder of galaxy profiles.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _autoencoder='GalaxyAutoencoder',
    _mixture='GalaxyMixture',
    _networks='GalaxyLatentPosterior GalaxyModelConfig',
)
