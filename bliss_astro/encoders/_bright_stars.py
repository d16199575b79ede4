# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What very bright stars have beyond their PSF: spikes and halos.

A survey's PSF is measured on stars that are not saturated, and ends where these
fade.  Of stars thousands of times brighter one sees the diffraction
spikes of the telescope's spider and the light scattered by mirrors and
dust.  An encoder that never saw them takes them for rows of galaxies.
"""

import math

import torch

__all__ = ['draw_bright_stars', 'glare']

# Electrons of the stars, and how far outside of the image they may lie.
_FLUX = (2e5, 3e7)
_BEYOND = 40.0
# Light in a spike at a distance of 30 pixels, per pixel, and in a halo at its
# centre, over that of the star: ranges around what SDSS's r frames show.
_SPIKE = (5e-6, 1e-4)
_HALO = (1e-6, 5e-5)


def draw_bright_stars(n, fraction, shape, *, generator, device='cpu'):
    """
    Draw a very bright star for some of the images.

    Parameters
    ----------
    n : int
        Number of images B.

    fraction : float
        Share of them that have one.

    shape : tuple of int
        ``(ny, nx)``.

    generator : `torch.Generator`
        On the device.

    device : str or `torch.device`, optional
        Where to draw.

    Returns
    -------
    x, y, flux : tensor ``(B, 1)``
        Pixels and electrons; 0 electrons in the other images.
    """
    unit = torch.rand(4, n, 1, generator=generator, device=device)
    ny, nx = shape
    x = -_BEYOND + unit[0] * (nx + 2 * _BEYOND)
    y = -_BEYOND + unit[1] * (ny + 2 * _BEYOND)
    flux = _between(_FLUX, unit[2])
    return x, y, flux * (unit[3] < fraction)


def _between(pair, unit):
    low, high = pair
    return low * (high / low) ** unit


def glare(x, y, flux, shape, *, generator):
    """
    Images of spikes and halos.

    Four spikes at right angles, at any angle, whose light falls with a power of
    the distance, and a round halo.

    Parameters
    ----------
    x, y, flux : tensor ``(B, 1)``
        From `draw_bright_stars`.

    shape : tuple of int
        ``(ny, nx)``.

    generator : `torch.Generator`
        On the device.

    Returns
    -------
    image : tensor ``(B, ny, nx)``
        Electrons.
    """
    n, (ny, nx) = len(x), shape
    unit = torch.rand(7, n, 1, 1, generator=generator, device=x.device)
    dx = torch.arange(nx, device=x.device)[None, None, :] - x[..., None]
    dy = torch.arange(ny, device=x.device)[None, :, None] - y[..., None]
    angle = 0.5 * math.pi * unit[0]
    along = torch.cos(angle) * dx + torch.sin(angle) * dy
    across = torch.cos(angle) * dy - torch.sin(angle) * dx
    power = 0.8 + 1.4 * unit[1]
    width = 0.8 + 1.6 * unit[2]
    image = 0
    for u, v in ((along, across), (across, along)):
        fall = ((u.abs() + 5) / 35) ** -power
        image = image + fall * torch.exp(-0.5 * (v / width) ** 2)
    image = image * _between(_SPIKE, unit[3])
    core = 10 + 20 * unit[4]
    halo = (1 + (dx**2 + dy**2) / core**2) ** -(1 + unit[5])
    return flux[..., None] * (image + _between(_HALO, unit[6]) * halo)
