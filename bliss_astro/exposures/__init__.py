# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a real camera records: an image with all that a measurement needs.
"""

from ._exposure import Exposure
from ._noise import BadPixelPrior, add_noise

__all__ = ['BadPixelPrior', 'Exposure', 'add_noise']
