# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Alignment of dithered exposures, and what it does to the noise.
"""

import torch

__all__ = ['align_bilinear', 'coadd_noise']


def _interpolation_matrix(dither: torch.Tensor, n_in: int) -> torch.Tensor:
    # Rows 1 .. n_in - 2 of the bilinear operator, as (..., n_in - 2, n_in):
    # three diagonals of which one of the outer two is zero.
    weights = (torch.relu(-dither), 1 - dither.abs(), torch.relu(dither))
    matrix = dither.new_zeros((*dither.shape, n_in - 2, n_in))
    for offset, weight in enumerate(weights):
        band = torch.diagonal(matrix, offset=offset, dim1=-2, dim2=-1)
        band[...] = weight[..., None]
    return matrix


def align_bilinear(images: torch.Tensor, dither: torch.Tensor) -> torch.Tensor:
    """
    Resample dithered exposures onto the undithered grid.

    Parameters
    ----------
    images : tensor ``(..., ny, nx)``
        Exposures; a source at ``(x, y)`` of the reference grid lies at
        ``(x + dither[..., 0], y + dither[..., 1])`` in the exposure.

    dither : tensor ``(..., 2)``
        Dithers in x and y, at most one pixel in size.

    Returns
    -------
    aligned : tensor ``(..., ny - 2, nx - 2)``
        Bilinear interpolation at the reference pixels; the outermost row
        and column, which an exposure may not cover, are cropped.
    """
    ny, nx = images.shape[-2:]
    in_x = _interpolation_matrix(dither[..., 0], nx).transpose(-1, -2)
    in_y = _interpolation_matrix(dither[..., 1], ny)
    return in_y @ (images @ in_x)


def coadd_noise(
    dither: torch.Tensor, *, interpolated: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Noise of an equal-weight mean of bilinearly aligned exposures.

    An exposure at dither u keeps ``(1 - |u|)**2 + u**2`` of its variance
    along each axis and acquires the covariance ``|u| (1 - |u|)`` with
    the next pixel: the sum over all lags is conserved.

    Parameters
    ----------
    dither : tensor ``(..., d, 2)``
        Dithers of the d exposures in x and y.

    interpolated : bool, optional
        If `False`, noise is added after the alignment and is independent.

    Returns
    -------
    variance : tensor ``(...,)``
        Variance of a pixel over that of a pixel of one exposure.

    correlation_x, correlation_y : tensor ``(...,)``
        Correlation with the next pixel along the axis.

    kernel_variance : tensor ``(...,)``
        Mean variance (square pixels, mean of x and y) of the interpolation
        kernels: how much the alignment broadens the PSF.
    """
    size = dither.abs()
    n_exposures = dither.shape[-2]
    neighbour = size * (1 - size)  # lag-one covariance; also the kernel variance
    kernel_variance = neighbour.mean((-2, -1))
    zero = torch.zeros_like(kernel_variance)
    if not interpolated:
        return zero + 1 / n_exposures, zero, zero, kernel_variance
    own = 1 - 2 * neighbour
    both = own.prod(-1)
    total = both.sum(-1)
    correlation_x = (neighbour[..., 0] * own[..., 1]).sum(-1) / total
    correlation_y = (neighbour[..., 1] * own[..., 0]).sum(-1) / total
    return total / n_exposures**2, correlation_x, correlation_y, kernel_variance
