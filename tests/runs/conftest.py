# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Small images of a run.
"""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from bliss_astro import CoaddSimulator
from bliss_astro.runs import find_fields

# What the files do not state: no estimates, which take most of the time.
OPTIONS = {'band': 'r', 'fwhm': 3.7, 'effective_gain': 1.0, 'zero_point': 25.0}
OPTIONS |= {'background': 865.0, 'bkg_error': 29.4}


def _write_images(folder, n):
    """
    Write images of 88 x 88 px, side by side on the sky.
    """
    folder.mkdir()
    simulator = CoaddSimulator(1)
    for k in range(n):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
        wcs.wcs.cdelt = np.array([-0.396, 0.396]) / 3600
        wcs.wcs.crpix = 44.5 - 88 * k, 44.5
        wcs.wcs.crval = 150.0, 20.0
        data = simulator.sample(rng=k)[0].data.astype('float32')
        path = folder / f'image{k:02d}.fits'
        fits.PrimaryHDU(data, wcs.to_header()).writeto(path)
    return folder


@pytest.fixture
def write_images():
    """
    Give the function that writes so many images into a new folder.
    """
    return _write_images


@pytest.fixture
def options():
    """
    Give options that the files of images do not state.
    """
    return OPTIONS


@pytest.fixture
def images(tmp_path):
    """
    Give a folder of four images.
    """
    return _write_images(tmp_path / 'images', 4)


@pytest.fixture
def fields(images):
    """
    Give references to them.
    """
    return find_fields(images, **OPTIONS)
