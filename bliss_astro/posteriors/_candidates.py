# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Candidate sources with the probability of each row, from the posterior over tiles.
"""

import torch

from bliss_astro._threads import map_threads, split_work

from ._borders import each_once, hidden_decided, join_neighbours, near_edges
from ._factors import flux_parts
from ._grid import joined
from ._marginals import SourceMarginals, quasi_random
from ._scene_fit import SceneSources
from ._source_chain import SourceChain
from ._source_parameters import after_flux, n_uniform
from ._sweep import most_probable
from ._tile_posterior import TilePosterior

# Probabilities below this never make a source.
_FAINTEST = 0.02
# The same where nothing is refined.
_COARSE = 0.3
# Least probability of a candidate that is joined with those of neighbouring tiles
# (a source of probability 0.4 has 0.12 in one at least of the four tiles that it may
# touch), and the probability in such a tile below which it adds nothing.
_JOINED, _SHARE = 0.12, 0.03
# Positions at which the flux is computed, by one pass (and where nothing is refined)
# and by a sequence of encoders.
_N_FLUX, _N_COARSE, _N_SCENES = 16, 4, 2
# Less probable candidates keep the description of the one pass, and so do all beyond
# this number and that number a pixel.
_IN_SEQUENCE = 0.1
_MAX_IN_SEQUENCE = 500, 0.01
# Draws of a shape.
_N_SHAPES = 64
# Sources with shapes, and candidates in one batch.
_SHAPE_BATCH, _BATCH = 512, 1024


class _Sweep:
    """Greedy sweep with its cached hidden layers and probabilities."""

    def __init__(self, posterior, n_draws):
        self.posterior, self.grid, self.head = posterior, posterior.grid, posterior.head
        self.catalog, factor = posterior.decided()
        # (B, rows, columns, C K), and P(n > k): (B, rows, columns, K).
        self.code = self.head.encode_sources(self.catalog).movedim(1, -1).contiguous()
        self.at_least = factor.at_least
        self.quasi = quasi_random(max(n_draws, _N_FLUX), 3, posterior.device)

    def number(self, tiles):
        """Numbers ``(N,)`` of tiles of all images."""
        rows, columns = self.grid.shape
        return (tiles[0] * rows + tiles[1]) * columns + tiles[2]

    def sources(self, place, candidate, least, *, beyond=False):
        """
        Candidates of some tiles with their marginals, and inputs of what follows.

        With those beyond borders, each counts once.
        """
        tiles = candidate.nonzero(as_tuple=True)
        known = self.posterior.known_fits(place, tiles)

        def describe(index):
            own = tuple(part[index] for part in tiles)
            fits = None if known is None else (known[0], known[1][index])
            return self.describe(place, own, fits, least, beyond=beyond)

        pieces = split_work(len(tiles[0]), _BATCH, self.posterior.device)
        found, seen, pairs = zip(*map_threads(describe, pieces), strict=True)
        found, seen = SourceMarginals.concatenate(found), joined(seen)
        if any(pairs):
            tiles = found.image, found.row, found.column
            given = tiles, found.probability, self.catalog.count[tiles] > 0
            found.probability = each_once(self, *given, [*filter(None, pairs)])
        return found, seen

    def describe(self, place, tiles, known, least, *, beyond):
        """Marginals of sources of some tiles, `join_neighbours`' pairs, and inputs."""
        hidden = hidden_decided(self, tiles)
        count = self.catalog.count[tiles]
        given = hidden, count.clamp(min=place + 1), self.catalog, known
        chain = self.posterior.source_chain(place, tiles, *given)
        probability, pairs = self.at_least[..., place][tiles], None
        row = torch.arange(len(count), device=count.device)[:, None]
        row = row.expand(-1, len(self.quasi))
        if beyond:
            near = near_edges(self.grid.size, chain.mode_in_tiles()).any(0)
            near &= (probability > _JOINED) & (probability < 0.9999)
            if len(near := near.nonzero()[:, 0]):
                options = {'faintest': _SHARE, 'least': least}
                given = self, chain, near, probability
                chain, row, pairs = join_neighbours(*given, **options)
        # What the sweep decided takes its share of the others.
        kept = ((probability >= least) | (count > 0)).nonzero()[:, 0]
        seen = chain.inputs if after_flux(self.posterior.entries) else {}
        seen = {name: value[kept] for name, value in seen.items()}
        probability, row = probability[kept], row[kept]
        position = chain.position.quantile_draw(self.quasi.expand(*row.shape, -1), row)
        # From the corner of the tile: far from that of a large image single precision
        # rounds positions, and a draw on the limit of what is near counts or does not.
        own = [part[kept] for part in tiles]
        apart = (
            part[row] - first[:, None]
            for part, first in zip(chain.tiles[1:], own[1:], strict=True)
        )
        x, y = self.grid.to_pixels(*position.unbind(-1), *apart)
        # At fewer positions where nothing is refined, at none where sources are of no
        # interest.
        n_fluxes = _N_COARSE if self.posterior.coarse else _N_FLUX
        found = SourceMarginals(probability, x, y, x[:, :0], *own)
        corner = torch.stack(own[:0:-1], 1) * self.grid.size
        found.near, found.centre = found.near_place(), torch.stack(found.place(), 1)
        found.centre = found.centre + corner
        found.x, found.y = (
            p + c[:, None] for p, c in zip((x, y), corner.T, strict=True)
        )
        needed = (probability * found.near_place() >= least).nonzero()[:, 0]
        row, position = row[needed, :n_fluxes], position[needed, :n_fluxes]
        flux = chain.packed_flux(row.flatten(), position.flatten(0, 1))
        found.flux = x.new_full((len(x), n_fluxes, flux.shape[-1]), torch.nan)
        found.flux[needed] = flux.unflatten(0, row.shape)
        return found, seen, pairs

    def first_sources(self, least):
        """Brightest sources of tiles, with the inputs of their shapes."""
        # Fainter ones are not joined, so that none of them can reach what is of
        # interest; what is joined must not depend on it, or rows would.
        faintest = _JOINED if least >= _JOINED else _FAINTEST
        chance, accepted = self.at_least[..., 0], self.catalog.count > 0
        coarse = self.posterior.coarse
        candidate = (chance > (_COARSE if coarse else faintest)) | accepted
        if self.head.galaxies:
            n_pixels = self.posterior.inputs.image[0, 0].numel()
            candidate = most_probable(candidate, chance + accepted, n_pixels)
        sources, seen = self.sources(0, candidate, least, beyond=not coarse)
        kept = sources.probability > _FAINTEST
        return sources.select(kept), {name: value[kept] for name, value in seen.items()}

    def further_sources(self, place, least):
        """The second source of a tile and so on: not looked for across borders."""
        chance = self.at_least[..., place]
        candidate = (chance > max(0.1, least)) & (self.catalog.count >= place)
        return self.sources(place, candidate, least) if candidate.any() else None


@torch.no_grad()
def find_sources(
    posterior: TilePosterior, *, n_draws: int = 128, least: float = 0.0
) -> SourceMarginals:
    """
    All sources that images may hold, with their marginals.

    Parameters
    ----------
    posterior : `TilePosterior`
        Posterior of B images.

    n_draws : int, optional
        Size P of the quasi-random sets of positions.

    least : float, optional
        Sources of lesser probability are of no interest: those that cannot reach it
        are left out, the others have no fluxes and shapes (NaN), and no sequence of
        encoders looks at them.

    Returns
    -------
    sources : `SourceMarginals`
        Every candidate above a small probability, each source once.

    Notes
    -----
    The work for each image is bounded by the number of its pixels. Of heads that know
    galaxies, the greedy sweep takes sources in at most 2000 tiles and one more for each
    25 pixels, and at most 500 and one for each 25 pixels are described, the most
    probable; other heads have at most ``n_most`` in each tile. The flux of each is
    computed at 16 positions. Encoders in sequence see at most 500 sources and one more
    for each 100 pixels, the brightest, in 2 scenes that are fitted in 10 rounds.
    """
    sweep = _Sweep(posterior, n_draws)
    found = [sweep.first_sources(least)]
    found += [sweep.further_sources(k, least) for k in range(1, sweep.head.n_most)]
    found = list(filter(None, found))
    for part, _ in found:
        part.typed = posterior.head.galaxies
        part.probability = part.probability * part.near_place()
    probability = torch.cat([part.probability for part, _ in found])
    chosen = (probability > _IN_SEQUENCE) & (probability >= least)
    n_pixels = posterior.inputs.image[0, 0].numel()
    most = _MAX_IN_SEQUENCE[0] + int(_MAX_IN_SEQUENCE[1] * n_pixels)
    image = torch.cat([part.image for part, _ in found])
    # Images that are not described in sequence as a whole.
    later = image[chosen].bincount(minlength=len(posterior)) <= most
    later &= posterior.sequence is not None
    drawn = {entry.name for entry in after_flux(posterior.entries)}
    for place, (part, seen) in enumerate(found):
        described = part.probability >= least
        described &= ~later[part.image] | (part.probability <= _IN_SEQUENCE)
        if drawn - {'colour'}:
            _infer_shapes(posterior, place, part, seen, described.nonzero()[:, 0])
    sources = SourceMarginals.concatenate([part for part, _ in found])
    if posterior.sequence is not None:
        _describe_in_sequence(posterior.sequence, sources, chosen.nonzero()[:, 0], most)
    if 'colour' in drawn:
        # Given types and fluxes, whatever they are from.
        seen = [part for _, part in found]
        _infer_colours(posterior, sources, seen, probability >= least)
    return sources


def _describe_in_sequence(sequence, sources, chosen, most):
    """Fluxes, types and shapes from the encoders that follow detection."""
    images = sources.image[chosen]
    for image in (images.bincount() > most).nonzero()[:, 0].tolist():
        # Those that weigh most in the scene.
        own, others = chosen[images == image], chosen[images != image]
        logits, mean, _ = flux_parts(sources.flux[own, 0])
        flux = (torch.softmax(logits, -1) * mean).sum(-1)
        rank = flux + 100 * (sources.probability[own] > 0.5)
        chosen = torch.cat([others, own[rank.topk(most).indices]]).sort().values
        images = sources.image[chosen]
    if len(chosen) == 0:
        return
    some = sources.select(chosen)
    shapes_only = sequence.encoders.shapes_only
    n_numbers = n_uniform(sequence.encoders.entries)
    q = quasi_random(_N_SHAPES, n_numbers, sources.x.device, even=True)
    n = len(some)
    tiles = [value.repeat(_N_SCENES) for value in (some.image, some.row, some.column)]
    which = torch.arange(_N_SCENES, device=q.device).repeat_interleave(n)
    scenes = SceneSources(
        *tiles,
        *(value[:, :_N_SCENES].T.flatten() for value in (some.x, some.y)),
        active=(some.probability > 0.5).repeat(_N_SCENES),
        scenes=which * len(sequence.inputs.image) + tiles[0],
    )
    given = start = None
    if shapes_only:
        # The scene without types is a start and no more, for which one of the draws
        # does.
        twice = torch.arange(n, device=q.device).repeat(_N_SCENES)
        start = sequence.start(scenes.select(slice(n))).select(twice)
        flux = some.flux[:, :_N_SCENES].movedim(1, 0).flatten(0, 1)
        given = (some.galaxy < 0.5)[twice], flux
    q = torch.stack([q[k::_N_SCENES] for k in range(_N_SCENES)])

    def draw(index, flux, chain):
        return chain.quantile_draw(flux, q[which[index]])

    flux, draws = sequence.describe(scenes, draw, given, start)
    if not shapes_only:
        # As many positions as the one pass describes, in turn.
        flux = flux.unflatten(0, (_N_SCENES, n))
        turn = torch.arange(sources.flux.shape[1], device=q.device) % _N_SCENES
        sources.flux[chosen] = flux[turn].movedim(0, 1)
    for name, value in draws.items():
        drawn = value.unflatten(0, (_N_SCENES, n)).movedim(0, 1).flatten(1, 2)
        sources.draws[name][chosen] = drawn


def _infer_shapes(posterior, place, sources, seen, chosen):
    """Shapes and the like of the one pass, of the tile with most of the probability."""
    parameters, layers = posterior.entries, posterior.head.source[place]
    parameters = [entry for entry in parameters if entry.name != 'colour']
    shape = len(sources), _N_SHAPES
    sources.draws |= {
        entry.name: sources.x.new_full((*shape, entry.dim), torch.nan)
        for entry in after_flux(parameters)
    }
    # Where encoders follow, this is for what is hardly there, and where nothing is
    # refined, for what says little: some draws, repeated.
    few = posterior.coarse or posterior.sequence is not None
    n_same = 4 if few else 1
    n_uniforms = n_uniform(parameters)
    q = quasi_random(_N_SHAPES // n_same, n_uniforms, posterior.device, even=True)

    def draw(index):
        own = chosen[index]
        some = {name: value[own] for name, value in seen.items()}
        chain = SourceChain(parameters, layers, some)
        for name, value in chain.quantile_draw(sources.flux[own, 0], q[None]).items():
            sources.draws[name][own] = value.repeat(1, n_same, 1)

    if len(chosen):
        map_threads(draw, split_work(len(chosen), _SHAPE_BATCH, posterior.device))


def _infer_colours(posterior, sources, seen, wanted):
    """Colours of the one pass, with the types and fluxes that they are given."""
    n_bands = posterior.n_bands
    n_draws = _N_SHAPES // (4 if posterior.coarse else 1)
    q = quasi_random(n_draws, 3 + n_bands, posterior.device, even=True)
    sizes = {'flux': 1, 'colour': n_bands}
    if posterior.head.galaxies:
        sizes['type'] = 1
    turn = torch.arange(n_draws, device=q.device) % sources.flux.shape[1]
    for name, size in sizes.items():
        shape = len(sources), _N_SHAPES, size
        sources.draws[name] = sources.x.new_full(shape, torch.nan)
    first = 0
    for place, part in enumerate(seen):
        layers, n = posterior.head.source[place], len(part['features'])
        rows = wanted[first : first + n].nonzero()[:, 0]

        def draw(index, rows=rows, layers=layers, part=part, first=first):
            own = rows[index]
            some = {name: value[own] for name, value in part.items()}
            chain = SourceChain(posterior.entries, layers, some)
            return chain.draw_colours(sources.flux[first + own][:, turn], q[None])

        if len(rows):
            pieces = split_work(len(rows), _SHAPE_BATCH, posterior.device)
            for name, value in joined(map_threads(draw, pieces)).items():
                drawn = value.repeat(1, _N_SHAPES // n_draws, 1)
                sources.draws[name][first + rows] = drawn
        first += n
