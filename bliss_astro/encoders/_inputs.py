# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What an encoder is told.
"""

import dataclasses
import math

import torch

from bliss_astro.posteriors import TileCatalog
from bliss_astro.psf._mixture import (
    DEFAULT_NORMALIZATION_RADIUS,
    LOG_AREA,
    describe_shape,
)
from bliss_astro.simulation._nuisances import USUAL_BACKGROUND_ERROR, USUAL_PSF_ERROR

__all__ = ['EncoderInputs', 'training_pair']

EMPTY_LOG_DENSITY = math.log(1e-7)


@dataclasses.dataclass
class EncoderInputs:
    """
    The one list of channels, whatever the survey.

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
        Of the PSF, in pixels.

    population : tensor ``(B, 1, 1, 1)`` or None
        Which prior of stars and galaxies holds: 0 the sky's, 1 that of the
        NPE paper; `None` where there are only stars.

    description : tensor ``(B, 8, h, w)`` or None
        `~bliss_astro.psf.describe_shape` of ``psf``, where it was computed
        before; a large map is described on a coarser grid.

    psf_error : tensor ``(B, 1, h, w)`` or None
        Stated relative error of the PSF's width; `None` for 1 %.

    background_error : tensor ``(B, 1, h, w)`` or None
        Stated error of the background in units of the noise; `None` for 0.05.

    asymmetry : tensor ``(B, 4, h, w)`` or None
        Coma and trefoil of the PSF, `~bliss_astro.psf.asymmetry_of_image`; `None`
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
            Of the PSF, in pixels.

        Returns
        -------
        inputs : `EncoderInputs`
            With a map of the density where a region or a cluster confines sources.
        """
        noise = batch.bkg_error
        image = (batch.data - batch.background[:, None, None]) / noise[:, None, None]

        def constant(value):
            return value[:, None, None, None]

        population = batch.population
        return cls(
            image=image.masked_fill(batch.mask, 0.0),
            mask=batch.mask,
            log_noise=constant(torch.log(noise * batch.effective_gain)),
            correlation=batch.correlation[:, :, None, None],
            psf=batch.psf[:, :, None, None],
            log_density=_density_map(batch, tile_size),
            log_flux_floor=constant(torch.log(batch.flux_min / noise)),
            normalization_radius=normalization_radius or DEFAULT_NORMALIZATION_RADIUS,
            population=None if population is None else constant(population),
            **_stated_errors(batch),
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
        ny, nx = parts[0].image.shape[1:]
        full = (-(-ny // tile_size), -(-nx // tile_size))
        values = {}
        for field in dataclasses.fields(cls):
            own = [getattr(part, field.name) for part in parts]
            if not isinstance(own[0], torch.Tensor):
                values[field.name] = own[0]
                continue
            if own[0].dim() == 4 and len({v.shape[2:] for v in own}) > 1:
                own = [v.expand(*v.shape[:2], *full) for v in own]
            values[field.name] = torch.cat(own)
        return cls(**values)

    @property
    def constants(self) -> tuple[torch.Tensor, ...]:
        """The channels that describe the image rather than hold it."""
        return (
            self.log_noise,
            self.correlation,
            self.psf,
            self.log_density,
            self.log_flux_floor,
        )

    def to(self, device) -> 'EncoderInputs':
        """The same inputs on another device."""
        values = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                values[name] = value.to(device)
        return EncoderInputs(**values)

    def conditions(self, *, psf_range=None) -> torch.Tensor:
        """
        The constants, scaled to about unit size: tensor ``(B, 14, h, w)``.

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
            shape = self.psf.movedim(1, -1)
            described = describe_shape(shape, radius=self.normalization_radius)
            described = described.movedim(-1, 1)
        log_area = described[:, 1:2] + LOG_AREA
        described = clip_description(described, psf_range)
        excess = self.noise_excess()
        log_snr = self.log_flux_floor - 0.5 * (log_area + torch.log(excess))
        parts = [
            (self.log_noise - 4.2) / 1.2,
            4 * self.correlation - 0.5,
            described,
            (self.log_density + 7.0) / 2.5,
            self.log_flux_floor - 3.5,
            log_snr - 1.8,
        ]
        h = max(part.shape[2] for part in parts)
        w = max(part.shape[3] for part in parts)
        return torch.cat([part.expand(-1, -1, h, w) for part in parts], 1)

    def uncertainties(self) -> torch.Tensor:
        """
        What is not exact, scaled to about unit size: tensor ``(B, 6, h, w)``.

        Errors of PSF and background, 0 at their usual values, and the
        asymmetries of the PSF.
        """
        empty = self.log_noise.new_zeros(len(self.image), 1, 1, 1)
        psf_error = self.psf_error
        if psf_error is None:
            psf_error = empty + USUAL_PSF_ERROR
        background_error = self.background_error
        if background_error is None:
            background_error = empty + USUAL_BACKGROUND_ERROR
        asymmetry = self.asymmetry
        if asymmetry is None:
            asymmetry = empty.expand(-1, 4, -1, -1)
        # Below the usual error, factors count: bright sources see the difference.
        small = 0.4 * torch.log(psf_error.clamp(min=_EXACT) / USUAL_PSF_ERROR)
        parts = [
            torch.where(
                psf_error < USUAL_PSF_ERROR, small, 15 * (psf_error - USUAL_PSF_ERROR)
            ),
            7 * (background_error - USUAL_BACKGROUND_ERROR),
            30 * asymmetry,
        ]
        h = max(part.shape[2] for part in parts)
        w = max(part.shape[3] for part in parts)
        return torch.cat([part.expand(-1, -1, h, w) for part in parts], 1)

    def told(self, what, *, psf, noise) -> 'EncoderInputs':
        """
        The same for an encoder that is told less.

        What it is not told is replaced by that of one field, and the
        image is given in units of that field's noise.

        Parameters
        ----------
        what : {'all', 'image+background', 'image'}
            ``'image'`` hides noise and PSF, ``'image+background'`` the PSF.

        psf : sequence of 8 floats
            Shape of the PSF that is told instead.

        noise : float
            The noise in electrons that is told instead.
        """
        if what == 'all':
            return self
        changed = {
            'psf': self.psf.new_tensor(psf)[None, :, None, None].expand(
                len(self.image), 8, 1, 1
            ),
            'description': None,
        }
        if what == 'image':
            log_ratio = self.log_noise.mean((2, 3), keepdim=True) - math.log(noise)
            changed['image'] = self.image * log_ratio.exp()[:, 0]
            changed['log_noise'] = torch.full_like(log_ratio, math.log(noise))
            changed['log_flux_floor'] = self.log_flux_floor + log_ratio
        return dataclasses.replace(self, **changed)

    def noise_excess(self) -> torch.Tensor:
        """Sum of the noise's correlation over all lags, ``(B, 1, h, w)``."""
        both = 1 + 2 * self.correlation
        return both.prod(1, keepdim=True).clamp(min=0.2)

    def at_tiles(self, value, images, rows, columns):
        """Values ``(N, channels)`` of a constant or map at given tiles."""
        rows = rows if value.shape[2] > 1 else torch.zeros_like(rows)
        columns = columns if value.shape[3] > 1 else torch.zeros_like(columns)
        return value[images, :, rows, columns]


N_CONDITIONS = 14
N_UNCERTAINTIES = 6
# An error of the PSF below this is none.
_EXACT = 0.001
# Logarithm of the profile at 1, 2, 4 and 8 px over the centre, as `describe_shape`
# scales it: where wings are fainter than those of nearly all SDSS PSFs (1st
# percentile of `SeeingPrior`) nothing is seen of them, and nothing need be known.
WING_FLOOR = (-1.5, -3.0, -3.0, -3.1)


def clip_description(described, limits=None):
    """Features of PSFs ``(B, 8, h, w)`` within the range that was trained on."""
    if limits is None:
        low = described.new_full((8,), -torch.inf)
        low[2:6] = described.new_tensor(WING_FLOOR)
        return torch.maximum(described, low[:, None, None])
    low, high = (described.new_tensor(side)[:, None, None] for side in limits)
    return torch.minimum(torch.maximum(described, low), high)


def training_pair(images, *, tile_size=4, n_most=2):
    """
    Return the inputs of simulated images and their truth by tile.

    Parameters
    ----------
    images : `~bliss_astro.simulation.SimulatedImages`
        Simulated images.

    tile_size : int, optional
        Side of a tile in pixels.

    n_most : int, optional
        Largest number of sources in a tile.

    Returns
    -------
    inputs : `EncoderInputs`
        Inputs of the encoder.

    catalog : `~bliss_astro.posteriors.TileCatalog`
        The sources above the flux floor.
    """
    inputs = EncoderInputs.from_batch(images, tile_size=tile_size)
    return inputs, TileCatalog.from_batch(images, tile_size=tile_size, n_most=n_most)


def _density_map(batch, tile_size):
    """Log density ``(B, 1, h, w)``; a map only where something confines sources."""
    log_density = torch.log(batch.density.clamp(min=1e-7))[:, None, None, None]
    ny, nx = batch.data.shape[1:]
    edges = batch.region.new_tensor([0, nx - 1, 0, ny - 1])
    beyond = (batch.region - edges) * edges.new_tensor([-1, 1, -1, 1])
    confined = bool((beyond < 0).any())
    clustered = batch.cluster is not None and bool(batch.cluster[:, 2].isfinite().any())
    if not confined and not clustered:
        return log_density
    like = {'device': log_density.device, 'dtype': log_density.dtype}
    x = (torch.arange(-(-nx // tile_size), **like) + 0.5) * tile_size - 0.5
    y = (torch.arange(-(-ny // tile_size), **like) + 0.5) * tile_size - 0.5
    x, y = x[None, None], y[None, :, None]
    x_low, x_high, y_low, y_high = batch.region[:, :, None, None].unbind(1)
    inside = (x > x_low) & (x < x_high) & (y > y_low) & (y < y_high)
    if clustered:
        x_0, y_0, radius = batch.cluster[:, :, None, None].unbind(1)
        inside = inside & (torch.hypot(x - x_0, y - y_0) < radius)
    return torch.where(inside[:, None], log_density, EMPTY_LOG_DENSITY)


def _stated_errors(batch):
    """Errors of PSF and background that a batch of simulations states."""
    values = {}
    for name in ('psf_error', 'background_error', 'asymmetry'):
        value = getattr(batch, name, None)
        if value is not None:
            values[name] = value.reshape(len(value), -1)[:, :, None, None]
    return values
