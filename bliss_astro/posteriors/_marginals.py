# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From the posterior over tiles to marginals of single sources.

A source near the border of tiles may be found in any of them, so that each
tile alone is unsure of it.  What a person asks is whether there is a source
here, and by the chain rule that is known: if V is the set of tiles that the
place touches,

.. math::

    P(\\text{no source in } V) = \\prod_{s \\in V}
        \\left[1 - q(n_s > 0 \\mid \\text{earlier tiles of } V \\text{ empty},
        \\text{earlier other tiles as decided})\\right].

Position and flux are then mixtures over the tiles of V.
"""

import dataclasses

import torch

from ._factors import LogFluxFactor
from ._tile_posterior import TilePosterior

__all__ = ['SourceMarginals', 'find_sources']

# Half-width in pixels of the zone along a tile's edge in which the tile
# beyond is asked too, and how far apart two answers may lie to be one source.
_EDGE_ZONE = 1.0
_SAME_SOURCE = 1.5
# Probabilities below this never make a source.
_FAINTEST = 0.02
# Positions at which the flux is asked for.
N_FLUX = 16


@dataclasses.dataclass
class SourceMarginals:
    """
    Marginals of N sources found in one image.

    Attributes
    ----------
    probability : tensor ``(N,)``
        That there is a source.

    x, y : tensor ``(N, P)``
        Draws of the position in pixels (a quasi-random set).

    flux : tensor ``(N, S, 1 + 3 M)``
        Distribution of the logarithm of flux over the flux floor at the
        first S of those positions: upper end of its range, then
        log-weights, means and scales of M components.

    row, column : tensor ``(N,)``
        The tile that holds most of the probability.
    """

    probability: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor

    def __len__(self):
        return len(self.probability)

    def flux_factor(self) -> LogFluxFactor:
        """
        Distribution of the log-flux, marginal over position.

        One mixture of ``S M`` components for each source; the range of
        those that follow a brighter source of their tile is that at the
        mean of its flux.
        """
        high, parts = self.flux[..., 0], self.flux[..., 1:].unflatten(-1, (3, -1))
        logits, mean, scale = (part.flatten(1) for part in parts.unbind(-2))
        high = high.mean(1)
        return LogFluxFactor(logits, mean, scale, torch.zeros_like(high), high)

    def quantile_flux(self, q) -> torch.Tensor:
        """
        Quantiles of the log-flux, by bisection.

        Parameters
        ----------
        q : float or tensor ``(N,)``
            Probability.

        Returns
        -------
        log_flux : tensor ``(N,)``
            Logarithm of flux over the flux floor.
        """
        factor = self.flux_factor()
        low, high = factor.low[:, 0].clone(), factor.high[:, 0].clone()
        for _ in range(40):
            middle = 0.5 * (low + high)
            above = factor.cdf(middle) > q
            high = torch.where(above, middle, high)
            low = torch.where(above, low, middle)
        return 0.5 * (low + high)

    def select(self, index) -> 'SourceMarginals':
        """The chosen sources."""
        return SourceMarginals(
            *(getattr(self, field.name)[index] for field in dataclasses.fields(self))
        )


def _quasi_random(n_draws: int, n_dimensions: int, device) -> torch.Tensor:
    # The additive recurrence of the generalised golden ratio: even in every
    # projection, and the same every time.
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (n_dimensions + 1))
    step = ratio ** -torch.arange(1, n_dimensions + 1, dtype=torch.float64)
    points = (0.5 + torch.arange(1, n_draws + 1)[:, None] * step) % 1
    return points.clamp(1e-4, 1 - 1e-4).float().to(device)


@dataclasses.dataclass
class _Sweep:
    # The greedy sweep with what it thought on the way.
    catalog: object
    hidden: torch.Tensor  # (width, rows, columns)
    at_least: torch.Tensor  # (rows, columns, K): P(n > k)


def _greedy(posterior: TilePosterior) -> _Sweep:
    catalog = posterior.mode()
    hidden = posterior.hidden_given(catalog)
    probs = posterior.head.count_factor(hidden).probs[0]
    at_least = probs.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return _Sweep(catalog, hidden[0], at_least)


def _describe(posterior, place, hidden, count, tiles, catalog, quasi):
    """Positions (2, N, P), flux (1 + 3 M, N, S), mode of N sources."""
    earlier = posterior._code_of(catalog, tiles, place)
    source = posterior.head.source_hidden(place, hidden, count, earlier)
    factor, _, fit = posterior.position_factor(place, source, tiles, catalog)
    n = len(hidden)
    high = posterior.ceiling(hidden[:, 0])
    if place:
        high = catalog.log_flux[(*tiles, place - 1)].clamp(min=1e-3)
    positions, fluxes = [], []
    for k, q in enumerate(quasi):
        x, y = factor.quantile_draw(q.expand(n, 3))
        if k < N_FLUX:
            flux = posterior.flux_factor(
                place, source, tiles, torch.stack([x, y], -1), fit, high
            )
            parts = (high[:, None], flux.log_weights, flux.mean, flux.scale)
            fluxes.append(torch.cat(parts, -1).T)
        positions.append(
            torch.stack(posterior.grid.to_pixels(x, y, tiles[1], tiles[2]))
        )
    mode_x, mode_y = factor.mode()
    mode = posterior.grid.to_pixels(mode_x, mode_y, tiles[1], tiles[2])
    return torch.stack(positions, -1), torch.stack(fluxes, -1), mode


def _neighbourhood(array, rows, columns):
    # array (channels, rows, columns) -> (N, channels, 3, 3), zeros outside.
    padded = torch.nn.functional.pad(array, (1, 1, 1, 1))
    step = torch.arange(3, device=array.device)
    r = rows[:, None, None] + step[:, None]
    c = columns[:, None, None] + step[None, :]
    return padded[:, r, c].movedim(0, 1)


@torch.no_grad()
def find_sources(posterior: TilePosterior, *, n_draws: int = 128) -> SourceMarginals:
    """
    All sources that one image may hold, with their marginals.

    Parameters
    ----------
    posterior : `TilePosterior`
        Of one image.

    n_draws : int, optional
        Size P of the quasi-random sets of positions.

    Returns
    -------
    sources : `SourceMarginals`
        Every candidate above a small probability, each source once.
    """
    if len(posterior) != 1:
        msg = f'posterior must hold one image, got {len(posterior)}'
        raise ValueError(msg)
    sweep = _greedy(posterior)
    quasi = _quasi_random(max(n_draws, N_FLUX), 3, posterior.device)
    found = [
        _first_sources(posterior, sweep, quasi),
        *(
            _further_sources(posterior, sweep, place, quasi)
            for place in range(1, posterior.head.n_most)
        ),
    ]
    return SourceMarginals(
        *(
            torch.cat([getattr(part, field.name) for part in found])
            for field in dataclasses.fields(SourceMarginals)
        )
    )


def _further_sources(posterior, sweep, place, quasi):
    # The second source of a tile and so on: not looked for across borders.
    chance = sweep.at_least[..., place]
    rows, columns = (chance > max(_FAINTEST, 0.1)).nonzero(as_tuple=True)
    rows, columns = _only(rows, columns, sweep.catalog.count[0] >= place)
    tiles = (torch.zeros_like(rows), rows, columns)
    count = torch.full_like(rows, place + 1)
    hidden = sweep.hidden[:, rows, columns].T
    draws, _ = _describe(posterior, place, hidden, count, tiles, sweep.catalog, quasi)
    return SourceMarginals(chance[rows, columns], *draws, rows, columns)


def _only(rows, columns, where):
    keep = where[rows, columns]
    return rows[keep], columns[keep]


def _first_sources(posterior, sweep, quasi):
    chance = sweep.at_least[..., 0]
    accepted = sweep.catalog.count[0] > 0
    rows, columns = ((chance > _FAINTEST) | accepted).nonzero(as_tuple=True)
    tiles = (torch.zeros_like(rows), rows, columns)
    hidden = sweep.hidden[:, rows, columns].T
    count = sweep.catalog.count[tiles].clamp(min=1)
    draws, mode = _describe(posterior, 0, hidden, count, tiles, sweep.catalog, quasi)
    n_draws = draws.shape[-1]
    probability = chance[rows, columns]
    for chunk in _border_chunks(posterior, rows, columns, mode, probability):
        _join_neighbours(
            posterior, sweep, chunk, rows, columns, mode, probability, draws, quasi
        )
    sources = SourceMarginals(
        probability, *position, flux.movedim(0, -1), rows, columns
    )
    keep = _strongest(mode, sources, accepted[rows, columns])
    return sources.select(keep)


def _border_chunks(posterior, rows, columns, mode, probability, size=4096):
    # Candidates near an edge of their tile that matter at all.
    t = posterior.grid.size
    u = (mode[0] + 0.5) - columns * t
    v = (mode[1] + 0.5) - rows * t
    near = (u < _EDGE_ZONE) | (u > t - _EDGE_ZONE)
    near |= (v < _EDGE_ZONE) | (v > t - _EDGE_ZONE)
    index = (near & (probability > 0.05) & (probability < 0.9999)).nonzero()[:, 0]
    return index.split(size) if len(index) else ()


def _slots(posterior, rows, columns, mode):
    """The up to four tiles that each place touches: (N, 4) rows, columns, valid."""
    t = posterior.grid.size
    u = (mode[0] + 0.5) - columns * t
    v = (mode[1] + 0.5) - rows * t
    zero = torch.zeros_like(rows)
    side_x = torch.where(u < _EDGE_ZONE, -1, torch.where(u > t - _EDGE_ZONE, 1, zero))
    side_y = torch.where(v < _EDGE_ZONE, -1, torch.where(v > t - _EDGE_ZONE, 1, zero))
    r = rows[:, None] + torch.stack([zero, zero, side_y, side_y], 1)
    c = columns[:, None] + torch.stack([zero, side_x, zero, side_x], 1)
    valid = torch.stack(
        [zero == 0, side_x != 0, side_y != 0, (side_x != 0) & (side_y != 0)], 1
    )
    n_rows, n_columns = posterior.grid.shape
    valid &= (r >= 0) & (r < n_rows) & (c >= 0) & (c < n_columns)
    return r, c, valid


def _join_neighbours(
    posterior, sweep, index, all_rows, all_columns, mode, probability, draws, quasi
):
    """Probability and draws of border candidates over all tiles they touch."""
    rows, columns = all_rows[index], all_columns[index]
    place = (mode[0][index], mode[1][index])
    r, c, valid = _slots(posterior, rows, columns, place)
    n = len(index)
    # A neighbour that the sweep gave another source stays as it is.
    count = sweep.catalog.count[0]
    safe_r, safe_c = r.clamp(0, count.shape[0] - 1), c.clamp(0, count.shape[1] - 1)
    other = count[safe_r, safe_c] > 0
    other_x, other_y = posterior.grid.to_pixels(
        sweep.catalog.x[0, safe_r, safe_c, 0],
        sweep.catalog.y[0, safe_r, safe_c, 0],
        safe_r,
        safe_c,
    )
    apart = torch.hypot(other_x - place[0][:, None], other_y - place[1][:, None])
    stays = other & (apart > _SAME_SOURCE)
    stays[:, 0] = False
    valid &= ~stays
    code = posterior.head.encode_sources(sweep.catalog)[0]
    colours = posterior.grid.colour(device=code.device)
    chances = torch.zeros(n, 4, device=code.device)
    drawn = [part.new_zeros(4, *part[:, index].shape) for part in draws]
    for slot in range(4):
        use = valid[:, slot].nonzero()[:, 0]
        if len(use) == 0:
            continue
        tile_r, tile_c = r[use, slot], c[use, slot]
        near = _neighbourhood(code, tile_r, tile_c)
        own_colour = colours[tile_r, tile_c]
        near_colour = _neighbourhood(colours[None] + 1, tile_r, tile_c)[:, 0]
        known = (near_colour > 0) & (near_colour - 1 < own_colour[:, None, None])
        # The tiles of V are taken as empty.
        for s in range(4):
            dr, dc = r[use, s] - tile_r + 1, c[use, s] - tile_c + 1
            inside = valid[use, s] & (dr >= 0) & (dr < 3) & (dc >= 0) & (dc < 3)
            at = inside.nonzero()[:, 0]
            near[at, :, dr[at], dc[at]] = 0
        hidden = posterior.head.hidden_at(
            posterior._context[0][:, tile_r, tile_c].T, near, known[:, None].float()
        )
        presence = posterior.head.count_factor(hidden).presence
        tiles = (torch.zeros_like(tile_r), tile_r, tile_c)
        one = torch.ones_like(tile_r)
        *own, own_mode = _describe(
            posterior, 0, hidden, one, tiles, sweep.catalog, quasi
        )
        apart = torch.hypot(own_mode[0] - place[0][use], own_mode[1] - place[1][use])
        chances[use, slot] = presence * (apart < _SAME_SOURCE)
        for part, value in zip(drawn, own, strict=True):
            part[slot][:, use] = value
    order = torch.zeros(n, 4, device=code.device)
    for slot in range(4):
        order[:, slot] = colours[safe_r[:, slot], safe_c[:, slot]]
    rank = order.argsort(1)
    sorted_chances = chances.gather(1, rank)
    left = torch.cumprod(1 - sorted_chances, 1)
    before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], 1)
    weight = torch.zeros_like(chances).scatter(1, rank, sorted_chances * before)
    total = weight.sum(1)
    probability[index] = torch.maximum(total, probability[index])
    # The mixture: each draw belongs to a slot, in an order that is
    # unrelated to the draws themselves.
    cumulative = (weight / total.clamp(min=1e-6)[:, None]).cumsum(1)
    for part, own in zip(draws, drawn, strict=True):
        n_draws = part.shape[-1]
        where = (torch.arange(n_draws, device=code.device) * 0.7548776662 + 0.5) % 1
        slot = (where[None, :, None] > cumulative[:, None, :]).sum(-1).clamp(max=3)
        slot = slot[None, None].expand(1, len(part), n, n_draws)
        certain = total[None, :, None] > 1e-3
        part[:, index] = torch.where(certain, own.gather(0, slot)[0], part[:, index])


def _strongest(mode, sources, accepted):
    """
    Each source once: of candidates closer than a source's width, the best.

    Two sources that the sweep accepted side by side are both kept, because
    the second was drawn knowing the first.
    """
    n = len(sources)
    keep = torch.ones(n, dtype=torch.bool, device=sources.x.device)
    if n == 0:
        return keep
    key = sources.probability + accepted.to(sources.probability)
    x, y = sources.x.mean(1), sources.y.mean(1)
    for first, second in _close_pairs(sources, x, y):
        if accepted[first] and accepted[second]:
            continue
        weaker = second if key[first] >= key[second] else first
        keep[weaker] = False
    return keep


def _close_pairs(sources, x, y):
    # Neighbouring tiles only: compare through a lookup of tiles.
    table = {
        (int(r), int(c)): k
        for k, (r, c) in enumerate(
            zip(sources.row.tolist(), sources.column.tolist(), strict=True)
        )
    }
    x, y = x.tolist(), y.tolist()
    for (row, column), k in table.items():
        for dr, dc in ((0, 1), (1, -1), (1, 0), (1, 1)):
            other = table.get((row + dr, column + dc))
            if other is None:
                continue
            if (x[k] - x[other]) ** 2 + (y[k] - y[other]) ** 2 < _SAME_SOURCE**2:
                yield k, other
