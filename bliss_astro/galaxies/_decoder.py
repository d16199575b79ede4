# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From a latent variable to a galaxy.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ._mixture import GalaxyMixture

__all__ = []

# Sizes in pixels of the Gaussians before anything is learned.
_SIZES = (0.4, 30.0)

# Bounds of what the network may say: sizes of 0.05 to 400 pixels, and axis
# ratios (of variances) of e^-8 at most; thinner ones look the same.
_LOG_SIZE = (-3.0, 6.0)
_STRETCH = 8.0


class GalaxyDecoder(nn.Module):
    """
    A small network from latents to mixtures of Gaussians.

    The first two latents are a vector whose direction is twice the position
    angle. All other numbers depend on its length only, so that turning this
    vector by twice an angle turns the galaxy by that angle, exactly, and the
    standard normal prior has no preferred direction.

    Parameters
    ----------
    config : `GalaxyModelConfig`
        Sizes.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, k = config.decoder_width, config.n_components
        self.first = nn.Linear(config.latent_dim, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, width)
        self.last = nn.Linear(width, 3 * k + 1)
        with torch.no_grad():
            self.last.weight.mul_(0.3)
            self.last.bias.zero_()
            low, high = (math.log(size) for size in _SIZES)
            grid = torch.linspace(low, high, k)
            self.last.bias[k : 2 * k] = grid
            # Most light at one to six pixels.
            self.last.bias[:k] = -0.5 * ((grid - 0.9) / 0.9) ** 2
            self.last.bias[2 * k : 3 * k] = 0.7

    def forward(self, latent):
        """
        Make mixtures of latents ``(..., D)``.
        """
        vector, rest = latent[..., :2], latent[..., 2:]
        square = (vector**2).sum(-1, keepdim=True)
        length = torch.sqrt(square + 1e-4)
        hidden = F.silu(self.first(torch.cat([length, 0.5 * square, rest], -1)))
        hidden = hidden + F.silu(self.second(hidden))
        hidden = hidden + F.silu(self.third(hidden))
        out = self.last(hidden)
        k = self.config.n_components
        share, size, stretch = out[..., :-1].split(k, -1)
        size = (size + out[..., -1:]).clamp(*_LOG_SIZE)
        # exp(2 size) times the exponential of a traceless symmetric matrix.
        stretch = (stretch * length).clamp(-_STRETCH, _STRETCH)
        area = torch.exp(2 * size)
        mean, half = area * torch.cosh(stretch), area * torch.sinh(stretch)
        cos2, sin2 = (vector / length)[..., None, :].unbind(-1)
        covariance = torch.stack(
            [mean + half * cos2, half * sin2, mean - half * cos2], -1
        )
        return GalaxyMixture(torch.softmax(share, -1), covariance)
