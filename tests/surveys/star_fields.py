# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of a few stars of known magnitude, for files in the formats of surveys.
"""

import numpy as np
from astropy.io import fits
from scipy.ndimage import gaussian_filter

SHAPE = (96, 120)
SIGMA = 1.8
# Columns, rows and AB magnitudes of the stars.
STARS = [(30, 24, 18.0), (90, 30, 18.7), (32, 70, 19.4), (88, 72, 19.0)]


def light(bands=1.0):
    """
    Flux of the stars in nJy per pixel.
    """
    y, x = np.indices(SHAPE)
    total = np.zeros(SHAPE)
    for x0, y0, mag in STARS:
        profile = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 2 / SIGMA**2)
        total += bands * 10 ** (0.4 * (31.4 - mag)) * profile / profile.sum()
    return total


def noise(seed, smoothing=0.0):
    """
    Noise of standard deviation 1, of which a kernel made neighbours alike.
    """
    values = np.random.default_rng(seed).normal(size=SHAPE)
    if smoothing:
        values = gaussian_filter(values, smoothing, mode='wrap')
    return values / values.std()


def wcs_cards(scale, angle=0.0):
    """
    Header of a tangential projection with pixels of ``scale`` arcsec, turned.
    """
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    step = scale / 3600
    cards = {'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CRVAL1': 150, 'CRVAL2': 2}
    cards |= {'CRPIX1': 60.5, 'CRPIX2': 48.5, 'CUNIT1': 'deg', 'CUNIT2': 'deg'}
    cards |= {'CD1_1': -step * cosine, 'CD1_2': step * sine}
    return fits.Header(cards | {'CD2_1': step * sine, 'CD2_2': step * cosine})


def magnitudes(exposure, half=8):
    """
    AB magnitudes of the stars by sums over squares, of an exposure in nmgy.
    """
    data = exposure.data - exposure.background
    parts = [
        data[y - half : y + half + 1, x - half : x + half + 1] for x, y, _ in STARS
    ]
    return 22.5 - 2.5 * np.log10([part.sum() for part in parts])


def sky_scatter(exposure):
    """
    Robust scatter of the pixels without stars over the noise of an exposure.
    """
    pull = (exposure.data - exposure.background) / exposure.bkg_error
    pull = pull[(light() < 1e-3 * light().max()) & ~exposure.mask]
    return 1.4826 * np.median(np.abs(pull - np.median(pull)))
