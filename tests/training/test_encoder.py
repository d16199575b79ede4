# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the training loop: to the same end, whatever happens on the way.
"""

import dataclasses
import json
import pickle
import shutil
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bliss_astro._atomic import lock_folder
from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.simulation import SimulationConfig
from bliss_astro.training import _encoder, train_encoder
from bliss_astro.training._encoder import EncoderTrainer
from bliss_astro.training._run import TrainingLog


def checkpoint(folder):
    return torch.load(folder / 'checkpoint.pt', weights_only=True)


def assert_same(one, other, where=''):
    """
    Bitwise, except for the time that it took.
    """
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            if key != 'seconds':
                assert_same(one[key], other[key], f'{where}/{key}')
    elif isinstance(one, (list, tuple)):
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f'{where}/{k}')
    else:
        assert one == other, where


@pytest.fixture(scope='module')
def finished(tiny_configs, tmp_path_factory):
    """
    Give the folder of a run without interruption.
    """
    folder = tmp_path_factory.mktemp('runs') / 'finished'
    train_encoder(tiny_configs, folder, name='toy')
    return folder


@pytest.fixture
def straight(finished, tmp_path):
    """
    Give a copy of that folder.
    """
    return Path(shutil.copytree(finished, tmp_path / 'straight'))


@pytest.fixture
def two_threads(monkeypatch):
    """
    Two threads of torch, and a patch for the test.
    """
    number = torch.get_num_threads()
    torch.set_num_threads(2)
    yield monkeypatch
    torch.set_num_threads(number)


class _Killed(BaseException):
    pass


def interrupt(monkeypatch, *, name, call):
    """
    Make a method of the trainer fail at its n-th call.
    """
    original = getattr(EncoderTrainer, name)
    calls = []

    def replacement(self, *args, **keywords):
        calls.append(1)
        if len(calls) == call:
            raise _Killed
        return original(self, *args, **keywords)

    monkeypatch.setattr(EncoderTrainer, name, replacement)


class TestRun:
    def test_what_it_leaves(self, straight):
        names = sorted(path.name for path in straight.iterdir())
        assert names == ['checkpoint.pt', 'log.jsonl', 'toy.json', 'toy.safetensors']
        encoder = Encoder.from_pretrained(straight / 'toy.safetensors')
        assert encoder.card['training']['steps_done'] == 6
        assert encoder.card['training']['images_seen'] == 24
        assert encoder.card['simulation']['n_exposures'] == [1, 3]
        assert encoder.name == 'toy'

    def test_the_log_is_json_lines(self, straight):
        lines = (straight / 'log.jsonl').read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [r['step'] for r in records if 'validation' in r] == [2, 4, 6]
        assert set(records[0]['validation']) >= {'loss', 'count', 'position', 'flux'}

    def test_best_weights_are_kept(self, straight):
        records = map(json.loads, (straight / 'log.jsonl').read_text().splitlines())
        best = min(r['validation']['loss'] for r in records if 'validation' in r)
        encoder = Encoder.from_pretrained(straight / 'toy.safetensors')
        assert encoder.card['validation_loss'] == best
        state = checkpoint(straight)
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, state['best_weights'][name])

    def test_leaves_the_global_generator_alone(self, tiny_configs, tmp_path):
        before = torch.random.get_rng_state()
        trainer = EncoderTrainer(tiny_configs, device='cpu')
        first = trainer.model.state_dict()
        torch.manual_seed(99)
        second = EncoderTrainer(tiny_configs, device='cpu').model.state_dict()
        torch.random.set_rng_state(before)
        assert_same(first, second)

    def test_progress_bar(self, tiny_configs, tmp_path, capsys):
        train_encoder(tiny_configs, tmp_path, progress_bar=True, max_minutes=0)
        assert '1/6' in capsys.readouterr().err


class TestResume:
    def test_bitwise_after_a_pause(self, tiny_configs, tmp_path):
        training = dataclasses.replace(tiny_configs[2], dataset_size=8, n_steps=3)
        configs = (*tiny_configs[:2], training)
        straight, paused = tmp_path / 'straight', tmp_path / 'paused'
        train_encoder(configs, straight)
        train_encoder(configs, paused, max_minutes=0)
        assert checkpoint(paused)['step'] == 1
        train_encoder(configs, paused, resume=True)
        assert_same(checkpoint(paused), checkpoint(straight))
        # The files' cards differ in the hours that were spent.
        one, other = (
            safetensors.torch.load_file(folder / 'untitled.safetensors')
            for folder in (paused, straight)
        )
        assert_same(one, other)

    def test_batches_drawn_ahead(self, straight, tiny_configs, tmp_path, two_threads):
        """
        Two threads, one of which draws, are as one for both.
        """
        drawn_by, names = EncoderTrainer.draw, set()

        def draw(self, n=None, **keywords):
            if n is None:
                names.add(threading.current_thread().name)
            return drawn_by(self, n, **keywords)

        two_threads.setattr(EncoderTrainer, 'draw', draw)
        train_encoder(tiny_configs, tmp_path, name='toy')
        assert threading.current_thread().name not in names
        assert torch.get_num_threads() == 2
        assert_same(checkpoint(tmp_path), checkpoint(straight))

    @pytest.mark.parametrize('held', ['npe_loss', 'draw'])
    def test_gradients_of_two_threads(self, tiny_configs, two_threads, held):
        """
        Those of encoders that follow detection are of whichever thread has time.
        """
        design = dict.fromkeys(('galaxies', 'shapes', 'sequence', 'shapes_only'), True)
        encoder = dataclasses.replace(tiny_configs[0], **design)
        simulation = SimulationConfig(population='npe', n_exposures=(1, 1))
        configs = encoder, simulation, tiny_configs[2]
        one, other = (EncoderTrainer(configs, device='cpu') for _ in range(2))
        torch.set_num_threads(1)
        alone, batch, done, mine = one.advance(), other.draw(), threading.Event(), []
        torch.set_num_threads(2)
        sequence_loss, original = _encoder.sequence_loss, getattr(_encoder, held, None)

        def counted(*given):
            mine.append(threading.current_thread() is threading.main_thread())
            done.set()
            return sequence_loss(*given)

        def wait(*given, **keywords):
            assert done.wait(60)
            return original(*given, **keywords)

        two_threads.setattr(_encoder, 'sequence_loss', counted)
        if held == 'draw':
            other.batches._draw = lambda: done.wait(60) and batch
        else:
            two_threads.setattr(_encoder, held, wait)
        with other.batches.ahead():
            other.batches.take = lambda **_: other.batches._begin() or batch
            assert_same(other.advance(), alone)
        assert_same(other.model.state_dict(), one.model.state_dict())
        assert mine == [held == 'draw']

    @pytest.mark.parametrize(
        ('name', 'call'), [('backward', 5), ('draw', 4), ('draw', 7), ('validate', 2)]
    )
    def test_bitwise_after_ctrl_c_with_batches_drawn_ahead(
        self, straight, tiny_configs, tmp_path, two_threads, name, call
    ):
        with two_threads.context() as patch:
            interrupt(patch, name=name, call=call)
            with pytest.raises(_Killed):
                train_encoder(tiny_configs, tmp_path, name='toy')
        assert checkpoint(tmp_path)['step'] < 6
        train_encoder(tiny_configs, tmp_path, name='toy', resume=True)
        assert_same(checkpoint(tmp_path), checkpoint(straight))

    @pytest.mark.parametrize(
        ('name', 'call'), [('backward', 5), ('draw', 4), ('validate', 2)]
    )
    def test_bitwise_after_ctrl_c(
        self, straight, tiny_configs, tmp_path, monkeypatch, name, call
    ):
        """
        In the middle of a step, or of a validation.
        """
        folder = tmp_path / 'interrupted'
        with monkeypatch.context() as patch:
            interrupt(patch, name=name, call=call)
            with pytest.raises(_Killed):
                train_encoder(tiny_configs, folder, name='toy')
        assert 0 < checkpoint(folder)['step'] < 6
        assert not (folder / 'toy.safetensors').exists()
        train_encoder(tiny_configs, folder, name='toy', resume=True)
        assert_same(checkpoint(folder), checkpoint(straight))
        assert (folder / 'log.jsonl').read_text() == (
            straight / 'log.jsonl'
        ).read_text()

    def test_bitwise_after_a_kill(self, straight, tiny_configs, tmp_path, monkeypatch):
        """
        Without any chance to write: from the last checkpoint on.
        """
        folder = tmp_path / 'killed'
        configs = (
            *tiny_configs[:2],
            dataclasses.replace(tiny_configs[2], checkpoint_minutes=0.0),
        )
        with monkeypatch.context() as patch:
            interrupt(patch, name='advance', call=5)
            save = EncoderTrainer.save

            def until_killed(self, path):
                if self.step < 4 or not path.exists():
                    save(self, path)

            patch.setattr(EncoderTrainer, 'save', until_killed)
            with pytest.raises(_Killed):
                train_encoder(configs, folder, name='toy')
        assert checkpoint(folder)['step'] == 3
        # A line that was being written when the end came.
        with (folder / 'log.jsonl').open('a') as file:
            file.write('{"step": 5, "lo')
        train_encoder(configs, folder, name='toy', resume=True)
        # How often it is saved is all that differs.
        expected = checkpoint(straight) | {'settings': checkpoint(folder)['settings']}
        assert_same(checkpoint(folder), expected)
        assert (folder / 'log.jsonl').read_text() == (
            straight / 'log.jsonl'
        ).read_text()

    def test_a_full_disk(self, tiny_configs, tmp_path, monkeypatch):
        train_encoder(tiny_configs, tmp_path, max_minutes=0)
        before = (tmp_path / 'checkpoint.pt').read_bytes()

        def full(state, path):
            path.write_bytes(b'half of it')
            raise OSError(28, 'No space left on device')

        with monkeypatch.context() as patch:
            patch.setattr(torch, 'save', full)
            with pytest.raises(OSError, match=r'the disk is full.*checkpoint\.pt'):
                train_encoder(tiny_configs, tmp_path, resume=True, max_minutes=0)
        assert (tmp_path / 'checkpoint.pt').read_bytes() == before
        assert not list(tmp_path.glob('.tmp*'))

    def test_a_full_disk_while_logging(self, tiny_configs, tmp_path, monkeypatch):
        def full(*_, **__):
            raise OSError(28, 'No space left on device')

        log = TrainingLog(tmp_path / 'log.jsonl', first_step=0)
        monkeypatch.setattr(type(tmp_path), 'open', full)
        with pytest.raises(OSError, match=r'the disk is full.*log\.jsonl'):
            log.write(step=1)

    def test_one_at_a_time(self, tiny_configs, tmp_path):
        with (
            lock_folder(tmp_path),
            pytest.raises(BlockingIOError, match=r'another training .* is at work in'),
        ):
            train_encoder(tiny_configs, tmp_path)
        assert not list(tmp_path.iterdir())
        train_encoder(tiny_configs, tmp_path, max_minutes=0)
        names = {path.name for path in tmp_path.iterdir()}
        assert '.lock' not in names

    @pytest.mark.parametrize('damage', ['cut', 'text', 'empty', 'pickle', 'other'])
    def test_a_damaged_checkpoint(self, straight, tiny_configs, damage):
        path = straight / 'checkpoint.pt'
        content = path.read_bytes()
        if damage == 'other':
            torch.save({'weights': torch.zeros(2)}, path)
        else:
            path.write_bytes(
                {
                    'cut': content[: len(content) // 2],
                    'text': b'no checkpoint at all',
                    'empty': b'',
                    'pickle': pickle.dumps(straight, protocol=2),
                }[damage]
            )
        with pytest.raises(ValueError, match=r'checkpoint\.pt .*overwrite=True'):
            train_encoder(tiny_configs, straight, resume=True)

    def test_weights_half_changed_are_not_saved(
        self, tiny_configs, tmp_path, monkeypatch
    ):
        train_encoder(tiny_configs, tmp_path, max_minutes=0)
        before = (tmp_path / 'checkpoint.pt').read_bytes()
        with monkeypatch.context() as patch:
            interrupt(patch, name='_update_average', call=1)
            with pytest.raises(_Killed):
                train_encoder(tiny_configs, tmp_path, resume=True)
        assert (tmp_path / 'checkpoint.pt').read_bytes() == before

    def test_another_configuration(self, straight, tiny_configs):
        other = (EncoderConfig(width=16, n_blocks=1), *tiny_configs[1:])
        with pytest.raises(ValueError, match='another configuration'):
            train_encoder(other, straight, resume=True)

    def test_an_existing_folder(self, straight, tiny_configs):
        before = (straight / 'checkpoint.pt').read_bytes()
        with pytest.raises(FileExistsError, match='resume=True or overwrite=True'):
            train_encoder(tiny_configs, straight)
        assert (straight / 'checkpoint.pt').read_bytes() == before

    def test_overwrite(self, straight, tiny_configs):
        train_encoder(tiny_configs, straight, overwrite=True, max_minutes=0)
        assert checkpoint(straight)['step'] == 1

    def test_resume_without_anything(self, tiny_configs, tmp_path):
        train_encoder(tiny_configs, tmp_path / 'new', resume=True, max_minutes=0)
        assert checkpoint(tmp_path / 'new')['step'] == 1

    def test_a_finished_run(self, straight, tiny_configs):
        before = (straight / 'toy.safetensors').read_bytes()
        train_encoder(tiny_configs, straight, name='toy', resume=True)
        assert (straight / 'toy.safetensors').read_bytes() == before


class TestSteps:
    @pytest.mark.parametrize('bad', ['loss', 'gradient'])
    def test_non_finite_steps_are_skipped(self, tiny_configs, monkeypatch, bad):
        trainer = EncoderTrainer(tiny_configs, device='cpu')
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        average = {k: v.clone() for k, v in trainer.average.state_dict().items()}
        original = _encoder.npe_loss

        def broken(*given):
            loss, terms = original(*given)
            if bad == 'loss':
                return loss * torch.nan, terms
            return loss + (trainer.model.to_tiles.bias[0] * 0).sqrt(), terms

        with monkeypatch.context() as patch:
            patch.setattr(_encoder, 'npe_loss', broken)
            trainer.advance()
        assert (trainer.step, trainer.n_skipped) == (1, 1)
        assert_same(dict(trainer.model.state_dict()), before)
        assert_same(dict(trainer.average.state_dict()), average)
        trainer.advance()
        assert (trainer.step, trainer.n_skipped) == (2, 1)
        assert not torch.equal(trainer.model.to_tiles.weight, before['to_tiles.weight'])

    def test_checkpoints_of_another_form_of_adam(self, tiny_configs, tmp_path):
        trainer = EncoderTrainer(tiny_configs, device='cpu')
        trainer.advance()
        for group in trainer.optimizer.param_groups:
            group['fused'] = None
        trainer.save(tmp_path / 'checkpoint.pt')
        again = EncoderTrainer(tiny_configs, device='cpu')
        again.load(tmp_path / 'checkpoint.pt')
        again.advance()
        assert (again.step, again.n_skipped) == (2, 0)

    @pytest.mark.parametrize('used', [True, False])
    def test_several_bands(self, tiny_configs, used):
        encoder, simulation, training = tiny_configs
        encoder = dataclasses.replace(encoder, bands=used, matched_filter=True)
        simulation = dataclasses.replace(simulation, bands=('g', 'r', 'i'))
        trainer = EncoderTrainer((encoder, simulation, training), device='cpu')
        generator = torch.Generator().manual_seed(2)
        images = trainer.stream.sample_batch(4, generator=generator)
        inputs, catalog, *_ = trainer.draw(generator=generator.manual_seed(2))
        # An encoder without bands has the reference band alone.
        n_bands = 3 if used else 1
        assert inputs.image.shape == (4, n_bands, 16, 16)
        assert torch.equal(inputs.present, images.present[:, :n_bands])
        # The truth is that of the reference band.
        first = images.reference
        total = catalog.count.sum((1, 2))
        assert (total <= (first.flux >= first.flux_min[:, None]).sum(1)).all()
        assert total.any()
        numbers = [trainer.advance() for _ in range(2)]
        assert all(float(step['loss']) == float(step['loss']) for step in numbers)

    def test_no_waits_for_numbers(self, tiny_configs):
        """
        A GPU has to finish for the lists of tiles with sources, and for nothing else.
        """
        waits = []

        class Waits(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                name = str(function)
                waits.extend(n for n in ('_local_scalar', 'nonzero') if n in name)
                return function(*args, **(kwargs or {}))

        trainer = EncoderTrainer(tiny_configs, device='cpu')
        batch = trainer.draw()
        trainer.batches.take = lambda **_: batch
        with Waits():
            trainer.advance()
        # The other is whether the noise of any pixel is correlated.
        assert waits.count('nonzero') <= trainer.configs[0].n_most
        assert waits.count('_local_scalar') <= 1

    def test_what_is_prepared(self, tiny_configs):
        """
        Of planes and ellipticities of the draw the loss is what it is without.
        """
        encoder = dataclasses.replace(
            tiny_configs[0], galaxies=True, shapes=True, sequence=True, shapes_only=True
        )
        simulation = SimulationConfig(population='npe', n_exposures=(1, 1))
        trainer = EncoderTrainer((encoder, simulation, tiny_configs[2]), device='cpu')
        inputs, catalog, planes, measured = trainer.draw()
        [(_, _, of_reference)], spectral = planes
        assert spectral is None
        assert of_reference.shape[-2:] == inputs.image.shape[-2:]
        assert catalog.ellipticity[catalog.galaxy == 0].abs().max() == 0
        assert catalog.ellipticity[catalog.galaxy > 0].abs().max() > 0
        plain = dataclasses.replace(catalog, ellipticity=None)
        loss, _ = trainer.loss(trainer.model, (inputs, catalog, planes, measured))
        other, _ = trainer.loss(trainer.model, (inputs, plain, None, None))
        torch.testing.assert_close(loss, other)

    def test_a_log_without_nan(self, tmp_path):
        log = TrainingLog(tmp_path / 'log.jsonl', first_step=0)
        log.write(step=1, loss=float('nan'), validation={'count': float('inf')})
        text = (tmp_path / 'log.jsonl').read_text()
        assert json.loads(text) == {
            'step': 1,
            'loss': None,
            'validation': {'count': None},
        }

    def test_schedule(self, tiny_configs):
        training = dataclasses.replace(tiny_configs[2], n_steps=100, warmup_steps=10)
        trainer = EncoderTrainer((*tiny_configs[:2], training), device='cpu')
        rates = []
        for trainer.step in range(100):
            rates.append(trainer.rates()[0])
        assert rates.index(max(rates)) in range(8, 12)
        assert max(rates) <= training.learning_rate
        assert rates[0] < 0.15 * training.learning_rate
        assert rates[-1] < 0.02 * training.learning_rate

    def test_a_fixed_data_set(self, tiny_configs):
        """
        Eight images in batches of four: two batches, seen again and again.
        """
        training = dataclasses.replace(tiny_configs[2], dataset_size=8)
        trainer = EncoderTrainer((*tiny_configs[:2], training), device='cpu')
        images = {trainer.draw()[0].image.sum().item() for _ in range(12)}
        assert len(images) == 2
        endless = EncoderTrainer(tiny_configs, device='cpu')
        assert len({endless.draw()[0].image.sum().item() for _ in range(12)}) == 12

    def test_validation_images_stay_the_same(self, tiny_configs):
        trainer = EncoderTrainer(tiny_configs, device='cpu')
        state = trainer.generator.get_state()
        assert trainer.validate() == trainer.validate()
        assert torch.equal(trainer.generator.get_state(), state)
