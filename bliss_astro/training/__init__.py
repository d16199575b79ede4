# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training of encoders and of the galaxy model, on simulations.

One loop with checkpoints and a log, configurations as TOML files, and recipes:
the configuration of an encoder for the images of a camera.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _configuration='TrainingConfig load_config',
    _encoder='train_encoder',
    _galaxies='reconstruction_report train_galaxies',
    _recipe='Recipe make_recipe',
)
