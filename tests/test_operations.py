# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests that a detection takes no more work than recorded, stage by stage.

Operations are counted, not seconds: the counts are the same on any machine. After a
change that is worth its price, and after one that saves work, ``python
tests/test_operations.py`` records new ones.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from bliss_astro import detect_sources
from bliss_astro.encoders import Encoder
from bliss_astro.training._encoder import start_from

_RECORD = Path(__file__).with_name('operations.json')
_BENCHMARKS = Path(__file__).resolve().parents[1] / 'benchmarks'
# The growth of a count that fails, and what is too little to matter.
_GROWTH = 1.3
_LITTLE = {
    'operations': 20,
    'synchronisations': 2,
    'MB touched': 2.0,
    'MFLOP of layers': 5.0,
    'calls': 1000,
}
# Growth of the number of operations from ten sources to a hundred.
_GROWTH_WITH_SOURCES = 1.2

pytestmark = pytest.mark.skipif(
    not (_BENCHMARKS / 'operations.py').is_file(), reason='the benchmarks are not here'
)


class Calls:
    """Total of the calls of functions, those in C among them."""

    def __init__(self):
        self.totals = np.zeros(1)

    def __enter__(self):
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _count(self, _, event, __):
        self.totals[0] += event in ('call', 'c_call')


def _write_image(path, side, n_sources, *, seed=1, scale=1.0):
    """Write an image of round stars and galaxies, the same on any machine."""
    rng = np.random.default_rng(seed)
    image = rng.normal(50.0, 1.0, (side, side))
    places, fluxes = rng.uniform(0, side, (n_sources, 2)), rng.pareto(1.5, n_sources)
    pixels = np.arange(side)
    for k, (place, flux) in enumerate(zip(places, 90 * (1 + fluxes), strict=True)):
        width = (1.27, 2.0)[k % 2]
        y, x = np.exp(-0.5 * ((pixels - place[:, None]) / width) ** 2)
        image += scale * flux / (2 * np.pi * width**2) * y[:, None] * x
    fits.writeto(path, image.astype(np.float32))


def _detect(path, encoder=None):
    """Detection as it is counted: in one thread."""
    options = {'effective_gain': 10.0, 'n_threads': 1, 'encoder': encoder}
    return detect_sources(path, progress_bar=False, **options)


def _encoder_of_bands():
    """The default encoder, with layers for several bands that begin at nothing."""
    first = Encoder.from_pretrained()
    config = dataclasses.replace(first.config, bands=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoder = Encoder(config)
    start_from(encoder, first.name)
    encoder.card = first.card | {'encoder': dataclasses.asdict(config)}
    return encoder.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _launches(operations, folder, n_sources, side=256, without=()):
    """Operations that a GPU would launch for an image, and synchronisations."""
    path = folder / f'{n_sources}.fits'
    _write_image(path, side, n_sources)
    counts = operations.count(operations.Operations, _detect, path)
    return sum(v for stage, v in counts.items() if stage not in without)[:2]


def _work_of_small_image(operations, folder, bands=''):
    """
    Counts by stage and measure of an image of 128 x 128 pixels with 10 sources.

    Of one band, or of several, whose sources have a colour.
    """
    paths = {band: folder / f'{band}.fits' for band in bands or ['small']}
    for k, path in enumerate(paths.values()):
        _write_image(path, 128, 10, scale=1 + 0.2 * k)
    given = (paths, _encoder_of_bands()) if bands else paths.values()
    # The first run is for what is done once: imports, weights, caches.
    kinds = operations.Seconds, operations.Operations, Calls
    _, work, calls = (operations.count(kind, _detect, *given) for kind in kinds)
    names, words = (*operations.MEASURES, 'calls'), f', {bands}' * bool(bands)
    return {
        stage + words: dict(zip(names, [*v.round(1), calls[stage][0]], strict=True))
        for stage, v in work.items()
    }


def _all_work(operations, folder):
    """The counts of one band and of five."""
    own = operations, folder
    return _work_of_small_image(*own) | _work_of_small_image(*own, 'rugiz')


def _record():
    """Record the counts, and the versions on which they depend."""
    sys.path.insert(0, str(_BENCHMARKS))
    import operations

    head = {'python': '{}.{}'.format(*sys.version_info), 'torch': torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        values = head | _all_work(operations, Path(folder))
    lines = [f'"{name}": {json.dumps(value)}' for name, value in values.items()]
    _RECORD.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


@pytest.fixture(scope='module')
def operations():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        import operations

        yield operations
    sys.modules.pop('operations')


@pytest.fixture(scope='module')
def recorded():
    return json.loads(_RECORD.read_text())


@pytest.fixture(scope='module')
def counted(operations, tmp_path_factory):
    return _all_work(operations, tmp_path_factory.mktemp('small'))


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
    new = {'fits': old['fits'] | {'MB touched': 1310.0}}
    assert _excess(new, old, _LITTLE) == ['fits: 1000 -> 1310 MB touched']


def test_counts_are_the_same_for_more_threads(operations, counted, tmp_path):
    number = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = _work_of_small_image(operations, tmp_path)
    finally:
        torch.set_num_threads(number)
    for stage, own in again.items():
        # Caches of other packages save some calls.
        assert own.pop('calls') == pytest.approx(counted[stage]['calls'], rel=0.05)
        assert own.items() <= counted[stage].items()


def test_every_stage_does_something(counted):
    assert min(values['calls'] for values in counted.values()) > 100
    assert sum(values['operations'] == 0 for values in counted.values()) <= 2


def test_work_of_five_bands(counted):
    """
    Pixels are worked on in each band, the network but for its first layers once.

    Only in several bands marginals have colours.
    """
    for stage, most in {'network': 2.2, 'candidates': 2.2, 'marginals': 3.5}.items():
        one, five = counted[stage], counted[f'{stage}, rugiz']
        assert five['MFLOP of layers'] < most * one['MFLOP of layers']
    one, five = (counted[stage]['MB touched'] for stage in ('fits', 'fits, rugiz'))
    assert five < 7.2 * one


def test_functions_are_as_before(operations):
    from bliss_astro.encoders import _filters, _network

    own = _filters.image_planes
    with_wrapped = []
    operations.count(
        operations.Seconds, lambda: with_wrapped.append(_network.image_planes)
    )
    assert with_wrapped != [own]
    assert _filters.image_planes is own
    assert _network.image_planes is own


def test_a_stage_without_its_function(operations, monkeypatch):
    gone = {'fits': 'posteriors._tile_chain:TileChain._gone'}
    monkeypatch.setattr(operations, 'STAGES', gone)
    with pytest.raises(LookupError, match=r'no posteriors\._tile_chain:'):
        operations.count(operations.Seconds, int)


def test_launches_do_not_grow_with_sources(operations, tmp_path):
    # With fewer, no source is beside another one, and fewer fits follow each other.
    few, many = (_launches(operations, tmp_path, n) for n in (50, 150))
    assert (many < _GROWTH_WITH_SOURCES * few).all()


def test_lists_of_sources_are_whole_on_a_gpu(operations, tmp_path, monkeypatch):
    # Here they are cut into pieces that suit the cache of a processor.
    monkeypatch.setattr('bliss_astro._threads._CACHED', set())
    options = {'side': 320, 'without': ['check', 'network', 'filters']}
    few, many = (_launches(operations, tmp_path, n, **options) for n in (150, 700))
    assert (many < _GROWTH * few).all()


if __name__ == '__main__':
    _record()
