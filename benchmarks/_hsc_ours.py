# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What this package finds in many small images of one size.

The same as `~bliss_astro.detect_sources` for each, which has its fixed costs: a
test compares them.
"""

import warnings

import numpy as np
import torch

from bliss_astro.detection._detect import _autocast, _inputs
from bliss_astro.encoders import Domain, EncoderInputs
from bliss_astro.posteriors import find_sources

__all__ = ['find_many']

_PIECE = 24
_THRESHOLD = 0.5


def find_many(exposures, encoder):
    """
    Detect in images of one shape.

    Parameters
    ----------
    exposures : list of `~bliss_astro.exposures.Exposure`
        In nmgy.

    encoder : `~bliss_astro.encoders.Encoder`
        The encoder.

    Returns
    -------
    found : list of dict of array
        For each, ``x``, ``y``, ``flux`` (nmgy), ``error`` and ``galaxy`` (a
        probability).
    """
    found = []
    for first in range(0, len(exposures), _PIECE):
        found += _find(exposures[first : first + _PIECE], encoder)
    return found


@torch.no_grad()
def _posterior(encoder, inputs):
    with _autocast(torch.device('cpu')):
        return encoder(inputs)


def _find(exposures, encoder):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        parts = [_inputs(each, encoder, flux_min=None) for each in exposures]
    grid = parts[0][3]
    inputs = EncoderInputs.concatenate([part[0] for part in parts])
    # The density of each image from a first pass, as detection does it.
    expected = _posterior(encoder, inputs).expected_counts().double().numpy()
    expected = expected.reshape(len(parts), -1)
    good = [float((~each.mask).sum()) for each in exposures]
    density = (expected.sum(1) + 0.5) / np.maximum(good, 1.0)
    domain = Domain.of(encoder)
    most = 0.02 if domain is None else domain.density[1]
    density = torch.from_numpy(np.clip(density, 1e-7, most)).float()
    inputs.log_density = torch.log(density)[:, None, None, None]
    posterior = _posterior(encoder, inputs)
    sources = find_sources(posterior)
    sources = sources.select(sources.probability >= _THRESHOLD)
    x, y = (v.double().numpy() for v in sources.place())
    image = sources.image.numpy()
    floors = np.stack([np.broadcast_to(part[1], grid.shape) for part in parts])
    floor = floors[image, sources.row.numpy(), sources.column.numpy()]
    low, flux, high = (
        floor * np.exp(sources.quantile_flux(q).double().numpy())
        for q in (0.15865525, 0.5, 0.84134475)
    )
    columns = {
        'x': x,
        'y': y,
        'flux': flux,
        'error': 0.5 * (high - low),
        'galaxy': sources.galaxy.double().numpy(),
    }
    return [
        {name: value[image == k] for name, value in columns.items()}
        for k in range(len(parts))
    ]
