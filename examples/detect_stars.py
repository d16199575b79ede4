# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From an image of stars to a catalogue, a picture and a question answered.

The image is simulated (5 dithered exposures, stacked), so that the truth is known.
It runs in seconds, and needs no input:

    python detect_stars.py --plot stars.png --output stars.fits
"""

import argparse

import numpy as np

from bliss_astro import CoaddSimulator, detect_sources
from bliss_astro.metrics import match_catalogs
from bliss_astro.priors import StarPrior


def report(catalog, truth):
    """
    Print the table, and how well it agrees with the truth.
    """
    catalog.pprint(max_lines=14, max_width=100)
    match = match_catalogs(catalog, truth, radius=1.0)
    found, true = catalog[match.estimated_index], truth[match.truth_index]
    alone = (found['flags'] & 128) == 0
    pull = ((found['flux'] - true['flux']) / found['flux_err'])[alone]
    lower, upper = found.credible_interval('flux', 0.9)
    inside = np.mean((true['flux'] > lower) & (true['flux'] < upper))
    print(
        f'\n{len(truth)} stars, {len(catalog)} detections: recall {match.recall:.3f}, '
        f'precision {match.precision:.3f}'
    )
    print(f'expected false rows: {np.sum(1 - catalog["probability"]):.1f}')
    print(f'true flux within the 90 % interval: {inside:.0%}')
    width = 0.5 * np.subtract(*np.percentile(pull, [84, 16]))
    print(f'flux errors: residuals are {width:.2f} of what the table says')


def count_faint(catalog, truth, *, limit, n_draws, rng):
    """
    Ask the posterior how many stars are fainter than a limit.
    """
    draws = catalog.posterior.sample(n_draws, rng=rng)
    numbers = [np.sum(draw['flux'].value < limit) for draw in draws]
    rows = np.sum(catalog['flux'].value < limit)
    true = np.sum(truth['flux'].value < limit)
    print(
        f'stars fainter than {limit:g} electrons: {np.mean(numbers):.0f} +- '
        f'{np.std(numbers):.0f} from {n_draws} draws, {rows} rows in the table, '
        f'{true} in truth'
    )


def draw(coadd, catalog, truth, name):
    """
    Show detections and truth on the image, and the probability map beside.
    """
    import matplotlib as mpl

    mpl.use('agg')
    import matplotlib.pyplot as plt

    from bliss_astro.plotting import plot_catalog, plot_probability_map

    fig, (left, right) = plt.subplots(1, 2, figsize=(13, 6), layout='constrained')
    plot_catalog(coadd, catalog, truth=truth, ax=left)
    plot_probability_map(catalog.posterior.probability_map, tile_size=4, ax=right)
    right.set_title('Probability of a star, tile by tile')
    fig.savefig(name, dpi=110)
    print(f'wrote {name}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--plot', help='write a picture to this file')
    parser.add_argument('--output', help='write the catalogue to this file')
    parser.add_argument('--seed', type=int, default=3)
    arguments = parser.parse_args()

    sky = StarPrior(density=0.003)
    simulator = CoaddSimulator(5, sky, shape=(160, 160), margin=4)
    coadd, truth = simulator.sample(rng=arguments.seed)
    print(coadd, '\n')
    catalog = detect_sources(
        coadd,
        threshold=0.5,
        encoder='stars',
        flux_min=sky.flux_min * coadd.unit,
        density=sky.density,
    )
    report(catalog, truth)
    count_faint(catalog, truth, limit=1500, n_draws=50, rng=arguments.seed)
    if arguments.output:
        catalog.write(arguments.output, overwrite=True)
        print(f'wrote {arguments.output}, posterior included')
    if arguments.plot:
        draw(coadd, catalog, truth, arguments.plot)


if __name__ == '__main__':
    main()
