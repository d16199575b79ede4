# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is in images and no source of the prior: cosmic rays, trails, large galaxies.

None of them is asked for.  An encoder that never saw one takes it for stars or for
rows of galaxies.
"""

import math

import torch

__all__ = ['cosmic_rays', 'draw_large_galaxies', 'large_galaxies', 'trails']

# Cosmic rays: peak over the noise, length and width in pixels, most in an image.
_RAY_PEAK, _RAY_LENGTH, _RAY_WIDTH, _MOST_RAYS = (5.0, 3e3), (0.0, 7.0), 0.3, 4
# Trails of satellites and aircraft: ridge over the noise.
_TRAIL_PEAK = (0.3, 30.0)
# Large galaxies: half-light radius in pixels, mean surface brightness within it in
# units of the sky's noise, and how far outside of the image they may lie.
_RADIUS, _BRIGHTNESS, _BEYOND = (8.0, 60.0), (0.3, 30.0), 30.0
# Scale of the exponential disk and of the de Vaucouleurs law, in half-light radii.
_DISK, _BULGE = 1.678, 7.669


def _between(pair, unit):
    low, high = pair
    return low * (high / low) ** unit


def _grid(shape, like):
    ny, nx = shape
    y = torch.arange(ny, device=like.device, dtype=like.dtype)
    x = torch.arange(nx, device=like.device, dtype=like.dtype)
    return x[None, None, None, :], y[None, None, :, None]


def cosmic_rays(n, fraction, shape, *, generator, device='cpu'):
    """
    Images of cosmic rays, in units of the noise.

    Parameters
    ----------
    n : int
        Number of images B.

    fraction : float
        Share of them that have any.

    shape : tuple of int
        ``(ny, nx)``.

    generator : `torch.Generator`
        On the device.

    device : str or `torch.device`, optional
        Where to draw.

    Returns
    -------
    image : tensor ``(B, ny, nx)``
        Short tracks, sharper than any PSF.
    """
    unit = torch.rand(6, n, _MOST_RAYS, 1, 1, generator=generator, device=device)
    some = torch.rand(n, 1, 1, 1, generator=generator, device=device) < fraction
    x, y = _grid(shape, unit)
    angle = 2 * math.pi * unit[2]
    dx, dy = x - shape[1] * unit[0], y - shape[0] * unit[1]
    along = torch.cos(angle) * dx + torch.sin(angle) * dy
    across = torch.cos(angle) * dy - torch.sin(angle) * dx
    # Most tracks are short.
    length = _RAY_LENGTH[1] * unit[3] ** 2
    beyond = along - along.clamp(min=0).minimum(length)
    track = torch.exp(-0.5 * (across**2 + beyond**2) / _RAY_WIDTH**2)
    # One in the middle of the images is no more likely than none.
    present = some & (unit[5] < 0.5)
    return (track * _between(_RAY_PEAK, unit[4]) * present).sum(1)


def trails(n, fraction, shape, fwhm, *, generator):
    """
    Images of trails, in units of the noise.

    Parameters
    ----------
    n : int
        Number of images B.

    fraction : float
        Share of them that have one.

    shape : tuple of int
        ``(ny, nx)``.

    fwhm : tensor ``(B,)``
        Of the PSF in pixels.

    generator : `torch.Generator`
        On the device.

    Returns
    -------
    image : tensor ``(B, ny, nx)``
        Straight lines as wide as the PSF or wider.
    """
    unit = torch.rand(6, n, 1, 1, 1, generator=generator, device=fwhm.device)
    x, y = _grid(shape, unit)
    angle = math.pi * unit[2]
    dx, dy = x - shape[1] * unit[0], y - shape[0] * unit[1]
    across = (torch.cos(angle) * dy - torch.sin(angle) * dx)[:, 0]
    width = fwhm[:, None, None] / 2.355 * (1 + unit[3, :, 0])
    peak = _between(_TRAIL_PEAK, unit[4, :, 0]) * (unit[5, :, 0] < fraction)
    return peak * torch.exp(-0.5 * (across / width) ** 2)


def draw_large_galaxies(n, fraction, shape, noise, *, generator):
    """
    Draw a galaxy much larger than the PSF for some of the images.

    Parameters
    ----------
    n : int
        Number of images B.

    fraction : float
        Share of them that have one.

    shape : tuple of int
        ``(ny, nx)``.

    noise : tensor ``(B,)``
        Of the sky in electrons.

    generator : `torch.Generator`
        On the device.

    Returns
    -------
    x, y, flux : tensor ``(B, 1)``
        Pixels and electrons; 0 electrons in the other images.

    galaxy : tensor ``(B, 1, 6)``
        Shapes in the order of ``GALAXY_SHAPE_NAMES``, radii in pixels.
    """
    unit = torch.rand(8, n, 1, generator=generator, device=noise.device)
    ny, nx = shape
    x = -_BEYOND + unit[0] * (nx + 2 * _BEYOND)
    y = -_BEYOND + unit[1] * (ny + 2 * _BEYOND)
    radius = _between(_RADIUS, unit[2])
    ratio = 0.15 + 0.85 * unit[3]
    brightness = _between(_BRIGHTNESS, unit[4]) * noise[:, None]
    flux = 2 * math.pi * radius**2 * ratio * brightness * (unit[5] < fraction)
    galaxy = torch.stack(
        [unit[6], math.pi * unit[7], ratio, ratio.sqrt(), radius, 0.6 * radius], -1
    )
    return x, y, flux, galaxy


def large_galaxies(x, y, flux, galaxy, shape, fwhm):
    """
    Images of large galaxies, whose centres alone the PSF blurs.

    Parameters
    ----------
    x, y, flux, galaxy : tensor
        From `draw_large_galaxies`.

    shape : tuple of int
        ``(ny, nx)``.

    fwhm : tensor ``(B,)``
        Of the PSF in pixels.

    Returns
    -------
    image : tensor ``(B, ny, nx)``
        Electrons.
    """
    fraction, angle, disk, bulge, disk_radius, bulge_radius = galaxy[:, 0].T
    grid_x, grid_y = _grid(shape, x)
    dx, dy = (grid_x - x[:, :, None, None])[:, 0], (grid_y - y[:, :, None, None])[:, 0]
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    along, across = cos * dx + sin * dy, cos * dy - sin * dx
    soft = (fwhm[:, None, None] / 2.355) ** 2

    def radius_of(ratio, radius):
        q, r = ratio[:, None, None], radius[:, None, None]
        return torch.sqrt(along**2 + (across / q) ** 2 + soft) / r

    def area(ratio, radius):
        return (2 * math.pi * ratio * radius**2)[:, None, None]

    t = radius_of(disk, disk_radius)
    exponential = _DISK**2 * torch.exp(-_DISK * t) / area(disk, disk_radius)
    t = radius_of(bulge, bulge_radius)
    # 7! * 4 / 7.669^8 is the integral of t exp(-7.669 t^(1/4)).
    law = torch.exp(-_BULGE * t**0.25) * _BULGE**8 / (4 * math.factorial(7))
    light = fraction[:, None, None] * exponential
    light = light + (1 - fraction[:, None, None]) * law / area(bulge, bulge_radius)
    return flux[..., None] * light
