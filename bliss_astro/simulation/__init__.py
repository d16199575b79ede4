# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images with their truth, for a person and for training.
"""

from ._images import SimulatedImages
from ._scene_stream import SceneStream
from ._simulator import CoaddSimulator
from ._stamps import GalaxyBatch, GalaxyStream
from ._stream import SimulationConfig, SimulationStream

__all__ = [
    'CoaddSimulator',
    'GalaxyBatch',
    'GalaxyStream',
    'SceneStream',
    'SimulatedImages',
    'SimulationConfig',
    'SimulationStream',
]
