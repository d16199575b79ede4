# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests that the scripts of benchmarks and experiments start, on public names.
"""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

_ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = ('benchmarks', 'experiments')
_FILES = [path for name in _FOLDERS for path in sorted((_ROOT / name).glob('*.py'))]
_SCRIPTS = [p for p in _FILES if 'def main(' in p.read_text() and p.stem != 'figures']

pytestmark = pytest.mark.skipif(not _FILES, reason='the benchmarks are not here')


@pytest.fixture
def load(monkeypatch):
    before = set(sys.modules)
    for name in _FOLDERS:
        monkeypatch.syspath_prepend(_ROOT / name)
    monkeypatch.syspath_prepend(_ROOT / 'benchmarks')

    def module_of(path):
        spec = importlib.util.spec_from_file_location(f'_script_{path.stem}', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield module_of
    for name in {path.stem for path in _FILES} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.mark.parametrize('path', _FILES, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_no_private_names_of_the_package(path):
    pattern = r'bliss_astro[\w.]*\._\w+|from bliss_astro[\w.]* import[^#\n]*\b_(?!_)\w+'
    private = re.findall(pattern, path.read_text())
    assert private == []


@pytest.mark.parametrize('path', _SCRIPTS, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_help(path, load, capsys):
    pytest.importorskip('galsim')
    with pytest.raises(SystemExit) as stopped:
        load(path).main(['--help'])
    assert stopped.value.code == 0
    assert '--quick' in capsys.readouterr().out


def test_blends_are_within_their_circle(load):
    scenes = load(_ROOT / 'benchmarks' / 'scenes.py')
    images = scenes.draw_blends(3, scenes.generator_of(1))
    truth = scenes.truth_of(images)
    assert len(truth) == int(images.count.sum())
    middle = 0.5 * (images.data.shape[-1] - 1)
    offset = (truth['x'] - middle) ** 2 + (truth['y'] - middle) ** 2
    assert (offset <= scenes.BLEND_RADIUS**2 * 1.001).all()
    assert (truth['magnitude'] < 22.5).all()


def test_sample(load):
    from astropy.table import Table

    samples = load(_ROOT / 'benchmarks' / 'samples.py')
    truth = Table({'scene': [0, 0, 1], 'x': [3.0, 9.0, 3.0], 'y': [3.0, 9.0, 3.0]})
    truth['flux'], truth['is_galaxy'] = [10.0, 20.0, 30.0], [True, False, False]
    found = Table({'scene': [0, 1, 1], 'x': [3.2, 3.0, 9.0], 'y': [3.0, 3.1, 9.0]})
    found['flux'], found['galaxy_probability'] = [11.0, 27.0, 5.0], [0.9, 0.6, 0.5]
    found['flux_low'], found['flux_high'] = [9.0, 20.0, 1.0], [12.0, 28.0, 9.0]
    sample = samples.Sample(found, truth)
    assert sample.recall(slice(None))[0] == pytest.approx(2 / 3)
    assert sample.precision()[0] == pytest.approx(2 / 3)
    assert sample.accuracy()[0] == 0.5
    assert sample.coverage()[0] == 0.5
    assert sorted(sample.residuals()) == pytest.approx([-0.1, 0.1])
    assert sample.mean_error()[0] == pytest.approx(10)


def test_precision_is_of_the_detections_above_the_threshold(load):
    from astropy.table import Table

    blends = load(_ROOT / 'benchmarks' / 'blends.py')
    truth = Table({'scene': [0, 1], 'x': [5.0, 5.0], 'y': [5.0, 5.0]})
    # Of the first source there is a faint candidate that lies nearer.
    found = Table({'scene': [0, 0, 1, 1], 'x': [5.4, 5.0, 5.0, 9.0]})
    found['y'], found['probability'] = 5.0, [0.9, 0.1, 0.8, 0.3]
    sample, threshold = blends.at_precision(found, truth, 0.9)
    assert (threshold, sample.recall(slice(None))[0]) == (0.8, 1.0)


def test_scenes_in_bands(load):
    scenes = load(_ROOT / 'benchmarks' / 'scenes.py')
    bands = load(_ROOT / 'experiments' / 'bands.py')
    images = scenes.draw_blends(3, generator := scenes.generator_of(1))
    found = bands.in_bands(images, generator)
    assert list(found) == list('rugiz')
    assert found['r'].data is images.data
    truth = bands.truth_in_bands(found, 5)
    assert sorted(set(truth['scene'])) == [5, 6, 7]
    magnitude = 22.5 - 2.5 * np.log10(truth['flux_r'])
    np.testing.assert_allclose(magnitude, truth['magnitude'], atol=1e-4)
    # Their light is there, within the noise of 48 x 48 pixels.
    for name, own in found.items():
        light = (own.data - own.background[:, None, None]).sum((1, 2))
        light = light / own.electrons_per_nmgy
        noise = 48 * own.bkg_error / own.electrons_per_nmgy
        for k in range(3):
            expected = truth[f'flux_{name}'][truth['scene'] == 5 + k].sum()
            assert abs(light[k] - expected) < 5 * noise[k] + 0.1 * expected
