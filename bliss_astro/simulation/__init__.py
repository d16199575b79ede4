# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images with their truth, for a person and for training.

A simulation draws the sources (`_sources`) and the observing conditions (`_fields`),
exposes, aligns and stacks (`_camera`), adds artefacts (`_artifacts`) and errors of
what is stated (`_calibration`).
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _config='SimulationConfig',
    _images='SimulatedImages',
    _noise='BadPixelPrior coadd_noise',
    _simulator='CoaddSimulator',
    _stamps='GalaxyStream',
    _stream='SimulationStream',
)
