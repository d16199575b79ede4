# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images in FITS files: the cards that say all that is known of them.
"""

import astropy.units as u
import numpy as np

from .._fits import file_name

__all__ = ['ERRORS', 'FORMAT', 'PSF_KEYS', 'SCALARS', 'is_simulated', 'read_simulated']

FORMAT = 'BLISSIMG'
SCALARS = {
    'BKGLEVEL': ('background', 'sky that is in the image'),
    'BKGERROR': ('bkg_error', 'noise of a pixel of sky'),
    'EFFGAIN': ('effective_gain', 'electrons per unit'),
}
ERRORS = {'PSFERR': 'psf_error', 'BKGRELER': 'background_error'}
PSF_KEYS = ('S1', 'S2', 'B', 'SP', 'P0', 'BETA', 'E1', 'E2')


def is_simulated(hdus):
    """
    Tell whether an HDU list is a file of ``bliss-astro simulate``.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.

    Returns
    -------
    is_simulated : bool
        Whether it is.
    """
    return FORMAT in hdus[0].header


def read_simulated(hdus):
    """
    Read the image of a file of ``bliss-astro simulate``.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The image with all that was known of it.

    Raises
    ------
    ValueError
        If a part is missing.
    """
    from ..psf import PSFModel
    from ._exposure import Exposure

    header = hdus[0].header
    try:
        known = {name: header[key] for key, (name, _) in SCALARS.items()}
        # Files of earlier versions do not have them.
        known |= {name: header[key] for key, name in ERRORS.items() if key in header}
        return Exposure(
            np.asarray(hdus[0].data, dtype=float),
            **known,
            unit=u.Unit(header['BUNIT']),
            mask=np.asarray(hdus['MASK'].data, dtype=bool),
            psf=PSFModel.from_shape(
                [header[f'PSF{key}'] for key in PSF_KEYS],
                normalization_radius=header['PSFRAD'],
            ),
            noise_correlation=(header['NOISECX'], header['NOISECY']),
            meta={'n_exposures': header.get('NEXPOSE'), 'seed': header.get('SEED')},
        )
    except KeyError as error:
        msg = f'{file_name(hdus)} is a simulated image, but incomplete: {error}'
        raise ValueError(msg) from error
