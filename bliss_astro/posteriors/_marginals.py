# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Marginals of single sources, and tile boundaries: each source counted once.

A source that is hardly seen may lie anywhere within some pixels, and a row of
a catalogue claims a place.  So the probability of a row is that of a source
within ``PLACE_RADIUS`` of it: what is farther off is no support for it.

A source near the border of tiles may be found in any of them, so that each
tile alone has part of its probability.  The probability of a source at this place
follows from the chain rule: if V is the set of tiles that the place touches,

.. math::

    P(\text{no source in } V) = \prod_{s \in V}
        \left[1 - q(n_s > 0 \mid \text{earlier tiles of } V \text{ empty},
        \text{earlier other tiles as in the greedy sweep})\right].

Position and flux are then mixtures over the tiles of V.
"""

import dataclasses

import torch
from torch.nn import functional as F

from ._factors import LogFluxFactor, flux_parts
from ._grid import Rows, TileCatalog

# Distance in pixels of the tiles (joined ones, where an image was binned) within which
# a source supports the place that is claimed, as columns.csv says, too.
# A third of SDSS's FWHM: half a pixel more or less shifts single exposures'
# recall and precision at the limit by 0.03 against each other, and changes
# nothing where positions are known better than to a pixel.
PLACE_RADIUS = 1.25
# Scale in pixels of the average that seeks the place, and its steps.
_PLACE_SCALE, _PLACE_STEPS = 0.8, 10
# Half-width in pixels of the zone along a tile's edge in which the tile
# beyond counts too, and the distance beyond which a neighbour's decided
# source is taken as given rather than as another name of this one.
_EDGE_ZONE = 1.0
_SAME_SOURCE = 1.5
# Added to ratios of probabilities, so that nil over nil is one.
_NIL = 1e-6


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


# -- tile boundaries -------------------------------------------------------------


def near_edges(sweep, tiles, mode):
    """Which edge of its tile a place is near, in x and in y: -1, 0 or 1, (2, N)."""
    size = sweep.grid.size
    inside = mode + 0.5 - torch.stack([tiles[2], tiles[1]]) * size
    return (inside > size - _EDGE_ZONE).long() - (inside < _EDGE_ZONE).long()


def _touched(sweep, tiles, mode):
    """Image, row, column of the up to four tiles of each place; which are valid."""
    images, rows, columns = tiles
    side_x, side_y = near_edges(sweep, tiles, mode)
    none = torch.zeros_like(rows)
    r = rows[:, None] + torch.stack([none, none, side_y, side_y], 1)
    c = columns[:, None] + torch.stack([none, side_x, none, side_x], 1)
    # Own tile, beyond in x, in y, and in both where a corner is near.
    near = torch.stack([none == 0, side_x != 0, side_y != 0, side_x * side_y != 0], 1)
    n_rows, n_columns = sweep.grid.shape
    valid = near & (r >= 0) & (r < n_rows) & (c >= 0) & (c < n_columns)
    r, c = r.clamp(0, n_rows - 1), c.clamp(0, n_columns - 1)
    catalog, at = sweep.catalog, (images[:, None], r, c)
    x, y = sweep.grid.to_pixels(catalog.x[(*at, 0)], catalog.y[(*at, 0)], r, c)
    apart = torch.hypot(x - mode[0][:, None], y - mode[1][:, None])
    stays = (catalog.count[at] > 0) & (apart > _SAME_SOURCE)
    stays[:, 0] = False
    return images, r, c, valid & ~stays


def _neighbourhood(array, images, rows, columns):
    # array (B, channels, rows, columns) -> (N, channels, 3, 3), zeros outside.
    padded = F.pad(array, (1, 1, 1, 1))
    step = torch.arange(3, device=array.device)
    r = (rows[:, None] + step)[:, :, None]
    c = (columns[:, None] + step)[:, None, :]
    return padded[images[:, None, None], :, r, c].movedim(-1, 1)


def _hidden_if(sweep, touched, slot, holder=None, code=None):
    """
    Hidden layer of one tile of each V, of index ``slot`` ``(N,)``, where V is empty.

    If given, the tile of V of index ``holder`` holds the sources of ``code`` instead.
    """
    _, r, c, valid = touched
    tiles = _tile_of(touched, slot)
    near = _neighbourhood(sweep.code, *tiles)
    colour = sweep.grid.colour(device=near.device)[None, None] + 1
    around = _neighbourhood(colour, torch.zeros_like(slot), *tiles[1:])
    known = (around > 0) & (around < around[:, :, 1:2, 1:2])
    for s in range(4):
        dr, dc = r[:, s] - tiles[1] + 1, c[:, s] - tiles[2] + 1
        inside = valid[:, s] & (dr >= 0) & (dr < 3) & (dc >= 0) & (dc < 3)
        at = inside.nonzero()[:, 0]
        value = 0.0
        if holder is not None:
            value = torch.where((holder == s)[:, None], code, 0.0)[at]
        near[at, :, dr[at], dc[at]] = value
    return sweep.posterior.hidden_at(tiles, near, known.to(near))


def _tile_of(touched, slot):
    images, r, c, _ = touched
    rows, columns = (v.gather(1, slot[:, None])[:, 0] for v in (r, c))
    return images, rows, columns


def _presence_if(*given):
    return given[0].head.count_factor(_hidden_if(*given)).presence


def _codes(sweep, tiles, mode, flux):
    """Codes (N, C K) of tiles in the greedy sweep; of empty ones, of the source."""
    grid, head = sweep.grid, sweep.head
    # Pixels to units of the tile.
    x, y = (mode + 0.5) / grid.size - torch.stack([tiles[2], tiles[1]])
    # The highest component of the first description.
    logits, mean, _ = flux_parts(flux[..., 0].T)
    best = logits.argmax(-1)
    part = TileCatalog.empty(len(x), (1, 1), head.n_most, device=x.device)
    part.count += 1
    log_flux = mean.gather(-1, best[:, None])[:, 0].clamp(min=0)
    values = {'x': x, 'y': y, 'log_flux': log_flux}
    if head.galaxies:
        values['galaxy'] = (best >= logits.shape[-1] // 2).to(x)
    for name, value in values.items():
        getattr(part, name)[:, 0, 0, 0] = value
    code = head.encode_sources(part)[:, :, 0, 0]
    # What the sweep decided may be two sources.
    decided = sweep.code[tiles[0], :, *tiles[1:]]
    return torch.where(sweep.catalog.count[tiles][:, None] > 0, decided, code)


def _share_same(sweep, touched, slot, own, other, presence):
    """Share of a neighbour's source that is the candidate's own."""
    first = torch.zeros_like(slot)
    # In single precision a presence may be nil, which nothing can share.
    later = _presence_if(sweep, touched, slot, first, own)
    later = (later + _NIL) / (presence + _NIL)
    here = _presence_if(sweep, touched, first)
    earlier = _presence_if(sweep, touched, first, slot, other)
    earlier = (earlier + _NIL) / (here + _NIL)
    # The one that is drawn first does not depend on the other: its ratio is 1.
    return 1 - torch.minimum(later, earlier).clamp(max=1)


def join_neighbours(sweep, index, tiles, mode, probability, draws, *, faintest):
    """
    Probability and draws of border candidates over all tiles they touch.

    Returns pairs of tiles (their numbers, two tensors ``(K,)``) that may have found the
    same source, and the share of the second one's that is.
    """
    tiles, mode = tuple(part[index] for part in tiles), mode[:, index]
    touched = images, r, c, valid = _touched(sweep, tiles, mode)
    # In its own tile a candidate is described already, unless the sweep put a source
    # in another tile of V, which is empty here.
    chances = torch.zeros(len(index), 4, device=images.device)
    chances[:, 0] = sweep.at_least[..., 0][tiles]
    drawn = [part.new_zeros(4, *part[:, index].shape) for part in draws]
    for part, own in zip(drawn, draws, strict=True):
        part[0] = own[:, index]
    filled = valid & (sweep.catalog.count[images[:, None], r, c] > 0)
    here = torch.cat([filled[:, 1:].any(1, keepdim=True), valid[:, 1:]], 1)
    use, slot = here.nonzero(as_tuple=True)
    hidden = _hidden_if(sweep, [part[use] for part in touched], slot)
    presence = sweep.head.count_factor(hidden).presence
    likely = (slot == 0) | (presence > faintest)
    use, slot, hidden, presence = (v[likely] for v in (use, slot, hidden, presence))
    some = [part[use] for part in touched]
    own = _tile_of(some, slot)
    *described, places, _ = sweep.describe(0, hidden, torch.ones_like(use), own)
    # Of tiles beyond only what is another source than that of the own tile.
    k = slot.nonzero()[:, 0]
    other = tuple(part[k] for part in own)
    codes = (
        _codes(sweep, tiles, mode, draws[1][:, index])[use[k]],
        _codes(sweep, other, places[:, k], described[1][:, k]),
    )
    share = _share_same(sweep, [part[k] for part in some], slot[k], *codes, presence[k])
    presence[k] *= share
    chances[use, slot] = presence
    for part, value in zip(drawn, described, strict=True):
        part[slot, :, use] = value.movedim(1, 0)
    weight = _chain(chances, sweep.grid.colour(device=images.device)[r, c])
    total = weight.sum(1)
    probability[index] = torch.maximum(total, probability[index])
    _mix(draws, drawn, index, weight, total)
    return sweep.number([part[use[k]] for part in tiles]), sweep.number(other), share


def _mix(draws, drawn, index, weight, total):
    # The mixture: each draw belongs to a slot, in an order that is
    # unrelated to the draws themselves.
    cumulative = (weight / total.clamp(min=1e-6)[:, None]).cumsum(1)
    certain = total[None, :, None] > 1e-3
    for part, own in zip(draws, drawn, strict=True):
        n_draws = part.shape[-1]
        where = (torch.arange(n_draws, device=index.device) * 0.7548776662 + 0.5) % 1
        slot = (where[None, :, None] > cumulative[:, None, :]).sum(-1).clamp(max=3)
        slot = slot[None, None].expand(1, len(part), -1, -1)
        part[:, index] = torch.where(certain, own.gather(0, slot)[0], part[:, index])


def _chain(chances, colours):
    """Probability that the source is found in each slot, in the sweep's order."""
    rank = colours.argsort(1)
    ordered = chances.gather(1, rank)
    left = torch.cumprod(1 - ordered, 1)
    before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], 1)
    return torch.zeros_like(chances).scatter(1, rank, ordered * before)


def each_once(sweep, tiles, probability, accepted, pairs):
    """Probabilities such that each source counts once."""
    place = torch.full_like(sweep.catalog.count, -1)
    place[tiles] = torch.arange(len(probability), device=place.device)
    place, n = place.flatten(), place.numel()
    one, two, share = (torch.cat(part) for part in zip(*pairs, strict=True))
    # Each pair once, in either order, with its larger share.
    pair = torch.minimum(one, two) * n + torch.maximum(one, two)
    pair, where = torch.unique(pair, return_inverse=True)
    share = share.new_zeros(len(pair)).scatter_reduce(0, where, share, 'amax')
    k, other = place[pair // n], place[pair % n]
    use = (k >= 0) & (other >= 0) & ~(accepted[k] & accepted[other])
    key = probability + accepted.to(probability)
    less = torch.where(key[k] >= key[other], other, k)[use]
    return probability.scatter_reduce(0, less, (1 - share)[use], 'prod')
