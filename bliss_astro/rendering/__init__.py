# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a perfect camera sees: star fields without noise.

`GalSimStarRenderer` is the reference, `TorchStarRenderer` its fast twin; both
have the same ``render(psf, x, y, flux, shape)``, and a test holds them together.
Training draws whole batches with `render_stars`.
"""

from ._accuracy import *
from ._galaxies import *
from ._galaxy_checks import *
from ._galsim import *
from ._galsim_galaxies import *
from ._torch import *
