# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Weights held against each other on the same held-out simulations.

The mean of -log q per image is what training lowers, and differences on the same images
are far surer than the values: a hundred images tell 0.3 nats apart.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from _common import Report, make_parser

from bliss_astro.encoders import Encoder
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.posteriors._loss import npe_loss
from bliss_astro.simulation import SceneStream, SimulationStream
from bliss_astro.training import load_config

_EXACT = (0.001, 0.00101)
# Images of the training configuration, and parts of them.
KINDS = {
    'all': {},
    'sky': {'npe_fraction': 0.0},
    'npe': {'npe_fraction': 1.0},
    'unsaturated': {'npe_fraction': 0.0, 'saturated_fraction': 0.0},
    'exact': {'psf_errors': _EXACT, 'background_errors': _EXACT},
    'single': {'single_fraction': 1.0},
}
_BATCH = 32


@torch.no_grad()
def losses(encoders, simulation, n_images, seed):
    """-log q of each encoder (first axis), batch of images and term; names of terms."""
    first = encoders[0].config
    kind = SimulationStream if simulation.population == 'stars' else SceneStream
    stream = kind(simulation)
    generator = torch.Generator().manual_seed(seed)
    values = [[] for _ in encoders]
    for _ in range(-(-n_images // _BATCH)):
        inputs, catalog = training_pair(
            stream.sample_batch(_BATCH, generator=generator),
            tile_size=first.tile_size,
            n_most=first.n_most,
        )
        for own, encoder in zip(values, encoders, strict=True):
            _, terms = npe_loss(encoder(inputs), catalog)
            # Not of the posterior: where its fits begin.
            terms.pop('start', None)
            own.append([float(v) for v in terms.values()])
    return np.array(values), list(terms)


def main(args=None):
    parser = make_parser(__doc__, n_images=512)
    parser.add_argument('config', help='TOML file that training begins with')
    parser.add_argument('encoders', nargs='+', help='names or files; the first is held')
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=['all'])
    parser.add_argument('--seed', type=int, default=777, help='not that of a training')
    arguments = parser.parse_args(args)
    torch.set_num_threads(arguments.threads)
    n_images = 64 if arguments.quick else arguments.n_images
    _, simulation, _ = load_config(arguments.config)
    encoders = [Encoder.from_pretrained(name).eval() for name in arguments.encoders]
    names = [encoder.card['sha256'][:12] for encoder in encoders]
    report = Report('compare_weights', 'Held-out -log q, the same images', arguments)
    short = map(_short, arguments.encoders)
    report.details['encoders'] = dict(zip(names, short, strict=True))
    for kind in arguments.kinds:
        own = dataclasses.replace(simulation, **KINDS[kind])
        values, terms = losses(encoders, own, n_images, arguments.seed)
        n = values.shape[1]
        for k, name in enumerate(names):
            off = values[k] - values[0]
            for what, v, d in [
                *zip(terms, values[k].T, off.T, strict=True),
                ('total', values[k].sum(1), off.sum(1)),
            ]:
                what = f'{kind}: {name}, {what}'
                error = v.std(ddof=1) / n**0.5
                report.add(what, v.mean(), error, n=n * _BATCH)
                if k:
                    error = d.std(ddof=1) / n**0.5
                    report.add(f'{what}, less {names[0]}', d.mean(), error)
    report.finish()
    return report


def _short(name):
    """A file without its folder, which is of this machine."""
    return Path(name).name


if __name__ == '__main__':
    main()
