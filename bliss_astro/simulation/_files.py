# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images in FITS files: pixels, cards, an extension MASK and a table TRUTH.

The cards hold all numbers that describe the image, so that nothing is estimated when
`Exposure.read` recognises such a file.
"""

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable

from bliss_astro import __version__
from bliss_astro._atomic import atomic_write
from bliss_astro._fits import CREATOR, file_name
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._read import change_own_file, register_fits_format
from bliss_astro.psf import PSFModel

# Card of the version of the file format.
_FORMAT, _VERSION = 'BLISSIMG', 1
# Cards by attribute of an exposure; files of earlier versions lack the latter.
_NUMBERS = {
    'background': ('BKGLEVEL', 'sky that is in the image'),
    'bkg_error': ('BKGERROR', 'noise of a pixel of sky'),
    'effective_gain': ('EFFGAIN', 'electrons per unit'),
}
_ERRORS = {
    'psf_error': ('PSFERR', 'relative psf_error'),
    'background_error': ('BKGRELER', 'relative background_error'),
}
_META = {
    'n_exposures': 'NEXPOSE',
    'seed': 'SEED',
    'density': 'DENSITY',
    'flux_min': 'FLUXMIN',
}
_CORRELATION = ('NOISECX', 'NOISECY')
_PSF = ('PSFS1', 'PSFS2', 'PSFB', 'PSFSP', 'PSFP0', 'PSFBETA', 'PSFE1', 'PSFE2')


def is_simulated(hdus):
    """Whether an open HDU list is a file of `write_simulated`."""
    return _FORMAT in hdus[0].header


def write_simulated(exposure, truth, path, *, overwrite):
    """Write an exposure and the table of its sources, whole or not at all."""
    header = fits.Header()
    header[_FORMAT] = (_VERSION, 'image simulated by bliss-astro simulate')
    header['CREATOR'] = f'{CREATOR} {__version__}'
    header['BUNIT'] = exposure.unit.to_string()
    for name, (card, comment) in (_NUMBERS | _ERRORS).items():
        header[card] = (float(getattr(exposure, name)), comment)
    for card, value in zip(_CORRELATION, exposure.noise_correlation, strict=True):
        header[card] = (float(value), 'noise correlation of neighbours')
    for card, value in zip(_PSF, exposure.psf.shape_vector, strict=True):
        header[card] = float(value)
    header['PSFRAD'] = (exposure.psf.normalization_radius, 'flux is within, pixels')
    for name, card in _META.items():
        if exposure.meta.get(name) is not None:
            header[card] = exposure.meta[name]
    units = {'x_centroid': 'pix', 'y_centroid': 'pix', 'mag': 'mag'}
    units['flux'] = header['BUNIT']
    columns = [
        fits.Column(name, 'D', unit=units[name], array=np.asarray(truth[name]))
        for name in ('x_centroid', 'y_centroid', 'flux', 'mag')
    ]
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(exposure.data.astype(np.float32), header),
            fits.ImageHDU(exposure.mask.astype(np.uint8), name='MASK'),
            fits.BinTableHDU.from_columns(columns, name='TRUTH'),
        ]
    )
    with atomic_write(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary, overwrite=True, checksum=True)


def read_simulated(hdus):
    """Read an open file of `write_simulated`: the exposure and its sources."""
    header = hdus[0].header
    try:
        known = {name: header[card] for name, (card, _) in _NUMBERS.items()}
        errors = {name: header.get(card) for name, (card, _) in _ERRORS.items()}
        known |= {name: value for name, value in errors.items() if value is not None}
        exposure = Exposure(
            np.asarray(hdus[0].data, dtype=float),
            **known,
            unit=u.Unit(header['BUNIT']),
            mask=np.asarray(hdus['MASK'].data, dtype=bool),
            psf=PSFModel.from_shape(
                [header[card] for card in _PSF], normalization_radius=header['PSFRAD']
            ),
            noise_correlation=[header[card] for card in _CORRELATION],
            meta={name: header.get(_META[name]) for name in ('n_exposures', 'seed')},
        )
        rows = hdus['TRUTH'].data
        truth = QTable({name: np.asarray(rows[name], float) for name in rows.names})
        truth['flux'] = truth['flux'] * exposure.unit
        truth['mag'] = truth['mag'] * u.mag
    except KeyError as error:
        msg = f'{file_name(hdus)} is a simulated image, but incomplete: {error}'
        raise ValueError(msg) from error
    return exposure, truth


def _read_exposure(hdus, given):
    exposure, _ = read_simulated(hdus)
    return change_own_file(exposure, hdus, given, 'a simulated image')


register_fits_format('bliss_astro.simulated', _read_exposure, is_simulated)
