# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Chain of the parameters of a tile's sources, with least-squares fits as inputs.
"""

import copy
import functools

import torch

from bliss_astro._threads import split_pixels

from ._colours import colour_inputs
from ._extended_fit import (
    Ellipses,
    band_fluxes,
    ellipse_features,
    fit_ellipses,
    fluxes_in_crowds,
    measure_sizes,
)
from ._factors import LOG_FLUX_CEILING, LogFluxFactor
from ._grid import joined
from ._shape_layers import SHAPE_INPUTS
from ._source_chain import SourceChain
from ._source_parameters import put_values, true_values
from ._star_fit import StarPatches, fit_star, flux_at, linear_fluxes, photometry

# Half-size in pixels of the cut-outs for large galaxies, and of those that ellipses are
# fitted to.
WIDE_RADIUS, _ELLIPSE_RADIUS = 12, 9
# A source is fainter than a brighter one of its tile, by this in the logarithm of the
# flux, so that the range of its flux is not empty.
_LEAST_RANGE = 1e-3
# Fits that the flux of a star at any position depends on.
_FLUX_INPUTS = ('x', 'y', 'error_x', 'error_y', 'log_flux', 'log_snr', 'log_floor')


class TileChain(SourceChain):
    """
    Distributions of the parameters of one source in each of N tiles.

    Parameters
    ----------
    posterior : `TilePosterior`
        Posterior of B fields.

    place : int
        0 for the brightest source of a tile.

    tiles : tuple of tensor ``(N,)``
        Image, row and column of each tile.

    hidden : tensor ``(N, width)``
        Hidden layer of the tiles.

    count : tensor ``(N,)``
        Number of sources in each tile.

    catalog : `~bliss_astro.posteriors.TileCatalog`
        Holds the brighter sources of the same tiles.

    known : tuple, optional
        What `fit` holds of some of the tiles, and for each tile where, or -1.

    at : tuple of tensor ``(N,)``, optional
        Index of a catalogue, row and column, where the first is not that of an image.
    """

    def __init__(
        self, posterior, place, tiles, hidden, count, catalog, known=None, at=None
    ):
        self.posterior, self.head, self.grid = posterior, posterior.head, posterior.grid
        self.entries, self.layers = posterior.entries, self.head.source[place]
        self.place, self.tiles, self.at = place, tiles, tiles if at is None else at
        earlier = catalog.at_tiles(self.at, place)
        earlier = self.head.encode_sources(earlier)[:, :, 0, 0]
        self.hidden = self.head.source_hidden(place, hidden, count, earlier)
        self.start = self.head.start(place, self.hidden)
        brighter = [
            tuple(v[(*self.at, k)] for v in (catalog.x, catalog.y, catalog.log_flux))
            for k in range(place)
        ]
        self._given, self._known = self._cut_out(brighter), known
        if place:
            self.high = brighter[-1][2].clamp(min=_LEAST_RANGE)
        else:
            self.high = torch.full_like(self.hidden[:, 0], LOG_FLUX_CEILING)

    @torch.no_grad()
    def _cut_out(self, brighter):
        """Tiles, cut-outs and first guesses of the fits, and flux floors."""
        inputs, (rows, columns) = self.posterior.inputs, self.tiles[1:]
        x, y = self.grid.to_pixels(*self.start.detach().unbind(-1), rows, columns)
        radius = self.posterior.patch_radius
        patches = self.posterior.pixels.patches(self.tiles, x, y, radius)
        log_floor = inputs.at_tiles(inputs.log_flux_floor, *self.tiles)[:, 0]
        # Galaxies are subtracted as points: the rest is learnt.
        profiles = [
            patches.profile(*self.grid.to_pixels(*at, rows, columns))
            for *at, _ in brighter
        ]
        fluxes = [torch.exp(log_flux + log_floor)[:, None] for *_, log_flux in brighter]
        if brighter and patches.n_bands > 1:
            # Given is that of the reference band, the rest as they fit beside this one.
            own = [*profiles, patches.profile(x, y)]
            other = linear_fluxes(patches, torch.stack(own, 2))[:, 1:, :-1].unbind(-1)
            fluxes = [torch.cat(pair, 1) for pair in zip(fluxes, other, strict=True)]
        for profile, flux in zip(profiles, fluxes, strict=True):
            patches.data = patches.data - flux[..., None, None] * profile
        return (self.tiles, patches, x, y), log_floor

    @functools.cached_property
    def fit(self):
        """Least-squares fits, which are inputs of the factors."""
        (given, log_floor), known = self._given, self._known
        given = *given, log_floor.exp()
        if known is None:
            fit = self._fit_tiles(*given)
        else:
            old, where = known
            new = (where < 0).nonzero()[:, 0]
            fit = {name: value[where] for name, value in old.items()}
            if len(new):
                tiles, patches, *rest = given
                some = tuple(v[new] for v in tiles), patches.select(new)
                fresh = self._fit_tiles(*some, *(value[new] for value in rest))
                for name, value in fresh.items():
                    fit[name][new] = value
        return fit | {'patches': self._given[0][1].reference, 'log_floor': log_floor}

    @staticmethod
    def fit_together(chains):
        """Fit the sources of several chains, in fewer operations than one by one."""
        tiles, patches, x, y = zip(*(chain._given[0] for chain in chains), strict=True)
        floors = [chain._given[1] for chain in chains]
        tiles = tuple(torch.cat(part) for part in zip(*tiles, strict=True))
        given = tiles, StarPatches.concatenate(patches), *map(torch.cat, (x, y, floors))
        fit = chains[0]._fit_tiles(*given[:-1], given[-1].exp())
        parts = [value.split([len(f) for f in floors]) for value in fit.values()]
        for k, chain in enumerate(chains):
            own = dict(zip(fit, (part[k] for part in parts), strict=True))
            chain.fit = own | {'patches': patches[k].reference, 'log_floor': floors[k]}

    @torch.no_grad()
    def _fit_tiles(self, tiles, patches, x, y, floor):
        pixels, radius = self.posterior.pixels, patches.data.shape[-1] // 2

        def fit(index):
            own, at = tuple(v[index] for v in tiles), (x[index], y[index])
            some = patches.select(index).in_bands(pixels.last_of(own[0]))
            return self._fit_piece(own, some, *at, floor[index])

        n_pixels = (2 * max(radius, self.head.galaxies * _ELLIPSE_RADIUS) + 1) ** 2

        def split(n, n_bands):
            return split_pixels(n, n_pixels * n_bands, x.device)

        return pixels.map_alike(fit, tiles[0], split)

    def _fit_piece(self, tiles, patches, x, y, floor):
        """Fits of stars, and of blurred PSFs and ellipses where there are galaxies."""
        size, (images, rows, columns) = self.grid.size, tiles
        x, y, error_x, error_y, correlation = fit_star(patches, x, y, floor)
        fluxes, errors, chi2 = flux_at(patches, x, y)
        flux, error = fluxes[:, 0], errors[:, 0]
        fit = {
            'x': ((x + 0.5) / size - columns).clamp(-1, 2),
            'y': ((y + 0.5) / size - rows).clamp(-1, 2),
            'error_x': error_x / size,
            'error_y': error_y / size,
            'correlation': correlation,
            'log_flux': torch.log((flux / floor).clamp(min=0.2)),
            'log_snr': torch.log((flux / error).clamp(min=0.5)),
            'chi2': chi2[:, 0],
        }
        pixels = self.posterior.pixels
        own = fluxes, errors
        if not self.head.galaxies and pixels.n_bands > 1:
            # Without galaxies neighbours have no end, and the sky is uncertain.
            own = fluxes_in_crowds(patches, x, y, fluxes)
        fit |= band_fluxes(*own, patches.good.sum((-2, -1)), pixels.n_bands)
        if self.head.galaxies:
            far = pixels.elsewhere(patches, images, x, y, WIDE_RADIUS)
            fit |= measure_sizes(patches, far, x, y, fluxes, floor)
        if self.head.shapes:
            near, least = far.middle(_ELLIPSE_RADIUS), far.of_bands(floor)
            start = torch.maximum(fluxes, least)
            ellipse = fit_ellipses(near, Ellipses.round(start), x, y, floor)
            fit |= ellipse_features(ellipse, floor, pixels.n_bands)
        return fit

    def followed_by(self, other):
        """The chain with that of other tiles in further rows."""
        part = copy.copy(self)
        for name in ('position', 'extended', 'type', 'galaxy_flux', 'flux_hidden'):
            vars(part).pop(name, None)
        pairs = zip(self.tiles, other.tiles, strict=True)
        part.tiles = tuple(torch.cat(pair) for pair in pairs)
        for name in ('hidden', 'start', 'high'):
            own = getattr(self, name), getattr(other, name)
            setattr(part, name, torch.cat(own))
        fits = dict(self.fit), dict(other.fit)
        patches = [fit.pop('patches') for fit in fits]
        part.fit = joined(fits) | {'patches': StarPatches.concatenate(patches)}
        return part

    def packed_flux(self, row, position):
        """Mixtures ``(K, 1 + 3 M)`` of log-fluxes of rows at positions ``(K, 2)``."""
        n_pixels = self.fit['patches'].data.shape[1:].numel()
        pieces = split_pixels(len(row), n_pixels, row.device)
        chains = (self.take(row[k], fits=_FLUX_INPUTS) for k in pieces)
        pairs = zip(chains, pieces, strict=True)
        return torch.cat([chain.flux(position[k]).packed() for chain, k in pairs])

    def take(self, index, *, at=None, fits=None):
        """
        The chain of some of the tiles, repeated where an index is.

        With places ``at`` in a catalogue, or with these fits alone, for fluxes.
        """
        part = copy.copy(self)
        several = fits is None and len(index) > 2 * len(self.tiles[0])
        if several and 'colour' in self.layers and self.posterior.n_bands > 1:
            # Of both types once, rather than of the type of each draw.
            seen = self.inputs
            part.colours = self.layers['colour'](seen['features'], seen).select(index)
        elif self.colours is not None:
            part.colours = self.colours.select(index)
        part.tiles = part.at = tuple(value[index] for value in self.tiles)
        part.at = part.at if at is None else at
        names = self.fit.keys() - {'patches'} if fits is None else fits
        part.fit = {name: self.fit[name][index] for name in names}
        part.fit['patches'] = self.fit['patches'].select(index)
        names = ['flux_hidden', 'high']
        names += ['hidden', 'start', 'position'] if fits is None else []
        if self.head.galaxies:
            names += ['type', 'galaxy_flux'] + (['extended'] if fits is None else [])
        for name in names:
            value = getattr(self, name)
            own = value[index] if torch.is_tensor(value) else value.select(index)
            setattr(part, name, own)
        return part

    # -- factors in their order ----------------------------------------------

    @functools.cached_property
    def position(self):
        """Distribution of the position within its tile, a `PositionFactor`."""
        return self.head.position_factor(self.place, self.hidden, self.start, self.fit)

    def mode_in_pixels(self):
        """Most probable positions, tensor ``(2, N)``."""
        x, y = self.position.mode().unbind(-1)
        return torch.stack(self.grid.to_pixels(x, y, *self.tiles[1:]))

    def mode_in_tiles(self):
        """The same from the corners of their tiles, where pixels are not rounded."""
        return self.position.mode().T * self.grid.size

    @functools.cached_property
    def flux_hidden(self):
        """Hidden layer that fluxes at all positions share, tensor ``(N, narrow)``."""
        return self.head.flux_hidden(self.place, self.hidden)

    @functools.cached_property
    def extended(self):
        """Hidden layer for types and galaxies, tensor ``(N, narrow)``."""
        given = self.hidden, self.fit, self._colour_inputs
        return self.head.extended(self.place, *given)

    @functools.cached_property
    def type(self):
        """Distribution of the type, a `TypeFactor`."""
        return self.head.type_factor(self.place, self.extended)

    def star_flux(self, position):
        """Distribution of the log-flux of a star at positions ``(N, 2)``."""
        x, y = self.grid.to_pixels(*position.unbind(-1), *self.tiles[1:])
        at = photometry(flux_at(self.fit['patches'], x, y), self.fit['log_floor'])
        given = (self.flux_hidden, position, self.fit, at, self.high)
        return self.head.flux_factor(self.place, *given)

    @functools.cached_property
    def galaxy_flux(self):
        """Distribution of the log-flux of a galaxy."""
        given = (self.extended, self.fit, self.high)
        return self.head.galaxy_flux_factor(self.place, *given)

    def flux(self, position):
        """Distribution of the log-flux over all types, at positions ``(N, 2)``."""
        star = self.star_flux(position)
        if not self.head.galaxies:
            return star
        return LogFluxFactor.of_types(star, self.galaxy_flux, self.type.log_probs)

    # -- the chain as a whole --------------------------------------------------

    @property
    def inputs(self):
        """Inputs of what is drawn given the flux, as `SourceChain` takes them."""
        features = self.extended if self.head.galaxies else self.hidden
        fits = {name: self.fit[name] for name in SHAPE_INPUTS if name in self.fit}
        seen = {'features': features} | fits
        return seen | (self._colour_inputs or {})

    @property
    def _colour_inputs(self):
        """Inputs of the layers of colours; None where there are no colours."""
        if 'colour' in self.layers and self.posterior.n_bands > 1:
            return colour_inputs(self.posterior.inputs, self.tiles, self.fit)
        return None

    def factor(self, entry, values):
        """Distribution of a parameter, given values of those before it."""
        if entry.name == 'flux':
            star = entry.of == 'star'
            return self.star_flux(values['position']) if star else self.galaxy_flux
        if entry.name in ('position', 'type'):
            return getattr(self, entry.name)
        return super().factor(entry, values)

    def log_prob_terms(self, catalog):
        """Terms of `TilePosterior.log_prob_terms` of the sources of a catalogue."""
        at = *self.tiles, self.place
        values = true_values(self.entries, catalog, at, high=self.high)
        # Trained beside the loss.
        miss = (self.start - values['position']).abs().sum(-1) * self.grid.size
        return self.log_prob(values) | {'image': self.tiles[0], 'start': miss}

    def fill(self, catalog, *, generator=None, mode=False):
        """Draw the parameters, or take their modes, and put them into a catalogue."""
        values = self.mode() if mode else self.sample(generator=generator)
        put_values(self.entries, catalog, (*self.at, self.place), values)
