# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calibration: flux errors against the Cramer-Rao bound, counts, the exact posterior.
"""

import itertools

import astropy.units as u
import numpy as np
import torch
from astropy.table import vstack
from harness import Benchmark, median_with_error, quantile_width
from samples import Sample, run_encoder
from scenes import (
    ELECTRONS_PER_NMGY,
    FLUX_MIN,
    STAR_DENSITY,
    draw_star_fields,
    exposure_of,
    generator_of,
    truth_of,
)

from bliss_astro import CoaddSimulator, PSFModel, StarPrior, detect_sources
from bliss_astro.metrics import ExactStarPosterior, count_calibration, cramer_rao_bound

BATCH = 50
EDGES = np.arange(19, 22.6, 0.5)
BOUND_TARGET, COUNT_TARGET = '0.85 to 1.15', '0.98 to 1.02'
EXACT_TARGET, PROBABILITY_TARGET = '0.95 to 1.05', '<= 0.03'
# A star may be in the middle 8 x 8 of 32 x 32 pixels.
SMALL_SHAPE, SMALL_MARGIN = (32, 32), 12
SKY, SMALL_DENSITY = 865.0, 1e-3


def isolated(truth, distance=12.0):
    """Sources without a neighbour of the same scene."""
    apart = np.hypot(
        truth['x'][:, None] - np.asarray(truth['x']),
        truth['y'][:, None] - np.asarray(truth['y']),
    )
    same = truth['scene'][:, None] == np.asarray(truth['scene'])
    near = same & (apart < distance)
    return near.sum(1) == 1


def add_flux_errors(bench, encoder, depth, n_images):
    """Stated flux errors and flux scatter of isolated stars over the bound."""
    found, truth, bounds = [], [], []
    for first in range(0, n_images, BATCH):
        generator = generator_of(bench.arguments.seed, depth, first)
        images = draw_star_fields(min(BATCH, n_images - first), depth, generator)
        found.append(run_encoder(encoder, images, first=first, intervals=False))
        own = truth_of(images, first=first)
        own = own[isolated(own)]
        truth.append(own)
        bounds += [bound_of(images, row, first) for row in own]
    sample = Sample(vstack(found), vstack(truth))
    rows, partners = sample.pairs()
    bound = np.array(bounds)[partners]
    true = np.asarray(sample.truth['flux'])[partners]
    stated = np.asarray(sample.found['flux_err'])[rows] / bound
    pull = (np.asarray(sample.found['flux'])[rows] - true) / bound
    magnitude = 22.5 - 2.5 * np.log10(true / ELECTRONS_PER_NMGY)
    for low, high in itertools.pairwise(EDGES):
        use = (magnitude > low) & (magnitude <= high)
        if use.sum() < 5:
            continue
        case, n = f'd = {depth}, magnitude {low:g} to {high:g}', int(use.sum())
        ratio = median_with_error(stated[use])
        quantity = 'stated flux error over the Cramer-Rao bound'
        bench.add(case, quantity, ratio, n=n, target=BOUND_TARGET)
        scatter = quantile_width(pull[use])
        quantity = 'flux scatter over the Cramer-Rao bound'
        error = scatter / np.sqrt(2 * n)
        bench.add(case, quantity, scatter, error, n=n, target=BOUND_TARGET)


def bound_of(images, row, first):
    """Cramer-Rao bound of the flux of an isolated star."""
    k = int(row['scene']) - first
    bound = cramer_rao_bound(
        PSFModel.from_shape(images.psf[k].double().numpy()),
        float(row['flux']),
        bkg_error=float(images.bkg_error[k]),
        effective_gain=float(images.effective_gain[k]),
        noise_correlation=tuple(images.correlation[k].tolist()),
    )
    return float(bound['flux_err'][0])


def add_counts(bench, encoder, depth, n_images):
    """Number of stars in the region against the posterior's expectation."""
    true, expected, samples = [], [], []
    rng = bench.rng
    for first in range(0, n_images, BATCH):
        generator = generator_of(bench.arguments.seed + 1, depth, first)
        images = draw_star_fields(min(BATCH, n_images - first), depth, generator)
        for k in range(len(images)):
            catalog = detect_sources(
                exposure_of(images, k),
                encoder=encoder,
                density=STAR_DENSITY,
                flux_min=FLUX_MIN * u.electron,
                check=False,
                progress_bar=False,
            )
            true.append(int(images.count[k]))
            # The pixels that may hold stars.
            left, right, bottom, top = (images.region[k] + 0.5).int().tolist()
            region = slice(bottom, top), slice(left, right)
            expected.append(float(catalog.posterior.expected_counts(region)))
            draws = catalog.posterior.sample(20, rng=rng)
            samples.append([count_inside(draw, images.region[k]) for draw in draws])
    case, n = f'd = {depth}', len(true)
    true, expected, samples = map(np.asarray, (true, expected, samples))
    for quantity, mean in (
        ('number of stars: true over expected', expected),
        ('number of stars: true over mean of samples', samples.mean(1)),
    ):
        ratio = true.sum() / mean.sum()
        error = np.std(true - ratio * mean) * np.sqrt(n) / mean.sum()
        bench.add(case, quantity, ratio, error, n=n, target=COUNT_TARGET)
    below = (samples < true[:, None]).mean(1)
    at = (samples <= true[:, None]).mean(1)
    ranks = below + (at - below) * rng.uniform(size=len(at))
    result = count_calibration(true, expected, ranks=ranks)
    quantity = 'number of stars: p-value of the ranks'
    bench.add(case, quantity, float(result.meta['ks_p_value']), n=n, target='> 0.01')


def count_inside(rows, region):
    """Number of rows in a rectangle ``x_low, x_high, y_low, y_high``."""
    low_x, high_x, low_y, high_y = region.tolist()
    x, y = np.asarray(rows['x_centroid']), np.asarray(rows['y_centroid'])
    return int(((x > low_x) & (x < high_x) & (y > low_y) & (y < high_y)).sum())


def add_exact(bench, encoder, n_images):
    """One star at most, against brute-force integration."""
    prior = StarPrior(density=SMALL_DENSITY)
    # A star in each image, whatever the density says.
    simulator = CoaddSimulator(
        1, StarPrior(density=1 / 64), shape=SMALL_SHAPE, margin=SMALL_MARGIN
    )
    images = simulator.sample_batch(
        4 * n_images, generator=torch.Generator().manual_seed(bench.arguments.seed)
    )
    low, high = SMALL_MARGIN - 0.5, SMALL_SHAPE[0] - SMALL_MARGIN - 0.5
    rows = []
    for k in (images.count == 1).nonzero()[:n_images, 0].tolist():
        exposure = exposure_of(images, k)
        exact = ExactStarPosterior(
            exposure.data,
            exposure.psf,
            prior=prior,
            background=SKY,
            bkg_error=SKY**0.5,
            region=(low, high, low, high),
        )
        catalog = detect_sources(
            exposure,
            0.05,
            encoder=encoder,
            density=SMALL_DENSITY,
            flux_min=FLUX_MIN * u.electron,
            check=False,
            progress_bar=False,
        )
        if len(catalog):
            best = catalog[int(np.argmax(catalog['probability']))]
            near = exact.probability_near(
                float(best['x_centroid']), float(best['y_centroid']), radius=1.25
            )
            values = [
                u.Quantity(best[c]).value for c in ('probability', 'flux_err', 'x_err')
            ]
            rows.append([near, exact.flux_err, exact.x_err, *values])
    near, flux, x, probability, own_flux, own_x = np.transpose(rows)
    case, sure = 'exact posterior of one star', near > 0.5
    off = np.abs(probability - near)
    bench.add(
        case,
        'probability of the best row, mean distance from the exact one',
        off.mean(),
        off.std() / len(off) ** 0.5,
        n=len(off),
        target=PROBABILITY_TARGET,
    )
    for quantity, ratio in (
        (
            'flux error over the exact one, median (exact probability > 0.5)',
            own_flux / flux,
        ),
        ('position error over the exact one, median', own_x / x),
    ):
        value = median_with_error(ratio[sure])
        bench.add(case, quantity, value, n=int(sure.sum()), target=EXACT_TARGET)


def main(arguments=None):
    bench = Benchmark('calibration', __doc__.strip(), n_images=1000, weights='stars')
    bench.option('--depths', type=int, nargs='+', default=[1, 5, 25])
    arguments = bench.start(arguments)
    n_images, encoder = 12 if arguments.quick else arguments.n_images, bench.encoder
    for depth in arguments.depths[:1] if arguments.quick else arguments.depths:
        add_flux_errors(bench, encoder, depth, n_images)
        add_counts(bench, encoder, depth, n_images)
    add_exact(bench, encoder, n_images)
    bench.finish()


if __name__ == '__main__':
    main()
