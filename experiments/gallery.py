# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Gallery of blends: image, posterior samples, reconstruction and residual.

Simulated fields of increasing blendedness, chosen by their blendedness alone.
"""

import warnings

import numpy as np
from _networks import STATIC
from harness import Benchmark
from scenes import (
    complete_stars,
    exposure_of,
    generator_of,
    truth_of,
)

from bliss_astro import CoaddSimulator, StarPrior, detect_sources
from bliss_astro.encoders import Encoder
from bliss_astro.plotting import plot_reconstruction
from bliss_astro.simulation import SimulationConfig, SimulationStream

SHAPE, SEED, N_SAMPLES = (48, 48), 20260915, 2
BLENDEDNESS = (0.02, 0.1, 0.2, 0.35, 0.5, 0.7)
# Sources that count: brighter than this, in the middle.
LEAST_SNR, HALF_SIDE = 12.0, 12.0


def draw_galaxies(n):
    """Stars and galaxies, three to ten times as crowded as the prior."""
    config = SimulationConfig(
        population='npe', shape=SHAPE, crowding=(3.0, 10.0), n_exposures=(1, 1)
    )
    return SimulationStream(config).sample_batch(n, generator=generator_of(SEED))


def draw_stars(n):
    """Coadds of ten exposures with 0.01 stars per pixel."""
    simulator = CoaddSimulator(10, StarPrior(density=0.01), shape=SHAPE, margin=2)
    return complete_stars(simulator.sample_batch(n, generator=generator_of(SEED)))


def choose(images):
    """Numbers and blendedness of the images nearest to each aim, none twice."""
    truth = truth_of(images)
    middle = 0.5 * (SHAPE[0] - 1)
    use = (truth['snr'] > LEAST_SNR) & (np.abs(truth['x'] - middle) < HALF_SIDE)
    truth = truth[use & (np.abs(truth['y'] - middle) < HALF_SIDE)]
    left = {}
    for k in np.unique(truth['scene']):
        own = truth[truth['scene'] == k]
        if len(own) > 1:
            left[int(k)] = float(own['blendedness'].max())
    chosen = []
    for aim in BLENDEDNESS[: len(left)]:
        best = min(left, key=lambda k: abs(left[k] - aim))
        chosen.append((best, left.pop(best)))
    return sorted(chosen, key=lambda pair: pair[1])


def draw_figure(columns, path):
    """A column a blend: image, samples, reconstruction, residual."""
    from matplotlib.figure import Figure

    n, names = len(columns), ['image', 'sample 1', 'sample 2']
    names += ['reconstruction', '(image - model) / noise']
    figure = Figure(figsize=(2.0 * n + 0.3, 2.0 * len(names) + 0.4))
    axes = figure.subplots(len(names), n, squeeze=False)
    for own, (value, result) in zip(axes.T, columns, strict=True):
        plot_reconstruction(result, ax=own, colorbar=False, titles=False)
        rows = len(result.catalog)
        own[0].set_title(f'blendedness {value:.2f}\n{rows} rows', fontsize='small')
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize='small')
    figure.subplots_adjust(0.035, 0.005, 0.995, 0.955, 0.03, 0.03)
    figure.savefig(path, dpi=90)


def main(arguments=None):
    bench = Benchmark(
        'gallery',
        __doc__.strip().splitlines()[0],
        n_images=150,
        weights='stars-galaxies',
    )
    arguments = bench.start(arguments)
    n = 8 if arguments.quick else arguments.n_images
    for name, images, encoder in (
        ('blends', draw_galaxies(n), bench.encoder),
        ('stars', draw_stars(n), Encoder.from_pretrained('stars')),
    ):
        columns = []
        for k, value in choose(images):
            exposure = exposure_of(images, k)
            prior = {'density': float(images.density[k])}
            prior['flux_min'] = float(images.flux_min[k]) * exposure.unit
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                catalog = detect_sources(
                    exposure, encoder=encoder, progress_bar=False, check=False, **prior
                )
                result = catalog.reconstruct(n_draws=N_SAMPLES, rng=k)
            columns.append((value, result))
            case, error = (
                f'{name}, blendedness {value:.2f}',
                np.sqrt(2 / result.chi.size),
            )
            chi2 = float(np.nanmean(np.asarray(result.chi) ** 2))
            bench.add(case, 'chi-square per pixel, catalogue', chi2, error)
        if not arguments.quick:
            draw_figure(columns, STATIC / f'gallery_{name}.png')
    bench.finish()


if __name__ == '__main__':
    main()
