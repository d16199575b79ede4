# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the inputs of an encoder, and of the stream of its training.
"""

import dataclasses
import math

import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.encoders import EncoderInputs
from bliss_astro.encoders._inputs import N_CONDITIONS
from bliss_astro.priors import StarPrior
from bliss_astro.simulation import CoaddSimulator, SimulationConfig, SimulationStream
from bliss_astro.simulation._images import LEAST_DENSITY


@pytest.fixture
def batch():
    simulator = CoaddSimulator(4, StarPrior(density=0.01), shape=(18, 22), margin=0)
    return simulator.sample_batch(3, generator=torch.Generator().manual_seed(2))


class TestFromBatch:
    def test_channels(self, batch):
        inputs = EncoderInputs.from_batch(batch)
        assert inputs.image.shape == inputs.mask.shape == (3, 1, 18, 22)
        assert inputs.log_noise.shape == (3, 1, 1, 1, 1)
        assert inputs.correlation.shape == (3, 1, 2, 1, 1)
        assert inputs.psf.shape == (3, 1, 8, 1, 1)
        assert inputs.present.shape == (3, 1)
        assert inputs.present.all()
        assert inputs.log_density.shape == (3, 1, 1, 1)
        assert inputs.log_flux_floor.shape == (3, 1, 1, 1)

    def test_units_of_the_noise(self, batch):
        inputs = EncoderInputs.from_batch(batch)
        noise = batch.bkg_error[:, None, None]
        assert_allclose(inputs.image[:, 0] * noise + 865, batch.data, rtol=1e-5)
        floor = inputs.log_flux_floor.exp().flatten() * batch.bkg_error
        assert_allclose(floor, batch.flux_min, rtol=1e-5)
        electrons = inputs.log_noise.exp().flatten()
        assert_allclose(electrons, batch.bkg_error * batch.effective_gain, rtol=1e-5)

    def test_bad_pixels_are_zero(self, batch):
        batch.mask[1, 3:6, 4] = True
        batch.data[1, 4, 4] = math.nan
        inputs = EncoderInputs.from_batch(batch)
        assert not inputs.image[inputs.mask].any()
        assert torch.isfinite(inputs.image).all()

    def test_confined_stars_make_a_map(self):
        simulator = CoaddSimulator(1, shape=(24, 32), margin=8)
        batch = simulator.sample_batch(2, generator=torch.Generator().manual_seed(2))
        inputs = EncoderInputs.from_batch(batch)
        assert inputs.log_density.shape == (2, 1, 6, 8)
        inside = inputs.log_density[:, :, 2:4, 2:6]
        assert_allclose(inside, math.log(3 / 1600), rtol=1e-5)
        inputs.log_density[:, :, 2:4, 2:6] = math.log(LEAST_DENSITY)
        assert (inputs.log_density == math.log(LEAST_DENSITY)).all()

    def test_an_empty_sky_has_a_finite_density(self):
        simulator = CoaddSimulator(1, StarPrior(density=0.0), shape=(8, 8), margin=0)
        batch = simulator.sample_batch(1, generator=torch.Generator().manual_seed(2))
        assert torch.isfinite(EncoderInputs.from_batch(batch).log_density).all()


class TestConditions:
    def test_finite_and_of_unit_size(self, draw):
        inputs, _ = draw(40, shape=(8, 8), density=(3e-5, 0.013))
        conditions = inputs.conditions()
        assert conditions.shape[:3] == (40, 1, N_CONDITIONS)
        assert torch.isfinite(conditions).all()
        assert conditions.abs().max() < 10

    def test_maps(self, batch):
        inputs = EncoderInputs.from_batch(batch)
        inputs.psf = inputs.psf.expand(-1, -1, -1, 5, 6)
        assert inputs.conditions().shape == (3, 1, N_CONDITIONS, 5, 6)

    def test_noise_excess(self, batch):
        inputs = EncoderInputs.from_batch(batch)
        both = (1 + 2 * batch.correlation).prod(1)
        assert_allclose(inputs.noise_excess().flatten(), both, rtol=1e-6)

    def test_at_tiles(self, batch):
        inputs = EncoderInputs.from_batch(batch)
        tiles = tuple(torch.tensor(v) for v in ([0, 2], [3, 1], [2, 0]))
        assert_allclose(
            inputs.at_tiles(inputs.psf, *tiles)[:, 0], batch.psf[[0, 2]], rtol=1e-6
        )
        value = torch.arange(3.0 * 5 * 6).reshape(3, 1, 5, 6)
        assert inputs.at_tiles(value, *tiles)[:, 0].tolist() == [20.0, 66.0]


class TestConcatenate:
    def test_is_the_batch(self, draw):
        parts = [draw(2, seed=seed, confined_fraction=0.0)[0] for seed in (1, 2)]
        both = EncoderInputs.concatenate(parts)
        assert both.image.shape == (4, 1, 16, 16)
        assert torch.equal(both.image[2:], parts[1].image)
        assert both.psf.shape == (4, 1, 8, 1, 1)

    def test_maps_and_constants(self):
        def batch(margin):
            simulator = CoaddSimulator(1, shape=(26, 26), margin=margin)
            generator = torch.Generator().manual_seed(2)
            return EncoderInputs.from_batch(
                simulator.sample_batch(2, generator=generator)
            )

        both = EncoderInputs.concatenate([batch(0), batch(8)])
        assert both.log_density.shape == (4, 1, 7, 7)
        assert both.log_noise.shape == (4, 1, 1, 1, 1)
        assert_allclose(both.log_density[:2], math.log(3 / 1600), rtol=1e-5)
        assert (both.log_density[2:, :, 0] == math.log(LEAST_DENSITY)).all()

    def test_to_a_device(self, draw):
        inputs, _ = draw()
        same = inputs.to('cpu')
        for field in dataclasses.fields(EncoderInputs):
            one, other = getattr(inputs, field.name), getattr(same, field.name)
            if isinstance(one, torch.Tensor):
                assert torch.equal(one, other)
            else:
                assert one == other


class TestStream:
    def test_reproducible(self, draw):
        (one, truth), (same, again), (other, _) = (draw(5, seed=s) for s in (1, 1, 2))
        assert torch.equal(one.image, same.image)
        assert torch.equal(truth.log_flux, again.log_flux)
        assert not torch.equal(one.image, other.image)

    def test_batches(self, draw):
        inputs, catalog = draw(5)
        assert len(inputs.image) == 5
        assert catalog.count.shape == (5, 4, 4)
        assert catalog.count.sum() > 5
        assert (catalog.log_flux >= 0).all()

    def test_depths(self):
        config = SimulationConfig(
            shape=(26, 26), noise_order='after_alignment', bad_pixels=False
        )
        stream = SimulationStream(config, group_size=1)
        images = stream.sample_batch(200, generator=torch.Generator().manual_seed(1))
        # The gain of a mean of images with independent noise is their number.
        depths = images.effective_gain.round().long().tolist()
        assert set(depths) <= set(range(1, 26))
        assert len(set(depths)) > 16
        # 35 % single ones; four standard errors
        assert abs(depths.count(1) / 200 - 0.35) < 0.14

    def test_the_prior_of_the_paper(self, draw):
        inputs, _ = draw(2, psf='paper', flux_min=622.0, background=(865.0, 865.0),
                         n_exposures=(1, 1), read_noise=(0.0, 0.0))  # fmt: skip
        floor = (inputs.log_flux_floor + inputs.log_noise).exp()
        assert_allclose(floor.flatten(), 622, rtol=1e-4)

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'psf': 'hubble'}, 'psf must be'),
            ({'n_exposures': (5, 2)}, 'n_exposures must be'),
            ({'background': (0.0, 2.0)}, 'background must be'),
            ({'density': (-1.0, 2.0)}, 'density must be'),
        ],
    )
    def test_errors(self, settings, message):
        with pytest.raises(ValueError, match=message):
            SimulationConfig(**settings)
