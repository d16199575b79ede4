# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Inputs of an encoder: the image and what describes it, as channels.

The matched filter is one of them. For white noise, the detection of a faint star
depends on one number: the image weighted with the PSF. A network that has to form that
sum for any PSF loses a little of it, which counts near the limit. Any round PSF is
nearly a combination of a few Gaussians, and Gaussians are products of a function of x
and one of y: the filter costs a few short convolutions, and follows a PSF that varies
over the image.
"""

import dataclasses
import math

import torch

from bliss_astro.exposures._exposure import USUAL_BACKGROUND_ERROR, USUAL_PSF_ERROR
from bliss_astro.posteriors import TileCatalog
from bliss_astro.posteriors._grid import Rows
from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, LOG_AREA

from ._config import (
    EMPTY_LOG_DENSITY,
    EXACT_PSF_ERROR,
    FEATURES,
    FILTER_RADIUS,
    FILTER_SIGMAS,
    LEAST_NOISE_EXCESS,
    REFERENCE_NOISE,
    REFERENCE_PSF,
    WIDE_RADIUS,
    WIDE_SIGMAS,
    WING_FLOOR,
)

# Number of conditions, and of uncertainties among the inputs.
N_CONDITIONS, N_UNCERTAINTIES = 14, 6


@dataclasses.dataclass
class EncoderInputs(Rows):
    """
    Inputs of an encoder: one list of channels, whatever the survey.

    Everything is dimensionless: pixels and fluxes in units of the noise of
    empty sky, so only the product of noise and gain, the noise in electrons,
    matters.  Constants of an image have spatial size 1 x 1, maps that of
    the tiles.

    Attributes
    ----------
    image : tensor ``(B, ny, nx)``
        ``(data - background) / bkg_error``; 0 at bad pixels.

    mask : tensor ``(B, ny, nx)`` of bool
        `True` for bad pixels.

    log_noise : tensor ``(B, 1, h, w)``
        Logarithm of ``bkg_error * effective_gain``: the noise in electrons.

    correlation : tensor ``(B, 2, h, w)``
        Correlation of the noise of neighbouring pixels in x and y.

    psf : tensor ``(B, 8, h, w)``
        Shape parameters of the effective PSF.

    log_density : tensor ``(B, 1, h, w)``
        Logarithm of the prior density of sources per pixel.

    log_flux_floor : tensor ``(B, 1, h, w)``
        Logarithm of the prior's smallest flux in units of the noise.

    normalization_radius : float
        Normalisation radius of the PSF in pixels.

    population : tensor ``(B, 1, 1, 1)`` or None
        Which prior of stars and galaxies holds: 0 the sky's, 1 that of the
        NPE paper; `None` where there are only stars.

    description : tensor ``(B, 8, h, w)`` or None
        ``GaussianPSF.describe`` of ``psf``, where it was computed
        before; a large map is described on a coarser grid.

    psf_error : tensor ``(B, 1, h, w)`` or None
        Stated relative error of the PSF's width; `None` for 1 %.

    background_error : tensor ``(B, 1, h, w)`` or None
        Stated error of the background in units of the noise; `None` for 0.05.

    asymmetry : tensor ``(B, 4, h, w)`` or None
        Coma and trefoil of the PSF, ``asymmetry_of_image``; `None`
        for a symmetric PSF.
    """

    image: torch.Tensor
    mask: torch.Tensor
    log_noise: torch.Tensor
    correlation: torch.Tensor
    psf: torch.Tensor
    log_density: torch.Tensor
    log_flux_floor: torch.Tensor
    normalization_radius: float = DEFAULT_NORMALIZATION_RADIUS
    description: torch.Tensor | None = None
    population: torch.Tensor | None = None
    psf_error: torch.Tensor | None = None
    background_error: torch.Tensor | None = None
    asymmetry: torch.Tensor | None = None

    @property
    def gaussians(self) -> GaussianPSF:
        """The PSF, `~bliss_astro.psf.GaussianPSF` of the batch ``(B, h, w)``."""
        shape, radius = self.psf.movedim(1, -1), self.normalization_radius
        return GaussianPSF.from_shape(shape, normalization_radius=radius)

    @classmethod
    def from_batch(cls, batch, *, tile_size=4, normalization_radius=None):
        """
        Return the inputs of simulated images.

        Parameters
        ----------
        batch : `~bliss_astro.simulation.SimulatedImages`
            Simulated images.

        tile_size : int, optional
            Side of a tile in pixels.

        normalization_radius : float, optional
            Normalisation radius of the PSF in pixels.

        Returns
        -------
        inputs : `EncoderInputs`
            With a map of the density where a region or a cluster confines sources.
        """
        noise = batch.bkg_error
        image = (batch.data - batch.background[:, None, None]) / noise[:, None, None]

        names = ('correlation', 'psf', 'population')
        names += ('psf_error', 'background_error', 'asymmetry')
        constants = {name: getattr(batch, name) for name in names} | {
            'log_noise': torch.log(noise * batch.effective_gain),
            'log_flux_floor': torch.log(batch.flux_min / noise),
        }
        return cls(
            image=image.masked_fill(batch.mask, 0.0),
            mask=batch.mask,
            log_density=_density_map(batch, tile_size),
            normalization_radius=normalization_radius or DEFAULT_NORMALIZATION_RADIUS,
            **{
                name: None if value is None else value.reshape(len(value), -1, 1, 1)
                for name, value in constants.items()
            },
        )

    @classmethod
    def concatenate(cls, parts, *, tile_size=4) -> 'EncoderInputs':
        """
        Inputs of images of one size as one batch.

        Parameters
        ----------
        parts : list of `EncoderInputs`
            To be joined along the batch.

        tile_size : int, optional
            Side of a tile in pixels.
        """
        full = [-(-n // tile_size) for n in parts[0].image.shape[1:]]

        def join(name):
            own = [getattr(part, name) for part in parts]
            if own[0].dim() == 4 and len({v.shape[2:] for v in own}) > 1:
                own = [v.expand(*v.shape[:2], *full) for v in own]
            return torch.cat(own)

        return parts[0].with_tensors(join)

    def to(self, device) -> 'EncoderInputs':
        """Return the same inputs on another device."""
        return self.with_tensors(lambda name: getattr(self, name).to(device))

    def conditions(self, *, psf_range=None) -> torch.Tensor:
        """
        Conditions, scaled to about unit size: tensor ``(B, 14, h, w)``.

        Among them is the signal-to-noise ratio at the flux floor, which
        sets how hard the faintest sources are.

        Parameters
        ----------
        psf_range : pair of sequences of 8 floats, optional
            Lowest and highest values of the PSF's features, to which they are
            clipped; by default those of wings are kept above ``WING_FLOOR``.
        """
        described = self.description
        if described is None:
            described = self.gaussians.describe().movedim(-1, 1)
        log_area = described[:, 1:2] + LOG_AREA
        excess = torch.log(self.noise_excess())
        log_snr = self.log_flux_floor - 0.5 * (log_area + excess)
        return joined_channels(
            FEATURES['log_noise'](self.log_noise),
            FEATURES['correlation'](self.correlation),
            _clipped(described, psf_range),
            FEATURES['log_density'](self.log_density),
            FEATURES['log_flux_floor'](self.log_flux_floor),
            FEATURES['log_snr'](log_snr),
        )

    def uncertainties(self) -> torch.Tensor:
        """
        Errors of PSF and background, 0 at their usual values, and the PSF's asymmetry.

        Scaled to about unit size: tensor ``(B, 6, h, w)``.
        """

        def stated(value, usual):
            shape = (len(self.image), 1, 1, 1)
            return self.log_noise.new_full(shape, usual) if value is None else value

        psf_error = stated(self.psf_error, USUAL_PSF_ERROR)
        background_error = stated(self.background_error, USUAL_BACKGROUND_ERROR)
        asymmetry = stated(self.asymmetry, 0.0)
        ratio = psf_error.clamp(min=EXACT_PSF_ERROR) / USUAL_PSF_ERROR
        return joined_channels(
            torch.where(
                psf_error < USUAL_PSF_ERROR,
                FEATURES['log_psf_error'](torch.log(ratio)),
                FEATURES['psf_error'](psf_error - USUAL_PSF_ERROR),
            ),
            FEATURES['background_error'](background_error - USUAL_BACKGROUND_ERROR),
            FEATURES['asymmetry'](asymmetry.expand(-1, 4, -1, -1)),
        )

    def masked(self, conditioning) -> 'EncoderInputs':
        """
        Return the inputs with a reference PSF and noise in place of their own.

        The image is then in units of the reference noise.

        Parameters
        ----------
        conditioning : {'all', 'image+background', 'image'}
            Inputs that stay: all; all but the PSF; neither PSF nor noise.
        """
        if conditioning == 'all':
            return self
        psf = self.psf.new_tensor(REFERENCE_PSF)[None, :, None, None]
        changed = {'psf': psf.expand(len(self.image), 8, 1, 1), 'description': None}
        if conditioning == 'image':
            log_noise = math.log(REFERENCE_NOISE)
            log_ratio = self.log_noise.mean((2, 3), keepdim=True) - log_noise
            changed['image'] = self.image * log_ratio.exp()[:, 0]
            changed['log_noise'] = torch.full_like(log_ratio, log_noise)
            changed['log_flux_floor'] = self.log_flux_floor + log_ratio
        return dataclasses.replace(self, **changed)

    def noise_excess(self) -> torch.Tensor:
        """Return the sum of the noise's correlation over all lags, ``(B, 1, h, w)``."""
        both = 1 + 2 * self.correlation
        return both.prod(1, keepdim=True).clamp(min=LEAST_NOISE_EXCESS)

    def at_tiles(self, value, images, rows, columns):
        """Return values ``(N, channels)`` of a constant or map at given tiles."""
        rows = rows if value.shape[2] > 1 else torch.zeros_like(rows)
        columns = columns if value.shape[3] > 1 else torch.zeros_like(columns)
        return value[images, :, rows, columns]


def joined_channels(*parts):
    """Channels of constants and maps, on the largest of their grids."""
    h = max(part.shape[2] for part in parts)
    w = max(part.shape[3] for part in parts)
    return torch.cat([part.expand(-1, -1, h, w) for part in parts], 1)


def _clipped(described, limits=None):
    """Features of PSFs ``(B, 8, h, w)`` within the range of the training."""
    if limits is None:
        free = math.inf
        limits = (-free, -free, *WING_FLOOR, -free, -free), (free,) * 8
    low, high = (described.new_tensor(side)[:, None, None] for side in limits)
    return described.clamp(low, high)


def training_pair(images, *, tile_size=4, n_most=2):
    """Return the inputs of simulated images and their truth by tile."""
    inputs = EncoderInputs.from_batch(images, tile_size=tile_size)
    return inputs, TileCatalog.from_batch(images, tile_size=tile_size, n_most=n_most)


def _density_map(batch, tile_size):
    """Log density ``(B, 1, h, w)``; a map only where something confines sources."""
    log_density = torch.log(batch.density.clamp(min=1e-7))[:, None, None, None]
    ny, nx = batch.data.shape[1:]
    edges = batch.region.new_tensor([0, nx - 1, 0, ny - 1])
    beyond = (batch.region - edges) * edges.new_tensor([-1, 1, -1, 1])
    clustered = batch.cluster is not None and bool(batch.cluster[:, 2].isfinite().any())
    if not clustered and bool((beyond >= 0).all()):
        return log_density
    x, y = (
        (torch.arange(-(-n // tile_size)).to(log_density) + 0.5) * tile_size - 0.5
        for n in (nx, ny)
    )
    x, y = x[None, None], y[None, :, None]
    x_low, x_high, y_low, y_high = batch.region[:, :, None, None].unbind(1)
    inside = (x > x_low) & (x < x_high) & (y > y_low) & (y < y_high)
    if clustered:
        x_0, y_0, radius = batch.cluster[:, :, None, None].unbind(1)
        inside = inside & (torch.hypot(x - x_0, y - y_0) < radius)
    return torch.where(inside[:, None], log_density, EMPTY_LOG_DENSITY)


def filter_coefficients(psf):
    """Weights of the Gaussians that make a filter, over its noise."""
    height, variance, *_ = psf.components
    sigma2 = height.new_tensor(FILTER_SIGMAS) ** 2
    gram = 1 / (2 * math.pi * (sigma2[:, None] + sigma2))
    product = variance[..., None] / (variance[..., None] + sigma2)
    right = (height[..., None] * product).sum(-2)
    # In double precision, or the rounding would depend on the number of images.
    inverse = torch.linalg.inv(gram.double())
    coefficients = (right.double() @ inverse).to(right)
    power = (coefficients * right).sum(-1, keepdim=True)
    return coefficients * power.clamp(min=1e-8).rsqrt()


def matched_filter(image, inputs, tile_size):
    """Signal-to-noise ratio of a faint star at each pixel, ``(B, ny, nx)``."""
    weight = filter_coefficients(inputs.gaussians)
    weight = weight.movedim(-1, 1) * inputs.noise_excess().rsqrt()
    weight = _at_pixels(weight, image, tile_size)
    out = torch.zeros_like(image)
    filters = _gaussian_filters(image, FILTER_SIGMAS, FILTER_RADIUS)
    for own, filtered in zip(weight.unbind(1), filters, strict=True):
        out += own * filtered
    return out


def wide_filters(image, inputs, tile_size):
    """Signal-to-noise ratios of faint, large sources at each pixel."""
    excess = _at_pixels(inputs.noise_excess().rsqrt(), image, tile_size)
    filters = _gaussian_filters(image, WIDE_SIGMAS, WIDE_RADIUS)
    return [
        2 * sigma * math.sqrt(math.pi) * excess[:, 0] * filtered
        for sigma, filtered in zip(WIDE_SIGMAS, filters, strict=True)
    ]


def _at_pixels(value, image, tile_size):
    if value[0, 0].numel() == 1:
        return value
    rows, columns = (n // tile_size for n in image.shape[1:])
    value = value.expand(-1, -1, rows, columns)
    return value.repeat_interleave(tile_size, 2).repeat_interleave(tile_size, 3)


def _gaussian_filters(image, sigmas, radius):
    """Yield the image convolved with Gaussians of unit flux, cut off at a radius."""
    step = torch.arange(-radius, radius + 1, device=image.device)
    sigma = image.new_tensor(sigmas)[:, None]
    profiles = torch.exp(-0.5 * (step / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    # Products with banded matrices: a processor's fastest operation.
    ny, nx = image.shape[1:]
    along_x = _band(profiles, nx)
    along_y = along_x if nx == ny else _band(profiles, ny)
    for y, x in zip(along_y, along_x, strict=True):
        yield y @ image @ x


def _band(profiles, n):
    radius, lag = profiles.shape[1] // 2, torch.arange(n, device=profiles.device)
    lag = (lag[:, None] - lag).abs()
    return profiles[:, radius + lag.clamp(max=radius)] * (lag <= radius)
