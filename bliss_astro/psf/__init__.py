# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Point-spread functions (PSF): model, variation over an image, estimation from stars.

`PSFModel` is the PSF at one place, an astropy model that photutils fits: two Gaussians
and a power law. `GaussianPSF`, sums of Gaussians, is the form of any PSF that renders,
fits and networks use. `VaryingPSF` is the base class of PSFs that vary from place to
place, such as `PolynomialPSF` and `PSFExPSF`. `estimate_psf` measures the PSF of an
image on its stars, `compare_psf` compares a stated one with them, and `read_psf` reads
any.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _estimate='compare_psf estimate_psf',
    _gaussians='GaussianPSF',
    _mixture='DEFAULT_SHAPE SHAPE_NAMES',
    _model='PSFModel',
    _read='PSFExPSF read_psf',
    _result='PSFEstimate',
    _varying='PolynomialPSF VaryingPSF',
)
