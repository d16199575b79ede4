# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of catalogues, probability maps and metrics.

Every function draws on the ``ax`` that it is given, or on a new figure, and returns the
axes; none shows or saves anything or changes a setting of matplotlib. The colours are
those of Okabe and Ito, which people with colour-vision deficiencies can tell apart.
"""

from ._blends import *
from ._calibration import *
from ._check import *
from ._images import *
from ._metrics import *
from ._reconstruction import *
