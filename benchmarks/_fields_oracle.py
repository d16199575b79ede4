# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is possible: the exact posterior of one isolated source at a known place.

Type, flux and shape of a source are unknown, its place, the sky and the PSF are known,
and the prior is that of the NPE paper. A star's flux is integrated on a grid. A
galaxy's six shape parameters are integrated by adaptive importance sampling: draws of
the prior, rendered once for all sources of a field, then draws of Student's t
distributions that are fitted to the weighted draws so far, all weighted as draws of
the mixture of all these distributions (Cornuet et al. 2012, Scand. J. Stat. 39, 798).
For each shape the flux is drawn around its least-squares estimate.
"""

import dataclasses
import functools
import math
import multiprocessing

import numpy as np
import torch
from _fields_common import generator_of
from _fields_proposal import Fluxes, Proposal, Shapes
from scipy import special

from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.rendering import RenderingAccuracy, render_galaxies, render_stars

__all__ = ['OracleSettings', 'run_oracle']

# No training stream begins with this key.
_SEED = 20250302
_FLUX_SPREAD = 1.25  # of the fluxes drawn, in units of their error
_N_FLUX_GRID = 241
_PIECE = 512


@dataclasses.dataclass(frozen=True)
class OracleSettings:
    """
    How much is spent on it.

    Parameters
    ----------
    n_fields, per_field : int
        Fields, and sources brighter than r = 22 in each.

    size : int
        Side of the stamps in pixels, odd.

    n_bank : int
        Shapes of the prior that all sources of a field share.

    n_rounds, n_draws : int
        Rounds of fitted shapes, and shapes in each.

    n_fluxes : int
        Fluxes drawn for each shape.
    """

    n_fields: int = 40
    per_field: int = 25
    size: int = 61
    n_bank: int = 1536
    n_rounds: int = 6
    n_draws: int = 192
    n_fluxes: int = 4


# -- one field -----------------------------------------------------------------------


class _Field:
    """
    A sky, a PSF and a place, at which all sources of the field lie.
    """

    def __init__(self, batch, settings, rng):
        self.psf = batch.psf[:1]
        self.electrons = float(batch.electrons_per_nmgy[0])
        self.variance = float(batch.background[0] + batch.read_noise[0] ** 2)
        self.size = settings.size
        middle = (settings.size - 1) / 2
        self.place = middle + rng.uniform(-0.5, 0.5, 2)

    def _render(self, function, n, flux, *galaxy, **options):
        x, y = (torch.full((n, 1), float(v)) for v in self.place)
        parts = [self.psf.expand(n, -1), x, y, flux[:, None]]
        image = function(*parts, *galaxy, size=(self.size, self.size), **options)
        return image.flatten(1).clamp(min=0)

    def star(self):
        """Electrons of a star of 1 nmgy, ``(P,)``."""
        return self._render(render_stars, 1, torch.full((1,), self.electrons))[0]

    def galaxies(self, galaxy):
        """The same of galaxies ``(n, 6)``, as ``(n, P)``."""
        pieces = []
        for own in galaxy.split(_PIECE):
            flux = torch.full((len(own),), self.electrons)
            # As the test images are drawn, and the encoders' training images.
            accuracy = RenderingAccuracy.training()
            pieces.append(
                self._render(
                    render_galaxies, len(own), flux, own[:, None], accuracy=accuracy
                )
            )
        return torch.cat(pieces)

    def log_likelihood(self, data, signal):
        """Log-likelihood of signals ``(..., P)`` against none at all."""
        variance = self.variance + signal
        value = data**2 / self.variance - (data - signal) ** 2 / variance
        value -= torch.log(variance / self.variance)
        return 0.5 * value.sum(-1, dtype=torch.float64).numpy()


def _star_posterior(field, data, star, law):
    """Log-evidence, and fluxes with log-weights."""
    flux = float((star * data).sum() / (star**2).sum())
    for _ in range(4):
        weight = star / (field.variance + max(flux, 0) * star)
        information = float((weight * star).sum())
        flux = float((weight * data).sum()) / information
    error = information**-0.5
    low = max(law.low, flux - 9 * error)
    high = min(law.high, flux + 9 * error)
    if high <= low:
        low, high = (
            (law.low, law.low + error)
            if flux < law.low
            else (
                law.high - error,
                law.high,
            )
        )
    grid = np.linspace(low, high, _N_FLUX_GRID)
    signal = torch.from_numpy(grid).float()[:, None] * star
    log_weight = field.log_likelihood(data, signal) + law.log_density(grid)
    log_weight += np.log(grid[1] - grid[0])
    return special.logsumexp(log_weight), grid, log_weight


def _fluxes_of(field, data, templates, n_fluxes, law, rng):
    """
    Fluxes for each template, and log of likelihood, prior and proposal.

    Returns arrays ``(n, n_fluxes)``; the last one is likelihood times prior over the
    density that the fluxes were drawn from.
    """
    weight = templates / field.variance
    flux = (weight @ data) / (weight * templates).sum(1)
    for _ in range(2):
        weight = templates / (field.variance + flux.clamp(min=0)[:, None] * templates)
        information = (weight * templates).sum(1).clamp(min=1e-12)
        flux = (weight @ data) / information
    error = _FLUX_SPREAD * information.rsqrt().double().numpy()[:, None]
    flux = flux.double().numpy()[:, None]
    # One in each of n equally likely parts of a normal cut to the prior's range.
    low, high = (special.ndtr((v - flux) / error) for v in (law.low, law.high))
    inside = high - low
    part = (np.arange(n_fluxes) + rng.uniform(size=(len(flux), n_fluxes))) / n_fluxes
    z = special.ndtri((low + part * inside).clip(1e-15, 1 - 1e-15))
    drawn = (flux + error * z).clip(law.low, law.high)
    value = law.log_density(drawn)
    with np.errstate(divide='ignore'):
        value += np.log(np.maximum(inside, 1e-15)) + np.log(error) + 0.5 * z**2
    value += 0.5 * math.log(2 * math.pi)
    for k in range(n_fluxes):
        signal = torch.from_numpy(drawn[:, k]).float()[:, None] * templates
        value[:, k] += field.log_likelihood(data, signal)
    return drawn, value


def _tempered(log_weight, n_least):
    """Weights to a power at which enough of them count."""
    log_weight = log_weight - log_weight.max()

    def weights(power):
        value = np.exp(power * log_weight)
        return value / value.sum()

    if 1 / (weights(1.0) ** 2).sum() >= n_least:
        return weights(1.0)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        enough = 1 / (weights(middle) ** 2).sum() >= n_least
        low, high = (middle, high) if enough else (low, middle)
    return weights(low)


def _galaxy_posterior(field, data, shapes, bank, settings, law, rng):
    """Log-evidence, fluxes with log-weights, effective number of draws."""
    bank_scores, templates = bank
    n_fluxes = settings.n_fluxes
    scores, proposals = [bank_scores], []
    drawn, value = _fluxes_of(field, data, templates, n_fluxes, law, rng)
    fluxes, values = [drawn], [value]
    for _ in range(settings.n_rounds + 1):
        points = np.concatenate(scores)
        log_prior = shapes.log_density(points)
        densities = [log_prior + np.log(len(bank_scores))]
        densities += [
            p.log_density(points) + np.log(settings.n_draws) for p in proposals
        ]
        log_mixture = special.logsumexp(densities, axis=0)
        every = np.concatenate(values) + (log_prior - log_mixture)[:, None]
        every -= np.log(n_fluxes)
        by_shape = special.logsumexp(every, axis=1)
        if len(proposals) == settings.n_rounds:
            break
        proposals.append(Proposal(points, _tempered(by_shape, 40)))
        scores.append(proposals[-1].draw(settings.n_draws, rng))
        templates = field.galaxies(shapes.to_galaxy(scores[-1]))
        drawn, value = _fluxes_of(field, data, templates, n_fluxes, law, rng)
        fluxes.append(drawn)
        values.append(value)
    weight = np.exp(by_shape - by_shape.max())
    effective = weight.sum() ** 2 / (weight**2).sum()
    evidence = special.logsumexp(every)
    return evidence, np.concatenate(fluxes).ravel(), every.ravel(), effective


def _median(flux, weight):
    order = np.argsort(flux)
    total = np.cumsum(weight[order])
    return flux[order][np.searchsorted(total, 0.5 * total[-1])]


def _rank(flux, log_weight, true):
    weight = np.exp(log_weight - log_weight.max())
    return weight[flux < true].sum() / weight.sum()


@torch.no_grad()
def _one_field(task):
    """Posterior of the sources of one field; a dict of arrays."""
    index, settings, which = task
    rng = np.random.default_rng([_SEED, index])
    prior = CatalogPrior()
    counts = [getattr(p, 'counts', p) for p in (prior.stars, prior.galaxies)]
    star_law, galaxy_law = (Fluxes(own) for own in counts)
    shapes = Shapes(prior.galaxies.shapes)
    density = [float(own.density) for own in counts]
    log_odds = math.log(density[1] / density[0])
    fields = FieldPrior.single() if which == 'single' else FieldPrior()
    batch = fields.sample_batch(1, generator=generator_of(_SEED, index))
    field = _Field(batch, settings, rng)
    star = field.star()
    bank_scores = shapes.draw(settings.n_bank, rng)
    bank = bank_scores, field.galaxies(shapes.to_galaxy(bank_scores))
    # Types among the sources brighter than r = 22.
    bright = [
        d * law.share_bright
        for d, law in zip(density, (star_law, galaxy_law), strict=True)
    ]
    rows = []
    for _ in range(settings.per_field):
        is_galaxy = rng.uniform() < bright[1] / sum(bright)
        law = galaxy_law if is_galaxy else star_law
        flux = float(law.draw_bright(1, rng)[0])
        unit = star
        if is_galaxy:
            unit = field.galaxies(shapes.to_galaxy(shapes.draw(1, rng)))[0]
        signal = flux * unit
        noise = torch.from_numpy(rng.normal(size=len(star))).float()
        data = signal + noise * (field.variance + signal).sqrt()
        of_star = _star_posterior(field, data, star, star_law)
        of_galaxy = _galaxy_posterior(
            field, data, shapes, bank, settings, galaxy_law, rng
        )
        rows.append(_summary(is_galaxy, flux, of_star, of_galaxy, log_odds))
        information = (signal**2 / (field.variance + signal)).sum()
        rows[-1] |= {'snr': float(information.sqrt()), 'image': index}
    return {k: np.array([row[k] for row in rows]) for k in rows[0]}


def _summary(is_galaxy, flux, of_star, of_galaxy, log_odds):
    log_galaxy = log_odds + of_galaxy[0]
    chance = special.expit(log_galaxy - of_star[0])
    fluxes = np.concatenate([of_star[1], of_galaxy[1]])
    log_weight = np.concatenate([of_star[2], of_galaxy[2] + log_odds])
    own = of_galaxy if is_galaxy else of_star
    weight = np.exp(own[2] - own[2].max())
    return {
        'is_galaxy': is_galaxy,
        'flux': flux,
        'galaxy': chance,
        'estimate': _median(fluxes, np.exp(log_weight - log_weight.max())),
        'median': _median(own[1], weight),
        'rank': _rank(own[1], own[2], flux),
        'effective': of_galaxy[3],
    }


def run_oracle(settings, which='many', *, processes=1):
    """
    Ask the oracle about simulated sources.

    Parameters
    ----------
    settings : `OracleSettings`
        How much is spent.

    which : {'many', 'single'}
        The fields.

    processes : int, optional
        To share the work.

    Returns
    -------
    rows : dict of array
        Of each source ``is_galaxy``, ``flux`` (nmgy), ``snr``, ``image`` (the field),
        the probability ``galaxy``, the ``estimate`` of the flux (posterior
        median), and, given the true type, its ``median`` and the ``rank`` of the
        truth; ``effective`` number of the galaxy's draws.
    """
    from tqdm import tqdm

    tasks = [(index, settings, which) for index in range(settings.n_fields)]
    bar = functools.partial(tqdm, total=len(tasks), desc='oracle', unit='field')
    if processes == 1:
        parts = list(bar(map(_one_field, tasks)))
    else:
        context = multiprocessing.get_context('spawn')
        with context.Pool(processes, torch.set_num_threads, (1,)) as pool:
            parts = list(bar(pool.imap(_one_field, tasks)))
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
