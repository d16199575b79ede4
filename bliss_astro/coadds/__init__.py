# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Dither, align, weight, stack.
"""

# Their first home, by which they may still be known.
from ..exposures import NoiseMeasurement as NoiseMeasurement
from ..exposures import measure_noise as measure_noise
from ._align import *
from ._aligned import *
from ._coadd import *
from ._coadd_psf import *
from ._combine import *
from ._resample import *
from ._resampled_psf import *
from ._simulator import *
