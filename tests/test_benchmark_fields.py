# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the experiment with stars and galaxies under benchmarks.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_equal
from scipy import stats

_FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'

pytestmark = pytest.mark.skipif(
    not (_FOLDER / 'fields.py').is_file(), reason='the benchmarks are not here'
)

_N_IMAGES = 1000


@pytest.fixture
def numbers(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import _fields_numbers

    return _fields_numbers


def _flux(mag):
    return 10 ** (0.4 * (22.5 - mag))


def _truth(rng, n_images=_N_IMAGES):
    # Five sources an image, never within 8 pixels of each other.
    image = np.repeat(np.arange(n_images), 5)
    n = len(image)
    return {
        'image': image,
        'x': np.tile(np.arange(8.0, 80, 16), n_images) + rng.uniform(-4, 4, n),
        'y': rng.uniform(0, 79, n),
        'inside': np.ones(n, dtype=bool),
        'flux': _flux(rng.uniform(17, 22.5, n)),
        'is_galaxy': rng.uniform(size=n) < 0.5,
        'snr': rng.uniform(5, 200, n),
        'snr_footprint': rng.uniform(5, 200, n),
        'blendedness': np.zeros(n),
    }


def _answer(truth, rng, *, kept=0.9, right=0.95, sigma=0.1):
    n = len(truth['flux'])
    keep = rng.uniform(size=n) < kept
    found = {k: truth[k][keep] for k in ('image', 'x', 'y')}
    found['flux'] = truth['flux'][keep] * np.exp(sigma * rng.normal(size=keep.sum()))
    found['probability'] = rng.uniform(0.5, 1, keep.sum())
    correct = rng.uniform(size=n) < right
    said = np.where(correct, truth['is_galaxy'], ~truth['is_galaxy'])
    chance = np.where(said, 0.95, 0.05)
    found['galaxy'] = chance[keep]
    off = rng.normal(size=n)
    tiles = {
        'image': truth['image'],
        'source': np.arange(n),
        'galaxy': chance,
        'rank': stats.norm.cdf(-off),
        'rank_above_cut': stats.norm.cdf(-off),
        'median': truth['flux'] * np.exp(sigma * off),
        'log_flux': stats.norm.logpdf(off) - np.log(sigma),
        'log_type': np.log(np.where(correct, 0.95, 0.05)),
        'log_position': np.zeros(n),
    }
    count = np.bincount(truth['image'], minlength=_N_IMAGES)
    expected = rng.gamma(20, 0.25, _N_IMAGES)
    images = {
        'image': np.arange(_N_IMAGES),
        'count': rng.poisson(expected),
        'expected': expected,
        'expected_of_draws': expected,
    }
    assert_equal(count, 5)
    return {'found': found, 'tiles': tiles, 'images': images}


@pytest.fixture
def truth(rng):
    return _truth(rng)


@pytest.fixture
def judged(numbers, truth, rng):
    resamples = numbers.Resamples(_N_IMAGES)
    return numbers.Judged(truth, _answer(truth, rng), resamples)


# -- numbers ---------------------------------------------------------------------


def test_shares_of_a_known_catalogue(judged, truth):
    n = (truth['flux'] > _flux(22)).sum()
    recall = judged.recall()
    assert recall.n == n
    error = np.sqrt(0.9 * 0.1 / n)
    assert_allclose(recall.value, 0.9, atol=4 * error)
    # Errors of 200 resamples are known to 5 %.
    assert_allclose(recall.error, error, rtol=0.25)
    assert recall.low < recall.value < recall.high
    accuracy = judged.accuracy()
    assert_allclose(accuracy.value, 0.95, atol=4 * np.sqrt(0.05 / n))
    parts = [judged.accuracy(kind=kind) for kind in ('stars', 'galaxies')]
    assert accuracy.n == sum(part.n for part in parts)


def test_percentage_error_of_known_scatter(judged):
    mape = judged.mape()
    # Mean of abs(exp(z / 10) - 1), which a log-normal has in closed form.
    z = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    expected = 100 * np.abs(np.exp(0.1 * z) - 1).mean()
    assert_allclose(mape.value, expected, atol=4 * mape.error)
    assert_allclose(mape.error, 100 * 0.06 / np.sqrt(mape.n), rtol=0.3)


def test_precision_counts_faint_true_sources_only_if_asked(judged, numbers):
    bright = judged.precision(-np.inf, 21.0)
    assert bright.value == 1
    faint = judged.precision(21.75, 22.0)
    # Some are of true sources beyond the cut at r = 22.
    assert faint.value < 1
    assert judged.precision(21.75, 22.0, faint_too=True).value == 1


def test_sources_beyond_the_edges_count_for_nothing(numbers, truth, rng):
    answer = _answer(truth, rng, kept=1.0)
    truth['inside'] = truth['x'] > 16
    judged = numbers.Judged(truth, answer, numbers.Resamples(_N_IMAGES))
    bright = truth['flux'] > _flux(22)
    assert judged.recall().n == (bright & truth['inside']).sum()
    assert judged.recall().value == 1
    assert len(judged.found['x']) == truth['inside'].sum()


def test_threshold_is_a_half(numbers, truth, rng):
    answer = _answer(truth, rng, kept=1.0)
    answer['found']['probability'] = np.where(truth['is_galaxy'], 0.51, 0.49)
    judged = numbers.Judged(truth, answer, numbers.Resamples(_N_IMAGES))
    assert judged.recall(kind='galaxies').value == 1
    assert judged.recall(kind='stars').value == 0


def test_area_over_all_tiles(judged, truth):
    _, area = judged.roc()
    # Detected or not: all sources brighter than 22.
    assert area.n == (truth['flux'] > _flux(22)).sum()
    # Two values only, so that ties count half.
    assert_allclose(area.value, 0.95, atol=0.015)
    assert 0 < area.error < 0.01


def test_coverage_of_calibrated_fluxes(judged, numbers):
    table = judged.coverage('all sources', 'all')
    for level, estimate in zip(numbers.LEVELS, table['overall'], strict=True):
        error = np.sqrt(level * (1 - level) / estimate.n)
        assert_allclose(estimate.value, level, atol=4 * error)
    assert len(table['tenths']) == 10
    assert np.all(np.diff(table['median_mag']) < 0)
    n = sum(row[0].n for row in table['tenths'])
    assert n == table['overall'][0].n


def test_counts_of_calibrated_images(judged):
    *fifths, total = judged.counts()
    assert len(fifths) == 5
    assert abs(total[2]) < 4 * total[3]
    # Poisson: 1 / sqrt(expected number of all images).
    assert_allclose(total[3], 1 / np.sqrt(5 * _N_IMAGES), rtol=0.15)


def test_log_scores(judged):
    score = judged.log_score('log_flux', high=np.inf)
    entropy = 0.5 * np.log(2 * np.pi * np.e) + np.log(0.1)
    assert_allclose(score.value, -entropy, atol=4 * score.error)


def test_differences_are_paired(numbers, truth, rng):
    resamples = numbers.Resamples(_N_IMAGES)
    better, worse = (_answer(truth, np.random.default_rng(3)) for _ in range(2))
    # The same answers but for a few that are lost.
    keep = rng.uniform(size=len(worse['found']['x'])) < 0.98
    worse['found'] = {k: v[keep] for k, v in worse['found'].items()}
    pair = [
        numbers.Judged(truth, answer, resamples).recall() for answer in (better, worse)
    ]
    gap = numbers.difference(*pair)
    assert_allclose(gap.value, pair[0].value - pair[1].value)
    # Of 2 % of the sources, rather than of two independent samples.
    assert_allclose(gap.error, np.sqrt(0.9 * 0.02 / gap.n), rtol=0.3)
    assert gap.error < 0.5 * np.hypot(pair[0].error, pair[1].error)


def test_everything_that_figures_need(numbers, judged):
    import _fields_describe

    described = _fields_describe.describe(judged)
    assert len(described['tenths']['recall']) == 10
    assert_allclose([r[1] for r in described['tenths']['recall']], numbers.DECILES)
    n = [row[2] for row in described['tenths']['recall']]
    assert sum(n) == described['cumulative']['recall'][-1][1]
    assert set(described['roc']) == {'all', 'brightest tenth', 'faintest tenth'}
    table = described['coverage']['protocol']['stars']
    assert len(table['curve']) == len(numbers.CURVE_LEVELS)
    assert table['curve_levels'][-1] == 0.99
    by_snr = described['by_snr']['recall']
    assert sum(row[2] for row in by_snr) == sum(n)


def test_oracle_numbers_of_a_calibrated_oracle(numbers, rng):
    n = 4000
    chance = rng.beta(0.3, 0.3, n)
    flux = _flux(rng.uniform(17, 22, n))
    estimate = flux * np.exp(0.1 * rng.normal(size=n))
    rows = {
        'flux': flux,
        'is_galaxy': rng.uniform(size=n) < chance,
        'galaxy': chance,
        'estimate': estimate,
        'rank': rng.uniform(size=n),
        'median': estimate,
        'effective': np.full(n, 100.0),
    }
    import _fields_describe

    described = _fields_describe.describe_oracle(rows)
    accuracy, expected = (
        described['ranges'][name]['all'] for name in ('accuracy', 'expected accuracy')
    )
    assert_allclose(accuracy[1], expected[1], atol=4 * accuracy[2])
    assert expected[2] < accuracy[2]
    for row, level in zip(described['coverage']['all'], numbers.LEVELS, strict=True):
        assert_allclose(row[1], level, atol=4 * np.sqrt(level * (1 - level) / n))


# -- what is trained and shown ---------------------------------------------------


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import _fields_training

    return _fields_training


@pytest.mark.parametrize('name', ['quick', 'reduced', 'full'])
def test_networks_are_the_papers(training, name):
    preset = training.PRESETS[name]
    seen = {}
    for network in training.NETWORKS:
        encoder, simulation, settings = training.configs(network, preset)
        assert encoder.galaxies
        assert simulation.population == 'npe'
        assert simulation.n_exposures == (1, 1)
        assert simulation.crowding == (1, 1)
        assert simulation.shape == (80, 80)
        assert not simulation.bad_pixels
        seen[network] = (simulation.fields, encoder.told)
        if name == 'full':
            assert settings.dataset_size == 210_000
            assert_allclose(settings.n_steps * 64, 210_000 * 50, rtol=1e-5)
    assert len(set(seen.values())) == 3
    assert seen['single-field'][0] == 'single'
    assert training.PRESETS['full'].n_images == 42_000


@pytest.mark.slow
def test_finished_networks_are_known(training, tmp_path):
    preset = dataclasses.replace(
        training.PRESETS['quick'],
        encoder={'width': 8, 'n_blocks': 1, 'stem_width': 8, 'head_width': 8},
        training={
            'n_steps': 2,
            'batch_size': 2,
            'warmup_steps': 1,
            'n_validation': 2,
            'validate_every': 2,
        },
    )
    assert not training.is_trained('single-field', preset, tmp_path)
    training.train_all(preset, tmp_path, threads=1)
    assert all(training.is_trained(n, preset, tmp_path) for n in training.NETWORKS)
    changed = dataclasses.replace(preset, training=preset.training | {'batch_size': 3})
    with pytest.raises(ValueError, match=r'another training \(batch_size\)'):
        training.is_trained('single-field', changed, tmp_path)


@pytest.fixture
def scoring(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import _fields_scoring

    return _fields_scoring


def test_paper_has_no_sources_beyond_the_edges(scoring):
    import _fields_asking

    inside, continued = (
        _fields_asking.draw_scenes(
            scoring.TestStream('many', continued=continued), 'many', 0, 16
        )[0]
        for continued in (False, True)
    )
    for scenes, all_inside in ((inside, True), (continued, False)):
        used = scenes.flux > 0
        x, y = scenes.x[used], scenes.y[used]
        assert bool(((x >= -0.5) & (x < 79.5) & (y > -0.5)).all()) == all_inside
        # 4 sources an image on average.
        truth = _fields_asking.describe_truth(scenes, 100)
        assert abs(truth['inside'].sum() / 16 - 4) < 4 * np.sqrt(4 / 16)
        assert truth['inside'].all() == all_inside
        assert set(truth['image']) <= set(range(100, 116))


def test_snr_is_that_of_an_optimal_measurement(scoring):
    import _fields_asking

    from bliss_astro.metrics import optimal_snr
    from bliss_astro.psf import PSFModel

    stream = scoring.TestStream('single')
    scenes, _ = _fields_asking.draw_scenes(stream, 'single', 0, 16)
    truth = _fields_asking.describe_truth(scenes, 0)
    centre = (np.abs(truth['x'] - 40) < 20) & (np.abs(truth['y'] - 40) < 20)
    stars = np.flatnonzero(centre & ~truth['is_galaxy'])
    assert len(stars) >= 3
    scale = float(scenes.electrons_per_nmgy[0])
    expected = optimal_snr(
        PSFModel.from_shape(scenes.psf[0].double().numpy()),
        truth['flux'][stars] * scale,
        bkg_error=float(scenes.bkg_error[0]),
        effective_gain=1.0,
    )
    # A mean over places within a pixel on one side, the own place on the other.
    assert_allclose(truth['snr'][stars], expected, rtol=0.02)
    assert np.all(truth['snr_footprint'] < 1.05 * truth['snr'])
    assert np.all((truth['blendedness'] > -1e-6) & (truth['blendedness'] <= 1))


@pytest.fixture
def encoder_file(tmp_path):
    """An encoder that knows little, but not sources everywhere."""
    import torch

    from bliss_astro.encoders import Encoder, EncoderConfig
    from bliss_astro.encoders._pretrained import save_encoder

    config = EncoderConfig(
        galaxies=True, width=8, n_blocks=1, stem_width=8, head_width=8
    )
    encoder = Encoder(config)
    with torch.no_grad():
        encoder.head.count.weight.mul_(0.05)
        encoder.head.count.bias.copy_(torch.tensor([4.0, -0.5, -4.0]))
    encoder.card = {'name': 'tiny', 'training': {}}
    save_encoder(encoder, tmp_path / 'tiny.safetensors')
    return tmp_path / 'tiny.safetensors'


@pytest.mark.slow
def test_experiment_from_answers_to_page(scoring, encoder_file, tmp_path, monkeypatch):
    pytest.importorskip('matplotlib')
    import json

    import fields

    def run(*more):
        arguments = ['--preset', 'quick', '--no-training', '--no-oracle']
        arguments += ['--threads', '1', '--n-images', '10']
        arguments += ['--ours', str(encoder_file), '--work', str(tmp_path / 'run')]
        fields.main([*arguments, '-o', str(tmp_path / 'fields.json'), *more])
        return json.loads((tmp_path / 'fields.json').read_text())

    # An interruption costs no file that was written before.
    monkeypatch.setattr(scoring, '_BATCH', 5)
    monkeypatch.setattr(scoring, '_PER_FILE', 1)
    calls, ask_all = [], scoring._ask_all

    def interrupted(task):
        calls.append(task[:2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ask_all(task)

    monkeypatch.setattr(scoring, '_ask_all', interrupted)
    with pytest.raises(SystemExit, match='interrupted'):
        run()
    report = run()
    assert calls == [
        ('many', 0),
        ('many', 1),
        ('single', 0),
        ('single', 0),
        ('single', 1),
    ]
    assert report['details']['n_images'] == {'many': 10, 'single': 10}
    rows = {row['what']: row for row in report['rows']}
    assert rows['many, ours: recall, r < 21.2']['target'] == '>= 0.965'
    assert rows['single, ours: recall, r < 21.2']['target'] == ''
    figures = tmp_path / 'run' / 'quick' / '_static'
    assert len(list(figures.glob('fields_*.png'))) == 6
    page = tmp_path / 'run' / 'quick' / 'user_guide' / 'fields_experiment'
    assert 'above 0.95' in (page / 'paper_many.inc.rst').read_text()

    # The same from the saved answers.
    monkeypatch.setattr(scoring, '_ask_all', None)
    for more in ((), ('--again',)):
        assert run(*more)['rows'] == report['rows']


def test_again_without_answers(scoring, tmp_path, encoder_file):
    import fields

    with pytest.raises(SystemExit, match='no answers'):
        fields.main(
            [
                *('--quick', '--again', '--no-oracle', '--ours', str(encoder_file)),
                *('--work', str(tmp_path / 'empty')),
            ]
        )


# -- the oracle --------------------------------------------------------------------


@pytest.fixture
def oracle(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import _fields_oracle

    return _fields_oracle


@pytest.fixture
def field(oracle):
    from bliss_astro.priors import FieldPrior

    settings = oracle.OracleSettings(size=31)
    batch = FieldPrior.single().sample_batch(1)
    return oracle._Field(batch, settings, np.random.default_rng(1))


def test_proposals_are_densities(oracle, rng):
    scores = rng.normal(size=(300, 6)) * 0.3 + 0.5
    # An angle near the seam of its period.
    scores[:, 5] = (0.05 * rng.normal(size=300)) % 1
    proposal = oracle.Proposal(scores, np.full(300, 1 / 300))
    drawn = proposal.draw(20_000, rng)
    ratio = np.exp(oracle.Shapes.log_density(drawn) - proposal.log_density(drawn))
    assert ratio.max() <= 10.001  # a tenth is the prior
    assert_allclose(ratio.mean(), 1, atol=4 * ratio.std() / np.sqrt(20_000))
    turned = np.abs((drawn[:, 5] + 0.5) % 1 - 0.5)
    assert np.median(turned) < 0.15


def test_flux_integral_is_that_of_a_fine_grid(oracle, field, rng):
    import torch

    from bliss_astro.priors import CatalogPrior

    law = oracle.Fluxes(CatalogPrior().galaxies.counts)
    star = field.star()
    for flux in (0.9, 3.0, 40.0):
        noise = torch.from_numpy(rng.normal(size=len(star))).float()
        data = flux * star + noise * (field.variance + flux * star).sqrt()
        expected, *_ = oracle._star_posterior(field, data, star, law)
        drawn, value = oracle._fluxes_of(field, data, star.expand(400, -1), 5, law, rng)
        weight = np.exp(value - expected)
        error = weight.std() / np.sqrt(weight.size)
        assert_allclose(weight.mean(), 1, atol=4 * error + 1e-3)
        mean = (weight * drawn).sum() / weight.sum()
        assert_allclose(mean, flux, rtol=0.5)


def test_scores_follow_the_papers_prior(oracle, rng):
    from bliss_astro.priors import CatalogPrior

    shapes = CatalogPrior().galaxies.shapes
    own = oracle.Shapes(shapes).to_galaxy(oracle.Shapes.draw(4000, rng)).numpy()
    other = CatalogPrior().galaxies.sample_batch((4000,))[1].numpy()
    other[:, 4:] /= 0.396
    for k in range(6):
        assert stats.ks_2samp(own[:, k], other[:, k]).pvalue > 1e-3


@pytest.mark.slow
def test_bright_sources_are_told_apart(oracle):
    settings = oracle.OracleSettings(
        n_fields=1, per_field=8, size=31, n_bank=200, n_rounds=2, n_draws=48
    )
    rows = oracle._one_field((0, settings, 'single'))
    bright = rows['snr'] > 40
    assert bright.sum() >= 2
    assert_equal(rows['galaxy'][bright] > 0.5, rows['is_galaxy'][bright])
    stars = ~rows['is_galaxy']
    error = np.abs(rows['median'] / rows['flux'] - 1)[stars] * rows['snr'][stars]
    assert np.all(error < 4.5)
    again = oracle._one_field((0, settings, 'single'))
    assert_allclose(again['galaxy'], rows['galaxy'])
