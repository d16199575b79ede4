# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of encoders whose galaxies are points in a learned model's latent space.
"""

import dataclasses

import pytest
import torch

from bliss_astro.encoders import Encoder, EncoderConfig, EncoderInputs
from bliss_astro.galaxies import GalaxyAutoencoder, GalaxyModelConfig
from bliss_astro.posteriors import TileCatalog, find_sources
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.training import TrainingConfig, train_encoder

DIM = 3


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    torch.manual_seed(1)
    model = GalaxyAutoencoder(GalaxyModelConfig(latent_dim=DIM))
    path = tmp_path_factory.mktemp('galaxies') / 'toy.safetensors'
    model.save(path)
    return path


@pytest.fixture
def configs(model):
    encoder = EncoderConfig(
        width=8,
        n_blocks=1,
        stem_width=8,
        head_width=8,
        n_components=2,
        galaxies=True,
        shapes=True,
        sequence=True,
        latent_dim=DIM,
    )
    simulation = SimulationConfig(
        population='npe',
        n_exposures=(1, 1),
        shape=(32, 32),
        crowding=(4.0, 4.0),
        bad_pixels=False,
        galaxy_model=str(model),
    )
    training = TrainingConfig(
        n_steps=1, batch_size=4, n_validation=4, validate_every=1, warmup_steps=1
    )
    return encoder, simulation, training


def test_scenes_are_drawn_by_the_model(configs, model):
    loaded = GalaxyAutoencoder.from_pretrained(model, latent_dim=DIM)
    stream = SimulationStream(configs[1], galaxy_model=loaded)
    scenes = stream.sample_batch(96, generator=torch.Generator().manual_seed(3))
    assert scenes.galaxy.shape[-1] == DIM
    # Signal less noise is the model's image of the galaxies: where there are no
    # stars, its amplitude is one.
    place = scenes.is_galaxy & (scenes.flux > 0)
    alone = ~((scenes.flux > 0) & ~scenes.is_galaxy).any(1) & place.any(1)
    assert int(alone.sum()) > 5
    sources = (scenes.x, scenes.y, scenes.flux * place, scenes.galaxy)
    own = loaded.render(scenes.psf, *sources, size=(32, 32))[alone]
    noise = scenes.bkg_error[alone, None, None]
    seen = (scenes.data - scenes.background[:, None, None])[alone] / noise
    own = own / noise
    amplitude = float((seen * own).sum() / own.square().sum())
    assert abs(amplitude - 1) < 5 / float(own.square().sum().sqrt()) + 0.02
    assert TileCatalog.from_batch(scenes).shape.shape[-1] == DIM


def test_training_and_draws(configs, tmp_path):
    train_encoder(configs, tmp_path, name='latent')
    encoder = Encoder.from_pretrained(tmp_path / 'latent.safetensors')
    simulation = dataclasses.replace(configs[1], galaxy_model=None)
    stream = SimulationStream(simulation)
    scenes = stream.sample_batch(4, generator=torch.Generator().manual_seed(3))
    posterior = encoder(EncoderInputs.from_batch(scenes))
    drawn = posterior.sample(generator=torch.Generator().manual_seed(1))
    assert drawn.shape.shape[-1] == DIM
    sources = find_sources(posterior)
    assert sources.shapes.shape[-1] == DIM
    assert sources.ellipticity.shape[-1] == 2


def test_dimensions_must_agree(configs, tmp_path):
    encoder, simulation, training = configs
    other = dataclasses.replace(encoder, latent_dim=DIM + 1)
    with pytest.raises(ValueError, match='is 3, got latent_dim=4'):
        train_encoder((other, simulation, training), tmp_path / 'a')
    without = dataclasses.replace(encoder, latent_dim=0)
    with pytest.raises(ValueError, match='go together'):
        train_encoder((without, simulation, training), tmp_path / 'b')
    plain = dataclasses.replace(simulation, galaxy_model=None)
    with pytest.raises(ValueError, match='go together'):
        train_encoder((encoder, plain, training), tmp_path / 'c')


def test_single_exposures_only(model):
    with pytest.raises(ValueError, match='n_exposures must be'):
        SimulationConfig(population='npe', galaxy_model=str(model))
    with pytest.raises(ValueError, match='latent_dim needs shapes'):
        EncoderConfig(galaxies=True, latent_dim=4)
