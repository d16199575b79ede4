# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The first steps of the training: a decoder learns without images.

By Parseval's theorem the misfit of a stamp is a sum over wavenumbers, where
galaxies are known in closed form. A helper network is told the six numbers of
the shape and gives the latent, so that the bound below is the ELBO of a galaxy of
known flux under white noise, with an encoder that sees more than an image.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro.psf._mixture import describe_shape, mixture_of_shape
from bliss_astro.rendering._profiles import (
    BULGE_RANGE,
    DISK_RADIUS,
    bulge_of_square,
    disk_of_square,
)

__all__ = []

# Wavenumbers of the polar grid, per pixel, and its number of rings and spokes.
_WAVENUMBERS = (0.006, 4.5)
_RINGS, _SPOKES = 24, 10


class Teacher(nn.Module):
    """
    From a galaxy's shape, PSF and signal-to-noise ratio to a latent.

    Parameters
    ----------
    config : `GalaxyModelConfig`
        Sizes.
    """

    def __init__(self, config):
        super().__init__()
        self.latent_dim = config.latent_dim
        self.net = nn.Sequential(
            nn.Linear(12, 128),
            nn.SiLU(),
            nn.Linear(128, 128),
            nn.SiLU(),
            nn.Linear(128, 128),
            nn.SiLU(),
            nn.Linear(128, 2 * (config.latent_dim - 1)),
        )

    def forward(self, psf, galaxy, snr):
        """
        Mean and standard deviation ``(B, D)`` of latents.
        """
        fraction, angle, disk_ratio, bulge_ratio = galaxy[:, :4].unbind(1)
        radii = torch.log(galaxy[:, 4:]) - 1
        told = [fraction, disk_ratio, bulge_ratio, *radii.unbind(1), snr.log() - 3]
        told = torch.cat(
            [torch.stack(told, 1), describe_shape(psf)[:, :6].nan_to_num()], 1
        )
        mean, log_std = self.net(told).chunk(2, 1)
        turn = torch.stack([torch.cos(2 * angle), torch.sin(2 * angle)], 1)
        mean = torch.cat([F.softplus(mean[:, :1]) * turn, mean[:, 1:]], 1)
        log_std = (log_std - 2).clamp(-8, 1)
        return mean, torch.exp(torch.cat([log_std[:, :1], log_std], 1))


def _polar(n, generator):
    """
    Wavenumbers ``(n, M)`` in x and y, and the area of the plane of each.
    """
    low, high = (math.log(k) for k in _WAVENUMBERS)
    step, turn = (high - low) / _RINGS, math.pi / _SPOKES
    shift = torch.rand(2, n, 1, 1, generator=generator)
    ring = low + step * (torch.arange(_RINGS)[:, None] + shift[0])
    spoke = turn * (torch.arange(_SPOKES) + shift[1])
    k = torch.exp(ring)
    kx, ky = k * torch.cos(spoke), k * torch.sin(spoke)
    area = 2 * step * turn * k**2  # the other half of the plane is the same
    return kx.flatten(1), ky.flatten(1), area.expand_as(kx).flatten(1)


def _psf_power(psf, kx, ky):
    e1, e2 = (psf[:, k, None] for k in (6, 7))
    norm = torch.rsqrt(1 - e1**2 - e2**2)
    z = norm * ((1 + e1) * kx**2 + 2 * e2 * kx * ky + (1 - e1) * ky**2)
    height, variance = mixture_of_shape(psf, step=1.4)
    share = 2 * math.pi * height * variance
    exponent = (-0.5 * variance[..., None] * z[:, None]).clamp(min=-40)
    return (share[:, None] @ torch.exp(exponent))[:, 0] ** 2


def _true_modes(galaxy, kx, ky):
    fraction, angle, disk_ratio, bulge_ratio, disk, bulge = (
        part[:, None] for part in galaxy.unbind(1)
    )
    cos, sin = torch.cos(angle), torch.sin(angle)
    along, across = (kx * cos + ky * sin) ** 2, (ky * cos - kx * sin) ** 2
    square = (disk / DISK_RADIUS) ** 2 * (along + disk_ratio**2 * across)
    part = fraction * disk_of_square(1 + square)
    square = bulge**2 * (along + bulge_ratio**2 * across)
    square = (square + 2.0 ** BULGE_RANGE[0]).clamp(max=0.99 * 2.0 ** BULGE_RANGE[1])
    return part + (1 - fraction) * bulge_of_square(square)


def lesson(decoder, teacher, psf, galaxy, snr, *, generator):
    """
    The bound for galaxies whose shapes are told.

    Parameters
    ----------
    decoder, teacher : modules
        The networks that learn.

    psf, galaxy, snr : tensor ``(B, 8)``, ``(B, 6)``, ``(B,)``
        Galaxies and how they are seen.

    generator : `torch.Generator`
        On the CPU.

    Returns
    -------
    misfit, divergence : tensor ``(B,)``
        Half the chi-square that the model lacks, and the divergence of the
        latent from the standard normal, in nats.
    """
    mean, std = teacher(psf, galaxy, snr)
    latent = mean + std * torch.randn(mean.shape, generator=generator)
    divergence = 0.5 * (mean**2 + std**2 - 1).sum(1) - std.log().sum(1)
    kx, ky, area = _polar(len(psf), generator)
    with torch.no_grad():
        truth = _true_modes(galaxy, kx, ky)
        power = area * _psf_power(psf, kx, ky)
        power = power / (power * truth**2).sum(1, keepdim=True)
    mixture = decoder(latent)
    basis = torch.stack([kx**2, 2 * kx * ky, ky**2], 1)
    exponent = (-0.5 * mixture.covariance @ basis).clamp(min=-40)
    modes = (mixture.weight[:, None] @ torch.exp(exponent))[:, 0]
    misfit = 0.5 * snr**2 * (power * (modes - truth) ** 2).sum(1)
    return misfit, divergence
