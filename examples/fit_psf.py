# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measure the PSF of an image from its stars, and use it for photometry.

The image is simulated, so that the answer is known: 40 stars and 5 galaxies,
in electrons. It runs in seconds, and needs no input:

    python fit_psf.py --plot psf.png
"""

import argparse

import numpy as np
from astropy.table import Table
from photutils.psf import PSFPhotometry

from bliss_astro.psf import PSFModel

TRUTH = PSFModel(sigma1=1.25, sigma2=2.7, sigmap=2.5, e1=0.06, e2=-0.03)
SKY = 200.0
SIZE = 320


def simulate(rng):
    """
    Draw the image; returns it, the positions (the last 5 galaxies) and fluxes.
    """
    y, x = 24 + 45 * np.indices((7, 7)).reshape(2, -1)[:, :45]
    positions = np.column_stack([x, y]) + rng.uniform(-2, 2, (45, 2))
    fluxes = 10 ** rng.uniform(4, 5.5, 45)
    yy, xx = np.mgrid[:SIZE, :SIZE]
    image = np.zeros((SIZE, SIZE))
    for k, ((x, y), flux) in enumerate(zip(positions, fluxes, strict=True)):
        source = TRUTH.copy()
        source.x_0, source.y_0, source.flux = x, y, flux
        if k >= 40:
            source.sigma1 *= 2
        image += source(xx, yy)
    return (
        image + rng.normal(size=image.shape) * np.sqrt(SKY + image),
        positions,
        fluxes,
    )


def draw(psf, name):
    """
    Plot the radial profile and its relative error.
    """
    import matplotlib as mpl

    mpl.use('agg')
    import matplotlib.pyplot as plt

    radius = np.linspace(0, 18, 200)
    fig, (top, bottom) = plt.subplots(
        2, sharex=True, height_ratios=(3, 1), layout='constrained'
    )
    top.semilogy(radius, TRUTH.radial_profile(radius), label='truth', lw=4, alpha=0.4)
    top.semilogy(radius, psf.radial_profile(radius), 'k--', label='fit to the stars')
    top.set_ylabel('flux per pixel')
    top.legend()
    ratio = psf.radial_profile(radius) / TRUTH.radial_profile(radius)
    bottom.axhline(0, color='0.7')
    bottom.plot(radius, 100 * (ratio - 1), 'k')
    bottom.axvline(12, color='0.7', ls=':')
    bottom.text(12.1, 0, 'edge of the cut-outs', va='bottom', fontsize='small')
    bottom.set_xlabel('radius (pixels)')
    bottom.set_ylabel('error (%)')
    fig.savefig(name, dpi=120)


def main(args=None):
    """
    Simulate, fit, measure, and compare with the truth.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0].strip())
    parser.add_argument('--plot', help='write a plot of the profile to this file')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args(args)

    image, positions, fluxes = simulate(np.random.default_rng(options.seed))
    psf = PSFModel.fit_stars(
        image, np.rint(positions), error=np.sqrt(SKY), effective_gain=1
    )
    used = psf.fit_info['used']
    print(f'{used[:40].sum()} of 40 stars and {used[40:].sum()} of 5 galaxies used')
    print(f'FWHM {psf.fwhm:.3f} px (truth {TRUTH.fwhm:.3f})')
    print(f'e1   {psf.e1.value:+.4f} (truth {TRUTH.e1.value:+.4f})')
    print(f'e2   {psf.e2.value:+.4f} (truth {TRUTH.e2.value:+.4f})')

    start = Table(np.rint(positions[:40]), names=('x', 'y'))
    result = PSFPhotometry(psf, (11, 11), aperture_radius=5)(
        image, error=np.sqrt(SKY + np.maximum(image, 0)), init_params=start
    )
    ratio = np.asarray(result['flux_fit']) / fluxes[:40]
    print(f'flux / truth: median {np.median(ratio):.4f}, scatter {np.std(ratio):.4f}')
    if options.plot:
        draw(psf, options.plot)


if __name__ == '__main__':
    main()
