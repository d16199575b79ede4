# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Time, memory and work of detection, draws and training, beside photutils and SEP.

Every run is a process of its own, those of one comparison in turn. Frames are those of
SDSS where ``--sparse`` and ``--crowded`` give them, and else simulated.
"""

import argparse
import dataclasses
import functools
import json
import os
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import operations
from astropy.io import fits
from harness import OURS, Benchmark, median_with_error, peak_of_process

# A sixteenth of a simulated frame, which is repeated.
PART_SHAPE = (372, 512)
BANDS, TRAINED = 'ugriz', ('', ', any of ugrizy')
NAMES = 'CPU time', *operations.MEASURES
UNITS = {'time': 's', 'CPU time': 's', 'peak memory': 'GB'}
# Targets on two cores, by case and quantity.
TARGETS = {
    'SDSS frame, sparse | time': '< 1.5',
    'SDSS frame, sparse | time over photutils': '<= 1',
    'SDSS frame, sparse, one thread | time': '< 2.5',
    'SDSS frame, sparse | peak memory': '< 0.8',
    'SDSS frame, crowded | time': '< 8',
    '88 x 88 px | time': '< 0.06',
    '1000 images of 88 x 88 px, two processes | time': '< 10',
    '1000 draws of 256 x 256 px with 150 stars | time': '< 5',
    '6000 x 6000 px | peak memory': '< 2.5',
    'three processes at once | time over that with one thread': '<= 1.1',
    '512 x 512 px, 1000 sources | operations': '< 2000',
    'simulated frame, ugriz | time over r': '<= 3',
    'simulated frame, ugriz | peak memory': '< 2',
    'training of stars-galaxies, any of ugrizy | rate over one band': '>= 0.33',
}


# -- tasks, each in a process of its own; what is cached is made at the first call -----


@functools.cache
def simulate(kind, side, *, n=1, seed=3):
    """Exposures of the sky (sparse, bands), of Patel et al. (galaxies), or stars."""
    from bliss_astro import CoaddSimulator, StarPrior
    from bliss_astro.priors import CatalogPrior as Prior

    mixed = {'sparse': Prior.sky, BANDS: Prior.sky, 'galaxies': Prior}.get(kind)
    prior = mixed() if mixed else StarPrior(density={'crowded': 0.024}.get(kind, kind))
    bands = kind if kind == BANDS else None
    options = {'shape': np.broadcast_to(side, 2), 'margin': -5, 'unit': 'electron'}
    sample = CoaddSimulator(1, prior, bands=bands, **options).sample
    return [sample(rng=seed + k)[0] for k in range(n)]


def detect_frame(files, encoder=None):
    """Detection in a file, in files by band, or in a frame of SDSS with its PSF."""
    from bliss_astro import Exposure, detect_sources

    image = Exposure.from_sdss(*files) if files[1:] else files[0]
    return detect_sources(image, encoder=encoder, progress_bar=False)


def detect_small(side, n, **options):
    """Detection in n images at once."""
    from bliss_astro import detect_many

    return list(detect_many(simulate('galaxies', side, n=n), **options))


@functools.cache
def posterior():
    """Posterior of an image with some 150 stars."""
    from bliss_astro import detect_sources

    return detect_sources(*simulate(150 / 256**2, 256), progress_bar=False).posterior


def draw(n):
    """Joint draws of the catalogue of that image."""
    return posterior().sample(n, rng=1)


def train(n, several):
    """Images per second in n steps of the training of the default, in bands or one."""
    from bliss_astro import training

    path = Path(training.__file__).parents[1] / 'data/configs/stars-galaxies.toml'
    (*others, settings), seconds = training.load_config(path), []
    if not several:
        pairs = zip(others, (False, ()), strict=True)
        others = [dataclasses.replace(config, bands=own) for config, own in pairs]
    # What one step takes beside itself is subtracted.
    for steps in (1, 1, 1 + n):
        own = {'n_steps': steps, 'batch_size': 32, 'n_validation': 1}
        configs = *others, dataclasses.replace(settings, **own)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            training.train_encoder(configs, folder)
        seconds.append(time.perf_counter() - start)
    return {'rate': 32 * n / (seconds[2] - seconds[1])}


def count_stages(files):
    """CPU time, operations and bytes by stage."""
    kinds = operations.Seconds, operations.Operations
    parts = [operations.count(kind, detect_frame, files) for kind in kinds]
    return {
        stage: np.concatenate([part[stage] for part in parts]).tolist()
        for stage in parts[0]
    }


def run_photutils(files):
    """Background, segmentation with deblending and table."""
    from astropy.convolution import convolve
    from photutils import segmentation
    from photutils.background import Background2D

    data = fits.getdata(files[0]).astype(float)
    background = Background2D(data, 64)
    data -= background.background
    smooth = convolve(data, segmentation.make_2dgaussian_kernel(3.0, size=5))
    finder = segmentation.SourceFinder(5, progress_bar=False)
    segments = finder(smooth, 1.5 * background.background_rms)
    found = segmentation.SourceCatalog(data, segments, convolved_data=smooth)
    return found.to_table()


def run_sep(files):
    """Background and extraction with deblending."""
    import sep

    data = fits.getdata(files[0]).astype(float)
    background = sep.Background(data)
    return sep.extract(data - background, 1.5, err=background.globalrms)


def run_r(files):
    """Detection in one of several bands."""
    return detect_frame([files[0]['r']])


def run_task(name, threads, calls, given):
    """Print wall and CPU time and the number of results of each call of a task."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    results = []
    for _ in range(calls):
        wall, cpu = time.perf_counter(), sum(os.times()[:4])
        with warnings.catch_warnings(action='ignore'):
            found = globals()[name](**given)
        wall, cpu = time.perf_counter() - wall, sum(os.times()[:4]) - cpu
        found = found if isinstance(found, dict) else len(found)
        results.append({'time': wall, 'CPU time': cpu, 'found': found})
    print(json.dumps({'calls': results}))


# -- rows ----------------------------------------------------------------------------


class Speed(Benchmark):
    """Benchmark of tasks."""

    # Numbers of threads, and what they add to the name of a case.
    threads = ((2, ''), (1, ', one thread'))

    def put(self, case, quantity, value, *, method=OURS, **columns):
        """Add a value, ours with its target."""
        target = TARGETS.get(f'{case} | {quantity}', '') if method == OURS else ''
        self.add(case, quantity, value, method=method, target=target, **columns)

    def run(self, name, threads=2, *, calls=2, **arguments):
        """Result of a task in a process: of all calls, and of the last one."""
        task = {'name': name, 'threads': threads, 'calls': calls, 'given': arguments}
        run = peak_of_process(__file__, task, threads=threads)
        return run['calls'][-1] | run | {'peak memory': run['peak_gb']}

    def compare(self, case, task, *, calls=2, others=(), threads=(), **arguments):
        """Rows of a task in two threads and in one, and in turn of other programs."""
        keys = [(OURS, task, *own) for own in threads or self.threads]
        keys += [(name, f'run_{name.lower()}', 2, '') for name in others]
        runs = {key: [] for key in keys}
        for _ in range(self.arguments.repeats):
            for key in keys:
                own = arguments if key[0] == OURS else {'files': arguments['files']}
                runs[key].append(self.run(*key[1:3], calls=calls, **own))
        ours = np.array([run['time'] for run in runs[keys[0]]])
        for (method, _, _, words), own in runs.items():
            for name, unit in UNITS.items():
                value = median_with_error([run[name] for run in own])
                self.put(case + words, name, value, method=method, unit=unit)
            if method != OURS:
                ratio = median_with_error(ours / [run['time'] for run in own])
                self.put(case, f'time over {method}', ratio)
            if others:
                self.put(case + words, 'sources', own[0]['found'], method=method)

    def stages(self, folder, files):
        """Rows of the stages of a frame, and of the launches of a GPU."""
        for stage, values in self.run('count_stages', 1, files=files)['found'].items():
            for name, value in zip(NAMES, values, strict=True):
                self.put(f'frame, {stage}', name, value)
        side = 128 if self.arguments.quick else 512
        for n in (10,) if self.arguments.quick else (10, 100, 1000):
            path = write_image(folder / str(n), n / side**2, side)
            found = self.run('count_stages', 1, files=[path])['found'].values()
            for name, value in zip(NAMES, np.sum(list(found), 0), strict=True):
                self.put(f'{side} x {side} px, {n} sources', name, value)

    def processes(self, side):
        """Row of three processes at once with torch's own number of threads."""
        seconds, task = {None: [], 1: []}, {'calls': 4, 'side': side, 'n': 1}
        run = functools.partial(self.run, 'detect_small', **task)
        for threads in [None, 1] * self.arguments.repeats:
            with ThreadPoolExecutor(3) as pool:
                runs = pool.map(run, [threads] * 3)
            times = [call['time'] for own in runs for call in own['calls'][1:]]
            seconds[threads].append(np.mean(times))
        ratio = median_with_error(np.divide(seconds[None], seconds[1]))
        self.put('three processes at once', 'time over that with one thread', ratio)

    def training(self, n):
        """Rows of training steps."""
        for threads, words in self.threads:
            run = functools.partial(self.run, 'train', threads, calls=1, n=n)
            rates = [run(several=k)['found']['rate'] for k in (False, True)]
            for name, rate in zip(TRAINED, rates, strict=True):
                case = f'training of stars-galaxies{name}{words}'
                self.put(case, 'images per second', rate)
            self.put(case, 'rate over one band', rates[1] / rates[0])


def write_image(path, kind, side, *, n_copies=1):
    """Write a simulated image, copied along each side; return its name, by band too."""
    (image,) = simulate(kind, side)
    images = image if kind == BANDS else {'': image}
    names = {band: f'{path}{band}.fits' for band in images}
    for band, name in names.items():
        data = np.tile(np.float32(images[band].data), (n_copies, n_copies))
        fits.writeto(name, data, overwrite=True)
    return names.get('', names)


def measure(bench, folder, parts, *, quick):
    """Add the rows of the chosen parts."""
    shape, copies, n = ((192, 256), 1, 10) if quick else (PART_SHAPE, 4, 1000)
    write = functools.partial(write_image, side=shape, n_copies=copies)
    kinds = ('sparse', 'galaxies', 'crowded')[: 1 if quick else 3]
    for name in kinds if 'frames' in parts else ():
        given = getattr(bench.arguments, name, None)
        task = {'others': ('photutils', 'SEP')}
        task = {'encoder': 'stars-crowded'} if name == 'crowded' else task
        task['files'] = given or [write(folder / name, name)]
        case = f'{"SDSS" if given else "simulated"} frame, {name}'
        bench.compare(case, 'detect_frame', **task)
    if 'stages' in parts:
        files = bench.arguments.sparse or [write(folder / 'sparse', 'sparse')]
        bench.stages(folder, files)
    if 'large' in parts:
        side = 64 if quick else 1500
        task = {'files': [write_image(folder / 'large', 'sparse', side, n_copies=4)]}
        bench.compare(f'{4 * side} x {4 * side} px', 'detect_frame', calls=1, **task)
    if 'small' in parts:
        for k, side in ((1, 88), (n, 88), (1, 512))[: 2 if quick else 3]:
            case = f'{k} images of ' * (k > 1) + f'{side} x {side} px'
            bench.compare(case, 'detect_small', side=side, n=k)
        two = {'threads': ((2, ', two processes'),), 'side': 88, 'n_processes': 2}
        bench.compare(f'{n} images of 88 x 88 px', 'detect_small', n=n, **two)
    if 'bands' in parts:
        task = {'files': [write(folder / BANDS, BANDS)], 'others': ['r']}
        bench.compare(f'simulated frame, {BANDS}', 'detect_frame', **task)
    if 'draws' in parts:
        bench.compare(f'{n} draws of 256 x 256 px with 150 stars', 'draw', n=n)
    if 'training' in parts:
        bench.training(1 if quick else 20)
    if 'processes' in parts:
        bench.processes(88 if quick else 512)


def main(arguments=None):
    bench = Speed('speed', __doc__.strip().splitlines()[0], weights='stars-galaxies')
    parts = 'frames', 'small', 'bands', 'draws', 'processes', 'large', 'training'
    parts += ('stages',)
    bench.option('--parts', nargs='+', choices=parts, default=parts)
    for name in ('--sparse', '--crowded'):
        bench.option(name, nargs=2, metavar=('FRAME', 'PSFIELD'), help='frame of SDSS')
    bench.option('--repeats', type=int, default=3, help='processes of each kind')
    bench.option('--task', help=argparse.SUPPRESS)
    arguments = bench.start(arguments)
    if arguments.task:
        run_task(**json.loads(arguments.task))
        return
    if arguments.quick:
        arguments.repeats, bench.threads = 1, bench.threads[:1]
    with tempfile.TemporaryDirectory() as folder:
        measure(bench, Path(folder), arguments.parts, quick=arguments.quick)
    bench.finish()


if __name__ == '__main__':
    main()
