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

import torch
from torch.nn.functional import pad

from bliss_astro._threads import map_threads, split_work
from bliss_astro.psf._mixture import asinh

from ._extended_fit import (
    Ellipses,
    band_fluxes,
    ellipse_features,
    fit_ellipses,
    measure_sizes,
)
from ._factors import LOG_FLUX_CEILING, LogFluxFactor
from ._grid import TileCatalog, joined
from ._scene_fit import SceneSources, cleaned, first_guess, fit_scene, split_scenes
from ._source_encoders import StampChain
from ._source_parameters import put_values, true_values
from ._star_fit import flux_at, photometry

# Rounds of the scene's fit before types are known, and after; of draws of shapes from
# their given fluxes: a fourth moves these draws by less than 0.02 of their width in
# four of five cases.
_FIRST_ROUNDS, _FURTHER_ROUNDS, _DRAW_ROUNDS = 6, 4, 3
# Half-size of the stamps on which small sources are measured.
_NEAR = 6
# Sources of one band in one batch of a processor.
_PIECE = 512


class SourceSequence:
    """
    Distributions of types, fluxes and shapes of given positions.

    Parameters
    ----------
    posterior : `TilePosterior`
        Posterior of the images by tile.

    encoders : ``SourceEncoders``
        The trained layers.

    conditions : list of tensor ``(B, n, h, w)``
        Numbers that describe the images: maps by tile and constants, 1 x 1.

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
        """The sources of catalogues as one list; of an image there may be several."""
        place = torch.arange(catalog.x.shape[-1], device=catalog.x.device)
        where = (place < catalog.count[..., None]).nonzero(as_tuple=True)
        order = where[3].argsort(stable=True)
        where = tuple(part[order] for part in where)
        images, rows, columns, _ = where
        x, y = self.grid.to_pixels(catalog.x[where], catalog.y[where], rows, columns)
        n = len(self.inputs.image)
        sources = SceneSources(images % n, rows, columns, x, y, scenes=images)
        return sources, where

    def log_floor(self, sources):
        """Logarithm of the flux floor in units of the noise, ``(N,)``."""
        value = self.inputs.log_flux_floor
        return self.inputs.at_tiles(value, *sources.tiles)[:, 0]

    # -- inputs ----------------------------------------------------------------

    @torch.no_grad()
    def fit(self, sources, start=None, *, star_shapes=True, n_rounds=_FURTHER_ROUNDS):
        """The scene, before types are known or, from those ellipses, after."""
        floor, options = self.log_floor(sources).exp(), {'n_rounds': _FIRST_ROUNDS}
        if start is not None:
            options = {'start': start, 'n_rounds': n_rounds}
        given = self.pixels, sources, floor
        fit = fit_scene(*given, star_shapes=star_shapes, **options)
        if start is None and sources.active is not None:
            # Ghosts are no part of the scene, each fitted to what it leaves.
            ghosts = (~sources.active).nonzero()[:, 0]
            pieces = (ghosts[k] for k in self._pieces(len(ghosts)))
            parts = [self._ghosts(fit, sources, k, floor[k]) for k in pieces]
            fit.put(ghosts, Ellipses.concatenate(parts))
        return fit

    def _in_groups(self, function, sources):
        """Dict of tensors that a function returns of groups of sources, in order."""
        groups = split_scenes(self.pixels, sources)
        # A crowd that is longer than all the others has the threads inside.
        parts = [function(groups[0])] if len(groups[0]) > len(sources) / 2 else []
        parts += map_threads(function, groups[len(parts) :])
        order = torch.cat(groups).argsort()
        return {name: value[order] for name, value in joined(parts).items()}

    def start(self, sources):
        """`Ellipses` of a scene before types are known."""
        found = self._in_groups(
            lambda index: vars(self.fit(sources.select(index)).ellipses), sources
        )
        return Ellipses(**found)

    def _ghosts(self, scene, sources, index, floor):
        some = sources.select(index)
        patches, _, _ = cleaned(self.pixels, scene, sources, index)
        start = first_guess(patches, some, floor)
        own, _ = fit_ellipses(patches, start, some.x, some.y, floor)
        own = dataclasses.replace(own, flux=own.flux.clamp(min=0))
        return own.in_bands(self.pixels.n_bands)

    def see(self, fit, sources, index):
        """Inputs of the encoders for some sources."""
        some = sources.select(index)
        return self._with_features(self._measured(fit, sources, index), some)

    def _with_features(self, measured, some):
        features = self.features[some.images, :, some.rows, some.columns]
        numbers = torch.cat([measured['numbers'], features], -1)
        return measured | {'numbers': numbers}

    @torch.no_grad()
    def _measured(self, fit, sources, index):
        """Inputs without the features of detection."""
        some = sources.select(index)
        x, y, log_floor = some.x, some.y, self.log_floor(some)
        floor = log_floor.exp()
        far, others, extended = cleaned(self.pixels, fit, sources, index)
        near = far.middle(_NEAR)
        fluxes = flux_at(near, x, y)
        star = photometry(fluxes, log_floor)
        sizes = measure_sizes(near, far, x, y, fluxes[0], floor, shifts=False)
        own = fit.ellipses.select(index).in_bands(far.n_bands)
        own = fit_ellipses(far, own, x, y, floor, n_iterations=3)
        n_bands, n_good = self.pixels.n_bands, near.good.sum((-2, -1))
        seen = star | sizes | ellipse_features(own, floor, n_bands)
        seen |= band_fluxes(*fluxes[:2], n_good, n_bands)
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
            *(self.inputs.at_tiles(part, *some.tiles) for part in self.conditions),
        ]
        # Of the reference band.
        good, others, extended = (v[:, 0] for v in (far.good, others, extended))
        light = far.data[:, 0] * good
        stamps = [asinh(light), asinh(light / 30), asinh(others), asinh(extended)]
        stamps.append(1 - good)
        seen['stamps'], seen['numbers'] = torch.stack(stamps, 1), torch.cat(parts, -1)
        return seen

    def _types(self, scene, sources, index):
        seen = self.see(scene, sources, index)
        return self.encoders.type_factor(seen, half=self.half)

    def _chain(self, scene, sources, index, kind=None):
        # Of some sources, given all types.
        seen = self.see(scene, sources, index)
        return StampChain(self.encoders, seen, kind, half=self.half)

    def _given_types(self, sources, start, point, *, star_shapes=False, **options):
        typed = dataclasses.replace(sources, point=point)
        # Features of stars are inputs of types and fluxes.
        star_shapes = star_shapes or not self.encoders.shapes_only
        return self.fit(typed, start, star_shapes=star_shapes, **options), typed

    def _owners(self, values, n):
        """Indices of those of n sources that have parameters here, as galaxies do."""
        owners = [entry.owners(values) for entry in self.encoders.entries]
        if any(own is None for own in owners):
            return torch.arange(n, device=self.features.device)
        return torch.stack(owners).any(0).nonzero()[:, 0]

    def _pieces(self, n, n_bands=None):
        n_bands = n_bands or self.pixels.n_bands
        return split_work(n, _PIECE // n_bands, self.features.device)

    # -- density ---------------------------------------------------------------

    @torch.no_grad()
    def measure(self, catalog: TileCatalog):
        """
        Measurements of true sources, which the weights do not change.

        Returns those sources that have parameters here (galaxies, where these are
        shapes alone), their numbers and that of all, their values, and measurements
        with the types and, if they are inferred, without them.
        """
        catalog = catalog.with_ellipticity(self.encoders.entries, self)
        sources, where = self.sources_of(catalog)
        galaxy, blind = catalog.galaxy[where], self.fit(sources)
        scenes = [self._given_types(sources, blind.ellipses, galaxy == 0)]
        if not self.encoders.shapes_only:
            scenes.append((blind, sources))
        index = self._owners({'type': galaxy}, len(sources))
        some, at = sources.select(index), tuple(part[index] for part in where)
        high = torch.full_like(some.x, LOG_FLUX_CEILING)
        values = true_values(self.encoders.entries, catalog, at, high=high)
        given = some.images, self._pieces
        parts = [
            self.pixels.map_alike(lambda k, s=s: self._measured(*s, index[k]), *given)
            for s in scenes
        ]
        return some, (index, len(sources)), values, parts

    def log_prob(self, catalog: TileCatalog, measured=None):
        """
        Log-densities of types, fluxes and shapes given positions, ``(N,)``.

        What `measure` returns for the catalogue may be given.
        """
        some, (index, n), values, parts = measured or self.measure(catalog)
        seen, *blind = (self._with_features(part, some) for part in parts)
        kind = None
        if blind:
            kind = self.encoders.type_factor(*blind, half=self.half)
        terms = StampChain(self.encoders, seen, kind, half=self.half).log_prob(values)
        return {k: v.new_zeros(n).index_copy(0, index, v) for k, v in terms.items()}

    # -- draws -----------------------------------------------------------------

    @torch.no_grad()
    def sample(self, catalog: TileCatalog, *, generator=None) -> TileCatalog:
        """Draw types, fluxes and shapes anew, given the positions of a catalogue."""
        sources, where = self.sources_of(catalog)
        n, galaxy = len(sources), catalog.galaxy[where]
        if n == 0:
            return catalog
        entries, uniform, given = self.encoders.entries, {}, {}
        rounds = {}
        if self.encoders.shapes_only:
            # Fluxes are known, and where such a fit starts makes no difference.
            given = {'flux': catalog.log_flux[where]}
            flux = (given['flux'] + self.log_floor(sources)).exp()
            others = self.pixels.n_bands - 1
            # The fluxes of other bands begin with the first round.
            start = Ellipses.round(pad(flux[:, None], (0, others)))
            rounds = {'n_rounds': _DRAW_ROUNDS + min(others, 1)}
            # Of all sources, as numbers of further draws depend on how many are drawn.
            options = {'generator': generator, 'device': galaxy.device}
            uniform = {
                entry.name: torch.rand(n, 1 + entry.dim, **options)
                for entry in entries
                if not entry.auxiliary
            }
        else:
            blind = self.fit(sources)
            pieces = self._pieces(n)
            kinds = (self._types(blind, sources, index) for index in pieces)
            galaxy = torch.cat([kind.sample(generator=generator) for kind in kinds])
            start = blind.ellipses
        given['type'] = galaxy
        scene = self._given_types(sources, start, galaxy == 0, **rounds)
        index = self._owners(given, n)
        for own in (index[k] for k in self._pieces(len(index))):
            parts = ({k: v[own] for k, v in part.items()} for part in (given, uniform))
            values = self._chain(*scene, own).sample(*parts, generator=generator)
            put_values(entries, catalog, tuple(part[own] for part in where), values)
        return catalog.brightest_first()

    # -- marginals -------------------------------------------------------------

    @torch.no_grad()
    def describe(self, sources, draw, given=None, start=None):
        """
        Mixtures of log-fluxes, and draws of what follows them.

        Draws are made by a function of indices of sources, mixtures and chain, piece
        by piece. Types and fluxes may be given, as may be the ellipses of the scene
        before types are known.
        """

        def describe(index):
            own = (
                None if part is None else part.select(index)
                for part in (sources, start)
            )
            types = None if given is None else [part[index] for part in given]
            return self._describe(*own, types, lambda k, *seen: draw(index[k], *seen))

        found = self._in_groups(describe, sources)
        return found.pop('mixtures'), found

    def _describe(self, sources, start, given, draw):
        pieces = self._pieces(len(sources))
        if given is None:
            blind = self.fit(sources)
            kinds = map_threads(lambda k: self._types(blind, sources, k), pieces)
            log_types = torch.cat([kind.log_probs for kind in kinds])
            # The images of the first scene are not needed any more.
            start, blind = blind.ellipses, None
            point, mixtures = log_types[:, 0] > log_types[:, 1], None
        else:
            point, mixtures = given
        scene = self._given_types(sources, start, point, star_shapes=True)

        def describe(index):
            chain = self._chain(*scene, index)
            if mixtures is not None:
                flux = mixtures[index]
            else:
                factors = chain.star_flux, chain.galaxy_flux
                flux = LogFluxFactor.of_types(*factors, log_types[index]).packed()
            return {'mixtures': flux} | draw(index, flux, chain)

        return joined(map_threads(describe, pieces))
