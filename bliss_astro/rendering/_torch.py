# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars drawn in batches by matrix products.
"""

import math

import torch

from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, mixture_of_shape

from ._profiles import NEGLIGIBLE

# Numbers of a processor's cache, some megabytes of single precision, and Gaussians of
# a PSF.
_CACHE_ELEMENTS, _N_GAUSSIANS = 4_000_000, 19


def render_stars(
    shape, x, y, flux, *, size, radius=DEFAULT_NORMALIZATION_RADIUS, tolerance=1e-6
):
    """
    Draw batches of star fields, without stamps and without truncation.

    Each Gaussian of the PSF's mixture is a product of a function of x and a
    function of y, so an image is ``(ny, S K) @ (S K, nx)``.  An inclined
    ellipse adds the factor ``exp(c x y / v)``, whose power series keeps
    that form.

    Parameters
    ----------
    shape : tensor ``(B, 8)``
        PSF of each image, see `bliss_astro.psf.SHAPE_NAMES`.

    x, y : tensor ``(B, S)``
        Centres of the stars in pixels; stars may lie outside the image.

    flux : tensor ``(B, S)``
        Fluxes within the normalisation radius; zero for unused places.

    size : tuple of int
        ``(ny, nx)`` of the images.

    radius : float, optional
        The normalisation radius in pixels.

    tolerance : float, optional
        Error allowed relative to the peak; looser is faster.

    Returns
    -------
    images : tensor ``(B, ny, nx)``
        In the unit of ``flux``.  No star is cut off at any radius; the error
        against the exact profile is below 1e-5 of the peak.
    """
    # Pieces whose factors fit into the processor's cache.
    per_image = x.shape[1] * _N_GAUSSIANS * sum(size)
    piece = len(x) if x.is_cuda else max(1, _CACHE_ELEMENTS // max(1, per_image))
    images = []
    for parts in zip(*(v.split(piece) for v in (shape, x, y, flux)), strict=True):
        fy, fx = star_factors(*parts, size=size, radius=radius, tolerance=tolerance)
        images.append(fy.transpose(1, 2) @ fx)
    return torch.cat(images)


def star_factors(shape, x, y, flux, *, size, radius, tolerance):
    """
    Matrices along y ``(B, M, ny)`` and x ``(B, M, nx)`` of star fields.

    ``along_y.transpose(1, 2) @ along_x`` are the images of `render_stars`. What is
    linear and acts along one axis, such as an interpolation, may be applied to these.
    """
    step = 0.7 if tolerance < 1e-5 else 1.0
    height, variance = mixture_of_shape(shape, radius=radius, step=step)  # (B, K)
    e1, e2 = shape[:, 6:7], shape[:, 7:8]
    inclination = e2 / torch.sqrt((1 - e1) * (1 + e1))  # (B, 1)
    order = _series_order(float(inclination.abs().max()), tolerance)
    norm = torch.rsqrt(1 - e1**2 - e2**2)
    full = (*x.shape, height.shape[-1])
    weight = (flux[..., None] * height[:, None])[..., None]  # (B, S, K, 1)
    if order:
        # exp(c x y) with x, y in units of the axis' sigma.
        # 21! and more are no integers of torch's.
        double = inclination.double()
        terms = [double**n / float(math.factorial(n)) for n in range(order + 1)]
        terms = [term.to(weight.dtype) for term in terms]
        weight = weight * torch.stack(terms, -1)[:, None]
    factors = []
    for n, place, stretch in zip(size, (y, x), (1 + e1, 1 - e1), strict=True):
        grid = torch.arange(n, device=x.device, dtype=x.dtype)
        own = (variance / (stretch * norm))[:, None].expand(full)
        factors.append(_factors(grid - place[..., None], own, order))
    along_y, along_x = factors
    return (along_y * weight[..., None]).flatten(1, 3), along_x.flatten(1, 3)


def _series_order(inclination, tolerance):
    # The remainder of exp(c t) exp(-t) after the n-th term peaks at
    # t = n + 1, where it is about c^(n+1) / sqrt(2 pi (n+1)).
    for n in range(1, 41):
        if inclination**n / math.sqrt(2 * math.pi * n) < tolerance:
            return n - 1
    return 40


def _factors(offset, variance, order):
    # offset (B, S, N), variance (B, S, K) -> (B, S, K, order + 1, N)
    log_gauss = (offset**2)[..., None, :] * (-0.5 / variance[..., None])
    # Denormal numbers, here or in products, are a hundred times slower.
    log_gauss = torch.nn.functional.threshold(
        log_gauss, NEGLIGIBLE, -math.inf, inplace=True
    )
    gauss = torch.exp(log_gauss)
    if order == 0:
        return gauss[..., None, :]
    scaled = offset[..., None, :] * torch.rsqrt(variance)[..., None]
    powers = gauss.new_empty((*gauss.shape[:-1], order + 1, gauss.shape[-1]))
    powers[..., 0, :] = gauss
    for n in range(order):
        torch.mul(powers[..., n, :], scaled, out=powers[..., n + 1, :])
    return powers
