# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reconstruction report of a galaxy model, by signal-to-noise ratio.
"""

import dataclasses
import itertools

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from bliss_astro._arguments import check_ranges, one_of, torch_generator
from bliss_astro.rendering import RenderingAccuracy, adaptive_moments
from bliss_astro.simulation._camera import add_noise
from bliss_astro.simulation._stream import GalaxySimulationConfig, GalaxyStream

# Model over the noise of a pixel above which the pixel counts.
_MIN_SIGNAL = 0.5
# Stamps that are encoded at once, and number of examples of a report.
_PIECE, _N_EXAMPLES = 100, 6
# Bootstrap samples for the errors.
_N_RESAMPLED = 200
_RANGES = one_of('renderer', 'torch', 'galsim') | {
    'snr_edges': (
        'at least two increasing numbers',
        lambda x: np.ndim(x) == 1 and len(x) > 1 and np.all(np.diff(x) > 0),
    ),
    'n_galaxies': (
        'a positive integer',
        lambda x: isinstance(x, int | np.integer) and x > 0,
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class ReconstructionReport:
    """
    Result of `reconstruction_report`.

    Attributes
    ----------
    table : `~astropy.table.QTable`
        A row for each range of signal-to-noise ratios (``snr_min``,
        ``snr_max``) that has galaxies, the last for all, with their number ``n``;
        each other column comes with a standard error ``..._err``. ``chi2`` per
        pixel in pixels whose model exceeds half a standard deviation;
        ``correlation`` of residual and model there, both in units of the noise;
        ``chi2_exact`` and ``correlation_exact`` with the truth as the model;
        ``chi2_expected`` of a fit by a model that is right, which is less than 1 by
        the effective number of what was fitted over that of pixels; ``flux_bias``,
        the median of flux over truth less one; ``e1_bias``, ``e2_bias``, mean errors
        of the ellipticity; ``e_bias``, the same along the true direction.

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
        """
        Draw examples and biases.

        Returns
        -------
        figure : `~matplotlib.figure.Figure`
            Data, model and residual of a few galaxies; chi-square, flux and
            ellipticity against signal-to-noise ratio.
        """
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
        Limits of the bins of signal-to-noise ratio; galaxies outside of them are
        not drawn.

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
        If the edges do not increase, ``n_galaxies`` is not a positive integer,
        or a name is unknown.
    """
    values = {'snr_edges': snr_edges, 'n_galaxies': n_galaxies, 'renderer': renderer}
    check_ranges(values, _RANGES)
    config = GalaxySimulationConfig(population=population, size=size)
    scale, accuracy = model.config.pixel_scale, RenderingAccuracy()
    stream = GalaxyStream(config, pixel_scale=scale, accuracy=accuracy)
    generator = torch_generator(rng)
    ends = (snr_edges[0], snr_edges[-1])
    batch = stream.sample_prior(n_galaxies, snr_range=ends, generator=generator)
    if renderer == 'galsim':
        batch = _drawn_by_galsim(batch, generator)
    parts = [
        _reconstruct(model, batch.select(part), n_refine)[0]
        for part in torch.arange(len(batch)).split(_PIECE)
    ]
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


def _drawn_by_galsim(batch, generator):
    """The same galaxies, with noiseless images by GalSim and fresh noise."""
    from bliss_astro.psf import PSFModel
    from bliss_astro.rendering import GalSimRenderer

    renderer = GalSimRenderer(period=256)
    size = batch.data.shape[1:]
    images = []
    for psf, flux, galaxy in zip(batch.psf, batch.flux, batch.galaxy, strict=True):
        model, shape = PSFModel.from_shape(psf.double().numpy()), galaxy.double()
        source = [size[1] // 2], [size[0] // 2], [float(flux)], size
        images.append(renderer.render(model, *source, galaxy=shape.numpy()))
    noiseless = torch.from_numpy(np.array(images)).float().clamp(min=0)
    data = add_noise(
        noiseless,
        batch.background[:, None, None],
        read_noise=batch.read_noise[:, None, None],
        generator=generator,
    )
    return dataclasses.replace(batch, data=data, noiseless=noiseless)


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
