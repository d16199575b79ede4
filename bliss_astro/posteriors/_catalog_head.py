# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The head for stars and galaxies.
"""

import torch
from torch import nn

from ._ellipse_fit import N_ELLIPSE
from ._factors import LogFluxFactor, TypeFactor
from ._galaxy_bank import N_SHIFTS, N_SIZES, N_TOLD
from ._grid import TileCatalog
from ._head import _NARROW, StarHead, _flux_mixture
from ._mixture_factor import MixtureFactor
from ._shapes import N_SHAPE, shape_to_vector, vector_to_shape

__all__ = ['CatalogHead', 'ShapeLayers']

# Components of the distributions of shape and of ellipticity.
_N_SHAPES, _N_ELLIPTICITIES = 4, 3


def split_types(components):
    """The star's and the galaxy's part of what `CatalogHead.flux_mixture` holds."""
    return components.chunk(2, -1)


def of_type(parts, galaxy):
    """
    Of mixtures over both types the components of one.

    Parameters
    ----------
    parts : iterable of tensor ``(..., 2 M)``
        Weights, means and scales.

    galaxy : tensor ``(...,)`` of bool
        The type; broadcasts.
    """
    halves = map(split_types, parts)
    return [torch.where(galaxy[..., None], other, star) for star, other in halves]


class ShapeLayers(nn.Module):
    """
    From features of a galaxy to the distributions of its shape.

    Parameters
    ----------
    n_features : int
        Numbers that describe the galaxy.

    width : int, optional
        Of the hidden layers.

    latent_dim : int, optional
        If not 0, shapes are points in that many dimensions of a learned galaxy
        model's latent space, rather than a bulge and a disk.
    """

    def __init__(self, n_features, *, width=_NARROW, latent_dim=0):
        super().__init__()
        self.latent_dim = latent_dim
        self.n_shape = latent_dim or N_SHAPE
        self.hidden = nn.Sequential(
            nn.Linear(n_features + N_ELLIPSE + 2, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
        )
        self.shape = nn.Linear(width, MixtureFactor.n_raw(self.n_shape, _N_SHAPES))
        self.ellipticity = nn.Linear(width, MixtureFactor.n_raw(2, _N_ELLIPTICITIES))
        for layer in (self.shape, self.ellipticity):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def to_vector(self, shape):
        """Shapes as the numbers that their distribution is over."""
        return shape if self.latent_dim else shape_to_vector(shape)

    def from_vector(self, vector):
        """The inverse of `to_vector`."""
        return vector if self.latent_dim else vector_to_shape(vector)

    def forward(self, features, fit, log_flux):
        """
        Distributions of the shape and of the ellipticity of N galaxies.

        Parameters
        ----------
        features : tensor ``(..., n_features)``
            Of the galaxies.

        fit : dict of tensor
            With ``ellipse`` ``(..., 9)``, ``ellipse_flux``, ``ellipse_error``
            ``(...,)`` and ``vector`` ``(..., 2)``, from the ellipse that fits best.

        log_flux : tensor ``(...,)``
            Logarithm of the galaxies' fluxes over the floor.

        Returns
        -------
        shape, ellipticity : `MixtureFactor`
            Over `to_vector` of shapes and over `ellipticity_to_vector`.
        """
        excess = torch.asinh((log_flux - fit['ellipse_flux']) / 0.1) / 3
        own = torch.stack([log_flux / 4, excess], -1)
        hidden = self.hidden(torch.cat([features, fit['ellipse'], own], -1))
        shape = MixtureFactor.from_raw(self.shape(hidden), self.n_shape)
        scale = torch.log(fit['vector_error'] + 0.05)[..., None].expand(
            fit['vector'].shape
        )
        ellipticity = MixtureFactor.from_raw(
            self.ellipticity(hidden), 2, mean=fit['vector'], log_scale=scale
        )
        return shape, ellipticity


class CatalogHead(StarHead):
    """
    The conditional distributions of one tile, with the type of each source.

    A source's type is drawn after its position, and its flux given both.
    Stars have the factors of `StarHead`; the flux of a galaxy is
    a mixture around a mean, chosen by the network, of what blurred stars of several
    sizes are measured to have.  Given all that, its shape is drawn last.

    Parameters
    ----------
    n_features, width, n_most, n_components
        As for `StarHead`.

    shapes : bool, optional
        Whether shapes of galaxies are inferred.

    latent_dim : int, optional
        As for `ShapeLayers`.
    """

    codes_per_source = 6
    position_told = StarHead.position_told + N_SHIFTS
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
        narrow, m = _NARROW, n_components
        n_told = N_TOLD + 5 + (N_ELLIPSE if shapes else 0)
        for block in self.source:
            block['extended'] = nn.Sequential(
                nn.Linear(narrow + n_told, narrow),
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
        What a tile tells its neighbours, tensor ``(B, 6 K, rows, columns)``.

        As for stars, and whether each source is a galaxy.
        """
        code = super().encode_sources(catalog)
        present = code[:, : self.n_most]
        return torch.cat([code, present * catalog.galaxy.movedim(-1, 1)], 1)

    def _told_of_position(self, fit):
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
            From `~bliss_astro.posteriors.StarHead.source_hidden`.

        fit : dict of tensor
            As for the star's factors, and ``told`` ``(N, 12)``: how well blurred
            stars of several sizes fit; where shapes are inferred, ``ellipse``
            ``(N, 9)``: how well a blurred and stretched one does.
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
        told = [hidden, fit['told'], own]
        if self.shapes:
            told.append(fit['ellipse'])
        return self.source[place]['extended'](torch.cat(told, -1))

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
        return _flux_mixture(raw, centre, spreads, high)

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
            As for `ShapeLayers`.

        log_flux : tensor ``(...,)``
            Logarithm of flux over the floor.
        """
        return self.source[place]['shape'](extended, fit, log_flux)

    def flux_mixture(self, place, hidden, position, fit, at, high) -> LogFluxFactor:
        """
        Distribution of the log-flux over both types.

        Of its 2 M components the first M are the star's, and their weights
        sum to the probability of a star.
        """
        star = self.flux_factor(place, hidden, position, fit, at, high)
        extended = self.extended(place, hidden, fit)
        galaxy = self.galaxy_flux_factor(place, extended, fit, high)
        log_type = self.type_factor(place, extended).log_probs
        logits = [
            star.log_weights + log_type[:, :1],
            galaxy.log_weights + log_type[:, 1:],
        ]
        return LogFluxFactor(
            torch.cat(logits, -1),
            torch.cat([star.mean, galaxy.mean], -1),
            torch.cat([star.scale, galaxy.scale], -1),
            torch.zeros_like(high),
            high,
        )
