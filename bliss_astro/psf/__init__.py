# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The point-spread function: two Gaussians and a power law.

`PSFModel` is the PSF at one place, an astropy model that photutils fits;
`SDSSPSF` is the PSF of a whole SDSS field, which varies from place to place.
"""

from ._asymmetry import *
from ._compare import *
from ._estimate import *
from ._fit import *
from ._mixture import *
from ._model import *
from ._result import *
from ._sdss import *
from ._varying import *
