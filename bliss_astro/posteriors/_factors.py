# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Factors of a tile's posterior: distributions of count, type, position and flux.

Each holds tensors of parameters whose leading dimensions are a batch of
tiles (or of sources) and offers ``sample``, ``log_prob`` and ``mode``.
"""

import math

import torch

# Channels of a source's own layers.
SOURCE_WIDTH = 96
# Beyond any flux that a prior draws: 10 e-foldings above the floor.
LOG_FLUX_CEILING = 12.0
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# From an e-folding to 1e-6 of it.
_N_BISECTIONS = 20


def _ndtr(z: torch.Tensor) -> torch.Tensor:
    # torch.special.ndtr is (1 + erf) / 2, which is zero below -5.5 in single
    # precision; this keeps all digits of the lower tail.
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))


def _log_ndtr(z: torch.Tensor) -> torch.Tensor:
    # The derivative of torch.special.log_ndtr is a difference of squares in
    # an exponential: wrong below -1e3 in single precision, and at last NaN.
    tail = z.clamp(max=-4.0)
    scaled = 0.5 * torch.special.erfcx(tail * -math.sqrt(0.5))
    below = torch.log(scaled) - 0.5 * tail**2
    return torch.where(z < -4, below, torch.special.log_ndtr(z.clamp(min=-4.0)))


def _log_normal_mass(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Logarithm of ``Phi(high) - Phi(low)``, accurate in both tails."""
    flip = low > 0
    a = torch.where(flip, -high, low)
    b = torch.where(flip, -low, high)
    log_b = _log_ndtr(b)
    ratio = _log_ndtr(a) - log_b
    return log_b + torch.log(-torch.expm1(ratio.clamp(max=-1e-6)))


def _truncated_log_prob(value, mean, scale, low, high):
    z = (value - mean) / scale
    mass = _log_normal_mass((low - mean) / scale, (high - mean) / scale)
    return -0.5 * z**2 - _HALF_LOG_2PI - torch.log(scale) - mass


def _ends(mean, scale, low, high):
    # A range in the upper tail is mirrored: that tail has the fewer digits.
    scale = torch.where(low > mean, -scale, scale)
    return scale, *(_ndtr((end - mean) / scale) for end in (low, high))


def _truncated_cdf(mean, scale, low, high):
    """Distribution function of truncated normals, a function of the value."""
    scale, lower, upper = _ends(mean, scale, low, high)

    def cdf(value):
        here = _ndtr((value.clamp(low, high) - mean) / scale)
        return ((here - lower) / (upper - lower)).nan_to_num(0.5).clamp(0, 1)

    return cdf


def _truncated_quantile(q, mean, scale, low, high):
    scale, lower, upper = _ends(mean, scale, low, high)
    z = torch.special.ndtri((lower + q * (upper - lower)).clamp(1e-30, 1 - 6e-8))
    return (mean + scale * z).clamp(low, high)


def _pick(values: torch.Tensor, component: torch.Tensor, row=None) -> torch.Tensor:
    if row is not None:
        return values.flatten()[row * values.shape[-1] + component]
    values = values.expand(*component.shape, values.shape[-1])
    return values.gather(-1, component[..., None])[..., 0]


def draw_component(weights, unit):
    """Indices ``(...,)`` of components of given weights, from uniform numbers."""
    return (unit > weights.cumsum(-1)[..., :-1]).sum(-1)


def draw_flux(parts, q):
    """Log-fluxes ``(N, P)`` of mixtures of normals, which may end at a range's ends."""
    logits, mean, scale = (part[:, None] for part in parts)
    component = draw_component(torch.softmax(logits, -1), q[..., :1])
    unit = torch.special.ndtri(q[..., 1].clamp(1e-4, 1 - 1e-4))
    log_flux = _pick(mean, component) + unit * _pick(scale, component)
    return log_flux.clamp(0, LOG_FLUX_CEILING)


def _rand(like: torch.Tensor, generator, *further) -> torch.Tensor:
    shape = (*like.shape, *further)
    return torch.rand(shape, generator=generator, device=like.device)


class CountFactor:
    """
    Number of sources in a tile: categorical over 0 .. K.

    Parameters
    ----------
    logits : tensor ``(..., K + 1)``
        Un-normalised log-probabilities.
    """

    def __init__(self, logits: torch.Tensor):
        self.log_probs = torch.log_softmax(logits, -1)

    @property
    def probs(self) -> torch.Tensor:
        """Probabilities, tensor ``(..., K + 1)``."""
        return self.log_probs.exp()

    @property
    def at_least(self) -> torch.Tensor:
        """Probabilities of at least 1 .. K sources, tensor ``(..., K)``."""
        return self.probs.flip(-1).cumsum(-1).flip(-1)[..., 1:]

    @property
    def presence(self) -> torch.Tensor:
        """Probability of at least one source, tensor ``(...,)``."""
        return -torch.expm1(self.log_probs[..., 0])

    @property
    def mean(self) -> torch.Tensor:
        """Expected number of sources, tensor ``(...,)``."""
        number = torch.arange(self.log_probs.shape[-1]).to(self.log_probs)
        return (self.probs * number).sum(-1)

    def log_prob(self, count: torch.Tensor) -> torch.Tensor:
        """Log-probability of counts, tensor ``(...,)`` of integers."""
        return self.log_probs.gather(-1, count[..., None])[..., 0]

    def sample(self, *, generator=None) -> torch.Tensor:
        """Draw counts, tensor ``(...,)``."""
        return draw_component(self.probs, _rand(self.log_probs[..., 0], generator, 1))

    def mode(self, threshold: float = 0.5) -> torch.Tensor:
        """
        A point estimate of the count.

        The largest n such that at least n sources are there with a
        probability above ``threshold``.
        """
        return (self.at_least > threshold).sum(-1)


class TypeFactor:
    """
    Whether a source is a galaxy or a star: Bernoulli.

    Parameters
    ----------
    logit : tensor ``(...,)``
        Logarithm of the odds of a galaxy.
    """

    def __init__(self, logit: torch.Tensor):
        self.logit = logit

    def select(self, index):
        """The factor of some sources."""
        return TypeFactor(self.logit[index])

    @property
    def probability(self) -> torch.Tensor:
        """Probability of a galaxy, tensor ``(...,)``."""
        return torch.sigmoid(self.logit)

    @property
    def log_probs(self) -> torch.Tensor:
        """Log-probabilities of star and galaxy, tensor ``(..., 2)``."""
        both = torch.stack([-self.logit, self.logit], -1)
        return torch.nn.functional.logsigmoid(both)

    def log_prob(self, galaxy: torch.Tensor) -> torch.Tensor:
        """Log-probability of types (1 for galaxies), tensor ``(...,)``."""
        return torch.nn.functional.logsigmoid((2 * galaxy - 1) * self.logit)

    def sample(self, *, generator=None) -> torch.Tensor:
        """Draw types, 1 for galaxies, tensor ``(...,)``."""
        unit = _rand(self.logit, generator)
        return (unit < self.probability).to(self.logit)

    def mode(self) -> torch.Tensor:
        """The more probable type."""
        return (self.logit > 0).to(self.logit)


class PositionFactor:
    """
    Position within a tile: a mixture of truncated normals.

    In each component x is normal, and y given x is normal with a mean
    linear in x, both truncated to the tile: exactly normalised on the unit
    square, and correlated.

    Parameters
    ----------
    logits, mean_x, mean_y, scale_x, scale_y, slope : tensor ``(..., M)``
        Weights and parameters of the M components in units of the tile.
    """

    def __init__(self, logits, mean_x, mean_y, scale_x, scale_y, slope):
        self.log_weights = torch.log_softmax(logits, -1)
        self.mean_x, self.mean_y = mean_x, mean_y
        self.scale_x, self.scale_y = scale_x, scale_y
        self.slope = slope

    def select(self, index):
        """The factor of some sources."""
        names = 'log_weights', 'mean_x', 'mean_y', 'scale_x', 'scale_y', 'slope'
        return PositionFactor(*(getattr(self, name)[index] for name in names))

    def _mean_y_at(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean_y + self.slope * (x[..., None] - self.mean_x)

    def log_prob(self, position: torch.Tensor) -> torch.Tensor:
        """Log-density per tile area at positions ``(..., 2)`` in [0, 1]."""
        x, y = position.unbind(-1)
        mean_y = self._mean_y_at(x)
        log_x = _truncated_log_prob(x[..., None], self.mean_x, self.scale_x, 0.0, 1.0)
        log_y = _truncated_log_prob(y[..., None], mean_y, self.scale_y, 0.0, 1.0)
        return torch.logsumexp(self.log_weights + log_x + log_y, -1)

    def quantile_draw(self, q: torch.Tensor, row=None) -> torch.Tensor:
        """
        Positions from uniform numbers.

        Parameters
        ----------
        q : tensor ``(..., 3)``
            Uniform numbers for the component, x and y.

        row : tensor ``(...,)`` of int, optional
            Source of each position, of the N of the factor.

        Returns
        -------
        position : tensor ``(..., 2)``
            x and y in units of the tile.
        """
        weights = self.log_weights.exp()
        weights = weights if row is None else weights[row]
        component = draw_component(weights, q[..., :1])
        names = 'mean_x', 'mean_y', 'scale_x', 'scale_y', 'slope'
        mean_x, mean_y, scale_x, scale_y, slope = (
            _pick(getattr(self, name), component, row) for name in names
        )
        x = _truncated_quantile(q[..., 1], mean_x, scale_x, 0.0, 1.0)
        mean_y = mean_y + slope * (x - mean_x)
        y = _truncated_quantile(q[..., 2], mean_y, scale_y, 0.0, 1.0)
        return torch.stack([x, y], -1)

    def sample(self, *, generator=None) -> torch.Tensor:
        """Draw positions, tensor ``(..., 2)``."""
        return self.quantile_draw(_rand(self.mean_x[..., 0], generator, 3))

    def mode(self) -> torch.Tensor:
        """Centre of the component that is highest there, clipped to the tile."""
        height = self.log_weights - torch.log(self.scale_x * self.scale_y)
        best = height.argmax(-1)
        x = _pick(self.mean_x, best).clamp(0, 1)
        y = _pick(self._mean_y_at(x), best).clamp(0, 1)
        return torch.stack([x, y], -1)


def flux_parts(packed, *, of='all'):
    """Log-weights, means, scales ``(..., M)`` of `LogFluxFactor.packed`, of a type."""
    parts = packed[..., 1:].unflatten(-1, (3, -1))
    if of != 'all':
        parts = parts.chunk(2, -1)[of == 'galaxy']
    return parts.unbind(-2)


class LogFluxFactor:
    """
    Logarithm of the flux: a mixture of normals, truncated to a range.

    Parameters
    ----------
    logits, mean, scale : tensor ``(..., M)``
        Weights, means and standard deviations before truncation.

    low, high : tensor ``(...,)``
        The range: the prior's flux floor, and the flux of the next brighter
        source of the tile (sources are ordered).
    """

    def __init__(self, logits, mean, scale, low, high):
        self.log_weights = torch.log_softmax(logits, -1)
        self.low, self.high = low[..., None], high[..., None]
        self.scale = scale
        # A mean far outside the range only costs digits.
        self.mean = mean.clamp(self.low - 6 * scale, self.high + 6 * scale)

    def select(self, index):
        """The factor of some sources."""
        parts = self.log_weights, self.mean, self.scale
        ends = self.low[..., 0], self.high[..., 0]
        return LogFluxFactor(*(part[index] for part in (*parts, *ends)))

    @classmethod
    def of_types(cls, star, galaxy, log_types):
        """
        Join the distributions for stars and for galaxies, given ``log_types``.

        The mixture has 2 M components, the star's first, whose weights sum to the
        probability of a star, ``exp(log_types[..., 0])``.
        """
        logits = torch.cat([star.log_weights, galaxy.log_weights], -1)
        logits = logits + log_types.repeat_interleave(star.mean.shape[-1], -1)
        mean = torch.cat([star.mean, galaxy.mean], -1)
        scale = torch.cat([star.scale, galaxy.scale], -1)
        return cls(logits, mean, scale, star.low[..., 0], star.high[..., 0])

    def packed(self) -> torch.Tensor:
        """Upper end, log-weights, means and scales, tensor ``(..., 1 + 3 M)``."""
        return torch.cat([self.high, self.log_weights, self.mean, self.scale], -1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density of log-fluxes, tensor ``(...,)``."""
        ends = self.low, self.high
        parts = _truncated_log_prob(value[..., None], self.mean, self.scale, *ends)
        return torch.logsumexp(self.log_weights + parts, -1)

    def cdf(self, value: torch.Tensor) -> torch.Tensor:
        """Distribution function at log-fluxes, tensor ``(...,)``."""
        parts = _truncated_cdf(self.mean, self.scale, self.low, self.high)
        return (self.log_weights.exp() * parts(value[..., None])).sum(-1)

    def quantile(self, q) -> torch.Tensor:
        """
        Quantiles of the log-flux, tensor ``(...,)``, by bisection of `cdf`.

        Parameters
        ----------
        q : float or tensor ``(...,)``
            Probability; further dimensions come first.
        """
        q = torch.as_tensor(q).to(self.mean)
        scale, lower, upper = _ends(self.mean, self.scale, self.low, self.high)
        mass, weight = upper - lower, self.log_weights.exp()
        # A component beyond the range has no mass to divide by.
        share = torch.where(mass == 0, 0.0, weight / mass)
        q_left = q - torch.where(mass == 0, 0.5 * weight, 0.0).sum(-1)
        # They lie between those of the components, which are rounded.
        ends = self.low, self.high
        parts = _truncated_quantile(q[..., None], self.mean, self.scale, *ends)
        margin = 1e-3 * (self.high - self.low)
        low = (parts - margin).clamp(min=self.low).amin(-1)
        high = (parts + margin).clamp(max=self.high).amax(-1)
        # As `_ndtr`, twice its values.
        unit = -math.sqrt(0.5) / scale
        origin, lower, share = -self.mean * unit, 2 * lower, 0.5 * share
        for _ in range(_N_BISECTIONS):
            middle = 0.5 * (low + high)
            z = torch.addcmul(origin, middle[..., None], unit)
            above = (share * (torch.erfc(z) - lower)).sum(-1) > q_left
            high = torch.where(above, middle, high)
            low = torch.where(above, low, middle)
        return 0.5 * (low + high)

    def quantile_draw(self, q: torch.Tensor) -> torch.Tensor:
        """Log-fluxes from uniform numbers ``(..., 2)`` (component, value)."""
        return self.draw_components(q)[0]

    def draw_components(self, q):
        """The same, with the components of the draws."""
        component = draw_component(self.log_weights.exp(), q[..., :1])
        mean, scale = _pick(self.mean, component), _pick(self.scale, component)
        ends = self.low[..., 0], self.high[..., 0]
        return _truncated_quantile(q[..., 1], mean, scale, *ends), component

    def sample(self, *, generator=None) -> torch.Tensor:
        """Draw log-fluxes, tensor ``(...,)``."""
        return self.quantile_draw(_rand(self.mean[..., 0], generator, 2))

    def mode(self) -> torch.Tensor:
        """Centre of the highest component, clipped to the range."""
        best = (self.log_weights - torch.log(self.scale)).argmax(-1)
        return _pick(self.mean, best).clamp(self.low[..., 0], self.high[..., 0])
