# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
DESI Legacy Imaging Surveys: exposures of single detectors, and coadds of bricks.

Images of DECam, 90prime and Mosaic as the surveys keep them: of the Community Pipeline
(``ooi`` or ``oki``, with weights ``oow`` and codes of bad pixels ``ood``), or of BASS
(``.fits``, with ``.wht.fits``); the table ``survey-ccds`` of their zero points, models
of PSFEx, and splines of the sky. Coadds of bricks, with their maps.
"""

from ._coadd import read_coadd
from ._exposure import read_exposure
from ._fields import find_fields, open_field

__all__ = ['find_fields', 'open_field', 'read_coadd', 'read_exposure']
