# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Planes of an image as the network sees them: pixels, filtered ones and bad ones.

The matched filter is one of them, and that of several bands together. For white noise,
the detection of a faint star depends on one number: the image weighted with the PSF. A
network that has to form that sum for any PSF loses a little of it, which counts near
the limit. Any round PSF is nearly a combination of a few Gaussians, and Gaussians are
products of a function of x and one of y: the filter costs a few short convolutions, and
follows a PSF that varies over the image.
"""

import math

import torch
from torch.nn import functional as F

from bliss_astro.psf import GaussianPSF

from ._config import (
    ASINH_KNEE,
    FILTER_RADIUS,
    FILTER_SIGMAS,
    SPECTRA,
    WIDE_RADIUS,
    WIDE_SIGMAS,
)
from ._layers import rows_of_bands, spectral_weights, spread_rows

# Side in tiles of the cells that share a matched filter.
CELL = 4
# Pixels that one product filters; more of them repeat less of their margins, but
# multiply more zeros.
_STRIP = 16
# Least good share of a tile, where no band has any, and least power, where none exists.
_LEAST_GOOD, _LEAST_POWER = 1e-6, 1e-30


@torch.no_grad()
def image_planes(inputs, config, *, margins=(0, 0, 0, 0), reach=0):
    """
    Planes of the bands that any image has, and `spectral_planes` of several, or None.

    The first are a list of bands, the reference first: its place, rows of the images
    that have it, and their planes ``(N, n, ny, nx)``, channels last in memory. They
    have the precision of an autocast region, which is not that of the filters. Margins
    in tiles (above, below, left, right) are cut to at most ``reach`` tiles.
    """
    size, device = config.tile_size, inputs.image.device.type
    half = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if half else inputs.image.dtype
    bands, filtered = [], []
    with torch.autocast(device, enabled=False):
        for place, own in rows_of_bands(inputs if config.bands else inputs.in_band(0)):
            everything = len(own) == len(inputs.image)
            band = inputs.in_band(place, slice(None) if everything else own)
            images, bad = _filtered_images(band, config, margins, reach)
            planes = _compressed(images, bad, dtype)
            planes = planes.contiguous(memory_format=torch.channels_last)
            bands.append((place, own, planes))
            filtered.append((place, own, *images[1:2], bad))
        if len(bands) == 1:
            return bands, None
        weights = trim(spectral_weights(inputs), margins, reach)
        return bands, spectral_planes(filtered, weights, size, dtype)


def _filtered_images(inputs, config, margins, reach):
    """The image of a band, filtered ones, and bad pixels, of whole tiles."""
    size, (ny, nx) = config.tile_size, inputs.image.shape[2:]
    border = (0, -nx % size, 0, -ny % size)
    image = F.pad(inputs.image.flatten(0, 1), border)
    bad = F.pad(inputs.mask.flatten(0, 1), border, value=True)
    images = [image]
    if config.matched_filter:
        images.append(matched_filter(image, inputs, size))
    if config.galaxies:
        images += wide_filters(image, inputs, size)
    *images, bad = (trim(part, margins, reach, size) for part in (*images, bad))
    return images, bad


def trim(value, margins, reach, size=1):
    """Cut maps to margins of at most ``reach`` tiles; constants have none."""
    top, bottom, left, right = (size * max(m - reach, 0) for m in margins)
    ny, nx = value.shape[-2:]
    value = value[..., top : ny - bottom, :] if ny > 1 else value
    return value[..., left : nx - right] if nx > 1 else value


def filter_coefficients(psf):
    """Weights of the Gaussians that make a filter, over its noise."""
    height, variance, *_ = psf.components
    sigma2 = height.new_tensor(FILTER_SIGMAS) ** 2
    gram = 1 / (2 * math.pi * (sigma2[:, None] + sigma2))
    product = variance[..., None] / (variance[..., None] + sigma2)
    right = (height[..., None] * product).sum(-2)
    # In double precision, or the rounding would depend on the number of images.
    inverse = torch.linalg.inv_ex(gram.double()).inverse  # without a wait of the host
    coefficients = (right.double() @ inverse).to(right)
    power = (coefficients * right).sum(-1, keepdim=True)
    return coefficients * power.clamp(min=1e-8).rsqrt()


def matched_filter(image, inputs, tile_size):
    """Signal-to-noise ratio of a faint star at each pixel, ``(B F, ny, nx)``."""
    psf, radius = inputs.psf.flatten(0, 1), inputs.normalization_radius
    n_rows, n_columns = psf.shape[2:]
    varies = max(n_rows, n_columns) > 1
    if varies:
        psf = F.avg_pool2d(psf, CELL, ceil_mode=True)
    psf = GaussianPSF.from_shape(psf.movedim(1, -1), normalization_radius=radius)
    weight = filter_coefficients(psf).movedim(-1, 1)
    if varies:
        weight = weight.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
        weight = weight[..., :n_rows, :n_columns]
    weight = weight * inputs.noise_excess().flatten(0, 1).rsqrt()
    out = torch.zeros_like(image)
    filters = _gaussian_filters(image, FILTER_SIGMAS, FILTER_RADIUS)
    for own, filtered in zip(weight.unbind(1), filters, strict=True):
        out += _scale_by_tile(filtered, own, tile_size)
    return out


def wide_filters(image, inputs, tile_size):
    """Signal-to-noise ratios of faint, large sources at each pixel."""
    excess = inputs.noise_excess()[:, :, 0].flatten(0, 1).rsqrt()
    filters = _gaussian_filters(image, WIDE_SIGMAS, WIDE_RADIUS)
    return [
        _scale_by_tile(filtered, 2 * sigma * math.sqrt(math.pi) * excess, tile_size)
        for sigma, filtered in zip(WIDE_SIGMAS, filters, strict=True)
    ]


def spectral_planes(bands, weights, tile_size, dtype):
    """
    Additions of further bands to the matched filter, ``(B, 2 K, ny, nx)``.

    For each of K spectra, the compressed signal-to-noise ratio of a faint star of that
    spectrum in all bands, less that in the reference band: 0 where no other band is.
    Bands are places, rows of images, their filtered images and bad pixels.
    """
    n, by_row = len(weights), []
    shares = torch.zeros_like(weights[:, :, 0, 0, 0])[..., None, None, None]
    shares = shares.repeat(1, 1, 1, *(m // tile_size for m in bands[0][3].shape[1:]))
    for place, rows, filtered, bad in bands:
        good = 1 - F.avg_pool2d(bad.to(filtered), tile_size)
        shares[rows, place, 0] = good.clamp(min=_LEAST_GOOD)
        filtered = spread_rows(filtered, rows, n)
        by_row.append((place, filtered.unflatten(1, (-1, tile_size))))
    weights = torch.where(shares > 0, weights * shares, 0)
    power = weights.square().sum(1, keepdim=True)
    weights = weights / power.clamp(min=_LEAST_POWER).sqrt()
    weights = weights.repeat_interleave(tile_size, -1)[..., None, :]
    reference = bands[0][2]
    alone = list(_asinh_scales(reference))
    shape = (n, 2 * len(SPECTRA), *reference.shape[1:])
    kind = {'dtype': dtype, 'memory_format': torch.channels_last}
    planes = torch.empty(shape, device=reference.device, **kind)
    for index in range(len(SPECTRA)):
        total = torch.zeros_like(by_row[0][1])
        for place, filtered in by_row:
            total.addcmul_(weights[:, place, index], filtered)
        for scale, value in enumerate(_asinh_scales(total.flatten(1, 2))):
            planes[:, 2 * index + scale] = value.sub_(alone[scale])
    return planes


def _gaussian_filters(image, sigmas, radius):
    """Yield the image convolved with Gaussians of unit flux, cut off at a radius."""
    step = torch.arange(-radius, radius + 1, device=image.device)
    sigma = image.new_tensor(sigmas)[:, None]
    profiles = torch.exp(-0.5 * (step / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    lag = torch.arange(_STRIP + 2 * radius, device=image.device)
    lag = lag - torch.arange(_STRIP, device=image.device)[:, None]
    bands = profiles[:, lag.clamp(0, 2 * radius)] * ((lag >= 0) & (lag <= 2 * radius))
    ny, nx = image.shape[1:]
    border = (radius, radius + -nx % _STRIP, radius, radius + -ny % _STRIP)
    padded = F.pad(image, border)[:, None]
    # Channels last in memory, and so is the result: strips of rows that are whole.
    *_, height, width = padded.shape
    padded = padded.as_strided(padded.shape, (height * width, 1, width, 1))
    for band in bands[:, :, None]:
        # Strips are convolved with one banded matrix: a processor's fastest operation.
        rows = F.conv2d(padded, band[:, :, None], stride=(1, _STRIP))
        rows = rows.permute(0, 2, 3, 1).flatten(2)[:, None]
        filtered = F.conv2d(rows, band[..., None], stride=(_STRIP, 1))
        yield filtered.transpose(1, 2).flatten(1, 2)[:, :ny, :nx]


def _scale_by_tile(image, weight, tile_size):
    """Multiply images ``(B, ny, nx)`` in place by constants or maps ``(B, h, w)``."""
    if weight.shape[1:] == (1, 1):
        return image.mul_(weight)
    if weight.shape[-1] > 1:
        weight = weight.repeat_interleave(tile_size, -1)
    image.unflatten(1, (-1, tile_size)).mul_(weight[:, :, None])
    return image


def _compressed(images, bad, dtype):
    """
    Images at two scales each, bad pixels after the first: ``(B, 2 N + 1, ny, nx)``.

    Linear near the noise, logarithmic far above it.
    """
    shape = (len(bad), 2 * len(images) + 1, *bad.shape[1:])
    planes = images[0].new_empty(shape, dtype=dtype)
    planes[:, 2] = bad
    for index, image in enumerate(images):
        own = planes[:, 2 * index + (index > 0) :]
        for scale, value in enumerate(_asinh_scales(image)):
            own[:, scale] = value
    return planes


def _asinh_scales(image):
    """Yield the image at its two scales."""
    size = image.abs().clamp_(max=1e18)  # whose square is still a number
    for scale in range(2):
        size = size / ASINH_KNEE if scale else size
        yield size.square().add_(1).sqrt_().add_(size).log_().copysign_(image)
