# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of simulated blends and crowded fields.
"""

import dataclasses
import math

import pytest
import torch

from bliss_astro.encoders import EncoderInputs
from bliss_astro.posteriors import TileCatalog
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.simulation._images import LEAST_DENSITY

BLENDS = SimulationConfig(
    population='npe',
    n_exposures=(1, 1),
    shape=(64, 64),
    bad_pixels=False,
    npe_floor=(0.7, 1.6),
    cluster_fraction=1.0,
    cluster_radius=(8.0, 14.0),
    cluster_crowding=(10.0, 30.0),
)
CROWDED = SimulationConfig(
    n_exposures=(1, 1),
    shape=(48, 48),
    margin=-6,
    density=(0.02, 0.02),
    confined_fraction=0.0,
    unseen=0.3,
)


@pytest.fixture(scope='module')
def blends():
    stream = SimulationStream(BLENDS)
    return stream, stream.sample_batch(200, generator=torch.Generator().manual_seed(4))


class TestClusters:
    def test_sources_lie_within_their_circles(self, blends):
        _, scenes = blends
        x, y, radius = scenes.cluster[:, :, None].unbind(1)
        apart = torch.hypot(scenes.x - x, scenes.y - y)
        used = scenes.flux > 0
        assert int(used.sum()) > 100
        assert (apart < radius)[used].all()

    def test_their_number_is_that_of_the_stated_density(self, blends):
        _, scenes = blends
        x, y, radius = scenes.cluster.unbind(1)
        # Circles may reach beyond the images: count pixels.
        row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing='ij')
        inside = torch.hypot(column - x[:, None, None], row - y[:, None, None])
        area = (inside < radius[:, None, None]).sum((1, 2))
        expected = float((scenes.density * area).sum())
        found = int((scenes.flux > 0).sum())
        assert abs(found - expected) < 4 * math.sqrt(expected)

    def test_the_density_is_an_input(self, blends):
        _stream, scenes = blends
        density = EncoderInputs.from_batch(scenes).log_density
        assert density.shape == (200, 1, 16, 16)
        catalog = TileCatalog.from_batch(scenes)
        empty = density[:, 0] == math.log(LEAST_DENSITY)
        # Tiles that a circle's edge cuts belong to where most of them lies.
        share = float(catalog.count[empty].sum()) / float(catalog.count.sum())
        assert empty.any()
        assert share < 0.2

    def test_half_have_a_higher_floor(self, blends):
        stream, scenes = blends
        floor = scenes.flux_min / scenes.electrons_per_nmgy
        own = float(stream.priors['npe'].flux_min)
        raised = floor > own * (1 + 1e-4)
        assert abs(float(raised.float().mean()) - 0.5) < 4 * math.sqrt(0.25 / 200)
        assert float(floor.max()) < 1.6
        used = scenes.flux > 0
        lowest = scenes.flux_min[:, None].expand_as(scenes.flux)
        assert (scenes.flux[used] >= lowest[used] * (1 - 1e-5)).all()

    def test_without_clusters_nothing_is_left_out(self):
        config = dataclasses.replace(BLENDS, cluster_fraction=0.0)
        stream = SimulationStream(config)
        scenes = stream.sample_batch(8, generator=torch.Generator().manual_seed(1))
        assert scenes.cluster[:, 2].isinf().all()
        assert EncoderInputs.from_batch(scenes).log_density.shape[2:] == (1, 1)


class TestCrowded:
    def test_faint_stars_are_there_but_not_asked_for(self):
        stream = SimulationStream(CROWDED)
        batch = stream.sample_batch(40, generator=torch.Generator().manual_seed(2))
        inside = (batch.flux > 0) & (batch.x > -0.5) & (batch.x < 47.5)
        inside &= (batch.y > -0.5) & (batch.y < 47.5)
        seen = inside & (batch.flux >= batch.flux_min[:, None])
        expected = 40 * 48**2 * 0.02
        assert abs(int(seen.sum()) - expected) < 4 * math.sqrt(expected)
        # A power law of index 0.47 down to 0.3 of the floor.
        more = expected * 0.3**-0.47
        assert abs(int(inside.sum()) - more) < 4 * math.sqrt(more)
        catalog = TileCatalog.from_batch(batch, tile_size=2, n_most=4)
        assert float(catalog.log_flux.min()) >= 0
        assert int(catalog.count.sum()) <= int(seen.sum())

    def test_sky_and_psf_are_misstated(self):
        config = dataclasses.replace(CROWDED, sky_error=3.0, psf_error=0.02)
        plain, off = (
            SimulationStream(c, group_size=30).sample_batch(
                30, generator=torch.Generator().manual_seed(2)
            )
            for c in (CROWDED, config)
        )
        sky = (off.data - plain.data) / plain.bkg_error[:, None, None]
        # The mean size of the error is 2 / 3 of the setting, times a normal number.
        assert 0.7 < float(sky.mean((1, 2)).abs().mean()) < 2.5
        assert float(sky.std((1, 2)).min()) > 0
        ratio = torch.log(off.psf[:, 0] / plain.psf[:, 0])
        assert 0.002 < float(ratio.abs().mean()) < 0.03


@pytest.mark.parametrize(
    ('name', 'value', 'match'),
    [
        ('unseen', 0.0, 'unseen'),
        ('cluster_fraction', 1.5, 'cluster_fraction'),
        ('cluster_radius', (9.0, 3.0), 'cluster_radius'),
        ('npe_floor', (0.0, 1.0), 'npe_floor'),
    ],
)
def test_bad_settings(name, value, match):
    with pytest.raises(ValueError, match=match):
        SimulationConfig(**{name: value})
