# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Weights on disk: safetensors with a card, checked by hash.
"""

import dataclasses
import os
from pathlib import Path

import torch

from ._network import Encoder, EncoderConfig
from ._weights import read_weights, write_weights

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


def save_encoder(encoder, path, *, overwrite=False, dtype='float32'):
    """
    Write an encoder's weights and card.

    Parameters
    ----------
    encoder : `Encoder`
        To be written.

    path : path_like
        Ends in ``.safetensors``; the card goes into it, and beside it with the
        suffix ``.json``, where it holds the SHA-256 of the weights.

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
    if dtype not in ('float32', 'float16'):
        msg = f"dtype must be 'float32' or 'float16', got {dtype!r}"
        raise ValueError(msg)
    state = {
        name: value.detach().cpu().to(getattr(torch, dtype)).contiguous()
        for name, value in encoder.state_dict().items()
    }
    card = {
        'name': Path(path).stem,
        **encoder.card,
        'encoder': dataclasses.asdict(encoder.config),
        'n_parameters': encoder.n_parameters,
    }
    encoder.card = write_weights(path, state, card, overwrite=overwrite)


def find_encoder(name) -> Path:
    """
    Find the file of an encoder.

    Parameters
    ----------
    name : str or path_like
        Name of a bundled encoder, or a path.

    Returns
    -------
    path : `~pathlib.Path`
        The file of weights.

    Raises
    ------
    ValueError
        If there is no encoder of that name.
    FileNotFoundError
        If there is no such file.
    """
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
    path = find_encoder(name)
    state, card = read_weights(path)
    try:
        config = EncoderConfig(**card['encoder'])
    except (ValueError, KeyError, TypeError) as error:
        msg = f'the card {path.with_suffix(".json")} is missing or damaged: {error}'
        raise ValueError(msg) from error
    # Layers draw first weights from torch's global generator: put it back.
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(config)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        msg = f'the weights {path} do not fit their card: {str(error).splitlines()[-1]}'
        raise ValueError(msg) from error
    encoder.card = card
    return encoder.to(memory_format=torch.channels_last).eval().requires_grad_(False)
