# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pairs of pixels at a distance, and the correlation of their noise.
"""

import numpy as np

__all__ = ['kernel_of_sums', 'lagged_views']


def lagged_views(shape, dy, dx):
    """
    Return the slices of all pixels p, and of the pixels at p + (dy, dx).

    Parameters
    ----------
    shape : tuple of int
        Shape of the image.

    dy, dx : int
        The lag; ``dy`` is not negative.

    Returns
    -------
    one, two : tuple of slice
        The slices.
    """
    ny, nx = shape
    one = slice(0, max(ny - dy, 0)), slice(max(-dx, 0), max(nx - max(dx, 0), 0))
    two = slice(dy, ny), slice(max(dx, 0), max(nx + min(dx, 0), 0))
    return one, two


def kernel_of_sums(products, pairs):
    """
    Turn sums over pairs into a correlation kernel.

    Parameters
    ----------
    products, pairs : float `~numpy.ndarray`, shape (max_lag + 1, 2 max_lag + 1)
        Sums of products and numbers of pairs, by lag in y from 0 and lag in x
        from ``-max_lag``.

    Returns
    -------
    kernel : float `~numpy.ndarray`, shape (2 max_lag + 1, 2 max_lag + 1)
        The kernel.
    """
    max_lag = len(products) - 1
    with np.errstate(invalid='ignore'):
        half = products / pairs
        half = np.nan_to_num(half / half[0, max_lag])
    kernel = np.zeros((2 * max_lag + 1, 2 * max_lag + 1))
    kernel[max_lag:] = half
    kernel[: max_lag + 1] = half[::-1, ::-1]
    kernel[max_lag, max_lag] = 1.0
    return kernel
