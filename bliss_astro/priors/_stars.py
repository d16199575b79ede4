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

from bliss_astro._random import torch_generator


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
        if not (math.isfinite(self.density) and self.density >= 0):
            msg = f'density must be finite and not negative, got {self.density}'
            raise ValueError(msg)
        if not 0 < self.flux_min < self.flux_max:
            msg = (
                'flux_min must be positive and less than flux_max, got '
                f'flux_min={self.flux_min} and flux_max={self.flux_max}'
            )
            raise ValueError(msg)
        if not self.slope > 0:
            msg = f'slope must be positive, got {self.slope}'
            raise ValueError(msg)

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
        x, y, flux, _ = self.sample_batch(1, shape, generator=generator)
        keep = flux[0] > 0
        order = torch.argsort(flux[0][keep], descending=True)
        columns = [v[0][keep][order].double().numpy() for v in (x, y, flux)]
        return QTable(
            [columns[0], columns[1], columns[2] * u.electron],
            names=('x_centroid', 'y_centroid', 'flux'),
        )

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
        ny, nx = shape
        if density is None:
            density = torch.full((n_images,), float(self.density), device=device)
        count = torch.poisson(density * ny * nx, generator=generator).long()
        if self.max_count is not None:
            count = count.clamp(max=self.max_count)
        n_most = max(1, int(count.max()))
        unit = torch.rand(3, n_images, n_most, generator=generator, device=device)
        x = unit[0] * nx - 0.5
        y = unit[1] * ny - 0.5
        flux = self.flux_quantile(unit[2])
        if flux_min is not None:
            flux = flux * (flux_min / self.flux_min)[:, None]
        used = torch.arange(n_most, device=device) < count[:, None]
        return x, y, flux * used, count
