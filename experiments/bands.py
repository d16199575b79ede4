# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Several bands: r alone, gri and ugriz of the same scenes.

The scenes of ``benchmarks/fields.py`` and ``benchmarks/blends.py``, seen in u, g, i and
z too, with the colours of `~bliss_astro.priors.ColourPrior`. Differences are of the
same scenes, with errors from scenes drawn with replacement.
"""

import dataclasses
import itertools
import warnings
from pathlib import Path

import _networks
import astropy.units as u
import numpy as np
import scenes
import torch
from astropy.table import vstack
from blends import LEAST_PROBABILITY, at_precision, keep
from harness import OURS, RESULTS, Benchmark, bootstrap, read_results
from samples import Sample, rows_of

from bliss_astro import detect_many
from bliss_astro.encoders import Encoder
from bliss_astro.exposures import ExposureSet
from bliss_astro.priors import ColourPrior, band_fields

BATCH, BANDS = 50, 'rugiz'
# Bands that are seen, and others whose fluxes are predicted.
CASES = {'r': ('r', ''), 'gri': ('rgi', 'uz'), 'ugriz': ('rugiz', '')}
PAIRS = ('gri', 'r'), ('ugriz', 'r'), ('ugriz', 'gri')
COLOURS = 'g-r', 'r-i'
# Levels of intervals, quantiles, and the number of draws for them.
LEVELS = 0.95, 0.9, 0.6827, 0.5
SIGMA = LEVELS.index(0.6827)
TAILS = [*(0.5 - 0.5 * np.array(LEVELS)), 0.5, *(0.5 + 0.5 * np.array(LEVELS[::-1]))]
N_DRAWS = 256
# Grids of other bands lie off that of r by so many pixels, as in the training.
LARGEST_SHIFT = 0.07
PRECISION, FAINTEST, FAINTEST_SNR = 0.97, 22.0, 7.0
# Upper ends of magnitudes, and the words before them.
BIN = 'r to'
EDGES = 19.0, 20.0, 20.5, 21.0, 21.5, 22.0, 22.5
BLENDEDNESS = {'< 0.2': (0, 0.2), '0.2 to 0.5': (0.2, 0.5), '> 0.5': (0.5, 1.01)}
TARGETS = {
    'recall, r < 21.2': {'gri': '>= 0.98', 'ugriz': '>= 0.98'},
    'precision, estimated r < 21.5': {'gri': '>= 0.985', 'ugriz': '>= 0.985'},
    'recall, r 21.5 to 22.5': {'gri minus r': '>= 0.08', 'ugriz minus r': '>= 0.1'},
    'accuracy, r 21 to 22': {'gri minus r': '>= 0.03', 'ugriz minus r': '>= 0.04'},
    'accuracy, r < 22': {'gri': '>= 0.975', 'ugriz': '>= 0.978'},
    'recall, blendedness 0.2 to 0.5': {'gri': '>= 0.88', 'ugriz': '>= 0.9'},
    'recall, blendedness > 0.5': {'gri': '>= 0.55', 'ugriz': '>= 0.6'},
}


# -- scenes --------------------------------------------------------------------------


def in_bands(images, generator):
    """Scenes in r, and in other bands: images by name of the band."""
    noise = (images.bkg_error**2 - images.background).clamp(min=0).sqrt()
    images = dataclasses.replace(images, read_noise=noise)
    prior, scale = ColourPrior.default(), images.electrons_per_nmgy[:, None]
    # Unused places get any colour.
    magnitude = 22.5 - 2.5 * torch.log10((images.flux / scale).clamp(min=0.1))
    options = {'generator': generator}
    colours = prior.sample(magnitude, images.is_galaxy, BANDS, **options).exp()
    disks = prior.disk_fractions(images.galaxy[..., 0], BANDS, **options)
    fields, found = vars(band_fields(images, BANDS, **options)), {'r': images}
    for k, name in enumerate(BANDS[1:], 1):
        own = {key: value[:, k] for key, value in fields.items()}
        own = dataclasses.replace(images, **own)
        shift = torch.rand(2, len(images), 1, generator=generator)
        x, y = (2 * shift - 1) * LARGEST_SHIFT + torch.stack([images.x, images.y])
        flux = images.flux * colours[..., k] * own.electrons_per_nmgy[:, None] / scale
        galaxy = torch.cat([disks[..., k, None], images.galaxy[..., 1:]], -1)
        given = x, y, flux, images.is_galaxy, galaxy, generator
        found[name] = scenes.expose(own, *given, shape=images.data.shape[1:])
    return found


def truth_in_bands(images, first):
    """Table of all sources, with fluxes in nmgy in each band, and colours."""
    table, r = scenes.truth_of(images['r'], first=first), images['r']
    table.sort(['scene', 'x'])
    scene, place = (r.flux > 0).nonzero(as_tuple=True)
    order = np.lexsort((r.x[scene, place].numpy(), scene.numpy()))
    for name, own in images.items():
        flux = (own.flux / own.electrons_per_nmgy[:, None])[scene, place]
        table[f'flux_{name}'] = flux.double().numpy()[order]
    table['flux'] = table['flux_r']
    for pair in COLOURS:
        table[pair] = color_of(table, pair)
    return table


def color_of(fluxes, pair):
    """Colour in magnitudes of fluxes by column."""
    blue, red = (fluxes[f'flux_{band}'] for band in pair.split('-'))
    return -2.5 * np.log10(blue / red)


def detect(encoder, images, case, least, first):
    """Tables of detections, with quantiles of fluxes and colours, scene by scene."""
    seen, predicted = CASES[case]
    numbers, known = range(len(images['r'])), dict.fromkeys(predicted)
    exposures = [
        {name: scenes.exposure_of(images[name], k, calibrated=True) for name in seen}
        for k in numbers
    ]
    if seen[1:]:
        exposures = [ExposureSet(own | known, reference='r') for own in exposures]
    else:
        exposures = [own['r'] for own in exposures]
    floor, scale = images['r'].flux_min, images['r'].electrons_per_nmgy
    catalogs = detect_many(
        exposures,
        least,
        encoder=encoder,
        density=[scenes.density_of(images['r'], k) for k in numbers],
        flux_min=[value * u.nmgy for value in (floor / scale).tolist()],
        population='npe',
        progress_bar=False,
        check=False,
    )
    columns = {f'flux_{b}': f'flux_{b}' for b in BANDS if seen[1:]} or {
        'flux_r': 'flux'
    }
    for k, catalog in enumerate(catalogs, first):
        rows = rows_of(catalog, k, intervals=False)
        rows['magnitude'] = 22.5 - 2.5 * np.log10(rows['flux'])
        drawn = catalog.samples([*columns.values()], n_samples=N_DRAWS, rng=1)
        drawn = {n: np.asarray(drawn[own].distribution) for n, own in columns.items()}
        if seen[1:]:
            drawn |= {pair: color_of(drawn, pair) for pair in COLOURS}
        for name, values in drawn.items():
            # Quantiles whose probabilities are right on average.
            rows[name] = np.quantile(values, TAILS, axis=1, method='weibull').T
        yield rows


def draw_samples(cases, draw, n_images, key, least):
    """Detections by case and truth, of the same scenes."""
    found, truth = {case: [] for case in cases}, []
    for first in range(0, n_images, BATCH):
        generator = scenes.generator_of(*key, first)
        images = draw(min(BATCH, n_images - first), generator)
        images = in_bands(images, generator)
        truth.append(truth_in_bands(images, first))
        for (case, method), encoder in cases.items():
            with warnings.catch_warnings(action='ignore'):
                found[case, method] += detect(encoder, images, case, least, first)
    truth, silent = vstack(truth), {'metadata_conflicts': 'silent'}
    return {case: Sample(vstack(own, **silent), truth) for case, own in found.items()}


def at_common_precision(sample):
    """Detections above the threshold of a precision in the other half of the scenes."""
    found, truth, parts = sample.found, sample.truth, []
    found = found[keep(found['x'], found['y'])]
    for half in (0, 1):
        others = (table[table['scene'] % 2 != half] for table in (found, truth))
        _, threshold = at_precision(*others, PRECISION)
        own = found[found['scene'] % 2 == half]
        parts.append(own[own['probability'] >= threshold])
    return Sample(vstack(parts, metadata_conflicts='silent'), truth)


# -- scores --------------------------------------------------------------------------
# Values of each source, NaN where it does not count, and its scene, by quantity.


def scores_of(sample, **groups):
    """Scores of groups of true sources, and precision of those of detections."""
    n, scene = len(sample.truth), np.asarray(sample.truth['scene'])
    right, error = np.full((2, n), np.nan)
    called = np.asarray(sample.found['galaxy_probability'])[sample.rows] > 0.5
    right[sample.partners] = called == sample.truth['is_galaxy'][sample.partners]
    error[sample.partners] = np.abs(sample.residuals())
    values = {
        'recall': (np.asarray(sample.match.is_matched_truth), scene),
        'accuracy': (right, scene),
        'flux error': (error, scene),
        'precision': (
            np.asarray(sample.match.is_matched_estimated),
            np.asarray(sample.found['scene']).astype(int),
        ),
    }
    return {
        f'{name}, {group}'.removesuffix(', '): (np.where(use, own, np.nan), scene)
        for name, (own, scene) in values.items()
        for group, use in groups.get(name, {}).items()
    }


def scores_of_fields(sample):
    """Scores in many fields."""
    true, own = (np.asarray(t['magnitude']) for t in (sample.truth, sample.found))

    def groups(values, *ends):
        bins = {f'{BIN} {b}': (a, b) for a, b in itertools.pairwise(EDGES)}
        return {
            group: (values > low) & (values < high)
            for group, (low, high) in (dict(ends) | bins).items()
        }

    middle, bright = ('r 21 to 22', (21, 22)), ('r < 22', (0, FAINTEST))
    recall = ('r < 21.2', (0, 21.2)), ('r 21.5 to 22.5', (21.5, 22.5))
    return scores_of(
        sample,
        recall=groups(true, *recall),
        accuracy=groups(true, middle, bright),
        precision=groups(own, ('estimated r < 21.5', (0, 21.5))),
        **{'flux error': {'r < 22': true < FAINTEST}},
    )


def scores_of_blends(sample):
    """Scores in blends, of sources above a signal-to-noise ratio."""
    snr, blended = (np.asarray(sample.truth[n]) for n in ('snr', 'blendedness'))
    groups = {
        f'blendedness {words}': (snr > FAINTEST_SNR) & (blended >= low) & (blended < up)
        for words, (low, up) in BLENDEDNESS.items()
    }
    known = {'flux error': groups, 'precision': {'': True}}
    return scores_of(sample, recall=groups, accuracy=groups, **known)


# -- rows of the results table --------------------------------------------------------


def mean_of(sums):
    """Mean of all values, from sums and numbers ``(n_scenes, 2)``."""
    total, number = sums.sum(0)
    return total / number if number else np.nan


def by_scene(values, scene, n):
    """Sums and numbers of the values of each scene, ``(n, 2)``."""
    good = np.isfinite(values)
    weights = values[good], None
    return np.stack([np.bincount(scene[good], w, n) for w in weights], 1)


def add_means(bench, kind, scores, n):
    """Means of scores by case and method, and differences to others."""
    for (case, method), own in scores.items():
        for quantity, (values, scene) in own.items():
            value = bootstrap(mean_of, by_scene(values, scene, n))
            target = TARGETS.get(quantity, {}).get(case, '')
            columns = {'method': method, 'n': int(np.isfinite(values).sum())}
            bench.add(f'{kind}, {case}', quantity, value, target=target, **columns)
    pairs = [(f'{a} minus {b}', (a, OURS), (b, OURS)) for a, b in PAIRS]
    pairs += [(f'r minus {m}', ('r', OURS), (c, m)) for c, m in scores if m != OURS]
    for case, first, second in pairs:
        for quantity, (values, scene) in scores.get(first, {}).items():
            if BIN in quantity:
                continue
            other, its_scene = scores[second][quantity]
            if not quantity.startswith('precision'):
                # Sources that both have.
                values, other = values + 0 * other, other + 0 * values
            value = bootstrap(
                lambda a, b: mean_of(a) - mean_of(b),
                by_scene(values, scene, n),
                by_scene(other, its_scene, n),
            )
            target = TARGETS.get(quantity, {}).get(case, '')
            if second[1] != OURS:
                target = '<= 0.003' if 'error' in quantity else '>= -0.003'
            bench.add(f'{kind}, {case}', quantity, value, target=target)


def add_quantiles(bench, sample, case, method, n):
    """Intervals, widths and residuals of fluxes and colours of matches, r < 22."""
    rows, partners = sample.pairs(np.asarray(sample.truth['magnitude']) < FAINTEST)
    found, truth = sample.found[rows], sample.truth[partners]
    scene = np.asarray(truth['scene'])
    for name in (*(f'flux_{band}' for band in BANDS), *COLOURS):
        if name not in found.colnames:
            continue
        words = f'many fields, {case}, {words_of(name, case)}'
        columns = {'method': method, 'n': len(found)}
        true, quantiles = np.asarray(truth[name]), np.asarray(found[name])
        for k, level in enumerate(LEVELS):
            inside = (quantiles[:, k] < true) & (true < quantiles[:, -1 - k])
            value = bootstrap(mean_of, by_scene(inside.astype(float), scene, n))
            target = f'{level - 0.02:.2f} to {level + 0.02:.2f}'
            bench.add(words, coverage(level), value, target=target, **columns)
        middle, is_colour = quantiles[:, len(LEVELS)], name in COLOURS
        # Magnitudes, of relative fluxes to first order.
        factor = 1.0 if is_colour else 2.5 / np.log(10) / middle
        width = 0.5 * factor * (quantiles[:, -1 - SIGMA] - quantiles[:, SIGMA])
        value = bootstrap(np.median, factor * (middle - true))
        target = '-0.01 to 0.01' if is_colour else ''
        columns['unit'] = 'mag'
        bench.add(words, 'median residual', value, target=target, **columns)
        bench.add(words, 'median half-width', bootstrap(np.median, width), **columns)


def coverage(level):
    """Name of the share of truths in intervals."""
    return f'coverage of {100 * level:.0f} % intervals'


def words_of(name, case):
    """Name of a flux or colour, and whether it is predicted."""
    is_predicted = name.removeprefix('flux_') in CASES[case][1]
    return f'{name}, predicted' if is_predicted else name


def draw_figure(table):
    """Recall, classes, blends, and intervals of fluxes, by the bands that are seen."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt

    table = table[(table['benchmark'] == 'bands') & (table['method'] == OURS)]
    rows = {(row['case'], row['quantity']): row for row in table}
    figure, axes = plt.subplots(2, 2, figsize=(8, 6))
    middles = 0.5 * (np.array(EDGES[1:]) + EDGES[:-1])

    def draw(axis, x, case, quantities, minus=0, **style):
        y, error = np.transpose(
            [
                [rows[case, name][key] for key in ('value', 'error')]
                for name in quantities
            ]
        )
        axis.errorbar(x, y - minus, error, marker='.', capsize=2, **style)

    for k, case in enumerate(CASES):
        style = {'label': case, 'color': f'C{k}'}
        for axis, name in zip(axes.flat, ('recall', 'accuracy'), strict=False):
            names = [f'{name}, {BIN} {high}' for high in EDGES[1:]]
            draw(axis, middles, f'many fields, {case}', names, **style)
        names = [f'recall, blendedness {words}' for words in BLENDEDNESS]
        draw(axes[1, 0], np.arange(3), f'blends, {case}', names, **style)
    axes[0, 0].set(xlabel='true r', ylabel='recall')
    axes[0, 1].set(xlabel='true r', ylabel='share of right classes')
    axes[1, 0].set_xticks(range(3), list(BLENDEDNESS))
    axes[1, 0].set(xlabel='blendedness', ylabel=f'recall at precision {PRECISION}')
    for case, band in [*(('ugriz', b) for b in 'ugriz'), ('gri', 'u'), ('gri', 'z')]:
        words = words_of(f'flux_{band}', case)
        style = {'label': words.removeprefix('flux_'), 'minus': LEVELS}
        style['linestyle'] = ':' if 'predicted' in words else '-'
        names = [*map(coverage, LEVELS)]
        draw(axes[1, 1], LEVELS, f'many fields, {case}, {words}', names, **style)
    axes[1, 1].axhspan(-0.02, 0.02, color='0.9', zorder=0)
    axes[1, 1].set(xlabel='level of intervals of fluxes', ylabel='coverage - level')
    axes[0, 0].legend()
    axes[1, 1].legend(fontsize='x-small', ncols=2)
    figure.tight_layout()
    figure.savefig(_networks.STATIC / 'bands_experiment.png', dpi=130)


def main(arguments=None):
    bench = Benchmark(
        'bands',
        __doc__.strip().splitlines()[0],
        n_images=2000,
        weights='stars-galaxies',
    )
    bench.option('--compare', nargs='*', default=[], help='other encoders, in r alone')
    bench.option('--figure', action='store_true', help='draw the figure and end')
    arguments = bench.start(arguments)
    if arguments.figure:
        draw_figure(read_results(arguments.output or RESULTS))
        return
    n, seed, encoder = arguments.n_images, arguments.seed, bench.encoder
    cases = {(case, OURS): encoder for case in CASES}
    for name in arguments.compare:
        cases['r', Path(name).stem] = Encoder.from_pretrained(name)
    # The keys are those of the benchmarks.
    key = seed + 20250918, 0
    samples = draw_samples(cases, scenes.draw_fields, n, key, 0.5)
    scores = {case: scores_of_fields(sample) for case, sample in samples.items()}
    add_means(bench, 'many fields', scores, n)
    for (case, method), sample in samples.items():
        add_quantiles(bench, sample, case, method, n)
    key = seed + 20251122, 5
    samples = draw_samples(cases, scenes.draw_blends, n, key, LEAST_PROBABILITY)
    samples = {case: at_common_precision(sample) for case, sample in samples.items()}
    scores = {case: scores_of_blends(sample) for case, sample in samples.items()}
    add_means(bench, 'blends', scores, n)
    bench.finish()


if __name__ == '__main__':
    main()
