# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a galaxy is, and which ones cannot be drawn.
"""

import numpy as np
import torch

from ._accuracy import RenderingAccuracy, extent_of, narrowest_sigma

__all__ = ['GALAXY_SHAPE_NAMES', 'check_galaxies']

GALAXY_SHAPE_NAMES = (
    'disk_fraction',
    'angle',
    'disk_axis_ratio',
    'bulge_axis_ratio',
    'disk_radius',
    'bulge_radius',
)

_ALLOWED = {
    'disk_fraction': ('in [0, 1]', lambda v: (v >= 0) & (v <= 1)),
    'angle': ('finite', np.isfinite),
    'disk_axis_ratio': ('in (0, 1]', lambda v: (v > 0) & (v <= 1)),
    'bulge_axis_ratio': ('in (0, 1]', lambda v: (v > 0) & (v <= 1)),
    'disk_radius': ('finite and > 0', lambda v: np.isfinite(v) & (v > 0)),
    'bulge_radius': ('finite and > 0', lambda v: np.isfinite(v) & (v > 0)),
}


def check_galaxies(galaxy, *, psf=None, accuracy=None):
    """
    Refuse galaxies that do not exist or that cannot be drawn.

    Parameters
    ----------
    galaxy : array_like ``(..., 6)``
        Shapes in the order of ``GALAXY_SHAPE_NAMES``; radii in pixels.

    psf : array_like ``(8,)`` or ``(..., 8)``, optional
        Shape parameters of the PSF, in the order of
        `bliss_astro.psf.SHAPE_NAMES`; its width is checked too.

    accuracy : `RenderingAccuracy`, optional
        What the stamps and the grid hold; only used with ``psf``.

    Returns
    -------
    galaxy : `~numpy.ndarray` ``(..., 6)``
        In double precision.

    Raises
    ------
    ValueError
        If a number is missing or not in its range, if a galaxy is larger than
        the largest stamp, or if the PSF is too narrow for the grid.

    Examples
    --------
    >>> from bliss_astro.rendering import check_galaxies
    >>> check_galaxies([0.5, 0.1, 0.7, 1.2, 3.0, 1.0])
    Traceback (most recent call last):
        ...
    ValueError: bulge_axis_ratio must be in (0, 1], got 1.2
    """
    galaxy = np.asarray(galaxy, dtype=float)
    if galaxy.ndim == 0 or galaxy.shape[-1] != len(GALAXY_SHAPE_NAMES):
        msg = (
            f'galaxy must have {len(GALAXY_SHAPE_NAMES)} numbers in its last axis '
            f'({", ".join(GALAXY_SHAPE_NAMES)}), got shape {galaxy.shape}'
        )
        raise ValueError(msg)
    for k, name in enumerate(GALAXY_SHAPE_NAMES):
        allowed, test = _ALLOWED[name]
        bad = ~test(galaxy[..., k])
        if np.any(bad):
            value = galaxy[..., k][bad].flat[0]
            msg = f'{name} must be {allowed}, got {value:g}'
            raise ValueError(msg)
    if psf is not None:
        _check_fits(galaxy, psf, RenderingAccuracy() if accuracy is None else accuracy)
    return galaxy


def _check_fits(galaxy, psf, accuracy):
    """
    Compare the PSF with the grid and the galaxies with the largest stamp.
    """
    psf = torch.as_tensor(np.asarray(psf, dtype=float))
    narrow = narrowest_sigma(psf)
    # Single precision may have rounded a width that is just allowed.
    if bool((narrow < accuracy.min_sigma * (1 - 1e-4)).any()):
        msg = (
            f'psf must have a core of sigma >= {accuracy.min_sigma:.3g} pixels along '
            f'its minor axis, got {float(narrow.min()):.3g}: a narrower one is not '
            'resolved by the grid (see max_folds of RenderingAccuracy)'
        )
        raise ValueError(msg)
    extent = extent_of(torch.as_tensor(galaxy), psf, accuracy).numpy()
    largest = accuracy.sizes[-1]
    if np.any(2 * extent > largest):
        worst = galaxy[..., 4:].reshape(-1, 2)[np.argmax(extent)]
        msg = (
            'disk_radius and bulge_radius must fit into the largest stamp of '
            f'{largest} pixels (sizes of RenderingAccuracy), got {worst[0]:g} and '
            f'{worst[1]:g}, which need {2 * extent.max():.0f} pixels'
        )
        raise ValueError(msg)
