# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Marginals of single sources: probability, position, type, flux, shape.

A source that is hardly seen may lie anywhere within some pixels, and a row of
a catalogue claims a place.  So the probability of a row is that of a source
within ``PLACE_RADIUS`` of it: what is farther off is no support for it.
"""

import dataclasses

import torch

from ._factors import LogFluxFactor
from ._grid import Rows

# Distance in pixels within which a source supports the place that is claimed.
# A third of SDSS's FWHM: half a pixel more or less shifts single exposures'
# recall and precision at the limit by 0.03 against each other, and changes
# nothing where positions are known better than to a pixel.
PLACE_RADIUS = 1.25
# Scale in pixels of the average that seeks the place, and its steps.
_PLACE_SCALE, _PLACE_STEPS = 0.8, 10


@dataclasses.dataclass
class SourceMarginals(Rows):
    """
    Marginals of N sources found in a batch of images.

    Attributes
    ----------
    probability : tensor ``(N,)``
        Probability of a source; from `find_sources`, within ``PLACE_RADIUS`` of
        its `place`.

    x, y : tensor ``(N, P)``
        Draws of the position in pixels (a quasi-random set).

    flux : tensor ``(N, S, 1 + 3 M)``
        Distribution of the logarithm of flux over the flux floor at the
        first S of those positions: upper end of its range, then
        log-weights, means and scales of M components (of 2 M where sources
        have types, the star's first; weights hold the types' probability).

    image, row, column : tensor ``(N,)``
        The image, and the tile that holds most of the probability.

    typed : bool
        Whether sources are stars or galaxies; else all are stars.

    shapes : tensor ``(N, P', 6)`` or None
        Draws of the shape given that the source is a galaxy, in the order of
        ``GALAXY_SHAPE_NAMES`` with radii in pixels, or points in the latent space of
        a learned model; None where they are not inferred.

    ellipticity : tensor ``(N, P', 2)`` or None
        Draws of the distortion ``(e1, e2)`` of what is seen of the galaxy: of the
        adaptive moments of its image with the PSF.
    """

    probability: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    image: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    typed: bool = False
    shapes: torch.Tensor | None = None
    ellipticity: torch.Tensor | None = None

    def __len__(self):
        return len(self.probability)

    def flux_factor(self) -> LogFluxFactor:
        """
        Distribution of the log-flux, marginal over position.

        One mixture of ``S M`` components for each source; the range of
        those that follow a brighter source of their tile is that at the
        mean of its flux.
        """
        return self._factor(self._parts())

    def _parts(self):
        """Log-weights, means and scales, each ``(N, S, M)``."""
        return self.flux[..., 1:].unflatten(-1, (3, -1)).unbind(-2)

    def _factor(self, parts):
        high, low = self.flux[..., 0].mean(1), self.x.new_zeros(len(self))
        return LogFluxFactor(*(part.flatten(1) for part in parts), low, high)

    @property
    def galaxy(self) -> torch.Tensor:
        """Probability of a galaxy, given the source, tensor ``(N,)``."""
        if not self.typed:
            return torch.zeros_like(self.probability)
        _, share = self._parts()[0].chunk(2, -1)
        return share.exp().sum(-1).mean(-1).clamp(0, 1)

    def flux_given(self, galaxy) -> LogFluxFactor:
        """
        Distribution of the log-flux of sources of a given type.

        Parameters
        ----------
        galaxy : tensor ``(N,)`` of bool
            The type of each source.
        """
        if not self.typed:
            return self.flux_factor()
        halves = (part.chunk(2, -1) for part in self._parts())
        galaxy = galaxy[:, None, None]
        return self._factor(torch.where(galaxy, *pair[::-1]) for pair in halves)

    def quantile_flux(self, q) -> torch.Tensor:
        """
        Quantiles of the log-flux.

        Parameters
        ----------
        q : float or tensor ``(N,)``
            Probability.

        Returns
        -------
        log_flux : tensor ``(N,)``
            Logarithm of flux over the flux floor.
        """
        return self.flux_factor().quantile(q)

    def place(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Claimed position of each source, two tensors ``(N,)`` in pixels.

        The mean position of a distribution with one narrow peak; of one that
        is wide or has several, the place near the mean that most
        draws lie around (by mean shift).
        """
        x, y = self.x.mean(1, keepdim=True), self.y.mean(1, keepdim=True)
        for _ in range(_PLACE_STEPS):
            apart = (self.x - x) ** 2 + (self.y - y) ** 2
            weight = torch.softmax(-apart / (2 * _PLACE_SCALE**2), 1)
            x = (weight * self.x).sum(1, keepdim=True)
            y = (weight * self.y).sum(1, keepdim=True)
        return x[:, 0], y[:, 0]

    def near_place(self) -> torch.Tensor:
        """Share of the draws within ``PLACE_RADIUS`` of the place, ``(N,)``."""
        x, y = self.place()
        apart = torch.hypot(self.x - x[:, None], self.y - y[:, None])
        return (apart < PLACE_RADIUS).float().mean(1)


def quasi_random(n_draws: int, n_dimensions: int, device) -> torch.Tensor:
    """Points ``(n_draws, n_dimensions)`` within the unit cube, evenly spread."""
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (n_dimensions + 1))
    step = ratio ** -torch.arange(1, n_dimensions + 1, dtype=torch.float64)
    points = (0.5 + torch.arange(1, n_draws + 1)[:, None] * step) % 1
    return points.clamp(1e-4, 1 - 1e-4).float().to(device)
