# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Alignment of dithered exposures, and what it does to the noise.
"""

import torch

__all__ = ['align_bilinear', 'coadd_noise']


def _taps(dither: torch.Tensor):
    # Weights of the three pixels around one, of which one of the outer two
    # is zero.
    return torch.relu(-dither), 1 - dither.abs(), torch.relu(dither)


def interpolate_last(values: torch.Tensor, dither: torch.Tensor) -> torch.Tensor:
    """
    Interpolate linearly along the last axis, which loses both ends.

    Parameters
    ----------
    values : tensor ``(..., n)``
        Samples.

    dither : tensor
        Shift, at most one sample in size; broadcasts against ``values``.

    Returns
    -------
    shifted : tensor ``(..., n - 2)``
        ``values`` at ``k + dither`` for k from 1 to n - 2.
    """
    before, here, after = _taps(dither)
    out = values[..., 1:-1] * here
    return out.addcmul_(values[..., :-2], before).addcmul_(values[..., 2:], after)


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
    # Three multiplications a pixel and axis: half the time of two products
    # with banded matrices.
    across = interpolate_last(images, dither[..., 0, None, None])
    before, here, after = _taps(dither[..., 1, None, None])
    out = across[..., 1:-1, :] * here
    return out.addcmul_(across[..., :-2, :], before).addcmul_(across[..., 2:, :], after)


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
