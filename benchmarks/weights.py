# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Weights compared by their loss on the same simulations, which no training saw.

The mean of -log q per image is what training lowers; differences on the same images are
far more certain than values. ``python benchmarks/weights.py CONFIG.toml FIRST SECOND``
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from harness import Benchmark

from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.posteriors import TileCatalog
from bliss_astro.simulation import SimulatedBands, SimulationStream
from bliss_astro.training import load_config

BATCH, SIZES = 32, ('tile_size', 'n_most')
EXACT = (0.001, 0.00101)
# Changes of the training configuration.
KINDS = {
    'all': {},
    'sky': {'npe_fraction': 0.0},
    'npe': {'npe_fraction': 1.0},
    'exact': {'psf_errors': EXACT, 'background_errors': EXACT},
    'single': {'single_fraction': 1.0},
}


@torch.no_grad()
def losses(encoders, simulation, n_images, seed):
    """-log q per image, an array (encoders, images)."""
    stream = SimulationStream(simulation)
    generator = torch.Generator().manual_seed(seed)
    values = [[] for _ in encoders]
    for first in range(0, n_images, BATCH):
        images = stream.sample_batch(min(BATCH, n_images - first), generator=generator)
        several = isinstance(images, SimulatedBands)
        make = (EncoderInputs.from_batch, EncoderInputs.from_bands)[several]
        for own, encoder in zip(values, encoders, strict=True):
            size, n_most = (getattr(encoder.config, name) for name in SIZES)
            truth = TileCatalog.from_batch(images, tile_size=size, n_most=n_most)
            found = encoder(make(images, tile_size=size))
            own.append(-found.log_prob(truth).double().numpy())
    return np.array([np.concatenate(own) for own in values])


def main(arguments=None):
    bench = Benchmark('weights', __doc__.strip().splitlines()[0], n_images=512)
    bench.option('config', help='TOML file of a training')
    bench.option('encoders', nargs='+', help='names or files; the first is subtracted')
    bench.option('--kinds', nargs='+', choices=KINDS, default=['all'])
    arguments = bench.start(arguments)
    _, simulation, _ = load_config(arguments.config)
    encoders = [Encoder.from_pretrained(name).eval() for name in arguments.encoders]
    names = [Path(name).stem for name in arguments.encoders]
    for kind in arguments.kinds:
        own = dataclasses.replace(simulation, **KINDS[kind])
        values = losses(encoders, own, arguments.n_images, arguments.seed + 776)
        for name, loss in zip(names, values, strict=True):
            for words, terms in (('', loss), (f', minus {names[0]}', loss - values[0])):
                error = terms.std(ddof=1) / len(terms) ** 0.5
                numbers = {'value': terms.mean(), 'error': error, 'n': len(terms)}
                bench.add(kind, f'-log q per image{words}', method=name, **numbers)
    bench.finish()


if __name__ == '__main__':
    main()
