# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stamps of mixtures of Gaussians by Fourier sums: many galaxies at once.

The transform of a mixture has K terms, that of the PSF comes from a table, so
that this costs a tenth of the K times 19 Gaussians of the exact image; it has
gradients. The picture repeats itself with a period of twice the stamp.
"""

import math

import torch

from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS
from bliss_astro.rendering._accuracy import narrowest_sigma
from bliss_astro.rendering._profiles import PSF_RANGE, look_up, psf_segments

__all__ = []

_PSF_BITS = 5

# Wavenumbers end where the transform of the PSF's core has fallen to 4e-3; few
# different ends, so that galaxies are drawn in few groups.
_REACH = 3.3
_ENDS = (1.6, 2.1, 2.7, 3.5, 4.7, 6.3, 9.0, 13.0)


def groups_of(psf):
    """
    Group galaxies by the largest wavenumber that their PSFs let through.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        Their PSFs.

    Returns
    -------
    groups : list of (float, tensor of int)
        Largest wavenumber and members.
    """
    ends = torch.tensor(_ENDS, dtype=psf.dtype, device=psf.device)
    need = (_REACH / narrowest_sigma(psf)).contiguous()
    place = torch.searchsorted(ends, need).clamp(max=len(_ENDS) - 1)
    return [
        (_ENDS[value], torch.nonzero(place == value)[:, 0])
        for value in torch.unique(place).tolist()
    ]


class Sheet:
    """
    The wavenumbers of stamps and what leads from modes to pixels.

    Parameters
    ----------
    end : float
        Largest wavenumber per axis.

    size : tuple of int
        ``(ny, nx)`` of the stamps.

    period : int, optional
        Of the picture, in pixels; twice the longer side by default.
    """

    def __init__(self, end, size, *, period=None):
        period = 2 * max(size) if period is None else period
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

    def psf_modes(self, psf, *, radius=DEFAULT_NORMALIZATION_RADIUS):
        """Transforms ``(B, M)`` of PSFs, with the weights of the sum."""
        e1, e2 = psf[:, 6], psf[:, 7]
        norm = torch.rsqrt(1 - e1**2 - e2**2)
        form = torch.stack([norm * (1 + e1), norm * e2, norm * (1 - e1)], -1)
        square = (form @ (-2 * self.basis.to(psf))).clamp(min=0)
        table = psf_segments(psf, radius=radius, bits=_PSF_BITS)
        row = torch.arange(len(psf), device=psf.device)
        z = square + 2.0 ** PSF_RANGE[0]
        modes = look_up(z, table, _PSF_BITS, PSF_RANGE, row)
        return (modes.unflatten(-1, (len(self.ky), -1)) * self.count.to(psf)).flatten(1)

    def galaxy_modes(self, mixture):
        """Transforms ``(B, M)`` of mixtures of unit flux."""
        exponent = mixture.covariance @ self.basis.to(mixture.weight)
        return (mixture.weight[:, None] @ torch.exp(exponent))[:, 0]

    def galaxy_slopes(self, mixture, d_weight, d_covariance):
        """
        Transforms ``(B, M)`` and their derivatives ``(B, P, M)``.

        Those of the mixture, ``(B, P, K)`` and ``(B, P, K, 3)``, are given.
        """
        basis = self.basis.to(mixture.weight)
        value = torch.exp(mixture.covariance @ basis)
        modes = (mixture.weight[:, None] @ value)[:, 0]
        slopes = d_weight @ value
        for c in range(3):
            pull = mixture.weight[:, None] * d_covariance[..., c]
            slopes.addcmul_(pull @ value, basis[c])
        return modes, slopes

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


def draw_stamps(psf, mixture, x, y, *, size, period=None):
    """
    Draw galaxies of unit flux, each on a stamp of its own.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        PSF of each stamp.

    mixture : `GalaxyMixture`
        B galaxies.

    x, y : tensor ``(B,)``
        Their centres in pixels of the stamp.

    size : tuple of int
        ``(ny, nx)`` of the stamps.

    period : int, optional
        In pixels; light that leaves the stamp returns from the other side after
        this distance.

    Returns
    -------
    stamps : tensor ``(B, ny, nx)``
        Differentiable in the mixture; good to some 1e-3 of the peak.
    """
    order, stamps = [], []
    for end, own in groups_of(psf):
        sheet = Sheet(end, size, period=period)
        part = type(mixture)(mixture.weight[own], mixture.covariance[own])
        modes = sheet.psf_modes(psf[own]) * sheet.galaxy_modes(part)
        stamps.append(sheet.pixels(modes, x[own], y[own]))
        order.append(own)
    back = torch.argsort(torch.cat(order))
    return torch.cat(stamps)[back]


def draw_slopes(psf, mixture, slopes, x, y, *, size, period=None):
    """
    Draw galaxies and how their stamps change with numbers that make them.

    Parameters
    ----------
    psf, mixture, x, y, size, period
        As in `draw_stamps`.

    slopes : tuple of tensor ``(B, P, K)``, ``(B, P, K, 3)``
        Derivatives of the mixture's weights and covariances.

    Returns
    -------
    stamps : tensor ``(B, ny, nx)``
        As of `draw_stamps`.

    slopes : tensor ``(B, P, ny, nx)``
        Their derivatives.
    """
    order, stamps = [], []
    for end, own in groups_of(psf):
        sheet = Sheet(end, size, period=period)
        part = type(mixture)(mixture.weight[own], mixture.covariance[own])
        modes, change = sheet.galaxy_slopes(part, *(slope[own] for slope in slopes))
        modes = torch.cat([modes[:, None], change], 1)
        modes *= sheet.psf_modes(psf[own])[:, None]
        stamps.append(sheet.pixels(modes, x[own, None], y[own, None]))
        order.append(own)
    back = torch.argsort(torch.cat(order))
    stamps = torch.cat(stamps)[back]
    return stamps[:, 0], stamps[:, 1:]
