# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images with their truth, for a person and for training.

A simulation draws the sources (`_sources`) and the observing conditions (`_fields`),
exposes, aligns and stacks (`_camera`), adds artefacts (`_artifacts`) and errors of
what is stated (`_calibration`).
"""

from ._config import SimulationConfig
from ._images import SimulatedImages
from ._noise import BadPixelPrior, coadd_noise
from ._simulator import CoaddSimulator
from ._stamps import GalaxyStream
from ._stream import SimulationStream

__all__ = [
    'BadPixelPrior',
    'CoaddSimulator',
    'GalaxyStream',
    'SimulatedImages',
    'SimulationConfig',
    'SimulationStream',
    'coadd_noise',
]
