# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Head: from the features of a tile and its neighbours' sources to its factors.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ._factors import CountFactor, LogFluxFactor, PositionFactor
from ._grid import COLOURS, TileCatalog

__all__ = ['LOG_FLUX_CEILING', 'SOURCE_WIDTH', 'StarHead', 'flux_mixture_of_raw']

# Channels of a source's own layers.
SOURCE_WIDTH = 96
# Beyond any flux that a prior draws: 10 e-foldings above the floor.
LOG_FLUX_CEILING = 12.0


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

        Presence, position and flux of each of its sources, C numbers
        (``codes_per_source``); zeros where there is none.
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
        """
        Hidden layer of the tiles of one colour.

        Parameters
        ----------
        context : tensor ``(B, width, rows, columns)``
            From `context`.

        code : tensor ``(B, C K, rows, columns)``
            From `encode_sources`.

        known : tensor ``(rows, columns)``
            1 where a tile's sources have been drawn, else 0.

        colour : int
            Index into ``COLOURS``.

        Returns
        -------
        hidden : tensor ``(B, width, rows', columns')``
            Every second row and column.
        """
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
        """
        Hidden layer of all tiles, each as if it were of the first colour.

        Parameters
        ----------
        context : tensor ``(B, width, rows, columns)``
            From `context`.

        Returns
        -------
        hidden : tensor ``(B, width, rows, columns)``
            That of tiles none of whose neighbours is known.
        """
        hidden = F.silu(context)
        return hidden + F.silu(self.mix(hidden))

    def hidden_at(self, context, code, known):
        """
        Hidden layer of chosen tiles.

        Parameters
        ----------
        context : tensor ``(N, width)``
            Hidden layer of the tiles.

        code : tensor ``(N, C K, 3, 3)``
            Sources of each tile's neighbourhood.

        known : tensor ``(N, 1, 3, 3)``
            1 where the neighbours' sources are given.

        Returns
        -------
        hidden : tensor ``(N, width)``
            The same numbers as `hidden` gives.
        """
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
        """
        Hidden layer of the ``place``-th source of N tiles.

        Parameters
        ----------
        place : int
            0 for the brightest.

        hidden : tensor ``(N, width)``
            Hidden layer of the tiles.

        count : tensor ``(N,)``
            Number of sources in each tile.

        earlier : tensor ``(N, C K)``
            Code of the brighter sources of the same tile.
        """
        number = F.one_hot(count, self.n_most + 1).to(hidden)
        inputs = torch.cat([hidden, earlier, number], -1)
        return F.silu(self.source[place]['hidden'](inputs))

    def start(self, place: int, hidden: torch.Tensor) -> torch.Tensor:
        """First guess of a position in units of the tile, ``(N, 2)``."""
        return 0.5 + 0.75 * torch.tanh(self.source[place]['start'](hidden))

    # -- factors -----------------------------------------------------------

    def position_factor(self, place, hidden, start, fit, tile_size) -> PositionFactor:
        """
        Distribution of a position within its tile.

        Parameters
        ----------
        place : int
            0 for the brightest.

        hidden : tensor ``(N, narrow)``
            From `source_hidden`.

        start : tensor ``(N, 2)``
            From `start`.

        fit : dict of tensor ``(N,)``
            ``x, y, error_x, error_y`` in units of the tile, ``correlation``,
            ``log_flux``, ``log_snr``, ``chi2``.

        tile_size : int
            Pixels.
        """
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
        """
        Distribution of a log-flux given the position.

        Parameters
        ----------
        place : int
            0 for the brightest.

        hidden : tensor ``(N, narrow)``
            From `source_hidden`.

        position : tensor ``(N, 2)``
            In units of the tile.

        fit : dict of tensor ``(N,)``
            As for `position_factor`.

        at : dict of tensor ``(N,)``
            ``log_flux``, ``relative_error``, ``snr``, ``chi2`` of the
            optimal photometry at the position, relative to the flux floor.

        high : tensor ``(N,)``
            Upper end of the range.
        """
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
