# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds: stated noise against that of pixels, and detections in coadds of real exposures.

Simulated coadds under random dithers; with ``--data``, two SDSS runs on each other's
grid and on turned ones, and their coadd.
"""

import warnings

import numpy as np
import torch
from astropy.wcs import WCS
from harness import Benchmark, median_with_error, ratio_with_error, share
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree
from two_epochs import read_epochs

from bliss_astro import (
    CoaddSimulator,
    StarPrior,
    align_exposures,
    coadd_exposures,
    detect_sources,
)
from bliss_astro.units import SDSS_PIXEL_SCALE

DEPTHS = (1, 2, 5, 10, 25)
VARIANCE_TARGET, CORRELATION_TARGET = '0.95 to 1.05', '-0.03 to 0.03'
RADIUS, BORDER = 1 / SDSS_PIXEL_SCALE, 12  # pixels: an arcsec, and from the edges
TURN = np.deg2rad(20)


def lag(noise, dy, dx):
    """Mean product of pixels at a lag, image by image."""
    ny, nx = noise.shape[-2:]
    return (noise[..., : ny - dy, : nx - dx] * noise[..., dy:, dx:]).mean((-2, -1))


def add_simulated(bench, depth, n_images):
    """Noise of empty simulated coadds of one depth."""
    simulator = CoaddSimulator(depth, StarPrior(density=0.0))
    generator, parts = torch.Generator().manual_seed(100 + depth), []
    for first in range(0, n_images, 64):
        batch = simulator.sample_batch(min(64, n_images - first), generator=generator)
        noise = (batch.data - batch.background[:, None, None]).double()
        stated = batch.bkg_error**2, batch.correlation[:, 0]
        values = [lag(noise, 0, 0), lag(noise, 0, 1), lag(noise, 1, 1), *stated]
        parts.append(torch.stack(values, 1).double().numpy())
    variance, side, corner, stated, correlation = np.concatenate(parts).T
    sky = np.full_like(variance, simulator.background / depth)
    factor, next_pixel, diagonal = (4 / 9, 1 / 4, 1 / 16) if depth > 1 else (1, 0, 0)
    case = f'simulated, d = {depth}'
    for quantity, value, expected, width in (
        ('variance x d / sky', ratio_with_error(variance, sky), factor, 0.02 * factor),
        ('correlation, next pixel', ratio_with_error(side, variance), next_pixel, 0.01),
        ('correlation, diagonal', ratio_with_error(corner, variance), diagonal, 0.01),
        ('variance / stated', ratio_with_error(variance, stated), 1, 0.02),
    ):
        target = f'{expected - width:.4g} to {expected + width:.4g}'
        bench.add(case, quantity, value, n=n_images, target=target)
    difference = side / variance - correlation
    error = difference.std() / np.sqrt(n_images)
    bench.add(case, 'correlation in x - stated', difference.mean(), error, n=n_images)


def turned(wcs, shape, *, scale=1.0):
    """Grid that is turned by 20 degrees, its pixels wider by a factor."""
    ny, nx = shape
    grid = WCS(naxis=2)
    grid.wcs.ctype = wcs.wcs.ctype
    grid.wcs.crval = wcs.wcs_pix2world([[nx / 2, ny / 2]], 0)[0]
    grid.wcs.crpix = [nx / 2 + 0.5, ny / 2 + 0.5]
    c, s = np.cos(TURN), np.sin(TURN)
    grid.wcs.cd = scale * wcs.pixel_scale_matrix @ np.array([[c, -s], [s, c]])
    return grid


def blank_sky(exposure):
    """Pixels of blank sky, away from sources and bad pixels, over the stated noise."""
    noise = (exposure.data - exposure.background) / exposure.bkg_error
    noise = np.asarray(getattr(noise, 'value', noise), dtype=float)
    bad = exposure.mask | ~np.isfinite(noise)
    source = binary_dilation(np.abs(np.where(bad, 0, noise)) > 4, iterations=6)
    noise[binary_dilation(bad, iterations=2) | source] = np.nan
    return noise - np.nanmedian(noise)


def add_resampled(bench, exposures, quick):
    """Noise of real exposures on other grids."""
    first, second = exposures
    grids = {
        'run 6377 on the grid of 4192, bilinear': (second, first.wcs, first.shape),
        'run 4192 on the grid of 6377, bilinear': (first, second.wcs, second.shape),
        'run 4192, turned by 20 deg, bilinear': (
            first,
            turned(first.wcs, first.shape),
            first.shape,
        ),
        'run 4192, turned, pixels x 1.3, bilinear': (
            first,
            turned(first.wcs, first.shape, scale=1.3),
            first.shape,
        ),
    }
    for case, (exposure, wcs, shape) in list(grids.items())[: 1 if quick else None]:
        own = blank_sky(exposure)
        aligned = align_exposures([exposure], wcs, shape)[0]
        noise = blank_sky(aligned)
        n = int(np.isfinite(noise).sum())
        relative = np.nanvar(noise) / np.nanvar(own)
        error = relative * np.sqrt(4 / max(n, 1))
        quantity = 'variance, measured / stated'
        bench.add(case, quantity, relative, error, n=n, target=VARIANCE_TARGET)
        for name, dy, dx, stated in zip(
            'xy', (0, 1), (1, 0), aligned.noise_correlation, strict=True
        ):
            ny, nx = noise.shape
            product = noise[: ny - dy, : nx - dx] * noise[dy:, dx:]
            measured = np.nanmean(product) / np.nanvar(noise)
            quantity = f'correlation in {name}, measured - stated'
            value = measured - stated, 1.5 / np.sqrt(max(n, 1))
            bench.add(case, quantity, value, n=n, target=CORRELATION_TARGET)


def add_coadd(bench, exposures):
    """Sources of both epochs in their coadd, and its flux errors."""
    coadd = coadd_exposures(exposures, match_background='constant')
    rows = []
    for exposure in (*exposures, coadd):
        with warnings.catch_warnings(action='ignore'):
            catalog = detect_sources(
                exposure, encoder=bench.encoder, progress_bar=False
            )
        place = np.column_stack(coadd.wcs.world_to_pixel(catalog['sky_centroid']))
        flux, error = (
            np.asarray(getattr(catalog[n], 'value', catalog[n]), dtype=float)
            for n in ('flux', 'flux_err')
        )
        rows.append((place, flux, error, np.asarray(catalog['flags']) == 0))
    distance, index = cKDTree(rows[1][0]).query(rows[0][0])
    back = cKDTree(rows[0][0]).query(rows[1][0])[1]
    ny, nx = coadd.shape
    x, y = rows[0][0].T
    both = (distance < RADIUS) & (back[index] == np.arange(len(x)))
    both &= (x > BORDER) & (x < nx - BORDER) & (y > BORDER) & (y < ny - BORDER)
    one, two = np.flatnonzero(both), index[both]
    apart, three = cKDTree(rows[2][0]).query(0.5 * (rows[0][0][one] + rows[1][0][two]))
    found = apart < RADIUS
    quantity = 'sources of both epochs found in the coadd'
    bench.add('two epochs', quantity, share(found), n=len(found), target='>= 0.98')
    own = [rows_of_epoch[found] for rows_of_epoch in (one, two, three)]
    flux, error, clean = ([rows[k][j][own[k]] for k in range(3)] for j in (1, 2, 3))
    combined = (error[0] ** -2.0 + error[1] ** -2.0) ** -0.5
    mean = (flux[0] / error[0] ** 2 + flux[1] / error[1] ** 2) * combined**2
    magnitude = 22.5 - 2.5 * np.log10(np.maximum(flux[2], 1e-9))
    use = np.logical_and.reduce(clean) & (magnitude > 17) & (magnitude < 21.5)
    for quantity, ratio, target in (
        (
            'flux error over that of both epochs combined',
            error[2] / combined,
            '0.9 to 1.1',
        ),
        ('flux over the mean of both epochs', flux[2] / mean, '0.98 to 1.02'),
    ):
        value = median_with_error(ratio[use])
        bench.add('two epochs', quantity, value, n=int(use.sum()), target=target)


def main(arguments=None):
    bench = Benchmark(
        'coadds', __doc__.strip().splitlines()[0], n_images=2000, weights='stars'
    )
    bench.option('--data', help='folder of the two epochs')
    arguments = bench.start(arguments)
    for depth in DEPTHS[:2] if arguments.quick else DEPTHS:
        add_simulated(bench, depth, arguments.n_images)
    if arguments.data:
        exposures = read_epochs(arguments.data)
        if arguments.quick:
            exposures = [exposure[300:600, 300:600] for exposure in exposures]
        add_resampled(bench, exposures, arguments.quick)
        add_coadd(bench, exposures)
    for row in bench.rows:
        if row['case'].startswith(('simulated', 'run')):
            row['benchmark'], row['weights'] = 'coadd_noise', ''
    bench.finish()


if __name__ == '__main__':
    main()
