# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Heads: from the features of a tile and its neighbours' sources to its factors.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ._extended_fit import N_SHIFTS, N_SIZE_FEATURES, N_SIZES
from ._factors import (
    SOURCE_WIDTH,
    CountFactor,
    LogFluxFactor,
    PositionFactor,
    TypeFactor,
)
from ._grid import COLOURS, TileCatalog
from ._shape_layers import N_ELLIPSE, N_SHAPE, ShapeLayers


def _log_scale(value: torch.Tensor, low: float, high: float) -> torch.Tensor:
    # The identity but near the ends, which are smooth so that gradients live.
    value = low + F.softplus(value - low, beta=3)
    return high - F.softplus(high - value, beta=3)


class StarHead(nn.Module):
    """
    The conditional distributions of one tile.

    A tile's sources are drawn in the order: their number; then, brightest
    first, the position and the flux of each given all drawn before it.

    Parameters
    ----------
    n_features : int
        Channels of the context features.

    width : int, optional
        Channels of the hidden layers.

    n_most : int, optional
        Largest number K of sources in a tile.

    n_components : int, optional
        Components M of each mixture: the first is centred on the
        least-squares fit, the others are free.
    """

    codes_per_source = 5
    # Inputs of the position factor from a fit.
    n_position_inputs = 10
    galaxies = False
    shapes = False
    # Numbers that a catalogue keeps of a shape.
    n_shape = 6

    def __init__(self, n_features, *, width=128, n_most=2, n_components=3):
        super().__init__()
        self.n_most, self.n_components = n_most, n_components
        n_code = self.codes_per_source * n_most
        self.from_context = nn.Conv2d(n_features, width, 1)
        self.from_neighbours = nn.Conv2d(1 + n_code, width, 3, bias=False)
        self.mix = nn.Conv2d(width, width, 1)
        self.count = nn.Conv2d(width, n_most + 1, 1)
        m, narrow = n_components, SOURCE_WIDTH
        self.source = nn.ModuleList()
        for _ in range(n_most):
            self.source.append(
                nn.ModuleDict(
                    {
                        'hidden': nn.Linear(width + n_code + n_most + 1, narrow),
                        'start': nn.Linear(narrow, 2),
                        'position': nn.Sequential(
                            nn.Linear(narrow + self.n_position_inputs, narrow),
                            nn.SiLU(),
                            nn.Linear(narrow, 6 * m),
                        ),
                        'flux': nn.Sequential(
                            nn.Linear(narrow + 12, narrow),
                            nn.SiLU(),
                            nn.Linear(narrow, 3 * m),
                        ),
                    }
                )
            )
        with torch.no_grad():  # most tiles are empty
            self.count.bias.copy_(4.0 - 3.0 * torch.arange(n_most + 1))
        for block in self.source:
            for name in ('position', 'flux'):
                nn.init.zeros_(block[name][-1].bias)
                nn.init.normal_(block[name][-1].weight, std=0.02)
            nn.init.normal_(block['start'].weight, std=0.02)
            nn.init.zeros_(block['start'].bias)

    # -- sources as numbers ------------------------------------------------

    def encode_sources(self, catalog: TileCatalog) -> torch.Tensor:
        """
        Sources of a tile as inputs of its neighbours, ``(B, C K, rows, columns)``.
        """
        place = torch.arange(self.n_most, device=catalog.x.device)
        present = (place < catalog.count[..., None]).to(catalog.x)
        flux = catalog.log_flux
        parts = [
            present,
            present * (2 * catalog.x - 1),
            present * (2 * catalog.y - 1),
            present * flux / 4,
            present * torch.exp(-flux),
        ]
        return torch.cat(parts, -1).movedim(-1, 1)

    # -- hidden layers -----------------------------------------------------

    def context(self, features: torch.Tensor) -> torch.Tensor:
        """The part of the hidden layer that does not depend on sources."""
        return self.from_context(features)

    def hidden(self, context, code, known, colour: int) -> torch.Tensor:
        """Hidden layer of the tiles of one colour, ``(B, width, rows', columns')``."""
        i, j = COLOURS[colour]
        own = context[..., i::2, j::2]
        if own.numel() == 0:  # a single row or column of tiles
            return own
        flag = known.expand(len(code), 1, *known.shape)
        given = torch.cat([flag, code * known], 1)
        given = F.pad(given, (1, 1, 1, 1))[..., i:, j:]
        near = F.conv2d(given, self.from_neighbours.weight, stride=2)
        hidden = F.silu(own + near)
        return hidden + F.silu(self.mix(hidden))

    def hidden_alone(self, context):
        """Hidden layer of all tiles, each as if it were of the first colour."""
        hidden = F.silu(context)
        return hidden + F.silu(self.mix(hidden))

    def hidden_at(self, context, code, known):
        """Hidden layer of chosen tiles, ``(N, width)``."""
        given = torch.cat([known, code * known], 1)
        near = F.conv2d(given, self.from_neighbours.weight)[..., 0, 0]
        hidden = F.silu(context + near)
        return hidden + F.silu(
            F.linear(hidden, self.mix.weight[..., 0, 0], self.mix.bias)
        )

    def count_factor(self, hidden: torch.Tensor) -> CountFactor:
        """Distribution of the count from ``(B, width, ...)`` or ``(N, width)``."""
        if hidden.dim() == 2:
            weight = self.count.weight[..., 0, 0]
            return CountFactor(F.linear(hidden, weight, self.count.bias))
        return CountFactor(self.count(hidden).movedim(1, -1))

    def source_hidden(self, place: int, hidden, count, earlier) -> torch.Tensor:
        """Hidden layer of the ``place``-th source of N tiles."""
        number = F.one_hot(count, self.n_most + 1).to(hidden)
        inputs = torch.cat([hidden, earlier, number], -1)
        return F.silu(self.source[place]['hidden'](inputs))

    def start(self, place: int, hidden: torch.Tensor) -> torch.Tensor:
        """First guess of a position in units of the tile, ``(N, 2)``."""
        return 0.5 + 0.75 * torch.tanh(self.source[place]['start'](hidden))

    # -- factors -----------------------------------------------------------

    def position_factor(self, place, hidden, start, fit, tile_size) -> PositionFactor:
        """Distribution of a position within its tile."""
        start = start.detach()
        inputs = torch.stack(
            [
                2 * start[:, 0] - 1,
                2 * start[:, 1] - 1,
                (fit['x'] - start[:, 0]).clamp(-2, 2),
                (fit['y'] - start[:, 1]).clamp(-2, 2),
                torch.log(fit['error_x']),
                torch.log(fit['error_y']),
                fit['correlation'],
                fit['log_flux'] / 4,
                fit['log_snr'] / 3,
                torch.log1p(fit['chi2']),
            ],
            -1,
        )
        inputs = torch.cat([hidden, inputs, *self._further_position_inputs(fit)], -1)
        raw = self.source[place]['position'](inputs)
        logit, ax, ay, sx, sy, slope = raw.unflatten(-1, (6, -1)).unbind(-2)
        floor = math.log(1e-4)
        # The fit's component: moved and widened in units of its error.
        mean_x = [fit['x'] + fit['error_x'] * ax[:, 0]]
        mean_y = [fit['y'] + fit['error_y'] * ay[:, 0]]
        base = torch.stack([fit['error_x'], fit['error_y']]).log()
        log_x = [_log_scale(base[0] + sx[:, 0], floor, 1.0)]
        log_y = [_log_scale(base[1] + sy[:, 0], floor, 1.0)]
        slopes = [fit['correlation'] * torch.exp(base[1] - base[0]) + slope[:, 0]]
        for k in range(1, self.n_components):
            mean_x.append(start[:, 0] + 0.5 * ax[:, k])
            mean_y.append(start[:, 1] + 0.5 * ay[:, k])
            log_x.append(_log_scale(sx[:, k] - 2.0 + k, floor, 1.0))
            log_y.append(_log_scale(sy[:, k] - 2.0 + k, floor, 1.0))
            slopes.append(slope[:, k])
        offset = logit.new_zeros(self.n_components)
        offset[0] = 1.0
        scale_x = torch.stack(log_x, -1).exp()
        scale_y = torch.stack(log_y, -1).exp()
        mean_x, mean_y = torch.stack(mean_x, -1), torch.stack(mean_y, -1)
        mean_x = torch.minimum(torch.maximum(mean_x, -6 * scale_x), 1 + 6 * scale_x)
        mean_y = torch.minimum(torch.maximum(mean_y, -6 * scale_y), 1 + 6 * scale_y)
        slopes = torch.stack(slopes, -1).clamp(-3, 3)
        return PositionFactor(logit + offset, mean_x, mean_y, scale_x, scale_y, slopes)

    def _further_position_inputs(self, fit):
        # Further inputs for other kinds of sources.
        return ()

    def flux_factor(self, place, hidden, position, fit, at, high) -> LogFluxFactor:
        """Distribution of a log-flux given the position."""
        pull_x = (position[:, 0] - fit['x']) / fit['error_x']
        pull_y = (position[:, 1] - fit['y']) / fit['error_y']
        inputs = torch.stack(
            [
                2 * position[:, 0] - 1,
                2 * position[:, 1] - 1,
                torch.tanh(pull_x / 3),
                torch.tanh(pull_y / 3),
                torch.log1p(pull_x**2 + pull_y**2) / 2,
                at['log_flux'] / 4,
                torch.log(at['relative_error']),
                at['snr'].clamp(-3, 12) / 6,
                torch.log1p(at['chi2']),
                fit['log_flux'] / 4,
                fit['log_snr'] / 3,
                high / 6 - 1,
            ],
            -1,
        )
        raw = self.source[place]['flux'](torch.cat([hidden, inputs], -1))
        error = at['relative_error']
        spreads = [error] + [(error + 0.1) * 2**k for k in range(1, self.n_components)]
        return flux_mixture_of_raw(raw, at['log_flux'], spreads, high)

    def flux_mixture(self, place, hidden, position, fit, at, high) -> LogFluxFactor:
        """The same, over all types of sources."""
        return self.flux_factor(place, hidden, position, fit, at, high)


def flux_mixture_of_raw(raw, centre, spreads, high):
    # Components around one estimate, moved and widened in units of ``spreads``.
    logit, shift, width = raw.unflatten(-1, (3, -1)).unbind(-2)
    spread = torch.stack(spreads, -1)
    log_scale = _log_scale(torch.log(spread) + width, math.log(1e-4), 1.0)
    offset = torch.zeros_like(logit[:1])
    offset[:, 0] = 1.0
    return LogFluxFactor(
        logit + offset,
        centre[:, None] + spread * shift,
        log_scale.exp(),
        torch.zeros_like(high),
        high,
    )


class CatalogHead(StarHead):
    """
    The conditional distributions of one tile, with the type of each source.

    A source's type is drawn after its position, and its flux given both.
    Stars have the factors of ``StarHead``; the flux of a galaxy is
    a mixture around a mean, chosen by the network, of what blurred stars of several
    sizes are measured to have.  Given all that, its shape is drawn last.

    Parameters
    ----------
    n_features, width, n_most, n_components
        As for ``StarHead``.

    shapes : bool, optional
        Whether shapes of galaxies are inferred.

    latent_dim : int, optional
        As for ``ShapeLayers``.
    """

    codes_per_source = 6
    n_position_inputs = StarHead.n_position_inputs + N_SHIFTS
    galaxies = True

    def __init__(
        self,
        n_features,
        *,
        width=128,
        n_most=2,
        n_components=3,
        shapes=False,
        latent_dim=0,
    ):
        super().__init__(
            n_features, width=width, n_most=n_most, n_components=n_components
        )
        self.shapes = shapes
        self.n_shape = latent_dim or N_SHAPE
        narrow, m = SOURCE_WIDTH, n_components
        n_inputs = N_SIZE_FEATURES + 5 + (N_ELLIPSE if shapes else 0)
        for block in self.source:
            block['extended'] = nn.Sequential(
                nn.Linear(narrow + n_inputs, narrow),
                nn.SiLU(),
                nn.Linear(narrow, narrow),
                nn.SiLU(),
            )
            block['is_galaxy'] = nn.Linear(narrow, 1)
            block['galaxy_flux'] = nn.Linear(narrow, 3 * m + N_SIZES)
            for name in ('is_galaxy', 'galaxy_flux'):
                nn.init.normal_(block[name].weight, std=0.02)
                nn.init.zeros_(block[name].bias)
            if shapes:
                block['shape'] = ShapeLayers(narrow, latent_dim=latent_dim)

    def encode_sources(self, catalog: TileCatalog) -> torch.Tensor:
        """
        Sources of a tile as inputs of its neighbours, ``(B, 6 K, rows, columns)``.
        """
        code = super().encode_sources(catalog)
        present = code[:, : self.n_most]
        return torch.cat([code, present * catalog.galaxy.movedim(-1, 1)], 1)

    def _further_position_inputs(self, fit):
        # Where an extended source would lie, of each size.
        return (fit['shifts'],)

    def extended(self, place, hidden, fit) -> torch.Tensor:
        """Hidden layer for what is extended, tensor ``(N, narrow)``."""
        own = torch.stack(
            [
                fit['log_flux'] / 4,
                fit['log_snr'] / 3,
                torch.log1p(fit['chi2']),
                torch.log(fit['error_x'] * fit['error_y']) / 4,
                fit['correlation'],
            ],
            -1,
        )
        inputs = [hidden, fit['sizes'], own]
        if self.shapes:
            inputs.append(fit['ellipse'])
        return self.source[place]['extended'](torch.cat(inputs, -1))

    def type_factor(self, place, extended) -> TypeFactor:
        """Distribution of the type from the layer `extended`."""
        return TypeFactor(self.source[place]['is_galaxy'](extended)[:, 0])

    def galaxy_flux_factor(self, place, extended, fit, high) -> LogFluxFactor:
        """Distribution of a galaxy's log-flux."""
        raw = self.source[place]['galaxy_flux'](extended)
        raw, choice = raw[:, :-N_SIZES], torch.softmax(4 * raw[:, -N_SIZES:], -1)
        centre = (choice * fit['size_log_flux']).sum(-1)
        error = (choice * fit['size_error']).sum(-1)
        spreads = [(error + 0.05) * 2**k for k in range(self.n_components)]
        return flux_mixture_of_raw(raw, centre, spreads, high)

    def shape_factors(self, place, extended, fit, log_flux):
        """Distributions of a galaxy's shape and ellipticity given its flux."""
        return self.source[place]['shape'](extended, fit, log_flux)

    def flux_mixture(self, place, hidden, position, fit, at, high) -> LogFluxFactor:
        """Distribution of the log-flux over both types."""
        star = self.flux_factor(place, hidden, position, fit, at, high)
        extended = self.extended(place, hidden, fit)
        galaxy = self.galaxy_flux_factor(place, extended, fit, high)
        log_type = self.type_factor(place, extended).log_probs
        return LogFluxFactor.of_types(star, galaxy, log_type)
