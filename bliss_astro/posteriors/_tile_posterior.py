# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tile posterior: distribution over catalogues, tile by tile.
"""

import dataclasses
import functools

import torch
from torch.nn import functional as F

from bliss_astro.rendering import adaptive_moments

from ._factors import CountFactor
from ._grid import COLOURS, TileCatalog, TileGrid, joined
from ._source_parameters import COLOUR, further, of_bands, put_values, true_values
from ._source_sequence import SourceSequence
from ._star_fit import Pixels
from ._sweep import Sweep, map_rows
from ._tile_chain import WIDE_RADIUS, TileChain


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

    head : ``TileHead``
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
        self.n_bands = inputs.present.shape[1]
        self.entries = of_bands(head.entries, self.n_bands)
        self.grid = TileGrid(tuple(inputs.image.shape[2:]), tile_size)
        self._decided = None
        # Fits of the sources of the greedy sweep, by place, and where those of each
        # tile are.
        self._fits = {}
        # Whether `find_sources` is to leave out what refines.
        self.coarse = False
        widest = max(patch_radius, WIDE_RADIUS if head.galaxies else 0)
        self.patch_radius = patch_radius
        self.pixels = Pixels(inputs, self.grid, widest)
        # One copy of the image, which has a border there.
        (ny, nx), pad = self.grid.image_shape, self.pixels.pad
        image = self.pixels.image[..., pad : pad + ny, pad : pad + nx]
        self.inputs = self.pixels.inputs = dataclasses.replace(inputs, image=image)
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
            conditions = [part[images] for part in sequence.conditions]
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
            catalog, factor = self._decided
            part._decided = (
                catalog.select(images),
                CountFactor(factor.log_probs[images]),
            )
            part._fits = {k: (f, where[images]) for k, (f, where) in self._fits.items()}
        return part

    def __len__(self):
        return len(self.features)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.features.device

    @property
    def sizes(self) -> dict:
        """Numbers that a `TileCatalog` has of each source, by name."""
        return {
            'n_shape': self.head.n_shape,
            'n_further': sum(entry.dim for entry in further(self.entries)),
            'n_colour': sum(e.dim for e in self.entries if e.name == 'colour'),
        }

    def source_chain(
        self, place, tiles, hidden, count, catalog, known=None, *, at=None
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

        known, at : tuple, optional
            As for ``TileChain``.

        Returns
        -------
        chain : ``TileChain``
            Position, type, flux, colour and shape, each given those before it.
        """
        return TileChain(self, place, tiles, hidden, count, catalog, known, at)

    # -- density ---------------------------------------------------------------

    @functools.cached_property
    def _context(self):
        """Share of the features in the hidden layers, where it is needed repeatedly."""
        return self.head.context(self.features)

    def context_at(self, images, rows, columns):
        """Share of the features in the hidden layers of chosen tiles."""
        if '_context' in vars(self):
            return self._context[images, :, rows, columns]
        return self.head.context(self.features[images, :, rows, columns])

    def hidden_given(self, catalog: TileCatalog) -> torch.Tensor:
        """
        Hidden layer of all tiles given the truth in earlier colours.

        Returns a tensor ``(B, width, rows, columns)``.
        """
        code, (n_rows, n_columns) = self.head.encode_sources(catalog), self.grid.shape
        h, w = -(-n_rows // 2), -(-n_columns // 2)
        order, near = self.grid.colour(device=self.device), []
        for i, j in sorted(COLOURS):
            known = (order < COLOURS.index((i, j))).to(code)
            border = (1 - j, 2 * w + j - n_columns, 1 - i, 2 * h + i - n_rows)
            given = (F.pad(value, border) for value in (code, known))
            near.append(self.head.from_codes(*given).movedim(1, -1))
        # All colours in one map, channels last in memory.
        near = torch.stack(near).unflatten(0, (2, 2)).permute(2, 3, 0, 4, 1, 5)
        near = near.flatten(3, 4).flatten(1, 2)[:, :n_rows, :n_columns]
        return self.head.hidden_alone(self._context + near.movedim(-1, 1))

    def hidden_at(self, tiles, code, known) -> torch.Tensor:
        """
        Hidden layer ``(N, width)`` of chosen tiles.

        Parameters
        ----------
        tiles : tuple of tensor ``(N,)``
            Image, row and column of each tile.

        code, known : tensor ``(N, 9, C K)``, ``(N, 9)``
            As for ``TileHead.hidden_at``.
        """
        return self.head.hidden_at(self.context_at(*tiles), code, known)

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
        names = {p.name: None for p in self.entries if not p.auxiliary}
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
            ``colour``, ``shape``, ``ellipticity``, further parameters, ``start``
            (distance of the first guess in pixels) and ``image``, which are empty where
            the head lacks them. The ellipticity of a galaxy follows from its shape, so
            its density is no part of the sum.
        """
        catalog = catalog.with_ellipticity(self.entries, self)
        hidden = self.hidden_given(catalog)
        count = self.head.count_factor(hidden).log_prob(catalog.count)
        chains = self._chains(catalog, hidden)
        parts = [chain.log_prob_terms(catalog) for chain in chains]
        names = ('position', 'type', 'flux', 'shape', 'ellipticity', 'start')
        names += tuple(entry.name for entry in self.entries)
        none = dict.fromkeys(names, hidden.new_zeros(0))
        none['image'] = catalog.count.new_zeros(0)
        terms = {'count': count.sum((1, 2))} | none | joined(parts or [{}])
        if self.sequence is not None and not one_pass:
            terms |= self.sequence.log_prob(catalog)
        return terms

    def _chains(self, catalog, hidden):
        """Chains of the sources of catalogues by place, given hidden layers."""
        chains = []
        for place in range(self.head.n_most):
            tiles = (catalog.count > place).nonzero(as_tuple=True)
            if len(tiles[0]):
                near = hidden.movedim(1, -1)[tiles]
                given = (near, catalog.count[tiles], catalog)
                chains.append(self.source_chain(place, tiles, *given))
        if chains:
            TileChain.fit_together(chains)
        return chains

    # -- draws and point estimates ---------------------------------------------

    @torch.no_grad()
    def expected_counts(self) -> torch.Tensor:
        """
        Expected number of sources in each tile, ``(B, rows, columns)``.

        Marginals: by the chain rule those of a tile of the first colour, which hold
        for any tile, at none of the cost of a sweep.
        """

        def mean(_, context):
            return self.head.count_factor(self.head.hidden_alone(context)).mean

        return map_rows(mean, self)

    @torch.no_grad()
    def sample(self, *, n_draws=1, generator=None) -> TileCatalog:
        """
        Draw catalogues by the four-colour sweep.

        Parameters
        ----------
        n_draws : int, optional
            Number n of draws of each image.

        generator : `torch.Generator`, optional
            Source of randomness.

        Returns
        -------
        catalog : `TileCatalog`
            Of ``n B`` images, those of one draw after the other.
        """
        catalog = self._draws(n_draws, generator=generator)
        if self.sequence is not None:
            catalog = self.sequence.sample(catalog, generator=generator)
            if not self.sequence.encoders.shapes_only:
                self._draw_colours(catalog, generator)
        return catalog

    def _draw_colours(self, catalog, generator):
        """Draw the colours of catalogues anew, given their types and fluxes."""
        entries = [entry for entry in self.entries if not entry.auxiliary]
        if COLOUR.name not in {entry.name for entry in entries}:
            return
        step = len(self)
        for first in range(0, len(catalog.count), step):
            part = catalog.select(slice(first, first + step))
            for chain in self._chains(part, self.hidden_given(part)):
                at = *chain.tiles, chain.place
                given = true_values(entries, part, at)
                del given[COLOUR.name]
                drawn = chain.sample(given, generator=generator)
                put_values([COLOUR], part, at, {COLOUR.name: drawn[COLOUR.name]})

    @functools.cached_property
    def _draws(self):
        self._context  # noqa: B018 (for these and further draws)
        # What is in one draw in a hundred is in many chunks of draws.
        return Sweep(self, least=0.01).draw

    @torch.no_grad()
    def mode(self, threshold: float = 0.5) -> TileCatalog:
        """
        The greedy sweep.

        In each tile the count is the largest that is exceeded with a
        probability above ``threshold``, and sources stand at the highest
        point of their factors, given those of the earlier colours.
        """
        return Sweep(self, threshold).decide()[0]

    @torch.no_grad()
    def decided(self) -> tuple[TileCatalog, CountFactor]:
        """
        Most probable catalogue of the greedy sweep, and numbers of sources given it.

        They are computed once and kept.

        Returns
        -------
        catalog : `TileCatalog`
            As `mode` returns.

        factor : ``CountFactor``
            Distributions ``(B, rows, columns)`` of the number in each tile, given the
            decisions in earlier colours.
        """
        if self._decided is None:
            *decided, self._fits = Sweep(self).decide()
            self._decided = tuple(decided)
        return self._decided

    def known_fits(self, place, tiles):
        """Fits of tiles in the greedy sweep, as ``TileChain`` takes them, or None."""
        if place not in self._fits:
            return None
        fits, where = self._fits[place]
        return fits, where[tiles]
