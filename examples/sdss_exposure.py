# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Read an SDSS exposure
=====================

Read an SDSS field and print the parts of its exposure.

Run it with the files of one field::

    python sdss_exposure.py frame-r-002583-2-0136.fits.bz2 \
        --psfield psField-002583-2-0136.fits --fpm fpM-002583-r2-0136.fits \
        --background measure --cutout 630 730 310 410

"""

import argparse

import numpy as np

from bliss_astro.exposures import Exposure


def read(arguments):
    """
    Read the exposure that the command line asks for.
    """
    exposure = Exposure.from_sdss(
        arguments.frame,
        arguments.psfield,
        fpm=arguments.fpm,
        tsfield=arguments.tsfield,
        photofield=arguments.photofield,
        background=arguments.background,
        noise=arguments.noise,
    )
    if arguments.cutout is not None:
        y0, y1, x0, x1 = arguments.cutout
        exposure = exposure[y0:y1, x0:x1]
    return exposure


def describe(exposure):
    """
    Print what is known of an exposure.
    """
    ny, nx = exposure.shape
    meta = exposure.meta
    print(exposure)
    print(f'field       {meta["run"]}-{meta["camcol"]}-{meta["field"]} {meta["band"]}')
    center = exposure.wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2)
    print(f'centre      {center.to_string("hmsdms", precision=1)}')
    gain = np.median(exposure.maps()['effective_gain'])
    print(f'gain        {gain:.1f} electrons per nmgy (from {meta["gain_source"]})')
    print(f'sky         {meta["background_source"]}')
    print(f'bad pixels  {exposure.mask.sum()}, saturated {exposure.saturated.sum()}')
    residual = (exposure.data - exposure.background) / exposure.bkg_error
    middle, spread = np.percentile(residual[~exposure.mask], [50, 15.87])
    print(f'lower half  of the pixels scatters by {middle - spread:.2f} of bkg_error')
    if exposure.psf is not None:
        for x, y in ((0, 0), (nx - 1, 0), (0, ny - 1), (nx - 1, ny - 1)):
            psf = exposure.psf_at(x, y)
            print(f'PSF         at x = {x:4d}, y = {y:4d}: FWHM {psf.fwhm:.3f} px')


def main(args=None):
    """
    Run the example.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('frame', help='a frame or an fpC file')
    parser.add_argument('--psfield')
    parser.add_argument('--fpm')
    parser.add_argument('--tsfield')
    parser.add_argument('--photofield')
    parser.add_argument('--background', choices=['header', 'measure'])
    parser.add_argument('--noise', choices=['model', 'measure'], default='model')
    parser.add_argument('--cutout', type=int, nargs=4, metavar=('Y0', 'Y1', 'X0', 'X1'))
    describe(read(parser.parse_args(args)))


if __name__ == '__main__':
    main()
