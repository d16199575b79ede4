# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The command line as ``python -m bliss_astro``.
"""

import sys

from .cli import main

if __name__ == '__main__':
    sys.exit(main())
