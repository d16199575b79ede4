# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of simulated blends and crowded fields, and of training on them.
"""

import dataclasses
import json
import math

import pytest
import torch

from bliss_astro.encoders import (
    Encoder,
    EncoderConfig,
    EncoderInputs,
    TrainingConfig,
    train_encoder,
)
from bliss_astro.encoders._inputs import EMPTY_LOG_DENSITY
from bliss_astro.posteriors import TileCatalog
from bliss_astro.simulation import SceneStream, SimulationConfig, SimulationStream

BLENDS = SimulationConfig(
    population='npe',
    n_exposures=(1, 1),
    shape=(64, 64),
    bad_pixels=False,
    npe_floor=(0.7, 1.6),
    cluster_fraction=1.0,
    cluster_radius=(8.0, 14.0),
    cluster_crowding=(10.0, 30.0),
)
CROWDED = SimulationConfig(
    n_exposures=(1, 1),
    shape=(48, 48),
    margin=-6,
    density=(0.02, 0.02),
    confined_fraction=0.0,
    unseen=0.3,
)


@pytest.fixture(scope='module')
def blends():
    stream = SceneStream(BLENDS)
    return stream, stream.sample_batch(200, generator=torch.Generator().manual_seed(4))


class TestClusters:
    def test_sources_lie_within_their_circles(self, blends):
        _, scenes = blends
        x, y, radius = scenes.cluster[:, :, None].unbind(1)
        apart = torch.hypot(scenes.x - x, scenes.y - y)
        used = scenes.flux > 0
        assert int(used.sum()) > 100
        assert (apart < radius)[used].all()

    def test_their_number_is_that_of_the_stated_density(self, blends):
        _, scenes = blends
        x, y, radius = scenes.cluster.unbind(1)
        # Circles may reach beyond the images: count pixels.
        row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing='ij')
        inside = torch.hypot(column - x[:, None, None], row - y[:, None, None])
        area = (inside < radius[:, None, None]).sum((1, 2))
        expected = float((scenes.density * area).sum())
        found = int((scenes.flux > 0).sum())
        assert abs(found - expected) < 4 * math.sqrt(expected)

    def test_the_encoder_is_told_where(self, blends):
        _stream, scenes = blends
        told = EncoderInputs.from_batch(scenes).log_density
        assert told.shape == (200, 1, 16, 16)
        catalog = TileCatalog.from_batch(scenes)
        empty = told[:, 0] == EMPTY_LOG_DENSITY
        # Tiles that a circle's edge cuts belong to where most of them lies.
        share = float(catalog.count[empty].sum()) / float(catalog.count.sum())
        assert empty.any()
        assert share < 0.2

    def test_half_have_a_higher_floor(self, blends):
        stream, scenes = blends
        floor = scenes.flux_min / scenes.electrons_per_nmgy
        own = float(stream.priors['npe'].flux_min)
        raised = floor > own * (1 + 1e-4)
        assert abs(float(raised.float().mean()) - 0.5) < 4 * math.sqrt(0.25 / 200)
        assert float(floor.max()) < 1.6
        used = scenes.flux > 0
        lowest = scenes.flux_min[:, None].expand_as(scenes.flux)
        assert (scenes.flux[used] >= lowest[used] * (1 - 1e-5)).all()

    def test_without_clusters_nothing_is_left_out(self):
        config = dataclasses.replace(BLENDS, cluster_fraction=0.0)
        stream = SceneStream(config)
        scenes = stream.sample_batch(8, generator=torch.Generator().manual_seed(1))
        assert scenes.cluster[:, 2].isinf().all()
        assert EncoderInputs.from_batch(scenes).log_density.shape[2:] == (1, 1)


class TestCrowded:
    def test_faint_stars_are_there_but_not_asked_for(self):
        stream = SimulationStream(CROWDED)
        batch = stream._group(40, torch.Generator().manual_seed(2))
        inside = (batch.flux > 0) & (batch.x > -0.5) & (batch.x < 47.5)
        inside &= (batch.y > -0.5) & (batch.y < 47.5)
        seen = inside & (batch.flux >= batch.flux_min[:, None])
        expected = 40 * 48**2 * 0.02
        assert abs(int(seen.sum()) - expected) < 4 * math.sqrt(expected)
        # A power law of index 0.47 down to 0.3 of the floor.
        more = expected * 0.3**-0.47
        assert abs(int(inside.sum()) - more) < 4 * math.sqrt(more)
        catalog = TileCatalog.from_batch(batch, tile_size=2, n_most=4)
        assert float(catalog.log_flux.min()) >= 0
        assert int(catalog.count.sum()) <= int(seen.sum())

    def test_sky_and_psf_are_misstated(self):
        config = dataclasses.replace(CROWDED, sky_error=3.0, psf_error=0.02)
        plain, off = (
            SimulationStream(c)._group(30, torch.Generator().manual_seed(2))
            for c in (CROWDED, config)
        )
        sky = (off.data - plain.data) / plain.bkg_error[:, None, None]
        # The mean size of the error is 2 / 3 of the setting, times a normal number.
        assert 0.7 < float(sky.mean((1, 2)).abs().mean()) < 2.5
        assert float(sky.std((1, 2)).min()) > 0
        ratio = torch.log(off.psf[:, 0] / plain.psf[:, 0])
        assert 0.002 < float(ratio.abs().mean()) < 0.03


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
        dataclasses.replace(BLENDS, shape=(32, 32), cluster_fraction=0.5),
        TrainingConfig(
            n_steps=2, batch_size=8, n_validation=8, validate_every=2, warmup_steps=1
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


@pytest.mark.parametrize(
    ('name', 'value', 'match'),
    [
        ('unseen', 0.0, 'unseen'),
        ('cluster_fraction', 1.5, 'cluster_fraction'),
        ('cluster_radius', (9.0, 3.0), 'cluster_radius'),
        ('npe_floor', (0.0, 1.0), 'npe_floor'),
    ],
)
def test_bad_settings(name, value, match):
    with pytest.raises(ValueError, match=match):
        SimulationConfig(**{name: value})


def test_half_precision_on_disk(tmp_path, sequence_configs):
    encoder = Encoder(sequence_configs[0])
    encoder.save(tmp_path / 'whole.safetensors')
    encoder.save(tmp_path / 'half.safetensors', dtype='float16')
    sizes = [(tmp_path / f'{n}.safetensors').stat().st_size for n in ('half', 'whole')]
    assert sizes[0] < 0.6 * sizes[1]
    half = Encoder.from_pretrained(tmp_path / 'half.safetensors')
    for name, value in half.state_dict().items():
        assert value.dtype == torch.float32
        expected = encoder.state_dict()[name]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match='dtype must be'):
        encoder.save(tmp_path / 'x.safetensors', dtype='int8')
