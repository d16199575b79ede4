# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training configurations, in code and as TOML files.
"""

import dataclasses
import json
import textwrap
import tomllib
from pathlib import Path

from bliss_astro._arguments import (
    POSITIVE_INTEGER,
    check_settings,
    check_types,
    one_of,
    require,
    within,
)
from bliss_astro.encoders import EncoderConfig
from bliss_astro.encoders._config import OLD_SETTINGS
from bliss_astro.encoders._weights import ENCODERS
from bliss_astro.galaxies import GalaxyModelConfig
from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.simulation import SimulationConfig
from bliss_astro.simulation._stream import GalaxySimulationConfig

_SHARE = ('at least 0 and below 1', lambda x: 0 <= x < 1)
_LOOP_RANGES = (
    within('n_steps batch_size n_validation validate_every', *POSITIVE_INTEGER)
    | within('learning_rate clip_norm', 'positive', lambda x: x > 0)
    | within('warmup_steps seed checkpoint_minutes', 'not negative', lambda x: x >= 0)
    | within('average_decay', *_SHARE)
)
_ENCODER_RANGES = (
    within('sources_every', *POSITIVE_INTEGER)
    | one_of('precision', 'float32', 'bfloat16')
    | one_of('stage', 'all', 'detection', 'sources', 'new')
)


@dataclasses.dataclass(frozen=True)
class _LoopConfig:
    """Settings of the training loop, common to all networks."""

    n_steps: int = 10000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    clip_norm: float = 20.0
    average_decay: float = 0.998
    n_validation: int = 1024
    validate_every: int = 500
    checkpoint_minutes: float = 3.0
    seed: int = 1


@dataclasses.dataclass(frozen=True)
class TrainingConfig(_LoopConfig):
    """
    Settings of the training of an encoder.

    Parameters
    ----------
    n_steps, batch_size : int
        Number of steps of the optimiser, and of images in each.

    learning_rate, warmup_steps : float, int
        Peak of the cosine schedule, and length of its linear start in steps.

    clip_norm : float
        Largest norm of the gradient.

    average_decay : float
        Decay per step of the exponential moving average of the weights, which is
        validated and saved.

    n_validation, validate_every : int
        Number of held-out images, and of steps between validations.

    checkpoint_minutes : float
        Time between checkpoints in minutes.

    seed : int
        Seed of weights and simulations.

    precision : {'bfloat16', 'float32'}
        Number format of the convolutions.

    dataset_size : int or None
        Number of images of a fixed training set; by default the stream of
        simulations is endless.

    start_from : str or None
        Encoder whose weights are the initial ones: a bundled one's name or a path.
        Sizes must agree; layers that it lacks start at random, without influence
        on what it has.

    stage : {'all', 'detection', 'sources', 'new'}
        Trained parameters: all; those up to detection; those of the encoders that
        follow detection; those that ``start_from`` does not have. The others keep
        their values.

    sources_every : int
        Interval in steps at which the encoders that follow detection are trained:
        they take as long as the rest of a step.

    Raises
    ------
    ValueError
        If a value is of another type or out of its range.
    """

    precision: str = 'bfloat16'
    dataset_size: int | None = None
    start_from: str | None = None
    stage: str = 'all'
    sources_every: int = 1

    def __post_init__(self):
        least = self.batch_size
        words = f'at least batch_size ({least})'
        own = within('dataset_size', words, lambda x: x >= least)
        check_settings(self, _LOOP_RANGES | _ENCODER_RANGES | own)
        if self.stage == 'new' and self.start_from is None:
            msg = "stage = 'new' needs start_from: else all parameters are new"
            raise ValueError(msg)


@dataclasses.dataclass(frozen=True)
class GalaxyTrainingConfig(_LoopConfig):
    """
    Settings of the training of a galaxy model.

    Parameters
    ----------
    n_steps, batch_size : int
        Number of steps of both kinds, and of galaxies in a step with images.

    learning_rate, warmup_steps : float, int
        Peak of the cosine schedule of each kind of steps, and length of its linear
        start in steps.

    clip_norm, average_decay, n_validation, validate_every, checkpoint_minutes, seed
        As in `TrainingConfig`.

    n_decoder_steps : int
        Number of first steps, without images, in which the decoder is trained on
        the parameters of galaxies.

    softening : float
        Share of the model that is added to the noise in the first step with images;
        it falls to zero in the first half of these steps.

    Raises
    ------
    ValueError
        If a value is of another type or out of its range.
    """

    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    average_decay: float = 0.995
    n_decoder_steps: int = 6000
    softening: float = 0.3

    def __post_init__(self):
        most = self.n_steps
        words = f'at most n_steps ({most}) and not negative'
        own = within('n_decoder_steps', words, lambda x: 0 <= x <= most)
        check_settings(self, _LOOP_RANGES | own | within('softening', *_SHARE))


_COMMENT_WIDTH = 88

# Sections of the files, by the one that a file must have to be of that kind.
SECTIONS = {
    'galaxies': {
        'galaxies': GalaxyModelConfig,
        'simulation': GalaxySimulationConfig,
        'training': GalaxyTrainingConfig,
    },
    'encoder': {
        'encoder': EncoderConfig,
        'simulation': SimulationConfig,
        'training': TrainingConfig,
    },
}

_READERS = {
    'catalog_prior': CatalogPrior.load,
    'field_prior': FieldPrior.load,
    'start_from': ENCODERS.find,
}


def load_config(path):
    """
    Read the configuration of a training.

    Parameters
    ----------
    path : path_like
        A TOML file with the sections ``[encoder]``, ``[simulation]`` and
        ``[training]``, whose keys are the fields of
        `~bliss_astro.encoders.EncoderConfig`,
        `~bliss_astro.simulation.SimulationConfig` and `TrainingConfig`; or, for a
        galaxy model, with ``[galaxies]``, ``[simulation]`` and ``[training]``, see
        :ref:`galaxy_model`.

    Returns
    -------
    configs : tuple of three configurations
        One for each section; missing settings have their defaults.

    Raises
    ------
    ValueError
        If a section or setting is unknown, a value is not allowed, or a file that a
        setting names cannot be read.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is not valid TOML: {error}') from error
    kinds = SECTIONS['galaxies' if 'galaxies' in table else 'encoder']
    unknown = sorted(set(table) - set(kinds) - {'name', 'description'})
    if unknown:
        msg = f'{path}: unknown section {unknown[0]!r}; known are {", ".join(kinds)}'
        raise ValueError(msg)
    configs = []
    for name, kind in kinds.items():
        values = table.get(name, {})
        sound = isinstance(values, dict)
        require(sound, f'{path}: {name}', f'be a section [{name}]', f'{values!r}')
        try:
            configs.append(_section(kind, values))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f'{path}: in [{name}], {error}') from error
    return tuple(configs)


def _section(kind, table):
    values = {OLD_SETTINGS.get(key, key): value for key, value in table.items()}
    check_types(kind, values)
    # Files that settings name are read before hours of work begin.
    for name, read in _READERS.items():
        if isinstance(values.get(name), str):
            try:
                read(values[name])
            except (OSError, TypeError, ValueError) as error:
                msg = f'{name} must name a file that can be read: {error}'
                raise ValueError(msg) from error
    lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
    return kind(**values | lists)


def toml_of(configs, *, reasons, description, comments):
    """
    Return the file of configurations of an encoder.

    Settings other than the default are in it, those that have a reason with that, and
    all of the encoder, whose defaults may change.
    """
    lines = [line for text in comments for line in _comment(text)]
    lines.append(f'description = {_toml_value(description)}')
    for section, config in zip(SECTIONS['encoder'], configs, strict=True):
        lines += ['', f'[{section}]', *_comment(reasons.get(section, ''))]
        for field in dataclasses.fields(config):
            value, reason = getattr(config, field.name), reasons.get(field.name, '')
            stated = reason or section == 'encoder' or value != field.default
            if value is not None and stated:
                lines += [*_comment(reason), f'{field.name} = {_toml_value(value)}']
    return '\n'.join(lines) + '\n'


def _comment(text):
    # A line break in a name must not end the comment.
    text = ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())
    lines = textwrap.wrap(text, _COMMENT_WIDTH - 2, break_long_words=False)
    return [f'# {line}' for line in lines]


def _toml_value(value):
    if isinstance(value, tuple | list):
        return f'[{", ".join(map(_toml_value, value))}]'
    if isinstance(value, dict):
        return f'{{{", ".join(f"{k} = {_toml_value(v)}" for k, v in value.items())}}}'
    # Texts and booleans of TOML are those of JSON, whose pairs of surrogates it lacks.
    return json.dumps(value, ensure_ascii=False).replace('\x7f', '\\u007f')
