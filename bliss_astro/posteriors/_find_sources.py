# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From the posterior over tiles to all sources that an image may hold.
"""

import dataclasses

import torch

from bliss_astro._threads import map_threads, split_work

from ._borders import border_candidates, each_once, join_neighbours
from ._marginals import SourceMarginals, _quasi_random
from ._scene_fit import SceneSources
from ._source_sequence import draw_shapes
from ._star_fit import StarPatches
from ._tile_posterior import TilePosterior, most_probable

__all__ = ['find_sources']

# Probabilities below this never make a source.
_FAINTEST = 0.02
# The same where nothing is refined.
_COARSE = 0.3
# Those from which on it is asked whether neighbouring tiles hold the same source, of
# which a source of probability 0.4 has one at least in the four tiles that it may
# touch; and the probability in such a tile below which it adds nothing.
_JOINED, _SHARE = 0.12, 0.03
# Positions at which the flux is asked for, by one pass and by a sequence of
# encoders.
_N_FLUX, _N_COARSE, _N_SCENES = 16, 4, 2
# Fluxes that are asked for at once.
_MOST_FLUXES = 512
# Less probable candidates keep what the one pass says of them, and so do all beyond
# this number and that number a pixel.
_IN_SEQUENCE = 0.1
_MOST_IN_SEQUENCE = 500, 0.01
# What of a fit shapes are inferred from.
_SEEN = ('ellipse', 'ellipse_flux', 'vector', 'vector_error')
# Draws of shapes, and sources for which they are made at once; candidates whose
# positions and fluxes are.
_N_SHAPES, _PIECE, _MOST_AT_ONCE = 64, 512, 4096


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
        """Positions (2, N, P), flux (1 + 3 M, N, S), mode, shapes' inputs of N."""

        def describe(index):
            some = tuple(part[index] for part in tiles)
            return self._describe_piece(place, hidden[index], count[index], some)

        pieces = split_work(len(count), _MOST_AT_ONCE, count.device)
        parts = map_threads(describe, pieces)
        position, flux, mode, seen = zip(*parts, strict=True)
        mode = tuple(torch.cat(values) for values in zip(*mode, strict=True))
        seen = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        return torch.cat(position, 1), torch.cat(flux, 1), mode, seen

    def _describe_piece(self, place, hidden, count, tiles):
        posterior, catalog = self.posterior, self.catalog
        earlier = posterior.code_of(catalog, tiles, place)
        source = posterior.head.source_hidden(place, hidden, count, earlier)
        factor, _, fit = posterior.position_factor(place, source, tiles, catalog)
        high = posterior.ceiling(hidden[:, 0])
        if place:
            high = catalog.log_flux[(*tiles, place - 1)].clamp(min=1e-3)
        x, y = factor.quantile_draws(self.quasi)
        # Where nothing is refined, at fewer.
        n_asked = _N_COARSE if posterior.coarse else _N_FLUX
        at = torch.stack([x, y], -1)[:, :n_asked]
        fluxes = self._fluxes(place, (source, tiles, fit, high), at)
        rows, columns = (part[:, None] for part in tiles[1:])
        positions = torch.stack(posterior.grid.to_pixels(x, y, rows, columns))
        mode = posterior.grid.to_pixels(*factor.mode(), tiles[1], tiles[2])
        return positions, fluxes, mode, self._extended(place, source, fit)

    def _extended(self, place, source, fit):
        """What shapes are inferred from; nothing where they are not."""
        head = self.posterior.head
        if not head.shapes:
            return {}
        seen = {name: fit[name] for name in _SEEN}
        return seen | {'features': head.extended(place, source, fit)}

    def _fluxes(self, place, given, at):
        """Flux (1 + 3 M, N, S) at positions (N, S, 2), many at once of few sources."""
        n = len(at)
        step = max(1, _MOST_FLUXES // max(1, n))
        out = []
        for some in at.split(step, 1):
            # Small tensors cost as much time each as large ones.
            index = torch.arange(n, device=at.device).repeat_interleave(some.shape[1])
            source, tiles, fit, high = given if step == 1 else _select(given, index)
            flux = self.posterior.flux_mixture(
                place, source, tiles, some.flatten(0, 1), fit, high
            )
            parts = (high[:, None], flux.log_weights, flux.mean, flux.scale)
            parts = torch.cat(parts, -1).unflatten(0, (n, some.shape[1]))
            out.append(parts.movedim(-1, 0))
        return torch.cat(out, -1)


def _select(values, index):
    """The chosen sources, of tensors and cut-outs in tuples and dicts."""
    if isinstance(values, dict):
        return {name: _select(value, index) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_select(value, index) for value in values)
    return values.select(index) if isinstance(values, StarPatches) else values[index]


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
def find_sources(
    posterior: TilePosterior, *, n_draws: int = 128, least: float = 0.0
) -> SourceMarginals:
    """
    All sources that images may hold, with their marginals.

    Parameters
    ----------
    posterior : `TilePosterior`
        Of B images.

    n_draws : int, optional
        Size P of the quasi-random sets of positions.

    least : float, optional
        Sources of lesser probability are of no interest: those that cannot reach it
        are left out, the others have no shapes (NaN), and no sequence of encoders
        looks at them.

    Returns
    -------
    sources : `SourceMarginals`
        Every candidate above a small probability, each source once.

    Notes
    -----
    The work is bounded by the number of pixels. Of heads that know galaxies, the
    greedy sweep takes sources in at most 2000 tiles and one more for each 25 pixels,
    and at most 500 and one for each 25 pixels are described, the most probable; other
    heads have at most ``n_most`` in each tile. The flux of each is asked for at 16
    positions. Encoders in sequence see at most 500 sources and one more for each 100
    pixels, the brightest, in 2 scenes that are fitted in 10 rounds.
    """
    sweep = _greedy(posterior, n_draws)
    further = range(1, posterior.head.n_most)
    found = [_first_sources(sweep, least)]
    found += [_further_sources(sweep, k, least) for k in further]
    found, seen = zip(*filter(None, found), strict=True)
    for part in found:
        part.typed = posterior.head.galaxies
        part.probability = part.probability * part.near_place()
    probability = torch.cat([part.probability for part in found])
    chosen = (probability > _IN_SEQUENCE) & (probability >= least)
    n_pixels = posterior.inputs.image.numel()
    most = _MOST_IN_SEQUENCE[0] + int(_MOST_IN_SEQUENCE[1] * n_pixels)
    later = posterior.sequence is not None and int(chosen.sum()) <= most
    for place, part in enumerate(found):
        described = part.probability >= least
        if later:
            described &= part.probability <= _IN_SEQUENCE
        _infer_shapes(sweep, place, part, seen[place], described.nonzero()[:, 0])
    sources = SourceMarginals.concatenate(found)
    if posterior.sequence is not None:
        _describe_in_sequence(posterior.sequence, sources, chosen.nonzero()[:, 0], most)
    return sources


def _describe_in_sequence(sequence, sources, chosen, most):
    """
    Fluxes, types and shapes from the encoders that follow detection.

    At a few draws of the positions of all sources, of which those that are more
    probable than not make up the scene.
    """
    if len(chosen) > most:
        # Those that weigh most in the scene.
        logits, mean, _ = sources.flux[chosen, 0, 1:].unflatten(-1, (3, -1)).unbind(-2)
        flux = (torch.softmax(logits, -1) * mean).sum(-1)
        rank = flux + 100 * (sources.probability[chosen] > 0.5)
        chosen = chosen[rank.topk(most).indices.sort().values]
    if len(chosen) == 0:
        return
    some = sources.select(chosen)
    n_numbers = 6 + sequence.encoders.shape.n_shape
    q = _quasi_random(_N_SHAPES, n_numbers, sources.x.device)

    scenes = [
        SceneSources(
            some.image,
            some.row,
            some.column,
            some.x[:, k],
            some.y[:, k],
            active=some.probability > 0.5,
        )
        for k in range(_N_SCENES)
    ]
    # Where types are given the scene without them is a start and no more, for which
    # one of the draws does.
    blind = sequence.fit(scenes[0]) if sequence.encoders.shapes_only else None

    def describe(k):
        given = None
        if sequence.encoders.shapes_only:
            given = (some.galaxy < 0.5, some.flux[:, k])
        parts = sequence.describe(scenes[k], given, blind)
        drawn = [sequence.draw_shapes(part, q[k::_N_SCENES]) for part in parts]
        shapes, ellipticities = (torch.cat(v) for v in zip(*drawn, strict=True))
        return torch.cat([part[0] for part in parts]), shapes, ellipticities

    described = map_threads(describe, range(_N_SCENES))
    fluxes, shapes, ellipticities = zip(*described, strict=True)
    if not sequence.encoders.shapes_only:
        # As many positions as the one pass describes, in turn.
        turn = torch.arange(sources.flux.shape[1], device=sources.x.device)
        sources.flux[chosen] = torch.stack(fluxes, 1)[:, turn % _N_SCENES]
    sources.shapes[chosen] = torch.cat(shapes, 1)
    sources.ellipticity[chosen] = torch.cat(ellipticities, 1)


def _infer_shapes(sweep, place, sources, seen, chosen):
    """Shapes from the one pass: of the tile that holds most of the probability."""
    posterior, head = sweep.posterior, sweep.posterior.head
    if not head.shapes:
        return
    shape = (len(sources), _N_SHAPES)
    sources.shapes = sources.x.new_full((*shape, head.n_shape), torch.nan)
    sources.ellipticity = sources.x.new_full((*shape, 2), torch.nan)
    if len(chosen) == 0:
        return
    layers = head.source[place]['shape']
    # Where encoders follow, this is for what is hardly there, and where nothing is
    # refined, for what says little: some draws, repeated.
    few = posterior.coarse or posterior.sequence is not None
    n_draws = _N_SHAPES // 4 if few else _N_SHAPES
    q = _quasi_random(n_draws, 6 + head.n_shape, posterior.device)

    def draw(index):
        own = chosen[index]
        some = _select(seen, own)
        given = (sources.flux[own, 0], some['features'], some)
        drawn = draw_shapes(layers, *given, q)
        return [value.repeat(1, _N_SHAPES // n_draws, 1) for value in drawn]

    parts = map_threads(draw, split_work(len(chosen), _PIECE, posterior.device))
    drawn = [torch.cat(values) for values in zip(*parts, strict=True)]
    sources.shapes[chosen], sources.ellipticity[chosen] = drawn


def _further_sources(sweep, place, least):
    # The second source of a tile and so on: not looked for across borders.
    chance = sweep.at_least[..., place]
    candidate = (chance > max(0.1, least)) & (sweep.catalog.count >= place)
    if not candidate.any():
        return None
    tiles = candidate.nonzero(as_tuple=True)
    images, rows, columns = tiles
    hidden = sweep.hidden[images, :, rows, columns]
    count = torch.full_like(rows, place + 1)
    position, flux, _, seen = sweep.describe(place, hidden, count, tiles)
    sources = SourceMarginals(
        chance[tiles], *position, flux.movedim(0, -1), images, rows, columns
    )
    return sources, seen


def _first_sources(sweep, least):
    # Fainter ones are not joined, so that none of them can reach what is of interest;
    # what is joined must not depend on it, or rows would.
    faintest = _JOINED if least >= _JOINED else _FAINTEST
    chance = sweep.at_least[..., 0]
    accepted = sweep.catalog.count > 0
    coarse = sweep.posterior.coarse
    candidate = (chance > (_COARSE if coarse else faintest)) | accepted
    if sweep.posterior.head.galaxies:
        n_pixels = sweep.posterior.inputs.image.numel()
        candidate = most_probable(candidate, chance + accepted, n_pixels)
    tiles = candidate.nonzero(as_tuple=True)
    images, rows, columns = tiles
    hidden = sweep.hidden[images, :, rows, columns]
    count = sweep.catalog.count[tiles].clamp(min=1)
    position, flux, mode, seen = sweep.describe(0, hidden, count, tiles)
    probability = chance[tiles]
    draws = (position, flux)
    near = border_candidates(sweep, tiles, mode)
    near &= (probability > _JOINED) & (probability < 0.9999) & (not coarse)
    near = near.nonzero()[:, 0]

    def join(index):
        index = near[index]
        given = (tiles, mode, probability, draws)
        return join_neighbours(sweep, index, *given, faintest=_SHARE)

    same = {}
    pieces = split_work(len(near), _MOST_AT_ONCE, near.device)
    for found in map_threads(join, pieces):
        for key, share in found.items():
            same[key] = max(share, same.get(key, 0.0))
    sources = SourceMarginals(
        probability, *position, flux.movedim(0, -1), images, rows, columns
    )
    sources.probability = each_once(sources, accepted[tiles], same)
    kept = sources.probability > _FAINTEST
    return sources.select(kept), _select(seen, kept)
