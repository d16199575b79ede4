# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training: one loop, one optimiser, one checkpoint.
"""

import contextlib
import dataclasses
import json
import math
import time
from pathlib import Path

import torch

from bliss_astro._devices import choose_device
from bliss_astro._lock import lock_folder
from bliss_astro.encoders import Encoder
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.posteriors import npe_loss, sequence_loss
from bliss_astro.simulation import SceneStream, SimulationStream

from ._configuration import check_configs, load_config
from ._domain import domain_of_simulation
from ._run_folder import (
    TrainingLog,
    check_new,
    load_checkpoint,
    save_checkpoint,
    step_bar,
)
from ._start import start_from

__all__ = ['train_encoder']


class _Trainer:
    """State of a training run; `train_encoder` is its public face."""

    def __init__(
        self, encoder_config, simulation, training, *, device, galaxy_model=None
    ):
        _check_galaxy_model(galaxy_model, encoder_config, simulation)
        self.configs = (encoder_config, simulation, training)
        self.training = training
        self.device = choose_device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.encoder = Encoder(encoder_config).to(self.device)
        self.origin = None
        if training.start_from is not None:
            self.origin = start_from(self.encoder, training.start_from)
        self.encoder.to(memory_format=torch.channels_last)
        self.average = Encoder(encoder_config).to(self.device)
        self.average.to(memory_format=torch.channels_last)
        self.average.load_state_dict(self.encoder.state_dict())
        self.average.requires_grad_(False)
        self._freeze(training.stage)
        self.optimizer = torch.optim.Adam(
            self.encoder.parameters(), lr=training.learning_rate, betas=(0.9, 0.99)
        )
        self.stream = self._make_stream(simulation, galaxy_model)
        self.generator = torch.Generator(self.device).manual_seed(training.seed)
        self.step, self.n_skipped, self.seconds = 0, 0, 0.0
        self.best, self.best_weights = math.inf, None
        # False within the short moment in which weights change.
        self.whole = True
        self.validated = 0

    def _make_stream(self, simulation, model):
        if simulation.population == 'stars':
            return SimulationStream(simulation, device=self.device)
        if model is not None:
            model = model.to(self.device)
            for encoder in (self.encoder, self.average):
                encoder.use_galaxy_model(model)
        return SceneStream(simulation, galaxy_model=model, device=self.device)

    def _freeze(self, stage):
        if stage == 'all':
            return
        sequence = self.encoder.sources
        if sequence is None:
            msg = f'stage = {stage!r} is for an encoder with sequence = true'
            raise ValueError(msg)
        self.encoder.requires_grad_(stage == 'detection')
        sequence.requires_grad_(stage == 'sources')

    # -- one step ------------------------------------------------------------

    def _learning_rate(self):
        t = self.training
        warm = min(1.0, (self.step + 1) / max(1, t.warmup_steps))
        progress = min(1.0, self.step / t.n_steps)
        return (
            t.learning_rate
            * warm
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        )

    def _autocast(self):
        if self.training.precision == 'float32':
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _loss(self, encoder, inputs, catalog):
        stage = self.training.stage
        learns = torch.is_grad_enabled() and stage != 'sources'
        with self._autocast(), torch.set_grad_enabled(learns):
            posterior = encoder(inputs)
        loss, terms = 0.0, {}
        if stage != 'sources':
            loss, terms = npe_loss(posterior, catalog)
        # Validation sees every term.
        due = not learns or self.step % self.training.sources_every == 0
        if posterior.sequence is not None and stage != 'detection' and due:
            further, own = sequence_loss(posterior.sequence, catalog)
            loss = loss + further
            terms |= {f'source_{name}': value for name, value in own.items()}
        return loss, terms

    def _draw(self):
        size = self.training.dataset_size
        batch = self.training.batch_size
        if size is None:
            return self._pair(batch, self.generator)
        # A fixed set is a fixed list of seeds: nothing need be stored.
        index = torch.randint(
            max(1, size // batch), (), generator=self.generator, device=self.device
        )
        seed = (self.training.seed + 1) * 1_000_003 + int(index)
        own = torch.Generator(self.device).manual_seed(seed)
        return self._pair(batch, own)

    def _pair(self, n, generator):
        """Inputs and truth of simulated images."""
        images = self.stream.sample_batch(n, generator=generator)
        config = self.configs[0]
        return training_pair(images, tile_size=config.tile_size, n_most=config.n_most)

    def advance(self):
        """One step of the optimiser; returns the terms of the loss."""
        for group in self.optimizer.param_groups:
            group['lr'] = self._learning_rate()
        before = self.generator.get_state()
        try:
            inputs, catalog = self._draw()
            loss, terms = self._loss(self.encoder, inputs, catalog)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(
                self.encoder.parameters(), self.training.clip_norm
            )
        except BaseException:  # Ctrl-C above all: the step did not happen
            self.generator.set_state(before)
            raise
        self.whole = False
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.optimizer.step()
            self._update_average()
        else:
            self.n_skipped += 1
        self.step += 1
        self.whole = True
        terms = {name: float(value.detach()) for name, value in terms.items()}
        return {'loss': float(loss.detach()), 'norm': float(norm), **terms}

    @torch.no_grad()
    def _update_average(self):
        # A short memory at first, so that the start is soon forgotten.
        decay = min(self.training.average_decay, (self.step + 1) / (self.step + 10))
        own = list(self.encoder.parameters())
        torch._foreach_lerp_(list(self.average.parameters()), own, 1 - decay)

    @torch.no_grad()
    def validate(self):
        """Loss of the averaged weights on held-out images."""
        generator = torch.Generator(self.device).manual_seed(self.training.seed + 12345)
        total, n = {}, 0
        while n < self.training.n_validation:
            size = min(256, self.training.n_validation - n)
            inputs, catalog = self._pair(size, generator)
            _, terms = self._loss(self.average, inputs, catalog)
            for name, value in terms.items():
                total[name] = total.get(name, 0.0) + float(value) * size
            n += size
        terms = {name: value / n for name, value in total.items()}
        terms['loss'] = sum(v for name, v in terms.items() if name != 'start')
        self.validated = self.step
        if terms['loss'] < self.best:
            self.best = terms['loss']
            self.best_weights = {
                k: v.detach().clone() for k, v in self.average.state_dict().items()
            }
        return terms

    # -- checkpoints -----------------------------------------------------------

    def _settings(self):
        return json.loads(json.dumps([dataclasses.asdict(c) for c in self.configs]))

    def save(self, path):
        """Write everything that the continuation needs, whole or not at all."""
        state = {
            'settings': json.dumps(self._settings()),
            'encoder': self.encoder.state_dict(),
            'average': self.average.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'generator': self.generator.get_state(),
            'step': self.step,
            'n_skipped': self.n_skipped,
            'seconds': self.seconds,
            'best': self.best,
            'best_weights': self.best_weights,
            'validated': self.validated,
        }
        save_checkpoint(state, path)

    def load(self, path):
        """Take up a run where its last checkpoint left it."""
        state = load_checkpoint(path, self.device)
        if json.loads(state['settings']) != self._settings():
            msg = (
                f'{path} belongs to another configuration; use the one that it was '
                'started with, or another output folder (start_from goes on from '
                'weights under new settings)'
            )
            raise ValueError(msg)
        self.encoder.load_state_dict(state['encoder'])
        self.average.load_state_dict(state['average'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.generator.set_state(state['generator'].cpu())
        for name in ('step', 'n_skipped', 'seconds', 'best', 'best_weights'):
            setattr(self, name, state[name])
        self.validated = state.get('validated', self.step)


def _check_galaxy_model(model, encoder_config, simulation):
    """Learned galaxies need a model, an encoder of its dimension, and to be asked."""
    name, latent_dim = simulation.galaxy_model, encoder_config.latent_dim
    if (name is None) != (latent_dim == 0):
        msg = (
            'latent_dim (of the encoder) and galaxy_model (of the simulation) go '
            f'together, got {latent_dim} and {name!r}'
        )
        raise ValueError(msg)
    if name is not None and model is None:
        msg = (
            f'the configuration draws galaxies of the learned model {name!r}: pass it, '
            f'galaxy_model=GalaxyAutoencoder.from_pretrained({name!r})'
        )
        raise ValueError(msg)
    if name is None and model is not None:
        msg = 'galaxy_model is given, and the configuration names none'
        raise ValueError(msg)


def train_encoder(
    config,
    output,
    *,
    name=None,
    device='cpu',
    galaxy_model=None,
    resume=False,
    overwrite=False,
    max_minutes=None,
    progress_bar=False,
):
    """
    Train an encoder on an endless stream of simulations.

    The images are simulated as they are needed, so no data set is written;
    an interrupted run, whatever interrupted it, continues from its last
    checkpoint with ``resume=True`` (bitwise on a CPU with the same number
    of threads).

    Parameters
    ----------
    config : path_like or tuple
        A TOML file for `load_config`, or what that returns.

    output : path_like
        Folder for ``checkpoint.pt``, ``log.jsonl`` and, at the end,
        ``<name>.safetensors`` with its card ``<name>.json``.

    name : str, optional
        Name of the encoder; by default that of the configuration file.

    device : str, optional
        ``'cpu'``, ``'cuda'`` or any other that torch knows.

    galaxy_model : `~bliss_astro.galaxies.GalaxyAutoencoder`, optional
        The learned model, if the configuration names one to draw galaxies with.

    resume : bool, optional
        Continue from the checkpoint in ``output`` if there is one.

    overwrite : bool, optional
        Start anew even if there is one.

    max_minutes : float, optional
        Stop (resumably) after this time.

    progress_bar : bool, optional
        Show progress.

    Returns
    -------
    encoder : `Encoder`
        With the best weights so far.

    Raises
    ------
    FileExistsError
        If ``output`` holds a run and neither ``resume`` nor ``overwrite`` is
        set.

    BlockingIOError
        If another training is at work in ``output``.

    ValueError
        If a setting is of another type or out of its range, or if the checkpoint
        is damaged or belongs to another configuration.

    OSError
        If the disk is full; the last checkpoint is kept.
    """
    if isinstance(config, tuple):
        configs, name = check_configs(config, 'encoder'), name or 'untitled'
    else:
        configs, name = load_config(config), name or Path(config).stem
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with lock_folder(output, work='training'):
        checkpoint = output / 'checkpoint.pt'
        check_new(checkpoint, resume or overwrite)
        trainer = _Trainer(*configs, device=device, galaxy_model=galaxy_model)
        if resume and checkpoint.exists():
            trainer.load(checkpoint)
        _run(trainer, output, checkpoint, max_minutes, progress_bar)
        encoder = Encoder(configs[0])
        weights = trainer.best_weights or trainer.average.state_dict()
        encoder.load_state_dict({k: v.cpu() for k, v in weights.items()})
        encoder.eval().requires_grad_(False)
        encoder.card = _card(trainer, name)
        encoder.save(output / f'{name}.safetensors', overwrite=True)
    return encoder


def _run(trainer, output, checkpoint, max_minutes, progress_bar):
    training = trainer.training
    log = TrainingLog(output / 'log.jsonl', first_step=trainer.step)
    begun = saved = time.monotonic()
    spent = trainer.seconds
    with step_bar(progress_bar, training.n_steps, trainer.step) as bar:
        try:
            # The run may have been interrupted while it validated.
            _validate_if_due(trainer, log, bar)
            while trainer.step < training.n_steps:
                terms = trainer.advance()
                now = time.monotonic()
                trainer.seconds = spent + now - begun
                if bar is not None:
                    bar.update()
                if trainer.step % 50 == 0:
                    log.write(
                        step=trainer.step, seconds=round(trainer.seconds, 1), **terms
                    )
                _validate_if_due(trainer, log, bar)
                if now - saved > 60 * training.checkpoint_minutes:
                    trainer.save(checkpoint)
                    saved = now
                if max_minutes is not None and now - begun > 60 * max_minutes:
                    break
        finally:
            # Ctrl-C included; a kill -9 leaves the previous checkpoint.
            if trainer.whole:
                trainer.save(checkpoint)


def _validate_if_due(trainer, log, bar):
    training, step = trainer.training, trainer.step
    due = step % training.validate_every == 0 or step == training.n_steps
    if not due or step == trainer.validated:
        return
    terms = trainer.validate()
    log.write(step=step, validation=terms)
    if bar is not None:
        bar.set_postfix(validation=f'{terms["loss"]:.3f}')


def _card(trainer, name):
    import platform
    from datetime import UTC, datetime

    import bliss_astro

    encoder, simulation, training = trainer._settings()
    # Weights travel without the files of their priors.
    if simulation['catalog_prior'] is not None:
        simulation['catalog_prior'] = trainer.stream.priors['sky'].to_dict()
    if simulation['field_prior'] is not None:
        simulation['field_prior'] = trainer.stream.field_prior.to_dict()
    return {
        'name': name,
        'date': datetime.now(UTC).strftime('%Y-%m-%d'),
        'versions': {
            'bliss_astro': bliss_astro.__version__,
            'torch': torch.__version__,
            'python': platform.python_version(),
        },
        'encoder': encoder,
        'domain': domain_of_simulation(trainer.configs[1]).to_card(),
        'simulation': simulation,
        'training': {
            **training,
            'steps_done': trainer.step,
            'images_seen': trainer.step * training['batch_size'],
            'steps_skipped': trainer.n_skipped,
            'hours': round(trainer.seconds / 3600, 3),
            'device': str(trainer.device),
            'started_from': trainer.origin,
        },
        'validation_loss': trainer.best,
    }
