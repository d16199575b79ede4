# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The settings of a training run, in code and as a TOML file.
"""

import dataclasses
import tomllib
from pathlib import Path

from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.simulation import SimulationConfig
from bliss_astro.simulation._simulator import NOISE_ORDERS

from ._network import EncoderConfig
from ._pretrained import find_encoder
from ._settings import check_settings

__all__ = ['TrainingConfig', 'load_config']


def _rules(names, allowed, words):
    return dict.fromkeys(names.split(), (allowed, words))


# Ranges that the classes themselves do not check.
RULES = (
    _rules(
        'single_fraction confined_fraction inclined_fraction',
        lambda x: 0 <= x <= 1,
        'between 0 and 1',
    )
    | _rules('average_decay softening', lambda x: 0 <= x < 1, 'at least 0 and below 1')
    | _rules(
        'learning_rate clip_norm slope flux_min pixel_scale',
        lambda x: x > 0,
        'positive',
    )
    | _rules('dynamic_range', lambda x: x > 1, 'above 1')
    | _rules(
        'checkpoint_minutes warmup_steps seed latent_dim sky_error psf_error',
        lambda x: x >= 0,
        'not negative',
    )
    | _rules('dataset_size', lambda x: x > 0, 'positive')
    | _rules('shape', lambda x: min(x) > 0, 'two positive integers')
    | _rules('read_noise', lambda x: 0 <= x[0] <= x[1], 'two increasing numbers from 0')
    | _rules(
        'typical_floor_snr',
        lambda x: 0 < x[0] <= x[1],
        'two increasing positive numbers',
    )
    | _rules(
        'noise_order', lambda x: x in NOISE_ORDERS, f'one of {", ".join(NOISE_ORDERS)}'
    )
)


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
    try:
        check_settings(kind, table, rules=RULES)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        check_files(values)
        return kind(**values)
    except (OSError, TypeError, ValueError) as error:
        msg = f'{path}: in [{name}], {error}'
        raise ValueError(msg) from error


def check_configs(configs):
    """
    Check configurations that were made in Python.

    Parameters
    ----------
    configs : tuple
        What `load_config` returns.

    Returns
    -------
    configs : tuple
        The same.

    Raises
    ------
    ValueError
        If a setting is of another type or out of its range.
    """
    for config in configs:
        fields = dataclasses.fields(config)
        values = {field.name: getattr(config, field.name) for field in fields}
        try:
            check_settings(type(config), values, rules=RULES)
        except ValueError as error:
            msg = f'{type(config).__name__}: {error}'
            raise ValueError(msg) from error
    return configs


def check_files(values):
    """
    Read what settings name before hours of work begin.

    Parameters
    ----------
    values : dict
        Settings; only those that name files are looked at.

    Raises
    ------
    ValueError
        If a file is missing or holds something else.
    """
    readers = {
        'catalog_prior': CatalogPrior.load,
        'field_prior': FieldPrior.load,
        'start_from': find_encoder,
    }
    for name, read in readers.items():
        if isinstance(values.get(name), str):
            try:
                read(values[name])
            except (OSError, TypeError, ValueError) as error:
                msg = f'{name} must name a file that can be read: {error}'
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
