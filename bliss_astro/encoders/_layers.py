# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Layers of the encoder, and conditions and weights of the bands of its inputs.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro.units import BAND_WAVELENGTHS

from ._config import (
    FEATURES,
    SPECTRA,
    WING_FLOOR,
)

# Numbers that describe a band, and parts of the conditions that do not depend on the
# prior, with their numbers.
N_BAND, _N_PARTS, _N_FIXED = 3, 3, 11
# Channels of the hidden layers of conditions, and of weights of bands.
HIDDEN_CONDITIONS, _GATE_WIDTH = 64, 32
# Largest logarithm of a weight.
_LARGEST_LOG = 30.0


class ResidualBlock(nn.Module):
    """Two convolutions, modulated between them, beside the identity."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.bias)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, value, scale, shift):
        hidden = torch.addcmul(shift, self.first(F.silu(value)), scale)
        return value + self.second(F.silu(hidden))


class BandLayers(nn.Module):
    """
    Additions of further bands to the reference band: sums over those that exist.

    The last layers begin at zero. Nothing depends on the order of the bands, a band
    that is missing changes nothing, and of one band there is nothing to compute.

    Parameters
    ----------
    config : ``EncoderConfig``
        Sizes.
    """

    def __init__(self, config):
        super().__init__()
        stem, step = config.stem_width, config.tile_size // 2
        self.gate = nn.Sequential(
            nn.Conv2d(_N_FIXED + N_BAND, _GATE_WIDTH, 1),
            nn.SiLU(),
            nn.Conv2d(_GATE_WIDTH, 2 * stem, 1),
        )
        # Without biases nothing remains where no other band is.
        own = {'bias': False}
        self.spectral = nn.Conv2d(2 * len(SPECTRA), stem, 4, stride=2, padding=1, **own)
        self.second = nn.Conv2d(stem, stem, 3, padding=1, **own)
        self.to_tiles = nn.Conv2d(stem, config.width, step, stride=step, **own)
        self.conditions = nn.Conv2d(HIDDEN_CONDITIONS, HIDDEN_CONDITIONS, 1, **own)
        for layer in (self.to_tiles, self.conditions):
            nn.init.zeros_(layer.weight)
        # Weights of bands begin near 1.
        nn.init.ones_(self.gate[-1].bias[:stem])

    def forward(self, reference, others, given, planes):
        """
        Features ``(B, width, rows, columns)`` that are added to the reference band's.

        From the first layer of the reference band ``(B, C, ny, nx)`` and of others:
        place, rows of images and their ``(N, C, ny, nx)``; the conditions of bands
        ``(B, F, C, h, w)``; and the spectral planes.
        """
        hidden, n = F.silu(self.spectral(planes)), len(planes)
        step, of_reference = self.to_tiles.stride[0], 0.0
        for place, rows, own in others:
            gate, further = self.gate(given[rows, place]).chunk(2, 1)
            # Not in one operation, which takes three times as long in half precision.
            own = stretched(gate, step) * own
            hidden = hidden + spread_rows(own, rows, n)
            of_reference = of_reference + spread_rows(further, rows, n)
        hidden = hidden + stretched(of_reference, step) * reference
        return self.to_tiles(F.silu(self.second(hidden)))

    @staticmethod
    def given(conditions):
        """Those of the conditions ``(B, F, C, h, w)`` that weight bands."""
        return joined_channels(*conditions[:_N_PARTS], conditions[-1])

    def join_conditions(self, hidden, others):
        """
        Hidden layer of the conditions of images from that of bands.

        From that of the reference band and, of others, rows of images and theirs.
        """
        n = len(hidden)
        total = sum(spread_rows(own, rows, n) for rows, own in others)
        return hidden + self.conditions(total)


def stretched(value, step):
    """Maps by tile on a finer grid; constants as they are."""
    constant = value.shape[2:] == (1, 1)
    return value if constant else F.interpolate(value, scale_factor=step)


def rows_of_bands(inputs):
    """Places of the bands that any image has, the reference first, and their images."""
    rows = [list(range(len(inputs.present)))]
    if inputs.present.shape[1] > 1:
        rows += [own.nonzero()[:, 0].tolist() for own in inputs.present.cpu().T[1:]]
    return [(place, own) for place, own in enumerate(rows) if own]


def conditions_by_band(inputs, parts):
    """Yield the images of each band that exists, and conditions ``(N, C, h, w)``."""
    n_bands = max(part.shape[1] for part in parts)
    for place, rows in rows_of_bands(inputs):
        if place < n_bands:
            own = (part[rows, min(place, part.shape[1] - 1)] for part in parts)
            yield rows, joined_channels(*(part[:, None] for part in own))[:, 0]


def spread_rows(value, rows, n):
    """Values of some of n rows, and zeros in the others."""
    if len(rows) == n:
        return value
    parts = dict(zip(rows, value.split(1), strict=True))
    empty = torch.zeros_like(value[:1])
    return torch.cat([parts.get(row, empty) for row in range(n)])


def joined_channels(*parts):
    """Channels ``(B, F, C, h, w)`` of bands, images, constants and maps together."""
    _, n_bands, _, h, w = map(max, zip(*(part.shape for part in parts), strict=True))
    return torch.cat([part.expand(-1, n_bands, -1, h, w) for part in parts], 2)


def clip_features(described, limits=None):
    """Features of PSFs ``(..., 8, h, w)`` within the range of the training."""
    if limits is None:
        free = math.inf
        limits = (-free, -free, *WING_FLOOR, -free, -free), (free,) * 8
    low, high = (described.new_tensor(side)[:, None, None] for side in limits)
    return described.clamp(low, high)


def band_conditions(inputs):
    """
    Wavelength, width and depth of the bands, 0 for SDSS r as the reference band.

    Scaled to about unit size: tensor ``(B, F, 3, h, w)``.
    """
    return joined_channels(
        FEATURES['log_wavelength'](inputs.band[:, :, :1]),
        FEATURES['log_width'](inputs.band[:, :, 1:]),
        FEATURES['log_depth'](log_depth(inputs)),
    )


def log_depth(inputs):
    """
    Logarithm of the error of a faint star's flux over that in the reference band.

    In a unit of flux density that all bands share: tensor ``(B, F, 1, h, w)``.
    """
    log_error = inputs.log_error(inputs.described())
    return log_error - log_error[:, :1] + inputs.log_scale


def spectral_weights(inputs):
    """
    Weights ``(B, F, K, h, w)`` of the bands' matched filters for template spectra.

    The optimal sum of signal-to-noise ratios weights each band with the spectrum's
    flux over its error.
    """
    depth = log_depth(inputs)
    nodes = depth.new_tensor([*BAND_WAVELENGTHS.values()])
    nodes = nodes.div(BAND_WAVELENGTHS['r']).log()
    wavelength = inputs.band[:, :, 0, 0, 0].clamp(nodes[0], nodes[-1])
    after = torch.searchsorted(nodes, wavelength).clamp(min=1)
    low, high = nodes[after - 1], nodes[after]
    share = ((wavelength - low) / (high - low))[..., None]
    log_flux = nodes.new_tensor(SPECTRA).T * -math.log(10) / 2.5
    log_flux = torch.lerp(log_flux[after - 1], log_flux[after], share)[..., None, None]
    return (log_flux - depth).clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()
