# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxy model: a variational autoencoder of galaxy profiles.
"""

from bliss_astro._deprecated import deprecated_names

from ._autoencoder import GalaxyAutoencoder, available_galaxy_models
from ._mixture import GalaxyMixture
from ._networks import GalaxyModelConfig
from ._posterior import GalaxyLatentPosterior

__all__ = [
    'GalaxyAutoencoder',
    'GalaxyLatentPosterior',
    'GalaxyMixture',
    'GalaxyModelConfig',
    'available_galaxy_models',
]

__getattr__ = deprecated_names(__name__)
