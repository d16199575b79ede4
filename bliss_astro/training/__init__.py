# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training of encoders and of the galaxy model, on simulations.

One loop with checkpoints and a log, configurations as TOML files, and recipes:
the configuration of an encoder for the images of a camera.
"""

from ._configuration import (
    GalaxySimulationConfig,
    GalaxyTrainingConfig,
    TrainingConfig,
    load_config,
)
from ._encoder import train_encoder
from ._galaxies import train_galaxies
from ._galaxy_report import reconstruction_report
from ._recipe import Recipe, make_recipe

__all__ = [
    'GalaxySimulationConfig',
    'GalaxyTrainingConfig',
    'Recipe',
    'TrainingConfig',
    'load_config',
    'make_recipe',
    'reconstruction_report',
    'train_encoder',
    'train_galaxies',
]
