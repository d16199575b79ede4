# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Encoders in sequence: type, flux and shape of every source, given all positions.

The design of Hansen et al. (2022): detection, then classification, then
measurement, each encoder centred on the position that the one before drew,

.. math::

    q(z \mid x) = q(\mathrm{positions} \mid x)\,
        \prod_i q(\mathrm{type}_i \mid x, \mathrm{positions})\,
        \prod_i q(\mathrm{flux}_i, \mathrm{shape}_i \mid x,
            \mathrm{positions}, \mathrm{types}) .

Every factor is trained on the truth of those before it, by the forward divergence.
"""

import dataclasses
import functools

import torch
from torch import nn

from bliss_astro._threads import map_threads, split_work
from bliss_astro.psf._mixture import asinh

from ._extended_fit import (
    N_SIZE_FEATURES,
    N_SIZES,
    Ellipses,
    ellipse_features,
    fit_ellipses,
    measure_sizes,
)
from ._factors import LOG_FLUX_CEILING, LogFluxFactor, TypeFactor
from ._grid import TileCatalog
from ._head import galaxy_flux_of_raw, star_flux_of_raw
from ._scene_fit import STAMP_RADIUS, SceneSources, cleaned, first_guess, fit_scene
from ._shape_layers import N_ELLIPSE, ShapeLayers, hidden_layers, last_layer
from ._source_chain import (
    IN_SEQUENCE,
    SourceChain,
    add_layers,
    parameters_of,
    put_values,
    true_values,
)
from ._star_fit import photometry

# Channels of a stamp: the source without its neighbours, bright and faint; what
# was taken off, and of that what is extended; bad pixels.
_N_CHANNELS = 5
# Numbers beside it: place within the pixel, and the flux of a star.
_N_OWN = 6
# Rounds of the scene's fit before types are known, and after.
_FIRST_ROUNDS, _FURTHER_ROUNDS = 6, 4
# Half-size of the stamps on which small sources are measured.
_NEAR = 6
# Sources in one batch.
_PIECE = 512


class StampEncoder(nn.Module):
    """From the stamp of a source, and numbers beside it, to features."""

    def __init__(self, n_numbers, *, width=96):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(_N_CHANNELS, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 48, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Conv2d(48, 32, 3, padding=1, stride=2),
            nn.SiLU(),
        )
        side = STAMP_RADIUS // 2 + 1
        self.flat = nn.Linear(32 * side**2, width)
        self.mix = hidden_layers(width + n_numbers, 128, width)

    def forward(self, stamps, numbers, *, half=False):
        """Features ``(N, width)``."""
        stamps = stamps.contiguous(memory_format=torch.channels_last)
        with torch.autocast(stamps.device.type, torch.bfloat16, enabled=half):
            hidden = self.convolutions(stamps)
        hidden = self.flat(hidden.flatten(1).float())
        return self.mix(torch.cat([hidden, numbers], -1))


class SourceEncoders(nn.Module):
    """
    Classification and galaxy encoders, which follow detection source by source.

    Both encoders look at the stamp of a source, centred on the pixel of its
    position, from which the light of the other sources has been taken off.
    The first says whether it is a star or a galaxy; the second, given the types of all
    sources, how bright it is and, of a galaxy, what shape it has.

    Parameters
    ----------
    n_conditions, n_features : int
        Numbers that describe the image, and features of the detection encoder.

    width, n_components : int, optional
        Width of the layers, and components M of the mixtures of fluxes.

    latent_dim : int, optional
        As for ``ShapeLayers``.

    shapes_only : bool, optional
        Leave types and fluxes to the detection encoder.

    parameters : tuple of str, optional
        Further parameters, of `PARAMETERS`.
    """

    def __init__(
        self,
        n_conditions,
        n_features,
        *,
        width=96,
        n_components=3,
        latent_dim=0,
        shapes_only=False,
        parameters=(),
    ):
        super().__init__()
        self.entries = parameters_of(
            () if shapes_only else IN_SEQUENCE,
            shapes=True,
            latent_dim=latent_dim,
            names=parameters,
        )
        self.n_components, self.shapes_only = n_components, shapes_only
        self.width = width
        n_numbers = _N_OWN + N_SIZE_FEATURES + N_ELLIPSE + n_conditions + n_features
        self.galaxy = StampEncoder(n_numbers, width=width)
        self.shape = ShapeLayers(width, latent_dim=latent_dim)
        self.further = nn.ModuleDict()
        add_layers(self.further, self.entries, width)
        if shapes_only:
            return
        self.classification = StampEncoder(n_numbers, width=width)
        self.is_galaxy = last_layer(width, 1)
        self.star_flux = last_layer(width, 3 * n_components)
        self.galaxy_flux = last_layer(width, 3 * n_components + N_SIZES + 1)

    def type_factor(self, seen, *, half=False) -> TypeFactor:
        """Distribution of the type."""
        features = self.classification(seen['stamps'], seen['numbers'], half=half)
        return TypeFactor(self.is_galaxy(features)[:, 0])

    def flux_factors(self, features, seen) -> list[LogFluxFactor]:
        """Distributions of the log-flux of stars and of galaxies."""
        log_flux, error = seen['log_flux'], seen['relative_error']
        high = torch.full_like(log_flux, LOG_FLUX_CEILING)
        # The ellipse's flux is one more guess of a galaxy's.
        guesses = torch.cat([seen['size_log_flux'], seen['ellipse_flux'][:, None]], -1)
        errors = torch.cat([seen['size_error'], seen['ellipse_error'][:, None]], -1)
        raw = self.galaxy_flux(features)
        return [
            star_flux_of_raw(self.star_flux(features), log_flux, error, high),
            galaxy_flux_of_raw(raw, guesses, errors, high, least=0.03),
        ]


class StampChain(SourceChain):
    """
    Chain of sources whose positions are given.

    Parameters
    ----------
    encoders : ``SourceEncoders``
        The trained layers.

    seen : dict of tensor
        Inputs of the encoders, given the types of all sources.

    kind : ``TypeFactor``, optional
        Distribution of the type.

    half : bool, optional
        Convolve in bfloat16.
    """

    def __init__(self, encoders, seen, kind=None, *, half=False):
        features = encoders.galaxy(seen['stamps'], seen['numbers'], half=half)
        layers = {'shape': encoders.shape, **encoders.further}
        super().__init__(encoders.entries, layers, seen | {'features': features})
        self.type = kind
        if not encoders.shapes_only:
            self.star_flux, self.galaxy_flux = encoders.flux_factors(features, seen)

    def factor(self, entry, values):
        """Distribution of a parameter, given values of those before it."""
        if entry.name in ('type', 'flux'):
            own = 'type' if entry.name == 'type' else f'{entry.of}_flux'
            return getattr(self, own)
        return super().factor(entry, values)


class SourceSequence:
    """
    Distributions of types, fluxes and shapes of given positions.

    Parameters
    ----------
    posterior : `TilePosterior`
        Posterior of the images by tile.

    encoders : ``SourceEncoders``
        The trained layers.

    conditions : tensor ``(B, n_conditions, h, w)``
        Numbers that describe the images.

    half : bool, optional
        Convolve in bfloat16.
    """

    def __init__(self, posterior, encoders, conditions, half=False):
        self.encoders, self.conditions, self.half = encoders, conditions, half
        # Detection is not trained by what follows it.
        self.features, self.moments = posterior.features.detach(), posterior.moments
        self.pixels, self.grid = posterior.pixels, posterior.grid
        self.inputs = posterior.inputs

    # -- lists of sources ----------------------------------------------------

    def sources_of(self, catalog: TileCatalog):
        """The sources of catalogues as one list."""
        place = torch.arange(catalog.x.shape[-1], device=catalog.x.device)
        where = (place < catalog.count[..., None]).nonzero(as_tuple=True)
        order = where[3].argsort(stable=True)
        where = tuple(part[order] for part in where)
        images, rows, columns, _ = where
        x, y = self.grid.to_pixels(catalog.x[where], catalog.y[where], rows, columns)
        return SceneSources(images, rows, columns, x, y), where

    def log_floor(self, sources):
        """Logarithm of the flux floor in units of the noise, ``(N,)``."""
        value = self.inputs.log_flux_floor
        return self.inputs.at_tiles(value, *sources.tiles)[:, 0]

    # -- inputs ----------------------------------------------------------------

    @torch.no_grad()
    def fit(self, sources, start=None):
        """The scene, before types are known or, with a start, after."""
        floor = self.log_floor(sources).exp()
        active = sources.active
        if active is None:
            active = torch.ones_like(sources.x, dtype=torch.bool)
        index, ghosts = (which.nonzero()[:, 0] for which in (active, ~active))
        first, n_rounds = None, _FIRST_ROUNDS
        if start is not None:
            first, n_rounds = start.ellipses.select(index), _FURTHER_ROUNDS
        part = self.pixels, sources.select(index), floor[index]
        fit = fit_scene(*part, start=first, n_rounds=n_rounds)
        # Ghosts are no part of the scene, each fitted to what it leaves.
        if start is not None:
            parts = [start.ellipses.select(ghosts)]
        else:
            empty = Ellipses.round(torch.zeros_like(sources.x))
            left = dataclasses.replace(fit, ellipses=empty)
            pieces = ghosts.split(_PIECE)
            parts = [self._ghosts(left, sources, k, floor[k]) for k in pieces]
        ellipses = Ellipses.concatenate([fit.ellipses, *parts])
        ellipses = ellipses.select(torch.cat([index, ghosts]).argsort())
        return dataclasses.replace(fit, ellipses=ellipses)

    def _ghosts(self, scene, sources, index, floor):
        some = sources.select(index)
        patches, _, _ = cleaned(self.pixels, scene, sources, index)
        start = first_guess(patches, some, floor)
        own, _ = fit_ellipses(patches, start, some.x, some.y, floor)
        return dataclasses.replace(own, flux=own.flux.clamp(min=0))

    @torch.no_grad()
    def see(self, fit, sources, index):
        """Inputs of the encoders for some sources."""
        some = sources.select(index)
        x, y, log_floor = some.x, some.y, self.log_floor(some)
        floor = log_floor.exp()
        far, others, extended = cleaned(self.pixels, fit, sources, index)
        middle = far.data.shape[-1] // 2
        cut = (..., *2 * [slice(middle - _NEAR, middle + _NEAR + 1)])
        near = dataclasses.replace(far, data=far.data[cut], good=far.good[cut])
        star = photometry(near, x, y, log_floor)
        sizes = measure_sizes(near, far, x, y, star['flux'], floor)
        own = fit.ellipses.select(index)
        own = fit_ellipses(far, own, x, y, floor, n_iterations=3)
        seen = star | sizes | ellipse_features(own, floor)
        numbers = [
            x - far.x,
            y - far.y,
            seen['log_flux'] / 4,
            torch.log(seen['relative_error']),
            seen['snr'].clamp(-3, 30) / 10,
            torch.log1p(seen['chi2']),
        ]
        parts = [
            torch.stack(numbers, -1),
            seen['sizes'],
            seen['ellipse'],
            self.inputs.at_tiles(self.conditions, *some.tiles),
            self.features[some.images, :, some.rows, some.columns],
        ]
        stamps = [
            asinh(far.data * far.good),
            asinh(far.data * far.good / 30),
            asinh(others),
            asinh(extended),
            1 - far.good,
        ]
        seen['stamps'], seen['numbers'] = torch.stack(stamps, 1), torch.cat(parts, -1)
        return seen

    def _types(self, scene, sources, index):
        seen = self.see(scene, sources, index)
        return self.encoders.type_factor(seen, half=self.half)

    def _chain(self, scene, sources, index, kind=None):
        # Of some sources, given all types.
        seen = self.see(scene, sources, index)
        return StampChain(self.encoders, seen, kind, half=self.half)

    def _given_types(self, sources, blind, point):
        typed = dataclasses.replace(sources, point=point)
        return self.fit(typed, blind), typed

    def _pieces(self, sources):
        return split_work(len(sources), _PIECE, sources.x.device)

    # -- density ---------------------------------------------------------------

    def log_prob(self, catalog: TileCatalog):
        """Log-densities of types, fluxes and shapes given positions, ``(N,)``."""
        sources, where = self.sources_of(catalog)
        inputs, blind = self.inputs, self.fit(sources)
        psf = inputs.at_tiles(inputs.psf, *sources.tiles)
        values = true_values(
            self.encoders.entries,
            catalog,
            where,
            high=torch.full_like(sources.x, LOG_FLUX_CEILING),
            moments=functools.partial(self.moments, psf),
        )
        index = torch.arange(len(sources), device=sources.x.device)
        scene = self._given_types(sources, blind, values['type'] == 0)
        kind = None
        if not self.encoders.shapes_only:
            kind = self._types(blind, sources, index)
        return self._chain(*scene, index, kind).log_prob(values)

    # -- draws -----------------------------------------------------------------

    @torch.no_grad()
    def sample(self, catalog: TileCatalog, *, generator=None) -> TileCatalog:
        """Draw types, fluxes and shapes anew, given the positions of a catalogue."""
        sources, where = self.sources_of(catalog)
        if len(sources) == 0:
            return catalog
        blind, pieces = self.fit(sources), self._pieces(sources)
        galaxy, shapes_only = catalog.galaxy[where], self.encoders.shapes_only
        if not shapes_only:
            kinds = (self._types(blind, sources, index) for index in pieces)
            galaxy = torch.cat([kind.sample(generator=generator) for kind in kinds])
        scene = self._given_types(sources, blind, galaxy == 0)
        for index in pieces:
            at, given = tuple(part[index] for part in where), {'type': galaxy[index]}
            if shapes_only:
                given['flux'] = catalog.log_flux[at]
            values = self._chain(*scene, index).sample(given, generator=generator)
            put_values(self.encoders.entries, catalog, at, values)
        return catalog.brightest_first()

    # -- marginals -------------------------------------------------------------

    @torch.no_grad()
    def describe(self, sources, given=None, blind=None):
        """
        Mixtures of log-fluxes, and chains to draw what follows them.

        Types and fluxes may be given, as may be the scene before types are known.
        Returns indices, mixtures and chain of sources, piece by piece.
        """
        blind = self.fit(sources) if blind is None else blind
        pieces = self._pieces(sources)
        if given is None:
            kinds = map_threads(lambda k: self._types(blind, sources, k), pieces)
            log_types = torch.cat([kind.log_probs for kind in kinds])
            point, mixtures = log_types[:, 0] > log_types[:, 1], None
        else:
            point, mixtures = given
        scene = self._given_types(sources, blind, point)

        def describe(index):
            chain = self._chain(*scene, index)
            if mixtures is not None:
                return mixtures[index], chain
            factors = chain.star_flux, chain.galaxy_flux
            return LogFluxFactor.of_types(*factors, log_types[index]).packed(), chain

        return map_threads(lambda index: (index, *describe(index)), pieces)
