# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the galaxy model as users hold it.
"""

import json
import shutil

import numpy as np
import pytest
import torch

from bliss_astro.encoders._weights import GALAXY_MODELS
from bliss_astro.galaxies import (
    GalaxyAutoencoder,
    GalaxyLatentPosterior,
    GalaxyModelConfig,
)
from bliss_astro.galaxies._mixture import expected_stamps, stamps_with_slopes
from bliss_astro.galaxies._networks import log_likelihood, refine
from bliss_astro.rendering import adaptive_moments, render_galaxies

FOLDER = GALAXY_MODELS.bundled()


def inputs_of(stamps):
    """
    Inputs of the encoder for stamps.
    """
    middle = torch.full((len(stamps),), (stamps.data.shape[-1] - 1) / 2)
    signal = stamps.data - stamps.background[:, None, None]
    return signal, stamps.psf, stamps.variance, middle, middle


def encode(model, stamps, **options):
    """
    Posterior of simulated stamps.
    """
    return model.encode(
        stamps.data,
        stamps.psf,
        stamps.background,
        read_noise=stamps.read_noise,
        **options,
    )


class TestRender:
    def test_is_the_decoded_galaxy(self, tiny, psf, generator):
        latent = torch.randn(8, 2, 5, generator=generator)
        x = torch.tensor([[10.2, 25.0]]).expand(8, 2)
        y = torch.tensor([[8.0, -3.0]]).expand(8, 2)
        flux = torch.tensor([[100.0, 30.0]]).expand(8, 2)
        images = tiny.render(psf, x, y, flux, latent, size=(20, 30))
        expected = torch.zeros(8, 20, 30)
        for s in range(2):
            seen = tiny.decode(latent[:, s]).convolved(psf)
            expected += flux[:, s, None, None] * seen.image(
                x[:, s], y[:, s], size=(20, 30)
            )
        assert torch.allclose(images, expected, rtol=1e-4, atol=1e-6)
        assert bool((images > 0).all())

    def test_unused_places(self, tiny, psf):
        x = torch.zeros(8, 3)
        latent = torch.zeros(8, 3, 5)
        images = tiny.render(psf, x, x, torch.zeros(8, 3), latent, size=(6, 7))
        assert images.shape == (8, 6, 7)
        assert float(images.abs().max()) == 0

    def test_flux_is_linear(self, tiny, psf):
        x = torch.full((8, 1), 15.0)
        latent = torch.full((8, 1, 5), 0.3)
        one = tiny.render(psf, x, x, torch.ones(8, 1), latent, size=(31, 31))
        ten = tiny.render(psf, x, x, 10 * torch.ones(8, 1), latent, size=(31, 31))
        assert torch.allclose(ten, 10 * one)

    @pytest.mark.parametrize('shape', [(8, 1, 8), (8, 5), (5,)])
    def test_wrong_latents(self, tiny, psf, shape):
        x = torch.zeros(8, 1)
        with pytest.raises(ValueError, match='latent_dim of these weights is 5'):
            tiny.render(psf, x, x, x + 1, torch.zeros(shape), size=(5, 5))

    def test_decode_wants_its_own_dimension(self, tiny):
        with pytest.raises(ValueError, match='latent_dim') as error:
            tiny.decode(torch.zeros(3, 8))
        assert '(3, 8)' in str(error.value)

    def test_sample(self, tiny):
        assert torch.equal(tiny.sample(4, rng=1), tiny.sample(4, rng=1))
        assert tiny.sample(0, rng=1).shape == (0, 5)


class TestPosterior:
    def test_divergence(self, generator):
        factor = 0.3 * torch.randn(6, 4, 4, generator=generator)
        factor += torch.eye(4)
        mean = torch.randn(6, 4, generator=generator)
        posterior = GalaxyLatentPosterior(mean, factor)
        covariance = posterior.covariance
        own = torch.distributions.MultivariateNormal(mean, covariance)
        # E[log q(z, f)] - E[log N(z; 0, 1)], a uniform prior of log f.
        expected = -own.entropy() + 0.5 * (
            (mean[:, :3] ** 2).sum(1)
            + covariance[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1)
            + 3 * np.log(2 * np.pi)
        )
        assert torch.allclose(posterior.divergence(), expected, rtol=1e-4, atol=1e-4)

    def test_sample(self, generator):
        factor = torch.tensor([[0.5, 0.0], [0.1, 0.2]])[None]
        posterior = GalaxyLatentPosterior(torch.tensor([[1.0, 3.0]]), factor)
        n = 20000
        latent, flux = posterior.sample(n, generator=generator)
        assert latent.shape == (n, 1, 1)
        assert flux.shape == (n, 1)
        # Five standard errors.
        assert abs(float(latent.mean()) - 1) < 5 * 0.5 / n**0.5
        spread = float(torch.log(flux).std())
        assert spread == pytest.approx(0.05**0.5, rel=5 / (2 * n) ** 0.5)
        assert float(posterior.flux[0]) == pytest.approx(np.exp(3))
        error = np.exp(3) * np.sinh(0.05**0.5)
        assert float(posterior.flux_err[0]) == pytest.approx(error, rel=1e-5)


@pytest.fixture(scope='module')
def encoded(bundled, stamps):
    """
    Give the posterior of the stamps by the bundled model.
    """
    return encode(bundled, stamps)


class TestEncode:
    def test_turned_stamps(self, bundled, stamps):
        few = stamps.select(slice(0, 16))
        psf = few.psf * torch.tensor([1, 1, 1, 1, 1, 1, -1, -1])
        signal, _, variance, x, y = inputs_of(few)
        before = bundled.encoder(signal, few.psf, variance, x, y)
        turned = torch.rot90(signal, 1, (1, 2))
        after = bundled.encoder(turned, psf, variance, x, y)
        sign = torch.tensor([-1.0, -1.0] + 7 * [1.0])
        assert torch.allclose(after.mean, before.mean * sign, atol=2e-3)

    def test_fluxes(self, encoded, stamps):
        posterior = encoded
        bright = stamps.snr > 10
        error = posterior.factor[:, -1].norm(dim=-1)
        pull = torch.log(posterior.flux / stamps.flux[:, 0]) / error
        n = int(bright.sum())
        # Five standard errors of a mean square of one; fits are not exact.
        mean_square = float((pull[bright] ** 2).mean())
        assert mean_square < 1.5 * (1 + 5 * (2 / n) ** 0.5)
        assert float(pull[bright].mean()) == pytest.approx(0, abs=5 / n**0.5)

    def test_shapes(self, bundled, stamps, encoded):
        bright = stamps.select(stamps.snr > 40)
        latent = encoded.latent[stamps.snr > 40]
        found = bundled.decode(latent).convolved(bright.psf).adaptive_moments()
        truth = adaptive_moments(bright.psf, bright.galaxy[:, 0])
        for a, b in zip(found[:2], truth[:2], strict=True):
            assert float((a - b).abs().median()) < 0.05
        assert float((found[2] / truth[2] - 1).abs().median()) < 0.05

    def test_reconstruction_off_centre(self, bundled, psf):
        galaxy = torch.tensor([0.7, 1.0, 0.5, 0.8, 6.0, 3.0]).expand(8, 1, 6)
        x, y = torch.full((8, 1), 18.3), torch.full((8, 1), 21.6)
        flux = torch.full((8, 1), 3e5)
        clean = render_galaxies(psf, x, y, flux, galaxy, size=(41, 41))
        posterior = bundled.encode(clean + 500, psf, 500.0, x=18.3, y=21.6)
        model = bundled.render(
            psf,
            x,
            y,
            posterior.flux[:, None],
            posterior.latent[:, None],
            size=(41, 41),
        )
        peak = clean.amax((1, 2))
        assert float(((model - clean).abs().amax((1, 2)) / peak).max()) < 0.03

    def test_one_stamp_as_array(self, bundled, stamps):
        one = bundled.encode(
            stamps.data[0].numpy(),
            stamps.psf[0].numpy(),
            float(stamps.background[0]),
            read_noise=float(stamps.read_noise[0]),
        )
        many = encode(bundled, stamps.select(slice(0, 1)))
        assert torch.allclose(one.mean, many.mean)

    def test_empty_sky(self, bundled, psf, generator):
        data = 600 + 600**0.5 * torch.randn(8, 41, 41, generator=generator)
        posterior = bundled.encode(data, psf, 600.0)
        assert bool(torch.isfinite(posterior.mean).all())
        assert bool(torch.isfinite(posterior.factor).all())

    def test_refining(self, bundled, stamps):
        stamps = stamps.select(slice(0, 24))
        start = bundled.encoder(*inputs_of(stamps))
        size = tuple(stamps.data.shape[1:])

        def log_posterior(value):
            signal, psf, variance, x, y = inputs_of(stamps)
            expected = expected_stamps(bundled.decoder, value, psf, x, y, size)
            prior = -0.5 * (value[:, :-1] ** 2).sum(1)
            return prior + log_likelihood(signal, expected, variance)

        done = refine(bundled.decoder, start, *inputs_of(stamps), n_steps=3)
        gain = log_posterior(done.mean) - log_posterior(start.mean)
        assert float(gain.min()) > -1e-2
        assert float(gain.mean()) > 0.1

    def test_slopes(self, tiny, psf, generator):
        value = torch.randn(8, 6, generator=generator)
        x = torch.full((8,), 10.0)

        def function(at):
            return expected_stamps(tiny.decoder, at, psf, x, x, (21, 21))

        same, slopes = stamps_with_slopes(tiny.decoder, value, psf, x, x, (21, 21))
        assert torch.allclose(same, function(value), rtol=1e-4, atol=1e-6)
        for k in range(6):
            step = torch.zeros(6)
            step[k] = 5e-3
            numeric = (function(value + step) - function(value - step)) / 1e-2
            scale = numeric.abs().max()
            assert float((slopes[:, k] - numeric).abs().max()) < 2e-2 * scale

    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            ({'image': np.zeros(5)}, 'image must be'),
            ({'image': np.full((2, 9, 9), np.nan)}, 'image must be finite'),
            ({'psf': np.ones((3, 8))}, 'psf must be'),
            ({'background': 0.0}, 'background must be positive'),
            ({'background': np.ones(3)}, r'background must be \(\) or \(2,\)'),
            ({'x': np.inf}, 'x must be finite'),
        ],
    )
    def test_bad_input(self, tiny, psf, change, reason):
        values = {'image': np.ones((2, 9, 9)), 'psf': psf[0], 'background': 1.0}
        values |= change
        image, psf, background = (values.pop(k) for k in ('image', 'psf', 'background'))
        with pytest.raises(ValueError, match=reason):
            tiny.encode(image, psf, background, **values)


class TestFiles:
    def test_bundled(self, bundled):
        assert GalaxyAutoencoder.available() == ['galaxies']
        assert bundled.latent_dim == 8
        assert bundled.card['training']['steps_done'] > 0
        assert (FOLDER / 'galaxies.safetensors').stat().st_size <= 1_000_000
        assert repr(bundled).startswith("<GalaxyAutoencoder 'galaxies': latent_dim=8")

    def test_round_trip(self, tiny, tmp_path, generator):
        path = tmp_path / 'mine.safetensors'
        tiny.save(path)
        again = GalaxyAutoencoder.from_pretrained(path, latent_dim=5)
        latent = torch.randn(7, 5, generator=generator)
        assert torch.equal(again.decode(latent).weight, tiny.decode(latent).weight)
        assert again.name == 'mine'
        with pytest.raises(FileExistsError):
            tiny.save(path)
        with pytest.raises(ValueError, match='must end in'):
            tiny.save(tmp_path / 'mine.bin')

    def test_other_dimension_asked_for(self):
        with pytest.raises(ValueError, match='latent_dim') as error:
            GalaxyAutoencoder.from_pretrained(latent_dim=16)
        assert 'is 8' in str(error.value)
        assert '16' in str(error.value)

    def test_weights_of_another_dimension(self, tiny, tmp_path):
        path = tmp_path / 'mine.safetensors'
        tiny.save(path)
        card = json.loads(path.with_suffix('.json').read_text())
        card['galaxies']['latent_dim'] = 6
        path.with_suffix('.json').write_text(json.dumps(card))
        with pytest.raises(ValueError, match='do not fit their card'):
            GalaxyAutoencoder.from_pretrained(path)

    def test_damaged(self, tmp_path):
        path = tmp_path / 'galaxies.safetensors'
        shutil.copy(FOLDER / path.name, path)
        with pytest.raises(ValueError, match='missing or damaged'):
            GalaxyAutoencoder.from_pretrained(path)
        shutil.copy(FOLDER / 'galaxies.json', tmp_path)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match='corrupted or altered'):
            GalaxyAutoencoder.from_pretrained(path)

    def test_unknown(self, tmp_path):
        with pytest.raises(ValueError, match='bundled are galaxies'):
            GalaxyAutoencoder.from_pretrained('nebulae')
        with pytest.raises(FileNotFoundError):
            GalaxyAutoencoder.from_pretrained(tmp_path / 'no.safetensors')

    def test_loading_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        GalaxyAutoencoder.from_pretrained()
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize('bad', [1, 8.0, True])
    def test_bad_dimensions(self, bad):
        with pytest.raises(ValueError, match='latent_dim must be an integer'):
            GalaxyModelConfig(latent_dim=bad)

    def test_least_dimension(self, psf):
        with torch.random.fork_rng(devices=[]):
            model = GalaxyAutoencoder(GalaxyModelConfig(latent_dim=2))
        posterior = model.encode(torch.ones(8, 15, 15) * 100, psf, 99.0, n_refine=1)
        assert posterior.latent.shape == (8, 2)
