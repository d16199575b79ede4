# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What the parts of the experiment with stars and galaxies share.
"""

import numpy as np
import torch

__all__ = ['FAINTEST_FLUX', 'SETS', 'SHAPE', 'generator_of', 'magnitude']

# The two kinds of test images; the number belongs to the seed.
SETS = {'many': 1, 'single': 2}
SHAPE = (80, 80)
# r = 22 in nmgy: fainter true sources do not count.
FAINTEST_FLUX = 10 ** (0.4 * (22.5 - 22.0))


def magnitude(flux):
    """Magnitude of a flux in nmgy."""
    return 22.5 - 2.5 * np.log10(np.maximum(flux, 1e-9))


def generator_of(*key, device='cpu'):
    """A generator seeded by a tuple of integers."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)
