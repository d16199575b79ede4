# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training that begins where another ended.
"""

import torch

from bliss_astro.encoders import load_encoder

__all__ = ['start_from']

# What types add to the position's numbers and shapes to the type's comes last.
_GROWN_AT_THE_END = ('position.0.weight', 'extended.0.weight')


def _grown(key, value, like, config, learns_types):
    # Zeros where a layer is told more than it was.
    missing = like.shape[1] - value.shape[1] if value.dim() > 1 else 0
    if missing <= 0 or like[:, :1].shape != value[:, :1].shape:
        return value
    if key.startswith('sources.') and key.endswith('.mix.0.weight'):
        # Conditions stand before the features of the tile.
        before = value.shape[1] - config.width
        empty = torch.zeros_like(like[:, :missing])
        return torch.cat([value[:, :before], empty, value[:, before:]], 1)
    grown = {'stem_first.weight', 'modulation.0.weight'}
    if learns_types:
        grown |= {'head.from_neighbours.weight'}
    before = value.shape[1]
    if learns_types and key.startswith('head.source.') and 'hidden.weight' in key:
        # The number of sources in the tile comes last.
        before -= config.n_most + 1
    elif key not in grown and not key.endswith(_GROWN_AT_THE_END):
        return value
    empty = torch.zeros_like(like[:, :missing])
    return torch.cat([value[:, :before], empty, value[:, before:]], 1)


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
        filter may start one with it, and one of stars one of stars and
        galaxies: what is new begins with no influence, so that both say
        the same of stars.

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
    # What the other lacks keeps its first, random weights.
    learns_types = encoder.config.galaxies and not other.config.galaxies
    learns_shapes = encoder.config.shapes and not other.config.shapes
    forgets = other.config.shapes and not encoder.config.shapes
    learns_more = learns_types or learns_shapes
    learns_more |= encoder.config.sequence and not other.config.sequence
    state = dict(own) if learns_more else {}
    for key, value in other.state_dict().items():
        like = own.get(key)
        if key.startswith('sources.') and key not in own:
            continue
        if forgets:
            if like is None:
                continue
            if key.endswith('extended.0.weight'):
                value = value[:, : like.shape[1]]
        if like is not None:
            value = _grown(key, value, like, encoder.config, learns_types)
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
