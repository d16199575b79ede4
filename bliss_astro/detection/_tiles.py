# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posteriors over tiles, computed anew for a posterior that does not keep its own.
"""

import copy
import dataclasses
import itertools
import zlib

import numpy as np
import torch

from bliss_astro.encoders import Encoder, EncoderInputs

from ._bands import encoder_inputs_of_bands
from ._infer import infer
from ._inputs import tile_tensor

# What is passed on to the encoder of an exposure, beside its PSF.
_SEEN = 'data', 'mask', 'background', 'bkg_error', 'effective_gain'
_CHANGED = (
    'the exposure has been changed since the detection, so that the posterior cannot '
    "be computed anew from it: detect again, pass a copy, or use keep='posterior'"
)


def checksum(*exposures):
    """Checksum of what the encoder sees of exposures: 10 ms for 3e6 pixels."""
    found = 0
    for exposure, name in itertools.product(exposures, _SEEN):
        found = zlib.crc32(np.ascontiguousarray(getattr(exposure, name)), found)
    return found


def join_pixels(exposures, binning):
    """Exposures with so many pixels joined along each side."""
    return [e.binned(binning) for e in exposures] if binning > 1 else exposures


def on_device(encoder, device):
    """An encoder on a device: itself where it is there, else a copy of the caller's."""
    if encoder.device.type == torch.device(device).type:
        return encoder
    return copy.deepcopy(encoder).to(device)


class TileDensity:
    """Prior density by tile in sources per joined pixel, from a larger image."""

    def __init__(self, values):
        self.values = values


@dataclasses.dataclass
class TilesOfExposure:
    """
    Computes the posterior over tiles from the exposure, as at first.

    Called with the `~bliss_astro.catalog.CatalogPosterior`, which has density and
    exposures. A `ValueError` where these have another checksum than at first.
    """

    encoder: Encoder
    checksum: int
    binning: int
    flux_min: float | None
    population: str
    coarse: bool = False
    keeps_features = False

    def __call__(self, posterior):
        bands, exposures, missing = posterior.exposures, [posterior.exposure], []
        if bands is not None:
            exposures = list(bands.values())
            missing = [band for band in bands.bands if band not in bands]
        if checksum(*exposures) != self.checksum:
            raise ValueError(_CHANGED)
        exposures = [*join_pixels(exposures, self.binning), *missing]
        prior = {'flux_min': self.flux_min, 'population': self.population}
        inputs, _, _, grid = encoder_inputs_of_bands(exposures, self.encoder, **prior)
        log_density = posterior.facts.log_density
        inputs.log_density = tile_tensor(log_density, self.encoder.device)
        return set_coarse(infer(self.encoder, inputs, grid), self.coarse)

    def to(self, device):
        """The same on another device."""
        return dataclasses.replace(self, encoder=on_device(self.encoder, device))


@dataclasses.dataclass
class TilesOfFeatures:
    """Makes the posterior over tiles of its features, kept in half precision."""

    encoder: Encoder
    features: torch.Tensor
    inputs: EncoderInputs
    half: bool
    coarse: bool
    keeps_features = True

    @classmethod
    def of(cls, encoder, tiles):
        """Those of a `~bliss_astro.posteriors.TilePosterior`."""
        half = tiles.sequence is not None and tiles.sequence.half
        features = tiles.features
        features = features.half() if features.dtype == torch.float32 else features
        return cls(encoder, features, tiles.inputs, half, tiles.coarse)

    def __call__(self, posterior):
        features = self.features
        features = features.float() if features.dtype == torch.float16 else features
        with torch.no_grad():
            tiles = self.encoder.posterior(features, self.inputs, half=self.half)
        return set_coarse(tiles, self.coarse)

    def to(self, device):
        """The same on another device."""
        tensors = {n: getattr(self, n).to(device) for n in ('features', 'inputs')}
        encoder = on_device(self.encoder, device)
        return dataclasses.replace(self, encoder=encoder, **tensors)


def set_coarse(tiles, coarse):
    """A posterior over tiles of which nothing is refined, if so wanted."""
    if coarse:
        tiles.sequence, tiles.coarse = None, True
    return tiles
