# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of training in stages, and of designs that start from each other.
"""

import dataclasses
import json

import pytest
import torch

from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.simulation import SimulationConfig
from bliss_astro.training import TrainingConfig, train_encoder
from bliss_astro.training._encoder import start_from

CONFIGS = (
    EncoderConfig(
        width=8,
        n_blocks=1,
        stem_width=8,
        head_width=8,
        n_components=2,
        patch_radius=2,
        galaxies=True,
        shapes=True,
        sequence=True,
    ),
    SimulationConfig(
        population='npe',
        n_exposures=(1, 1),
        shape=(32, 32),
        bad_pixels=False,
        npe_floor=(0.7, 1.6),
        cluster_fraction=0.5,
        cluster_radius=(8.0, 14.0),
        cluster_crowding=(10.0, 30.0),
    ),
    TrainingConfig(
        n_steps=2, batch_size=4, n_validation=4, validate_every=2, warmup_steps=1
    ),
)


def weights_of(folder, name):
    return Encoder.from_pretrained(folder / f'{name}.safetensors').state_dict()


def first(config):
    """
    Give the encoder with which a training begins.
    """
    torch.manual_seed(CONFIGS[2].seed)
    return Encoder(config)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """
    Give the folder of a training of all stages.
    """
    folder = tmp_path_factory.mktemp('all')
    train_encoder(CONFIGS, folder, name='toy')
    return folder


class TestStages:
    @pytest.mark.parametrize('stage', ['all', 'detection', 'sources'])
    def test_only_the_stage_moves(self, trained, tmp_path, stage):
        encoder, simulation, training = CONFIGS
        folder = trained
        if stage != 'all':
            folder, training = tmp_path, dataclasses.replace(training, stage=stage)
            train_encoder((encoder, simulation, training), folder, name='toy')
        after, before = weights_of(folder, 'toy'), first(encoder).state_dict()
        moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
        own = {k for k in after if k.startswith('sources.')}
        assert bool(moved & own) == (stage != 'detection')
        assert bool(moved - own) == (stage != 'sources')

    def test_new_parameters_alone(self, tmp_path):
        """
        The encoders of a sequence are trained on a trunk that has shapes alone.
        """
        encoder, simulation, training = CONFIGS
        path = tmp_path / 'trunk.safetensors'
        torch.manual_seed(5)
        trunk = Encoder(dataclasses.replace(encoder, shapes_only=True))
        trunk.save(path)
        training = dataclasses.replace(training, stage='new', start_from=str(path))
        train_encoder((encoder, simulation, training), tmp_path / 'a', name='toy')
        before, after = trunk.state_dict(), weights_of(tmp_path / 'a', 'toy')
        for key, value in before.items():
            assert torch.equal(after[key], value), key
        new = set(after) - set(before)
        assert new
        unmoved = first(encoder).state_dict()
        assert any(not torch.equal(after[key], unmoved[key]) for key in new)
        training = dataclasses.replace(
            training, start_from=str(tmp_path / 'a' / 'toy.safetensors')
        )
        with pytest.raises(ValueError, match='has all parameters already'):
            train_encoder((encoder, simulation, training), tmp_path / 'b')
        with pytest.raises(ValueError, match="stage = 'new' needs start_from"):
            TrainingConfig(stage='new')

    def test_log_tells_all_terms(self, trained):
        lines = (trained / 'log.jsonl').read_text().splitlines()
        terms = json.loads(lines[-1])['validation']
        parts = {k: v for k, v in terms.items() if k not in ('loss', 'start')}
        assert {'count', 'shape', 'source_type', 'source_ellipticity'} <= set(parts)
        assert terms['loss'] == pytest.approx(sum(parts.values()))

    def test_one_pass_has_no_stages(self, tmp_path):
        encoder, simulation, training = CONFIGS
        encoder = dataclasses.replace(encoder, sequence=False)
        training = dataclasses.replace(training, stage='sources')
        with pytest.raises(ValueError, match='sequence = true'):
            train_encoder((encoder, simulation, training), tmp_path, name='toy')
        with pytest.raises(ValueError, match='stage must be'):
            TrainingConfig(stage='galaxies')

    def test_designs_start_from_each_other(self, trained, tmp_path):
        """
        One pass begins a sequence, and a sequence one pass.
        """
        parent, path = weights_of(trained, 'toy'), trained / 'toy.safetensors'
        plain = Encoder(dataclasses.replace(CONFIGS[0], sequence=False))
        start_from(plain, path)
        for key, value in plain.state_dict().items():
            assert torch.equal(value, parent[key]), key
        # Without shapes too: their columns go.
        fewer = Encoder(dataclasses.replace(plain.config, shapes=False))
        start_from(fewer, path)
        key = 'head.source.0.extended.0.weight'
        value = fewer.state_dict()[key]
        assert torch.equal(value, parent[key][:, : value.shape[1]])
        plain.save(tmp_path / 'plain.safetensors')
        again = Encoder(CONFIGS[0])
        start_from(again, tmp_path / 'plain.safetensors')
        again = again.state_dict()
        for key in parent:
            if not key.startswith('sources.'):
                assert torch.equal(again[key], parent[key]), key
