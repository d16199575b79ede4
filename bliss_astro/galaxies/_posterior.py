# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posterior of latents and fluxes of galaxies, sharpened by Gauss-Newton steps.
"""

import dataclasses
import math

import torch

from ._mixture import draw_slopes, draw_stamps

__all__ = ['GalaxyLatentPosterior', 'expected_stamps', 'log_likelihood', 'refine']

# Least damping of the steps, and their largest size in units of the prior of the
# latent.
_DAMPING, _MAX_STEP = 1e-3, 1.5
# Half the distance of latents over which differences are taken.
_HALF_DIFFERENCE = 0.01
# Least curvature of the logarithm of a flux, of stamps of noise alone, and its largest
# value: wild first guesses must not overflow.
_FLUX_CURVATURE, _MAX_LOG_FLUX = 0.1, 20


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


def expected_stamps(decoder, value, psf, x, y, size):
    """
    Noiseless stamps of latents and log fluxes ``(B, D + 1)``.
    """
    unit = draw_stamps(psf, decoder(value[:, :-1]), x, y, size=size)
    return torch.exp(value[:, -1])[:, None, None] * unit


def log_likelihood(stamps, expected, variance, *, softening=0.0):
    """
    Logarithm ``(B,)`` of N(stamp; expected, expected + variance), in nats.

    Parameters
    ----------
    stamps, expected : tensor ``(B, ny, nx)``
        Electrons without the background.

    variance : tensor ``(B,)``
        Variance of a pixel without galaxy, in square electrons.

    softening : float, optional
        Share of the model that is added to the noise, early in training.
    """
    var = expected.clamp(min=0) + variance[:, None, None]
    if softening:
        var = var + (softening * expected) ** 2
    terms = (stamps - expected) ** 2 / var + torch.log(var / variance[:, None, None])
    return -0.5 * terms.sum((1, 2))


def stamps_with_slopes(decoder, value, psf, x, y, size):
    """
    Noiseless stamps ``(B, ny, nx)`` and their derivatives ``(B, D + 1, ny, nx)``.
    """
    latent = value[:, :-1]
    # Differences of the smooth decoder, good to 1e-4, cost less than derivatives.
    step = _HALF_DIFFERENCE * torch.eye(latent.shape[1]).to(latent)
    near = decoder(latent[:, None] + torch.cat([step, -step]))
    made = decoder(latent)
    slopes = [
        (ahead - behind) / (2 * _HALF_DIFFERENCE)
        for ahead, behind in (
            part.chunk(2, 1) for part in (near.weight, near.covariance)
        )
    ]
    unit, change = draw_slopes(psf, made, slopes, x, y, size=size)
    flux = torch.exp(value[:, -1])[:, None, None]
    # The stamp is its own derivative by the logarithm of the flux.
    return flux * unit, flux[:, None] * torch.cat([change, unit[:, None]], 1)


@torch.no_grad()
def refine(decoder, posterior, stamps, psf, variance, x, y, *, n_steps, flux_slope=0.0):
    """
    Refine posteriors: damped Gauss-Newton steps to the mode, and Laplace's normal.

    Parameters
    ----------
    decoder : `GalaxyDecoder`
        Decoder of the galaxies.

    posterior : `GalaxyLatentPosterior`
        First guess, of the encoder.

    stamps, psf, variance, x, y
        Inputs of the encoder.

    n_steps : int
        Number of steps.

    flux_slope : float, optional
        The prior of the logarithm of the flux f is proportional to
        ``f**-flux_slope``.

    Returns
    -------
    posterior : `GalaxyLatentPosterior`
        Mode and curvature of the true posterior of the model.
    """
    size = stamps.shape[1:]
    value = posterior.mean.clone()
    value[:, -1] = value[:, -1].clamp(max=_MAX_LOG_FLUX)
    n_free = value.shape[1]
    prior = torch.ones(n_free, dtype=value.dtype)
    prior[-1] = 0.0
    damping = torch.full((len(value), 1, 1), _DAMPING)

    def model(at):
        return stamps_with_slopes(decoder, at, psf, x, y, size)

    def loss(at, expected):
        squares = 0.5 * (prior * at**2).sum(1)
        return (
            squares
            + flux_slope * at[:, -1]
            - log_likelihood(stamps, expected, variance)
        )

    expected, slopes = model(value)
    now = loss(value, expected)
    for _ in range(n_steps):
        gradient, curvature = _normal_equations(
            value, expected, slopes, stamps, variance, prior
        )
        gradient[:, -1] -= flux_slope
        scale = torch.diag_embed(curvature.diagonal(dim1=1, dim2=2))
        step = torch.linalg.solve(curvature + damping * scale, gradient[..., None])[
            ..., 0
        ]
        longest = step[:, :].abs().amax(1, keepdim=True)
        step = step * (_MAX_STEP / longest.clamp(min=_MAX_STEP))
        trial = value + step
        trial_expected, trial_slopes = model(trial)
        then = loss(trial, trial_expected)
        better = then < now
        value = torch.where(better[:, None], trial, value)
        now = torch.where(better, then, now)
        expected = torch.where(better[:, None, None], trial_expected, expected)
        keep = better[:, None, None, None]
        slopes = torch.where(keep, trial_slopes, slopes)
        damping = torch.where(better[:, None, None], 0.2 * damping, 10 * damping)
        damping = damping.clamp(min=_DAMPING)
    _, curvature = _normal_equations(value, expected, slopes, stamps, variance, prior)
    lower = torch.linalg.cholesky(curvature.double())
    # The inverse of the curvature is U^T U with U the inverse of its factor.
    eye = torch.eye(n_free, dtype=lower.dtype).expand_as(lower)
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
