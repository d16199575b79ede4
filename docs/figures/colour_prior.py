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


BANDS = SDSS | {f'lsst_{name}': _Wave(wave) for name, wave in LSST.items()}


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
    """LSST CatSim stars and galaxies, of little weight where SDSS has enough."""
    tables = []
    for name, is_galaxy in (('stars_med_june2018', False), ('small_cat', True)):
        rows = Table.read(next(Path(folder).rglob(f'{name}.fits')))
        mag = np.stack([np.array(rows[f'{b}_ab'], float) for b in 'ugrizy'], -1)
        rows = mag[(mag[:, 2] > 13) & (mag[:, 2] < 26)]
        rows = rows[rng.permutation(len(rows))[:6000]]
        weight = np.where(rows[:, 2] > 22.5, 1.0, 0.1 if is_galaxy else 0.05)
        error = np.full(rows.shape, 0.02)
        tables.append(_table(rows, error, is_galaxy, weight, prefix='lsst_'))
    return vstack(tables)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('folder')
    parser.add_argument('--output')
    parser.add_argument('--plot')
    options = parser.parse_args()
    real = vstack([stripe82(options.folder), single_exposure(options.folder)])
    made = simulated(options.folder, np.random.default_rng(1))
    if options.output:
        prior = ColourPrior.fit(vstack([real, made]), bands=BANDS)
        prior.save(options.output, overwrite=True)
    if options.plot:
        prior = ColourPrior.load(options.output) if options.output else None


if __name__ == '__main__':
    main()
