# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From an image to a posterior: inputs, network, training, pretrained weights.
"""

from ._configuration import *
from ._domain import *
from ._inputs import *
from ._network import *
from ._pretrained import *
from ._scene_batch import *
from ._scene_stream import *
from ._stream import *
from ._train import *
