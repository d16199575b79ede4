# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tiny configurations for the tests of training.
"""

import contextlib
import functools
from unittest import mock

import pytest

from bliss_astro.encoders import EncoderConfig
from bliss_astro.simulation import SimulationConfig
from bliss_astro.training import TrainingConfig, _domain, _encoder, _plan, _recipe


@pytest.fixture(scope='session', autouse=True)
def domains():
    """
    Compute domains once, of fewer PSFs: it takes longer than a tiny training.
    """
    cached = functools.lru_cache(_domain.domain_of_simulation)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(_domain, '_N_DRAWN', 4000))
        for module in (_encoder, _plan, _recipe):
            stack.enter_context(
                mock.patch.object(module, 'domain_of_simulation', cached)
            )
        yield


@pytest.fixture(scope='session')
def tiny_configs():
    """
    Give configurations of six steps on images of 16 pixels.
    """
    encoder = EncoderConfig(
        width=8,
        n_blocks=1,
        stem_width=8,
        head_width=8,
        n_components=2,
        patch_radius=2,
    )
    simulation = SimulationConfig(
        n_exposures=(1, 3),
        shape=(16, 16),
        # One PSF: the domain of the card is computed at once.
        psf='paper',
        margin=-2,
        density=(0.01, 0.03),
        inclined_fraction=0.0,
        confined_fraction=0.0,
    )
    training = TrainingConfig(
        n_steps=6,
        batch_size=4,
        n_validation=4,
        validate_every=2,
        precision='float32',
        warmup_steps=2,
    )
    return encoder, simulation, training
