# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Artefacts of simulated images: bad pixels, bright stars, trails, cosmic rays.

No artefact is a source of the prior, and an encoder that never saw one takes it for
stars or galaxies. A survey's PSF ends where stars that are not saturated fade; of far
brighter ones one sees the diffraction spikes of the telescope's spider and the light
that mirrors and dust scatter.
"""

import dataclasses
import math

import torch

from bliss_astro.units import FWHM_PER_SIGMA

from ._camera import Draws, along, between

# The ranges of artefacts were chosen to reach beyond what frames of SDSS and HST show.
# Cosmic rays: peak over the noise, largest length and width in pixels, number, and
# FWHM in pixels of PSFs that are as sharp.
_RAY_PEAK, _RAY_LENGTH, _RAY_WIDTH, _N_RAYS = (5.0, 3e3), 7.0, 0.3, 4
_SHARPEST = 2.0
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
# Share of the images in several bands that end at a line, as at a detector's edge, and
# range of the share of their pixels beyond it.
_MASKED_SHARE, _MASKED_WIDTH = 0.08, (0.05, 0.8)


@dataclasses.dataclass(frozen=True)
class BadPixelPrior:
    """
    Distribution of the bad pixels of images.

    Parameters
    ----------
    fraction_of_images : float
        Share of the images that have any of the blemishes below; the
        others have saturated cores only.

    n_columns, n_cosmic_rays, n_blocks : float
        Mean numbers per image of bad columns, cosmic-ray tracks and masked rectangles.

    block_size : int
        Largest side of a masked rectangle in pixels.

    saturation : tuple of float
        Range of the log-uniform full well in electrons; pixels above it are masked.
    """

    fraction_of_images: float = 0.3
    n_columns: float = 0.5
    n_cosmic_rays: float = 2.0
    n_blocks: float = 0.5
    block_size: int = 12
    saturation: tuple[float, float] = (3e4, 3e5)

    def sample_batch(self, data, *, background=None, generator=None):
        """
        Draw the masks of images.

        Parameters
        ----------
        data : tensor ``(B, ny, nx)``
            Images in electrons of one exposure.

        background : tensor ``(B,)``, optional
            Level of the sky in electrons; the full well is at least twice that.

        generator : `torch.Generator`, optional
            Source of randomness on the device of ``data``.

        Returns
        -------
        mask : tensor ``(B, ny, nx)`` of bool
            `True` for blemishes and for pixels above the full well.
        """
        draw = Draws(generator, data.device)
        mask = self._blemishes(draw, data.shape)
        level = draw.log_uniform(self.saturation, len(data), 1, 1)
        if background is not None:
            level = level.maximum(2 * background[:, None, None])
        return mask | (data > level)

    def _blemishes(self, draw, shape):
        n_images, ny, nx = shape
        has_any = draw.unit(n_images) < self.fraction_of_images
        mask = (draw.unit(n_images, 1, nx) < self.n_columns / nx).expand(-1, ny, -1)
        # Tracks start anywhere and run for a few pixels in one direction.
        start = draw.unit(n_images, ny, nx) < self.n_cosmic_rays / (ny * nx)
        step_x = draw.unit(n_images, 1, 1) < 0.5
        for length in range(5):
            moved_x = torch.roll(start, length, 2)
            moved_y = torch.roll(start, (length, length // 2), (1, 2))
            mask = mask | torch.where(step_x, moved_x, moved_y)
        # At most two rectangles.
        present = draw.unit(n_images, 2) < self.n_blocks / 2
        low, side = draw.unit(2, n_images, 2), draw.unit(2, n_images, 2)
        inside = []
        for k, n in enumerate((nx, ny)):
            pixel = torch.arange(n, device=draw.device)
            first = (low[k] * n)[..., None]
            last = first + (1 + side[k] * self.block_size)[..., None]
            inside.append((pixel >= first) & (pixel < last) & present[..., None])
        block = (inside[1][..., :, None] & inside[0][..., None, :]).any(1)
        return (mask | block) & has_any[:, None, None]


def add_artifacts(draw, config, fields, sources, bands, extended):
    """Add bright stars, large galaxies and trails to extended light and sources."""
    n, shape = len(sources.x), extended.shape[1:]
    fwhm, noise = fields.gaussians().fwhm, (fields.variance / fields.depth).sqrt()
    if config.bright_fraction > 0:
        star = draw_bright_stars(draw, n, config.bright_fraction, shape)
        seen = bands.append(draw, sources, fields, *star)
        extended = extended + glare(draw, seen.x, seen.y, seen.flux, shape, bands.n)
    if config.large_fraction > 0:
        share, dark = config.large_fraction, noise[:: bands.n]
        galaxy = draw_large_galaxies(draw, n, share, shape, dark)
        seen = bands.append(draw, sources, fields, *galaxy)
        galaxy = seen.x, seen.y, seen.flux, seen.galaxy
        extended = extended + render_large_galaxies(*galaxy, shape, fwhm)
    if config.trail_fraction > 0:
        trail = trails(draw, len(fields), config.trail_fraction, shape, fwhm)
        extended = extended + trail * noise[:, None, None]
    return extended


def mark_pixels(draw, config, fields, images):
    """Add cosmic rays to single exposures, and saturate the brightest pixels."""
    if config.ray_fraction > 0 and fields.depth == 1:
        shape = images.data.shape[1:]
        rays = cosmic_rays(draw, len(fields), config.ray_fraction, shape)
        some = fields.gaussians().fwhm > _SHARPEST
        images.data = images.data + rays * (some * images.bkg_error)[:, None, None]
    if config.saturated_fraction > 0:
        sky, share = images.background[:, None, None], config.saturated_fraction
        light, mask, noise = images.data - sky, images.mask, images.bkg_error
        light, images.mask = saturate(draw, light, mask, noise, share)
        images.data = light + sky


def mask_part(draw, mask):
    """Mask what lies beyond a line along an axis, in few images ``(B, ny, nx)``."""
    place, side, chosen = draw.unit(3, len(mask), 1)
    width, beyond = along(_MASKED_WIDTH, place), []
    for k, size in enumerate(mask.shape[1:]):
        at = torch.arange(size, device=mask.device) / size
        hidden = torch.where(side < 0.5, at, 1 - at) < width
        beyond.append(hidden & ((2 * chosen / _MASKED_SHARE).floor() == k))
    return mask | beyond[0][:, :, None] | beyond[1][:, None]


def _positions(shape, place, distance):
    """Positions in and around images, up to a distance from them."""
    ny, nx = shape
    x = -distance + place[0] * (nx + 2 * distance)
    return x, -distance + place[1] * (ny + 2 * distance)


def _turned(shape, x, y, angle):
    """Coordinates of pixels along and across a direction through positions."""
    ny, nx = shape
    dx = torch.arange(nx).to(angle) - x
    dy = torch.arange(ny).to(angle)[:, None] - y
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _for_some(render):
    """Let a function of a shape and parts of n images render ``some``; others are 0."""

    def render_some(some, shape, *parts):
        index = some.nonzero()[:, 0]
        drawn = render(shape, *(part[index] for part in parts))
        return drawn.new_zeros(len(some), *shape).index_copy_(0, index, drawn)

    return render_some


def cosmic_rays(draw, n, fraction, shape):
    """Images ``(n, ny, nx)`` of short sharp tracks, in units of the noise."""
    place = draw.unit(6, n, _N_RAYS, 1, 1).movedim(1, 0)
    some = draw.unit(n) < fraction
    return _tracks(some, shape, place)


@_for_some
def _tracks(shape, place):
    place = place.unbind(1)
    x, y = shape[1] * place[0], shape[0] * place[1]
    along, across = _turned(shape, x, y, 2 * math.pi * place[2])
    # Most tracks are short.
    length = _RAY_LENGTH * place[3] ** 2
    beyond = along - along.clamp(min=0).minimum(length)
    track = torch.exp(-0.5 * (across**2 + beyond**2) / _RAY_WIDTH**2)
    # Each of the tracks is there or not with equal probability.
    return (track * between(_RAY_PEAK, place[4]) * (place[5] < 0.5)).sum(1)


def trails(draw, n, fraction, shape, fwhm):
    """
    Images ``(n, ny, nx)`` of straight trails, in units of the noise.

    They are as wide as PSFs of a FWHM ``(n,)`` in pixels, up to twice as wide.
    """
    place = draw.unit(6, n, 1, 1)
    some = place[5, :, 0, 0] < fraction
    return _stripes(some, shape, place.movedim(1, 0), fwhm)


@_for_some
def _stripes(shape, place, fwhm):
    place = place.unbind(1)
    x, y = shape[1] * place[0], shape[0] * place[1]
    _, across = _turned(shape, x, y, math.pi * place[2])
    width = fwhm[:, None, None] / FWHM_PER_SIGMA * (1 + place[3])
    return between(_TRAIL_PEAK, place[4]) * torch.exp(-0.5 * (across / width) ** 2)


def saturate(draw, data, mask, noise, fraction):
    """
    Saturate the brightest pixels of a share of images, without the mask of a survey.

    Where the level is known, pixels above it are masked (`BadPixelPrior`). In other
    images ``(B, ny, nx)`` they are a plateau, rounded where exposures were stacked,
    with bleeding columns above and below, or a hole that is masked with its rim.
    """
    place = draw.unit(6, len(data), 1, 1)
    top = data.masked_fill(mask, 0.0).amax((1, 2), keepdim=True)
    level = top / between(_OVER, place[0])
    some = (level > _LEVEL * noise[:, None, None]) & (place[1] < fraction)
    some = some.flatten().nonzero()[:, 0]
    if len(some) == 0:  # which have no maxima
        return data, mask
    clipped, hidden = _saturated(data[some], level[some], place[:, some])
    hidden = mask[some] | hidden
    return data.index_copy(0, some, clipped), mask.index_copy(0, some, hidden)


def _saturated(data, level, place):
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
    grown = torch.where(place[5] < 0.5, _grown(bled, (3, 3)), bled)
    return clipped, (place[4] < 1 / 3) & grown


def _grown(pixels, size):
    """Pixels within a box around those that are set."""
    padding = tuple(n // 2 for n in size)
    pool = torch.nn.functional.max_pool2d
    return pool(pixels.float(), size, stride=1, padding=padding) > 0


def draw_large_galaxies(draw, n, fraction, shape, noise):
    """
    Draw a galaxy much larger than the PSF for a fraction of the images.

    Returns pixels and electrons ``(n, 1)``, 0 electrons in the other images, and shapes
    ``(n, 1, 6)``, for the noise ``(n,)`` of empty sky in electrons.
    """
    place = draw.unit(8, n, 1)
    x, y = _positions(shape, place, _GALAXY_DISTANCE)
    radius = between(_RADIUS, place[2])
    ratio = 0.15 + 0.85 * place[3]
    brightness = between(_BRIGHTNESS, place[4]) * noise[:, None]
    flux = 2 * math.pi * radius**2 * ratio * brightness * (place[5] < fraction)
    galaxy = [place[6], math.pi * place[7], ratio, ratio.sqrt(), radius, 0.6 * radius]
    return x, y, flux, torch.stack(galaxy, -1)


def render_large_galaxies(x, y, flux, galaxy, shape, fwhm):
    """Images ``(B, ny, nx)`` of large galaxies, whose centres the PSF softens."""
    return _large_galaxies(flux[:, 0] > 0, shape, x, y, flux, galaxy, fwhm)


@_for_some
def _large_galaxies(shape, x, y, flux, galaxy, fwhm):
    fraction, angle, *ratios_and_radii = galaxy[:, 0, :, None, None].unbind(1)
    along, across = _turned(shape, x[..., None], y[..., None], angle)
    soft = (fwhm[:, None, None] / FWHM_PER_SIGMA) ** 2

    def profile(scale, power, integral, ratio, radius):
        t = torch.sqrt(along**2 + (across / ratio) ** 2 + soft) / radius
        area = 2 * math.pi * ratio * radius**2
        return torch.exp(-scale * t**power) / (integral * area)

    # Integrals of t exp(-b t^(1/n)): 1 / b^2 for n = 1, 4 * 7! / b^8 for n = 4.
    of_disk, of_bulge = _DISK**-2, 4 * math.factorial(7) / _BULGE**8
    light = fraction * profile(_DISK, 1.0, of_disk, *ratios_and_radii[::2])
    rest = 1 - fraction
    light = light + rest * profile(_BULGE, 0.25, of_bulge, *ratios_and_radii[1::2])
    return flux[..., None] * light


def draw_bright_stars(draw, n, fraction, shape):
    """Positions and electrons ``(n, 1)`` of a very bright star; 0 in other images."""
    place = draw.unit(4, n, 1)
    x, y = _positions(shape, place, _STAR_DISTANCE)
    flux = between(_STAR_FLUX, place[2])
    return x, y, flux * (place[3] < fraction)


def glare(draw, x, y, flux, shape, n_bands=1):
    """
    Images ``(B, ny, nx)`` of the spikes and halos of bright stars ``(B, 1)``.

    Four spikes at right angles, in any direction, whose light falls with a power of
    the distance, and a round halo; the same in the bands of a scene but for the flux.
    """
    place = draw.unit(7, len(x) // n_bands, 1, 1).repeat_interleave(n_bands, 1)
    some, place = flux[:, 0] > 0, place.movedim(1, 0)
    return _spikes_and_halos(some, shape, x, y, flux, place)


@_for_some
def _spikes_and_halos(shape, x, y, flux, place):
    place, x, y = place.unbind(1), x[..., None], y[..., None]
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
