# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Asks all encoders about the same test images and keeps what they say.
"""

import functools
import multiprocessing
from pathlib import Path

import numpy as np
import torch
from _fields_asking import SEED, ask, describe_truth, draw_scenes
from _fields_common import SETS
from _fields_training import test_simulation

from bliss_astro.encoders import Encoder
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.simulation._scene_stream import SceneStream

__all__ = ['TestStream', 'read_scores', 'score_all']

# Images that are drawn and asked about at once, and such batches in a file. Both
# belong to the seeds: with others the images are others.
_BATCH, _PER_FILE = 64, 8
_FIELDS = {'many': 'sdss', 'single': 'single'}

_state = {'encoders': {}, 'streams': {}, 'device': 'cpu'}


class TestStream(SceneStream):
    """
    Test images of one kind.

    Parameters
    ----------
    which : {'many', 'single'}
        The fields.

    continued : bool, optional
        Whether sources go on beyond the edges, as on the sky.

    device : str, optional
        Where to simulate.
    """

    def __init__(self, which, *, continued=False, device='cpu'):
        # The paper has no sources beyond the edges of its images.
        super().__init__(
            test_simulation(_FIELDS[which]),
            device=device,
            margins={'npe': 14 if continued else 0},
        )


def _start_worker(paths, n_threads, device, continued):
    torch.set_num_threads(n_threads)
    _state['device'] = device
    _state['encoders'] = {
        label: Encoder.from_pretrained(path).to(device) for label, path in paths.items()
    }
    _state['streams'] = {
        which: TestStream(which, continued=continued, device=device) for which in SETS
    }


def _ask_all(task):
    """Truth of one batch and what each of the encoders says."""
    which, index, n_images, labels = task
    stream = _state['streams'][which]
    first = index * _BATCH
    scenes, generator = draw_scenes(stream, which, index, n_images)
    truth = describe_truth(scenes, first)
    seed = generator.initial_seed()
    answers = {}
    for label in labels:
        encoder = _state['encoders'][label]
        config = encoder.config
        # The same draws for every encoder, whoever else is asked.
        generator.manual_seed(seed + 1)
        answers[label] = ask(
            encoder,
            *training_pair(scenes, tile_size=config.tile_size, n_most=config.n_most),
            scenes,
            truth,
            first,
            generator,
        )
    return truth, answers


# -- files ---------------------------------------------------------------------------


def _join(parts):
    parts = [part for part in parts if part]
    if not parts:
        return {}
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _flat(answer):
    return {f'{kind}/{k}': v for kind, own in answer.items() for k, v in own.items()}


def _nested(arrays):
    answer = {}
    for key, value in arrays.items():
        kind, _, name = key.partition('/')
        answer.setdefault(kind, {})[name] = value
    return answer


def _file(work, label, which, number):
    return work / 'scores' / which / f'{label}-{number:04d}.npz'


def _write(path, arrays, key):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'writing-{path.name}')
    np.savez_compressed(temporary, key=np.array(key), **arrays)
    temporary.replace(path)


def _read(path):
    with np.load(path) as arrays:
        values = {k: arrays[k] for k in arrays}
    return values, str(values.pop('key'))


def _is_fresh(path, key):
    if not path.is_file():
        return False
    with np.load(path) as arrays:
        return str(arrays['key']) == key


def _keys(paths, continued):
    # Which weights were asked, and about which images.
    images = f'{SEED} {_BATCH} {"continued" if continued else "inside"}'
    keys = {'truth': images}
    for label, path in paths.items():
        keys[label] = f'{Encoder.from_pretrained(path).card["sha256"]} {images}'
    return keys


def _sizes(n_images):
    """Numbers of images in the batches of each file."""
    sizes = [min(_BATCH, n_images - start) for start in range(0, n_images, _BATCH)]
    return [sizes[k : k + _PER_FILE] for k in range(0, len(sizes), _PER_FILE)]


def _left(work, n_images, paths, keys):
    """Files that are to be written: kind, number, sizes, encoders to ask."""
    for which in SETS:
        for number, sizes in enumerate(_sizes(n_images)):
            labels = [
                label
                for label in paths
                if not _is_fresh(
                    _file(work, label, which, number), f'{keys[label]} {sum(sizes)}'
                )
            ]
            if labels:
                yield which, number, sizes, labels


def score_all(paths, work, n_images, *, device='cpu', processes=1, continued=False):
    """
    Ask encoders about the test images; what was asked before is not asked again.

    All encoders are asked about a batch before the next one is drawn. An interruption
    costs some hundred images at most.

    Parameters
    ----------
    paths : dict
        Names or files of encoders by label.

    work : `pathlib.Path`
        The answers go to its folder ``scores``.

    n_images : int
        Test images of each kind.

    device : str, optional
        Where to simulate and to ask.

    processes : int, optional
        To share the work, on a CPU.

    continued : bool, optional
        Whether sources go on beyond the edges of the images.
    """
    from tqdm import tqdm

    keys = _keys(paths, continued)
    files = list(_left(work, n_images, paths, keys))
    tasks = [
        (which, number * _PER_FILE + k, size, labels)
        for which, number, sizes, labels in files
        for k, size in enumerate(sizes)
    ]
    if not tasks:
        return
    bar = functools.partial(tqdm, total=len(tasks), desc='test images', unit='batch')
    start = (paths, 1 if processes > 1 else torch.get_num_threads(), device, continued)
    if processes == 1:
        _start_worker(*start)
        _collect(files, bar(map(_ask_all, tasks)), work, keys)
        return
    context = multiprocessing.get_context('spawn')
    with context.Pool(processes, _start_worker, start) as pool:
        _collect(files, bar(pool.imap(_ask_all, tasks)), work, keys)


def _collect(files, results, work, keys):
    results = iter(results)
    for which, number, sizes, labels in files:
        truths, answers = zip(*(next(results) for _ in sizes), strict=True)
        n_images = sum(sizes)
        truth = _join(truths)
        _write(
            _file(work, 'truth', which, number), truth, f'{keys["truth"]} {n_images}'
        )
        # Rows of the truth are counted within a batch.
        offsets = np.cumsum([0, *(len(t['image']) for t in truths[:-1])])
        for label in labels:
            for answer, offset in zip(answers, offsets, strict=True):
                if answer[label]['tiles']:
                    answer[label]['tiles']['source'] += offset
            kinds = ('found', 'tiles', 'images')
            joined = {
                kind: _join([answer[label][kind] for answer in answers])
                for kind in kinds
            }
            path = _file(work, label, which, number)
            _write(path, _flat(joined), f'{keys[label]} {n_images}')


def read_scores(labels, work, which, n_images):
    """
    The saved answers about one kind of images.

    Parameters
    ----------
    labels : list of str
        Encoders.

    work : `pathlib.Path`
        As in `score_all`.

    which : {'many', 'single'}
        The kind.

    n_images : int
        Images to read.

    Returns
    -------
    truth : dict of array
        Of the images that all these encoders were asked about.

    answers : dict
        Of each encoder what `ask` returns.

    n_images : int
        Number of these images.
    """
    parts, n_read = [], 0
    for number in range(len(_sizes(n_images))):
        paths = [_file(work, label, which, number) for label in ('truth', *labels)]
        if not all(path.is_file() for path in paths):
            break
        own = [_read(path) for path in paths]
        images = [key.split()[-4:] for _, key in own]
        if any(other != images[0] for other in images[1:]):
            print(f'{paths[0].name} and others are of other images: left out')
            break
        parts.append([values for values, _ in own])
        n_read += int(images[0][-1])
    if not parts:
        return None, {}, 0
    truths, *others = zip(*parts, strict=True)
    offsets = np.cumsum([0, *(len(t['image']) for t in truths[:-1])])
    answers = {}
    for label, own in zip(labels, others, strict=True):
        for values, offset in zip(own, offsets, strict=True):
            if 'tiles/source' in values:
                values['tiles/source'] = values['tiles/source'] + offset
        answers[label] = _nested(_join(list(own)))
    return _join(list(truths)), answers, n_read


def cards(paths):
    """What the cards of encoders say of their training."""
    found = {}
    kept = ('name', 'date', 'sha256', 'n_parameters', 'validation_loss', 'training')
    for label, path in paths.items():
        card = Encoder.from_pretrained(path).card
        found[label] = {key: card[key] for key in kept if key in card}
        found[label]['file'] = Path(str(path)).name
    return found
