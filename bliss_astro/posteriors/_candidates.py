# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Candidate sources with the probability of each row, from the posterior over tiles.
"""

import dataclasses

import torch

from bliss_astro._threads import map_threads, split_work

from ._borders import border_candidates, each_once, join_neighbours
from ._marginals import SourceMarginals, quasi_random
from ._scene_fit import SceneSources
from ._shape_layers import draw_shapes
from ._tile_posterior import TilePosterior, most_probable

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
# Inputs of the shape layers from a fit.
_SHAPE_INPUTS = ('ellipse', 'ellipse_flux', 'vector', 'vector_error')
# Draws of a shape.
_N_SHAPES = 64
# Fluxes, sources with shapes, and candidates in one batch.
_FLUX_BATCH, _SHAPE_BATCH, _BATCH = 512, 512, 4096


@dataclasses.dataclass
class _Sweep:
    """Greedy sweep with its cached hidden layers and probabilities."""

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

        pieces = split_work(len(count), _BATCH, count.device)
        parts = map_threads(describe, pieces)
        position, flux, mode, seen = zip(*parts, strict=True)
        mode = tuple(torch.cat(values) for values in zip(*mode, strict=True))
        seen = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        return torch.cat(position, 1), torch.cat(flux, 1), mode, seen

    def _describe_piece(self, place, hidden, count, tiles):
        grid = self.posterior.grid
        given = (place, tiles, hidden, count, self.catalog)
        chain = self.posterior.source_chain(*given)
        x, y = chain.position.quantile_draws(self.quasi)
        # At fewer positions where nothing is refined.
        n_fluxes = _N_COARSE if self.posterior.coarse else _N_FLUX
        fluxes = _fluxes(chain, torch.stack([x, y], -1)[:, :n_fluxes])
        rows, columns = (part[:, None] for part in tiles[1:])
        positions = torch.stack(grid.to_pixels(x, y, rows, columns))
        mode = grid.to_pixels(*chain.position.mode(), *tiles[1:])
        return positions, fluxes, mode, self._shape_inputs(chain)

    def _shape_inputs(self, chain):
        """Inputs of the shape layers; none where shapes are not inferred."""
        if not chain.head.shapes:
            return {}
        seen = {name: chain.fit[name] for name in _SHAPE_INPUTS}
        return seen | {'features': chain.extended}


def _fluxes(chain, at):
    """Flux (1 + 3 M, N, S) at positions (N, S, 2), in batches."""
    n = len(at)
    step = max(1, _FLUX_BATCH // max(1, n))
    out = []
    for some in at.split(step, 1):
        # Small tensors cost as much time each as large ones.
        index = torch.arange(n, device=at.device).repeat_interleave(some.shape[1])
        part = chain if step == 1 else chain.take(index)
        flux = part.flux(some.flatten(0, 1)).packed()
        out.append(flux.unflatten(0, (n, some.shape[1])).movedim(-1, 0))
    return torch.cat(out, -1)


def _select(values, index):
    """Subset of the sources in a dict of tensors."""
    return {name: value[index] for name, value in values.items()}


def _greedy(posterior, n_draws) -> _Sweep:
    catalog, hidden = posterior.decided()
    probs = posterior.head.count_factor(hidden).probs
    return _Sweep(
        posterior,
        catalog,
        posterior.head.encode_sources(catalog),
        hidden,
        probs.flip(-1).cumsum(-1).flip(-1)[..., 1:],
        quasi_random(max(n_draws, _N_FLUX), 3, posterior.device),
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
        Posterior of B images.

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
    heads have at most ``n_most`` in each tile. The flux of each is computed at 16
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
    most = _MAX_IN_SEQUENCE[0] + int(_MAX_IN_SEQUENCE[1] * n_pixels)
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
    """Fluxes, types and shapes from the encoders that follow detection."""
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
    q = quasi_random(_N_SHAPES, n_numbers, sources.x.device)

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
        layers, own = sequence.encoders.shape, q[k::_N_SCENES]
        drawn = [draw_shapes(layers, *part, own) for part in parts]
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
    q = quasi_random(n_draws, 6 + head.n_shape, posterior.device)

    def draw(index):
        own = chosen[index]
        some = _select(seen, own)
        given = (sources.flux[own, 0], some['features'], some)
        drawn = draw_shapes(layers, *given, q)
        return [value.repeat(1, _N_SHAPES // n_draws, 1) for value in drawn]

    parts = map_threads(draw, split_work(len(chosen), _SHAPE_BATCH, posterior.device))
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
    pieces = split_work(len(near), _BATCH, near.device)
    for found in map_threads(join, pieces):
        for key, share in found.items():
            same[key] = max(share, same.get(key, 0.0))
    sources = SourceMarginals(
        probability, *position, flux.movedim(0, -1), images, rows, columns
    )
    sources.probability = each_once(sources, accepted[tiles], same)
    kept = sources.probability > _FAINTEST
    return sources.select(kept), _select(seen, kept)
