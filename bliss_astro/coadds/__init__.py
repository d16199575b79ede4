# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Dither, align, weight, stack.
"""

from ._align import *
from ._aligned import *
from ._coadd import *
from ._coadd_psf import *
from ._combine import *
from ._measured_noise import *
from ._resample import *
from ._resampled_psf import *
from ._simulator import *
