# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From the stamp of a galaxy to what its latent and flux may be.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro.psf._mixture import describe_shape

from ._posterior import GalaxyLatentPosterior

__all__ = []

# Widths in pixels of the smallest and the largest filter.
_WIDTHS = (1.0, 14.0)

# Standard deviations that the network may state; those of latents and log flux.
_LOG_STD = (-7.0, 1.0)


class GalaxyEncoder(nn.Module):
    """
    A small network behind a bank of steerable filters.

    The stamp, in units of its noise, is seen through Gaussians of several
    widths (round) and their quadrupoles (two numbers that turn with the
    image). Whatever is said depends on the lengths of the quadrupoles, and the
    latent's own vector is a sum of quadrupoles with such numbers as
    coefficients: a galaxy that is turned turns its latent.

    Parameters
    ----------
    config : `GalaxyModelConfig`
        Sizes.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        n, width, dim = config.n_filters, config.encoder_width, config.latent_dim
        n_told = 4 * n + 10
        self.n_free = dim + 1
        n_cholesky = self.n_free * (self.n_free + 1) // 2
        self.first = nn.Linear(n_told, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, (n + 1) + (dim - 2) + 1 + n_cholesky)
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()
        low, high = (math.log(width) for width in _WIDTHS)
        self.register_buffer(
            'widths', torch.exp(torch.linspace(low, high, n)), persistent=False
        )

    def filters(self, x, y, size):
        """
        The filters ``(..., 3 n, ny nx)`` around centres ``(...)``.
        """
        dx = torch.arange(size[1]).to(x) - x[..., None]
        dy = torch.arange(size[0]).to(y) - y[..., None]
        dx, dy = dx[..., None, None, :], dy[..., None, :, None]
        s2 = self.widths[:, None, None] ** 2
        bell = torch.exp(-0.5 * (dx**2 + dy**2) / s2)
        bank = [bell, bell * (dx**2 - dy**2) / s2, bell * 2 * dx * dy / s2]
        bank = torch.cat(bank, -3).flatten(-2)
        return bank * torch.rsqrt((bank**2).sum(-1, keepdim=True) + 1e-12)

    def _told(self, stamps, psf, variance, x, y):
        """Invariant numbers, vectors, and the logarithm of the brightness."""
        noise = variance.sqrt()
        pixels = (stamps / noise[:, None, None]).flatten(1)
        bank = self.filters(x, y, stamps.shape[1:])
        # One bank for all stamps, or one for each.
        shared = bank.dim() == 2
        out = pixels @ bank.T if shared else (bank @ pixels[..., None])[..., 0]
        n = self.config.n_filters
        round_, vector = out[:, :n], out[:, n:].unflatten(1, (2, n)).mT
        total = torch.sqrt((round_**2).mean(1, keepdim=True) + 4.0)
        vector = vector / total[..., None]
        shape = describe_shape(psf)
        ellipse = 0.5 * shape[:, None, 6:]
        vectors = torch.cat([vector, ellipse], 1)
        lengths = torch.sqrt((vectors**2).sum(-1) + 1e-4)
        told = [
            round_ / total,
            torch.asinh(round_) / 3,
            lengths,
            (vector * ellipse).sum(-1),
            torch.log(total) - 2,
            torch.log(variance)[:, None] - 6.5,
            0.5 * torch.log(total * noise[:, None]) - 2,
            shape[:, :6],
        ]
        return torch.cat(told, 1), vectors, torch.log(total[:, 0] * noise)

    def forward(self, stamps, psf, variance, x, y):
        """
        Posterior of B stamps from which the background is subtracted.

        Parameters
        ----------
        stamps : tensor ``(B, ny, nx)``
            Electrons.

        psf, variance : tensor ``(B, 8)``, ``(B,)``
            PSF and variance of a pixel without galaxy.

        x, y : tensor ``()`` or ``(B,)``
            Centres, in pixels of the stamp.

        Returns
        -------
        posterior : `GalaxyLatentPosterior`
            Normal in latent and logarithm of the flux.
        """
        told, vectors, log_scale = self._told(stamps, psf, variance, x, y)
        hidden = F.silu(self.first(told))
        for layer in self.hidden:
            hidden = hidden + F.silu(layer(hidden))
        dim, n = self.config.latent_dim, self.config.n_filters
        out = self.last(hidden)
        sums, rest, flux, cholesky = out.split(
            [n + 1, dim - 2, 1, out.shape[1] - n - dim], 1
        )
        head = (sums[..., None] * vectors).sum(1)
        mean = torch.cat([head, rest, flux + 1.5 + log_scale[:, None]], 1)
        return GalaxyLatentPosterior(mean, self._cholesky(cholesky, head))

    def _cholesky(self, numbers, head):
        # In a frame that is turned with the galaxy.
        size = self.n_free
        lower = numbers.new_zeros(len(numbers), size, size)
        row, column = torch.tril_indices(size, size, device=numbers.device)
        on = row == column
        diagonal = torch.exp((numbers[:, on] - 1).clamp(*_LOG_STD))
        # Off the diagonal in units of the row's own scale.
        lower[:, row[~on], column[~on]] = numbers[:, ~on] * diagonal[:, row[~on]]
        lower[:, row[on], column[on]] = diagonal
        cos, sin = (head / torch.sqrt((head**2).sum(1, keepdim=True) + 1e-6)).T
        top = torch.stack(
            [
                cos[:, None] * lower[:, 0] - sin[:, None] * lower[:, 1],
                sin[:, None] * lower[:, 0] + cos[:, None] * lower[:, 1],
            ],
            1,
        )
        return torch.cat([top, lower[:, 2:]], 1)
