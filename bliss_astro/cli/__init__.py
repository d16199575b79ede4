# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Command line: ``bliss-astro demo, detect, simulate, evaluate, train, encoders``.

Each command is a thin layer over public functions of the package. Only the
results go to the standard output, everything else to the standard error.
"""

from bliss_astro._deprecated import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _main='main',
)
