# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Star prior: number, positions and fluxes of stars in electrons, a power law.
"""

import dataclasses
import math

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from bliss_astro._arguments import torch_generator

from ._counts import draw_places
from ._numbers import require


@dataclasses.dataclass(frozen=True)
class StarPrior:
    """
    A Poisson number of stars, uniform in position, Pareto in flux.

    The density of fluxes is proportional to ``f**-(slope + 1)`` between
    ``flux_min`` and ``flux_max``.  The defaults are the prior of the coadd
    paper (Wang et al. 2022, section 4): on average 3 stars in
    40 x 40 pixels, slope 0.47, from 622 to 1e6 electrons.

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
        require(good, 'density', 'finite and not negative', self.density)
        ends = self.flux_min, self.flux_max
        good = 0 < ends[0] < ends[1]
        require(good, 'flux_min', 'positive and less than flux_max', ends)
        require(self.slope > 0, 'slope', 'positive', self.slope)

    def mean_count(self, shape) -> float:
        """Expected number of stars in ``shape = (ny, nx)`` pixels."""
        return float(self.density * shape[0] * shape[1])

    def flux_quantile(self, q):
        """
        Flux below which a share ``q`` of the stars lies (tensor or array).
        """
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
        generator = torch_generator(rng)
        *columns, count = self.sample_batch(1, shape, generator=generator)
        order = torch.argsort(columns[2][0], descending=True)[: int(count[0])]
        x, y, flux = (v[0, order].double().numpy() for v in columns)
        return QTable({'x_centroid': x, 'y_centroid': y, 'flux': flux * u.electron})

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
