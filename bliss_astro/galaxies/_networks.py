# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Networks of the galaxy model, decoder and encoder, and the posterior of a stamp.
"""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro._arguments import POSITIVE_INTEGER, check_settings, within
from bliss_astro.psf import GaussianPSF
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._mixture import GalaxyMixture, stamps_with_slopes

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
# Least damping of the steps, and their largest size in units of the prior of the
# latent.
_DAMPING, _MAX_STEP = 1e-3, 1.5
# Least curvature of the logarithm of a flux, of stamps of noise alone, and its largest
# value: wild first guesses must not overflow.
_FLUX_CURVATURE, MAX_LOG_FLUX = 0.1, 20
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

    The first two latents are a vector whose direction is twice the position angle. All
    other numbers depend on its length only, so that turning this vector by twice an
    angle turns the galaxy by that angle, and the prior has no preferred direction.
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
        """Make mixtures of latents ``(..., D)``."""
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

    The stamp, in units of its noise, is seen through Gaussians of several widths and
    their quadrupoles. All outputs depend on the lengths of the quadrupoles, and the
    latent's own vector is a sum of them with such numbers as coefficients: a galaxy
    that is turned turns its latent.
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
        """The filters ``(..., 3 n, ny nx)`` around centres ``(...)``."""
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
        shape = GaussianPSF.from_shape(psf).describe()
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
        Posterior of stamps ``(B, ny, nx)`` in electrons, without the background.

        PSFs ``(B, 8)``, variances ``(B,)`` of a pixel without galaxy, and centres
        ``()`` or ``(B,)`` in pixels of the stamp.
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


# -- posterior --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class GalaxyLatentPosterior:
    """
    Normal distributions of latents and logarithms of fluxes.

    Attributes
    ----------
    mean : tensor ``(B, D + 1)``
        The latent, then the natural logarithm of the flux in electrons.

    factor : tensor ``(B, D + 1, D + 1)``
        A square root of the covariance: ``covariance = factor @ factor.T``.
    """

    mean: torch.Tensor
    factor: torch.Tensor

    def __len__(self):
        return len(self.mean)

    @property
    def latent(self):
        """Mean ``(B, D)`` of the latent."""
        return self.mean[:, :-1]

    @property
    def flux(self):
        """Median ``(B,)`` of the flux in electrons."""
        return torch.exp(self.mean[:, -1])

    @property
    def flux_err(self):
        """Error ``(B,)`` of the flux in electrons, half a 68 % interval."""
        return self.flux * torch.sinh(self.factor[:, -1].norm(dim=-1).clamp(max=20))

    @property
    def covariance(self):
        """Covariance ``(B, D + 1, D + 1)``."""
        return self.factor @ self.factor.mT

    def sample(self, n=1, *, generator=None):
        """
        Draw latents and fluxes.

        Parameters
        ----------
        n : int, optional
            Draws of each galaxy.

        generator : `torch.Generator`, optional
            Source of randomness, on the CPU.

        Returns
        -------
        latent : tensor ``(n, B, D)``
            Latents.

        flux : tensor ``(n, B)``
            Fluxes in electrons.
        """
        unit = torch.randn((n, *self.mean.shape), generator=generator)
        value = self.mean + (self.factor @ unit.to(self.mean)[..., None])[..., 0]
        return value[..., :-1], torch.exp(value[..., -1])

    def divergence(self):
        """
        Divergence ``(B,)`` in nats of the latent and flux from their prior.

        That of the latent is standard normal; the logarithm of the flux is
        uniform, without bounds and thus up to a constant.
        """
        latent = self.factor[:, :-1]
        squares = (self.latent**2).sum(1) + (latent**2).sum((1, 2))
        log_det = torch.linalg.slogdet(self.factor)[1]
        constant = 0.5 * (math.log(2 * math.pi) + 1)
        return 0.5 * (squares - latent.shape[1]) - log_det - constant


def log_likelihood(stamps, expected, variance, *, softening=0.0):
    """
    Logarithm ``(B,)`` of N(stamp; expected, expected + variance), in nats.

    A share of the model, the softening, is added to the noise early in training.
    """
    var = expected.clamp(min=0) + variance[:, None, None]
    if softening:
        var = var + (softening * expected) ** 2
    terms = (stamps - expected) ** 2 / var + torch.log(var / variance[:, None, None])
    return -0.5 * terms.sum((1, 2))


@torch.no_grad()
def refine(decoder, posterior, stamps, psf, variance, x, y, *, n_steps, flux_slope=0.0):
    """
    Refine posteriors: damped Gauss-Newton steps to the mode, and Laplace's normal.

    The inputs are those of the encoder, whose posterior is the first guess. The prior
    of the logarithm of the flux f is proportional to ``f**-flux_slope``.
    """
    value = posterior.mean.clone()
    value[:, -1] = value[:, -1].clamp(max=MAX_LOG_FLUX)
    prior = torch.ones(value.shape[1], dtype=value.dtype)
    prior[-1] = 0.0

    def evaluate(at):
        expected, slopes = stamps_with_slopes(decoder, at, psf, x, y, stamps.shape[1:])
        loss = 0.5 * (prior * at**2).sum(1) + flux_slope * at[:, -1]
        return at, loss - log_likelihood(stamps, expected, variance), expected, slopes

    state, damping = evaluate(value), torch.full((len(value), 1, 1), _DAMPING)
    for _ in range(n_steps):
        value, loss, expected, slopes = state
        gradient, curvature = _normal_equations(
            value, expected, slopes, stamps, variance, prior
        )
        gradient[:, -1] -= flux_slope
        scale = torch.diag_embed(curvature.diagonal(dim1=1, dim2=2))
        step = torch.linalg.solve(curvature + damping * scale, gradient)
        longest = step.abs().amax(1, keepdim=True)
        trial = evaluate(value + step * (_MAX_STEP / longest.clamp(min=_MAX_STEP)))
        better = trial[1] < loss
        state = [
            torch.where(better.reshape(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(trial, state, strict=True)
        ]
        damping = torch.where(better[:, None, None], 0.2 * damping, 10 * damping)
        damping = damping.clamp(min=_DAMPING)
    value, _, expected, slopes = state
    _, curvature = _normal_equations(value, expected, slopes, stamps, variance, prior)
    lower = torch.linalg.cholesky(curvature.double())
    # The inverse of the curvature is U^T U with U the inverse of its factor.
    eye = torch.eye(value.shape[1], dtype=lower.dtype).expand_as(lower)
    inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
    return GalaxyLatentPosterior(value, inverse.mT.to(value))


def _normal_equations(value, expected, slopes, stamps, variance, prior):
    """
    Gradient ``(B, P)`` and Gauss-Newton curvature ``(B, P, P)`` of the log posterior.
    """
    var = expected.clamp(min=0) + variance[:, None, None]
    residual = stamps - expected
    # The variance follows the model, which adds to slope and curvature.
    pull = residual / var + 0.5 * (residual**2 / var - 1) / var
    weight = 1 / var + 0.5 / var**2
    flat = slopes.flatten(2)
    gradient = (flat @ pull.flatten(1)[..., None])[..., 0] - prior * value
    curvature = (flat * weight.flatten(1)[:, None]) @ flat.mT
    curvature = curvature + torch.diag(prior)
    curvature[:, -1, -1] += _FLUX_CURVATURE
    return gradient, curvature
