# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The settings of a training run, in code and as a TOML file.
"""

import dataclasses
import tomllib
from pathlib import Path

from ._network import EncoderConfig
from ._stream import SimulationConfig

__all__ = ['TrainingConfig', 'load_config']


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """
    How an encoder is trained.

    Parameters
    ----------
    n_steps, batch_size : int
        Steps of the optimiser and images in each.

    learning_rate, warmup_steps : float, int
        Peak of the cosine schedule and its linear start.

    clip_norm : float
        Largest norm of the gradient.

    average_decay : float
        Of the exponential moving average of the weights, which is what is
        validated and shipped.

    precision : {'float32', 'bfloat16'}
        Of the convolutions.

    n_validation, validate_every : int
        Held-out images and steps between looks at them.

    checkpoint_minutes : float
        Time between checkpoints.

    dataset_size : int or None
        Train on that many fixed images again and again, as the papers do,
        instead of an endless stream.

    seed : int
        Of everything.

    stage : {'all', 'detection', 'sources'}
        Which encoders of a sequence are trained: the others stay as they start.

    sources_every : int
        The encoders that follow detection are trained in every so many steps: theirs
        cost as much as the rest of a step.

    start_from : str or None
        Begin with the weights of this encoder (a bundled one's name or a
        path) rather than with random ones.  Sizes must agree; it may
        lack the matched-filter channels.
    """

    n_steps: int = 10000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    clip_norm: float = 20.0
    average_decay: float = 0.998
    precision: str = 'bfloat16'
    n_validation: int = 1024
    validate_every: int = 500
    checkpoint_minutes: float = 3.0
    dataset_size: int | None = None
    seed: int = 1
    start_from: str | None = None
    stage: str = 'all'
    sources_every: int = 1

    def __post_init__(self):
        if self.precision not in ('float32', 'bfloat16'):
            msg = f"precision must be 'float32' or 'bfloat16', got {self.precision!r}"
            raise ValueError(msg)
        counts = ('n_steps', 'batch_size', 'n_validation', 'validate_every')
        for name in (*counts, 'sources_every'):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                msg = f'{name} must be a positive integer, got {value!r}'
                raise ValueError(msg)
        if self.stage not in ('all', 'detection', 'sources'):
            msg = f"stage must be 'all', 'detection' or 'sources', got {self.stage!r}"
            raise ValueError(msg)
        if self.dataset_size is not None and self.dataset_size < self.batch_size:
            msg = (
                f'dataset_size must be at least batch_size ({self.batch_size}), got '
                f'{self.dataset_size!r}'
            )
            raise ValueError(msg)
        if self.start_from is not None and not isinstance(self.start_from, str):
            msg = (
                'start_from must be the name of an encoder or a path, got '
                f'{self.start_from!r}'
            )
            raise ValueError(msg)


def _section(kind, table, name, path):
    if not isinstance(table, dict):
        msg = f'{path}: {name} must be a section [{name}], got {table!r}'
        raise ValueError(msg)  # noqa: TRY004
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(table) - known)
    if unknown:
        msg = (
            f'{path}: unknown setting {unknown[0]!r} in [{name}]; '
            f'known are {", ".join(sorted(known))}'
        )
        raise ValueError(msg)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        msg = f'{path}: in [{name}], {error}'
        raise ValueError(msg) from error


def load_config(path):
    """
    Read a training configuration.

    Parameters
    ----------
    path : path_like
        A TOML file with the sections ``[encoder]``, ``[simulation]`` and
        ``[training]``, whose keys are the fields of `EncoderConfig`,
        `SimulationConfig` and `TrainingConfig`.

    Returns
    -------
    encoder, simulation, training : configurations
        Defaults where nothing is said.

    Raises
    ------
    ValueError
        If a section or setting is unknown or a value is not allowed.
    """
    path = Path(path)
    with path.open('rb') as file:
        try:
            table = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            msg = f'{path} is not valid TOML: {error}'
            raise ValueError(msg) from error
    kinds = {
        'encoder': EncoderConfig,
        'simulation': SimulationConfig,
        'training': TrainingConfig,
    }
    unknown = sorted(set(table) - set(kinds) - {'name', 'description'})
    if unknown:
        msg = f'{path}: unknown section {unknown[0]!r}; known are {", ".join(kinds)}'
        raise ValueError(msg)
    return tuple(
        _section(kind, table.get(name, {}), name, path) for name, kind in kinds.items()
    )
