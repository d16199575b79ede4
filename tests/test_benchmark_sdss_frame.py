# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the comparison of an SDSS frame with a deeper catalogue.
"""

import argparse
import bz2
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_equal

_FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'

pytestmark = pytest.mark.skipif(
    not (_FOLDER / 'sdss_frame.py').is_file(), reason='the benchmarks are not here'
)

_SHAPE = (400, 500)
_GALAXY, _STAR = 0, 1


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)


def _wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [10.0, 0.5]
    wcs.wcs.crpix = [250.5, 200.5]
    wcs.wcs.cd = np.array([[0, 1], [1, 0]]) * 0.396 / 3600
    return wcs


def _table(x, y, mag, probpsf, **changes):
    ra, dec = _wcs().all_pix2world(x, y, 0)
    n = len(x)
    columns = {
        'ra': ra,
        'dec': dec,
        'probpsf': np.asarray(probpsf, dtype='f4'),
        'psfmag_r': np.asarray(mag, dtype='f4'),
        'devmag_r': np.asarray(mag, dtype='f4') - 1,
        'expmag_r': np.asarray(mag, dtype='f4') - 2,
        'fracdev_r': np.full(n, 0.25, dtype='f4'),
        'flags': np.zeros(n, dtype=np.int64),
        'is_saturated': np.zeros(n, dtype=np.int64),
    }
    return Table(columns | changes)


def _write(folder, table, pack=None):
    path = folder / 'truth.fit'
    table.write(path, format='fits', overwrite=True)
    if pack is not None:
        path.write_bytes(pack(path.read_bytes()))
    return path


# -- the deeper catalogue --------------------------------------------------------


@pytest.mark.parametrize('pack', [None, bz2.compress, gzip.compress])
def test_truth_is_placed_and_has_the_papers_magnitudes(tmp_path, pack):
    from _sdss_frame_truth import read_truth

    x, y = np.array([30.0, 100.25]), np.array([40.0, 350.5])
    path = _write(tmp_path, _table(x, y, [18.0, 20.0], [_STAR, _GALAXY]), pack)
    truth = read_truth(path, _wcs(), 'r')
    assert_allclose(truth['x'], x, atol=1e-6)
    assert_allclose(truth['y'], y, atol=1e-6)
    assert_equal(truth['is_galaxy'], [False, True])
    # A quarter of the flux of magnitude 19 and three quarters of that of 18.
    flux = 0.25 * 10 ** (-0.4 * 19) + 0.75 * 10 ** (-0.4 * 18)
    assert_allclose(truth['mag'], [18, -2.5 * np.log10(flux)], atol=1e-5)


def test_saturation_is_a_column_or_a_flag(tmp_path):
    from _sdss_frame_truth import read_truth

    table = _table([30.0, 60.0], [40.0, 50.0], [18.0, 20.0], [1, 1])
    table['flags'] = [1 << 18, 1 << 12]
    table.remove_column('is_saturated')
    truth = read_truth(_write(tmp_path, table), _wcs(), 'r')
    assert_equal(truth['saturated'], [True, False])
    table['is_saturated'] = [0, 262144]
    truth = read_truth(_write(tmp_path, table), _wcs(), 'r')
    assert_equal(truth['saturated'], [False, True])


def test_failed_fits_have_no_magnitude(tmp_path):
    from _sdss_frame_truth import read_truth

    table = _table([30.0, 60.0], [40.0, 50.0], [-9999.0, 20.0], [1, 1])
    truth = read_truth(_write(tmp_path, table), _wcs(), 'r')
    assert_equal(np.isnan(truth['mag']), [True, False])


@pytest.mark.parametrize('name', ['ra', 'probpsf', 'devmag_r', 'fracdev_r'])
def test_missing_column_is_named(tmp_path, name):
    from _sdss_frame_truth import read_truth

    table = _table([30.0], [40.0], [18.0], [1])
    table.remove_column(name)
    with pytest.raises(ValueError, match=f'truth.fit.*{name}'):
        read_truth(_write(tmp_path, table), _wcs(), 'r')


def test_other_band_is_named(tmp_path):
    from _sdss_frame_truth import read_truth

    path = _write(tmp_path, _table([30.0], [40.0], [18.0], [1]))
    with pytest.raises(ValueError, match="lacks the column 'psfmag_i'"):
        read_truth(path, _wcs(), 'i')


@pytest.mark.parametrize(
    ('content', 'error', 'message'),
    [
        (b'', ValueError, 'neither a FITS file nor'),
        (b'\x00\x01\xff' * 99, ValueError, 'neither a FITS file nor'),
        (b'BZh9 and nothing', OSError, 'damaged'),
        (gzip.compress(b'SIMPLE' * 999, mtime=0)[:30], OSError, 'damaged'),
    ],
)
def test_files_that_are_none(tmp_path, content, error, message):
    from _sdss_frame_truth import read_truth

    path = tmp_path / 'truth.fit'
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        read_truth(path, _wcs(), 'r')


def test_fits_without_table_or_rows(tmp_path):
    from _sdss_frame_truth import read_truth

    path = tmp_path / 'truth.fit'
    fits.writeto(path, np.zeros((3, 3)))
    with pytest.raises(ValueError, match='without a table'):
        read_truth(path, _wcs(), 'r')
    table = _table([30.0], [40.0], [18.0], [1])[:0]
    with pytest.raises(ValueError, match='no rows'):
        read_truth(_write(tmp_path, table), _wcs(), 'r')
    with pytest.raises(FileNotFoundError):
        read_truth(tmp_path / 'absent.fit', _wcs(), 'r')


def test_real_catalogue(shared_data):
    from _sdss_frame_truth import read_truth

    path = shared_data / 'catalogs' / 'coadd_for_3325_5_110.fit'
    truth = read_truth(path, _wcs(), 'r')
    assert len(truth['x']) == 657
    assert np.isfinite(truth['mag']).mean() > 0.99
    assert 0.3 < truth['is_galaxy'].mean() < 0.9


# -- scores ------------------------------------------------------------------------


def _catalog(x, y, mag, **more):
    out = {'x': np.array(x, float), 'y': np.array(y, float), 'mag': np.array(mag)}
    return out | {k: np.asarray(v, dtype=bool) for k, v in more.items()}


def test_rules_of_the_paper():
    from _sdss_frame_scores import FrameMatch

    truth = _catalog(
        [100, 150, 200, 250, 10, 300],
        [100, 100, 100, 100, 100, 100],
        [18.5, 18.2, 18.3, 18.4, 18.5, np.nan],
        is_galaxy=[1, 1, 0, 0, 0, 0],
        saturated=[0, 0, 0, 1, 0, 0],
    )
    found = _catalog(
        # Right; 0.9 px off in both; too far; saturated; border; no magnitude; false.
        [100, 150.9, 201.1, 250, 10, 300, 350],
        [100, 100.9, 100, 100, 100, 100, 100],
        [18.5, 19.5, 18.3, 18.4, 18.5, 18.7, 18.8],
        is_galaxy=[1, 0, 0, 0, 0, 0, 0],
    )
    match = FrameMatch(found, truth, _SHAPE)
    row = match.bin(18, 19)
    # Saturated, without a magnitude and at the border are no part of the truth.
    assert row['n'] == 3
    # What is found of them is not false either.
    assert (row['true'], row['false']) == (2, 2)
    assert_allclose(row['precision'], 0.5)
    assert_allclose(row['recall'], 2 / 3)
    assert_allclose(row['f1'], 4 / 7)
    assert_allclose(row['accuracy_both'], 0.5)
    assert row['n_stars'] == 0
    assert np.isnan(row['accuracy_stars'])
    # A true detection counts by its true magnitude, not by 19.5.
    assert match.bin(19, 20)['true'] == match.bin(19, 20)['false'] == 0


def test_vouching():
    from _sdss_frame_scores import FrameMatch

    truth = _catalog([100], [100], [18.5], is_galaxy=[0], saturated=[0])
    found = _catalog([100, 200, 300], [100, 200, 300], [18.5, 18.6, 18.7])
    voucher = _catalog([200.5], [199.5], [18.0])
    row = FrameMatch(found, truth, _SHAPE, voucher).bin(18, 19)
    assert (row['false'], row['not_vouched_for']) == (2, 1)
    assert_allclose(row['precision'], 1 / 3)
    assert_allclose(row['precision_vouched'], 2 / 3)
    assert 'accuracy_both' not in row


def test_printed_numbers_make_the_printed_f1():
    import sdss_frame
    from _sdss_frame_scores import PAPER

    assert_allclose(sdss_frame._paper_total('BLISS')['f1'], 0.864, atol=5e-4)
    assert_allclose(sdss_frame._paper_total('PHOTO')['f1'], 0.845, atol=2e-3)
    for name in ('BLISS', 'PHOTO'):
        assert {len(v) for v in PAPER[name].values()} == {6}


def test_error_of_f1(rng):
    from _sdss_frame_scores import _f1_error

    n, share, rate = 400, 0.9, 60
    true = rng.binomial(n, share, 20_000)
    false = rng.poisson(rate, 20_000)
    f1 = 2 * true / (true + false + n)
    assert_allclose(_f1_error(360, 60, 400), f1.std(), rtol=0.05)


# -- from file to table --------------------------------------------------------------


@pytest.fixture
def simulated(rng):
    """A sky-subtracted exposure in nmgy with its true stars."""
    import astropy.units as u

    from bliss_astro.exposures import Exposure
    from bliss_astro.psf import PSFModel
    from bliss_astro.rendering import TorchStarRenderer

    psf = PSFModel()
    gain, sky = 800.0, 850.0
    grid = np.stack(np.meshgrid(np.arange(40, 480, 40), np.arange(40, 380, 40)), -1)
    places = grid.reshape(-1, 2) + rng.uniform(-5, 5, (grid.size // 2, 2))
    mag = rng.uniform(17, 21, len(places))
    flux = gain * 10 ** (0.4 * (22.5 - mag))
    image = TorchStarRenderer().render(psf, *places.T, flux, _SHAPE)
    data = rng.poisson(np.clip(image, 0, None) + sky) - sky
    exposure = Exposure(
        (data / gain) * u.nmgy,
        bkg_error=np.sqrt(sky) / gain * u.nmgy,
        effective_gain=gain,
        psf=psf,
        wcs=_wcs(),
        meta={'run': 1, 'camcol': 2, 'field': 3, 'band': 'r'},
    )
    return exposure, places, mag


def _truth_of(places, mag):
    n = len(mag)
    false = np.zeros(n, dtype=bool)
    return {
        'x': places[:, 0],
        'y': places[:, 1],
        'mag': mag,
        'is_galaxy': false,
        'saturated': false,
    }


def test_ours_and_photutils_on_simulated_stars(simulated):
    pytest.importorskip('photutils')
    pytest.importorskip('skimage')
    import sdss_frame
    from _sdss_frame_scores import score_frame

    exposure, places, mag = simulated
    arguments = argparse.Namespace(
        encoder='stars', threshold=0.5, rivals=['photutils'], photoobj=None
    )
    found = sdss_frame.find_all(exposure, arguments)
    assert set(found) == {'bliss_astro', 'photutils'}
    for name, (own, seconds) in found.items():
        total = score_frame(own, _truth_of(places, mag), _SHAPE)['total']
        # Isolated stars far above the noise: SNR 20 at r = 21.
        assert total['recall'] > 0.97, name
        assert total['precision'] > 0.9, name
        assert seconds > 0
        near = own['mag'][np.isfinite(own['mag'])]
        assert abs(np.median(near) - np.median(mag)) < 0.5


def test_sep_on_simulated_stars(simulated):
    pytest.importorskip('sep')
    from _sdss_frame_rivals import find_sep
    from _sdss_frame_scores import score_frame

    exposure, places, mag = simulated
    found, _ = find_sep(exposure)
    total = score_frame(found, _truth_of(places, mag), _SHAPE)['total']
    assert total['recall'] > 0.97
    assert total['precision'] > 0.9


def test_sep_may_be_absent(simulated, monkeypatch, capsys):
    import sdss_frame

    monkeypatch.setattr(sdss_frame.importlib.util, 'find_spec', lambda name: None)
    arguments = argparse.Namespace(
        encoder='stars', threshold=0.5, rivals=['sep'], photoobj=None
    )
    assert set(sdss_frame.find_all(simulated[0], arguments)) == {'bliss_astro'}
    assert 'SEP is not installed' in capsys.readouterr().out


def test_command_on_files(simulated, tmp_path, monkeypatch):
    import sdss_frame

    exposure, places, mag = simulated
    truth = _write(tmp_path, _table(*places.T, mag, np.ones(len(mag))))
    monkeypatch.setattr(
        sdss_frame.Exposure, 'from_sdss', lambda *args, **options: exposure
    )
    monkeypatch.setattr(sdss_frame.torch, 'set_num_threads', lambda number: None)
    output = tmp_path / 'frame.json'
    arguments = ['frame', 'psfield', str(truth), '--rivals', '-o', str(output)]
    scores = sdss_frame.main([*arguments, '--encoder', 'stars', '--threads', '1'])
    report = json.loads(output.read_text())
    rows = {row['what']: row for row in report['rows']}
    assert rows['bliss_astro: recall, r 17 to 22']['measured'] > 0.97
    assert rows['bliss_astro: F1, r 17 to 22']['target'] == '>= 0.9'
    assert report['details']['truth']['on_frame'] == len(mag)
    assert scores['bliss_astro']['total']['n'] == len(mag)

    away = _table(*places.T, mag, np.ones(len(mag)))
    away['ra'] += 2
    with pytest.raises(ValueError, match='no source on the frame'):
        sdss_frame.main([*arguments[:2], str(_write(tmp_path, away)), '--rivals'])


@pytest.mark.slow
def test_real_photoobj_of_another_field(shared_data, simulated):
    from _sdss_frame_rivals import find_photo

    path = shared_data / 'sdss' / '3900' / '6' / '269'
    path = next(path.glob('photoObj-*'))
    exposure, *_ = simulated
    with pytest.raises(ValueError, match='photoobj is of run 3900'):
        find_photo(path, exposure)
    exposure.meta.update(run=3900, camcol=6, field=269)
    found, _ = find_photo(path, exposure)
    assert 200 < len(found['x']) < 981
    assert 0.05 < found['is_galaxy'].mean() < 0.95
    assert np.nanmedian(found['mag']) > 18


# -- two epochs ------------------------------------------------------------------


def test_two_epochs_with_types(simulated, rng, monkeypatch):
    import two_epochs_types
    from _common import Report

    monkeypatch.setattr(two_epochs_types, '_N_CALIBRATORS', 8)
    exposure, places, mag = simulated
    n = len(mag)
    flux, galaxy = 10 ** (0.4 * (22.5 - mag)), rng.uniform(size=n) < 0.5

    def epoch(scale, rows, is_galaxy):
        error = 0.02 * flux * scale
        x, y = (places + 0.1 * rng.normal(size=(n, 2)))[rows].T
        return {
            'x_centroid': x,
            'y_centroid': y,
            'flux': (flux * scale + error * rng.normal(size=n))[rows],
            'flux_err': error[rows],
            'probability': np.ones(len(rows)),
            'flags': np.zeros(len(rows), dtype=int),
            'sky': exposure.wcs.pixel_to_world(x, y),
            'is_galaxy': is_galaxy[rows],
        }

    # The second epoch lacks some, and calls a tenth by another name.
    kept = np.sort(rng.permutation(n)[: n - 9])
    other = galaxy ^ (np.arange(n) % 10 == 0)
    catalogs = [epoch(1.0, np.arange(n), galaxy), epoch(1.0, kept, other)]
    flags = [np.zeros(_SHAPE, dtype=int)] * 2
    arguments = argparse.Namespace(output=None, quick=True, threads=1)
    report = Report('two_epochs_types', 'title', arguments)
    details = two_epochs_types.compare(report, [exposure] * 2, catalogs, flags)
    rows = {row.what: row for row in report.rows}
    again = rows['run 4192: found again within 1 px, r < 20.5']
    bright = mag < 20.5
    lost = np.setdiff1d(np.flatnonzero(bright), kept)
    # Noise moves a few across the limit.
    assert abs(again.n - bright.sum()) <= 3
    assert_allclose(again.measured, 1 - len(lost) / again.n, atol=3 / again.n)
    assert len(details['run 4192']['lost']) == round((1 - again.measured) * again.n)
    back = rows['run 6377: found again within 1 px, r < 20.5']
    assert back.measured == 1
    same = rows['run 4192: same class, r < 20.5']
    assert_allclose(same.measured, 0.9, atol=0.07)
    for kind in ('stars', 'galaxies'):
        row = rows[f'{kind}: robust sigma of normalised flux differences']
        # 1.17 / sqrt(2 n), four times.
        assert_allclose(row.measured, 1, atol=4.7 / np.sqrt(2 * row.n))
    low, high = details['fluxes']['zero_point_range']
    # Of the same pixels around places that differ by a tenth of a pixel.
    assert_allclose([low, high], 1, atol=0.02)
    assert details['fluxes']['calibrators'] >= 8
