# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of runs: the same results whatever happens, damaged files, lost workers.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import dask
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyUserWarning
from distributed import Client, LocalCluster
from pyarrow import dataset

from bliss_astro import Encoder
from bliss_astro._atomic import lock_folder
from bliss_astro.cli import main
from bliss_astro.runs import (
    DASK_SETTINGS,
    FieldRef,
    catalog_field,
    find_fields,
    run_survey,
)

QUIET = {'progress_bar': False}


@pytest.fixture(scope='module')
def client():
    """
    Two worker processes.
    """
    own = {'n_workers': 2, 'threads_per_worker': 1}
    own |= {'host': '127.0.0.1', 'dashboard_address': '127.0.0.1:0'}
    # A field fails when it has cost one worker.
    allowed = {'distributed.scheduler.allowed-failures': 0}
    with (
        mock.patch.dict(os.environ),
        dask.config.set(allowed | DASK_SETTINGS),
        LocalCluster(**own) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _files(folder):
    """
    Contents of the files of the fields, without times.
    """
    found = {path.name: path.read_bytes() for path in (folder / 'fields').iterdir()}
    for name in found:
        if name.endswith('.json'):
            found[name] = json.loads(found[name]) | {'seconds': None}
    return found


def _table(folder):
    table = QTable.read(folder / 'fields.ecsv')
    return {row['field']: row for row in table}


def test_same_as_a_loop_in_any_order(client, fields, tmp_path):
    run_survey(fields[::-1], tmp_path / 'run', client=client, n_samples=2, **QUIET)
    for field in fields:
        catalog_field(field, tmp_path / 'loop', threshold=0.5, n_samples=2)
    assert _files(tmp_path / 'run') == _files(tmp_path / 'loop')
    table = _table(tmp_path / 'run')
    assert list(table) == [field.id for field in fields]
    assert {row['status'] for row in table.values()} == {'done'}
    assert table['image02']['area'].unit == 'arcmin2'
    run = json.loads((tmp_path / 'run/run.json').read_text())
    assert run['encoder'] == 'stars-galaxies'
    assert run['options'] == {'threshold': 0.5, 'n_samples': 2}
    assert len(run['encoder_sha256']) == 64


def test_resume(client, fields, tmp_path):
    """
    What is done is skipped; what failed, or changed, is done again.
    """
    folder = tmp_path / 'run'
    paths = [Path(field.files['']) for field in fields]
    sound = paths[3].read_bytes()
    paths[3].write_bytes(b'')
    run_survey(fields[1:], folder, client=client, **QUIET)
    assert _table(folder)['image03']['status'] == 'failed'
    times = {
        path.name: path.stat().st_mtime_ns for path in (folder / 'fields').iterdir()
    }
    paths[3].write_bytes(sound)
    paths[2].write_bytes(paths[1].read_bytes())
    (folder / 'fields' / '.tmp-of-a-killed-process').write_text('')
    (folder / '.tmp-catalog' / 'catalog').mkdir(parents=True)
    run_survey(fields, folder, client=client, **QUIET)
    assert {row['status'] for row in _table(folder).values()} == {'done'}
    assert not list(folder.glob('.tmp-*'))
    new = {path.name: path.stat().st_mtime_ns for path in (folder / 'fields').iterdir()}
    same = {name for name in new if new[name] == times.get(name)}
    assert same == {f'image01.{ending}' for ending in ('json', 'npz', 'parquet')}
    assert len(new) == 12


def test_products_are_of_what_is_done(client, fields, tmp_path):
    """
    Also when a file changes in one session, fails later, or the writing was stopped.
    """
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / '.tmp-of-a-killed-process').write_text('')
    paths = [Path(field.files['']) for field in fields]

    def run():
        survey = run_survey(fields[:2], folder, client=client, **QUIET)
        rows = dataset.dataset(folder / 'catalog' / 'dataset').to_table()
        assert len(rows) == survey.fields['n_rows'].sum()
        expected = np.nansum(survey.fields['expected_count'])
        assert survey.expected_counts() == pytest.approx(expected, rel=1e-3)
        return survey

    assert 'bliss_astro' in run().rows().meta['version']
    paths[1].write_bytes(paths[2].read_bytes())
    assert len(run().fields) == 2
    # As if it had been killed while the catalogue was made.
    for path in (folder / 'catalog').glob('*properties'):
        path.write_text(path.read_text().replace('bliss_astro_fields=', 'x='))
    (folder / 'catalog/dataset/_metadata').write_text('')
    for path in (folder / 'catalog/dataset').glob('*/*/*.parquet'):
        path.unlink()
    run()
    paths[1].write_bytes(b'')
    assert list(run().fields['status']) == ['done', 'failed']
    paths[0].write_bytes(b'')
    with pytest.warns(UserWarning, match='no catalogue and maps'):
        run_survey(fields[:2], folder, client=client, **QUIET)
    assert {path.name for path in folder.iterdir()} == {
        'fields',
        'fields.ecsv',
        'run.json',
    }


def test_workers_that_come_later(client, fields, tmp_path, monkeypatch):
    seen = iter([{}])
    monkeypatch.setattr(client, 'nthreads', lambda: next(seen, {'worker': 1}))
    with pytest.warns(UserWarning, match='no workers yet'):
        survey = run_survey(fields[:1], tmp_path / 'run', client=client, **QUIET)
    assert list(survey.fields['status']) == ['done']


def test_other_runs_are_not_mixed(client, fields, tmp_path):
    folder = tmp_path / 'run'
    run_survey(fields[:1], folder, client=client, **QUIET)
    before = _files(folder)
    with pytest.raises(FileExistsError, match=r'threshold 0\.5, not 0\.9; n_samples'):
        run_survey(
            fields[:1], folder, client=client, threshold=0.9, n_samples=1, **QUIET
        )
    with pytest.raises(FileExistsError, match=r'encoder stars-galaxies .*, not stars '):
        run_survey(fields[:1], folder, client=client, encoder='stars', **QUIET)
    with lock_folder(folder), pytest.raises(BlockingIOError, match='another run'):
        run_survey(fields[:1], folder, client=client, **QUIET)
    assert _files(folder) == before
    encoder = Encoder.from_pretrained('stars')
    own = {'client': client, 'encoder': encoder, **QUIET}
    run_survey(fields[1:2], folder, overwrite=True, **own)
    # The encoder is kept, and known again.
    run_survey(fields[1:2], folder, **own)
    assert list(_table(folder)) == ['image01']
    kept = Encoder.from_pretrained(folder / 'encoder.safetensors')
    run = json.loads((folder / 'run.json').read_text())
    assert kept.card['sha256'] == run['encoder_sha256']
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/thesis.tex').write_text('')
    with pytest.raises(FileExistsError, match=r'other files: thesis\.tex'):
        run_survey(fields, tmp_path / 'other', client=client, overwrite=True)


def test_arguments(fields, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='fields must have a field'):
        run_survey([], tmp_path / 'run')
    with pytest.raises(TypeError, match='fields must be FieldRef; got str'):
        run_survey(['image.fits'], tmp_path / 'run')
    with pytest.raises(ValueError, match='workers must be left out'):
        run_survey(fields, tmp_path / 'run', client='tcp://here:1', workers=2)
    with pytest.raises(ValueError, match='fields must have an id each'):
        run_survey([fields[0], fields[0]], tmp_path / 'run')
    with pytest.raises(TypeError, match="no argument 'thresholdd'"):
        run_survey(fields, tmp_path / 'run', thresholdd=0.3)
    # Each field would fail, as an image that has been read states its own.
    with pytest.raises(ValueError, match='fwhm must be given to find_fields'):
        run_survey(fields, tmp_path / 'run', fwhm=3.0)
    with pytest.raises(ConnectionError, match=r"client must .* got 'inproc://1' \("):
        run_survey(fields, tmp_path / 'run', client='inproc://1')
    (tmp_path / 'file').write_text('')
    for place in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        with pytest.raises(OSError, match=r"output must .*; got '.*' \("):
            run_survey(fields, place)
    error = OSError(30, 'Read-only file system')
    monkeypatch.setattr('tempfile.TemporaryFile', mock.Mock(side_effect=error))
    with pytest.raises(OSError, match=r'output must .* \(Read-only file system'):
        run_survey(fields, tmp_path / 'run')
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ModuleNotFoundError, match=r'pyarrow: .*bliss_astro\[survey\]'):
        run_survey(fields, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()


def test_other_units(client, fields, tmp_path, monkeypatch):
    """
    Of a mixture the first fields stop the run; one among many fails.
    """
    folder = tmp_path / 'run'
    options = {k: v for k, v in fields[1].options.items() if k != 'zero_point'}
    odd = dataclasses.replace(fields[1], options=options)
    mixed = [fields[0], odd, *fields[2:]]
    different = r'fluxes in different units \(image0. .*, image0. .*run/fields'
    for _ in range(2):
        with pytest.raises(ValueError, match=different):
            run_survey(mixed, folder, client=client, **QUIET)
    survey = run_survey(fields, folder, client=client, **QUIET)
    assert set(survey.fields['status']) == {'done'}
    monkeypatch.setattr('bliss_astro.runs._survey._SETTLED', 3)
    survey = run_survey(mixed, folder, client=client, **QUIET)
    assert list(survey.fields['status']) == ['done', 'failed', 'done', 'done']
    assert 'fields have fluxes in different units' in survey.fields['reason'][1]
    assert not (folder / 'fields/image01.parquet').exists()
    # Other bands.
    odd = dataclasses.replace(fields[1], options=fields[1].options | {'band': 'i'})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r'different bands \(image0. ., image0. .\)'):
        run_survey([fields[0], odd], tmp_path / 'new', client=client, **QUIET)


def test_damaged_files(client, fields, tmp_path):
    """
    Each damaged field is named with its reason, the others are done.
    """
    sound = Path(fields[0].files['']).read_bytes()
    nan = tmp_path / 'nan.fits'
    fits.PrimaryHDU(np.full((88, 88), np.nan, 'f4')).writeto(nan)
    contents = {
        'truncated': (sound[:20000], 'OSError: .*truncated'),
        'empty': (b'', 'OSError: .*empty'),
        'text': (b'no image ' * 1000, 'OSError: .*cannot be read as FITS'),
        'nan': (nan.read_bytes(), 'ValueError: .*finite'),
        'header': (sound.replace(b'NAXIS1  =', b'NAXIS1  x'), 'OSError'),
        'table': (None, 'FileNotFoundError: .*no file'),
    }
    damaged = []
    for name, (content, _) in contents.items():
        path = tmp_path / f'{name}.fits'
        if content is not None:
            path.write_bytes(content)
        damaged.append(dataclasses.replace(fields[0], id=name, files={'': str(path)}))
    lacking = dataclasses.replace(fields[0], id='lacking', files={'r': None, 'g': 'g'})
    run_survey([*damaged, *fields, lacking], tmp_path / 'run', client=client, **QUIET)
    table = _table(tmp_path / 'run')
    assert {table[field.id]['status'] for field in fields} == {'done'}
    reasons = {name: reason for name, (_, reason) in contents.items()}
    for name, reason in (reasons | {'lacking': 'no image in band r'}).items():
        assert table[name]['status'] == 'failed'
        assert re.search(reason, table[name]['reason']), table[name]['reason']
        if name != 'lacking':
            assert str(tmp_path / f'{name}.fits') in table[name]['reason']


@pytest.mark.parametrize('batch_size', [1, 3])
def test_a_field_that_kills_its_worker(client, fields, tmp_path, batch_size):
    """
    It fails with a reason; fields that waited on that worker, or were worked on with
    it, are done.
    """

    class Deadly(FieldRef):
        def open(self):
            os.kill(os.getpid(), signal.SIGKILL)

    deadly = Deadly('deadly', fields[0].files)
    own = {'batch_size': batch_size, 'retries': 0, **QUIET}
    run_survey([fields[0], deadly, *fields[1:]], tmp_path / 'run', client=client, **own)
    table = _table(tmp_path / 'run')
    assert table['deadly']['reason'].startswith('KilledWorker: ')
    if batch_size > 1:
        assert {row['status'] for row in table.values()} == {'done', 'failed'}
        assert len(table) == 5
    # It stays, as do all fields of earlier calls.
    with pytest.warns(AstropyUserWarning, match=r'keeps 1 field of .*\(deadly\)'):
        again = run_survey(fields, tmp_path / 'run', client=client, **QUIET).fields
    assert 'deadly' in again['field']
    (tmp_path / 'run' / 'fields' / 'deadly.json').unlink()
    again = run_survey(fields, tmp_path / 'run', client=client, **QUIET).fields
    assert 'deadly' not in again['field']
    assert {row['status'] for row in again if row['field'] != 'deadly'} == {'done'}


def test_command(client, images, tmp_path, capsys):
    """
    The command counts what was done, and names what failed; its exit code is then 1.
    """
    broken = images / 'image02.fits'
    sound = broken.read_bytes()
    broken.write_bytes(sound[:3000])
    words = ['run', str(images), '-o', str(tmp_path / 'run'), '--zero-point', '25']
    words += ['--gain', '1', '--fwhm', '3.7', '--band', 'r', '--noise', '29.4']
    words += ['--scheduler', client.scheduler.address]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert 'found 4 fields' in printed.err
    assert f"failed: image02: OSError: path='{broken}' cannot be read" in printed.err
    numbers = dict(line.split()[:2] for line in printed.out.splitlines())
    assert (numbers['done'], numbers['skipped'], numbers['failed']) == ('3', '0', '1')
    broken.write_bytes(sound)
    assert main(words) == 0
    numbers = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert (numbers['done'], numbers['skipped'], numbers['failed']) == ('1', '3', '0')
    assert main([*words, '-t', '0.9']) == 1
    printed = capsys.readouterr()
    assert 'threshold 0.5, not 0.9' in printed.err
    assert '--overwrite' in printed.err
    table = Table({'file': [str(images / 'image00.fits')], 'id': ['one']})
    table.write(tmp_path / 'files.csv')
    words[1], words[3] = str(tmp_path / 'files.csv'), str(tmp_path / 'table')
    assert main([*words, '-q']) == 0
    assert list(_table(tmp_path / 'table')) == ['one']
    assert (tmp_path / 'table' / 'report.html').is_file()
    assert 'off sky  0 (no WCS' in capsys.readouterr().out
    mosaic = np.random.default_rng(1).normal(0, 29.4, (300, 420)).astype('float32')
    fits.writeto(tmp_path / 'mosaic.fits', mosaic)
    words[1], words[3] = str(tmp_path / 'mosaic.fits'), str(tmp_path / 'chunks')
    assert main([*words, '-q', '--chunk', '256', '--background', '0']) == 0
    assert list(_table(tmp_path / 'chunks')) == [
        *('mosaic-x0-y0', 'mosaic-x0-y1', 'mosaic-x1-y0', 'mosaic-x1-y1')
    ]
    assert 'off sky  4 (no WCS' in capsys.readouterr().out
    assert main([*words, '--chunk', '256', '--survey', 'sdss']) == 2
    assert 'leave out --survey' in capsys.readouterr().err
    assert main([*words, '--mask', 'absent.fits']) == 1
    assert (
        "--mask must name a file that is there; got 'absent" in capsys.readouterr().err
    )
    words[1], words[-1] = str(images), 'nowhere'
    assert main(words) == 1
    assert '--scheduler must be the address of a sch' in capsys.readouterr().err
    assert main([*words[:3], str(broken)]) == 1
    assert '--output must be a folder, or' in capsys.readouterr().err


# Jobs in the background of a shell ignore Ctrl-C.
_SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from bliss_astro.cli import main
if __name__ == '__main__':
    raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_kills(write_images, options, client, tmp_path):
    """
    A run that was killed goes on to the results of one that was not.
    """
    images, folder = write_images(tmp_path / 'images', 24), tmp_path / 'run'
    (tmp_path / 'run.py').write_text(_SCRIPT)
    words = [sys.executable, str(tmp_path / 'run.py'), 'run', str(images)]
    for name, value in options.items():
        name = {'effective_gain': 'gain', 'bkg_error': 'noise'}.get(name, name)
        words += [f'--{name.replace("_", "-")}', str(value)]
    words += ['-o', str(folder), '--workers', '1']
    start = functools.partial(
        subprocess.Popen, words, stderr=subprocess.PIPE, start_new_session=True
    )

    def wait_for(n, process):
        while len(list(folder.glob('fields/*.json'))) < n:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)

    with start() as process:
        wait_for(2, process)
        os.kill(_workers(process.pid)[0], signal.SIGKILL)
        wait_for(5, process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        assert b'interrupted; what is done is kept' in process.stderr.read()
    assert not _workers(process.pid)
    with start() as process:
        wait_for(9, process)
        process.kill()
    done = {path: path.stat().st_mtime_ns for path in folder.glob('fields/*.json')}
    fields = find_fields(images, **options)
    run_survey(fields, folder, client=client, **QUIET)
    assert all(path.stat().st_mtime_ns == done[path] for path in done)
    for field in fields:
        catalog_field(field, tmp_path / 'loop', threshold=0.5)
    assert _files(folder) == _files(tmp_path / 'loop')


def _workers(parent):
    """
    Numbers of the worker processes of a process.
    """
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(')')[2].split()
            command = path.with_name('cmdline').read_bytes()
            if int(words[1]) == parent and b'spawn_main' in command:
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
# Its worker may come after the first field.
@pytest.mark.filterwarnings('ignore:the cluster has no workers yet')
def test_lost_scheduler(fields, tmp_path):
    """
    A scheduler that is killed ends the run with a message.
    """
    file = tmp_path / 'scheduler.json'
    own = ['--scheduler-file', str(file), '--no-dashboard', '--host', '127.0.0.1']

    def start(name, *words):
        words = [sys.executable, '-m', f'distributed.cli.{name}', *own, *words]
        return subprocess.Popen(words, stderr=subprocess.DEVNULL)

    scheduler, worker = start('dask_scheduler'), start('dask_worker', '--no-nanny')

    def kill_after_one():
        while not list(tmp_path.glob('run/fields/*.json')):
            time.sleep(0.01)
        scheduler.kill()

    try:
        while not file.is_file():
            time.sleep(0.05)
        address = json.loads(file.read_text())['address']
        thread = threading.Thread(target=kill_after_one)
        thread.start()
        many = [dataclasses.replace(fields[0], id=f'f{k}') for k in range(40)]
        with pytest.raises(RuntimeError, match='the scheduler was lost'):
            run_survey(many, tmp_path / 'run', client=address, **QUIET)
        thread.join()
        assert list(tmp_path.glob('run/fields/*.json'))
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
