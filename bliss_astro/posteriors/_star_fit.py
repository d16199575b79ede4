# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cut-outs of images, and least-squares fits of one star to them.

A network that must find a flux to a part in a thousand from pixels alone
spends its capacity on arithmetic which a weighted least-squares fit does
exactly.  So the results of such a fit, with their errors, are inputs of the
posterior's position and flux factors, which learn the rest: the prior, neighbours,
masks, correlated noise, and how reliable the fit is.
"""

import dataclasses
import functools

import torch
from torch.nn import functional as F

from bliss_astro.psf._mixture import (
    normalization_of_shape,
    profile_of_shape,
    profile_with_gradient,
)

from ._grid import Rows


@dataclasses.dataclass
class StarPatches(Rows):
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

    correlation : tensor ``(N, 2)``
        Correlation of the noise of neighbouring pixels in x and in y.

    x, y : tensor ``(N,)``
        Pixel coordinates of the central pixel.

    radius : float
        Normalisation radius of the PSF.
    """

    data: torch.Tensor
    good: torch.Tensor
    shape: torch.Tensor
    gain: torch.Tensor
    correlation: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    radius: float

    def offsets(self, x, y):
        """Offsets of the pixels from positions, ``(N, 1, P)`` and ``(N, P, 1)``."""
        half = self.data.shape[-1] // 2
        step = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
        dx = step[None, None, :] - (x - self.x)[:, None, None]
        dy = step[None, :, None] - (y - self.y)[:, None, None]
        return dx, dy

    @functools.cached_property
    def _integral(self):
        return normalization_of_shape(self.shape, radius=self.radius)

    def profile(self, x, y):
        """The PSF at positions, of unit flux, ``(N, P, P)``."""
        return profile_of_shape(
            self.shape, *self.offsets(x, y), integral=self._integral
        )

    def profile_with_gradient(self, x, y):
        """The same, with its derivatives by the position in x and in y."""
        return profile_with_gradient(
            self.shape, *self.offsets(x, y), integral=self._integral
        )

    def variance(self, model):
        """Variance of each pixel under a model of the signal."""
        return model.clamp(min=0) / self.gain + 1

    def weight(self, model):
        """Inverse variance under a model of the signal."""
        excess = (self.correlation * 2 + 1).prod(-1).clamp(min=0.2)
        return self.good / (excess[:, None, None] * self.variance(model))

    def covariance(self, first, second, variance):
        """
        Covariance ``(N,)`` of two weighted sums of the pixels.

        ``sum_ij a_i sqrt(v_i v_j) rho_(i - j) b_j`` with the correlation of an
        interpolated image, rho being the product of ``(rho_x, 1, rho_x)`` and
        ``(rho_y, 1, rho_y)``.
        """
        root = variance.sqrt()
        spread = second * root
        for axis, rho in ((-1, self.correlation[:, 0]), (-2, self.correlation[:, 1])):
            n = spread.shape[axis]
            beside = F.pad(spread, (1, 1) if axis == -1 else (0, 0, 1, 1))
            beside = beside.narrow(axis, 0, n) + beside.narrow(axis, 2, n)
            spread = spread + rho[:, None, None] * beside
        return _sum(first * root * spread)


def _sum(value):
    return value.sum((-2, -1))


@torch.no_grad()
def flux_at(patches: StarPatches, x, y, *, n_iterations: int = 2):
    """Optimal flux of a star at known positions."""
    p = patches.profile(x, y)
    weight = patches.weight(torch.zeros_like(p))
    for iteration in range(n_iterations + 1):
        if iteration:
            weight = patches.weight(flux[:, None, None] * p)  # noqa: F821
        weighted = weight * p
        information = _sum(weighted * p).clamp(min=1e-9)
        flux = _sum(weighted * patches.data) / information
    model = flux[:, None, None] * p
    noise = patches.covariance(weighted, weighted, patches.variance(model))
    n_good = _sum(patches.good).clamp(min=1)
    chi2 = _sum(weight * (patches.data - model).square()) / n_good
    error = noise.clamp(min=1e-12).sqrt() / information
    return flux, torch.where(n_good > 1, error, information.rsqrt()), chi2


@torch.no_grad()
def fit_star(patches: StarPatches, x, y, flux_floor, *, n_iterations: int = 4):
    """
    Least-squares position from a starting one, its errors and their correlation.

    The errors are those of this estimate under the correlation of the noise, which
    is weaker in the differences of pixels that yield a position than in the sums
    that yield a flux.
    """
    start_x, start_y = x, y
    # A weak prior of half a pixel around the start keeps noise from running away.
    stiffness = 1 / 0.5**2
    flux, _, _ = flux_at(patches, x, y, n_iterations=1)
    for _ in range(n_iterations):
        p, px, py = patches.profile_with_gradient(x, y)
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
    # The estimate is H^-1 times the scores; M is the covariance of these.
    variance = patches.variance(f * p)
    gx = weight * (px - (bx / a)[:, None, None] * p)
    gy = weight * (py - (by / a)[:, None, None] * p)
    mxx = patches.covariance(gx, gx, variance) + stiffness
    myy = patches.covariance(gy, gy, variance) + stiffness
    mxy = patches.covariance(gx, gy, variance)
    vxx = cyy * (cyy * mxx - cxy * mxy) - cxy * (cyy * mxy - cxy * myy)
    vyy = cxx * (cxx * myy - cxy * mxy) - cxy * (cxx * mxy - cxy * mxx)
    vxy = cxx * (cyy * mxy - cxy * myy) - cxy * (cyy * mxx - cxy * mxy)
    vxx, vyy = (v.clamp(min=1e-12 * det**2) for v in (vxx, vyy))
    correlation = (vxy / (vxx * vyy).sqrt()).clamp(-0.99, 0.99)
    return x, y, vxx.sqrt() / det, vyy.sqrt() / det, correlation


def photometry(patches, x, y, log_floor):
    """Features of the optimal flux of a star at known positions, ``(N,)``."""
    flux, error, chi2 = flux_at(patches, x, y)
    safe = torch.maximum(flux, 0.2 * log_floor.exp())
    return {
        'flux': flux,
        'log_flux': torch.log(safe) - log_floor,
        'relative_error': (error / safe).clamp(1e-4, 5),
        'snr': flux / error,
        'chi2': chi2,
    }


class Pixels:
    """
    The pixels of B images, with a border so that cut-outs may reach beyond.

    Parameters
    ----------
    inputs : `~bliss_astro.encoders.EncoderInputs`
        Inputs of the encoder.

    grid : `TileGrid`
        Tiles of the images.

    radius : int
        Largest half-size of a cut-out.
    """

    def __init__(self, inputs, grid, radius):
        self.inputs, self.grid = inputs, grid
        self.pad = pad = radius + 2 * grid.size
        bottom = grid.shape[0] * grid.size - inputs.image.shape[1]
        right = grid.shape[1] * grid.size - inputs.image.shape[2]
        border = (pad, pad + right, pad, pad + bottom)
        self.image = F.pad(inputs.image, border)
        self.good = F.pad((~inputs.mask).to(inputs.image), border)

    def _centres(self, x, y, radius):
        ny, nx = self.image.shape[1:]
        pad = self.pad
        cx = x.round().long().clamp(-pad + radius, nx - pad - radius - 1)
        cy = y.round().long().clamp(-pad + radius, ny - pad - radius - 1)
        return cx, cy

    def cut(self, image, images, cx, cy, radius):
        """
        Cut-outs ``(N, P, P)`` of anything on the padded grid around central pixels.
        """
        side = 2 * radius + 1
        squares = image.unfold(1, side, 1).unfold(2, side, 1)
        return squares[images, cy + (self.pad - radius), cx + (self.pad - radius)]

    def index(self, images, x, y, radius):
        """Indices of cut-outs in the padded images."""
        cx, cy = self._centres(x, y, radius)
        step = torch.arange(-radius, radius + 1, device=x.device) + self.pad
        index = (
            images[:, None, None],
            (cy[:, None] + step)[:, :, None],
            (cx[:, None] + step)[:, None, :],
        )
        return index, cx, cy

    def patches(self, tiles, x, y, radius) -> StarPatches:
        """Cut-outs with their noise and PSF."""
        images, rows, columns = tiles
        cx, cy = self._centres(x, y, radius)
        inputs = self.inputs

        def at(value):
            return inputs.at_tiles(value, images, rows, columns)

        return StarPatches(
            data=self.cut(self.image, images, cx, cy, radius),
            good=self.cut(self.good, images, cx, cy, radius),
            shape=at(inputs.psf)[:, None, None, :],
            gain=at(inputs.log_noise).exp()[:, :, None],
            correlation=at(inputs.correlation),
            x=cx.to(x),
            y=cy.to(y),
            radius=inputs.normalization_radius,
        )
