# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Runs over many fields: speed by workers, overhead of a field, kills at random times.

Fields are cut-outs of 512 px of real frames of SDSS (M2, outside of its middle). A
run that was killed is started again, and compared with one that was not, byte by byte
but for times.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _networks  # noqa: F401  (path of the harness)
import numpy as np
from astropy.io import fits
from astropy.table import Table
from harness import Benchmark

from bliss_astro import detect_many, detect_sources
from bliss_astro.runs import DASK_SETTINGS, catalog_field, find_fields, run_survey
from bliss_astro.surveys.sdss import read_field

SIDE, SMALL, BATCH = 512, 32, 16
QUIET = {'progress_bar': False}


def cut_fields(data, folder, n, side, rng):
    """Write cut-outs of frames and the table of them; return its path."""
    exposures = read_field(data / 'sdss/2583/2/136')
    folder.mkdir()
    lines = []
    for k in range(n):
        image = exposures['r']
        (ny, nx), first = image.shape, 2 * SIDE
        y, x = int(rng.integers(0, ny - side)), int(rng.integers(first, nx - side))
        cut = image[y : y + side, x : x + side]
        path = folder / f'cut{k:03d}.fits'
        header = cut.wcs.to_header()
        # Places of their own, as fields of a survey have: else all of them overlap.
        header['CRVAL1'] += 0.2 * k
        fits.PrimaryHDU(cut.data.astype('float32'), header).writeto(path)
        known = {'gain': cut.effective_gain, 'noise': cut.bkg_error}
        known = {name: float(np.median(value)) for name, value in known.items()}
        fwhm = float(cut.psf_at(side / 2, side / 2).fwhm)
        lines.append((str(path), image.band.name, fwhm, *known.values(), 22.5, 0.0))
    names = ['file', 'band', 'fwhm', 'effective_gain', 'bkg_error']
    table = Table(rows=lines, names=[*names, 'zero_point', 'background'])
    table.write(folder / 'fields.ecsv')
    return folder / 'fields.ecsv'


def seconds(function):
    """Wall time of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def loop(fields):
    """Detection in one field after the other, in one thread, and nothing else."""
    for field in fields:
        detect_sources(field.open(), n_threads=1, **QUIET)


def on_cluster(fields, output, workers, **options):
    """Seconds of a run on workers that have started and loaded their encoder."""
    import dask
    from distributed import Client, LocalCluster

    own = {'n_workers': workers, 'threads_per_worker': 1}
    own |= {'dashboard_address': '127.0.0.1:0'}
    # As run_survey starts its own workers.
    with (
        dask.config.set(DASK_SETTINGS),
        LocalCluster(**own) as cluster,
        Client(cluster) as client,
    ):
        warm = Path(f'{output}-warm')
        run_survey(fields[: 2 * workers], warm, client=client, **QUIET)
        own = QUIET | options
        return seconds(lambda: run_survey(fields, output, client=client, **own))


def contents(output):
    """Files of the fields, but for times."""
    found = {path.name: path.read_bytes() for path in (output / 'fields').iterdir()}
    for name in found:
        if name.endswith('.json'):
            found[name] = json.loads(found[name]) | {'seconds': None}
    return found


def children(parent):
    """Numbers of the worker processes of a process."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            words = path.read_text().rpartition(')')[2].split()
            command = path.with_name('cmdline').read_bytes()
        except OSError:
            continue
        if int(words[1]) == parent and b'spawn_main' in command:
            found.append(int(path.parent.name))
    return found


def kill(table, output, victim, share, lasting):
    """Start a run, kill a part of it after a share of its time, and run it again."""
    start = functools.partial(subprocess.Popen, stderr=subprocess.DEVNULL)
    words = [sys.executable, '-m', 'bliss_astro', 'run', str(table), '-q', '-o']
    words, others = [*words, str(output)], []
    if victim == 'scheduler':
        file = output.with_suffix('.json')
        own = ['--scheduler-file', str(file), '--no-dashboard', '--host', '127.0.0.1']
        for name, more in {'scheduler': [], 'worker': ['--nthreads', '1']}.items():
            one = [sys.executable, '-m', f'distributed.cli.dask_{name}', *own, *more]
            others.append(start(one))
            while not file.is_file():
                time.sleep(0.05)
        address = json.loads(file.read_text())['address']
        process = start([*words, '--scheduler', address], stdout=subprocess.DEVNULL)
    else:
        process = start([*words, '--workers', '1'], stdout=subprocess.DEVNULL)
    time.sleep(share * lasting)
    victims = {'command': [process.pid], 'worker': children(process.pid)}
    victims['scheduler'] = [other.pid for other in others[:1]]
    for number in victims[victim]:
        os.kill(number, signal.SIGKILL)
    process.wait()
    for other in others:
        other.kill()
        other.wait()
    n_done = len(list(output.glob('fields/*.json')))
    subprocess.run([*words, '--workers', '1'], check=True, stdout=subprocess.DEVNULL)
    return n_done


def main(arguments=None):
    bench = Benchmark('survey', __doc__.strip().splitlines()[0], n_images=200)
    data = os.environ.get('BLISS_ASTRO_SHARED_DATA')
    bench.option('--data', type=Path, default=data, help='BLISS_ASTRO_SHARED_DATA')
    bench.option('--kills', type=int, default=20, help='number of kills')
    arguments = bench.start(arguments)
    n, n_kills = arguments.n_images, arguments.kills
    if arguments.quick:
        n, n_kills = 6, min(n_kills, 3)
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        table = cut_fields(arguments.data, folder / 'images', n, SIDE, rng)
        fields = find_fields(Table.read(table))
        loop(fields[:1])
        plain = seconds(lambda: loop(fields))
        one, two = (on_cluster(fields, folder / f'w{k}', k) for k in (1, 2))
        print(
            f'loop {plain:.1f} s, 1 worker {one:.1f} s, 2 workers {two:.1f} s',
            flush=True,
        )
        bench.add('2 workers over 1', 'speed', one / two)
        bench.add('1 worker over a loop', 'speed', plain / one)
        small = cut_fields(arguments.data, folder / 'small', 40, SMALL, rng)
        small = find_fields(Table.read(small))
        loop(small[:1])
        plain = {'detect_sources': seconds(lambda: loop(small))}
        images = (field.open() for field in small)
        many = detect_many(images, n_threads=1, **QUIET)
        plain['detect_many'] = seconds(lambda: [*many])
        for size, batches in ((1, ''), (BATCH, f' in batches of {BATCH}')):
            folder_of = folder / f'small-run{size}'
            run = on_cluster(small, folder_of, 1, batch_size=size)
            for name, time_of in plain.items():
                overhead = (run - time_of) / len(small)
                title = f'a field{batches}, over {name}'
                bench.add(title, 'overhead', overhead, unit='s')
        if n_kills == 0:
            bench.finish()
            return
        n = min(n, 16)
        few = cut_fields(arguments.data, folder / 'few', n, SIDE, rng)
        for field in find_fields(Table.read(few)):
            catalog_field(field, folder / 'whole', threshold=0.5)
        words = [sys.executable, '-m', 'bliss_astro', 'run', str(few), '-q', '-o']
        words += [str(folder / 'time'), '--workers', '1']
        lasting = seconds(
            lambda: subprocess.run(words, check=True, capture_output=True)
        )
        n_same = 0
        for k in range(n_kills):
            victim = ('worker', 'scheduler', 'command')[k % 3]
            output = folder / f'killed{k}'
            n_done = kill(few, output, victim, rng.uniform(), lasting)
            same = contents(output) == contents(folder / 'whole')
            print(f'{victim} killed, {n_done} done: {"same" if same else "OTHER"}')
            n_same += same
        bench.add(f'{n_kills} kills', 'same results', n_same / max(n_kills, 1))
    bench.finish()


if __name__ == '__main__':
    main()
