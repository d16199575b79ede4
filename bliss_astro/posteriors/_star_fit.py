# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cut-outs of images, and least-squares fits of one star to them, in all bands at once.

A network that must find a flux to a part in a thousand from pixels alone
spends its capacity on arithmetic which a weighted least-squares fit does
exactly.  So the results of such a fit, with their errors, are inputs of the
posterior's position and flux factors, which learn the rest: the prior, neighbours,
masks, correlated noise, and how reliable the fit is.

Bands share the position of a star, and each has a flux of its own: the normal equations
of the bands, from which its flux is eliminated, add up.  One that is absent or has no
good pixel there adds nothing.
"""

import copy
import dataclasses
import functools

import torch
from torch.nn import functional as F

from bliss_astro._threads import map_threads
from bliss_astro.psf import GaussianPSF

from ._grid import Rows, joined

# Standard deviation (px) along an axis of places in a band relative to those in the
# reference band: that of even shifts up to 0.07, as in the simulation.
_REGISTRATION_ERROR = 0.04


@dataclasses.dataclass
class StarPatches(Rows):
    """
    Square cut-outs of F bands around N places, in units of the noise of empty sky.

    Attributes
    ----------
    data, good : tensor ``(N, F, P, P)``
        Background-subtracted pixels, and 1 or 0 for good or bad ones.

    psf : `~bliss_astro.psf.GaussianPSF`
        PSF at each place, of the batch ``(N, F, 1, 1)``.

    gain : tensor ``(N, F, 1, 1)``
        Electrons per unit of data.

    correlation : tensor ``(N, F, 2)``
        Correlation of the noise of neighbouring pixels in x and in y.

    x, y : tensor ``(N,)``
        Pixel coordinates of the central pixel.

    correlated : bool
        Whether the noise of any pixels is correlated.
    """

    data: torch.Tensor
    good: torch.Tensor
    psf: GaussianPSF
    gain: torch.Tensor
    correlation: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    correlated: bool = True

    @property
    def reference(self) -> 'StarPatches':
        """The cut-outs of the reference band."""
        return self.in_bands(1)

    def in_bands(self, n) -> 'StarPatches':
        """The cut-outs of the first n bands."""
        if self.n_bands == n:
            return self
        names = ('data', 'good', 'psf', 'gain', 'correlation')
        own = {name: getattr(self, name)[:, :n] for name in names}
        return dataclasses.replace(self, **own)

    @property
    def n_bands(self):
        """Number of bands."""
        return self.data.shape[1]

    def of_bands(self, reference, others=0.0):
        """Numbers ``(N, F)`` from those of the reference band and one for the rest."""
        return F.pad(reference[:, None], (0, self.n_bands - 1), value=others)

    def offsets(self, x, y):
        """Offsets of the pixels from positions, ``(N, 1, 1, P)``, ``(N, 1, P, 1)``."""
        half = self.data.shape[-1] // 2
        step = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
        dx = step - (x - self.x)[..., None, None, None]
        dy = step[:, None] - (y - self.y)[..., None, None, None]
        return dx, dy

    def profile(self, x, y):
        """The PSF at positions, of unit flux, ``(N, F, P, P)``."""
        return self.psf(*self.offsets(x, y))

    def profile_with_gradient(self, x, y):
        """The same, with its derivatives by the position in x and in y."""
        return self.psf(*self.offsets(x, y), gradient=True)

    def variance(self, model):
        """Variance of each pixel under a model of the signal."""
        return (model.clamp(min=0) / self.gain).add_(1)

    def variance_of(self, flux, p):
        """The same under a profile ``(..., P, P)`` of some fluxes ``(...)``."""
        return (flux.clamp(min=0)[..., None, None] / self.gain * p).add_(1)

    @functools.cached_property
    def quality(self):
        """Inverse variance of the pixels of an empty sky, 0 where they are bad."""
        excess = (self.correlation * 2 + 1).prod(-1).clamp(min=0.2)
        return self.good / excess[..., None, None]

    def weight(self, model):
        """Inverse variance under a model of the signal."""
        return self.quality / self.variance(model)

    def middle(self, radius):
        """The same with fewer pixels around the centres."""
        half = self.data.shape[-1] // 2
        part = (..., *2 * [slice(half - radius, half + radius + 1)])
        data, good = (v[part].contiguous() for v in (self.data, self.good))
        return dataclasses.replace(self, data=data, good=good)

    def with_data(self, data):
        """The same cut-outs of another image, of the same quality."""
        other = copy.copy(self)
        other.data, other.quality = data, self.quality
        return other

    def covariance(self, weights, variance):
        """
        Covariance ``(..., K, K)`` of K weighted sums of pixels, ``(..., K, P, P)``.

        ``sum_ij a_i sqrt(v_i v_j) rho_(i - j) b_j`` with the correlation of an
        interpolated image, rho being the product of ``(rho_x, 1, rho_x)`` and
        ``(rho_y, 1, rho_y)``.
        """
        variance = variance[..., None, :, :]
        if not self.correlated:
            return weights.flatten(-2) @ (weights * variance).flatten(-2).mT
        spread = weights = weights * variance.sqrt()
        for axis, rho in zip((-1, -2), self.correlation.unbind(-1), strict=True):
            n = spread.shape[axis]
            beside = F.pad(spread, (1, 1) if axis == -1 else (0, 0, 1, 1))
            beside = beside.narrow(axis, 0, n) + beside.narrow(axis, 2, n)
            spread = spread + rho[..., None, None, None] * beside
        return weights.flatten(-2) @ spread.flatten(-2).mT


def _sum(value):
    return value.sum((-2, -1))


def optimal_flux(patches, p, flux, n_rounds):
    """
    Optimal flux of a profile: weights of each round follow the flux of the last one.

    The first ones follow a given flux; if None, they are those of an empty sky. Returns
    the flux, its Fisher information for white noise, and the last variance.
    """
    weighted = own = patches.quality * p
    variance = 1.0
    for k in range(n_rounds):
        if k or flux is not None:
            variance = patches.variance_of(flux, p)
            weighted = own / variance
        information = _sum(weighted * p).clamp(min=1e-9)
        flux = _sum(weighted * patches.data) / information
    return flux, information, variance


@torch.no_grad()
def flux_at(patches: StarPatches, x, y, *, n_iterations: int = 2):
    """Optimal fluxes ``(N, F)`` of stars at positions, errors and chi2 per pixel."""
    p = patches.profile(x, y)
    flux, information, variance = optimal_flux(patches, p, None, n_iterations + 1)
    weight = patches.quality / variance
    noise = patches.covariance((weight * p)[:, :, None], patches.variance_of(flux, p))
    n_good = _sum(patches.good).clamp(min=1)
    left = (p * flux[..., None, None]).sub_(patches.data)
    chi2 = _sum(left.square_().mul_(weight)) / n_good
    error = noise[..., 0, 0].clamp(min=1e-12).sqrt() / information
    return flux, torch.where(n_good > 1, error, information.rsqrt()), chi2


def linear_fluxes(patches, profiles):
    """Fluxes ``(N, F, K)`` of K overlapping profiles ``(N, F, K, P, P)`` together."""
    flat = profiles.flatten(3)
    weighted = flat * patches.quality.flatten(2)[:, :, None]
    unit = torch.eye(flat.shape[2], device=flat.device)
    # A little is added to the diagonal, as profiles may be the same.
    gram = (weighted @ flat.mT) * (1 + 1e-4 * unit) + 1e-9 * unit
    right = weighted @ patches.data.flatten(2)[..., None]
    return torch.linalg.solve_ex(gram, right)[0][..., 0]


@torch.no_grad()
def fit_star(patches: StarPatches, x, y, flux_floor, *, n_iterations: int = 4):
    """
    Least-squares position from a starting one, its errors and their correlation.

    The errors are those of this estimate under the correlation of the noise, which
    is weaker in the differences of pixels that yield a position than in the sums
    that yield a flux. Stars have at least half of a flux ``(N,)`` in the reference
    band, so that the faintest have a position too; other bands may be shifted.
    """
    start = place = torch.stack([x, y], -1)
    least = patches.of_bands(0.5 * flux_floor)
    shift = patches.of_bands(0 * x, _REGISTRATION_ERROR**2)
    # A weak prior of half a pixel around the start keeps noise from running away.
    prior = torch.eye(2, device=x.device) / 0.5**2
    # Derivatives by the position, the profile and the residual.
    n, n_bands, *size = patches.data.shape
    flux, columns = None, x.new_empty(n, n_bands, 4, *size)
    for _ in range(n_iterations):
        p, *slopes = patches.profile_with_gradient(*place.unbind(-1))
        if flux is None:
            flux, _, _ = optimal_flux(patches, p, None, 2)
        f = torch.maximum(flux, least)[..., None]
        residual = patches.data - f[..., None] * p
        torch.stack([*slopes, p, residual], 2, out=columns)
        variance = patches.variance_of(f[..., 0], p)
        weighted = columns[:, :, :3] * (patches.quality / variance)[:, :, None]
        # Normal equations of each band, from which its flux is eliminated.
        gram = weighted.flatten(3) @ columns.flatten(3).mT
        share = gram[:, :, 2] / gram[:, :, 2, 2, None].clamp(min=1e-9)
        gram = gram[:, :, :2].addcmul(gram[:, :, :2, 2:3], share[:, :, None], value=-1)
        gram = f[..., None] * gram
        own, pull = f[..., None] * gram[..., :2], gram[..., 3]
        normal = own
        if n_bands > 1:
            # The shift of each band is eliminated too, up to the ellipticity of PSFs.
            trust = 1 + shift * own.diagonal(dim1=2, dim2=3).mean(-1)
            trust = trust.reciprocal()[..., None]
            normal, pull = own * trust[..., None], pull * trust
        normal = normal.sum(1) + prior
        pull = pull.sum(1) - prior[0, 0] * (place - start)
        # The inverse but for its determinant.
        (xx, yx), (xy, yy) = (row.unbind(1) for row in normal.unbind(1))
        det = (xx * yy).addcmul(xy, yx, value=-1).clamp(min=1e-12)[:, None]
        adjugate = torch.stack([yy, -xy, -yx, xx], -1).unflatten(-1, (2, 2))
        step = ((adjugate @ pull[..., None])[..., 0] / det).clamp(-0.6, 0.6)
        place = place + step
        moved = (f * share[..., :2] * step[:, None]).sum(-1)
        flux = f[..., 0] + share[..., 3] - moved
    # The estimate is the inverse times the scores, whose covariance is this.
    scores = weighted[:, :, :2] - share[..., :2, None, None] * weighted[:, :, 2:]
    scores = patches.covariance(f[..., None, None] * scores, variance)
    if n_bands > 1:
        scores = scores + shift[..., None, None] * (own @ own)
        scores = scores * trust[..., None].square()
    covariance = adjugate @ (scores.sum(1) + prior) @ adjugate
    sigma = covariance.diagonal(dim1=1, dim2=2).clamp(min=1e-12 * det**2).sqrt()
    correlation = (covariance[:, 0, 1] / sigma.prod(1)).clamp(-0.99, 0.99)
    return *place.unbind(1), *(sigma / det).unbind(1), correlation


def photometry(fluxes, log_floor):
    """Features ``(N,)`` of what `flux_at` returns, of the reference band."""
    flux, error, chi2 = (part[:, 0] for part in fluxes)
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
        ny, nx = inputs.image.shape[2:]
        bottom = grid.shape[0] * grid.size - ny
        right = grid.shape[1] * grid.size - nx
        border = (pad, pad + right, pad, pad + bottom)
        image, good, self.n_bands = inputs.image, ~inputs.mask, inputs.image.shape[1]
        self.image, self.good = F.pad(image, border), F.pad(good, border)

    @functools.cached_property
    def last(self):
        """
        Number of bands up to the last one that each image has, ``(B,)``.

        Where it is that of all images, an int.
        """
        if self.n_bands == 1:
            return 1
        present = self.inputs.present
        last = present * torch.arange(1, 1 + self.n_bands, device=present.device)
        last = last.amax(1).clamp(min=1)
        first, *others = {*last.tolist()}
        return last if others else first

    def last_of(self, images):
        """Number of bands up to the last one that any of these images has."""
        if isinstance(self.last, int):
            return self.last
        return int(self.last[images].amax()) if len(images) else 1

    def alike(self, images):
        """Numbers of bands, and the indices of the cut-outs that have as many."""
        if isinstance(self.last, int) or len(images) == 0:
            index = torch.arange(len(images), device=images.device)
            return [(self.last_of(images), index)]
        last = self.last[images]
        return [(n, (last == n).nonzero()[:, 0]) for n in last.unique().tolist()]

    def map_alike(self, function, images, split):
        """
        Dict of tensors that a function returns of pieces of N cut-outs, in order.

        Each piece, an index, is of images with as many bands, so that nothing is
        computed of those that do not exist: slices that ``split`` gives for a number of
        cut-outs and of bands.
        """
        if isinstance(self.last, int):
            return joined(map_threads(function, split(len(images), self.last)))
        groups = self.alike(images)
        pieces = [index[k] for n, index in groups for k in split(len(index), n)]
        found, order = map_threads(function, pieces), torch.cat(pieces).argsort()
        return {name: value[order] for name, value in joined(found).items()}

    @functools.cached_property
    def correlated(self):
        """Whether the noise of any pixels is correlated."""
        return bool(self.inputs.correlation.any())

    def cut(self, image, images, cx, cy, radius):
        """
        Cut-outs ``(N, F, P, P)`` of anything on the padded grid around central pixels.
        """
        side = 2 * radius + 1
        squares = image.unfold(2, side, 1).unfold(3, side, 1)
        return squares[images, :, cy + (self.pad - radius), cx + (self.pad - radius)]

    def centres(self, x, y, radius):
        """Central pixels of cut-outs around positions, within the padded images."""
        least, (ny, nx) = radius - self.pad, self.image.shape[2:]
        cx = x.round().long().clamp(least, nx - self.pad - radius - 1)
        return cx, y.round().long().clamp(least, ny - self.pad - radius - 1)

    def elsewhere(self, patches, images, x, y, radius) -> StarPatches:
        """Cut-outs around other places of the same tiles."""
        (cx, cy), n = self.centres(x, y, radius), patches.n_bands
        data, good = (
            self.cut(image[:, :n], images, cx, cy, radius).to(x)
            for image in (self.image, self.good)
        )
        return dataclasses.replace(
            patches, data=data, good=good, x=cx.to(x), y=cy.to(y)
        )

    def patches(self, tiles, x, y, radius, n_bands=None) -> StarPatches:
        """Cut-outs of all bands, or of the first n, with their noise and PSF."""
        inputs, (cx, cy) = self.inputs, self.centres(x, y, radius)
        psf, log_noise, correlation = (
            inputs.at_tiles(value[:, :n_bands], *tiles)
            for value in (inputs.psf, inputs.log_noise, inputs.correlation)
        )
        radius_of_flux = inputs.normalization_radius
        psf = psf[:, :, None, None]
        return StarPatches(
            data=self.cut(self.image[:, :n_bands], tiles[0], cx, cy, radius),
            good=self.cut(self.good[:, :n_bands], tiles[0], cx, cy, radius).to(x),
            psf=GaussianPSF.from_shape(psf, normalization_radius=radius_of_flux),
            gain=log_noise.exp()[..., None],
            correlation=correlation,
            x=cx.to(x),
            y=cy.to(y),
            correlated=self.correlated,
        )
