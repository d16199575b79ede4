# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is stated of an image and not quite so: the sky and the PSF.

A survey's background and PSF are measurements.  An encoder that was trained
with errors of their size marginalises over them, as over everything that is
simulated and not asked for.
"""

import torch

from bliss_astro.psf._mixture import broaden_shape

__all__ = ['effective_psf', 'misstated_psf', 'sky_error']


def _sizes(*shape, generator, device):
    # Most measurements are good, some are not: the mean is 2 / 3.
    return 2 * torch.rand(*shape, generator=generator, device=device) ** 2


def sky_error(n, shape, *, generator, device='cpu'):
    """
    Level, slope and curvature of what a survey's sky is off by.

    Parameters
    ----------
    n : int
        Number of images B.

    shape : tuple of int
        ``(ny, nx)``.

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
    return _sizes(n, 1, 1, generator=generator, device=device) * error


def misstated_psf(psf, size, *, generator):
    """
    The PSF that is stated where the measured one is a little off.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        The true PSFs.

    size : float
        Typical relative error of the width.

    generator : `torch.Generator`
        On the device.

    Returns
    -------
    stated : tensor ``(B, 8)``
        Core and all are wider or narrower together; weights of halo and wing are
        known the less the fainter they are.
    """
    noise = torch.randn(len(psf), 5, generator=generator, device=psf.device)
    sizes = _sizes(len(psf), 1, generator=generator, device=psf.device)
    noise = noise * size * sizes
    out = psf.clone()
    out[:, [0, 1, 3]] *= torch.exp(noise[:, :1])
    out[:, 2] *= torch.exp(6 * noise[:, 1])
    out[:, 4] *= torch.exp(12 * noise[:, 2])
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
