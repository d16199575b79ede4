# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The learned galaxy model.
"""

from bliss_astro._deprecated import deprecated_names

from ._autoencoder import *
from ._config import *
from ._mixture import *
from ._posterior import *
from ._pretrained import *
from ._report import *
from ._train import *

__getattr__ = deprecated_names(__name__)
