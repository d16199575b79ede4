# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Dither, align, weight, stack.
"""

# Their first home, by which they may still be known.
from bliss_astro._deprecated import deprecated_names

from ..exposures import NoiseMeasurement as NoiseMeasurement
from ..exposures import measure_noise as measure_noise
from ._aligned import *
from ._coadd import *
from ._coadd_psf import *
from ._combine import *
from ._resample import *
from ._resampled_psf import *

__getattr__ = deprecated_names(__name__)
