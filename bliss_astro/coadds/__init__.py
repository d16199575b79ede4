# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds of real exposures: align, weight, clip, stack, with the noise that results.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _align='align_exposures',
    _align_bands='align_bands',
    _coadd='Coadd',
    _combine='coadd_exposures',
    _psf='EffectivePSF',
)
