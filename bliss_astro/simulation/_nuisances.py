# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is stated of an image and not quite so: the sky and the PSF.

A survey's background and PSF are measurements.  An encoder that was trained
with errors of their size marginalises over them, as over everything that is
simulated and not asked for.
"""

import math

import torch

from bliss_astro.psf._asymmetry import asymmetry_of_image, lobe_kernel
from bliss_astro.psf._mixture import broaden_shape, profile_of_shape

__all__ = [
    'USUAL_BACKGROUND_ERROR',
    'USUAL_PSF_ERROR',
    'draw_lobes',
    'draw_stated',
    'effective_psf',
    'in_lobes',
    'misstated_psf',
    'sky_error',
    'stated_asymmetry',
]

# Errors that surveys state, and that an exposure assumes where none is stated:
# relative error of the PSF's width; error of the background in units of its noise.
USUAL_PSF_ERROR, USUAL_BACKGROUND_ERROR = 0.01, 0.05


def _sizes(*shape, generator, device):
    # Most measurements are good, some are not: the mean is 2 / 3.
    return 2 * torch.rand(*shape, generator=generator, device=device) ** 2


def draw_stated(n, limits, usual, *, generator, device='cpu'):
    """
    Errors that are stated: none, the usual one, uniform, uniform in the logarithm.

    Parameters
    ----------
    n : int
        Number of images B.

    limits : tuple of float
        Lowest and highest.

    usual : float
        What surveys state.

    generator : `torch.Generator`
        On the device.

    device : str or `torch.device`, optional
        Where to draw.

    Returns
    -------
    error : tensor ``(B,)``
        As the configuration has it.
    """
    kind, unit = torch.rand(2, n, generator=generator, device=device)
    low, high = limits
    even = low + (high - low) * unit
    # Small errors are a matter of factors.
    small = low * (high / low) ** unit
    kinds = torch.stack(
        [torch.full_like(unit, v) for v in (low, usual)] + [even, small]
    )
    return kinds.gather(0, (4 * kind).long().clamp(max=3)[None])[0]


def sky_error(n, shape, *, spread=True, generator, device='cpu'):
    """
    Level, slope and curvature of what a survey's sky is off by.

    Parameters
    ----------
    n : int
        Number of images B.

    shape : tuple of int
        ``(ny, nx)``.

    spread : bool, optional
        Whether the size itself varies about what is typical.

    generator : `torch.Generator`
        On the device.

    device : str or `torch.device`, optional
        Where to draw.

    Returns
    -------
    error : tensor ``(B, ny, nx)``
        In units of its typical size.
    """
    ny, nx = shape
    c = torch.randn(n, 6, 1, 1, generator=generator, device=device)
    v = torch.linspace(-1, 1, ny, device=device)[:, None]
    u = torch.linspace(-1, 1, nx, device=device)[None, :]
    error = c[:, 0] + 0.5 * (c[:, 1] * u + c[:, 2] * v)
    error = error + 0.4 * (
        c[:, 3] * (u**2 - 1 / 3) + c[:, 4] * (v**2 - 1 / 3) + c[:, 5] * u * v
    )
    if not spread:
        return error
    return _sizes(n, 1, 1, generator=generator, device=device) * error


def misstated_psf(psf, size, *, spread=True, generator):
    """
    The PSF that is stated where the measured one is a little off.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        The true PSFs.

    size : float or tensor ``(B,)``
        Typical relative error of the width.

    spread : bool, optional
        Whether the size itself varies about what is typical.

    generator : `torch.Generator`
        On the device.

    Returns
    -------
    stated : tensor ``(B, 8)``
        Core and all are wider or narrower together; weights of halo and wing are
        known the less the fainter they are.
    """
    noise = torch.randn(len(psf), 5, generator=generator, device=psf.device)
    size = torch.as_tensor(size, device=psf.device).reshape(-1, 1)
    if spread:
        size = size * _sizes(len(psf), 1, generator=generator, device=psf.device)
    noise = noise * size
    # Of wings far more is unknown than of the width, but not everything.
    wings = noise[:, 1:3].clamp(-0.1, 0.1) if not spread else noise[:, 1:3]
    out = psf.clone()
    out[:, [0, 1, 3]] *= torch.exp(noise[:, :1])
    out[:, 2] *= torch.exp(6 * wings[:, 0])
    # Where the power law is the core itself, it is not what is in doubt.
    out[:, 4] *= torch.where(out[:, 4] < 1, torch.exp(12 * wings[:, 1]), 1.0)
    out[:, 6:] += 0.7 * noise[:, 3:] * (out[:, 6:] != 0)
    return out


def effective_psf(psf, dither, kernel):
    """
    The PSF of a coadd: broader, and longer where the dithers were larger.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        Of the exposures.

    dither : tensor ``(B, d, 2)``
        Pixels in x and y.

    kernel : tensor ``(B,)``
        Mean variance of the interpolation, from
        `~bliss_astro.coadds.coadd_noise`.

    Returns
    -------
    psf : tensor ``(B, 8)``
        Of the coadds.
    """
    size = dither.abs()
    along = (size * (1 - size)).mean(-2)
    wide = broaden_shape(psf, kernel)
    stretch = (along[:, 0] - along[:, 1]) / (2 * psf[:, 0] ** 2 + along.sum(-1))
    wide[:, 6] = (wide[:, 6] + stretch).clamp(-0.3, 0.3)
    return wide


def draw_lobes(n, most, fwhm, *, generator):
    """
    Draw lobes of PSFs: one on one side (coma) and three at 120 degrees (trefoil).

    Parameters
    ----------
    n : int
        Number of images B.

    most : float
        Largest share of the light in either.

    fwhm : tensor ``(B,)``
        Of the PSF in pixels.

    generator : `torch.Generator`
        On the device.

    Returns
    -------
    lobes : tuple of tensor ``(B, 4)``
        Share, distance in pixels, angle and width in pixels of each lobe; one image
        in two has none.
    """
    unit = torch.rand(9, n, generator=generator, device=fwhm.device)
    # Faint lobes are the rule.
    coma, trefoil = most * unit[0] ** 2, most * unit[1] ** 3
    some = unit[8] < 0.5
    third = 2 * math.pi / 3
    share = torch.stack([coma, *[trefoil / 3] * 3], -1) * some[:, None]
    distance = torch.stack([0.8 + 1.4 * unit[2], *[0.8 + 1.2 * unit[3]] * 3], -1)
    own, other = 2 * math.pi * unit[4], 2 * math.pi * unit[5]
    angle = torch.stack([own, other, other + third, other - third], -1)
    width = torch.stack([0.1 + 0.4 * unit[6], *[0.1 + 0.4 * unit[7]] * 3], -1)
    fwhm = fwhm[:, None]
    return share, distance * fwhm, angle, width * fwhm


def in_lobes(image, lobes):
    """
    Images with the part of the light in lobes that belongs there.

    Parameters
    ----------
    image : tensor ``(B, ny, nx)``
        Without noise.

    lobes : tuple of tensor
        From `draw_lobes`.

    Returns
    -------
    image : tensor ``(B, ny, nx)``
        Likewise.
    """
    ny, nx = image.shape[1:]
    padded = torch.fft.rfft2(image, s=(2 * ny, 2 * nx))
    moved = padded * lobe_kernel(*lobes, (ny, nx))
    return torch.fft.irfft2(moved, s=(2 * ny, 2 * nx))[:, :ny, :nx]


def stated_asymmetry(psf, fwhm, lobes, unknown=1.0, *, generator):
    """
    What is known of the lobes of PSFs, and what not.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        The PSFs without lobes.

    fwhm : tensor ``(B,)``
        Their widths in pixels.

    lobes : tuple of tensor
        From `draw_lobes`.

    unknown : float or tensor ``(B,)``, optional
        By what the unknown part is multiplied, at most 1.

    generator : `torch.Generator`
        On the device.

    Returns
    -------
    asymmetry : tensor ``(B, 4)``
        ``asymmetry_of_image`` of the PSF, in three of five images
        with small errors, else a part of it.
    """
    n = 2 * 18 + 1
    axis = torch.arange(n, device=psf.device, dtype=psf.dtype) - n // 2
    image = profile_of_shape(psf[:, None, None], axis[None, None], axis[None, :, None])
    true = asymmetry_of_image(in_lobes(image, lobes), fwhm)
    unit = torch.rand(2, len(psf), 1, generator=generator, device=psf.device)
    lost = torch.where(unit[0] < 0.6, 0.0, 1 - unit[1]) * true
    noise = torch.randn(len(psf), 4, generator=generator, device=psf.device)
    unknown = torch.as_tensor(unknown, device=psf.device).reshape(-1, 1)
    return true + unknown * (noise * (0.1 * true.abs() + 0.001) - lost)
