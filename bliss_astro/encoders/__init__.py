# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From an image to a posterior: inputs, network, training, pretrained weights.
"""

from bliss_astro._deprecated import deprecated_names

from ._configuration import *
from ._domain import *
from ._inputs import *
from ._network import *
from ._pretrained import *
from ._train import *

__getattr__ = deprecated_names(__name__)
