# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxy model: a variational autoencoder of galaxy profiles.
"""

from bliss_astro._deprecated import deprecated_names

from ._autoencoder import GalaxyAutoencoder
from ._config import GalaxyModelConfig, GalaxySimulationConfig
from ._mixture import GalaxyMixture
from ._posterior import GalaxyLatentPosterior
from ._pretrained import available_galaxy_models
from ._report import ReconstructionReport, reconstruction_report

__all__ = [
    'GalaxyAutoencoder',
    'GalaxyLatentPosterior',
    'GalaxyMixture',
    'GalaxyModelConfig',
    'GalaxySimulationConfig',
    'ReconstructionReport',
    'available_galaxy_models',
    'reconstruction_report',
]

__getattr__ = deprecated_names(__name__)
