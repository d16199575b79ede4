# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of columns of the user's own in files, and of units.
"""

import gzip
import io

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import CartesianRepresentation, Longitude, SkyCoord
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table, join
from astropy.time import Time, TimeDelta
from astropy.utils.masked import Masked
from numpy.testing import assert_array_equal

from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.catalog._io import _is_same

N = 8
MASK = np.arange(N) % 3 == 0
NUMBERS = np.arange(N) / 7
HSC = u.def_unit('hscflux', 57.54 * u.nJy)


def _masked_time():
    time = Time(59000 + NUMBERS, format='mjd')
    time[MASK] = np.ma.masked
    return time


COLUMNS = {
    'mjd': lambda: Time(59000 + NUMBERS, format='mjd', scale='tdb'),
    'iso': lambda: Time(['2020-01-01'] * N, scale='utc'),
    'masked time': _masked_time,
    'duration': lambda: TimeDelta(NUMBERS * u.s),
    'sky': lambda: SkyCoord(NUMBERS * u.deg, NUMBERS * u.deg, frame='fk5'),
    'distance': lambda: SkyCoord(
        l=NUMBERS * u.deg,
        b=NUMBERS * u.deg,
        distance=(NUMBERS + 1) * u.pc,
        frame='galactic',
    ),
    'motion': lambda: SkyCoord(
        NUMBERS * u.deg,
        NUMBERS * u.deg,
        pm_ra_cosdec=NUMBERS * u.mas / u.yr,
        pm_dec=NUMBERS * u.mas / u.yr,
    ),
    'masked sky': lambda: SkyCoord(
        Masked(NUMBERS * u.deg, mask=MASK), Masked(NUMBERS * u.deg, mask=MASK)
    ),
    'xyz': lambda: CartesianRepresentation(NUMBERS, NUMBERS, NUMBERS, unit='km'),
    'longitude': lambda: Longitude(NUMBERS * u.deg),
    'magnitude': lambda: NUMBERS * u.ABmag,
    # 999999 is what stands for "masked" in files of astropy's.
    'masked integers': lambda: MaskedColumn(np.full(N, 999999), mask=MASK),
    'masked floats': lambda: MaskedColumn(
        np.where(np.arange(N) == 1, np.nan, NUMBERS), mask=MASK
    ),
    'masked rows': lambda: MaskedColumn(
        np.arange(2.0 * N).reshape(N, 2), mask=np.stack([MASK, ~MASK], axis=1)
    ),
    'masked booleans': lambda: MaskedColumn(MASK, mask=~MASK),
    'masked text': lambda: MaskedColumn(['', 'a', 'bc', ''] * 2, mask=MASK),
    'masked quantity': lambda: Masked(NUMBERS * u.Jy, mask=MASK),
    'text': lambda: Column(['', 'a', 'bc', ''] * 2),
    'bytes': lambda: Column([b'a', b'bc'] * 4),
    'letters of all kinds': lambda: Column(['ä', 'b'] * 4),
    'objects': lambda: Column([1, 'a', None, 2.0] * 2, dtype=object),
    'dates': lambda: Column(np.full(N, '2020-01-01', dtype='M8[D]')),
    'structured': lambda: Column(np.zeros(N, dtype=[('a', 'f8'), ('b', 'i4')])),
    'int8': lambda: Column(np.arange(N, dtype='i1')),
    'uint64': lambda: Column(np.full(N, 2**64 - 1, dtype='u8')),
    'complex': lambda: Column(NUMBERS + 1j),
    'quadruple': lambda: Column(NUMBERS.astype('g')),
}
# What each format refuses, by its nature; all else must come back.
REFUSED = {
    'ecsv': set(),
    'fits': {'masked time', 'masked sky', 'objects', 'dates', 'int8', 'quadruple'}
    | {'letters of all kinds'},
    'parquet': {'objects', 'dates', 'complex', 'quadruple'},
    'vot': {'mjd', 'iso', 'masked time', 'duration', 'sky', 'distance', 'motion'}
    | {'masked sky', 'xyz', 'objects', 'dates', 'structured', 'int8', 'uint64'}
    | {'quadruple'},
}
FORMAT_NAMES = {'vot': 'votable'}


# Astropy's own remarks on what it writes or reads.
@pytest.mark.filterwarnings('ignore:unexpected datatype')
@pytest.mark.filterwarnings('ignore:The exception')
@pytest.mark.parametrize('ending', REFUSED)
def test_comes_back_or_is_refused(make_catalog, tmp_path, ending):
    if ending == 'parquet':
        pytest.importorskip('pyarrow')
    path = tmp_path / f'cat.{ending}'
    cat = make_catalog('wcs', posterior=None)
    format_name = FORMAT_NAMES.get(ending, ending)
    for kind in REFUSED[ending]:
        cat[kind] = COLUMNS[kind]()
        match = rf"column '{kind}' \(.*in format '{format_name}'"
        with pytest.raises(TypeError, match=match):
            cat.write(path)
        assert not list(tmp_path.iterdir())
        cat.remove_column(kind)
    for kind in COLUMNS.keys() - REFUSED[ending]:
        cat[kind] = COLUMNS[kind]()
    cat.write(path)
    new = ProbabilisticCatalog.read(path)
    changed = [name for name in cat.colnames if not _is_same(new[name], cat[name])]
    assert changed == []
    assert new.colnames == cat.colnames
    assert dict(new.meta) == dict(cat.meta)


def test_votable_is_not_written_in_c(make_catalog, tmp_path, monkeypatch):
    """
    Astropy's writer in C breaks the heap where a row fills its buffer (issue 20419).
    """
    from astropy.io.votable import tablewriter

    def refuse(*args):
        pytest.fail('the writer in C was called')

    monkeypatch.setattr(tablewriter, 'write_tabledata', refuse)
    path = tmp_path / 'cat.vot'
    cat = make_catalog(posterior=None)
    cat.write(path)
    assert_array_equal(ProbabilisticCatalog.read(path)['flux'], cat['flux'])


def test_comparison_sees_changes():
    """
    The comparison on which the tests above rest.
    """
    time = Time(59000 + NUMBERS, format='mjd', scale='tdb')
    sky = SkyCoord(NUMBERS * u.deg, NUMBERS * u.deg)
    moved = SkyCoord(NUMBERS * u.deg, (NUMBERS + 1e-9) * u.deg)
    masked = MaskedColumn(NUMBERS, mask=MASK)
    assert _is_same(masked, masked.copy())
    for new, old in (
        (Column(time.mjd), time),
        (Time(time, format='jd'), time),
        (time.utc, time),
        (time + 1e-9 * u.s, time),
        (_masked_time(), Time(59000 + NUMBERS, format='mjd')),
        (moved, sky),
        (sky.galactic, sky),
        (Column(NUMBERS), masked),
        (MaskedColumn(NUMBERS, mask=~MASK), masked),
        (NUMBERS * u.Jy, Column(NUMBERS)),
        (NUMBERS * u.Jy, NUMBERS * u.mJy),
        (Column(np.where(MASK, np.nan, NUMBERS)), Column(NUMBERS)),
        (Column(np.ones(N, bool)), Column(np.ones(N, 'i1'))),
        (Column(['a', 'b']), Column(['a', 'c'])),
    ):
        assert not _is_same(new, old)


@pytest.mark.parametrize('ending', ['fits', 'ecsv', 'vot', 'parquet'])
def test_row_without_a_partner(make_catalog, tmp_path, ending):
    """
    A left join leaves masked values, in columns of the catalogue's own too.
    """
    path = tmp_path / f'cat.{ending}'
    cat = make_catalog(posterior=None)
    cat = join(cat, Table({'id': [1, 2], 'z': [0.1, 0.2]}), join_type='left')
    cat.replace_column('flux', Masked(cat['flux'], mask=MASK))
    cat.write(path)
    new = ProbabilisticCatalog.read(path)
    assert_array_equal(new['z'].mask, np.arange(N) > 1)
    assert_array_equal(new['flux'].mask, MASK)
    assert new['flux'].unit == cat['flux'].unit


@pytest.mark.parametrize('ending', ['fits', 'ecsv'])
def test_plain_readers_know_times(make_catalog, tmp_path, ending):
    path = tmp_path / f'cat.{ending}'
    cat = make_catalog(posterior=None)
    cat['obs'] = COLUMNS['mjd']()
    cat.write(path)
    options = {'hdu': 1, 'astropy_native': True} if ending == 'fits' else {}
    new = QTable.read(path, **options)['obs']
    assert new.scale == 'tdb'
    assert_array_equal(new.jd2, cat['obs'].jd2)


UNITS = {
    'scale': u.Unit('3.631e-6 Jy'),
    'long scale': u.Unit(u.Jy / 7),
    'defined': HSC,
    'composed': HSC / u.s,
}


@pytest.mark.parametrize('ending', ['fits', 'ecsv', 'vot', 'parquet'])
def test_units_that_fits_has_no_words_for(columns, tmp_path, ending):
    path = tmp_path / f'cat.{ending}'
    unit = UNITS['composed']
    cat = ProbabilisticCatalog.from_columns(columns, unit=unit)
    for kind, own in UNITS.items():
        cat[kind] = Masked(NUMBERS * own, mask=MASK)
        cat[f'plain {kind}'] = NUMBERS * own
    cat.write(path)
    new = ProbabilisticCatalog.read(path)
    expected = {'flux': unit, 'flux_err': unit, **UNITS}
    expected |= {f'plain {kind}': own for kind, own in UNITS.items()}
    for name, own in expected.items():
        assert new[name].unit == own
        assert _is_same(new[name], cat[name])
    assert u.Unit(new.image['unit']) == unit
    assert cat['flux'].unit is unit


def test_fits_says_which_unit_the_numbers_have(columns, tmp_path):
    cat = ProbabilisticCatalog.from_columns(columns, unit=u.Unit('3.631e-6 Jy'))
    cat.write(tmp_path / 'cat.fits')
    header = fits.getheader(tmp_path / 'cat.fits', 'CATALOG')
    assert any('[3.631e-06 Jy]' in str(value) for value in header.values())


@pytest.mark.parametrize('ending', ['fits', 'ecsv', 'vot', 'parquet'])
def test_formats_of_display_round_no_file(make_catalog, tmp_path, ending):
    path = tmp_path / f'cat.{ending}'
    cat = make_catalog(posterior=None)
    cat['flux'].info.format = '.1f'
    cat['x_centroid'].info.format = '.0f'
    cat.write(path)
    new = ProbabilisticCatalog.read(path)
    for name in ('flux', 'x_centroid'):
        assert_array_equal(np.asarray(new[name]), np.asarray(cat[name]))
        assert new[name].info.format == cat[name].info.format
    assert cat['flux'].info.format == '.1f'


def test_csv(make_catalog, tmp_path):
    path = tmp_path / 'cat.csv'
    cat = make_catalog('wcs', posterior=None)
    cat['obs'] = COLUMNS['mjd']()
    cat['flux'].info.format = '.1f'
    cat.write(path)
    new = Table.read(path)
    assert_array_equal(new['flux'], cat['flux'].value)
    assert_array_equal(new['ra'], cat['sky_centroid'].ra.deg)
    assert_array_equal(new['obs'], cat['obs'].mjd)


def test_hdf5(make_catalog, tmp_path):
    pytest.importorskip('h5py')
    path = tmp_path / 'cat.hdf5'
    cat = make_catalog('wcs', posterior=None)
    cat['obs'] = COLUMNS['mjd']()
    cat.write(path)
    new = QTable.read(path)
    for name in cat.colnames:
        assert _is_same(new[name], cat[name])
    assert new.meta['threshold'] == cat.meta['threshold']


def test_ending_that_nobody_knows(make_catalog, tmp_path):
    cat = make_catalog(posterior=None)
    with pytest.raises(ValueError, match=r"\.csv, \.hdf5 .*; got '.*cat.odd'"):
        cat.write(tmp_path / 'cat.odd')


class TestChecksums:
    def test_every_part_has_one(self, make_catalog, tmp_path):
        path = tmp_path / 'cat.fits'
        make_catalog('wcs').write(path)
        with fits.open(path) as hdus:
            assert len(hdus) > 3
            for hdu in hdus:
                assert {'CHECKSUM', 'DATASUM'} <= set(hdu.header)

    @pytest.mark.parametrize('ending', ['fits', 'fits.gz'])
    def test_changed_byte(self, make_catalog, tmp_path, ending, reads_fakes):
        path = tmp_path / f'cat.{ending}'
        make_catalog('wcs').write(path)
        content = path.read_bytes()
        content = bytearray(content if ending == 'fits' else gzip.decompress(content))
        with fits.open(io.BytesIO(content)) as hdus:
            infos = [hdu.fileinfo() for hdu in hdus]
        for info in infos:
            # In the first byte of the data, or of the comment of a card.
            start = info['datLoc'] if info['datSpan'] else content.index(b'/') + 2
            content[start] ^= 1
            path.write_bytes(content if ending == 'fits' else gzip.compress(content))
            with pytest.raises(OSError, match=r'cat\.'):
                ProbabilisticCatalog.read(path)
            content[start] ^= 1

    def test_other_programs_may_edit_their_headers(self, make_catalog, tmp_path):
        path = tmp_path / 'cat.fits'
        make_catalog(posterior=None).write(path)
        with fits.open(path) as hdus:
            hdus[0].header['CREATOR'] = 'topcat'
            for hdu in hdus:
                hdu.header['CHECKSUM'] = '0' * 16
            hdus.writeto(tmp_path / 'other.fits')
        assert len(ProbabilisticCatalog.read(tmp_path / 'other.fits')) == N
