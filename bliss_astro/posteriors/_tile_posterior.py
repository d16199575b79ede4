# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The distribution over catalogues of an image, tile by tile.
"""

import torch

from bliss_astro._threads import map_threads, split_work
from bliss_astro.rendering import adaptive_moments

from ._ellipse_fit import ELLIPSE_NAMES, Ellipses, ellipse_features, fit_ellipses
from ._galaxy_bank import measure_sizes
from ._grid import COLOURS, TileCatalog, TileGrid
from ._head import LOG_FLUX_CEILING
from ._pixels import Pixels
from ._shapes import ellipticity_to_vector
from ._source_sequence import SourceSequence
from ._star_fit import StarPatches, fit_star, flux_at

__all__ = ['TilePosterior']

# Half-size in pixels of the cut-outs for large galaxies, and how many of them are
# worked on at once.
_WIDE_RADIUS = 12
_PIECE = 1024
# Half-size of those on which ellipses are fitted.
_ELLIPSE_RADIUS = 9
# Largest number of sources that are measured: that many and as many a pixel, above
# the largest density that encoders of stars and galaxies are trained on (0.03).
_MOST = 500, 0.04


def _ellipses(patches, x, y, flux, floor):
    start = Ellipses.round(torch.maximum(flux, floor))
    fit = fit_ellipses(patches, start, x, y, floor)
    return ellipse_features(fit, floor)


def most_probable(candidate, probability, n_pixels):
    """
    Candidates, or where there are too many the more probable ones of them.

    Parameters
    ----------
    candidate : tensor of bool
        One a tile.

    probability : tensor
        Of the same shape.

    n_pixels : float
        Number of pixels, which bounds how many there may be.

    Returns
    -------
    candidate : tensor of bool
        Of the same shape.
    """
    most = int(_MOST[0] + _MOST[1] * n_pixels)
    if int(candidate.sum()) <= most:
        return candidate
    rank = torch.where(candidate, probability, -1.0).flatten()
    out = torch.zeros_like(candidate).flatten()
    out[rank.topk(most).indices] = True
    return out.view_as(candidate)


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
        What the encoder was told.

    head : `~bliss_astro.posteriors.StarHead`
        The conditional distributions.

    tile_size : int, optional
        Pixels.

    patch_radius : int, optional
        Half-size in pixels of the cut-outs that stars are measured on.

    sources : tuple, optional
        The `SourceEncoders` that follow detection, the conditions that they are
        told, and whether they convolve in half precision; types, fluxes and shapes
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
        self.features = features
        self.inputs = inputs
        self.head = head
        self.grid = TileGrid(tuple(inputs.image.shape[1:]), tile_size)
        self.patch_radius = patch_radius
        self._context = head.context(features)
        self._decided = None
        # Whether `find_sources` is to leave out what refines.
        self.coarse = False
        widest = max(patch_radius, _WIDE_RADIUS if head.galaxies else 0)
        self._pixels = Pixels(inputs, self.grid, widest)
        self.sequence = None
        if sources is not None:
            encoders, conditions, half = sources
            self.sequence = SourceSequence(
                encoders,
                self._pixels,
                conditions,
                features,
                half=half,
                moments=moments,
            )
        self._moments = moments

    def __len__(self):
        return len(self.features)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.features.device

    # -- measuring stars -----------------------------------------------------

    def _patches(self, tiles, x, y, radius=None) -> StarPatches:
        # x, y: pixel positions that the patches are centred on.
        radius = self.patch_radius if radius is None else radius
        return self._pixels.patches(tiles, x, y, radius)

    @torch.no_grad()
    def _fit(self, tiles, start, brighter=None):
        size = self.grid.size
        images, rows, columns = tiles
        x, y = self.grid.to_pixels(start[:, 0], start[:, 1], rows, columns)
        patches = self._patches(tiles, x, y)
        log_floor = self.inputs.at_tiles(
            self.inputs.log_flux_floor, images, rows, columns
        )[:, 0]
        for other in brighter or ():
            other_x, other_y = self.grid.to_pixels(other[0], other[1], rows, columns)
            # Of a galaxy only a point is taken out: the rest is learnt.
            flux = torch.exp(other[2] + log_floor)
            p = patches.profile(other_x, other_y)
            patches.data = patches.data - flux[:, None, None] * p
        x, y, error_x, error_y, correlation = fit_star(patches, x, y, log_floor.exp())
        flux, error, chi2 = flux_at(patches, x, y)
        floor = log_floor.exp()
        extended = {}
        if self.head.galaxies:
            names = ('told', 'size_log_flux', 'size_error', 'shifts')
            if self.head.shapes:
                names = (*names, *ELLIPSE_NAMES)
            sizes = self._sizes(tiles, patches, (x, y, flux, floor))
            extended = dict(zip(names, sizes, strict=True))
        return extended | {
            'x': ((x + 0.5) / size - columns).clamp(-1, 2),
            'y': ((y + 0.5) / size - rows).clamp(-1, 2),
            'error_x': error_x / size,
            'error_y': error_y / size,
            'correlation': correlation,
            'log_flux': torch.log((flux / floor).clamp(min=0.2)),
            'log_snr': torch.log((flux / error).clamp(min=0.5)),
            'chi2': chi2,
            'patches': patches,
            'log_floor': log_floor,
        }

    def _sizes(self, tiles, patches, at):
        # Piece by piece: large cut-outs of all candidates of a frame would take
        # more memory than all else.

        def measure(index):
            x, y, *rest = (value[index] for value in at)
            own = tuple(value[index] for value in tiles)
            far = self._patches(own, x, y, _WIDE_RADIUS)
            part = measure_sizes(patches.select(index), far, x, y, *rest)
            if self.head.shapes:
                near = self._patches(own, x, y, _ELLIPSE_RADIUS)
                part = (*part, *_ellipses(near, x, y, *rest))
            return part

        parts = map_threads(measure, split_work(len(at[0]), _PIECE, self.device))
        return [torch.cat(values) for values in zip(*parts, strict=True)]

    @torch.no_grad()
    def _photometry(self, tiles, position, fit):
        _, rows, columns = tiles
        x, y = self.grid.to_pixels(position[:, 0], position[:, 1], rows, columns)
        flux, error, chi2 = flux_at(fit['patches'], x, y)
        safe = torch.maximum(flux, 0.2 * fit['log_floor'].exp())
        return {
            'log_flux': torch.log(safe) - fit['log_floor'],
            'relative_error': (error / safe).clamp(1e-4, 5),
            'snr': flux / error,
            'chi2': chi2,
        }

    # -- factors of chosen tiles ---------------------------------------------

    def position_factor(self, place, hidden, tiles, catalog):
        """
        Position factor of the ``place``-th source in N tiles.

        Parameters
        ----------
        place : int
            0 for the brightest.

        hidden : tensor ``(N, narrow)``
            From ``head.source_hidden``.

        tiles : tuple of tensor ``(N,)``
            Image, row and column of each tile.

        catalog : `TileCatalog`
            Holds the brighter sources of the same tiles, which are taken out
            before the next one is measured.

        Returns
        -------
        factor : `PositionFactor`
            The distribution.

        start : tensor ``(N, 2)``
            The network's first guess.

        fit : dict of tensor
            What least squares made of it; `flux_factor` needs it.
        """
        start = self.head.start(place, hidden)
        brighter = [
            tuple(v[(*tiles, k)] for v in (catalog.x, catalog.y, catalog.log_flux))
            for k in range(place)
        ]
        fit = self._fit(tiles, start.detach(), brighter)
        factor = self.head.position_factor(place, hidden, start, fit, self.grid.size)
        return factor, start, fit

    def flux_factor(self, place, hidden, tiles, position, fit, high):
        """
        Log-flux factor of stars given positions ``(N, 2)`` in units of the tile.

        The other arguments are those of `position_factor`; ``high`` ends
        the range of log-fluxes.
        """
        at = self._photometry(tiles, position, fit)
        return self.head.flux_factor(place, hidden, position, fit, at, high)

    def flux_mixture(self, place, hidden, tiles, position, fit, high):
        """The same over stars and galaxies, where the head knows both."""
        at = self._photometry(tiles, position, fit)
        return self.head.flux_mixture(place, hidden, position, fit, at, high)

    def ceiling(self, like: torch.Tensor) -> torch.Tensor:
        """Upper end of the brightest source's log-flux."""
        return torch.full_like(like, LOG_FLUX_CEILING)

    # -- density ---------------------------------------------------------------

    def known_before(self, colour: int) -> torch.Tensor:
        """1 at tiles of earlier colours, else 0; ``(rows, columns)``."""
        colours = self.grid.colour(device=self.device)
        return (colours < colour).to(self.features)

    def hidden_given(self, catalog: TileCatalog) -> torch.Tensor:
        """
        Hidden layer of all tiles given the truth in earlier colours.

        Returns a tensor ``(B, width, rows, columns)``.
        """
        code = self.head.encode_sources(catalog)
        out = torch.empty_like(self._context)
        for colour, (i, j) in enumerate(COLOURS):
            out[..., i::2, j::2] = self.head.hidden(
                self._context, code, self.known_before(colour), colour
            )
        return out

    def hidden_at(self, tiles, code, known) -> torch.Tensor:
        """
        Hidden layer ``(N, width)`` of chosen tiles.

        Parameters
        ----------
        tiles : tuple of tensor ``(N,)``
            Image, row and column of each tile.

        code, known : tensor ``(N, C K, 3, 3)``, ``(N, 1, 3, 3)``
            As for `StarHead.hidden_at`.
        """
        images, rows, columns = tiles
        context = self._context[images, :, rows, columns]
        return self.head.hidden_at(context, code, known)

    def log_prob(
        self, catalog: TileCatalog, *, parts: bool = False, one_pass: bool = False
    ):
        """
        Log-density of whole catalogues.

        Parameters
        ----------
        catalog : `TileCatalog`
            One catalogue per image, sources brightest first in each tile;
            the density is that of the unordered set: ordering by flux
            names each set once, so no factor ``K!`` appears.

        parts : bool, optional
            Return the terms by kind instead of the sum over tiles.

        one_pass : bool, optional
            The density of the detection encoder alone, whatever follows.

        Returns
        -------
        log_prob : tensor ``(B,)``
            Density with respect to the tile's area for positions and to the
            natural logarithm for fluxes, and to `shape_to_vector` for shapes.
            With ``parts``, a dict of
            ``count`` ``(B,)``, ``position``, ``type``, ``flux`` and ``shape``
            (``(N,)`` tensors over sources; no types for a head that knows stars
            only, no shapes for one that does not infer them),
            ``ellipticity``, ``start`` and ``image``.  The ellipticity of a
            galaxy follows from its shape, so its density is no part of the sum.
        """
        hidden = self.hidden_given(catalog)
        count = self.head.count_factor(hidden).log_prob(catalog.count)
        names = ('position', 'type', 'flux', 'shape', 'ellipticity', 'start', 'image')
        found = {'count': count.sum((1, 2))} | {name: [] for name in names}
        code = self.head.encode_sources(catalog)
        for place in range(self.head.n_most):
            tiles = (catalog.count > place).nonzero(as_tuple=True)
            if len(tiles[0]) == 0:
                continue
            terms = self._source_terms(place, catalog, tiles, hidden, code)
            for name, value in zip(names, terms, strict=True):
                found[name].append(value)
        empty = hidden.new_zeros(0)
        for name in names:
            found[name] = torch.cat(found[name]) if found[name] else empty
        found['image'] = found['image'].long()
        if self.sequence is not None and not one_pass:
            found |= self.sequence.log_prob(catalog)
        if parts:
            return found
        per_source = found['position'] + found['flux']
        for name in ('type', 'shape'):
            if len(found[name]):
                per_source = per_source + found[name]
        return found['count'].index_add(0, found['image'], per_source)

    def _source_terms(self, place, catalog, tiles, hidden, code):
        images, rows, columns = tiles
        n_most = self.head.n_most
        # Only brighter sources of the same tile are known.
        brighter = torch.arange(n_most, device=self.device) < place
        brighter = brighter.repeat(self.head.codes_per_source)
        earlier = code[images, :, rows, columns] * brighter.to(code)
        source = self.head.source_hidden(
            place, hidden[images, :, rows, columns], catalog.count[tiles], earlier
        )
        factor, start, fit = self.position_factor(place, source, tiles, catalog)
        x, y = catalog.x[(*tiles, place)], catalog.y[(*tiles, place)]
        value = catalog.log_flux[(*tiles, place)]
        high = self.ceiling(value)
        if place:
            high = catalog.log_flux[(*tiles, place - 1)]
        position = torch.stack([x, y], -1)
        flux = self.flux_factor(place, source, tiles, position, fit, high)
        # How far the first guess is off, in pixels; trained beside the loss.
        miss = (start - position).abs().sum(-1) * self.grid.size
        value = torch.minimum(value, high - 1e-4 * (high - 0).clamp(min=1e-3))
        log_flux, log_type = flux.log_prob(value), value.new_zeros(0)
        log_shape = log_ellipticity = log_type
        if self.head.galaxies:
            galaxy = catalog.galaxy[(*tiles, place)]
            extended = self.head.extended(place, source, fit)
            log_type = self.head.type_factor(place, extended).log_prob(galaxy)
            other = self.head.galaxy_flux_factor(place, extended, fit, high)
            log_flux = torch.where(galaxy > 0, other.log_prob(value), log_flux)
            if self.head.shapes:
                factors = self.head.shape_factors(place, extended, fit, value)
                shape = catalog.shape[(*tiles, place)]
                log_shape, log_ellipticity = self._shape_terms(
                    place, factors, tiles, galaxy, shape
                )
        shapes = (log_shape, log_ellipticity)
        return factor.log_prob(x, y), log_type, log_flux, *shapes, miss, images

    def _shape_terms(self, place, factors, tiles, galaxy, shape):
        # Nothing is asked of a star's shape.
        is_galaxy = galaxy > 0
        some = torch.where(is_galaxy[:, None], shape, 0.5)
        with torch.no_grad():
            psf = self.inputs.at_tiles(self.inputs.psf, *tiles)
            values = (
                self.head.source[place]['shape'].to_vector(some),
                ellipticity_to_vector(*self._moments(psf, some)[:2]),
            )
        return [
            torch.where(is_galaxy, factor.log_prob(value), 0.0)
            for factor, value in zip(factors, values, strict=True)
        ]

    # -- draws and point estimates ---------------------------------------------

    @torch.no_grad()
    def expected_counts(self) -> torch.Tensor:
        """
        Expected number of sources in each tile, ``(B, rows, columns)``.

        Marginals: by the chain rule what a tile of the first colour is told, which
        may be asked of any tile, at none of the cost of a sweep.
        """
        return self.head.count_factor(self.head.hidden_alone(self._context)).mean

    @torch.no_grad()
    def sample(self, *, generator=None) -> TileCatalog:
        """Draw one catalogue per image by the four-colour sweep."""
        catalog = self._sweep(generator=generator)
        if self.sequence is not None:
            catalog = self.sequence.sample(catalog, generator=generator)
        return catalog

    @torch.no_grad()
    def mode(self, threshold: float = 0.5) -> TileCatalog:
        """
        The greedy sweep.

        In each tile the count is the largest that is exceeded with a
        probability above ``threshold``, and sources stand at the highest
        point of their factors, given what the earlier colours decided.
        """
        return self._sweep(threshold=threshold)

    @torch.no_grad()
    def decided(self) -> tuple[TileCatalog, torch.Tensor]:
        """
        The greedy sweep and the hidden layer given its decisions (kept).

        Returns
        -------
        catalog : `TileCatalog`
            As `mode` returns.

        hidden : tensor ``(B, width, rows, columns)``
            As `hidden_given` returns for it.
        """
        if self._decided is None:
            hidden = torch.empty_like(self._context)
            self._decided = self._sweep(threshold=0.5, keep=hidden), hidden
        return self._decided

    def _sweep(self, *, generator=None, threshold=None, keep=None) -> TileCatalog:
        catalog = TileCatalog.empty(
            len(self),
            self.grid.shape,
            self.head.n_most,
            n_shape=self.head.n_shape,
            device=self.device,
        )
        for colour, (i, j) in enumerate(COLOURS):
            code = self.head.encode_sources(catalog)
            hidden = self.head.hidden(
                self._context, code, self.known_before(colour), colour
            )
            if hidden.numel() == 0:
                continue
            if keep is not None:
                keep[..., i::2, j::2] = hidden
            factor = self.head.count_factor(hidden)
            if threshold is None:
                count = factor.sample(generator=generator)
            else:
                count = factor.mode(threshold)
                if self.head.galaxies:
                    n_pixels = self.inputs.image.numel() / len(COLOURS)
                    count = count * most_probable(count > 0, factor.presence, n_pixels)
            catalog.count[:, i::2, j::2] = count
            for place in range(self.head.n_most):
                self._draw_sources(place, catalog, colour, hidden, generator, threshold)
        return catalog

    def _draw_sources(self, place, catalog, colour, hidden, generator, threshold):
        i, j = COLOURS[colour]
        local = (catalog.count[:, i::2, j::2] > place).nonzero(as_tuple=True)
        if len(local[0]) == 0:
            return
        images, rows, columns = local
        tiles = (images, 2 * rows + i, 2 * columns + j)
        earlier = self.code_of(catalog, tiles, place)
        source = self.head.source_hidden(
            place, hidden[images, :, rows, columns], catalog.count[tiles], earlier
        )
        factor, _, fit = self.position_factor(place, source, tiles, catalog)
        if threshold is None:
            x, y = factor.sample(generator=generator)
        else:
            x, y = factor.mode()
        high = self.ceiling(x)
        if place:
            high = catalog.log_flux[(*tiles, place - 1)].clamp(min=1e-3)
        flux = self.flux_factor(
            place, source, tiles, torch.stack([x, y], -1), fit, high
        )
        value = flux.sample(generator=generator) if threshold is None else flux.mode()
        if self.head.galaxies:
            extended = self.head.extended(place, source, fit)
            kind = self.head.type_factor(place, extended)
            other = self.head.galaxy_flux_factor(place, extended, fit, high)
            if threshold is None:
                galaxy = kind.sample(generator=generator)
                bright = other.sample(generator=generator)
            else:
                galaxy, bright = kind.mode(), other.mode()
            value = torch.where(galaxy > 0, bright, value)
            catalog.galaxy[(*tiles, place)] = galaxy
            if self.head.shapes and threshold is None:
                factors = self.head.shape_factors(place, extended, fit, value)
                layers = self.head.source[place]['shape']
                shape = layers.from_vector(factors[0].sample(generator=generator))
                catalog.shape[(*tiles, place)] = shape * galaxy[:, None]
        catalog.x[(*tiles, place)] = x
        catalog.y[(*tiles, place)] = y
        catalog.log_flux[(*tiles, place)] = value

    def code_of(self, catalog, tiles, n_known):
        """Code ``(N, C K)`` of the ``n_known`` brightest sources of tiles."""
        part = TileCatalog(
            catalog.count[tiles].clamp(max=n_known)[:, None, None],
            catalog.x[tiles][:, None, None],
            catalog.y[tiles][:, None, None],
            catalog.log_flux[tiles][:, None, None],
            catalog.galaxy[tiles][:, None, None],
        )
        return self.head.encode_sources(part)[:, :, 0, 0]
