# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training loop: optimiser steps, averaged weights, validation, checkpoints, log.
"""

import abc
import contextlib
import dataclasses
import json
import math
import pickle
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import bliss_astro
from bliss_astro._arguments import choose_device, must
from bliss_astro._atomic import atomic_write, explain_full_disk, lock_folder
from bliss_astro._threads import Batches

from ._configuration import SECTIONS, load_config

# Steps between lines of the log.
_LOG_EVERY = 50
# Offset of the seed of the held-out images from that of the training.
_VALIDATION_SEED = 12345
# Share of the learning rate that is left at the end of the cosine schedule.
_FINAL_RATE = 0.01
_COUNTERS = ('step', 'n_skipped', 'seconds', 'best', 'best_weights', 'validated')

# Errors of files that are no checkpoints: damaged, cut off, or of another kind.
_DAMAGES = RuntimeError, EOFError, LookupError, TypeError, ValueError
_DAMAGES += (pickle.UnpicklingError,)


class Trainer(abc.ABC):
    """
    State of a training run: networks, optimiser, generator and counters.

    The configurations are those of the network, the simulation and the training. A
    subclass gives `make_model`, `draw` and `loss`, and may have `parameter_groups` and
    `rates` of its own, and further networks in ``helpers``, which are not saved as
    weights.
    """

    @abc.abstractmethod
    def make_model(self):
        """Return the network with its initial weights."""

    @abc.abstractmethod
    def draw(self, n=None, *, generator=None):
        """Return a batch for training, or one of n images by another generator."""

    @abc.abstractmethod
    def loss(self, model, batch):
        """Return the loss of a batch, a tensor ``()``, and its terms (dict of such)."""

    # Key of the network's configuration in files and on cards.
    section = ''
    validation_batch = 256
    # Step up to which there is no validation.
    first_validation = 0
    # Whether losses draw random numbers: then no batch is drawn ahead of a step.
    draws_in_loss = False

    def __init__(self, configs, *, device='auto'):
        self.configs = configs
        self.training = configs[2]
        self.device = choose_device(device)
        self.helpers = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            self.model = self.make_model().to(self.device)
            self.average = type(self.model)(configs[0]).to(self.device)
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False)
        # Lists, as a walk through all layers takes longer than the average.
        self._weights = [list(part.parameters()) for part in (self.average, self.model)]
        options = {'lr': self.training.learning_rate, 'betas': (0.9, 0.99)}
        options['fused'] = True
        self.optimizer = torch.optim.Adam(self.parameter_groups(), **options)
        self.generator = self.seeded(0)
        self.batches = Batches(self.draw, self.generator)
        self.step, self.n_skipped, self.seconds = 0, 0, 0.0
        self.best, self.best_weights = math.inf, None
        # False within the short moment in which weights change.
        self.whole, self.validated = True, 0

    def seeded(self, offset):
        """A generator on the device, seeded by the configuration."""
        generator = torch.Generator(self.device)
        return generator.manual_seed(self.training.seed + offset)

    def cosine_rate(self, done, total):
        """Learning rate after some of a number of steps: warm-up and cosine decay."""
        t = self.training
        warm = min(1.0, (done + 1) / max(1, t.warmup_steps))
        progress = min(1.0, done / max(1, total))
        fall = 0.5 * (1 + math.cos(math.pi * progress))
        return t.learning_rate * warm * (_FINAL_RATE + (1 - _FINAL_RATE) * fall)

    def parameter_groups(self):
        """Parameters of the optimiser, in groups that have a rate of their own."""
        return [{'params': list(self.model.parameters())}]

    def rates(self):
        """Learning rate of each group of parameters in the next step."""
        return [self.cosine_rate(self.step, self.training.n_steps)]

    def backward(self, batch):
        """Add the gradients of the loss of a batch; return it and its terms."""
        loss, terms = self.loss(self.model, batch)
        loss.backward()
        return loss, terms

    def advance(self):
        """Do one step of the optimiser; return the terms of the loss, as tensors."""
        groups = self.optimizer.param_groups
        for group, rate in zip(groups, self.rates(), strict=True):
            group['lr'] = rate
        trained = [p for group in groups if group['lr'] > 0 for p in group['params']]
        before, last = self.batches.state, self.step + 1 == self.training.n_steps
        try:
            batch = self.batches.take(last=last)
            self.optimizer.zero_grad(set_to_none=True)
            loss, terms = self.backward(batch)
            norm = torch.nn.utils.clip_grad_norm_(trained, self.training.clip_norm)
        except BaseException:  # Ctrl-C above all: the step did not happen
            self.batches.state = before
            raise
        self.whole = False
        for parameter in (p for g in groups if g['lr'] == 0 for p in g['params']):
            # Momentum must not move what is not trained.
            parameter.grad = None
        # Weights stay as they are where something is not finite, which is not read
        # here: a GPU would have to finish all work before the next step begins.
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        self.optimizer.found_inf = bad.to(norm)
        self.optimizer.step()
        self._update_average()
        self.n_skipped = self.n_skipped + bad.long()
        self.step += 1
        self.whole = True
        values = {'loss': loss, 'norm': norm, **terms}
        return {name: value.detach() for name, value in values.items()}

    @torch.no_grad()
    def _update_average(self):
        # A short memory at first, so that the first weights fade soon.
        decay = min(self.training.average_decay, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(*self._weights, 1 - decay)

    @torch.no_grad()
    def validate(self):
        """
        Return the terms of the loss of the averaged weights on held-out images.

        Their sum is the ``loss``, by which the best weights are chosen. The miss of
        the first guess, ``start``, is no part of it: it is in pixels, the others are
        log-probabilities.
        """
        generator = self.seeded(_VALIDATION_SEED)
        total, n = {}, 0
        while n < self.training.n_validation:
            size = min(self.validation_batch, self.training.n_validation - n)
            _, terms = self.loss(self.average, self.draw(size, generator=generator))
            for name, value in terms.items():
                total[name] = total.get(name, 0.0) + float(value) * size
            n += size
        terms = {name: value / n for name, value in total.items()}
        terms['loss'] = sum(v for name, v in terms.items() if name != 'start')
        self.validated = self.step
        if terms['loss'] < self.best:
            self.best = terms['loss']
            state = self.average.state_dict()
            self.best_weights = {k: v.detach().clone() for k, v in state.items()}
        return terms

    def is_validation_due(self):
        """Whether this step ends with a validation that was not done yet."""
        t = self.training
        due = self.step % t.validate_every == 0 and self.step > self.first_validation
        return (due or self.step == t.n_steps) and self.step != self.validated

    # -- checkpoints and results -------------------------------------------------

    def settings(self):
        """The configurations as JSON gives them back."""
        return json.loads(json.dumps([dataclasses.asdict(c) for c in self.configs]))

    def _parts(self):
        parts = {'model': self.model, 'average': self.average}
        return {**parts, **self.helpers, 'optimizer': self.optimizer}

    def save(self, path):
        """Write all that the continuation needs, whole or not at all."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        self.n_skipped = int(self.n_skipped)
        state |= {name: getattr(self, name) for name in _COUNTERS}
        state['settings'] = json.dumps(self.settings())
        state['generator'] = self.batches.state
        with atomic_write(path, overwrite=True) as temporary:
            torch.save(state, temporary)

    def load(self, path):
        """Continue from a checkpoint."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            settings = json.loads(state['settings'])
        except _DAMAGES as error:
            # Unpickling errors go on about flags of torch.load that nobody should set.
            pickled = isinstance(error, pickle.UnpicklingError)
            reason = '' if pickled else f': {str(error).partition(chr(10))[0]}'
            msg = (
                f'{path} is damaged or no checkpoint{reason}; pass overwrite=True to '
                'start anew'
            )
            raise ValueError(msg) from error
        if settings != self.settings():
            msg = (
                f'{path} belongs to another configuration; use the one that it was '
                'started with, or another output folder (start_from goes on from '
                'weights under new settings)'
            )
            raise ValueError(msg)
        for group in state['optimizer']['param_groups']:
            # Checkpoints of earlier versions have another form of the optimiser.
            group['fused'] = True
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.batches.state = state['generator'].cpu()
        for name in _COUNTERS:
            setattr(self, name, state[name])

    def result(self, name):
        """Return the network with its best weights so far, on the CPU, and its card."""
        with torch.random.fork_rng(devices=[]):
            model = type(self.model)(self.configs[0])
        weights = self.best_weights or self.average.state_dict()
        model.load_state_dict({k: v.cpu() for k, v in weights.items()})
        network, simulation, training = self.settings()
        card = {
            'name': name,
            'date': datetime.now(UTC).strftime('%Y-%m-%d'),
            'versions': {
                'bliss_astro': bliss_astro.__version__,
                'torch': torch.__version__,
                'python': platform.python_version(),
            },
            self.section: network,
            'simulation': simulation,
            'training': {
                **training,
                'steps_done': self.step,
                'images_seen': training['batch_size']
                * max(0, self.step - self.first_validation),
                'steps_skipped': int(self.n_skipped),
                'hours': round(self.seconds / 3600, 3),
                'device': str(self.device),
            },
            'validation_loss': self.best,
        }
        model.card = card
        return model.eval().requires_grad_(False)


class TrainingLog:
    """
    JSON lines; those beyond the checkpoint of a resumed run are dropped.
    """

    def __init__(self, path, *, first_step):
        lines = []
        if path.exists() and first_step > 0:
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    if json.loads(line)['step'] <= first_step:
                        lines.append(line)
        with explain_full_disk(path):
            path.write_text(''.join(line + '\n' for line in lines))
        self.path = path

    def write(self, **values):
        """Append a line of plain values."""
        # JSON has neither NaN nor infinity: they become null.
        values = json.loads(json.dumps(values), parse_constant=lambda _: None)
        with explain_full_disk(self.path), self.path.open('a') as file:
            file.write(json.dumps(values) + '\n')


def train(
    kind,
    config,
    output,
    *,
    name=None,
    device='auto',
    resume=False,
    overwrite=False,
    max_minutes=None,
    progress_bar=False,
):
    """Train a network in a folder by a `Trainer`; see `train_encoder`."""
    if isinstance(config, tuple):
        configs, name = config, name or 'untitled'
    else:
        configs, name = load_config(config), name or Path(config).stem
    kinds = SECTIONS[kind.section].values()
    if [type(part) for part in configs] != list(kinds):
        names = ', '.join(k.__name__ for k in kinds)
        got = ', '.join(type(part).__name__ for part in configs)
        raise ValueError(must('config', f'hold {names}', got))
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with lock_folder(output, work='training'):
        checkpoint, weights = output / 'checkpoint.pt', output / f'{name}.safetensors'
        if not (resume or overwrite) and (checkpoint.exists() or weights.exists()):
            msg = f'{output} holds a training run: pass resume=True or overwrite=True'
            raise FileExistsError(msg)
        trainer = kind(configs, device=device)
        if resume and checkpoint.exists():
            trainer.load(checkpoint)
        _run(trainer, output, checkpoint, max_minutes, progress_bar)
        model = trainer.result(name)
        model.save(weights, overwrite=True)
    return model


def _run(trainer, output, checkpoint, max_minutes, progress_bar):
    from tqdm.auto import tqdm

    training = trainer.training
    log = TrainingLog(output / 'log.jsonl', first_step=trainer.step)
    bar = tqdm(
        total=training.n_steps,
        initial=trainer.step,
        unit='step',
        dynamic_ncols=True,
        disable=not progress_bar,
    )
    begun = saved = now = time.monotonic()
    spent, limit = trainer.seconds, math.inf
    if max_minutes is not None:
        limit = 60 * max_minutes
    ahead = trainer.batches.ahead
    with bar, contextlib.nullcontext() if trainer.draws_in_loss else ahead():
        try:
            # The run may have been interrupted while it validated.
            _validate_if_due(trainer, log, bar)
            while trainer.step < training.n_steps and now - begun <= limit:
                terms = trainer.advance()
                now = time.monotonic()
                trainer.seconds = spent + now - begun
                bar.update()
                if trainer.step % _LOG_EVERY == 0:
                    seconds = round(trainer.seconds, 1)
                    numbers = {name: float(value) for name, value in terms.items()}
                    log.write(step=trainer.step, seconds=seconds, **numbers)
                _validate_if_due(trainer, log, bar)
                if now - saved > 60 * training.checkpoint_minutes:
                    trainer.save(checkpoint)
                    saved = now
        finally:
            # Ctrl-C included; a kill -9 leaves the previous checkpoint.
            if trainer.whole:
                trainer.save(checkpoint)


def _validate_if_due(trainer, log, bar):
    if trainer.is_validation_due():
        terms = trainer.validate()
        log.write(step=trainer.step, validation=terms)
        bar.set_postfix(validation=f'{terms["loss"]:.3f}')
