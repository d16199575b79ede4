# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogue an SDSS frame
=======================

From the files of an SDSS field to a catalogue of stars and galaxies::

    python sdss_frame.py FRAME PSFIELD [--tsfield FILE] [--part y0 y1 x0 x1]

FRAME is a calibrated frame (``frame-r-*.fits.bz2``) or a corrected frame (``fpC``),
PSFIELD the field's ``psField`` file.
"""

import argparse

import numpy as np

from bliss_astro import Exposure, detect_sources


def classify(catalog, *, sure=0.9):
    """
    How many stars, how many galaxies, and how many that could be either.
    """
    galaxy = np.asarray(catalog['galaxy_probability'])
    return {
        'star': int((galaxy < 1 - sure).sum()),
        'galaxy': int((galaxy > sure).sum()),
        'unsure': int(((galaxy >= 1 - sure) & (galaxy <= sure)).sum()),
    }


def show(exposure, catalog, path):
    """
    The image with stars and galaxies in two colours, and both against magnitude.
    """
    from matplotlib.figure import Figure

    galaxy = np.asarray(catalog['galaxy_probability'])
    figure = Figure(figsize=(11, 5.2), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    image = (np.asarray(exposure.data) - exposure.background) / exposure.bkg_error
    left.imshow(np.arcsinh(image), origin='lower', cmap='Greys', vmin=-1.5, vmax=5)
    points = left.scatter(
        catalog['x_centroid'],
        catalog['y_centroid'],
        c=galaxy,
        s=28,
        cmap='coolwarm',
        vmin=0,
        vmax=1,
        linewidths=1.2,
        marker='o',
    )
    points.set_facecolor('none')
    points.set_edgecolor(points.cmap(galaxy))
    ny, nx = image.shape
    left.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5))
    left.set(xlabel='x (px)', ylabel='y (px)')
    right.scatter(
        catalog['mag'], galaxy, c=galaxy, s=9, cmap='coolwarm', vmin=0, vmax=1
    )
    right.set(xlabel='r (mag)', ylabel='probability of a galaxy')
    figure.savefig(path, dpi=110)


def main():
    """Read, detect, tell stars from galaxies, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('frame')
    parser.add_argument('psfield')
    for name in ('photofield', 'tsfield', 'fpm'):
        parser.add_argument(f'--{name}', help='further files of the survey')
    parser.add_argument('--part', type=int, nargs=4, metavar=('Y0', 'Y1', 'X0', 'X1'))
    parser.add_argument('--picture', default='sdss_frame.png')
    parser.add_argument('-o', '--output', default='sdss_frame.fits')
    options = parser.parse_args()

    exposure = Exposure.from_sdss(
        options.frame,
        options.psfield,
        photofield=options.photofield,
        tsfield=options.tsfield,
        fpm=options.fpm,
    )
    if options.part is not None:
        y0, y1, x0, x1 = options.part
        exposure = exposure[y0:y1, x0:x1]
    print(exposure)

    catalog = detect_sources(exposure, progress_bar=True)
    print(f'{len(catalog)} sources, {catalog.posterior.expected_counts():.0f} expected')
    print(classify(catalog))
    columns = ['probability', 'galaxy_probability', 'x_centroid', 'y_centroid']
    print(catalog[:8][[*columns, 'mag', 'mag_err', 'flags']])

    # The cut is yours: a pure sample of galaxies, or a complete one.
    pure = catalog[catalog['galaxy_probability'] > 0.95]
    print(f'{len(pure)} galaxies at 95 %, brightest r = {np.nanmin(pure["mag"]):.2f}')

    catalog.write(options.output, overwrite=True)
    show(exposure, catalog, options.picture)
    print(f'wrote {options.output} and {options.picture}')


if __name__ == '__main__':
    main()
