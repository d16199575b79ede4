# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Surveys: plug-ins that read the files of a survey, one folder each.

`bliss_astro.surveys.sdss` is that of the Sloan Digital Sky Survey, ``legacysurvey`` of
the DESI Legacy Imaging Surveys, ``hsc`` of Hyper Suprime-Cam and Rubin Observatory,
``jwst`` and ``hst`` of drizzled images of the space telescopes. A plug-in stands above
the core and registers its formats with `Exposure.read
<bliss_astro.exposures.Exposure>`, `~bliss_astro.psf.read_psf` and
`~bliss_astro.priors.CatalogPrior.fit` when it is imported.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
