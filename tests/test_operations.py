# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests that a detection takes no more work than recorded, stage by stage.

Operations are counted, not seconds: the counts are the same on any machine. After a
change that is worth its price, ``python benchmarks/operations.py`` records new ones.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

_BENCHMARKS = Path(__file__).resolve().parents[1] / 'benchmarks'
# The growth of a count that fails, and what is too little to matter.
_GROWTH = 1.3
_LITTLE = {
    'operations': 20,
    'synchronisations': 2,
    'MB': 2.0,
    'MFLOP': 5.0,
    'calls': 1000,
}
# Growth of the number of operations from ten sources to a hundred.
_GROWTH_WITH_SOURCES = 1.2

pytestmark = pytest.mark.skipif(
    not (_BENCHMARKS / 'operations.py').is_file(), reason='the benchmarks are not here'
)


@pytest.fixture(scope='module')
def operations():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        import operations

        yield operations
    sys.modules.pop('operations')


@pytest.fixture(scope='module')
def recorded(operations):
    return json.loads(operations.RECORD.read_text())


@pytest.fixture(scope='module')
def counted(operations):
    return operations.work_of_small_image()


def _excess(counted, recorded, measures):
    """Counts that grew by more than `_GROWTH`, as texts."""
    return [
        f'{stage}: {recorded[stage][name]:g} -> {counted[stage][name]:g} {name}'
        for stage in counted
        for name in measures
        if counted[stage][name] > _GROWTH * recorded[stage][name] + _LITTLE[name]
    ]


def _same_minor(version):
    return version.split('.')[:2] == torch.__version__.split('.')[:2]


def test_no_stage_takes_more_work_than_recorded(operations, counted, recorded):
    if not _same_minor(recorded['torch']):
        pytest.skip(f'the counts are those of torch {recorded["torch"]}')
    assert list(counted) == list(recorded)[2:]
    assert _excess(counted, recorded, operations.MEASURES) == []


def test_no_stage_has_more_calls_than_recorded(counted, recorded):
    python = '{}.{}'.format(*sys.version_info)
    if python != recorded['python'] or not _same_minor(recorded['torch']):
        pytest.skip(f'the counts are those of Python {recorded["python"]}')
    assert _excess(counted, recorded, ['calls']) == []


def test_excess():
    old = {'fits': dict.fromkeys(_LITTLE, 1000.0)}
    assert _excess(old, old, _LITTLE) == []
    new = {'fits': old['fits'] | {'MB': 1310.0}}
    assert _excess(new, old, _LITTLE) == ['fits: 1000 -> 1310 MB']


def test_counts_are_the_same_again_and_for_more_threads(operations, counted):
    number = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = operations.work_of_small_image()
    finally:
        torch.set_num_threads(number)
    for stage, values in counted.items():
        # Caches of other packages save some calls.
        assert again[stage].pop('calls') == pytest.approx(values['calls'], rel=0.05)
        assert again[stage].items() <= values.items()


def test_every_stage_does_something(counted):
    assert min(values['calls'] for values in counted.values()) > 100
    assert sum(values['operations'] == 0 for values in counted.values()) <= 1


def test_functions_are_as_before(operations, counted):
    from bliss_astro.detection import _detect, _estimates

    assert _detect.prepare_image is _estimates.prepare_image
    assert not hasattr(_estimates.prepare_image, '__wrapped__')


def test_a_stage_without_its_function(operations, monkeypatch):
    gone = {'fits': ('posteriors._source_chain:SourceChain._gone',)}
    monkeypatch.setattr(operations, 'STAGES', gone)
    with pytest.raises(LookupError, match=r'no posteriors\._source_chain:'):
        operations.count(operations.Seconds, int)


def test_launches_do_not_grow_with_sources(operations):
    few, many = (operations.launches(256, n) for n in (10, 100))
    assert (many < _GROWTH_WITH_SOURCES * few).all()
