# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of domains: what simulations say, and what cards keep.
"""

import dataclasses

import numpy as np
import pytest
import torch

from bliss_astro.encoders import (
    Domain,
    Encoder,
    EncoderConfig,
)
from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.training import TrainingConfig, _domain, train_encoder
from bliss_astro.training._domain import domain_of_simulation

SMALL = EncoderConfig(galaxies=True, width=8, n_blocks=1, stem_width=8, head_width=16)
SKY = SimulationConfig(
    population='sky',
    n_exposures=(1, 1),
    shape=(64, 64),
    bad_pixels=False,
    floor_snr=(3.0, 5.0),
    star_scale=(1.0, 4.0),
)


def test_domain_is_what_the_stream_draws():
    config = dataclasses.replace(
        SKY, population='both', crowding=(1.0, 2.0), shape=(32, 32)
    )
    domain = domain_of_simulation(config)
    generator = torch.Generator().manual_seed(1)
    scenes = SimulationStream(config).sample_batch(300, generator=generator)
    noise = scenes.bkg_error * scenes.effective_gain
    outside = (noise < domain.noise[0]) | (noise > domain.noise[1])
    assert float(outside.float().mean()) < 0.02
    outside = (scenes.density < domain.density[0]) | (
        scenes.density > domain.density[1]
    )
    assert float(outside.float().mean()) < 0.03
    assert domain.floor_snr == (3.0, 5.0)


def test_bands_of_single_exposures_are_resampled():
    config = SimulationConfig(n_exposures=(1, 1))
    assert domain_of_simulation(config).correlation < 0.1
    several = dataclasses.replace(config, bands=tuple('gri'))
    domain = domain_of_simulation(several)
    assert domain.correlation > 0.5
    # Other bands are deeper, or have better seeing, than the reference may be.
    alone = domain_of_simulation(config)
    assert domain.noise[0] < 0.8 * alone.noise[0]
    assert domain.noise[1] > 1.2 * alone.noise[1]
    generator = torch.Generator().manual_seed(8)
    stars = SimulationStream(several).sample_batch(64, generator=generator)
    for own, there in zip(stars.images, stars.present.T, strict=True):
        noise = (own.bkg_error * own.effective_gain)[there]
        outside = (noise < domain.noise[0]) | (noise > domain.noise[1])
        assert float(outside.double().mean()) < 0.05


def test_an_encoder_of_both_can_be_trained(tmp_path):
    simulation = dataclasses.replace(SKY, population='both', shape=(32, 32))
    training = TrainingConfig(
        n_steps=1, batch_size=4, n_validation=4, validate_every=1, precision='float32'
    )
    made = train_encoder((SMALL, simulation, training), tmp_path, name='both')
    assert made.config.galaxies
    again = Encoder.from_pretrained(tmp_path / 'both.safetensors')
    assert again.head.galaxies
    assert again.card['simulation']['population'] == 'both'


def test_weights_travel_without_the_files_of_their_priors(tmp_path):
    CatalogPrior().save(tmp_path / 'catalog.json')
    FieldPrior.single().save(tmp_path / 'fields.json')
    simulation = dataclasses.replace(
        SKY,
        shape=(32, 32),
        confined_fraction=0.0,
        catalog_prior=str(tmp_path / 'catalog.json'),
        field_prior=str(tmp_path / 'fields.json'),
    )
    training = TrainingConfig(
        n_steps=1, batch_size=4, n_validation=4, validate_every=1, precision='float32'
    )
    train_encoder((SMALL, simulation, training), tmp_path / 'run', name='own')
    for name in ('catalog.json', 'fields.json'):
        (tmp_path / name).unlink()
    again = Encoder.from_pretrained(tmp_path / 'run' / 'own.safetensors')
    domain = Domain.of(again)
    # One field: its noise, and nothing else.
    assert domain.noise[1] < 1.8 * domain.noise[0]
    assert str(tmp_path) not in (tmp_path / 'run' / 'own.json').read_text()


def test_domain_of_telescopes_goes_to_the_card_and_back():
    domain = domain_of_simulation(
        SimulationConfig(
            population='sky',
            fields='telescopes',
            psf='telescopes',
            density=(5e-4, 0.03),
            psf_errors=(0.001, 0.15),
            background_errors=(0.001, 0.3),
            n_exposures=(1, 4),
        )
    )
    assert domain.fwhm[0] < 1.3
    assert domain.fwhm[1] > 6.8
    assert domain.psf_error == 0.15
    assert domain.background_error == 0.3
    encoder = Encoder(SMALL)
    encoder.card = {'domain': domain.to_card()}
    again = Domain.of(encoder)
    assert again.density == pytest.approx(domain.density, rel=1e-4)
    np.testing.assert_allclose(
        again.psf_features, domain.psf_features, rtol=1e-4, atol=1e-4
    )
    assert encoder.psf_range is not None


def test_bundled_cards_state_their_domain(monkeypatch):
    monkeypatch.setattr(_domain, '_N_DRAWN', 20000)
    for name in ('stars', 'stars-galaxies', 'stars-crowded'):
        encoder = Encoder.from_pretrained(name)
        stated = Domain.of(encoder)
        assert 'domain' in encoder.card
        simulation = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in encoder.card['simulation'].items()
        }
        computed = domain_of_simulation(SimulationConfig(**simulation))
        assert stated.psf_area[1] == pytest.approx(computed.psf_area[1], rel=1e-3)
        # A card may state less than was simulated, and then says why.
        if 'domain' not in encoder.card.get('remark', ''):
            assert stated.psf_area == pytest.approx(computed.psf_area, rel=1e-3)
        assert stated.noise == pytest.approx(computed.noise, rel=1e-3)
