# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars under PSFs of any telescope, with the true PSF given and with a wrong one.

GalSim draws isolated stars of many profiles and widths, integrated over pixels; the
detector is given an image of the same profile, or of one too broad or narrow.
"""

import itertools
import warnings

import galsim
import numpy as np
from harness import Benchmark, median_with_error, share
from scipy.spatial import cKDTree

from bliss_astro import OutOfDomainWarning, PSFModel, detect_sources

PROFILES = (
    'gaussian',
    'moffat 2.5',
    'moffat 4.8',
    'moffat 20',
    'airy',
    'sdss',
    'double gaussian',
)
WIDTHS = (1.3, 1.8, 2.5, 3.5, 5.0, 7.0)  # FWHM with the pixel, in pixels
WRONG_WIDTHS, FACTORS = (2.5, 3.5), (0.7, 0.9, 1.1, 1.3)
NOISE, GAIN, STAMP_SIDE = 10.0, 5.0, 51
# Fluxes are those within this radius in pixels.
FLUX_RADIUS = 18.76


def profile(name, fwhm):
    """GalSim profile before pixels whose image has a FWHM, by bisection."""
    low, high = 0.05 * fwhm, fwhm
    for _ in range(40):
        middle = 0.5 * (low + high)
        image = galsim.Convolve(before_pixels(name, middle), galsim.Pixel(1.0))
        low, high = (middle, high) if image.calculateFWHM() < fwhm else (low, middle)
    return before_pixels(name, middle)


def before_pixels(name, fwhm):
    """GalSim profile of a FWHM."""
    if name == 'gaussian':
        return galsim.Gaussian(fwhm=fwhm)
    if name.startswith('moffat'):
        return galsim.Moffat(beta=float(name.split()[1]), fwhm=fwhm)
    if name == 'airy':
        return galsim.Airy(lam_over_diam=fwhm / 1.03, obscuration=0.2)
    if name == 'sdss':
        psf = PSFModel()
        return psf.to_galsim(pixel_scale=fwhm / psf.fwhm)
    core, halo = galsim.Gaussian(fwhm=fwhm), galsim.Gaussian(fwhm=2.5 * fwhm)
    return 0.85 * core + 0.15 * halo


def draw(shape, side, x=None, y=None):
    """Image of a star of flux 1."""
    image = galsim.ImageD(side, side, scale=1.0)
    centre = [1 + (side - 1) / 2 if v is None else v + 1 for v in (x, y)]
    shape.drawImage(image, center=galsim.PositionD(*centre), method='auto')
    return image.array


def scene(shape, fwhm, side, rng):
    """Image of isolated stars, their positions, fluxes and signal-to-noise ratios."""
    stamp = draw(shape, 201)
    y, x = np.mgrid[:201, :201] - 100
    within = stamp[np.hypot(x, y) < FLUX_RADIUS].sum()
    step = max(24.0, 5 * fwhm)
    cells = np.arange(step, side - step + 1, step)
    place = np.stack([v.ravel() for v in np.meshgrid(cells, cells)], 1)
    place = place + rng.uniform(-2, 2, place.shape)
    snr = np.exp(rng.uniform(np.log(5), np.log(500), len(place)))
    sky = NOISE**2 * within**2 / (stamp**2).sum()
    flux = snr**2 / (2 * GAIN) * (1 + np.sqrt(1 + 4 * sky * GAIN**2 / snr**2))
    image = np.zeros((side, side))
    for (x, y), light in zip(place, flux / within, strict=True):
        image += light * draw(shape, side, x, y)
    noise = rng.normal(size=image.shape) * np.sqrt(NOISE**2 + image.clip(0) / GAIN)
    return image + noise, place, flux, snr


def measure(sample, psf, encoder, fwhm, **given):
    """Columns of stars: SNR, found, flux ratio, inside; false rows, rows, warned."""
    image, place, flux, snr = sample
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        catalog = detect_sources(
            image,
            encoder=encoder,
            psf=psf,
            background=0.0,
            bkg_error=NOISE,
            effective_gain=GAIN,
            progress_bar=False,
            **given,
        )
    words = [str(w.message) for w in caught if w.category is OutOfDomainWarning]
    warned = any('psf' in text.lower() for text in words)
    rows = np.c_[catalog['x_centroid'], catalog['y_centroid']].astype(float)
    stars = np.full((len(snr), 4), np.nan)
    stars[:, 0], stars[:, 1] = snr, 0
    if len(rows) == 0:
        return stars, 0, 0, warned
    reach = max(1.0, 0.35 * fwhm)
    apart, index = cKDTree(rows).query(place)
    own, error = (
        np.asarray(catalog[c], dtype=float)[index] for c in ('flux', 'flux_err')
    )
    stars[:, 1], stars[:, 2] = apart < reach, own / flux
    stars[:, 3] = np.abs(own - flux) < error
    false = cKDTree(place).query(rows)[0] > reach
    return stars, int(false.sum()), len(rows), warned


def add_given(bench, results):
    """Rows of the true PSF."""
    stars = np.concatenate([r[0] for r in results])
    false, rows = (sum(r[k] for r in results) for k in (1, 2))
    bright = stars[:, 0] > 10
    found = bright & (stars[:, 1] > 0)
    case, n = 'PSF given', int(found.sum())
    bench.add(case, 'recall, SNR > 10', share(stars[bright, 1] > 0), target='>= 0.99')
    value = false / max(rows, 1), (false + 1) ** 0.5 / max(rows, 1)
    bench.add(case, 'false rows', value, n=rows, target='<= 0.02')
    value = median_with_error(stars[found, 2])
    quantity = 'median flux over truth, SNR > 10'
    bench.add(case, quantity, value, n=n, target='0.98 to 1.02')
    value = share(stars[found, 3] > 0)
    bench.add(case, 'coverage of 68 % of flux', value, n=n, target='0.62 to 0.74')


def add_wrong(bench, factor, results):
    """Rows of one wrong width."""
    stars = np.concatenate([r[0] for r in results])
    near = abs(factor - 1) < 0.15
    words = 'broad' if factor > 1 else 'narrow'
    case = f'PSF given {abs(round(100 * (factor - 1)))} % too {words}'
    warned = share(np.array([r[3] for r in results]))
    bench.add(case, 'share warned', warned, target='>= 1')
    bright = stars[:, 0] > 25
    target = '>= 0.97' if near else ''
    bench.add(case, 'recall, SNR > 25', share(stars[bright, 1] > 0), target=target)
    found = bright & (stars[:, 1] > 0)
    target = '0.60 to 0.76' if near else ''
    quantity = 'coverage of 68 % of flux, psf_error given'
    value = share(stars[found, 3] > 0)
    bench.add(case, quantity, value, n=int(found.sum()), target=target)


def main(arguments=None):
    bench = Benchmark(
        'stated_psf', __doc__.strip().splitlines()[0], weights='stars-galaxies'
    )
    bench.option('--side', type=int, default=170, help='side of the images in pixels')
    arguments = bench.start(arguments)
    encoder, given, wrong = bench.encoder, [], {}
    profiles = ('gaussian', 'sdss') if arguments.quick else PROFILES
    widths = (2.5,) if arguments.quick else WIDTHS
    for k, (name, fwhm) in enumerate(itertools.product(profiles, widths)):
        shape = profile(name, fwhm)
        rng = np.random.default_rng([arguments.seed, k])
        sample = scene(shape, fwhm, arguments.side, rng)
        exact = {'psf_error': 0.001, 'background_error': 0.001}
        psf = draw(shape, STAMP_SIDE)
        given.append(measure(sample, psf, encoder, fwhm, **exact))
        for factor in FACTORS if fwhm in WRONG_WIDTHS else ():
            psf = draw(profile(name, factor * fwhm), STAMP_SIDE)
            error = min(abs(factor - 1), 0.15)
            result = measure(sample, psf, encoder, fwhm, psf_error=error)
            wrong.setdefault(factor, []).append(result)
    add_given(bench, given)
    for factor, results in wrong.items():
        add_wrong(bench, factor, results)
    bench.finish()


if __name__ == '__main__':
    main()
