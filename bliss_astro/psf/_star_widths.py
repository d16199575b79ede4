# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Each star's own size and ellipticity beside those of a joint fit.
"""

import numpy as np

from ._engine import _linearise

__all__ = []

# Entries of theta that a star may have for itself: log size and ellipticity.
_OWN = [0, 6, 7]


def own_shapes(fit, stamps, weights):
    """
    Estimate log size and ellipticity of each star relative to the joint fit.

    One linear step from the joint fit, with flux, position and background of
    the star free.

    Returns
    -------
    offsets, errors : (n, 3) array
        Of log size, e1 and e2; an error is infinite where nothing is known.
    """
    residual, shared, local = _linearise(fit, stamps, weights, with_background=True)
    own = shared[..., _OWN]
    own_t, local_t = own.transpose(0, 2, 1), local.transpose(0, 2, 1)
    cross, square = own_t @ local, local_t @ local
    width = np.square(np.broadcast_to(fit.background_width, len(stamps)))
    square[:, 3, 3] += 1 / width
    scale = np.sqrt(np.einsum('kii->ki', square)) + 1e-300
    square = square / scale[:, :, None] / scale[:, None, :]
    square += 1e-9 * np.eye(4)
    cross = cross / scale[:, None, :]
    pull = (local_t @ residual[..., None])[..., 0]
    pull[:, 3] -= fit.local[:, 3] / width
    solved = np.linalg.solve(square, cross.transpose(0, 2, 1))
    matrix = own_t @ own - cross @ solved
    right = (own_t @ residual[..., None])[..., 0]
    right -= np.einsum('kli,kl->ki', solved, pull / scale)
    size = np.einsum('kii->ki', matrix)
    known = size > 1e-12 * max(float(size.max()), 1e-300)
    size = np.where(known, size, 1.0)
    root = np.sqrt(size)
    even = matrix / root[:, :, None] / root[:, None, :] + 1e-6 * np.eye(3)
    inverse = np.linalg.inv(np.where(known.all(1)[:, None, None], even, np.eye(3)))
    offsets = np.einsum('kij,kj->ki', inverse, right / root) / root
    errors = np.sqrt(np.einsum('kii->ki', inverse)) / root
    bad = ~known.all(1)
    offsets[bad], errors[bad] = 0.0, np.inf
    return offsets, errors


def excess_scatter(values, errors):
    """
    Robust scatter beyond the errors, and how many sigma it differs from none.
    """
    good = np.isfinite(errors)
    values, errors = values[good], errors[good]
    n = len(values)
    if n < 3:
        return 0.0, 0.0
    pull = (values - np.median(values)) / errors
    # Of a Gaussian: the median of the squares is 0.455, and its relative error
    # that of the sample's variance times 1.6.
    ratio = np.median(np.square(pull)) / 0.455 * n / (n - 1)
    significance = (ratio - 1) / (1.6 * np.sqrt(2 / n))
    low, high = 0.0, 10 * float(np.max(np.abs(values)) + np.max(errors))
    for _ in range(50):
        middle = 0.5 * (low + high)
        wide = np.square(values - np.median(values)) / (errors**2 + middle**2)
        if np.median(wide) / 0.455 * n / (n - 1) > 1:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high) if ratio > 1 else 0.0, float(significance)
