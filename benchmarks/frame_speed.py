# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A whole SDSS-sized frame, file read to table: bliss_astro against photutils.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import Report, in_subprocess, make_parser, ratio_with_error

_SHAPE = (1489, 2048)

# -- the two ways, each in a process of its own -------------------------------------


def _by_bliss_astro(files):
    from astropy.io import fits

    from bliss_astro import detect_sources
    from bliss_astro.exposures import Exposure

    if files['simulated']:
        with fits.open(files['image']) as hdus:
            catalog = detect_sources(hdus[0].data.astype(np.float32))
    else:
        exposure = Exposure.from_sdss(
            files['image'],
            files['psfield'],
            tsfield=files['tsfield'],
            fpm=files['fpm'],
        )
        catalog = detect_sources(exposure)
    return len(catalog)


def _by_photutils(files, n_processes, *, of_smoothed):
    from astropy.convolution import convolve
    from astropy.io import fits
    from photutils.background import Background2D
    from photutils.segmentation import (
        SourceCatalog,
        SourceFinder,
        make_2dgaussian_kernel,
    )

    with fits.open(files['image']) as hdus:
        data = hdus[0].data.astype(float)
    background = Background2D(data, 64)
    data -= background.background
    kernel = make_2dgaussian_kernel(3.0, size=5)
    smooth = convolve(data, kernel)
    sigma = background.background_rms
    if of_smoothed:
        # White noise after the smoothing.
        sigma = sigma * np.sqrt((kernel.array**2).sum())
    finder = SourceFinder(5, n_processes=n_processes, progress_bar=False)
    segments = finder(smooth, 1.5 * sigma)
    table = SourceCatalog(data, segments, convolved_data=smooth).to_table()
    return len(table)


def _run_once(task):
    # Imports are not timed, nor is the reading of the weights' file avoided.
    import warnings

    import photutils.background
    import photutils.segmentation  # noqa: F401
    import torch

    import bliss_astro  # noqa: F401

    warnings.simplefilter('ignore')
    torch.set_num_threads(task['threads'])
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        if task['way'] == 'bliss_astro':
            n_sources = _by_bliss_astro(task['files'])
        else:
            n_sources = _by_photutils(
                task['files'], task['n_processes'], of_smoothed=task['of_smoothed']
            )
        seconds.append(time.perf_counter() - start)
    print(json.dumps({'seconds': seconds, 'n_sources': n_sources}))


# -- an image where none is given ------------------------------------------------------


def _simulate(path):
    import torch
    from astropy.io import fits

    from bliss_astro import CoaddSimulator
    from bliss_astro.priors import StarPrior

    simulator = CoaddSimulator(
        1, StarPrior(density=1e-3), shape=_SHAPE, margin=0, tolerance=1e-5
    )
    batch = simulator.sample_batch(1, generator=torch.Generator().manual_seed(3))
    fits.writeto(path, batch.data[0].numpy())


def main():
    parser = make_parser(__doc__.strip())
    parser.add_argument('--image', help='frame or fpC file; simulated if not given')
    parser.add_argument('--psfield')
    parser.add_argument('--tsfield')
    parser.add_argument('--fpm')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--task', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        _run_once(json.loads(arguments.task))
        return
    report = Report('frame_speed', __doc__.strip(), arguments)
    with tempfile.TemporaryDirectory() as folder:
        files = {k: getattr(arguments, k) for k in ('image', 'psfield', 'tsfield')}
        files |= {'fpm': arguments.fpm, 'simulated': arguments.image is None}
        if files['simulated']:
            files['image'] = str(Path(folder) / 'simulated.fits')
            _simulate(files['image'])
        _measure(report, arguments, files)
    report.finish()


def _fastest(arguments, task, of_smoothed):
    # Deblending in several processes may or may not pay: photutils gets what
    # is faster for it.
    ways = [{'way': 'photutils', 'n_processes': 1, 'of_smoothed': of_smoothed}]
    if arguments.threads > 1 and not arguments.quick:
        ways.append(ways[0] | {'n_processes': arguments.threads})
        seconds = [min(in_subprocess(__file__, task | way)['seconds']) for way in ways]
        return ways[int(np.argmin(seconds))]
    return ways[0]


def _measure(report, arguments, files):
    repeats = 1 if arguments.quick else arguments.repeats
    task = {'files': files, 'threads': arguments.threads}
    smoothed = 'photutils, 1.5 sigma of the smoothed image'
    unsmoothed = 'photutils, 1.5 sigma of the image itself'
    ways = {
        'bliss_astro': {'way': 'bliss_astro'},
        smoothed: _fastest(arguments, task, of_smoothed=True),
        unsmoothed: _fastest(arguments, task, of_smoothed=False),
    }
    results = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            results[name].append(in_subprocess(__file__, task | way))
    times = {
        k: np.array([result['seconds'] for result in v]) for k, v in results.items()
    }
    for name in (smoothed, unsmoothed):
        for column, when in enumerate(('first call', 'second call')):
            ratio, error = ratio_with_error(
                times[name][:, column], times['bliss_astro'][:, column]
            )
            what = f'time of {name} / ours, {when}'
            report.add(what, ratio, error, target='> 1', low=1.0)
    for name, seconds in times.items():
        for column, when in enumerate(('first call', 'second call')):
            own = seconds[:, column]
            error = own.std(ddof=1) / np.sqrt(repeats) if repeats > 1 else None
            report.add(f'seconds, {name}, {when}', own.mean(), error)
    for name, runs in results.items():
        peak = max(run['peak_gb'] for run in runs)
        goal = {'target': '< 1.5', 'high': 1.5} if name == 'bliss_astro' else {}
        report.add(f'peak memory in GB, {name}', peak, **goal)
    for name, runs in results.items():
        report.add(f'sources, {name}', runs[0]['n_sources'])
    report.details = {
        'image': 'simulated' if files['simulated'] else Path(files['image']).name,
        'photutils_n_processes': {
            name: way.get('n_processes') for name, way in ways.items()
        },
        'n_sources': {k: v[0]['n_sources'] for k, v in results.items()},
        'repeats': repeats,
    }


if __name__ == '__main__':
    main()
