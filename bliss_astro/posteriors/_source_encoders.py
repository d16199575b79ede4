# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The classification encoder and the galaxy encoder, which look at one source.
"""

import torch
from torch import nn

from ._extended_fit import N_SIZE_FEATURES, N_SIZES
from ._factors import LogFluxFactor, TypeFactor
from ._head import flux_mixture_of_raw
from ._scene_fit import STAMP_RADIUS
from ._shape_layers import N_ELLIPSE, ShapeLayers

# Channels of a stamp: the source without its neighbours, bright and faint; what
# was taken off, and of that what is extended; bad pixels.
N_CHANNELS = 5
# Numbers beside it: place within the pixel, and the flux of a star.
_N_OWN = 6
# Each point source's flux is one more guess of a galaxy's.
_N_CENTRES = N_SIZES + 1


class StampEncoder(nn.Module):
    """
    From the stamp of a source, and numbers beside it, to features.

    Parameters
    ----------
    n_numbers : int
        How many numbers.

    width : int, optional
        Number of features.
    """

    def __init__(self, n_numbers, *, width=96):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(N_CHANNELS, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 48, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Conv2d(48, 32, 3, padding=1, stride=2),
            nn.SiLU(),
        )
        side = STAMP_RADIUS // 2 + 1
        self.flat = nn.Linear(32 * side**2, width)
        self.mix = nn.Sequential(
            nn.Linear(width + n_numbers, 128),
            nn.SiLU(),
            nn.Linear(128, width),
            nn.SiLU(),
        )

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
    n_conditions : int
        Numbers that describe the image.

    n_features : int
        Features of the detection encoder.

    width : int, optional
        Width of the layers.

    n_components : int, optional
        Components M of the mixtures of fluxes.

    latent_dim : int, optional
        As for ``ShapeLayers``.

    shapes_only : bool, optional
        Leave types and fluxes to the detection encoder.
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
    ):
        super().__init__()
        self.n_components, self.shapes_only = n_components, shapes_only
        self.width = width
        n_numbers = _N_OWN + N_SIZE_FEATURES + N_ELLIPSE + n_conditions + n_features
        self.galaxy = StampEncoder(n_numbers, width=width)
        self.shape = ShapeLayers(width, latent_dim=latent_dim)
        if shapes_only:
            return
        self.classification = StampEncoder(n_numbers, width=width)
        self.is_galaxy = nn.Linear(width, 1)
        self.star_flux = nn.Linear(width, 3 * n_components)
        self.galaxy_flux = nn.Linear(width, 3 * n_components + _N_CENTRES)
        for layer in (self.is_galaxy, self.star_flux, self.galaxy_flux):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def type_factor(self, seen, *, half=False) -> TypeFactor:
        """Distribution of the type."""
        features = self.classification(seen['stamps'], seen['numbers'], half=half)
        return TypeFactor(self.is_galaxy(features)[:, 0])

    def features(self, seen, *, half=False) -> torch.Tensor:
        """Features of the galaxy encoder, tensor ``(N, width)``."""
        return self.galaxy(seen['stamps'], seen['numbers'], half=half)

    def star_flux_factor(self, features, seen, high) -> LogFluxFactor:
        """Distribution of the log-flux of stars."""
        error = seen['relative_error']
        spreads = [error] + [(error + 0.1) * 2**k for k in range(1, self.n_components)]
        raw = self.star_flux(features)
        return flux_mixture_of_raw(raw, seen['log_flux'], spreads, high)

    def galaxy_flux_factor(self, features, seen, high) -> LogFluxFactor:
        """Distribution of the log-flux of galaxies."""
        raw = self.galaxy_flux(features)
        raw, choice = raw[:, :-_N_CENTRES], torch.softmax(4 * raw[:, -_N_CENTRES:], -1)
        guesses = torch.cat([seen['size_log_flux'], seen['ellipse_flux'][:, None]], -1)
        errors = torch.cat([seen['size_error'], seen['ellipse_error'][:, None]], -1)
        error = (choice * errors).sum(-1)
        spreads = [(error + 0.03) * 2**k for k in range(self.n_components)]
        return flux_mixture_of_raw(raw, (choice * guesses).sum(-1), spreads, high)

    def shape_factors(self, features, seen, log_flux):
        """Distributions of shape and ellipticity of galaxies of given fluxes."""
        return self.shape(features, seen, log_flux)
