# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the experiments with blends under benchmarks.
"""

import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_equal
from scipy import stats

from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.metrics import scene_truth
from bliss_astro.posteriors import SourceMarginals
from bliss_astro.priors import FieldPrior

_FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'

pytestmark = pytest.mark.skipif(
    not (_FOLDER / 'blends.py').is_file(), reason='the benchmarks are not here'
)

_N_SCENES = 16
_NAMES = (
    '_blends_asking',
    '_blends_model',
    '_blends_pairs',
    '_blends_rivals',
    '_blends_scenes',
    '_blends_scores',
    '_blends_tables',
    'blends',
    'drawn_apart',
    'galaxy_seams',
)


@pytest.fixture(scope='module')
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_FOLDER)
        modules = {name.removeprefix('_blends_'): __import__(name) for name in _NAMES}
        yield types.SimpleNamespace(**modules)


@pytest.fixture(scope='module')
def scenes(bench):
    generator = torch.Generator().manual_seed(20221121)
    return bench.scenes.draw_blends(_N_SCENES, FieldPrior(), generator=generator)


# -- scenes ------------------------------------------------------------------------


def test_scenes_are_as_the_set_says(bench, scenes):
    batch, signal = scenes
    used = batch.flux > 0
    count = used.sum(1)
    assert count.min() >= 2
    assert count.max() <= 6
    # Few are missed of five values in 16 uniform numbers.
    assert len(count.unique()) >= 3
    apart = torch.hypot(batch.x - 23.5, batch.y - 23.5)[used]
    assert apart.max() <= 12
    # Uniform on the disk: the square of the radius is uniform.
    assert stats.kstest((apart / 12).numpy() ** 2, 'uniform').pvalue > 1e-4
    flux = (batch.flux / batch.electrons_per_nmgy[:, None])[used]
    assert flux.min() >= 1 - 1e-5
    assert signal.shape == (_N_SCENES, 48, 48)
    variance = signal + batch.bkg_error[:, None, None] ** 2
    pull = (batch.data - batch.background[:, None, None] - signal) / variance.sqrt()
    # 36,864 pixels of unit variance.
    assert abs(float(pull.std()) - 1) < 5 / math.sqrt(2 * pull.numel())
    assert abs(float(pull.mean())) < 5 / math.sqrt(pull.numel())


def test_share_of_galaxies_is_the_priors_above_the_cut(bench, generator):
    from bliss_astro.priors import CatalogPrior

    batch, _ = bench.scenes.draw_blends(60, FieldPrior(), generator=generator)
    used = batch.flux > 0
    n, prior = int(used.sum()), CatalogPrior()
    star, galaxy = prior.star_density(1.0), prior.galaxy_density(1.0)
    share = galaxy / (star + galaxy)
    found = float(batch.is_galaxy[used].float().mean())
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / n)


def test_what_is_told_of_the_circle(bench, scenes):
    encoder = Encoder(EncoderConfig(width=16, n_blocks=1, galaxies=True))
    inputs = bench.scenes.inputs_of(encoder, scenes[0])
    density = inputs.log_density[0, 0].exp()
    inside = density > 1e-3
    assert_allclose(density[inside], 4 / (math.pi * 144), rtol=1e-5)
    assert_allclose(density[~inside], 1e-7, rtol=1e-5)
    # As much area as the circle's within some tiles of 16 px, as in training: those
    # whose middle lies in it.
    assert abs(16 * int(inside.sum()) - math.pi * 144) < 5 * 16
    assert_equal(inputs.population.numpy(), 1)


# -- answers -----------------------------------------------------------------------


@pytest.mark.parametrize('shapes', [False, True])
def test_an_encoder_answers_and_its_scene_is_drawn_again(bench, generator, shapes):
    torch.manual_seed(1)
    config = EncoderConfig(width=16, n_blocks=1, galaxies=True, shapes=shapes)
    encoder = Encoder(config).eval()
    batch, signal = bench.scenes.draw_blends(2, FieldPrior(), generator=generator)
    found, (posterior, sources), seconds = bench.asking.ask(encoder, batch, first=100)
    assert seconds > 0
    assert len(found['x']) == len(sources)
    assert np.all(found['image'] >= 100)
    assert np.all(found['flux_low'] <= found['flux_high'])
    assert np.isfinite(found['e1_median']).all() == shapes
    totals = bench.asking.draw_totals(
        posterior, batch, generator=torch.Generator().manual_seed(1), n_draws=2
    )
    assert totals.shape == (2, 2)
    model = bench.model.reconstruct(batch, sources, sources.probability > 0.5)
    assert (model is not None) == shapes
    if shapes:
        assert model.shape == signal.shape
        assert torch.isfinite(model).all()


def _certain(batch):
    """Marginals that are sure of the truth."""
    image, place = (batch.flux > 0).nonzero(as_tuple=True)
    n = len(image)
    log_flux = torch.log(batch.flux / batch.flux_min[:, None])[image, place]
    galaxy = batch.is_galaxy[image, place]
    flux = torch.zeros(n, 1, 7)
    flux[:, 0, 0] = 12.0
    flux[:, 0, 1:3] = torch.where(
        galaxy[:, None], torch.tensor([-20.0, 0.0]), torch.tensor([0.0, -20.0])
    )
    flux[:, 0, 3:5] = log_flux[:, None]
    flux[:, 0, 5:] = 1e-4
    return SourceMarginals(
        torch.ones(n),
        batch.x[image, place][:, None].expand(n, 4),
        batch.y[image, place][:, None].expand(n, 4),
        flux,
        image,
        torch.zeros_like(image),
        torch.zeros_like(image),
        typed=True,
        shapes=batch.galaxy[image, place][:, None].expand(n, 4, 6),
    )


def test_the_truth_reconstructs_the_scene(bench, scenes):
    batch, signal = scenes
    sources = _certain(batch)
    keep = torch.ones(len(sources), dtype=torch.bool)
    model = bench.model.reconstruct(batch, sources, keep)
    assert_allclose(model, signal, atol=2e-3 * float(signal.max()), rtol=2e-3)
    chi2 = bench.model.chi_square(batch, model, signal)
    n_pixels = (signal > 0.5 * batch.bkg_error[:, None, None]).sum()
    assert abs(float(chi2.mean()) - 1) < 0.03 + 5 * math.sqrt(2 / int(n_pixels))
    # Without the first source of each scene the fit is bad.
    first = torch.cat([torch.ones(1, dtype=torch.bool), sources.image.diff() > 0])
    worse = bench.model.chi_square(
        batch, bench.model.reconstruct(batch, sources, ~first), signal
    )
    assert (worse > chi2).float().mean() > 0.9


def test_axial_median_knows_no_seam(bench):
    angle = torch.tensor([[0.05, math.pi - 0.05, 0.02, math.pi - 0.02]])
    value = float(bench.asking.axial_median(angle)[0])
    assert min(value, math.pi - value) < 1e-3


# -- rivals ------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['SEP', 'photutils'])
def test_rivals_find_a_star_alone(bench, name):
    pytest.importorskip('sep' if name == 'SEP' else 'skimage')
    n = 3
    fields = FieldPrior.single().sample_batch(n)
    ones = torch.ones(n, 1)
    sources = (
        22.3 * ones,
        25.1 * ones,
        20 * fields.electrons_per_nmgy[:, None],
        torch.zeros(n, 1, dtype=torch.bool),
        torch.full((n, 1, 6), 0.5),
    )
    generator = torch.Generator().manual_seed(3)
    batch, _ = bench.scenes.expose(fields, sources, generator=generator)
    settings = {'kernel': 'small', 'threshold': 4.0, 'n_pixels': 5, 'contrast': 1e-3}
    found = bench.rivals.find_rival(name, batch, settings, first=7)
    near = np.hypot(found['x'] - 22.3, found['y'] - 25.1) < 0.3
    assert_equal(found['image'][near], [7, 8, 9])
    # 20 nmgy, some 17,000 electrons: the isophote loses wings.
    assert_allclose(found['kron'][near], 20, rtol=0.1)
    assert np.all(found['flux'][near] < 20)


def test_tuning_takes_the_highest_f1(bench, scenes, monkeypatch):
    pytest.importorskip('sep')
    batch, _ = scenes
    grid = bench.rivals.GRIDS['SEP'][::25]
    monkeypatch.setitem(bench.rivals.GRIDS, 'SEP', grid)
    truth = bench.blends.read_truth(batch, 0)
    best, table = bench.rivals.tune(
        'SEP', [(batch, truth | {'image': truth['scene']})], keep=bench.blends.keep
    )
    assert len(table) == len(bench.rivals.GRIDS['SEP'])
    top = max(row['f1'] for row in table)
    chosen = [row for row in table if all(row[k] == v for k, v in best.items())]
    assert chosen[0]['f1'] == top


# -- scores ------------------------------------------------------------------------


def _truth(rng, n=2000):
    return {
        'scene': np.repeat(np.arange(n // 4), 4),
        'x': np.tile(np.arange(4) * 10.0, n // 4),
        'y': np.zeros(n),
        'flux': np.full(n, 5.0),
        'is_galaxy': np.arange(n) % 2 > 0,
        'snr': rng.uniform(5, 40, n),
        'blendedness': rng.uniform(0, 1, n),
        'e1': rng.normal(0, 0.2, n),
        'e2': rng.normal(0, 0.2, n),
    }


def _found(truth, rng, *, share=0.8, n_false=200):
    """Detections of which the less probable are false."""
    n = len(truth['x'])
    hit = rng.uniform(size=n) < share
    scene = np.r_[truth['scene'][hit], rng.integers(0, n // 4, n_false)]
    x = np.r_[truth['x'][hit], np.full(n_false, 5.0)]
    m = len(x)
    probability = np.r_[rng.uniform(0.4, 1, hit.sum()), rng.uniform(0.1, 0.9, n_false)]
    return {
        'scene': scene,
        'x': x,
        'y': np.zeros(m),
        'probability': probability,
        'flux': np.full(m, 5.0) * np.exp(0.1 * rng.normal(size=m)),
        'galaxy_probability': np.full(m, 0.7),
        'e1': np.zeros(m),
        'e2': np.zeros(m),
        'log_score': rng.normal(size=m),
        'log_type': np.full(m, -0.5),
    }


def test_threshold_reaches_the_precision(bench, rng):
    truth = _truth(rng)
    found = _found(truth, rng)
    scores = bench.scores
    threshold = scores.threshold_at(truth, found, 0.97)
    pure = scores.precision_of(truth, scores.above(found, threshold))
    assert 0.97 <= pure < 0.975
    assert scores.threshold_at(truth, found, 0.5) == found['probability'].min()
    spoilt = found | {'x': found['x'] + 5.0}
    assert np.isnan(scores.threshold_at(truth, spoilt, 0.9))


def test_recalls_and_their_differences(bench, rng):
    truth = _truth(rng)
    more, less = (rng.uniform(size=2000) < share for share in (0.9, 0.6))
    bands, n = bench.scores.recalls(truth, [more, less], n_resamples=50)
    use = truth['snr'] > 7
    assert n.sum() == use.sum()
    # Three bins: a fifth, three tenths and half of the sources.
    error = np.sqrt(0.9 * 0.1 / n)
    assert np.all(np.abs(bands.estimate[0, 0] - 0.9) < 4 * error)
    assert_allclose(bands.estimate[1, 1], bands.estimate[0, 0] - bands.estimate[0, 1])
    assert_allclose(bands.std[0, 0], error, rtol=0.6)


def test_designs_are_compared_on_common_sources(bench, rng):
    truth = _truth(rng)
    first = _found(truth, rng, share=1.0, n_false=0)
    second = first | {'flux': 5 * (first['flux'] / 5) ** 2}
    scores = bench.scores.compare_designs(
        truth, {'a': first, 'b': second}, n_resamples=50
    )
    own = scores['median absolute flux error']
    assert own['a']['difference'] == 0
    # 0.6745 of a scatter of 0.1, and twice that.
    assert_allclose(own['a']['value'], 0.0675, atol=0.008)
    assert_allclose(own['b']['difference'], 0.0675, atol=0.012)
    assert own['b']['difference'] > 4 * own['b']['difference_error']
    assert_allclose(scores['class accuracy']['a']['value'], 0.5, atol=0.05)


def test_bound_ratio_of_scattered_pulls(bench, rng):
    n = 3000
    bounds = {
        'scene': np.arange(n),
        'blendedness': np.repeat([0.1, 0.3, 0.6], n // 3),
        'pull': rng.normal(size=(n, 2)) * np.repeat([1.0, 1.3, 2.0], n // 3)[:, None],
    }
    values = bench.scores.bound_ratio(bounds, n_resamples=50)
    for (value, error, number), true in zip(values, (1.0, 1.3, 2.0), strict=True):
        assert number == n // 3
        assert abs(value - true) < 5 * error < 0.3


# -- drawn apart -------------------------------------------------------------------


def test_pairs_are_as_the_case_study_says(bench, generator):
    pairs = bench.pairs.draw_pairs(16, generator=generator)
    told = bench.pairs.tellings()['blends']
    noise = torch.Generator().manual_seed(2)
    batch, _ = bench.pairs.place_pairs(pairs, 7.0, generator=noise, told=told)
    separation = torch.hypot(*(v.diff(dim=1)[:, 0] for v in (batch.x, batch.y)))
    assert_allclose(separation, 7.0, rtol=1e-5)
    truth = scene_truth(batch)
    assert_allclose(truth['snr'][1::2], 30, rtol=0.01)
    assert_allclose(truth['flux'][::2] / truth['flux'][1::2], 2, rtol=1e-5)
    radius = truth['disk_radius'].value * 0.396
    assert_allclose(radius.reshape(-1, 2), [[1.2, 0.8]] * 16, rtol=1e-5)


def test_detections_belong_to_the_nearer_galaxy(bench, generator):
    apart = bench.drawn_apart
    pairs = bench.pairs.draw_pairs(3, generator=generator)
    told = bench.pairs.tellings()['blends']
    batch, _ = bench.pairs.place_pairs(pairs, 4.0, generator=generator, told=told)
    x, y = batch.x.double().numpy(), batch.y.double().numpy()
    scale = float(batch.electrons_per_nmgy[0])
    # Both of the first; the fainter of the second, twice; none of the third.
    found = {
        'image': np.array([0, 0, 1, 1, 2]),
        'x': np.array([x[0, 0], x[0, 1], x[1, 1] + 0.6, x[1, 1] + 0.1, x[2, 0] + 1.2]),
        'y': np.array([y[0, 0], y[0, 1], y[1, 1], y[1, 1], y[2, 0]]),
        'flux_median': np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
    }
    is_found, flux = apart.judge(found, batch)
    assert_equal(is_found, [[True, True], [False, True], [False, False]])
    truth = batch.flux.double().numpy() / scale
    assert_allclose(flux[1, 1], 4 / truth[1, 1], rtol=1e-5)
    nobody = {k: v[:0] for k, v in found.items()}
    assert not apart.judge(nobody, batch)[0].any()


def test_where_half_are_found(bench):
    n = len(bench.drawn_apart.SEPARATIONS)
    x = np.array(bench.drawn_apart.SEPARATIONS)
    share = np.clip((x - 2) / 4, 0, 1)
    curves = {'separation': x.tolist(), 'found_faint': [(s, 0.01) for s in share]}
    assert_allclose(bench.drawn_apart.crossing(curves, 0.5), 4.0)
    low = {'separation': x.tolist(), 'found_faint': [(0.1, 0.01)] * n}
    assert np.isnan(bench.drawn_apart.crossing(low, 0.5))


# -- seams -------------------------------------------------------------------------


def test_profile_sees_a_valley(bench, rng):
    chance = np.full(16, 0.9)
    chance[7:9] = 0.8
    values = (rng.uniform(size=(2000, 16)) < chance).astype(float)
    ratio, error = bench.galaxy_seams.profile_of(values)
    assert_allclose(ratio, chance / chance.mean(), atol=0.045)
    assert np.all(error < 0.012)
    place = np.arange(-1.875, 2, 0.25)
    value, spread = bench.galaxy_seams._border_ratio(values, np.abs(place))
    # Two of the four places near the border are low.
    assert abs(value - 0.85 / 0.9) < 4 * spread


def test_fluxes_reach_the_ratio(bench):
    unit = torch.zeros(2, 5, 5)
    unit[0, 2, 2] = 1.0
    unit[1] = 1 / 25
    flux = bench.scenes.fluxes_at(10.0, unit, torch.tensor([300.0, 300.0]))
    ratio = flux**2 / (flux + torch.tensor([300.0, 25 * 300.0]))
    assert_allclose(ratio, 100, rtol=1e-4)


# -- the page ----------------------------------------------------------------------


def test_pages_without_results(bench, tmp_path):
    names = bench.tables.write_pages(tmp_path, tmp_path)
    folder = tmp_path / 'user_guide' / 'blends_experiment'
    assert {path.name for path in folder.iterdir()} == {f'{n}.inc.rst' for n in names}
    assert 'Not measured yet' in (folder / 'recalls.inc.rst').read_text()


def test_a_small_run_ends_on_a_page(bench, tmp_path, capsys):
    pytest.importorskip('sep')
    torch.manual_seed(1)
    config = EncoderConfig(width=16, n_blocks=1, galaxies=True)
    path = tmp_path / 'small.safetensors'
    Encoder(config).save(path)
    options = ['--quick', '--threads', '1', '--encoder', str(path)]
    options += ['--scenes', '4', '--totals', '4', '--no-rivals']
    threads = torch.get_num_threads()
    bench.blends.main([*options, '-o', str(tmp_path / 'blends.json')])
    torch.set_num_threads(threads)
    result = json.loads((tmp_path / 'blends.json').read_text())
    assert result['quick']
    assert result['details']['n_scenes'] == 4
    assert not any('|' in row['what'] for row in result['rows'])
    bench.tables.write_pages(tmp_path, tmp_path)
    folder = tmp_path / 'user_guide' / 'blends_experiment'
    assert 'small, threshold 0.5' in (folder / 'recalls.inc.rst').read_text()
    assert 'precision' in capsys.readouterr().out
