# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a perfect camera sees: stars and galaxies without noise.

`GalSimStarRenderer` and `GalSimGalaxyRenderer` are the references,
`TorchStarRenderer` and `TorchGalaxyRenderer` their fast twins; twins have the
same ``render`` method, and tests hold them together. Training draws whole
batches with `render_stars` and `render_galaxies`.
"""

from ._accuracy import *
from ._galaxies import *
from ._galaxy_checks import *
from ._galsim import *
from ._galsim_galaxies import *
from ._moments import *
from ._torch import *
