# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a real camera records: an image with all that a measurement needs.
"""

from ._camera import BadPixelPrior, add_noise
from ._exposure import Exposure
from ._noise import NoiseMeasurement, measure_noise
from ._read import ExposureRead

__all__ = [
    'BadPixelPrior',
    'Exposure',
    'ExposureRead',
    'NoiseMeasurement',
    'add_noise',
    'measure_noise',
]
