# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxies as mixtures of concentric Gaussians, and stamps of them by Fourier sums.

A PSF turns such a mixture into another one, exactly. For many stamps at once, sums
over wavenumbers are faster: the transform of a mixture has K terms, that of the PSF
comes from a table, so a mode costs K + 1 terms rather than 19 K; and few modes, with a
period of twice the stamp, suffice.
"""

import dataclasses
import math

import torch

from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._gaussian_sums import adaptive_moments
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS
from bliss_astro.rendering._accuracy import narrowest_sigma
from bliss_astro.rendering._profiles import psf_transform

# Bits of the table of the PSF's transform: good to 1e-4.
_PSF_BITS = 5
# Wavenumbers, in units of the inverse width of the PSF's core, at which its transform
# has fallen to 4e-3; and the largest wavenumbers per pixel that are used, few of them,
# so that galaxies are drawn in few groups.
_CUTOFF = 3.3
_LARGEST_WAVENUMBERS = (1.6, 2.1, 2.7, 3.5, 4.7, 6.3, 9.0, 13.0)

# Wavenumbers of the polar grid, per pixel, and its number of rings and spokes.
_WAVENUMBERS = (0.006, 4.5)
_RINGS, _SPOKES = 24, 10
# Half the distance of latents over which differences are taken.
_HALF_DIFFERENCE = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class GalaxyMixture:
    """
    Galaxies of unit flux, each a sum of concentric elliptical Gaussians.

    Attributes
    ----------
    weight : tensor ``(..., K)``
        Share of the flux in each Gaussian; positive, of sum 1.

    covariance : tensor ``(..., K, 3)``
        Elements ``xx, xy, yy`` of the covariance matrices in square pixels.
    """

    weight: torch.Tensor
    covariance: torch.Tensor

    def convolved(self, psf, *, radius=DEFAULT_NORMALIZATION_RADIUS):
        """
        The galaxies as seen through PSFs: again Gaussians, exactly.

        Parameters
        ----------
        psf : tensor ``(..., 8)``
            PSFs, see ``bliss_astro.psf.SHAPE_NAMES``; leading axes broadcast
            against those of the galaxies.

        radius : float, optional
            Normalisation radius of the PSFs in pixels.

        Returns
        -------
        mixture : `GalaxyMixture`
            Mixture of K times 19 Gaussians, whose sum of weights is the PSF's flux: 1
            within ``radius``, a little more in total.
        """
        psf = GaussianPSF.from_shape(psf, normalization_radius=radius)
        weight = self.weight[..., :, None] * psf.fluxes[..., None, :]
        covariance = self.covariance[..., :, None, :] + psf.covariance[..., None, :, :]
        return GalaxyMixture(weight.flatten(-2), covariance.flatten(-3, -2))

    def scaled(self, factor):
        """
        The galaxies on pixels of another size.

        Parameters
        ----------
        factor : float or tensor ``(...)``
            By which lengths in pixels grow.

        Returns
        -------
        mixture : `GalaxyMixture`
            Mixture of the same weights.
        """
        square = torch.as_tensor(factor).to(self.covariance) ** 2
        return GalaxyMixture(self.weight, self.covariance * square[..., None, None])

    def adaptive_moments(self):
        """
        Adaptive moments, as of the images (Bernstein & Jarvis 2002, AJ 123, 583).

        Moments weighted by an elliptical Gaussian that matches them, found by
        iteration; between Gaussians all is known in closed form.

        Returns
        -------
        e1, e2 : tensor ``(...)``
            The distortion ``(1 - q^2) / (1 + q^2)`` times the cosine and sine of
            twice the angle from +x towards +y.

        size : tensor ``(...)``
            Fourth root of the determinant, in pixels.
        """
        return adaptive_moments(self.weight, self.covariance)[1:]

    def image(self, x, y, *, size):
        """
        Values at the pixels of images.

        Parameters
        ----------
        x, y : tensor ``(...)``
            Centres in 0-based pixels.

        size : tuple of int
            ``(ny, nx)``.

        Returns
        -------
        image : tensor ``(..., ny, nx)``
            Surface brightness at the centres of pixels, for unit flux.
        """
        like = self.weight
        dx = torch.arange(size[1]).to(like) - x[..., None]
        dy = torch.arange(size[0]).to(like) - y[..., None]
        xx, xy, yy = self.covariance.unbind(-1)
        det = xx * yy - xy**2
        height = self.weight * torch.rsqrt(det) / (2 * math.pi)
        # Coefficients of dx^2, dx dy and dy^2 in the exponents: one product of
        # matrices gives all of them.
        form = torch.stack([-0.5 * yy, xy, -0.5 * xx], -1) / det[..., None]
        dx, dy = dx[..., None, :], dy[..., :, None]
        basis = torch.stack(
            [(dx**2).expand_as(dx * dy), dx * dy, (dy**2).expand_as(dx * dy)], -3
        ).flatten(-2)
        value = torch.exp((form @ basis).clamp(min=-80))
        return (height[..., None, :] @ value).unflatten(-1, size)[..., 0, :, :]


def _groups_of(psf):
    """Indices of galaxies by the largest wavenumber that their PSFs let through."""
    ends = torch.tensor(_LARGEST_WAVENUMBERS, dtype=psf.dtype, device=psf.device)
    need = (_CUTOFF / narrowest_sigma(GaussianPSF.from_shape(psf))).contiguous()
    place = torch.searchsorted(ends, need).clamp(max=len(ends) - 1)
    return [
        (_LARGEST_WAVENUMBERS[value], torch.nonzero(place == value)[:, 0])
        for value in torch.unique(place).tolist()
    ]


class _Sheet:
    """Wavenumbers of stamps up to a largest one, and the way from modes to pixels."""

    def __init__(self, end, size):
        # Light that leaves the stamp returns from the other side after this distance.
        period = 2 * max(size)
        n = math.ceil(end * period / (2 * math.pi))
        self.size, step = size, 2 * math.pi / period
        self.kx = step * torch.arange(n + 1, dtype=torch.float32)
        self.ky = step * torch.arange(-n, n + 1, dtype=torch.float32)
        # Modes of negative kx are those of positive ones.
        self.count = torch.full((n + 1,), 2.0 / period**2)
        self.count[0] = 1.0 / period**2
        kx, ky = self.kx[None, :], self.ky[:, None]
        basis = [kx**2 + 0 * ky, 2 * kx * ky, ky**2 + 0 * kx]
        self.basis = -0.5 * torch.stack(basis).flatten(1)

    def psf_modes(self, psf):
        """Transforms ``(B, M)`` of PSFs, with the weights of the sum."""
        transform = psf_transform(GaussianPSF.from_shape(psf), _PSF_BITS)
        rows = torch.arange(len(psf), device=psf.device)
        modes = transform(rows, self.kx.to(psf), self.ky.to(psf))
        return (modes * self.count.to(psf)).flatten(1)

    def galaxy_modes(self, mixture, slopes=None):
        """
        Transforms ``(B, 1, M)`` of mixtures of unit flux, or ``(B, 1 + P, M)``.

        The latter with derivatives, given those of the weights ``(B, P, K)`` and
        covariances ``(B, P, K, 3)``.
        """
        basis = self.basis.to(mixture.weight)
        value = torch.exp(mixture.covariance @ basis)
        modes = mixture.weight[:, None] @ value
        if slopes is None:
            return modes
        d_weight, d_covariance = slopes
        change = d_weight @ value
        for c in range(3):
            pull = mixture.weight[:, None] * d_covariance[..., c]
            change.addcmul_(pull @ value, basis[c])
        return torch.cat([modes, change], 1)

    def pixels(self, modes, x, y):
        """Stamps ``(..., ny, nx)`` of modes ``(..., M)``, centred at ``(x, y)``."""
        modes = modes.unflatten(-1, (len(self.ky), -1))
        kx, ky = self.kx.to(modes), self.ky.to(modes)
        ny, nx = self.size
        along_x = (torch.arange(nx).to(modes) - x[..., None])[..., None] * kx
        along_y = (torch.arange(ny).to(modes) - y[..., None])[..., None] * ky
        even = torch.cos(along_y) @ modes @ torch.cos(along_x).mT
        odd = torch.sin(along_y) @ modes @ torch.sin(along_x).mT
        return even - odd


def draw_stamps(psf, mixture, x, y, size, slopes=None):
    """
    Draw galaxies of unit flux, each on a stamp ``(1, ny, nx)`` of its own.

    PSFs ``(B, 8)``, B galaxies, and their centres ``(B,)`` in pixels of the stamp.
    With slopes, derivatives of the weights and covariances by P parameters, a stamp is
    ``(1 + P, ny, nx)``, with its derivatives. Differentiable in the mixture; good to
    some 1e-3 of the peak.
    """
    order, stamps = [], []
    for end, own in _groups_of(psf):
        sheet = _Sheet(end, size)
        part = GalaxyMixture(mixture.weight[own], mixture.covariance[own])
        change = None if slopes is None else [slope[own] for slope in slopes]
        modes = sheet.galaxy_modes(part, change) * sheet.psf_modes(psf[own])[:, None]
        stamps.append(sheet.pixels(modes, x[own, None], y[own, None]))
        order.append(own)
    return torch.cat(stamps)[torch.argsort(torch.cat(order))]


def expected_stamps(decoder, value, psf, x, y, size):
    """Noiseless stamps of latents and log fluxes ``(B, D + 1)``."""
    unit = draw_stamps(psf, decoder(value[:, :-1]), x, y, size)
    return torch.exp(value[:, -1])[:, None, None] * unit[:, 0]


def stamps_with_slopes(decoder, value, psf, x, y, size):
    """Noiseless stamps ``(B, ny, nx)`` and their derivatives ``(B, D + 1, ny, nx)``."""
    latent = value[:, :-1]
    # Differences of the smooth decoder, good to 1e-4, cost less than derivatives.
    step = _HALF_DIFFERENCE * torch.eye(latent.shape[1]).to(latent)
    near = decoder(latent[:, None] + torch.cat([step, -step]))
    made = decoder(latent)
    pairs = (part.chunk(2, 1) for part in (near.weight, near.covariance))
    slopes = [(ahead - behind) / (2 * _HALF_DIFFERENCE) for ahead, behind in pairs]
    unit = draw_stamps(psf, made, x, y, size, slopes)
    flux = torch.exp(value[:, -1])[:, None, None]
    # The stamp is its own derivative by the logarithm of the flux.
    changes = torch.cat([unit[:, 1:], unit[:, :1]], 1)
    return flux * unit[:, 0], flux[:, None] * changes


# -- misfits without images ------------------------------------------------------


def polar_grid(n, generator):
    """Wavenumbers ``(n, M)`` in x and y, and the area of the plane of each."""
    low, high = (math.log(k) for k in _WAVENUMBERS)
    step, turn = (high - low) / _RINGS, math.pi / _SPOKES
    shift = torch.rand(2, n, 1, 1, generator=generator)
    k = torch.exp(low + step * (torch.arange(_RINGS)[:, None] + shift[0]))
    spoke = turn * (torch.arange(_SPOKES) + shift[1])
    kx, ky = k * torch.cos(spoke), k * torch.sin(spoke)
    area = 2 * step * turn * k**2  # the other half of the plane is the same
    return kx.flatten(1), ky.flatten(1), area.expand_as(kx).flatten(1)


def modes_of_mixture(mixture, kx, ky):
    """Transforms ``(B, M)`` of mixtures at wavenumbers."""
    basis = -0.5 * torch.stack([kx**2, 2 * kx * ky, ky**2], 1)
    exponent = (mixture.covariance @ basis).clamp(min=-40)
    return (mixture.weight[:, None] @ torch.exp(exponent))[:, 0]
