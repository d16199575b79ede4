# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars drawn by matrix products.
"""

import math

import numpy as np
import torch

from bliss_astro._devices import choose_device
from bliss_astro.psf._mixture import (
    DEFAULT_NORMALIZATION_RADIUS,
    mixture_of_shape,
)

__all__ = ['TorchStarRenderer', 'render_stars']


# Some megabytes of single precision.
_CACHE_ELEMENTS = 4_000_000
_N_GAUSSIANS = 19

# Logarithm of what is taken as zero of a Gaussian of unit height.
_NEGLIGIBLE = -40.0


def _series_order(inclination: float, tolerance: float) -> int:
    # The remainder of exp(c t) exp(-t) after the n-th term peaks at
    # t = n + 1, where it is about c^(n+1) / sqrt(2 pi (n+1)).
    order = 0
    while order < 40:
        remainder = inclination ** (order + 1) / math.sqrt(2 * math.pi * (order + 1))
        if remainder < tolerance:
            break
        order += 1
    return order


def _factors(offset: torch.Tensor, variance: torch.Tensor, order: int) -> torch.Tensor:
    # offset (B, S, N), variance (B, S, K) -> (B, S, K, order + 1, N)
    half = -0.5 / variance[..., None]
    log_gauss = (offset**2)[..., None, :] * half
    # Denormal numbers, here or in products, are a hundred times slower.
    log_gauss = torch.nn.functional.threshold(
        log_gauss, _NEGLIGIBLE, -math.inf, inplace=True
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


def render_stars(
    shape: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    flux: torch.Tensor,
    *,
    size: tuple[int, int],
    radius: float = DEFAULT_NORMALIZATION_RADIUS,
    tolerance: float = 1e-6,
) -> torch.Tensor:
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
    parts = (shape, x, y, flux)
    # Pieces whose factors fit into the processor's cache.
    per_image = x.shape[1] * _N_GAUSSIANS * sum(size)
    piece = max(1, _CACHE_ELEMENTS // max(1, per_image)) if not x.is_cuda else len(x)
    images = []
    for piece_of in zip(*(part.split(piece) for part in parts), strict=True):
        fy, fx = star_factors(*piece_of, size=size, radius=radius, tolerance=tolerance)
        images.append(fy.transpose(1, 2) @ fx)
    return torch.cat(images)


def star_factors(shape, x, y, flux, *, size, radius, tolerance):
    """
    The matrices whose product is a star field.

    Parameters
    ----------
    shape, x, y, flux, size, radius, tolerance
        As in `render_stars`.

    Returns
    -------
    along_y, along_x : tensor ``(B, M, ny)``, ``(B, M, nx)``
        ``along_y.transpose(1, 2) @ along_x`` are the images.  What is linear
        and acts along one axis, such as an interpolation, may be applied to
        these instead.
    """
    step = 0.7 if tolerance < 1e-5 else 1.0
    height, variance = mixture_of_shape(shape, radius=radius, step=step)  # (B, K)
    e1, e2 = shape[:, 6:7], shape[:, 7:8]
    inclination = e2 / torch.sqrt((1 - e1) * (1 + e1))  # (B, 1)
    order = _series_order(float(inclination.abs().max()), tolerance)
    norm = torch.rsqrt(1 - e1**2 - e2**2)
    ny, nx = size
    grid_x = torch.arange(nx, device=x.device, dtype=x.dtype)
    grid_y = torch.arange(ny, device=x.device, dtype=x.dtype)
    full = (*x.shape, height.shape[-1])
    var_x, var_y = variance / ((1 - e1) * norm), variance / ((1 + e1) * norm)
    fx = _factors(grid_x - x[..., None], var_x[:, None].expand(full), order)
    fy = _factors(grid_y - y[..., None], var_y[:, None].expand(full), order)
    weight = (flux[..., None] * height[:, None])[..., None]  # (B, S, K, 1)
    if order:
        # exp(c x y) with x, y in units of the axis' sigma.
        # 21! and more are no integers of torch's.
        double = inclination.double()
        terms = [double**n / float(math.factorial(n)) for n in range(order + 1)]
        terms = [term.to(weight.dtype) for term in terms]
        weight = weight * torch.stack(terms, -1)[:, None]
    fy = (fy * weight[..., None]).flatten(1, 3)
    return fy, fx.flatten(1, 3)


class TorchStarRenderer:
    """
    The fast twin of `GalSimStarRenderer`, behind the same interface.

    Parameters
    ----------
    device : str or `torch.device`, optional
        Where to draw.

    dtype : `torch.dtype`, optional
        Single precision by default.
    """

    def __init__(self, *, device='cpu', dtype=torch.float32):
        self.device = choose_device(device)
        self.dtype = dtype

    def __repr__(self):
        return f'TorchStarRenderer(device={str(self.device)!r}, dtype={self.dtype})'

    def render(self, psf, x, y, flux, shape):
        """
        Draw one star field.

        Parameters
        ----------
        psf : `~bliss_astro.psf.PSFModel`
            The PSF, which already contains the pixel.

        x, y : array_like ``(n,)``
            Centres in 0-based pixels.

        flux : array_like ``(n,)``
            Fluxes within the PSF's normalisation radius.

        shape : tuple of int
            ``(ny, nx)`` of the image.

        Returns
        -------
        image : 2D `~numpy.ndarray`
            The image in the unit of ``flux``.
        """
        x, y, flux = (
            torch.as_tensor(np.atleast_1d(np.asarray(v, float)))
            .to(self.device, self.dtype)
            .reshape(1, -1)
            for v in (x, y, flux)
        )
        vector = torch.as_tensor(np.asarray(psf.shape_vector, float))
        image = render_stars(
            vector.to(self.device, self.dtype)[None],
            x,
            y,
            flux,
            size=shape,
            radius=float(psf.normalization_radius),
        )
        return image[0].cpu().numpy()
