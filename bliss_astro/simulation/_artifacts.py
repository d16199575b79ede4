# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Artefacts in images: cosmic rays, trails, large galaxies, glare, saturated cores.

None of them is a source of the prior, and an encoder that never saw one takes it for
stars or for rows of galaxies.  A survey's PSF is measured on stars that are not
saturated, and ends where these fade; of stars thousands of times brighter one sees
the diffraction spikes of the telescope's spider and the light scattered by mirrors
and dust.
"""

import math

import torch

from bliss_astro.units import FWHM_PER_SIGMA

from ._draws import between, unit

__all__ = [
    'cosmic_rays',
    'draw_bright_stars',
    'draw_large_galaxies',
    'glare',
    'render_large_galaxies',
    'saturate',
    'trails',
]

# The ranges below were chosen to reach beyond what frames of SDSS and HST show.
# Cosmic rays: peak over the noise, largest length and width in pixels, number.
_RAY_PEAK, _RAY_LENGTH, _RAY_WIDTH, _N_RAYS = (5.0, 3e3), 7.0, 0.3, 4
# Trails of satellites and aircraft: ridge over the noise.
_TRAIL_PEAK = (0.3, 30.0)
# Large galaxies: half-light radius in pixels, mean surface brightness within it in
# units of the sky's noise, and largest distance from the image in pixels.
_RADIUS, _BRIGHTNESS, _GALAXY_DISTANCE = (8.0, 60.0), (0.3, 30.0), 30.0
# Scales of the exponential disk and of the de Vaucouleurs law: b_n of their Sersic
# profiles exp(-b t^(1/n)) with the half-light radius at t = 1.
_DISK, _BULGE = 1.678, 7.669
# Bright stars: electrons, and largest distance from the image in pixels.
_STAR_FLUX, _STAR_DISTANCE = (2e5, 3e7), 40.0
# Light in a spike at a distance of 30 pixels, per pixel, and in a halo at its
# centre, over that of the star: ranges around those of SDSS's r frames.
_SPIKE, _HALO = (5e-6, 1e-4), (1e-6, 5e-5)
# Saturated cores: brightest pixel over the level, exponent of the end of the
# response, lengths in pixels of bleeding columns (each in a quarter of the images,
# none in the others), and least level over the noise.
_OVER, _SHARPNESS, _BLEEDING, _LEVEL = (1.5, 60.0), (4.0, 40.0), (4, 10), 30.0


def _positions(shape, place, distance):
    """Positions in and around images, up to a distance from them."""
    ny, nx = shape
    x = -distance + place[0] * (nx + 2 * distance)
    return x, -distance + place[1] * (ny + 2 * distance)


def _turned(shape, x, y, angle):
    """Coordinates of pixels along and across a direction through positions."""
    ny, nx = shape
    like = {'device': angle.device, 'dtype': angle.dtype}
    dx = torch.arange(nx, **like) - x
    dy = torch.arange(ny, **like)[:, None] - y
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * dx + sin * dy, cos * dy - sin * dx


def cosmic_rays(n, fraction, shape, *, generator):
    """Images ``(n, ny, nx)`` of short sharp tracks, in units of the noise."""
    place = unit(6, n, _N_RAYS, 1, 1, generator=generator)
    some = unit(n, 1, 1, 1, generator=generator) < fraction
    x, y = shape[1] * place[0], shape[0] * place[1]
    along, across = _turned(shape, x, y, 2 * math.pi * place[2])
    # Most tracks are short.
    length = _RAY_LENGTH * place[3] ** 2
    beyond = along - along.clamp(min=0).minimum(length)
    track = torch.exp(-0.5 * (across**2 + beyond**2) / _RAY_WIDTH**2)
    # Each of the tracks is there or not with equal probability.
    present = some & (place[5] < 0.5)
    return (track * between(_RAY_PEAK, place[4]) * present).sum(1)


def trails(n, fraction, shape, fwhm, *, generator):
    """
    Images ``(n, ny, nx)`` of straight trails, in units of the noise.

    They are as wide as PSFs of a FWHM ``(n,)`` in pixels, up to twice as wide.
    """
    place = unit(6, n, 1, 1, generator=generator)
    x, y = shape[1] * place[0], shape[0] * place[1]
    _, across = _turned(shape, x, y, math.pi * place[2])
    width = fwhm[:, None, None] / FWHM_PER_SIGMA * (1 + place[3])
    peak = between(_TRAIL_PEAK, place[4]) * (place[5] < fraction)
    return peak * torch.exp(-0.5 * (across / width) ** 2)


def saturate(data, mask, noise, fraction, *, generator):
    """
    Saturate the brightest pixels of images, without the mask of a survey.

    Where the level is known, pixels above it are masked (`BadPixelPrior`). In other
    images they are a plateau, rounded where exposures were stacked, with bleeding
    columns above and below, or a hole that is masked with its rim.

    Parameters
    ----------
    data : tensor ``(B, ny, nx)``
        Images less their background.

    mask : tensor ``(B, ny, nx)`` of bool
        Pixels that are masked already.

    noise : tensor ``(B,)``
        Noise of empty sky.

    fraction : float
        Share of the images that have such pixels, if anything is bright enough.

    generator : `torch.Generator`
        Source of randomness.

    Returns
    -------
    data, mask : tensor ``(B, ny, nx)``
        Images and their bad pixels.
    """
    place = unit(6, len(data), 1, 1, generator=generator, device=data.device)
    top = data.masked_fill(mask, 0.0).amax((1, 2), keepdim=True)
    level = top / between(_OVER, place[0])
    some = (level > _LEVEL * noise[:, None, None]) & (place[1] < fraction)
    level = torch.where(some, level, torch.inf)
    over = data.clamp(min=0) / level
    power = between(_SHARPNESS, place[2])
    # The same on both sides of the level, without powers of large numbers.
    ratio = torch.minimum(over, 1 / over.clamp(min=1.0))
    clipped = data / over.clamp(min=1.0) * (1 + ratio**power) ** (-1 / power)
    full = over > 1
    bled = full
    for k, size in enumerate(_BLEEDING):
        chosen = (4 * place[3]).long() == k
        bled = bled | (chosen & _grown(full, (2 * size + 1, 1)))
    clipped = torch.where(bled & ~full, level, clipped)
    hidden = (place[4] < 1 / 3) & some
    grown = torch.where(place[5] < 0.5, _grown(bled, (3, 3)), bled)
    return clipped, mask | (hidden & grown)


def _grown(pixels, size):
    """Pixels within a box around those that are set."""
    padding = tuple(n // 2 for n in size)
    pool = torch.nn.functional.max_pool2d
    return pool(pixels.float(), size, stride=1, padding=padding) > 0


def draw_large_galaxies(n, fraction, shape, noise, *, generator):
    """
    Draw a galaxy much larger than the PSF for a fraction of the images.

    Parameters
    ----------
    n : int
        Number of images B.

    fraction : float
        Share of them that have one.

    shape : tuple of int
        ``(ny, nx)`` of the images.

    noise : tensor ``(B,)``
        Noise of empty sky in electrons.

    generator : `torch.Generator`
        Source of randomness.

    Returns
    -------
    x, y, flux : tensor ``(B, 1)``
        Pixels and electrons; 0 electrons in the other images.

    galaxy : tensor ``(B, 1, 6)``
        Shapes in the order of ``GALAXY_SHAPE_NAMES``, radii in pixels.
    """
    place = unit(8, n, 1, generator=generator)
    x, y = _positions(shape, place, _GALAXY_DISTANCE)
    radius = between(_RADIUS, place[2])
    ratio = 0.15 + 0.85 * place[3]
    brightness = between(_BRIGHTNESS, place[4]) * noise[:, None]
    flux = 2 * math.pi * radius**2 * ratio * brightness * (place[5] < fraction)
    galaxy = torch.stack(
        [place[6], math.pi * place[7], ratio, ratio.sqrt(), radius, 0.6 * radius], -1
    )
    return x, y, flux, galaxy


def render_large_galaxies(x, y, flux, galaxy, shape, fwhm):
    """Images ``(B, ny, nx)`` of large galaxies, whose centres the PSF softens."""
    fraction, angle, disk, bulge, disk_radius, bulge_radius = galaxy[
        :, 0, :, None, None
    ].unbind(1)
    along, across = _turned(shape, x[..., None], y[..., None], angle)
    soft = (fwhm[:, None, None] / FWHM_PER_SIGMA) ** 2

    def profile(scale, power, integral, ratio, radius):
        t = torch.sqrt(along**2 + (across / ratio) ** 2 + soft) / radius
        area = 2 * math.pi * ratio * radius**2
        return torch.exp(-scale * t**power) / (integral * area)

    # Integrals of t exp(-b t^(1/n)): 1 / b^2 for n = 1, 4 * 7! / b^8 for n = 4.
    of_disk, of_bulge = _DISK**-2, 4 * math.factorial(7) / _BULGE**8
    light = fraction * profile(_DISK, 1.0, of_disk, disk, disk_radius)
    rest = 1 - fraction
    light = light + rest * profile(_BULGE, 0.25, of_bulge, bulge, bulge_radius)
    return flux[..., None] * light


def draw_bright_stars(n, fraction, shape, *, generator):
    """Positions and electrons ``(n, 1)`` of a very bright star; 0 in other images."""
    place = unit(4, n, 1, generator=generator)
    x, y = _positions(shape, place, _STAR_DISTANCE)
    flux = between(_STAR_FLUX, place[2])
    return x, y, flux * (place[3] < fraction)


def glare(x, y, flux, shape, *, generator):
    """
    Images ``(B, ny, nx)`` of the spikes and halos of bright stars ``(B, 1)``.

    Four spikes at right angles, in any direction, whose light falls with a power of
    the distance, and a round halo.
    """
    place = unit(7, len(x), 1, 1, generator=generator)
    x, y = x[..., None], y[..., None]
    along, across = _turned(shape, x, y, 0.5 * math.pi * place[0])
    power = 0.8 + 1.4 * place[1]
    width = 0.8 + 1.6 * place[2]
    image = 0
    for u, v in ((along, across), (across, along)):
        fall = ((u.abs() + 5) / 35) ** -power
        image = image + fall * torch.exp(-0.5 * (v / width) ** 2)
    image = image * between(_SPIKE, place[3])
    core = 10 + 20 * place[4]
    halo = (1 + (along**2 + across**2) / core**2) ** -(1 + place[5])
    return flux[..., None] * (image + between(_HALO, place[6]) * halo)
