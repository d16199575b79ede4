# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reader of PSFs of every kind: files, widths, images, models.
"""

import os

import astropy.units as u
import numpy as np
from astropy.io.fits import HDUList
from astropy.modeling import Model

from .._fits import file_name, list_hdus, open_fits
from .._plugins import load_surveys
from ._inputs import check_psf_pixels
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._model import PSFModel
from ._psfex import psfex_table, read_psfex
from ._varying import varying_psf

__all__ = ['read_psf']

# Cards that state the samples per pixel of an image of a PSF, the first one counts:
# STPSF (WebbPSF) and TinyTim-like files.
_OVERSAMPLING = ('DET_SAMP', 'OVERSAMP', 'OVERSAMPLE', 'OSAMP')
# More samples than that along a pixel are a mistake.
_MAX_OVERSAMPLING = 100


def read_psf(
    psf,
    *,
    oversampling=None,
    pixel_response=None,
    band=None,
    extension=None,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
):
    """
    Read or make a PSF of a file, a width, an image or a model.

    Parameters
    ----------
    psf : str, path, `~astropy.io.fits.HDUList`, number, array, model or PSF
        A FITS file: a model of PSFEx, a ``psField`` of SDSS, or an image of the PSF.
        A number or length in pixels: a FWHM, see `PSFModel.from_fwhm`. A 2D array:
        an image of the PSF. A model of photutils (``ImagePSF``, ``GriddedPSFModel``
        and the like) or astropy, or a PSF of this package, is returned as it is.

    oversampling : int, optional
        Samples per pixel of an image; of a file, by default that of its cards
        ``DET_SAMP`` or ``OVERSAMP``, of an array 1.

    pixel_response : bool, optional
        Whether the samples of an oversampled image contain the integration over a
        pixel already, as effective PSFs of photutils do. By default they do, but
        not those of a file that states its oversampling in the header, as
        those of STPSF, which are optical PSFs; they are averaged over the pixel.

    band : {'u', 'g', 'r', 'i', 'z'}, optional
        The band of a ``psField``.

    extension : int or str, optional
        The extension of an image; by default the first one that holds one.

    normalization_radius : float, optional
        Radius in pixels within which a PSF that is made here has unit flux.

    Returns
    -------
    psf : object
        A ``psf`` of `~bliss_astro.exposures.Exposure`: a `PSFModel`,
        `PSFExPSF`, `~bliss_astro.surveys.sdss.SDSSPSF`, model of photutils or
        astropy, or an image.

    Raises
    ------
    OSError
        If the file is absent, damaged or no FITS file.

    TypeError, ValueError
        If it describes no PSF; the message lists what can be given.

    Examples
    --------
    >>> from bliss_astro.psf import read_psf
    >>> round(read_psf(3.2).fwhm, 3)
    3.2
    """
    if isinstance(psf, u.Quantity) and psf.unit.is_equivalent(u.pix) and not psf.ndim:
        psf = psf.to_value(u.pix)
    if np.ndim(psf) == 0 and isinstance(psf, (int, float, np.number)):
        return PSFModel.from_fwhm(float(psf), normalization_radius=normalization_radius)
    if isinstance(psf, Model) or varying_psf(psf) is not None:
        if oversampling is not None:
            msg = 'oversampling belongs to an image of a PSF; a model has its own'
            raise ValueError(msg)
        return psf
    if isinstance(psf, str | os.PathLike | HDUList):
        name = file_name(psf)
        try:
            with open_fits(psf, 'psf') as hdus:
                if extension is None:
                    found = _of_table(hdus, name, band, normalization_radius)
                    if found is not None:
                        return found
                hdu = _image_hdu(hdus, name, extension)
        except (TypeError, KeyError, IndexError) as error:
            msg = f'psf: {name} is no sound file of a PSF: {error}'
            raise ValueError(msg) from error
        stated = next((hdu.header[k] for k in _OVERSAMPLING if k in hdu.header), None)
        if pixel_response is None:
            pixel_response = oversampling is not None or stated is None
        data = np.squeeze(np.array(hdu.data, float))
        if oversampling is None:
            oversampling = stated
        return _of_image(data, oversampling, pixel_response, name)
    if isinstance(psf, (np.ndarray, list, tuple, u.Quantity)):
        response = True if pixel_response is None else pixel_response
        return _of_image(psf, oversampling, response, 'psf')
    msg = (
        'psf must be a FITS file (of PSFEx, a psField or an image), a FWHM in pixels, '
        f'an image, or a model of photutils or astropy; got {type(psf).__name__}'
    )
    raise TypeError(msg)


def _is_psfex(hdus):
    return psfex_table(hdus) is not None


def _read_psfex(hdus, name, *, band, normalization_radius):
    table = psfex_table(hdus)
    return read_psfex(table, name, normalization_radius=normalization_radius)


# Formats of FITS files that are no image: whether an open file is one, and the function
# that makes a PSF of it. Plug-ins of surveys add theirs.
READERS = [(_is_psfex, _read_psfex)]


def _of_table(hdus, name, band, radius):
    """Make a PSF of a file of a known format, or return `None`."""
    load_surveys()
    for accepts, read in READERS:
        if accepts(hdus):
            return read(hdus, name, band=band, normalization_radius=radius)
    return None


def _image_hdu(hdus, name, extension):
    """Choose the HDU of an image of a PSF."""

    def is_image(hdu):
        return hdu.is_image and hdu.data is not None

    if extension is None:
        planes = (h for h in hdus if is_image(h) and np.squeeze(h.data).ndim == 2)
        found = next(planes, None)
        problem = 'holds no image of a PSF, no psField and no PSFEx model'
    else:
        try:
            found = hdus[extension]
        except (KeyError, IndexError):
            found, problem = None, f'has no extension {extension}'
        else:
            problem = f'has no image in extension {extension}'
    if found is None or not is_image(found):
        msg = f'psf: {name!r} {problem}; it has {list_hdus(hdus)}'
        raise ValueError(msg)
    return found


def _of_image(image, oversampling, pixel_response, name):
    """Check an image; one that is oversampled becomes a model of photutils."""
    image = np.asarray(getattr(image, 'value', image), float)
    if oversampling is None:
        oversampling = 1
    number = isinstance(oversampling, (int, float, np.number))
    in_range = number and 1 <= oversampling <= _MAX_OVERSAMPLING
    if not in_range or oversampling != int(oversampling):
        msg = f'oversampling must be a whole number from 1 on, got {oversampling!r}'
        raise ValueError(msg)
    oversampling = int(oversampling)
    check_psf_pixels(image, 'psf' if name == 'psf' else f'psf: the image of {name}')
    if oversampling == 1:
        return image
    from photutils.psf import ImagePSF

    if not pixel_response:
        image = _over_pixels(image, oversampling)
    # Each sample stands for a share of a pixel.
    image = image * (oversampling**2 / image.sum())
    return ImagePSF(image, oversampling=oversampling)


def _over_pixels(image, n):
    """Average samples over a pixel: n of them, half at either end where n is even."""
    from scipy.ndimage import convolve1d

    kernel = np.ones(n + 1 - n % 2)
    if n % 2 == 0:
        kernel[[0, -1]] = 0.5
    kernel /= kernel.sum()
    for axis in (0, 1):
        image = convolve1d(image, kernel, axis=axis, mode='constant')
    return image
