# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fits of `PSFModel` to PSFs that can be drawn anywhere between pixels.
"""

import numpy as np

from ._engine import StampFit, minimise, to_theta
from ._profile import integral, profile
from ._wings import LOOSE_MEAN, LOOSE_WIDTH, typical_shape

__all__ = []

# Places within a pixel at which a PSF is drawn: one alone leaves the core of a
# PSF of two pixels open.
PHASES = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
# Uniform error of the drawings in units of the peak: rings are beyond the model
# and must not spoil the core.
_ERROR = 1e-3
_FIRST_STEPS, _NEXT_STEPS, _TOLERANCE = 30, 6, 1e-5


def fit_phases(stamps, *, radius, start=None):
    """
    Fit one shape to drawings of one PSF at the places of `PHASES`.

    Parameters
    ----------
    stamps : (n, side, side) array
        The drawings, of the same flux; their centre plus the phase is the place.

    radius : float
        Normalisation radius in pixels.

    start : (8,) array, optional
        Shape vector to begin with, such as that of a place nearby.

    Returns
    -------
    fit : `~bliss_astro.psf._engine.StampFit`
        The fit; `fit_residual` is how well it describes the drawings.
    """
    stamps = np.asarray(stamps, float)
    height = float(stamps.max())
    stamps = stamps / height
    half = (stamps.shape[1] - 1) / 2
    if start is None:
        # The area above half of the maximum tells the width.
        fwhm = 2 * np.sqrt(np.mean((stamps > 0.5).sum((1, 2))) / np.pi)
        shape = typical_shape(max(fwhm, 1.2))
    else:
        shape = np.asarray(start, float)
    fit = StampFit(
        to_theta(shape),
        np.zeros((len(stamps), 4)),
        prior_mean=LOOSE_MEAN,
        prior_width=LOOSE_WIDTH,
        radius=radius,
        wings=True,
    )
    fit.local[:, 0] = integral(shape, radius) / profile(0.0, shape)
    fit.local[:, 1:3] = half + np.array(PHASES[: len(stamps)])
    weights = np.full(stamps.shape, 1 / _ERROR)
    minimise(
        fit,
        stamps,
        weights,
        with_background=False,
        max_steps=_FIRST_STEPS if start is None else _NEXT_STEPS,
        tolerance=_TOLERANCE,
    )
    return fit


def fit_residual(fit, stamps):
    """
    Return the rms residual of drawings in units of their peak.
    """
    stamps = np.asarray(stamps, float) / np.max(stamps)
    return float(np.sqrt(np.mean(np.square(stamps - fit.model(stamps.shape[1:])))))
