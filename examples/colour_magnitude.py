# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From five frames to a colour-magnitude diagram
==============================================

The bands of an SDSS field, detected together: colours of its stars and galaxies, with
error ellipses of joint posterior samples::

    python colour_magnitude.py FOLDER [--part Y0 Y1 X0 X1]

FOLDER has the ``frame-*``, ``psField`` and ``fpM`` files of one field. Without it a
simulated field of stars and galaxies takes its place.
"""

import argparse

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from bliss_astro import CoaddSimulator, detect_sources
from bliss_astro.exposures import ExposureSet
from bliss_astro.plotting import plot_catalog
from bliss_astro.priors import CatalogPrior


def read(folder, part=None):
    """
    The bands of a field on the pixels of r, with the noise that the pixels show.
    """
    if folder is None:
        simulator = CoaddSimulator(
            1, CatalogPrior.sky(), bands='ugriz', shape=(400, 400)
        )
        return simulator.sample(rng=1)[0]
    exposures = ExposureSet.from_sdss(folder, noise='measure')
    if part is not None:
        y0, y1, x0, x1 = part
        exposures = exposures[y0:y1, x0:x1]
    return exposures


def diagram(catalog, colour=('g', 'r'), magnitude='r', *, rng=1):
    """
    Colours and magnitudes of the rows, shape ``(N, 2)``, and their covariances.
    """
    names = list(dict.fromkeys(f'mag_{band}' for band in (*colour, magnitude)))
    drawn = catalog.samples(names, n_samples=500, rng=rng)
    blue, red, r = (
        drawn[f'mag_{band}'].distribution.value for band in (*colour, magnitude)
    )
    points = np.stack([blue - red, r], -1)
    low, middle, high = np.quantile(points, (0.16, 0.5, 0.84), axis=1)
    away = points - middle[:, None]
    # A draw in a hundred or so is of a measurement that went wrong: beyond 4 sigma.
    near = (np.abs(away) < 2 * (high - low)[:, None]).all(-1, keepdims=True)
    away = np.where(near, away, 0.0)
    return middle, away.mT @ away / near.sum(1, keepdims=True)


def ellipses(points, covariance, **options):
    """
    One-sigma ellipses in the units of the axes.
    """
    variances, vectors = np.linalg.eigh(covariance)
    width, height = 2 * np.sqrt(variances.clip(min=0)).T
    angle = np.rad2deg(np.arctan2(vectors[:, 1, 0], vectors[:, 0, 0]))
    return EllipseCollection(
        width, height, angle, offsets=points, units='xy', facecolors='none', **options
    )


def show(exposures, catalog, path, *, side=240, known_to=0.2):
    """
    A corner of the field in colours with its sources, and the diagram.

    The diagram has the rows whose colour is known to so many magnitudes.
    """
    figure = Figure(figsize=(11, 5.4), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    plot_catalog(exposures, catalog, ax=left, bands='irg', radius=5)
    left.set(xlim=(-0.5, side), ylim=(-0.5, side))
    points, covariance = diagram(catalog)
    known = covariance[:, 0, 0] < known_to**2
    galaxy = np.asarray(catalog['galaxy_probability']) > 0.5
    for kind, rows, color in (
        ('star', known & ~galaxy, 'tab:blue'),
        ('galaxy', known & galaxy, 'tab:orange'),
    ):
        style = {'edgecolors': color, 'linewidths': 0.7, 'alpha': 0.6}
        style['offset_transform'] = right.transData
        right.add_collection(ellipses(points[rows], covariance[rows], **style))
        right.plot(*points[rows].T, '.', color=color, ms=3, label=kind)
    right.set(xlabel='g - r (mag)', ylabel='r (mag)', xlim=(-0.5, 2))
    right.invert_yaxis()
    right.legend(loc='upper left')
    figure.savefig(path, dpi=90)


def main():
    """Read, detect, write, show."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[3])
    parser.add_argument('folder', nargs='?', help='folder of the files of one field')
    parser.add_argument('--part', type=int, nargs=4, metavar=('Y0', 'Y1', 'X0', 'X1'))
    parser.add_argument('--encoder', help='weights other than the default')
    parser.add_argument('--picture', default='colour_magnitude.png')
    parser.add_argument('-o', '--output', default='colour_magnitude.fits')
    options = parser.parse_args()

    exposures = read(options.folder, options.part)
    print(exposures)
    catalog = detect_sources(exposures, encoder=options.encoder, progress_bar=True)
    magnitudes = [f'mag_{band}' for band in 'ugriz']
    print(catalog[:8][['galaxy_probability', *magnitudes, 'flags']])
    print(catalog.colors()[:8])

    catalog.write(options.output, overwrite=True)
    show(exposures, catalog, options.picture)
    print(f'wrote {options.output} and {options.picture}')


if __name__ == '__main__':
    main()
