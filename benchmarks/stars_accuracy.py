# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Completeness, purity, fluxes and intervals of stars in single exposures and coadds.

The field of Wang et al. (2022): on average three stars in the central 40 x 40 of
88 x 88 pixels, the PSF of run 94, camcol 1, field 12, a sky of 865 electrons.
"""

import numpy as np
from astropy.table import vstack
from harness import Benchmark, median_with_error
from samples import Sample, run_encoder
from scenes import ELECTRONS_PER_NMGY, draw_star_fields, generator_of, truth_of

BATCH = 50
# Targets at the faint end: recall of magnitude 22.75 to 23, precision beyond 22.5.
FAINT_TARGETS = {
    1: (0.39, 0.74),
    5: (0.92, 0.965),
    10: (0.94, 0.975),
    25: (0.955, 0.98),
}
BRIGHT_TARGET = 0.98
# Largest median flux residual in per cent, and the faintest bin that counts.
RESIDUAL_TARGETS = {1: (5.0, 22.75)}
RESIDUAL_TARGET = (1.5, 23.0)
COVERAGE_TARGET = '-0.02 to 0.02'


def magnitude(flux):
    """Magnitude of electrons of one exposure."""
    return 22.5 - 2.5 * np.log10(np.asarray(flux) / ELECTRONS_PER_NMGY)


def draw_sample(encoder, depth, n_images, seed):
    """Sample of detections and stars of one depth."""
    found, truth = [], []
    for first in range(0, n_images, BATCH):
        generator = generator_of(seed, depth, first)
        images = draw_star_fields(min(BATCH, n_images - first), depth, generator)
        found.append(run_encoder(encoder, images, first=first))
        truth.append(truth_of(images, first=first))
    return Sample(vstack(found), vstack(truth))


def add_depth(bench, depth, sample):
    """Rows of one depth."""
    case = f'd = {depth}'
    true, estimated = (magnitude(t['flux']) for t in (sample.truth, sample.found))
    targets = [f'>= {value:g}' for value in FAINT_TARGETS.get(depth, ())] or ['', '']
    targets += 2 * [f'>= {BRIGHT_TARGET}']
    selections = {
        'recall, true magnitude 22.75 to 23': (true > 22.75) & (true < 23.01),
        'precision, estimated magnitude > 22.5': estimated > 22.5,
        'recall, true magnitude < 21.5': true < 21.5,
        'precision, estimated magnitude < 21.5': estimated < 21.5,
    }
    for (quantity, use), target in zip(selections.items(), targets, strict=True):
        value = getattr(sample, quantity.split(',')[0])
        bench.add(case, quantity, value(use), n=int(use.sum()), target=target)
    add_residuals(bench, depth, sample, estimated)
    offset = sample.coverage()[0] - 0.6827, sample.coverage()[1]
    quantity = 'coverage of 68 % of flux minus level'
    bench.add(case, quantity, offset, n=len(sample.rows), target=COVERAGE_TARGET)
    for low in np.arange(15, 23, 0.5):
        name = f'{case}, magnitude {low:g} to {low + 0.5:g}'
        for quantity, value, values in (
            ('recall by true magnitude', sample.recall, true),
            ('precision by estimated magnitude', sample.precision, estimated),
        ):
            use = (values > low) & (values <= low + 0.5 + 0.4 * (low == 22.5))
            if use.any():
                bench.add(name, quantity, value(use), n=int(use.sum()))


def add_residuals(bench, depth, sample, estimated):
    """Row of the largest median flux residual of the bins of a quarter magnitude."""
    limit, faintest = RESIDUAL_TARGETS.get(depth, RESIDUAL_TARGET)
    residuals, of_pairs = 100 * sample.residuals(), estimated[sample.rows]
    worst = (0.0, np.nan)
    for low in np.arange(15, faintest, 0.25):
        values = residuals[(of_pairs > low) & (of_pairs <= low + 0.25)]
        if len(values) >= 30:
            worst = max(worst, median_with_error(values), key=lambda pair: abs(pair[0]))
    bench.add(
        f'd = {depth}',
        'largest median flux residual of the bins',
        abs(worst[0]),
        worst[1],
        unit='%',
        target=f'<= {limit:g}',
    )


def main(arguments=None):
    bench = Benchmark(
        'stars_accuracy',
        __doc__.strip().splitlines()[0],
        n_images=20_000,
        weights='stars',
    )
    bench.option('--depths', type=int, nargs='+', default=[1, 5, 10, 25])
    arguments = bench.start(arguments)
    encoder, n_images = bench.encoder, 20 if arguments.quick else arguments.n_images
    for depth in arguments.depths[:1] if arguments.quick else arguments.depths:
        sample = draw_sample(encoder, depth, n_images, arguments.seed + 20221104)
        add_depth(bench, depth, sample)
    bench.finish()


if __name__ == '__main__':
    main()
