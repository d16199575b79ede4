# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection of stars and galaxies: an image in, a probabilistic catalogue out.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__, _detect='detect_sources', _finder='BlissFinder', _many='detect_many'
)
