# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Devices of torch from the argument ``device``.
"""

import torch


def choose_device(device):
    """
    Return the `torch.device` of an argument ``device``, after trying it.

    ``'auto'`` is a GPU of CUDA if there is one, else the CPU. A device that torch
    cannot use here raises a `ValueError`.
    """
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
    names = ["'cpu'"]
    if torch.cuda.is_available():
        names += [f"'cuda:{k}'" for k in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("'mps'")
    return names
