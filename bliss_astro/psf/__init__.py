# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Point-spread functions (PSF): model, variation over an image, estimation from stars.

`PSFModel` is the PSF at one place, an astropy model that photutils fits: two Gaussians
and a power law. `VaryingPSF` is the base class of PSFs that vary from place to place,
such as `PolynomialPSF` and `PSFExPSF`. `estimate_psf` measures the PSF of an image on
its stars, `compare_psf` compares a stated one with them, and `read_psf` reads any.
"""

from .._deprecated import deprecated_names
from ._compare import PSFComparison, compare_psf
from ._estimate import estimate_psf
from ._fit import fit_psf
from ._mixture import DEFAULT_SHAPE, SHAPE_NAMES
from ._model import PSFModel
from ._psfex import PSFExPSF
from ._read import read_psf
from ._result import PSFEstimate
from ._varying import PolynomialPSF, VaryingPSF

__all__ = [
    'DEFAULT_SHAPE',
    'SHAPE_NAMES',
    'PSFComparison',
    'PSFEstimate',
    'PSFExPSF',
    'PSFModel',
    'PolynomialPSF',
    'VaryingPSF',
    'compare_psf',
    'estimate_psf',
    'fit_psf',
    'read_psf',
]

__getattr__ = deprecated_names(__name__)
