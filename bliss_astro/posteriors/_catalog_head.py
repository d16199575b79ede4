# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The head for stars and galaxies.
"""

import torch
from torch import nn

from ._extended_fit import N_SHIFTS, N_SIZE_FEATURES, N_SIZES
from ._factors import LogFluxFactor, TypeFactor
from ._grid import TileCatalog
from ._head import SOURCE_WIDTH, StarHead, flux_mixture_of_raw
from ._shape_layers import N_ELLIPSE, N_SHAPE, ShapeLayers

__all__ = ['CatalogHead']


class CatalogHead(StarHead):
    """
    The conditional distributions of one tile, with the type of each source.

    A source's type is drawn after its position, and its flux given both.
    Stars have the factors of ``StarHead``; the flux of a galaxy is
    a mixture around a mean, chosen by the network, of what blurred stars of several
    sizes are measured to have.  Given all that, its shape is drawn last.

    Parameters
    ----------
    n_features, width, n_most, n_components
        As for ``StarHead``.

    shapes : bool, optional
        Whether shapes of galaxies are inferred.

    latent_dim : int, optional
        As for ``ShapeLayers``.
    """

    codes_per_source = 6
    n_position_inputs = StarHead.n_position_inputs + N_SHIFTS
    galaxies = True

    def __init__(
        self,
        n_features,
        *,
        width=128,
        n_most=2,
        n_components=3,
        shapes=False,
        latent_dim=0,
    ):
        super().__init__(
            n_features, width=width, n_most=n_most, n_components=n_components
        )
        self.shapes = shapes
        self.n_shape = latent_dim or N_SHAPE
        narrow, m = SOURCE_WIDTH, n_components
        n_inputs = N_SIZE_FEATURES + 5 + (N_ELLIPSE if shapes else 0)
        for block in self.source:
            block['extended'] = nn.Sequential(
                nn.Linear(narrow + n_inputs, narrow),
                nn.SiLU(),
                nn.Linear(narrow, narrow),
                nn.SiLU(),
            )
            block['is_galaxy'] = nn.Linear(narrow, 1)
            block['galaxy_flux'] = nn.Linear(narrow, 3 * m + N_SIZES)
            for name in ('is_galaxy', 'galaxy_flux'):
                nn.init.normal_(block[name].weight, std=0.02)
                nn.init.zeros_(block[name].bias)
            if shapes:
                block['shape'] = ShapeLayers(narrow, latent_dim=latent_dim)

    def encode_sources(self, catalog: TileCatalog) -> torch.Tensor:
        """
        Sources of a tile as inputs of its neighbours, ``(B, 6 K, rows, columns)``.

        As for stars, and the type of each source.
        """
        code = super().encode_sources(catalog)
        present = code[:, : self.n_most]
        return torch.cat([code, present * catalog.galaxy.movedim(-1, 1)], 1)

    def _further_position_inputs(self, fit):
        # Where an extended source would lie, of each size.
        return (fit['shifts'],)

    def extended(self, place, hidden, fit) -> torch.Tensor:
        """
        Hidden layer for what is extended, tensor ``(N, narrow)``.

        Parameters
        ----------
        place : int
            0 for the brightest.

        hidden : tensor ``(N, narrow)``
            From ``StarHead.source_hidden``.

        fit : dict of tensor
            As for the star's factors, and ``sizes`` ``(N, 12)``, from
            `measure_sizes`; where shapes are inferred, ``ellipse`` ``(N, 9)``, from
            `ellipse_features`.
        """
        own = torch.stack(
            [
                fit['log_flux'] / 4,
                fit['log_snr'] / 3,
                torch.log1p(fit['chi2']),
                torch.log(fit['error_x'] * fit['error_y']) / 4,
                fit['correlation'],
            ],
            -1,
        )
        inputs = [hidden, fit['sizes'], own]
        if self.shapes:
            inputs.append(fit['ellipse'])
        return self.source[place]['extended'](torch.cat(inputs, -1))

    def type_factor(self, place, extended) -> TypeFactor:
        """Distribution of the type from the layer `extended`."""
        return TypeFactor(self.source[place]['is_galaxy'](extended)[:, 0])

    def galaxy_flux_factor(self, place, extended, fit, high) -> LogFluxFactor:
        """
        Distribution of a galaxy's log-flux.

        Parameters
        ----------
        place : int
            0 for the brightest.

        extended : tensor ``(N, narrow)``
            From `extended`.

        fit : dict of tensor
            With ``size_log_flux`` and ``size_error``, ``(N, N_SIZES)``.

        high : tensor ``(N,)``
            Upper end of the range.
        """
        raw = self.source[place]['galaxy_flux'](extended)
        raw, choice = raw[:, :-N_SIZES], torch.softmax(4 * raw[:, -N_SIZES:], -1)
        centre = (choice * fit['size_log_flux']).sum(-1)
        error = (choice * fit['size_error']).sum(-1)
        spreads = [(error + 0.05) * 2**k for k in range(self.n_components)]
        return flux_mixture_of_raw(raw, centre, spreads, high)

    def shape_factors(self, place, extended, fit, log_flux):
        """
        Distributions of a galaxy's shape and ellipticity given its flux.

        Parameters
        ----------
        place : int
            0 for the brightest.

        extended : tensor ``(..., narrow)``
            From `extended`.

        fit : dict of tensor
            As for ``ShapeLayers``.

        log_flux : tensor ``(...,)``
            Logarithm of flux over the floor.
        """
        return self.source[place]['shape'](extended, fit, log_flux)

    def flux_mixture(self, place, hidden, position, fit, at, high) -> LogFluxFactor:
        """
        Distribution of the log-flux over both types.

        Among its 2 M components the first M are the star's, and their weights
        sum to the probability of a star.
        """
        star = self.flux_factor(place, hidden, position, fit, at, high)
        extended = self.extended(place, hidden, fit)
        galaxy = self.galaxy_flux_factor(place, extended, fit, high)
        log_type = self.type_factor(place, extended).log_probs
        return LogFluxFactor.of_types(star, galaxy, log_type)
