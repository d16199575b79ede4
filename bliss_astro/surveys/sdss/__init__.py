# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sloan Digital Sky Survey: readers of its files, its exposures, PSFs and fields.

====================  =====================================  ==========================
file                  content                                reader
====================  =====================================  ==========================
``frame`` (DR8 on)    image in nmgy, sky taken off           `Frame.read`
``fpC`` (to DR7)      image in counts, sky left in           `CorrectedFrame.read`
``tsField`` (to DR7)  calibration of one field               `TsField.read`
``psField``           PSF and image parameters of one field  `PsField.read`
``photoField``        parameters of the fields of a run      `PhotoField.read`
``photoObj``          catalogue of one field                 `read_photoobj`
``fpM``               masks of one field and band            `FieldMask.read`
====================  =====================================  ==========================

`read_exposure` makes an `~bliss_astro.exposures.Exposure` of them, `read_field` one of
each band, and `SDSSPSF` the PSF of a field; `find_fields` and `open_field` are for
runs over many fields. Every reader takes a path (plain, .gz or
.bz2) or an open HDU list. Pixels
are 0-based with centres on integers; SDSS's own row and column numbers are 0.5 larger.
Bands are always in the order u, g, r, i, z.
"""

from bliss_astro._lazy import deprecated_names

from ._camera import FieldMask
from ._catalogs import field_prior as field_prior
from ._catalogs import read_photoobj, stripe82_columns
from ._exposure import read_exposure
from ._field import find_fields, open_field, read_field
from ._fields import PhotoField, PsField, TsField
from ._images import CorrectedFrame, Frame
from ._psf import SDSSPSF
from ._psf import psf_model as psf_model

__all__ = [
    'SDSSPSF',
    'CorrectedFrame',
    'FieldMask',
    'Frame',
    'PhotoField',
    'PsField',
    'TsField',
    'find_fields',
    'open_field',
    'read_exposure',
    'read_field',
    'read_photoobj',
    'stripe82_columns',
]

__getattr__ = deprecated_names(__name__)
