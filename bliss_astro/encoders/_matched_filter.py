# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The matched filter, as a channel for a network.

Whether there is a faint star at a place is, for white noise, a matter of
one number: the image weighted with the PSF.  Layers that must make up that
sum for whatever PSF they are told lose a little of it, and near the limit
a little decides.  So the sum is given to them.

Any round PSF is nearly a combination of a few Gaussians, and
Gaussians are products of a function of x and one of y: the filter costs a
few short convolutions, and follows a PSF that varies over the image.
"""

import math

import torch

from bliss_astro.psf._mixture import mixture_of_shape

__all__ = [
    'FILTER_RADIUS',
    'WIDE_FILTERS',
    'WIDE_RADIUS',
    'filter_coefficients',
    'matched_filter',
    'wide_filters',
]

# Widths in pixels; together they make the PSFs of SDSS to a few per cent.
_SIGMAS = (0.85, 1.3, 2.0, 3.0)
# Half-size of the filter in pixels.
FILTER_RADIUS = 8
# Widths in pixels of the filters for what is larger than a PSF.
_WIDE_SIGMAS = (2.6, 5.0)
WIDE_FILTERS = len(_WIDE_SIGMAS)
WIDE_RADIUS = 14


def filter_coefficients(shape, *, radius):
    r"""
    Weights of the Gaussians that make a filter, and its noise.

    The PSF p is replaced by :math:`\sum_s c_s g_s` with the least integral
    of the squared difference, where :math:`g_s` has unit flux; ellipticity
    is left out.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters of the PSF.

    radius : float
        Normalisation radius of the PSF in pixels.

    Returns
    -------
    coefficients : tensor ``(..., S)``
        The :math:`c_s` over the noise of the filtered image, if that of the
        image is white and of unit variance.
    """
    height, variance = mixture_of_shape(shape, radius=radius)
    sigma2 = shape.new_tensor(_SIGMAS) ** 2
    gram = 1 / (2 * math.pi * (sigma2[:, None] + sigma2))
    product = variance[..., None] / (variance[..., None] + sigma2)
    right = (height[..., None] * product).sum(-2)
    inverse = torch.linalg.inv(gram.double()).to(gram)
    coefficients = right @ inverse
    power = (coefficients * right).sum(-1, keepdim=True)
    return coefficients * power.clamp(min=1e-8).rsqrt()


def _profiles(like, sigmas=_SIGMAS, radius=FILTER_RADIUS):
    step = torch.arange(-radius, radius + 1, device=like.device)
    sigma = like.new_tensor(sigmas)[:, None]
    profile = torch.exp(-0.5 * (step / sigma) ** 2)
    return profile / (sigma * math.sqrt(2 * math.pi))


def matched_filter(image, inputs, tile_size):
    """
    Signal-to-noise ratio of a faint star at each pixel.

    Parameters
    ----------
    image : tensor ``(B, ny, nx)``
        Whole tiles in units of the noise; 0 at bad pixels.

    inputs : `~bliss_astro.encoders.EncoderInputs`
        Tells the PSF and the noise's correlation.

    tile_size : int
        Side of a tile in pixels.

    Returns
    -------
    snr : tensor ``(B, ny, nx)``
        Of unit variance in empty sky, in the limit of a wide filter if the
        noise is correlated.
    """
    shape = inputs.psf.movedim(1, -1)
    weight = filter_coefficients(shape, radius=inputs.normalization_radius)
    weight = weight.movedim(-1, 1) * inputs.noise_excess().rsqrt()
    if weight.shape[2] > 1 or weight.shape[3] > 1:
        rows, columns = (n // tile_size for n in image.shape[1:])
        weight = weight.expand(-1, -1, rows, columns)
        weight = weight.repeat_interleave(tile_size, 2)
        weight = weight.repeat_interleave(tile_size, 3)
    profiles = _profiles(image)
    # Products with banded matrices: a processor's fastest operation.
    ny, nx = image.shape[1:]
    out = torch.zeros_like(image)
    along_x = _band(profiles, nx)
    along_y = along_x if nx == ny else _band(profiles, ny)
    for s in range(len(_SIGMAS)):
        out += weight[:, s] * (along_y[s] @ image @ along_x[s])
    return out


def wide_filters(image, inputs, tile_size):
    """
    Signal-to-noise ratios of faint, large sources at each pixel.

    Gaussians wider than any PSF: what galaxies of low surface brightness, and
    errors of the background's level, look like.

    Parameters
    ----------
    image, inputs, tile_size
        As for `matched_filter`.

    Returns
    -------
    snr : list of tensor ``(B, ny, nx)``
        One for each width, in units of the noise as in `matched_filter`.
    """
    profiles = _profiles(image, _WIDE_SIGMAS, WIDE_RADIUS)
    ny, nx = image.shape[1:]
    along_x = _band(profiles, nx)
    along_y = along_x if nx == ny else _band(profiles, ny)
    excess = inputs.noise_excess().rsqrt()
    if excess.shape[2] > 1 or excess.shape[3] > 1:
        excess = excess.repeat_interleave(tile_size, 2).repeat_interleave(tile_size, 3)
    out = []
    for s, sigma in enumerate(_WIDE_SIGMAS):
        weight = 2 * sigma * math.sqrt(math.pi) * excess[:, 0]
        out.append(weight * (along_y[s] @ image @ along_x[s]))
    return out


def _band(profiles, n):
    radius = profiles.shape[1] // 2
    lag = torch.arange(n, device=profiles.device)
    lag = (lag[:, None] - lag).abs()
    inside = lag <= radius
    index = radius + lag.clamp(max=radius)
    return profiles[:, index] * inside
