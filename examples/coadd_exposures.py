# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Align three exposures, take their mean, and find the stars in it.

The exposures are simulated, so that the answer is known: one star field in three
pointings, turned against each other, in different seeing, with cosmic rays. It
runs in seconds, and needs no input but the package ``reproject``:

    python coadd_exposures.py --write coadd.fits
"""

import argparse

import astropy.units as u
import numpy as np
from astropy.wcs import WCS

from bliss_astro import Exposure, PSFModel, coadd_exposures, detect_sources
from bliss_astro.exposures import measure_noise

SHAPE = (240, 260)
SKY, GAIN = 0.9, 980.0  # nmgy per pixel, electrons per nmgy
# Shift in pixels, angle in degrees, and width of the PSF of each exposure.
POINTINGS = [(0.0, 0.0, 0.0, 1.3), (3.4, -2.2, 4.0, 1.5), (-1.7, 5.6, -11.0, 1.7)]


def make_wcs(dx, dy, angle):
    """
    Coordinates of a pointing of 0.396 arcsec pixels.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval = 150.0, 2.0
    wcs.wcs.crpix = SHAPE[1] / 2 + dx, SHAPE[0] / 2 + dy
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = 0.396 / 3600 * np.array([[-c, s], [s, c]])
    wcs.array_shape = SHAPE
    return wcs


def expose(stars, pointing, rng):
    """
    Record the stars, given by (x, y, flux) on the first exposure.
    """
    *place, sigma = pointing
    wcs = make_wcs(*place)
    psf = PSFModel(sigma1=sigma, sigma2=2 * sigma, sigmap=1.9 * sigma)
    x, y, flux = stars
    x, y = wcs.all_world2pix(*make_wcs(*POINTINGS[0][:3]).all_pix2world(x, y, 0), 0)
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    signal = sum(
        f * psf(xx - a, yy - b) for a, b, f in zip(x, y, flux, strict=True)
    )  # fmt: skip
    data = signal + rng.normal(0, np.sqrt((SKY + signal) / GAIN))
    for row, column in rng.integers(20, 220, (10, 2)):
        data[row, column : column + 6] += rng.uniform(0.5, 5)
    return Exposure(
        data * u.nmgy,
        bkg_error=np.sqrt(SKY / GAIN) * u.nmgy,
        effective_gain=GAIN,
        psf=psf,
        wcs=wcs,
        meta={'band': 'r'},
    )


def compare(catalog, stars):
    """
    Count the stars that were found, and how far their fluxes are off.
    """
    x, y = (np.asarray(catalog[name]) for name in ('x_centroid', 'y_centroid'))
    found, pulls = 0, []
    for a, b, f in zip(*stars, strict=True):
        distance = np.hypot(x - a, y - b)
        if len(x) and distance.min() < 2:
            row = catalog[int(np.argmin(distance))]
            found += 1
            pulls.append((row['flux'].value - f) / row['flux_err'].value)
    return found, np.array(pulls)


def main(args=None):
    """
    Simulate, coadd, check the noise, and detect.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0].strip())
    parser.add_argument('--write', help='write the coadd to this FITS file')
    parser.add_argument('--seed', type=int, default=4)
    options = parser.parse_args(args)

    rng = np.random.default_rng(options.seed)
    n_stars = 60
    stars = (
        rng.uniform(15, SHAPE[1] - 15, n_stars),
        rng.uniform(15, SHAPE[0] - 15, n_stars),
        10 ** rng.uniform(0.0, 1.7, n_stars),  # 22.5 to 18.2 mag
    )
    exposures = [expose(stars, pointing, rng) for pointing in POINTINGS]
    first = exposures[0]
    coadd = coadd_exposures(
        exposures, sigma_clip=5, wcs_out=first.wcs, shape_out=first.shape
    )
    print(coadd)
    print(f'cosmic rays: {coadd.meta["n_clipped"]} pixels left out')

    noise = measure_noise(coadd.data, coadd.mask)
    ratio = np.std((coadd.data / coadd.bkg_error)[noise.blank])
    print(f'noise of blank sky: {ratio:.3f} of what is stated')
    for axis, one, two in zip(
        'xy', coadd.noise_correlation, noise.noise_correlation, strict=True
    ):
        print(f'correlation {one:.2f} stated, {two:.2f} measured (along {axis})')

    for name, image in (('one exposure', first), ('the coadd', coadd)):
        catalog = detect_sources(image, encoder='stars')
        found, pulls = compare(catalog, stars)
        print(
            f'{name}: {found} of {n_stars} stars among {len(catalog)} sources; fluxes '
            f'off by {np.median(np.abs(pulls)) * 1.48:.2f} of their errors'
        )
    if options.write:
        coadd.write(options.write, overwrite=True)


if __name__ == '__main__':
    main()
