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

from bliss_astro._random import torch_generator
from bliss_astro.rendering import RenderingAccuracy, adaptive_moments
from bliss_astro.simulation import GalaxyStream
from bliss_astro.simulation._noise import add_noise

from ._configuration import GalaxySimulationConfig

__all__ = ['ReconstructionReport', 'reconstruction_report']

# Model over the noise of a pixel above which the pixel counts.
_MIN_SIGNAL = 0.5
# Stamps that are encoded at once, and number of examples of a report.
_PIECE, _N_EXAMPLES = 100, 6
# Bootstrap samples for the errors.
_N_RESAMPLED = 200
_SCORES = (
    'chi2',
    'chi2_expected',
    'chi2_exact',
    'correlation',
    'correlation_exact',
    'flux_bias',
    'e_bias',
    'e1_bias',
    'e2_bias',
)


@dataclasses.dataclass(frozen=True, eq=False)
class ReconstructionReport:
    """
    Result of `reconstruction_report`.

    Attributes
    ----------
    table : `~astropy.table.QTable`
        A row for each range of signal-to-noise ratios (``snr_min``,
        ``snr_max``), the last for all, with ``n`` galaxies; each other column
        comes with a standard error ``..._err``. ``chi2`` per pixel in pixels
        whose model exceeds half a standard deviation; ``correlation`` of
        residual and model there, both in units of the noise; ``chi2_exact``
        and ``correlation_exact`` with the truth as the model; ``chi2_expected``
        of a fit by a model that is right, which is less than 1 by the effective
        number of what was fitted over that of pixels; ``flux_bias``, the
        median of flux over truth less one; ``e1_bias``, ``e2_bias``, mean errors
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
        from bliss_astro.plotting._galaxy_model import draw_report

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
    edges = np.array(snr_edges, dtype=float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        msg = f'snr_edges must be at least two increasing numbers, got {snr_edges!r}'
        raise ValueError(msg)
    if not isinstance(n_galaxies, int | np.integer) or n_galaxies < 1:
        msg = f'n_galaxies must be a positive integer, got {n_galaxies!r}'
        raise ValueError(msg)
    if renderer not in ('torch', 'galsim'):
        msg = f"renderer must be 'torch' or 'galsim', got {renderer!r}"
        raise ValueError(msg)
    stream = GalaxyStream(
        GalaxySimulationConfig(population=population, size=size),
        pixel_scale=model.config.pixel_scale,
        accuracy=RenderingAccuracy(),
    )
    generator = torch_generator(rng)
    batch = stream.sample_prior(
        n_galaxies, snr_range=(edges[0], edges[-1]), generator=generator
    )
    if renderer == 'galsim':
        batch = _drawn_by_galsim(batch, generator)
    parts = [
        _reconstruct(model, batch.select(part), n_refine)[0]
        for part in torch.arange(len(batch)).split(_PIECE)
    ]
    galaxies = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = torch.argsort(batch.snr, descending=True)
    shown = order[torch.linspace(0.02, 0.9, _N_EXAMPLES).mul(len(order)).long()]
    _, examples = _reconstruct(model, batch.select(shown), n_refine)
    rng = np.random.default_rng(0)
    ranges = [*itertools.pairwise(edges), (edges[0], edges[-1])]
    table = QTable([_row(galaxies, low, high, rng) for low, high in ranges])
    for name in table.colnames[3:]:
        table[name].info.format = '.4f'
    for name in ('flux', 'flux_err', 'flux_true'):
        galaxies[name] = galaxies[name] * u.electron
    name = f'{model.name!r} ({population} galaxies drawn by {renderer})'
    return ReconstructionReport(table, QTable(galaxies), examples, name)


def _drawn_by_galsim(batch, generator):
    """The same galaxies, with noiseless images by GalSim and fresh noise."""
    from bliss_astro.psf import PSFModel
    from bliss_astro.rendering import GalSimGalaxyRenderer

    renderer = GalSimGalaxyRenderer(period=256)
    size = batch.data.shape[1:]
    x, y = size[1] // 2, size[0] // 2
    images = []
    for psf, flux, galaxy in zip(batch.psf, batch.flux, batch.galaxy, strict=True):
        model = PSFModel.from_shape(psf.double().numpy())
        shape = galaxy.double().numpy()
        images.append(renderer.render(model, [x], [y], [float(flux)], shape, size))
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
    residual, signal = (stamps - model) / noise, model / noise
    inside = (signal > _MIN_SIGNAL).double()
    r, s = residual.double(), signal.double()
    parts = {'n': 1.0, 'r': r, 's': s, 'rr': r**2, 'ss': s**2, 'rs': r * s}
    sums = {f'{prefix}_{k}': (v * inside).sum((1, 2)) for k, v in parts.items()}
    return sums, residual


@torch.no_grad()
def _reconstruct(model, batch, n_refine):
    """Truth, posterior and sums of each galaxy; data, models and residuals."""
    posterior = model.encode(
        batch.data,
        batch.psf,
        batch.background,
        read_noise=batch.read_noise,
        n_refine=n_refine,
    )
    size = tuple(batch.data.shape[1:])
    centre = torch.full((len(batch), 1), float(size[0] // 2))
    light = (posterior.flux[:, None], posterior.latent[:, None])
    image = model.render(batch.psf, centre, centre, *light, size=size)
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


def _chi2_and_correlation(galaxies, prefix):
    n, r, s, rr, ss, rs = (
        galaxies[f'{prefix}_{k}'].sum() for k in ('n', 'r', 's', 'rr', 'ss', 'rs')
    )
    if n == 0:
        return np.nan, np.nan
    spread = np.sqrt((rr - r * r / n) * (ss - s * s / n))
    return rr / n, (rs - r * s / n) / spread


def _scores(galaxies):
    """The scores of a set of galaxies."""
    chi2, correlation = _chi2_and_correlation(galaxies, 'fit')
    chi2_exact, correlation_exact = _chi2_and_correlation(galaxies, 'exact')
    n_pixels = max(1.0, galaxies['fit_n'].sum())
    e1, e2 = (galaxies[k] - galaxies[f'{k}_true'] for k in ('e1', 'e2'))
    length = np.hypot(galaxies['e1_true'], galaxies['e2_true'])
    along = e1 * galaxies['e1_true'] + e2 * galaxies['e2_true']
    return {
        'chi2': chi2,
        'correlation': correlation,
        'chi2_exact': chi2_exact,
        'correlation_exact': correlation_exact,
        'chi2_expected': 1 - galaxies['n_fitted'].sum() / n_pixels,
        'flux_bias': np.median(galaxies['flux'] / galaxies['flux_true']) - 1,
        'e_bias': np.mean(along / np.maximum(length, 1e-9)),
        'e1_bias': np.mean(e1),
        'e2_bias': np.mean(e2),
    }


def _row(galaxies, low, high, rng):
    """Row of the table: scores of a range of signal-to-noise ratios, with errors."""
    inside = (galaxies['snr'] >= low) & (galaxies['snr'] < high)
    own = {name: values[inside] for name, values in galaxies.items()}
    n = int(inside.sum())
    values, again = dict.fromkeys(_SCORES, np.nan), []
    if n > 0:
        values = _scores(own)
        for _ in range(_N_RESAMPLED):
            pick = rng.integers(n, size=n)
            again.append(_scores({name: v[pick] for name, v in own.items()}))
    row = {'snr_min': low, 'snr_max': high, 'n': n}
    for name in _SCORES:
        row[name] = values[name]
        row[f'{name}_err'] = np.std([a[name] for a in again]) if n else np.nan
    return row
