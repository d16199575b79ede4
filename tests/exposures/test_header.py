# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Header cards and units: used where sound, named in a warning where not.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, NDData
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro.exposures import Exposure
from bliss_astro.exposures._fits_image import trim_section
from bliss_astro.exposures._header import HeaderCards, parse_unit
from bliss_astro.exposures._validate import portable_unit


def cards(header, unit=u.adu, data=None):
    data = np.full((8, 8), 100.0) if data is None else data
    return HeaderCards(header, data, unit)


@pytest.mark.parametrize(
    ('header', 'unit', 'gain'),
    [
        ({'GAIN': 2.5}, u.adu, 2.5),
        ({'GAIN': 2.5}, u.ct, 2.5),
        ({'EGAIN': '1.7 / e- per ADU'}, u.DN, 1.7),
        ({'GAIN': 2.5}, None, 2.5),
        ({'GAIN': 0.0, 'EGAIN': 2.0}, u.adu, None),
        # Electrons have their gain behind them, rates need the time.
        ({'GAIN': 2.5}, u.electron, 1.0),
        ({'GAIN': 2.5, 'EXPTIME': 60}, u.electron / u.s, 60.0),
        ({'GAIN': 2.5, 'EXPTIME': 60}, u.adu / u.s, 150.0),
        ({'GAIN': 2.5}, u.adu / u.s, None),
        ({'EXPTIME': 0.0}, u.electron / u.s, None),
        # Of a calibrated image the gain of the camera is not that of the data.
        ({'GAIN': 2.5}, u.Jy, None),
        ({'EFFGAIN': 3e7, 'GAIN': 2.5}, u.Jy, 3e7),
    ],
)
def test_gain(header, unit, gain):
    assert cards(header, unit).known.get('effective_gain') == gain


@pytest.mark.parametrize(
    ('value', 'reason'),
    [
        (0, 'not positive'),
        (-1.0, 'not positive'),
        (np.nan, 'not finite'),
        (np.inf, 'not finite'),
        ('unknown', 'no number'),
        (True, 'no number'),
        (50.0, 'below most of the image'),
    ],
)
def test_placeholders_are_named(value, reason):
    found = cards({'SATURATE': value})
    assert found.known == {}
    assert len(found.ignored) == 1
    assert found.ignored[0].startswith('SATURATE = ')
    assert reason in found.ignored[0]


def test_sound_cards_and_their_sources():
    header = fits.Header()
    header['SATURATE'] = '60000. / ADU, of the amplifier'
    header['READNOIS'] = 3.5
    header['MAGZPT'] = 25.1
    header['EXPTIME'] = 30
    header['FILTER'] = 'r'
    found = cards(header)
    assert found.known == {'saturation': 6e4, 'read_noise': 3.5}
    assert found.sources['saturation'] == 'header: SATURATE'
    assert found.meta == {'exposure_time': 30, 'zero_point': 25.1, 'band': 'r'}
    assert found.ignored == []


def test_blank_cards_say_nothing():
    header = fits.Header()
    header['GAIN'] = None
    header['SATURATE'] = '  '
    assert cards(header).known == {}
    assert cards(header).ignored == []


@pytest.mark.parametrize(
    ('value', 'n_exposures', 'ignored'),
    [
        (5, 5, []),
        (5.0, 5, []),
        (4.5, None, ['NCOMBINE = 4.5 (not a whole number)']),
        (0, None, ['NCOMBINE = 0 (not positive)']),
    ],
)
def test_numbers_of_exposures(value, n_exposures, ignored):
    found = cards({'NCOMBINE': value})
    assert found.meta.get('n_exposures') == n_exposures
    assert found.ignored == ignored


@pytest.mark.parametrize('name', ['SKY', 'BUNIT', 'TRIMSEC', 'FILTER', 'GAIN'])
def test_damaged_cards_are_left_out(name):
    header = fits.Header({'BKGLEVEL': None, 'SKYLEVEL': None})
    header.append(fits.Card.fromstring(f'{name:8}= 12.3.4 nonsense'))
    image = np.random.default_rng(2).normal(50, 3, (64, 64))
    hdus = fits.HDUList([fits.PrimaryHDU(image, header)])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', AstropyUserWarning)
        exposure = Exposure.read(hdus)
        assert exposure.unit is None
        with pytest.raises(ValueError, match='the header has none of'):
            Exposure.read(hdus, background='header')


@pytest.mark.parametrize(
    ('text', 'section'),
    [
        ('[  17: 528,   1: 520]', (slice(0, 520), slice(16, 528))),
        ('[1:536,1:520]', None),
        ('[17:600,1:520]', None),
        ('[528:17,1:520]', None),
        ('all', None),
    ],
)
def test_trimmed_section(text, section):
    assert trim_section({'TRIMSEC': text}, (520, 536))[1] == section


class TestNDData:
    def test_cards_of_a_ccddata(self, rng):
        data = rng.normal(50, 3, (40, 50))
        meta = {'GAIN': 4.0, 'SATURATE': 1000.0, 'RDNOISE': -1, 'OBJECT': 'M2'}
        ccd = CCDData(data, unit='adu', meta=meta)
        with pytest.warns(AstropyUserWarning, match=r'ignored: RDNOISE = -1 \(not pos'):
            exposure = Exposure.from_nddata(ccd, bkg_error=3 * u.adu)
        assert exposure.effective_gain == 4
        assert exposure.saturation == 1000
        assert exposure.read_noise == 0
        assert exposure.meta['OBJECT'] == 'M2'
        assert exposure.meta['estimated'] == {
            'effective_gain': 'header: GAIN',
            'saturation': 'header: SATURATE',
        }

    def test_given_numbers_come_first(self, rng):
        ndd = NDData(rng.normal(50, 3, (40, 50)), meta={'GAIN': 4.0, 'SATURATE': 60})
        exposure = Exposure.from_nddata(
            ndd, bkg_error=3.0, effective_gain=2.0, saturation=5000.0
        )
        assert (exposure.effective_gain, exposure.saturation) == (2, 5000)


def test_a_gain_of_another_unit_is_not_believed():
    # Electrons that were divided by 800, with the camera's card.
    rng = np.random.default_rng(3)
    data = rng.normal(0.0, 0.025, (128, 128))
    hdus = fits.HDUList([fits.PrimaryHDU(data, fits.Header({'GAIN': 4.76}))])
    with pytest.warns(AstropyUserWarning, match=r'GAIN = 4.76 .* is 0\.12 electrons'):
        exposure = Exposure.read(hdus)
    assert exposure.bkg_error * exposure.effective_gain > 20
    # Counted photons have little noise.
    counts = rng.poisson(0.05, (128, 128)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = HeaderCards(fits.Header({'GAIN': 1.0}), counts, u.ct).known
    assert found['effective_gain'] == 1.0


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


def test_units_defined_by_the_user():
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
