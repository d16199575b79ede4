# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Marginals of single sources.

A source that is hardly seen may lie anywhere within some pixels, and a row of
a catalogue claims a place.  So the probability of a row is that of a source
within ``PLACE_RADIUS`` of it: what is farther off is no support for it.
"""

import dataclasses

import torch

from bliss_astro._threads import map_threads, split_pixels

from ._factors import LogFluxFactor, flux_parts
from ._grid import Rows

# Passes of what makes quasi-random points even.
_EVEN_PASSES = 3
# Distance in pixels of the tiles (joined ones, where an image was binned) within which
# a source supports the place that is claimed, as columns.csv says, too.
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

    draws : dict of tensor ``(N, P', D)``
        Draws of what follows the flux, of the parameters that are inferred. Given that
        the source is a galaxy: ``shape``, in the order of ``GALAXY_SHAPE_NAMES`` with
        radii in pixels, or points in the latent space of a learned model;
        ``ellipticity``, the distortion ``(e1, e2)`` of the adaptive moments of the
        galaxy's image, before the PSF is taken off. And further parameters.

    sigma : tensor ``(N, 3)`` or None
        Quantiles of the log-flux at -1, 0 and 1 sigma, where they were computed.

    centre : tensor ``(N, 2)`` or None
        Claimed positions, where they were computed.

    near : tensor ``(N,)`` or None
        Shares of the draws within ``PLACE_RADIUS`` of them, where they were computed.
    """

    probability: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    image: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    typed: bool = False
    draws: dict = dataclasses.field(default_factory=dict)
    sigma: torch.Tensor | None = None
    centre: torch.Tensor | None = None
    near: torch.Tensor | None = None

    def __len__(self):
        return len(self.probability)

    @property
    def shapes(self) -> torch.Tensor | None:
        """Draws of the shape, or None where it is not inferred."""
        return self.draws.get('shape')

    @property
    def ellipticity(self) -> torch.Tensor | None:
        """Draws of the ellipticity, or None where it is not inferred."""
        return self.draws.get('ellipticity')

    def by_image(self, n_images) -> list['SourceMarginals']:
        """
        Sources of each image, as those of a batch of one.

        Parameters
        ----------
        n_images : int
            Number of images.
        """
        parts = [
            self.select((self.image == image).nonzero()[:, 0])
            for image in range(n_images)
        ]
        return [dataclasses.replace(p, image=torch.zeros_like(p.image)) for p in parts]

    def flux_factor(self) -> LogFluxFactor:
        """
        Distribution of the log-flux, marginal over position.

        One mixture of ``S M`` components for each source; the range of
        those that follow a brighter source of their tile is that at the
        mean of its flux.
        """
        return self._factor(flux_parts(self.flux))

    def _factor(self, parts):
        high, low = self.flux[..., 0].mean(1), self.x.new_zeros(len(self))
        return LogFluxFactor(*(part.flatten(1) for part in parts), low, high)

    @property
    def galaxy(self) -> torch.Tensor:
        """Probability of a galaxy, given the source, tensor ``(N,)``."""
        if not self.typed:
            return torch.zeros_like(self.probability)
        share, _, _ = flux_parts(self.flux, of='galaxy')
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
        star, other = (flux_parts(self.flux, of=of) for of in ('star', 'galaxy'))
        pairs = zip(other, star, strict=True)
        return self._factor(torch.where(galaxy[:, None, None], *p) for p in pairs)

    def at_positions(self, which) -> 'SourceMarginals':
        """
        Fluxes and types given positions, of which there are no draws then.

        Parameters
        ----------
        which : tensor ``(N, n)`` of int
            Which of the S positions.

        Returns
        -------
        sources : `SourceMarginals`
            ``N n`` of them, n in turn for each source.
        """
        flux = self.flux.gather(1, which[..., None].expand(-1, -1, self.flux.shape[2]))
        flux = flux.flatten(0, 1)[:, None]
        return dataclasses.replace(self, probability=flux[:, 0, 0], flux=flux)

    def quantile_flux(self, q) -> torch.Tensor:
        """
        Quantiles of the log-flux.

        Parameters
        ----------
        q : float or tensor ``(N,)`` or ``(Q, 1)``
            Probability, or Q of them.

        Returns
        -------
        log_flux : tensor ``(N,)`` or ``(Q, N)``
            Logarithm of flux over the flux floor.
        """
        q = torch.as_tensor(q).to(self.flux)
        q = q.expand(*q.shape[:-1], len(self))
        n_numbers = self.flux.shape[1:].numel() * q.shape[:-1].numel()
        pieces = split_pixels(len(self), n_numbers, q.device)

        def compute(index):
            return self.select(index).flux_factor().quantile(q[..., index])

        return torch.cat(map_threads(compute, pieces), -1)

    def place(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Claimed position of each source, two tensors ``(N,)`` in pixels.

        The mean position of a distribution with one narrow peak; of one that
        is wide or has several, the place near the mean that most
        draws lie around (by mean shift).
        """
        if self.centre is not None:
            return self.centre.unbind(1)
        x, y = self.x.mean(1, keepdim=True), self.y.mean(1, keepdim=True)
        for _ in range(_PLACE_STEPS):
            apart = (self.x - x) ** 2 + (self.y - y) ** 2
            weight = torch.softmax(-apart / (2 * _PLACE_SCALE**2), 1)
            x = (weight * self.x).sum(1, keepdim=True)
            y = (weight * self.y).sum(1, keepdim=True)
        return x[:, 0], y[:, 0]

    def near_place(self) -> torch.Tensor:
        """Share of the draws within ``PLACE_RADIUS`` of the place, ``(N,)``."""
        if self.near is not None:
            return self.near
        x, y = self.place()
        apart = torch.hypot(self.x - x[:, None], self.y - y[:, None])
        return (apart < PLACE_RADIUS).float().mean(1)


def quasi_random(n_draws, n_dimensions, device, *, even=False) -> torch.Tensor:
    """
    Points ``(n_draws, n_dimensions)`` within the unit cube, evenly spread.

    In many dimensions some of these are not, and some go together: ``even`` mends it.
    """
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (n_dimensions + 1))
    step = ratio ** -torch.arange(1, n_dimensions + 1, dtype=torch.float64)
    points = (0.5 + torch.arange(1, n_draws + 1)[:, None] * step) % 1
    for _ in range(_EVEN_PASSES if even and n_draws > n_dimensions else 0):
        # As many points in each interval, after normal numbers without correlation.
        normal = torch.special.ndtri(points)
        normal = normal - normal.mean(0)
        root = torch.linalg.cholesky(normal.T @ normal)
        ranks = torch.linalg.solve(root, normal.T).argsort(1).argsort(1)
        points = (ranks.T.double() + 0.5) / n_draws
    return points.clamp(1e-4, 1 - 1e-4).float().to(device)
