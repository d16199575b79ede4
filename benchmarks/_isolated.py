# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images whose stars are placed by hand, and what an encoder says of them.
"""

import contextlib
import dataclasses
import functools
import multiprocessing

import numpy as np
import torch

from bliss_astro import CoaddSimulator
from bliss_astro.detection._detect import _autocast
from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.posteriors import find_sources

__all__ = [
    'DENSITY',
    'ELECTRONS',
    'FLUX_MIN',
    'crop',
    'encode',
    'find',
    'flux_of',
    'generator_of',
    'place_stars',
    'run_tasks',
]

# The coadd paper's prior, and the electrons of one nanomaggy there.
DENSITY, FLUX_MIN, ELECTRONS = 3 / 1600, 622.0, 987.31

_encoders = {}


def flux_of(magnitude):
    """Flux in electrons of one exposure."""
    return ELECTRONS * 10 ** (0.4 * (22.5 - magnitude))


def generator_of(*key):
    """A generator seeded by a tuple of integers."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(seed)


class _PlacedStars:
    # A prior that returns the stars that it was given.
    density, flux_min = DENSITY, FLUX_MIN

    def __init__(self, x, y, flux):
        self.stars = x, y, flux

    def sample_batch(self, n_images, shape, **keywords):
        x, y, flux = self.stars
        return x, y, flux, (flux > 0).sum(1)


def place_stars(depth, x, y, flux, *, shape, generator, **keywords):
    """
    Simulate images of given stars.

    Parameters
    ----------
    depth : int
        Number of exposures.

    x, y, flux : tensor ``(B, S)``
        The stars; those of flux 0 are none.

    shape : tuple of int
        ``(ny, nx)`` of the images.

    generator : `torch.Generator`
        For the noise.

    **keywords
        For `CoaddSimulator`.

    Returns
    -------
    batch : `SimulatedImages`
        It states the paper's density everywhere and the paper's flux floor.
    """
    simulator = CoaddSimulator(
        depth,
        _PlacedStars(*(v.float() for v in (x, y, flux))),
        shape=shape,
        margin=0,
        tolerance=1e-5,
        **keywords,
    )
    return simulator.sample_batch(len(x), generator=generator)


def crop(batch, left, bottom, shape):
    """The same images without some of their first columns and rows."""
    ny, nx = shape
    rows, columns = slice(bottom, bottom + ny), slice(left, left + nx)
    return dataclasses.replace(
        batch,
        data=batch.data[:, rows, columns],
        mask=batch.mask[:, rows, columns],
        # Stars may lie anywhere, as the uncropped images say too.
        region=torch.tensor([[-0.5, nx - 0.5, -0.5, ny - 0.5]]).expand(len(batch), 4),
        x=batch.x - left,
        y=batch.y - bottom,
    )


@torch.no_grad()
def encode(batch, name, *, log_density=None):
    """
    Posterior of a batch by the encoder of that name or path.

    ``log_density`` overrides what it is told, as a tensor ``(B or 1, 1, h, w)``.
    """
    if name not in _encoders:
        _encoders[name] = Encoder.from_pretrained(name)
    encoder = _encoders[name]
    inputs = EncoderInputs.from_batch(batch, tile_size=encoder.config.tile_size)
    if log_density is not None:
        inputs.log_density = log_density.expand(len(batch), -1, -1, -1)
    device = encoder.device
    with _autocast(device) if device.type == 'cpu' else contextlib.nullcontext():
        return encoder(inputs)


def find(posterior, *, least=0.05):
    """
    Sources above a small probability, as a dict of arrays.

    ``flux_low``, ``flux_median`` and ``flux_high`` are the 16, 50 and 84 %
    quantiles, as those of a catalogue.
    """
    sources = find_sources(posterior)
    sources = sources.select(sources.probability >= least)
    place_x, place_y = sources.place()
    found = {
        'image': sources.image.numpy(),
        'probability': sources.probability.double().numpy(),
        'x': place_x.double().numpy(),
        'y': place_y.double().numpy(),
        'x_err': sources.x.double().numpy().std(1),
        'y_err': sources.y.double().numpy().std(1),
    }
    quantiles = {'low': 0.15865525, 'median': 0.5, 'high': 0.84134475}
    for key, q in quantiles.items():
        value = sources.quantile_flux(q).double().numpy()
        found[f'flux_{key}'] = FLUX_MIN * np.exp(value)
    return found


def run_tasks(work, tasks, *, processes, description=''):
    """
    Results of ``work`` over tasks, in order, by several processes.

    Seeds belong to the tasks, so that the number of processes changes
    nothing.
    """
    from tqdm import tqdm

    bar = functools.partial(tqdm, total=len(tasks), desc=description, unit='batch')
    if processes == 1:
        torch.set_num_threads(1)
        return list(bar(map(work, tasks)))
    context = multiprocessing.get_context('spawn')
    with context.Pool(processes, torch.set_num_threads, (1,)) as pool:
        return list(bar(pool.imap(work, tasks)))
