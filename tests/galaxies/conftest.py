# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Models and galaxies for the tests of the galaxy model.
"""

import pytest
import torch

from bliss_astro.galaxies import (
    GalaxyAutoencoder,
    GalaxyModelConfig,
)
from bliss_astro.priors import FieldPrior
from bliss_astro.simulation._stream import GalaxySimulationConfig, GalaxyStream


@pytest.fixture(scope='session')
def bundled():
    """
    Give the model that comes with the package.
    """
    return GalaxyAutoencoder.from_pretrained()


@pytest.fixture
def tiny():
    """
    Give a small model with random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = GalaxyModelConfig(
            latent_dim=5, n_components=4, decoder_width=16, encoder_width=16
        )
        return GalaxyAutoencoder(config).requires_grad_(False)


@pytest.fixture
def psf(generator):
    """
    Give eight PSFs of SDSS, elliptical ones among them.
    """
    return FieldPrior(ellipticity=0.05).sample_batch(8, generator=generator).psf


@pytest.fixture(scope='session')
def stamps():
    """
    Give 48 stamps of galaxies of all signal-to-noise ratios.
    """
    stream = GalaxyStream(GalaxySimulationConfig(size=41))
    return stream.sample_batch(48, generator=torch.Generator().manual_seed(5))
