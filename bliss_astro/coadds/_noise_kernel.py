# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The correlation of noise between pixels, as a kernel over their lags.
"""

import numpy as np

from ..exposures._blank_noise import kernel_of_sums, lagged_views

__all__ = [
    'MAX_LAG',
    'check_kernel',
    'correlated_noise',
    'input_kernel',
    'kernel_of_pair',
    'kernel_of_sums',
    'lagged_sums',
    'lagged_views',
]

# Pixels farther apart than this, along an axis, are taken to be independent.
MAX_LAG = 2


def kernel_of_pair(along_x, along_y):
    """
    Make a correlation kernel of two neighbours' correlations.

    Parameters
    ----------
    along_x, along_y : float
        Correlation of pixels next to each other in x and in y.

    Returns
    -------
    kernel : float `~numpy.ndarray`, shape (5, 5)
        The kernel, a product of one in x and one in y.
    """
    return np.outer([0, along_y, 1, along_y, 0], [0, along_x, 1, along_x, 0])


def check_kernel(name, kernel):
    """
    Check a correlation kernel.

    Parameters
    ----------
    name : str
        The argument's name, for messages.

    kernel : array_like
        What was given.

    Returns
    -------
    kernel : float `~numpy.ndarray`
        A copy of it.

    Raises
    ------
    ValueError
        If it is no square of odd side, or no correlation.
    """
    kernel = np.array(kernel, dtype=float)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) % 2 == 0:
        msg = f'{name} must be a square of odd side; got shape {kernel.shape}.'
        raise ValueError(msg)
    middle = len(kernel) // 2
    sound = np.isfinite(kernel).all() and abs(kernel[middle, middle] - 1) < 1e-6
    if not (sound and (np.abs(kernel) < 1 + 1e-6).all()):
        msg = (
            f'{name} must be 1 at its centre and between -1 and 1 elsewhere; got '
            f'{kernel.tolist()}.'
        )
        raise ValueError(msg)
    if not np.allclose(kernel, kernel[::-1, ::-1], rtol=0, atol=1e-6):
        msg = f'{name} must be the same at opposite lags; got {kernel.tolist()}.'
        raise ValueError(msg)
    return kernel


def input_kernel(exposure):
    """
    Return the correlation kernel of an exposure's own noise.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    Returns
    -------
    kernel : float `~numpy.ndarray`
        Its kernel, odd and square.
    """
    kernel = getattr(exposure, 'noise_kernel', None)
    return kernel_of_pair(*exposure.noise_correlation) if kernel is None else kernel


def correlated_noise(shape, kernel, rng):
    """
    Draw noise of unit variance with a given correlation.

    Parameters
    ----------
    shape : tuple of int
        Shape of the image.

    kernel : float `~numpy.ndarray`
        Its correlation, odd and square.

    rng : `numpy.random.Generator`
        The generator.

    Returns
    -------
    noise : float `~numpy.ndarray`, shape (ny, nx)
        The noise; it is periodic if it is correlated.
    """
    white = rng.standard_normal(shape)
    if np.count_nonzero(kernel) == 1:
        return white
    half = len(kernel) // 2
    response = np.zeros(shape)
    for j, i in np.argwhere(kernel != 0):
        # Added, because lags may coincide in an image smaller than the kernel.
        response[(j - half) % shape[0], (i - half) % shape[1]] += kernel[j, i]
    # A rounded or truncated kernel may have a slightly negative power.
    power = np.maximum(np.fft.rfft2(response).real, 0)
    return np.fft.irfft2(np.fft.rfft2(white) * np.sqrt(power), s=shape)


def lagged_sums(values, use, max_lag):
    """
    Sum the products of pixels at each lag.

    Parameters
    ----------
    values : float `~numpy.ndarray`, shape (ny, nx)
        The image, 0 where it is not used.

    use : bool `~numpy.ndarray`, shape (ny, nx)
        Which pixels count.

    max_lag : int
        The largest lag along each axis.

    Returns
    -------
    sums : float `~numpy.ndarray`, shape (2, max_lag + 1, 2 max_lag + 1)
        Sums of the products and numbers of pairs, by lag in y from 0 and lag in
        x from ``-max_lag``.
    """
    sums = np.zeros((2, max_lag + 1, 2 * max_lag + 1))
    for dy in range(max_lag + 1):
        for dx in range(-max_lag, max_lag + 1):
            one, two = lagged_views(values.shape, dy, dx)
            sums[0, dy, dx + max_lag] = np.vdot(values[one], values[two])
            sums[1, dy, dx + max_lag] = np.count_nonzero(use[one] & use[two])
    return sums
