# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is in images and no source of the prior: rays, trails, large galaxies, glare.

To these come cores that are saturated.  None of them is asked for.  An encoder that
never saw one takes it for stars or for rows of galaxies.  A survey's PSF is measured
on stars that are not saturated, and ends where these fade; of stars thousands of times
brighter one sees the diffraction spikes of the telescope's spider and the light
scattered by mirrors and dust.
"""

import math

import torch

__all__ = [
    'cosmic_rays',
    'draw_bright_stars',
    'draw_large_galaxies',
    'glare',
    'large_galaxies',
    'saturate',
    'trails',
]

# Cosmic rays: peak over the noise, length and width in pixels, most in an image.
_RAY_PEAK, _RAY_LENGTH, _RAY_WIDTH, _MOST_RAYS = (5.0, 3e3), (0.0, 7.0), 0.3, 4
# Trails of satellites and aircraft: ridge over the noise.
_TRAIL_PEAK = (0.3, 30.0)
# Large galaxies: half-light radius in pixels, mean surface brightness within it in
# units of the sky's noise, and how far outside of the image they may lie.
_RADIUS, _BRIGHTNESS, _BEYOND = (8.0, 60.0), (0.3, 30.0), 30.0
# Scale of the exponential disk and of the de Vaucouleurs law, in half-light radii.
_DISK, _BULGE = 1.678, 7.669

# Electrons of the stars, and how far outside of the image they may lie.
_STAR_FLUX = (2e5, 3e7)
_STAR_BEYOND = 40.0
# Light in a spike at a distance of 30 pixels, per pixel, and in a halo at its
# centre, over that of the star: ranges around what SDSS's r frames show.
_SPIKE = (5e-6, 1e-4)
_HALO = (1e-6, 5e-5)
# Saturated cores: the brightest pixel over the level, how sharply the response ends
# (exponent), how far charge bleeds along columns (each in a quarter of the images,
# in the others not), and the noises that the level is above.
_OVER, _SHARPNESS, _BLEEDS, _FULL = (1.5, 60.0), (4.0, 40.0), (4, 10), 30.0


def _between(pair, unit):
    low, high = pair
    return low * (high / low) ** unit


def _around(shape, unit, beyond):
    """Places in and around images of a shape, of the first two of ``unit``."""
    ny, nx = shape
    x = -beyond + unit[0] * (nx + 2 * beyond)
    return x, -beyond + unit[1] * (ny + 2 * beyond)


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


def saturate(data, mask, noise, fraction, *, generator):
    """
    Images of which the brightest pixels are not what the sky sent.

    Whoever knows the level masks them (`~bliss_astro.exposures.BadPixelPrior`); in
    the image of a stranger they are a plateau, rounded where exposures were stacked,
    with columns of charge above and below, or a hole that is masked with its rim.

    Parameters
    ----------
    data : tensor ``(B, ny, nx)``
        Images less their background.

    mask : tensor ``(B, ny, nx)`` of bool
        Pixels that are masked already.

    noise : tensor ``(B,)``
        Of the sky.

    fraction : float or tensor ``(B,)``
        Share of the images that have such pixels, if anything is bright enough.

    generator : `torch.Generator`
        On the device.

    Returns
    -------
    data, mask : tensor ``(B, ny, nx)``
        Likewise.
    """
    unit = torch.rand(6, len(data), 1, 1, generator=generator, device=data.device)
    top = data.masked_fill(mask, 0.0).amax((1, 2), keepdim=True)
    level = top / _between(_OVER, unit[0])
    some = (level > _FULL * noise[:, None, None]) & (
        unit[1] < torch.as_tensor(fraction, device=data.device).reshape(-1, 1, 1)
    )
    level = torch.where(some, level, torch.inf)
    over = data.clamp(min=0) / level
    power = _between(_SHARPNESS, unit[2])
    # The same on both sides of the level, without powers of large numbers.
    ratio = torch.minimum(over, 1 / over.clamp(min=1.0))
    clipped = data / over.clamp(min=1.0) * (1 + ratio**power) ** (-1 / power)
    full = over > 1
    bled = full
    for k, size in enumerate(_BLEEDS):
        own = (4 * unit[3]).long() == k
        grown = torch.nn.functional.max_pool2d(
            full.float(), (2 * size + 1, 1), stride=1, padding=(size, 0)
        )
        bled = bled | (own & (grown > 0))
    clipped = torch.where(bled & ~full, level, clipped)
    hidden = (unit[4] < 1 / 3) & some
    rim = torch.nn.functional.max_pool2d(bled.float(), 3, stride=1, padding=1) > 0
    grown = torch.where(unit[5] < 0.5, rim, bled)
    return clipped, mask | (hidden & grown)


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
    x, y = _around(shape, unit, _BEYOND)
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
    x, y = _around(shape, unit, _STAR_BEYOND)
    flux = _between(_STAR_FLUX, unit[2])
    return x, y, flux * (unit[3] < fraction)


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
