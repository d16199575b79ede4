# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of fields that are worked on together: each with its own rows, record, failure.
"""

import dataclasses
import json
from pathlib import Path

import dask
import numpy as np
import pytest
import yaml
from astropy.io import fits
from numpy.testing import assert_allclose
from pyarrow import parquet

from bliss_astro._warnings import take_warnings, warn
from bliss_astro.detection import _batches
from bliss_astro.runs import DASK_SETTINGS, catalog_field
from bliss_astro.runs._field import Job
from bliss_astro.runs._work import _Work, work_on


@pytest.fixture
def several(fields, tmp_path):
    """
    Give fields with a cut-off file and one without a finite pixel amid sound ones.

    Of the sound ones one has a PSF that is too broad, and one an area of one value.
    """
    path = Path(fields[3].files[''])
    data, header = fits.getdata(path, header=True)
    data[:40, :40] = 0
    fits.writeto(path, data, header, overwrite=True)
    cut, nan = tmp_path / 'cut.fits', tmp_path / 'nan.fits'
    cut.write_bytes(Path(fields[0].files['']).read_bytes()[:20000])
    fits.PrimaryHDU(np.full((88, 88), np.nan, 'f4')).writeto(nan)
    replace = dataclasses.replace
    broad = replace(fields[1], options=fields[1].options | {'fwhm': 9.0})
    damaged = [replace(fields[0], id=f.stem, files={'': str(f)}) for f in (cut, nan)]
    return [fields[0], damaged[0], broad, fields[2], damaged[1], fields[3]]


def _records(folder):
    paths = sorted(folder.glob('fields/*.json'))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def _assert_same(folder, other):
    """
    Compare two runs: their records bitwise but for times, numbers to rounding.
    """
    records, expected = _records(folder), _records(other)
    assert list(records) == list(expected)
    for name, record in records.items():
        numbers = {}
        for key, one in list(record.items()):
            same = expected[name][key]
            if isinstance(one, float):
                assert one == pytest.approx(same, rel=1e-6), key
            elif key == 'seconds':
                assert list(one) == list(same)
                assert all(value > 0 for value in one.values())
            elif key != 'marginals':
                numbers[key] = one, same
        assert all(one == same for one, same in numbers.values()), (name, numbers)
        if record['status'] == 'done':
            file = f'fields/{name}.parquet'
            rows, same = (parquet.read_table(f / file) for f in (folder, other))
            for column in ('probability', 'flux', 'x_centroid', 'ra', 'flux_samples'):
                pair = (table[column].to_pylist() for table in (rows, same))
                assert_allclose(*pair, rtol=1e-4)
            assert rows.schema == same.schema
    return records


def test_same_as_alone(several, tmp_path, monkeypatch):
    """
    Failures and warnings are those of their field, whatever it goes with.
    """
    prepare = _batches._Task.of

    def warns(data, *args):
        # All fields are prepared before any is done.
        warn(f'the sum is {data.data.sum()}')
        return prepare(data, *args)

    monkeypatch.setattr(_batches._Task, 'of', warns)
    records = work_on(several, tmp_path / 'both', Job(options={'n_samples': 2}))
    assert {record['field'] for record in records} == {field.id for field in several}
    for field in several:
        catalog_field(field, tmp_path / 'alone', n_samples=2)
    records = _assert_same(tmp_path / 'both', tmp_path / 'alone')
    failed = {name for name, record in records.items() if record['status'] == 'failed'}
    assert failed == {'cut', 'nan'}
    warned = {name: len(record['warnings']) for name, record in records.items()}
    assert [warned[f'image{k:02d}'] for k in range(4)] == [1, 3, 1, 2]
    assert warned['cut'] == warned['nan'] == 0


def test_an_error_is_that_of_one(fields, tmp_path, monkeypatch):
    """
    Also where it comes from the encoder, which has all of them at once.
    """
    numbers, infer = [], _batches.infer_posteriors

    def fails(inputs, **options):
        numbers.append(len(inputs))
        masked = any(one.image.exposure.mask.mean() > 0.5 for one in inputs)
        if masked:
            raise MemoryError('too large')
        return infer(inputs, **options)

    path = Path(fields[1].files[''])
    data, header = fits.getdata(path, header=True)
    data[20:] = np.nan
    fits.writeto(path, data, header, overwrite=True)
    monkeypatch.setattr(_batches, 'infer_posteriors', fails)
    records = work_on(fields, tmp_path, Job())
    assert numbers == [4, 1, 1, 1, 1]
    records = {record['field']: record for record in records}
    assert records.pop('image01')['reason'] == f'MemoryError: too large ({path})'
    assert {record['status'] for record in records.values()} == {'done'}


def test_written_one_by_one(fields, tmp_path, monkeypatch):
    """
    What was written before the end of a process is not done again.
    """
    write, left = _Work.write, []

    def stops(work, folder):
        if work.ref is fields[2]:
            raise OSError('the disk is full')
        return write(work, folder)

    monkeypatch.setattr(_Work, 'write', stops)
    with pytest.raises(OSError, match='disk is full'):
        work_on(fields, tmp_path, Job(), leave=lambda: left.append(1))
    assert left == [1]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('fields/*')}
    assert {path.stem for path in before} == {'image00', 'image01', 'image03'}
    monkeypatch.undo()
    work_on(fields, tmp_path, Job())
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert _records(tmp_path)['image02']['status'] == 'done'


def test_warnings_about_a_part(fields):
    kept = [
        ('image 1', 'a', UserWarning),
        ("image 1: band 'g'", 'b', UserWarning),
        ('image 11', 'c', UserWarning),
        (None, 'd', UserWarning),
    ]
    work = _Work(fields[0], Job())
    work.open()
    work.keep(kept, 'image 1')
    texts = ['UserWarning: a', "UserWarning: band 'g': b", 'UserWarning: d']
    assert work.record['warnings'] == texts
    assert [item[1] for item in kept] == ['c']
    assert [item[1] for item in take_warnings(kept)] == ['c']
    assert kept == []


def test_settings_of_the_tutorial():
    """
    What users are to set for workers of their own is what `run_survey` sets.
    """
    page = Path(__file__).parents[2] / 'docs' / 'tutorials' / 'survey.rst'
    if not page.is_file():
        pytest.skip('no docs beside the tests')
    _, _, text = page.read_text().partition('.. code-block:: yaml\n')
    lines = text.splitlines()[1:]
    end = next(k for k, line in enumerate(lines) if line and line[0] != ' ')
    found = yaml.safe_load('\n'.join(lines[:end]))
    expected = {}
    with dask.config.set(DASK_SETTINGS, config=expected):
        assert found == expected
