# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of duplicates in overlaps: no source lost or doubled, whatever the order.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from bliss_astro.runs import merge_chunks
from bliss_astro.runs._counts import parts_of, points_of
from bliss_astro.runs._done import Field, Fields, read_records
from bliss_astro.runs._hats import pixel_region, pixels_of
from bliss_astro.runs._merge import merged
from bliss_astro.runs._sky import FieldSky, Region, chord, to_degrees, to_vectors

SKY = Region.of(None)
NAMES = ('x_centroid', 'y_centroid', 'x_err', 'y_err', 'probability')
# Fields that overlap by a third, turned by 15 degrees each.
PLACES = [(170 * i - 170, 130 * j - 130) for i in range(3) for j in range(3)]


def fields_of(folder):
    return Fields([Field(folder, record) for record in read_records(folder)])


def places_of(rows):
    return to_vectors(rows['ra'].to_numpy(), rows['dec'].to_numpy())


@pytest.mark.parametrize('centre', [(0.0, 0.0), (200.0, 89.98), (359.999, -89.99)])
@pytest.mark.parametrize('error', [0.02, 0.3])
def test_each_source_has_one_row(make_survey, tmp_path, centre, error):
    truth = make_survey(tmp_path / 'run', PLACES, centre=centre, n=2000, error=error)
    fields = fields_of(tmp_path / 'run')
    rows = merged(fields, SKY)
    apart, which = cKDTree(truth).query(places_of(rows))
    assert apart.max() < chord(0.4 * 6 * error)
    counts = np.bincount(which, minlength=len(truth))
    # Not at the outer borders, where rows may be beyond the images.
    borders = np.array([field.border(truth) for field in fields.all])
    edge = borders.max(0) < 1.0
    assert (~edge).sum() > 500
    close = cKDTree(truth).query(truth, k=2)[0][:, 1] < chord(2)
    assert np.all(counts[~edge & ~close] == 1)
    seen = (borders > 0).sum(0)
    clear = np.flatnonzero(~edge & ~close)
    n_fields = np.zeros(len(truth), int)
    n_fields[which] = rows['n_fields'].to_numpy()
    assert np.mean(n_fields[clear] == seen[clear]) > 0.98
    others = [len(text.split()) for text in rows['other_rows'].to_pylist()]
    assert np.array_equal(np.add(others, 1), rows['n_fields'].to_numpy())


def test_parts_of_the_sky_add_up_to_all_of_it(make_survey, tmp_path):
    make_survey(tmp_path / 'run', PLACES, centre=(0.0, 45.0), n=3000, error=0.6)
    fields = fields_of(tmp_path / 'run')
    whole = merged(fields, SKY)
    places = np.concatenate([places_of(field.read()) for field in fields.all])
    # Of 26 arcsec.
    pixels = np.unique(pixels_of(13, *to_degrees(places)))
    parts = [merged(fields, pixel_region(13, pixel)) for pixel in pixels]
    names = [_names(rows) for rows in parts]
    assert len(pixels) > 60
    assert set().union(*names) == _names(whole)
    assert sum(map(len, names)) == len(whole)


def _names(rows):
    own = (rows[name].to_pylist() for name in ('field', 'id', 'other_rows'))
    return set(zip(*own, strict=True))


def test_owner_does_not_depend_on_order_or_measurement(
    make_survey, tmp_path, owners_of
):
    make_survey(tmp_path / 'run', PLACES, n=50)
    fields = fields_of(tmp_path / 'run').all
    points = np.concatenate([points_of(field).reshape(-1, 3) for field in fields])
    points = points[np.max([field.border(points) for field in fields], 0) > 0]
    names = np.array([field.id for field in fields])
    found = names[owners_of(fields, points)]
    order = np.random.default_rng(1).permutation(len(fields))
    mixed = Fields([fields[k] for k in order]).all
    assert np.array_equal(names[owners_of(mixed, points)], found)
    assert len(set(found)) == 9
    # The field whose border is farthest.
    borders = [field.border(points) for field in fields]
    assert np.array_equal(names[np.argmax(borders, 0)], found)


@pytest.mark.parametrize('batch', [1, 3e7])
def test_each_place_belongs_to_one_field(
    make_survey, tmp_path, owners_of, monkeypatch, batch
):
    """
    Also for fields of the same place, of which the first is taken.
    """
    monkeypatch.setattr('bliss_astro.runs._done._BATCH', batch)
    make_survey(tmp_path / 'run', [*PLACES, *PLACES[:3]], n=300)
    fields = fields_of(tmp_path / 'run')
    fields.all[10].sky = fields.all[0].sky
    fields = Fields(fields.all)
    parts = list(parts_of(fields, SKY))
    assert sorted(part.field.id for part in parts) == [f.id for f in fields.all]
    for part in parts:
        own = np.concatenate([part.own_rows, part.own_points.ravel()])
        found = owners_of(fields.all, part.vectors)
        assert np.array_equal(own, found == fields.all.index(part.field))
    kept = {part.field.id: part.own_points.sum() for part in parts}
    assert kept['f10'] == 0 < kept['f00']


def test_work_does_not_grow_with_the_square_of_the_overlap(
    make_survey, tmp_path, monkeypatch
):
    make_survey(tmp_path / 'run', [(3 * k, 2 * k) for k in range(20)], n=50)
    fields, sizes = fields_of(tmp_path / 'run'), []
    pixels = FieldSky.pixels

    def count(self, vectors):
        sizes.append(len(vectors))
        return pixels(self, vectors)

    monkeypatch.setattr(FieldSky, 'pixels', count)
    n = sum(len(part.vectors) for part in parts_of(fields, SKY))
    # Of 20 for each.
    assert sum(sizes) < 6 * n


def test_deepest_field_owns_but_for_its_edge(make_survey, tmp_path, owners_of):
    make_survey(tmp_path / 'run', [(0, 0), (30, 20)], n=50)
    fields = fields_of(tmp_path / 'run').all
    points = points_of(fields[0]).reshape(-1, 3)
    borders = [field.border(points) for field in fields]
    assert {0, 1} <= set(owners_of(fields, points))
    # By less than a step the border decides still.
    fields[1].numbers['limits'] = {'': 890.0}
    assert np.array_equal(
        owners_of(fields, points),
        np.where(np.max(borders, 0) > 0, np.argmax(borders, 0), -1),
    )
    fields[1].numbers['limits'] = {'': 700.0}
    owner, deep = owners_of(fields, points), borders[1] > 12 * 0.4
    assert set(owner[deep]) == {1}
    assert set(owner[(borders[0] > 12 * 0.4) & ~deep]) == {0}
    # A field whose depth is not known.
    fields[1].numbers['limits'] = {'': None}
    assert len(set(owners_of(fields, points))) > 1


def test_boxes_of_a_mosaic_decide(make_survey, tmp_path, owners_of):
    # Chunks of 260 columns that share 60, of which each owns 30.
    boxes = [((0, 230), (0, 200)), ((30, 260), (0, 200))]
    places = [(0, 0), (200, 0)]
    truth = make_survey(tmp_path / 'run', places, n=3000, error=0.2, owned=boxes)
    fields = fields_of(tmp_path / 'run')
    points = points_of(fields.all[0]).reshape(-1, 3)
    x, y = fields.all[0].sky.pixels(points)
    owner, inside = owners_of(fields.all, points), (x > 35) & (x < 259)
    inside &= (y > 0) & (y < 199)
    assert np.array_equal(owner[inside] == 0, x[inside] < 229.5)
    rows = merged(fields, SKY)
    _, which = cKDTree(truth).query(places_of(rows))
    counts = np.bincount(which, minlength=len(truth))
    x, y = fields.all[0].sky.pixels(truth)
    near = (np.abs(x - 229.5) < 29) & (np.abs(y - 99.5) < 97)
    close = cKDTree(truth).query(truth, k=2)[0][:, 1] < chord(2)
    assert near.sum() > 30
    assert np.all(counts[near & ~close] == 1)
    # As the rule of a mosaic in its pixels says.
    tables = [field.read() for field in fields.all]
    chunks = [
        SimpleNamespace(owned=box, cut=(slice(0, 200), slice(x0, x0 + 260)))
        for box, (x0, _) in zip(boxes, places, strict=True)
    ]
    numbers = [{name: table[name].to_numpy() for name in NAMES} for table in tables]
    kept = merge_chunks(chunks, numbers)
    vectors = [places_of(table)[use] for table, use in zip(tables, kept, strict=True)]
    assert sum(map(len, vectors)) == len(rows)
    assert set(cKDTree(truth).query(np.concatenate(vectors))[1]) == set(which)


def test_masked_places_belong_to_a_field_that_sees_them(
    make_survey, tmp_path, owners_of
):
    make_survey(tmp_path / 'run', [(0, 0), (130, 0)], n=400)
    path = tmp_path / 'run' / 'fields' / 'f00.npz'
    arrays = dict(np.load(path))
    arrays['usable'][:, 4] = 0
    np.savez(path, **arrays)
    field, other = fields_of(tmp_path / 'run').all
    x, y = np.meshgrid(np.arange(128, 158), np.arange(20, 180, 7))
    points = field.sky.vectors(x.ravel(), y.ravel())
    assert set(owners_of([field, other], points)) == {0}
    field.numbers['share'] = 0.9
    seen = other.border(points) > 0
    assert set(owners_of([field, other], points)[seen]) == {1}
    assert set(owners_of([field, other], points)[~seen]) <= {0}


def test_most_probable_row_at_a_border(make_wcs, make_field, tmp_path):
    (tmp_path / 'fields').mkdir()

    def write(name, wcs, x, p):
        values = {'x_centroid': x, 'probability': p, 'flux': 9.0}
        values |= {'y_centroid': 99.5, 'x_err': 0.3, 'y_err': 0.3, 'flux_err': 1.0}
        columns = {k: np.atleast_1d(np.asarray(v, float)) for k, v in values.items()}
        columns = {
            k: np.resize(v, len(columns['probability'])) for k, v in columns.items()
        }
        make_field(tmp_path, name, wcs, columns)

    shapes = make_wcs(0, 0, angle=0), make_wcs(0, 0, angle=0)
    shapes[1].wcs.crpix -= [100, 0]
    # Columns 100 and more are shared, the border lies between 179 and 180.
    for x, p, kept in [
        ([179.7, 79.3], [0.9, 0.8], 'a'),  # each in what the other owns
        ([179.7, 79.3], [0.7, 0.8], 'b'),
        ([179.3, 79.7], [0.7, 0.8], 'b'),  # each in what it owns
        ([179.0, 79.2], [0.6, 0.9], 'a'),  # both in what a owns
        ([179.7, 150], [0.6, 0.9], 'ab'),  # within its error, and far away
        ([182.0, 150], [0.6, 0.9], 'b'),  # in what b owns, which does not list it
    ]:
        for k in (0, 1):
            write('ab'[k], shapes[k], x[k], p[k])
        rows = merged(fields_of(tmp_path), SKY)
        assert ''.join(sorted(rows['field'].to_pylist())) == kept


def test_blends_stay_two_sources(make_wcs, make_field, tmp_path):
    (tmp_path / 'fields').mkdir()
    for k, shift in enumerate([0.1, -0.1]):
        columns = {
            'x_centroid': np.array([130.0, 131.5]) + shift,
            'y_centroid': np.array([99.0, 99.0]),
            'probability': np.array([0.9, 0.8]),
            'flux': np.array([9.0, 8.0]),
        }
        columns |= {f'{name}_err': np.full(2, 0.5) for name in ('x', 'y', 'flux')}
        make_field(tmp_path, f'f{k}', make_wcs(0, 0), columns)
    rows = merged(fields_of(tmp_path), SKY)
    assert rows['n_fields'].to_pylist() == [2, 2]
    assert rows['other_rows'].to_pylist() == ['f1:1', 'f1:2']
