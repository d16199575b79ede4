# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Errors and scatter of the fluxes of isolated stars against the Cramer-Rao bound.
"""

import itertools
import time
from pathlib import Path

import numpy as np
import torch
from _common import Report, make_parser
from _isolated import (
    ELECTRONS,
    encode,
    find,
    flux_of,
    generator_of,
    place_stars,
    run_tasks,
)

from bliss_astro.metrics import cramer_rao_bound, robust_sigma
from bliss_astro.psf import PSFModel

# No training stream begins with this key.
_SEED = 20250919
_SHAPE = (32, 32)
_EDGES = np.arange(19.0, 22.51, 0.5)
# Stamp of the bound: the noise of an isolated star is all within.
_STAMP = (25, 25)


def measure(task):
    """
    Fluxes of isolated stars and what could be known of them.

    Returns an array ``(n, 5)``: true magnitude, true flux, posterior median
    and error (NaN if no source above 0.5 is within 1 px), and the Cramer-Rao bound
    of the star with its position unknown.
    """
    name, depth, index, n = task
    generator = generator_of(_SEED, depth, index)
    unit = torch.rand(3, n, 1, generator=generator, dtype=torch.float64)
    middle = _SHAPE[0] // 2 - 0.5
    x, y = (middle + 8 * (unit[:2] - 0.5)).unbind()
    magnitude = _EDGES[0] + (_EDGES[-1] - _EDGES[0]) * unit[2]
    flux = flux_of(magnitude)
    batch = place_stars(depth, x, y, flux, shape=_SHAPE, generator=generator)
    found = find(encode(batch, name))
    x, y, flux, magnitude = (v[:, 0].numpy() for v in (x, y, flux, magnitude))
    median, error = _matched(found, x, y)
    bound = _bounds(batch, x, y, flux)
    return np.stack([magnitude, flux, median, error, bound], 1)


def _matched(found, x, y):
    image = found['image']
    near = np.hypot(found['x'] - x[image], found['y'] - y[image]) < 1
    near &= found['probability'] > 0.5
    median, error = np.full((2, len(x)), np.nan)
    # In rising order of probability, so that the most probable one stays.
    index = np.flatnonzero(near)
    index = index[np.argsort(found['probability'][index])]
    median[image[index]] = found['flux_median'][index]
    spread = found['flux_high'] - found['flux_low']
    error[image[index]] = 0.5 * spread[index]
    return median, error


def _bounds(batch, x, y, flux):
    out = np.empty(len(x))
    for k in range(len(x)):
        psf = PSFModel.from_shape(batch.psf[k].double().numpy())
        bound = cramer_rao_bound(
            psf,
            flux[k],
            bkg_error=float(batch.bkg_error[k]),
            effective_gain=float(batch.effective_gain[k]),
            position=(x[k] - round(x[k]), y[k] - round(y[k])),
            shape=_STAMP,
            noise_correlation=tuple(batch.correlation[k].tolist()),
        )
        out[k] = bound.flux_err
    return out


def evaluate(report, depth, table):
    """Add the rows of one depth; returns the bins."""
    bins = []
    rng = np.random.default_rng(1)
    limits = {'target': '0.85 to 1.15', 'low': 0.85, 'high': 1.15}
    for low, high in itertools.pairwise(_EDGES):
        use = (table[:, 0] >= low) & (table[:, 0] < high)
        got = use & np.isfinite(table[:, 2])
        if got.sum() < 10:
            continue
        _, flux, median, error, bound = table[got].T
        label = f'd = {depth}, mag {low:g} to {high:g}: '
        ratio = error / bound
        pull = (median - flux) / bound
        n = len(ratio)
        width = np.subtract(*np.quantile(ratio, (0.84, 0.16))) / 2
        report.add(
            f'{label}flux error over the Cramer-Rao bound, median',
            np.median(ratio),
            1.25 * width / np.sqrt(n),
            n=n,
            **limits,
        )
        scatter = robust_sigma(pull)
        draws = [robust_sigma(rng.choice(pull, n)) for _ in range(100)]
        report.add(
            f'{label}scatter of the fluxes over the bound',
            scatter,
            np.std(draws),
            n=n,
            **limits,
        )
        shares = np.quantile(ratio, (0.16, 0.84))
        row = [low, high, int(use.sum()), n, np.median(ratio), *shares, scatter]
        row += [np.median(pull), robust_sigma((median - flux) / error)]
        bins.append(row)
    columns = ['mag low', 'mag high', 'n', 'n found', 'error / bound', '16 %', '84 %']
    columns += ['scatter / bound', 'median pull', 'scatter / error']
    return {'columns': columns, 'rows': bins}


def main():
    parser = make_parser(__doc__.strip(), n_images=10000)
    parser.add_argument('--encoder', default='stars', help='name or file')
    parser.add_argument('--depths', type=int, nargs='+', default=[1, 5, 10, 25])
    parser.add_argument('--batch', type=int, default=250)
    arguments = parser.parse_args()
    n_images = 700 if arguments.quick else arguments.n_images
    report = Report('flux_errors', __doc__.strip(), arguments)
    start, details = time.perf_counter(), {}
    for depth in arguments.depths:
        tasks = [
            (arguments.encoder, depth, k, min(arguments.batch, n_images - first))
            for k, first in enumerate(range(0, n_images, arguments.batch))
        ]
        parts = run_tasks(
            measure, tasks, processes=arguments.threads, description=f'd = {depth}'
        )
        details[depth] = evaluate(report, depth, np.concatenate(parts))
    report.details = {
        'encoder': Path(arguments.encoder).stem,
        'n_images': n_images,
        'electrons_per_nmgy': ELECTRONS,
        'seconds': time.perf_counter() - start,
        'depths': details,
    }
    report.finish()


if __name__ == '__main__':
    main()
