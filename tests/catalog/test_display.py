# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of how a catalogue looks.
"""

import numpy as np
import pytest
from astropy import conf
from astropy.table import QTable, vstack

from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.catalog._display import flux_format


@pytest.fixture(autouse=True)
def _wide_terminal():
    with conf.set_temp('max_width', 200), conf.set_temp('max_lines', 20):
        yield


def test_headline(make_catalog):
    cat = make_catalog()
    line = repr(cat).splitlines()[0]
    assert line == (
        '<ProbabilisticCatalog: 8 sources above p = 0.5, expected count '
        '8.4 ± 0.8, image 80 x 60 px, encoder "stars">'
    )
    assert str(cat).splitlines()[0] == line[1:-1]
    assert '3 of 8 sources' in repr(cat[:3])
    assert '8 sources' in cat._repr_html_()


def test_headline_of_little(columns):
    one = {name: values[:1] for name, values in columns.items()}
    cat = ProbabilisticCatalog.from_columns(one)
    assert repr(cat).startswith('<ProbabilisticCatalog: 1 source>')
    cat = ProbabilisticCatalog.from_columns(one, meta={'encoder': {'name': 'x'}})
    assert 'encoder "x"' in repr(cat)
    assert '2 sources' in repr(vstack([cat, ProbabilisticCatalog.from_columns(one)]))


def test_digits(make_catalog):
    cat = make_catalog('wcs')
    line = next(line for line in str(cat[:1]).splitlines() if line.startswith('  1'))
    row = dict(zip(cat.colnames, line.split(), strict=True))
    assert row['probability'] == f'{cat["probability"][0]:.3f}'
    assert row['flux'] == f'{cat["flux"][0].value:.2f}'
    assert row['sky_centroid'].count('.') == 2
    assert len(row['sky_centroid']) < 24


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (0.034, '.3f'),
        (0.34, '.2f'),
        (34.0, '.0f'),
        (1e9, '.4g'),
        (1e-12, '.4g'),
        (0.0, '.4g'),
        (np.nan, '.4g'),
    ],
)
def test_flux_format(columns, error, expected):
    columns['flux_err'] = np.full(8, error)
    assert flux_format(ProbabilisticCatalog.from_columns(columns)) == expected
    assert flux_format(ProbabilisticCatalog.from_columns(columns)[:0]) == '.4g'


def test_own_format_wins_and_none_is_stored(make_catalog):
    cat = make_catalog()
    cat['x_centroid'].info.format = '.1f'
    text = str(cat)
    assert f' {cat["x_centroid"][0]:.1f} ' in text
    assert cat['y_centroid'].info.format is None
    assert cat['flux'].info.format is None


def test_narrow_terminal(make_catalog):
    cat = make_catalog('wcs')
    with conf.set_temp('max_width', 80):
        lines = str(cat).splitlines()
    assert lines[-1] == 'Not shown: x_err, y_err, x_y_cov, sky_centroid, mag_err'
    assert 'flux' in lines[1]
    assert 'mag' in lines[1]
    assert max(map(len, lines[1:])) <= 80
    with conf.set_temp('max_width', 30):
        assert '...' in str(cat)


def test_long_table_is_cut(make_catalog):
    cat = vstack([make_catalog(posterior=None, seed=seed) for seed in range(9)])
    # The headline, the table, and two lines about flags.
    assert len(str(cat).splitlines()) <= 24
    assert len(cat.pformat(max_lines=-1, max_width=-1)) >= 72
    assert 'Length = 72 rows' in cat._repr_html_() or '...' in cat._repr_html_()


SELECTED = ('x_centroid', 'flux', 'flux_err', 'flags')


@pytest.mark.parametrize('change', [lambda t: t, lambda t: t[::2], lambda t: t.copy()])
def test_selected_columns_print_like_all(make_catalog, change):
    cat = change(make_catalog('wcs'))
    part = change(make_catalog('wcs')[SELECTED])
    assert isinstance(part, QTable)
    assert part.pformat() == _columns_of(cat)
    part.sort('x_centroid')
    assert f' {part["x_centroid"][0]:.3f} ' in str(part)
    assert f' {part["flux"][0].value:.2f} ' in str(part)


def _columns_of(cat):
    """
    What a catalogue with these columns alone prints.
    """
    cat = cat.copy()
    cat.remove_columns([name for name in cat.colnames if name not in SELECTED])
    return cat.pformat()


def test_fluxes_without_errors(columns):
    columns['flux'] = np.full(8, 12345.678)
    cat = ProbabilisticCatalog.from_columns(columns)
    assert ' 12346' in str(cat['x_centroid', 'flux'])


def test_display_rounds_no_text_file(make_catalog, tmp_path):
    part = make_catalog()['x_centroid', 'flux']
    part.write(tmp_path / 'part.ecsv')
    new = QTable.read(tmp_path / 'part.ecsv')
    for name in part.colnames:
        np.testing.assert_array_equal(new[name], part[name])


def test_flags_are_spelled_out(columns):
    columns['flags'] = [0, 2, 130, 0, 4, 0, 0, 1 << 20]
    cat = ProbabilisticCatalog.from_columns(columns)
    note = 'Flags: 2 near_edge, 4 saturated, 128 blended, 1048576 bit_1048576'
    assert cat.pformat()[-1] == note
    assert cat.pformat(max_width=-1)[-1] == note
    assert 'Flags: ' not in cat._repr_html_()
    clean = cat[cat['flags'] == 0]
    assert 'Flags: ' not in str(clean)
    names = dict(zip(cat['flags'], cat.flag_names, strict=True))
    assert names[0] == ''
    assert names[2] == 'near_edge'
    assert names[130] == 'near_edge|blended'
    assert clean[:0].flag_names.shape == (0,)


def test_row(make_catalog):
    assert 'Row index=0' in repr(make_catalog('wcs')[0])
