# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the work on one field: rows, record, key, reasons of failure.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from bliss_astro import Encoder, detect_sources
from bliss_astro.runs import catalog_field


def _files(folder):
    """
    Contents of the files of a run, without times.
    """
    found = {path.name: path.read_bytes() for path in (folder / 'fields').iterdir()}
    for name in found:
        if name.endswith('.json'):
            found[name] = json.loads(found[name]) | {'seconds': None}
    return found


def test_rows_and_record(fields, tmp_path):
    record = catalog_field(fields[1], tmp_path / 'run', n_samples=3)
    assert (record['status'], record['reason']) == ('done', '')
    assert record == json.loads((tmp_path / 'run/fields/image01.json').read_text())
    rows = parquet.read_table(tmp_path / 'run/fields/image01.parquet')
    catalog = detect_sources(fields[1].open(), n_samples=3, n_threads=1)
    assert len(catalog) == rows.num_rows == record['n_rows'] > 0
    for name in ('probability', 'flux', 'x_centroid', 'e1_err'):
        assert np.array_equal(rows[name].to_numpy(), np.asarray(catalog[name]))
    ra = catalog['sky_centroid'].ra.deg
    assert np.array_equal(rows['ra'].to_numpy(), ra)
    assert set(rows['field'].to_pylist()) == {'image01'}
    assert rows['owned'].to_numpy().all()
    assert np.shape(rows['flux_samples'].to_pylist()) == (len(catalog), 3)
    meta = rows.schema.field('flux').metadata
    assert meta[b'unit'] == b'nmgy'
    assert meta[b'ucd'].startswith(b'phot.flux')
    assert meta[b'description']
    posterior = catalog.posterior
    assert record['expected_count'] == posterior.expected_counts()
    assert record['area'] == pytest.approx((88 * 0.396 / 60) ** 2, rel=1e-4)
    assert record['depth_unit'] == 'mag(AB)'
    assert 17 < record['depth'] < 19
    assert record['fwhm'] == pytest.approx(3.7, rel=1e-3)
    assert np.shape(record['footprint']) == (4, 2)
    # The sky is to the west of the reference position by the first image.
    assert 149.98 < np.mean(record['footprint'], axis=0)[0] < 149.995


def test_same_results_and_key(fields, tmp_path):
    """
    A field that is done is not done again; all that matters changes its key.
    """
    first = catalog_field(fields[0], tmp_path / 'a', n_samples=2)
    before = _files(tmp_path / 'a')
    # Draws too are those of the field.
    catalog_field(fields[1], tmp_path / 'b', n_samples=2)
    catalog_field(fields[0], tmp_path / 'b', n_samples=2, n_threads=1, device='cpu')
    both = _files(tmp_path / 'b')
    assert {name: both[name] for name in before} == before
    again = catalog_field(fields[0], tmp_path / 'a', n_samples=2)
    assert again == first
    assert again['seconds'] == first['seconds']
    keys = {first['key']}
    for ref, options in (
        (fields[0], {}),
        (fields[0], {'threshold': 0.9}),
        (fields[0], {'encoder': 'stars'}),
        (dataclasses.replace(fields[0], owned=((10, 60), (0, 88))), {}),
    ):
        keys.add(catalog_field(ref, tmp_path / 'a', **options)['key'])
    assert len(keys) == 5
    owned = parquet.read_table(tmp_path / 'a/fields/image00.parquet')
    x = owned['x_centroid'].to_numpy()
    assert np.array_equal(owned['owned'].to_numpy(), (x >= 9.5) & (x < 59.5))
    # A changed file; one of another time with the old content is none.
    path = Path(fields[1].files[''])
    old = json.loads((tmp_path / 'b/fields/image01.json').read_text())
    os.utime(path, ns=(1, 1))
    assert catalog_field(fields[1], tmp_path / 'b', n_samples=2) == old
    path.write_bytes(Path(fields[2].files['']).read_bytes())
    new = catalog_field(fields[1], tmp_path / 'b', n_samples=2)
    assert new['key'] != old['key']
    assert new['expected_count'] != old['expected_count']


def test_failure_has_a_reason_and_no_rows(fields, tmp_path):
    folder = tmp_path / 'run'
    catalog_field(fields[0], folder)
    path = Path(fields[0].files[''])
    path.write_bytes(path.read_bytes()[:5000])
    record = catalog_field(fields[0], folder)
    assert record['status'] == 'failed'
    assert record['reason'].startswith('OSError: ')
    assert str(path) in record['reason']
    assert [path.name for path in (folder / 'fields').iterdir()] == ['image00.json']
    gone = dataclasses.replace(fields[1], files={'g': None, 'r': str(path)})
    record = catalog_field(gone, folder)
    assert record['reason'].startswith('FileNotFoundError: no image in band g')
    assert str(path) in record['reason']


def test_warnings_are_in_the_record(fields, tmp_path):
    narrow = dataclasses.replace(fields[0], options=fields[0].options | {'fwhm': 9.0})
    record = catalog_field(narrow, tmp_path / 'run', threshold=0.999999)
    texts = '\n'.join(record['warnings'])
    assert 'OutOfDomainWarning: ' in texts
    assert 'NoDetectionsWarning: no source' in texts or record['n_rows']


def test_options_are_the_same_for_all(fields, tmp_path):
    with pytest.raises(TypeError, match='run_survey has no argument'):
        catalog_field(fields[0], tmp_path, thresholdd=0.5)
    with pytest.raises(TypeError, match="has no argument 'rng'"):
        catalog_field(fields[0], tmp_path, rng=3)
    with pytest.raises(TypeError, match='options of a run are the same for all'):
        catalog_field(fields[0], tmp_path, density=object())
    with pytest.raises(ValueError, match='threshold must be'):
        catalog_field(fields[0], tmp_path, threshold=5)
    encoder = Encoder.from_pretrained('stars')
    encoder.card = {}
    with pytest.raises(ValueError, match='encoder must be saved'):
        catalog_field(fields[0], tmp_path, encoder=encoder)
    assert not any(tmp_path.glob('fields'))
