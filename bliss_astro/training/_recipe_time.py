# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
How long a training will take, measured by doing a little of it.
"""

import dataclasses
import math
import time

import numpy as np
import torch

from bliss_astro._devices import choose_device

from ._encoder import EncoderTrainer

__all__ = ['TrainingTime']

_LEAST_STEPS = 4
# With a smaller share of the processors' time, a machine is called busy.
_BUSY = 0.6


@dataclasses.dataclass(frozen=True)
class TrainingTime:
    """
    The measured speed of a training.

    Attributes
    ----------
    device : str
        Where it was measured.

    n_threads : int
        Threads of the CPU that were used.

    n_timed : int
        Steps that were timed.

    step_seconds, step_error : float
        Mean time of a step, and the standard error of that mean.

    validation_seconds : float
        Time of one validation, extrapolated from one batch of it.

    n_steps, n_validations : int
        Of the whole training.

    cpu_share : float or None
        Share of the time that the CPU's threads were at work, which is less on
        a machine that others use too.
    """

    device: str
    n_threads: int
    n_timed: int
    step_seconds: float
    step_error: float
    validation_seconds: float
    n_steps: int
    n_validations: int
    cpu_share: float | None = None

    @property
    def seconds(self):
        """The whole training in seconds."""
        return (
            self.n_steps * self.step_seconds
            + self.n_validations * self.validation_seconds
        )

    @property
    def error(self):
        """Standard error of that, from the scatter of the steps timed."""
        return self.n_steps * self.step_error

    def __str__(self):
        where = self.device
        if torch.device(self.device).type == 'cpu':
            plural = '' if self.n_threads == 1 else 's'
            where += f', {self.n_threads} thread{plural}'
        text = (
            f'about {_duration(self.seconds)} (+- {_duration(self.error)}) on this '
            f'machine ({where}), from {self.n_timed} steps of {self.step_seconds:.3g} s'
        )
        if self.cpu_share is not None and self.cpu_share < _BUSY:
            text += (
                f'; the machine is busy, and they had {100 * self.cpu_share:.0f} % of '
                "their threads' time"
            )
        return text


def time_training(encoder, simulation, training, *, device='cpu', seconds=6.0):
    """
    Time some steps of a training.

    Parameters
    ----------
    encoder, simulation, training : configurations
        Of the training.

    device : str, optional
        Where to train.

    seconds : float, optional
        Time after which no further step begins; four steps are always timed,
        after one that is not.

    Returns
    -------
    time : `TrainingTime`
        What came of it.
    """
    # Where the weights start is no matter of time, and one batch is enough
    # to know what validation costs.
    device = choose_device(device)
    size = min(training.batch_size, training.n_validation)
    changes = {'n_validation': size}
    if hasattr(training, 'start_from'):
        changes['start_from'] = None
    trial = dataclasses.replace(training, **changes)
    trainer = EncoderTrainer((encoder, simulation, trial), device=device)
    begun = time.perf_counter()
    trainer.advance()
    took, cpu = [], time.process_time()
    started = time.perf_counter()
    while len(took) < _LEAST_STEPS or time.perf_counter() - begun < seconds:
        took.append(_timed(trainer.advance))
    share = (time.process_time() - cpu) / (time.perf_counter() - started)
    validation = _timed(trainer.validate) * training.n_validation / size
    return TrainingTime(
        device=str(device),
        n_threads=torch.get_num_threads(),
        n_timed=len(took),
        step_seconds=float(np.mean(took)),
        step_error=float(np.std(took, ddof=1)) / math.sqrt(len(took)),
        validation_seconds=validation,
        n_steps=training.n_steps,
        n_validations=math.ceil(training.n_steps / training.validate_every),
        cpu_share=share / torch.get_num_threads() if device.type == 'cpu' else None,
    )


def _timed(function):
    # Both return numbers, for which a GPU has to have finished.
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def _duration(seconds):
    if seconds < 90:
        return f'{seconds:.0f} s'
    if seconds < 5400:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h'
