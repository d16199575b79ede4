# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training of the galaxy model: one loop, two kinds of steps, one checkpoint.
"""

import dataclasses
import json
import math
import time
from pathlib import Path

import torch

from bliss_astro._lock import lock_folder
from bliss_astro.galaxies import GalaxyAutoencoder
from bliss_astro.galaxies._bound import evidence_bound
from bliss_astro.simulation import GalaxyStream

from ._configuration import check_configs, load_config
from ._pretraining import Teacher, lesson
from ._run_folder import (
    TrainingLog,
    check_new,
    load_checkpoint,
    save_checkpoint,
    step_bar,
)

__all__ = ['train_galaxies']

# Galaxies in a step without images for each in one with images: they cost a
# tenth.
_LESSON_FACTOR = 3

# When the decoder learns from images: in the last half of these steps, slowly.
_DECODER_FROM, _DECODER_RATE = 0.5, 0.2


class _Trainer:
    """State of a training run; `train_galaxies` is its public face."""

    def __init__(self, galaxies, simulation, training):
        self.configs = (galaxies, simulation, training)
        self.training = training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model = GalaxyAutoencoder(galaxies).requires_grad_(True).train()
            self.teacher = Teacher(galaxies)
            self.average = GalaxyAutoencoder(galaxies)
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False)
        parts = (self.model.decoder, self.model.encoder, self.teacher)
        self.optimizer = torch.optim.Adam(
            [{'params': list(part.parameters())} for part in parts],
            lr=training.learning_rate,
            betas=(0.9, 0.99),
        )
        self.stream = GalaxyStream(simulation, pixel_scale=galaxies.pixel_scale)
        self.generator = torch.Generator().manual_seed(training.seed)
        self.step, self.n_skipped, self.seconds = 0, 0, 0.0
        self.best, self.best_weights = math.inf, None
        self.whole, self.validated = True, 0

    # -- one step ------------------------------------------------------------

    @property
    def on_images(self):
        """Whether the next step is one with images."""
        return self.step >= self.training.n_decoder_steps

    @property
    def _progress(self):
        """Share done of the steps of this kind."""
        t, first = self.training, 0
        total = t.n_decoder_steps
        if self.on_images:
            first, total = t.n_decoder_steps, t.n_steps - t.n_decoder_steps
        return (self.step - first) / max(1, total), self.step - first

    def _set_rates(self):
        t = self.training
        progress, done = self._progress
        rate = t.learning_rate * min(1.0, (done + 1) / max(1, t.warmup_steps))
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        decoder, encoder, teacher = self.optimizer.param_groups
        if self.on_images:
            late = progress >= _DECODER_FROM
            decoder['lr'] = rate * _DECODER_RATE if late else 0.0
            encoder['lr'], teacher['lr'] = rate, 0.0
        else:
            decoder['lr'], encoder['lr'], teacher['lr'] = rate, 0.0, rate

    def _losses(self):
        t, stream, generator = self.training, self.stream, self.generator
        if self.on_images:
            progress, _ = self._progress
            softening = t.softening * max(0.0, 1 - 2 * progress)
            batch = stream.draw(t.batch_size, generator=generator)
            model = self.model
            fit, divergence = evidence_bound(
                model.encoder,
                model.decoder,
                batch,
                softening=softening,
                generator=generator,
            )
            return -fit, divergence
        n = _LESSON_FACTOR * t.batch_size
        psf = stream.field_prior.sample_batch(n, generator=generator).psf
        _, galaxy = stream.draw_galaxies(n, generator=generator)
        snr = stream.draw_snr(n, generator=generator)
        return lesson(
            self.model.decoder, self.teacher, psf, galaxy, snr, generator=generator
        )

    def advance(self):
        """One step of the optimiser; returns the terms of the loss."""
        self._set_rates()
        before = self.generator.get_state()
        groups = [g for g in self.optimizer.param_groups if g['lr'] > 0]
        learning = [p for group in groups for p in group['params']]
        try:
            misfit, divergence = (part.mean() for part in self._losses())
            loss = misfit + divergence
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(learning, self.training.clip_norm)
        except BaseException:  # Ctrl-C above all: the step did not happen
            self.generator.set_state(before)
            raise
        self.whole = False
        if torch.isfinite(loss) and torch.isfinite(norm):
            for group in self.optimizer.param_groups:
                if group['lr'] == 0:
                    # Momentum must not move what does not learn.
                    for parameter in group['params']:
                        parameter.grad = None
            self.optimizer.step()
            self._update_average()
        else:
            self.n_skipped += 1
        self.step += 1
        self.whole = True
        names = ('loss', 'misfit', 'divergence', 'norm')
        values = (loss, misfit, divergence, norm)
        return {k: float(v.detach()) for k, v in zip(names, values, strict=True)}

    @torch.no_grad()
    def _update_average(self):
        # A short memory at first, so that the start is soon forgotten.
        decay = min(self.training.average_decay, (self.step + 1) / (self.step + 10))
        own = list(self.model.parameters())
        torch._foreach_lerp_(list(self.average.parameters()), own, 1 - decay)

    @torch.no_grad()
    def validate(self):
        """Negative bound of the averaged weights on held-out galaxies."""
        generator = torch.Generator().manual_seed(self.training.seed + 12345)
        total, n = torch.zeros(2), 0
        while n < self.training.n_validation:
            size = min(128, self.training.n_validation - n)
            batch = self.stream.draw(size, generator=generator)
            average = self.average
            fit, divergence = evidence_bound(
                average.encoder, average.decoder, batch, generator=generator
            )
            total += torch.stack([-fit.sum(), divergence.sum()])
            n += size
        misfit, divergence = (total / n).tolist()
        terms = {'loss': misfit + divergence, 'misfit': misfit}
        terms['divergence'] = divergence
        self.validated = self.step
        if terms['loss'] < self.best:
            self.best = terms['loss']
            weights = self.average.state_dict()
            self.best_weights = {k: v.clone() for k, v in weights.items()}
        return terms

    # -- checkpoints -----------------------------------------------------------

    def settings(self):
        """The configurations as JSON would give them back."""
        return json.loads(json.dumps([dataclasses.asdict(c) for c in self.configs]))

    def save(self, path):
        """Write everything that the continuation needs, whole or not at all."""
        state = {
            'settings': json.dumps(self.settings()),
            'model': self.model.state_dict(),
            'teacher': self.teacher.state_dict(),
            'average': self.average.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'generator': self.generator.get_state(),
            **{name: getattr(self, name) for name in _COUNTERS},
        }
        save_checkpoint(state, path)

    def load(self, path):
        """Take up a run where its last checkpoint left it."""
        state = load_checkpoint(path)
        if json.loads(state['settings']) != self.settings():
            msg = (
                f'{path} belongs to another configuration; use the one that it was '
                'started with, or another output folder'
            )
            raise ValueError(msg)
        for name in ('model', 'teacher', 'average', 'optimizer'):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state['generator'])
        for name in _COUNTERS:
            setattr(self, name, state[name])


_COUNTERS = ('step', 'n_skipped', 'seconds', 'best', 'best_weights', 'validated')


def train_galaxies(
    config,
    output,
    *,
    name=None,
    resume=False,
    overwrite=False,
    max_minutes=None,
    progress_bar=False,
):
    """
    Train a galaxy model on an endless stream of simulated galaxies.

    First the decoder learns, without images, from galaxies whose shapes a
    helper network is told; then encoder and decoder learn from noisy stamps.
    Both kinds of steps maximise an evidence lower bound. An interrupted run
    continues from its last checkpoint with ``resume=True`` (bitwise with the
    same number of threads).

    Parameters
    ----------
    config : path_like or tuple
        A TOML file for `load_config`, or what that returns.

    output : path_like
        Folder for ``checkpoint.pt``, ``log.jsonl`` and, at the end,
        ``<name>.safetensors`` with its card ``<name>.json``.

    name : str, optional
        Name of the model; by default that of the configuration file.

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
    model : `GalaxyAutoencoder`
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
        configs, name = check_configs(config, 'galaxies'), name or 'untitled'
    else:
        configs, name = load_config(config), name or Path(config).stem
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with lock_folder(output, work='training'):
        checkpoint = output / 'checkpoint.pt'
        check_new(checkpoint, resume or overwrite)
        trainer = _Trainer(*configs)
        if resume and checkpoint.exists():
            trainer.load(checkpoint)
        _run(trainer, output, checkpoint, max_minutes, progress_bar)
        model = trainer.average
        model.load_state_dict(trainer.best_weights or model.state_dict())
        model.eval()
        model.card = _card(trainer, name)
        model.save(output / f'{name}.safetensors', overwrite=True)
    return model


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
                if trainer.step % 20 == 0:
                    seconds = round(trainer.seconds, 1)
                    log.write(step=trainer.step, seconds=seconds, **terms)
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
    due = step % training.validate_every == 0 and step > training.n_decoder_steps
    if not (due or step == training.n_steps) or step == trainer.validated:
        return
    terms = trainer.validate()
    log.write(step=step, validation=terms)
    if bar is not None:
        bar.set_postfix(validation=f'{terms["loss"]:.3f}')


def _card(trainer, name):
    import platform
    from datetime import UTC, datetime

    import bliss_astro

    galaxies, simulation, training = trainer.settings()
    return {
        'name': name,
        'date': datetime.now(UTC).strftime('%Y-%m-%d'),
        'versions': {
            'bliss_astro': bliss_astro.__version__,
            'torch': torch.__version__,
            'python': platform.python_version(),
        },
        'galaxies': galaxies,
        'simulation': simulation,
        'training': {
            **training,
            'steps_done': trainer.step,
            'images_seen': training['batch_size']
            * max(0, trainer.step - training['n_decoder_steps']),
            'steps_skipped': trainer.n_skipped,
            'hours': round(trainer.seconds / 3600, 3),
        },
        'validation_loss': trainer.best,
    }
