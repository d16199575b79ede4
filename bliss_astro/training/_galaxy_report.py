# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
How well a galaxy model reconstructs galaxies, by signal-to-noise ratio.
"""

import dataclasses
import itertools

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from bliss_astro._random import torch_generator
from bliss_astro.rendering import RenderingAccuracy, adaptive_moments
from bliss_astro.simulation._stamps import GalaxyBatch, GalaxyStream, snr_of

from ._configuration import GalaxySimulationConfig

__all__ = ['ReconstructionReport', 'reconstruction_report']

# Pixels count where the model exceeds this many standard deviations of the noise.
_LEAST_MODEL = 0.5

# Stamps at once, and how many of them a report keeps to be looked at.
_PIECE, _EXAMPLES = 100, 6

_N_RESAMPLED = 200


@dataclasses.dataclass(frozen=True, eq=False)
class ReconstructionReport:
    """
    Numbers that `reconstruction_report` found.

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
        What was reported on.
    """

    table: QTable
    galaxies: QTable
    examples: tuple
    name: str

    def __str__(self):
        rows = [f'Reconstruction by {self.name}, {len(self.galaxies)} galaxies']
        head = ('SNR', 'n', 'chi2/pixel', '(expected)', '(truth)', 'correlation')
        head = (*head, 'flux bias', 'e along truth', 'e1', 'e2')
        rows.append(''.join(f'{word:>16}' for word in head))
        for row in self.table:
            words = [f'{row["snr_min"]:.0f}-{row["snr_max"]:.0f}', f'{row["n"]}']
            for key, digits in (
                ('chi2', 3),
                ('chi2_expected', 3),
                ('chi2_exact', 3),
                ('correlation', 4),
                ('flux_bias', 4),
                ('e_bias', 4),
                ('e1_bias', 4),
                ('e2_bias', 4),
            ):
                error = row[f'{key}_err']
                words.append(f'{row[key]:.{digits}f}±{error:.{digits}f}')
            rows.append(''.join(f'{word:>16}' for word in words))
        return '\n'.join(rows)

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
    model : `GalaxyAutoencoder`
        To be judged.

    n_galaxies : int, optional
        How many, above the first of ``snr_edges``.

    population : {'npe', 'sky', 'both'}, optional
        Whose fluxes and shapes.

    snr_edges : sequence of float, optional
        Limits of the bins of signal-to-noise ratio; galaxies outside of them are
        not drawn.

    size : int, optional
        Side of the stamps in pixels, odd.

    n_refine : int, optional
        Gauss-Newton steps after the network, see `GalaxyAutoencoder.encode`.

    renderer : {'torch', 'galsim'}, optional
        What draws the truth.

    rng : int, `numpy.random.Generator` or None, optional
        Source of randomness.

    Returns
    -------
    report : `ReconstructionReport`
        Printable, with a table and a figure.

    Raises
    ------
    ValueError
        If the edges do not increase, ``n_galaxies`` is not a positive integer,
        or a name is unknown.
    """
    edges = _checked(n_galaxies, snr_edges, renderer)
    simulation = GalaxySimulationConfig(population=population, size=size)
    stream = GalaxyStream(
        simulation,
        pixel_scale=model.config.pixel_scale,
        accuracy=RenderingAccuracy(),
    )
    generator = torch_generator(rng)
    batch = stream.draw_prior(
        n_galaxies, snr_range=(edges[0], edges[-1]), generator=generator
    )
    if renderer == 'galsim':
        batch = _drawn_by_galsim(batch, generator)
    order = torch.argsort(batch.snr, descending=True)
    shown = order[torch.linspace(0.02, 0.9, _EXAMPLES).mul(len(order)).long()]
    scores = [
        _score(model, batch.select(part), n_refine)[0]
        for part in torch.arange(len(batch)).split(_PIECE)
    ]
    _, examples = _score(model, batch.select(shown), n_refine)
    galaxies = {k: np.concatenate([s[k] for s in scores]) for k in scores[0]}
    table = _table(galaxies, edges, np.random.default_rng(0))
    units = dict.fromkeys(('flux', 'flux_err', 'flux_true'), u.electron)
    galaxies = QTable(
        {k: v * units[k] if k in units else v for k, v in galaxies.items()}
    )
    name = f'{model.name!r} ({population} galaxies drawn by {renderer})'
    return ReconstructionReport(table, galaxies, examples, name)


def _checked(n_galaxies, snr_edges, renderer):
    edges = np.array(snr_edges, dtype=float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        msg = f'snr_edges must be at least two increasing numbers, got {snr_edges!r}'
        raise ValueError(msg)
    if isinstance(n_galaxies, bool) or not isinstance(n_galaxies, int | np.integer):
        msg = f'n_galaxies must be an integer, got {n_galaxies!r}'
        raise ValueError(msg)  # noqa: TRY004
    if n_galaxies < 1:
        msg = f'n_galaxies must be positive, got {n_galaxies}'
        raise ValueError(msg)
    if renderer not in ('torch', 'galsim'):
        msg = f"renderer must be 'torch' or 'galsim', got {renderer!r}"
        raise ValueError(msg)
    return edges


def _drawn_by_galsim(batch, generator):
    """
    The same galaxies, noiseless images by GalSim and fresh noise.
    """
    from bliss_astro.psf import PSFModel
    from bliss_astro.rendering import GalSimGalaxyRenderer

    renderer = GalSimGalaxyRenderer(period=256)
    size = batch.data.shape[1:]
    x, y = size[1] // 2, size[0] // 2
    images = []
    for psf, flux, galaxy in zip(batch.psf, batch.flux, batch.galaxy, strict=True):
        model = PSFModel.from_shape(psf.double().numpy())
        shape = galaxy.double().numpy()[None]
        images.append(renderer.render(model, [x], [y], [float(flux)], shape, size))
    noiseless = torch.from_numpy(np.array(images)).float().clamp(min=0)
    expected = noiseless + batch.variance[:, None, None]
    noise = torch.randn(expected.shape, generator=generator) * expected.sqrt()
    data = noiseless + batch.background[:, None, None] + noise
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    snr = snr_of(noiseless, batch.variance)
    return GalaxyBatch(**values | {'data': data, 'noiseless': noiseless, 'snr': snr})


def _sums(stamps, model, variance):
    """
    What chi-square and correlation are made of, for each stamp.
    """
    noise = (model.clamp(min=0) + variance[:, None, None]).sqrt()
    residual, signal = (stamps - model) / noise, model / noise
    inside = (signal > _LEAST_MODEL).double()
    residual, signal = residual.double(), signal.double()
    parts = {'n': 1.0, 'r': residual, 's': signal}
    parts |= {'rr': residual**2, 'ss': signal**2, 'rs': residual * signal}
    return {k: (v * inside).sum((1, 2)).numpy() for k, v in parts.items()}, residual


@torch.no_grad()
def _score(model, batch, n_refine):
    """
    Numbers of each galaxy, and the pictures.
    """
    posterior = model.encode(
        batch.data,
        batch.psf,
        batch.background,
        read_noise=batch.read_noise,
        n_refine=n_refine,
    )
    size = tuple(batch.data.shape[1:])
    centre = torch.full((len(batch), 1), float(size[0] // 2))
    image = model.render(
        batch.psf,
        centre,
        centre,
        posterior.flux[:, None],
        posterior.latent[:, None],
        size=size,
    )
    stamps = batch.data - batch.background[:, None, None]
    fitted, residual = _sums(stamps, image, batch.variance)
    exact, _ = _sums(stamps, batch.noiseless, batch.variance)
    e1, e2, _ = model.decode(posterior.latent).convolved(batch.psf).adaptive_moments()
    true1, true2, _ = adaptive_moments(batch.psf, batch.galaxy)
    # Numbers that the data, and not the prior, decide: latents and the flux.
    left = posterior.covariance[:, :-1, :-1].diagonal(dim1=1, dim2=2)
    values = {
        'snr': batch.snr,
        'n_fitted': 1 + (1 - left).sum(1),
        'flux_true': batch.flux,
        'flux': posterior.flux,
        'flux_err': posterior.flux_err,
        'e1_true': true1,
        'e2_true': true2,
        'e1': e1,
        'e2': e2,
    }
    values = {name: value.double().numpy() for name, value in values.items()}
    values |= {f'fit_{k}': v for k, v in fitted.items()}
    values |= {f'exact_{k}': v for k, v in exact.items()}
    return values, (stamps, image, residual.float())


def _numbers(galaxies):
    """
    The scores of a set of galaxies.
    """

    def chi2_and_correlation(prefix):
        n, r, s, rr, ss, rs = (
            galaxies[f'{prefix}_{k}'].sum() for k in ('n', 'r', 's', 'rr', 'ss', 'rs')
        )
        if n == 0:
            return np.nan, np.nan
        spread = np.sqrt((rr - r * r / n) * (ss - s * s / n))
        return rr / n, (rs - r * s / n) / spread

    chi2, correlation = chi2_and_correlation('fit')
    chi2_exact, correlation_exact = chi2_and_correlation('exact')
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


def _table(galaxies, edges, rng):
    ranges = [*itertools.pairwise(edges), (edges[0], edges[-1])]
    rows = []
    for low, high in ranges:
        chosen = np.flatnonzero((galaxies['snr'] >= low) & (galaxies['snr'] < high))
        row = {'snr_min': low, 'snr_max': high, 'n': len(chosen)}
        if len(chosen) == 0:
            names = _numbers({k: v[:1] for k, v in galaxies.items()})
            values = {k: np.nan for name in names for k in (name, f'{name}_err')}
            rows.append(row | values)
            continue
        own = {k: v[chosen] for k, v in galaxies.items()}
        again = []
        for _ in range(_N_RESAMPLED):
            pick = rng.integers(len(chosen), size=len(chosen))
            again.append(_numbers({k: v[pick] for k, v in own.items()}))
        for name, value in _numbers(own).items():
            row[name] = value
            row[f'{name}_err'] = np.std([a[name] for a in again])
        rows.append(row)
    return QTable(rows)
