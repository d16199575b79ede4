# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The likelihood of one isolated star, as features for a network.

A network that must find a flux to a part in a thousand from pixels alone
spends its capacity on arithmetic which a weighted least-squares fit does
exactly.  So the posterior's position and flux factors are told what such a
fit says, with its error, and learn the rest: the prior, neighbours, masks,
correlated noise, and how far the fit may be trusted.
"""

import dataclasses

import torch

from bliss_astro.psf._mixture import profile_of_shape, profile_with_gradient

__all__ = ['StarPatches', 'fit_star', 'flux_at']


@dataclasses.dataclass
class StarPatches:
    """
    Square cut-outs around N places, in units of the noise of empty sky.

    Attributes
    ----------
    data, good : tensor ``(N, P, P)``
        Background-subtracted pixels, and 1 or 0 for good or bad ones.

    shape : tensor ``(N, 1, 1, 8)``
        PSF at each place.

    gain : tensor ``(N, 1, 1)``
        Electrons per unit of data.

    excess : tensor ``(N, 1, 1)``
        Sum of the noise's correlation over all lags: the variance that a
        smooth weighting meets, over the variance of a pixel.

    x, y : tensor ``(N,)``
        Pixel coordinates of the central pixel.

    radius : float
        Normalisation radius of the PSF.
    """

    data: torch.Tensor
    good: torch.Tensor
    shape: torch.Tensor
    gain: torch.Tensor
    excess: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    radius: float

    def offsets(self, x, y):
        """Offsets of the pixels from positions, each ``(N, P, P)``."""
        half = self.data.shape[-1] // 2
        step = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
        dx = step[None, None, :] - (x - self.x)[:, None, None]
        dy = step[None, :, None] - (y - self.y)[:, None, None]
        return torch.broadcast_tensors(dx, dy)

    def weight(self, model):
        """Inverse variance under a model of the signal."""
        return self.good / (self.excess * (1 + model.clamp(min=0) / self.gain))


def _sum(value):
    return value.sum((-2, -1))


@torch.no_grad()
def flux_at(patches: StarPatches, x, y, *, n_iterations: int = 2):
    """
    Optimal flux of a star at known positions.

    Parameters
    ----------
    patches : `StarPatches`
        Cut-outs.

    x, y : tensor ``(N,)``
        Positions in pixels.

    n_iterations : int, optional
        How often the weights follow the star's own photon noise.

    Returns
    -------
    flux, error : tensor ``(N,)``
        In units of the noise.

    chi2 : tensor ``(N,)``
        Residual chi-square per good pixel.
    """
    dx, dy = patches.offsets(x, y)
    p = profile_of_shape(patches.shape, dx, dy, radius=patches.radius)
    weight = patches.weight(torch.zeros_like(p))
    for iteration in range(n_iterations + 1):
        if iteration:
            weight = patches.weight(flux[:, None, None] * p)  # noqa: F821
        information = _sum(weight * p * p).clamp(min=1e-9)
        flux = _sum(weight * p * patches.data) / information
    residual = patches.data - flux[:, None, None] * p
    n_good = _sum(patches.good).clamp(min=1)
    return flux, information.rsqrt(), _sum(weight * residual**2) / n_good


@torch.no_grad()
def fit_star(patches: StarPatches, x, y, flux_floor, *, n_iterations: int = 4):
    """
    Least-squares flux and position from a starting position.

    Gauss-Newton steps on the weighted pixels, with a weak prior of half a
    pixel around the start that keeps noise from running away.

    Parameters
    ----------
    patches : `StarPatches`
        Cut-outs.

    x, y : tensor ``(N,)``
        Starting positions in pixels.

    flux_floor : tensor ``(N,)``
        Smallest flux that the steps in position assume.

    n_iterations : int, optional
        Number of steps.

    Returns
    -------
    x, y : tensor ``(N,)``
        The fitted position in pixels.

    error_x, error_y, correlation : tensor ``(N,)``
        Its Cramer-Rao errors (with the weak prior) and their correlation.
    """
    start_x, start_y = x, y
    stiffness = 1 / 0.5**2
    flux, _, _ = flux_at(patches, x, y, n_iterations=1)
    for _ in range(n_iterations):
        dx, dy = patches.offsets(x, y)
        p, px, py = profile_with_gradient(patches.shape, dx, dy, radius=patches.radius)
        flux = torch.maximum(flux, 0.5 * flux_floor)
        f = flux[:, None, None]
        weight = patches.weight(f * p)
        residual = patches.data - f * p
        px, py = f * px, f * py
        a = _sum(weight * p * p).clamp(min=1e-9)
        bx, by = _sum(weight * p * px), _sum(weight * p * py)
        cxx = _sum(weight * px * px) + stiffness - bx * bx / a
        cyy = _sum(weight * py * py) + stiffness - by * by / a
        cxy = _sum(weight * px * py) - bx * by / a
        ra = _sum(weight * p * residual)
        rx = _sum(weight * px * residual) - stiffness * (x - start_x) - bx * ra / a
        ry = _sum(weight * py * residual) - stiffness * (y - start_y) - by * ra / a
        det = (cxx * cyy - cxy**2).clamp(min=1e-12)
        step_x = ((cyy * rx - cxy * ry) / det).clamp(-0.6, 0.6)
        step_y = ((cxx * ry - cxy * rx) / det).clamp(-0.6, 0.6)
        x, y = x + step_x, y + step_y
        flux = flux + (ra - bx * step_x - by * step_y) / a
    correlation = -cxy / (cxx * cyy).sqrt()
    return x, y, (cyy / det).sqrt(), (cxx / det).sqrt(), correlation.clamp(-0.99, 0.99)
