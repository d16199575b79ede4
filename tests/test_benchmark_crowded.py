# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the comparison of a crowded frame with Hubble rows.
"""

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

_FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'
_FILE = 'sdss/2583/2/136/HSC-10_20_2023_dev_subset.csv'

pytestmark = pytest.mark.skipif(
    not (_FOLDER / 'crowded.py').is_file(), reason='the benchmarks are not here'
)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)


def _wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [323.34, -0.81]
    wcs.wcs.crpix = [50.5, 50.5]
    wcs.wcs.cd = np.array([[0, 1], [1, 0]]) * 0.396 / 3600
    return wcs


def _write(folder, x, y, mag, *, ids=None, bands='F606W', **changes):
    ra, dec = _wcs().all_pix2world(x, y, 0)
    n = len(ra)
    columns = {
        'MatchID': np.arange(n) if ids is None else ids,
        'Filter': np.broadcast_to(bands, n),
        'MatchRA': ra,
        'MatchDec': dec,
        'MagAuto': mag,
        'MagAper2': np.asarray(mag) + 0.1,
    }
    path = folder / 'rows.csv'
    Table(columns | changes).write(path, format='ascii.csv', overwrite=True)
    return path


# -- the rows ------------------------------------------------------------------


def test_rows_of_one_match_become_one(tmp_path):
    from _crowded_truth import read_hubble

    path = _write(
        tmp_path,
        [10.0, 10.2, 30.0, 40.0],
        [20.0, 20.4, 30.0, 40.0],
        [20.0, 20.4, 21.0, 19.0],
        ids=[7, 7, 3, 9],
        bands=['F606W', 'F606W', 'F606W', 'F814W'],
    )
    rows = read_hubble(path, _wcs())
    order = np.argsort(rows['x'])
    assert_allclose(rows['x'][order], [10.1, 30.0], atol=1e-5)
    assert_allclose(rows['y'][order], [20.2, 30.0], atol=1e-5)
    assert_allclose(rows['mag'][order], [20.2, 21.0])
    other = read_hubble(path, _wcs(), magnitude='MagAper2')
    assert_allclose(np.sort(other['mag']), [20.3, 21.1])


def test_rows_that_cannot_be_used(tmp_path):
    from _crowded_truth import read_hubble

    path = _write(tmp_path, [1.0], [2.0], [20.0])
    with pytest.raises(ValueError, match="no rows of the filter 'F275W'"):
        read_hubble(path, _wcs(), band='F275W')
    table = Table.read(path)
    table.remove_column('MatchID')
    table.write(path, overwrite=True)
    with pytest.raises(ValueError, match="lacks the column 'MatchID'"):
        read_hubble(path, _wcs())


def test_cells_hold_rows_and_nothing_withheld():
    from _crowded_truth import Cells

    cells = Cells([12.0, 15.0, 38.0], [3.0, 9.9, 25.0], withheld=((35, 60), (22, 60)))
    assert len(cells) == 2
    assert_array_equal(
        cells.of([10.0, 19.9, 20.0, 31.0, 36.0, 36.0], [0.0, 9.9, 5.0, 21, 21, 23]),
        [0, 0, -1, 1, 1, -1],
    )
    mask = cells.mask((30, 40))
    assert mask[0:10, 10:20].all()
    # A cell of 100 px and one of which columns 36 to 39, rows 23 to 29 are withheld.
    assert mask.sum() == 100 + 100 - 4 * 7
    shifted = cells.mask((20, 30), (10, 10))
    assert_array_equal(shifted, mask[10:, 10:])
    rows, columns = cells.bounds(5, (30, 40))
    assert (rows, columns) == (slice(0, 30), slice(5, 40))


def test_completeness_counts_rows_of_both_filters(tmp_path):
    from _crowded_truth import reference_completeness

    # Four of F438W: two with a partner, one without, one too faint.
    x = [10.0, 20.0, 30.0, 40.0, 10.1, 20.0]
    mag = [20.0, 21.0, 20.5, 23.0, 20.0, 21.0]
    path = _write(tmp_path, x, [5.0] * 6, mag, bands=['F438W'] * 4 + ['F606W'] * 2)
    assert reference_completeness(path, _wcs()) == (2, 3)


# -- scores ----------------------------------------------------------------------


def _rows(x, mag):
    x = np.asarray(x, float)
    return {'x': x, 'y': np.full(len(x), 5.0), 'mag': np.asarray(mag, float)}


def test_scores_by_hand():
    from _crowded_scores import f1_of, score
    from _crowded_truth import Cells

    truth = _rows([3.0, 7.0, 13.0, 17.0, 25.0], [20.0, 20.9, 20.0, 20.0, 20.0])
    cells = Cells(truth['x'], truth['y'], withheld=((21, 30), (0, 10)))
    # Right; right though beyond the limit; too far; too bright; withheld; false.
    found = _rows(
        [3.3, 7.0, 13.6, 17.0, 25.0, 9.0], [20.4, 21.2, 20.0, 19.3, 20.0, 20.0]
    )
    counts = score(found, truth, cells)
    assert_array_equal(counts.sum(1), [4, 1, 4, 2])
    assert_array_equal(counts[2], [2, 2, 0])
    precision, recall, f1 = f1_of(counts.sum(1))
    assert_allclose([precision, recall], [0.25, 0.5])
    assert_allclose(f1, 2 * 0.25 * 0.5 / 0.75)
    assert f1_of([0, 0, 4, 0])[2] == 0


def test_bins_add_up():
    from _crowded_scores import score, score_bins
    from _crowded_truth import Cells

    rng = np.random.default_rng(5)
    truth = {k: rng.uniform(0, 60, 300) for k in 'xy'}
    truth['mag'] = rng.uniform(15.5, 21.5, 300)
    cells = Cells(truth['x'], truth['y'], withheld=((-2, -1), (-2, -1)))
    found = {k: truth[k] + 0.2 * rng.normal(size=300) for k in truth}
    rows = score_bins(found, truth, cells)
    total = score(found, truth, cells).sum(1)
    assert sum(row['n'] for row in rows) == total[2]
    hits = sum(row['n'] * row['recall'] for row in rows)
    assert_allclose(hits, total[3])
    assert all(row['f1_err'] >= 0 for row in rows)


def test_bootstrap_has_the_binomial_error():
    from _crowded_scores import bootstrap

    rng = np.random.default_rng(1)
    # 100 cells with 10 true each, of which 0.6 are found, all of them right.
    hits = rng.binomial(10, 0.6, 100)
    counts = np.array([hits, hits, np.full(100, 10), hits])
    errors, ratios = bootstrap(counts, counts, n_draws=2000)
    assert errors[0] == 0
    # The scatter of 100 binomials has 7 % of error itself.
    assert_allclose(errors[1], np.sqrt(0.6 * 0.4 / 1000), rtol=0.25)
    # A method is as good as itself in every draw.
    assert_allclose(ratios[0], (1, 0), atol=1e-12)


# -- methods ---------------------------------------------------------------------


@pytest.fixture
def cluster():
    """An exposure of 400 stars on 80 x 80 px, with a level that nobody took off."""
    import torch

    from bliss_astro import Exposure, PSFModel
    from bliss_astro.rendering import render_stars

    rng = np.random.default_rng(3)
    n, side = 400, 80
    x, y = rng.uniform(0, side, (2, n))
    flux = 1.5 * rng.uniform(0.02, 1, n) ** (-1 / 0.9)
    psf = PSFModel()
    vector = torch.as_tensor(psf.shape_vector, dtype=torch.float32)[None]
    place = [torch.as_tensor(v, dtype=torch.float32)[None] for v in (x, y, flux)]
    image = render_stars(vector, *place, size=(side, side))[0].double().numpy()
    data = image + 0.2 + 0.03 * rng.normal(size=image.shape)
    exposure = Exposure(
        data,
        background=0.0,
        bkg_error=0.03,
        effective_gain=850.0,
        psf=psf,
        unit='nmgy',
    )
    return exposure, {'x': x, 'y': y, 'mag': 22.5 - 2.5 * np.log10(flux)}


def test_shift_and_zero_point_are_recovered(cluster):
    from _crowded_truth import align

    exposure, truth = cluster
    rows = {
        'x': truth['x'] + 100 - 0.12,
        'y': truth['y'] + 200 + 0.07,
        'mag': truth['mag'] + 0.23,
    }
    # Two rows that are nonsense, as beside saturated stars.
    rows['mag'][:2] -= 4
    fit = align(exposure, rows, (100, 200))
    assert_allclose(fit['shift'], (0.12, -0.07), atol=0.03)
    assert_allclose(fit['zero_point'], -0.23, atol=0.02)
    assert_allclose(fit['background'], 0.2, atol=0.1)


def test_envelope_is_below_the_median(cluster):
    from _crowded_methods import low_background

    exposure, _ = cluster
    level = low_background(exposure)
    assert level.shape == exposure.shape
    share = np.mean(exposure.data < level)
    assert 0.01 < share < 0.15


def test_methods_find_bright_stars(cluster):
    from _crowded_methods import find_ours, find_stars, iterative_grid

    exposure, truth = cluster
    origin = (1000, 500)
    rows = {'x': truth['x'] + 1000, 'y': truth['y'] + 500}
    found = {}
    found['ours'], info = find_ours(exposure, origin, encoder='stars', n_rounds=1)
    found['alone'] = find_stars(exposure, origin)
    setting = {'thresholds': (10.0,), 'factors': (1.0,), 'groups': (False,)}
    grid = list(
        iterative_grid(exposure, origin, backgrounds=('low', 'local'), **setting)
    )
    assert [name for name, *_ in grid] == [
        f'10 sigma, 1 FWHM, {word} background' for word in ('low', 'local')
    ]
    found |= {name: own for name, own, _ in grid}
    assert len(info['levels']) == 2
    brightest = np.argsort(truth['mag'])[:8]
    for name, own in found.items():
        assert np.all(np.isfinite(own['mag'])), name
        apart = np.hypot(
            own['x'][:, None] - rows['x'][brightest],
            own['y'][:, None] - rows['y'][brightest],
        )
        # Some of the brightest have neighbours nearly as bright.
        assert np.sum(apart.min(0) < 0.7) >= 6, name


def test_real_rows(shared_data):
    from _crowded_truth import Cells, read_hubble

    path = shared_data / _FILE
    if not path.is_file():
        pytest.skip('no Hubble rows here')
    # Any coordinates serve; what matters is the number of rows.
    rows = read_hubble(path, _wcs())
    assert len(rows['x']) == 1397
    table = Table.read(path, format='ascii.csv')
    table = table[table['Filter'] == 'F606W']
    cells = Cells(table['sdss_r_x'], table['sdss_r_y'])
    assert len(cells) == 66
