# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars and galaxies in many fields: purity, completeness, classes and fluxes.

The setting of Patel et al. (2025) with the bundled encoder; ``experiments/fields.py``
trains the paper's networks and scores them on the same images.
"""

import itertools

import numpy as np
from astropy.table import vstack
from harness import OURS, Benchmark
from samples import Sample, run_encoder
from scenes import draw_fields, generator_of, truth_of

from bliss_astro.metrics import roc_curve

BATCH = 50
# Tenths of the sources brighter than r = 22, and the cut for truth.
TENTHS = (0, 17.777, 19.101, 19.781, 20.258, 20.625, 20.94, 21.227, 21.495, 21.746, 22)
FAINTEST = 22.0
# Faintest ends of the tenths among which the worst is looked for.
WORST = {'precision by estimated magnitude': 21.5, 'recall by true magnitude': 21.25}
TARGETS = {
    'precision, r < 21.5': '>= 0.978',
    'recall, r < 21.2': '>= 0.965',
    'accuracy, r < 22': '>= 0.962',
    'AUC': '>= 0.985',
    'MAPE, brightest tenth': '<= 2.5',
    'MAPE, r 21.2 to 21.75': '<= 15',
    'MAPE, r 21.2 to 21.75, stars': '<= 8',
    'coverage of 68 % intervals of flux': '0.66 to 0.7',
    'precision by estimated magnitude, worst tenth': '>= 0.96',
    'recall by true magnitude, worst tenth': '>= 0.94',
}


def draw_samples(encoders, n_images, seed, *, single=False):
    """Samples of several encoders, by their names, on the same images."""
    found, truth = {name: [] for name in encoders}, []
    for first in range(0, n_images, BATCH):
        generator = generator_of(seed, int(single), first)
        images = draw_fields(min(BATCH, n_images - first), generator, single=single)
        truth.append(truth_of(images, first=first))
        for name, encoder in encoders.items():
            rows = run_encoder(encoder, images, first=first)
            scale = images.electrons_per_nmgy.double().numpy()
            at = rows['scene'].astype(int) - first
            rows['magnitude'] = 22.5 - 2.5 * np.log10(rows['flux'] / scale[at])
            found[name].append(rows)
    truth = vstack(truth)
    return {name: Sample(vstack(own), truth) for name, own in found.items()}


def add_scores(bench, sample, case, *, method=OURS, targets=True):
    """Rows of one encoder on images of one kind."""
    true = np.asarray(sample.truth['magnitude'])
    star = ~np.asarray(sample.truth['is_galaxy'])
    estimated = np.asarray(sample.found['magnitude'])

    def add(quantity, value, **columns):
        if targets:
            columns['target'] = TARGETS.get(quantity, '')
        bench.add(case, quantity, value, method=method, **columns)

    add('precision, r < 21.5', sample.precision(estimated < 21.5))
    add('recall, r < 21.2', sample.recall(true < 21.2))
    add('accuracy, r < 22', sample.accuracy(true < FAINTEST))
    rows, partners = sample.pairs(true < FAINTEST)
    if len(set(star[partners])) == 2:
        curve = roc_curve(
            ~star[partners],
            np.asarray(sample.found['galaxy_probability'])[rows],
            images=np.asarray(sample.truth['scene'])[partners],
            rng=1,
        )
        add('AUC', (curve.meta['auc'], curve.meta['auc_err']))
    middle = (true > 21.2) & (true < 21.75)
    for quantity, use in (
        ('MAPE, brightest tenth', true < TENTHS[1]),
        ('MAPE, r 21.2 to 21.75', middle),
        ('MAPE, r 21.2 to 21.75, stars', middle & star),
        ('MAPE, r 21.2 to 21.75, galaxies', middle & ~star),
        ('MAPE, r < 22', true < FAINTEST),
    ):
        add(quantity, sample.mean_error(use), unit='%', n=int(use.sum()))
    add('coverage of 68 % intervals of flux', sample.coverage(select=true < FAINTEST))
    tenths = {}
    for low, high in itertools.pairwise(TENTHS):
        use, own = ((v > low) & (v <= high) for v in (true, estimated))
        name = f'{case}, r to {high:.2f}'
        for quantity, value in (
            ('precision by estimated magnitude', sample.precision(own)),
            ('recall by true magnitude', sample.recall(use)),
            ('accuracy by true magnitude', sample.accuracy(use)),
        ):
            bench.add(name, quantity, value, method=method)
            tenths[quantity, high] = value
        for kind, part in (('stars', use & star), ('galaxies', use & ~star)):
            value = sample.mean_error(part)
            quantity = f'MAPE of {kind} by true magnitude'
            bench.add(name, quantity, value, method=method, unit='%')
    for quantity, limit in WORST.items():
        every = [tenths[quantity, high] for high in TENTHS[1:] if high <= limit]
        add(f'{quantity}, worst tenth', min(every))


def main(arguments=None):
    bench = Benchmark(
        'fields',
        __doc__.strip().splitlines()[0],
        n_images=2000,
        weights='stars-galaxies',
    )
    arguments = bench.start(arguments)
    n_images = 10 if arguments.quick else arguments.n_images
    for case, single in (('many fields', False), ('single field', True)):
        seed = arguments.seed + 20250918
        samples = draw_samples({OURS: bench.encoder}, n_images, seed, single=single)
        add_scores(bench, samples[OURS], case)
    bench.finish()


if __name__ == '__main__':
    main()
