# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the coadd experiment under benchmarks.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_equal

_FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'

pytestmark = pytest.mark.skipif(
    not (_FOLDER / 'coadds.py').is_file(), reason='the benchmarks are not here'
)


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import _coadds_training

    return _coadds_training


@pytest.fixture
def numbers(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import _coadds_numbers

    return _coadds_numbers


@pytest.fixture
def tiny(training, monkeypatch):
    quick = training.PRESETS['quick']
    preset = dataclasses.replace(
        quick,
        encoder=dataclasses.replace(
            quick.encoder, width=8, n_blocks=1, stem_width=8, head_width=8
        ),
        training={
            'n_steps': 2,
            'batch_size': 4,
            'warmup_steps': 1,
            'n_validation': 4,
            'validate_every': 2,
        },
        seeds=training._seeds({1: 2, 5: 1}, {5: 1}),
        n_images=12,
    )
    monkeypatch.setitem(training.PRESETS, 'quick', preset)
    return preset


# -- what is trained -------------------------------------------------------------


@pytest.mark.parametrize('name', ['reduced', 'full'])
def test_presets_hold_the_papers_experiment(training, name):
    preset = training.PRESETS[name]
    networks = training.networks_of(preset)
    assert len({network.name for network in networks}) == len(networks)
    for depth in (1, 5, 10, 25):
        assert preset.seeds['before_alignment', depth] == 5
    # A single exposure is not aligned, so it has no order of the noise.
    assert ('after_alignment', 1) not in preset.seeds
    assert {depth for _, depth in preset.seeds} == {1, 5, 10, 25, 50, 100}
    # The first seeds of all groups come first.
    assert {network.seed for network in networks[: len(preset.seeds)]} == {1}


@pytest.mark.parametrize('name', ['quick', 'reduced', 'full'])
def test_simulations_are_the_papers(training, name):
    preset = training.PRESETS[name]
    network = training.Network('after_alignment', 25, 3)
    _, simulation, settings = network.configs(preset)
    assert simulation.n_exposures == (25, 25)
    assert simulation.noise_order == 'after_alignment'
    region = [n - 2 * simulation.margin for n in simulation.shape]
    assert region == [40, 40]
    assert_allclose(np.array(simulation.density) * 1600, 3)
    assert (simulation.flux_min, simulation.psf) == (622, 'paper')
    assert simulation.background == (865, 865)
    assert settings.seed == 3


# -- numbers ---------------------------------------------------------------------


def _catalogue(rng, n_images=200):
    # Three stars an image, never within 8 pixels of each other.
    image = np.repeat(np.arange(n_images), 3)
    x = np.tile([10.0, 30.0, 50.0], n_images) + rng.uniform(-5, 5, len(image))
    y = rng.uniform(0, 60, len(image))
    mag = rng.uniform(20, 23, len(image))
    return {'image': image, 'x': x, 'y': y, 'flux': 987.31 * 10 ** (0.4 * (22.5 - mag))}


def test_shares_residuals_and_errors_of_a_known_catalogue(numbers, rng):
    truth = _catalogue(rng)
    found, kept = [], []
    for bias in (0.1, 0.2):
        keep = rng.uniform(size=len(truth['x'])) < 0.8
        own = {name: value[keep] for name, value in truth.items()}
        own['flux'] = own['flux'] * (1 + bias)
        own['probability'] = np.ones(keep.sum())
        found.append(own)
        kept.append(keep)
    group = numbers.Group(truth, found, 200)
    share, error, (low, high), n = group.share('recall', 15, 25)
    assert_allclose(share, np.mean(kept))
    assert n == len(truth['x'])
    # Half of the draws hold one seed twice, with the error of 600 stars, the others
    # both, with that of 1200; the difference of the seeds adds to it.
    expected = np.sqrt(0.8 * 0.2 / len(truth['x']))
    assert 0.5 * expected < error < 2 * expected
    assert low < share < high
    assert group.share('precision', 15, 25)[0] == 1
    centre, error, (low, high), quartiles, n = group.residual('true', 20, 23)
    # Each seed's median is its bias, and draws of two seeds have means of
    # 0.1, 0.15 and 0.2 with chances of a quarter, a half and a quarter.
    assert_allclose(centre, 0.15)
    assert_allclose(error, 0.1 / np.sqrt(8), rtol=0.1)
    assert_allclose(quartiles, 0.15)
    assert n == np.mean([keep.sum() for keep in kept])
    assert_allclose(group.scatter(20, 23)[0], 0, atol=1e-12)


def test_false_and_faint_detections_count_as_they_should(numbers, rng):
    truth = _catalogue(rng)
    own = truth | {'probability': np.ones(len(truth['x']))}
    # A third has no partner within a pixel, a third is below the threshold.
    own['x'] = own['x'].copy()
    own['x'][::3] += 1.5
    own['probability'][1::3] = 0.4
    group = numbers.Group(truth, [own], 200)
    assert_allclose(group.share('recall', 15, 25)[0], 1 / 3)
    assert_allclose(group.share('precision', 15, 25)[0], 1 / 2)


def test_neighbours(numbers):
    truth = {
        'image': np.array([0, 0, 0, 1]),
        'x': np.array([1.0, 4.0, 30.0, 1.0]),
        'y': np.array([1.0, 1.0, 1.0, 1.0]),
    }
    # A star of another image is no neighbour.
    distance = numbers._neighbour_distance(truth)
    assert_allclose(distance[:3], [3, 3, 26])
    assert distance[3] > 1000


def test_resampled_median_is_that_of_repeated_values(numbers, rng):
    resamples = numbers.Resamples(30, 1, rng)
    values, images = rng.normal(size=91), rng.integers(30, size=91)
    medians = resamples.of_medians([(values, images)])
    for weights, median in zip(resamples.images[:20], medians, strict=False):
        repeated = np.sort(np.repeat(values, weights[images].astype(int)))
        # The lower of the two middle values of an even number.
        assert_equal(median, repeated[(len(repeated) - 1) // 2])


def test_printed_snr_belongs_to_five_exposures(numbers):
    rows = {row[0]: row[1:] for row in numbers.snr_table((1, 5, 25))}
    # Within our radius of 18.76 pixels; the papers' 45.9 and 3.41 are within
    # 25 x 25 pixels.
    assert_allclose(rows[1], [45.64, 3.390], rtol=1e-3)
    assert_allclose(rows[25], 5 * np.array(rows[1]), rtol=1e-6)
    assert_allclose(rows[5], [100, 7.5], rtol=0.025)


# -- from end to end ---------------------------------------------------------------


@pytest.fixture
def run(tiny, tmp_path):
    import coadds

    def run(*arguments):
        where = ['--work', str(tmp_path / 'run'), '-o', str(tmp_path / 'coadds.json')]
        coadds.main(['--preset', 'quick', '--threads', '1', *where, *arguments])
        return tmp_path / 'run' / 'quick', tmp_path

    return run


def test_experiment_resumes_and_remakes(run, training, tiny, monkeypatch):
    pytest.importorskip('matplotlib')
    pytest.importorskip('tqdm')
    work, folder = run()
    networks = training.networks_of(tiny)
    assert len(networks) == 4
    assert all(training.is_trained(network, tiny, work) for network in networks)
    table = QTable.read(folder / 'coadds_table.ecsv')
    # Two encoders in three groups, four curves of 16 bins each.
    assert len(table) == 3 * 2 * 4 * 16
    assert set(table['noise_order']) == {'none', *training.ORDERS}
    own = table[(table['encoder'] == 'own') & (table['n_exposures'] == 1)]
    assert_equal(np.unique(own['n_seeds']), [2])
    recall = table[table['quantity'] == 'recall']
    assert_allclose(np.sum(recall['n']) / 6, 36, atol=3 * 6)
    figure = work / '_static' / 'coadd_experiment.png'
    assert figure.stat().st_size > 10_000
    assert (work / 'user_guide' / 'coadd_experiment' / 'paper.inc.rst').is_file()

    # Neither trained nor scored again, and the same from the saved scores.
    monkeypatch.setattr(training, '_train', None)
    import _coadds_scoring

    monkeypatch.setattr(_coadds_scoring, '_score', None)
    before = (folder / 'coadds_table.ecsv').read_text()
    for arguments in ((), ('--figure-only',)):
        figure.unlink()
        run(*arguments)
        assert figure.is_file()
        assert (folder / 'coadds_table.ecsv').read_text() == before


def test_other_settings_need_another_folder(training, tiny, tmp_path):
    network = training.Network('before_alignment', 1, 1)
    training.train_all([network], tiny, tmp_path)
    changed = dataclasses.replace(tiny, training=tiny.training | {'batch_size': 5})
    with pytest.raises(ValueError, match=r'another training \(batch_size\)'):
        training.is_trained(network, changed, tmp_path)


def test_interrupted_training_goes_on(training, tiny, tmp_path, monkeypatch):
    network = training.Network('before_alignment', 1, 1)
    from bliss_astro.encoders import _train

    advance, calls = _train._Trainer.advance, []

    def interrupted(self):
        calls.append(self.step)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(_train._Trainer, 'advance', interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train_all([network], tiny, tmp_path)
    assert not training.is_trained(network, tiny, tmp_path)
    training.train_all([network], tiny, tmp_path)
    assert training.is_trained(network, tiny, tmp_path)
    # The first step was not done again.
    assert calls == [0, 1, 1]


def test_figure_without_scores(run):
    with pytest.raises(SystemExit, match='no scores'):
        run('--figure-only')
