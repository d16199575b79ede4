# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training that begins where another ended.
"""

import torch

from ._pretrained import load_encoder

__all__ = ['start_from']


@torch.no_grad()
def start_from(encoder, name):
    """
    Give an encoder the weights of another.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        To be trained; changed in place.

    name : str or path_like
        A bundled encoder or a file of weights. One without the matched
        filter may start one with it: the new channels begin with no
        influence, so that both say the same.

    Returns
    -------
    origin : dict
        Name and hash of the encoder, how many images it had seen, and where it
        had started from itself.

    Raises
    ------
    ValueError
        If the encoders' sizes differ.
    """
    other = load_encoder(name)
    own = encoder.state_dict()
    state = {}
    for key, value in other.state_dict().items():
        like = own.get(key)
        if like is not None and key == 'stem_first.weight':
            missing = like.shape[1] - value.shape[1]
            if missing > 0 and like[:, :1].shape == value[:, :1].shape:
                empty = torch.zeros_like(value[:, :1]).expand(-1, missing, -1, -1)
                value = torch.cat([value, empty], 1)
        if like is None or like.shape != value.shape:
            msg = (
                f'start_from: the encoder {str(name)!r} has other sizes '
                f'({other.config}) than the one to be trained ({encoder.config})'
            )
            raise ValueError(msg)
        state[key] = value
    encoder.load_state_dict(state)
    training = other.card.get('training', {})
    return {
        'name': other.name,
        'sha256': other.card.get('sha256', ''),
        'images_seen': training.get('images_seen', 0),
        'started_from': training.get('started_from'),
    }
