# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From the posterior over tiles to all sources that an image may hold.
"""

import dataclasses

import torch

from ._borders import border_candidates, each_once, join_neighbours
from ._marginals import SourceMarginals, _quasi_random
from ._scene_fit import SceneSources
from ._source_sequence import draw_shapes
from ._tile_posterior import TilePosterior

__all__ = ['find_sources']

# Probabilities below this never make a source.
_FAINTEST = 0.02
# Positions at which the flux is asked for, by one pass and by a sequence of
# encoders.
_N_FLUX, _N_SCENES = 16, 2
# Less probable candidates keep what the one pass says of them.
_IN_SEQUENCE = 0.1
# Draws of shapes, and sources for which they are made at once.
_N_SHAPES, _PIECE = 64, 512


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
        given = None
        if sequence.encoders.shapes_only:
            given = (some.galaxy < 0.5, some.flux[:, k])
        parts = sequence.describe(scene, given)
        fluxes.append(torch.cat([part[0] for part in parts]))
        drawn = [sequence.draw_shapes(part, q[k::_N_SCENES]) for part in parts]
        shapes.append(torch.cat([part[0] for part in drawn]))
        ellipticities.append(torch.cat([part[1] for part in drawn]))
    if not sequence.encoders.shapes_only:
        # As many positions as the one pass describes, in turn.
        turn = torch.arange(sources.flux.shape[1], device=sources.x.device)
        sources.flux[chosen] = torch.stack(fluxes, 1)[:, turn % _N_SCENES]
    sources.shapes[chosen] = torch.cat(shapes, 1)
    sources.ellipticity[chosen] = torch.cat(ellipticities, 1)


def _describe_shapes(sweep, place, sources):
    """Shapes from the one pass: of the tile that holds most of the probability."""
    posterior, head = sweep.posterior, sweep.posterior.head
    if not head.shapes:
        return
    tiles = (sources.image, sources.row, sources.column)
    images, rows, columns = tiles
    hidden = sweep.hidden[images, :, rows, columns]
    count = sweep.catalog.count[tiles].clamp(min=place + 1)
    earlier = posterior.code_of(sweep.catalog, tiles, place)
    hidden = head.source_hidden(place, hidden, count, earlier)
    _, _, fit = posterior.position_factor(place, hidden, tiles, sweep.catalog)
    extended = head.extended(place, hidden, fit)
    layers = head.source[place]['shape']
    # Where encoders follow, this is for what is hardly there: some draws, repeated.
    n_draws = _N_SHAPES if posterior.sequence is None else _N_SHAPES // 4
    q = _quasi_random(n_draws, 6 + head.n_shape, posterior.device)
    parts = []
    for index in torch.arange(len(rows), device=posterior.device).split(_PIECE):
        some = {
            name: value[index]
            for name, value in fit.items()
            if isinstance(value, torch.Tensor)
        }
        given = (sources.flux[index, 0], extended[index], some)
        drawn = draw_shapes(layers, *given, q)
        parts.append([value.repeat(1, _N_SHAPES // n_draws, 1) for value in drawn])
    if parts:
        shapes = [torch.cat(values) for values in zip(*parts, strict=True)]
        sources.shapes, sources.ellipticity = shapes


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
    near = border_candidates(sweep, tiles, mode)
    near &= (probability > 0.05) & (probability < 0.9999)
    same = {}
    for index in near.nonzero()[:, 0].split(4096):
        join_neighbours(sweep, index, tiles, mode, probability, draws, same)
    sources = SourceMarginals(
        probability, *position, flux.movedim(0, -1), images, rows, columns
    )
    sources.probability = each_once(sources, accepted[tiles], same)
    sources = sources.select(sources.probability > _FAINTEST)
    _describe_shapes(sweep, 0, sources)
    return sources
