# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The networks of the coadd experiment and their training.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import signal
import time

import torch

from bliss_astro.encoders import EncoderConfig
from bliss_astro.simulation import SimulationConfig
from bliss_astro.training import TrainingConfig, train_encoder

__all__ = ['ORDERS', 'PRESETS', 'Network', 'Preset', 'networks_of', 'train_all']

# What the paper's text says, and what its published code does.
ORDERS = ('before_alignment', 'after_alignment')


@dataclasses.dataclass(frozen=True)
class Preset:
    """
    How much is spent on the experiment.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.EncoderConfig`
        Size of every network.

    training : dict
        Settings of `~bliss_astro.training.TrainingConfig` but the seed.

    seeds : dict
        Training seeds, by order of the noise and depth.

    n_images : int
        Test images of each depth.

    shape, margin : tuple of int, int
        Size of the training images in pixels, and the distance that stars
        keep from their edges. Test images are the paper's 88 x 88 pixels.
    """

    encoder: EncoderConfig
    training: dict
    seeds: dict
    n_images: int
    shape: tuple[int, int] = (64, 64)
    margin: int = 12


def _seeds(before, after):
    # A single exposure is not aligned: it has no order of the noise.
    both = {(ORDERS[0], d): n for d, n in before.items()}
    return both | {(ORDERS[1], d): n for d, n in after.items()}


PRESETS = {
    # Shows in minutes that everything works; its numbers mean little.
    'quick': Preset(
        encoder=EncoderConfig(width=32, n_blocks=2, stem_width=24, head_width=48),
        training={
            'n_steps': 150,
            'batch_size': 16,
            'learning_rate': 3e-3,
            'warmup_steps': 30,
            'average_decay': 0.97,
            'n_validation': 256,
            'validate_every': 75,
        },
        seeds=_seeds({1: 2, 5: 1, 10: 1, 25: 2, 50: 1, 100: 1}, {5: 1, 10: 1, 25: 1}),
        n_images=500,
    ),
    # Two cores, less than an hour.
    'reduced': Preset(
        encoder=EncoderConfig(width=48, n_blocks=3, stem_width=32, head_width=64),
        training={
            'n_steps': 800,
            'batch_size': 32,
            'learning_rate': 2e-3,
            'warmup_steps': 60,
            'average_decay': 0.99,
            'n_validation': 1024,
            'validate_every': 400,
        },
        seeds=_seeds({1: 5, 5: 5, 10: 5, 25: 5, 50: 1, 100: 1}, {5: 1, 25: 1}),
        n_images=2500,
    ),
    # A GPU, or two cores for days.
    'full': Preset(
        encoder=EncoderConfig(),
        training={
            'n_steps': 15000,
            'batch_size': 64,
            'learning_rate': 1e-3,
            'warmup_steps': 300,
            'average_decay': 0.998,
            'n_validation': 4096,
            'validate_every': 1000,
        },
        seeds=_seeds(
            {1: 5, 5: 5, 10: 5, 25: 5, 50: 3, 100: 3},
            {5: 5, 10: 5, 25: 5, 50: 3, 100: 3},
        ),
        n_images=40000,
    ),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """
    One network: the order of the noise, the depth and the seed.
    """

    order: str
    depth: int
    seed: int

    @property
    def group(self):
        """Networks of a group see the same test images."""
        return self.order, self.depth

    @property
    def name(self):
        """Of the network and its folder."""
        return f'd{self.depth:03d}-{self.order.split("_")[0]}-s{self.seed}'

    def folder(self, work):
        """Where it is trained."""
        return work / self.name

    def weights(self, work):
        """The file that says that the training is finished."""
        return self.folder(work) / f'{self.name}.safetensors'

    def configs(self, preset):
        """Encoder, simulation and training, as `train_encoder` takes them."""
        prior = 3 / 40**2
        return (
            preset.encoder,
            SimulationConfig(
                n_exposures=(self.depth, self.depth),
                background=(865.0, 865.0),
                read_noise=(0.0, 0.0),
                density=(prior, prior),
                flux_min=622.0,
                psf='paper',
                shape=preset.shape,
                margin=preset.margin,
                confined_fraction=0.0,
                bad_pixels=False,
                noise_order=self.order,
            ),
            TrainingConfig(**preset.training, seed=self.seed),
        )


def networks_of(preset, depths=None):
    """
    All networks of a preset, the first seed of every depth first.

    An interrupted experiment then has something of everything.
    """
    found = [
        Network(order, depth, seed)
        for (order, depth), n in preset.seeds.items()
        for seed in range(1, n + 1)
        if depths is None or depth in depths
    ]
    return sorted(found, key=lambda network: network.seed)


def is_trained(network, preset, work):
    """
    Whether a finished network with these settings lies in its folder.

    Raises
    ------
    ValueError
        If one with other settings does.
    """
    card = network.weights(work).with_suffix('.json')
    if not (network.weights(work).is_file() and card.is_file()):
        return False
    card = json.loads(card.read_text())
    for name, config in zip(
        ('encoder', 'simulation', 'training'), network.configs(preset), strict=True
    ):
        wanted = json.loads(json.dumps(dataclasses.asdict(config)))
        other = [k for k, v in wanted.items() if card[name].get(k, v) != v]
        if other:
            msg = (
                f'{network.folder(work)} holds a network with another {name} '
                f'({", ".join(other)}): give another folder with --work, or delete it'
            )
            raise ValueError(msg)
    return card['training']['steps_done'] >= card['training']['n_steps']


_state = {'busy': False, 'stopped': False}


def _interrupted(number, frame):
    # An idle worker leaves without a word, a busy one writes its checkpoint,
    # in which a second signal should not disturb it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _state['stopped'] = True
    if _state['busy']:
        raise KeyboardInterrupt
    raise SystemExit(0)


def _start_worker(n_threads):
    torch.set_num_threads(n_threads)
    signal.signal(signal.SIGINT, _interrupted)


def _train(network, preset, work, device, progress_bar=False):
    if _state['stopped']:  # the pool hands out one task more than it has workers
        raise KeyboardInterrupt
    _state['busy'] = True
    try:
        encoder = train_encoder(
            network.configs(preset),
            network.folder(work),
            name=network.name,
            device=device,
            resume=True,
            progress_bar=progress_bar,
        )
    finally:
        _state['busy'] = False
    return encoder.card['validation_loss'], 3600 * encoder.card['training']['hours']


def train_all(networks, preset, work, *, device='cpu', processes=1):
    """
    Train the networks that are not trained yet, several at a time.

    Ctrl-C leaves a checkpoint of each that was begun; the next call goes on
    from there.

    Parameters
    ----------
    networks : list of `Network`
        What to train.

    preset : `Preset`
        How to.

    work : `pathlib.Path`
        Holds a folder for each network.

    device : str, optional
        As in `train_encoder`.

    processes : int, optional
        Networks that are trained at a time, each on one thread.
    """
    left = [network for network in networks if not is_trained(network, preset, work)]
    print(f'{len(networks) - len(left)} of {len(networks)} networks are trained')
    begun = time.monotonic()

    def tell(number, network, result):
        loss, seconds = result
        rest = (time.monotonic() - begun) / number * (len(left) - number) / 60
        print(
            f'{network.name}: loss {loss:.3f} after {seconds:.0f} s; '
            f'{number} of {len(left)}, about {rest:.0f} min more',
            flush=True,
        )

    if processes == 1 or len(left) < 2:
        for number, network in enumerate(left, start=1):
            tell(number, network, _train(network, preset, work, device, True))
        return
    with concurrent.futures.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start_worker,
        initargs=(1,),
    ) as pool:
        running = {pool.submit(_train, n, preset, work, device): n for n in left}
        try:
            done = concurrent.futures.as_completed(running)
            for number, future in enumerate(done, start=1):
                tell(number, running[future], future.result())
        except BaseException:
            # A terminal tells all processes of Ctrl-C, `kill` only one.
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGINT)
            pool.shutdown(wait=True, cancel_futures=True)
            raise
