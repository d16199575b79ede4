# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxies as concentric Gaussians: exact under any PSF.
"""

import dataclasses
import math

import torch

from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, mixture_of_shape

__all__ = ['GalaxyMixture']

# Rounds after which adaptive moments no longer change by more than 1e-4.
_ROUNDS = 40


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
            Of K times 19 Gaussians, whose sum of weights is the PSF's flux: 1
            within ``radius``, a little more in total.
        """
        height, variance = mixture_of_shape(psf, radius=radius)
        share = 2 * math.pi * height * variance
        e1, e2 = psf[..., 6], psf[..., 7]
        norm = torch.rsqrt(1 - e1**2 - e2**2)
        ellipse = torch.stack([norm * (1 + e1), norm * e2, norm * (1 - e1)], -1)
        blur = variance[..., None] * ellipse[..., None, :]
        weight = self.weight[..., :, None] * share[..., None, :]
        covariance = self.covariance[..., :, None, :] + blur[..., None, :, :]
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
            Of the same weights.
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
        total = self.weight.sum(-1, keepdim=True)[..., None]
        moments = (self.weight[..., None] * self.covariance).sum(-2, keepdim=True)
        # Wings outweigh the rest in plain moments: begin well inside of them.
        window = moments / total * 0.3
        for _ in range(_ROUNDS):
            xx, xy, yy = (self.covariance + window).unbind(-1)
            det = xx * yy - xy**2
            height = (self.weight * torch.rsqrt(det))[..., None]
            # C (C + W)^-1 W, the covariance of the product.
            product = _product(self.covariance, window, det)
            window = 2 * (height * product).sum(-2, keepdim=True)
            window = window / height.sum(-2, keepdim=True)
        xx, xy, yy = window[..., 0, :].unbind(-1)
        trace = xx + yy
        size = (xx * yy - xy**2).clamp(min=0) ** 0.25
        return (xx - yy) / trace, 2 * xy / trace, size

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


def _product(c, w, det):
    """
    ``C (C + W)^-1 W`` of symmetric 2 x 2 matrices, given ``det(C + W)``.
    """
    # By Cayley and Hamilton, (C det(W) + W det(C)) / det(C + W).
    det_c = c[..., 0] * c[..., 2] - c[..., 1] ** 2
    det_w = w[..., 0] * w[..., 2] - w[..., 1] ** 2
    return (c * det_w[..., None] + w * det_c[..., None]) / det[..., None]
