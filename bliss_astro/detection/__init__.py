# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection of stars and galaxies: an image in, a probabilistic catalogue out.
"""

from bliss_astro._deprecated import deprecated_names

from ._detect import detect_sources
from ._facts import ImageFacts
from ._finder import BlissFinder
from ._recipe import *
from ._recipe import __all__ as _recipe
from ._recipe_settings import *
from ._recipe_settings import __all__ as _recipe_settings
from ._recipe_time import *
from ._recipe_time import __all__ as _recipe_time

__all__ = ['BlissFinder', 'ImageFacts', 'detect_sources']
__all__ += [*_recipe, *_recipe_settings, *_recipe_time]

__getattr__ = deprecated_names(__name__)
