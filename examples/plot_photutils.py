# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSF photometry with photutils on stars of bliss_astro
=====================================================

Three ways on one simulated image: photutils' DAOStarFinder,
`~bliss_astro.detection.BlissFinder`, and the probabilistic catalogue as first
guesses.
"""

import warnings

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from photutils.detection import DAOStarFinder
from photutils.psf import PSFPhotometry, SourceGrouper

from bliss_astro import BlissFinder, CoaddSimulator, detect_sources
from bliss_astro.metrics import match_catalogs
from bliss_astro.priors import StarPrior

simulator = CoaddSimulator(5, StarPrior(density=0.003), shape=(160, 160), margin=8)
coadd, truth = simulator.sample(rng=2)
image, error = coadd.data - coadd.background, coadd.total_error()


def photometry(finder=None):
    return PSFPhotometry(
        coadd.psf,
        fit_shape=(9, 9),
        finder=finder,
        grouper=SourceGrouper(1.5 * coadd.psf.fwhm),
        aperture_radius=4,
    )


# %%
# photutils hands a finder the image alone: give it the rest once.

bliss = BlissFinder(
    psf=coadd.psf,
    background=0,
    bkg_error=coadd.bkg_error,
    effective_gain=coadd.effective_gain,
)
dao = DAOStarFinder(4 * coadd.bkg_error, coadd.psf.fwhm, min_separation=3)
catalog = detect_sources(coadd, encoder='stars')
with warnings.catch_warnings():
    # Fits that did not converge have flags in the tables.
    warnings.simplefilter('ignore', AstropyUserWarning)
    results = {
        'DAOStarFinder': photometry(dao)(image, error=error),
        'BlissFinder': photometry(bliss)(image, error=error),
        'catalogue as init_params': photometry()(
            image * coadd.unit, error=error * coadd.unit, init_params=catalog
        ),
    }

# %%
# Completeness, purity and errors of the fluxes, beside those of the catalogue itself.


def report(name, x, y, flux):
    x, y, flux = (np.asarray(getattr(v, 'value', v)) for v in (x, y, flux))
    match = match_catalogs((x, y), truth, radius=1.0)
    off = flux[match.estimated_index] / truth['flux'].value[match.truth_index] - 1
    print(
        f'{name:26} completeness {match.recall:.3f}, purity {match.precision:.3f}, '
        f'median flux error {np.median(np.abs(off)):.1%}'
    )


for name, table in results.items():
    table = table[np.asarray(table['flux_fit']) > 0]
    report(name, table['x_fit'], table['y_fit'], table['flux_fit'])
report('catalogue', *(catalog[c] for c in ('x_centroid', 'y_centroid', 'flux')))
