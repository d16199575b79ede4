# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Dither, align, weight, stack.
"""

from ._align import *
from ._simulator import *
