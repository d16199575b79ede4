# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The PSF of an image from its own stars, and stated PSFs held against the stars.

GalSim draws stars of many profiles and widths, integrated over pixels, with as many
galaxies, blends, a saturated star and cosmic rays among them.
"""

import functools
import itertools
import time

import galsim
import numpy as np
from _common import Report, make_parser, share_with_error
from scipy.ndimage import uniform_filter

from bliss_astro import Exposure
from bliss_astro.psf import PSFModel, compare_psf, estimate_psf

# Profile, with the slope or the obscuration of the aperture.
PROFILES = (
    ('gaussian', None),
    ('moffat', 2.5),
    ('moffat', 4.765),
    ('moffat', 20.0),
    ('sdss', None),
)
# Diffraction rings are beyond two Gaussians and a power law: apart from the others.
RINGS = (('airy', 0.0), ('airy', 0.3))
# Full widths at half maximum before pixels, in pixels.
WIDTHS = (1.5, 3.0, 6.0)
N_STARS = (5, 20, 100)
FWHM_TARGET = {5: 0.05, 20: 0.02, 100: 0.01}
AREA_TARGET = {5: 0.10, 20: 0.04, 100: 0.02}
SKY, SNR = 1000.0, (30.0, 500.0)
# Samples per pixel of the drawings, half the side of a star in pixels, and the radius
# within which fluxes are counted.
FINE, HALF, RADIUS = 9, 32, 18.76
SHEAR = (0.02, -0.03)
# Galaxies need not be drawn to the last per cent.
_ROUGH = galsim.GSParams(folding_threshold=0.02, maxk_threshold=0.01)
# Two gauges of the same quantity agree within this factor.
_FACTOR = 1.5


def bare(name, parameter):
    """GalSim's profile of unit FWHM, before pixels."""
    if name == 'gaussian':
        return galsim.Gaussian(fwhm=1.0)
    if name == 'moffat':
        return galsim.Moffat(beta=parameter, fwhm=1.0)
    if name == 'airy':
        airy = galsim.Airy(lam_over_diam=1.0, obscuration=parameter)
        image = airy.drawImage(nx=801, ny=801, scale=0.005, method='no_pixel').array
        return airy.dilate(1 / (0.005 * crossing(image[400, 400:])))
    psf = PSFModel()
    return psf.to_galsim(pixel_scale=1 / psf.fwhm)


def crossing(row):
    """Width at half of the first value of a row, in its steps."""
    k = int(np.argmax(row < 0.5 * row[0]))
    return 2 * (k - 1 + (row[k - 1] - 0.5 * row[0]) / (row[k - 1] - row[k]))


@functools.cache
def drawing(name, parameter, fwhm):
    """Fine image of a star (of the profile over pixels), FWHM, effective area."""
    shape = bare(name, parameter).dilate(fwhm).shear(e1=SHEAR[0], e2=SHEAR[1])
    side = 2 * FINE * (HALF + 1) + 1
    image = shape.drawImage(nx=side, ny=side, scale=1 / FINE, method='no_pixel').array
    # Averaged over pixels in real space: wide wings need huge Fourier transforms.
    image = uniform_filter(image.astype(float), FINE) * FINE**2 / shape.flux
    middle = side // 2
    axis = (np.arange(side) - middle) / FINE
    within = image[np.hypot(*np.meshgrid(axis, axis)) < RADIUS].sum() / FINE**2
    area = within**2 / (np.square(image).sum() / FINE**2)
    widths = [
        crossing(line) for line in (image[middle, middle:], image[middle:, middle])
    ]
    return image, np.sqrt(np.prod(widths)) / FINE, area, shape


def scene(name, parameter, fwhm, n_stars, rng, *, size):
    """Image of counts, with FWHM and effective area of its PSF."""
    fine, true_fwhm, area, shape = drawing(name, parameter, fwhm)
    image = np.zeros((size, size))

    def add(stamp, column, row):
        half = stamp.shape[0] // 2
        y0, x0 = max(0, row - half), max(0, column - half)
        y1, x1 = min(size, row + half + 1), min(size, column + half + 1)
        top, left = row - half, column - half
        image[y0:y1, x0:x1] += stamp[y0 - top : y1 - top, x0 - left : x1 - left]

    def star(flux, x, y):
        column, row = round(x), round(y)
        i, j = round((x - column) * FINE), round((y - row) * FINE)
        first_y, first_x = (len(fine) // 2 - k - FINE * HALF for k in (j, i))
        stamp = fine[first_y::FINE, first_x::FINE]
        add(flux * stamp[: 2 * HALF + 1, : 2 * HALF + 1], column, row)

    def fluxes(n):
        snr = SNR[0] * (SNR[1] / SNR[0]) ** rng.random(n)
        return 0.5 * (snr**2 + np.sqrt(snr**4 + 4 * snr**2 * area * SKY))

    def place():
        return rng.uniform(10, size - 10, 2)

    for flux in fluxes(n_stars):
        star(flux, *place())
    for flux in fluxes(n_stars):
        disk = galsim.Exponential(half_light_radius=fwhm * rng.uniform(0.25, 1.5))
        disk = disk.shear(
            g=min(rng.rayleigh(0.2), 0.7), beta=rng.uniform(0, 180) * galsim.degrees
        )
        seen = galsim.Convolve(shape, disk, gsparams=_ROUGH)
        add(flux * seen.drawImage(nx=65, ny=65, scale=1.0).array, *map(round, place()))
    for flux in fluxes(max(1, n_stars // 10)):
        x, y = place()
        angle, apart = rng.uniform(0, 2 * np.pi), fwhm * rng.uniform(0.5, 2)
        star(flux, x, y)
        other = x + apart * np.cos(angle), y + apart * np.sin(angle)
        star(flux * rng.uniform(0.2, 1), *other)
    bright = 0.5 * SNR[1] ** 2 * (1 + np.sqrt(1 + 4 * area * SKY / SNR[1] ** 2))
    star(30 * bright, *place())
    counts = rng.poisson(np.maximum(image, 0) + SKY).astype(float)
    for _ in range(3):
        column, row = (int(v) for v in place())
        counts[row, column] += rng.uniform(1e3, 1e4)
    # The brightest star is far above the full well.
    return np.minimum(counts, SKY + 8 * bright / area), true_fwhm, area


def exposure_of(counts, psf=None):
    return Exposure(
        counts,
        background=SKY,
        bkg_error=SKY**0.5,
        effective_gain=1.0,
        psf=psf,
    )


def measure(profiles, widths, n_stars, n_images):
    """Rows of relative errors of FWHM and area, stated ones, seconds, stars."""
    rows = []
    for (name, parameter), fwhm, k in itertools.product(
        profiles, widths, range(n_images)
    ):
        rng = np.random.default_rng([n_stars, int(10 * fwhm), len(name), k])
        size = 512 if n_stars > 50 else 300
        counts, true_fwhm, area = scene(name, parameter, fwhm, n_stars, rng, size=size)
        exposure = exposure_of(counts)
        start = time.process_time()
        estimate = estimate_psf(exposure, vary=False)
        seconds = time.process_time() - start
        psf = estimate.psf
        rows.append(
            (
                psf.fwhm / true_fwhm - 1,
                psf.n_eff / area - 1,
                estimate.fwhm_error / psf.fwhm,
                estimate.effective_area_error / psf.n_eff,
                estimate.psf_error,
                seconds,
                estimate.n_stars,
            )
        )
    return np.array(rows)


def warned(factor, n_images, widths):
    """How often a PSF too broad by a factor is told, of how many."""
    n_told = n_all = 0
    for (name, parameter), fwhm, k in itertools.product(
        PROFILES, widths, range(n_images)
    ):
        rng = np.random.default_rng([7, int(10 * fwhm), len(name), k])
        counts, _, _ = scene(name, parameter, fwhm, 20, rng, size=300)
        exposure = exposure_of(counts)
        shape = estimate_psf(exposure, vary=False).psf.shape_vector
        shape[[0, 1, 3]] *= factor
        stated = exposure.replace(psf=PSFModel.from_shape(shape))
        n_told += bool(compare_psf(stated).finding)
        n_all += 1
    return n_told, n_all


def add_errors(report, name, rows, width_target, area_target):
    """Rows of the errors of FWHM and effective area, and of the stated ones."""
    off, area, own_width, own_area, stated = rows.T[:5]
    n = len(rows)
    for what, values, target in (
        ('FWHM', off, width_target),
        ('effective area', area, area_target),
    ):
        rms = np.sqrt(np.mean(values**2))
        limit = {} if target is None else {'target': f'<= {target:g}', 'high': target}
        report.add(
            f'{name}: relative error of the {what}, rms',
            rms,
            rms / np.sqrt(2 * n),
            n=n,
            **limit,
        )
        report.add(
            f'{name}: relative error of the {what}, 90 % below',
            np.quantile(np.abs(values), 0.9),
            n=n,
        )
    limit = {'target': '0.67 to 1.5', 'low': 1 / _FACTOR, 'high': _FACTOR}
    if width_target is None:
        limit = {'target': '<= 1.5', 'high': _FACTOR}
    for what, pulls in (('FWHM', off / own_width), ('effective area', area / own_area)):
        pull = np.sqrt(np.mean(pulls**2))
        report.add(
            f'{name}: error of the {what} over the stated one, rms',
            pull,
            pull / np.sqrt(2 * n),
            n=n,
            **limit,
        )
    # psf_error has to cover both.
    larger = np.maximum(np.abs(off), np.abs(area) / 2) / stated
    report.add(
        f"{name}: larger of both (half of the area's) below 2 psf_error",
        *share_with_error(int(np.sum(larger < 2)), n),
        target='>= 0.9',
        low=0.9,
        n=n,
    )
    report.add(f'{name}: psf_error, median', np.median(stated), n=n)


def main():
    parser = make_parser(__doc__, n_images=4)
    arguments = parser.parse_args()
    n_images, widths, n_stars = arguments.n_images, WIDTHS, N_STARS
    if arguments.quick:
        n_images, widths, n_stars = 1, WIDTHS[:2], N_STARS[:2]
    report = Report('psf_estimate', 'PSFs measured on the image itself', arguments)
    for n in n_stars:
        rows = measure(
            PROFILES, widths, n, n_images if n < 50 else max(1, n_images // 4)
        )
        add_errors(report, f'{n} stars', rows, FWHM_TARGET[n], AREA_TARGET[n])
        seconds, used = rows.T[-2:]
        report.add(f'{n} stars: used', np.median(used), n=len(used))
        report.add(
            f'{n} stars: CPU seconds, most', seconds.max(), target='<= 1', high=1.0
        )
        report.show()
    rings = measure(RINGS, widths, 20, n_images)
    add_errors(report, '20 stars, Airy patterns', rings, None, None)
    for factor in (1 / 1.3, 1 / 1.1, 1.0, 1.1, 1.3):
        told, n = warned(factor, max(1, n_images // 2), widths)
        wrong = factor != 1
        report.add(
            f'stated PSF {factor:.2f} times as wide: share warned',
            *share_with_error(told, n),
            target='>= 0.95' if wrong else '<= 0.05',
            low=0.95 if wrong else None,
            high=None if wrong else 0.05,
            n=n,
        )
    report.finish()


if __name__ == '__main__':
    main()
