# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulate a single exposure and a deep coadd of the same prior.

Prints what each says of its noise beside what its pixels have, and who could be
seen in it. It runs in seconds, and needs no input:

    python simulate_coadd.py --depth 25 --plot coadd.png
"""

import argparse

import numpy as np

from bliss_astro.metrics import optimal_snr
from bliss_astro.simulation import CoaddSimulator


def measured_noise(coadd, truth):
    """
    Robust scatter and lag-one correlation of the pixels far from stars.
    """
    image = coadd.data - np.asarray(coadd.background)
    yy, xx = np.indices(image.shape)
    for x, y in zip(truth['x_centroid'], truth['y_centroid'], strict=True):
        image[np.hypot(xx - x, yy - y) < 14] = np.nan
    scatter = 1.4826 * np.nanmedian(np.abs(image - np.nanmedian(image)))
    centred = image - np.nanmean(image)
    correlation = np.nanmean(centred[:, 1:] * centred[:, :-1]) / np.nanvar(image)
    return scatter, correlation


def report(name, coadd, truth):
    """
    Print a few lines about one image.
    """
    scatter, correlation = measured_noise(coadd, truth)
    snr = optimal_snr(
        coadd.psf_at(0, 0),
        truth['flux'].value,
        bkg_error=float(coadd.bkg_error),
        effective_gain=float(coadd.effective_gain),
        noise_correlation=coadd.noise_correlation,
    )
    print(name)
    print(
        f'  noise       {float(coadd.bkg_error):6.2f} stated, {scatter:6.2f} measured'
    )
    stated = coadd.noise_correlation[0]
    print(f'  correlation {stated:6.2f} stated, {correlation:6.2f} measured')
    print(f'  FWHM        {coadd.psf_at(0, 0).fwhm:6.2f} px')
    print(f'  {len(truth)} stars, {np.sum(snr > 5)} of them above 5 sigma')


def draw(images, name):
    """
    Plot the images side by side, with their stars.
    """
    import matplotlib as mpl

    mpl.use('agg')
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(images), layout='constrained', figsize=(10, 5))
    for ax, (title, coadd, truth) in zip(axes, images, strict=True):
        level = float(coadd.bkg_error)
        sky = float(coadd.background)
        ax.imshow(
            coadd.data, origin='lower', cmap='gray_r', vmin=sky - level,
            vmax=sky + 8 * level,
        )  # fmt: skip
        ax.plot(
            truth['x_centroid'], truth['y_centroid'], 'o', mfc='none', mec='C3', ms=12
        )
        ax.set_title(title)
    fig.savefig(name, dpi=120)


def main(args=None):
    """
    Simulate, compare, and perhaps plot.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0].strip())
    parser.add_argument('--depth', type=int, default=10, help='exposures of the coadd')
    parser.add_argument('--plot', help='write a picture to this file')
    parser.add_argument('--seed', type=int, default=4)
    options = parser.parse_args(args)

    images = []
    for depth in (1, options.depth):
        simulator = CoaddSimulator(depth, shape=(128, 128))
        # One seed: the stars are the same, as they are drawn first.
        coadd, truth = simulator.sample(rng=options.seed)
        title = 'one exposure' if depth == 1 else f'coadd of {depth} exposures'
        report(title, coadd, truth)
        images.append((title, coadd, truth))
    if options.plot:
        draw(images, options.plot)


if __name__ == '__main__':
    main()
