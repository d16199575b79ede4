# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of training that begins with the weights of another encoder.
"""

import dataclasses

import pytest
import torch

from bliss_astro.encoders import Encoder, EncoderConfig, EncoderInputs
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.posteriors._colours import N_EVIDENCE
from bliss_astro.posteriors._shape_layers import N_ELLIPSE
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.training import train_encoder
from bliss_astro.training._encoder import EncoderTrainer, start_from


@pytest.fixture(scope='module')
def parent(tiny_configs, tmp_path_factory):
    """
    A trained encoder without the matched filter, on disk.
    """
    folder = tmp_path_factory.mktemp('parent')
    config, simulation, training = tiny_configs
    config = dataclasses.replace(config, matched_filter=False)
    train_encoder((config, simulation, training), folder, name='parent')
    return folder / 'parent.safetensors'


def started(configs, parent, **changes):
    encoder, simulation, training = configs
    changes = {'start_from': str(parent)} | changes
    training = dataclasses.replace(training, **changes)
    return encoder, simulation, training


@pytest.fixture(scope='module')
def child(tiny_configs, parent, tmp_path_factory):
    """
    One with the matched filter that started from it, and its folder.
    """
    folder = tmp_path_factory.mktemp('child')
    return train_encoder(started(tiny_configs, parent), folder, name='child'), folder


def test_begins_where_the_other_ended(tiny_configs, parent):
    child, other = Encoder(tiny_configs[0]).eval(), Encoder.from_pretrained(parent)
    start_from(child, parent)
    stream = SimulationStream(tiny_configs[1])
    generator = torch.Generator().manual_seed(3)
    inputs, catalog = training_pair(stream.sample_batch(4, generator=generator))
    with torch.no_grad():
        own = child(inputs).log_prob(catalog)
        expected = other(inputs).log_prob(catalog)
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-3)


def test_the_card_tells_the_origin(child, parent):
    other = Encoder.from_pretrained(parent)
    origin = child[0].card['training']['started_from']
    assert origin['name'] == 'parent'
    assert origin['sha256'] == other.card['sha256']
    assert origin['images_seen'] == other.card['training']['images_seen']
    assert origin['started_from'] is None


def test_the_new_channels_are_trained(child):
    assert child[0].config.matched_filter
    assert child[0].stem_first.weight[:, 12:].abs().max() > 0


def test_resumes(tiny_configs, parent, child):
    straight, folder = child
    configs = started(tiny_configs, parent)
    again = train_encoder(configs, folder, name='child', resume=True)
    for own, other in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, other)


def test_other_sizes(tiny_configs, parent, tmp_path):
    config = dataclasses.replace(tiny_configs[0], width=tiny_configs[0].width + 8)
    configs = started((config, *tiny_configs[1:]), parent)
    with pytest.raises(ValueError, match=r'start_from: the encoder .* other sizes'):
        train_encoder(configs, tmp_path / 'child')


def test_unknown(tiny_configs, tmp_path):
    with pytest.raises(ValueError, match='unknown encoder'):
        train_encoder(started(tiny_configs, 'galaxies-of-mars'), tmp_path / 'child')


def test_not_a_name(tiny_configs):
    with pytest.raises(ValueError, match='start_from must be a text'):
        started(tiny_configs, 'stars', start_from=7)


def test_new_inputs_start_without_influence(tmp_path):
    config = SimulationConfig(
        population='sky', n_exposures=(1, 1), shape=(32, 32), psf_errors=(0.001, 0.15)
    )
    generator = torch.Generator().manual_seed(1)
    inputs = EncoderInputs.from_batch(
        SimulationStream(config).sample_batch(2, generator=generator)
    )
    sizes = {'width': 8, 'n_blocks': 1, 'stem_width': 8, 'head_width': 8}
    sizes |= dict.fromkeys(('galaxies', 'shapes', 'sequence', 'shapes_only'), True)
    torch.manual_seed(1)
    before = Encoder(EncoderConfig(**sizes)).eval()
    before.save(tmp_path / 'before.safetensors')
    after = Encoder(EncoderConfig(**sizes, uncertainties=True)).eval()
    start_from(after, tmp_path / 'before.safetensors')
    with torch.no_grad():
        torch.testing.assert_close(before.features(inputs), after.features(inputs))
    # And they can gain some.
    weight = after.modulation[0].weight
    assert not weight[:, -6:].any()
    weight.data[:, -6:] = 1.0
    with torch.no_grad():
        changed = (
            (after.features(inputs) - before.features(inputs)).abs().amax((1, 2, 3))
        )
    assert (changed > 0).any()


def test_new_conditions_stand_before_the_features_of_the_tile(tmp_path):
    sizes = {'width': 8, 'n_blocks': 1, 'stem_width': 8, 'head_width': 8}
    sizes |= dict.fromkeys(('galaxies', 'shapes', 'sequence'), True)
    before = Encoder(EncoderConfig(**sizes))
    before.save(tmp_path / 'before.safetensors')
    after = Encoder(EncoderConfig(**sizes, uncertainties=True))
    start_from(after, tmp_path / 'before.safetensors')
    old, new = before.state_dict(), after.state_dict()
    keys = [key for key in old if key.endswith('.mix.0.weight') and 'sources' in key]
    assert keys
    for key in keys:
        n = old[key].shape[1] - sizes['width']
        assert torch.equal(new[key][:, :n], old[key][:, :n])
        assert torch.equal(new[key][:, -8:], old[key][:, -8:])
        assert not new[key][:, n:-8].any()
        assert new[key].shape[1] > old[key].shape[1]


def test_bands_start_without_influence(tiny_configs, tmp_path):
    """
    A network of several bands begins with the answer of the reference band.
    """
    sizes = {'width': 8, 'n_blocks': 1, 'stem_width': 8, 'head_width': 8}
    Encoder(EncoderConfig(**sizes)).save(tmp_path / 'before.safetensors')
    config = EncoderConfig(**sizes, bands=True)
    simulation = dataclasses.replace(tiny_configs[1], bands=('g', 'r', 'i'))
    _, *others = started(tiny_configs, tmp_path / 'before.safetensors')
    configs = config, simulation, others[1]
    trainer = EncoderTrainer(configs, device='cpu')
    inputs, *_ = trainer.draw(6)
    assert inputs.present[:, 1:].any()
    before = Encoder.from_pretrained(tmp_path / 'before.safetensors')
    with torch.no_grad():
        own, expected = (e.features(inputs) for e in (trainer.model, before))
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    encoder = train_encoder(configs, tmp_path, name='bands')
    assert encoder.config.bands
    assert encoder.bands.to_tiles.weight.any()
    assert encoder.card['simulation']['bands'] == ['g', 'r', 'i']


def test_bands_are_left_out():
    """
    An encoder of one band that starts from the default sees what that sees in r.
    """
    default = Encoder.from_pretrained('stars-galaxies')
    one = Encoder(dataclasses.replace(default.config, bands=False))
    origin, given = start_from(one, 'stars-galaxies')
    assert origin['sha256'] == default.card['sha256']
    assert given == set(one.state_dict())
    one.card = default.card
    stream = SimulationStream(SimulationConfig(shape=(48, 48), population='both'))
    drawn = stream.sample_batch(2, generator=torch.Generator().manual_seed(3))
    inputs, catalog = training_pair(drawn)
    with torch.no_grad():
        expected, found = (e.eval()(inputs).log_prob(catalog) for e in (default, one))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('other', [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize('own', [(True, True), (True, False), (False, True)])
def test_inputs_of_types_with_and_without_shapes_and_bands(own, other, tmp_path):
    """
    Evidence of colours, and ellipses, go to their own inputs, or are new.
    """
    sizes = {'width': 8, 'n_blocks': 1, 'stem_width': 8, 'head_width': 8}

    def encoder_of(bands, shapes):
        return Encoder(
            EncoderConfig(**sizes, galaxies=True, bands=bands, shapes=shapes)
        )

    def parts(encoder, bands, shapes):
        weight = encoder.head.source[0]['extended'][0].weight.detach()
        n_first = weight.shape[1] - N_ELLIPSE * shapes - N_EVIDENCE * bands
        counts = [n_first, N_ELLIPSE * shapes, N_EVIDENCE * bands]
        return weight.split(counts, 1)

    before, after = encoder_of(*other), encoder_of(*own)
    before.save(tmp_path / 'before.safetensors')
    start_from(after, tmp_path / 'before.safetensors')
    for old, new in zip(parts(before, *other), parts(after, *own), strict=True):
        if not new.shape[1]:
            continue
        # Weights in files have three digits.
        expected = old if old.shape[1] else torch.zeros_like(new)
        torch.testing.assert_close(new, expected, rtol=1e-3, atol=1e-3)
