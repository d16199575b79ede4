# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Worlds for the tests of the posteriors: small encoders, small images.
"""

import copy
import types

import pytest
import torch

from bliss_astro.encoders import Encoder, EncoderConfig, EncoderInputs
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.posteriors import TilePosterior
from bliss_astro.simulation import SimulationConfig, SimulationStream

# Loaded by a test alone: it adds a parameter.
collect_ignore = ['sersic_index.py']


def _shake(encoder, *, size, seed=4):
    # An untrained head says little; this one has opinions.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in encoder.head.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.add_(size * noise)
            if name == 'count.bias':
                value.copy_(torch.tensor([1.0, 0.7, 0.4]))


@pytest.fixture(scope='session')
def _crowd():
    torch.manual_seed(1)
    encoder = Encoder(
        EncoderConfig(
            width=8,
            n_blocks=1,
            stem_width=8,
            head_width=16,
            n_components=2,
            patch_radius=3,
        )
    )
    _shake(encoder, size=0.15)
    stream = SimulationStream(
        SimulationConfig(
            n_exposures=(1, 2),
            shape=(16, 16),
            margin=-4,
            density=(0.06, 0.06),
            floor_snr=(3.0, 10.0),
            confined_fraction=0.0,
        )
    )
    generator = torch.Generator().manual_seed(7)
    inputs, catalog = training_pair(stream.sample_batch(3, generator=generator))
    return encoder, inputs, catalog


@pytest.fixture
def tiny(_crowd):
    """
    Give a crowded batch of three images of 16 pixels, and its posterior.

    The head is random, so that nothing about it is simple.
    """
    encoder, inputs, catalog = copy.deepcopy(_crowd)
    return types.SimpleNamespace(
        encoder=encoder, inputs=inputs, catalog=catalog, posterior=encoder(inputs)
    )


@pytest.fixture
def one_tile(tiny):
    """
    Give a function that makes the posterior of n copies of one tile.

    A star of signal-to-noise ratio about 8 lies on it.
    """
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 1, 4, 4, generator=generator)
    image[..., 1:3, 1:3] += 3.0
    psf = torch.tensor([1.3, 2.6, 0.05, 2.5, 0.01, 3.2, 0.0, 0.0])

    def constant(*values):
        return torch.tensor(values).reshape(1, -1, 1, 1)

    inputs = EncoderInputs(
        image=image,
        mask=torch.zeros(1, 1, 4, 4, dtype=torch.bool),
        log_noise=constant(4.0)[:, None],
        correlation=constant(0.1, 0.2)[:, None],
        psf=constant(*psf.tolist())[:, None],
        log_density=constant(-4.0),
        log_flux_floor=constant(2.5),
    )

    def copies(n):
        with torch.no_grad():
            features = tiny.encoder.features(inputs)

        def expand(value):
            return value.expand(n, *value.shape[1:])

        tensors = {
            name: expand(value)
            for name, value in vars(inputs).items()
            if isinstance(value, torch.Tensor)
        }
        many = EncoderInputs(**tensors)
        return TilePosterior(
            expand(features), many, tiny.encoder.head, tile_size=4, patch_radius=3
        )

    return copies
