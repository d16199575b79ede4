# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tile posterior: distribution over catalogues, tile by tile.
"""

import torch

from bliss_astro.rendering import adaptive_moments

from ._grid import COLOURS, TileCatalog, TileGrid, joined
from ._source_chain import further
from ._source_sequence import SourceSequence
from ._star_fit import Pixels
from ._tile_chain import WIDE_RADIUS, TileChain

# Largest number of sources that are measured: that many and as many a pixel, above
# the largest density that encoders of stars and galaxies are trained on (0.03).
_MAX_SOURCES = 500, 0.04


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


class TilePosterior:
    r"""
    Posterior of the catalogue of each of B images.

    Tiles are visited in four colours, so that tiles of one colour do not
    touch along an edge, and each tile sees what the earlier colours drew
    among its eight neighbours:

    .. math::

        q(z \mid x) = \prod_{c=1}^{4} \prod_{t \in c}
            q(z_t \mid x, \{z_s : s \sim t, \mathrm{colour}(s) < c\}).

    A source on the border of two tiles is thus found in one of them.

    Parameters
    ----------
    features : tensor ``(B, C, rows, columns)``
        Context features.

    inputs : `~bliss_astro.encoders.EncoderInputs`
        Inputs of the encoder.

    head : ``StarHead``
        The conditional distributions.

    tile_size : int, optional
        Pixels.

    patch_radius : int, optional
        Half-size in pixels of the cut-outs that stars are measured on.

    sources : tuple, optional
        The ``SourceEncoders`` that follow detection, the conditions that are their
        inputs, and whether they convolve in half precision; types, fluxes and shapes
        are theirs then.

    moments : callable, optional
        Adaptive moments ``(e1, e2, size)`` of PSFs and shapes, by default those of
        `~bliss_astro.rendering.adaptive_moments`.
    """

    def __init__(
        self,
        features,
        inputs,
        head,
        *,
        tile_size=4,
        patch_radius=6,
        sources=None,
        moments=adaptive_moments,
    ):
        self.features, self.inputs, self.head = features, inputs, head
        self.grid = TileGrid(tuple(inputs.image.shape[1:]), tile_size)
        self._context = head.context(features)
        self._decided = None
        # Fits of the sources of the greedy sweep, by place, and where those of each
        # tile are.
        self._fits = {}
        # Whether `find_sources` is to leave out what refines.
        self.coarse = False
        widest = max(patch_radius, WIDE_RADIUS if head.galaxies else 0)
        self.patch_radius = patch_radius
        self.pixels = Pixels(inputs, self.grid, widest)
        self.moments = moments
        self.sequence = None if sources is None else SourceSequence(self, *sources)

    def select(self, images) -> 'TilePosterior':
        """
        Posterior of some of the images, with what was decided of them.

        Parameters
        ----------
        images : list of int
            Their indices.

        Returns
        -------
        posterior : `TilePosterior`
            With tensors of its own.
        """
        sequence = self.sequence
        if sequence is not None:
            conditions = sequence.conditions[images]
            sequence = sequence.encoders, conditions, sequence.half
        part = TilePosterior(
            self.features[images],
            self.inputs.select(images),
            self.head,
            tile_size=self.grid.size,
            patch_radius=self.patch_radius,
            sources=sequence,
            moments=self.moments,
        )
        if self._decided is not None:
            catalog, hidden = self._decided
            part._decided = catalog.select(images), hidden[images]
            part._fits = {k: (f, where[images]) for k, (f, where) in self._fits.items()}
        return part

    def __len__(self):
        return len(self.features)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.features.device

    def source_chain(
        self, place, tiles, hidden, count, catalog, known=None
    ) -> TileChain:
        """
        Distributions of the ``place``-th source of N tiles.

        Parameters
        ----------
        place : int
            0 for the brightest.

        tiles : tuple of tensor ``(N,)``
            Image, row and column of each tile.

        hidden : tensor ``(N, width)``
            Hidden layer of the tiles, from `hidden_at` or `hidden_given`.

        count : tensor ``(N,)``
            Number of sources in each tile.

        catalog : `TileCatalog`
            Holds the brighter sources of the same tiles, which are subtracted
            before the next one is fitted.

        known : tuple, optional
            As for ``TileChain``.

        Returns
        -------
        chain : ``TileChain``
            Position, type, flux and shape, each given those before it.
        """
        return TileChain(self, place, tiles, hidden, count, catalog, known)

    # -- density ---------------------------------------------------------------

    def _hidden_of(self, colour, code):
        """Hidden layer of the tiles of a colour, given codes of the earlier ones."""
        known = self.grid.colour(device=self.device) < colour
        return self.head.hidden(self._context, code, known.to(self._context), colour)

    def hidden_given(self, catalog: TileCatalog) -> torch.Tensor:
        """
        Hidden layer of all tiles given the truth in earlier colours.

        Returns a tensor ``(B, width, rows, columns)``.
        """
        code = self.head.encode_sources(catalog)
        out = torch.empty_like(self._context)
        for colour, (i, j) in enumerate(COLOURS):
            out[..., i::2, j::2] = self._hidden_of(colour, code)
        return out

    def hidden_at(self, tiles, code, known) -> torch.Tensor:
        """
        Hidden layer ``(N, width)`` of chosen tiles.

        Parameters
        ----------
        tiles : tuple of tensor ``(N,)``
            Image, row and column of each tile.

        code, known : tensor ``(N, 9, C K)``, ``(N, 9)``
            As for ``StarHead.hidden_at``.
        """
        images, rows, columns = tiles
        context = self._context[images, :, rows, columns]
        return self.head.hidden_at(context, code, known)

    def log_prob(self, catalog: TileCatalog) -> torch.Tensor:
        """
        Log-density of whole catalogues.

        Parameters
        ----------
        catalog : `TileCatalog`
            One catalogue per image, sources brightest first in each tile;
            the density is that of the unordered set: ordering by flux
            names each set once, so no factor ``K!`` appears.

        Returns
        -------
        log_prob : tensor ``(B,)``
            Density with respect to the tile's area for positions and to the
            natural logarithm for fluxes, and to `shape_to_vector` for shapes.
        """
        terms = self.log_prob_terms(catalog)
        names = {p.name: None for p in self.head.entries if not p.auxiliary}
        per_source = sum(terms[name] for name in names)
        return terms['count'].index_add(0, terms['image'], per_source)

    def log_prob_terms(self, catalog: TileCatalog, *, one_pass: bool = False) -> dict:
        """
        Terms of `log_prob` by parameter.

        Parameters
        ----------
        catalog : `TileCatalog`
            As for `log_prob`.

        one_pass : bool, optional
            Terms of the detection encoder alone, without those of a sequence.

        Returns
        -------
        terms : dict of tensor
            ``count`` ``(B,)``; over N sources ``position``, ``type``, ``flux``,
            ``shape``, ``ellipticity``, further parameters, ``start`` (distance of the
            first guess in pixels) and ``image``, which are empty where the head lacks
            them. The ellipticity of a galaxy follows from its shape, so its density is
            no part of the sum.
        """
        hidden = self.hidden_given(catalog)
        count = self.head.count_factor(hidden).log_prob(catalog.count)
        parts = []
        for place in range(self.head.n_most):
            tiles = (catalog.count > place).nonzero(as_tuple=True)
            if len(tiles[0]):
                near = hidden[tiles[0], :, tiles[1], tiles[2]]
                given = (near, catalog.count[tiles], catalog)
                chain = self.source_chain(place, tiles, *given)
                parts.append(chain.log_prob_terms(catalog))
        names = ('position', 'type', 'flux', 'shape', 'ellipticity', 'start')
        names += tuple(entry.name for entry in self.head.entries)
        none = dict.fromkeys(names, hidden.new_zeros(0))
        none['image'] = catalog.count.new_zeros(0)
        terms = {'count': count.sum((1, 2))} | none | joined(parts or [{}])
        if self.sequence is not None and not one_pass:
            terms |= self.sequence.log_prob(catalog)
        return terms

    # -- draws and point estimates ---------------------------------------------

    @torch.no_grad()
    def expected_counts(self) -> torch.Tensor:
        """
        Expected number of sources in each tile, ``(B, rows, columns)``.

        Marginals: by the chain rule those of a tile of the first colour, which hold
        for any tile, at none of the cost of a sweep.
        """
        return self.head.expected_counts(self._context)

    @torch.no_grad()
    def sample(self, *, generator=None) -> TileCatalog:
        """Draw one catalogue per image by the four-colour sweep."""
        catalog, _ = self._sweep(generator=generator)
        if self.sequence is not None:
            catalog = self.sequence.sample(catalog, generator=generator)
        return catalog

    @torch.no_grad()
    def mode(self, threshold: float = 0.5) -> TileCatalog:
        """
        The greedy sweep.

        In each tile the count is the largest that is exceeded with a
        probability above ``threshold``, and sources stand at the highest
        point of their factors, given those of the earlier colours.
        """
        return self._sweep(threshold=threshold)[0]

    @torch.no_grad()
    def decided(self) -> tuple[TileCatalog, torch.Tensor]:
        """
        Most probable catalogue of the greedy sweep, and the hidden layer given it.

        They are computed once and kept.

        Returns
        -------
        catalog : `TileCatalog`
            As `mode` returns.

        hidden : tensor ``(B, width, rows, columns)``
            As `hidden_given` returns for it.
        """
        if self._decided is None:
            found = {}
            self._decided = self._sweep(threshold=0.5, fits=found)
            for place, parts in found.items():
                tiles, fits = zip(*parts, strict=True)
                where = self._decided[0].count.new_full(
                    (len(self), *self.grid.shape), -1
                )
                tiles = tuple(torch.cat(part) for part in zip(*tiles, strict=True))
                where[tiles] = torch.arange(len(tiles[0]), device=self.device)
                self._fits[place] = joined(fits), where
        return self._decided

    def known_fits(self, place, tiles):
        """Fits of tiles in the greedy sweep, as ``TileChain`` takes them, or None."""
        if place not in self._fits:
            return None
        fits, where = self._fits[place]
        return fits, where[tiles]

    def _sweep(self, *, generator=None, threshold=None, fits=None):
        """
        Catalogue of draws or decisions, and the hidden layer given it.

        Fits are added to ``fits``, by place.
        """
        head, hidden_of_all = self.head, torch.empty_like(self._context)
        catalog = TileCatalog.empty(
            *(len(self), self.grid.shape, head.n_most),
            n_shape=head.n_shape,
            n_further=sum(entry.dim for entry in further(head.entries)),
            device=self.device,
        )
        for colour, (i, j) in enumerate(COLOURS):
            hidden = self._hidden_of(colour, head.encode_sources(catalog))
            if hidden.numel() == 0:
                continue
            hidden_of_all[..., i::2, j::2] = hidden
            factor = head.count_factor(hidden)
            if threshold is None:
                count = factor.sample(generator=generator)
            else:
                count = factor.mode(threshold)
                if head.galaxies:
                    n_pixels = self.inputs.image[0].numel() / len(COLOURS)
                    count = count * most_probable(count > 0, factor.presence, n_pixels)
            catalog.count[:, i::2, j::2] = count
            for place in range(head.n_most):
                images, rows, columns = (count > place).nonzero(as_tuple=True)
                if len(images) == 0:
                    continue
                tiles = (images, 2 * rows + i, 2 * columns + j)
                given = (hidden[images, :, rows, columns], catalog.count[tiles])
                chain = self.source_chain(place, tiles, *given, catalog)
                chain.fill(catalog, generator=generator, mode=threshold is not None)
                if fits is not None:
                    names = chain.fit.keys() - {'patches', 'log_floor'}
                    fits.setdefault(place, []).append(
                        (tiles, {k: chain.fit[k] for k in names})
                    )
        return catalog, hidden_of_all
