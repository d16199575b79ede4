# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures: images with sky, noise, mask, PSF and WCS, and estimates of these.
"""

from ._camera import BadPixelPrior, add_noise
from ._exposure import Exposure
from ._noise import NoiseMeasurement, measure_noise
from ._read import ExposureRead as ExposureRead

__all__ = [
    'BadPixelPrior',
    'Exposure',
    'NoiseMeasurement',
    'add_noise',
    'measure_noise',
]
