# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training of the experiments' networks, resumed where it was interrupted.
"""

import sys
from pathlib import Path

from bliss_astro.encoders import Encoder
from bliss_astro.training import TrainingConfig, train_encoder

# The harness and the scenes are those of the benchmarks.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'benchmarks'))

STATIC = Path(__file__).resolve().parents[1] / 'docs' / '_static'
# Settings of the networks and of their training, by the time that they take.
SIZES = {
    'quick': {'width': 24, 'n_blocks': 1, 'stem_width': 16, 'head_width': 32},
    'reduced': {'width': 48, 'n_blocks': 3, 'stem_width': 32, 'head_width': 64},
}
TRAININGS = {
    'quick': {
        'n_steps': 4,
        'batch_size': 4,
        'warmup_steps': 1,
        'n_validation': 4,
        'validate_every': 4,
    },
    'reduced': {
        'n_steps': 1200,
        'batch_size': 32,
        'learning_rate': 2e-3,
        'warmup_steps': 100,
        'average_decay': 0.995,
        'n_validation': 512,
        'validate_every': 400,
    },
}


def network(name, encoder, simulation, work, *, preset, seed=1):
    """
    Trained network of a name, from its file if it is there.

    Parameters
    ----------
    name : str
        Name of the network.

    encoder : `~bliss_astro.encoders.EncoderConfig`
        Configuration of the network.

    simulation : `~bliss_astro.simulation.SimulationConfig`
        Configuration of the simulations.

    work : path-like
        Folder of all networks.

    preset : {'quick', 'reduced'}
        Length of the training.

    seed : int
        Seed of the training.
    """
    folder = Path(work) / name
    weights = folder / f'{name}.safetensors'
    if not weights.is_file():
        print(f'training {name}', flush=True)
        training = TrainingConfig(**TRAININGS[preset], seed=seed)
        config = encoder, simulation, training
        train_encoder(config, folder, name=name, resume=True)
    return Encoder.from_pretrained(weights)
