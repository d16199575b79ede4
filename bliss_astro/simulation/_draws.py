# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Uniform and log-uniform random numbers.
"""

import math

import torch

__all__ = ['between', 'log_uniform', 'uniform', 'unit']


def unit(*shape, generator, device=None):
    """Uniform numbers from 0 to 1, by default on the generator's device."""
    if device is None:
        device = generator.device
    return torch.rand(*shape, generator=generator, device=device)


def uniform(pair, *shape, generator):
    """Uniform numbers of a range."""
    low, high = pair
    return low + (high - low) * unit(*shape, generator=generator)


def between(pair, place):
    """Value at a place from 0 to 1 of the logarithm of a range."""
    low, high = (math.log(value) for value in pair)
    return torch.exp(low + (high - low) * place)


def log_uniform(pair, *shape, generator):
    """Numbers of a range whose logarithm is uniform."""
    return between(pair, unit(*shape, generator=generator))
