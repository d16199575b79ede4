# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A distribution over several numbers at once: a mixture of correlated normals.
"""

import math

import torch

__all__ = ['MixtureFactor']

# Range of the logarithm of a component's inverse scale.
_SHARPEST, _WIDEST = 6.0, -2.0


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
            What means are relative to, in units of the scale.

        log_scale : float or tensor ``(..., D)``, optional
            Logarithm of the scale of each number.
        """
        n = n_dimensions
        raw = raw.unflatten(-1, (-1, 1 + n + n * (n + 1) // 2))
        logits, shift, diagonal, rest = raw.split([1, n, n, n * (n - 1) // 2], -1)
        scale = torch.as_tensor(log_scale).to(raw).exp()
        # Broadcast over components.
        scale = scale[..., None, :] if scale.dim() else scale
        centre = torch.as_tensor(mean).to(raw)
        centre = centre[..., None, :] if centre.dim() else centre
        # The first is the narrowest, each further one wider by a factor of e.
        wider = torch.arange(raw.shape[-2], device=raw.device)[:, None]
        factor = torch.diag_embed(_bounded(diagonal - wider).exp())
        row, column = torch.tril_indices(n, n, -1, device=raw.device)
        factor[..., row, column] = rest
        spread = torch.linspace(-0.5, 0.5, raw.shape[-2], device=raw.device)
        shift = shift + spread[:, None]
        # In units of the scale the columns of the factor shrink.
        inverse = (1 / scale).expand(shift.shape)
        return cls(
            logits[..., 0], centre + scale * shift, factor * inverse[..., None, :]
        )

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
        cumulative = self.log_weights.exp().cumsum(-1)[..., :-1]
        component = (q[..., :1] > cumulative).sum(-1)
        index = component[..., None, None]
        n = self.mean.shape[-1]
        mean = self.mean.gather(-2, index.expand(*index.shape[:-1], n))[..., 0, :]
        index = index[..., None].expand(*index.shape[:-2], 1, n, n)
        factor = self.factor.gather(-3, index)[..., 0, :, :]
        unit = torch.special.ndtri(q[..., 1:].clamp(1e-6, 1 - 1e-6))
        step = torch.linalg.solve_triangular(factor, unit[..., None], upper=False)
        return mean + step[..., 0]

    def sample(self, *, generator=None) -> torch.Tensor:
        """Draw values, tensor ``(..., D)``."""
        shape = (*self.mean.shape[:-2], 1 + self.mean.shape[-1])
        q = torch.rand(shape, generator=generator, device=self.mean.device)
        return self.quantile_draw(q)
