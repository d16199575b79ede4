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

from bliss_astro._threads import split_work
from bliss_astro.psf._mixture import asinh
from bliss_astro.rendering import adaptive_moments

from ._extended_fit import (
    ELLIPSE_NAMES,
    Ellipses,
    ellipse_features,
    fit_ellipses,
    measure_sizes,
)
from ._factors import LOG_FLUX_CEILING, LogFluxFactor
from ._grid import TileCatalog
from ._scene_fit import SceneFit, SceneSources, cleaned, first_guess, fit_scene
from ._shape_layers import shape_log_probs
from ._star_fit import photometry

# Rounds of the scene's fit before types are known, and after.
_FIRST_ROUNDS, _FURTHER_ROUNDS = 6, 4
# Half-size of the stamps on which small sources are measured.
_NEAR = 6
# Sources in one batch.
_PIECE = 512


class SourceSequence:
    """
    Distributions of types, fluxes and shapes of given positions.

    Parameters
    ----------
    encoders : ``SourceEncoders``
        The trained layers.

    pixels : ``Pixels``
        The images.

    conditions : tensor ``(B, n_conditions, h, w)``
        Numbers that describe them.

    features : tensor ``(B, width, rows, columns)``
        Features of the detection encoder, tile by tile.

    half : bool, optional
        Convolve in bfloat16.

    moments : callable, optional
        Adaptive moments ``(e1, e2, size)`` of PSFs and shapes, by default those of
        `~bliss_astro.rendering.adaptive_moments`.
    """

    def __init__(
        self,
        encoders,
        pixels,
        conditions,
        features,
        *,
        half=False,
        moments=adaptive_moments,
    ):
        self.encoders, self.pixels, self.half = encoders, pixels, half
        # Detection is not trained by what follows it.
        self.features = features.detach()
        self.moments = moments
        self.conditions = conditions
        self.inputs, self.grid = pixels.inputs, pixels.grid

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
        rounds = _FIRST_ROUNDS if start is None else _FURTHER_ROUNDS
        first = None if start is None else start.ellipses
        if sources.active is None:
            return fit_scene(self.pixels, sources, floor, start=first, n_rounds=rounds)
        index = sources.active.nonzero()[:, 0]
        first = None if first is None else first.select(index)
        fit = fit_scene(
            self.pixels,
            sources.select(index),
            floor[index],
            start=first,
            n_rounds=rounds,
        )
        return self._with_ghosts(fit, sources, floor, start)

    def _with_ghosts(self, fit, sources, floor, start):
        # Those that are no part of the scene, each fitted to what it leaves.
        ghost = ~sources.active
        everyone = Ellipses.round(torch.zeros_like(sources.x))
        for name in ('flux', 'log_blur', 'e1', 'e2'):
            getattr(everyone, name)[sources.active] = getattr(fit.ellipses, name)
        out = SceneFit(everyone, fit.model, fit.extended)
        ghosts = ghost.nonzero()[:, 0]
        for index in ghosts.split(_PIECE) if len(ghosts) else ():
            if start is not None:
                own = start.ellipses.select(index)
            else:
                some = sources.select(index)
                patches, _, _ = cleaned(self.pixels, out, sources, index)
                own = first_guess(patches, some, floor[index])
                own = fit_ellipses(patches, own, some.x, some.y, floor[index])
                own.flux = own.flux.clamp(min=0)
            for name in ('flux', 'log_blur', 'e1', 'e2'):
                getattr(everyone, name)[index] = getattr(own, name)
        return out

    @torch.no_grad()
    def see(self, fit, sources, index):
        """Inputs of the encoders for some sources."""
        some = sources.select(index)
        log_floor = self.log_floor(some)
        floor = log_floor.exp()
        far, others, extended = cleaned(self.pixels, fit, sources, index)
        near = _middle(far)
        x, y = some.x, some.y
        star = photometry(near, x, y, log_floor)
        sizes = measure_sizes(near, far, x, y, star['flux'], floor)
        size_features, size_log_flux, size_error, _ = sizes
        own = fit.ellipses.select(index)
        own = fit_ellipses(far, own, x, y, floor, n_iterations=3)
        ellipse = ellipse_features(own, floor)
        numbers = torch.stack(
            [
                x - far.x,
                y - far.y,
                star['log_flux'] / 4,
                torch.log(star['relative_error']),
                star['snr'].clamp(-3, 30) / 10,
                torch.log1p(star['chi2']),
            ],
            -1,
        )
        conditions = self.inputs.at_tiles(self.conditions, *some.tiles)
        context = self.features[some.images, :, some.rows, some.columns]
        stamps = [
            asinh(far.data * far.good),
            asinh(far.data * far.good / 30),
            asinh(others),
            asinh(extended),
            1 - far.good,
        ]
        return {
            'stamps': torch.stack(stamps, 1),
            'numbers': torch.cat(
                [numbers, size_features, ellipse[0], conditions, context], -1
            ),
            'size_log_flux': size_log_flux,
            'size_error': size_error,
            'log_flux': star['log_flux'],
            'relative_error': star['relative_error'],
            **dict(zip(ELLIPSE_NAMES, ellipse, strict=True)),
        }

    def _flux_factors(self, features, seen, high):
        """Distributions of the log-flux of a star and of a galaxy."""
        star = self.encoders.star_flux_factor(features, seen, high)
        return star, self.encoders.galaxy_flux_factor(features, seen, high)

    def _types(self, scene, sources, index):
        seen = self.see(scene, sources, index)
        return self.encoders.type_factor(seen, half=self.half)

    def ceiling(self, sources):
        """Upper end of the log-fluxes."""
        return torch.full_like(sources.x, LOG_FLUX_CEILING)

    def _pieces(self, sources):
        return split_work(len(sources), _PIECE, sources.x.device)

    # -- density ---------------------------------------------------------------

    def log_prob(self, catalog: TileCatalog):
        """Log-densities of types, fluxes and shapes given positions, ``(N,)``."""
        sources, where = self.sources_of(catalog)
        shapes_only = self.encoders.shapes_only
        names = ('shape', 'ellipticity')
        if not shapes_only:
            names = ('type', 'flux', *names)
        if len(sources) == 0:
            return dict.fromkeys(names, catalog.x.new_zeros(0))
        galaxy, value = catalog.galaxy[where], catalog.log_flux[where]
        index = torch.arange(len(sources), device=value.device)
        blind = self.fit(sources)
        typed = dataclasses.replace(sources, point=galaxy == 0)
        seen = self.see(self.fit(typed, blind), typed, index)
        features = self.encoders.features(seen, half=self.half)
        high = self.ceiling(sources)
        value = torch.minimum(value, high - 1e-3)
        is_galaxy = galaxy > 0
        psf = self.inputs.at_tiles(self.inputs.psf, *sources.tiles)
        values = shape_log_probs(
            self.encoders.shape,
            self.encoders.shape_factors(features, seen, value),
            catalog.shape[where],
            is_galaxy,
            lambda shape: self.moments(psf, shape)[:2],
        )
        if not shapes_only:
            kind = self._types(blind, sources, index)
            star, other = self._flux_factors(features, seen, high)
            flux = torch.where(is_galaxy, other.log_prob(value), star.log_prob(value))
            values = (kind.log_prob(galaxy), flux, *values)
        return dict(zip(names, values, strict=True))

    # -- draws -----------------------------------------------------------------

    @torch.no_grad()
    def sample(self, catalog: TileCatalog, *, generator=None) -> TileCatalog:
        """Draw types, fluxes and shapes anew, given the positions of a catalogue."""
        sources, where = self.sources_of(catalog)
        if len(sources) == 0:
            return catalog
        blind = self.fit(sources)
        galaxy, given = catalog.galaxy[where], catalog.log_flux[where]
        if not self.encoders.shapes_only:
            given = None
            galaxy = torch.cat(
                [
                    self._types(blind, sources, index).sample(generator=generator)
                    for index in self._pieces(sources)
                ]
            )
        typed = dataclasses.replace(sources, point=galaxy == 0)
        scene = self.fit(typed, blind)
        drawn = [
            self._draw(scene, typed, index, galaxy[index] > 0, generator, given)
            for index in self._pieces(sources)
        ]
        flux, shape = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        catalog.log_flux[where], catalog.galaxy[where] = flux, galaxy
        catalog.shape[where] = shape
        return catalog.brightest_first()

    def _draw(self, scene, sources, index, galaxy, generator, flux):
        seen = self.see(scene, sources, index)
        features = self.encoders.features(seen, half=self.half)
        if flux is None:
            high = self.ceiling(sources)[index]
            star, other = self._flux_factors(features, seen, high)
            drawn = [part.sample(generator=generator) for part in (other, star)]
            flux = torch.where(galaxy, *drawn)
        else:
            flux = flux[index]
        factor, _ = self.encoders.shape_factors(features, seen, flux)
        shape = self.encoders.shape.from_vector(factor.sample(generator=generator))
        return flux, shape * galaxy[:, None]

    # -- marginals -------------------------------------------------------------

    @torch.no_grad()
    def describe(self, sources, given=None, blind=None):
        """Mixtures of log-fluxes and what is needed to draw shapes."""
        if blind is None:
            blind = self.fit(sources)
        log_types = None
        if given is None:
            kinds = [self._types(blind, sources, k) for k in self._pieces(sources)]
            log_types = torch.cat([kind.log_probs for kind in kinds])
            point = log_types[:, 0] > log_types[:, 1]
        else:
            point, mixtures = given
        typed = dataclasses.replace(sources, point=point)
        scene = self.fit(typed, blind)
        parts = []
        for index in self._pieces(sources):
            seen = self.see(scene, typed, index)
            features = self.encoders.features(seen, half=self.half)
            if log_types is None:
                flux = mixtures[index]
            else:
                high = self.ceiling(sources)[index]
                factors = self._flux_factors(features, seen, high)
                flux = LogFluxFactor.of_types(*factors, log_types[index]).packed()
            parts.append((flux, features, seen))
        return parts


def _middle(patches):
    # The near part of wide cut-outs.
    cut = slice(
        patches.data.shape[-1] // 2 - _NEAR, patches.data.shape[-1] // 2 + _NEAR + 1
    )
    return dataclasses.replace(
        patches, data=patches.data[:, cut, cut], good=patches.good[:, cut, cut]
    )
