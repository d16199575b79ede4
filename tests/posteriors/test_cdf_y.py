# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The marginal of y, which calibration is judged by.
"""

import numpy as np
import torch

from bliss_astro.posteriors import PositionFactor


def factor(n):
    parameters = {
        'logits': [0.3, -0.2, 0.1],
        'mean_x': [0.2, 0.9, 0.5],
        'mean_y': [0.7, 0.1, 1.1],
        'scale_x': [0.1, 0.3, 0.05],
        'scale_y': [0.2, 0.05, 0.3],
        'slope': [0.8, -0.5, 0.0],
    }
    return PositionFactor(*(torch.tensor(v).expand(n, 3) for v in parameters.values()))


def test_ends():
    one = factor(1)
    ends = [float(one.cdf_y(torch.tensor([y]))) for y in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [0, 1], atol=1e-6)


def test_agrees_with_draws():
    n = 40000
    many = factor(n)
    _, y = many.sample(generator=torch.Generator().manual_seed(1))
    ranks = many.cdf_y(y).sort().values.numpy()
    distance = np.abs(ranks - (np.arange(n) + 0.5) / n).max()
    # Kolmogorov's distance exceeds 1.95 / sqrt(n) once in a thousand times.
    assert distance < 1.95 / np.sqrt(n)


def test_without_slope_it_is_exact():
    parameters = [torch.tensor([[v]]) for v in (0.0, 0.4, 0.6, 0.2, 0.1, 0.0)]
    one = PositionFactor(*parameters)
    turned = PositionFactor(
        *(parameters[k] for k in (0, 2, 1, 4, 3)), torch.zeros(1, 1)
    )
    y = torch.tensor([0.55])
    np.testing.assert_allclose(one.cdf_y(y), turned.cdf_x(y), atol=1e-6)
