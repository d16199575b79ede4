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
from ._fit import check_psf_pixels
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._model import PSFModel
from ._profile import plain
from ._psfex import read_psfex
from ._varying import varying_psf

# Formats of FITS files that are no image: functions of the open file, its name, band
# and normalization_radius that return a PSF, or `None` where the file is of another
# format. Plug-ins of surveys add theirs.
READERS = [read_psfex]

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
        pixel, as effective PSFs of photutils do. By default only those of a file that
        states its oversampling, as of STPSF, do not, and are averaged over the pixel.

    band : {'u', 'g', 'r', 'i', 'z'}, optional
        The band of a ``psField``.

    extension : int or str, optional
        The extension of an image; by default the first one that holds one.

    normalization_radius : float, optional
        Radius in pixels within which a PSF that is made here has unit flux.

    Returns
    -------
    psf : object
        A ``psf`` of `~bliss_astro.exposures.Exposure`: a `PSFModel`, `PSFExPSF`,
        `~bliss_astro.surveys.sdss.SDSSPSF`, model of photutils or astropy, or an image.

    Raises
    ------
    OSError
        If the file is absent, damaged or no FITS file.

    TypeError, ValueError
        If it describes no PSF; the message lists what can be given.
    """
    radius = {'normalization_radius': normalization_radius}
    number = np.ndim(psf) == 0 and isinstance(psf, (int, float, np.number))
    if number or (isinstance(psf, u.Quantity) and not psf.ndim):
        return PSFModel.from_fwhm(psf, **radius)
    if isinstance(psf, Model) or varying_psf(psf) is not None:
        if oversampling is not None:
            msg = 'oversampling belongs to an image of a PSF; a model has its own'
            raise ValueError(msg)
        return psf
    if isinstance(psf, (np.ndarray, list, tuple)) and not isinstance(psf, HDUList):
        return _of_image(psf, oversampling, pixel_response is not False, 'psf')
    if not isinstance(psf, str | os.PathLike | HDUList):
        msg = (
            'psf must be a FITS file (of PSFEx, a psField or an image), a FWHM in '
            'pixels, an image, or a model of photutils or astropy; got '
            f'{type(psf).__name__}'
        )
        raise TypeError(msg)
    load_surveys()
    name = file_name(psf)
    try:
        with open_fits(psf, 'psf') as hdus:
            for read in READERS if extension is None else ():
                found = read(hdus, name, band=band, **radius)
                if found is not None:
                    return found
            hdu = _image_hdu(hdus, name, extension)
    except (TypeError, KeyError, IndexError) as error:
        msg = f'psf: {name} is no sound file of a PSF: {error}'
        raise ValueError(msg) from error
    stated = next((hdu.header[k] for k in _OVERSAMPLING if k in hdu.header), None)
    if pixel_response is None:
        pixel_response = oversampling is not None or stated is None
    oversampling = stated if oversampling is None else oversampling
    data = np.squeeze(np.array(hdu.data, float))
    return _of_image(data, oversampling, pixel_response, f'psf: the image of {name}')


def _image_hdu(hdus, name, extension):
    """Choose the HDU of an image of a PSF."""
    images = [hdu for hdu in hdus if hdu.is_image and hdu.data is not None]
    if extension is None:
        found = next((h for h in images if np.squeeze(h.data).ndim == 2), None)
        problem = 'holds no image of a PSF, no psField and no PSFEx model'
    else:
        try:
            found, problem = hdus[extension], f'has no image in extension {extension}'
        except (KeyError, IndexError):
            found, problem = None, f'has no extension {extension}'
    if not any(found is hdu for hdu in images):
        msg = f'psf: {name!r} {problem}; it has {list_hdus(hdus)}'
        raise ValueError(msg)
    return found


def _of_image(image, oversampling, pixel_response, name):
    """Check an image; one that is oversampled becomes a model of photutils."""
    image = np.asarray(plain(image), float)
    n = 1 if oversampling is None else oversampling
    number = isinstance(n, (int, float, np.number))
    if not (number and 1 <= n <= _MAX_OVERSAMPLING and n == int(n)):
        msg = f'oversampling must be a whole number from 1 on, got {n!r}'
        raise ValueError(msg)
    check_psf_pixels(image, name)
    if n == 1:
        return image
    from photutils.psf import ImagePSF
    from scipy.ndimage import convolve1d

    n = int(n)
    if not pixel_response:
        # The average of n samples, half at either end where n is even.
        kernel = np.ones(n + 1 - n % 2)
        kernel[[0, -1]] = 1.0 if n % 2 else 0.5
        for axis in (0, 1):
            image = convolve1d(image, kernel / kernel.sum(), axis=axis, mode='constant')
    # Each sample stands for a share of a pixel.
    return ImagePSF(image * (n**2 / image.sum()), oversampling=n)
