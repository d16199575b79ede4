# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the stream of single galaxies.
"""

import torch

from bliss_astro.simulation._stream import GalaxySimulationConfig, GalaxyStream


class TestStream:
    def test_asked_signal_to_noise(self, generator):
        simulation = GalaxySimulationConfig(size=31, snr=(8.0, 9.0), n_copies=3)
        batch = GalaxyStream(simulation).sample_batch(20, generator=generator)
        assert batch.data.shape == (20, 31, 31)
        assert bool(((batch.snr > 7.99) & (batch.snr < 9.01)).all())
        variance = (batch.background + batch.read_noise**2)[:, None, None]
        signal = batch.noiseless
        expected = (signal**2 / (signal + variance)).sum((1, 2)).sqrt()
        assert torch.allclose(batch.snr, expected)

    def test_noise(self, generator):
        stream = GalaxyStream(GalaxySimulationConfig(size=41))
        batch = stream.sample_batch(40, generator=generator)
        expected = batch.noiseless + batch.background[:, None, None]
        variance = batch.noiseless + batch.variance[:, None, None]
        pull = (batch.data - expected) / variance.sqrt()
        n = pull.numel()
        assert abs(float(pull.mean())) < 5 / n**0.5
        assert abs(float((pull**2).mean()) - 1) < 5 * (2 / n) ** 0.5

    def test_copies_differ_in_flux_and_noise_only(self, generator):
        stream = GalaxyStream(GalaxySimulationConfig(size=31, n_copies=2))
        batch = stream.sample_batch(10, generator=generator)
        assert torch.equal(batch.galaxy[:5], batch.galaxy[5:])
        assert torch.equal(batch.psf[:5], batch.psf[5:])
        assert not torch.equal(batch.flux[:5], batch.flux[5:])

    def test_prior(self, generator):
        simulation = GalaxySimulationConfig(population='sky', size=41)
        stream = GalaxyStream(simulation)
        batch = stream.sample_prior(30, snr_range=(7.0, 30.0), generator=generator)
        assert len(batch) == 30
        assert bool(((batch.snr >= 7) & (batch.snr < 30)).all())

    def test_same_seed_same_galaxies(self):
        stream = GalaxyStream(GalaxySimulationConfig(size=21))
        first, second = (
            stream.sample_batch(6, generator=torch.Generator().manual_seed(8))
            for _ in range(2)
        )
        assert torch.equal(first.data, second.data)
