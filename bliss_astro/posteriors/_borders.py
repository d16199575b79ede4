# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Tile boundaries: each source counted once.

A source near the border of tiles may be found in any of them, so that each
tile alone has part of its probability.  The probability of a source at this place
follows from the chain rule: if V is the set of tiles that the place touches,

.. math::

    P(\text{no source in } V) = \prod_{s \in V}
        \left[1 - q(n_s > 0 \mid \text{earlier tiles of } V \text{ empty},
        \text{earlier other tiles as in the greedy sweep})\right].

Position and flux are then mixtures over the tiles of V.
"""

import torch

from ._factors import flux_parts
from ._grid import TileCatalog, colour_of

# Half-width in pixels of the zone along a tile's edge in which the tile
# beyond counts too, and the distance beyond which a neighbour's decided
# source is taken as given rather than as another name of this one.
_EDGE_ZONE = 1.0
_SAME_SOURCE = 1.5
# Added to ratios of probabilities, so that nil over nil is one.
_NIL = 1e-6


def near_edges(size, inside):
    """Which edge of its tile a place (2, N) in pixels within it is near: -1, 0 or 1."""
    return (inside > size - _EDGE_ZONE).long() - (inside < _EDGE_ZONE).long()


def _touched(sweep, tiles, mode, inside):
    """Image, row, column of the up to four tiles of each place; which are valid."""
    images, rows, columns = tiles
    side_x, side_y = near_edges(sweep.grid.size, inside)
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


def _around(sweep, tiles):
    """
    Rows and columns ``(N, 9)`` of tiles and those around, codes, and which are known.

    Known are tiles of earlier colours; codes are zeros outside of the image.
    """
    near, inside, known = sweep.grid.around(tiles)
    rows, columns = (torch.where(inside, part, -1) for part in near[1:])
    return rows, columns, sweep.code[near] * inside[..., None], known


def hidden_decided(sweep, tiles):
    """Hidden layer of tiles given the decisions of the greedy sweep around them."""
    return sweep.posterior.hidden_at(tiles, *_around(sweep, tiles)[2:])


def _hidden_if(sweep, touched, slot, holder=None, code=None):
    """
    Hidden layer of one tile of each V, of index ``slot`` ``(N,)``, where V is empty.

    If given, the tile of V of index ``holder`` holds the sources of ``code`` instead.
    """
    _, r, c, valid = touched
    tiles = _tile_of(touched, slot)
    rows, columns, decided, known = _around(sweep, tiles)
    # Which of the tiles around is which of V, (N, 9, 4).
    same = (rows[..., None] == r[:, None]) & (columns[..., None] == c[:, None])
    same &= valid[:, None]
    near = decided * ~same.any(-1, keepdim=True)
    if holder is not None:
        held = same.gather(2, holder[:, None, None].expand(-1, 9, 1))
        near = near + held * code[:, None]
    return sweep.posterior.hidden_at(tiles, near, known)


def _described_as(sweep, chain, touched, slot):
    """
    Numbers ``(N,)`` that are alike for equal tiles with the same ones emptied around.

    Where nothing is emptied and the chain describes the tile, they are its row.
    """
    images, r, c, valid = touched
    own, n = _tile_of(touched, slot), len(chain.tiles[0])
    emptied = valid & (sweep.catalog.count[images[:, None], r, c] > 0)
    emptied &= colour_of(r, c) < colour_of(*own[1:])[:, None]
    # Which of the nine tiles around, as bits.
    place = 3 * (r - own[1][:, None]) + c - own[2][:, None] + 4
    emptied = (emptied.long() << place).sum(1)
    number, numbers = sweep.number(own), sweep.number(chain.tiles)
    row = torch.searchsorted(numbers, number).clamp(max=n - 1)
    # Chains of two sources differ.
    same = (numbers[row] == number) & (emptied == 0) & (sweep.catalog.count[own] < 2)
    return torch.where(same, row, n + 512 * number + emptied)


def _tile_of(touched, slot):
    images, r, c, _ = touched
    rows, columns = (v.gather(1, slot[:, None])[:, 0] for v in (r, c))
    return images, rows, columns


def _codes(sweep, chain, index):
    """Codes ``(K, C K')`` of rows: of the sweep's sources, or of the row's own."""
    tiles = tuple(part[index] for part in chain.tiles)
    code = sweep.code[tiles]
    # What the sweep decided may be two sources.
    undecided = (sweep.catalog.count[tiles] == 0).nonzero()[:, 0]
    if len(undecided):
        rows, at = index[undecided].unique(return_inverse=True)
        code[undecided] = _own_codes(sweep, chain, rows)[at]
    return code


def _own_codes(sweep, chain, index):
    """Codes of sources of rows, the only ones of their tiles."""
    # The highest component of the flux at the first draw of the position.
    first = chain.position.quantile_draw(sweep.quasi[:1], index[:, None])
    logits, mean, _ = flux_parts(chain.packed_flux(index, first[:, 0]))
    best, n_most = logits.argmax(-1), sweep.head.n_most
    part = TileCatalog.empty(len(index), (1, 1), n_most, device=index.device)
    part.count += 1
    x, y = chain.position.mode()[index].unbind(-1)
    log_flux = mean.gather(-1, best[:, None])[:, 0].clamp(min=0)
    values = {'x': x, 'y': y, 'log_flux': log_flux}
    if sweep.head.galaxies:
        values['galaxy'] = (best >= logits.shape[-1] // 2).to(x)
    for name, value in values.items():
        getattr(part, name)[:, 0, 0, 0] = value
    return sweep.head.encode_sources(part)[:, :, 0, 0]


def _share_same(sweep, chain, touched, slot, rows, chances):
    """
    Share of the sources of tiles of index ``slot`` of V that is the candidate's own.

    Rows ``(2, K)`` of the chain are those of the candidates and of the sources.
    """
    # Only the tile that is drawn later depends on the other one.
    _, r, c, _ = touched
    colours = colour_of(r, c)
    first, second = torch.zeros_like(slot), slot
    swap = colours.gather(1, slot[:, None])[:, 0] < colours[:, 0]
    first, second = torch.where(swap, second, first), torch.where(swap, first, second)
    code = _codes(sweep, chain, torch.where(swap, rows[1], rows[0]))
    hidden = _hidden_if(sweep, touched, second, first, code)
    presence = chances.gather(1, second[:, None])[:, 0]
    # In single precision a presence may be nil, which nothing can share.
    ratio = sweep.head.count_factor(hidden).presence + _NIL
    return 1 - (ratio / (presence + _NIL)).clamp(max=1)


def join_neighbours(sweep, chain, near, probability, *, faintest, least=0.0):
    """
    Join candidates near borders with what all tiles that they touch say of them.

    Parameters
    ----------
    sweep : object
        The greedy sweep.

    chain : ``TileChain``
        Chain of the N candidates.

    near : tensor of int
        Those near borders.

    probability : tensor ``(N,)``
        Their probabilities, which are changed.

    faintest : float
        Probability of a tile beyond below which it adds nothing.

    least : float, optional
        Candidates that cannot reach that probability are left as they are.

    Returns
    -------
    chain : ``TileChain``
        The chain, and in further rows those of the tiles beyond that it lacks.

    which : tensor ``(N, P)``
        Row of the chain that each draw of a candidate is from.

    pairs : tuple of tensor ``(K,)``
        Numbers of pairs of tiles that may have found the same source, and the share of
        the second one's that is.
    """
    n, tiles = len(probability), tuple(part[near] for part in chain.tiles)
    modes = (part[:, near] for part in (chain.mode_in_pixels(), chain.mode_in_tiles()))
    touched = images, r, c, valid = _touched(sweep, tiles, *modes)
    # In its own tile a candidate is described already, unless the sweep put a source
    # in another tile of V, which is empty here.
    chances = torch.zeros(len(near), 4, device=images.device)
    chances[:, 0] = probability[near]
    filled = valid & (sweep.catalog.count[images[:, None], r, c] > 0)
    here = torch.cat([filled[:, 1:].any(1, keepdim=True), valid[:, 1:]], 1)
    use, slot = here.nonzero(as_tuple=True)
    some = [part[use] for part in touched]
    # Each tile once, and not again where the chain has it.
    key, same = _described_as(sweep, chain, some, slot).unique(return_inverse=True)
    first = torch.empty_like(key).scatter_(0, same, torch.arange(len(use)).to(key))
    new = (key >= n).nonzero()[:, 0]
    first = first[new]
    hidden = _hidden_if(sweep, [part[first] for part in some], slot[first])
    presence = probability[key.clamp(max=n - 1)]
    presence[new] = sweep.head.count_factor(hidden).presence
    chances[use, slot] = presence[same]
    chances[:, 1:] *= chances[:, 1:] > faintest
    reach = torch.maximum(1 - (1 - chances).prod(1), probability[near])
    reach = (reach > (1 - 1e-4) * least) | filled[:, 0]
    likely = ((slot == 0) | (chances[use, slot] > 0)) & reach[use]
    needed = torch.zeros_like(key, dtype=torch.bool)
    needed[same[likely]] = True
    needed = needed[new].nonzero()[:, 0]
    own = tuple(part[first[needed]] for part in _tile_of(some, slot))
    given = own, hidden[needed], torch.ones_like(needed), sweep.catalog
    chain = chain.followed_by(sweep.posterior.source_chain(0, *given))
    key[new[needed]] = n + torch.arange(len(needed)).to(key)
    likely = likely.nonzero()[:, 0]
    use, slot, row = use[likely], slot[likely], key[same[likely]]
    # Of tiles beyond only what is another source than that of the own tile.
    k = slot.nonzero()[:, 0]
    pair = torch.stack([near[use[k]], row[k]])
    some = [part[use[k]] for part in touched]
    share = _share_same(sweep, chain, some, slot[k], pair, chances[use[k]])
    chances[use[k], slot[k]] *= share
    weight = _chain(chances, colour_of(r, c))
    joined = torch.where(reach, weight.sum(1), 0.0)
    probability[near] = torch.maximum(joined, probability[near])
    rows = near[:, None].repeat(1, 4)
    rows[use, slot] = row
    which = torch.arange(n, device=use.device)[:, None].repeat(1, len(sweep.quasi))
    which[near] = _mixed(weight, rows, near, len(sweep.quasi))
    pairs = (tuple(part[row] for part in chain.tiles) for row in pair)
    return chain, which, (*map(sweep.number, pairs), share)


def _mixed(weight, rows, near, n_draws):
    """Rows of the draws: of one of four tiles, in an order unrelated to the draws."""
    total = weight.sum(1, keepdim=True)
    cumulative = (weight / total.clamp(min=1e-6)).cumsum(1)
    where = (torch.arange(n_draws, device=near.device) * 0.7548776662 + 0.5) % 1
    slot = (where[None, :, None] > cumulative[:, None, :]).sum(-1).clamp(max=3)
    return torch.where(total > 1e-3, rows.gather(1, slot), near[:, None])


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
    # Tiles may be seen from beside them alone.
    both = (k >= 0) & (other >= 0)
    k, other, share = k[both], other[both], share[both]
    use = ~(accepted[k] & accepted[other])
    key = probability + accepted.to(probability)
    less = torch.where(key[k] >= key[other], other, k)[use]
    return probability.scatter_reduce(0, less, (1 - share)[use], 'prod')
