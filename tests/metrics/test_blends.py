# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of SNR, blendedness and ellipticity of sources, and of scores by them.
"""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.metrics import blendedness, scene_truth, score_blends
from bliss_astro.metrics._blend_scores import measure_ellipticity
from bliss_astro.metrics._blends import source_snr
from bliss_astro.rendering import render_galaxies, render_stars
from bliss_astro.simulation import SimulationConfig, SimulationStream


def gaussian(x, *, sigma=2.0, flux=1.0, side=61):
    j, i = np.mgrid[:side, :side] - float(side // 2)
    density = np.exp(-((i - x) ** 2 + j**2) / 2 / sigma**2)
    return flux * density / (2 * np.pi * sigma**2)


class TestDefinitions:
    def test_snr_of_a_gaussian(self):
        # Without noise of its own: flux / (noise sqrt(4 pi sigma^2)).
        faint = source_snr([gaussian(0, flux=1e-3)], 9.0)
        assert_allclose(faint, 1e-3 / (3 * np.sqrt(4 * np.pi * 4)), rtol=1e-5)
        # Without a background: the square root of the electrons.
        assert_allclose(source_snr([gaussian(0, flux=1e4)], 1e-12), 100, rtol=1e-6)

    def test_blendedness_of_two_gaussians(self):
        distance, ratio, sigma = 3.0, 2.5, 2.0
        images = [gaussian(0), gaussian(distance, flux=ratio)]
        overlap = np.exp(-(distance**2) / 4 / sigma**2)
        expected = [
            1 - 1 / (1 + ratio * overlap),
            1 - ratio / (ratio + overlap),
        ]
        assert_allclose(blendedness(images), expected, rtol=1e-10)
        # An isolated one is in the first bin, whatever the rounding.
        assert blendedness([0.1 * gaussian(0.3)])[0] == 0

    def test_tensors_and_arrays(self):
        images = np.stack([gaussian(0), gaussian(4)])
        tensors = torch.as_tensor(images)
        for function in (blendedness, lambda v: source_snr(v, 0.1)):
            values = function(tensors)
            assert torch.is_tensor(values)
            assert_allclose(values, function(images), rtol=1e-12)
        assert torch.is_tensor(source_snr(tensors, torch.full((61, 61), 0.1)))

    def test_ellipticity(self):
        j, i = np.mgrid[-30.0:31, -30.0:31]
        i, j = i - 5.3, j + 4.2
        e1, e2 = 0.3, -0.2
        trace = 10.0
        xx, yy, xy = trace * (1 + e1) / 2, trace * (1 - e1) / 2, trace * e2 / 2
        power = (yy * i**2 - 2 * xy * i * j + xx * j**2) / (xx * yy - xy**2)
        images = np.stack(
            [np.exp(-power / 2), np.zeros_like(i), np.full_like(i, np.nan)]
        )
        found = measure_ellipticity(images)
        assert_allclose([found[0][0], found[1][0]], [e1, e2], atol=1e-4)
        assert np.isnan(found[0][1:]).all()
        again = measure_ellipticity(torch.as_tensor(images[:1]))
        assert_allclose(again, np.array(found)[:, :1])

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match='images'):
            blendedness(np.ones((3, 3)))
        with pytest.raises(ValueError, match='images'):
            measure_ellipticity(np.ones((3, 3)))
        for background in (0.0, -np.ones((3, 3))):
            with pytest.raises(ValueError, match='background'):
                source_snr(np.ones((1, 3, 3)), background)


@pytest.fixture(scope='module')
def scenes():
    config = SimulationConfig(population='npe', n_exposures=(1, 1), shape=(32, 32))
    generator = torch.Generator().manual_seed(4)
    drawn = SimulationStream(config).sample_batch(20, generator=generator)
    # A blend at least in each: a star and a galaxy in the middle.
    extra = torch.zeros(20, 2)
    places = {
        'x': extra + torch.tensor([14.0, 18.0]),
        'y': extra + 15.5,
        'flux': extra + torch.tensor([4000.0, 8000.0]),
        'is_galaxy': (extra + torch.tensor([0.0, 1.0])).bool(),
        'galaxy': torch.tensor([0.6, 0.9, 0.4, 0.7, 3.0, 2.0]).expand(20, 2, 6),
    }
    for name, value in places.items():
        setattr(drawn, name, torch.cat([getattr(drawn, name), value], 1))
    return drawn


class TestSceneTruth:
    def test_rows(self, scenes):
        truth = scene_truth(scenes, index=np.arange(100, 120))
        assert len(truth) == int((scenes.flux > 0).sum())
        count = np.bincount(truth['scene'] - 100, minlength=20)
        assert_array_equal(count, (scenes.flux > 0).sum(1))
        first = truth[(truth['scene'] == 107)]
        scale = float(scenes.electrons_per_nmgy[7])
        magnitude = 22.5 - 2.5 * np.log10(first['flux'].to_value(u.electron) / scale)
        assert_allclose(first['magnitude'].to_value(u.mag), magnitude, rtol=1e-12)
        star = ~truth['is_galaxy']
        for name in ('e1', 'e2', 'disk_fraction', 'angle', 'bulge_radius'):
            missing = np.isnan(getattr(truth[name], 'value', truth[name]))
            assert_array_equal(missing, star)
        assert truth['angle'].unit == u.rad

    def test_against_the_definitions(self, scenes):
        truth = scene_truth(scenes)
        for k in (3, 14):
            used = torch.nonzero(scenes.flux[k] > 0)[:, 0]
            images = []
            for j in used:
                one = [v[k, j].reshape(1, 1) for v in (scenes.x, scenes.y, scenes.flux)]
                if scenes.is_galaxy[k, j]:
                    shape = scenes.galaxy[k, j].reshape(1, 1, 6)
                    drawn = render_galaxies(
                        scenes.psf[k : k + 1], *one, shape, size=(32, 32)
                    )
                else:
                    drawn = render_stars(scenes.psf[k : k + 1], *one, size=(32, 32))
                images.append(drawn[0].double().clamp(min=0))
            images = torch.stack(images)
            own = truth[truth['scene'] == k]
            noise = float(scenes.bkg_error[k]) ** 2
            assert_allclose(own['snr'], source_snr(images, noise), rtol=1e-4)
            assert_allclose(own['blendedness'], blendedness(images), atol=1e-4)
            # The galaxy in the middle, as GalSim measures it on 32 pixels.
            e1, e2 = measure_ellipticity(images[-1:])
            assert_allclose([*e1, *e2], [own['e1'][-1], own['e2'][-1]], atol=0.01)
            assert np.hypot(e1, e2) > 0.15

    def test_pieces_and_empty_scenes(self, scenes, monkeypatch):
        whole = scene_truth(scenes)
        from bliss_astro.metrics import _blends

        monkeypatch.setattr(_blends, '_MAX_PIXELS', 7 * 32 * 32)
        parts = scene_truth(scenes)
        for name in ('snr', 'blendedness', 'e1'):
            assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-5)
        import dataclasses

        empty = dataclasses.replace(scenes, flux=torch.zeros_like(scenes.flux))
        assert len(scene_truth(empty)) == 0
        with pytest.raises(ValueError, match='index'):
            scene_truth(scenes, index=[1, 2])


def make_truth(n_scenes, rng):
    """
    Two far sources in each scene, half of them galaxies.
    """
    n = 2 * n_scenes
    angle, e = rng.uniform(0, 2 * np.pi, n), rng.uniform(0.1, 0.6, n)
    galaxy = rng.uniform(size=n) < 0.5
    truth = QTable()
    truth['scene'] = np.repeat(np.arange(n_scenes), 2)
    truth['x'] = np.tile([10.0, 30.0], n_scenes) * u.pix
    truth['y'] = rng.uniform(0, 40, n) * u.pix
    truth['flux'] = rng.uniform(500, 1000, n) * u.electron
    truth['is_galaxy'] = galaxy
    truth['snr'] = rng.uniform(5, 50, n)
    truth['blendedness'] = rng.uniform(0, 0.5, n)
    truth['e1'] = np.where(galaxy, e * np.cos(angle), np.nan)
    truth['e2'] = np.where(galaxy, e * np.sin(angle), np.nan)
    return truth


EDGES = {'snr_edges': [5, 20, 50], 'blendedness_edges': [0, 0.2, 0.5]}


class TestScores:
    def test_known_errors(self, rng):
        truth = make_truth(2000, rng)
        n = len(truth)
        found = rng.uniform(size=n) < np.where(truth['snr'] < 20, 0.6, 0.9)
        detections = QTable({'scene': truth['scene'], 'x': truth['x']})
        detections['y'] = truth['y'] + 0.3 * u.pix
        noise = rng.normal(size=n)
        detections['flux'] = truth['flux'] * (1.1 + 0.1 * noise)
        detections['flux_low'] = truth['flux'] * (1.0 + 0.1 * noise)
        detections['flux_high'] = truth['flux'] * (1.2 + 0.1 * noise)
        wrong = rng.uniform(size=n) < 0.2
        detections['galaxy_probability'] = np.where(
            truth['is_galaxy'] ^ wrong, 0.9, 0.1
        )
        for name in ('e1', 'e2'):
            detections[name] = 0.8 * truth[name] + 0.05 * rng.normal(size=n)
            detections[f'{name}_err'] = 0.05
        detections = detections[found]
        scores = score_blends(truth, detections, **EDGES, n_resamples=60, rng=1)
        assert len(scores) == 4
        assert scores['n_truth'].sum() == n
        assert scores['n_matched'].sum() == found.sum() == scores.meta['n_detections']
        assert_array_equal(scores['snr_low'], [5, 5, 20, 20])
        assert_array_equal(scores['blendedness_low'], [0, 0.2, 0, 0.2])
        expected = {
            'recall': [0.6, 0.6, 0.9, 0.9],
            'class_accuracy': 0.8,
            'star_accuracy': 0.8,
            'galaxy_accuracy': 0.8,
            'flux_median': 0.1,
            'flux_scatter': 0.1,
            # Intervals of +-1 sigma, 1 sigma too high.
            'flux_coverage': 0.5 - 0.02275,
            'ellipticity_slope': 0.8,
        }
        for name, value in expected.items():
            error = np.asarray(scores[f'{name}_err'])
            assert (error > 0).all()
            # 4 sigma of the bootstrap with 60 resamples.
            assert (np.abs(scores[name] - value) < 4.5 * error).all(), name
        # Errors are those of the binomial law, to what 60 resamples can tell.
        binomial = np.sqrt(
            scores['recall'] * (1 - scores['recall']) / scores['n_truth']
        )
        assert_allclose(scores['recall_err'], binomial, rtol=0.4)
        # The shrinkage adds to the noise, and to what intervals miss.
        assert (scores['ellipticity_scatter'] > 0.05).all()
        assert (scores['ellipticity_coverage'] < 0.62).all()
        assert scores.meta['precision'] == 1
        assert scores.meta['n_false'] == 0

    def test_what_precision_counts(self):
        truth = {
            'scene': [0, 0, 1],
            'x': [1.0, 20.0, 1.0],
            'y': [1.0, 1.0, 1.0],
            'flux': [1.0, 1.0, 1.0],
            'is_galaxy': [False, False, False],
            'snr': [10.0, 1.0, 10.0],  # the second is in no bin
            'blendedness': [0.0, 0.0, 0.0],
            'e1': [np.nan] * 3,
            'e2': [np.nan] * 3,
        }
        detections = {'scene': [0, 0, 0, 1], 'x': [1.0, 20.5, 9.0, 5.0], 'y': [1.0] * 4}
        scores = score_blends(
            truth, detections, snr_edges=[5, 20], blendedness_edges=[0, 1], rng=1
        )
        assert scores['n_truth'][0] == 2
        assert scores['recall'][0] == 0.5
        assert scores.meta['precision'] == pytest.approx(1 / 3)
        assert scores.meta['n_false'] == 2
        assert scores.meta['n_detections'] == 3
        for name in ('class_accuracy', 'flux_median', 'ellipticity_slope'):
            assert np.isnan(scores[name][0])
            assert np.isnan(scores[f'{name}_err'][0])
        near = score_blends(
            truth,
            detections,
            snr_edges=[0, 20],
            blendedness_edges=[0, 1],
            match_radius=0.4,
            rng=1,
        )
        assert near['n_matched'][0] == 1

    def test_nothing_found(self, rng):
        truth = make_truth(20, rng)
        none = {'scene': [], 'x': [], 'y': []}
        scores = score_blends(truth, none, **EDGES, n_resamples=5, rng=1)
        assert_array_equal(scores['recall'], 0.0)
        assert np.isnan(scores.meta['precision'])

    def test_scenes_do_not_mix(self, rng):
        truth = make_truth(30, rng)
        other = {'scene': truth['scene'] + 1, 'x': truth['x'], 'y': truth['y']}
        scores = score_blends(truth, other, **EDGES, n_resamples=2, rng=1)
        assert scores['n_matched'].sum() < 15

    def test_bad_arguments(self, rng):
        truth = make_truth(5, rng)
        with pytest.raises(ValueError, match="detections lacks the column 'x'"):
            score_blends(truth, {'scene': [0]}, **EDGES)
        del truth['snr']
        found = {'scene': [0], 'x': [1.0], 'y': [2.0]}
        with pytest.raises(ValueError, match="truth lacks the column 'snr'"):
            score_blends(truth, found, **EDGES)
        with pytest.raises(ValueError, match='edges'):
            score_blends(truth, found, snr_edges=[2, 1], blendedness_edges=[0, 1])
