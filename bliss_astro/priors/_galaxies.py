# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxy prior: number, fluxes and shapes of galaxies.
"""

import dataclasses
import math
from dataclasses import field

import astropy.units as u
import torch
from astropy.table import QTable

from bliss_astro._arguments import (
    check_positive,
    require,
    require_type,
    torch_generator,
)
from bliss_astro.units import NANOMAGGY_ZERO_POINT

from ._counts import MagnitudeCounts, ParetoCounts, as_tensor
from ._numbers import check_nodes, check_tuples, shape_columns

# Uniform numbers are kept off 0 and 1, where an axis ratio would vanish or a
# normal quantile be infinite.
_QUANTILE_MIN = 1e-6


def interpolate(x: torch.Tensor, nodes, values) -> torch.Tensor:
    """Piecewise-linear function, constant beyond its first and last node."""
    xs, ys = as_tensor(nodes, x), as_tensor(values, x)
    right = torch.searchsorted(xs, x.contiguous()).clamp(1, len(xs) - 1)
    low, high = xs[right - 1], xs[right]
    share = ((x - low) / (high - low)).clamp(0, 1)
    return ys[right - 1] * (1 - share) + ys[right] * share


def _uniform(n, like, generator):
    """Uniform numbers ``(n, *like.shape)``."""
    unit = torch.rand(n, *like.shape, generator=generator, device=like.device)
    return unit.clamp(_QUANTILE_MIN, 1 - _QUANTILE_MIN)


@dataclasses.dataclass(frozen=True)
class GammaShapes:
    """
    Shapes of galaxies that do not depend on their flux.

    Disk fraction and axis ratios are uniform between 0 and 1, and the
    half-light radii (semi-major axes) follow shifted gamma distributions. The
    defaults are those of the NPE paper (Patel et al. 2025, table 1).

    Parameters
    ----------
    concentration : float
        Shape parameter of the gamma distributions.

    disk_loc, disk_scale : float
        Shift and scale of the disk's radius in arcsec.

    bulge_loc, bulge_scale : float
        Shift and scale of the bulge's radius in arcsec.
    """

    concentration: float = 0.393
    disk_loc: float = 0.837
    disk_scale: float = 4.432
    bulge_loc: float = 0.419
    bulge_scale: float = 2.216

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))

    def sample_batch(
        self, flux: torch.Tensor, *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """
        Draw shapes of galaxies of given fluxes.

        Parameters
        ----------
        flux : tensor
            In nmgy; only its shape and device matter.

        generator : `torch.Generator`, optional
            On the device of ``flux``.

        Returns
        -------
        galaxy : tensor ``(*flux.shape, 6)``
            In the order of ``GALAXY_SHAPE_NAMES``, radii in arcsec.
        """
        unit = _uniform(4, flux, generator)
        # The sampler behind torch.distributions.Gamma, which takes no generator.
        gamma = torch._standard_gamma(
            torch.full((2, *flux.shape), self.concentration, device=flux.device),
            generator=generator,
        )
        disk = self.disk_loc + self.disk_scale * gamma[0]
        bulge = self.bulge_loc + self.bulge_scale * gamma[1]
        parts = [unit[0], math.pi * unit[1], unit[2], unit[3], disk, bulge]
        return torch.stack(parts, -1)


@dataclasses.dataclass(frozen=True)
class MagnitudeShapes:
    """
    Shapes of galaxies that depend on their magnitude.

    The half-light radius of the whole galaxy, R, is log-normal with a mean and
    a scatter that are piecewise linear in magnitude. A galaxy is a pure disk, a
    pure bulge or, with what is left of the probability, a mixture whose disk
    fraction is uniform. The logarithm of R is the mean of those of the two
    radii, weighted by flux. Axis ratios are logistic-normal.

    Parameters
    ----------
    magnitude : tuple of float
        Nodes, AB magnitudes; all is constant beyond the first and the last.

    log_radius : tuple of float
        Mean of log10(R / arcsec) at the nodes.

    radius_scatter : tuple of float
        Standard deviation of log10(R) at the nodes.

    disk_share, bulge_share : tuple of float
        Share of pure disks and of pure bulges at the nodes.

    bulge_to_disk : tuple of float
        Mean and standard deviation of log10 of bulge over disk radius.

    disk_axis_ratio, bulge_axis_ratio : tuple of float
        Mean and standard deviation of the logit of the axis ratio.

    axis_correlation : float
        Correlation of these logits in one galaxy.

    radius_range : tuple of float
        Truncation of R, and bounds of the two radii, in arcsec.

    axis_ratio_min : float
        Truncation of the axis ratios.
    """

    magnitude: tuple[float, ...]
    log_radius: tuple[float, ...]
    radius_scatter: tuple[float, ...]
    disk_share: tuple[float, ...]
    bulge_share: tuple[float, ...]
    bulge_to_disk: tuple[float, float]
    disk_axis_ratio: tuple[float, float]
    bulge_axis_ratio: tuple[float, float]
    axis_correlation: float = 0.95
    radius_range: tuple[float, float] = (0.1, 15.0)
    axis_ratio_min: float = 0.05

    def __post_init__(self):
        check_nodes(self, 'log_radius', 'radius_scatter', 'disk_share', 'bulge_share')
        pairs = ('bulge_to_disk', 'disk_axis_ratio', 'bulge_axis_ratio', 'radius_range')
        check_tuples(self, pairs, length=2)
        check_positive(radius_scatter=min(self.radius_scatter))
        for name in pairs[:3]:
            check_positive(**{f'the scatter in {name}': getattr(self, name)[1]})
        low, high = ends = self.radius_range
        require(
            0 < low < high, 'radius_range', 'be two increasing positive numbers', ends
        )
        rho, ratio = self.axis_correlation, self.axis_ratio_min
        require(-1 <= rho <= 1, 'axis_correlation', 'be in [-1, 1]', rho)
        require(0 < ratio < 1, 'axis_ratio_min', 'be in (0, 1)', ratio)
        for pair in zip(self.disk_share, self.bulge_share, strict=True):
            good = min(pair) >= 0 and sum(pair) <= 1 + 1e-9
            allowed = 'be shares whose sum is at most 1'
            require(good, 'disk_share and bulge_share', allowed, pair)

    def _radii(self, mag, disk_fraction, unit):
        """Radii of disk and bulge in arcsec."""
        mean = interpolate(mag, self.magnitude, self.log_radius)
        scatter = interpolate(mag, self.magnitude, self.radius_scatter)
        low, high = (
            torch.special.ndtr((math.log10(r) - mean) / scatter)
            for r in self.radius_range
        )
        share = (low + (high - low) * unit[0]).clamp(_QUANTILE_MIN, 1 - _QUANTILE_MIN)
        log_r = mean + scatter * torch.special.ndtri(share)
        ratio_mean, ratio_scatter = self.bulge_to_disk
        log_ratio = ratio_mean + ratio_scatter * torch.special.ndtri(unit[1])
        log_disk = log_r - (1 - disk_fraction) * log_ratio
        radii = torch.stack([log_disk, log_disk + log_ratio], -1)
        return (10**radii).clamp(*self.radius_range)

    def _axis_ratios(self, unit):
        """Axis ratios of disk and bulge."""
        first, second = torch.special.ndtri(unit)
        rho = self.axis_correlation
        second = rho * first + math.sqrt(1 - rho**2) * second
        (disk, disk_sd), (bulge, bulge_sd) = self.disk_axis_ratio, self.bulge_axis_ratio
        logits = torch.stack([disk + disk_sd * first, bulge + bulge_sd * second], -1)
        return torch.sigmoid(logits).clamp(min=self.axis_ratio_min)

    def sample_batch(
        self, flux: torch.Tensor, *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """
        Draw shapes of galaxies of given fluxes.

        Parameters
        ----------
        flux : tensor
            In nmgy.

        generator : `torch.Generator`, optional
            On the device of ``flux``.

        Returns
        -------
        galaxy : tensor ``(*flux.shape, 6)``
            In the order of ``GALAXY_SHAPE_NAMES``, radii in arcsec.
        """
        mag = NANOMAGGY_ZERO_POINT - 2.5 * torch.log10(flux)
        unit = _uniform(7, flux, generator)
        disk_share = interpolate(mag, self.magnitude, self.disk_share)
        bulge_share = interpolate(mag, self.magnitude, self.bulge_share)
        fraction = torch.where(unit[0] < disk_share, 1.0, unit[1])
        fraction = torch.where(unit[0] > 1 - bulge_share, 0.0, fraction)
        first = torch.stack([fraction, math.pi * unit[2]], -1)
        radii = self._radii(mag, fraction, unit[3:5])
        return torch.cat([first, self._axis_ratios(unit[5:7]), radii], -1)


def _npe_counts():
    """Galaxies of the NPE paper."""
    return ParetoCounts(density=6.25e-4 * 0.514, slope=1.561, loc=-3.29, scale=3.9248)


@dataclasses.dataclass(frozen=True)
class GalaxyPrior:
    """
    Number, fluxes and shapes of galaxies.

    A galaxy is the sum of an exponential disk and a de Vaucouleurs bulge with
    one position angle. Radii are those of half the light, along the major
    axis: an ellipse of semi-major axis *a* and axis ratio *q* holds half the
    flux of a component.

    Parameters
    ----------
    counts : `ParetoCounts` or `MagnitudeCounts`
        Number of galaxies of each flux.

    shapes : `GammaShapes` or `MagnitudeShapes`
        Their shapes, given the flux.

    Notes
    -----
    The defaults are the galaxies of the NPE paper (Patel et al. 2025,
    table 1, and the code published with it, whose scale of the fluxes is 3.9248
    where the table prints 3.29; with the latter the smallest flux would be zero).

    Examples
    --------
    >>> from bliss_astro.priors import GalaxyPrior
    >>> galaxies = GalaxyPrior().sample(3, rng=1)
    >>> galaxies.colnames[:4]
    ['flux', 'disk_fraction', 'angle', 'disk_axis_ratio']
    >>> galaxies['disk_radius'].unit
    Unit("arcsec")
    """

    counts: ParetoCounts | MagnitudeCounts = field(default_factory=_npe_counts)
    shapes: GammaShapes | MagnitudeShapes = field(default_factory=GammaShapes)

    def __post_init__(self):
        require_type('counts', self.counts, ParetoCounts, MagnitudeCounts)
        require_type('shapes', self.shapes, GammaShapes, MagnitudeShapes)

    def sample(self, n: int, *, rng=None) -> QTable:
        """
        Draw galaxies as a table.

        Parameters
        ----------
        n : int
            How many.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        galaxies : `~astropy.table.QTable`
            ``flux`` (nmgy) and the columns of ``GALAXY_SHAPE_NAMES``.
        """
        flux, galaxy = self.sample_batch((n,), generator=torch_generator(rng))
        flux = flux.double().numpy() * u.nmgy
        return QTable({'flux': flux, **shape_columns(galaxy)})

    def sample_batch(
        self,
        shape: tuple[int, ...],
        *,
        flux_min=None,
        generator: torch.Generator | None = None,
        device='cpu',
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Draw galaxies as tensors.

        Parameters
        ----------
        shape : tuple of int
            Shape of the batch.

        flux_min : float, tensor or None, optional
            Only galaxies brighter than this, in nmgy; broadcasts against
            ``shape``.

        generator : `torch.Generator`, optional
            On ``device``.

        device : str or `torch.device`, optional
            Where to draw.

        Returns
        -------
        flux : tensor ``shape``
            In nmgy.

        galaxy : tensor ``(*shape, 6)``
            In the order of ``GALAXY_SHAPE_NAMES``, radii in arcsec.
        """
        unit = torch.rand(tuple(shape), generator=generator, device=device)
        flux = self.counts.flux_quantile(unit, flux_min)
        return flux, self.shapes.sample_batch(flux, generator=generator)
