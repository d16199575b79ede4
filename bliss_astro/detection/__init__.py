# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection of stars and galaxies: an image in, a probabilistic catalogue out.
"""

from bliss_astro._deprecated import deprecated_names

from ._detect import detect_sources
from ._facts import ImageFacts
from ._finder import BlissFinder
from ._recipe import Coverage, Recipe, make_recipe
from ._recipe_settings import RecipeSettings
from ._recipe_time import TrainingTime

__all__ = [
    'BlissFinder',
    'Coverage',
    'ImageFacts',
    'Recipe',
    'RecipeSettings',
    'TrainingTime',
    'detect_sources',
    'make_recipe',
]

__getattr__ = deprecated_names(__name__)
