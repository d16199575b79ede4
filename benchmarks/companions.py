# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Faint rows beside bright sources on real frames, and on which side of them they lie.

A camera's PSF has lobes on one side, and of what its model leaves out a detector makes
companions of bright sources. Rows within 8 px of a source of a signal-to-noise
ratio above 100, and below 5 % of its flux, are counted; true companions lie at
all position angles alike, false ones do not (Rayleigh's test).
"""

import warnings
from pathlib import Path

import numpy as np
from _common import Report, make_parser
from scipy.spatial import cKDTree
from two_epochs import read_epochs

from bliss_astro import detect_sources
from bliss_astro.psf._asymmetry import asymmetry_of_psf

_BRIGHT, _NEAR, _FAINT = 100.0, 8.0, 0.05


def rayleigh(angles):
    """Mean resultant length, mean direction (degrees) and p-value of angles."""
    n = len(angles)
    if n == 0:
        return 0.0, np.nan, 1.0
    total = np.exp(1j * np.asarray(angles)).sum()
    length = abs(total) / n
    z = n * length**2
    # Fisher (1993), Statistical Analysis of Circular Data, eq. 4.17.
    p = np.exp(-z) * (1 + (2 * z - z**2) / (4 * n))
    return length, np.degrees(np.angle(total)), float(np.clip(p, 0, 1))


def photon_snr(catalog, exposure):
    """Signal-to-noise ratio of rows by photons: stated errors hold that of the PSF."""
    flux = np.asarray(getattr(catalog['flux'], 'value', catalog['flux']), float)
    ny, nx = exposure.shape
    area = exposure.psf_at(nx / 2, ny / 2).n_eff
    noise = float(np.median(exposure.bkg_error))
    gain = float(np.median(exposure.effective_gain))
    return flux / np.sqrt(noise**2 * area + flux.clip(0) / gain)


def companions(catalog, snr):
    """
    Companions of bright sources.

    Parameters
    ----------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        Of one frame.

    snr : array
        Of its rows.

    Returns
    -------
    n_bright : int
        Number of bright sources.

    rows : array ``(n, 4)``
        Distance in pixels, position angle in radians, flux over that of the bright
        source, probability.
    """
    x, y = (np.asarray(catalog[f'{axis}_centroid'], float) for axis in 'xy')
    flux = np.asarray(getattr(catalog['flux'], 'value', catalog['flux']), float)
    bright = np.nonzero(snr > _BRIGHT)[0]
    tree = cKDTree(np.c_[x, y])
    rows = []
    for k in bright:
        for j in tree.query_ball_point((x[k], y[k]), _NEAR):
            if j != k and flux[j] < _FAINT * flux[k]:
                dx, dy = x[j] - x[k], y[j] - y[k]
                rows.append(
                    (
                        np.hypot(dx, dy),
                        np.arctan2(dy, dx),
                        flux[j] / flux[k],
                        float(catalog['probability'][j]),
                    )
                )
    return len(bright), np.array(rows).reshape(-1, 4)


def main():
    parser = make_parser(__doc__)
    parser.add_argument('--data', required=True, help='folder of the two epochs')
    parser.add_argument('--encoder', help='name or file')
    arguments = parser.parse_args()
    report = Report('companions', 'Faint rows beside bright sources', arguments)
    total, angles = 0, []
    names = ('4192', '6377')
    for name, exposure in zip(names, read_epochs(Path(arguments.data)), strict=True):
        if arguments.quick:
            exposure = exposure[:500, :700]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            catalog = detect_sources(exposure, encoder=arguments.encoder)
        n_bright, rows = companions(catalog, photon_snr(catalog, exposure))
        image, model = exposure._psf_access.drawn_with_model(700, 700)
        coma = asymmetry_of_psf(image, exposure.psf_at(700, 700).fwhm)
        rest = np.abs(image - model).max() / image.max()
        length, direction, p = rayleigh(rows[:, 1])
        print(f'{name}: {len(catalog)} rows, {n_bright} bright')
        share, error = len(rows) / max(n_bright, 1), (len(rows) + 1) ** 0.5
        report.add(
            f'{name}: companions per bright source',
            share,
            error / max(n_bright, 1),
            target='0.03',
            high=0.03,
            n=n_bright,
        )
        report.add(
            f'{name}: position angles, Rayleigh p',
            p,
            target='0.05',
            low=0.05,
            n=len(rows),
        )
        report.details[name] = {
            'rows': len(catalog),
            'mean_length': length,
            'mean_direction': direction,
            'coma_of_psf': np.hypot(*coma[:2]),
            'largest_residual_of_psf': rest,
            'direction_of_coma': np.degrees(np.arctan2(coma[1], coma[0])),
            'companions': rows,
        }
        print(report.details[name])
        total += n_bright
        angles += rows[:, 1].tolist()
    share = len(angles) / max(total, 1)
    report.add('both: companions per bright source', share, n=total)
    report.add('both: Rayleigh p', rayleigh(angles)[2], n=len(angles))
    report.finish()


if __name__ == '__main__':
    main()
