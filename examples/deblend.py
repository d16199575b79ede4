# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Two galaxies and a star that overlap, taken apart.

    python deblend.py [--picture deblending.png] [--encoder NAME]

The blend is simulated, so that each source's own light is known.
"""

import argparse

import numpy as np
import torch

from bliss_astro import Exposure, PSFModel, detect_sources, reconstruct
from bliss_astro.plotting import plot_reconstruction
from bliss_astro.rendering import TorchGalaxyRenderer, TorchStarRenderer

SHAPE, SKY = (64, 64), 865.0
# x, y and flux in electrons; then disk fraction, angle, axis ratios and half-light
# radii (pixels) of disk and bulge. The last one is a star.
SOURCES = (
    (27.3, 33.8, 45000.0, (0.8, 0.5, 0.45, 0.8, 4.5, 2.0)),
    (37.9, 37.2, 22000.0, (0.3, 2.2, 0.6, 0.7, 3.0, 2.0)),
    (33.6, 27.1, 9000.0, None),
)


def simulate(seed):
    """
    The exposure, and the image of each source without noise.
    """
    psf = PSFModel()
    stars, galaxies = TorchStarRenderer(), TorchGalaxyRenderer()
    alone = []
    for x, y, flux, galaxy in SOURCES:
        if galaxy is None:
            alone.append(stars.render(psf, [x], [y], [flux], SHAPE))
        else:
            alone.append(galaxies.render(psf, [x], [y], [flux], [galaxy], SHAPE))
    rng = np.random.default_rng(seed)
    exposure = Exposure(
        rng.poisson(SKY + np.sum(alone, axis=0)).astype(float),
        background=SKY,
        bkg_error=np.sqrt(SKY),
        effective_gain=1.0,
        psf=psf,
        unit='electron',
    )
    return exposure, alone


def nearest_row(catalog, x, y):
    """
    The row nearest to a true place, or `None` if there is none within 2 pixels.
    """
    if len(catalog) == 0:
        return None
    apart = np.hypot(catalog['x_centroid'] - x, catalog['y_centroid'] - y)
    return int(np.argmin(apart)) if apart.min() < 2 else None


def describe(result, alone, size):
    """
    True flux, flux of the catalogue, and what the two ways of cutting out give.
    """
    catalog = result.catalog
    print(f'{len(catalog)} sources found; chi2 / n = {np.nanmean(result.chi**2):.3f}')
    print(f'in cut-outs of {size} x {size} pixels, electrons:')
    print('source    P(galaxy)  true flux   catalogue  own light  all light  its share')
    for k, (x, y, flux, galaxy) in enumerate(SOURCES):
        name = f'{"star" if galaxy is None else "galaxy"} {k + 1}'
        row = nearest_row(catalog, x, y)
        if row is None:
            print(f'{name:9} not found')
            continue
        share = result.deblended(row, size=size)
        part = share.slices
        light = (result.exposure.data - SKY)[part].sum()
        value, error = (catalog[c][row].value for c in ('flux', 'flux_err'))
        print(
            f'{name:9} {catalog["galaxy_probability"][row]:9.3f} {flux:10.0f} '
            f'{value:6.0f} +- {error:<4.0f}{alone[k][part].sum():8.0f} '
            f'{light:10.0f} {share.flux:10.0f}'
        )


def show(result, alone, path, size):
    """
    The blend above; below, each source as it is, and as the data give it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 9.6), layout='constrained')
    axes = figure.subplots(3, 3)
    middle = result[10:54, 10:54]
    plot_reconstruction(middle, ax=axes[0], n_draws=0)
    for k, (x, y, _, galaxy) in enumerate(SOURCES):
        row = nearest_row(result.catalog, x, y)
        for ax in axes[1:, k]:
            ax.set_xticks([])
            ax.set_yticks([])
        name = 'star' if galaxy is None else 'galaxy'
        axes[1, k].set_title(f'{name} {k + 1}: true light', fontsize='medium')
        if row is None:
            axes[2, k].set_title('not found', fontsize='medium')
            continue
        share = result.deblended(row, size=size)
        norm = axes[0, 0].images[0].norm
        style = {'origin': 'lower', 'cmap': 'gray_r', 'norm': norm}
        axes[1, k].imshow(alone[k][share.slices] / np.sqrt(SKY), **style)
        axes[2, k].imshow(share.data / np.sqrt(SKY), **style)
        axes[2, k].set_title('its share of the data', fontsize='medium')
    figure.savefig(path, dpi=100)


def main():
    """Simulate, detect, reconstruct, take apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--picture', help='file to draw')
    parser.add_argument('--encoder', default=None)
    parser.add_argument('--seed', type=int, default=5)
    parser.add_argument('--size', type=int, default=25, help='of cut-outs in pixels')
    options = parser.parse_args()
    torch.set_num_threads(1)

    exposure, alone = simulate(options.seed)
    catalog = detect_sources(exposure, encoder=options.encoder)
    result = reconstruct(exposure, catalog)
    describe(result, alone, options.size)
    if options.picture:
        show(result, alone, options.picture, options.size)


if __name__ == '__main__':
    main()
