# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Random number generators: the one that an argument stands for.
"""

import numpy as np

__all__ = ['check_rng', 'torch_generator']


def check_rng(rng):
    """
    Return the generator that an argument ``rng`` stands for.

    Parameters
    ----------
    rng : int, sequence of int, `numpy.random.Generator` or None
        A seed, a generator, or a new one; see
        `SPEC 7 <https://scientific-python.org/specs/spec-0007/>`__.

    Returns
    -------
    rng : `numpy.random.Generator`
        The generator.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        msg = (
            'rng must be a seed (a whole number, 0 or more), a '
            f'numpy.random.Generator or None, got {rng!r:.60}'
        )
        raise type(error)(msg) from None


def torch_generator(rng=None, *, device='cpu'):
    """
    Make one seeded `torch.Generator` from anything that SPEC 7 accepts as ``rng``.

    A `torch.Generator` is passed through.
    """
    import torch

    if isinstance(rng, torch.Generator):
        return rng
    seed = int(check_rng(rng).integers(2**63 - 1))
    return torch.Generator(device=device).manual_seed(seed)
