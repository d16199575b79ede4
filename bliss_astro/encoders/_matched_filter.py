# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Matched filter of the image with its PSF, as a channel of the network.

For white noise, the detection of a faint star depends on one number: the image
weighted with the PSF. A network that has to form that sum for any PSF loses a little
of it, which counts near the limit; so the sum is one of its inputs.

Any round PSF is nearly a combination of a few Gaussians, and Gaussians are products
of a function of x and one of y: the filter costs a few short convolutions, and
follows a PSF that varies over the image.
"""

import math

import torch

from bliss_astro.psf._mixture import mixture_of_shape

from ._normalization import FILTER_RADIUS, FILTER_SIGMAS, WIDE_RADIUS, WIDE_SIGMAS


def filter_coefficients(shape, *, radius):
    """Weights of the Gaussians that make a filter, over its noise."""
    height, variance = mixture_of_shape(shape, radius=radius)
    sigma2 = shape.new_tensor(FILTER_SIGMAS) ** 2
    gram = 1 / (2 * math.pi * (sigma2[:, None] + sigma2))
    product = variance[..., None] / (variance[..., None] + sigma2)
    right = (height[..., None] * product).sum(-2)
    inverse = torch.linalg.inv(gram.double()).to(gram)
    coefficients = right @ inverse
    power = (coefficients * right).sum(-1, keepdim=True)
    return coefficients * power.clamp(min=1e-8).rsqrt()


def matched_filter(image, inputs, tile_size):
    """Signal-to-noise ratio of a faint star at each pixel, ``(B, ny, nx)``."""
    shape = inputs.psf.movedim(1, -1)
    weight = filter_coefficients(shape, radius=inputs.normalization_radius)
    weight = weight.movedim(-1, 1) * inputs.noise_excess().rsqrt()
    if weight.shape[2] > 1 or weight.shape[3] > 1:
        rows, columns = (n // tile_size for n in image.shape[1:])
        weight = _at_pixels(weight.expand(-1, -1, rows, columns), tile_size)
    out = torch.zeros_like(image)
    for s, filtered in enumerate(
        _gaussian_filters(image, FILTER_SIGMAS, FILTER_RADIUS)
    ):
        out += weight[:, s] * filtered
    return out


def wide_filters(image, inputs, tile_size):
    """Signal-to-noise ratios of faint, large sources at each pixel."""
    excess = inputs.noise_excess().rsqrt()
    if excess.shape[2] > 1 or excess.shape[3] > 1:
        excess = _at_pixels(excess, tile_size)
    filters = _gaussian_filters(image, WIDE_SIGMAS, WIDE_RADIUS)
    return [
        2 * sigma * math.sqrt(math.pi) * excess[:, 0] * filtered
        for sigma, filtered in zip(WIDE_SIGMAS, filters, strict=True)
    ]


def _at_pixels(value, tile_size):
    return value.repeat_interleave(tile_size, 2).repeat_interleave(tile_size, 3)


def _gaussian_filters(image, sigmas, radius):
    """Yield the image convolved with Gaussians of unit flux, cut off at a radius."""
    step = torch.arange(-radius, radius + 1, device=image.device)
    sigma = image.new_tensor(sigmas)[:, None]
    profiles = torch.exp(-0.5 * (step / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    # Products with banded matrices: a processor's fastest operation.
    ny, nx = image.shape[1:]
    along_x = _band(profiles, nx)
    along_y = along_x if nx == ny else _band(profiles, ny)
    for y, x in zip(along_y, along_x, strict=True):
        yield y @ image @ x


def _band(profiles, n):
    radius = profiles.shape[1] // 2
    lag = torch.arange(n, device=profiles.device)
    lag = (lag[:, None] - lag).abs()
    inside = lag <= radius
    index = radius + lag.clamp(max=radius)
    return profiles[:, index] * inside
