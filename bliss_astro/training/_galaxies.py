# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training of the galaxy model: pretraining without images, then noisy stamps.

By Parseval's theorem the misfit of a stamp is a sum over wavenumbers, where
galaxies are known in closed form. In the first steps a helper network gives the
latent of the six parameters of a shape, so that the bound is the ELBO of a galaxy
of known flux under white noise, and the decoder is trained without images. Then
encoder and decoder are trained on stamps. Both kinds of steps maximise an evidence
lower bound.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro.galaxies import GalaxyAutoencoder, GalaxyMixture
from bliss_astro.galaxies._mixture import expected_stamps
from bliss_astro.galaxies._networks import log_likelihood
from bliss_astro.psf._mixture import describe_shape
from bliss_astro.rendering._profiles import (
    BULGE_RANGE,
    DISK_RADIUS,
    bulge_of_square,
    disk_of_square,
)
from bliss_astro.simulation._stream import GalaxyStream

from ._run import Trainer, train

# Galaxies in a step without images for each in one with images, which takes ten
# times as long.
_PRETRAINING_FACTOR = 3
# Progress of the steps with images from which the decoder is trained too, and its
# learning rate relative to that of the encoder.
_DECODER_FROM, _DECODER_RATE = 0.5, 0.2
# Logarithm of the flux in electrons to which draws are clipped: a wild first guess
# must not overflow.
_MAX_LOG_FLUX = 20
# Wavenumbers of the polar grid, per pixel, and its number of rings and spokes.
_WAVENUMBERS = (0.006, 4.5)
_RINGS, _SPOKES = 24, 10


class GalaxyTrainer(Trainer):
    """Training run of a galaxy model; `train_galaxies` is its public face."""

    section = 'galaxies'
    validation_batch = 128

    def __init__(self, configs, *, device='cpu'):
        # Validation is on images, which come after the pretraining.
        self.first_validation = configs[2].n_decoder_steps
        super().__init__(configs, device=device)
        self.stream = GalaxyStream(configs[1], pixel_scale=configs[0].pixel_scale)

    def make_model(self):
        model = GalaxyAutoencoder(self.configs[0]).requires_grad_(True).train()
        self.helpers = {'shape_encoder': ShapeEncoder(self.configs[0].latent_dim)}
        return model

    def parameter_groups(self):
        parts = (self.model.decoder, self.model.encoder, *self.helpers.values())
        return [{'params': list(part.parameters())} for part in parts]

    @property
    def progress(self):
        """Share done of the steps with images; negative before them."""
        first = self.first_validation
        return (self.step - first) / max(1, self.training.n_steps - first)

    def rates(self):
        """Learning rates of decoder, encoder and shape encoder."""
        first = self.first_validation
        if self.progress < 0:
            rate = self.cosine_rate(self.step, first)
            return [rate, 0.0, rate]
        rate = self.cosine_rate(self.step - first, self.training.n_steps - first)
        late = self.progress >= _DECODER_FROM
        return [rate * _DECODER_RATE if late else 0.0, rate, 0.0]

    def draw(self, n=None, *, generator=None):
        """A batch of stamps, or of shapes, and the generator that it came from."""
        size, stream = self.training.batch_size, self.stream
        generator = generator or self.generator
        if n is None and self.progress < 0:
            n = _PRETRAINING_FACTOR * size
            psf = stream.field_prior.sample_batch(n, generator=generator).psf
            _, galaxy = stream.sample_galaxies(n, generator=generator)
            snr = stream.sample_snr(n, generator=generator)
            return (psf, galaxy, snr), generator
        return stream.sample_batch(n or size, generator=generator), generator

    def loss(self, model, batch):
        """Negative evidence lower bound, and its terms."""
        batch, generator = batch
        if isinstance(batch, tuple):
            misfit, divergence = self._loss_of_shapes(model.decoder, *batch, generator)
        else:
            misfit, divergence = self._loss_of_stamps(model, batch, generator)
        terms = {'misfit': misfit.mean(), 'divergence': divergence.mean()}
        return terms['misfit'] + terms['divergence'], terms

    def _loss_of_stamps(self, model, batch, generator):
        """Misfit relative to that of the truth, and divergence from the prior."""
        size = batch.data.shape[1:]
        stamps = batch.data - batch.background[:, None, None]
        centre = [torch.full((), (n - 1) / 2).to(stamps) for n in size[::-1]]
        posterior = model.encoder(stamps, batch.psf, batch.variance, *centre)
        latent, flux = posterior.sample(generator=generator)
        log_flux = torch.log(flux[0]).clamp(max=_MAX_LOG_FLUX)
        value = torch.cat([latent[0], log_flux[:, None]], 1)
        place = [c.expand(len(stamps)) for c in centre]
        expected = expected_stamps(model.decoder, value, batch.psf, *place, size)
        softening = 0.0
        if torch.is_grad_enabled():
            softening = self.training.softening * max(0.0, 1 - 2 * self.progress)
        found, best = (
            log_likelihood(stamps, light, batch.variance, softening=softening)
            for light in (expected, batch.noiseless)
        )
        return best - found, posterior.divergence()

    def _loss_of_shapes(self, decoder, psf, galaxy, snr, generator):
        """Half the chi-square that the model lacks, and the latent's divergence."""
        mean, std = self.helpers['shape_encoder'](psf, galaxy, snr)
        latent = mean + std * torch.randn(mean.shape, generator=generator)
        divergence = 0.5 * (mean**2 + std**2 - 1).sum(1) - std.log().sum(1)
        kx, ky, area = _polar(len(psf), generator)
        with torch.no_grad():
            truth = _true_modes(galaxy, kx, ky)
            power = area * _psf_power(psf, kx, ky)
            power = power / (power * truth**2).sum(1, keepdim=True)
        modes = _modes(decoder(latent), kx, ky)
        return 0.5 * snr**2 * (power * (modes - truth) ** 2).sum(1), divergence


class ShapeEncoder(nn.Module):
    """
    Network from a galaxy's shape, PSF and signal-to-noise ratio to a latent.
    """

    def __init__(self, latent_dim):
        super().__init__()
        sizes = [12, 128, 128, 128]
        layers = [
            layer
            for pair in itertools.pairwise(sizes)
            for layer in (nn.Linear(*pair), nn.SiLU())
        ]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], 2 * (latent_dim - 1)))

    def forward(self, psf, galaxy, snr):
        """Mean and standard deviation ``(B, D)`` of latents."""
        fraction, angle, disk_ratio, bulge_ratio = galaxy[:, :4].unbind(1)
        radii = torch.log(galaxy[:, 4:]) - 1
        inputs = [fraction, disk_ratio, bulge_ratio, *radii.unbind(1), snr.log() - 3]
        inputs = torch.cat(
            [torch.stack(inputs, 1), describe_shape(psf)[:, :6].nan_to_num()], 1
        )
        mean, log_std = self.net(inputs).chunk(2, 1)
        turn = torch.stack([torch.cos(2 * angle), torch.sin(2 * angle)], 1)
        mean = torch.cat([F.softplus(mean[:, :1]) * turn, mean[:, 1:]], 1)
        log_std = (log_std - 2).clamp(-8, 1)
        return mean, torch.exp(torch.cat([log_std[:, :1], log_std], 1))


def _polar(n, generator):
    """Wavenumbers ``(n, M)`` in x and y, and the area of the plane of each."""
    low, high = (math.log(k) for k in _WAVENUMBERS)
    step, turn = (high - low) / _RINGS, math.pi / _SPOKES
    shift = torch.rand(2, n, 1, 1, generator=generator)
    k = torch.exp(low + step * (torch.arange(_RINGS)[:, None] + shift[0]))
    spoke = turn * (torch.arange(_SPOKES) + shift[1])
    kx, ky = k * torch.cos(spoke), k * torch.sin(spoke)
    area = 2 * step * turn * k**2  # the other half of the plane is the same
    return kx.flatten(1), ky.flatten(1), area.expand_as(kx).flatten(1)


def _modes(mixture, kx, ky):
    """Transforms ``(B, M)`` of mixtures at wavenumbers."""
    basis = -0.5 * torch.stack([kx**2, 2 * kx * ky, ky**2], 1)
    exponent = (mixture.covariance @ basis).clamp(min=-40)
    return (mixture.weight[:, None] @ torch.exp(exponent))[:, 0]


def _psf_power(psf, kx, ky):
    point = GalaxyMixture(psf.new_ones(len(psf), 1), psf.new_zeros(len(psf), 1, 3))
    return _modes(point.convolved(psf), kx, ky) ** 2


def _true_modes(galaxy, kx, ky):
    fraction, angle, disk_ratio, bulge_ratio, disk, bulge = (
        part[:, None] for part in galaxy.unbind(1)
    )
    cos, sin = torch.cos(angle), torch.sin(angle)
    along, across = (kx * cos + ky * sin) ** 2, (ky * cos - kx * sin) ** 2
    square = (disk / DISK_RADIUS) ** 2 * (along + disk_ratio**2 * across)
    part = fraction * disk_of_square(1 + square)
    square = bulge**2 * (along + bulge_ratio**2 * across)
    square = (square + 2.0 ** BULGE_RANGE[0]).clamp(max=0.99 * 2.0 ** BULGE_RANGE[1])
    return part + (1 - fraction) * bulge_of_square(square)


def train_galaxies(config, output, **options):
    """
    Train a galaxy model on an endless stream of simulated galaxies.

    First the decoder is trained on the parameters of galaxies, without images;
    then encoder and decoder are trained on noisy stamps. An interrupted run
    continues from its last checkpoint with ``resume=True`` (bitwise with the same
    number of threads). The device is the CPU.

    Parameters
    ----------
    config : path_like or tuple
        A TOML file for `load_config`, or the three configurations.

    output : path_like
        Folder for ``checkpoint.pt``, ``log.jsonl`` and, at the end,
        ``<name>.safetensors`` with its card ``<name>.json``.

    **options
        ``name``, ``resume``, ``overwrite``, ``max_minutes`` and ``progress_bar``, as
        in `train_encoder`, with its errors.

    Returns
    -------
    model : `~bliss_astro.galaxies.GalaxyAutoencoder`
        With the best weights so far.
    """
    return train(GalaxyTrainer, config, output, device='cpu', **options)
