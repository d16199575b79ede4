# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The three networks of the experiment with stars and galaxies.
"""

import dataclasses
import json
import time

import torch
from _fields_common import SHAPE
from _fields_oracle import OracleSettings

from bliss_astro.encoders import EncoderConfig
from bliss_astro.simulation import SimulationConfig
from bliss_astro.training import TrainingConfig, train_encoder

__all__ = ['NETWORKS', 'PRESETS', 'Preset', 'is_trained', 'train_all', 'weights_of']

# The fields that they are trained on, and what they are told. A network that sees one
# field alone need not be told about it.
NETWORKS = {
    'single-field': ('single', 'image'),
    'many-fields-image': ('sdss', 'image'),
    'many-fields-all': ('sdss', 'all'),
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """
    How much is spent on the experiment.

    Parameters
    ----------
    encoder : dict
        Sizes of every network, settings of `~bliss_astro.encoders.EncoderConfig`.

    training : dict
        Settings of `~bliss_astro.training.TrainingConfig`.

    n_images : int
        Test images of each kind.

    oracle : `OracleSettings`
        Of the template oracle.
    """

    encoder: dict
    training: dict
    n_images: int
    oracle: OracleSettings


PRESETS = {
    # Shows in minutes that everything works; its numbers mean little.
    'quick': Preset(
        encoder={'width': 32, 'n_blocks': 2, 'stem_width': 24, 'head_width': 48},
        training={
            'n_steps': 60,
            'batch_size': 16,
            'learning_rate': 3e-3,
            'warmup_steps': 20,
            'average_decay': 0.95,
            'n_validation': 64,
            'validate_every': 60,
        },
        n_images=256,
        oracle=OracleSettings(n_fields=2, per_field=10, n_bank=512, n_rounds=3),
    ),
    # Two cores, an hour.
    'reduced': Preset(
        encoder={'width': 64, 'n_blocks': 3, 'stem_width': 32, 'head_width': 96},
        training={
            'n_steps': 1200,
            'batch_size': 32,
            'learning_rate': 2e-3,
            'warmup_steps': 100,
            'average_decay': 0.995,
            'n_validation': 512,
            'validate_every': 500,
        },
        n_images=2000,
        oracle=OracleSettings(n_fields=16, per_field=15),
    ),
    # As in the paper: 210,000 images, 50 times each. A GPU, or weeks.
    'full': Preset(
        encoder={},
        training={
            'n_steps': 210_000 * 50 // 64,
            'batch_size': 64,
            'learning_rate': 1e-3,
            'warmup_steps': 500,
            'average_decay': 0.999,
            'n_validation': 30_000,
            'validate_every': 210_000 // 64,
            'dataset_size': 210_000,
        },
        n_images=42_000,
        oracle=OracleSettings(n_fields=40, per_field=25),
    ),
}


def configs(name, preset):
    """
    Encoder, simulation and training of a network, as `train_encoder` takes them.

    Parameters
    ----------
    name : str
        One of ``NETWORKS``.

    preset : `Preset`
        Its sizes.
    """
    fields, told = NETWORKS[name]
    return (
        EncoderConfig(**preset.encoder, galaxies=True, told=told),
        test_simulation(fields),
        TrainingConfig(**preset.training, seed=1),
    )


def test_simulation(fields):
    """
    Simulations of the paper, for training and for the tests alike.

    Parameters
    ----------
    fields : {'sdss', 'single'}
        Where PSF and background come from.
    """
    return SimulationConfig(
        population='npe',
        fields=fields,
        n_exposures=(1, 1),
        crowding=(1.0, 1.0),
        sky_error=0.0,
        shape=SHAPE,
        margin=0,
        confined_fraction=0.0,
        bad_pixels=False,
    )


def weights_of(name, work):
    """The file that says that the training of a network is finished."""
    return work / name / f'{name}.safetensors'


def is_trained(name, preset, work):
    """
    Whether a finished network with these settings lies in its folder.

    Raises
    ------
    ValueError
        If one with other settings does.
    """
    weights = weights_of(name, work)
    card = weights.with_suffix('.json')
    if not (weights.is_file() and card.is_file()):
        return False
    card = json.loads(card.read_text())
    for kind, config in zip(
        ('encoder', 'simulation', 'training'), configs(name, preset), strict=True
    ):
        wanted = json.loads(json.dumps(dataclasses.asdict(config)))
        other = [k for k, v in wanted.items() if card[kind].get(k, v) != v]
        if other:
            msg = (
                f'{work / name} holds a network with another {kind} '
                f'({", ".join(other)}): give another folder with --work, or delete it'
            )
            raise ValueError(msg)
    return card['training']['steps_done'] >= card['training']['n_steps']


def train_all(preset, work, *, device='cpu', threads=2):
    """
    Train the networks that are not trained yet, one after the other.

    Ctrl-C leaves a checkpoint; the next call goes on from there.

    Parameters
    ----------
    preset : `Preset`
        How to.

    work : `pathlib.Path`
        Holds a folder for each network.

    device : str, optional
        As in `train_encoder`.

    threads : int, optional
        Cores to use.
    """
    left = [name for name in NETWORKS if not is_trained(name, preset, work)]
    print(f'{len(NETWORKS) - len(left)} of {len(NETWORKS)} networks are trained')
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in left:
            start = time.monotonic()
            encoder = train_encoder(
                configs(name, preset),
                work / name,
                name=name,
                device=device,
                resume=True,
                progress_bar=True,
            )
            minutes = (time.monotonic() - start) / 60
            loss = encoder.card['validation_loss']
            print(f'{name}: loss {loss:.3f} after {minutes:.1f} min', flush=True)
    finally:
        torch.set_num_threads(before)
