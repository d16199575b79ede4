# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Blends: two to six stars and galaxies within 12 px, beside SEP and photutils.

Scenes of 48 x 48 px in the PSFs and skies of many fields, with sources brighter than
r = 22.5. SEP and photutils have deblending and the settings of a grid with the highest
F1 on other scenes.
"""

import time
from bisect import bisect_left
from importlib.util import find_spec

import numpy as np
from astropy.table import vstack
from harness import OURS, Benchmark, bootstrap
from samples import Sample, run_encoder, run_rival, tune_rival
from scenes import BLEND_RADIUS, draw_blends, generator_of, truth_of

BATCH, CENTRE = 50, 23.5
CASES = {
    'blendedness < 0.2': (0, 0.2),
    'blendedness 0.2 to 0.5': (0.2, 0.5),
    'blendedness > 0.5': (0.5, 1.01),
    'blendedness 0.5 to 0.8': (0.5, 0.8),
}
RECALL_TARGETS = ('>= 0.97', '>= 0.92', '>= 0.75', '')
SNR_EDGES, BLENDEDNESS_EDGES = (0, 7, 15, 30, 100, np.inf), (0, 0.2, 0.5, 0.8, 1.01)
FAINTEST_SNR, SURE_SNR = 7, 10
LEAST_PROBABILITY = 0.03


def keep(x, y):
    """Detections that may belong to a source."""
    return np.hypot(x - CENTRE, y - CENTRE) <= BLEND_RADIUS + 1


def at_precision(found, truth, precision):
    """Sample at the lowest threshold with a precision, and that threshold."""
    values = np.sort(np.asarray(found['probability']))

    def at(threshold):
        return Sample(found[found['probability'] >= threshold], truth)

    # Fainter detections could take the matches of others.
    k = bisect_left(values[:-1], True, key=lambda v: at(v).precision()[0] >= precision)
    return at(values[k]), values[k]


def add_scores(bench, sample, method=OURS):
    """Rows of one method by blendedness."""
    truth = sample.truth
    snr, blended = np.asarray(truth['snr']), np.asarray(truth['blendedness'])
    ours = 'galaxy_probability' in sample.found.colnames

    def add(case, quantity, value, target=''):
        columns = {'method': method, 'target': target if method == OURS else ''}
        bench.add(case, quantity, value, **columns)

    add('all', 'precision', sample.precision(), '>= 0.97')
    if ours:
        add('all', 'accuracy, SNR > 7', sample.accuracy(snr > FAINTEST_SNR), '>= 0.93')
    for (case, (low, high)), target in zip(CASES.items(), RECALL_TARGETS, strict=True):
        own = (blended >= low) & (blended < high)
        use, sure = own & (snr > FAINTEST_SNR), own & (snr > SURE_SNR)
        add(case, 'recall, SNR > 7', sample.recall(use), target)
        bias = sample.bias(sure)
        add(case, 'median flux residual, SNR > 10', bias, '-0.02 to 0.02')
        if not ours:
            continue
        add(case, 'accuracy, SNR > 7', sample.accuracy(use))
        target = '0.66 to 0.70'
        for name, words in (('flux', 'flux'), ('e1', 'ellipticity')):
            value = sample.coverage(name, sure)
            add(case, f'coverage of 68 % of {words}, SNR > 10', value, target)
        add(case, 'slope of ellipticity, SNR > 10', slope(sample, sure))
    for k, low in enumerate(SNR_EDGES[:-1]):
        for j, least in enumerate(BLENDEDNESS_EDGES[:-1]):
            high, most = SNR_EDGES[k + 1], BLENDEDNESS_EDGES[j + 1]
            use = (snr >= low) & (snr < high) & (blended >= least) & (blended < most)
            words = f'SNR {low} to {high}' if np.isfinite(high) else f'SNR > {low}'
            case = f'{words}, blendedness {least:g} to {min(most, 1):g}'
            add(case, 'recall', sample.recall(use))


def slope(sample, select):
    """Slope of estimated on true ellipticity, both components."""
    rows, partners = sample.pairs(select)
    true = np.stack([sample.truth[c][partners] for c in ('e1', 'e2')], 1)
    found = np.stack([sample.found[c][rows] for c in ('e1', 'e2')], 1)
    good = np.isfinite(true).all(1) & np.isfinite(found).all(1)
    if good.sum() < 5:
        return np.nan, np.nan
    return bootstrap(
        lambda a, b: (a * b).sum() / (a * a).sum(), true[good], found[good]
    )


def add_comparison(bench, found, rival, name):
    """Rows of our recall and flux errors beside a rival's, at its precision."""
    ours, _ = at_precision(found, rival.truth, rival.precision()[0])
    snr = np.asarray(rival.truth['snr'])
    blended = np.asarray(rival.truth['blendedness'])
    quantity = f'recall at the precision of {name}, SNR > 7'
    for case, (low, high) in list(CASES.items())[:3]:
        use = (blended >= low) & (blended < high) & (snr > FAINTEST_SNR)
        bench.add(case, quantity, ours.recall(use))
        bench.add(case, quantity, rival.recall(use), method=name)
    errors = {}
    for key, sample in (('ours', ours), ('rival', rival)):
        errors[key] = np.full(len(snr), np.nan)
        errors[key][sample.partners] = np.abs(sample.residuals())
    both = np.isfinite(errors['ours'] + errors['rival']) & (snr > SURE_SNR)
    value = bootstrap(
        lambda a, b: np.median(a) / np.median(b),
        errors['ours'][both],
        errors['rival'][both],
    )
    quantity = f'median flux error over that of {name}, SNR > 10'
    bench.add('all', quantity, value, n=int(both.sum()))


def main(arguments=None):
    bench = Benchmark(
        'blends',
        __doc__.strip().splitlines()[0],
        n_images=3000,
        weights='stars-galaxies',
    )
    bench.option('--compare', nargs='*', default=[], help='further encoders')
    arguments = bench.start(arguments)
    n, seed = 16 if arguments.quick else arguments.n_images, arguments.seed + 20251122
    encoders = {OURS: bench.encoder}
    for name in arguments.compare:
        encoders[name] = type(bench.encoder).from_pretrained(name)
    rivals = {'SEP': 'sep', 'photutils': 'skimage'}
    tuning = draw_blends(4 if arguments.quick else 40, generator_of(seed, 6))
    settings = {
        name: tune_rival(name, tuning, keep=keep)
        for name, module in rivals.items()
        if find_spec(module)
    }
    found, truth = {name: [] for name in [*encoders, *settings]}, []
    seconds = dict.fromkeys(found, 0.0)
    for first in range(0, n, BATCH):
        images = draw_blends(min(BATCH, n - first), generator_of(seed, 5, first))
        truth.append(truth_of(images, first=first))
        for name in found:
            start = time.process_time()
            if name in settings:
                rows = run_rival(name, images, settings[name], first=first)
            else:
                least = {'threshold': LEAST_PROBABILITY}
                rows = run_encoder(encoders[name], images, first=first, **least)
            seconds[name] += time.process_time() - start
            found[name].append(rows[keep(rows['x'], rows['y'])])
    truth = vstack(truth)
    found = {name: vstack(tables) for name, tables in found.items()}
    for name, rows in found.items():
        sure = rows if name in settings else rows[rows['probability'] > 0.5]
        sample = Sample(sure, truth)
        add_scores(bench, sample, name)
        time_ms = 1e3 * seconds[name] / n
        bench.add('all', 'time per scene', time_ms, method=name, unit='ms')
        if name in settings:
            add_comparison(bench, found[OURS], sample, name)
    bench.finish()


if __name__ == '__main__':
    main()
