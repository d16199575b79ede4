# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The settings of the learned galaxy model, in code and as a TOML file.
"""

import dataclasses
import math

__all__ = [
    'GalaxyModelConfig',
    'GalaxySimulationConfig',
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
