# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Full widths at half maximum of PSFs as tensors, and PSFs of a given width.
"""

import torch

__all__ = ['fwhm_of_shape', 'scale_to_fwhm']

# Each halves the bracket: 2^-40 of it is beyond single precision.
_N_HALVINGS = 40


def fwhm_of_shape(shape: torch.Tensor) -> torch.Tensor:
    """
    Full width at half maximum of the PSF.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels, in the order of `SHAPE_NAMES`.

    Returns
    -------
    fwhm : tensor ``(...,)``
        In pixels; of an elliptical PSF, that of the round one of the same area.
    """
    s1, s2, b, sp, p0, beta = shape[..., :6].unbind(-1)
    half = 0.5 * (1 + b + p0)
    low, high = torch.zeros_like(s1), 3 * (s1 + s2 + sp)
    for _ in range(_N_HALVINGS):
        middle = 0.5 * (low + high)
        r2 = middle**2
        value = torch.exp(-r2 / (2 * s1**2)) + b * torch.exp(-r2 / (2 * s2**2))
        value = value + p0 * (1 + r2 / (beta * sp**2)) ** (-beta / 2)
        above = value > half
        low = torch.where(above, middle, low)
        high = torch.where(above, high, middle)
    return low + high


def scale_to_fwhm(shape: torch.Tensor, fwhm: torch.Tensor) -> torch.Tensor:
    """
    Scale PSFs, wings and all, to a given width.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels.

    fwhm : tensor ``(...,)``
        The full width at half maximum that they shall have, in pixels.

    Returns
    -------
    shape : tensor ``(..., 8)``
        The same profiles with all lengths scaled by one factor each.
    """
    factor = (fwhm / fwhm_of_shape(shape))[..., None]
    lengths = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0], device=shape.device).bool()
    return torch.where(lengths, shape * factor, shape)
