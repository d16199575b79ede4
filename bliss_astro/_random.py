# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Random number generators of NumPy from the argument ``rng``.
"""

import numpy as np


def check_rng(rng):
    """
    Return the `numpy.random.Generator` of an argument ``rng``.

    It is a seed, a generator, or None for a new one; see
    `SPEC 7 <https://scientific-python.org/specs/spec-0007/>`__.
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
