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

from bliss_astro.encoders import Encoder, EncoderConfig, available_encoders
from bliss_astro.encoders._weights import ENCODERS

FOLDER = ENCODERS.bundled()


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
        Encoder.from_pretrained(saved)


def test_truncated(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match='corrupted or altered'):
        Encoder.from_pretrained(saved)


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
    assert Encoder.from_pretrained(bare).card['description'] == 'a toy'


def test_missing_card(bare):
    bare.with_suffix('.json').unlink()
    with pytest.raises(ValueError, match=r'card .* is missing or damaged'):
        Encoder.from_pretrained(bare)


def test_card_in_the_weights(saved):
    """
    One file is enough, and it comes first.
    """
    whole = Encoder.from_pretrained(saved).card
    for content in ('', '{"sha256": "0"}'):
        saved.with_suffix('.json').write_text(content)
        assert Encoder.from_pretrained(saved).card == whole
    saved.with_suffix('.json').unlink()
    assert Encoder.from_pretrained(saved).card == whole


@pytest.mark.parametrize('step', range(4))
def test_killed_between_the_files(saved, tiny_encoder, monkeypatch, step):
    """
    The old pair or the new one, wherever the process ends.
    """

    class Killed(BaseException):
        pass

    old = Encoder.from_pretrained(saved)
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
    found = Encoder.from_pretrained(saved)
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
        Encoder.from_pretrained(saved)


def test_weights_of_another_size(saved, tmp_path):
    card = json.loads(saved.with_suffix('.json').read_text())
    card['encoder']['width'] = 16
    saved.with_suffix('.json').write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r'toy\.safetensors do not fit their card'):
        Encoder.from_pretrained(saved)


@pytest.mark.parametrize(
    'content',
    ['', '{', '{}', '[]', '{"sha256": "0", "encoder": {"colour": 3}}', '"text"'],
)
def test_damaged_card(bare, content):
    bare.with_suffix('.json').write_text(content)
    with pytest.raises(ValueError, match=r'toy.*(missing or damaged|altered)'):
        Encoder.from_pretrained(bare)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown encoder 'galaxy'.*stars"):
        Encoder.from_pretrained('galaxy')


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        Encoder.from_pretrained(tmp_path / 'none.safetensors')


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
    Encoder.from_pretrained(saved)
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


SIZES = {'width': 8, 'n_blocks': 1, 'stem_width': 8, 'head_width': 8}


class TestSharedWeights:
    """
    One file of weights with a card for each design.
    """

    @pytest.fixture
    def designs(self, tmp_path):
        torch.manual_seed(3)
        names = dict.fromkeys(('galaxies', 'shapes', 'sequence'), True)
        sequence = Encoder(EncoderConfig(**SIZES, **names))
        plain = sequence.with_design(sequence=False)
        plain.card, sequence.card = {'name': 'plain'}, {'name': 'sequence'}
        plain.save(tmp_path / 'plain.safetensors', designs=[sequence])
        return plain, sequence

    def test_each_card_loads_its_tensors(self, designs, tmp_path):
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ['plain.json', 'plain.safetensors', 'sequence.json']
        for encoder, file in zip(
            designs, ('plain.safetensors', 'sequence.json'), strict=True
        ):
            loaded = Encoder.from_pretrained(tmp_path / file)
            assert (loaded.name, loaded.config) == (encoder.name, encoder.config)
            assert loaded.state_dict().keys() == encoder.state_dict().keys()
            for key, value in loaded.state_dict().items():
                assert torch.equal(value, encoder.state_dict()[key])
        cards = [json.loads((tmp_path / f'{e.name}.json').read_text()) for e in designs]
        assert cards[0]['sha256'] == cards[1]['sha256'] == designs[1].card['sha256']
        assert cards[1]['weights'] == 'plain.safetensors'
        assert 'weights' not in cards[0]

    def test_cards_in_the_weights(self, designs, tmp_path):
        for name in ('plain', 'sequence'):
            path = tmp_path / f'{name}.json'
            card = json.loads(path.read_text())
            path.write_text(json.dumps({**card, 'sha256': '0' * 64, 'note': 'other'}))
            loaded = Encoder.from_pretrained(path)
            assert loaded.name == name
            assert loaded.card['sha256'] == card['sha256']
            assert 'note' not in loaded.card

    def test_listed_by_cards(self, designs, tmp_path, monkeypatch):
        monkeypatch.setattr(type(ENCODERS), 'bundled', lambda self: tmp_path)
        assert available_encoders() == ['plain', 'sequence']
        assert Encoder.from_pretrained('sequence').config.sequence
        assert ENCODERS.read_card('sequence')['name'] == 'sequence'

    def test_other_weights(self, designs, tmp_path):
        plain, sequence = designs
        with torch.no_grad():
            plain.to_tiles.bias.add_(1)
        with pytest.raises(ValueError, match=r'must not differ in to_tiles\.bias'):
            plain.save(tmp_path / 'x.safetensors', designs=[sequence])
        plain.card['name'] = 'x'
        with pytest.raises(ValueError, match='names of their own'):
            plain.save(tmp_path / 'x.safetensors', designs=[plain])
        assert not (tmp_path / 'x.safetensors').exists()

    def test_altered_weights(self, designs, tmp_path):
        path = tmp_path / 'plain.safetensors'
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        for name in ('plain', 'sequence'):
            with pytest.raises(ValueError, match='corrupted or altered'):
                Encoder.from_pretrained(tmp_path / f'{name}.json')


def test_cards_of_earlier_versions(saved):
    card = json.loads(saved.with_suffix('.json').read_text())
    card['encoder']['told'] = card['encoder'].pop('conditioning')
    saved.with_suffix('.json').write_text(json.dumps(card))
    assert Encoder.from_pretrained(saved).config.conditioning == 'all'


class TestBundled:
    def test_list(self):
        assert 'stars' in available_encoders()

    @pytest.mark.parametrize('name', available_encoders())
    def test_each(self, name):
        encoder = Encoder.from_pretrained(name)
        assert encoder.name == name
        assert encoder.config.tile_size in (2, 4)
        path = FOLDER / encoder.card.get('weights', f'{name}.safetensors')
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
