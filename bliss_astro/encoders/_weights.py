# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Weights of networks on disk: safetensors and a card, replaced together.
"""

import hashlib
import json
from pathlib import Path

from bliss_astro._atomic import atomic_write

__all__ = ['read_weights', 'write_weights']

# Keys of the metadata of a safetensors file.
_CARD, _DIGEST = 'card', 'digest'


def write_weights(path, state, card, *, overwrite=False):
    """
    Write weights with their card in them, and the card beside them to be read.

    The file of weights is whole by itself: a process that is killed between the
    two files leaves either the old pair, or the new weights with the new card in
    them.

    Parameters
    ----------
    path : path_like
        Ends in ``.safetensors``; the card goes beside it as ``.json``.

    state : dict of str to `torch.Tensor`
        The weights, contiguous and on the CPU.

    card : dict
        Plain values.

    overwrite : bool, optional
        Replace existing files.

    Returns
    -------
    card : dict
        The card with ``'sha256'``, the hash of the file of weights.

    Raises
    ------
    ValueError
        If the suffix is another.
    FileExistsError
        If one of both files exists and ``overwrite`` is `False`.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != '.safetensors':
        msg = f'path must end in .safetensors, got {path.name!r}'
        raise ValueError(msg)
    beside = path.with_suffix('.json')
    if beside.exists() and not overwrite:
        msg = f'File {beside} already exists; pass overwrite=True to replace it.'
        raise FileExistsError(msg)
    # That of a file that the weights were read from.
    card = {key: value for key, value in card.items() if key != 'sha256'}
    text = json.dumps(card)
    content = _split(save(state))[1:]
    weights = _join({_CARD: text, _DIGEST: _digest(text, *content)}, *content)
    card = {**card, 'sha256': hashlib.sha256(weights).hexdigest()}
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(weights)
    with atomic_write(beside, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + '\n')
    return card


def read_weights(path):
    """
    Read weights and the card that belongs to them.

    Parameters
    ----------
    path : path_like
        The file of weights.

    Returns
    -------
    state : dict of str to `torch.Tensor`
        The weights.

    card : dict
        The card beside them if its hash is theirs, or else the one in them.

    Raises
    ------
    ValueError
        If there is no card that belongs to the weights: they were altered, or the
        card is missing or damaged.
    """
    from safetensors.torch import load

    path = Path(path)
    weights = path.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    beside = path.with_suffix('.json')
    try:
        card = json.loads(beside.read_text())
        expected = card['sha256']
    except (OSError, ValueError, LookupError, TypeError) as error:
        expected, problem = None, error
    if expected != found:
        card = _own_card(weights)
        if card is None and expected is None:
            msg = f'the card {beside} is missing or damaged: {problem}'
            raise ValueError(msg)
        if card is None:
            msg = (
                f'the weights {path} are corrupted or altered: their SHA-256 is '
                f'{found}, the card says {expected}; reinstall the package or restore '
                'the file'
            )
            raise ValueError(msg)
        card = {**card, 'sha256': found}
    return load(weights), card


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


def _own_card(weights):
    """Card in a file of weights, or `None` if there is none or it was altered."""
    try:
        metadata, *content = _split(weights)
        text = metadata[_CARD]
        if _digest(text, *content) == metadata[_DIGEST]:
            return json.loads(text)
    except (ValueError, LookupError, AttributeError, TypeError):
        pass
    return None
