# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The point-spread function: two Gaussians and a power law.

`PSFModel` is the PSF at one place, an astropy model that photutils fits;
`VaryingPSF` and `PSFExPSF` vary from place to place. `estimate_psf`
measures the PSF of an image on its stars, `compare_psf` holds a stated one against
them, and `read_psf` reads any.
"""

from .._deprecated import deprecated_names
from ._asymmetry import *
from ._compare import *
from ._estimate import *
from ._fit import *
from ._mixture import *
from ._model import *
from ._psfex import *
from ._read import *
from ._result import *
from ._varying import *

__getattr__ = deprecated_names(__name__)
