# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of weights on disk.
"""

import json
from pathlib import Path

import pytest
import torch

import bliss_astro
from bliss_astro.encoders import Encoder, available_encoders, load_encoder

FOLDER = Path(bliss_astro.__file__).parent / 'data' / 'encoders'


@pytest.fixture
def saved(tiny_encoder, tmp_path):
    tiny_encoder.card = {'description': 'a toy'}
    path = tmp_path / 'toy.safetensors'
    tiny_encoder.save(path)
    return path


def test_there_and_back(saved, tiny_encoder):
    loaded = Encoder.from_pretrained(saved)
    assert loaded.config == tiny_encoder.config
    state = tiny_encoder.state_dict()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name])
    assert loaded.name == 'toy'
    assert loaded.card['description'] == 'a toy'
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())


def test_path_as_text(saved):
    assert Encoder.from_pretrained(str(saved)).name == 'toy'


def test_card(saved):
    card = json.loads(saved.with_suffix('.json').read_text())
    assert len(card['sha256']) == 64
    assert card['encoder']['width'] == 8
    assert card['n_parameters'] > 0


def test_nothing_but_the_two_files(saved):
    names = sorted(path.name for path in saved.parent.iterdir())
    assert names == ['toy.json', 'toy.safetensors']


@pytest.mark.parametrize('where', [8, 2000, -1])
def test_an_altered_byte(saved, where):
    content = bytearray(saved.read_bytes())
    content[where] ^= 1
    saved.write_bytes(bytes(content))
    with pytest.raises(ValueError, match='corrupted or altered'):
        load_encoder(saved)


def test_truncated(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match='corrupted or altered'):
        load_encoder(saved)


def test_missing_card(saved):
    saved.with_suffix('.json').unlink()
    with pytest.raises(ValueError, match=r'card .* is missing or damaged'):
        load_encoder(saved)


@pytest.mark.parametrize(
    'content',
    ['', '{', '{}', '[]', '{"sha256": "0", "encoder": {"colour": 3}}', '"text"'],
)
def test_damaged_card(saved, content):
    saved.with_suffix('.json').write_text(content)
    with pytest.raises(ValueError, match=r'card .* is missing or damaged'):
        load_encoder(saved)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown encoder 'galaxy'.*stars"):
        load_encoder('galaxy')


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        load_encoder(tmp_path / 'none.safetensors')


def test_wrong_suffix(tiny_encoder, tmp_path):
    with pytest.raises(ValueError, match=r'must end in \.safetensors'):
        tiny_encoder.save(tmp_path / 'weights.pt')
    assert not list(tmp_path.iterdir())


def test_does_not_overwrite(saved, tiny_encoder):
    before = saved.read_bytes()
    with torch.no_grad():
        tiny_encoder.to_tiles.bias.add_(1)
    with pytest.raises(FileExistsError):
        tiny_encoder.save(saved)
    assert saved.read_bytes() == before
    tiny_encoder.save(saved, overwrite=True)
    assert saved.read_bytes() != before
    load_encoder(saved)


class TestBundled:
    def test_list(self):
        assert 'stars' in available_encoders()

    @pytest.mark.parametrize('name', available_encoders())
    def test_each(self, name):
        encoder = load_encoder(name)
        assert encoder.name == name
        assert encoder.config.tile_size in (2, 4)
        path = FOLDER / f'{name}.safetensors'
        assert path.stat().st_size <= 5e6
        for key in ('sha256', 'simulation', 'training', 'versions', 'validation_loss'):
            assert key in encoder.card
        for value in encoder.parameters():
            assert torch.isfinite(value).all()

    def test_no_pickles(self):
        """
        Whatever unpickles can run code: only safetensors and JSON ship.
        """
        suffixes = {path.suffix for path in FOLDER.rglob('*') if path.is_file()}
        assert suffixes <= {'.safetensors', '.json'}
        for path in FOLDER.glob('*.safetensors'):
            size = int.from_bytes(path.read_bytes()[:8], 'little')
            json.loads(path.read_bytes()[8 : 8 + size])
