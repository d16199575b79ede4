# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A mosaic in chunks against one pass: rows, probabilities, borders, memory.

Of 10,000 stars and galaxies a fifth lie on borders of the chunks and a hundredth on
their corners. A source is lost or doubled if the chunks have no row, or two, where the
one pass has one. Memory is that of a process of its own which works on one chunk.
"""

import itertools
import json
import math
import tempfile
import time
from pathlib import Path

import _networks  # noqa: F401  (path of the harness)
import numpy as np
import torch
from astropy.io import fits
from harness import Benchmark, peak_of_process
from scipy.spatial import cKDTree

from bliss_astro import PSFModel, detect_sources
from bliss_astro.rendering import render_galaxies, render_stars
from bliss_astro.runs import fields_of, merge_chunks, prepare_mosaic

NOISE, FWHM, STAMP, LEVEL = 29.0, 3.0, 65, 841.0
OPTIONS = {'n_threads': 1, 'progress_bar': False}
CASES = {
    'all given': ('psf', 'bkg_error', 'effective_gain', 'background'),
    'background measured': ('psf', 'bkg_error', 'effective_gain'),
    'all estimated': (),
}


def simulate(side, n, chunk, rng):
    """Data ``(side, side)`` in electrons with n sources, many of them on borders."""
    x, y = rng.uniform(-0.5, side - 0.5, (2, n))
    borders = np.arange(chunk, side, chunk) - 0.5
    for place, own in ((x, slice(0, n // 9)), (y, slice(n // 10, n // 5))):
        k = len(place[own])
        place[own] = rng.choice(borders, k) + rng.normal(0, 0.3, k)
    psf = PSFModel.from_fwhm(FWHM)
    snr = 4 * rng.uniform(size=n) ** (-1 / 1.2)
    flux = snr.clip(4, 500) * NOISE * np.sqrt(float(psf.n_eff))
    is_galaxy = rng.uniform(size=n) < 0.5
    low, high = [0.1, 0, 0.4, 0.4, 0.5, 0.5], [0.9, 3, 1, 1, 3, 2]
    shape = rng.uniform(low, high, (n, 6))
    wide = np.zeros((side + 2 * STAMP,) * 2, dtype=np.float32)
    columns, rows = np.rint(x).astype(int), np.rint(y).astype(int)
    middle, size = STAMP // 2, (STAMP, STAMP)
    shape_of_psf = torch.tensor(psf.shape_vector).float()
    for first in range(0, n, 250):
        own = slice(first, first + 250)
        place = (x - columns + middle)[own], (y - rows + middle)[own]
        place = [torch.from_numpy(v).float()[:, None] for v in place]
        star, galaxy = (
            torch.from_numpy(flux[own] * kind).float()[:, None]
            for kind in (~is_galaxy[own], is_galaxy[own])
        )
        shapes = torch.from_numpy(shape[own]).float()[:, None]
        every = shape_of_psf.expand(len(shapes), -1)
        light = render_stars(every, *place, star, size=size)
        light += render_galaxies(every, *place, galaxy, shapes, size=size)
        for k, stamp in enumerate(light.numpy(), first):
            corner = rows[k] - middle + STAMP, columns[k] - middle + STAMP
            wide[corner[0] :, corner[1] :][:STAMP, :STAMP] += stamp
    light = wide[STAMP:-STAMP, STAMP:-STAMP].clip(0)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return light + noise * np.sqrt(NOISE**2 + light)


def given_of(case):
    """What is known of the mosaic."""
    known = {'psf': PSFModel.from_fwhm(FWHM), 'bkg_error': NOISE}
    known |= {'effective_gain': 1.0, 'background': LEVEL}
    return {name: known[name] for name in CASES[case]}


def rows_of(table, origin=(0, 0)):
    """Position in the mosaic, probability, flux and its error, ``(N, 5)``."""
    names = ('x_centroid', 'y_centroid', 'probability', 'flux', 'flux_err')
    columns = [np.asarray(getattr(table[n], 'value', table[n])) for n in names]
    return np.column_stack(columns) + np.array([*origin, 0, 0, 0])


def compare(bench, case, path, chunk):
    """Rows of a mosaic in chunks and in one pass."""
    given, start = given_of(case), time.process_time()
    whole = rows_of(detect_sources(path, check=False, **given, **OPTIONS))
    seconds, start = time.process_time() - start, time.process_time()
    fields = prepare_mosaic(fields_of(path, chunk, **given), n_threads=1)
    prepared = time.process_time() - start
    tables = [
        detect_sources(f.open(), check=False, **f.detection(), **OPTIONS)
        for f in fields
    ]
    total = time.process_time() - start
    primary, rows = merge_chunks(fields, tables), []
    for field, table, use in zip(fields, tables, primary, strict=True):
        (x0, _), (y0, _) = field.options['box']
        rows.append(rows_of(table, (x0, y0))[use])
    rows = np.concatenate(rows)
    apart, at = cKDTree(rows[:, :2]).query(whole[:, :2], distance_upper_bound=1.0)
    same = np.isfinite(apart)
    off = np.abs(rows[at[same]] - whole[same])
    extra = rows[np.setdiff1d(np.arange(len(rows)), at[same])]
    # Above what the difference of probabilities takes across the threshold.
    lost = whole[~same, 2] > 0.5 + off[:, 2].max()
    near = cKDTree(whole[:, :2]).query(extra[:, :2])[0] < 2.0
    n, name = len(whole), f'{case}, {len(fields)} chunks'
    for quantity, value in {
        'rows of one pass': n,
        'rows matched': np.count_nonzero(same),
        'rows of one pass alone': np.count_nonzero(~same),
        'rows of chunks alone': len(extra),
        'lost': np.count_nonzero(lost),
        'doubled': np.count_nonzero(near),
        'largest difference of probabilities': off[:, 2].max(),
        'median difference of probabilities': np.median(off[:, 2]),
        'rows that differ by more than 0.001': np.count_nonzero(off[:, 2] > 1e-3),
        'largest difference of fluxes (errors)': (off[:, 3] / whole[same, 4]).max(),
        'CPU time of chunks over one pass': total / seconds,
        'CPU time of the first pass over one pass': prepared / seconds,
    }.items():
        bench.add(name, quantity, value, n=n)


def write_mosaic(path, side, n, borders, seed):
    """Write a simulated mosaic."""
    data = simulate(side, n, borders, np.random.default_rng(seed)) + LEVEL
    fits.writeto(path, data)
    print(json.dumps({'side': side}))


def work_on_chunk(path, case, chunk):
    """Detection in one chunk: what a worker holds."""
    field = fields_of(path, chunk, **given_of(case))[0]
    table = detect_sources(field.open(), density=3e-4, **OPTIONS)
    print(json.dumps({'n': len(table), 'shape': table.exposure.shape}))


def work_first(path, case, chunk):
    """The first pass but for the density: what measures numbers of the mosaic."""
    fields = fields_of(path, chunk, **given_of(case))
    found = prepare_mosaic(fields, density=3e-4, n_threads=1)
    print(json.dumps({'n': len(found)}))


TASKS = {'mosaic': write_mosaic, 'chunk': work_on_chunk, 'first pass': work_first}


def main(arguments=None):
    bench = Benchmark('mosaic', __doc__.strip().splitlines()[0], n_images=10_000)
    bench.option('--side', type=int, default=6000, help='side of the mosaic in pixels')
    bench.option('--chunk', type=int, default=2048, help='side of chunks in pixels')
    bench.option('--task', help='as this script calls itself')
    arguments = bench.start(arguments)
    if arguments.task:
        task = json.loads(arguments.task)
        TASKS[task.pop('kind')](**task)
        return
    side, n = (1500, 620) if arguments.quick else (arguments.side, arguments.n_images)
    borders = side / math.ceil(side / arguments.chunk) / 64
    task = {'kind': 'mosaic', 'side': side, 'n': n, 'seed': arguments.seed}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, 'mosaic.fits'))
        task |= {'path': path, 'borders': 64 * math.ceil(borders)}
        peak_of_process(__file__, task, threads=1)
        # First: a process has at least the memory of that which starts it.
        kinds = ('chunk', 'first pass')
        for kind, case, chunk in itertools.product(kinds, CASES, (2048, 4096)):
            task = {'kind': kind, 'path': path, 'case': case, 'chunk': chunk}
            found = peak_of_process(__file__, task, threads=1)
            print(kind, case, found, flush=True)
            name = f'{case}, {kind}, chunk of {chunk} px'
            bench.add(name, 'peak memory', found['peak_gb'], unit='GB')
        for case in CASES:
            compare(bench, case, path, arguments.chunk)
    bench.finish()


if __name__ == '__main__':
    main()
