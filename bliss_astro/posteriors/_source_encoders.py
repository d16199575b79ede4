# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Layers of the encoders that follow detection: one for types, one for fluxes and shapes.
"""

import torch
from torch import nn

from bliss_astro._threads import split_pixels

from ._extended_fit import N_SIZE_FEATURES, N_SIZES
from ._factors import LOG_FLUX_CEILING, LogFluxFactor, TypeFactor
from ._head import galaxy_flux_of_raw, star_flux_of_raw
from ._scene_fit import STAMP_RADIUS
from ._shape_layers import N_ELLIPSE, ShapeLayers, hidden_layers, last_layer
from ._source_chain import SourceChain
from ._source_parameters import IN_SEQUENCE, add_layers, parameters_of

# Channels of a stamp: the source without its neighbours, bright and faint; what
# was taken off, and of that what is extended; bad pixels.
_N_CHANNELS = 5
# Factor on the pixels of stamps in the size of pieces of them.
_WIDER = 4
# Numbers beside it: place within the pixel, and the flux of a star.
_N_OWN = 6


class StampEncoder(nn.Module):
    """From the stamp of a source, and numbers beside it, to features."""

    def __init__(self, n_numbers, *, width=96):
        super().__init__()
        # Not in place: for gradients, what is overwritten would be copied before.
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
        kind, own = stamps.device.type, {'memory_format': torch.channels_last}
        # Hidden layers have more channels than stamps.
        n_pixels = _WIDER * stamps.shape[2:].numel()
        pieces = split_pixels(len(stamps), n_pixels, stamps.device)
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            parts = [self.convolutions(stamps[k].contiguous(**own)) for k in pieces]
        hidden = torch.cat(parts)
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
