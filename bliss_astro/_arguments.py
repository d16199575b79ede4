# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Arguments of public functions: ``rng``, ``device``, and words of messages about values.
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


def choose_device(device):
    """
    Return the `torch.device` of an argument ``device``, after trying it.

    ``'auto'`` is a GPU of CUDA if there is one, else the CPU. A device that torch
    cannot use here raises a `ValueError`.
    """
    import torch

    if isinstance(device, str) and device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    reason = ''
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        pass
    else:
        try:
            # There and back: a 'meta' device takes numbers and returns none.
            torch.zeros(1, device=chosen).cpu()
        except (RuntimeError, AssertionError) as error:
            reason = f' ({str(error).partition(chr(10))[0].rstrip(".")})'
        else:
            return chosen
    given = str(device) if isinstance(device, torch.device) else device
    msg = (
        "device must be 'auto' or a device that torch can use here "
        f'({", ".join(_usable())}), got {given!r}{reason}'
    )
    raise ValueError(msg)


def _usable():
    """Names of the devices that torch can use here."""
    import torch

    names = ["'cpu'"]
    if torch.cuda.is_available():
        names += [f"'cuda:{k}'" for k in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("'mps'")
    return names


def first_wrong(values, sound):
    """
    Name the first value that is not sound.

    The text has the value; of an array its place as well, and the number of such
    values.
    """
    values, sound = np.broadcast_arrays(values, sound)
    wrong = np.argwhere(~sound)
    if values.ndim == 0 or not len(wrong):
        return str(values) if values.ndim == 0 else f'an array of {values.shape}'
    place = tuple(int(index) for index in wrong[0])
    where = ', '.join(map(str, place))
    count = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
    return f'{values[place]} at [{where}]{count}'


def counted(number, noun):
    """Say how many: 1 pixel, 2 pixels."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def two_digits(value):
    """Write a factor with two digits and without a power of ten: 0.77, 1.6, 160."""
    return np.format_float_positional(
        value, precision=2, fractional=False, unique=False, trim='-'
    )
