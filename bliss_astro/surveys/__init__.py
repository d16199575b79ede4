# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What the files of a survey say.

Plain readers: FITS in, arrays and records out, in the survey's own numbers.
Objects that are built from them (`~bliss_astro.exposures.Exposure`,
`~bliss_astro.psf.PSFModel`) have constructors of their own, such as
`Exposure.from_sdss <bliss_astro.exposures.Exposure.from_sdss>`.

`bliss_astro.surveys.sdss` is the first of them; its names are found here too.
"""

from .sdss import *
from .sdss import __all__ as _sdss_names

__all__ = list(_sdss_names)
