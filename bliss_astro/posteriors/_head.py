# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Heads: from the features of a tile and its neighbours' sources to its factors.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro._threads import map_threads

from ._colours import N_EVIDENCE, ColourLayers
from ._extended_fit import N_SHIFTS, N_SIZE_FEATURES, N_SIZES
from ._factors import (
    SOURCE_WIDTH,
    CountFactor,
    LogFluxFactor,
    PositionFactor,
    TypeFactor,
)
from ._grid import TileCatalog
from ._shape_layers import (
    N_ELLIPSE,
    N_SHAPE,
    ShapeLayers,
    apply_layers,
    hidden_layers,
    last_layer,
    output_layers,
    shared_part,
)
from ._source_parameters import STARS, STARS_AND_GALAXIES, add_layers, parameters_of

# Tiles that are worked on in single precision at once.
_PIECE = 16_384
# Least number of them that are worth being rearranged as images, and how many.
_MANY, _IMAGES = 256, 16
# Range of the logarithm of a component's scale.
_LOG_SCALES = math.log(1e-4), 1.0


def _log_scale(value: torch.Tensor) -> torch.Tensor:
    # The identity but near the ends, which are smooth so that gradients live.
    low, high = _LOG_SCALES
    value = low + F.softplus(value - low, beta=3)
    return high - F.softplus(high - value, beta=3)


def _pointwise(layer, value):
    """
    A convolution of one pixel, of maps or of lists ``(N, channels)``.

    With channels last in memory, a product of two matrices. On processors torch leaves
    convolutions of 16 images or more to oneDNN, which takes half of the time of MKL on
    some, and the gradients of maps half of that of lists.
    """
    on_processor = value.device.type == 'cpu'
    if on_processor and value.dim() == 4 and len(value) >= _IMAGES:
        return F.conv2d(value, layer.weight, layer.bias)
    value = value.movedim(1, -1)
    *shape, n_channels = value.shape
    n = math.prod(shape)
    if n % _IMAGES or n < _MANY or not on_processor:
        return F.linear(value, layer.weight[..., 0, 0], layer.bias).movedim(-1, 1)
    images = value.reshape(_IMAGES, n // _IMAGES, 1, n_channels).permute(0, 3, 1, 2)
    out = F.conv2d(images, layer.weight, layer.bias).permute(0, 2, 3, 1)
    return out.reshape(*shape, -1).movedim(-1, 1)


def star_flux_of_raw(raw, centre, error, high) -> LogFluxFactor:
    """Mixture around the fit of a star, the first component as wide as its error."""
    further = [(error + 0.1) * 2**k for k in range(1, raw.shape[-1] // 3)]
    return _flux_mixture(raw, centre, [error, *further], high)


def galaxy_flux_of_raw(raw, guesses, errors, high, *, least) -> LogFluxFactor:
    """Mixture around a mean, chosen by the network, of several guesses ``(N, G)``."""
    n = guesses.shape[-1]
    raw, choice = raw[:, :-n], torch.softmax(4 * raw[:, -n:], -1)
    centre, error = ((choice * value).sum(-1) for value in (guesses, errors))
    spreads = [(error + least) * 2**k for k in range(raw.shape[-1] // 3)]
    return _flux_mixture(raw, centre, spreads, high)


def _flux_mixture(raw, centre, spreads, high):
    # Components around one estimate, moved and widened in units of ``spreads``.
    logit, shift, width = raw.unflatten(-1, (3, -1)).unbind(-2)
    spread = torch.stack(spreads, -1)
    scale = _log_scale(torch.log(spread) + width).exp()
    offset = torch.zeros_like(logit[:1])
    offset[..., 0] = 1.0
    mean = centre[..., None] + spread * shift
    return LogFluxFactor(logit + offset, mean, scale, torch.zeros_like(high), high)


class TileHead(nn.Module):
    """
    The conditional distributions of one tile.

    A tile's sources are drawn in the order: their number; then, brightest
    first, the position, with galaxies the type, the flux and with shapes the
    shape of each, given all drawn before it.  The flux of a galaxy is a mixture
    around a mean, chosen by the network, of what blurred stars of several sizes are
    measured to have.

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

    galaxies : bool, optional
        Whether sources are stars or galaxies; else all are stars.

    shapes : bool, optional
        Whether shapes of galaxies are inferred.

    latent_dim : int, optional
        As for ``ShapeLayers``.

    parameters : tuple of str, optional
        Further parameters, of `PARAMETERS`.

    bands : bool, optional
        Whether sources have colours, where images have several bands.
    """

    def __init__(
        self,
        n_features,
        *,
        width=128,
        n_most=2,
        n_components=3,
        galaxies=False,
        shapes=False,
        latent_dim=0,
        parameters=(),
        bands=False,
    ):
        super().__init__()
        self.n_most, self.n_components = n_most, n_components
        self.galaxies, self.shapes = galaxies, shapes
        # Numbers that a catalogue keeps of a shape.
        self.n_shape = latent_dim or N_SHAPE
        self.entries = parameters_of(
            STARS_AND_GALAXIES if galaxies else STARS,
            shapes=shapes,
            latent_dim=latent_dim,
            names=parameters,
            bands=bands,
        )
        self.codes_per_source = 5 + galaxies
        n_code = self.codes_per_source * n_most
        self.from_context = nn.Conv2d(n_features, width, 1)
        self.from_neighbours = nn.Conv2d(1 + n_code, width, 3, bias=False)
        self.mix = nn.Conv2d(width, width, 1)
        self.count = nn.Conv2d(width, n_most + 1, 1)
        m, narrow = n_components, SOURCE_WIDTH
        n_position = narrow + 10 + galaxies * N_SHIFTS
        self.source = nn.ModuleList(
            nn.ModuleDict(
                {
                    'hidden': nn.Linear(width + n_code + n_most + 1, narrow),
                    'start': last_layer(narrow, 2),
                    'position': output_layers(n_position, narrow, 6 * m),
                    'flux': output_layers(narrow + 12, narrow, 3 * m),
                }
            )
            for _ in range(n_most)
        )
        n_extended = narrow + N_SIZE_FEATURES + 5 + shapes * N_ELLIPSE
        n_extended += bands * N_EVIDENCE
        for block in self.source:
            if galaxies:
                block['extended'] = hidden_layers(n_extended, narrow, narrow)
                block['is_galaxy'] = last_layer(narrow, 1)
                block['galaxy_flux'] = last_layer(narrow, 3 * m + N_SIZES)
            if shapes:
                block['shape'] = ShapeLayers(narrow, latent_dim=latent_dim)
            if bands:
                block['colour'] = ColourLayers(narrow, galaxies=galaxies)
            add_layers(block, self.entries, narrow)
        with torch.no_grad():  # most tiles are empty
            self.count.bias.copy_(4.0 - 3.0 * torch.arange(n_most + 1))

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
        if self.galaxies:
            parts.append(present * catalog.galaxy)
        return torch.cat(parts, -1).movedim(-1, 1)

    # -- hidden layers -----------------------------------------------------

    def context(self, features) -> torch.Tensor:
        """Share of features, ``(B, C, rows, columns)`` or ``(N, C)``, in the layers."""
        layer = self.from_context
        if torch.is_grad_enabled() or features.dim() == 2:
            return _pointwise(layer, features.float())
        features = features.movedim(1, -1)
        out = features.new_empty(
            (*features.shape[:-1], layer.out_channels), dtype=torch.float32
        )

        def fill(pair):
            own, some = pair
            own.copy_(_pointwise(layer, some.float()))

        parts = (value.flatten(0, 2).split(_PIECE) for value in (out, features))
        map_threads(fill, zip(*parts, strict=True))
        return out.movedim(-1, 1)

    def from_codes(self, code, known):
        """
        Share of codes in the hidden layers of every second tile along both axes.

        Codes ``(B, C K, 2 h + 1, 2 w + 1)`` of the tiles around and between, and
        whether they are known.
        """
        flag = known.expand(len(code), 1, *known.shape)
        given = torch.cat([flag, code * known], 1)
        return F.conv2d(given, self.from_neighbours.weight, stride=2)

    def from_known(self, known):
        """Share of which tiles around are known ``(N, 9)``, with no source in them."""
        weight = self.from_neighbours.weight[:, 0].flatten(1)
        return F.linear(known.to(weight), weight)

    def hidden_alone(self, context):
        """Hidden layer of all tiles, each as if it were of the first colour."""
        hidden = F.silu(context)
        return hidden + F.silu(_pointwise(self.mix, hidden))

    def hidden_at(self, context, code, known):
        """
        Hidden layer of chosen tiles, ``(N, width)``.

        Codes ``(N, 9, C K)`` of the tiles around, row by row, and whether they are
        known ``(N, 9)``.
        """
        known = known[..., None].to(code)
        given = torch.cat([known, code * known], -1).flatten(1)
        weight = self.from_neighbours.weight.movedim(1, -1).flatten(1)
        return self.hidden_alone(context + F.linear(given, weight))

    def count_factor(self, hidden: torch.Tensor) -> CountFactor:
        """Distribution of the count from ``(B, width, ...)`` or ``(N, width)``."""
        return CountFactor(_pointwise(self.count, hidden).movedim(1, -1))

    def source_hidden(self, place: int, hidden, count, earlier) -> torch.Tensor:
        """Hidden layer of the ``place``-th source of N tiles."""
        numbers = torch.arange(self.n_most + 1, device=count.device)
        number = (count[:, None] == numbers).to(hidden)
        inputs = torch.cat([hidden, earlier, number], -1)
        return F.silu(self.source[place]['hidden'](inputs))

    def start(self, place: int, hidden: torch.Tensor) -> torch.Tensor:
        """First guess of a position in units of the tile, ``(N, 2)``."""
        return 0.5 + 0.75 * torch.tanh(self.source[place]['start'](hidden))

    # -- factors -----------------------------------------------------------

    def position_factor(self, place, hidden, start, fit) -> PositionFactor:
        """Distribution of a position within its tile."""
        start = start.detach()
        centre, error = _position_of(fit)
        numbers = [fit['correlation'], fit['log_flux'] / 4, fit['log_snr'] / 3]
        numbers.append(torch.log1p(fit['chi2']))
        apart = (centre - start).clamp(-2, 2)
        inputs = [hidden, 2 * start - 1, apart, error.log(), torch.stack(numbers, -1)]
        if self.galaxies:
            # Where an extended source would lie, of each size.
            inputs.append(fit['shifts'])
        raw = self.source[place]['position'](torch.cat(inputs, -1))
        raw = raw.unflatten(-1, (6, -1))
        logit, shift, width, slope = raw[:, 0], raw[:, 1:3], raw[:, 3:5], raw[:, 5]
        k = torch.arange(self.n_components, device=raw.device)
        # The fit's component, moved and widened in units of its error; free ones.
        origin = torch.where(k == 0, centre[..., None], start[..., None])
        mean = origin + torch.where(k == 0, error[..., None], 0.5) * shift
        scale = torch.where(k == 0, error.log()[..., None] + width, width - 2.0 + k)
        scale = _log_scale(scale).exp()
        mean = mean.clamp(-6 * scale, 1 + 6 * scale)
        ratio = torch.exp(error[:, 1].log() - error[:, 0].log())
        tilt = (fit['correlation'] * ratio)[:, None]
        slope = torch.where(k == 0, tilt + slope, slope).clamp(-3, 3)
        logit = logit + (k == 0)
        return PositionFactor(logit, *mean.unbind(1), *scale.unbind(1), slope)

    def flux_hidden(self, place, hidden):
        """First layer of a star's flux but for its position and photometry."""
        return shared_part(self.source[place]['flux'], hidden)

    def flux_factor(self, place, hidden, position, fit, at, high) -> LogFluxFactor:
        """
        Distribution of the log-flux of a star given the position.

        The first layer's part of the hidden layer, `flux_hidden`, is given.
        """
        centre, error = _position_of(fit)
        pull = (position - centre) / error
        numbers = [
            torch.log1p(pull.square().sum(-1)) / 2,
            at['log_flux'] / 4,
            torch.log(at['relative_error']),
            at['snr'].clamp(-3, 12) / 6,
            torch.log1p(at['chi2']),
            fit['log_flux'] / 4,
            fit['log_snr'] / 3,
            high / 6 - 1,
        ]
        own = [2 * position - 1, torch.tanh(pull / 3), torch.stack(numbers, -1)]
        raw = apply_layers(self.source[place]['flux'], hidden, torch.cat(own, -1))
        return star_flux_of_raw(raw, at['log_flux'], at['relative_error'], high)

    def extended(self, place, hidden, fit, colours=None) -> torch.Tensor:
        """
        Hidden layer for what is extended, tensor ``(N, narrow)``.

        With the inputs of colours, from `colour_inputs`, where there are several bands.
        """
        layers = self.source[place]
        numbers = [
            fit['log_flux'] / 4,
            fit['log_snr'] / 3,
            torch.log1p(fit['chi2']),
            torch.log(fit['error_x'] * fit['error_y']) / 4,
            fit['correlation'],
        ]
        inputs = [hidden, fit['sizes'], torch.stack(numbers, -1)]
        if self.shapes:
            inputs.append(fit['ellipse'])
        if colours is not None:
            inputs.append(layers['colour'].evidence(colours))
        elif 'colour' in layers:
            inputs.append(hidden.new_zeros(len(hidden), N_EVIDENCE))
        return layers['extended'](torch.cat(inputs, -1))

    def type_factor(self, place, extended) -> TypeFactor:
        """Distribution of the type from the layer `extended`."""
        return TypeFactor(self.source[place]['is_galaxy'](extended)[:, 0])

    def galaxy_flux_factor(self, place, extended, fit, high) -> LogFluxFactor:
        """Distribution of a galaxy's log-flux."""
        raw = self.source[place]['galaxy_flux'](extended)
        guesses = fit['size_log_flux'], fit['size_error']
        return galaxy_flux_of_raw(raw, *guesses, high, least=0.05)


class CatalogHead(TileHead):
    """`TileHead` with galaxies, by its name of earlier versions."""

    def __init__(self, n_features, **sizes):
        super().__init__(n_features, galaxies=True, **sizes)


def _position_of(fit):
    """Position and its errors ``(N, 2)`` in units of the tile."""
    centre = torch.stack([fit['x'], fit['y']], -1)
    return centre, torch.stack([fit['error_x'], fit['error_y']], -1)
