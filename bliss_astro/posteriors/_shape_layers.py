# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Shapes of galaxies: vectors without bounds, their distribution, and its layers.

A normal distribution suits numbers without bounds, and an angle or an
axis ratio has some.  Ellipticity takes the form of the vector

.. math::

    \eta\,(\cos 2\phi, \sin 2\phi), \qquad \eta = -\ln q ,

which has no edge where a galaxy is round and no seam where its angle
passes from 180 degrees to 0.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ._factors import SOURCE_WIDTH, draw_component

# Components of the distributions of shape, ellipticity and further parameters.
_N_SHAPES, _N_ELLIPTICITIES, _N_FURTHER = 4, 3, 3
# Number of features of an ellipse's fit (`ellipse_features`).
N_ELLIPSE = 9
# Inputs of the layers from a fit.
SHAPE_INPUTS = ('ellipse', 'ellipse_flux', 'vector', 'vector_error')
# Range of the logarithm of a component's inverse scale.
_SHARPEST, _WIDEST = 6.0, -2.0
N_SHAPE = 6
# Axis ratios and fractions are kept off their ends, where vectors are infinite.
_EDGE = 1e-3
# Typical values and widths of (disk fraction, eta in x, in y, bulge's axis
# ratio, radii), so that all numbers are of order one.
_CENTRE = (0.0, 0.0, 0.0, 0.0, 1.3, 0.7)
_WIDTH = (1.8, 0.9, 0.9, 1.8, 0.8, 0.9)
# Range of radii in pixels.
_RADII = (0.02, 400.0)


def last_layer(n_inputs, n_outputs):
    """A linear layer whose outputs begin near zero."""
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def hidden_layers(n_inputs, width, n_outputs):
    """Two layers, each followed by a SiLU."""
    first, second = nn.Linear(n_inputs, width), nn.Linear(width, n_outputs)
    return nn.Sequential(first, nn.SiLU(), second, nn.SiLU())


def output_layers(n_inputs, width, n_outputs):
    """A hidden layer and one whose outputs begin near zero."""
    first, last = nn.Linear(n_inputs, width), last_layer(width, n_outputs)
    return nn.Sequential(first, nn.SiLU(), last)


def shared_part(layers, shared):
    """First layer of those inputs that many have in common."""
    weight = layers[0].weight[:, : shared.shape[-1]]
    return F.linear(shared, weight, layers[0].bias)


def apply_layers(layers, hidden, own):
    """Layers of inputs in two parts, of which one is that of `shared_part`."""
    first, *others = layers
    hidden = hidden + F.linear(own, first.weight[:, -own.shape[-1] :])
    for layer in others:
        hidden = layer(hidden)
    return hidden


def shape_to_vector(galaxy: torch.Tensor) -> torch.Tensor:
    """
    Six physical numbers as six without bounds.

    Parameters
    ----------
    galaxy : tensor ``(..., 6)``
        In the order of ``GALAXY_SHAPE_NAMES``; radii in pixels.

    Returns
    -------
    vector : tensor ``(..., 6)``
        Logit of the disk fraction, the disk's ellipticity vector, the logit of the
        bulge's axis ratio, and the logarithms of the radii, all scaled to
        order one.
    """
    fraction, angle, q_disk, q_bulge, disk, bulge = galaxy.unbind(-1)
    eta = -torch.log(q_disk.clamp(_EDGE, 1.0))
    parts = [
        torch.logit(fraction.clamp(_EDGE, 1 - _EDGE)),
        eta * torch.cos(2 * angle),
        eta * torch.sin(2 * angle),
        torch.logit(q_bulge.clamp(_EDGE, 1 - _EDGE)),
        torch.log(disk.clamp(*_RADII)),
        torch.log(bulge.clamp(*_RADII)),
    ]
    centre, width = galaxy.new_tensor((_CENTRE, _WIDTH))
    return (torch.stack(parts, -1) - centre) / width


def vector_to_shape(vector: torch.Tensor) -> torch.Tensor:
    """The inverse of `shape_to_vector`; angles in [0, pi)."""
    centre, width = vector.new_tensor((_CENTRE, _WIDTH))
    fraction, ex, ey, q_bulge, disk, bulge = (vector * width + centre).unbind(-1)
    low, high = (math.log(v) for v in _RADII)
    parts = [
        torch.sigmoid(fraction),
        torch.remainder(0.5 * torch.atan2(ey, ex), math.pi),
        torch.exp(-torch.hypot(ex, ey)).clamp(min=_EDGE),
        torch.sigmoid(q_bulge).clamp(min=_EDGE),
        disk.clamp(low, high).exp(),
        bulge.clamp(low, high).exp(),
    ]
    return torch.stack(parts, -1)


def ellipticity_to_vector(e1: torch.Tensor, e2: torch.Tensor) -> torch.Tensor:
    """Distortions ``(1 - q^2) / (1 + q^2)`` as vectors of length ``-ln q``."""
    size = torch.hypot(e1, e2).clamp(1e-6, 0.999)
    ratio = torch.atanh(size) / size
    return torch.stack([e1 * ratio, e2 * ratio], -1)


def vector_to_ellipticity(vector: torch.Tensor) -> torch.Tensor:
    """The inverse of `ellipticity_to_vector`, tensor ``(..., 2)``."""
    eta = vector.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return vector * torch.tanh(eta) / eta


def _bounded(value):
    # The identity near zero, smooth everywhere, within the range.
    middle, half = 0.5 * (_SHARPEST + _WIDEST), 0.5 * (_SHARPEST - _WIDEST)
    return middle + half * torch.tanh((value - middle) / half)


class MixtureFactor:
    """
    Mixture of multivariate normal distributions over D real numbers.

    Each component has a full covariance, held as the triangular factor P of its
    inverse: ``P (value - mean)`` is a standard normal vector.

    Parameters
    ----------
    logits : tensor ``(..., M)``
        Un-normalised log-weights.

    mean : tensor ``(..., M, D)``
        Means.

    factor : tensor ``(..., M, D, D)``
        The lower triangular factors with a positive diagonal.
    """

    def __init__(self, logits, mean, factor):
        self.log_weights = torch.log_softmax(logits, -1)
        self.mean, self.factor = mean, factor

    @staticmethod
    def n_raw(n_dimensions: int, n_components: int) -> int:
        """How many numbers of a network `from_raw` takes."""
        n = n_dimensions
        return n_components * (1 + n + n * (n + 1) // 2)

    @classmethod
    def from_raw(cls, raw, n_dimensions, *, mean=0.0, log_scale=0.0):
        """
        Make a mixture of the output of a network.

        Parameters
        ----------
        raw : tensor ``(..., n_raw)``
            Any numbers.

        n_dimensions : int
            Number D of dimensions.

        mean : float or tensor ``(..., D)``, optional
            Origin of the means, in units of the scale.

        log_scale : float or tensor ``(..., D)``, optional
            Logarithm of the scale of each number.
        """
        n = n_dimensions
        raw = raw.unflatten(-1, (-1, 1 + n + n * (n + 1) // 2))
        logits, shift, diagonal, rest = raw.split([1, n, n, n * (n - 1) // 2], -1)
        # Numbers of all components: with an axis for these.
        centre, scale = (torch.as_tensor(v).to(raw) for v in (mean, log_scale))
        centre, scale = (v[..., None, :] if v.dim() else v for v in (centre, scale))
        scale = scale.exp()
        # The first is the narrowest, each further one wider by a factor of e.
        wider = torch.arange(raw.shape[-2], device=raw.device)[:, None]
        factor = torch.diag_embed(_bounded(diagonal - wider).exp())
        row, column = torch.tril_indices(n, n, -1, device=raw.device)
        factor[..., row, column] = rest
        spread = torch.linspace(-0.5, 0.5, raw.shape[-2], device=raw.device)
        mean = centre + scale * (shift + spread[:, None])
        # In units of the scale the columns of the factor shrink.
        inverse = (1 / scale).expand(shift.shape)
        return cls(logits[..., 0], mean, factor * inverse[..., None, :])

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density at values ``(..., D)``."""
        apart = value[..., None, :] - self.mean
        unit = (self.factor @ apart[..., None])[..., 0]
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * value.shape[-1] * math.log(2 * math.pi)
        parts = log_det - constant - 0.5 * unit.square().sum(-1)
        return torch.logsumexp(self.log_weights + parts, -1)

    def quantile_draw(self, q: torch.Tensor) -> torch.Tensor:
        """
        Values from uniform numbers.

        Parameters
        ----------
        q : tensor ``(..., 1 + D)``
            For the component and for each number, within (0, 1).

        Returns
        -------
        value : tensor ``(..., D)``
            Draws.
        """
        component = draw_component(self.log_weights.exp(), q[..., :1])
        index = component[..., None, None]
        mean = torch.take_along_dim(self.mean, index, -2)[..., 0, :]
        factor = torch.take_along_dim(self.factor, index[..., None], -3)[..., 0, :, :]
        unit = torch.special.ndtri(q[..., 1:].clamp(1e-6, 1 - 1e-6))
        step = torch.linalg.solve_triangular(factor, unit[..., None], upper=False)
        return mean + step[..., 0]

    def mode(self) -> torch.Tensor:
        """Mean of the component that is highest there, tensor ``(..., D)``."""
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        best = (self.log_weights + log_det).argmax(-1)
        return torch.take_along_dim(self.mean, best[..., None, None], -2)[..., 0, :]

    def sample(self, *, generator=None) -> torch.Tensor:
        """Draw values, tensor ``(..., D)``."""
        shape = (*self.mean.shape[:-2], 1 + self.mean.shape[-1])
        q = torch.rand(shape, generator=generator, device=self.mean.device)
        return self.quantile_draw(q)


class ShapeLayers(nn.Module):
    """
    From features of a galaxy to the distributions of its shape.

    Parameters
    ----------
    n_features : int
        Numbers that describe the galaxy.

    width : int, optional
        Width of the hidden layers.

    latent_dim : int, optional
        If not 0, shapes are points in that many dimensions of a learned galaxy
        model's latent space, rather than a bulge and a disk.
    """

    def __init__(self, n_features, *, width=SOURCE_WIDTH, latent_dim=0):
        super().__init__()
        self.latent_dim = latent_dim
        self.n_shape = latent_dim or N_SHAPE
        self.hidden = hidden_layers(n_features + N_ELLIPSE + 2, width, width)
        self.shape = last_layer(width, MixtureFactor.n_raw(self.n_shape, _N_SHAPES))
        self.ellipticity = last_layer(width, MixtureFactor.n_raw(2, _N_ELLIPTICITIES))

    def forward(self, features, fit, log_flux):
        """
        Distributions of the shape and of the ellipticity of N galaxies.

        Where there are several fluxes of each, ``(N, P)``, all else is ``(N, 1, ...)``.
        """
        excess = torch.asinh((log_flux - fit['ellipse_flux']) / 0.1) / 3
        own = torch.stack([log_flux / 4, excess], -1)
        hidden = shared_part(self.hidden, torch.cat([features, fit['ellipse']], -1))
        hidden = apply_layers(self.hidden, hidden, own)
        shape = MixtureFactor.from_raw(self.shape(hidden), self.n_shape)
        scale = torch.log(fit['vector_error'] + 0.05)[..., None]
        around = {'mean': fit['vector'], 'log_scale': scale.expand_as(fit['vector'])}
        return shape, MixtureFactor.from_raw(self.ellipticity(hidden), 2, **around)


class ParameterLayers(nn.Module):
    """
    From features of a source to the distribution of a further parameter.

    Parameters
    ----------
    n_features, n_context, dim : int
        Numbers that describe the source, numbers of the parameters on which this one
        depends, and its own.
    """

    def __init__(self, n_features, n_context, dim):
        super().__init__()
        self.dim = dim
        n_raw = MixtureFactor.n_raw(dim, _N_FURTHER)
        self.layers = output_layers(n_features + n_context, SOURCE_WIDTH, n_raw)

    def forward(self, features, context):
        """Mixtures for features ``(..., n_features)`` and a list of context."""
        shape = torch.broadcast_shapes(*(v.shape[:-1] for v in (features, *context)))
        parts = [v.expand(*shape, -1) for v in (features, *context)]
        return MixtureFactor.from_raw(self.layers(torch.cat(parts, -1)), self.dim)
