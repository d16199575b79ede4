# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The chain of a source's parameters: position, type, flux, shape.

Each is distributed given those before it; density, draws, modes and marginals of a
tile's sources all follow this one order.
"""

import functools

import torch

from bliss_astro._threads import map_threads, split_work

from ._extended_fit import (
    ELLIPSE_NAMES,
    Ellipses,
    ellipse_features,
    fit_ellipses,
    measure_sizes,
)
from ._factors import LOG_FLUX_CEILING
from ._shape_layers import shape_log_probs
from ._star_fit import fit_star, flux_at, photometry

# Half-size in pixels of the cut-outs for large galaxies, and sources in one batch.
WIDE_RADIUS = 12
_PIECE = 1024
# Half-size of the cut-outs that ellipses are fitted to.
_ELLIPSE_RADIUS = 9
# A source is fainter than a brighter one of its tile, by this in the logarithm of the
# flux, so that the range of its flux is not empty.
_LEAST_RANGE = 1e-3


class TileFits:
    """
    Least-squares fits of sources in tiles.

    Parameters
    ----------
    pixels : `Pixels`
        Images of B fields.

    head : ``StarHead``
        The conditional distributions, whose inputs fits are.

    patch_radius : int
        Half-size in pixels of the cut-outs that stars are fitted to.
    """

    def __init__(self, pixels, head, patch_radius):
        self.pixels, self.grid, self.inputs = pixels, pixels.grid, pixels.inputs
        self.head, self.patch_radius = head, patch_radius

    @torch.no_grad()
    def fit(self, tiles, start, brighter=()):
        """Fit one source in each of N tiles."""
        size = self.grid.size
        images, rows, columns = tiles
        x, y = self.grid.to_pixels(start[:, 0], start[:, 1], rows, columns)
        patches = self.pixels.patches(tiles, x, y, self.patch_radius)
        log_floor = self.inputs.at_tiles(
            self.inputs.log_flux_floor, images, rows, columns
        )[:, 0]
        floor = log_floor.exp()
        for other_x, other_y, log_flux in brighter:
            # Galaxies are subtracted as points: the rest is learnt.
            at = self.grid.to_pixels(other_x, other_y, rows, columns)
            flux = torch.exp(log_flux + log_floor)
            patches.data = patches.data - flux[:, None, None] * patches.profile(*at)
        x, y, error_x, error_y, correlation = fit_star(patches, x, y, floor)
        flux, error, chi2 = flux_at(patches, x, y)
        return self._extended(tiles, patches, (x, y, flux, floor)) | {
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

    def _extended(self, tiles, patches, at):
        """Fits of blurred PSFs and ellipses, where the head has galaxies."""
        if not self.head.galaxies:
            return {}

        # Piece by piece: large cut-outs of all candidates of a frame would take
        # more memory than all else.
        def measure(index):
            x, y, flux, floor = (value[index] for value in at)
            own = tuple(value[index] for value in tiles)
            far = self.pixels.patches(own, x, y, WIDE_RADIUS)
            part = measure_sizes(patches.select(index), far, x, y, flux, floor)
            if self.head.shapes:
                near = self.pixels.patches(own, x, y, _ELLIPSE_RADIUS)
                start = Ellipses.round(torch.maximum(flux, floor))
                fit = fit_ellipses(near, start, x, y, floor)
                part = (*part, *ellipse_features(fit, floor))
            return part

        names = ('sizes', 'size_log_flux', 'size_error', 'shifts')
        if self.head.shapes:
            names = (*names, *ELLIPSE_NAMES)
        pieces = split_work(len(at[0]), _PIECE, self.pixels.image.device)
        parts = zip(*map_threads(measure, pieces), strict=True)
        return dict(zip(names, map(torch.cat, parts), strict=True))

    @torch.no_grad()
    def photometry(self, tiles, position, fit):
        """Features of the flux of a star at positions ``(N, 2)`` in units of tiles."""
        at = self.grid.to_pixels(position[:, 0], position[:, 1], *tiles[1:])
        return photometry(fit['patches'], *at, fit['log_floor'])


class SourceChain:
    """
    Distributions of the parameters of one source in each of N tiles.

    Parameters
    ----------
    fits : `TileFits`
        Fits to the images.

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
    """

    def __init__(self, fits, place, tiles, hidden, count, catalog):
        head = self.head = fits.head
        self.fits, self.place, self.tiles = fits, place, tiles
        earlier = head.encode_sources(catalog.at_tiles(tiles, place))[:, :, 0, 0]
        self.hidden = head.source_hidden(place, hidden, count, earlier)
        self.start = head.start(place, self.hidden)
        brighter = [
            tuple(v[(*tiles, k)] for v in (catalog.x, catalog.y, catalog.log_flux))
            for k in range(place)
        ]
        self.fit = fits.fit(tiles, self.start.detach(), brighter)
        if place:
            self.high = brighter[-1][2].clamp(min=_LEAST_RANGE)
        else:
            self.high = torch.full_like(self.hidden[:, 0], LOG_FLUX_CEILING)

    def take(self, index):
        """The chain of some of the tiles, repeated where an index is."""
        part = object.__new__(SourceChain)
        vars(part).update(head=self.head, fits=self.fits, place=self.place)
        part.tiles = tuple(value[index] for value in self.tiles)
        part.fit = {
            name: value.select(index) if name == 'patches' else value[index]
            for name, value in self.fit.items()
        }
        part.hidden, part.high = self.hidden[index], self.high[index]
        return part

    # -- factors in their order ----------------------------------------------

    @functools.cached_property
    def position(self):
        """Distribution of the position within its tile, a `PositionFactor`."""
        return self.head.position_factor(
            self.place, self.hidden, self.start, self.fit, self.fits.grid.size
        )

    @functools.cached_property
    def extended(self):
        """Hidden layer for types and galaxies, tensor ``(N, narrow)``."""
        return self.head.extended(self.place, self.hidden, self.fit)

    @property
    def type(self):
        """Distribution of the type, a `TypeFactor`."""
        return self.head.type_factor(self.place, self.extended)

    def star_flux(self, position):
        """Distribution of the log-flux of a star at positions ``(N, 2)``."""
        at = self.fits.photometry(self.tiles, position, self.fit)
        return self.head.flux_factor(
            self.place, self.hidden, position, self.fit, at, self.high
        )

    @property
    def galaxy_flux(self):
        """Distribution of the log-flux of a galaxy."""
        return self.head.galaxy_flux_factor(
            self.place, self.extended, self.fit, self.high
        )

    def flux(self, position):
        """Distribution of the log-flux over both types, at positions ``(N, 2)``."""
        at = self.fits.photometry(self.tiles, position, self.fit)
        return self.head.flux_mixture(
            self.place, self.hidden, position, self.fit, at, self.high
        )

    @property
    def shape_layers(self):
        """Layers of the shape's distribution."""
        return self.head.source[self.place]['shape']

    def shape(self, log_flux):
        """Distributions of shape and ellipticity of a galaxy given its log-flux."""
        return self.shape_layers(self.extended, self.fit, log_flux)

    # -- the chain as a whole --------------------------------------------------

    def log_prob(self, catalog, moments):
        """Log-densities of the sources of a catalogue, ``(N,)``."""
        at = (*self.tiles, self.place)
        x, y, value = catalog.x[at], catalog.y[at], catalog.log_flux[at]
        position = torch.stack([x, y], -1)
        # Trained beside the loss.
        miss = (self.start - position).abs().sum(-1) * self.fits.grid.size
        least = 1e-4 * self.high.clamp(min=_LEAST_RANGE)
        value = torch.minimum(value, self.high - least)
        none = value.new_zeros(0)
        terms = dict.fromkeys(('type', 'shape', 'ellipticity'), none) | {
            'position': self.position.log_prob(x, y),
            'flux': self.star_flux(position).log_prob(value),
            'start': miss,
        }
        if not self.head.galaxies:
            return terms
        galaxy = catalog.galaxy[at]
        terms['type'] = self.type.log_prob(galaxy)
        terms['flux'] = torch.where(
            galaxy > 0, self.galaxy_flux.log_prob(value), terms['flux']
        )
        if self.head.shapes:
            inputs = self.fits.inputs
            psf = inputs.at_tiles(inputs.psf, *self.tiles)
            terms['shape'], terms['ellipticity'] = shape_log_probs(
                self.shape_layers,
                self.shape(value),
                catalog.shape[at],
                galaxy > 0,
                lambda shape: moments(psf, shape)[:2],
            )
        return terms

    def fill(self, catalog, *, generator=None, mode=False):
        """Draw the parameters, or take their modes, and put them into a catalogue."""

        def pick(factor):
            return factor.mode() if mode else factor.sample(generator=generator)

        at = (*self.tiles, self.place)
        x, y = pick(self.position)
        value = pick(self.star_flux(torch.stack([x, y], -1)))
        if self.head.galaxies:
            galaxy = pick(self.type)
            value = torch.where(galaxy > 0, pick(self.galaxy_flux), value)
            catalog.galaxy[at] = galaxy
            if self.head.shapes and not mode:
                shape = self.shape_layers.from_vector(pick(self.shape(value)[0]))
                catalog.shape[at] = shape * galaxy[:, None]
        catalog.x[at], catalog.y[at], catalog.log_flux[at] = x, y, value
