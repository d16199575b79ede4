# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Faint rows beside bright sources on real frames, and their position angles.

A PSF whose model lacks a lobe makes companions of bright sources on one side; true
companions lie at all position angles alike (Rayleigh's test).
"""

import warnings

import numpy as np
from harness import Benchmark
from scipy.spatial import cKDTree
from two_epochs import RUNS, read_epochs

from bliss_astro import detect_sources

BRIGHT_SNR, RADIUS, FLUX_SHARE = 100.0, 8.0, 0.05  # radius in pixels
TARGET, ANGLE_TARGET = '<= 0.03', '>= 0.05'


def rayleigh(angles):
    """P-value of Rayleigh's test (Fisher 1993, eq. 4.17)."""
    n = len(angles)
    if n == 0:
        return 1.0
    z = abs(np.exp(1j * np.asarray(angles)).sum()) ** 2 / n
    return float(np.clip(np.exp(-z) * (1 + (2 * z - z**2) / (4 * n)), 0, 1))


def companions(catalog, exposure):
    """Number of bright sources, and position angles of their companions."""
    flux, x, y = (
        np.asarray(getattr(catalog[n], 'value', catalog[n]), dtype=float)
        for n in ('flux', 'x_centroid', 'y_centroid')
    )
    ny, nx = exposure.shape
    # By photons: stated errors contain that of the PSF.
    noise, area = np.median(exposure.bkg_error), exposure.psf_at(nx / 2, ny / 2).n_eff
    variance = noise**2 * area + flux.clip(0) / np.median(exposure.effective_gain)
    bright = np.flatnonzero(flux / np.sqrt(variance) > BRIGHT_SNR)
    tree, angles = cKDTree(np.c_[x, y]), []
    for k in bright:
        angles += [
            np.arctan2(y[j] - y[k], x[j] - x[k])
            for j in tree.query_ball_point((x[k], y[k]), RADIUS)
            if j != k and flux[j] < FLUX_SHARE * flux[k]
        ]
    return len(bright), angles


def main(arguments=None):
    bench = Benchmark(
        'companions', __doc__.strip().splitlines()[0], weights='stars-galaxies'
    )
    bench.option('--data', required=True, help='folder of the two epochs')
    arguments = bench.start(arguments)
    n_all, all_angles = 0, []
    for (run, _, _), exposure in zip(RUNS, read_epochs(arguments.data), strict=True):
        part = exposure[:500, :700] if arguments.quick else exposure
        with warnings.catch_warnings(action='ignore'):
            catalog = detect_sources(part, encoder=bench.encoder, progress_bar=False)
        n, angles = companions(catalog, part)
        add(bench, f'run {run}', n, angles)
        n_all, all_angles = n_all + n, all_angles + angles
    add(bench, 'both runs', n_all, all_angles)
    bench.finish()


def add(bench, case, n, angles):
    """Rows of one frame."""
    number = len(angles) / max(n, 1), (len(angles) + 1) ** 0.5 / max(n, 1)
    bench.add(case, 'companions per bright source', number, n=n, target=TARGET)
    quantity = 'p-value of the position angles (Rayleigh)'
    bench.add(case, quantity, rayleigh(angles), n=len(angles), target=ANGLE_TARGET)


if __name__ == '__main__':
    main()
