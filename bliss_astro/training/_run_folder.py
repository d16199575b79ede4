# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The folder of a training run: its checkpoint and its log.
"""

import contextlib
import json
import math
import pickle

import torch

from bliss_astro._atomic import atomic_write, explain_full_disk

__all__ = [
    'TrainingLog',
    'check_new',
    'load_checkpoint',
    'save_checkpoint',
    'step_bar',
]


def check_new(checkpoint, allowed):
    """
    Refuse a folder that holds a run, unless that may be resumed or replaced.

    Parameters
    ----------
    checkpoint : `~pathlib.Path`
        The checkpoint of the run.

    allowed : bool
        Whether there may be one.

    Raises
    ------
    FileExistsError
        If there is one.
    """
    if checkpoint.exists() and not allowed:
        folder = checkpoint.parent
        msg = f'{folder} holds a training run: pass resume=True or overwrite=True'
        raise FileExistsError(msg)


def save_checkpoint(state, path):
    """
    Write a checkpoint, whole or not at all.

    Parameters
    ----------
    state : dict
        What the continuation needs.

    path : `~pathlib.Path`
        The file, which is replaced.

    Raises
    ------
    OSError
        If the disk is full.
    """
    with atomic_write(path, overwrite=True) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path, device='cpu'):
    """
    Load the checkpoint of a training run.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.

    device : `torch.device` or str, optional
        Where to.

    Returns
    -------
    state : dict
        What was saved.

    Raises
    ------
    ValueError
        If the file is damaged, or no checkpoint.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        json.loads(state['settings'])
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        reason = str(error).partition('\n')[0]
        msg = (
            f'the checkpoint {path} is damaged or none: {reason}; pass overwrite=True '
            'to start anew'
        )
        raise ValueError(msg) from error
    except pickle.UnpicklingError as error:
        msg = f'{path} is damaged or no checkpoint; pass overwrite=True to start anew'
        raise ValueError(msg) from error
    return state


class TrainingLog:
    """
    JSON lines; those beyond the checkpoint of a resumed run are dropped.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.

    first_step : int
        The step at which the run begins.
    """

    def __init__(self, path, *, first_step):
        lines = []
        if path.exists() and first_step > 0:
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    if json.loads(line)['step'] <= first_step:
                        lines.append(line)
        with explain_full_disk(path):
            path.write_text(''.join(line + '\n' for line in lines))
        self.path = path

    def write(self, **values):
        """
        Append a line.

        Parameters
        ----------
        **values : object
            Plain values; what is not finite becomes null.
        """
        line = json.dumps(_finite(values), allow_nan=False)
        with explain_full_disk(self.path), self.path.open('a') as file:
            file.write(line + '\n')


def _finite(value):
    # JSON knows neither NaN nor infinity.
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def step_bar(progress_bar, total, initial):
    """
    Make a progress bar of steps, or a context that gives `None`.

    Parameters
    ----------
    progress_bar : bool
        Whether there shall be one.

    total, initial : int
        All steps, and those that are done.

    Returns
    -------
    bar : context manager
        The bar.
    """
    if not progress_bar:
        return contextlib.nullcontext()
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, unit='step', dynamic_ncols=True)
