# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures: images with sky, noise, mask, PSF and WCS, and estimates of these.
"""

from bliss_astro._lazy import lazy_exports

# Adds `Exposure.read`.
from . import _read as _read

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _bands='BANDS Band',
    _noise='NoiseMeasurement',
    # The module that gives Exposure its method read.
    _read='Exposure ExposureRead',
    _set='ExposureSet',
    _sky='measure_noise',
)
