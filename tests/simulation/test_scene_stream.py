# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the stream of simulated fields of stars and galaxies.
"""

import dataclasses
import math

import astropy.units as u
import pytest
import torch

from bliss_astro.encoders import (
    EncoderInputs,
)
from bliss_astro.posteriors import TileCatalog
from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.simulation import SimulatedImages, SimulationConfig, SimulationStream
from bliss_astro.simulation._camera import Draws
from bliss_astro.simulation._stated import misstate_psf

NPE = SimulationConfig(
    population='npe', n_exposures=(1, 1), shape=(80, 80), bad_pixels=False
)
SKY = SimulationConfig(
    population='sky',
    n_exposures=(1, 1),
    shape=(64, 64),
    bad_pixels=False,
    floor_snr=(3.0, 5.0),
    star_scale=(1.0, 4.0),
)


def draw(config, n, *, seed=1, **kwargs):
    stream = SimulationStream(config, **kwargs)
    generator = torch.Generator().manual_seed(seed)
    return stream, stream.sample_batch(n, generator=generator)


def inside(scenes):
    ny, nx = scenes.data.shape[1:]
    x, y = scenes.x, scenes.y
    seen = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    return seen & (scenes.flux >= scenes.flux_min[:, None] * (1 - 1e-5))


@pytest.fixture(scope='module')
def npe():
    return draw(NPE, 300)[1]


@pytest.fixture(scope='module')
def sky():
    return draw(SKY, 150)[1]


@pytest.mark.parametrize('name', ['npe', 'sky'])
def test_counts_are_those_of_the_stated_density(name, request):
    scenes = request.getfixturevalue(name)
    ny, nx = scenes.data.shape[1:]
    expected = float(scenes.density.sum()) * ny * nx
    found = int(inside(scenes).sum())
    assert abs(found - expected) < 4 * math.sqrt(expected)


def test_npe_scenes_follow_the_paper(npe):
    scenes, used = npe, inside(npe)
    n = int(used.sum())
    share = float(scenes.is_galaxy[used].float().mean())
    assert abs(share - 0.514) < 4 * math.sqrt(0.25 / n)
    torch.testing.assert_close(
        scenes.density, torch.full((300,), 6.25e-4), rtol=1e-4, atol=0
    )
    flux = scenes.flux / scenes.electrons_per_nmgy[:, None]
    assert float(flux[used].min()) > 0.631
    assert (scenes.population == 1).all()


def test_empty_sky_has_the_stated_noise():
    config = dataclasses.replace(SKY, star_scale=(1e-6, 1e-6), galaxy_scale=(1e-6,) * 2)
    _stream, scenes = draw(config, 64)
    image = EncoderInputs.from_batch(scenes).image
    n = image.numel()
    assert abs(float(image.mean())) < 5 / math.sqrt(n)
    assert abs(float(image.var()) - 1) < 5 * math.sqrt(2 / n)


def test_the_sky_may_be_off():
    config = dataclasses.replace(
        SKY, star_scale=(1e-6, 1e-6), galaxy_scale=(1e-6,) * 2, sky_error=0.2
    )
    _stream, scenes = draw(config, 200)
    level = EncoderInputs.from_batch(scenes).image.mean((2, 3))
    # Of a size that is (2 u^2) 0.2 with uniform u: its mean square is 0.2^2 4 / 5.
    assert 0.6 < float(level.square().mean()) / (0.2**2 * 0.8) < 1.7
    assert not bool(EncoderInputs.from_batch(scenes).mask.any())


def test_coadds_state_their_noise():
    config = dataclasses.replace(
        SKY,
        n_exposures=(9, 9),
        star_scale=(1e-6, 1e-6),
        galaxy_scale=(1e-6,) * 2,
    )
    _stream, scenes = draw(config, 48)
    image = EncoderInputs.from_batch(scenes).image
    assert abs(float(image.var()) - 1) < 0.03
    for axis, rho in ((3, scenes.correlation[:, 0]), (2, scenes.correlation[:, 1])):
        n = image.shape[axis]
        near = image.narrow(axis, 1, n - 1) * image.narrow(axis, 0, n - 1)
        assert abs(float(near.mean()) - float(rho.mean())) < 0.02


def test_faint_sources_are_there_but_not_asked_for(sky):
    scenes = sky
    catalog = TileCatalog.from_batch(scenes)
    assert int(catalog.count.sum()) <= int(inside(scenes).sum())
    below = (scenes.flux > 0) & (scenes.flux < 0.99 * scenes.flux_min[:, None])
    assert int(below.sum()) > 50
    assert bool((catalog.log_flux >= 0).all())


def test_truth_by_tile_keeps_types(npe):
    scenes = npe.select(slice(0, 50))
    catalog = TileCatalog.from_batch(scenes)
    galaxies = int((inside(scenes) & scenes.is_galaxy).sum())
    # A tile holds two; a third of one tile is rare at this density.
    assert 0 <= galaxies - int(catalog.galaxy.sum()) <= 2


def test_draws_repeat_and_join():
    _, first = draw(SKY, 8, seed=4)
    _, second = draw(SKY, 8, seed=4)
    assert torch.equal(first.data, second.data)
    both = SimulatedImages.concatenate([first, second])
    assert len(both) == 16
    assert both.galaxy.shape[:2] == both.x.shape


def test_populations_and_depths_mix():
    config = dataclasses.replace(
        SKY,
        population='both',
        n_exposures=(1, 6),
        single_fraction=0.5,
        fields='wide',
        shape=(32, 32),
    )
    _, scenes = draw(config, 200, group_size=2)
    # A hundred groups, a half of the paper's; half of the others are coadds.
    assert 30 < int((scenes.population == 1).sum()) / 2 < 70
    deep = scenes.effective_gain > 1.5
    assert 8 < int(deep.sum()) / 2 < 43
    # The paper's images are single exposures.
    assert not bool((deep & (scenes.population == 1)).any())


def test_priors_come_from_files(tmp_path):
    CatalogPrior().save(tmp_path / 'catalog.json')
    FieldPrior.single().save(tmp_path / 'fields.json')
    config = dataclasses.replace(
        SKY,
        catalog_prior=str(tmp_path / 'catalog.json'),
        field_prior=str(tmp_path / 'fields.json'),
    )
    stream, scenes = draw(config, 8)
    assert stream.priors['sky'] == CatalogPrior()
    torch.testing.assert_close(scenes.psf, scenes.psf[:1].expand_as(scenes.psf))


def test_images_become_exposures():
    _, scenes = draw(dataclasses.replace(SKY, psf_errors=(0.01, 0.02)), 2)
    exposure = scenes.exposure(1, unit='nmgy')
    scale = float(scenes.electrons_per_nmgy[1])
    assert exposure.unit == u.nmgy
    assert exposure.data[3, 5] == pytest.approx(float(scenes.data[1, 3, 5]) / scale)
    assert exposure.bkg_error * scale == pytest.approx(float(scenes.bkg_error[1]))
    assert exposure.effective_gain == pytest.approx(scale)
    assert exposure.psf_error == pytest.approx(float(scenes.psf_error[1]))
    assert scenes.exposure(psf_error=0.05).psf_error == 0.05
    with pytest.raises(ValueError, match='unit must be'):
        scenes.exposure(unit='mag')


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('population', 'quasars', 'population must be one of'),
        ('fields', 'none', 'fields must be one of'),
        ('npe_fraction', 1.5, 'npe_fraction must be a number from 0 to 1'),
        ('sky_error', -1.0, 'sky_error must be finite, not negative'),
        ('pixel_scale', 0.0, 'pixel_scale must be positive'),
        ('star_scale', (2.0, 1.0), 'star_scale must be'),
    ],
)
def test_bad_settings_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        SimulationConfig(**{name: value})


def test_bright_stars_are_in_the_truth_and_glare():
    config = dataclasses.replace(
        SKY,
        star_scale=(1e-6, 1e-6),
        galaxy_scale=(1e-6,) * 2,
        bright_fraction=1.0,
        bad_pixels=True,
    )
    _stream, scenes = draw(config, 100)
    bright = scenes.flux.max(1)
    assert float(bright.values.min()) > 1.9e5
    assert not scenes.is_galaxy.gather(1, bright.indices[:, None]).any()
    # They lie evenly in the image and 40 px around it.
    inside = (scenes.x > -0.5) & (scenes.x < 63.5) & (scenes.y > -0.5)
    inside &= (scenes.y < 63.5) & (scenes.flux > 1.9e5)
    share, expected = float(inside.sum()) / 100, (64 / 144) ** 2
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 100)
    found = TileCatalog.from_batch(scenes)
    assert int(found.count.sum()) >= int(inside.sum())
    # Light far from them that no PSF has: the median of an image is lifted.
    plain = dataclasses.replace(config, bright_fraction=0.0)
    _, others = draw(plain, 100)
    level = [
        float(((s.data - s.background[:, None, None]).flatten(1)).mean(1).median())
        for s in (scenes, others)
    ]
    assert level[0] > level[1] + 5


def test_a_misstated_psf_is_off_by_a_little(npe):
    right = npe
    generator = torch.Generator().manual_seed(3)
    stated = misstate_psf(Draws(generator), right.psf, 0.02)
    off = torch.log(stated[:, 0] / right.psf[:, 0])
    # Normal with a size of 2 u^2 of 0.02: its mean square is 0.02^2 4 / 5.
    assert 0.5 < float(off.square().mean()) / (0.02**2 * 0.8) < 2
    # The width of core and wing go together.
    torch.testing.assert_close(
        torch.log(stated[:, 3] / right.psf[:, 3]), off, atol=1e-5, rtol=0
    )
    assert (stated[:, 5] == right.psf[:, 5]).all()
