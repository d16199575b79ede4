# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Number counts, density and fluxes of sources; and the prior of stars in electrons.
"""

import dataclasses
import math

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from bliss_astro._arguments import check_positive, require, torch_generator
from bliss_astro.units import NANOMAGGY_ZERO_POINT, SDSS_PIXEL_SCALE, magnitude_to_flux

from ._numbers import check_nodes, source_table

FLOOR_SNR = 3.4
"""Signal-to-noise ratio at a typical flux floor: of a catalogue's faintest sources."""

# Densities per pixel mean pixels of SDSS.
_PIXELS_PER_DEG2 = (3600 / SDSS_PIXEL_SCALE) ** 2

# Smallest slope per magnitude of the logarithm of the counts, whose inverse is finite.
_SLOPE_MIN = 1e-6


def as_tensor(value, like=None) -> torch.Tensor:
    """Tensor of a number or array, in single precision on CPU by default."""
    if isinstance(value, torch.Tensor):
        return value
    kind = {} if like is None else {'dtype': like.dtype, 'device': like.device}
    return torch.as_tensor(value, dtype=torch.float32).to(**kind)


def draw_places(count, shape, generator):
    """
    Draw positions for padded catalogues ``(B, S)``, uniform over images.

    Returns x, y, further uniform numbers, and which places the counts ``(B,)`` use.
    """
    ny, nx = shape
    n_most, device = max(1, int(count.max())), count.device
    unit = torch.rand(3, len(count), n_most, generator=generator, device=device)
    used = torch.arange(n_most, device=device) < count[:, None]
    return unit[0] * nx - 0.5, unit[1] * ny - 0.5, unit[2], used


class Counts:
    """Base class of number counts: densities and fluxes of all and of a share."""

    def density_above(self, flux_min=None):
        """
        Expected number of sources per pixel brighter than a flux.

        Parameters
        ----------
        flux_min : float, tensor or None, optional
            In nmgy; `None` for all.

        Returns
        -------
        density : float or tensor
            Per pixel of 0.396 arcsec, as ``flux_min``.
        """
        if flux_min is None:
            return self.density
        density = self.density * self._share_above(as_tensor(flux_min))
        return density if isinstance(flux_min, torch.Tensor) else float(density)

    def flux_quantile(self, unit: torch.Tensor, flux_min=None) -> torch.Tensor:
        """
        Flux that a share of the sources brighter than ``flux_min`` exceeds.

        Parameters
        ----------
        unit : tensor
            The share, 0 to 1.

        flux_min : float, tensor or None, optional
            In nmgy, broadcasts against ``unit``; `None` for all.

        Returns
        -------
        flux : tensor
            In nmgy.
        """
        if flux_min is not None:
            unit = unit * self._share_above(as_tensor(flux_min, unit))
        return self._flux_exceeded(unit)


@dataclasses.dataclass(frozen=True)
class ParetoCounts(Counts):
    """
    Fluxes from a truncated Pareto distribution with a shift.

    That of `scipy.stats.truncpareto` ``(slope, ratio, loc, scale)``: the density
    is proportional to ``((f - loc) / scale)**-(slope + 1)`` for
    ``loc + scale < f < loc + ratio * scale``. The defaults are the stars of the
    NPE paper (Patel et al. 2025, table 1).

    Parameters
    ----------
    density : float
        Expected number of sources per pixel of 0.396 arcsec.

    slope : float
        Index of the cumulative distribution.

    ratio : float
        Largest over smallest of ``f - loc``.

    loc, scale : float
        Shift and scale in nmgy.

    Examples
    --------
    >>> from bliss_astro.priors import ParetoCounts
    >>> stars = ParetoCounts()
    >>> round(stars.flux_min, 3), round(stars.flux_max)
    (0.632, 1184)
    """

    density: float = 6.25e-4 * (1 - 0.514)
    slope: float = 0.469
    ratio: float = 1000.0
    loc: float = -0.553
    scale: float = 1.185

    def __post_init__(self):
        good = 0 <= self.density < math.inf
        require(good, 'density', 'be finite and not negative', self.density)
        check_positive(slope=self.slope, scale=self.scale)
        require(1 < self.ratio < math.inf, 'ratio', 'be finite, above 1', self.ratio)
        ends = f'loc={self.loc} and scale={self.scale}'
        good = self.loc + self.scale > 0
        require(good, 'loc + scale, the smallest flux,', 'be positive', ends)

    @property
    def flux_min(self) -> float:
        """Smallest flux in nmgy."""
        return self.loc + self.scale

    @property
    def flux_max(self) -> float:
        """Largest flux in nmgy."""
        return self.loc + self.ratio * self.scale

    @property
    def _last(self):
        """Share of the Pareto distribution beyond the largest flux."""
        return self.ratio**-self.slope

    def _share_above(self, flux):
        """Share of all sources that is brighter than a flux (tensor)."""
        flux = flux.clamp(self.flux_min, self.flux_max)
        share = ((flux - self.loc) / self.scale) ** -self.slope - self._last
        # Rounding may leave a little less than nothing above the largest flux.
        return share.clamp(min=0) / (1 - self._last)

    def _flux_exceeded(self, share):
        """Flux that a share of all sources exceeds (tensor)."""
        rest = share * (1 - self._last) + self._last
        return self.loc + self.scale * rest ** (-1 / self.slope)


@dataclasses.dataclass(frozen=True)
class MagnitudeCounts(Counts):
    """
    Number counts whose logarithm is piecewise linear in magnitude.

    Parameters
    ----------
    magnitude : tuple of float
        Nodes, AB magnitudes; there are no sources outside of them.

    log_density : tuple of float
        log10 of the number per square degree and magnitude at the nodes.

    Examples
    --------
    Galaxies of a static Euclidean universe, 100 per square degree and
    magnitude at r = 18:

    >>> from bliss_astro.priors import MagnitudeCounts
    >>> counts = MagnitudeCounts((14, 22), (-0.4, 4.4))
    >>> round(counts.flux_min, 3), round(counts.flux_max)
    (1.585, 2512)
    """

    magnitude: tuple[float, ...]
    log_density: tuple[float, ...]

    def __post_init__(self):
        check_nodes(self, 'log_density')

    @property
    def flux_min(self) -> float:
        """Smallest flux in nmgy."""
        return magnitude_to_flux(self.magnitude[-1])

    @property
    def flux_max(self) -> float:
        """Largest flux in nmgy."""
        return magnitude_to_flux(self.magnitude[0])

    @property
    def density(self) -> float:
        """Expected number of sources per pixel of 0.396 arcsec."""
        return float(self._segments()[3][-1] / _PIXELS_PER_DEG2)

    def _segments(self):
        """Nodes, counts per magnitude, slopes, and numbers brighter than each node."""
        m = np.array(self.magnitude)
        log_n = np.array(self.log_density) * math.log(10)
        slope = np.diff(log_n) / np.diff(m)
        slope = np.where(np.abs(slope) < _SLOPE_MIN, _SLOPE_MIN, slope)
        n = np.exp(log_n)
        parts = n[:-1] * np.expm1(slope * np.diff(m)) / slope
        return m, n, slope, np.concatenate([[0.0], np.cumsum(parts)])

    def _tensors(self, like):
        # Numbers are relative to the total: single precision is then enough.
        m, n, slope, total = self._segments()
        numbers = (m, n / total[-1], slope, total / total[-1])
        return (as_tensor(v, like) for v in numbers)

    def _share_above(self, flux):
        """Share of all sources that is brighter than a flux (tensor)."""
        m, n, slope, total = self._tensors(flux)
        # The floor itself must map to everything, whatever the rounding.
        mag = NANOMAGGY_ZERO_POINT - 2.5 * torch.log10(flux.clamp(min=1e-30))
        mag = mag.clamp(m[0], m[-1])
        k = (torch.searchsorted(m, mag.contiguous()) - 1).clamp(0, len(m) - 2)
        part = n[k] * torch.expm1(slope[k] * (mag - m[k])) / slope[k]
        return total[k] + part

    def _flux_exceeded(self, share):
        """Flux that a share of all sources exceeds (tensor)."""
        m, n, slope, total = self._tensors(share)
        k = (torch.searchsorted(total, share.contiguous()) - 1).clamp(0, len(m) - 2)
        inside = slope[k] * (share - total[k]) / n[k]
        # Rounding may take a number beyond the end of its segment.
        mag = m[k] + torch.log1p(inside.clamp(min=-0.999999)) / slope[k]
        return magnitude_to_flux(torch.minimum(mag, m[k + 1]))


@dataclasses.dataclass(frozen=True)
class StarPrior:
    """
    A Poisson number of stars, uniform in position, Pareto in flux.

    The density of fluxes is proportional to ``f**-(slope + 1)`` between ``flux_min``
    and ``flux_max``.  The defaults are the prior of the coadd paper (Wang et al. 2022,
    section 4): on average 3 stars in 40 x 40 pixels, from 622 to 1e6 electrons.

    Parameters
    ----------
    density : float
        Expected number of stars per pixel.

    flux_min, flux_max : float
        Range of fluxes in electrons of one exposure.

    slope : float
        Index of the Pareto distribution (of the cumulative counts).

    max_count : int or None
        Largest number of stars in an image; the published code of the paper
        stops at 8, the default does not.

    Examples
    --------
    >>> from bliss_astro.priors import StarPrior
    >>> prior = StarPrior()
    >>> stars = prior.sample((40, 40), rng=1)
    >>> stars.colnames
    ['x_centroid', 'y_centroid', 'flux']
    >>> prior.mean_count((40, 40))
    3.0
    """

    density: float = 3 / 1600
    flux_min: float = 622.0
    flux_max: float = 1e6
    slope: float = 0.47
    max_count: int | None = None

    def __post_init__(self):
        good = 0 <= self.density < math.inf
        require(good, 'density', 'be finite and not negative', self.density)
        ends = self.flux_min, self.flux_max
        good = 0 < ends[0] < ends[1]
        require(good, 'flux_min', 'be positive and less than flux_max', ends)
        require(self.slope > 0, 'slope', 'be positive', self.slope)

    def mean_count(self, shape) -> float:
        """Expected number of stars in ``shape = (ny, nx)`` pixels."""
        return float(self.density * shape[0] * shape[1])

    def flux_quantile(self, q):
        """Flux below which a share ``q`` of the stars lies (tensor or array)."""
        ratio = (self.flux_min / self.flux_max) ** self.slope
        return self.flux_min * (1 - q * (1 - ratio)) ** (-1 / self.slope)

    def log_prob_flux(self, flux):
        """
        Logarithm of the density of a flux; ``-inf`` outside the range.

        Parameters
        ----------
        flux : array_like
            In electrons.
        """
        flux = np.asarray(flux, float)
        ratio = (self.flux_min / self.flux_max) ** self.slope
        norm = self.slope * self.flux_min**self.slope / (1 - ratio)
        inside = (flux >= self.flux_min) & (flux <= self.flux_max)
        safe = np.where(inside, flux, self.flux_min)
        return np.where(inside, np.log(norm) - (self.slope + 1) * np.log(safe), -np.inf)

    def sample(self, shape, *, rng=None) -> QTable:
        """
        Draw one catalogue.

        Parameters
        ----------
        shape : tuple of int
            ``(ny, nx)`` of the field in pixels.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        stars : `~astropy.table.QTable`
            ``x_centroid, y_centroid`` (0-based pixels) and ``flux``
            (electrons), brightest first.
        """
        *columns, _ = self.sample_batch(1, shape, generator=torch_generator(rng))
        return source_table(u.electron, *columns)

    def sample_batch(
        self,
        n_images: int,
        shape: tuple[int, int],
        *,
        density: torch.Tensor | None = None,
        flux_min: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        device='cpu',
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Draw padded catalogues for training.

        Parameters
        ----------
        n_images : int
            Number of images B.

        shape : tuple of int
            ``(ny, nx)``; positions are uniform in
            ``[-0.5, nx - 0.5) x [-0.5, ny - 0.5)``.

        density, flux_min : tensor ``(B,)``, optional
            Override the prior's own, image by image; the ratio of the
            largest to the smallest flux stays.

        generator : `torch.Generator`, optional
            On ``device``.

        device : str or `torch.device`, optional
            Where to draw.

        Returns
        -------
        x, y, flux : tensor ``(B, S)``
            S is the largest count of the batch (at least 1); unused places
            have flux zero.

        count : tensor ``(B,)``
            Number of stars of each image.
        """
        if density is None:
            density = torch.full((n_images,), float(self.density), device=device)
        mean = density * shape[0] * shape[1]
        count = torch.poisson(mean, generator=generator).long()
        if self.max_count is not None:
            count = count.clamp(max=self.max_count)
        x, y, unit, used = draw_places(count, shape, generator)
        flux = self.flux_quantile(unit)
        if flux_min is not None:
            flux = flux * (flux_min / self.flux_min)[:, None]
        return x, y, flux * used, count
