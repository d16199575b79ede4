# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The four-colour sweep over the tiles of a posterior: draws, or greedy decisions.
"""

import torch
from torch.nn import functional as F

from ._factors import CountFactor
from ._grid import COLOURS, TileCatalog
from ._source_chain import further

# Largest number of sources that are measured: that many and as many a pixel, above
# the largest density that encoders of stars and galaxies are trained on (0.03).
_MAX_SOURCES = 500, 0.04
# Tiles of all colours whose rows are worked on at once: few enough for the caches of a
# processor, and as few pieces as memory allows elsewhere.
_BAND, _WIDE_BAND = 12_288, 2_000_000


def _around(first, stop, n):
    """Tiles within one of some of n along an axis: zeros beyond the ends, and which."""
    low, high = max(first - 1, 0), min(stop + 1, n)
    return (low - first + 1, stop + 1 - high), slice(low, high)


def most_probable(candidate, probability, n_pixels):
    """Candidates, or of images of so many pixels with too many the more probable."""
    most = int(_MAX_SOURCES[0] + _MAX_SOURCES[1] * n_pixels)
    out = candidate
    for image in (candidate.flatten(1).sum(1) > most).nonzero()[:, 0].tolist():
        out = candidate.clone() if out is candidate else out
        rank = torch.where(candidate[image], probability[image], -1.0).flatten()
        out[image] = False
        out[image].view(-1)[rank.topk(most).indices] = True
    return out


def band_rows(posterior):
    """Rows of tiles that are worked on at once, an even number."""
    band = _BAND if posterior.device.type == 'cpu' else _WIDE_BAND
    return 2 * max(1, band // (len(posterior) * posterior.grid.shape[1]))


def hidden_bands(posterior, colour, code):
    """
    Hidden layer of the tiles of a colour, given codes of the earlier ones.

    Yields bands of rows, which bound the memory, and the rows of their tiles.
    """
    (i, j), (n_rows, n_columns) = COLOURS[colour], posterior.grid.shape
    known = (posterior.grid.colour(device=posterior.device) < colour).to(code)
    left_right, along = _around(j, n_columns, n_columns)
    step = band_rows(posterior)
    for first in range(i, n_rows if j < n_columns else 0, step):
        rows = slice(first, min(first + step, n_rows), 2)
        above_below, down = _around(first, rows.stop, n_rows)
        near, border = (..., down, along), (*left_right, *above_below)
        given = (F.pad(value[near], border) for value in (code, known))
        context = posterior.context_at(slice(None), rows, slice(j, None, 2))
        yield rows, posterior.head.hidden(context, *given)


def sweep(posterior, *, generator=None, threshold=None, fits=None):
    """
    Catalogue of draws or decisions, and the distribution of its counts.

    Fits are added to ``fits``, by place.
    """
    head = posterior.head
    catalog = TileCatalog.empty(
        *(len(posterior), posterior.grid.shape, head.n_most),
        n_shape=head.n_shape,
        n_further=sum(entry.dim for entry in further(head.entries)),
        device=posterior.device,
    )
    log_probs = catalog.x.new_empty((*catalog.count.shape, head.n_most + 1))
    for colour, (i, j) in enumerate(COLOURS):
        found, code = [], head.encode_sources(catalog)
        for rows, hidden in hidden_bands(posterior, colour, code):
            factor = head.count_factor(hidden)
            if threshold is None:
                count = factor.sample(generator=generator)
            else:
                count = factor.mode(threshold)
            log_probs[:, rows, j::2] = factor.log_probs
            catalog.count[:, rows, j::2] = count
            images, down, along = count.nonzero(as_tuple=True)
            tiles = images, rows.start + 2 * down, j + 2 * along
            found.append((*tiles, hidden[images, :, down, along]))
        if not found:
            continue
        *tiles, hidden = map(torch.cat, zip(*found, strict=True))
        if threshold is not None and head.galaxies:
            own = slice(None), slice(i, None, 2), slice(j, None, 2)
            count, factor = catalog.count[own], CountFactor(log_probs[own])
            n_pixels = posterior.inputs.image[0].numel() / len(COLOURS)
            count *= most_probable(count > 0, factor.presence, n_pixels)
        for place in range(head.n_most):
            index = (catalog.count[tuple(tiles)] > place).nonzero()[:, 0]
            if len(index) == 0:
                continue
            own = tuple(part[index] for part in tiles)
            given = hidden[index], catalog.count[own], catalog
            chain = posterior.source_chain(place, own, *given)
            chain.fill(catalog, generator=generator, mode=threshold is not None)
            if fits is not None:
                names = chain.fit.keys() - {'patches', 'log_floor'}
                fits.setdefault(place, []).append(
                    (own, {k: chain.fit[k] for k in names})
                )
    return catalog, CountFactor(log_probs)
