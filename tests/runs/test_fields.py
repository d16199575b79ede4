# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of fields: what is found in folders, lists and tables, and how it is opened.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro import OutOfDomainWarning
from bliss_astro.runs import FieldRef, find_fields


def _write(path, seed=0, **cards):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(0, 2, (40, 48)).astype('float32')
    fits.PrimaryHDU(data, fits.Header(cards)).writeto(path)
    return str(path)


def test_folder_glob_and_list(tmp_path):
    paths = [
        _write(tmp_path / name) for name in ('a/one.fits.gz', 'b/two.fit', 'c d.fits')
    ]
    (tmp_path / 'readme.txt').write_text('no image')
    for where in (tmp_path, f'{tmp_path}/**/*', paths):
        fields = find_fields(where, zero_point=25.0)
        assert [field.id for field in fields] == ['one', 'two', 'c-d']
        assert [field.files[''] for field in fields] == paths
        assert {field.options['zero_point'] for field in fields} == {25.0}
    assert [field.id for field in find_fields(f'{tmp_path}/*/*.fit')] == ['two']
    # Maps of a run in the same folder.
    _write(tmp_path / 'run/depth.fits')
    (tmp_path / 'run/run.json').write_text('{}')
    assert len(find_fields(tmp_path)) == 3
    with pytest.raises(FileNotFoundError, match=r'fields must name files.*none'):
        find_fields(f'{tmp_path}/*.fz')
    with pytest.raises(FileNotFoundError, match='with none'):
        find_fields(f'{tmp_path}/b/tow.fit')
    # A file that is named is a field, whatever it is.
    assert len(find_fields([*paths, tmp_path / 'readme.txt'])) == 4
    with pytest.raises(TypeError, match='fields must be a folder'):
        find_fields(3)


def test_ids_are_unique(tmp_path):
    paths = [_write(tmp_path / name / 'image.fits') for name in 'ab']
    assert [field.id for field in find_fields(paths)] == ['a-image', 'b-image']
    parts = [f'{paths[0]}[0][1:20,1:40]', f'{paths[0]}[0][21:48,1:40]']
    fields = find_fields(parts)
    assert [field.id for field in fields] == ['image-0-1-20-1-40', 'image-0-21-48-1-40']
    assert [field.open().shape for field in fields] == [(40, 20), (40, 28)]
    assert fields[0].paths() == paths[:1]
    with pytest.raises(ValueError, match='fields must have an id each'):
        find_fields([paths[0], paths[0]])
    names = [
        field.id for field in find_fields(['süd 1.fits', 'nord/é.fits', '星.fits'])
    ]
    assert names == ['s-xfcd-1', 'xe9', 'u661f']


def test_table_of_files_and_bands(tmp_path):
    paths = [_write(tmp_path / f'{k}.fits', k) for k in range(3)]
    table = Table({'id': ['x', 'x', 'y'], 'band': ['g', 'r', 'r'], 'file': paths})
    table['zero_point'] = MaskedColumn([24.0, 25.0, 0.0], mask=[False, False, True])
    one, two = find_fields(table, fwhm=3.0, bands='gr')
    assert one.options == {'fwhm': 3.0, 'zero_point': {'g': 24.0, 'r': 25.0}}
    assert two.options == {'fwhm': 3.0}
    assert two.files == {'g': None, 'r': paths[2]}
    with pytest.raises(FileNotFoundError, match='no image in band g'):
        two.open()
    (one,) = find_fields(table[2:])
    assert one.open().band.name == 'r'
    with pytest.raises(ValueError, match=r"one file for each id and band.*'x' 'g'"):
        find_fields(table[[0, 0]])
    with pytest.raises(ValueError, match="column 'file'; got id, band"):
        find_fields(table['id', 'band'])


def test_paths_of_a_table_and_of_options_are_absolute(tmp_path, monkeypatch):
    """
    Workers may be in other folders.
    """
    path, psf = _write(tmp_path / '1.fits'), tmp_path / 'psf.fits'
    psf.write_bytes(b'')
    monkeypatch.chdir(tmp_path)
    table = Table({'file': ['1.fits'], 'psf': ['psf.fits']})
    options = {'mask': 'MASK', 'weight': {'r': '1.fits[0]'}}
    [field] = find_fields(table, **options)
    assert field.paths() == [path, str(psf)]
    assert field.options['mask'] == 'MASK'
    assert field.options['weight'] == {'r': f'{path}[0]'}


def test_ref_is_plain(tmp_path):
    psf = tmp_path / 'psf.fits'
    psf.write_bytes(b'')
    options = {'psf': psf, 'fwhm': np.float32(2.5), 'name': 'no file'}
    field = FieldRef('x', {'r': Path('image.fits')}, options=options)
    assert field.options == {'psf': str(psf), 'fwhm': 2.5, 'name': 'no file'}
    assert field.paths() == ['image.fits', str(psf)]
    assert pickle.loads(pickle.dumps(field)) == field
    with pytest.raises(TypeError, match="options of 'x': JSON cannot hold set"):
        FieldRef('x', {'r': 'image.fits'}, options={'a': {1}})
    for name in ('', '../x', 'a/b', '.x'):
        with pytest.raises(ValueError, match='id must be a name'):
            FieldRef(name, {'r': 'image.fits'})
    with pytest.raises(ValueError, match=r"survey must be one of 'fits', .*'sdss'"):
        FieldRef('x', {'r': 'image.fits'}, survey='none').open()
    with pytest.raises(ValueError, match="got '_files'"):
        find_fields('x', survey='_files')


def test_fields_of_sdss(shared_data):
    found = {field.id: field for field in find_fields(shared_data / 'sdss', 'sdss')}
    assert set(found) == {'002583-2-0136', '003900-6-0269', '001000-1-0100'}
    m2 = found['002583-2-0136']
    assert list(m2.files) == list('ugriz') == list(m2.options['fpm'])
    assert Path(m2.options['psfield']).name == 'psField-002583-2-0136.fits'
    assert len(m2.paths()) == 11
    frames = f'{shared_data}/sdss/*/*/*/frame-r-*'
    one, two = find_fields(frames, 'sdss', bands='r', noise='measure')
    assert (one.id, two.id) == ('001000-1-0100', '002583-2-0136')
    # The mask of a whole frame is none of a cut-out.
    with (
        pytest.warns(AstropyUserWarning, match='cut from the corner'),
        pytest.raises(ValueError, match='fpM-001000-r1-0100'),
    ):
        one.open()
    assert list(two.files) == ['r']
    with pytest.warns(OutOfDomainWarning, match='in psfield'):
        exposure = two.open()
    assert exposure.shape == (1489, 2048)
    assert exposure.band.name == 'r'
    assert exposure.psf is not None
    assert exposure.meta['noise_ratio'] > 0
    with pytest.raises(FileNotFoundError, match='must name frames of SDSS'):
        find_fields(shared_data / 'sep', 'sdss')
