# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
From the posterior over tiles to marginals of single sources.

A source near the border of tiles may be found in any of them, so that each
tile alone is unsure of it.  What a person asks is whether there is a source
here, and by the chain rule that is known: if V is the set of tiles that the
place touches,

.. math::

    P(\text{no source in } V) = \prod_{s \in V}
        \left[1 - q(n_s > 0 \mid \text{earlier tiles of } V \text{ empty},
        \text{earlier other tiles as decided})\right].

Position and flux are then mixtures over the tiles of V.

A source that is hardly seen may lie anywhere within some pixels, and a row of
a catalogue claims a place.  So the probability of a row is that of a source
within ``PLACE_RADIUS`` of it: what is farther off is no support for it.
"""

import dataclasses

import torch

from ._catalog_head import of_type, split_types
from ._factors import LogFluxFactor
from ._grid import TileCatalog
from ._scene_fit import SceneSources
from ._source_sequence import draw_shapes
from ._tile_posterior import TilePosterior

__all__ = ['PLACE_RADIUS', 'SourceMarginals', 'find_sources']

# Half-width in pixels of the zone along a tile's edge in which the tile
# beyond is asked too, and the distance beyond which a neighbour's decided
# source is taken as given rather than as another name of this one.
_EDGE_ZONE = 1.0
_SAME_SOURCE = 1.5
# Distance in pixels within which a source supports the place that is claimed.
# A third of SDSS's FWHM: half a pixel more or less shifts single exposures'
# recall and precision at the limit by 0.03 against each other, and changes
# nothing where positions are known better than to a pixel.
PLACE_RADIUS = 1.25
# Scale in pixels of the average that seeks the place, and its steps.
_PLACE_SCALE, _PLACE_STEPS = 0.8, 10
# Probabilities below this never make a source.
_FAINTEST = 0.02
# Added to ratios of probabilities, so that nil over nil is one.
_NIL = 1e-6
# Positions at which the flux is asked for, by one pass and by a sequence of
# encoders.
_N_FLUX, _N_SCENES = 16, 2
# Less probable candidates keep what the one pass says of them.
_IN_SEQUENCE = 0.1
# Draws of shapes.
_N_SHAPES = 64


@dataclasses.dataclass
class SourceMarginals:
    """
    Marginals of N sources found in a batch of images.

    Attributes
    ----------
    probability : tensor ``(N,)``
        That there is a source; from `find_sources`, within ``PLACE_RADIUS`` of
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
        high, parts = self._mixture()
        logits, mean, scale = (part.flatten(1) for part in parts)
        return LogFluxFactor(logits, mean, scale, torch.zeros_like(high), high)

    def _mixture(self):
        high, parts = self.flux[..., 0], self.flux[..., 1:].unflatten(-1, (3, -1))
        return high.mean(1), parts.unbind(-2)

    @property
    def galaxy(self) -> torch.Tensor:
        """Probability of a galaxy, given the source, tensor ``(N,)``."""
        if not self.typed:
            return torch.zeros_like(self.probability)
        _, share = split_types(self._mixture()[1][0])
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
        high, parts = self._mixture()
        chosen = of_type(parts, galaxy[:, None])
        logits, mean, scale = (part.flatten(1) for part in chosen)
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
        for _ in range(26):  # to single precision
            middle = 0.5 * (low + high)
            above = factor.cdf(middle) > q
            high = torch.where(above, middle, high)
            low = torch.where(above, low, middle)
        return 0.5 * (low + high)

    def place(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Where each source is said to be, two tensors ``(N,)`` in pixels.

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

    def select(self, index) -> 'SourceMarginals':
        """The chosen sources."""
        values = {name: getattr(self, name) for name in _TENSORS}
        chosen = {k: None if v is None else v[index] for k, v in values.items()}
        return SourceMarginals(**chosen, typed=self.typed)

    @classmethod
    def concatenate(cls, parts) -> 'SourceMarginals':
        """Several lists of sources as one."""
        values = {}
        for name in _TENSORS:
            own = [getattr(part, name) for part in parts]
            values[name] = None if own[0] is None else torch.cat(own)
        return cls(**values, typed=parts[0].typed)


_TENSORS = [f.name for f in dataclasses.fields(SourceMarginals) if f.name != 'typed']


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
    posterior: TilePosterior
    catalog: object
    code: torch.Tensor  # (B, C K, rows, columns)
    hidden: torch.Tensor  # (B, width, rows, columns)
    at_least: torch.Tensor  # (B, rows, columns, K): P(n > k)
    quasi: torch.Tensor  # (P, 3)

    def describe(self, place, hidden, count, tiles):
        """Positions (2, N, P), flux (1 + 3 M, N, S), mode of N sources."""
        posterior, catalog = self.posterior, self.catalog
        earlier = posterior.code_of(catalog, tiles, place)
        source = posterior.head.source_hidden(place, hidden, count, earlier)
        factor, _, fit = posterior.position_factor(place, source, tiles, catalog)
        high = posterior.ceiling(hidden[:, 0])
        if place:
            high = catalog.log_flux[(*tiles, place - 1)].clamp(min=1e-3)
        positions, fluxes = [], []
        for k, q in enumerate(self.quasi):
            x, y = factor.quantile_draw(q.expand(len(hidden), 3))
            if k < _N_FLUX:
                flux = posterior.flux_mixture(
                    place, source, tiles, torch.stack([x, y], -1), fit, high
                )
                parts = (high[:, None], flux.log_weights, flux.mean, flux.scale)
                fluxes.append(torch.cat(parts, -1).T)
            pixels = posterior.grid.to_pixels(x, y, tiles[1], tiles[2])
            positions.append(torch.stack(pixels))
        mode = posterior.grid.to_pixels(*factor.mode(), tiles[1], tiles[2])
        return torch.stack(positions, -1), torch.stack(fluxes, -1), mode


def _greedy(posterior, n_draws) -> _Sweep:
    catalog, hidden = posterior.decided()
    probs = posterior.head.count_factor(hidden).probs
    return _Sweep(
        posterior,
        catalog,
        posterior.head.encode_sources(catalog),
        hidden,
        probs.flip(-1).cumsum(-1).flip(-1)[..., 1:],
        _quasi_random(max(n_draws, _N_FLUX), 3, posterior.device),
    )


@torch.no_grad()
def find_sources(posterior: TilePosterior, *, n_draws: int = 128) -> SourceMarginals:
    """
    All sources that images may hold, with their marginals.

    Parameters
    ----------
    posterior : `TilePosterior`
        Of B images.

    n_draws : int, optional
        Size P of the quasi-random sets of positions.

    Returns
    -------
    sources : `SourceMarginals`
        Every candidate above a small probability, each source once.
    """
    sweep = _greedy(posterior, n_draws)
    further = range(1, posterior.head.n_most)
    found = [_first_sources(sweep), *(_further_sources(sweep, k) for k in further)]
    sources = SourceMarginals.concatenate(found)
    sources.typed = posterior.head.galaxies
    sources.probability = sources.probability * sources.near_place()
    if posterior.sequence is not None:
        _describe_in_sequence(posterior.sequence, sources)
    return sources


def _describe_in_sequence(sequence, sources):
    """
    Fluxes, types and shapes from the encoders that follow detection.

    At a few draws of the positions of all sources, of which those that are more
    probable than not make up the scene.
    """
    chosen = (sources.probability > _IN_SEQUENCE).nonzero()[:, 0]
    if len(chosen) == 0:
        return
    some = sources.select(chosen)
    n_numbers = 6 + sequence.encoders.shape.n_shape
    q = _quasi_random(_N_SHAPES, n_numbers, sources.x.device)
    fluxes, shapes, ellipticities = [], [], []
    for k in range(_N_SCENES):
        scene = SceneSources(
            some.image,
            some.row,
            some.column,
            some.x[:, k],
            some.y[:, k],
            active=some.probability > 0.5,
        )
        parts = sequence.describe(scene)
        fluxes.append(torch.cat([part[0] for part in parts]))
        drawn = [sequence.draw_shapes(part, q[k::_N_SCENES]) for part in parts]
        shapes.append(torch.cat([part[0] for part in drawn]))
        ellipticities.append(torch.cat([part[1] for part in drawn]))
    # As many positions as the one pass describes, in turn.
    turn = torch.arange(sources.flux.shape[1], device=sources.x.device) % _N_SCENES
    sources.flux[chosen] = torch.stack(fluxes, 1)[:, turn]
    sources.shapes[chosen] = torch.cat(shapes, 1)
    sources.ellipticity[chosen] = torch.cat(ellipticities, 1)


def _describe_shapes(sweep, place, sources):
    """Shapes from the one pass: of the tile that holds most of the probability."""
    posterior, head = sweep.posterior, sweep.posterior.head
    if not head.shapes:
        return
    tiles = (sources.image, sources.row, sources.column)
    q = _quasi_random(_N_SHAPES, 6 + head.n_shape, posterior.device)
    images, rows, columns = tiles
    hidden = sweep.hidden[images, :, rows, columns]
    count = sweep.catalog.count[tiles].clamp(min=place + 1)
    earlier = posterior.code_of(sweep.catalog, tiles, place)
    hidden = head.source_hidden(place, hidden, count, earlier)
    _, _, fit = posterior.position_factor(place, hidden, tiles, sweep.catalog)
    extended = head.extended(place, hidden, fit)
    layers = head.source[place]['shape']
    sources.shapes, sources.ellipticity = draw_shapes(
        layers, sources.flux[:, 0], extended, fit, q
    )


def _further_sources(sweep, place):
    # The second source of a tile and so on: not looked for across borders.
    chance = sweep.at_least[..., place]
    candidate = (chance > 0.1) & (sweep.catalog.count >= place)
    tiles = candidate.nonzero(as_tuple=True)
    images, rows, columns = tiles
    hidden = sweep.hidden[images, :, rows, columns]
    count = torch.full_like(rows, place + 1)
    position, flux, _ = sweep.describe(place, hidden, count, tiles)
    sources = SourceMarginals(
        chance[tiles], *position, flux.movedim(0, -1), images, rows, columns
    )
    _describe_shapes(sweep, place, sources)
    return sources


def _first_sources(sweep):
    chance = sweep.at_least[..., 0]
    accepted = sweep.catalog.count > 0
    tiles = ((chance > _FAINTEST) | accepted).nonzero(as_tuple=True)
    images, rows, columns = tiles
    hidden = sweep.hidden[images, :, rows, columns]
    count = sweep.catalog.count[tiles].clamp(min=1)
    position, flux, mode = sweep.describe(0, hidden, count, tiles)
    probability = chance[tiles]
    draws = (position, flux)
    near = _near_edge(sweep, tiles, mode)
    near &= (probability > 0.05) & (probability < 0.9999)
    same = {}
    for index in near.nonzero()[:, 0].split(4096):
        _join_neighbours(sweep, index, tiles, mode, probability, draws, same)
    sources = SourceMarginals(
        probability, *position, flux.movedim(0, -1), images, rows, columns
    )
    sources.probability = _each_once(sources, accepted[tiles], same)
    sources = sources.select(sources.probability > _FAINTEST)
    _describe_shapes(sweep, 0, sources)
    return sources


def _sides(sweep, tiles, mode):
    # -1, 0 or 1: which edge of its tile a place is near, in x and in y.
    size = sweep.posterior.grid.size
    out = []
    for value, number in zip(mode, (tiles[2], tiles[1]), strict=True):
        inside = (value + 0.5) - number * size
        beyond = (inside > size - _EDGE_ZONE).long()
        out.append(torch.where(inside < _EDGE_ZONE, -1, beyond))
    return out


def _near_edge(sweep, tiles, mode):
    side_x, side_y = _sides(sweep, tiles, mode)
    return (side_x != 0) | (side_y != 0)


def _touched(sweep, tiles, mode):
    """
    The up to four tiles that each place touches.

    Rows, columns and validity, each ``(N, 4)``; a neighbour to which the
    sweep gave a source of its own is not among them.
    """
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
    """
    Presence in the tiles of one slot, all of their V being empty.

    Or all but the slot ``holder``, which holds a source of that code.
    """
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
    """What tiles that hold one source of that place and flux tell, (N, C K)."""
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
    """
    How much of a neighbour's source is the candidate's own.

    The share of the probability of the one that is drawn later that goes when
    the earlier one is there: 1 if they are two names of one source, 0 if
    neither cares about the other.  ``own`` and ``other`` are the codes,
    ``presence`` that of the neighbour with nothing in V.
    """
    given = (sweep, images)
    # In single precision a presence may be nil, which nothing can share.
    later = _presence_if(*given, slot, r, c, valid, 0, own)
    later = (later + _NIL) / (presence + _NIL)
    here = _presence_if(*given, 0, r, c, valid)
    earlier = _presence_if(*given, 0, r, c, valid, slot, other)
    earlier = (earlier + _NIL) / (here + _NIL)
    # The one that is drawn first does not know the other: its ratio is 1.
    return 1 - torch.minimum(later, earlier).clamp(max=1)


def _join_neighbours(sweep, index, tiles, mode, probability, draws, same):
    """Probability and draws of border candidates over all tiles they touch."""
    tiles = tuple(part[index] for part in tiles)
    mode = tuple(part[index] for part in mode)
    images = tiles[0]
    r, c, valid = _touched(sweep, tiles, mode)
    own_code = _code_of_source(sweep, mode, draws[1][:, index], *tiles[1:])
    # What the sweep decided, which may be two sources.
    decided = sweep.code[images, :, *tiles[1:]]
    own_code = torch.where(sweep.catalog.count[tiles][:, None] > 0, decided, own_code)
    chances = torch.zeros(len(index), 4, device=images.device)
    drawn = [part.new_zeros(4, *part[:, index].shape) for part in draws]
    for slot in range(4):
        use = valid[:, slot].nonzero()[:, 0]
        if len(use) == 0:
            continue
        own_tiles = (images[use], r[use, slot], c[use, slot])
        place = (images[use], slot, r[use], c[use], valid[use])
        hidden = _hidden_if(sweep, *place)
        presence = sweep.posterior.head.count_factor(hidden).presence
        one = torch.ones_like(use)
        *own, own_mode = sweep.describe(0, hidden, one, own_tiles)
        if slot:
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


def _each_once(sources, accepted, same):
    """
    Probabilities such that each source counts once.

    Of two candidates in neighbouring tiles the weaker keeps what is not the
    stronger one's.  Two sources that the sweep accepted side by side stay as
    they are, because the second was drawn knowing the first.
    """
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
