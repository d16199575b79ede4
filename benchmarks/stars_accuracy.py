# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection, fluxes and calibration on held-out simulations of the coadd paper.
"""

import functools
import itertools
import multiprocessing
import time
from pathlib import Path

import numpy as np
from _common import Report, make_parser, share_with_error
from _truth import simulate_and_ask, start_worker

from bliss_astro.metrics import (
    match_catalogs,
    quantile_groups,
    rank_coverage,
    wilson_interval,
)

# No training stream begins with this key.
_SEED = 20221104
_LEVELS = (0.5, 0.68, 0.9, 0.95)
_THIRDS = ('faint', 'middle', 'bright')
# Flux of one nanomaggy in electrons, which makes magnitudes.
_ELECTRONS = 987.31

# Recall of true mag 22.75 to 23, precision of estimated mag > 22.5.
_FAINT_GOALS = {1: (0.39, 0.74), 5: (0.92, 0.965), 10: (0.94, 0.975), 25: (0.955, 0.98)}
# Of both, brighter than 21.5.
_BRIGHT_GOAL = 0.98
# Median flux residual and the magnitude down to which it is asked for.
_RESIDUAL_GOALS = {1: (0.05, 22.75)}
_RESIDUAL_GOAL = (0.015, 23.0)
_COVERAGE_GOAL = 0.02


def magnitude(flux):
    """Magnitude of a flux in electrons."""
    return 22.5 - 2.5 * np.log10(np.asarray(flux) / _ELECTRONS)


# -- data ------------------------------------------------------------------------


def _join(parts):
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def collect(depth, names, n_images, *, batch, processes, seed=_SEED):
    """
    Truth and answers of ``n_images`` images.

    Every batch has a seed of its own, so the number of processes does not
    change the images.
    """
    from tqdm import tqdm

    starts = range(0, n_images, batch)
    tasks = [
        (seed, depth, k, min(batch, n_images - start), start)
        for k, start in enumerate(starts)
    ]
    bar = functools.partial(tqdm, total=len(tasks), desc=f'd = {depth}', unit='batch')
    if processes == 1:
        start_worker(names, 1)
        results = list(bar(map(simulate_and_ask, tasks)))
    else:
        context = multiprocessing.get_context('spawn')
        with context.Pool(processes, start_worker, (names, 1)) as pool:
            results = list(bar(pool.imap(simulate_and_ask, tasks)))
    truth = _join([result[0] for result in results])
    answers = {}
    for name in names:
        own = [result[1][name] for result in results]
        answers[name] = {
            kind: _join([part[kind] for part in own if part[kind]])
            for kind in ('found', 'ranks', 'score')
        }
    return truth, answers


# -- numbers ---------------------------------------------------------------------


class Match:
    """True and found stars of many images, paired within a pixel."""

    def __init__(self, truth, found, threshold):
        found = {k: v[found['probability'] >= threshold] for k, v in found.items()}
        match = match_catalogs(
            (found['x'], found['y']),
            (truth['x'], truth['y']),
            radius=1.0,
            images=(found['image'], truth['image']),
        )
        self.images = {'recall': truth['image'], 'precision': found['image']}
        self.mags = {
            'recall': magnitude(truth['flux']),
            'precision': magnitude(found['flux']),
        }
        self.hits = {
            'recall': match.is_matched_truth,
            'precision': match.is_matched_estimated,
        }
        pairs = match.estimated_index, match.truth_index
        flux, true = found['flux'][pairs[0]], truth['flux'][pairs[1]]
        self.pair_mag = magnitude(flux)
        self.residual = (flux - true) / true

    def share(self, kind, low, high):
        """Hits and total of recall or precision in a range of magnitude."""
        use = (self.mags[kind] > low) & (self.mags[kind] <= high)
        return int(self.hits[kind][use].sum()), int(use.sum())

    def per_image(self, kind, low, high, n_images):
        """The same counts image by image."""
        use = (self.mags[kind] > low) & (self.mags[kind] <= high)
        image, hit = self.images[kind][use], self.hits[kind][use]
        return (
            np.bincount(image, hit, n_images),
            np.bincount(image, minlength=n_images),
        )


_SHARES = {
    'recall, true mag 22.75 to 23': ('recall', 22.75, 23.01),
    'precision, estimated mag > 22.5': ('precision', 22.5, 99),
    'recall, true mag < 21.5': ('recall', -9, 21.5),
    'precision, estimated mag < 21.5': ('precision', -9, 21.5),
}


def _share_goal(depth, what):
    if '21.5' in what:
        return _BRIGHT_GOAL
    recall, precision = _FAINT_GOALS.get(depth, (None, None))
    return recall if what.startswith('recall') else precision


def _add_shares(report, depth, match, label):
    for what, key in _SHARES.items():
        success, total = match.share(*key)
        goal = _share_goal(depth, what)
        report.add(
            f'{label}d = {depth}: {what}',
            *share_with_error(success, total),
            n=total,
            target='' if goal is None else f'>= {goal}',
            low=goal,
        )


def _median_with_error(values):
    # Half the distance of the order statistics one sigma from the middle.
    values = np.sort(values)
    n = len(values)
    if n < 9:
        return (np.median(values) if n else np.nan), np.nan
    half = 0.5 * np.sqrt(n)
    low, high = int(0.5 * n - half), min(n - 1, int(np.ceil(0.5 * n + half)))
    return np.median(values), 0.5 * (values[high] - values[low])


def residuals_by_magnitude(match, edges, n_least=30):
    """Median and quartiles of relative flux residuals by estimated magnitude."""
    rows = []
    for low, high in itertools.pairwise(edges):
        values = match.residual[(match.pair_mag > low) & (match.pair_mag <= high)]
        if len(values) < n_least:
            continue
        median, error = _median_with_error(values)
        quartiles = np.quantile(values, (0.25, 0.75))
        rows.append([low, high, len(values), median, error, *quartiles])
    return np.array(rows).reshape(-1, 7)


def _add_residuals(report, depth, match, label):
    goal, faintest = _RESIDUAL_GOALS.get(depth, _RESIDUAL_GOAL)
    table = residuals_by_magnitude(match, np.arange(14.5, faintest + 0.01, 0.25))
    if not len(table):
        return table
    worst = np.abs(table[:, 3]).argmax()
    report.add(
        f'{label}d = {depth}: largest median flux residual of the bins, '
        f'mag < {faintest}',
        np.abs(table[worst, 3]),
        table[worst, 4],
        n=int(table[worst, 2]),
        target=f'<= {goal}',
        high=goal,
    )
    return table


def _add_coverage(report, depth, ranks, label):
    thirds = quantile_groups(ranks['flux_median'], 3)
    out = {}
    for quantity in ('flux', 'x', 'y'):
        coverage = rank_coverage(ranks[f'rank_{quantity}'], _LEVELS, groups=thirds)
        share = np.asarray(coverage.coverage)
        n = np.asarray(coverage.n)
        off = share - np.asarray(_LEVELS)
        k, j = np.unravel_index(np.abs(off).argmax(), off.shape)
        error = np.sqrt(share[k, j] * (1 - share[k, j]) / n[k])
        report.add(
            f'{label}d = {depth}: coverage of {quantity}, worst of thirds and levels '
            f'({_THIRDS[k]}, {_LEVELS[j]:.0%})',
            off[k, j],
            error,
            n=int(n[k]),
            target=f'+- {_COVERAGE_GOAL}',
            low=-_COVERAGE_GOAL,
            high=_COVERAGE_GOAL,
        )
        out[quantity] = {'levels': _LEVELS, 'thirds': _THIRDS, 'n': n, 'share': share}
    edges = [magnitude(ranks['flux_median'][thirds == k]) for k in range(3)]
    out['median_mag_of_thirds'] = [float(np.median(e)) for e in edges]
    return out


def _add_scores(report, depth, answer, n_images, label):
    ranks, count = answer['ranks'], answer['score']['count']
    source = ranks['log_position'] + ranks['log_flux']
    image = count + np.bincount(ranks['image'], source, n_images)
    for what, values in (
        ('count, per image', count),
        ('position, per star', ranks['log_position']),
        ('log flux, per star', ranks['log_flux']),
        ('catalogue, per image', image),
    ):
        report.add(
            f'{label}d = {depth}: mean log score of {what}',
            values.mean(),
            values.std() / np.sqrt(len(values)),
            n=len(values),
        )


def _by_magnitude(match, step):
    out = {}
    for kind in ('recall', 'precision'):
        rows = []
        for low in np.arange(15, 23, step):
            high = low + step if low + step < 22.99 else 23.4
            success, total = match.share(kind, low, high)
            if total:
                bounds = wilson_interval(success, total)
                share = success / total
                rows.append([low, low + step, total, share, *map(float, bounds)])
        out[kind] = rows
    return out


def _compare(report, depth, first, second, n_images, label):
    # Both saw the same images, so images are resampled together.
    rng = np.random.default_rng(1)
    weights = rng.multinomial(n_images, np.full(n_images, 1 / n_images), 200)
    for what, key in _SHARES.items():
        counts = [c for m in (first, second) for c in m.per_image(*key, n_images)]
        sums = weights @ np.array(counts, float).T
        total = np.array(counts, float).sum(1)
        with np.errstate(invalid='ignore', divide='ignore'):
            difference = total[0] / total[1] - total[2] / total[3]
            scatter = np.std(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])
        goal = {'target': '>= -0.01', 'low': -0.01} if depth == 25 else {}
        report.add(f'd = {depth}: {label}, {what}', difference, scatter, **goal)


def evaluate(report, depth, truth, answers, n_images, *, threshold, names):
    """Add the rows of one depth; returns what the figure needs."""
    matches, curves = {}, {}
    for name in names:
        short = Path(name).stem
        label = f'{short}, ' if len(names) > 1 else ''
        answer = answers[name]
        match = matches[name] = Match(truth, answer['found'], threshold)
        _add_shares(report, depth, match, label)
        table = _add_residuals(report, depth, match, label)
        coverage = _add_coverage(report, depth, answer['ranks'], label)
        _add_scores(report, depth, answer, n_images, label)
        curves[short] = {
            'by_half_magnitude': _by_magnitude(match, 0.5),
            'by_quarter_magnitude': _by_magnitude(match, 0.25),
            'flux_residual_by_estimated_magnitude': table,
            'flux_residual_all': residuals_by_magnitude(
                match, np.arange(15, 23.01, 0.5)
            ),
            'coverage': coverage,
            'n_true': len(truth['flux']),
        }
    for name in names[1:]:
        label = f'{Path(names[0]).stem} minus {Path(name).stem}'
        _compare(report, depth, matches[names[0]], matches[name], n_images, label)
    return curves


# -- figure ----------------------------------------------------------------------


def plot(details, path):
    """Recall, precision and flux residuals, like Figure 2 of the paper."""
    import matplotlib as mpl

    mpl.use('agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout='constrained')
    colours = ('#c44e52', '#dd9b3d', '#5b9e6f', '#3a6ea5')
    for (depth, curves), colour in zip(details.items(), colours, strict=False):
        curve = next(iter(curves.values()))
        for ax, kind in zip(axes, ('recall', 'precision'), strict=False):
            rows = np.array(curve['by_half_magnitude'][kind])
            middle = 0.5 * (rows[:, 0] + rows[:, 1])
            ax.fill_between(middle, rows[:, 4], rows[:, 5], color=colour, alpha=0.25)
            ax.plot(middle, rows[:, 3], 'o-', ms=3, color=colour, label=f'd = {depth}')
        rows = np.array(curve['flux_residual_all'])
        middle = 0.5 * (rows[:, 0] + rows[:, 1])
        axes[2].fill_between(middle, rows[:, 5], rows[:, 6], color=colour, alpha=0.2)
        axes[2].plot(middle, rows[:, 3], 'o-', ms=3, color=colour)
    titles = ('recall', 'precision', 'relative flux residual')
    labels = ('true magnitude', 'estimated magnitude', 'estimated magnitude')
    for ax, title, label in zip(axes, titles, labels, strict=True):
        ax.set(title=title, xlabel=label, xlim=(15, 23))
        ax.grid(alpha=0.3)
    axes[0].set_ylim(0, 1.02)
    axes[1].set_ylim(0.5, 1.01)
    axes[2].axhline(0, color='black', lw=0.8)
    axes[2].set_ylim(-0.2, 0.2)
    axes[0].legend(loc='lower left')
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    print(f'figure: {path.name}, {path.stat().st_size / 1e3:.0f} kB')


def main():
    parser = make_parser(__doc__.strip(), n_images=40000)
    parser.add_argument('--depths', type=int, nargs='+', default=[1, 5, 10, 25])
    parser.add_argument(
        '--encoders',
        nargs='+',
        default=['stars'],
        help='names or files; the first is compared with the others',
    )
    parser.add_argument('--threshold', type=float, default=0.5)
    parser.add_argument('--batch', type=int, default=256)
    parser.add_argument('--arrays', help='folder for all arrays (npz)')
    parser.add_argument(
        '--again', action='store_true', help='use the arrays kept there, if any'
    )
    parser.add_argument('--figure', help='PNG file to draw')
    arguments = parser.parse_args()
    n_images = 500 if arguments.quick else arguments.n_images
    report = Report('stars_accuracy', __doc__.strip(), arguments)
    details, seconds = {}, {}
    for depth in arguments.depths:
        kept = arguments.arrays and Path(arguments.arrays) / f'd{depth}.npz'
        if arguments.again and kept and kept.is_file():
            truth, answers = _read_arrays(kept, arguments.encoders)
        else:
            start = time.perf_counter()
            truth, answers = collect(
                depth,
                arguments.encoders,
                n_images,
                batch=arguments.batch,
                processes=arguments.threads,
            )
            seconds[depth] = time.perf_counter() - start
            if kept:
                _write_arrays(kept, truth, answers)
        details[depth] = evaluate(
            report,
            depth,
            truth,
            answers,
            n_images,
            threshold=arguments.threshold,
            names=arguments.encoders,
        )
    report.details = {
        'n_images': n_images,
        'threshold': arguments.threshold,
        'seconds': seconds,
        'encoders': [_card(name) for name in arguments.encoders],
        'depths': details,
    }
    report.finish()
    if arguments.figure:
        plot(details, arguments.figure)


def _card(name):
    from bliss_astro.encoders import Encoder

    card = Encoder.from_pretrained(name).card
    kept = ('name', 'date', 'sha256', 'n_parameters', 'training', 'validation_loss')
    return {key: card[key] for key in kept if key in card}


def _write_arrays(path, truth, answers):
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f'truth/{k}': v for k, v in truth.items()}
    for name, answer in answers.items():
        for kind, values in answer.items():
            arrays |= {f'{Path(name).stem}/{kind}/{k}': v for k, v in values.items()}
    np.savez(path, **arrays)


def _read_arrays(path, names):
    with np.load(path) as arrays:
        truth = {k[6:]: arrays[k] for k in arrays if k.startswith('truth/')}
        answers = {}
        for name in names:
            answers[name] = {
                kind: {
                    k[len(start) :]: arrays[k] for k in arrays if k.startswith(start)
                }
                for kind in ('found', 'ranks', 'score')
                for start in [f'{Path(name).stem}/{kind}/']
            }
    return truth, answers


if __name__ == '__main__':
    main()
