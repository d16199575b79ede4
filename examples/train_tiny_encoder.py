# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Train a tiny encoder
====================

Train a very small encoder for a minute, interrupt it, and let it go on.

It shows the loop, not its result: a useful encoder takes half an hour. It needs no
input::

    python train_tiny_encoder.py --steps 60
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from bliss_astro.encoders import Encoder, EncoderConfig, EncoderInputs
from bliss_astro.posteriors import TileCatalog
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.training import TrainingConfig, train_encoder


def configurations(n_steps):
    """
    Sizes, simulations and training of the toy.
    """
    encoder = EncoderConfig(width=16, n_blocks=1, stem_width=16, head_width=32)
    simulation = SimulationConfig(
        n_exposures=(1, 2),
        shape=(32, 32),
        density=(2e-3, 1e-2),
        floor_snr=(8.0, 22.0),
        typical_floor_snr=None,
        confined_fraction=0.0,
        inclined_fraction=0.0,
    )
    training = TrainingConfig(
        n_steps=n_steps,
        batch_size=16,
        learning_rate=3e-3,
        warmup_steps=10,
        n_validation=32,
        validate_every=max(1, n_steps // 4),
        precision='float32',
    )
    return encoder, simulation, training


def compare(encoder, simulation, *, seed=99):
    """
    Count the stars of new images, and those that the encoder sees.
    """
    stream = SimulationStream(simulation)
    images = stream.sample_batch(16, generator=torch.Generator().manual_seed(seed))
    inputs, truth = EncoderInputs.from_batch(images), TileCatalog.from_batch(images)
    posterior = encoder(inputs)
    draws = [
        posterior.sample(generator=torch.Generator().manual_seed(k)).count.sum()
        for k in range(10)
    ]
    expected = torch.stack(draws).double().mean().item()
    print(f'{int(truth.count.sum())} stars on 16 new images; draws hold {expected:.0f}')


def main(args=None):
    """
    Train in two halves, read the log, and try the weights.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0].strip())
    parser.add_argument('--steps', type=int, default=60)
    parser.add_argument('-o', '--output', help='folder of the run (default: temporary)')
    options = parser.parse_args(args)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.output or temporary) / 'run'
        configs = configurations(options.steps)
        # Stop after a moment, as Ctrl-C would, and take up the thread.
        train_encoder(configs, folder, name='toy', max_minutes=0.01, overwrite=True)
        train_encoder(configs, folder, name='toy', resume=True)
        for line in (folder / 'log.jsonl').read_text().splitlines():
            record = json.loads(line)
            if 'validation' in record:
                loss = record['validation']['loss']
                print(f'step {record["step"]:4d}: validation loss {loss:.2f}')
        encoder = Encoder.from_pretrained(folder / 'toy.safetensors')
        spent = encoder.card['training']
        print(f'{encoder.n_parameters} weights, {spent["images_seen"]} images seen')
        compare(encoder, dataclasses.replace(configs[1], n_exposures=(1, 1)))


if __name__ == '__main__':
    main()
