# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tiles, factors, sampling and loss: the bridge between tables and tensors.
"""

from ._catalog_head import *
from ._factors import *
from ._find_sources import *
from ._grid import *
from ._head import *
from ._loss import *
from ._marginals import *
from ._mixture_factor import *
from ._shapes import *
from ._source_encoders import *
from ._source_sequence import *
from ._tile_posterior import *
