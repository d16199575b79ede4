# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of what a coadd has beyond an exposure.
"""

import numpy as np

from bliss_astro.psf._inputs import check_psf_pixels

__all__ = ['check_counts', 'check_psf_image']


def check_counts(counts, shape):
    """
    Check the numbers of exposures, and spread one number out.

    Parameters
    ----------
    counts : int, 2D array_like or None
        What was given.

    shape : tuple of int
        The shape of the image.

    Returns
    -------
    counts : int `~numpy.ndarray`, shape (ny, nx), or None
        One for each pixel; a single number is a view that takes no memory.

    Raises
    ------
    TypeError
        If they are not whole numbers.

    ValueError
        If they are negative, all 0, or a map of another shape.
    """
    if counts is None:
        return None
    array = np.asarray(counts)
    if array.dtype.kind not in 'iu':
        msg = f'n_exposures must be a whole number or a map of them; got {array.dtype}.'
        raise TypeError(msg)
    if array.ndim and array.shape != tuple(shape):
        msg = (
            f'n_exposures must be a number or have the shape of data, {tuple(shape)}; '
            f'got {array.shape}.'
        )
        raise ValueError(msg)
    if array.min() < 0 or array.max() < 1:
        msg = (
            'n_exposures must not be negative, and be positive somewhere; got '
            f'{array.min()} to {array.max()}.'
        )
        raise ValueError(msg)
    return np.broadcast_to(array.astype(np.int32), shape)


def check_psf_image(image):
    """
    Check an image of the PSF.

    Parameters
    ----------
    image : 2D array_like or None
        What was given.

    Returns
    -------
    image : float `~numpy.ndarray` or None
        The image.

    Raises
    ------
    ValueError
        If it has not two odd sides, or its sum is not positive and finite.
    """
    if image is None:
        return None
    image = np.array(image, dtype=float)
    if image.ndim != 2 or image.shape[0] % 2 == 0 or image.shape[1] % 2 == 0:
        msg = f'psf_image must have two odd sides; got shape {image.shape}.'
        raise ValueError(msg)
    check_psf_pixels(image, 'psf_image')
    return image
