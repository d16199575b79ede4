# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds of real exposures: align, weight, clip, stack, with the noise that results.
"""

from bliss_astro._deprecated import deprecated_names

from ._align import align_exposures, iter_aligned
from ._aligned import AlignedExposure, AlignedPSF
from ._coadd import Coadd
from ._combine import coadd_exposures
from ._psf import EffectivePSF

__all__ = [
    'AlignedExposure',
    'AlignedPSF',
    'Coadd',
    'EffectivePSF',
    'align_exposures',
    'coadd_exposures',
    'iter_aligned',
]

__getattr__ = deprecated_names(__name__)
