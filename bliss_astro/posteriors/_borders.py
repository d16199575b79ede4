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
    size = sweep.grid.size
    inside = mode + 0.5 - torch.stack([tiles[2], tiles[1]]) * size
    return (inside > size - _EDGE_ZONE).long() - (inside < _EDGE_ZONE).long()


def border_candidates(sweep, tiles, mode):
    """Test which sources lie so near an edge that the tile beyond counts too."""
    return _sides(sweep, tiles, mode).any(0)


def _touched(sweep, tiles, mode):
    """Image, row, column of the up to four tiles of each place; which are valid."""
    images, rows, columns = tiles
    side_x, side_y = _sides(sweep, tiles, mode)
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
    padded = torch.nn.functional.pad(array, (1, 1, 1, 1))
    step = torch.arange(3, device=array.device)
    r = (rows[:, None] + step)[:, :, None]
    c = (columns[:, None] + step)[:, None, :]
    return padded[images[:, None, None], :, r, c].movedim(-1, 1)


def _hidden_if(sweep, touched, slot, holder=None, code=None):
    """
    Hidden layer of one tile of V each, ``slot`` ``(N,)``, all of V being empty.

    But for the tile ``holder``, which has the sources of ``code``.
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
    """Codes (N, C K) of tiles as decided or, where empty, with the source described."""
    grid, head = sweep.grid, sweep.head
    # Pixels to units of the tile.
    x, y = (mode + 0.5) / grid.size - torch.stack([tiles[2], tiles[1]])
    # The highest component of the first description.
    logits, mean, _ = flux[1:, :, 0].unflatten(0, (3, -1))
    best = logits.argmax(0)
    part = TileCatalog.empty(len(x), (1, 1), head.n_most, device=x.device)
    part.count += 1
    values = {'x': x, 'y': y, 'log_flux': mean.gather(0, best[None])[0].clamp(min=0)}
    if head.galaxies:
        values['galaxy'] = (best >= len(logits) // 2).to(x)
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
