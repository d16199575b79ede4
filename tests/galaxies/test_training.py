# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the stream of galaxies and of the training.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import bliss_astro
from bliss_astro.cli import main
from bliss_astro.encoders import load_config
from bliss_astro.galaxies import (
    GalaxyAutoencoder,
    GalaxyModelConfig,
    GalaxySimulationConfig,
    GalaxyTrainingConfig,
    load_galaxy_config,
    train_galaxies,
)
from bliss_astro.galaxies._teaching import _polar, _psf_power, _true_modes
from bliss_astro.rendering import render_galaxies
from bliss_astro.simulation import GalaxyStream
from bliss_astro.simulation._stamps import snr_of

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


class TestStream:
    def test_asked_signal_to_noise(self, generator):
        simulation = GalaxySimulationConfig(size=31, snr=(8.0, 9.0), n_copies=3)
        batch = GalaxyStream(simulation).draw(20, generator=generator)
        assert batch.data.shape == (20, 31, 31)
        assert bool(((batch.snr > 7.99) & (batch.snr < 9.01)).all())
        assert torch.allclose(batch.snr, snr_of(batch.noiseless, batch.variance))

    def test_noise(self, generator):
        stream = GalaxyStream(GalaxySimulationConfig(size=41))
        batch = stream.draw(40, generator=generator)
        expected = batch.noiseless + batch.background[:, None, None]
        variance = batch.noiseless + batch.variance[:, None, None]
        pull = (batch.data - expected) / variance.sqrt()
        n = pull.numel()
        assert abs(float(pull.mean())) < 5 / n**0.5
        assert abs(float((pull**2).mean()) - 1) < 5 * (2 / n) ** 0.5

    def test_copies_differ_in_flux_and_noise_only(self, generator):
        stream = GalaxyStream(GalaxySimulationConfig(size=31, n_copies=2))
        batch = stream.draw(10, generator=generator)
        assert torch.equal(batch.galaxy[:5], batch.galaxy[5:])
        assert torch.equal(batch.psf[:5], batch.psf[5:])
        assert not torch.equal(batch.flux[:5], batch.flux[5:])

    def test_prior(self, generator):
        simulation = GalaxySimulationConfig(population='sky', size=41)
        stream = GalaxyStream(simulation)
        batch = stream.draw_prior(30, snr_range=(7.0, 30.0), generator=generator)
        assert len(batch) == 30
        assert bool(((batch.snr >= 7) & (batch.snr < 30)).all())

    def test_same_seed_same_galaxies(self):
        stream = GalaxyStream(GalaxySimulationConfig(size=21))
        first, second = (
            stream.draw(6, generator=torch.Generator().manual_seed(8)) for _ in range(2)
        )
        assert torch.equal(first.data, second.data)


class TestTeaching:
    def test_misfits_are_those_of_images(self, psf, generator):
        """
        By Parseval, sums over wavenumbers equal sums over pixels.
        """
        stream = GalaxyStream(GalaxySimulationConfig(population='npe'))
        _, galaxy = stream.draw_galaxies(8, generator=generator)
        other = galaxy * torch.tensor([0.8, 1.1, 0.7, 1.0, 0.9, 1.1])
        x = torch.full((8, 1), 150.0)
        first, second = (
            render_galaxies(psf, x, x, torch.ones(8, 1), g[:, None], size=(301, 301))
            for g in (galaxy, other)
        )
        expected = ((first - second) ** 2).sum((1, 2)) / (first**2).sum((1, 2))
        kx, ky, area = _polar(8, generator)
        power = area * _psf_power(psf, kx, ky)
        modes, others = (_true_modes(g, kx, ky) for g in (galaxy, other))
        found = (power * (modes - others) ** 2).sum(1) / (power * modes**2).sum(1)
        # Of 240 wavenumbers, half of them where nothing is left.
        assert torch.allclose(found, expected, rtol=0.15)


class TestTraining:
    def test_learns(self, config, tmp_path):
        state = torch.get_rng_state()
        model = train_galaxies(config, tmp_path / 'run')
        assert torch.equal(torch.get_rng_state(), state)
        assert model.name == 'tiny'
        assert model.card['training']['steps_done'] == 30
        lines = (tmp_path / 'run' / 'log.jsonl').read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [r['step'] for r in records if 'validation' in r] == [25, 30]
        again = GalaxyAutoencoder.from_pretrained(tmp_path / 'run/tiny.safetensors')
        assert again.latent_dim == 4
        for key, value in again.state_dict().items():
            assert torch.equal(value, model.state_dict()[key])

    def test_bound_grows(self, config, tmp_path):
        galaxies, simulation, training = load_galaxy_config(config)
        training = dataclasses.replace(training, n_decoder_steps=0, n_steps=80)
        train_galaxies((galaxies, simulation, training), tmp_path / 'run')
        lines = (tmp_path / 'run' / 'log.jsonl').read_text().splitlines()
        losses = [
            record['validation']['loss']
            for record in map(json.loads, lines)
            if 'validation' in record
        ]
        assert losses[-1] < 0.9 * losses[0]

    def test_resumed_as_if_never_stopped(self, config, tmp_path):
        straight = train_galaxies(config, tmp_path / 'straight')
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
        assert main([*words, '--resume']) == 0
        assert 'tiny.safetensors' in capsys.readouterr().out
        assert main([*words, '--resume', '--start-from', 'stars']) == 2
        assert 'from scratch' in capsys.readouterr().err
        words[-1] = 'cuda'
        assert main([*words, '--resume']) == 2
        assert '--device must be cpu' in capsys.readouterr().err


class TestConfig:
    def test_bundled(self):
        galaxies, simulation, training = load_galaxy_config(BUNDLED)
        assert galaxies == GalaxyModelConfig()
        assert isinstance(simulation, GalaxySimulationConfig)
        assert isinstance(training, GalaxyTrainingConfig)
        card = GalaxyAutoencoder.from_pretrained().card
        assert card['simulation']['size'] == simulation.size
        assert card['training']['n_steps'] == training.n_steps

    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            (('[galaxies]', '[quasars]'), r'no section \[galaxies\]'),
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
            load_galaxy_config(config)

    def test_encoders_want_their_own(self, config):
        with pytest.raises(ValueError, match="unknown section 'galaxies'"):
            load_config(config)
