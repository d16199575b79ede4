# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reconstructions to FITS files.
"""

import io

import numpy as np
from astropy.io import fits

from bliss_astro.catalog._formats import WRITERS
from bliss_astro.catalog._io import FORMATS

from .._atomic import atomic_write
from ..coadds._coadd_io import _wcs_header
from ..units import unit_text

__all__ = ['write_reconstruction']

_IMAGES = ('model', 'residual', 'chi', 'draws')


def write_reconstruction(reconstruction, path, *, overwrite, posterior):
    """
    Write a file; the work behind `Reconstruction.write`.

    Parameters
    ----------
    reconstruction : `~bliss_astro.checks.Reconstruction`
        What to write.

    path : str or `~os.PathLike`
        Where to.

    overwrite : bool
        Whether an existing file may be replaced.

    posterior : bool
        Whether to write the posterior of the catalogue.
    """
    if not str(path).lower().endswith(FORMATS['fits']):
        msg = f'path must end in one of {", ".join(FORMATS["fits"])}, got {path!s:.200}'
        raise ValueError(msg)
    catalog = reconstruction.catalog
    stream = io.BytesIO()
    WRITERS['fits'](catalog, stream, catalog.posterior if posterior else None)
    stream.seek(0)
    with (
        atomic_write(path, overwrite=overwrite) as temporary,
        fits.open(stream) as hdus,
    ):
        primary, *tables = list(hdus)
        whole = fits.HDUList([primary, *_image_hdus(reconstruction), *tables])
        whole.writeto(temporary, overwrite=True, checksum=True)


def _image_hdus(reconstruction):
    """
    Make an extension of each image.
    """
    images = {name: getattr(reconstruction, name) for name in _IMAGES}
    header = _wcs_header(reconstruction.exposure.wcs) or fits.Header()
    rows, columns = reconstruction.slices
    # Where the first pixel lies in the image that the rows' pixels belong to.
    header['LTV1'] = (-columns.start, 'pixel here less pixel of the catalogue')
    header['LTV2'] = (-rows.start, 'pixel here less pixel of the catalogue')
    for name, data in images.items():
        if len(data) == 0:
            continue
        hdu = fits.ImageHDU(np.asarray(data, dtype=np.float32), header, name=name)
        if reconstruction.unit is not None and name != 'chi':
            hdu.header['BUNIT'] = unit_text(reconstruction.unit)
        yield hdu
