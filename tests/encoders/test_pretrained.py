# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of weights on disk.
"""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
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


def test_same_weights_same_file(saved, tiny_encoder):
    before = saved.read_bytes()
    for _ in range(8):
        tiny_encoder.save(saved, overwrite=True)
        assert saved.read_bytes() == before
    with safetensors.safe_open(saved, 'pt') as file:
        assert set(file.metadata()) == {'card', 'digest'}


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


@pytest.fixture
def bare(saved):
    """
    Weights without the card in them, as earlier versions wrote them.
    """
    weights = safetensors.torch.save(safetensors.torch.load(saved.read_bytes()))
    saved.write_bytes(weights)
    beside = saved.with_suffix('.json')
    card = json.loads(beside.read_text())
    card['sha256'] = hashlib.sha256(weights).hexdigest()
    beside.write_text(json.dumps(card))
    return saved


def test_without_the_card_in_the_weights(bare):
    assert load_encoder(bare).card['description'] == 'a toy'


def test_missing_card(bare):
    bare.with_suffix('.json').unlink()
    with pytest.raises(ValueError, match=r'card .* is missing or damaged'):
        load_encoder(bare)


def test_card_in_the_weights(saved):
    """
    One file is enough, and it comes first.
    """
    whole = load_encoder(saved).card
    for content in ('', '{"sha256": "0"}'):
        saved.with_suffix('.json').write_text(content)
        assert load_encoder(saved).card == whole
    saved.with_suffix('.json').unlink()
    assert load_encoder(saved).card == whole


@pytest.mark.parametrize('step', range(4))
def test_killed_between_the_files(saved, tiny_encoder, monkeypatch, step):
    """
    The old pair or the new one, wherever the process ends.
    """

    class Killed(BaseException):
        pass

    old = load_encoder(saved)
    with torch.no_grad():
        tiny_encoder.to_tiles.bias.add_(1)
    tiny_encoder.card = {'description': 'another toy'}
    calls, replace = [], Path.replace

    def deadly(self, target):
        calls.append(target)
        if len(calls) == 1 + step // 2:
            if step % 2:
                replace(self, target)
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'replace', deadly)
        with pytest.raises(Killed):
            tiny_encoder.save(saved, overwrite=True)
    found = load_encoder(saved)
    expected, description = (
        (old, 'a toy') if step == 0 else (tiny_encoder, 'another toy')
    )
    assert torch.equal(found.to_tiles.bias, expected.to_tiles.bias)
    assert found.card['description'] == description


def test_card_in_the_weights_is_checked(saved):
    """
    An altered card is no card, although the weights are as they were.
    """
    saved.with_suffix('.json').unlink()
    content = saved.read_bytes()
    saved.write_bytes(content.replace(b'a toy', b'A toy'))
    with pytest.raises(ValueError, match=r'card .* is missing or damaged'):
        load_encoder(saved)


def test_weights_of_another_size(saved, tmp_path):
    card = json.loads(saved.with_suffix('.json').read_text())
    card['encoder']['width'] = 16
    saved.with_suffix('.json').write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r'toy\.safetensors do not fit their card'):
        load_encoder(saved)


@pytest.mark.parametrize(
    'content',
    ['', '{', '{}', '[]', '{"sha256": "0", "encoder": {"colour": 3}}', '"text"'],
)
def test_damaged_card(bare, content):
    bare.with_suffix('.json').write_text(content)
    with pytest.raises(ValueError, match=r'toy.*(missing or damaged|altered)'):
        load_encoder(bare)


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
    # Either file is reason enough.
    before = saved.read_bytes()
    saved.unlink()
    with pytest.raises(FileExistsError, match=r'toy\.json'):
        tiny_encoder.save(saved)
    assert not saved.exists()
    saved.write_bytes(before)


def test_half_precision_on_disk(tmp_path, tiny_encoder):
    tiny_encoder.save(tmp_path / 'whole.safetensors')
    tiny_encoder.save(tmp_path / 'half.safetensors', dtype='float16')
    sizes = [(tmp_path / f'{n}.safetensors').stat().st_size for n in ('half', 'whole')]
    assert sizes[0] < 0.6 * sizes[1]
    half = Encoder.from_pretrained(tmp_path / 'half.safetensors')
    for name, value in half.state_dict().items():
        assert value.dtype == torch.float32
        expected = tiny_encoder.state_dict()[name]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match='dtype must be'):
        tiny_encoder.save(tmp_path / 'x.safetensors', dtype='int8')


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
