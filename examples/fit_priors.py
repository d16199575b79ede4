# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit priors to catalogues and fields
===================================

Fit the prior of stars and galaxies to a catalogue, and look at it.

Without a catalogue it makes one up. It runs in seconds::

    python fit_priors.py --plot prior.png
    python fit_priors.py coadd_for_*.fit --output mine.json

Tables have the columns of ``CatalogPrior.fit``, or those of the SDSS stripe 82
coadd catalogue.
"""

import argparse

import numpy as np
from astropy.table import Table

from bliss_astro.priors import CatalogPrior
from bliss_astro.surveys.sdss import stripe82_columns
from bliss_astro.units import SDSS_PIXEL_SCALE as PIXEL_SCALE
from bliss_astro.units import flux_to_magnitude, magnitude_to_flux


def made_up(side=5000):
    """
    A catalogue of the prior of the sky itself.
    """
    table = CatalogPrior.sky().sample((side, side), flux_min=0.5, rng=1)
    table.meta['area'] = (side * PIXEL_SCALE / 3600) ** 2
    return Table(table)


def read(names):
    """
    The catalogues of some files, as one with the columns of the fit.
    """
    tables = [Table.read(name) for name in names]
    if 'psfmag_r' in tables[0].colnames:
        return stripe82_columns(tables)
    if len(tables) > 1:
        msg = 'give one table (or several of stripe 82)'
        raise SystemExit(msg)
    return tables[0]


def magnitudes(table):
    """
    AB magnitudes of a catalogue.
    """
    if 'magnitude' in table.colnames:
        return np.array(table['magnitude'])
    return flux_to_magnitude(np.array(table['flux']))


def sizes(table):
    """
    Half-light radii in arcsec of the galaxies of a catalogue.
    """
    if 'radius' in table.colnames:
        return np.array(table['radius'])
    share = np.array(table['disk_fraction'])
    disk, bulge = (
        np.nan_to_num(np.log(np.array(table[f'{part}_radius'], dtype=float)))
        for part in ('disk', 'bulge')
    )
    return np.exp(share * disk + (1 - share) * bulge)


def draw(table, drawn, area, name):
    """
    Plot counts and sizes of the catalogue (points) and of the prior (lines).
    """
    import matplotlib as mpl

    mpl.use('agg')
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    edges = np.arange(14, 25.1, 0.5)
    middle = 0.5 * (edges[1:] + edges[:-1])
    for kind, color, label in ((False, 'C0', 'stars'), (True, 'C1', 'galaxies')):
        for values, sky, style in (
            (table, table.meta['area'], 'o'),
            (drawn, area, '-'),
        ):
            pick = np.array(values['is_galaxy'], dtype=bool) == kind
            number, _ = np.histogram(magnitudes(values)[pick], edges)
            density = np.where(number > 0, number / sky / 0.5, np.nan)
            axes[0].plot(middle, density, style, color=color, ms=4,
                         label=label if style == '-' else None)  # fmt: skip
    axes[0].set(yscale='log', xlabel='magnitude', ylabel='per deg$^2$ and magnitude')
    axes[0].legend()
    for values, style, size in ((drawn, ',', 1), (table, 'k.', 3)):
        axes[1].plot(magnitudes(values), sizes(values), style, ms=size)
    axes[1].set(yscale='log', xlabel='magnitude', ylabel='half-light radius, arcsec')
    axes[1].set(xlim=(14, 25), ylim=(0.08, 20))
    fig.savefig(name, dpi=120)


def main(args=None):
    """
    Fit, report, and perhaps save and plot.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0].strip())
    parser.add_argument('table', nargs='*', help='catalogues, in any format of astropy')
    parser.add_argument('--complete-to', type=float, default=22.0)
    parser.add_argument('--output', help='write the prior to this JSON file')
    parser.add_argument('--plot', help='write a picture to this file')
    options = parser.parse_args(args)

    table = read(options.table) if options.table else made_up()
    prior = CatalogPrior.fit(table, complete_to=options.complete_to)
    print('   mag   stars galaxies   (brighter, per square degree)')
    for mag in range(16, 25):
        flux = magnitude_to_flux(mag)
        density = (prior.star_density(flux), prior.galaxy_density(flux))
        stars, galaxies = (d * (3600 / PIXEL_SCALE) ** 2 for d in density)
        print(f'  {mag:4d} {stars:7.0f} {galaxies:8.0f}')
    if options.output:
        prior.save(options.output, overwrite=True)
    if options.plot:
        side = 4000
        drawn = prior.sample((side, side), rng=2)
        draw(table, drawn, (side * PIXEL_SCALE / 3600) ** 2, options.plot)


if __name__ == '__main__':
    main()
