# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Asymmetry of PSFs: coma and trefoil, which no ellipse has.

Where a camera's PSF has a lobe on one side, bright stars seem to have faint companions
there.  The first and third harmonics of the light in a ring around the core give its
direction and its share of the flux.
"""

import math

import numpy as np
import torch

__all__ = []

# The ring in which the harmonics are measured, in FWHM.
_RING = (0.75, 2.5)


def asymmetry_of_image(image, fwhm, x=None, y=None):
    """
    Compute the first and third harmonics of the light around a PSF's core.

    Parameters
    ----------
    image : tensor ``(B, n, n)``
        The PSFs, each of unit flux.

    fwhm : tensor ``(B,)``
        Full width at half maximum in pixels.

    x, y : tensor ``(B,)``, optional
        Position of the cores in pixels; by default the middle of the images.

    Returns
    -------
    asymmetry : tensor ``(B, 4)``
        Real and imaginary parts of the sums of flux times ``exp(i m theta)`` over
        0.75 to 2.5 FWHM, for m = 1 (coma) and m = 3 (trefoil): a lobe that holds 3 %
        of the flux at an angle theta gives 0.03 times the cosine and sine.
    """
    n = image.shape[-1]
    axis = torch.arange(n, device=image.device, dtype=image.dtype)
    middle = image.new_full((len(image),), (n - 1) / 2)
    dx = axis[None, None, :] - (middle if x is None else x)[:, None, None]
    dy = axis[None, :, None] - (middle if y is None else y)[:, None, None]
    r = torch.hypot(dx, dy) / fwhm[:, None, None]
    # Soft edges, a third of a pixel wide, so that no pixel jumps in or out.
    soft = 3 * fwhm[:, None, None]
    ring = torch.sigmoid(soft * (r - _RING[0])) * torch.sigmoid(soft * (_RING[1] - r))
    theta = torch.atan2(dy, dx)
    light = image * ring
    parts = [
        (light * wave(m * theta)).sum((-2, -1))
        for m in (1, 3)
        for wave in (torch.cos, torch.sin)
    ]
    return torch.stack(parts, -1)


def lobe_kernel(share, distance, angle, width, size):
    """
    Compute a kernel that moves some of the light into Gaussian lobes.

    Parameters
    ----------
    share, distance, angle, width : tensor ``(B, L)``
        Share of the flux, place (pixels, radians) and standard deviation in pixels of
        each lobe.

    size : tuple of int
        ``(ny, nx)`` of the images that it will be applied to.

    Returns
    -------
    transfer : complex tensor ``(B, 2 ny, nx + 1)``
        Transfer function for images padded to twice their size.
    """
    ny, nx = size
    like = {'device': share.device, 'dtype': share.dtype}
    ky = 2 * math.pi * torch.fft.fftfreq(2 * ny, **like)[:, None]
    kx = 2 * math.pi * torch.fft.rfftfreq(2 * nx, **like)[None, :]
    share, distance, angle, width = (
        value[..., None, None] for value in (share, distance, angle, width)
    )
    phase = kx * distance * torch.cos(angle) + ky * distance * torch.sin(angle)
    damp = torch.exp(-0.5 * width**2 * (kx**2 + ky**2))
    lobes = (share * damp * torch.exp(-1j * phase)).sum(1)
    return 1 - share.sum(1) + lobes


def core_centre(image, fwhm):
    """
    Centroid (x, y) of a PSF's core, in pixels.

    The window is so narrow that lobes do not pull; ``image`` is 2D of any flux.
    """
    y, x = (float(v) for v in np.unravel_index(np.argmax(image), image.shape))
    grid_y, grid_x = np.indices(image.shape)
    variance = (0.3 * fwhm) ** 2 + 0.1
    for _ in range(10):
        square = (grid_x - x) ** 2 + (grid_y - y) ** 2
        window = image * np.exp(-square / (2 * variance))
        total = window.sum()
        # For a core as wide as the window, the mean is half of the way there.
        x += 2 * ((grid_x - x) * window).sum() / total
        y += 2 * ((grid_y - y) * window).sum() / total
    return x, y


def asymmetry_of_psf(image, fwhm):
    """Asymmetry (4,) of an image of a PSF around its core; see `asymmetry_of_image`."""
    size = max(image.shape)
    square = np.zeros((size, size))
    square[: image.shape[0], : image.shape[1]] = image / image.sum()
    place = core_centre(square, fwhm)
    numbers = torch.tensor([float(fwhm), *place], dtype=torch.float64)[:, None]
    return asymmetry_of_image(torch.from_numpy(square)[None], *numbers)[0].numpy()
