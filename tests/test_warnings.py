# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Warnings point to the line of the user, whatever stands between.
"""

import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits, registry
from astropy.table import vstack
from astropy.wcs import WCS

import bliss_astro
from bliss_astro import CoaddSimulator, Exposure, detect_sources
from bliss_astro._arguments import two_digits
from bliss_astro._fits import open_fits


def _image():
    return np.random.default_rng(3).normal(0.0, 1.0, (48, 48))


def _known():
    return {'background': 0.0, 'bkg_error': 1.0, 'effective_gain': 9.0, 'fwhm': 3.0}


@pytest.fixture
def path(tmp_path):
    """
    An image of an unknown unit with a card that cannot be read.
    """
    path = tmp_path / 'image.fits'
    hdu = fits.PrimaryHDU(_image())
    hdu.header['BUNIT'] = 'furlongs of light'
    hdu.writeto(path)
    content = path.read_bytes()
    card = b"BAD     = 'no end".ljust(80)
    path.write_bytes(content.replace(b'END'.ljust(80) * 1, card + b'END'.ljust(80), 1))
    # A card more, a card of blanks less.
    content = path.read_bytes()
    path.write_bytes(content[:2800] + content[2880:])
    return path


def _lines(do):
    """Files and lines that the warnings of a call point to, and its own line."""
    here = inspect.currentframe().f_back.f_lineno
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        do()
    assert caught
    return {(w.filename, w.lineno) for w in caught}, {(__file__, here)}


def test_detect_sources():
    # Axes that are not celestial, and nothing in the image.
    found, here = _lines(lambda: detect_sources(_image(), wcs=WCS(naxis=2), **_known()))
    assert found == here


def test_exposure():
    wcs = WCS(naxis=2)
    given = {'bkg_error': 1.0, 'effective_gain': 9.0, 'wcs': wcs}
    found, here = _lines(lambda: Exposure(_image(), **given))
    assert found == here


def test_files_through_the_registry_of_astropy(path):
    found, here = _lines(lambda: Exposure.read(path))
    assert found == here
    read = registry.compat.default_registry.read
    found, here = _lines(lambda: read(Exposure, path, format='fits'))
    assert found == here


def test_inside_of_a_context_manager(path):
    def open_it():
        with open_fits(path, 'path') as hdus:
            assert 'BAD' not in hdus[0].header

    line = inspect.getsourcelines(open_it)[1] + 1
    found, _ = _lines(open_it)
    assert found == {(__file__, line)}


def test_catalogues(tmp_path):
    exposure, _ = CoaddSimulator(10, shape=(72, 72), margin=6).sample(rng=3)
    catalog = detect_sources(exposure, encoder='stars', check=False)
    found, here = _lines(lambda: catalog.write(tmp_path / 'catalog.ecsv'))
    assert found == here
    other = detect_sources(exposure, encoder='stars', check=False)
    found, here = _lines(lambda: vstack([catalog, other]))
    assert found == here


def test_one_function_warns():
    """
    Levels of the stack that are counted by hand are wrong after the next change.
    """
    root = Path(bliss_astro.__file__).parent
    own = re.compile(r'(?<!>>> )\bwarnings\.warn\(|stacklevel=')
    found = [p.name for p in root.rglob('*.py') if own.search(p.read_text())]
    assert found == ['_warnings.py']


@pytest.mark.parametrize(
    ('value', 'text'), [(0.774, '0.77'), (1.04, '1'), (163.2, '160'), (2.5e4, '25000')]
)
def test_factors_in_messages_have_no_powers_of_ten(value, text):
    assert two_digits(value) == text
