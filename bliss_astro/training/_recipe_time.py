# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Expected time of a training, measured on a few of its steps.
"""

import dataclasses
import math
import time

import numpy as np
import torch

from ._encoder import EncoderTrainer

__all__ = ['TrainingTime', 'time_training']

_MIN_STEPS = 4
# Share of the processors' time below which a machine is called busy.
_BUSY = 0.6


@dataclasses.dataclass(frozen=True)
class TrainingTime:
    """
    Measured speed of a training.

    Attributes
    ----------
    device : str
        Device on which it was measured.

    n_threads : int
        Number of threads of the CPU.

    n_timed : int
        Number of steps that were timed.

    step_seconds, step_error : float
        Mean time of a step, and the standard error of that mean.

    validation_seconds : float
        Time of one validation, extrapolated from one batch of it.

    n_steps, n_validations : int
        Numbers of the whole training.

    cpu_share : float or None
        Share of the time that the CPU's threads worked, which is less on a shared
        machine.
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
        """Time of the whole training in seconds."""
        steps = self.n_steps * self.step_seconds
        return steps + self.n_validations * self.validation_seconds

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


def time_training(configs, *, device='auto', seconds=6.0):
    """
    Time some steps of the training of an encoder.

    Parameters
    ----------
    configs : tuple of three configurations
        Encoder, simulation and training.

    device : str or `torch.device`, optional
        Device of the training.

    seconds : float, optional
        Time after which no further step begins; four steps are always timed,
        after one that is not.

    Returns
    -------
    time : `TrainingTime`
        The measurement.
    """
    encoder, simulation, training = configs
    # Initial weights do not change the time, and one batch gives that of validation.
    size = min(training.batch_size, training.n_validation)
    changes = {'n_validation': size, 'start_from': None, 'stage': 'all'}
    trial = dataclasses.replace(training, **changes)
    trainer = EncoderTrainer((encoder, simulation, trial), device=device)
    begun = time.perf_counter()
    trainer.advance()
    took, cpu = [], time.process_time()
    started = time.perf_counter()
    while len(took) < _MIN_STEPS or time.perf_counter() - begun < seconds:
        took.append(_timed(trainer.advance))
    share = (time.process_time() - cpu) / (time.perf_counter() - started)
    validation = _timed(trainer.validate) * training.n_validation / size
    on_cpu = trainer.device.type == 'cpu'
    return TrainingTime(
        device=str(trainer.device),
        n_threads=torch.get_num_threads(),
        n_timed=len(took),
        step_seconds=float(np.mean(took)),
        step_error=float(np.std(took, ddof=1)) / math.sqrt(len(took)),
        validation_seconds=validation,
        n_steps=training.n_steps,
        n_validations=math.ceil(training.n_steps / training.validate_every),
        cpu_share=share / torch.get_num_threads() if on_cpu else None,
    )


def _timed(function):
    # Steps and validations return numbers, for which a GPU has to have finished.
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def _duration(seconds):
    if seconds < 90:
        return f'{seconds:.0f} s'
    if seconds < 5400:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h'
