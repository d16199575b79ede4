# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSF photometry with photutils, on stars that bliss_astro found.

Three ways on one simulated image: photutils' DAOStarFinder, BlissFinder, and the
probabilistic catalogue as first guesses. It runs in seconds, and needs no input:

    python photutils_finder.py
"""

import warnings

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from photutils.detection import DAOStarFinder
from photutils.psf import PSFPhotometry, SourceGrouper

from bliss_astro import BlissFinder, CoaddSimulator, detect_sources
from bliss_astro.metrics import match_catalogs
from bliss_astro.priors import StarPrior


def score(name, result, truth):
    """
    Print what was found, and how far the fitted fluxes are off.
    """
    good = np.isfinite(result['flux_fit']) & (result['flux_fit'] > 0)
    result = result[good]
    match = match_catalogs(
        (np.asarray(result['x_fit']), np.asarray(result['y_fit'])), truth, radius=1.0
    )
    flux = np.asarray(result['flux_fit'])[match.estimated_index]
    true = truth['flux'].value[match.truth_index]
    off = np.median(np.abs(flux / true - 1))
    print(
        f'{name:<32} {len(result):4d} sources, recall {match.recall:.3f}, precision '
        f'{match.precision:.3f}, median flux error {off:.1%}'
    )


def main():
    simulator = CoaddSimulator(5, StarPrior(density=0.003), shape=(160, 160), margin=8)
    coadd, truth = simulator.sample(rng=2)
    image = coadd.data - coadd.background
    error = coadd.total_error()
    print(f'{len(truth)} stars, {coadd}\n')

    def photometry(finder=None):
        return PSFPhotometry(
            coadd.psf,
            fit_shape=(9, 9),
            finder=finder,
            grouper=SourceGrouper(1.5 * coadd.psf.fwhm),
            aperture_radius=4,
        )

    # What photutils does not hand to a finder is told it once.
    bliss = BlissFinder(
        psf=coadd.psf,
        background=0,
        bkg_error=coadd.bkg_error,
        effective_gain=coadd.effective_gain,
    )
    # By default it leaves out neighbours closer than 2.5 FWHM.
    dao = DAOStarFinder(4 * coadd.bkg_error, coadd.psf.fwhm, min_separation=3)
    with warnings.catch_warnings():
        # Fits that did not converge have flags in the tables.
        warnings.simplefilter('ignore', AstropyUserWarning)
        score('DAOStarFinder', photometry(dao)(image, error=error), truth)
        score('BlissFinder', photometry(bliss)(image, error=error), truth)
        catalog = detect_sources(coadd, encoder='stars')
        result = photometry()(
            image * coadd.unit, error=error * coadd.unit, init_params=catalog
        )
        for name in result.colnames:
            result[name] = getattr(result[name], 'value', result[name])
        score('catalogue as init_params', result, truth)
    match = match_catalogs(catalog, truth, radius=1.0)
    off = catalog['flux'][match.estimated_index] / truth['flux'][match.truth_index] - 1
    print(
        f'{"the catalogue itself":<32} {len(catalog):4d} sources, recall '
        f'{match.recall:.3f}, precision {match.precision:.3f}, median flux error '
        f'{np.median(np.abs(off)).value:.1%}'
    )


if __name__ == '__main__':
    main()
