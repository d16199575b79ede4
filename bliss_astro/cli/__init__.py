# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Command line: ``bliss-astro demo, detect, simulate, evaluate, train, encoders``.

Each command is a thin layer over public functions of the package. Only the
results go to the standard output, everything else to the standard error.
"""

from ._main import main

__all__ = ['main']
