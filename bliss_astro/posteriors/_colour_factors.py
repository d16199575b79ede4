# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Distributions of log flux ratios: mixtures of normals, times likelihoods of fluxes.

A measurement is normal in the flux, not in its logarithm. Expectation propagation
(Minka 2001) replaces the likelihood of each band by a normal factor that gives the same
moments, against the prior and all other bands. With :math:`z_b` the logarithm of the
flux expected in band b over that of a reference flux, and :math:`\kappa` a factor that
the fluxes of a source have in common (of apertures, or of the light of neighbours),

.. math::

    z_b = c_b + \ell + \ln\kappa, \qquad c_0 = 0 ,

where :math:`c_b` are the log ratios to band 0 and :math:`\ell` is the log flux given.
All is linear in it but log weights, which are quadratic: any number of draws costs one
such computation.
"""

import copy
import math

import torch

from ._factors import draw_component

# Variance that keeps covariances positive.
LEAST_VARIANCE = 1e-6
# Passes over the bands, Newton's iterations, and points in units of the width.
_N_PASSES, _N_NEWTON, _POINTS = 2, 6, (-8.0, 6.0, 25)
# Largest distance of a given log flux, and log ratio of a flux to that in other bands.
_LARGEST_STEP, _LARGEST_RATIO = 3.0, 6.0


class Components:
    """
    Components ``(..., F)`` of normal distributions, linear in the log flux given.

    ``logit`` ``(..., 3)`` has the powers 0 to 2 of the flux in their log weights,
    ``mean`` and ``slope`` ``(..., F)`` are for the mean; ``cov`` is ``(..., F, F)``.
    """

    def __init__(self, logit, mean, slope, cov):
        self.logit, self.mean, self.slope, self.cov = logit, mean, slope, cov

    @property
    def spread(self):
        """Standard deviations ``(..., F)``."""
        return self.cov.diagonal(dim1=-2, dim2=-1).clamp(min=LEAST_VARIANCE).sqrt()

    def moments(self):
        """One component with the moments of the mixture, without a weight."""
        share = self.logit[..., 0].softmax(-1)[..., None]
        mean, slope = (
            (share * v).sum(-2, keepdim=True) for v in (self.mean, self.slope)
        )
        away = self.mean - mean
        cov = self.cov + away[..., None] * away[..., None, :]
        cov = (share[..., None] * cov).sum(-3, keepdim=True)
        return Components(self.logit[..., :0, :], mean, slope, cov)

    def followed_by(self, *others):
        """These components and, of others, further ones."""
        pairs = zip(*(vars(part).values() for part in (self, *others)), strict=True)
        dims = (-2, -2, -2, -3)
        return Components(
            *(torch.cat(own, dim) for own, dim in zip(pairs, dims, strict=True))
        )

    def given(self, shift, precision):
        """Times factors ``exp(shift z - precision z^2 / 2)`` ``(..., F)``."""
        logit, mean, slope, cov = self.logit, self.mean, self.slope, self.cov
        for k in range(mean.shape[-1]):
            h, w, column = shift[..., k], precision[..., k], cov[..., k]
            here, change = mean[..., k], slope[..., k]
            share = 1 / (1 + w * column[..., k])
            away = (h - w * here) * share
            powers = [
                _log_mass(h, w, here, column[..., k]),
                change * away,
                -0.5 * w * change.square() * share,
            ]
            logit = logit + torch.stack(powers, -1)
            mean = mean + column * away[..., None]
            slope = slope - column * (w * change * share)[..., None]
            gain = column * (w * share)[..., None]
            cov = cov - gain[..., None] * column[..., None, :]
        return Components(logit, mean, slope, cov)


def log_densities(prior, log_ratio, variance):
    """Log-densities of measured ratios ``(..., D)``: of a prior, and of any colours."""
    middle = prior.moments()
    middle.cov = torch.eye(log_ratio.shape[-1]).to(middle.cov).expand_as(middle.cov)
    joined = prior.followed_by(middle)
    cov = joined.cov + variance[..., None, :1, None]
    cov = cov + torch.diag_embed(variance[..., 1:])[..., None, :, :]
    log_size, length = eliminate(cov, log_ratio[..., None, :] - joined.mean)
    log_density = -log_size - 0.5 * length
    share = prior.logit[..., 0].log_softmax(-1)
    return (share + log_density[..., :-1]).logsumexp(-1), log_density[..., -1]


def _log_mass(h, w, mean, variance):
    """Logarithm of the mean of ``exp(h z - w z^2 / 2)`` for a normal z."""
    grown = 1 + w * variance
    quadratic = h * mean - 0.5 * w * mean**2 + 0.5 * h**2 * variance
    return quadratic / grown - 0.5 * torch.log(grown)


def _moments(mean, variance, flux, error):
    """
    Log mass, mean and variance of a normal z times the likelihood of a flux.

    That is normal with the mean ``exp(z)``.
    """
    precision = error**-2
    z = mean / (1 + variance * precision)
    for _ in range(_N_NEWTON):
        f = z.exp()
        pull = (flux - f) * f * precision - (z - mean) / variance
        z = z + (pull / (f**2 * precision + 1 / variance)).clamp(-1, 1)
        z = z.clamp(max=20.0)
    width = (z.exp().square() * precision + 1 / variance).rsqrt()
    points = torch.linspace(*_POINTS, device=z.device)
    z = z[..., None] + width[..., None] * points
    mean, variance, flux, precision = (
        v[..., None] for v in (mean, variance, flux, precision)
    )
    log_density = (z - mean).square() / variance + (flux - z.exp()).square() * precision
    log_density = -0.5 * log_density
    most = log_density.amax(-1, keepdim=True)
    share = (log_density - most).exp()
    total = share.sum(-1, keepdim=True)
    share = share / total
    middle = (share * z).sum(-1, keepdim=True)
    spread = (share * (z - middle).square()).sum(-1)
    # Far from both the points may miss them.
    spread = torch.maximum(spread, 0.05 * width.square())
    size = width * (points[1] - points[0]) / math.sqrt(2 * math.pi)
    log_mass = (most + total.log())[..., 0] + (size * variance[..., 0].rsqrt()).log()
    return log_mass, middle[..., 0], spread


def eliminate(cov, away=None):
    """
    Cholesky factor of matrices ``(..., D, D)``.

    With vectors, half the logarithm of the determinant and the squared length of these
    in units of it instead.
    """
    columns, log_size, length = [], 0.0, 0.0
    for k in range(cov.shape[-1]):
        root = cov[..., k, k].clamp(min=LEAST_VARIANCE).sqrt()[..., None]
        column = cov[..., k] / root
        cov = cov - column[..., None] * column[..., None, :]
        columns.append(column)
        if away is not None:
            unit = away[..., k, None] / root
            away = away - column * unit
            log_size, length = log_size + root.log(), length + unit.square()
    if away is not None:
        return log_size[..., 0], length[..., 0]
    return torch.stack(columns, -1).tril() if columns else cov


class ColourFactor:
    """
    Mixture of normal distributions over D log flux ratios.

    Parameters
    ----------
    logit : tensor ``(..., K)``
        Un-normalised log-weights.

    mean : tensor ``(..., K, D)``
        Means.

    cov : tensor ``(N, T, K, D, D)``
        Covariances of N sources of T types.

    where : tuple of tensor ``(...)``
        Source and type of each mixture.
    """

    def __init__(self, logit, mean, cov, where):
        self.log_weights = torch.log_softmax(logit, -1)
        self.mean, self.cov, self.where = mean, cov, where

    def log_prob(self, value):
        """Log-density at values ``(..., D)``, over those that are not NaN."""
        known = value.isfinite()[..., None, :]
        away = torch.where(known, value.nan_to_num()[..., None, :] - self.mean, 0.0)
        both = known[..., None] & known[..., None, :]
        one = torch.eye(value.shape[-1]).to(value)
        cov = torch.where(both, self.cov[self.where], one)
        log_size, length = eliminate(cov, away)
        log_size = log_size + 0.5 * math.log(2 * math.pi) * known.sum(-1)
        return torch.logsumexp(self.log_weights - 0.5 * length - log_size, -1)

    def quantile_draw(self, q):
        """Values ``(..., D)`` from uniform numbers ``(..., 1 + D)``, or more."""
        component = draw_component(self.log_weights.exp(), q[..., :1])
        root = eliminate(self.cov[(*self.where, component)])
        mean = torch.take_along_dim(self.mean, component[..., None, None], -2)
        unit = torch.special.ndtri(q[..., 1:].clamp(1e-6, 1 - 1e-6))
        unit = unit[..., None, : root.shape[-1]]
        return mean[..., 0, :] + (root * unit).sum(-1)

    def sample(self, *, generator=None):
        """Draw values, tensor ``(..., D)``."""
        shape = (*self.mean.shape[:-2], 1 + self.mean.shape[-1])
        q = torch.rand(shape, generator=generator, device=self.mean.device)
        return self.quantile_draw(q)


class ColoursByFlux:
    """
    Colours of N sources of T types at any flux.

    Parameters
    ----------
    parts : ``Components``
        Components ``(N, T, K)`` over D log flux ratios.

    wide : tensor ``(N, T, J)``
        Logarithms of the weights of the last J components, over that of all others.

    bend : tuple of tensor ``(N, T, K, 3)``, ``(N, T, K, D, 3)``
        Changes of log weights and means with three bounded functions of the flux.

    log_flux, error : tensor ``(N, T)``
        Log flux from which others are counted, and its relative error.
    """

    def __init__(self, parts, wide, bend, log_flux, error):
        self.parts, self.wide, self.bend = parts, wide, bend
        self.log_flux, self.error = log_flux, error
        self.rows = torch.arange(len(log_flux), device=log_flux.device)

    def select(self, index):
        """Colours of some sources, repeated where an index is."""
        part = copy.copy(self)
        part.rows = self.rows[index]
        return part

    @classmethod
    def concatenate(cls, found):
        """Colours of the sources of several pieces."""
        parts = zip(*(vars(one.parts).values() for one in found), strict=True)
        bend = zip(*(one.bend for one in found), strict=True)
        wide, log_flux, error = (
            torch.cat([getattr(one, name) for one in found])
            for name in ('wide', 'log_flux', 'error')
        )
        parts = Components(*map(torch.cat, parts))
        return cls(parts, wide, tuple(map(torch.cat, bend)), log_flux, error)

    def given(self, log_flux, kind=None):
        """
        Distribution of the colours at log fluxes, a `ColourFactor`.

        Parameters
        ----------
        log_flux : tensor ``(N,)`` or ``(N, P)``
            P for each source.

        kind : tensor of int, optional
            Which of the T types, of that shape; by default the first.
        """
        kind = torch.zeros_like(log_flux, dtype=torch.long) if kind is None else kind
        where = self.rows if kind.dim() == 1 else self.rows[:, None], kind
        step = log_flux - self.log_flux[where]
        step = step.clamp(-_LARGEST_STEP, _LARGEST_STEP)
        pull = torch.tanh(step / (3 * self.error[where]))
        # The light of others, if it is more than noise.
        excess = pull.square() * torch.asinh(step / 0.1) / 3
        bounded = torch.stack([pull, excess, excess.abs()], -1)[..., None, :]
        step, (of_weights, of_means) = step[..., None], self.bend
        powers = self.parts.logit[where]
        logit = powers[..., 0] + step * (powers[..., 1] + step * powers[..., 2])
        logit = torch.cat([torch.log_softmax(logit, -1), self.wide[where]], -1)
        logit = logit + (of_weights[where] * bounded).sum(-1)
        mean = self.parts.mean[where] + self.parts.slope[where] * step[..., None]
        mean = mean + (of_means[where] * bounded[..., None, :]).sum(-1)
        return ColourFactor(logit, mean, self.parts.cov, where)


@torch.no_grad()
def measured_factors(start, flux, error, measured):
    """
    Natural parameters ``(N, T, K, F)`` of factors in place of likelihoods.

    Fluxes and errors ``(N, T, F)`` are in units in which ``exp(z)`` is expected.
    Returned after the logarithms ``(N, T, K, 1)`` of their scales.
    """
    # The K components of each band that is measured.
    at = measured.nonzero(as_tuple=True)
    flux, error = (v[at][:, None] for v in (flux, error))
    first, parts = start.cov.diagonal(dim1=-2, dim2=-1).mT[at], start
    shift = precision = torch.zeros_like(first)
    highest = torch.log(flux.clamp(min=0) + 4 * error)
    for _ in range(_N_PASSES):
        own = parts.cov.diagonal(dim1=-2, dim2=-1).mT[at].clamp(min=1e-9)
        # Without the band's own factor no component is wider than in the prior.
        inverse = torch.maximum(1 / own - precision, 1 / first)
        variance = 1 / inverse
        mean = variance * (parts.mean.mT[at] / own - shift)
        log_all, middle, spread = _moments(mean, variance, flux, error)
        step = middle - mean
        # Where the likelihood bends upwards, a factor that ends at its upper end: one
        # without an end would push the other bands away.
        share = (step / (highest - mean).clamp(min=1e-3)).clamp(0, 0.999)
        least = torch.where(step > 0, inverse * share / (1 - share), 0.0)
        precision = torch.maximum(1 / spread - inverse, least)
        shift = precision * mean + step * (inverse + precision)
        log_mass = log_all - _log_mass(shift, precision, mean, variance)
        found = start.mean.new_zeros(3, *start.mean.mT.shape)
        found[:, *at] = torch.stack([log_mass, shift, precision])
        log_masses, *factors = found.mT
        parts = start.given(*factors)
    return log_masses.sum(-1, keepdim=True), *factors


def limited(log_flux, log_size, measured):
    """
    Log fluxes ``(N, T)`` in the first band, not far above all that others measure.

    Behind a mask that has an error without meaning. ``log_size`` ``(N, T, F)`` has the
    logarithms of fluxes or of larger errors.
    """
    most = torch.where(measured, log_size, -torch.inf)[..., 1:].amax(-1)
    most = torch.where(most.isfinite(), most + _LARGEST_RATIO, torch.inf)
    return log_flux.minimum(most)


def ratios(parts, origin=None):
    """Components over log ratios to the first band, which is left out."""
    mean, cov = parts.mean, parts.cov
    mean = mean if origin is None else mean + origin[..., None, :]
    column, row = cov[..., 1:, :1], cov[..., :1, 1:]
    return Components(
        parts.logit,
        mean[..., 1:] - mean[..., :1],
        parts.slope[..., 1:] - parts.slope[..., :1],
        cov[..., 1:, 1:] - column - row + cov[..., :1, :1],
    )
