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

`read_exposure` makes an `~bliss_astro.exposures.Exposure` of them and `SDSSPSF` the PSF
of a field. Every reader takes a path (plain, .gz or .bz2) or an open HDU list. Pixels
are 0-based with centres on integers; SDSS's own row and column numbers are 0.5 larger.
Bands are always in the order of `BANDS`.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _camera='BANDS camera_dark_variance camera_gain',
    _catalogs='read_photoobj stripe82_columns',
    _exposure='read_exposure',
    _fields='PhotoField TsField',
    _images='CorrectedFrame Frame',
    _masks='BAD_PLANES FieldMask',
    _psf='SDSSPSF',
    _psfield='PsField',
)
