# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of fields: what is found in folders, lists and tables, and how it is opened.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits, registry
from astropy.table import MaskedColumn, Table
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro import OutOfDomainWarning
from bliss_astro._lazy import _SURVEYS
from bliss_astro.exposures import Exposure
from bliss_astro.runs import FieldRef, fields_of, find_fields, run_survey
from bliss_astro.runs._plug_ins import keywords_of


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
    for name in ('*/*.fit', 'b/tw[no].fit', 'b/two.fit[1]'):
        [field] = find_fields(f'{tmp_path}/{name}')
        assert field.id.startswith('two')
    # Maps of a run in the same folder.
    _write(tmp_path / 'run/depth.fits')
    (tmp_path / 'run/run.json').write_text('{}')
    assert len(find_fields(tmp_path)) == 3
    (tmp_path / 'text').mkdir()
    (tmp_path / 'text' / 'readme.txt').write_text('no image')
    with pytest.raises(ValueError, match='fields must name FITS images; got 1 other'):
        find_fields(tmp_path / 'text')
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
    by_hand = FieldRef('1', {'': '1.fits'}, options={'psf': 'psf.fits'} | options)
    assert by_hand == field
    monkeypatch.setenv('HOME', str(tmp_path))
    home = FieldRef('1', {'': '~/1.fits'}, options={'psf': '~/psf.fits'} | options)
    assert home == field
    for where in ('~', '~/*.fits', '~/1.fits'):
        assert find_fields(where)[-1].files in ({'': path}, {'': str(psf)})
    url = 's3://here/1.fits[0]'
    files = {'g': (url, '~none.fits'), 'r': None}
    expected = {'g': (url, f'{tmp_path}/~none.fits'), 'r': None}
    assert FieldRef('1', files).files == expected
    (tmp_path / 'a.zarr' / 'w').mkdir(parents=True)
    [field] = fields_of('1.fits', 256, name='m')
    assert field.files == {'': path}
    field = field.with_options({}, weight='a.zarr/w')
    assert field.options['weight'] == f'{tmp_path}/a.zarr/w'
    known = {'background': 0, 'bkg_error': 1, 'effective_gain': 1, 'fwhm': 3}
    [field] = fields_of(np.ones((300, 300)), 512, name='m', **known)
    assert pickle.loads(pickle.dumps(field)).open().shape == (300, 300)
    assert not field.paths()


def test_bands_and_options_that_there_are_not(tmp_path):
    """
    They are found before the work, not once for each field.
    """
    path = _write(tmp_path / '1.fits')
    with pytest.raises(ValueError, match=r"bands must be left out.* column 'band'"):
        find_fields(tmp_path, bands='gr')
    table = Table({'file': [path], 'band': ['F200W']})
    with pytest.raises(
        ValueError,
        match='among those of the files, F200W; got F200W, F444W',
    ):
        find_fields(table, bands=['F200W', 'F444W'])
    assert list(find_fields(table, bands='F200W')[0].files) == ['F200W']
    known = r"zeropoint must be left out: .* 'background', .* 'zero_point'"
    table['zeropoint'] = [25.0]
    with pytest.raises(ValueError, match=known):
        find_fields(table)
    with pytest.raises(
        FileNotFoundError, match=r"psf must .* there; got 'p.fits\[1\]'"
    ):
        find_fields(path, psf='p.fits[1]')
    with pytest.raises(ValueError, match=r"psff must .*survey='fits'"):
        find_fields(path, psff=3.0)
    with pytest.raises(ValueError, match=r"psff must .* a mosaic .*'variance'"):
        fields_of(path, psff=3.0)
    frame = 'frame-r-002583-2-0136.fits'
    with pytest.raises(ValueError, match=r"fwhm must .*survey='sdss'.*'bad_planes'"):
        find_fields([frame], 'sdss', fwhm=3.0)
    field = FieldRef('x', {'r': frame}, 'sdss', {'fwhm': 3.0})
    with pytest.raises(ValueError, match=r"fwhm must .*survey='sdss'"):
        run_survey([field], tmp_path / 'run')
    one, two = FieldRef('1', {'g': path}), FieldRef('2', {'SDSS.r': path})
    with pytest.raises(ValueError, match=r'a band in common .*; got 1 g; 2 r'):
        run_survey([one, two], tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('survey', ['fits', *_SURVEYS])
def test_options_of_a_survey(survey):
    """
    Its function takes all those that it names.
    """
    known = keywords_of(survey)
    assert {'background', 'band', 'psf', 'zero_point'} <= known or survey == 'sdss'
    own = {'hsc': 'bad_planes', 'legacysurvey': 'ccds', 'sdss': 'psfield'}
    assert own.get(survey, 'weight') in known
    # Formats of others may have any.
    registry.register_reader('other', Exposure, print)
    try:
        assert (keywords_of(survey) is None) == (survey == 'fits')
    finally:
        registry.unregister_reader('other', Exposure)


def test_ref_is_plain(tmp_path):
    psf = tmp_path / 'psf.fits'
    psf.write_bytes(b'')
    options = {'psf': psf, 'fwhm': np.float32(2.5), 'name': 'no file'}
    field = FieldRef('x', {'r': Path('/m/image.fits')}, options=options)
    assert field.options == {'psf': str(psf), 'fwhm': 2.5, 'name': 'no file'}
    assert field.paths() == ['/m/image.fits', str(psf)]
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
