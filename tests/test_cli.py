# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the command line, as a shell user meets it: output, files, exit codes.
"""

import contextlib
import importlib.util
import json
import os
import sys
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table

import bliss_astro
from bliss_astro import ProbabilisticCatalog, detect_sources
from bliss_astro.cli import _parser, main
from bliss_astro.cli._files import check_paths, write_catalog
from bliss_astro.cli._options import bundled_configs, name_options
from bliss_astro.cli._simulate import simulate_field
from bliss_astro.cli._train import find_config
from bliss_astro.simulation._images import read_simulated

TINY = """\
description = "Too small to be of use, quick to train"

[encoder]
width = 16
n_blocks = 1
stem_width = 8
head_width = 16

[simulation]
n_exposures = [1, 1]
shape = [32, 32]

[training]
n_steps = 6
batch_size = 4
n_validation = 4
validate_every = 3
precision = "float32"
"""
# Three times faster than the default, where the encoder does not matter.
STARS = ('--encoder', 'stars')


@pytest.fixture(scope='module')
def simulated(tmp_path_factory):
    """
    Give a small simulated image of five exposures.
    """
    path = tmp_path_factory.mktemp('cli') / 'image.fits'
    words = [
        '-d',
        '5',
        '--shape',
        '72x80',
        '--density',
        '0.003',
        '--seed',
        '4',
        '--quiet',
    ]
    assert main(['simulate', *words, '-o', str(path)]) == 0
    return path


@pytest.fixture
def plain_image(tmp_path, simulated):
    """
    Give the same field as any telescope might write it.
    """
    data, header = fits.getdata(simulated, header=True)
    head = fits.Header()
    head['BUNIT'] = 'nanomaggy'
    head['SKY'] = header['BKGLEVEL']
    for key, value in {
        'CTYPE1': 'RA---TAN',
        'CTYPE2': 'DEC--TAN',
        'CRPIX1': 40.0,
        'CRPIX2': 36.0,
        'CRVAL1': 323.0,
        'CRVAL2': -0.8,
        'CDELT1': -1.1e-4,
        'CDELT2': 1.1e-4,
    }.items():
        head[key] = value
    mask = np.zeros(data.shape, dtype=np.uint8)
    mask[10:12, 20:30] = 4
    path = tmp_path / 'plain.fits'
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(data, head, name='SCI'),
            fits.ImageHDU(mask, name='MASK'),
        ]
    ).writeto(path)
    return path


@pytest.fixture(scope='module')
def found(simulated, tmp_path_factory):
    """
    Give the catalogue of the simulated image, by the command.
    """
    path = tmp_path_factory.mktemp('found') / 'cat.fits'
    assert main(['detect', str(simulated), *STARS, '-q', '-o', str(path)]) == 0
    return path


def last_error(capsys):
    """
    Return the last line of the standard error, which must hold no traceback.
    """
    text = capsys.readouterr().err
    assert 'Traceback' not in text
    return text.strip().splitlines()[-1]


# -- the frame ---------------------------------------------------------------------


def test_version_and_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(['--version'])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f'bliss-astro {bliss_astro.__version__}\n'
    with pytest.raises(SystemExit) as stop:
        main(['--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in ('demo', 'detect', 'simulate', 'evaluate', 'train', 'encoders'):
        assert command in text


@pytest.mark.parametrize(
    ('command', 'texts'),
    [
        ('detect', ['without it the 20 brightest sources are printed']),
        ('coadd', ['the first sets the pixels']),
        ('recipe', ['exposures in each IMAGE', 'a quarter of them where it starts']),
        ('simulate', ['band of that PSF (default: r)', 'sky of an exposure']),
    ],
)
def test_help_says_what_cannot_be_guessed(command, texts, capsys):
    with pytest.raises(SystemExit):
        main([command, '--help'])
    text = ' '.join(capsys.readouterr().out.split())
    for each in texts:
        assert each in text


@pytest.mark.parametrize(
    'words',
    [
        [],
        ['frobnicate'],
        ['detect'],
        ['detect', 'a.fits', '-t', '1.0'],
        ['detect', 'a.fits', '--background', 'much'],
        ['detect', 'a.fits', '--gain', '-3'],
        ['detect', 'a.fits', '--band', 'V'],
        ['simulate'],
        ['simulate', '-o', 'a.fits', '--shape', '3x4x5'],
        ['simulate', '-o', 'a.fits', '-d', '0'],
        ['evaluate', 'a.fits'],
        ['train', 'stars', '--resume', '--overwrite'],
    ],
)
def test_wrong_usage_is_two(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert 'error:' in last_error(capsys)


@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        (['-o', 'cat.xyz'], 'must be one of .fits'),
        (['-o', 'm.fits', '--mask', 'm.fits', '--overwrite'], 'written to as well'),
        (['--plot', 'a.xyz'], 'must be one of .'),
        (['--posterior'], '--posterior needs -o'),
        (['--posterior', '-o', 'cat.ecsv'], 'only FITS'),
        (['-o', 'same.fits', '--plot', 'same.fits'], 'must be one of .'),
        (['--fpm', 'IMAGE'], '--fpm does not go with'),
        (['--gain', '2'], '--gain does not go with'),
        (['--rms', 'IMAGE'], '--rms does not go with'),
        (['--zero-point', '25'], '--zero-point does not go with'),
        (['-o', 'IMAGE', '--overwrite'], 'cannot be written to as well'),
    ],
)
def test_options_that_cannot_be_meant(
    simulated, words, reason, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = [str(simulated) if w == 'IMAGE' else w for w in words]
    assert main(['detect', str(simulated), *words]) == 2
    line = last_error(capsys)
    assert reason in line
    assert line.startswith('bliss-astro: error: ')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        (['absent.fits'], 'there is no file absent.fits'),
        (['IMAGE', '--psf', 'absent.fit'], 'there is no file absent.fit'),
        (['IMAGE', '-o', 'absent/cat.fits'], '-o absent/cat.fits cannot be written: '),
        (['IMAGE', '--plot', 'absent/a.png'], '--plot absent/a.png cannot be written'),
        (['IMAGE', '-o', '/proc/cat.fits'], '-o /proc/cat.fits cannot be written'),
        (['IMAGE', '--encoder', 'galaxies'], "unknown encoder 'galaxies'"),
        (['IMAGE', '--device', 'abacus'], "('cpu'"),
        (['IMAGE', '--device', 'abacus'], "error: --device must be 'auto' or"),
        (['IMAGE', '--device', 'meta'], "got 'meta'"),
        (['.'], '. is a folder'),
        (['IMAGE', '--extension', '7'], 'has no extension 7'),
        (['IMAGE[TRUTH]'], 'is no two-dimensional image'),
        (['IMAGE[0][1:999,1:9]'], 'must lie within 1:80'),
        (['absent.fits[1]'], 'there is no file absent.fits'),
        (['IMAGE', '--extension', 'TRUTH'], 'is no two-dimensional image'),
        (['text.fits'], 'error: IMAGE text.fits cannot be read as FITS'),
        (['empty.fits'], 'Empty or corrupt'),
        (['short.fits', '-o', 'cat.fits'], 'cannot be read as FITS'),
        (['table.fits'], 'has no two-dimensional image'),
    ],
)
def test_bad_input_is_one_line_and_no_file(
    simulated, words, reason, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.fits').write_text('no image')
    (tmp_path / 'empty.fits').write_text('')
    (tmp_path / 'short.fits').write_bytes(simulated.read_bytes()[:9000])
    Table({'a': [1]}).write(tmp_path / 'table.fits')
    before = sorted(tmp_path.iterdir())
    words = [w.replace('IMAGE', str(simulated)) for w in words]
    assert main(['detect', *words, '--quiet']) == 1
    line = last_error(capsys)
    assert line.startswith('bliss-astro: error: ')
    assert reason in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        (['--rms', 'absent.fits'], '--rms must be a file, FILE[EXT] or an extension'),
        (['--rms', 'absent.fits'], "there is no file 'absent.fits'"),
        (['--rms', '.'], "'.' is a folder"),
        (['--rms', 'text.fits'], '--rms text.fits cannot be read as FITS'),
        (['--rms', 'map.fits[BLA]'], 'has no extension BLA; it has 0 PRIMARY: image'),
        (['--noise', '1', '--weight', 'NOTHING'], 'not allowed with argument'),
        (['--psf', 'NOTHING', '--fwhm', '3'], 'not allowed with argument'),
        (['--weight', 'NOTHING'], '--weight: '),
        (['--mask', 'NOTHING'], 'has no extension NOTHING; it has 0 PRIMARY: image'),
        (['--background', 'header'], 'error: --background header: the header has none'),
        (['--saturation', '1e-9'], 'error: --saturation must lie above'),
        (['--psf', 'map.fits[BLA]'], 'error: --psf: '),
        (['--psf', 'map.fits[BLA]'], 'has no extension BLA; it has 0 PRIMARY: image'),
        (['--fwhm', '300'], 'error: --fwhm must be at most'),
        (['--fwhm', '3', '--bin', '99'], 'error: --bin must be from 1 to'),
    ],
)
def test_errors_name_the_option(
    simulated, words, reason, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.fits').write_text('no image')
    fits.writeto('map.fits', np.ones((9, 9)))
    fits.writeto('bare.fits', fits.getdata(simulated))
    try:
        code = main(['detect', 'bare.fits', *words, '--quiet'])
    except SystemExit as stop:
        code = stop.code
    line = last_error(capsys)
    assert code in (1, 2)
    assert reason in line
    assert 'bkg_error' not in line


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (
            'stars are narrow: give psf or fwhm',
            'stars are narrow: give --psf or --fwhm',
        ),
        ("bin='auto' joins 3 x 3 pixels", '--bin auto joins 3 x 3 pixels'),
        (
            "bkg_error must fit 'bkg_error.fits'; Give mask, or give background if",
            "--rms must fit 'bkg_error.fits'; Give --mask, or give --background if",
        ),
        (
            'Trim the image, give mask, or give background',
            'Trim the image, give --mask, or give --background',
        ),
        ('psf was measured; the mask is fine', 'psf was measured; the mask is fine'),
        ('n_threads must be 1', '--threads must be 1'),
        ("data='a.fits' has no header", 'IMAGE a.fits has no header'),
        ('psf_error is set to it', 'psf_error is set to it'),
    ],
)
def test_messages_name_options(text, expected):
    options = _parser().parse_args(['detect', 'a.fits', '--rms', 'b.fits'])
    assert name_options(text, options) == expected


def test_formats_of_catalogues(found, simulated, tmp_path, capsys):
    catalog = ProbabilisticCatalog.read(found, posterior=False)
    options = SimpleNamespace(overwrite=False, quiet=False)
    paths = {ending: tmp_path / f'cat.{ending}' for ending in ('csv', 'ecsv', 'vot')}
    for path in paths.values():
        write_catalog(options, catalog, str(path))
        assert f'wrote {path}' in last_error(capsys)
    assert len(Table.read(paths['csv'])) == len(catalog) > 5
    for ending in ('ecsv', 'vot'):
        assert len(ProbabilisticCatalog.read(paths[ending])) == len(catalog)
    regions = tmp_path / 'cat.reg'
    words = ['detect', str(simulated), *STARS, '-q', '-o', str(regions)]
    if importlib.util.find_spec('regions') is None:
        assert main(words) == 1
        assert 'needs the package regions' in last_error(capsys)
        return
    assert main(words) == 0
    assert regions.read_text().count('circle(') == len(catalog)


def test_existing_files_are_refused_before_the_work(
    simulated, tmp_path, capsys, monkeypatch
):
    def never(*args, **kwargs):
        pytest.fail('work was begun')

    monkeypatch.setattr('bliss_astro.detection.detect_sources', never)
    monkeypatch.setattr('bliss_astro.cli._simulate.simulate_field', never)
    path = tmp_path / 'bliss-demo-catalog.fits'
    path.write_text('mine')
    for words in (
        ['detect', str(simulated), '-o', str(path)],
        ['simulate', '-o', str(path)],
        ['demo', '-o', str(tmp_path)],
    ):
        assert main(words) == 1
        assert 'exists; pass --overwrite to replace it' in last_error(capsys)
    assert path.read_text() == 'mine'


def test_an_unexpected_error_is_one_line(simulated, capsys, monkeypatch):
    def fail(*args, **kwargs):
        msg = 'cannot\nmultiply'
        raise ArithmeticError(msg)

    monkeypatch.setattr('bliss_astro.detection.detect_sources', fail)
    assert main(['detect', str(simulated)]) == 1
    assert last_error(capsys) == 'bliss-astro: error: ArithmeticError: cannot multiply'
    with pytest.raises(ArithmeticError):
        main(['--traceback', 'detect', str(simulated)])


def test_interrupt_is_130(simulated, tmp_path, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('bliss_astro.detection.detect_sources', stop)
    output = tmp_path / 'cat.fits'
    assert main(['detect', str(simulated), '-o', str(output)]) == 130
    assert last_error(capsys) == 'bliss-astro: interrupted'
    assert not output.exists()


def test_closed_pipe_is_quiet(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    # Closing it writes what is left, as the interpreter does at its exit.
    with os.fdopen(writer, 'w') as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, 'stdout', stdout)
        assert main(['encoders']) == 141
    assert capsys.readouterr().err == ''


# -- simulate ----------------------------------------------------------------------


def test_simulated_file_keeps_all_it_holds(simulated):
    exposure, truth = simulate_field(5, shape=(72, 80), density=0.003, seed=4)
    with fits.open(simulated) as hdus:
        again, stars = read_simulated(hdus)
        assert hdus[0].header['BUNIT'] == 'nmgy'
        assert hdus[0].header['NEXPOSE'] == 5
    np.testing.assert_allclose(again.data, exposure.data, rtol=1e-6)
    assert again.unit == u.nmgy
    for name in ('background', 'bkg_error', 'effective_gain'):
        assert getattr(again, name) == pytest.approx(getattr(exposure, name))
    assert again.noise_correlation == pytest.approx(exposure.noise_correlation)
    np.testing.assert_allclose(again.psf.shape_vector, exposure.psf.shape_vector)
    assert again.psf.normalization_radius == exposure.psf.normalization_radius
    for name in ('x_centroid', 'y_centroid', 'flux', 'mag'):
        np.testing.assert_allclose(
            u.Quantity(stars[name]).value, u.Quantity(truth[name]).value, rtol=1e-12
        )
        assert getattr(stars[name], 'unit', None) == getattr(truth[name], 'unit', None)


def test_faintest_and_background_are_heeded(tmp_path):
    path = tmp_path / 'image.fits'
    words = [
        '--shape',
        '200',
        '--density',
        '0.01',
        '--faintest',
        '20',
        '--background',
        '400',
        '-q',
    ]
    assert main(['simulate', *words, '-o', str(path)]) == 0
    truth = QTable.read(path, hdu='TRUTH', unit_parse_strict='silent')
    # 400 stars are expected, half of which within 0.75 mag / 0.47 of the limit.
    assert 300 < len(truth) < 500
    assert 19.5 < np.max(truth['mag'].value) <= 20
    sky = fits.getheader(path)['BKGLEVEL']
    assert sky == pytest.approx(400 / 987.31, rel=1e-6)


def test_bands_have_a_file_each(tmp_path, capsys):
    words = ['--bands', 'gri', '--shape', '60', '--density', '0.01', '-q']
    assert main(['simulate', *words, '-o', str(tmp_path / 'field-{band}.fits')]) == 0
    found = {}
    for band in 'gri':
        with fits.open(tmp_path / f'field-{band}.fits') as hdus:
            found[band] = read_simulated(hdus)
            # Those of the prior, which is of r.
            assert ('FLUXMIN' in hdus[0].header) == (band == 'r')
        exposure, stars = found[band]
        assert exposure.band.name == band
        flux = u.Quantity(stars['flux']).value
        np.testing.assert_allclose(stars['mag'].value, 22.5 - 2.5 * np.log10(flux))
        # The light is that of the table.
        bright = np.argsort(flux)[-1]
        x, y = (round(stars[n][bright]) for n in ('x_centroid', 'y_centroid'))
        part = np.s_[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert exposure.data[part].sum() > 0.4 * flux[bright]
    places = [stars['x_centroid'] for _, stars in found.values()]
    np.testing.assert_array_equal(places[0], places[1])
    colour = found['g'][1]['mag'] - found['r'][1]['mag']
    assert 0.1 < np.median(colour.value) < 1.6
    images = [f'{band}={tmp_path}/field-{band}.fits' for band in 'rgi']
    output = str(tmp_path / 'found.ecsv')
    assert main(['detect', *images, '-q', '-o', output]) == 0
    assert {'flux_g', 'flux_r', 'flux_i'} <= set(QTable.read(output).colnames)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--bands', 'gq', '-o', 'a-{band}.fits'], '--bands: a band must be one of'),
        (['--bands', 'gr', '-o', 'a.fits'], 'several bands need {band}'),
        (
            ['--bands', 'gr', '--band', 'r', '--psf', 'p', '-o', 'a-{band}.fits'],
            '--band does not go with --bands',
        ),
    ],
)
def test_wrong_bands_of_a_field(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['simulate', *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_psf_of_a_psfield(tmp_path, shared_data):
    psfield = shared_data / 'sdss/94/1/12/psField-000094-1-0012.fits'
    if not psfield.is_file():
        pytest.skip('no psField of run 94')
    path = tmp_path / 'image.fits'
    words = ['--shape', '40', '--psf', str(psfield), '--band', 'r', '-q']
    assert main(['simulate', *words, '-o', str(path)]) == 0
    assert fits.getheader(path)['PSFS1'] == pytest.approx(1.49, abs=0.2)
    assert main(['simulate', '--band', 'r', '-o', str(path)]) == 2


# -- detect ------------------------------------------------------------------------


def test_detect_prints_a_table_and_nothing_else(simulated, capsys):
    assert main(['detect', str(simulated)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    names = ['id', 'probability', 'galaxy_probability', 'x_centroid', 'y_centroid']
    assert lines[0].split()[:5] == names
    assert 3 < len(lines) <= 23
    assert 'detecting in 80 x 72 px of a simulated image' in err
    # What the image was taken to be, and where each number comes from.
    line = next(line for line in err.splitlines() if ', FWHM ' in line)
    assert '80 x 72 px, FWHM ' in line
    assert line.count('(given)') == 4
    assert line.endswith('(SNR 5)')
    assert main(['detect', str(simulated), '-q']) == 0
    quiet, err = capsys.readouterr()
    assert quiet == out
    assert err == ''


def test_detect_writes_catalogue_and_picture(simulated, tmp_path, capsys):
    catalog, picture = tmp_path / 'cat.fits', tmp_path / 'cat.png'
    words = ['detect', str(simulated), '-o', str(catalog), '--plot', str(picture)]
    assert main([*words, *STARS, '-q']) == 0
    assert capsys.readouterr() == ('', '')
    table = ProbabilisticCatalog.read(catalog)
    assert len(table) > 3
    assert table['flux'].unit == u.nmgy
    assert np.all(table['probability'] > 0.5)
    assert table.posterior is None
    assert picture.read_bytes().startswith(b'\x89PNG')
    # A higher threshold keeps fewer rows; the posterior comes on demand.
    words = [*words[:4], *STARS, '-q', '--overwrite', '-t', '0.99', '--posterior']
    assert main(words) == 0
    fewer = ProbabilisticCatalog.read(catalog)
    assert len(fewer) <= len(table)
    assert fewer.posterior is not None


def test_detect_in_a_plain_image(plain_image, simulated, found, tmp_path, capsys):
    psf = tmp_path / 'psf.fits'
    with fits.open(simulated) as hdus:
        exposure, _ = read_simulated(hdus)
    offsets = np.arange(-15.0, 16)
    picture = exposure.psf(*np.meshgrid(offsets, offsets))
    fits.writeto(psf, np.asarray(picture))
    path = tmp_path / 'cat.ecsv'
    words = ['detect', str(plain_image), '--psf', str(psf), '--background', 'header']
    words += [*STARS, '--gain', str(exposure.effective_gain), '-q', '-o', str(path)]
    assert main(words) == 0
    table = ProbabilisticCatalog.read(path)
    assert table['flux'].unit == u.nmgy
    assert abs(table['sky_centroid'].ra.deg - 323.0).max() < 0.01
    other = ProbabilisticCatalog.read(found)
    # The same light, but for the noise that had to be estimated.
    assert table['flux'][0].value == pytest.approx(other['flux'][0].value, rel=0.05)
    assert main([*words[:4], '--extension', 'SCI', '--mask', 'NIX']) == 1
    assert 'no extension NIX' in last_error(capsys)


def test_unknown_unit_is_a_warning(plain_image, tmp_path, capsys):
    with fits.open(plain_image, mode='update') as hdus:
        hdus['SCI'].header['BUNIT'] = 'jansky per furlong'
    with fits.open(plain_image) as hdus:
        fits.writeto(tmp_path / 'psf.fits', np.ones((5, 5)) + np.eye(5))
        assert hdus['SCI'].header['BUNIT'] == 'jansky per furlong'
    path = tmp_path / 'cat.ecsv'
    assert main(['detect', str(plain_image), *STARS, '-o', str(path), '-q']) == 0
    err = capsys.readouterr().err
    assert "BUNIT 'jansky per furlong'" in err
    assert all(line.startswith('bliss-astro: warning: ') for line in err.splitlines())
    assert getattr(ProbabilisticCatalog.read(path)['flux'], 'unit', None) is None


def test_nothing_found_is_an_empty_table(tmp_path, capsys):
    path, output = tmp_path / 'image.fits', tmp_path / 'cat.fits'
    words = ['--shape', '48', '--density', '1e-9', '-q']
    assert main(['simulate', *words, '-o', str(path)]) == 0
    picture = str(tmp_path / 'a.png')
    words = ['detect', str(path), *STARS, '-t', '0.999', '--plot', picture, '-q']
    assert main([*words, '-o', str(output)]) == 0
    assert 'warning: NoDetectionsWarning' in capsys.readouterr().err
    assert len(ProbabilisticCatalog.read(output)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('section', 'n_pixels'),
    [
        ('[701:956,501:756]', 256**2),
        pytest.param(
            '',
            1489 * 2048,
            marks=pytest.mark.skipif(
                'BLISS_ASTRO_RUN_SLOW' not in os.environ,
                reason='takes a minute; set BLISS_ASTRO_RUN_SLOW to run it',
            ),
        ),
    ],
)
def test_detect_in_an_sdss_frame(shared_data, tmp_path, capsys, section, n_pixels):
    folder = shared_data / 'sdss_two_epoch/6377/4/399'
    names = {
        '--psf': 'psField-006377-4-0399.fit',
        '--tsfield': 'tsField-006377-4-40-0399.fit',
        '--fpm': 'fpM-006377-r4-0399.fit.gz',
    }
    image = folder / 'fpC-006377-r4-0399.fit.gz'
    if not image.is_file():
        pytest.skip('no fpC of run 6377')
    path = tmp_path / 'cat.fits'
    words = [w for k, v in names.items() for w in (k, str(folder / v))]
    words = ['detect', f'{image}{section}', *words, '-q', '-o', str(path)]
    assert main(words) == 0
    catalog = ProbabilisticCatalog.read(path)
    assert 6e-5 * n_pixels < len(catalog) < 1.6e-3 * n_pixels
    assert catalog['flux'].unit == u.nmgy
    assert 'sky_centroid' in catalog.colnames
    words = ['detect', str(image), '--band', 'g']
    assert main(words) == 1
    assert '--band g was given' in last_error(capsys)


# -- evaluate ----------------------------------------------------------------------


def test_evaluate(found, simulated, tmp_path, capsys):
    table, picture = tmp_path / 'scores.ecsv', tmp_path / 'scores.png'
    words = ['evaluate', str(found), str(simulated), '-o', str(table)]
    assert main([*words, '--plot', str(picture), '-q']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ['magnitude', 'true', 'recall']
    assert lines[-1].split()[0] == 'all'
    scores = QTable.read(table)
    with fits.open(simulated) as hdus:
        n_truth = len(hdus['TRUTH'].data)
    assert scores['n_truth'][-1] == n_truth
    assert scores['n_truth'][:-1].sum() == n_truth
    assert scores['recall'][-1] > 0.5
    assert abs(scores['flux_median'][-1]) < 0.1
    assert picture.stat().st_size > 1000


def test_evaluate_hand_made_tables(tmp_path, capsys):
    truth, found = tmp_path / 'truth.csv', tmp_path / 'found.ecsv'
    Table({'x': [5.0, 20, 40], 'y': [5.0, 20, 40], 'mag': [19.0, 20, 21]}).write(truth)
    Table({'xcentroid': [5.3, 30.0], 'ycentroid': [5.0, 3], 'mag': [19.1, 20.2]}).write(
        found
    )
    output = tmp_path / 'scores.csv'
    words = ['evaluate', str(found), str(truth), '-q']
    assert main([*words, '-o', str(output)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[1:5] == [
        '3',
        '0.333',
        '2',
        '0.500',
    ]
    scores = Table.read(output)
    expected = 10 ** (-0.4 * 0.1) - 1
    assert scores['flux_median'][-1] == pytest.approx(expected)
    # Too small a radius leaves no pair.
    assert main([*words, '--radius', '0.2']) == 0
    assert '0.000' in capsys.readouterr().out
    assert main([*words, '--sky']) == 1
    assert 'has neither sky_centroid nor ra and dec' in last_error(capsys)


def test_evaluate_on_the_sky(tmp_path, capsys):
    truth, found = tmp_path / 'truth.ecsv', tmp_path / 'found.ecsv'
    sky = QTable({'ra': [10.0, 10.01] * u.deg, 'dec': [0.0, 0.0] * u.deg})
    sky['flux'] = [10.0, 20.0] * u.electron
    sky.write(truth)
    sky['ra'][0] += 0.4 * u.arcsec
    sky[:1].write(found)
    assert main(['evaluate', str(found), str(truth), '--sky', '-q']) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[1:5] == [
        '2',
        '0.500',
        '1',
        '1.000',
    ]


def test_evaluate_refuses_what_is_no_table(simulated, tmp_path, capsys):
    path = tmp_path / 'cat.csv'
    path.write_text('a,b\n1,2\n')
    assert main(['evaluate', str(path), str(simulated)]) == 1
    assert 'has no columns x_centroid and y_centroid' in last_error(capsys)
    assert main(['evaluate', str(simulated), str(path)]) == 1
    assert 'can only be the TRUTH' in last_error(capsys)
    (tmp_path / 'bad.fits').write_bytes(b'nothing')
    assert main(['evaluate', str(tmp_path / 'bad.fits'), str(simulated)]) == 1
    assert 'cannot be read' in last_error(capsys)


# -- train and encoders --------------------------------------------------------------


def test_train_resume_and_use(tmp_path, simulated, capsys, monkeypatch):
    monkeypatch.setenv('TQDM_MININTERVAL', '30')
    monkeypatch.chdir(tmp_path)
    config = tmp_path / 'tiny.toml'
    config.write_text(TINY)
    assert main(['train', str(config), '--max-minutes', '1e-6']) == 0
    out, err = capsys.readouterr()
    assert 'of 6' in out
    assert 'to continue: bliss-astro train' in err
    assert main(['train', str(config)]) == 1
    assert 'pass --resume or --overwrite' in last_error(capsys)
    assert main(['train', str(config), '--resume', '-q']) == 0
    assert 'steps            6 of 6' in capsys.readouterr().out
    weights = tmp_path / 'tiny' / 'tiny.safetensors'
    assert json.loads(weights.with_suffix('.json').read_text())['name'] == 'tiny'
    words = ['detect', str(simulated), '--encoder', str(weights), '-q']
    assert main(words) == 0
    # A single byte that changed is noticed.
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    assert main(words) == 1
    assert 'corrupted or altered' in last_error(capsys)


def test_interrupted_training_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stop(config, output, **kwargs):
        (output / 'checkpoint.pt').write_text('')
        raise KeyboardInterrupt

    monkeypatch.setenv('TQDM_MININTERVAL', '30')
    monkeypatch.setattr('bliss_astro.training.train_encoder', stop)
    folder = tmp_path / 'a run'
    folder.mkdir()
    words = ['train', 'stars', '-o', str(folder), '--name', 'mine', '--device', 'cpu']
    assert main(words) == 130
    assert last_error(capsys) == (
        f"bliss-astro: interrupted; to continue: bliss-astro train stars -o '{folder}' "
        '--name mine --device cpu --resume'
    )


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (('[training]', '[lessons]'), "unknown section 'lessons'"),
        (('n_steps', 'steps'), "unknown setting 'steps'"),
        (('n_steps = 6', 'n_steps = "six"'), 'in [training]'),
        (('n_steps = 6', 'n_steps = six'), 'not valid TOML'),
        (('[32, 32]', '[20, 20]'), 'shape must be more than'),
    ],
)
def test_bad_configurations(tmp_path, capsys, change, reason):
    config = tmp_path / 'tiny.toml'
    config.write_text(TINY.replace(*change))
    output = tmp_path / 'run'
    assert main(['train', str(config), '-o', str(output)]) == 1
    assert reason in last_error(capsys)
    assert not output.exists()


def test_bundled_configurations(tmp_path, monkeypatch, capsys):
    assert {'stars', 'stars-crowded'} <= set(bundled_configs())
    monkeypatch.chdir(tmp_path)
    assert find_config('stars.toml') == find_config('stars')
    (tmp_path / 'stars.toml').write_text(TINY)
    assert find_config('stars.toml').read_text() == TINY
    assert main(['train', 'nebulae']) == 1
    assert 'bundled are galaxies' in last_error(capsys)


def test_encoders(capsys):
    assert main(['encoders']) == 0
    assert 'stars' in capsys.readouterr().out
    assert main(['encoders', 'stars']) == 0
    card = json.loads(capsys.readouterr().out)
    assert card['name'] == 'stars'
    assert main(['encoders', 'stars', '--field', 'colour']) == 1
    assert "no entry 'colour'" in last_error(capsys)


# -- demo --------------------------------------------------------------------------


def test_demo(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('bliss_astro.cli._simulate._SHAPE', (128, 128))
    folder = tmp_path / 'new' / 'folder'
    assert main(['demo', '-o', str(folder)]) == 0
    out = capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names == {
        'bliss-demo-catalog.fits',
        'bliss-demo-image.fits',
        'bliss-demo.png',
    }
    for name in names:
        assert str(folder / name) in out
    catalog = ProbabilisticCatalog.read(folder / 'bliss-demo-catalog.fits')
    assert catalog.posterior is not None
    # About 50 stars down to a signal-to-noise ratio of 3.4, most of them seen.
    assert 25 < len(catalog) < 75
    last = next(line for line in out.splitlines() if line.split()[:1] == ['all'])
    recall, precision = (float(last.split()[k]) for k in (2, 4))
    assert recall > 0.7
    assert precision > 0.8
    words = ['evaluate', str(folder / 'bliss-demo-catalog.fits')]
    assert main([*words, str(folder / 'bliss-demo-image.fits'), '-q']) == 0
    assert last in capsys.readouterr().out


def test_maps_and_numbers_of_an_image(plain_image, tmp_path, capsys):
    """
    What is known of an image, as options and as arguments.
    """
    with fits.open(plain_image) as hdus:
        data, level = hdus['SCI'].data, hdus['SCI'].header['SKY']
        hdus.append(fits.ImageHDU(np.full(data.shape, 0.008, 'f4'), name='RMS'))
        hdus['SCI'].header['BUNIT'] = 'ADU'
        hdus.writeto(tmp_path / 'maps.fits')
    image, output = tmp_path / 'maps.fits', tmp_path / 'cat.fits'
    words = [
        *STARS,
        *('--rms', f'{image}[RMS]', '--fwhm', '3.4', '--gain', '5000'),
        *('--saturation', '50', '--zero-point', '22.5', '--threads', '1'),
        *('--background', str(level), '--mask', f'{image}[MASK]'),
    ]
    assert main(['detect', f'{image}[SCI][1:60,1:70]', *words, '-o', str(output)]) == 0
    assert 'Traceback' not in capsys.readouterr().err
    catalog = ProbabilisticCatalog.read(output)
    same = detect_sources(
        f'{image}[SCI][1:60,1:70]',
        bkg_error='RMS',
        fwhm=3.4,
        effective_gain=5000.0,
        saturation=50.0,
        zero_point=22.5,
        encoder='stars',
        n_threads=1,
        background=level,
        mask='MASK',
    )
    assert len(catalog) == len(same) > 0
    np.testing.assert_allclose(catalog['flux'].value, same['flux'].value, rtol=1e-5)
    assert catalog['flux'].unit == u.nmgy
    record = catalog.meta['estimated']
    assert record['bkg_error']['value'] == pytest.approx(0.008)
    assert record['psf']['fwhm'] == pytest.approx(3.4)
    assert record['saturation']['value'] == 50
    assert same.exposure.shape == (70, 60)


# -- several bands -------------------------------------------------------------------


@pytest.mark.filterwarnings('ignore')
def test_detect_in_several_bands(plain_image, tmp_path, capsys):
    path = tmp_path / 'catalog.fits'
    words = [f'r={plain_image}', f'g={plain_image}', *STARS, '--fwhm', '3.4', '-q']
    assert main(['detect', *words, '-o', str(path)]) == 0
    error = capsys.readouterr().err
    assert "'r' was taken, and the band g left out" in error
    assert len(ProbabilisticCatalog.read(path)) > 3


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['a.fits', 'b.fits'], 'a.fits: several images are given as BAND=FILE'),
        (['r=a.fits', 'r=b.fits'], 'the band r is given twice'),
        (['red=a.fits'], 'red=a.fits: the band must be one of ugrizy, one of a '),
        (['V@551=a.fits'], 'V@551=a.fits: the band must be one of ugrizy'),
        (['DECam.r=a.fits', 'r=b.fits'], 'the band r is given twice'),
        (['r=nowhere.fits', '--psf', '{band}.fits'], 'there is no file nowhere.fits'),
    ],
)
def test_bands_that_cannot_be_meant(words, text, capsys):
    assert main(['detect', *words, *STARS]) > 0
    assert text in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['--gain', 'r=2,q=3'], '--gain must name bands of IMAGE (r, V)'),
        (['--gain', 'r=-2'], "argument --gain: '-2' is not a positive number"),
        (
            ['--reference', 'q'],
            '--reference must be one of the bands',
        ),
        (['--mask', 'no.fits'], "error: band 'r': --mask must be a file, FILE[EXT]"),
        (['--fwhm', 'r=3.4,V=5', '--reference', 'V'], 'FWHM 5 px (given)'),
        (['--fwhm', 'r=3.4,V=5'], 'FWHM 3.4 px (given)'),
    ],
)
def test_options_by_band(plain_image, words, text, capsys):
    images = [f'r={plain_image}', f'V@551,88={plain_image}']
    with contextlib.suppress(SystemExit):
        main(['detect', *images, *STARS, *words])
    assert text in capsys.readouterr().err


def test_files_by_band(tmp_path):
    for band in 'gr':
        (tmp_path / f'{band}.fits').write_bytes(b'')
    images = [f'{band}={tmp_path}/{band}.fits' for band in 'gr']
    words = ['detect', *images, '--psf', f'{tmp_path}/{{band}}.fits', *STARS]
    check_paths(_parser().parse_args(words), 'catalog')
    words[-3] = f'{tmp_path}/psf-{{band}}.fits'
    with pytest.raises(FileNotFoundError, match=r'psf-g\.fits'):
        check_paths(_parser().parse_args(words), 'catalog')
