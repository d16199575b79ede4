# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Tile boundaries: probability of sources near them, each counted once.

A source near the border of tiles may be found in any of them, so that each
tile alone has part of its probability.  The probability of a source at this place
follows from the chain rule: if V is the set of tiles that the place touches,

.. math::

    P(\text{no source in } V) = \prod_{s \in V}
        \left[1 - q(n_s > 0 \mid \text{earlier tiles of } V \text{ empty},
        \text{earlier other tiles as decided})\right].

Position and flux are then mixtures over the tiles of V.
"""

import torch

from ._grid import TileCatalog

# Half-width in pixels of the zone along a tile's edge in which the tile
# beyond counts too, and the distance beyond which a neighbour's decided
# source is taken as given rather than as another name of this one.
_EDGE_ZONE = 1.0
_SAME_SOURCE = 1.5
# Added to ratios of probabilities, so that nil over nil is one.
_NIL = 1e-6


def _sides(sweep, tiles, mode):
    # -1, 0 or 1: which edge of its tile a place is near, in x and in y.
    size = sweep.posterior.grid.size
    out = []
    for value, number in zip(mode, (tiles[2], tiles[1]), strict=True):
        inside = (value + 0.5) - number * size
        beyond = (inside > size - _EDGE_ZONE).long()
        out.append(torch.where(inside < _EDGE_ZONE, -1, beyond))
    return out


def border_candidates(sweep, tiles, mode):
    """Test which sources lie so near an edge that the tile beyond counts too."""
    side_x, side_y = _sides(sweep, tiles, mode)
    return (side_x != 0) | (side_y != 0)


def _touched(sweep, tiles, mode):
    """The up to four tiles that each place touches."""
    _, rows, columns = tiles
    side_x, side_y = _sides(sweep, tiles, mode)
    zero = torch.zeros_like(rows)
    r = rows[:, None] + torch.stack([zero, zero, side_y, side_y], 1)
    c = columns[:, None] + torch.stack([zero, side_x, zero, side_x], 1)
    own = torch.ones_like(rows, dtype=torch.bool)
    near_x, near_y = side_x != 0, side_y != 0
    valid = torch.stack([own, near_x, near_y, near_x & near_y], 1)
    n_rows, n_columns = sweep.posterior.grid.shape
    valid &= (r >= 0) & (r < n_rows) & (c >= 0) & (c < n_columns)
    r, c = r.clamp(0, n_rows - 1), c.clamp(0, n_columns - 1)
    images = tiles[0][:, None].expand_as(r)
    catalog = sweep.catalog
    other_x, other_y = sweep.posterior.grid.to_pixels(
        catalog.x[images, r, c, 0], catalog.y[images, r, c, 0], r, c
    )
    apart = torch.hypot(other_x - mode[0][:, None], other_y - mode[1][:, None])
    stays = (catalog.count[images, r, c] > 0) & (apart > _SAME_SOURCE)
    stays[:, 0] = False
    return r, c, valid & ~stays


def _neighbourhood(array, images, rows, columns):
    # array (B, channels, rows, columns) -> (N, channels, 3, 3), zeros outside.
    padded = torch.nn.functional.pad(array, (1, 1, 1, 1))
    step = torch.arange(3, device=array.device)
    r = (rows[:, None] + step)[:, :, None]
    c = (columns[:, None] + step)[:, None, :]
    return padded[images[:, None, None], :, r, c].movedim(-1, 1)


def _presence_if(sweep, images, slot, r, c, valid, holder=None, code=None):
    """Presence in the tiles of one slot, all of their V being empty."""
    hidden = _hidden_if(sweep, images, slot, r, c, valid, holder, code)
    return sweep.posterior.head.count_factor(hidden).presence


def _hidden_if(sweep, images, slot, r, c, valid, holder=None, code=None):
    """Hidden layer of the same."""
    rows, columns = r[:, slot], c[:, slot]
    near = _neighbourhood(sweep.code, images, rows, columns)
    colour = sweep.posterior.grid.colour(device=near.device)
    around = _neighbourhood(
        colour[None, None] + 1, torch.zeros_like(images), rows, columns
    )
    known = (around > 0) & (around - 1 < colour[rows, columns][:, None, None, None])
    for s in range(4):
        dr, dc = r[:, s] - rows + 1, c[:, s] - columns + 1
        inside = valid[:, s] & (dr >= 0) & (dr < 3) & (dc >= 0) & (dc < 3)
        at = inside.nonzero()[:, 0]
        near[at, :, dr[at], dc[at]] = code[at] if s == holder else 0
    return sweep.posterior.hidden_at((images, rows, columns), near, known.to(near))


def _code_of_source(sweep, mode, flux, rows, columns):
    """Codes of tiles that hold one source of that place and flux, (N, C K)."""
    posterior, head = sweep.posterior, sweep.posterior.head
    # Pixels to units of the tile.
    x = (mode[0] + 0.5) / posterior.grid.size - columns
    y = (mode[1] + 0.5) / posterior.grid.size - rows
    # The highest component of the first description.
    logits, mean, _ = flux[1:, :, 0].unflatten(0, (3, -1))
    log_flux = mean.gather(0, logits.argmax(0)[None])[0].clamp(min=0)
    part = TileCatalog.empty(len(x), (1, 1), head.n_most, device=x.device)
    part.count += 1
    values = {'x': x, 'y': y, 'log_flux': log_flux}
    if head.galaxies:
        values['galaxy'] = (logits.argmax(0) >= len(logits) // 2).to(x)
    for name, value in values.items():
        getattr(part, name)[:, 0, 0, 0] = value
    return head.encode_sources(part)[:, :, 0, 0]


def _share_same(sweep, images, slot, r, c, valid, own, other, presence):
    """Share of a neighbour's source that is the candidate's own."""
    given = (sweep, images)
    # In single precision a presence may be nil, which nothing can share.
    later = _presence_if(*given, slot, r, c, valid, 0, own)
    later = (later + _NIL) / (presence + _NIL)
    here = _presence_if(*given, 0, r, c, valid)
    earlier = _presence_if(*given, 0, r, c, valid, slot, other)
    earlier = (earlier + _NIL) / (here + _NIL)
    # The one that is drawn first does not depend on the other: its ratio is 1.
    return 1 - torch.minimum(later, earlier).clamp(max=1)


def join_neighbours(sweep, index, tiles, mode, probability, draws, *, faintest):
    """Probability and draws of border candidates over all tiles they touch."""
    same = {}
    tiles = tuple(part[index] for part in tiles)
    mode = tuple(part[index] for part in mode)
    images = tiles[0]
    r, c, valid = _touched(sweep, tiles, mode)
    own_code = _code_of_source(sweep, mode, draws[1][:, index], *tiles[1:])
    # What the sweep decided, which may be two sources.
    decided = sweep.code[images, :, *tiles[1:]]
    own_code = torch.where(sweep.catalog.count[tiles][:, None] > 0, decided, own_code)
    # In its own tile a candidate is described already, unless the sweep put a source
    # in another tile of V, which is empty here.
    chances = torch.zeros(len(index), 4, device=images.device)
    chances[:, 0] = sweep.at_least[..., 0][tiles]
    drawn = [part.new_zeros(4, *part[:, index].shape) for part in draws]
    for part, own in zip(drawn, draws, strict=True):
        part[0] = own[:, index]
    filled = valid & (sweep.catalog.count[images[:, None], r, c] > 0)
    valid_here = valid.clone()
    valid_here[:, 0] = filled[:, 1:].any(1)
    slots = _likely(sweep, images, r, c, valid, valid_here, faintest)
    for slot, (use, presence, own_tiles, described) in enumerate(
        _described(sweep, slots, images, r, c)
    ):
        if len(use) == 0:
            continue
        *own, own_mode = described
        if slot:
            place = (images[use], slot, r[use], c[use], valid[use])
            code = _code_of_source(sweep, own_mode, own[1], *own_tiles[1:])
            decided = sweep.code[own_tiles[0], :, *own_tiles[1:]]
            there = sweep.catalog.count[own_tiles][:, None] > 0
            code = torch.where(there, decided, code)
            share = _share_same(sweep, *place, own_code[use], code, presence)
            _remember(same, tiles, use, own_tiles, share)
            presence = presence * share
        chances[use, slot] = presence
        for part, value in zip(drawn, own, strict=True):
            part[slot][:, use] = value
    weight = _chain(chances, sweep.posterior.grid.colour(device=images.device)[r, c])
    total = weight.sum(1)
    probability[index] = torch.maximum(total, probability[index])
    # The mixture: each draw belongs to a slot, in an order that is
    # unrelated to the draws themselves.
    cumulative = (weight / total.clamp(min=1e-6)[:, None]).cumsum(1)
    for part, own in zip(draws, drawn, strict=True):
        n_draws = part.shape[-1]
        where = (torch.arange(n_draws, device=images.device) * 0.7548776662 + 0.5) % 1
        slot = (where[None, :, None] > cumulative[:, None, :]).sum(-1).clamp(max=3)
        slot = slot[None, None].expand(1, len(part), -1, -1)
        certain = total[None, :, None] > 1e-3
        part[:, index] = torch.where(certain, own.gather(0, slot)[0], part[:, index])
    return same


def _likely(sweep, images, r, c, valid, valid_here, faintest):
    """Candidates, hidden layer and presence of each slot that is likely enough."""
    slots = []
    for slot in range(4):
        use = valid_here[:, slot].nonzero()[:, 0]
        hidden = _hidden_if(sweep, images[use], slot, r[use], c[use], valid[use])
        presence = sweep.posterior.head.count_factor(hidden).presence
        if slot:
            likely = presence > faintest
            use, hidden, presence = use[likely], hidden[likely], presence[likely]
        slots.append((use, hidden, presence))
    return slots


def _described(sweep, slots, images, r, c):
    """Descriptions of the sources of all slots, computed at once, slot by slot."""
    tiles = [
        (images[use], r[use, slot], c[use, slot])
        for slot, (use, _, _) in enumerate(slots)
    ]
    joined = tuple(torch.cat(parts) for parts in zip(*tiles, strict=True))
    hidden = torch.cat([hidden for _, hidden, _ in slots])
    one = torch.ones_like(joined[0])
    position, flux, mode, _ = sweep.describe(0, hidden, one, joined)
    sizes = [len(use) for use, _, _ in slots]
    mode = zip(*(part.split(sizes) for part in mode), strict=True)
    described = zip(position.split(sizes, 1), flux.split(sizes, 1), mode, strict=True)
    for (use, _, presence), own_tiles, own in zip(slots, tiles, described, strict=True):
        yield use, presence, own_tiles, own


def _chain(chances, colours):
    """Probability that the source is found in each slot, in the sweep's order."""
    rank = colours.argsort(1)
    ordered = chances.gather(1, rank)
    left = torch.cumprod(1 - ordered, 1)
    before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], 1)
    return torch.zeros_like(chances).scatter(1, rank, ordered * before)


def _remember(same, tiles, use, others, share):
    # By pair of tiles, in either order.
    own = zip(*(part[use].tolist() for part in tiles), strict=True)
    other = zip(*(part.tolist() for part in others), strict=True)
    for a, b, value in zip(own, other, share.tolist(), strict=True):
        key = (min(a, b), max(a, b))
        same[key] = max(value, same.get(key, 0.0))


def each_once(sources, accepted, same):
    """Probabilities such that each source counts once."""
    key = (sources.probability + accepted.to(sources.probability)).tolist()
    sure = accepted.tolist()
    left = sources.probability.tolist()
    places = zip(
        sources.image.tolist(),
        sources.row.tolist(),
        sources.column.tolist(),
        strict=True,
    )
    table = {place: k for k, place in enumerate(places)}
    for (a, b), share in same.items():
        k, other = table.get(a), table.get(b)
        if k is None or other is None or (sure[k] and sure[other]):
            continue
        left[other if key[k] >= key[other] else k] *= 1 - share
    return torch.tensor(left).to(sources.probability)
