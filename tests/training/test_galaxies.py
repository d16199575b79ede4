# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the training of the galaxy model.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import bliss_astro
from bliss_astro.cli import main
from bliss_astro.galaxies import (
    GalaxyAutoencoder,
    GalaxyModelConfig,
)
from bliss_astro.galaxies._mixture import polar_grid
from bliss_astro.priors import FieldPrior
from bliss_astro.psf import GaussianPSF
from bliss_astro.rendering import render_galaxies
from bliss_astro.rendering._profiles import galaxy_modes
from bliss_astro.simulation._stream import GalaxySimulationConfig, GalaxyStream
from bliss_astro.training import load_config, train_encoder, train_galaxies
from bliss_astro.training._configuration import GalaxyTrainingConfig

BUNDLED = Path(bliss_astro.__file__).parent / 'data' / 'configs' / 'galaxies.toml'

TINY = """
description = "Too small to be of use"

[galaxies]
latent_dim = 4
n_components = 4
decoder_width = 16
encoder_width = 16
n_filters = 4

[simulation]
size = 21
snr = [5.0, 20.0]

[training]
n_decoder_steps = 20
n_steps = 30
batch_size = 8
n_validation = 16
validate_every = 5
"""


@pytest.fixture
def config(tmp_path):
    """
    Give the file of a small configuration.
    """
    path = tmp_path / 'tiny.toml'
    path.write_text(TINY)
    return path


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """
    Give a model of that configuration, and the folder of its training.
    """
    folder = tmp_path_factory.mktemp('finished')
    path = folder / 'tiny.toml'
    path.write_text(TINY)
    state = torch.get_rng_state()
    model = train_galaxies(path, folder / 'run')
    assert torch.equal(torch.get_rng_state(), state)
    return model, folder / 'run'


class TestTeaching:
    def test_misfits_are_those_of_images(self, generator):
        """
        By Parseval, sums over wavenumbers equal sums over pixels.
        """
        psf = FieldPrior(ellipticity=0.05).sample_batch(8, generator=generator).psf
        stream = GalaxyStream(GalaxySimulationConfig(population='npe'))
        _, galaxy = stream.sample_galaxies(8, generator=generator)
        other = galaxy * torch.tensor([0.8, 1.1, 0.7, 1.0, 0.9, 1.1])
        x = torch.full((8, 1), 150.0)
        first, second = (
            render_galaxies(psf, x, x, torch.ones(8, 1), g[:, None], size=(301, 301))
            for g in (galaxy, other)
        )
        expected = ((first - second) ** 2).sum((1, 2)) / (first**2).sum((1, 2))
        kx, ky, area = polar_grid(8, generator)
        power = GaussianPSF.from_shape(psf)[:, None].transform(kx, ky)
        power, grid = area * power.square(), (kx[:, None], ky[:, None])
        modes, others = (
            galaxy_modes(g, torch.ones(8), *grid)[:, 0] for g in (galaxy, other)
        )
        found = (power * (modes - others) ** 2).sum(1) / (power * modes**2).sum(1)
        # Of 240 wavenumbers, half of them where nothing is left.
        assert torch.allclose(found, expected, rtol=0.15)


class TestTraining:
    def test_learns(self, finished):
        model, folder = finished
        assert model.name == 'tiny'
        assert model.card['training']['steps_done'] == 30
        lines = (folder / 'log.jsonl').read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [r['step'] for r in records if 'validation' in r] == [25, 30]
        again = GalaxyAutoencoder.from_pretrained(folder / 'tiny.safetensors')
        assert again.latent_dim == 4
        for key, value in again.state_dict().items():
            assert torch.equal(value, model.state_dict()[key])

    def test_bound_grows(self, config, tmp_path):
        galaxies, simulation, training = load_config(config)
        training = dataclasses.replace(
            training, n_decoder_steps=0, n_steps=50, warmup_steps=5, validate_every=10
        )
        train_galaxies((galaxies, simulation, training), tmp_path / 'run')
        lines = (tmp_path / 'run' / 'log.jsonl').read_text().splitlines()
        records = [json.loads(line) for line in lines]
        losses = [r['validation']['loss'] for r in records if 'validation' in r]
        assert losses[-1] < 0.9 * losses[0]
        # The terms of every fiftieth step.
        assert {'step', 'seconds', 'misfit', 'norm'} <= set(records[-2])

    def test_resumed_as_if_never_stopped(self, finished, config, tmp_path):
        straight, _ = finished
        folder = tmp_path / 'broken'
        train_galaxies(config, folder, max_minutes=1e-6)
        model = train_galaxies(config, folder, resume=True)
        for key, value in straight.state_dict().items():
            assert torch.equal(value, model.state_dict()[key])

    def test_existing_runs_are_safe(self, config, tmp_path):
        folder = tmp_path / 'run'
        train_galaxies(config, folder, max_minutes=1e-6)
        with pytest.raises(FileExistsError, match='resume=True'):
            train_galaxies(config, folder)
        config.write_text(TINY.replace('batch_size = 8', 'batch_size = 9'))
        with pytest.raises(ValueError, match='another configuration'):
            train_galaxies(config, folder, resume=True)
        model = train_galaxies(config, folder, overwrite=True, max_minutes=1e-6)
        assert model.card['training']['batch_size'] == 9

    def test_command_line(self, config, tmp_path, capsys):
        folder = tmp_path / 'run'
        words = ['train', str(config), '-o', str(folder), '-q', '--device', 'cpu']
        assert main([*words, '--max-minutes', '1e-6']) == 0
        assert main(words) == 1
        assert '--resume' in capsys.readouterr().err
        assert main([*words, '--resume', '--max-minutes', '1e-6']) == 0
        assert 'tiny.safetensors' in capsys.readouterr().out
        assert main([*words, '--resume', '--start-from', 'stars']) == 2
        assert 'from scratch' in capsys.readouterr().err
        words[-1] = 'cuda'
        assert main([*words, '--resume']) == 2
        assert '--device must be cpu' in capsys.readouterr().err


class TestConfig:
    def test_bundled(self):
        galaxies, simulation, training = load_config(BUNDLED)
        assert galaxies == GalaxyModelConfig()
        assert isinstance(simulation, GalaxySimulationConfig)
        assert isinstance(training, GalaxyTrainingConfig)
        card = GalaxyAutoencoder.from_pretrained().card
        assert card['simulation']['size'] == simulation.size
        assert card['training']['n_steps'] == training.n_steps

    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            (('[galaxies]', '[quasars]'), "unknown section 'quasars'"),
            (('[training]', '[lessons]'), "unknown section 'lessons'"),
            (('latent_dim', 'latents'), "unknown setting 'latents'"),
            (('latent_dim = 4', 'latent_dim = 1'), 'latent_dim must be'),
            (('size = 21', 'size = 20'), 'size must be odd'),
            (('[5.0, 20.0]', '[20.0, 5.0]'), 'snr must be two increasing'),
            (('n_steps = 30', 'n_steps = 10'), 'n_decoder_steps must be at most'),
            (('n_steps = 30', 'n_steps = many'), 'not valid TOML'),
            (('size = 21', 'population = "stars"'), 'population must be one of'),
        ],
    )
    def test_bad(self, config, change, reason):
        config.write_text(TINY.replace(*change))
        with pytest.raises(ValueError, match=reason):
            load_config(config)

    def test_encoders_are_another_kind(self, config, tmp_path):
        with pytest.raises(ValueError, match='config must hold EncoderConfig'):
            train_encoder(load_config(config), tmp_path / 'run')
