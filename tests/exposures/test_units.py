# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of units as headers spell them, and of units of one's own.
"""

import astropy.units as u
import numpy as np
import pytest

from bliss_astro.exposures import Exposure
from bliss_astro.exposures._header import parse_unit
from bliss_astro.exposures._validate import portable_unit


@pytest.mark.parametrize(
    ('text', 'unit'),
    [
        ('ADU', u.adu),
        ('DN', u.DN),
        ('counts', u.ct),
        ('COUNTS/SEC', u.ct / u.s),
        ('ELECTRONS', u.electron),
        ('e-', u.electron),
        ('E-/S', u.electron / u.s),
        ('electrons per second', u.electron / u.s),
        ('electron / s / pixel', u.electron / u.s),
        ('nanomaggy', u.nmgy),
        ('Jy/px   / physical unit of the pixels', u.Jy),
        ('MJY/SR', u.MJy / u.sr),
        ('mJy', u.mJy),
        ('10e-6 Jy', u.Unit('10e-6 Jy')),
        ('erg/(s cm2 Hz)', u.erg / u.s / u.cm**2 / u.Hz),
        ('1e-17 erg/s/cm^2/Ang', 1e-17 * u.erg / u.s / u.cm**2 / u.AA),
        ('[Jy/pixel]', u.Jy),
    ],
)
def test_spellings(text, unit):
    assert parse_unit(text) == u.Unit(unit)


def test_no_unit():
    for text in ('', '  ', 'none', 'UNKNOWN', 'unknown / of the archive'):
        assert parse_unit(text) is None
    with pytest.raises(ValueError, match="'parsnip' is no unit"):
        parse_unit('parsnip')


def test_units_of_ones_own():
    hsc = u.def_unit('hscflux', 57.54 * u.nJy)
    for unit in (hsc, hsc / u.s, u.Unit('3.631e-6 Jy'), u.nmgy, u.electron):
        portable = portable_unit(unit)
        assert portable == unit
        assert u.Unit(portable.to_string()) == unit
    exposure = Exposure(np.ones((4, 4)) * hsc, bkg_error=1 * hsc, effective_gain=1)
    assert exposure.unit == hsc
    assert exposure.bkg_error == pytest.approx(1)
    # One that stands for nothing else stays.
    assert portable_unit(u.def_unit('blip')).to_string() == 'blip'


@pytest.mark.parametrize('unit', [u.mag, u.ABmag, u.dex])
def test_logarithms_do_not_add_up(unit):
    with pytest.raises(ValueError, match='data must have a unit that is linear'):
        Exposure(np.ones((4, 4)), bkg_error=1.0, effective_gain=1, unit=unit)
