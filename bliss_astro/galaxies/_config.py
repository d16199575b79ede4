# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The settings of the learned galaxy model, in code and as a TOML file.
"""

import dataclasses
import math
import tomllib
from pathlib import Path

from bliss_astro.encoders._configuration import _section

__all__ = [
    'GalaxyModelConfig',
    'GalaxySimulationConfig',
    'GalaxyTrainingConfig',
    'load_galaxy_config',
]

_POPULATIONS = ('npe', 'sky', 'both')


def _check_integers(config, names, least=1):
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            msg = f'{name} must be an integer of at least {least}, got {value!r}'
            raise ValueError(msg)


@dataclasses.dataclass(frozen=True)
class GalaxyModelConfig:
    """
    Size of a galaxy model.

    Parameters
    ----------
    latent_dim : int
        Dimension D of the latent variable, at least 2: its first two numbers
        are the direction and strength of the elongation.

    n_components : int
        Number K of Gaussians that a galaxy is made of.

    decoder_width, encoder_width : int
        Units of the hidden layers.

    n_filters : int
        Sizes of the filters through which the encoder looks.

    pixel_scale : float
        Arcseconds per pixel of the galaxies that the model is for.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    latent_dim: int = 8
    n_components: int = 12
    decoder_width: int = 128
    encoder_width: int = 192
    n_filters: int = 8
    pixel_scale: float = 0.396

    def __post_init__(self):
        _check_integers(self, ('latent_dim',), 2)
        _check_integers(
            self, ('n_components', 'decoder_width', 'encoder_width', 'n_filters')
        )
        if not (math.isfinite(self.pixel_scale) and self.pixel_scale > 0):
            msg = f'pixel_scale must be positive and finite, got {self.pixel_scale!r}'
            raise ValueError(msg)


@dataclasses.dataclass(frozen=True)
class GalaxySimulationConfig:
    """
    Centred single galaxies that a model learns from.

    Parameters
    ----------
    population : {'npe', 'sky', 'both'}
        Shapes of the NPE paper's galaxies (``GalaxyPrior()``), of the real sky
        (``CatalogPrior.sky().galaxies``), or half of each.

    size : int
        Side of the stamps in pixels; odd, the galaxy is on the central pixel.

    snr : tuple of float
        Least and largest signal-to-noise ratio; its logarithm is uniform. A
        galaxy's flux follows from it, so that faint and bright ones are
        learned alike.

    n_copies : int
        Every galaxy is seen with that many fluxes, skies' noises each, which
        saves drawing time.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    population: str = 'both'
    size: int = 53
    snr: tuple[float, float] = (4.0, 300.0)
    n_copies: int = 2

    def __post_init__(self):
        if self.population not in _POPULATIONS:
            msg = f'population must be one of {_POPULATIONS}, got {self.population!r}'
            raise ValueError(msg)
        _check_integers(self, ('size', 'n_copies'))
        if self.size % 2 == 0 or self.size < 15:
            msg = f'size must be odd and at least 15, got {self.size}'
            raise ValueError(msg)
        low, high = self.snr
        if not 0 < low < high < math.inf:
            msg = f'snr must be two increasing positive numbers, got {self.snr!r}'
            raise ValueError(msg)


@dataclasses.dataclass(frozen=True)
class GalaxyTrainingConfig:
    """
    How a galaxy model is trained.

    Parameters
    ----------
    n_decoder_steps : int
        First steps, without images: the decoder learns from galaxies whose
        shapes a helper network is told.

    n_steps : int
        All steps, of both kinds.

    batch_size : int
        Galaxies in a step with images.

    learning_rate, warmup_steps : float, int
        Peak of the schedule of each kind of steps, and its linear start.

    clip_norm : float
        Largest norm of the gradient.

    average_decay : float
        Of the moving average of the weights, which is what is kept.

    softening : float
        At the beginning of the steps with images the noise is enlarged by this
        share of the model; less and less, and nothing in the second half.

    n_validation, validate_every : int
        Held-out galaxies and steps between looks at them.

    checkpoint_minutes : float
        Time between checkpoints.

    seed : int
        Of everything.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    n_decoder_steps: int = 6000
    n_steps: int = 10000
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    clip_norm: float = 20.0
    average_decay: float = 0.995
    softening: float = 0.3
    n_validation: int = 1024
    validate_every: int = 500
    checkpoint_minutes: float = 3.0
    seed: int = 1

    def __post_init__(self):
        _check_integers(
            self, ('n_steps', 'batch_size', 'n_validation', 'validate_every')
        )
        _check_integers(self, ('n_decoder_steps', 'warmup_steps', 'seed'), 0)
        if self.n_decoder_steps > self.n_steps:
            msg = (
                f'n_decoder_steps must be at most n_steps ({self.n_steps}), got '
                f'{self.n_decoder_steps}'
            )
            raise ValueError(msg)
        for name in ('learning_rate', 'clip_norm', 'checkpoint_minutes'):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                msg = f'{name} must be positive and finite, got {value!r}'
                raise ValueError(msg)
        for name in ('average_decay', 'softening'):
            if not 0 <= getattr(self, name) < 1:
                msg = f'{name} must lie in [0, 1), got {getattr(self, name)!r}'
                raise ValueError(msg)


def load_galaxy_config(path):
    """
    Read the configuration of a galaxy model.

    Parameters
    ----------
    path : path_like
        A TOML file with the sections ``[galaxies]``, ``[simulation]`` and
        ``[training]``, whose keys are the fields of `GalaxyModelConfig`,
        `GalaxySimulationConfig` and `GalaxyTrainingConfig`.

    Returns
    -------
    galaxies, simulation, training : configurations
        Defaults where nothing is said.

    Raises
    ------
    ValueError
        If ``[galaxies]`` is missing, a section or setting is unknown or a value
        is not allowed.
    """
    path = Path(path)
    with path.open('rb') as file:
        try:
            table = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            msg = f'{path} is not valid TOML: {error}'
            raise ValueError(msg) from error
    kinds = {
        'galaxies': GalaxyModelConfig,
        'simulation': GalaxySimulationConfig,
        'training': GalaxyTrainingConfig,
    }
    if 'galaxies' not in table:
        msg = f'{path} has no section [galaxies]: it configures no galaxy model'
        raise ValueError(msg)
    unknown = sorted(set(table) - set(kinds) - {'name', 'description'})
    if unknown:
        msg = f'{path}: unknown section {unknown[0]!r}; known are {", ".join(kinds)}'
        raise ValueError(msg)
    return tuple(
        _section(kind, table.get(name, {}), name, path) for name, kind in kinds.items()
    )
