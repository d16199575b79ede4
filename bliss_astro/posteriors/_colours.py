# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Layers of the colours of a source: corrections of an analytic posterior.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro import priors
from bliss_astro.priors._band_mixtures import (
    INTERPOLATION_ERROR,
    REACH,
    ZERO_POINT_ERROR,
)
from bliss_astro.units import BAND_WAVELENGTHS, NANOMAGGY_ZERO_POINT

from ._colour_factors import (
    LEAST_VARIANCE,
    ColoursByFlux,
    Components,
    limited,
    log_densities,
    measured_factors,
    ratios,
)
from ._factors import LOG_FLUX_CEILING

# Channels of the layers, rank of what they add to covariances, and numbers of a band
# and of a source.
_WIDTH, _RANK, _N_BAND, _N_OWN = 48, 2, 13, 5
# Functions of the given flux on which the corrections depend.
_N_FLUX = 3
# Of fluxes of stars and of galaxies: errors of their logarithm beside all others (bands
# that are shifted, profiles that are not those of the fit), and for each unit of the
# PSF's relative error; shares of the light in the lobes of coma and trefoil that fits
# miss, and the error of these; errors for each of the sky in the area of the fit. All
# are as measured in simulated images, which state the errors of PSF and sky.
_LEAST_ERRORS, _BY_PSF_ERROR = (0.0025, 0.006), (1.0, 0.7)
_MISSED, _ERROR_OF_MISSED, _BY_SKY_ERROR = ((0.5, 1.8), (0.45, 1.4)), 0.45, 0.8
# Mean and standard deviation of the logarithm of the factor that bands have in common,
# of stars and of galaxies before training: fits of one profile miss light of these.
_COMMON, _COMMON_ERRORS = (0.0, -0.13), (0.02, 0.1)
# Weights before training of two components for measurements that went wrong: around the
# posterior, with a factor on its covariance and a least width, and the prior.
_WIDE_SHARES, _WIDER, _LEAST_WIDE = (0.02, 0.01), 9.0, 0.1
# Change of their log weights with how far a given flux is from the measured one.
_BY_EXCESS = 4.0, 6.0
# Largest logarithm of the factor on widths.
_LARGEST_WIDTH = 2.0
# Variance of the logarithm of a flux that is not measured.
_UNKNOWN = 1e4
# Largest log ratio of what is likely under colours of a type to what is under any.
_LARGEST_EVIDENCE = 6.0
# Numbers of `ColourLayers.evidence`, and sources in one piece without gradients.
N_EVIDENCE, _PIECE = 4, 1024


def colour_inputs(inputs, tiles, fit):
    """
    Inputs of `ColourLayers` for N sources beside their features.

    From the `EncoderInputs`, images and tiles, and fits: ``band_flux`` and
    ``band_error`` ``(N, F)`` in units of each band's noise, and the same with
    ``_extended``. Bands that are not there have infinite errors; others have those of
    the PSF and of the sky beside the noise, which bright sources and low surface
    brightness are measured to.
    """

    def at(value):
        return inputs.at_tiles(value, *tiles)

    found = {'band': at(inputs.band), 'log_scale': at(inputs.log_scale)[..., 0]}
    found['log_floor'] = at(inputs.log_flux_floor)[:, 0]
    found['log_flux'] = fit['log_flux']
    unknown = torch.full_like(found['log_floor'], torch.nan)
    known = inputs.log_nmgy is not None
    found['log_nmgy'] = at(inputs.log_nmgy)[:, 0] if known else unknown
    absent = torch.zeros_like(found['log_scale'])
    for name, value in (('band_flux', 0.0), ('band_error', torch.inf)):
        star = fit.get(name, absent + value)
        found[name] = torch.stack([star, fit.get(f'{name}_extended', star)], 1)
    return found | _beyond_noise(inputs, at, **found)


def _beyond_noise(inputs, at, band_flux, band_error, **_):
    """Fluxes ``(N, 2, F)`` with what lobes take, and errors beyond the noise."""
    flux, error = band_flux, band_error
    psf_error, sky_error, lobes = (at(value)[:, None] for value in inputs.stated())
    lobes = lobes.unflatten(-1, (2, 2)).norm(dim=-1)
    least, by_psf, missed = (
        flux.new_tensor(value)[:, None]
        for value in (_LEAST_ERRORS, _BY_PSF_ERROR, _MISSED)
    )
    flux = flux * (lobes * missed).sum(-1).exp()
    relative = torch.hypot(least, by_psf * psf_error[..., 0])
    relative = torch.hypot(relative, _ERROR_OF_MISSED * lobes.sum(-1))
    # The variance is the area of the fit, in pixels.
    sky = _BY_SKY_ERROR * sky_error[..., 0] * error.square()
    total = torch.hypot(torch.hypot(error, sky), relative * flux)
    total = torch.where(error.isfinite(), total, error)
    return {'band_flux': flux, 'band_error': total}


class ColourLayers(nn.Module):
    """
    From features of a source and its fluxes in all bands to its colours.

    Nothing depends on the order of the bands, or on bands that are not measured but the
    colours in these. New layers give the analytic posterior.

    Parameters
    ----------
    n_features : int
        Numbers that describe the source.

    galaxies : bool, optional
        Whether sources are stars or galaxies; else all are stars.

    prior : `~bliss_astro.priors.ColourPrior`, optional
        Distribution of the colours, by default that of the sky; weights keep it.
    """

    def __init__(self, n_features, *, galaxies=False, prior=None):
        super().__init__()
        self.n_types = 1 + galaxies
        prior = priors.ColourPrior.default() if prior is None else prior
        classes = prior.stars, prior.galaxies
        parts = [[*map(torch.tensor, own.arrays())] for own in classes]
        size = max(len(own[0]) for own in parts)
        log_weight, mean, cov = (
            torch.stack([_filled(own[k], size, k) for own in parts]) for k in range(3)
        )
        nodes = torch.tensor([*prior.bands.values()]).div(BAND_WAVELENGTHS['r']).log()
        for name, value in (
            ('nodes', nodes),
            ('log_weight', log_weight),
            ('prior_mean', mean),
            ('prior_root', torch.linalg.cholesky(cov)),
            ('limits', _log_nmgy(torch.tensor(prior.magnitude_range).flip(0))),
        ):
            self.register_buffer(name, value.float())
        self.common = nn.Parameter(torch.tensor(_COMMON))
        self.log_common = nn.Parameter(torch.tensor(_COMMON_ERRORS).log())
        self.of_common = nn.Linear(n_features, self.n_types, bias=False)
        # The share of the evidence against the prior that weighs the last component.
        self.by_evidence = nn.Parameter(torch.tensor(1.0))
        self.from_source = nn.Linear(n_features + _N_OWN, _WIDTH)
        self.from_band = nn.Linear(_N_BAND, _WIDTH, bias=False)
        self.from_others = nn.Linear(_WIDTH, _WIDTH)
        self.mix = nn.Linear(_WIDTH, _WIDTH)
        self.weights = nn.Linear(_WIDTH, (size + len(_WIDE_SHARES)) * (1 + _N_FLUX))
        self.of_band = nn.Linear(_WIDTH, 2 + _N_FLUX + _RANK)
        for layer in (self.of_common, self.weights, self.of_band):
            nn.init.zeros_(layer.weight)
        for layer in (self.weights, self.of_band):
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            wide = self.weights.bias.view(-1, 1 + _N_FLUX)[-len(_WIDE_SHARES) :]
            wide[:, -1] = torch.tensor(_BY_EXCESS)
        # At zero it would have no gradient.
        nn.init.normal_(self.of_band.weight[-_RANK:], std=0.01)

    @torch.no_grad()
    def evidence(self, inputs):
        """
        How well prior colours of stars and of galaxies explain fluxes: ``(N, 4)``.

        Log-densities of the log flux ratios of stars' fits and of others under both,
        over those of any colours, of about unit size. Errors are linearised.
        """
        pieces = torch.arange(len(inputs['log_floor'])).split(_PIECE)
        if len(pieces) > 1:
            parts = ({name: v[k] for name, v in inputs.items()} for k in pieces)
            return torch.cat([self.evidence(part) for part in parts])
        flux, error = inputs['band_flux'], inputs['band_error']
        measured = error.isfinite()
        size = torch.maximum(flux, error)
        log_size = torch.where(measured, size, 1.0).log() + inputs['log_scale'][:, None]
        variance = torch.where(measured, (error / size).square(), _UNKNOWN)
        kind = torch.arange(2, device=flux.device).expand(len(flux), -1)
        log_flux = log_size[..., 0] - inputs['log_floor'][:, None]
        prior = self._prior(inputs, kind, log_flux.clamp(0, LOG_FLUX_CEILING))
        prior = Components(*(value[:, None] for value in vars(prior).values()))
        log_ratio = log_size[..., 1:] - log_size[..., :1]
        found, wide = log_densities(
            ratios(prior), log_ratio[:, :, None], variance[:, :, None]
        )
        found = found - wide.mean(-1, keepdim=True)
        return found.clamp(-_LARGEST_EVIDENCE, _LARGEST_EVIDENCE).flatten(1) / 3

    def forward(self, features, inputs, kind=None):
        """
        Distributions of the colours of N sources, `ColoursByFlux`.

        Parameters
        ----------
        features : tensor ``(N, n_features)``
            Numbers that describe the sources.

        inputs : dict of tensor
            From `colour_inputs`.

        kind : tensor ``(N,)``, optional
            Their types, 1 for galaxies; by default the distributions are those of stars
            and of galaxies.
        """
        if kind is None:
            kind = torch.arange(self.n_types, device=features.device)
            kind = kind.expand(len(features), -1)
        else:
            kind = kind[:, None].long()
        if torch.is_grad_enabled() or len(features) <= _PIECE:
            return self._colours(features, inputs, kind)
        found = [
            self._colours(features[k], {n: v[k] for n, v in inputs.items()}, kind[k])
            for k in torch.arange(len(features), device=kind.device).split(_PIECE)
        ]
        return ColoursByFlux.concatenate(found)

    def _colours(self, features, inputs, kind):
        """Distributions of types ``(N, T)``."""
        flux, error = (
            torch.take_along_dim(inputs[name], kind[..., None], 1)
            for name in ('band_flux', 'band_error')
        )
        # In units of fluxes of the reference band, its own from which others count.
        log_scale = (inputs['log_scale'] - inputs['log_floor'][:, None])[:, None]
        measured = error.isfinite()
        error = torch.where(measured, error, 1.0)
        flux = torch.where(measured, flux, 0.0)
        size = torch.maximum(flux, error)
        log_size = size.log() + log_scale
        log_flux = inputs['log_flux'][:, None]
        log_flux = torch.where(measured[..., 0], log_size[..., 0], log_flux)
        log_flux = limited(log_flux, log_size, measured).clamp(0, LOG_FLUX_CEILING)
        origin = torch.where(measured, log_size - log_flux[..., None], 0.0)
        prior = self._prior(inputs, kind, log_flux)
        of_source = self.of_common(features).gather(-1, kind)
        width = self.log_common[kind] + of_source.clamp(-_LARGEST_WIDTH, _LARGEST_WIDTH)
        start = Components(
            prior.logit,
            prior.mean + self.common[kind][..., None, None] - origin[..., None, :],
            prior.slope + 1,
            prior.cov + width.exp().square()[..., None, None, None],
        )
        log_mass, *factors = measured_factors(
            start, flux / size, error / size, measured
        )
        parts = ratios(start.given(*factors), origin)
        parts.logit = parts.logit + F.pad(log_mass, (0, 2))
        given = {
            'flux': flux / error,
            'origin': origin,
            'measured': measured,
            'log_flux': log_flux,
            'kind': kind,
            'variance': torch.where(measured, (error / size).square(), _UNKNOWN),
        }
        parts = self._corrected(parts, ratios(prior), features, inputs, given)
        error = error[..., 0] / size[..., 0] + 0.02
        return ColoursByFlux(*parts, log_flux, error)

    def _prior(self, inputs, kind, log_flux):
        """Components ``(N, T, K, F)`` over log ratios, at and around log fluxes."""
        rows, scatter = self._rows(inputs['band'][..., 0])
        change = (rows - rows[:, :1])[:, None, None]
        root, mean = self.prior_root[kind], self.prior_mean[kind]
        of_flux = (rows[:, None, None, 0, None] @ root)[..., 0, :]
        of_bands = change @ root
        own = (INTERPOLATION_ERROR * scatter).square()
        first, others = own[:, None, :1], own[:, 1:] + ZERO_POINT_ERROR**2
        extra = F.pad(
            first[..., None] + torch.diag_embed(others)[:, None], (1, 0, 1, 0)
        )
        cov = of_bands @ of_bands.mT + extra[:, None]
        offset = F.pad(-first.expand(-1, -1, others.shape[-1]), (1, 0))
        with_flux = (of_bands @ of_flux[..., None])[..., 0] + offset[:, None]
        variance = of_flux.square().sum(-1) + first
        away = inputs['log_nmgy'][:, None] + inputs['log_floor'][:, None] + log_flux
        known = away.isfinite()[..., None]
        away = away.nan_to_num().clamp(*self.limits)
        middle = (rows[:, None, None, 0] * mean).sum(-1)
        away, width = away[..., None] - middle, variance.sqrt()
        slope = torch.where(known[..., None], with_flux / variance[..., None], 0.0)
        log_weight = self.log_weight[kind]
        powers = [
            log_weight - width.log() - 0.5 * (away / width).square(),
            -away / variance,
            -0.5 / variance,
        ]
        # Without a zero point, all that there is at any flux.
        unknown = F.pad(0.5 * log_weight[..., None], (0, 2))
        logit = torch.where(known[..., None], torch.stack(powers, -1), unknown)
        mean = (change @ mean[..., None])[..., 0] + slope * away[..., None]
        cov = cov - slope[..., None] * with_flux[..., None, :]
        return Components(logit, mean, slope, cov)

    def _rows(self, wavelength):
        """
        Coefficients ``(N, F, D)`` of the prior's coordinates in log fluxes of bands.

        And distances ``(N, F)`` in the logarithm of wavelength to its nearest band.
        """
        nodes = self.nodes
        at = wavelength.clamp(nodes[0] - REACH, nodes[-1] + REACH).contiguous()
        after = torch.searchsorted(nodes, at).clamp(1, len(nodes) - 1)
        low = nodes[after - 1]
        share = ((at - low) / (nodes[after] - low))[..., None]
        one = torch.eye(len(nodes)).to(nodes)
        rows = torch.lerp(one[after - 1], one[after], share)
        rows = torch.cat([torch.ones_like(share), rows[..., :2], rows[..., 3:]], -1)
        return rows, (wavelength[..., None] - nodes).abs().amin(-1)

    def _corrected(self, parts, prior, features, inputs, given):
        """
        Components with the corrections of the network, and wide ones beside them.

        Returned with the log weights of these, and the changes with the flux.
        """
        middle, prior_middle = parts.moments(), prior.moments()
        own, of_source = _numbers(middle, prior_middle, inputs, given)
        features = features[:, None].expand(-1, own.shape[1], -1)
        source = self.from_source(torch.cat([features, of_source], -1))
        hidden = F.silu(source[..., None, :] + self.from_band(own))
        # What bands that are missing say is nothing.
        measured = given['measured'][..., 1:]
        total = (hidden * measured[..., None]).sum(-2)
        others = self.from_others(total / measured.sum(-1, keepdim=True).clamp(min=1))
        raw = self.weights(F.silu(others + source)).unflatten(-1, (-1, 1 + _N_FLUX))
        hidden = F.silu(others[..., None, :] + self.mix(hidden))
        shift, width, bend, common = self.of_band(hidden).split(
            [1, 1, _N_FLUX, _RANK], -1
        )
        one = torch.eye(middle.cov.shape[-1]).to(middle.cov)
        middle.cov = _WIDER * middle.cov + _LEAST_WIDE**2 * one
        joined = parts.followed_by(middle, prior_middle)
        spread = joined.spread
        width = _LARGEST_WIDTH * torch.tanh(width[..., 0] / _LARGEST_WIDTH)
        scale = width.exp()[..., None, :]
        root = spread[..., None] * common[..., None, :, :]
        cov = joined.cov * scale[..., None] * scale[..., None, :] + root @ root.mT
        joined.cov = cov + LEAST_VARIANCE * one
        joined.mean = joined.mean + spread * shift[..., None, :, 0]
        n = raw.shape[-2] - len(_WIDE_SHARES)
        joined.logit = parts.logit + F.pad(raw[..., :n, :1], (0, 2))
        wide = raw[..., n:, 0] + raw.new_tensor(_WIDE_SHARES).log()
        ratio = given['origin'][..., 1:] - given['origin'][..., :1]
        found, other = log_densities(prior, ratio, given['variance'])
        found = (found - other).clamp(-_LARGEST_EVIDENCE, _LARGEST_EVIDENCE)
        wide = wide - F.pad((self.by_evidence * found)[..., None], (1, 0))
        bend = raw[..., 1:], spread[..., None] * bend[..., None, :, :]
        return joined, wide, bend


def _numbers(middle, prior_middle, inputs, given):
    """Numbers that describe bands ``(N, T, D, n)``, and sources ``(N, T, n)``."""
    origin, measured = given['origin'], given['measured'][..., 1:]
    mean, wide = middle.mean[..., 0, :], middle.spread[..., 0, :]
    ratio = torch.where(measured, origin[..., 1:] - origin[..., :1], 0.0)
    snr, kind = torch.asinh(given['flux']) / 4, given['kind']
    apart = torch.where(measured, ratio - mean, 0.0)
    numbers = [
        measured.to(ratio),
        snr[..., 1:],
        torch.tanh(ratio / 4),
        apart.clamp(-3, 3),
        torch.tanh(apart / wide / 4),
        mean / 2,
        prior_middle.mean[..., 0, :] / 2,
        (wide + 0.003).log() / 3 + 1,
        snr[..., :1].expand_as(ratio),
    ]
    band = 2 * inputs['band'][:, None].expand(-1, kind.shape[1], -1, -1)
    first = band[..., :1, :].expand_as(band[..., 1:, :])
    own = torch.cat([torch.stack(numbers, -1), band[..., 1:, :], first], -1)
    known = inputs['log_nmgy'].isfinite()[:, None].expand_as(kind)
    numbers = [
        kind.to(ratio),
        snr[..., 0],
        given['log_flux'] / 4,
        known.to(ratio),
        measured.sum(-1) / 4,
    ]
    return own, torch.stack(numbers, -1)


def _log_nmgy(magnitude):
    """Natural logarithms of fluxes in nmgy."""
    return 0.4 * math.log(10) * (NANOMAGGY_ZERO_POINT - magnitude)


def _filled(value, size, k):
    """Components up to a number: without weight, others repeated."""
    more = value[:1].expand(size - len(value), *value.shape[1:])
    return torch.cat([value, more - (math.inf if k == 0 else 0)])
