# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs estimated from the stars of an image, and given PSFs compared with the stars.

Images have as many galaxies as stars, blends, a saturated star and cosmic rays.
"""

import itertools
import time

import galsim
import numpy as np
from harness import Benchmark, share
from stated_psf import draw, profile

from bliss_astro import Exposure
from bliss_astro.psf import PSFModel, compare_psf, estimate_psf

PROFILES = ('gaussian', 'moffat 2.5', 'moffat 4.8', 'moffat 20', 'sdss')
# Diffraction rings, beyond two Gaussians and a power law, apart from the others.
RINGS = ('airy',)
WIDTHS = (2.0, 3.2, 6.1)  # FWHM with the pixel, in pixels
# Largest relative errors of FWHM and effective area, by number of stars.
TARGETS = {5: (0.05, 0.10), 20: (0.02, 0.04), 100: (0.01, 0.02)}
SKY, SNR, SIDE = 1000.0, (30.0, 500.0), 300
FACTORS = (1 / 1.3, 1 / 1.1, 1.0, 1.1, 1.3)


def simulate(name, fwhm, n_stars, rng):
    """Exposure without PSF, with the FWHM and effective area of the true one."""
    shape = profile(name, fwhm)
    stamp = draw(shape, 201)
    y, x = np.mgrid[:201, :201] - 100
    area = stamp[np.hypot(x, y) < 18.76].sum() ** 2 / (stamp**2).sum()
    image = galsim.ImageD(SIDE, SIDE, scale=1.0)

    def add(profile, flux, place):
        profile = profile.withFlux(flux)
        position = galsim.PositionD(*(v + 1 for v in place))
        profile.drawImage(image, center=position, add_to_image=True)

    def fluxes(n):
        snr = SNR[0] * (SNR[1] / SNR[0]) ** rng.random(n)
        return 0.5 * (snr**2 + np.sqrt(snr**4 + 4 * snr**2 * area * SKY))

    def place():
        return rng.uniform(10, SIDE - 10, 2)

    for flux in fluxes(n_stars):
        add(shape, flux, place())
    rough = galsim.GSParams(folding_threshold=0.02, maxk_threshold=0.01)
    for flux in fluxes(n_stars):
        disk = galsim.Exponential(half_light_radius=fwhm * rng.uniform(0.25, 1.5))
        angle = rng.uniform(0, 180) * galsim.degrees
        disk = disk.shear(g=min(rng.rayleigh(0.2), 0.7), beta=angle)
        add(galsim.Convolve(shape, disk, gsparams=rough), flux, place())
    for flux in fluxes(max(1, n_stars // 10)):
        first, angle = place(), rng.uniform(0, 2 * np.pi)
        step = fwhm * rng.uniform(0.5, 2) * np.array([np.cos(angle), np.sin(angle)])
        add(shape, flux, first)
        add(shape, flux * rng.uniform(0.2, 1), first + step)
    bright = 0.5 * SNR[1] ** 2 * (1 + np.sqrt(1 + 4 * area * SKY / SNR[1] ** 2))
    add(shape, 30 * bright, place())
    counts = rng.poisson(image.array.clip(0) + SKY).astype(float)
    for column, row in rng.integers(10, SIDE - 10, (3, 2)):
        counts[row, column] += rng.uniform(1e3, 1e4)
    # The brightest star is far above the full well.
    counts = np.minimum(counts, SKY + 8 * bright / area)
    exposure = Exposure(counts, background=SKY, bkg_error=SKY**0.5, effective_gain=1.0)
    return exposure, fwhm, area


def measure(profiles, n_stars, n_images):
    """Array of errors of FWHM and area, their estimates, psf_error and CPU time."""
    rows = []
    for k, (name, fwhm, _) in enumerate(
        itertools.product(profiles, WIDTHS, range(n_images))
    ):
        rng = np.random.default_rng([n_stars, k])
        exposure, true_fwhm, area = simulate(name, fwhm, n_stars, rng)
        start = time.process_time()
        found = estimate_psf(exposure, vary=False)
        seconds = time.process_time() - start
        errors = found.psf.fwhm / true_fwhm - 1, found.psf.n_eff / area - 1
        stated = (
            found.fwhm_error / found.psf.fwhm,
            found.effective_area_error / found.psf.n_eff,
        )
        rows.append((*errors, *stated, found.psf_error, seconds))
    return np.array(rows)


def add_errors(bench, case, rows, targets):
    """Rows of the errors of FWHM and effective area, and of the stated ones."""
    fwhm, area, fwhm_error, area_error, stated, seconds = rows.T
    n = len(rows)
    for quantity, values, own, target in (
        ('FWHM', fwhm, fwhm_error, targets[0]),
        ('effective area', area, area_error, targets[1]),
    ):
        for words, value, limit in (
            (f'relative error of the {quantity}, rms', values, target),
            (f'error of the {quantity} over psf_error, rms', values / own, '<= 1.5'),
        ):
            rms = np.sqrt(np.mean(value**2))
            bench.add(case, words, rms, rms / np.sqrt(2 * n), n=n, target=limit)
    # psf_error has to cover both.
    covered = np.maximum(np.abs(fwhm), np.abs(area) / 2) < 2 * stated
    quantity = "larger of both (half of the area's) below 2 psf_error"
    bench.add(case, quantity, share(covered), n=n, target='>= 0.9')
    bench.add(case, 'psf_error, median', np.median(stated), n=n)
    bench.add(case, 'CPU time, longest', seconds.max(), unit='s', target='<= 1')


def share_warned(factor, n_images):
    """Share of given PSFs, too broad by a factor, that disagree with the stars."""
    warned = []
    for k, (name, fwhm, _) in enumerate(
        itertools.product(PROFILES, WIDTHS, range(n_images))
    ):
        exposure, _, _ = simulate(name, fwhm, 20, np.random.default_rng([7, k]))
        shape = estimate_psf(exposure, vary=False).psf.shape_vector
        shape[[0, 1, 3]] *= factor
        given = exposure.replace(psf=PSFModel.from_shape(shape))
        warned.append(bool(compare_psf(given).finding))
    return share(np.array(warned))


def main(arguments=None):
    bench = Benchmark('psf_estimate', __doc__.strip().splitlines()[0], n_images=4)
    arguments = bench.start(arguments)
    n_images = 1 if arguments.quick else arguments.n_images
    for n_stars, limits in list(TARGETS.items())[: 1 if arguments.quick else None]:
        rows = measure(PROFILES[:1] if arguments.quick else PROFILES, n_stars, n_images)
        targets = [f'<= {value:g}' for value in limits]
        add_errors(bench, f'{n_stars} stars', rows, targets)
    if not arguments.quick:
        rows = measure(RINGS, 20, n_images)
        add_errors(bench, '20 stars, Airy patterns', rows, ['', ''])
    for factor in FACTORS[:1] if arguments.quick else FACTORS:
        target = '<= 0.05' if factor == 1 else '>= 0.95'
        case = f'given PSF {factor:.2f} times as wide'
        value = share_warned(factor, max(1, n_images // 2))
        bench.add(case, 'share warned', value, target=target)
    bench.finish()


if __name__ == '__main__':
    main()
