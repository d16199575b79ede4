# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The four-colour sweep over the tiles of a posterior: greedy decisions, or draws.

Most tiles have no source around them, whatever is drawn. The distributions of their
counts, and fits of what they may hold, are computed once, in one batch for all colours.
"""

import torch
from torch.nn import functional as F

from bliss_astro._threads import map_threads, split_work

from ._factors import CountFactor
from ._grid import COLOURS, TileCatalog, joined

# Largest number of sources that are measured: that many and as many a pixel, above
# the largest density that encoders of stars and galaxies are trained on (0.03).
_MAX_SOURCES = 500, 0.04
# Tiles that are worked on at once: few enough for the caches of a processor, and as few
# pieces as memory allows elsewhere.
_BAND, _WIDE_BAND = 3072, 500_000


def most_probable(candidate, probability, n_pixels):
    """Candidates, or of images of so many pixels with too many the more probable."""
    most = int(_MAX_SOURCES[0] + _MAX_SOURCES[1] * n_pixels)
    if candidate[0].numel() <= most:
        return candidate
    out = candidate
    for image in (candidate.flatten(1).sum(1) > most).nonzero()[:, 0].tolist():
        out = candidate.clone() if out is candidate else out
        rank = torch.where(candidate[image], probability[image], -1.0).flatten()
        out[image] = False
        out[image].view(-1)[rank.topk(most).indices] = True
    return out


def map_rows(function, posterior):
    """
    Results ``(B, rows, columns, ...)`` of a function of the context of tiles.

    Its arguments are a slice of rows and their context, which bounds the memory.
    """
    every, (n_rows, n_columns) = slice(None), posterior.grid.shape
    band = _BAND if posterior.device.type == 'cpu' else _WIDE_BAND
    step = max(1, band // (len(posterior) * n_columns))

    def run(first):
        rows = slice(first, min(first + step, n_rows))
        return function(rows, posterior.context_at(every, rows, every))

    return torch.cat(map_threads(run, range(0, n_rows, step)), 1)


def _kinds(n):
    """Rows of tiles that stand for all n of them, and which one does for each."""
    index = torch.arange(n)
    inner = (index > 0) & (index < n - 1)
    return torch.where(inner, 2 - index % 2, index).unique(return_inverse=True)


def _full_grid(tiles, colour):
    """Tiles of a colour, of all colours by number."""
    return tiles[0], 2 * tiles[1] + colour[0], 2 * tiles[2] + colour[1]


class Sweep:
    """
    Greedy sweep and draws of the catalogues of B images.

    Parameters
    ----------
    posterior : `TilePosterior`
        Their posterior.

    threshold : float, optional
        Threshold of the greedy sweep, as for `TilePosterior.mode`.

    least : float, optional
        Least probability of a source that is fitted before the sweep.
    """

    def __init__(self, posterior, threshold=0.5, least=0.12):
        self.posterior, self.head, self.grid = posterior, posterior.head, posterior.grid
        self.threshold = threshold
        # Given no sources around, what is known depends on colour and border alone.
        kinds, (rows, columns) = zip(*map(_kinds, self.grid.shape), strict=True)
        tiles = torch.cartesian_prod(*kinds).to(posterior.device).unbind(1)
        _, _, known = self.grid.around((tiles[0], *tiles))
        near = self.head.from_known(known).unflatten(0, [*map(len, kinds)])

        def log_probs(own, context):
            context = context + near[rows[own, None], columns].movedim(-1, 0)
            return self.head.count_factor(self.head.hidden_alone(context)).log_probs

        n_rows, n_columns = self.grid.shape
        self.colours = [(i, j) for i, j in COLOURS if i < n_rows and j < n_columns]
        # Distributions of counts, and the most probable sources with their fits.
        self.log_probs = map_rows(log_probs, posterior)
        factor = CountFactor(self.log_probs)
        count, chance = factor.mode(threshold), factor.presence
        likely = self._most_probable(chance > least, chance)
        tiles = likely.nonzero(as_tuple=True)
        # Where a source is likely around, one is fitted given that.
        near, _, known = self.grid.around(tiles)
        alone = ((count[near] == 0) | ~known).all(1).nonzero()[:, 0]
        tiles = tuple(part[alone] for part in tiles)
        self.alone, code = self._empty()
        self.alone.count[tiles] = count[tiles].clamp(min=1)
        # Fits by place; for each tile the row of its fit, and its number of sources.
        self.fits = [[] for _ in range(self.head.n_most)]
        self.where = [torch.full_like(self.alone.count, -1) for _ in self.fits]
        self.count = self.alone.count.clone()
        self._fit(self.alone, code, tiles)

    def _most_probable(self, candidate, probability):
        if not self.head.galaxies:
            return candidate
        n_pixels = self.posterior.inputs.image[0, 0].numel() / len(COLOURS)
        return most_probable(candidate, probability, n_pixels)

    def _empty(self, n_draws=1):
        """Catalogues of no sources, and their codes ``(n B, rows, columns, C K)``."""
        catalog = TileCatalog.empty(
            *(n_draws * len(self.posterior), self.grid.shape, self.head.n_most),
            **self.posterior.sizes,
            device=self.posterior.device,
        )
        n_code = self.head.codes_per_source * self.head.n_most
        return catalog, catalog.x.new_zeros(*catalog.count.shape, n_code)

    def _hidden(self, tiles, code):
        """Hidden layer ``(N, width)`` of tiles of catalogues."""
        near, _, known = self.grid.around(tiles)
        tiles = tiles[0] % len(self.posterior), *tiles[1:]
        return self.posterior.hidden_at(tiles, code[near], known)

    def _fit(self, catalog, code, tiles):
        """Fit sources of tiles, and put their most probable values into a catalogue."""
        count = catalog.count[tiles]
        self.count[tiles] = count
        for place, fits in enumerate(self.fits):
            some = tuple(part[count > place] for part in tiles)
            row = torch.arange(len(some[0]), device=count.device)
            if len(row) == 0:
                return

            def fit(index, place=place, some=some):
                own = tuple(part[index] for part in some)
                given = self._hidden(own, code), catalog.count[own], catalog
                chain = self.posterior.source_chain(place, own, *given)
                chain.fill(catalog, mode=True)
                names = chain.fit.keys() - {'patches', 'log_floor'}
                return {name: chain.fit[name] for name in names}

            self.where[place][some] = row + sum(len(fit['x']) for fit in fits)
            fits += map_threads(fit, split_work(len(row), _BAND, row.device))

    def _visit(self, colour, code, log_probs):
        """
        Update the distributions of a colour's counts, given codes of earlier ones.

        Returns its tiles, and which of all tiles have a source around.
        """
        i, j = colour
        around = F.pad(code[..., 0], (1, 1, 1, 1))[:, i:, j:]
        around = F.max_pool2d(around, 3, stride=2).nonzero(as_tuple=True)
        near = _full_grid(around, colour)

        def run(index):
            hidden = self._hidden(tuple(part[index] for part in near), code)
            return self.head.count_factor(hidden).log_probs

        pieces = split_work(len(near[0]), _BAND, code.device)
        log_probs[near] = torch.cat(map_threads(run, pieces))
        return (slice(None), slice(i, None, 2), slice(j, None, 2)), near

    def _put_codes(self, code, catalog, tiles):
        some = catalog.at_tiles(tiles, self.head.n_most)
        code[tiles] = self.head.encode_sources(some)[..., 0, 0]

    def decide(self):
        """
        Greedy sweep.

        Returns the catalogue, distributions of its counts, and by place the fits and
        for each tile the row of its fit, or -1.
        """
        catalog, (_, code) = self.alone, self._empty()
        catalog.count.zero_()
        for colour in self.colours:
            own, near = self._visit(colour, code, self.log_probs)
            for where in self.where:
                where[near] = -1
            factor = CountFactor(self.log_probs[own])
            count = factor.mode(self.threshold)
            count *= self._most_probable(count > 0, factor.presence)
            catalog.count[own] = count
            tiles = _full_grid(count.nonzero(as_tuple=True), colour)
            new = (self.where[0][tiles] < 0).nonzero()[:, 0]
            if len(new):
                self._fit(catalog, code, tuple(part[new] for part in tiles))
            self._put_codes(code, catalog, tiles)
        # Unused places hold zeros.
        used = torch.arange(self.head.n_most, device=code.device)
        used = used < catalog.count[..., None]
        for name in ('x', 'y', 'log_flux', 'galaxy'):
            getattr(catalog, name).mul_(used)
        for place, where in enumerate(self.where):
            # Fits depend on the number of sources.
            where[self.count != catalog.count.clamp(min=place + 1)] = -1
        pairs = zip(self.fits, self.where, strict=True)
        fits = {k: (joined(v), where) for k, (v, where) in enumerate(pairs) if v}
        return catalog, CountFactor(self.log_probs), fits

    def draw(self, n_draws=1, *, generator=None) -> TileCatalog:
        """Draw n catalogues of each image: ``(n B)``, one draw after the other."""
        catalog, code = self._empty(n_draws)
        log_probs = self.log_probs.repeat(n_draws, 1, 1, 1)
        alone = torch.ones_like(catalog.count, dtype=torch.bool)
        for colour in self.colours:
            own, near = self._visit(colour, code, log_probs)
            alone[near] = False
            count = CountFactor(log_probs[own]).sample(generator=generator)
            catalog.count[own] = count
            for place in range(self.head.n_most):
                tiles = (count > place).nonzero(as_tuple=True)
                if len(tiles[0]):
                    tiles = _full_grid(tiles, colour)
                    chain = self._chain(place, tiles, alone[tiles], catalog, code)
                    chain.fill(catalog, generator=generator)
            tiles = _full_grid(count.nonzero(as_tuple=True), colour)
            self._put_codes(code, catalog, tiles)
        return catalog

    def _chain(self, place, tiles, alone, catalog, code):
        """Chain of the sources of tiles, those without others around computed once."""
        (n_rows, n_columns), n_most = self.grid.shape, self.head.n_most
        every, count = torch.arange(len(alone)).to(alone.device), catalog.count[tiles]
        image = tiles[0] % len(self.posterior)
        key = (image * n_rows + tiles[1]) * n_columns + tiles[2]
        key = key * (n_most + 1) + count
        # Others are drawn given what is around them, or given the source before.
        alone = alone & (place == 0)
        key, of_row = torch.where(alone, key, -1 - every).unique(return_inverse=True)
        first = torch.empty_like(key).scatter_(0, of_row, every)
        at, count, alone = tuple(v[first] for v in tiles), count[first], alone[first]
        some, known = (image[first], *at[1:]), None
        if place == 0 and self.fits[0]:
            same = alone & (count == self.count[some])
            known = joined(self.fits[0]), torch.where(same, self.where[0][some], -1)
        given = self._hidden(at, code), count, catalog, known
        chain = self.posterior.source_chain(place, some, *given, at=at)
        return chain.take(of_row, at=tiles)
