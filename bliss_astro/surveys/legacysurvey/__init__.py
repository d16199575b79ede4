# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
DESI Legacy Imaging Surveys: exposures of single detectors, calibrated by their table.

Images of DECam, 90prime and Mosaic as the surveys keep them: of the Community Pipeline
(``ooi`` or ``oki``, with weights ``oow`` and codes of bad pixels ``ood``), or of BASS
(``.fits``, with ``.wht.fits``); the table ``survey-ccds`` of their zero points, and
models of PSFEx.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, _exposure='read_exposure')
