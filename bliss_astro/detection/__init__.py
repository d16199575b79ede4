# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection of stars and galaxies: an image in, a probabilistic catalogue out.
"""

from bliss_astro._deprecated import deprecated_names

from ._detect import BlissFinder, detect_sources
from ._facts import ImageFacts

__all__ = ['BlissFinder', 'ImageFacts', 'detect_sources']

__getattr__ = deprecated_names(__name__)
