# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Readers for the imaging files of the Sloan Digital Sky Survey.

====================  =====================================  =================
file                  content                                reader
====================  =====================================  =================
``frame`` (DR8 on)    image in nmgy, sky taken off           `read_frame`
``fpC`` (to DR7)      image in counts, sky left in           `read_fpc`
``tsField`` (to DR7)  calibration of one field               `read_tsfield`
``psField``           PSF and image parameters of one field  `read_psfield`
``photoField``        parameters of the fields of a run      `read_photofield`
``photoObj``          catalogue of one field                 `read_photoobj`
``fpM``               masks of one field and band            `read_fpm`
====================  =====================================  =================

Every reader takes a path (plain, .gz or .bz2) or an open HDU list. Pixels are
0-based with centres on integers; SDSS's own row and column numbers are 0.5
larger. Bands are always in the order of `BANDS`.
"""

from ._bands import BANDS, PIXEL_SCALE, band_index
from ._camera import camera_dark_variance, camera_gain
from ._fields import PhotoField, TsField, read_photofield, read_tsfield
from ._images import CorrectedFrame, Frame, read_fpc, read_frame, read_image
from ._masks import BAD_PLANES, FieldMask, read_fpm
from ._objects import read_photoobj
from ._psfield import KLBasis, PsField, read_psfield

__all__ = [
    'BAD_PLANES',
    'BANDS',
    'PIXEL_SCALE',
    'CorrectedFrame',
    'FieldMask',
    'Frame',
    'KLBasis',
    'PhotoField',
    'PsField',
    'TsField',
    'band_index',
    'camera_dark_variance',
    'camera_gain',
    'read_fpc',
    'read_fpm',
    'read_frame',
    'read_image',
    'read_photofield',
    'read_photoobj',
    'read_psfield',
    'read_tsfield',
]
