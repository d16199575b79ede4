# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Weights of networks on disk: safetensors files and their cards (JSON).

A card lies beside the file of weights and holds its SHA-256; the same card stands in
the metadata of the file. Several cards, one for each design of a network, may name
the same file by their key ``weights``: each design loads the tensors that it has.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import torch

from bliss_astro._arguments import check_choice, require
from bliss_astro._atomic import atomic_write

DEFAULT_ENCODER = 'stars-galaxies'
"""Encoder that `~bliss_astro.detection.detect_sources` takes by default."""

# Keys of the metadata of a safetensors file.
_CARD, _DIGEST = 'card', 'digest'


class CardedNetwork(torch.nn.Module):
    """A network with a card, which says how it was trained."""

    def __init__(self):
        super().__init__()
        self.card = {}

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters())

    @property
    def name(self) -> str:
        """Name on the card, or ``'untitled'``."""
        return self.card.get('name', 'untitled')


@dataclasses.dataclass(frozen=True)
class NetworkKind:
    """
    Kind of networks: how they are named, listed, found, loaded and saved.

    Attributes
    ----------
    title : str
        Name of the kind in messages.

    section : str
        Key of the network's configuration on its card.

    folder : str
        Folder of the bundled ones below ``data``.
    """

    title: str
    section: str
    folder: str

    def bundled(self) -> Path:
        """Return the folder of the networks that come with the package."""
        return Path(__file__).parent.parent / 'data' / self.folder

    def available(self) -> list[str]:
        """Return the names of the networks that come with the package."""
        return sorted(path.stem for path in self.bundled().glob('*.json'))

    def find(self, name) -> Path:
        """
        Return the card of a network.

        Parameters
        ----------
        name : str or path_like
            Name of a bundled network, or path of a file of weights or of a card.

        Returns
        -------
        path : `~pathlib.Path`
            The card; one beside a file of weights need not exist.

        Raises
        ------
        ValueError
            If there is no network of that name.
        FileNotFoundError
            If there is no such file.
        """
        text = os.fspath(name)
        if text.endswith(('.safetensors', '.json')) or os.sep in text:
            if not Path(text).is_file():
                raise FileNotFoundError(f'no such file of weights: {text}')
            return Path(text).with_suffix('.json')
        if text not in self.available():
            known = ', '.join(self.available())
            msg = (
                f'unknown {self.title} {text!r}: bundled are {known}; or give the path '
                'of a .safetensors file'
            )
            raise ValueError(msg)
        return self.bundled() / f'{text}.json'

    def read_card(self, name) -> dict:
        """Return the card of a bundled network, without its weights."""
        return json.loads(self.find(name).read_text())

    def load(self, name, make):
        """
        Load a network.

        Parameters
        ----------
        name : str or path_like
            As in `find`.

        make : callable
            Returns the network of the configuration on the card, a dict.

        Returns
        -------
        network : `torch.nn.Module`
            On the CPU, in evaluation mode, with its ``card``.

        Raises
        ------
        ValueError
            If the name is unknown, the card is missing or damaged, or the weights
            are not those that it was written for.
        """
        beside = self.find(name)
        state, card, path = _read(beside)
        try:
            # Layers draw first weights from torch's global generator: put it back.
            with torch.random.fork_rng(devices=[]):
                network = make(card[self.section])
        except (ValueError, KeyError, TypeError) as error:
            msg = f'the card {beside} is missing or damaged: {error}'
            raise ValueError(msg) from error
        try:
            network.load_state_dict({k: state[k] for k in network.state_dict()})
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            msg = f'the weights {path} do not fit their card {beside}: {reason}'
            raise ValueError(msg) from error
        network.card = card
        return network.eval().requires_grad_(False)

    def save(self, path, networks, *, overwrite=False, dtype='float32'):
        """
        Write the weights of a network, or of designs that share them, with cards.

        Parameters
        ----------
        path : path_like
            Ends in ``.safetensors``. The first card has its name, the others those
            of their networks.

        networks : list of `torch.nn.Module`
            Networks with a ``card``, equal where they have the same tensors; their
            cards are completed.

        overwrite : bool, optional
            Replace existing files.

        dtype : {'float32', 'float16'}, optional
            Number format on disk; half precision halves the file, at relative
            errors of the weights of 5e-4.

        Raises
        ------
        ValueError
            If the suffix or the format is another, names are the same, or the
            networks differ in a tensor.
        FileExistsError
            If a file exists and ``overwrite`` is `False`.
        """
        path = Path(path)
        sound = path.suffix == '.safetensors'
        require(sound, 'path', 'end in .safetensors', f'{path.name!r}')
        check_choice('dtype', dtype, ('float32', 'float16'))
        cards = {}
        for network in networks:
            card = {'name': path.stem, **network.card}
            card[self.section] = dataclasses.asdict(network.config)
            card['n_parameters'] = network.n_parameters
            card = {k: v for k, v in card.items() if k not in ('sha256', 'weights')}
            beside = path.with_suffix('.json')
            if cards:
                beside = path.with_name(f'{card["name"]}.json')
                card['weights'] = path.name
            if beside in cards:
                msg = f'designs that share weights need names of their own: {beside}'
                raise ValueError(msg)
            cards[beside] = card
        state = _joined_state(networks, getattr(torch, dtype))
        digest = _write(path, state, cards, overwrite=overwrite)
        for network, card in zip(networks, cards.values(), strict=True):
            network.card = {**card, 'sha256': digest}


ENCODERS = NetworkKind('encoder', 'encoder', 'encoders')
GALAXY_MODELS = NetworkKind('galaxy model', 'galaxies', 'galaxies')


def available_encoders() -> list[str]:
    """
    Names of the encoders that come with the package.

    Returns
    -------
    names : list of str
        In alphabetical order.

    Examples
    --------
    >>> from bliss_astro.encoders import available_encoders
    >>> 'stars' in available_encoders()
    True
    """
    return ENCODERS.available()


def _joined_state(networks, dtype):
    """Tensors of all networks, which agree where they have the same."""
    state = {}
    for network in networks:
        for key, value in network.state_dict().items():
            if key in state and not torch.equal(state[key], value):
                raise ValueError(f'designs that share weights must not differ in {key}')
            state[key] = value
    return {k: v.detach().cpu().to(dtype).contiguous() for k, v in state.items()}


def _write(path, state, cards, *, overwrite):
    """
    Write weights with their cards in them, then the cards; return the SHA-256.

    The file of weights is whole by itself: a process that is killed between the
    files leaves either the old ones, or the new weights with the new cards in them.
    """
    from safetensors.torch import save

    for beside in cards:
        if beside.exists() and not overwrite:
            msg = f'File {beside} already exists; pass overwrite=True to replace it.'
            raise FileExistsError(msg)
    values = list(cards.values())
    text = json.dumps(values if len(values) > 1 else values[0])
    _, *content = _split(save(state))
    weights = _join({_CARD: text, _DIGEST: _digest(text, *content)}, *content)
    digest = hashlib.sha256(weights).hexdigest()
    contents = {path: weights}
    for beside, card in cards.items():
        text = json.dumps({**card, 'sha256': digest}, indent=2)
        contents[beside] = (text + '\n').encode()
    for target, content in contents.items():
        with atomic_write(target, overwrite=overwrite) as temporary:
            temporary.write_bytes(content)
    return digest


def _read(beside):
    """
    Return the weights of a card, the card and the path of the weights.

    The card is the one beside the weights if it holds their hash, or else the one
    in them.
    """
    from safetensors.torch import load

    path = beside.with_suffix('.safetensors')
    try:
        card = json.loads(beside.read_text())
        expected = card['sha256']
        # A file of the same folder, whatever a card says.
        path = beside.with_name(Path(card.get('weights', path.name)).name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        expected, problem = None, error
    weights = path.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if expected != found:
        card = _own_card(weights, '' if beside.stem == path.stem else beside.stem)
        if card is None:
            hashes = f'SHA-256 {found}, not {expected}'
            msg = f'the weights {path} are corrupted or altered ({hashes}): restore it'
            if expected is None:
                msg = f'the card {beside} is missing or damaged: {problem}'
            raise ValueError(msg)
        card = {**card, 'sha256': found}
    return load(weights), card, path


def _split(weights):
    """Metadata, description of the tensors, and their bytes."""
    size = int.from_bytes(weights[:8], 'little')
    header = json.loads(weights[8 : 8 + size])
    return header.pop('__metadata__', {}), header, weights[8 + size :]


def _join(metadata, tensors, data):
    """A file of these, the same each time: safetensors shuffles the metadata."""
    header = json.dumps({'__metadata__': metadata, **tensors}, separators=(',', ':'))
    # Tensors begin at a multiple of eight bytes.
    header += ' ' * (-len(header) % 8)
    return len(header).to_bytes(8, 'little') + header.encode() + data


def _digest(text, tensors, data):
    """Hash of all that a file holds but for the hash itself."""
    parts = (text.encode(), json.dumps(tensors, sort_keys=True).encode(), data)
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()


def _own_card(weights, name):
    """First card in a file of weights, or that of a name; `None` if it was altered."""
    try:
        metadata, *content = _split(weights)
        text = metadata[_CARD]
        if _digest(text, *content) != metadata[_DIGEST]:
            return None
        cards = json.loads(text)
        cards = cards if isinstance(cards, list) else [cards]
        return next(card for card in cards if name in ('', card['name']))
    except (ValueError, LookupError, AttributeError, TypeError, StopIteration):
        return None
