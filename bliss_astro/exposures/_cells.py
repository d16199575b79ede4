# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Clipped modes or means of the cells of a mesh.
"""

import math

import numpy as np
import torch
from astropy.nddata import reshape_as_blocks

# Deviation from the median, in standard deviations, beyond which pixels are clipped,
# and rounds of that.
_CLIP_SIGMA, _N_CLIPS = 3.0, 10
# Share of good pixels up to which a cell is left out.
_MIN_GOOD_SHARE = 0.1
# A mode is estimated where mean and median differ by less, in standard deviations.
_MODE_SIGMA = 0.3
# Values whose squares single precision holds.
_FARTHEST = 1e15


def cells_of(image, bad, box, *, mode):
    """
    Clipped modes (of SExtractor) or means of the cells of an image, and their scatter.

    Array ``(2, rows, columns)``, NaN of cells with few good pixels. As photutils'
    ``Background2D`` in a fifth of its time: of sorted pixels the clipped ones are ends.
    """
    image = np.where(bad, np.inf, image.clip(-_FARTHEST, _FARTHEST))
    beyond = [(0, -n % side) for n, side in zip(image.shape, box, strict=True)]
    # What is bad is sorted to the end, and a last column ends the last cell.
    cells = reshape_as_blocks(np.pad(image, beyond, constant_values=np.inf), box)
    shape, n_pixels = cells.shape[:2], math.prod(box)
    values = np.full((math.prod(shape), n_pixels + 1), np.inf, np.float32)
    values[:, :-1] = cells.reshape(len(values), n_pixels)
    *found, n_good = _clipped(values, mode)
    few = n_good <= _MIN_GOOD_SHARE * n_pixels
    return np.where(few, np.nan, found).astype(np.float32).reshape(2, *shape)


def _clipped(values, mode):
    """Modes or means, scatter and numbers of clipped pixels of cells ``(N, P)``."""
    values.sort(axis=1)
    first = np.arange(len(values)) * values.shape[1]
    low, high = np.zeros_like(first), np.isfinite(values).sum(1)

    def middle_of():
        last = (high - low).clip(1) - 1
        pair = [values.flat[first + low + k] for k in (last // 2, last - last // 2)]
        return np.where(high > 0, 0.5 * np.add(*pair, dtype=float), 0)

    # From the median on, single precision suffices for sums of squares.
    start = middle_of().astype(np.float32)
    values -= start[:, None]
    squares, ordered = np.square(values), torch.from_numpy(values)
    for _ in range(_N_CLIPS + 1):
        n = high - low
        ends = np.stack([first + low, first + high], 1).ravel()
        mean, square = (
            np.where(n > 0, np.add.reduceat(v.ravel(), ends)[::2], 0) / n.clip(1)
            for v in (values, squares)
        )
        scatter, middle = np.sqrt(np.maximum(square - mean**2, 0)), middle_of()
        reach = _CLIP_SIGMA * scatter
        before = low, high
        low, high = (
            torch.searchsorted(
                ordered, torch.from_numpy(limit[:, None]).float(), **own
            ).numpy()[:, 0]
            for limit, own in ((middle - reach, {}), (middle + reach, {'right': True}))
        )
        if np.array_equal(before, (low, high)):
            break
    low, high = before
    if mode:
        usual = np.abs(mean - middle) < _MODE_SIGMA * scatter
        mean = np.where(
            usual, 2.5 * middle - 1.5 * mean, np.where(scatter > 0, middle, mean)
        )
    return mean + start, scatter, high - low
