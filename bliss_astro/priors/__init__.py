# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What may be on the sky (sources) and how it is seen (fields).
"""

from .._deprecated import deprecated_names
from ._catalog_columns import *
from ._catalog_fit import *
from ._catalogs import *
from ._field_gaussian import *
from ._field_prior import *
from ._field_tables import *
from ._fields import *
from ._galaxies import *
from ._populations import *
from ._stars import *

__getattr__ = deprecated_names(__name__)
