# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Many fields against one: the experiment of Patel et al. (2025).

Networks of one field, of many fields with the image alone, and of many fields with
background and PSF are trained and scored beside the bundled encoder.
"""

import importlib.util
from pathlib import Path

import numpy as np
from _networks import SIZES, STATIC, network
from harness import OURS, Benchmark, bootstrap, read_results

from bliss_astro.encoders import EncoderConfig
from bliss_astro.simulation import SimulationConfig

# The benchmark has the name of this file.
_PATH = Path(__file__).resolve().parents[1] / 'benchmarks' / 'fields.py'
_SPEC = importlib.util.spec_from_file_location('fields_benchmark', _PATH)
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)

# Fields of the training, and inputs of the network.
NETWORKS = {
    'network, single field': ('single', 'image'),
    'network, image only': ('sdss', 'image'),
    'network, background and PSF given': ('sdss', 'all'),
}
DIFFERENCES = (
    ('network, background and PSF given', 'network, single field'),
    ('network, image only', 'network, single field'),
    (OURS, 'network, background and PSF given'),
)


def simulation_of(fields):
    """Configuration of the training simulations."""
    return SimulationConfig(
        population='npe',
        fields=fields,
        n_exposures=(1, 1),
        crowding=(1.0, 1.0),
        sky_error=0.0,
        shape=(80, 80),
        margin=0,
        confined_fraction=0.0,
        bad_pixels=False,
    )


def add_differences(bench, samples, case):
    """Differences of encoders on the same true sources brighter than r = 22."""
    values = {}
    for name, sample in samples.items():
        n = len(sample.truth)
        found = np.asarray(sample.match.is_matched_truth).astype(float)
        right, error = np.full(n, np.nan), np.full(n, np.nan)
        called = np.asarray(sample.found['galaxy_probability'])[sample.rows] > 0.5
        true = np.asarray(sample.truth['is_galaxy'])[sample.partners]
        right[sample.partners] = called == true
        error[sample.partners] = 100 * np.abs(sample.residuals())
        bright = np.asarray(sample.truth['magnitude']) < benchmark.FAINTEST
        values[name] = [v[bright] for v in (found, right, error)]
    for first, second in DIFFERENCES:
        for k, (quantity, unit) in enumerate(
            (('recall, r < 22', ''), ('accuracy, r < 22', ''), ('MAPE, r < 22', '%'))
        ):
            difference = values[first][k] - values[second][k]
            difference = difference[np.isfinite(difference)]
            value = bootstrap(np.mean, difference)
            method = f'{first}, minus {second}'
            bench.add(case, f'{quantity}, difference', value, method=method, unit=unit)


def draw_figure(table):
    """Precision and recall by magnitude."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    table = table[table['benchmark'] == 'fields']
    quantities = ('precision by estimated magnitude', 'recall by true magnitude')
    for axis, quantity in zip(axes, quantities, strict=True):
        for method in (*NETWORKS, OURS):
            rows = table[(table['quantity'] == quantity) & (table['method'] == method)]
            points = sorted(
                (float(row['case'].split()[-1]), row['value'], row['error'])
                for row in rows
                if row['case'].startswith('many fields, r to')
            )
            if points:
                axis.errorbar(*np.transpose(points), marker='.', label=method)
        axis.set(xlabel='r', ylabel=quantity)
    axes[0].legend(fontsize='x-small')
    figure.tight_layout()
    figure.savefig(STATIC / 'fields_detection.png', dpi=130)


def main(arguments=None):
    bench = Benchmark(
        'fields',
        __doc__.strip().splitlines()[0],
        n_images=2000,
        weights='stars-galaxies',
    )
    bench.option('--work', default='field-networks', help='folder of the networks')
    bench.option('--figure', action='store_true', help='draw the figure and end')
    arguments = bench.start(arguments)
    if arguments.figure:
        draw_figure(read_results())
        return
    preset = 'quick' if arguments.quick else 'reduced'
    n_images = 6 if arguments.quick else arguments.n_images
    encoders = {OURS: bench.encoder}
    for name, (fields, inputs) in NETWORKS.items():
        config = EncoderConfig(**SIZES[preset], galaxies=True, conditioning=inputs)
        short = name.replace('network, ', '').replace(' ', '-')
        encoders[name] = network(
            short, config, simulation_of(fields), arguments.work, preset=preset
        )
    for case, single in (('many fields', False), ('single field', True)):
        seed = arguments.seed + 20250918
        samples = benchmark.draw_samples(encoders, n_images, seed, single=single)
        for method, sample in samples.items():
            ours = method == OURS
            benchmark.add_scores(bench, sample, case, method=method, targets=ours)
        add_differences(bench, samples, case)
    bench.finish()


if __name__ == '__main__':
    main()
