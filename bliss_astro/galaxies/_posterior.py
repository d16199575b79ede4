# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is known of galaxies after a look: latents and fluxes, jointly normal.
"""

import dataclasses
import math

import torch

__all__ = ['GalaxyLatentPosterior']


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
