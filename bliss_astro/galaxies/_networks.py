# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Networks of the galaxy model: decoder from latents, encoder from stamps.
"""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro._settings import POSITIVE_INTEGER, check_settings, within
from bliss_astro.psf._mixture import describe_shape
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._mixture import GalaxyMixture
from ._posterior import GalaxyLatentPosterior

__all__ = ['GalaxyDecoder', 'GalaxyEncoder', 'GalaxyModelConfig']

# Sizes in pixels of the smallest and largest Gaussian of an untrained decoder, whose
# light is spread around e^0.9 pixels with a scatter of a factor e^0.9.
_FIRST_SIZES, _FIRST_LOG_SIZE = (0.4, 30.0), 0.9
# Range of the logarithms of sizes in pixels, and of the axis ratios (of variances),
# of Gaussians: thinner ones look the same.
_LOG_SIZE, _MAX_LOG_RATIO = (-3.0, 6.0), 8.0
# Widths in pixels of the smallest and the largest filter of the encoder.
_FILTER_WIDTHS = (1.0, 14.0)
# Range of the logarithms of standard deviations of latents and log flux.
_LOG_STD = (-7.0, 1.0)
_RANGES = (
    within('latent_dim', 'an integer of at least 2', lambda x: x >= 2)
    | within('n_components decoder_width encoder_width n_filters', *POSITIVE_INTEGER)
    | within('pixel_scale', 'positive', lambda x: x > 0)
)


@dataclasses.dataclass(frozen=True)
class GalaxyModelConfig:
    """
    Sizes of a galaxy model.

    Parameters
    ----------
    latent_dim : int
        Dimension D of the latent variable, at least 2: its first two numbers
        are the direction and strength of the elongation.

    n_components : int
        Number K of Gaussians of a galaxy.

    decoder_width, encoder_width : int
        Number of units of the hidden layers.

    n_filters : int
        Number of widths of the encoder's filters.

    pixel_scale : float
        Side of a pixel in arcseconds.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    latent_dim: int = 8
    n_components: int = 12
    decoder_width: int = 128
    encoder_width: int = 192
    n_filters: int = 8
    pixel_scale: float = SDSS_PIXEL_SCALE

    def __post_init__(self):
        check_settings(self, _RANGES)


class GalaxyDecoder(nn.Module):
    """
    Network from latents to mixtures of Gaussians.

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
            low, high = (math.log(size) for size in _FIRST_SIZES)
            grid = torch.linspace(low, high, k)
            self.last.bias[k : 2 * k] = grid
            self.last.bias[:k] = (
                -0.5 * ((grid - _FIRST_LOG_SIZE) / _FIRST_LOG_SIZE) ** 2
            )
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
        stretch = (stretch * length).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        area = torch.exp(2 * size)
        mean, half = area * torch.cosh(stretch), area * torch.sinh(stretch)
        cos2, sin2 = (vector / length)[..., None, :].unbind(-1)
        covariance = torch.stack(
            [mean + half * cos2, half * sin2, mean - half * cos2], -1
        )
        return GalaxyMixture(torch.softmax(share, -1), covariance)


class GalaxyEncoder(nn.Module):
    """
    Network from stamps to posteriors, behind a bank of steerable filters.

    The stamp, in units of its noise, is seen through Gaussians of several
    widths (round) and their quadrupoles (two numbers that turn with the
    image). All outputs depend on the lengths of the quadrupoles, and the
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
        n_inputs = 4 * n + 10
        self.n_free = dim + 1
        n_cholesky = self.n_free * (self.n_free + 1) // 2
        self.first = nn.Linear(n_inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, (n + 1) + (dim - 2) + 1 + n_cholesky)
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()
        low, high = (math.log(width) for width in _FILTER_WIDTHS)
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

    def _inputs(self, stamps, psf, variance, x, y):
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
        inputs = [
            round_ / total,
            torch.asinh(round_) / 3,
            lengths,
            (vector * ellipse).sum(-1),
            torch.log(total) - 2,
            torch.log(variance)[:, None] - 6.5,
            0.5 * torch.log(total * noise[:, None]) - 2,
            shape[:, :6],
        ]
        return torch.cat(inputs, 1), vectors, torch.log(total[:, 0] * noise)

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
        inputs, vectors, log_scale = self._inputs(stamps, psf, variance, x, y)
        hidden = F.silu(self.first(inputs))
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
