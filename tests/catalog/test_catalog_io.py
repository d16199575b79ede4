# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of files: round trips, and files that must not be damaged.
"""

import errno
import io

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table, vstack
from numpy.testing import assert_array_equal

from bliss_astro import PosteriorDroppedWarning
from bliss_astro.catalog import ProbabilisticCatalog

ENDINGS = ['fits', 'fits.gz', 'ecsv', 'vot', 'xml', 'parquet']


def _need_pyarrow(ending):
    if ending == 'parquet':
        pytest.importorskip('pyarrow')


def assert_same_rows(result, original):
    """
    Check that columns agree to the last bit, in type and attributes.
    """
    assert type(result) is type(original)
    assert result.colnames == original.colnames
    for name in original.colnames:
        new, old = result[name], original[name]
        assert type(new) is type(old), name
        assert new.info.description == old.info.description
        assert (new.info.meta or {}) == (old.info.meta or {})
        if isinstance(old, SkyCoord):
            assert new.frame.name == old.frame.name
            assert_array_equal(new.ra.deg, old.ra.deg)
            assert_array_equal(new.dec.deg, old.dec.deg)
            continue
        assert new.unit == old.unit
        assert new.shape == old.shape
        assert_array_equal(np.asarray(new), np.asarray(old))
        if old.dtype.kind != 'U':
            assert new.dtype == old.dtype
            assert new.dtype.isnative


@pytest.mark.parametrize('ending', ['fits', 'ecsv', 'vot', 'parquet'])
def test_round_trip(catalog, tmp_path, ending):
    _need_pyarrow(ending)
    path = tmp_path / f'cat.{ending}'
    if len(catalog):
        # A magnitude that is NaN must not come back masked.
        catalog['flux'][-1] *= 0
        if 'mag' in catalog.colnames:
            catalog['mag'][-1] = np.nan * u.mag
    catalog.write(path, posterior=False)
    result = ProbabilisticCatalog.read(path)
    assert_same_rows(result, catalog)
    assert dict(result.meta) == dict(catalog.meta)
    assert result.posterior is None
    assert (result.wcs is None) == (catalog.wcs is None)
    # What was read stacks with what was written, without any warning.
    catalog.posterior = None
    assert vstack([result, catalog]).image == catalog.image
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize('ending', ['fits', 'ecsv', 'vot', 'parquet'])
def test_units(columns, tmp_path, ending):
    _need_pyarrow(ending)
    path = tmp_path / f'cat.{ending}'
    cat = ProbabilisticCatalog.from_columns(columns, unit=u.adu / u.s)
    for k, unit in enumerate((u.electron, u.nJy, u.DN, u.Jy * u.s)):
        cat[f'own_{k}'] = np.arange(8.0) * unit
    cat.write(path)
    assert_same_rows(ProbabilisticCatalog.read(path), cat)


@pytest.mark.parametrize(
    ('kind', 'ending'), [('wcs', 'fits'), ('samples', 'fits.gz'), ('empty_wcs', 'fits')]
)
def test_posterior_in_fits(make_catalog, tmp_path, kind, ending, reads_fakes):
    path = tmp_path / f'cat.{ending}'
    catalog = make_catalog(kind)
    catalog.write(path)
    result = ProbabilisticCatalog.read(path)
    assert result.posterior.half_width == catalog.posterior.half_width
    arrays, meta = catalog.posterior.to_arrays()
    assert result.posterior.meta == meta
    assert set(result.posterior.arrays) == set(arrays)
    for name, array in arrays.items():
        new = result.posterior.arrays[name]
        assert new.dtype == array.dtype
        assert new.dtype.isnative
        assert new.shape == array.shape
        assert_array_equal(new, array)
    without = ProbabilisticCatalog.read(path, posterior=False)
    assert without.posterior is None
    with fits.open(path) as hdus:
        assert 'BLISS_FEATURES' in hdus
        assert hdus[1].name == 'CATALOG'


@pytest.mark.parametrize('ending', ['ecsv', 'vot', 'parquet'])
def test_other_formats_say_that_they_drop_the_posterior(make_catalog, tmp_path, ending):
    _need_pyarrow(ending)
    cat = make_catalog()
    with pytest.warns(PosteriorDroppedWarning, match='FITS keeps both') as record:
        cat.write(tmp_path / f'cat.{ending}')
    assert record[0].filename == __file__
    assert cat.posterior is not None


def test_plain_readers(make_catalog, tmp_path):
    """
    Astropy alone reads the files too, sky positions and units included.
    """
    cat = make_catalog('wcs', posterior=None)
    for ending, options in (('fits', {'hdu': 1}), ('ecsv', {})):
        cat.write(tmp_path / f'cat.{ending}')
        table = QTable.read(tmp_path / f'cat.{ending}', **options)
        assert isinstance(table['sky_centroid'], SkyCoord)
        assert table['flux'].unit == u.nmgy
        assert table['flux'].info.description == cat['flux'].info.description
        assert table['x_centroid'].info.meta['ucd'].startswith('pos.cartesian.x')
    header = fits.getheader(tmp_path / 'cat.fits', 'CATALOG')
    assert 'phot.flux' in header.values()
    assert any('[nmgy]' in str(value) for value in header.values())


def test_votable_for_other_programs(make_catalog, tmp_path):
    path = tmp_path / 'cat.vot'
    make_catalog('wcs', posterior=None).write(path)
    text = path.read_text()
    assert 'ucd="pos.eq.ra;meta.main"' in text
    assert 'system="ICRS"' in text
    assert 'unit="nmgy"' in text


def test_parquet_for_other_programs(make_catalog, tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    path = tmp_path / 'cat.parquet'
    make_catalog('wcs', posterior=None).write(path)
    names = parquet.read_table(path).column_names
    assert {'ra', 'dec', 'flux'} <= set(names)


def test_formats_by_name(make_catalog, tmp_path):
    cat = make_catalog('wcs', posterior=None)
    path = tmp_path / 'cat.dat'
    for name in ('fits', 'ecsv', 'ascii.ecsv', 'votable'):
        cat.write(path, format=name, overwrite=True)
        assert_same_rows(ProbabilisticCatalog.read(path, format=name), cat)
    cat.write(path, format='ascii.csv', overwrite=True)
    assert len(Table.read(path, format='ascii.csv')) == 8
    with pytest.raises(ValueError, match=r'path must end in one of .fits'):
        cat.write(path)
    with pytest.raises(ValueError, match="format must be one of 'fits'"):
        ProbabilisticCatalog.read(path, format='ascii.csv')
    with pytest.raises(TypeError, match=r'unknown keywords for .fits.: colour'):
        cat.write(tmp_path / 'new.fits', colour='red')


def test_file_object(make_catalog):
    stream = io.StringIO()
    make_catalog('wcs').write(stream, format='ascii.ecsv')
    assert 'sky_centroid' in stream.getvalue()


def test_str_and_home(make_catalog, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    make_catalog(posterior=None).write('~/cat.ECSV')
    assert len(ProbabilisticCatalog.read(str(tmp_path / 'cat.ECSV'))) == 8


@pytest.mark.parametrize('ending', ENDINGS)
def test_existing_file_is_kept(make_catalog, tmp_path, ending):
    _need_pyarrow(ending)
    path = tmp_path / f'cat.{ending}'
    path.write_text('precious')
    cat = make_catalog(posterior=None)
    with pytest.raises(OSError, match='already exists; pass overwrite=True'):
        cat.write(path)
    assert path.read_text() == 'precious'
    cat.write(path, overwrite=True)
    assert len(ProbabilisticCatalog.read(path)) == 8


def test_full_disk(make_catalog, tmp_path, monkeypatch):
    path = tmp_path / 'cat.fits'
    path.write_text('precious')
    write_whole = fits.HDUList.writeto

    def write_half(self, name, *args, **kwargs):
        if not hasattr(name, 'write_text'):
            return write_whole(self, name, *args, **kwargs)
        name.write_text('half')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(fits.HDUList, 'writeto', write_half)
    with pytest.raises(OSError, match=r'the disk is full.*cat\.fits'):
        make_catalog().write(path, overwrite=True)
    assert path.read_text() == 'precious'
    assert list(tmp_path.iterdir()) == [path]


def test_value_that_cannot_be_stored(make_catalog, tmp_path):
    path = tmp_path / 'cat.ecsv'
    path.write_text('precious')
    cat = make_catalog(posterior=None)
    cat.meta['odd'] = object()
    with pytest.raises(TypeError, match=r"meta\['odd'\].*cannot store"):
        cat.write(path, overwrite=True)
    assert path.read_text() == 'precious'
    assert list(tmp_path.iterdir()) == [path]


def test_endings_of_other_ways(tmp_path):
    names = ('probability', 'x_centroid', 'y_centroid', 'x_err', 'y_err')
    columns = {name: [] for name in (*names, 'flux', 'flux_err')}
    cat = ProbabilisticCatalog.from_columns(columns)
    with pytest.raises(ValueError, match=r'got .*cat\.reg.*written by to_regions'):
        cat.write(tmp_path / 'cat.reg')
    cat.write(tmp_path / 'cat.csv')
    assert len(QTable.read(tmp_path / 'cat.csv')) == 0
    with pytest.raises(ValueError, match=r'got .*cat\.csv.*QTable\.read'):
        ProbabilisticCatalog.read(tmp_path / 'cat.csv')


class TestDamagedFiles:
    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='there is no file'):
            ProbabilisticCatalog.read(tmp_path / 'nothing.fits')

    @pytest.mark.parametrize('ending', ENDINGS)
    @pytest.mark.parametrize('content', [b'', b'rubbish, not a catalogue\n' * 200])
    def test_rubbish(self, tmp_path, ending, content):
        _need_pyarrow(ending)
        path = tmp_path / f'cat.{ending}'
        path.write_bytes(content)
        with pytest.raises(OSError, match=r'cat\.'):
            ProbabilisticCatalog.read(path)

    @pytest.mark.parametrize('ending', ['fits', 'fits.gz', 'ecsv', 'vot', 'parquet'])
    def test_cut_short(self, make_catalog, tmp_path, ending, reads_fakes):
        _need_pyarrow(ending)
        path = tmp_path / f'cat.{ending}'
        make_catalog('wcs').write(path, posterior=ending.startswith('fits'))
        content = path.read_bytes()
        for part in (0.3, 0.6, 0.97):
            path.write_bytes(content[: int(part * len(content))])
            with pytest.raises(OSError, match=r'cat\.'):
                ProbabilisticCatalog.read(path)

    @pytest.mark.parametrize('ending', ['fits', 'fits.gz', 'ecsv', 'vot'])
    def test_cut_anywhere(self, make_catalog, tmp_path, ending):
        """
        A cut file is refused, or nothing that matters was cut off.
        """
        path = tmp_path / f'cat.{ending}'
        cat = make_catalog('wcs', posterior=None)
        cat.write(path)
        content = path.read_bytes()
        size = len(content)
        near_end = range(size - 30, size, 3)
        for cut in (*np.linspace(0, size - 31, 8).astype(int), *near_end):
            path.write_bytes(content[:cut])
            try:
                result = ProbabilisticCatalog.read(path)
            except OSError:
                continue
            assert_same_rows(result, cat)
            assert dict(result.meta) == dict(cat.meta)

    @pytest.mark.parametrize('n_lines', [1, 3, 8])
    def test_ecsv_cut_between_rows(self, make_catalog, tmp_path, n_lines):
        path = tmp_path / 'cat.ecsv'
        make_catalog(posterior=None).write(path)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(''.join(lines[:-n_lines]))
        promise = f'has {8 - n_lines} rows and its header promises 8'
        with pytest.raises(OSError, match=promise):
            ProbabilisticCatalog.read(path)

    @pytest.mark.parametrize('n_bytes', [1, 2])
    def test_ecsv_cut_within_the_last_number(self, columns, tmp_path, n_bytes):
        path = tmp_path / 'cat.ecsv'
        columns['flags'] = np.full(8, 128)
        ProbabilisticCatalog.from_columns(columns).write(path)
        path.write_bytes(path.read_bytes()[:-n_bytes])
        with pytest.raises(OSError, match='may have been cut short'):
            ProbabilisticCatalog.read(path)

    @pytest.mark.parametrize('ending', ['fits', 'ecsv', 'xml'])
    def test_other_table(self, tmp_path, ending):
        format_of = {'ecsv': 'ascii.ecsv', 'xml': 'votable'}
        path = tmp_path / f'other.{ending}'
        Table({'a': [1, 2]}).write(path, format=format_of.get(ending, ending))
        with pytest.raises(OSError, match='has no columns id, probability'):
            ProbabilisticCatalog.read(path)

    def test_newer_version(self, make_catalog, tmp_path, monkeypatch):
        from bliss_astro.catalog import _formats

        path = tmp_path / 'cat.fits'
        with monkeypatch.context() as patch:
            patch.setattr(_formats, '_CARD_VERSION', 99)
            make_catalog(posterior=None).write(path)
        with pytest.raises(OSError, match='written by a newer version'):
            ProbabilisticCatalog.read(path)
