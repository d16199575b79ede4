# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calibration of the number of stars in the central 40 x 40 pixels.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np
from _common import Report, make_parser
from _isolated import encode, generator_of, run_tasks
from scipy import stats

from bliss_astro import CoaddSimulator
from bliss_astro.metrics import quantile_groups, randomized_pit
from bliss_astro.posteriors import TilePosterior

# No training stream begins with this key.
_SEED = 20250920
_FIELD, _MARGIN = 88, 24
_SIZE = 4


def count(task):
    """
    True counts and draws of them.

    Returns an array ``(n, 5)``: true count, share of the draws below it, share at
    or below it, the expected count as the catalogue states it, and the mean over the
    draws of the expected counts of tiles given what was drawn before them.
    """
    name, depth, index, n, n_draws = task
    generator = generator_of(_SEED, depth, index)
    simulator = CoaddSimulator(depth, tolerance=1e-5)
    batch = simulator.sample_batch(n, generator=generator)
    posterior, ring = _central(encode(batch, name))
    true = batch.count.numpy()

    def total(by_tile):
        return by_tile[:, ring:-ring, ring:-ring].sum((1, 2)).numpy()

    stated = total(_means(posterior, posterior.decided()[1]))
    below, at, mean = np.zeros((3, n))
    for _ in range(n_draws):
        drawn = posterior.sample(generator=generator)
        number = total(drawn.count)
        below += number < true
        at += number <= true
        # Less noisy than the number itself, and as right on average.
        given = _means(posterior, posterior.hidden_given(drawn))
        mean += total(given)
    parts = [true, below / n_draws, at / n_draws, stated, mean / n_draws]
    return np.stack(parts, 1)


def _means(posterior, hidden):
    return posterior.head.count_factor(hidden.detach()).mean.double()


def _central(posterior):
    """
    The middle of a posterior, and the number of rings of tiles around it.

    Elsewhere there are no stars to be drawn. The rings hold the pixels that
    stars are measured on; their number is even, so that tiles keep their colours.
    """
    ring = 2 * -(-(posterior.patch_radius + 2) // (2 * _SIZE))
    first, last = _MARGIN // _SIZE - ring, (_FIELD - _MARGIN) // _SIZE + ring
    tiles = slice(first, last)
    pixels = slice(first * _SIZE, last * _SIZE)
    inputs, values = posterior.inputs, {}
    for field in dataclasses.fields(inputs):
        value = getattr(inputs, field.name)
        if getattr(value, 'ndim', 0) == 3:
            value = value[:, pixels, pixels]
        elif getattr(value, 'ndim', 0) == 4 and value.shape[2] > 1:
            value = value[..., tiles, tiles]
        values[field.name] = value
    middle = TilePosterior(
        posterior.features[..., tiles, tiles],
        type(inputs)(**values),
        posterior.head,
        tile_size=_SIZE,
        patch_radius=posterior.patch_radius,
    )
    return middle, ring


# -- numbers -------------------------------------------------------------------------


def evaluate(report, depth, table, n_draws):
    """Add the rows of one depth; returns the details."""
    true, below, at, stated, mean = table.T
    n = len(true)
    # Among the draws and the truth each rank is as likely as any other.
    low = below * n_draws / (n_draws + 1)
    high = (at * n_draws + 1) / (n_draws + 1)
    ranks = randomized_pit(low, high, rng=depth)
    report.add(
        f'd = {depth}: ranks of the count, KS p-value',
        stats.kstest(ranks, 'uniform').pvalue,
        n=n,
        target='> 0.01',
        low=0.01,
    )
    details = {
        'ks_distance': stats.kstest(ranks, 'uniform').statistic,
        'histogram': np.histogram(ranks, 20, (0, 1))[0],
        'mean_rank': ranks.mean(),
    }
    # Groups by what the data say without noise of draws, which would correlate with
    # the mean of the draws.
    groups = quantile_groups(stated, 5)
    for what, values in (('stated', stated), ('of draws', mean)):
        rows = []
        for k in range(5):
            own = groups == k
            expected = values[own].mean()
            off = true[own] - values[own]
            error = off.std() / np.sqrt(own.sum())
            rows.append([expected, off.mean(), error, int(own.sum())])
            report.add(
                f'd = {depth}: true over expected count ({what}), fifth {k + 1}, '
                f'expected {expected:.2f}',
                1 + off.mean() / expected,
                error / expected,
                n=int(own.sum()),
                target='0.98 to 1.02',
                low=0.98,
                high=1.02,
            )
        off = true - values
        report.add(
            f'd = {depth}: true over expected count ({what}), all',
            true.sum() / values.sum(),
            off.std() * np.sqrt(n) / values.sum(),
            n=n,
        )
        details[f'true_minus_expected_{what.replace(" ", "_")}'] = rows
    return details


def main():
    parser = make_parser(__doc__.strip(), n_images=10000)
    parser.add_argument('--encoder', default='stars', help='name or file')
    parser.add_argument('--depths', type=int, nargs='+', default=[1, 5, 10, 25])
    parser.add_argument('--batch', type=int, default=100)
    parser.add_argument(
        '--n-draws', type=int, default=25, help='of each posterior (default: 25)'
    )
    arguments = parser.parse_args()
    n_images = 500 if arguments.quick else arguments.n_images
    report = Report('counts', __doc__.strip(), arguments)
    start, details = time.perf_counter(), {}
    n_draws, batch = arguments.n_draws, arguments.batch
    for depth in arguments.depths:
        tasks = [
            (arguments.encoder, depth, k, min(batch, n_images - first), n_draws)
            for k, first in enumerate(range(0, n_images, batch))
        ]
        parts = run_tasks(
            count, tasks, processes=arguments.threads, description=f'd = {depth}'
        )
        details[depth] = evaluate(report, depth, np.concatenate(parts), n_draws)
    report.details = {
        'encoder': Path(arguments.encoder).stem,
        'n_images': n_images,
        'n_draws': n_draws,
        'seconds': time.perf_counter() - start,
        'depths': details,
    }
    report.finish()


if __name__ == '__main__':
    main()
