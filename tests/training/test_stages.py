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


@pytest.fixture
def sequence_configs():
    return (
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
            n_steps=2, batch_size=4, n_validation=8, validate_every=2, warmup_steps=1
        ),
    )


def weights_of(folder, name):
    return Encoder.from_pretrained(folder / f'{name}.safetensors').state_dict()


class TestStages:
    @pytest.mark.parametrize('stage', ['all', 'detection', 'sources'])
    def test_only_the_stage_moves(self, sequence_configs, tmp_path, stage):
        encoder, simulation, training = sequence_configs
        training = dataclasses.replace(training, stage=stage)
        torch.manual_seed(training.seed)
        train_encoder((encoder, simulation, training), tmp_path, name='toy')
        after = weights_of(tmp_path, 'toy')
        torch.manual_seed(training.seed)
        before = Encoder(encoder).state_dict()
        moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
        own = {k for k in after if k.startswith('sources.')}
        assert bool(moved & own) == (stage != 'detection')
        assert bool(moved - own) == (stage != 'sources')

    def test_new_parameters_alone(self, sequence_configs, tmp_path):
        """
        The encoders of a sequence are trained on a trunk that has shapes alone.
        """
        encoder, simulation, training = sequence_configs
        torch.manual_seed(5)
        trunk = Encoder(dataclasses.replace(encoder, shapes_only=True))
        trunk.save(tmp_path / 'trunk.safetensors')
        training = dataclasses.replace(
            training, stage='new', start_from=str(tmp_path / 'trunk.safetensors')
        )
        train_encoder((encoder, simulation, training), tmp_path / 'a', name='toy')
        before, after = trunk.state_dict(), weights_of(tmp_path / 'a', 'toy')
        for key, value in before.items():
            assert torch.equal(after[key], value), key
        first = tmp_path / 'first'
        training = dataclasses.replace(training, learning_rate=1e-12)
        train_encoder((encoder, simulation, training), first, name='toy')
        new = set(after) - set(before)
        assert new
        unmoved = weights_of(first, 'toy')
        assert any(not torch.equal(after[key], unmoved[key]) for key in new)
        training = dataclasses.replace(
            training, start_from=str(tmp_path / 'a' / 'toy.safetensors')
        )
        with pytest.raises(ValueError, match='has all parameters already'):
            train_encoder((encoder, simulation, training), tmp_path / 'b')
        with pytest.raises(ValueError, match="stage = 'new' needs start_from"):
            TrainingConfig(stage='new')

    def test_log_tells_all_terms(self, sequence_configs, tmp_path):
        train_encoder(sequence_configs, tmp_path, name='toy')
        lines = [
            json.loads(t) for t in (tmp_path / 'log.jsonl').read_text().split('\n') if t
        ]
        terms = lines[-1]['validation']
        parts = {k: v for k, v in terms.items() if k not in ('loss', 'start')}
        assert {'count', 'shape', 'source_type', 'source_ellipticity'} <= set(parts)
        assert terms['loss'] == pytest.approx(sum(parts.values()))

    def test_one_pass_has_no_stages(self, sequence_configs, tmp_path):
        encoder, simulation, training = sequence_configs
        encoder = dataclasses.replace(encoder, sequence=False)
        training = dataclasses.replace(training, stage='sources')
        with pytest.raises(ValueError, match='sequence = true'):
            train_encoder((encoder, simulation, training), tmp_path, name='toy')
        with pytest.raises(ValueError, match='stage must be'):
            TrainingConfig(stage='galaxies')

    def test_designs_start_from_each_other(self, sequence_configs, tmp_path):
        """
        One pass begins a sequence, and a sequence one pass.
        """
        encoder, simulation, training = sequence_configs
        train_encoder(sequence_configs, tmp_path / 'a', name='parent')
        still = dataclasses.replace(
            training,
            learning_rate=1e-12,
            n_steps=1,
            start_from=str(tmp_path / 'a' / 'parent.safetensors'),
        )
        parent = weights_of(tmp_path / 'a', 'parent')
        plain = dataclasses.replace(encoder, sequence=False)
        train_encoder((plain, simulation, still), tmp_path / 'b', name='child')
        child = weights_of(tmp_path / 'b', 'child')
        for key, value in child.items():
            torch.testing.assert_close(value, parent[key], msg=key)
        # Without shapes too: their columns go.
        fewer = dataclasses.replace(plain, shapes=False)
        train_encoder((fewer, simulation, still), tmp_path / 'c', name='child')
        child = weights_of(tmp_path / 'c', 'child')
        key = 'head.source.0.extended.0.weight'
        torch.testing.assert_close(child[key], parent[key][:, : child[key].shape[1]])
        still = dataclasses.replace(
            still, start_from=str(tmp_path / 'b' / 'child.safetensors')
        )
        train_encoder((encoder, simulation, still), tmp_path / 'd', name='again')
        again = weights_of(tmp_path / 'd', 'again')
        for key in parent:
            if not key.startswith('sources.'):
                torch.testing.assert_close(again[key], parent[key], msg=key)
