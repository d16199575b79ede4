# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit of the colour prior that comes with the package, and its figure.

The files are those of the user guide's page on colours::

    python colour_prior.py FOLDER --output colours-ugrizy.json --plot colours.png

FOLDER has SDSS's ``coadd_for_*.fit`` (catalogues of the stripe 82 coadd) and
``photoObj-*.fits``, and ``stars_med_june2018.fits`` and ``small_cat.fits``, LSST
CatSim catalogues of a square degree.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table, vstack

from bliss_astro.priors import ColourPrior

SDSS = {band: band for band in 'ugriz'}
# Depths of point sources at 5 sigma of the coadd (Annis et al. 2014, ApJ 794, 120).
COADD_DEPTH = np.array([23.9, 25.1, 24.6, 24.1, 22.8])
# Errors of the survey's zero points, and of colours of the same light.
FLOOR = np.array([0.03, 0.015, 0.015, 0.015, 0.02])
# Effective wavelengths of LSST in nm (throughputs v1.9).
LSST = dict(zip('ugrizy', (370.9, 476.7, 619.4, 753.9, 866.8, 973.9), strict=True))


class _Wave:
    def __init__(self, wavelength):
        self.wavelength = wavelength


# Median locus of stars (Covey et al. 2007, AJ 134, 2398, table 1): g - i, u - g, r - i
# and i - z.
LOCUS = np.array(
    [
        (0.20, 1.06, 0.03, -0.02),
        (0.40, 1.07, 0.10, 0.01),
        (0.60, 1.25, 0.16, 0.04),
        (0.80, 1.56, 0.21, 0.08),
        (1.00, 1.90, 0.27, 0.12),
        (1.20, 2.17, 0.32, 0.16),
        (1.40, 2.38, 0.38, 0.20),
        (1.60, 2.53, 0.45, 0.24),
        (1.80, 2.61, 0.54, 0.29),
        (2.00, 2.61, 0.65, 0.35),
        (2.20, 2.61, 0.79, 0.43),
        (2.40, 2.59, 0.98, 0.52),
        (2.60, 2.58, 1.18, 0.62),
        (2.80, 2.62, 1.36, 0.72),
        (3.00, 2.61, 1.52, 0.81),
        (3.20, 2.64, 1.68, 0.90),
        (3.40, 2.50, 1.83, 0.99),
        (3.60, 2.47, 2.01, 1.08),
    ]
)
# Wavelengths of the bands in nm.
WAVES = np.array([358.4, 468.5, 616.8, 748.7, 889.0, 973.9])
# Magnitudes of the panels of the figure.
BRIGHT, FAINT = (17.5, 20.0), (20.0, 22.0)
BANDS = SDSS | {'y': 'y'} | {f'lsst_{name}': _Wave(wave) for name, wave in LSST.items()}


def _table(mag, error, is_galaxy, weight, prefix=''):
    """Columns of the fit, from magnitudes and errors ``(n, F)``."""
    names = [prefix + band for band in 'ugrizy'[: mag.shape[1]]]
    table = Table({f'mag_{name}': mag[:, k] for k, name in enumerate(names)})
    for k, name in enumerate(names):
        table[f'mag_{name}_err'] = error[:, k]
    table['is_galaxy'] = is_galaxy
    table['weight'] = weight
    return table


def _faint(mag, error):
    """Magnitudes and errors where the flux is hardly above its error."""
    unknown = ~(np.isfinite(mag) & (error > 0) & (mag < 32) & (mag > 10))
    return np.where(unknown, np.nan, mag), np.where(unknown, np.nan, error)


def stripe82(folder):
    """PSF magnitudes of the stripe 82 coadd, with errors by its depth."""
    files = sorted(Path(folder).rglob('coadd_for_*.fit'))
    rows = vstack([Table.read(path) for path in files], metadata_conflicts='silent')
    rows = rows[np.unique(rows['objid'], return_index=True)[1]]
    mag = np.stack([np.array(rows[f'psfmag_{b}'], float) for b in 'ugriz'], -1)
    # Flux over its error, the magnitudes being logarithms at any signal.
    snr = 5 * 10 ** (0.4 * (COADD_DEPTH - mag))
    error = np.hypot(FLOOR, 1.086 / np.maximum(snr, 1))
    mag = np.where(snr < 1, COADD_DEPTH + 2.5 * np.log10(5), mag)
    keep = (np.array(rows['is_saturated']) == 0) & (mag[:, 2] < 22.5)
    mag, error = _faint(mag, error)
    is_galaxy = np.array(rows['probpsf']) != 1
    return _table(mag, error, is_galaxy, 1.0)[keep]


def single_exposure(folder):
    """PSF magnitudes of stars and model magnitudes of galaxies of one field."""
    tables = []
    for path in sorted(Path(folder).rglob('photoObj-003900-*.fits')):
        rows = Table.read(path)
        rows = rows[(rows['THING_ID'] != -1) & np.isin(rows['OBJC_TYPE'], (3, 6))]
        is_galaxy = np.array(rows['OBJC_TYPE']) == 3
        mag, error = (
            np.where(is_galaxy[:, None], rows[f'MODELMAG{x}'], rows[f'PSFMAG{x}'])
            for x in ('', 'ERR')
        )
        keep = mag[:, 2] < 21.5
        mag, error = _faint(mag, np.hypot(error, FLOOR))
        tables.append(_table(mag, error, is_galaxy, 1.0)[keep])
    return vstack(tables)


def simulated(folder, rng):
    """LSST CatSim galaxies, of little weight where SDSS has enough."""
    mag = _catsim(folder, 'small_cat', rng)
    weight = np.where(mag[:, 2] > 22.5, 1.0, 0.1)
    error = np.full(mag.shape, 0.02)
    return _table(mag, error, True, weight, prefix='lsst_')


def simulated_stars(folder, rng):
    """LSST CatSim stars with the colours of SDSS at their g - i, and quasars."""
    mag = _catsim(folder, 'stars_med_june2018', rng)
    g, r, i, z, y = mag.T[1:]
    at, colour = g - i, {}
    for name, column in zip(('u-g', 'r-i', 'i-z'), LOCUS.T[1:], strict=True):
        colour[name] = np.interp(at, LOCUS[:, 0], column)
    # Dispersions of the locus, without errors of the measurement.
    near = (at > LOCUS[0, 0]) & (at < LOCUS[-1, 0])
    new_i = r - colour['r-i'] + 0.02 * rng.normal(size=len(r))
    new_g = new_i + at
    new_z = new_i - colour['i-z'] + 0.02 * rng.normal(size=len(r))
    new_u = new_g + colour['u-g'] + 0.09 * rng.normal(size=len(r))
    stars = np.stack([new_u, new_g, r, new_i, new_z, new_z - 0.8 * (z - y)], -1)
    stars = np.where(near[:, None], stars, mag)
    # Power laws of index -0.5 +- 0.33 in frequency (Richards et al. 2001, AJ 121,
    # 2308), with lines; 4 % of the point sources fainter than 18.5 mag.
    r = r[r > 18.5][: int(0.04 * len(r))]
    index = -0.5 + 0.33 * rng.normal(size=len(r))
    waves = np.log10(WAVES / WAVES[2])
    quasars = r[:, None] + 2.5 * index[:, None] * waves
    quasars += 0.12 * rng.normal(size=quasars.shape)
    mag = np.concatenate([stars, quasars])
    table = _table(mag, np.full(mag.shape, 0.01), False, 0.3)
    return table[rng.permutation(len(table))]


def nearby(rng, n=1200):
    """
    Red and blue galaxies of the nearby universe, where the catalogues have few.

    Half each; their colours at a redshift of 0.1 are about those of the two peaks of
    Strateva et al. 2001 (AJ 122, 1861) and Baldry et al. 2004 (ApJ 600, 681).
    """
    r = rng.uniform(13, 18.5, n)
    red = rng.random(n) < 0.5
    along, across = rng.normal(size=n), rng.normal(size=(n, 5))
    # u - g, g - r, r - i, i - z, z - y: means, scatter along and across a sequence.
    means = np.array([(1.2, 0.52, 0.30, 0.18, 0.12), (1.75, 0.88, 0.40, 0.32, 0.20)])
    slopes = np.array([(0.22, 0.14, 0.06, 0.06, 0.04), (0.05, 0.08, 0.03, 0.03, 0.02)])
    scatter = np.array([0.15, 0.04, 0.03, 0.05, 0.05])
    k = red.astype(int)
    u_g, g_r, r_i, i_z, z_y = (
        means[k] + slopes[k] * along[:, None] + scatter * across
    ).T
    i, z = r - r_i, r - r_i - i_z
    mag = np.stack([r + g_r + u_g, r + g_r, r, i, z, z - z_y], -1)
    return _table(mag, np.full(mag.shape, 0.01), True, 0.3)


def _catsim(folder, name, rng, n=6000):
    """Magnitudes ``(n, 6)`` of a catalogue."""
    rows = Table.read(next(Path(folder).rglob(f'{name}.fits')))
    mag = np.stack([np.array(rows[f'{band}_ab'], float) for band in 'ugrizy'], -1)
    mag = mag[(mag[:, 2] > 13) & (mag[:, 2] < 26)]
    return mag[rng.permutation(len(mag))[:n]]


def catalogues(folder):
    """All tables by origin."""
    rng = np.random.default_rng(1)
    return {
        'stripe 82': stripe82(folder),
        'one exposure': single_exposure(folder),
        'LSST stars': simulated_stars(folder, rng),
        'LSST galaxies': simulated(folder, rng),
        'nearby galaxies': nearby(rng),
    }


def plot(prior, tables, path):
    """Samples of the prior over the catalogues, in planes of two colours."""
    import matplotlib.pyplot as plt

    planes = (('u', 'g', 'r'), ('g', 'r', 'i'), ('r', 'i', 'z'))
    groups = [(galaxy, *ends) for galaxy in (False, True) for ends in (BRIGHT, FAINT)]
    figure, axes = plt.subplots(3, 4, figsize=(11, 8), layout='constrained')
    generator = torch.Generator().manual_seed(1)
    for column, (galaxy, low, high) in enumerate(groups):
        n = 3000
        mag = low + (high - low) * torch.rand(n, generator=generator)
        which = torch.full((n,), galaxy)
        drawn = prior.sample(mag, which, list('ugriz'), 2, generator=generator)
        drawn = dict(zip('ugriz', -drawn.numpy().T * 2.5 / np.log(10), strict=True))
        for row, (a, b, c) in enumerate(planes):
            axis = axes[row, column]
            style = {'ls': 'none', 'marker': '.', 'rasterized': True}
            axis.plot(drawn[a] - drawn[b], drawn[b] - drawn[c], ms=1, c='0.6', **style)
            for name, colour in (('stripe 82', 'C0'), ('one exposure', 'C1')):
                table = tables[name]
                own = np.array(table['mag_r'])
                keep = (table['is_galaxy'] == galaxy) & (own > low) & (own < high)
                for band in (a, b, c):
                    keep &= np.array(table[f'mag_{band}_err']) < 0.2
                x, y, z = (np.array(table[f'mag_{k}'])[keep] for k in (a, b, c))
                axis.plot(x - y, y - z, ms=4, c=colour, label=name, **style)
            if a == 'g' and not galaxy:
                g_i, _, r_i, _ = LOCUS.T
                axis.plot(g_i - r_i, r_i, 'k-', lw=1, label='Covey et al. 2007')
            axis.set(xlabel=f'{a} - {b}', ylabel=f'{b} - {c}')
            axis.set(xlim=(-0.8, 4) if row == 0 else (-0.7, 2.2), ylim=(-0.7, 2.2))
        kind = 'galaxies' if galaxy else 'stars'
        axes[0, column].set_title(f'{kind}, r = {low} to {high}')
    axes[1, 0].legend(fontsize=7)
    figure.savefig(path, dpi=90)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('folder')
    parser.add_argument('--output')
    parser.add_argument('--plot')
    options = parser.parse_args()
    tables = catalogues(options.folder)
    prior = ColourPrior.default()
    if options.output:
        prior = ColourPrior.fit(
            vstack([*tables.values()]), bands=BANDS, n_components=10
        )
        prior.save(options.output, overwrite=True)
    if options.plot:
        plot(prior, tables, options.plot)


if __name__ == '__main__':
    main()
