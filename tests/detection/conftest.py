# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
One simulated field, and what is known of it, for all tests of detection.
"""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.wcs import WCS

from bliss_astro import CoaddSimulator
from bliss_astro.detection import detect_sources
from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.priors import CatalogPrior, StarPrior


@pytest.fixture(scope='session')
def encoder():
    """
    The bundled weights, loaded once.
    """
    return Encoder.from_pretrained('stars')


@pytest.fixture(scope='session')
def field():
    """
    A single exposure of a sparse field: (exposure in electrons, truth).
    """
    sky = StarPrior(density=0.002)
    return CoaddSimulator(1, sky, shape=(96, 104), margin=6).sample(rng=7)


@pytest.fixture(scope='session')
def known(field, encoder):
    """
    What is known of the field, as keywords of detect_sources, and the encoder.
    """
    exposure, _ = field
    return {
        'background': exposure.background,
        'bkg_error': exposure.bkg_error,
        'effective_gain': exposure.effective_gain,
        'psf': exposure.psf,
        'density': 0.002,
        'encoder': encoder,
    }


@pytest.fixture(scope='session')
def catalog(field, encoder):
    """
    The catalogue of the field.
    """
    return detect_sources(field[0], encoder=encoder)


@pytest.fixture(scope='session')
def reference(field, known):
    """
    The catalogue of the pixels of the field alone, in single precision.
    """
    data = np.array(field[0].data, dtype=np.float32)
    return detect_sources(data, **known)


@pytest.fixture(scope='session')
def wcs():
    """
    A tangential projection with SDSS's pixels.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crpix = 48.5, 48.5
    wcs.wcs.crval = 323.36, -0.82
    wcs.wcs.cdelt = -1.1e-4, 1.1e-4
    wcs.wcs.cunit = u.deg, u.deg
    return wcs


@pytest.fixture(scope='session')
def same_rows():
    """
    A function that asserts that two tables hold the same numbers.
    """

    def check(a, b, *, rtol=0.0, columns=None):
        assert len(a) == len(b)
        for name in columns or a.colnames:
            if name == 'sky_centroid':
                assert np.all(a[name].separation(b[name]) < 1e-6 * u.arcsec)
                continue
            first, second = (np.asarray(table[name]) for table in (a, b))
            # Positions of a large image have rounding errors of their own.
            np.testing.assert_allclose(first, second, rtol=rtol, atol=10 * rtol)

    return check


@pytest.fixture(scope='session')
def tiny():
    """
    A small encoder in which bands count: random weights throughout.
    """
    torch.manual_seed(3)
    encoder = Encoder(EncoderConfig(width=16, n_blocks=1, stem_width=8, bands=True))
    with torch.no_grad():
        for parameter in encoder.bands.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval().requires_grad_(False)


@pytest.fixture(scope='session')
def of_bands():
    """
    A field in g, r and i, in nmgy; the reference band is r.
    """
    sky = CatalogPrior()
    return CoaddSimulator(4, sky, bands='rgi', shape=(72, 88)).sample(rng=6)[0]
