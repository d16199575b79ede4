# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Shapes of galaxies as numbers without bounds.

A normal distribution suits numbers that may be anything, and an angle or an
axis ratio may not.  Ellipticity takes the form of the vector

.. math::

    \\eta\\,(\\cos 2\\phi, \\sin 2\\phi), \\qquad \\eta = -\\ln q ,

which has no edge where a galaxy is round and no seam where its angle
passes from 180 degrees to 0.
"""

import math

import torch

__all__ = [
    'N_SHAPE',
    'ellipticity_to_vector',
    'shape_to_vector',
    'vector_to_ellipticity',
    'vector_to_shape',
]

N_SHAPE = 6
# Axis ratios and fractions are kept off their ends, where vectors are infinite.
_EDGE = 1e-3
# Typical values and widths of (disk fraction, eta in x, in y, bulge's axis
# ratio, radii), so that all numbers are of order one.
_CENTRE = (0.0, 0.0, 0.0, 0.0, 1.3, 0.7)
_WIDTH = (1.8, 0.9, 0.9, 1.8, 0.8, 0.9)
# Radii in pixels beyond which nothing is told apart.
_RADII = (0.02, 400.0)


def _constants(like):
    return like.new_tensor(_CENTRE), like.new_tensor(_WIDTH)


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
    centre, width = _constants(galaxy)
    return (torch.stack(parts, -1) - centre) / width


def vector_to_shape(vector: torch.Tensor) -> torch.Tensor:
    """The inverse of `shape_to_vector`; angles in [0, pi)."""
    centre, width = _constants(vector)
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
    """
    Distortions ``(1 - q^2) / (1 + q^2)`` as vectors of length ``-ln q``.

    Returns a tensor ``(..., 2)``.
    """
    size = torch.hypot(e1, e2).clamp(1e-6, 0.999)
    ratio = torch.atanh(size) / size
    return torch.stack([e1 * ratio, e2 * ratio], -1)


def vector_to_ellipticity(vector: torch.Tensor) -> torch.Tensor:
    """The inverse of `ellipticity_to_vector`, tensor ``(..., 2)``."""
    eta = vector.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return vector * torch.tanh(eta) / eta
