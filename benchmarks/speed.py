# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Time and memory: a frame from file to table, images that are hard to fit, simulator.

Every run is a process of its own, for first calls and peak memory. With ``--image`` and
``--psf`` the frame is one of SDSS, else it is simulated.
"""

import argparse
import json
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from harness import OURS, Benchmark, peak_of_process, ratio_with_error
from scipy.ndimage import gaussian_filter

FRAME_SHAPE = (1489, 2048)
# Bounds for 512 x 512 pixels on two cores.
LONGEST_S, LARGEST_GB = 30.0, 1.5
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


def make_image(kind, n, rng):
    """
    Image that is hard to fit, with noise of unit variance.

    Parameters
    ----------
    kind : str
        A name of `KINDS`.

    n : int
        Side in pixels.

    rng : `numpy.random.Generator`
        Source of randomness.
    """
    y, x = np.mgrid[:n, :n]
    noise = rng.normal(size=(n, n))
    radius = np.hypot(x - n / 2, 1.4 * (y - n / 2))
    if kind == 'noise':
        return noise
    if kind == 'galaxy':
        phase = 2 * np.arctan2(y - n / 2, x - n / 2) + 18 * radius / n
        light = 200 * np.exp(-10 * radius / n) * (1 + 0.5 * np.cos(phase))
        return light * np.exp(0.5 * _texture(rng, n, 2.0)) + noise
    if kind == 'nebula':
        return 30 * np.exp(_texture(rng, n, 1.3, 2, 4, 8, 16, 32)) + noise
    if kind == 'stripes':
        drift = np.cumsum(0.3 * rng.normal(size=n)) + 1.5 * rng.normal(size=n)
        return noise + drift[:, None] + rng.normal(size=n)
    if kind == 'crowd':
        return _stars(rng, n, int(1e5 * (n / 512) ** 2), 1.5) + noise
    if kind == 'undersampled crowd':
        return _stars(rng, n, int(0.1 * n**2), 0.6) + noise
    if kind == 'checkerboard':
        return 20.0 * ((x // 3 + y // 3) % 2) + noise
    return 10 * np.cos(radius / 3) + noise


def _texture(rng, n, *scales):
    fields = [gaussian_filter(rng.normal(size=(n, n)), scale) for scale in scales]
    return sum(field / field.std() for field in fields) / len(scales) ** 0.5


def _stars(rng, n, n_stars, sigma):
    image = np.zeros((n, n))
    np.add.at(
        image, tuple(rng.integers(0, n, (2, n_stars))), 100 * rng.pareto(1.2, n_stars)
    )
    return gaussian_filter(image, sigma)


# -- tasks, each in a process of its own ---------------------------------------------


def read_frame(task):
    """Exposure of an SDSS frame, or the pixels of a simulated one."""
    from astropy.io import fits

    from bliss_astro import Exposure

    if task['psf']:
        return Exposure.from_sdss(task['image'], task['psf'])
    return fits.getdata(task['image']).astype(float)


def run_ours(task):
    """Time of reading and detection, and of the reconstruction."""
    from bliss_astro import detect_sources

    start = time.perf_counter()
    catalog = detect_sources(read_frame(task), progress_bar=False)
    detected = time.perf_counter()
    catalog.reconstruct()
    end = time.perf_counter()
    return {
        'time': detected - start,
        'time of model and residuals': end - detected,
        'sources': len(catalog),
    }


def run_photutils(task):
    """Time of background, segmentation with deblending and measurement."""
    from astropy.convolution import convolve
    from astropy.io import fits
    from photutils.background import Background2D
    from photutils.segmentation import (
        SourceCatalog,
        SourceFinder,
        make_2dgaussian_kernel,
    )

    start = time.perf_counter()
    data = fits.getdata(task['image']).astype(float)
    background = Background2D(data, 64)
    data -= background.background
    kernel = make_2dgaussian_kernel(3.0, size=5)
    smooth = convolve(data, kernel)
    sigma = background.background_rms
    if task['smoothed']:
        sigma = sigma * np.sqrt((kernel.array**2).sum())
    segments = SourceFinder(5, progress_bar=False)(smooth, 1.5 * sigma)
    table = SourceCatalog(data, segments, convolved_data=smooth).to_table()
    return {'time': time.perf_counter() - start, 'sources': len(table)}


def run_hard_image(task):
    """Time of the detection on one hard image."""
    from bliss_astro import PSFModel, detect_sources

    image = make_image(task['kind'], task['side'], np.random.default_rng(1))
    given = {}
    if task['given']:
        given = {'psf': PSFModel(), 'background': 0.0, 'bkg_error': 1.0}
        given['effective_gain'] = 10.0
    wall, cpu = time.perf_counter(), time.process_time()
    catalog = detect_sources(image, progress_bar=False, **given)
    return {
        'time': time.perf_counter() - wall,
        'CPU time': time.process_time() - cpu,
        'rows': len(catalog),
    }


TASKS = {'ours': run_ours, 'photutils': run_photutils, 'hard': run_hard_image}


def run_task(task):
    """Run one task as often as it says, and print the results of all calls."""
    import torch

    torch.set_num_threads(task['threads'])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        calls = [TASKS[task['task']](task) for _ in range(task.get('calls', 1))]
    print(json.dumps({'calls': calls}))


# -- rows ----------------------------------------------------------------------------


def add_frame(bench, task, case, repeats):
    """Rows of a frame beside photutils."""
    methods = {
        OURS: {'task': 'ours'},
        'photutils, smoothed': {'task': 'photutils', 'smoothed': True},
        'photutils, unsmoothed': {'task': 'photutils', 'smoothed': False},
    }
    if find_spec('skimage') is None:
        print('without scikit-image photutils cannot deblend: left out')
        methods = {OURS: methods[OURS]}
    times = {}
    for method, own in methods.items():
        runs = [
            peak_of_process(__file__, task | own | {'calls': 2}) for _ in range(repeats)
        ]
        for k, call in enumerate(('first call', 'second call')):
            seconds = np.array([run['calls'][k]['time'] for run in runs])
            times[method, call] = seconds
            error = seconds.std(ddof=1) / repeats**0.5 if repeats > 1 else np.nan
            bench.add(
                f'{case}, {call}',
                'time',
                seconds.mean(),
                error,
                method=method,
                unit='s',
            )
            if method != OURS:
                ratio = ratio_with_error(seconds, times[OURS, call])
                bench.add(f'{case}, {call}', 'time over ours', ratio, method=method)
        peak = max(run['peak_gb'] for run in runs)
        bench.add(case, 'peak memory', peak, method=method, unit='GB')
        bench.add(case, 'sources', runs[0]['calls'][1]['sources'], method=method)
        model = runs[0]['calls'][1].get('time of model and residuals')
        if model is not None:
            bench.add(case, 'time of model and residuals', model, unit='s')


def add_hard_images(bench, arguments, side):
    """Rows of images that are hard to fit."""
    for given in (False, True):
        for kind in KINDS[:2] if arguments.quick else KINDS:
            task = {'task': 'hard', 'kind': kind, 'side': side, 'given': given}
            run = peak_of_process(__file__, task | {'threads': arguments.threads})
            found = run['calls'][0]
            case = f'hard image, {kind}' + (', inputs given' if given else '')
            limit = f'< {LONGEST_S:g}'
            bench.add(case, 'time', found['time'], unit='s', target=limit)
            bench.add(case, 'CPU time', found['CPU time'], unit='s')
            limit = f'< {LARGEST_GB:g}'
            bench.add(case, 'peak memory', run['peak_gb'], unit='GB', target=limit)
            bench.add(case, 'rows', found['rows'])


def simulate(path, shape):
    """Write a simulated star field of the size of a frame."""
    from astropy.io import fits

    from bliss_astro import CoaddSimulator, StarPrior

    simulator = CoaddSimulator(1, StarPrior(density=1e-3), shape=shape, margin=0)
    exposure, _ = simulator.sample(rng=3)
    fits.writeto(path, np.asarray(exposure.data, dtype=np.float32))


def main(arguments=None):
    bench = Benchmark(
        'speed', __doc__.strip().splitlines()[0], weights='stars-galaxies'
    )
    bench.option('--image', help='SDSS frame')
    bench.option('--psf', help='psField file of the frame')
    bench.option('--repeats', type=int, default=3, help='processes per method')
    bench.option('--task', help=argparse.SUPPRESS)
    arguments = bench.start(arguments)
    if arguments.task:
        run_task(json.loads(arguments.task))
        return
    shape = (192, 256) if arguments.quick else FRAME_SHAPE
    with tempfile.TemporaryDirectory() as folder:
        image, case = arguments.image, 'SDSS frame'
        if image is None:
            image, case = str(Path(folder) / 'simulated.fits'), 'simulated frame'
            simulate(image, shape)
        task = {'image': image, 'psf': arguments.psf, 'threads': arguments.threads}
        add_frame(bench, task, case, 1 if arguments.quick else arguments.repeats)
    add_hard_images(bench, arguments, 128 if arguments.quick else 512)
    bench.finish()


if __name__ == '__main__':
    main()
