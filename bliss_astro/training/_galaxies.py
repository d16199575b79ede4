# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxy model: training without images, then on noisy stamps; reconstruction report.

By Parseval's theorem the misfit of a stamp is a sum over wavenumbers, where galaxies
are known in closed form. In the first steps a helper network gives the latent of the
six parameters of a shape, so that the bound is the ELBO of a galaxy of known flux under
white noise, and the decoder is trained without images. Then encoder and decoder are
trained on stamps. Both kinds of steps maximise an evidence lower bound.
"""

import dataclasses
import itertools

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from torch import nn
from torch.nn import functional as F

from bliss_astro._arguments import check_choice, check_integer, require, torch_generator
from bliss_astro.galaxies import GalaxyAutoencoder, _mixture
from bliss_astro.galaxies._networks import MAX_LOG_FLUX, log_likelihood
from bliss_astro.psf import GaussianPSF
from bliss_astro.rendering import RenderingAccuracy, adaptive_moments
from bliss_astro.rendering._profiles import galaxy_modes
from bliss_astro.simulation._stream import GalaxySimulationConfig, GalaxyStream

from ._run import Trainer, train

# Galaxies in a step without images for each in one with images, which takes ten
# times as long.
_PRETRAINING_FACTOR = 3
# Progress of the steps with images from which the decoder is trained too, and its
# learning rate relative to that of the encoder.
_DECODER_FROM, _DECODER_RATE = 0.5, 0.2
# Model over the noise of a pixel above which the pixel counts.
_MIN_SIGNAL = 0.5
# Stamps that are encoded at once, and number of examples of a report.
_PIECE, _N_EXAMPLES = 100, 6
# Bootstrap samples for the errors.
_N_RESAMPLED = 200


class GalaxyTrainer(Trainer):
    """Training run of a galaxy model; `train_galaxies` is its public face."""

    section = 'galaxies'
    draws_in_loss = True
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
        log_flux = torch.log(flux[0]).clamp(max=MAX_LOG_FLUX)
        at = torch.cat([latent[0], log_flux[:, None]], 1)
        place = [c.expand(len(stamps)) for c in centre]
        expected = _mixture.expected_stamps(model.decoder, at, batch.psf, *place, size)
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
        kx, ky, area = _mixture.polar_grid(len(psf), generator)
        with torch.no_grad():
            one, *grid = torch.ones_like(snr), kx[:, None], ky[:, None]
            truth = galaxy_modes(galaxy, one, *grid)[:, 0]
            power = GaussianPSF.from_shape(psf)[:, None].transform(kx, ky)
            power = area * power.square()
            power = power / (power * truth**2).sum(1, keepdim=True)
        modes = _mixture.modes_of_mixture(decoder(latent), kx, ky)
        return 0.5 * snr**2 * (power * (modes - truth) ** 2).sum(1), divergence


class ShapeEncoder(nn.Module):
    """Network from a galaxy's shape, PSF and signal-to-noise ratio to a latent."""

    def __init__(self, latent_dim):
        super().__init__()
        layers = [nn.Linear(12, 128), nn.SiLU()]
        for _ in range(2):
            layers += [nn.Linear(128, 128), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(128, 2 * (latent_dim - 1)))

    def forward(self, psf, galaxy, snr):
        """Mean and standard deviation ``(B, D)`` of latents."""
        fraction, angle, disk_ratio, bulge_ratio = galaxy[:, :4].unbind(1)
        radii = torch.log(galaxy[:, 4:]) - 1
        inputs = [fraction, disk_ratio, bulge_ratio, *radii.unbind(1), snr.log() - 3]
        described = GaussianPSF.from_shape(psf).describe()[:, :6].nan_to_num()
        inputs = torch.cat([torch.stack(inputs, 1), described], 1)
        mean, log_std = self.net(inputs).chunk(2, 1)
        turn = torch.stack([torch.cos(2 * angle), torch.sin(2 * angle)], 1)
        mean = torch.cat([F.softplus(mean[:, :1]) * turn, mean[:, 1:]], 1)
        log_std = (log_std - 2).clamp(-8, 1)
        return mean, torch.exp(torch.cat([log_std[:, :1], log_std], 1))


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


# -- reconstruction report -------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class ReconstructionReport:
    """
    Result of `reconstruction_report`.

    Attributes
    ----------
    table : `~astropy.table.QTable`
        A row for each range of signal-to-noise ratios (``snr_min``, ``snr_max``) that
        has galaxies, the last for all, with their number ``n``; each other column comes
        with a standard error ``..._err``. ``chi2`` per pixel in pixels whose model
        exceeds half a standard deviation; ``correlation`` of residual and model there,
        both in units of the noise; ``chi2_exact`` and ``correlation_exact`` with the
        truth as the model; ``chi2_expected`` of a fit by a model that is right, which
        is less than 1 by the effective number of what was fitted over that of pixels;
        ``flux_bias``, the median of flux over truth less one; ``e1_bias``, ``e2_bias``,
        mean errors of the ellipticity; ``e_bias``, the same along the true direction.

    galaxies : `~astropy.table.QTable`
        A row for each galaxy: ``snr``, true and inferred ``flux`` (electrons),
        ``e1``, ``e2``, and its part in the sums.

    examples : tuple of tensor
        Data without background, model, residual in units of the noise, of a few
        galaxies, from bright to faint, each ``(n, ny, nx)``.

    name : str
        Name of the model, and of the galaxies.
    """

    table: QTable
    galaxies: QTable
    examples: tuple
    name: str

    def __str__(self):
        head = f'Reconstruction by {self.name}, {len(self.galaxies)} galaxies'
        return '\n'.join([head, *self.table.pformat(max_lines=-1, max_width=-1)])

    def plot(self):
        """Draw data, model and residual of a few galaxies, and biases: a figure."""
        from bliss_astro.plotting._metrics import draw_report

        return draw_report(self)


def reconstruction_report(
    model,
    n_galaxies=2000,
    *,
    population='npe',
    snr_edges=(7.0, 10.0, 15.0, 25.0, 50.0, 1000.0),
    size=53,
    n_refine=4,
    renderer='torch',
    rng=None,
):
    """
    Simulate galaxies, infer their latents, and compare model and truth.

    Parameters
    ----------
    model : `~bliss_astro.galaxies.GalaxyAutoencoder`
        The galaxy model.

    n_galaxies : int, optional
        Number of galaxies above the first of ``snr_edges``.

    population : {'npe', 'sky', 'both'}, optional
        Prior of fluxes and shapes.

    snr_edges : sequence of float, optional
        Limits of the bins of signal-to-noise ratio, and of the galaxies drawn.

    size : int, optional
        Side of the stamps in pixels, odd.

    n_refine : int, optional
        Gauss-Newton steps after the network, see
        `~bliss_astro.galaxies.GalaxyAutoencoder.encode`.

    renderer : {'torch', 'galsim'}, optional
        Renderer of the truth.

    rng : int, `numpy.random.Generator` or None, optional
        Source of randomness.

    Returns
    -------
    report : ``ReconstructionReport``
        Printable, with a table and a figure.

    Raises
    ------
    ValueError
        If edges do not increase, ``n_galaxies`` is not positive, or a name is unknown.
    """
    steps = np.diff(snr_edges) if np.ndim(snr_edges) == 1 else np.zeros(1)
    sound = steps.size and (steps > 0).all()
    require(sound, 'snr_edges', 'be increasing numbers', snr_edges)
    check_integer('n_galaxies', n_galaxies, 1, error=ValueError)
    check_choice('renderer', renderer, ('torch', 'galsim'))
    config = GalaxySimulationConfig(population=population, size=size)
    scale, accuracy = model.config.pixel_scale, RenderingAccuracy()
    stream = GalaxyStream(config, pixel_scale=scale, accuracy=accuracy)
    generator = torch_generator(rng)
    ends = (snr_edges[0], snr_edges[-1])
    batch = stream.sample_prior(n_galaxies, snr_range=ends, generator=generator)
    if renderer == 'galsim':
        batch = stream.redraw(batch, generator=generator)
    pieces = torch.arange(len(batch)).split(_PIECE)
    parts = [_reconstruct(model, batch.select(piece), n_refine)[0] for piece in pieces]
    galaxies = QTable({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
    order = torch.argsort(batch.snr, descending=True)
    shown = order[torch.linspace(0.02, 0.9, _N_EXAMPLES).mul(len(order)).long()]
    _, examples = _reconstruct(model, batch.select(shown), n_refine)
    rows, rng = [], np.random.default_rng(0)
    values = galaxies.as_array()
    for low, high in [*itertools.pairwise(snr_edges), ends]:
        own = values[(values['snr'] >= low) & (values['snr'] < high)]
        if (n := len(own)) > 0:
            again = [_scores(own[rng.integers(n, size=n)]) for _ in range(_N_RESAMPLED)]
            row = {'snr_min': float(low), 'snr_max': float(high), 'n': n}
            for name, score in _scores(own).items():
                row[name] = score
                row[f'{name}_err'] = np.std([scores[name] for scores in again])
            rows.append(row)
    table = QTable(rows)
    for name in table.colnames[3:]:
        table[name].info.format = '.4f'
    for name in ('flux', 'flux_err', 'flux_true'):
        galaxies[name].unit = u.electron
    name = f'{model.name!r} ({population} galaxies drawn by {renderer})'
    return ReconstructionReport(table, QTable(galaxies), examples, name)


def _sums(stamps, model, variance, prefix):
    """Sums over pixels for chi-square and correlation of each stamp, and residuals."""
    noise = (model.clamp(min=0) + variance[:, None, None]).sqrt()
    residual = (stamps - model) / noise
    r, s = residual.double(), (model / noise).double()
    inside = (s > _MIN_SIGNAL).double()
    parts = {'n': inside, 'r': r, 's': s, 'rr': r**2, 'ss': s**2, 'rs': r * s}
    sums = {f'{prefix}_{k}': (v * inside).sum((1, 2)) for k, v in parts.items()}
    return sums, residual


@torch.no_grad()
def _reconstruct(model, batch, n_refine):
    """Truth, posterior and sums of each galaxy; data, models and residuals."""
    noise = {'read_noise': batch.read_noise, 'n_refine': n_refine}
    posterior = model.encode(batch.data, batch.psf, batch.background, **noise)
    size = tuple(batch.data.shape[1:])
    light = (posterior.flux[:, None], posterior.latent[:, None])
    image = model.render(batch.psf, batch.x, batch.y, *light, size=size)
    stamps = batch.data - batch.background[:, None, None]
    fitted, residual = _sums(stamps, image, batch.variance, 'fit')
    exact, _ = _sums(stamps, batch.noiseless, batch.variance, 'exact')
    e1, e2, _ = model.decode(posterior.latent).convolved(batch.psf).adaptive_moments()
    true1, true2, _ = adaptive_moments(batch.psf, batch.galaxy[:, 0])
    # Numbers that the data, and not the prior, decide: latents and the flux.
    left = posterior.covariance[:, :-1, :-1].diagonal(dim1=1, dim2=2)
    values = {
        'snr': batch.snr,
        'n_fitted': 1 + (1 - left).sum(1),
        'flux_true': batch.flux[:, 0],
        'flux': posterior.flux,
        'flux_err': posterior.flux_err,
        'e1_true': true1,
        'e2_true': true2,
        'e1': e1,
        'e2': e2,
        **fitted,
        **exact,
    }
    values = {name: value.double().numpy() for name, value in values.items()}
    return values, (stamps, image, residual)


def _scores(galaxies):
    """The scores of a set of galaxies."""
    scores = {}
    for prefix, end in (('fit', ''), ('exact', '_exact')):
        names = (f'{prefix}_{k}' for k in ('n', 'r', 's', 'rr', 'ss', 'rs'))
        n, r, s, rr, ss, rs = (galaxies[name].sum() for name in names)
        n = n or np.nan
        spread = np.sqrt((rr - r * r / n) * (ss - s * s / n))
        scores[f'chi2{end}'] = rr / n
        scores[f'correlation{end}'] = (rs - r * s / n) / spread
    n_pixels = max(1.0, galaxies['fit_n'].sum())
    e1, e2 = (galaxies[k] - galaxies[f'{k}_true'] for k in ('e1', 'e2'))
    length = np.hypot(galaxies['e1_true'], galaxies['e2_true'])
    along = e1 * galaxies['e1_true'] + e2 * galaxies['e2_true']
    return scores | {
        'chi2_expected': 1 - galaxies['n_fitted'].sum() / n_pixels,
        'flux_bias': np.median(galaxies['flux'] / galaxies['flux_true']) - 1,
        'e_bias': np.mean(along / np.maximum(length, 1e-9)),
        'e1_bias': np.mean(e1),
        'e2_bias': np.mean(e2),
    }
