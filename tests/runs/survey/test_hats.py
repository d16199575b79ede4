# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the catalogue of a survey in the HATS layout.
"""

import json

import numpy as np
import pytest
from pyarrow import dataset, parquet

from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.runs._done import Field, Fields, read_records
from bliss_astro.runs._hats import pixel_region, pixels_of, write_hats
from bliss_astro.runs._merge import merged
from bliss_astro.runs._sky import Region

RUN = {'encoder': 'stars', 'encoder_sha256': 'abc', 'version': '1.0'}
RUN['options'] = {'threshold': 0.5}


@pytest.fixture(scope='module')
def folder(make_survey, tmp_path_factory):
    """
    Give a run whose fields lie around the place where four pixels of order 0 meet.
    """
    path = tmp_path_factory.mktemp('runs') / 'run'
    places = [(170 * i - 170, 130 * j - 130) for i in range(3) for j in range(3)]
    make_survey(path, places, centre=(0.0, 0.0), n=2000, scale=2.0)
    return path


def fields_of(folder):
    return Fields([Field(folder, record) for record in read_records(folder)])


def names_of(table):
    names = table['field'].to_pylist(), table['id'].to_pylist()
    return set(zip(*names, strict=True))


@pytest.fixture(scope='module')
def catalog(folder):
    """
    Give its catalogue, with partitions of 100 rows at most.
    """
    write_hats(fields_of(folder), folder / 'catalog', RUN, max_rows=100)
    return folder / 'catalog'


def test_partitions_have_all_rows_once(folder, catalog):
    rows = dataset.dataset(catalog / 'dataset').to_table()
    whole = merged(fields_of(folder), Region.of(None))
    assert len(rows) == len(whole) == len(names_of(rows))
    assert names_of(rows) == names_of(whole)
    lines = (catalog / 'partition_info.csv').read_text().split()[1:]
    assert len(lines) > 8
    for line in lines:
        order, pixel = map(int, line.split(','))
        path = f'Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}.parquet'
        part = parquet.read_table(catalog / 'dataset' / path)
        assert 0 < len(part) <= 100 or order == 10
        place = part['ra'].to_numpy(), part['dec'].to_numpy()
        assert set(pixels_of(order, *place)) == {pixel}
        index = part['_healpix_29'].to_numpy()
        assert np.all(np.diff(index) >= 0)
        assert np.array_equal(index, pixels_of(29, *place))
    meta = parquet.read_metadata(catalog / 'dataset' / '_metadata')
    assert meta.num_rows == len(rows)
    assert f'hats_nrows={len(rows)}\n' in (catalog / 'hats.properties').read_text()


def test_schema_provenance_and_fields(folder, catalog):
    schema = parquet.read_schema(catalog / 'dataset' / '_common_metadata')
    assert schema.field('flux').metadata[b'ucd'] == b'phot.flux'
    assert schema.field('flux').metadata[b'unit'] == b'electron'
    assert json.loads(schema.metadata[b'bliss_astro_run'])['encoder'] == 'stars'
    provenance = parquet.read_table(catalog / 'fields.parquet')
    assert provenance['field'].to_pylist() == [f'f{k:02d}' for k in range(9)]
    assert json.loads(provenance['checksums'][0].as_py()) == {'a.fits': ['1f', 3, 4]}
    files = dataset.dataset(catalog / 'dataset').files
    part = ProbabilisticCatalog.read(files[0])
    assert part['flux'].unit == 'electron'
    assert part['sky_centroid'].ra.deg == pytest.approx(
        parquet.read_table(files[0])['ra'].to_numpy()
    )
    assert part.meta['encoder'] == 'stars'


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_lsdb_matches_all_with_themselves_shifted(make_survey, tmp_path):
    lsdb = pytest.importorskip('lsdb')
    # Within one pixel of order 0, as margins of partitions take lsdb long.
    make_survey(tmp_path / 'run', [(0, 0), (100, 90), (300, 0)], centre=(30.0, 20.0))
    write_hats(fields_of(tmp_path / 'run'), tmp_path / 'run' / 'catalog', RUN)
    opened = lsdb.open_catalog(tmp_path / 'run' / 'catalog')
    rows = opened.compute()
    assert len(rows) > 50
    moved = rows[['ra', 'dec', 'field', 'id']].reset_index(drop=True)
    moved['dec'] += 0.1 / 3600
    own = {'ra_column': 'ra', 'dec_column': 'dec', 'margin_threshold': None}
    own = lsdb.from_dataframe(moved, **own)
    how = {'suffixes': ('', '_b'), 'suffix_method': 'all_columns'}
    pairs = opened.crossmatch(own, radius_arcsec=0.15, n_neighbors=1, **how).compute()
    assert len(pairs) == len(rows)
    for name in ('field', 'id'):
        assert (pairs[name] == pairs[f'{name}_b']).all()
    cone = opened.cone_search(ra=30.0, dec=20.0, radius_arcsec=20.0).compute()
    assert 0 < len(cone) < len(rows)


def test_pixel_regions_share_the_sky():
    vectors = np.random.default_rng(1).normal(size=(500, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    regions = [pixel_region(1, pixel) for pixel in range(48)]
    inside = np.array([region.contains(vectors) for region in regions])
    assert np.all(inside.sum(0) == 1)
    for region, own in zip(regions, inside, strict=True):
        apart = np.degrees(np.arccos(vectors[own] @ region.middle)) * 3600
        assert apart.max(initial=0) < region.radius


def test_damaged_files_are_named_and_the_old_catalogue_stays(
    make_survey, make_field, make_wcs, tmp_path
):
    make_survey(tmp_path / 'run', [(0, 0), (100, 0), (200, 0)], n=100)
    target = tmp_path / 'run' / 'catalog'
    write_hats(fields_of(tmp_path / 'run'), target, RUN)
    before = sorted(path.name for path in (tmp_path / 'run').iterdir())
    path = tmp_path / 'run' / 'fields' / 'f01.parquet'
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    (tmp_path / 'run' / 'fields' / 'f02.parquet').unlink()
    with pytest.raises(OSError, match=r'f01: .*remove f01.json.*f02: .*remove'):
        write_hats(fields_of(tmp_path / 'run'), target, RUN)
    assert sorted(path.name for path in (tmp_path / 'run').iterdir()) == before
    assert dataset.dataset(target / 'dataset').count_rows() > 0


def test_bands_that_some_fields_lack_and_units_that_differ(
    make_field, make_wcs, tmp_path
):
    (tmp_path / 'fields').mkdir()
    names = 'x_centroid', 'y_centroid', 'x_err', 'y_err', 'flux', 'flux_err'
    columns = {name: np.full(2, 5.0) for name in (*names, 'probability')}
    columns['x_centroid'] = np.array([40.0, 80.0])
    make_field(tmp_path, 'a', make_wcs(0, 0), columns)
    make_field(tmp_path, 'b', make_wcs(5, 0), columns | {'flux_g': np.ones(2)})
    write_hats(fields_of(tmp_path), tmp_path / 'catalog', RUN, max_rows=2)
    rows = dataset.dataset(tmp_path / 'catalog' / 'dataset').to_table()
    by_field = dict(
        zip(rows['field'].to_pylist(), rows['flux_g'].to_pylist(), strict=True)
    )
    assert by_field == {'a': None, 'b': 1.0}
    path = tmp_path / 'fields' / 'b.parquet'
    rows = parquet.read_table(path)
    flux = rows.schema.field('flux').with_metadata({'unit': 'nmgy'})
    schema = rows.schema.set(rows.schema.get_field_index('flux'), flux)
    parquet.write_table(rows.cast(schema), path)
    with pytest.raises(ValueError, match=r'fields a and b have the column .flux.*nmgy'):
        write_hats(fields_of(tmp_path), tmp_path / 'catalog', RUN)
