# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images with their truth, for a person and for training.

A simulation draws the sources and the observing conditions (`_sources`), exposes,
aligns and stacks (`_camera`) in each of the bands (`_bands`), and adds artefacts
(`_nuisances`) and errors of what is stated (`_stated`).
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _nuisances='BadPixelPrior',
    _bands='SimulatedBands',
    _config='SimulationConfig',
    _images='SimulatedImages',
    _simulator='CoaddSimulator',
    _stream='SimulationStream',
)
