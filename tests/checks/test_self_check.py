# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The residual check of every detection: silent on good images, clear on bad ones.
"""

import os
import warnings

import numpy as np
import pytest
import torch

from bliss_astro import (
    CatalogCheckWarning,
    CoaddSimulator,
    ProbabilisticCatalog,
    PSFModel,
    detect_sources,
)
from bliss_astro.checks import _self_check
from bliss_astro.checks._self_check import around_saturated, self_check
from bliss_astro.exposures import Exposure
from bliss_astro.priors import StarPrior
from bliss_astro.rendering._scene import ModelRenderer, Sources, draw_together
from bliss_astro.simulation import SimulationConfig, SimulationStream

# Ten in the run that takes minutes.
N_SEEDS = 10 if 'BLISS_ASTRO_RUN_SLOW' in os.environ else 2


def stars(seed, density=0.002, **more):
    simulator = CoaddSimulator(1, StarPrior(density=density), shape=(160, 160), **more)
    return simulator.sample(rng=seed)


def stars_and_galaxies(seed):
    config = SimulationConfig(
        population='npe',
        n_exposures=(1, 1),
        shape=(160, 160),
        bad_pixels=False,
        crowding=(2.0, 2.0),
    )
    generator = torch.Generator().manual_seed(seed)
    scenes = SimulationStream(config).sample_batch(1, generator=generator)
    return Exposure(
        scenes.data[0].double().numpy(),
        background=float(scenes.background[0]),
        bkg_error=float(scenes.bkg_error[0]),
        effective_gain=1.0,
        psf=PSFModel.from_shape(scenes.psf[0].double().numpy()),
    )


@pytest.fixture(scope='module')
def sound(encoder):
    """
    A field of stars and its catalogue.
    """
    exposure, truth = stars(3, density=0.003)
    return exposure, detect_sources(exposure, encoder=encoder), truth


@pytest.mark.parametrize('seed', range(N_SEEDS))
def test_good_images_pass(seed, encoder, default_encoder):
    with warnings.catch_warnings():
        warnings.simplefilter('error', CatalogCheckWarning)
        catalog = detect_sources(stars(seed)[0], encoder=encoder)
        assert catalog.meta['check']['passed']
        catalog = detect_sources(stars_and_galaxies(seed), encoder=default_encoder)
        assert catalog.meta['check']['passed']


def test_rows_that_are_missing_are_peaks(sound):
    exposure, catalog, _ = sound
    snr = np.asarray(catalog['flux'].value / catalog['flux_err'].value)
    alone = np.asarray(catalog['flags']) == 0
    bright = np.flatnonzero((snr > 25) & alone)[:8]
    assert len(bright) == 8
    kept = catalog[~np.isin(np.arange(len(catalog)), bright)]
    result = self_check(exposure, kept)
    assert result['peaks']['n'] == 8
    assert '8 peaks above 10 sigma have no row' in result['text']
    # The brightest of them is named.
    first = bright[np.argmax(catalog['flux'][bright])]
    assert abs(result['peaks']['x'] - catalog['x_centroid'][first]) < 1
    assert abs(result['peaks']['y'] - catalog['y_centroid'][first]) < 1
    assert not result['passed']


def test_rows_without_light_are_named(sound):
    exposure, catalog, truth = sound
    moved = catalog.copy()
    rng = np.random.default_rng(1)
    # Faint rows go to empty sky.
    faint = np.arange(len(moved))[-6:]
    x, y = (np.asarray(truth[name]) for name in ('x_centroid', 'y_centroid'))
    for k in faint:
        while True:
            place = rng.uniform(10, 150, size=2)
            if np.hypot(x - place[0], y - place[1]).min() > 8:
                break
        moved['x_centroid'][k], moved['y_centroid'][k] = place
        moved['probability'][k] = 0.95
    empty = self_check(exposure, moved)['empty_rows']
    assert empty['n'] >= 5
    assert empty['n_sure'] <= len(moved)
    assert 'have no light' in self_check(exposure, moved)['text']


@pytest.mark.parametrize('factor', [0.8, 1.25])
def test_fluxes_that_are_off_are_named(sound, factor):
    exposure, catalog, _ = sound
    wrong = catalog.copy()
    wrong['flux'] = wrong['flux'] * factor
    result = self_check(exposure, wrong)
    assert result['flux']['ratio'] == pytest.approx(factor, rel=0.03)
    assert ('above' if factor > 1 else 'below') in result['text']
    assert 'give psf or fwhm' in result['text']


def test_noise_that_is_off_is_named(sound):
    exposure, catalog, _ = sound
    result = self_check(exposure.replace(bkg_error=0.6 * exposure.bkg_error), catalog)
    assert result['blocks']['scatter'] > 1.4
    assert 'give bkg_error' in result['text']
    # Significances go by the noise that there is.
    assert result['peaks']['n'] == 0


def test_one_warning_and_meta_that_files_keep(sound, encoder, tmp_path):
    exposure, _, _ = sound
    half = exposure.replace(bkg_error=0.5 * exposure.bkg_error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        catalog = detect_sources(half, encoder=encoder)
    own = [w for w in caught if issubclass(w.category, CatalogCheckWarning)]
    assert len(own) == 1
    assert str(own[0].message).endswith(catalog.meta['check']['text'])
    assert own[0].filename == __file__
    for ending in ('fits', 'ecsv', 'parquet'):
        path = tmp_path / f'catalog.{ending}'
        catalog.write(path, posterior=False)
        assert ProbabilisticCatalog.read(path).meta['check'] == catalog.meta['check']


def test_models_drawn_together():
    """
    As each alone: of images of two shapes, crowded, without rows, and of two PSFs.
    """
    rng, exposures, catalogs = np.random.default_rng(3), [], []
    wide, small = (60, 72), (50, 40)
    sizes = [(wide, 12), (wide, 0), (wide, 70), (small, 5), (wide, 3)]
    for k, (shape, n) in enumerate(sizes):
        psf = PSFModel(sigma1=1.2 + 0.1 * k, e1=0.05 * k)
        known = {'background': 0.0, 'bkg_error': 1.0, 'effective_gain': 1.0}
        exposures.append(Exposure(np.zeros(shape), psf=psf, **known))
        places = rng.uniform(-3, np.add(shape[::-1], 3), (n, 2)).T
        galaxies = rng.uniform([0.0, 0, 0.2, 0.2, 1, 1], [1, 3, 1, 1, 4, 3], (n, 6))
        fluxes, types = rng.uniform(10, 1e4, n), rng.random(n) < 0.4
        catalogs.append(Sources(*places, fluxes, types, galaxies))
    images = draw_together(exposures, catalogs, noise=0.0)
    for exposure, sources, image in zip(exposures, catalogs, images, strict=True):
        renderer = ModelRenderer.of(exposure)
        renderer.noise = 0.0
        expected = renderer(sources)
        assert image.shape == exposure.shape
        np.testing.assert_allclose(image, expected, atol=1e-6 * expected.max())


def test_check_false_turns_it_off(sound, encoder):
    catalog = detect_sources(sound[0], encoder=encoder, check=False)
    assert 'check' not in catalog.meta


def test_an_empty_catalogue_is_checked(sound):
    exposure, catalog, _ = sound
    result = self_check(exposure, catalog[:0])
    assert result['peaks']['n'] > 10
    assert result['empty_rows'] == {'n': 0, 'n_sure': 0}


def test_surroundings_of_saturated_cores_grow_with_them():
    small, large = np.zeros((2, 101, 101), dtype=bool)
    small[50, 50] = True
    large[45:56, 45:56] = True
    reach = [around_saturated(core, 3.0)[50].sum() for core in (small, large)]
    # 2 FWHM and 4 radii of the core on either side.
    assert reach[0] == 1 + 2 * 9
    assert reach[1] == 11 + 2 * 31
    assert not around_saturated(np.zeros((9, 9), dtype=bool), 3.0).any()


def test_structure_is_told_from_noise(sound, monkeypatch):
    exposure, catalog, _ = sound
    monkeypatch.setattr(_self_check, '_BLOCK', 32)
    data = np.array(exposure.data)
    # A third of the frame has waves of 3 sigma that no source explains.
    wave = np.sin(np.arange(160) / 2.0) * 3 * float(np.median(exposure.bkg_error))
    data[:56] += wave
    result = self_check(exposure.replace(data=data), catalog)
    assert 'mask it or give background' in result['text']
    assert result['blocks']['y'] < 60


def test_many_cosmic_rays_are_reported(sound):
    exposure, catalog, _ = sound
    rays = np.zeros(exposure.shape, dtype=bool)
    rays[10:150:20, 10:150:20] = True
    rays[11:151:20, 11:151:20] = True
    result = self_check(exposure, catalog, cosmic_rays=rays)
    assert result['cosmic_rays']['n'] == 49
    assert result['text'].startswith('49 cosmic rays')
    rays[20:] = rays[:, 80:] = False
    result = self_check(exposure, catalog, cosmic_rays=rays)
    assert result['passed']


def test_peaks_around_one_place_are_reported(sound):
    exposure, catalog, _ = sound
    clear = catalog[
        np.hypot(catalog['x_centroid'] - 80, catalog['y_centroid'] - 80) > 45
    ]
    data = np.array(exposure.data)
    yy, xx = np.mgrid[:160, :160]
    # Rings around one place, as a nucleus and the knots of a spiral.
    for k in range(8):
        x, y = 80 + 20 * np.cos(k * 0.785), 80 + 20 * np.sin(k * 0.785)
        data += 2e3 * np.exp(-0.5 * ((xx - x) ** 2 + (yy - y) ** 2) / 2.4)
    result = self_check(exposure.replace(data=data), clear)
    assert result['peaks']['n_around'] > 0.6 * result['peaks']['n']
    assert 'a saturated star or a large galaxy' in result['text']
