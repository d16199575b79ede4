# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tiny configurations for the tests of the encoders.
"""

import pytest
import torch

from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.simulation import SimulationConfig, SimulationStream


@pytest.fixture
def tiny_config():
    return EncoderConfig(
        width=8,
        n_blocks=1,
        stem_width=8,
        head_width=8,
        n_components=2,
        patch_radius=2,
    )


@pytest.fixture
def tiny_encoder(tiny_config):
    torch.manual_seed(1)
    return Encoder(tiny_config)


@pytest.fixture
def tiny_simulation():
    return SimulationConfig(
        n_exposures=(1, 3),
        shape=(16, 16),
        margin=-2,
        density=(0.01, 0.03),
        inclined_fraction=0.0,
        confined_fraction=0.0,
    )


@pytest.fixture
def draw(tiny_simulation):
    """
    Give a function that draws (inputs, catalogue) of a size.
    """

    def function(n=2, *, shape=(16, 16), seed=3, tile_size=4, **settings):
        config = SimulationConfig(
            **{**vars(tiny_simulation), 'shape': shape, **settings}
        )
        stream = SimulationStream(config, group_size=2)
        generator = torch.Generator().manual_seed(seed)
        return training_pair(
            stream.sample_batch(n, generator=generator), tile_size=tile_size
        )

    return function
