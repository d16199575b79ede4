# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What may be on the sky (sources) and how it is seen (fields).
"""

from ._fields import *
from ._stars import *
