# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the harness of the benchmarks, and of the results table.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

_ROOT = Path(__file__).resolve().parents[1]
_BENCHMARKS = _ROOT / 'benchmarks'

pytestmark = pytest.mark.skipif(
    not (_BENCHMARKS / 'harness.py').is_file(), reason='the benchmarks are not here'
)


@pytest.fixture(scope='module')
def harness():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        import harness

        yield harness
    sys.modules.pop('harness')


@pytest.fixture(scope='module')
def table(harness):
    return harness.read_results()


@pytest.mark.parametrize(
    ('value', 'target', 'expected'),
    [
        (0.5, '', None),
        (np.nan, 'above 0.95', None),
        (0.5, '>= 0.5', True),
        (0.5, '> 0.5', False),
        (np.float64(0.03), '-0.02 to 0.02', False),
        (2e-5, '< 1e-4', True),
        (31.0, '<= 30', False),
    ],
)
def test_targets(harness, value, target, expected):
    assert harness.meets(value, target) is expected


def test_a_target_is_a_condition(harness):
    with pytest.raises(ValueError, match='target must be a condition'):
        harness.meets(0.5, 'large')


@pytest.mark.parametrize(
    ('value', 'error', 'unit', 'expected'),
    [
        (0.975051, 0.0023, '', '0.975 ± 0.002'),
        (0.99093, 0.00012, '', '0.99093 ± 0.00012'),
        (14.3865, 0.49, '%', '14.4 ± 0.5 %'),
        (1586.0, 26.0, '', '1586 ± 26'),
        (10.085, np.nan, 's', '10.1 s'),
        (21543.0, np.nan, '', '21543'),
        (1.6e-6, np.nan, '', '1.6e-06'),
    ],
)
def test_values_are_rounded_to_their_errors(harness, value, error, unit, expected):
    row = {'value': value, 'error': error, 'unit': unit, 'target': ''}
    assert harness.format_row(row) == expected


def test_errors(harness):
    values = np.random.default_rng(1).normal(3, 2, 4000)
    median, error = harness.median_with_error(values)
    assert_allclose([median, error], [3, 2 * np.sqrt(np.pi / 2 / 4000)], rtol=0.2)
    mean, error = harness.bootstrap(np.mean, values)
    assert_allclose([mean, error], [3, 2 / np.sqrt(4000)], rtol=0.2)
    assert_allclose(harness.quantile_width(values), 2, rtol=0.1)
    assert_allclose(harness.share(values > 3), (0.5, 0.5 / np.sqrt(4000)), rtol=0.1)
    assert_allclose(harness.share(30, 40)[0], 0.75)
    assert_allclose(harness.ratio_with_error([2, 4], [1, 2]), (2, 0), atol=1e-12)


def test_a_run_replaces_its_rows(harness, tmp_path, capsys):
    path = tmp_path / 'results.ecsv'
    for value in (1.0, 2.0):
        bench = harness.Benchmark('speed', 'A test.', n_images=100)
        arguments = bench.start(['--quick', '-o', str(path), '--threads', '1'])
        assert arguments.n_images == 5
        bench.add('frame', 'time', value, 0.1, unit='s', target='< 1.5')
        bench.add('frame', 'time', value, method='photutils')
        bench.finish()
    table = harness.read_results(path)
    assert list(table.colnames) == list(harness.COLUMNS)
    assert_allclose(table['value'], 2)
    assert list(table['method']) == ['bliss_astro', 'photutils']
    assert 'MISSED' in capsys.readouterr().out


def test_keys_of_the_results_table_are_unique(harness, table):
    assert table.colnames == list(harness.COLUMNS)
    keys = list(zip(*(table[k] for k in harness.KEY), strict=True))
    assert len(set(keys)) == len(keys)


def test_rows_of_the_results_table(harness, table):
    for row in table:
        harness.meets(row['value'], row['target'])
        assert re.fullmatch(r'\d{4}(-\d\d-\d\d)?', row['date'])
        assert re.fullmatch(r'([0-9a-f]{6,})?', row['commit'])
        assert re.fullmatch(r'([a-z-]+( [0-9a-f]{12})?)?', row['weights'])


def test_readme_agrees_with_the_results_table(harness, table):
    """
    A comment ``.. results`` of the README lists ``key -> printed text``.
    """
    rows = {' | '.join(row[k] for k in harness.KEY): row for row in table}
    text = (_ROOT / 'README.rst').read_text()
    comments = re.findall(r'^\.\. results\n((?:    .*\n)+)', text, re.MULTILINE)
    body = re.sub(r'^\.\. results\n((?:    .*\n)+)', '', text, flags=re.MULTILINE)
    for line in ''.join(comments).splitlines():
        key, _, printed = (part.strip() for part in line.partition('->'))
        assert printed in body
        number = re.match(r'-?\d[\d,]*\.?\d*', printed)[0].replace(',', '')
        half_digit = 0.5 * 10.0 ** -len(number.partition('.')[2])
        assert abs(float(number) - rows[key]['value']) <= half_digit * 1.001, key
