# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The photutils-like door: an image in, a probabilistic catalogue out.
"""

from bliss_astro._deprecated import deprecated_names

from ._completeness import *
from ._detect import *
from ._facts import *
from ._finder import *

__getattr__ = deprecated_names(__name__)
