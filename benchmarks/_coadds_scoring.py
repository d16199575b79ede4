# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What the networks of the coadd experiment find in the same test images.
"""

import functools
import json
import multiprocessing
from pathlib import Path

import numpy as np
import torch
from _truth import _generator

from bliss_astro import CoaddSimulator
from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.posteriors import find_sources

__all__ = ['BUNDLED', 'SEED', 'cards', 'read_scores', 'score_all']

# No training stream begins with this key.
SEED = 20221110
# The bundled encoder that is asked too, and the depths it was trained for.
BUNDLED, BUNDLED_DEPTHS = 'stars', (1, 25)
# Sources below this probability are not kept.
_LEAST = 0.05
# Pixels of exposures in a batch.
_BATCH_PIXELS = 50_000_000

_encoders = {}


def _batch_size(depth):
    # It belongs to the seeds: another one means other images.
    return min(256, max(16, _BATCH_PIXELS // (depth * 90**2)))


def _start_worker(paths, n_threads, device):
    torch.set_num_threads(n_threads)
    _encoders.clear()
    for label, path in paths.items():
        _encoders[label] = Encoder.from_pretrained(path).to(device)


@torch.no_grad()
def _ask_all(task):
    """Truth of one batch, what is said of its noise, what each encoder found."""
    order, depth, index, n_images, first, device = task
    simulator = CoaddSimulator(depth, noise_order=order, tolerance=1e-5, device=device)
    seed = _generator(SEED, depth, index).initial_seed()
    generator = torch.Generator(device).manual_seed(seed)
    batch = simulator.sample_batch(n_images, generator=generator)
    used = batch.flux > 0
    image, _ = used.nonzero(as_tuple=True)
    truth = {
        'image': first + image.cpu().numpy(),
        **{k: _numbers(getattr(batch, k)[used]) for k in ('x', 'y', 'flux')},
    }
    stated = {
        k: _numbers(getattr(batch, k))
        for k in ('bkg_error', 'effective_gain', 'correlation', 'psf')
    }
    floor = float(simulator.prior.flux_min)
    found = {
        label: _found(encoder, batch, first, floor)
        for label, encoder in _encoders.items()
    }
    return truth, stated, found


def _numbers(tensor):
    return tensor.double().cpu().numpy()


def _found(encoder, batch, first, floor):
    inputs = EncoderInputs.from_batch(batch, tile_size=encoder.config.tile_size)
    device = inputs.image.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == 'cpu'):
        posterior = encoder(inputs)
    sources = find_sources(posterior)
    sources = sources.select(sources.probability >= _LEAST)
    x, y = sources.place()
    return {
        'image': first + sources.image.cpu().numpy(),
        'probability': _numbers(sources.probability),
        'x': _numbers(x),
        'y': _numbers(y),
        'flux': floor * np.exp(_numbers(sources.quantile_flux(0.5))),
    }


def _join(parts):
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _score(group, paths, n_images, *, device, processes):
    from tqdm import tqdm

    order, depth = group
    size = _batch_size(depth)
    tasks = [
        (order, depth, k, min(size, n_images - start), start, device)
        for k, start in enumerate(range(0, n_images, size))
    ]
    label = f'test images, d = {depth}, {order}'
    bar = functools.partial(tqdm, total=len(tasks), desc=label, unit='batch')
    if processes == 1 or len(tasks) == 1:
        _start_worker(paths, torch.get_num_threads(), device)
        results = list(bar(map(_ask_all, tasks)))
    else:
        context = multiprocessing.get_context('spawn')
        with context.Pool(processes, _start_worker, (paths, 1, device)) as pool:
            results = list(bar(pool.imap(_ask_all, tasks)))
    truth, stated, found = zip(*results, strict=True)
    joined = {name: _join([part[name] for part in found]) for name in paths}
    return _join(truth), _join(stated), joined


# -- files -------------------------------------------------------------------------


def _file(work, label, group):
    order, depth = group
    return work / 'scores' / f'd{depth:03d}-{order.split("_")[0]}-{label}.npz'


def _key(path, n_images):
    # Says which weights were asked about which images.
    sha256 = Encoder.from_pretrained(path).card['sha256']
    return f'{sha256} {SEED} {n_images}'


def _write(path, arrays, key):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'writing-{path.name}')
    np.savez_compressed(temporary, key=np.array(key), **arrays)
    temporary.replace(path)


def _read(path):
    # Arrays, and the seed and number of the images.
    with np.load(path) as arrays:
        values = {k: arrays[k] for k in arrays}
    return values, str(values.pop('key')).split()[-2:]


def _is_fresh(path, key):
    if not path.is_file():
        return False
    with np.load(path) as arrays:
        return str(arrays['key']) == key


def score_all(networks, work, n_images, *, device='cpu', processes=1):
    """
    Ask all finished networks, and the bundled one, about the test images.

    Networks of one depth and order of the noise see the same images; what
    was scored before is not scored again.

    Parameters
    ----------
    networks : list of `Network`
        Those without weights are left out.

    work : `pathlib.Path`
        Holds the networks; the scores go to its folder ``scores``.

    n_images : int
        Test images of each depth.

    device : str, optional
        Where to simulate and to ask.

    processes : int, optional
        To share the work, on a CPU.
    """
    groups = {}
    for network in networks:
        if network.weights(work).is_file():
            own = groups.setdefault(network.group, {})
            own[f's{network.seed}'] = str(network.weights(work))
    for group, paths in groups.items():
        if BUNDLED_DEPTHS[0] <= group[1] <= BUNDLED_DEPTHS[1]:
            paths[BUNDLED] = BUNDLED
        keys = {label: _key(path, n_images) for label, path in paths.items()}
        files = {label: _file(work, label, group) for label in paths}
        left = [label for label in paths if not _is_fresh(files[label], keys[label])]
        if not left:
            continue
        truth, stated, found = _score(
            group,
            {label: paths[label] for label in left},
            n_images,
            device=device,
            processes=processes,
        )
        own = {f'truth/{k}': v for k, v in truth.items()}
        own |= {f'stated/{k}': v.mean(0) for k, v in stated.items()}
        _write(_file(work, 'truth', group), own, f'{SEED} {n_images}')
        for label in left:
            _write(files[label], found[label], keys[label])


def read_scores(networks, work):
    """
    The saved scores of all groups that have any.

    Parameters
    ----------
    networks : list of `Network`
        As in `score_all`.

    work : `pathlib.Path`
        Likewise.

    Returns
    -------
    scores : dict
        By order of the noise and depth a dict with ``n_images``, ``truth``
        and ``stated`` (dicts of arrays), ``networks`` (list of dicts of arrays, a
        seed each), ``seeds`` and ``bundled`` (the same of the bundled encoder,
        or `None`).
    """
    scores = {}
    for network in networks:
        group = network.group
        truth_file = _file(work, 'truth', group)
        path = _file(work, f's{network.seed}', group)
        if not (truth_file.is_file() and path.is_file()):
            continue
        if group not in scores:
            scores[group] = _start(truth_file, _file(work, BUNDLED, group))
        found, images = _read(path)
        if images != scores[group]['images']:
            print(f'{path.name} is of other images: left out')
            continue
        scores[group]['networks'].append(found)
        scores[group]['seeds'].append(network.seed)
    return {group: own for group, own in scores.items() if own['networks']}


def _start(truth_file, bundled_file):
    arrays, images = _read(truth_file)
    bundled, own = _read(bundled_file) if bundled_file.is_file() else (None, None)
    if own != images:
        bundled = None
    return {
        'images': images,
        'n_images': int(images[1]),
        'truth': {k[6:]: v for k, v in arrays.items() if k.startswith('truth/')},
        'stated': {k[7:]: v for k, v in arrays.items() if k.startswith('stated/')},
        'networks': [],
        'seeds': [],
        'bundled': bundled,
    }


def cards(networks, work):
    """What the cards of the finished networks say of their training."""
    found = {}
    for network in networks:
        card = Path(network.weights(work)).with_suffix('.json')
        if card.is_file():
            card = json.loads(card.read_text())
            training = card['training']
            found[network.name] = {
                'sha256': card['sha256'],
                'validation_loss': card['validation_loss'],
                'minutes': round(60 * training['hours'], 2),
                **{k: training[k] for k in ('steps_done', 'images_seen', 'device')},
            }
    return found
