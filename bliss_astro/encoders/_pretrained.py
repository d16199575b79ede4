# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Weights on disk: safetensors with a card, checked by hash.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import torch

from bliss_astro._atomic import atomic_write

from ._network import Encoder, EncoderConfig

__all__ = ['DEFAULT_ENCODER', 'available_encoders', 'load_encoder', 'save_encoder']

DEFAULT_ENCODER = 'stars-galaxies'
"""What `~bliss_astro.detection.detect_sources` takes unless told otherwise."""


def _folder() -> Path:
    return Path(__file__).parent.parent / 'data' / 'encoders'


def available_encoders() -> list[str]:
    """
    Names of the encoders that come with the package.

    Examples
    --------
    >>> from bliss_astro.encoders import available_encoders
    >>> 'stars' in available_encoders()
    True
    """
    return sorted(path.stem for path in _folder().glob('*.safetensors'))


def _card_path(path: Path) -> Path:
    return path.with_suffix('.json')


def save_encoder(encoder, path, *, overwrite=False, dtype='float32'):
    """
    Write an encoder's weights and card.

    Parameters
    ----------
    encoder : `Encoder`
        To be written.

    path : path_like
        Ends in ``.safetensors``; the card goes beside it with the suffix
        ``.json`` and holds the SHA-256 of the weights.

    overwrite : bool, optional
        Replace existing files.

    dtype : {'float32', 'float16'}, optional
        How numbers are kept; half precision halves the file, at relative errors
        of the weights of 5e-4.

    Raises
    ------
    ValueError
        If the suffix is another, or the dtype unknown.
    FileExistsError
        If a file exists and ``overwrite`` is `False`.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != '.safetensors':
        msg = f'path must end in .safetensors, got {path.name!r}'
        raise ValueError(msg)
    if dtype not in ('float32', 'float16'):
        msg = f"dtype must be 'float32' or 'float16', got {dtype!r}"
        raise ValueError(msg)
    state = {
        name: value.detach().cpu().to(getattr(torch, dtype)).contiguous()
        for name, value in encoder.state_dict().items()
    }
    weights = save(state)
    card = {
        'name': path.stem,
        **encoder.card,
        'encoder': dataclasses.asdict(encoder.config),
        'n_parameters': encoder.n_parameters,
        'sha256': hashlib.sha256(weights).hexdigest(),
    }
    for target, content in (
        (path, weights),
        (_card_path(path), (json.dumps(card, indent=2) + '\n').encode()),
    ):
        with atomic_write(target, overwrite=overwrite) as temporary:
            Path(temporary).write_bytes(content)
    encoder.card = card


def _find(name) -> Path:
    text = os.fspath(name)
    if text.endswith('.safetensors') or os.sep in text:
        path = Path(text)
        if not path.is_file():
            msg = f'no such file of weights: {path}'
            raise FileNotFoundError(msg)
        return path
    if text not in available_encoders():
        msg = (
            f'unknown encoder {text!r}: bundled are {", ".join(available_encoders())}; '
            'or give the path of a .safetensors file'
        )
        raise ValueError(msg)
    return _folder() / f'{text}.safetensors'


def load_encoder(name=DEFAULT_ENCODER) -> Encoder:
    """
    Load an encoder by the name of a bundled one or by path.

    Parameters
    ----------
    name : str or path_like, optional
        See `Encoder.from_pretrained`.

    Returns
    -------
    encoder : `Encoder`
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If the name is unknown, the card is missing or unreadable, or the
        weights are not those that the card was written for.
    """
    from safetensors.torch import load

    path = _find(name)
    card_path = _card_path(path)
    try:
        card = json.loads(card_path.read_text())
        expected = card['sha256']
        config = EncoderConfig(**card['encoder'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f'the card {card_path} is missing or damaged: {error}'
        raise ValueError(msg) from error
    weights = path.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != expected:
        msg = (
            f'the weights {path} are corrupted or altered: their SHA-256 is {found}, '
            f'the card says {expected}; reinstall the package or restore the file'
        )
        raise ValueError(msg)
    # Layers draw first weights from torch's global generator: put it back.
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(config)
    encoder.load_state_dict(load(weights))
    encoder.card = card
    return encoder.to(memory_format=torch.channels_last).eval().requires_grad_(False)
