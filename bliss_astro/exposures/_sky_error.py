# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Error of a sky level that was measured on the image itself.
"""

import numpy as np

from ._sky import find_covered, noise_of_smoothed

__all__ = ['estimate_background_error']

# Side of the cells that show structure, and of those of the mesh, in pixels.
_CELL, _MESH = 32, 64
# Share of a cell's pixels without sources below which its mean shows nothing.
_LEAST_BLANK = 0.2
# Error of a mesh over that of one of its cells: a median of three by three cells and
# the bias by peaks of noise that are taken for sources.
_MESH_FACTOR = 0.7
# Bias by faint sources and wings of bright ones, in units of the noise, over the
# square of the optical depth of the sources that are seen, as simulated fields of
# stars and galaxies have it; the largest depth that a cell can show.
_CONFUSION, _MOST_DEPTH = 0.042, 3.0
# The range of the errors that networks were trained with.
_LEAST, _MOST = 0.001, 0.3


def estimate_background_error(exposure):
    """
    Estimate the error of a sky level from a mesh, in units of the noise.

    Three parts are added in quadrature: the noise of the cells of the mesh;
    structure that the mesh does not follow, from the means of smaller cells; and
    confusion, by the share of pixels that sources cover.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        With background, noise and its correlation.

    Returns
    -------
    error : float
        Standard deviation of the background in units of ``bkg_error``, within
        0.001 and 0.3.
    """
    good = ~exposure.mask
    pull = (exposure.data - exposure.background) / exposure.bkg_error
    # No number is too large for single precision.
    pull = np.clip(np.where(good, pull, 0), -1e30, 1e30).astype(np.float32)
    correlation = exposure.noise_correlation
    covered = find_covered(pull, 1.0, ~good, correlation=correlation)
    blank = good & ~covered
    # Variance of a mean over that of as many independent pixels.
    x, y = np.clip(correlation, 0, None)
    wider = (1 + 2 * x) * (1 + 2 * y)
    n_good, n_blank = (_cell_sums(v, _CELL) for v in (good, blank))
    share = n_blank / np.maximum(n_good, 1)
    seen = n_good > 0.5 * n_good.max()
    depth = -np.log(np.maximum(share[seen], np.exp(-_MOST_DEPTH)))
    confusion = _CONFUSION * np.sqrt(np.mean(depth**4))
    # Correlated noise hides brighter sources.
    confusion *= noise_of_smoothed(correlation) / noise_of_smoothed((0.0, 0.0))
    usable = seen & (share > _LEAST_BLANK)
    structure = 0.0
    if usable.any():
        mean = _cell_sums(pull * blank, _CELL)[usable] / n_blank[usable]
        noise = np.mean(wider / n_blank[usable])
        noise *= 1 + np.sqrt(2 / np.count_nonzero(usable))
        structure = np.sqrt(max(float(np.mean(np.square(mean))) - noise, 0.0))
    in_mesh = _cell_sums(blank, _MESH)
    cells = _MESH_FACTOR * np.sqrt(wider / max(float(np.median(in_mesh)), 1.0))
    total = float(np.sqrt(cells**2 + structure**2 + confusion**2))
    return float(np.clip(total, _LEAST, _MOST))


def _cell_sums(values, side):
    """Sums over whole cells of an image; of the image where it is smaller."""
    box = [min(side, n) for n in values.shape]
    ny, nx = (n // b * b for n, b in zip(values.shape, box, strict=True))
    cells = values[:ny, :nx].reshape(ny // box[0], box[0], nx // box[1], box[1])
    return cells.sum(axis=(1, 3), dtype=float)
