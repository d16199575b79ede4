# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxy models on disk: safetensors with a card, checked by hash.
"""

import dataclasses
import os
from pathlib import Path

from bliss_astro.encoders._weights import read_weights, write_weights

from ._autoencoder import GalaxyAutoencoder
from ._config import GalaxyModelConfig

__all__ = ['available_galaxy_models', 'load_galaxies', 'save_galaxies']


def _folder() -> Path:
    return Path(__file__).parent.parent / 'data' / 'galaxies'


def available_galaxy_models() -> list[str]:
    """
    Names of the galaxy models that come with the package.

    Returns
    -------
    names : list of str
        In alphabetical order.

    Examples
    --------
    >>> from bliss_astro.galaxies import available_galaxy_models
    >>> available_galaxy_models()
    ['galaxies']
    """
    return sorted(path.stem for path in _folder().glob('*.safetensors'))


def save_galaxies(model, path, *, overwrite=False):
    """
    Write a model's weights and card.

    Parameters
    ----------
    model : `GalaxyAutoencoder`
        To be written.

    path : path_like
        Ends in ``.safetensors``; the card goes into it, and beside it with the
        suffix ``.json``, where it holds the SHA-256 of the weights.

    overwrite : bool, optional
        Replace existing files.

    Raises
    ------
    ValueError
        If the suffix is another.
    FileExistsError
        If a file exists and ``overwrite`` is `False`.
    """
    state = model.state_dict()
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    card = {
        'name': Path(path).stem,
        **model.card,
        'galaxies': dataclasses.asdict(model.config),
        'n_parameters': model.n_parameters,
    }
    model.card = write_weights(path, state, card, overwrite=overwrite)


def _find(name) -> Path:
    text = os.fspath(name)
    if text.endswith('.safetensors') or os.sep in text:
        path = Path(text)
        if not path.is_file():
            msg = f'no such file of weights: {path}'
            raise FileNotFoundError(msg)
        return path
    if text not in available_galaxy_models():
        msg = (
            f'unknown galaxy model {text!r}: bundled are '
            f'{", ".join(available_galaxy_models())}; or give the path of a '
            '.safetensors file'
        )
        raise ValueError(msg)
    return _folder() / f'{text}.safetensors'


def load_galaxies(name='galaxies', *, latent_dim=None) -> GalaxyAutoencoder:
    """
    Load a galaxy model by the name of a bundled one or by path.

    Parameters
    ----------
    name : str or path_like, optional
        See `GalaxyAutoencoder.from_pretrained`.

    latent_dim : int, optional
        The dimension that the caller relies on.

    Returns
    -------
    model : `GalaxyAutoencoder`
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If the name is unknown, the card is missing or damaged, the weights are
        not those that the card was written for, or their latent dimension is
        not ``latent_dim``.
    """
    import torch

    path = _find(name)
    state, card = read_weights(path)
    try:
        config = GalaxyModelConfig(**card['galaxies'])
    except (ValueError, KeyError, TypeError) as error:
        msg = f'the card {path.with_suffix(".json")} is missing or damaged: {error}'
        raise ValueError(msg) from error
    if latent_dim is not None and latent_dim != config.latent_dim:
        msg = (
            f'latent_dim of the weights {str(name)!r} is {config.latent_dim}, but '
            f'latent_dim={latent_dim} was asked for; train a model with '
            f'latent_dim = {latent_dim} in [galaxies] of its configuration'
        )
        raise ValueError(msg)
    # Layers draw first weights from torch's global generator: put it back.
    with torch.random.fork_rng(devices=[]):
        model = GalaxyAutoencoder(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        msg = (
            f'the weights {path} do not fit their card (latent_dim='
            f'{config.latent_dim}): {str(error).splitlines()[-1].strip()}'
        )
        raise ValueError(msg) from error
    model.card = card
    return model.eval().requires_grad_(False)
