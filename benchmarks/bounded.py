# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Time and memory of a detection on images that no encoder was made for.
"""

import argparse
import json
import resource
import time
import warnings

import numpy as np
from _common import Report, in_subprocess, make_parser
from scipy.ndimage import gaussian_filter

_SECONDS, _GIGABYTES = 30.0, 1.5


def _texture(rng, shape, *scales):
    fields = [gaussian_filter(rng.normal(size=shape), scale) for scale in scales]
    return sum(field / field.std() for field in fields) / len(scales) ** 0.5


def _stars(rng, shape, n, sigma):
    image = np.zeros(shape)
    place = tuple(rng.integers(0, length, n) for length in shape)
    np.add.at(image, place, 100 * rng.pareto(1.2, n) + 20)
    return gaussian_filter(image, sigma)


def make_image(kind, n, rng):
    """
    Make one hard image.

    Parameters
    ----------
    kind : str
        A name out of `KINDS`.

    n : int
        Side in pixels.

    rng : `numpy.random.Generator`
        Source of randomness.

    Returns
    -------
    image : 2D array
        With noise of unit variance.
    """
    y, x = np.mgrid[:n, :n]
    noise = rng.normal(size=(n, n))
    radius = np.hypot(x - n / 2, 1.4 * (y - n / 2))
    if kind == 'noise':
        return noise
    if kind == 'galaxy':
        phase = 2 * np.arctan2(y - n / 2, x - n / 2) + 18 * radius / n
        clumps = np.exp(0.5 * _texture(rng, (n, n), 2.0))
        return (
            200 * np.exp(-10 * radius / n) * (1 + 0.5 * np.cos(phase)) * clumps + noise
        )
    if kind == 'nebula':
        return 30 * np.exp(_texture(rng, (n, n), 1.3, 2, 4, 8, 16, 32)) + noise
    if kind == 'stripes':
        drift = np.cumsum(0.3 * rng.normal(size=n))
        return noise + (drift + 1.5 * rng.normal(size=n))[:, None] + rng.normal(size=n)
    if kind == 'crowd':
        # 100,000 sources on 512 x 512 pixels.
        return _stars(rng, (n, n), int(1e5 * (n / 512) ** 2), 1.5) + noise
    if kind == 'undersampled crowd':
        return _stars(rng, (n, n), int(0.1 * n**2), 0.6) + noise
    if kind == 'checkerboard':
        return 20.0 * ((x // 3 + y // 3) % 2) + noise
    return 10 * np.cos(radius / 3) + noise


KINDS = (
    'noise',
    'galaxy',
    'nebula',
    'stripes',
    'crowd',
    'undersampled crowd',
    'checkerboard',
    'rings',
)


def _run_once(task):
    import torch

    from bliss_astro import PSFModel, detect_sources

    torch.set_num_threads(task['threads'])
    image = make_image(task['kind'], task['side'], np.random.default_rng(1))
    known = {}
    if task['stated']:
        # Nothing of the structure is taken for noise or for the sky.
        known = {'psf': PSFModel(), 'background': 0.0, 'bkg_error': 1.0}
        known['effective_gain'] = 10.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        wall, cpu = time.perf_counter(), time.process_time()
        catalog = detect_sources(image, progress_bar=False, **known)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rows, texts = len(catalog), sorted({str(entry.message) for entry in caught})
    found = {'wall': wall, 'cpu': cpu, 'gigabytes': peak, 'rows': rows}
    print(json.dumps(found | {'warnings': texts}))


def main():
    """Measure every kind of image, with nothing stated and with all stated."""
    parser = make_parser(__doc__.strip())
    parser.add_argument('--side', type=int, default=512, help='pixels')
    parser.add_argument('--kinds', nargs='+', default=KINDS, choices=KINDS)
    parser.add_argument('--task', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        _run_once(json.loads(arguments.task))
        return
    report = Report('bounded', __doc__.strip(), arguments)
    side = 128 if arguments.quick else arguments.side
    details = []
    for stated in (False, True):
        for kind in arguments.kinds:
            task = {'kind': kind, 'side': side, 'stated': stated}
            found = in_subprocess(__file__, task | {'threads': arguments.threads})
            name = kind + (', all stated' if stated else '')
            allowed = {'low': 0.0, 'high': _SECONDS, 'target': f'< {_SECONDS:g} s'}
            report.add(f'{name}: seconds', found['wall'], **allowed)
            report.add(f'{name}: CPU seconds', found['cpu'])
            allowed = {'low': 0.0, 'high': _GIGABYTES, 'target': f'< {_GIGABYTES:g} GB'}
            report.add(f'{name}: GB', found['gigabytes'], **allowed)
            report.add(f'{name}: rows', found['rows'])
            details.append({'image': name, **found})
            print(name, found, flush=True)
    report.details['images'] = details
    report.finish()


if __name__ == '__main__':
    main()
