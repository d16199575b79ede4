# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds against single exposures: the experiment of Wang et al. (2022).

A network for each depth and order of noise and alignment is trained and scored beside
the bundled encoder of stars, on the same images.
"""

import numpy as np
import torch
from _networks import SIZES, STATIC, network
from astropy.table import vstack
from harness import OURS, Benchmark, median_with_error, quantile_width, read_results
from samples import Sample, run_encoder
from scenes import complete_stars, generator_of, truth_of
from stars_accuracy import magnitude

from bliss_astro import CoaddSimulator, PSFModel
from bliss_astro.encoders import EncoderConfig
from bliss_astro.metrics import optimal_snr
from bliss_astro.simulation import SimulationConfig
from bliss_astro.units import magnitude_to_flux

ORDERS = {'before_alignment': (1, 5, 10, 25, 50, 100), 'after_alignment': (5, 25)}
TRAINED, BATCH = 'trained for this depth', 50
ISOLATED, BLENDED = 10.0, 4.0  # pixels
SKY, ELECTRONS_PER_NMGY = 865.0, 987.31


def simulation_of(depth, order):
    """Configuration of the training simulations."""
    return SimulationConfig(
        n_exposures=(depth, depth),
        noise_order=order,
        background=(SKY, SKY),
        read_noise=(0.0, 0.0),
        density=(0.001875, 0.001875),
        flux_min=622.0,
        psf='paper',
        shape=(64, 64),
        margin=12,
        confined_fraction=0.0,
        bad_pixels=False,
    )


def draw_samples(encoders, depth, order, n_images, seed):
    """Samples of several encoders on the same images."""
    simulator = CoaddSimulator(depth, noise_order=order, tolerance=1e-5)
    found, truth = {name: [] for name in encoders}, []
    for first in range(0, n_images, BATCH):
        generator = generator_of(seed, depth, order == 'before_alignment', first)
        n = min(BATCH, n_images - first)
        images = complete_stars(simulator.sample_batch(n, generator=generator))
        truth.append(truth_of(images, first=first))
        for name, encoder in encoders.items():
            rows = run_encoder(encoder, images, first=first, intervals=False)
            found[name].append(rows)
    truth = vstack(truth)
    return {name: Sample(vstack(rows), truth) for name, rows in found.items()}


def neighbour_distance(truth):
    """Distance of the nearest other star of the same image."""
    x, y, scene = (np.asarray(truth[k]) for k in ('x', 'y', 'scene'))
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    apart[(scene[:, None] != scene) | np.eye(len(x), dtype=bool)] = np.inf
    return apart.min(1, initial=np.inf)


def add_scores(bench, case, sample, method):
    """Rows of one network."""
    true, estimated = (magnitude(t['flux']) for t in (sample.truth, sample.found))
    faint = (true > 22.75) & (true < 23.01)
    apart = neighbour_distance(sample.truth)
    for quantity, value in (
        ('recall, true magnitude 22.75 to 23', sample.recall(faint)),
        ('precision, estimated magnitude > 22.5', sample.precision(estimated > 22.5)),
        ('recall, true magnitude < 21.5', sample.recall(true < 21.5)),
        ('precision, estimated magnitude < 21.5', sample.precision(estimated < 21.5)),
        (
            'recall of isolated stars, magnitude 22.75 to 23',
            sample.recall(faint & (apart > ISOLATED)),
        ),
        (
            'recall of blended stars, magnitude 22.75 to 23',
            sample.recall(faint & (apart < BLENDED)),
        ),
    ):
        bench.add(case, quantity, value, method=method)
    residuals = 100 * sample.residuals()
    for kind, values in (
        ('true', true[sample.partners]),
        ('estimated', estimated[sample.rows]),
    ):
        use = (values > 22.8) & (values < 23.01)
        quantity = f'median flux residual, {kind} magnitude 22.8 to 23'
        value = median_with_error(residuals[use])
        bench.add(case, quantity, value, method=method, unit='%')
    use = (true[sample.partners] > 22) & (true[sample.partners] < 22.5)
    use &= apart[sample.partners] > ISOLATED
    if use.sum() > 4:
        scatter = quantile_width(residuals[use])
        error, quantity = (
            scatter / np.sqrt(2 * use.sum()),
            'flux scatter, magnitude 22 to 22.5',
        )
        bench.add(case, quantity, scatter, error, method=method, unit='%')


def add_optimal_snr(bench):
    """Optimal signal-to-noise ratios of ideal stacks."""
    for depth in ORDERS['before_alignment']:
        for mag in (20, 23):
            flux = ELECTRONS_PER_NMGY * magnitude_to_flux(mag)
            snr = optimal_snr(PSFModel(), flux, bkg_error=SKY**0.5, effective_gain=1.0)
            value, quantity = snr * depth**0.5, f'optimal SNR, magnitude {mag}'
            bench.add(f'd = {depth}', quantity, value, method='ideal stack')


def draw_figure(table):
    """Recall and precision at the faint end by depth."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    table = table[table['benchmark'] == 'coadd_experiment']
    quantities = (
        'recall, true magnitude 22.75 to 23',
        'precision, estimated magnitude > 22.5',
    )
    for axis, quantity in zip(axes, quantities, strict=True):
        for order in ORDERS:
            words = f'noise {order.replace("_", " ")}'
            for method in (TRAINED, OURS):
                points = sorted(
                    (int(row['case'].split(',')[0][4:]), row['value'], row['error'])
                    for row in table[table['quantity'] == quantity]
                    if row['method'] == method
                    and (words in row['case'] or row['case'] == 'd = 1')
                )
                if points:
                    label = f'{method}, {words}'
                    axis.errorbar(*np.transpose(points), marker='o', label=label)
        axis.set(xscale='log', xlabel='exposures', ylabel=quantity)
    axes[1].legend(fontsize='x-small')
    figure.tight_layout()
    figure.savefig(STATIC / 'coadd_experiment.png', dpi=130)


def main(arguments=None):
    bench = Benchmark(
        'coadd_experiment',
        __doc__.strip().splitlines()[0],
        n_images=1000,
        weights='stars',
    )
    bench.option('--work', default='coadd-networks', help='folder of the networks')
    bench.option('--figure', action='store_true', help='draw the figure and end')
    arguments = bench.start(arguments)
    if arguments.figure:
        draw_figure(read_results())
        return
    preset = 'quick' if arguments.quick else 'reduced'
    n_images = 6 if arguments.quick else arguments.n_images
    torch.set_flush_denormal(True)
    for order, depths in ORDERS.items():
        for depth in depths[:1] if arguments.quick else depths:
            name = f'{order.replace("_", "-")}-d{depth}'
            config = EncoderConfig(**SIZES[preset])
            simulation = simulation_of(depth, order)
            trained = network(name, config, simulation, arguments.work, preset=preset)
            encoders = {TRAINED: trained}
            if depth <= 25:
                encoders[OURS] = bench.encoder
            case = f'd = {depth}'
            if depth > 1:
                case += f', noise {order.replace("_", " ")}'
            samples = draw_samples(encoders, depth, order, n_images, arguments.seed)
            for method, sample in samples.items():
                add_scores(bench, case, sample, method)
    add_optimal_snr(bench)
    bench.finish()


if __name__ == '__main__':
    main()
