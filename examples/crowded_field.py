# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogue a crowded part of an SDSS frame
=========================================

A catalogue of a crowded part of an SDSS frame, its background measured on the way::

    python crowded_field.py FRAME PSFIELD --part 620 780 260 440

FRAME is a calibrated frame (``frame-r-*.fits.bz2``), PSFIELD the field's ``psField``.
"""

import argparse
import warnings

import astropy.units as u
import numpy as np
from astropy.stats import SigmaClip
from photutils.background import Background2D, BackgroundBase, MedianBackground

from bliss_astro import Exposure, detect_sources

BOX = 24


class Envelope(BackgroundBase):
    """
    A low percentile of each cell: no pixel of a cluster is free of stars.
    """

    def calc_background(self, data, *, axis=None, masked=False):
        """
        Percentile along axes.
        """
        values = np.ma.filled(np.ma.asarray(data, float), np.nan)
        return np.nanpercentile(values, 5, axis=axis)


def mesh(data, mask, estimator, clip=None):
    """
    A smooth map of an estimator in cells.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = Background2D(
            data, BOX, mask=mask, bkg_estimator=estimator, sigma_clip=clip
        )
    return found.background


def with_background(exposure, level):
    """
    The exposure with a higher background, which has more noise of its own.
    """
    level = np.maximum(level, 0)
    variance = np.square(exposure.bkg_error) + level / exposure.effective_gain
    return exposure.replace(
        background=exposure.background + level, bkg_error=np.sqrt(variance)
    )


def catalog_crowded(image, *, encoder, n_rounds=3, **kwargs):
    """
    Detect, take the stars off, measure what is left, and again.

    Returns the catalogue and the exposure with its background.
    """
    mask = image.mask
    level = mesh(image.data - image.background, mask, Envelope(sigma_clip=None))
    for k in range(n_rounds + 1):
        exposure = with_background(image, level)
        catalog = detect_sources(exposure, encoder=encoder, **kwargs)
        stars = u.Quantity(catalog.render()).value
        left = exposure.data - exposure.background - stars
        print(
            f'{len(catalog)} stars, background {np.median(level):.3f}, '
            f'left over {np.median(left[~mask]):+.4f}'
        )
        if k < n_rounds:
            level = level + mesh(left, mask, MedianBackground(), SigmaClip(3.0))
    return catalog, exposure


def main():
    """Read, detect, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('frame')
    parser.add_argument('psfield')
    parser.add_argument('--part', type=int, nargs=4, metavar=('Y0', 'Y1', 'X0', 'X1'))
    parser.add_argument('--encoder', default='stars-crowded')
    parser.add_argument('-o', '--output', default='crowded_field.fits')
    options = parser.parse_args()

    exposure = Exposure.from_sdss(options.frame, options.psfield)
    if options.part is not None:
        y0, y1, x0, x1 = options.part
        exposure = exposure[y0:y1, x0:x1]
    catalog, _ = catalog_crowded(exposure, encoder=options.encoder)
    full = sum('full_tile' in names for names in catalog.decode_flags())
    posterior = catalog.posterior
    count, error = posterior.expected_counts(), posterior.expected_counts_error()
    print(
        f'{len(catalog)} rows, {full} of them in full tiles; {count:.0f} +- '
        f'{error:.0f} stars above the floor are expected'
    )
    catalog.write(options.output, overwrite=True)


if __name__ == '__main__':
    main()
