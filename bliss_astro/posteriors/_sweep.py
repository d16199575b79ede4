# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The four-colour sweep over the tiles of a posterior: greedy decisions, or draws.

Most tiles have no source around them, whatever is drawn. The distribution of their
counts is the same in all draws, and so are the fits of sources that are drawn there.
"""

import torch
from torch.nn import functional as F

from bliss_astro._threads import map_threads

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


def _empty(posterior, n_draws=1):
    """Catalogues of no sources."""
    head = posterior.head
    return TileCatalog.empty(
        *(n_draws * len(posterior), posterior.grid.shape, head.n_most),
        n_shape=head.n_shape,
        n_further=sum(entry.dim for entry in further(head.entries)),
        device=posterior.device,
    )


def band_rows(posterior):
    """Rows of tiles that are worked on at once, an even number."""
    band = _BAND if posterior.device.type == 'cpu' else _WIDE_BAND
    return 2 * max(1, band // (len(posterior) * posterior.grid.shape[1]))


def map_bands(function, posterior, colour, code):
    """
    Results of a function of the tiles of a colour, given codes of the earlier ones.

    Its arguments are the rows of tiles of a band, which bounds the memory, and their
    hidden layer.
    """
    (i, j), (n_rows, n_columns) = COLOURS[colour], posterior.grid.shape
    known = (posterior.grid.colour(device=posterior.device) < colour).to(code)
    left_right, along = _around(j, n_columns, n_columns)
    step = band_rows(posterior)

    def run(first):
        rows = slice(first, min(first + step, n_rows), 2)
        above_below, down = _around(first, rows.stop, n_rows)
        near, border = (..., down, along), (*left_right, *above_below)
        given = (F.pad(value[near], border) for value in (code, known))
        context = posterior.context_at(slice(None), rows, slice(j, None, 2))
        return function(rows, posterior.head.hidden(context, *given))

    return map_threads(run, range(i, n_rows if j < n_columns else 0, step))


def sweep(posterior, threshold, fits=None):
    """
    Catalogue of decisions, and the distribution of its counts.

    Fits are added to ``fits``, by place.
    """
    head = posterior.head
    catalog = _empty(posterior)
    log_probs = catalog.x.new_empty((*catalog.count.shape, head.n_most + 1))
    for colour, (i, j) in enumerate(COLOURS):

        def decide(rows, hidden, j=j):
            factor = head.count_factor(hidden)
            count = factor.mode(threshold)
            log_probs[:, rows, j::2] = factor.log_probs
            catalog.count[:, rows, j::2] = count
            images, down, along = count.nonzero(as_tuple=True)
            tiles = images, rows.start + 2 * down, j + 2 * along
            return *tiles, hidden[images, :, down, along]

        found = map_bands(decide, posterior, colour, head.encode_sources(catalog))
        if not found:
            continue
        *tiles, hidden = map(torch.cat, zip(*found, strict=True))
        if head.galaxies:
            own = slice(None), slice(i, None, 2), slice(j, None, 2)
            count, factor = catalog.count[own], CountFactor(log_probs[own])
            n_pixels = posterior.inputs.image[0, 0].numel() / len(COLOURS)
            count *= most_probable(count > 0, factor.presence, n_pixels)
        for place in range(head.n_most):
            index = (catalog.count[tuple(tiles)] > place).nonzero()[:, 0]
            if len(index) == 0:
                continue
            own = tuple(part[index] for part in tiles)
            given = hidden[index], catalog.count[own], catalog
            chain = posterior.source_chain(place, own, *given)
            chain.fill(catalog, mode=True)
            if fits is not None:
                names = chain.fit.keys() - {'patches', 'log_floor'}
                found = {name: chain.fit[name] for name in names}
                fits.setdefault(place, []).append((own, found))
    return catalog, CountFactor(log_probs)


class JointDraws:
    """
    Draws of the catalogues of B images.

    Parameters
    ----------
    posterior : `TilePosterior`
        Their posterior.
    """

    def __init__(self, posterior):
        self.posterior, self.head, self.grid = posterior, posterior.head, posterior.grid
        # Distributions of the counts of tiles with no source around, by colour.
        nothing = self.head.encode_sources(_empty(posterior))
        self.alone = []
        for colour in range(len(COLOURS)):
            parts = map_bands(self._log_probs, posterior, colour, nothing)
            self.alone.append(torch.cat(parts, 1) if parts else None)

    def _log_probs(self, _, hidden):
        return self.head.count_factor(hidden).log_probs

    def __call__(self, n_draws=1, *, generator=None) -> TileCatalog:
        """Draw n catalogues of each image: ``(n B)``, one draw after the other."""
        catalog = _empty(self.posterior, n_draws)
        for (i, j), alone in zip(COLOURS, self.alone, strict=True):
            if alone is None:
                continue
            log_probs = alone.repeat(n_draws, 1, 1, 1)
            at, hidden = self._near_sources(catalog, i, j)
            log_probs[at] = self.head.count_factor(hidden).log_probs
            count = CountFactor(log_probs).sample(generator=generator)
            catalog.count[:, i::2, j::2] = count
            number = torch.full_like(count, -1)
            number[at] = torch.arange(len(hidden), device=number.device)
            for place in range(self.head.n_most):
                images, rows, columns = where = (count > place).nonzero(as_tuple=True)
                if len(images):
                    tiles = images, 2 * rows + i, 2 * columns + j
                    given = tiles, number[where], hidden, catalog
                    self._chain(place, *given).fill(catalog, generator=generator)
        return catalog

    def _near_sources(self, catalog, i, j):
        """Tiles of a colour around which a source is, and their hidden layer."""
        filled = (catalog.count > 0).to(catalog.x)
        around = F.max_pool2d(F.pad(filled, (1, 1, 1, 1))[:, i:, j:], 3, stride=2)
        images, rows, columns = at = around.nonzero(as_tuple=True)
        code = self.head.encode_sources(catalog).movedim(1, -1)
        tiles = images, 2 * rows + i, 2 * columns + j
        near, inside, known = self.grid.around(tiles)
        tiles = images % len(self.posterior), *tiles[1:]
        code = code[near] * inside[..., None]
        return at, self.posterior.hidden_at(tiles, code, known)

    def _chain(self, place, tiles, number, hidden, catalog):
        """Chain of the sources of tiles, those without others around computed once."""
        (n_rows, n_columns), head = self.grid.shape, self.head
        of_images = tiles[0] % len(self.posterior), *tiles[1:]
        every, count = torch.arange(len(number)).to(number), catalog.count[tiles]
        key = (of_images[0] * n_rows + tiles[1]) * n_columns + tiles[2]
        key = key * (head.n_most + 1) + count
        # Others are drawn given what is around them, or given the source before.
        same = (number < 0) & (place == 0)
        key, of_row = torch.where(same, key, -1 - every).unique(return_inverse=True)
        first = torch.empty_like(key).scatter_(0, of_row, every)
        some, number = tuple(part[first] for part in of_images), number[first]
        alone, near = (which.nonzero()[:, 0] for which in (number < 0, number >= 0))
        own = tuple(part[alone] for part in some)
        _, inside, known = self.grid.around(own)
        n_code = head.codes_per_source * head.n_most
        value = hidden.new_empty(len(number), hidden.shape[1])
        code = value.new_zeros(*inside.shape, n_code)
        value[alone] = self.posterior.hidden_at(own, code, known)
        value[near] = hidden[number[near]]
        given, at = (value, count[first], catalog), tuple(part[first] for part in tiles)
        chain = self.posterior.source_chain(place, some, *given, at=at)
        return chain.take(of_row, at=tiles)
