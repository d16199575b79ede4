# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures: images with sky, noise, mask, PSF and WCS, and estimates of these.
"""

from bliss_astro._deprecated import deprecated_names

from ._exposure import Exposure
from ._noise import NoiseMeasurement, measure_noise
from ._read import ExposureRead as ExposureRead

__all__ = [
    'Exposure',
    'NoiseMeasurement',
    'measure_noise',
]

__getattr__ = deprecated_names(__name__)
