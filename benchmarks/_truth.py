# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What encoders say of simulated star fields whose truth is known.
"""

import contextlib

import numpy as np
import torch

from bliss_astro import CoaddSimulator
from bliss_astro.detection._detect import _autocast
from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.posteriors import LogFluxFactor, TileCatalog, TileGrid, find_sources
from bliss_astro.posteriors._marginals import _quasi_random

__all__ = ['simulate_and_ask', 'start_worker']

# Positions over which the flux posterior is averaged.
_N_POSITIONS = 16

_encoders = {}


def start_worker(names, n_threads):
    """Load encoders once in each process."""
    torch.set_num_threads(n_threads)
    for name in names:
        _encoders[name] = Encoder.from_pretrained(name)


def _generator(*key):
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def simulate_and_ask(task):
    """
    Simulate one batch and ask every encoder about it.

    Parameters
    ----------
    task : tuple
        Seed, depth, index of the batch, number of images, index of the first.

    Returns
    -------
    truth : dict of array
        ``image``, ``x``, ``y``, ``flux`` of the true stars.

    answers : dict of dict
        For each encoder its ``found`` (sources), ``ranks`` (of the truth) and
        ``score`` (log densities), as dicts of arrays.
    """
    seed, depth, index, n_images, first = task
    simulator = CoaddSimulator(depth, tolerance=1e-5)
    batch = simulator.sample_batch(n_images, generator=_generator(seed, depth, index))
    # Nothing is misstated here, and that is said.
    batch.psf_error = batch.background_error = torch.full((n_images,), 0.001)
    used = batch.flux > 0
    image, _ = used.nonzero(as_tuple=True)
    truth = {
        'image': first + image.numpy(),
        'x': batch.x[used].double().numpy(),
        'y': batch.y[used].double().numpy(),
        'flux': batch.flux[used].double().numpy(),
    }
    answers = {name: _ask(encoder, batch, first) for name, encoder in _encoders.items()}
    return truth, answers


def _ask(encoder, batch, first):
    size = encoder.config.tile_size
    inputs = EncoderInputs.from_batch(batch, tile_size=size)
    device = encoder.device
    with _autocast(device) if device.type == 'cpu' else contextlib.nullcontext():
        posterior = encoder(inputs)
    used = batch.flux > 0
    ratio = torch.where(used, batch.flux / batch.flux_min[:, None], 1.0)
    catalog = TileCatalog.from_sources(
        batch.x,
        batch.y,
        torch.log(ratio).clamp(min=0),
        used,
        grid=TileGrid(tuple(batch.data.shape[1:]), size),
        n_most=encoder.config.n_most,
    )
    ranks, score = _judge(posterior, catalog)
    ranks['image'] = first + ranks['image']
    floor = float(batch.flux_min[0])
    ranks['flux_median'] = floor * np.exp(ranks.pop('log_flux_median'))
    return {'found': _found(posterior, floor, first), 'ranks': ranks, 'score': score}


def _found(posterior, floor, first):
    sources = find_sources(posterior)
    sources = sources.select(sources.probability >= 0.05)
    median = sources.quantile_flux(0.5).double().numpy()
    x, y = sources.place()
    return {
        'image': first + sources.image.numpy(),
        'probability': sources.probability.double().numpy(),
        'x': x.double().numpy(),
        'y': y.double().numpy(),
        'flux': floor * np.exp(median),
    }


def _judge(posterior, catalog):
    """Ranks and log densities of the truth, tile by tile given its count."""
    head = posterior.head
    hidden = posterior.hidden_given(catalog)
    count = head.count_factor(hidden).log_prob(catalog.count)
    parts = []
    for place in range(head.n_most):
        tiles = (catalog.count > place).nonzero(as_tuple=True)
        if len(tiles[0]):
            parts.append(_judge_place(posterior, catalog, hidden, place, tiles))
    names = parts[0] if parts else ()
    ranks = {k: np.concatenate([part[k] for part in parts]) for k in names}
    score = {'count': count.sum((1, 2)).double().numpy()}
    return ranks, score


def _judge_place(posterior, catalog, hidden, place, tiles):
    # The terms of TilePosterior.log_prob, and distribution functions.
    images, rows, columns = tiles
    earlier = posterior.code_of(catalog, tiles, place)
    source = posterior.head.source_hidden(
        place, hidden[images, :, rows, columns], catalog.count[tiles], earlier
    )
    factor, _, fit = posterior.position_factor(place, source, tiles, catalog)
    x, y = catalog.x[(*tiles, place)], catalog.y[(*tiles, place)]
    value = catalog.log_flux[(*tiles, place)]
    high = posterior.ceiling(value)
    if place:
        high = catalog.log_flux[(*tiles, place - 1)].clamp(min=1e-3)
    value = torch.minimum(value, high - 1e-4 * high.clamp(min=1e-3))

    def flux_factor(px, py):
        position = torch.stack([px, py], -1)
        return posterior.flux_factor(place, source, tiles, position, fit, high)

    here = flux_factor(x, y)
    parts = []
    for q in _quasi_random(_N_POSITIONS, 3, posterior.device):
        drawn = flux_factor(*factor.quantile_draw(q.expand(len(images), 3)))
        parts.append((drawn.log_weights, drawn.mean, drawn.scale))
    marginal = LogFluxFactor(
        *(torch.cat(part, -1) for part in zip(*parts, strict=True)),
        torch.zeros_like(high),
        high,
    )
    found = {
        'image': images,
        'place': torch.full_like(images, place),
        'count': catalog.count[tiles],
        'log_flux_true': value,
        'log_flux_median': marginal.quantile(0.5),
        # Sums of weights may exceed one by a rounding error.
        'rank_flux': marginal.cdf(value).clamp(0, 1),
        'rank_x': factor.cdf_x(x).clamp(0, 1),
        'rank_y': factor.cdf_y(y).clamp(0, 1),
        'log_position': factor.log_prob(x, y),
        'log_flux': here.log_prob(value),
    }
    return {
        k: v.double().numpy() if v.is_floating_point() else v.numpy()
        for k, v in found.items()
    }
