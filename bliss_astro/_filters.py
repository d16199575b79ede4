# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Filters of images: Gaussians by products with bands of a matrix, maxima, sums of cells.
"""

import functools
import itertools

import numpy as np
import torch

from bliss_astro._threads import map_threads

# Width of a band in pixels along y and x: smaller ones cost more calls, which are slow
# along x, and larger ones more products.
_BANDS = 16, 64
# Rows that are filtered along both axes while a processor's cache has them.
_ROWS = 256


def smooth(image, sigma, *, reflect=True, truncate=4):
    """
    Filter images ``(..., ny, nx)`` with a Gaussian of a standard deviation in pixels.

    As `scipy.ndimage.gaussian_filter` of each, in single precision and a third of its
    time on large images. Beyond its edges an image is mirrored, or zero, and the filter
    ends at some standard deviations.
    """
    image = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    whole = torch.empty_like(image)
    reach = int(truncate * sigma + 0.5)
    rows, columns = (
        _bands(n, width, float(sigma), reach, reflect)
        for n, width in zip(image.shape[-2:], _BANDS, strict=True)
    )

    def fill(some):
        own = slice(some[0][0].start, some[-1][0].stop)
        half = torch.empty_like(image[..., own, :])
        for place, near, weights in some:
            part = half[..., place.start - own.start : place.stop - own.start, :]
            torch.matmul(weights, image[..., near, :], out=part)
        for place, near, weights in columns:
            whole[..., own, place] = half[..., near] @ weights.T

    step = _ROWS // _BANDS[0]
    map_threads(fill, [rows[k : k + step] for k in range(0, len(rows), step)])
    return whole.numpy()


def box_mean(image, side):
    """Means of squares around each pixel; beyond the edges its nearest one counts."""
    sums = np.pad(image, side // 2, mode='edge')
    # By whole arrays, in a fifth of the time of `scipy.ndimage.uniform_filter`.
    for _ in range(2):
        n = len(sums) - side + 1
        total = sums[:n] + sums[1 : n + 1]
        for k in range(2, side):
            total += sums[k : n + k]
        sums = total.T
    return sums / side**2


def row_blocks(n, halo, size=_ROWS):
    """Slices of n rows in blocks, each with rows around, within those, and alone."""
    for first in range(0, n, size):
        own = slice(first, min(first + size, n))
        wide = slice(max(first - halo, 0), min(own.stop + halo, n))
        yield wide, slice(first - wide.start, own.stop - wide.start), own


def spans(n, k):
    """Slices of n in k nearly equal parts."""
    edges = np.linspace(0, n, k + 1).round().astype(int).tolist()
    return [slice(*ends) for ends in itertools.pairwise(edges)]


def local_maxima(image, threshold, reach):
    """Rows and columns of pixels above a threshold, and no lower than any in reach."""
    # Which is three times as fast as `numpy.nonzero` of two dimensions.
    rows, columns = np.divmod(np.flatnonzero(image > threshold), image.shape[1])
    # Next to them most that are no maxima have a higher one.
    for near in sorted({1, reach}):
        dy, dx = np.indices(2 * (2 * near + 1,)).reshape(2, -1) - near
        # A pixel beyond an edge is replaced by one between.
        y = (rows[:, None] + dy).clip(0, image.shape[0] - 1)
        x = (columns[:, None] + dx).clip(0, image.shape[1] - 1)
        highest = image[rows, columns] >= image[y, x].max(1, initial=-np.inf)
        rows, columns = rows[highest], columns[highest]
    return rows, columns


def sums_of_cells(values, starts):
    """Sums ``(rows, columns)`` over cells that begin at given rows and columns."""
    sums = np.add.reduceat(values, starts[1], axis=1, dtype=float)
    return np.add.reduceat(sums, starts[0], axis=0)


def spread_cells(values, starts, shape, chosen=slice(None)):
    """Values ``(rows, columns)`` of such cells at each pixel of an image's rows."""
    rows, columns = (np.diff([*k, n]) for k, n in zip(starts, shape, strict=True))
    # Rows last, whose copies are contiguous.
    return values.repeat(columns, 1)[np.arange(len(values)).repeat(rows)[chosen]]


# Images of one PSF share them: each takes some kilobytes.
@functools.lru_cache(64)
def _bands(n, width, sigma, reach, reflect):
    """Pieces of a line of n pixels, the pixels around each, and their weights."""
    known, bands = {}, []
    taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    taps = (taps / taps.sum()).astype(np.float32)
    size = n if n <= 2 * _BANDS[1] else width
    for first in range(0, n, size):
        last = min(first + size, n)
        low, high = max(first - reach, 0), min(last + reach, n)
        is_inner = first >= reach and last + reach <= n
        # Far from the edges all bands are alike.
        key = last - first if is_inner else first
        if (key, is_inner) not in known:
            own, near = np.arange(first, last)[:, None], np.arange(low, high)
            weights = _weights(own, near, n, taps, reflect and not is_inner)
            known[key, is_inner] = torch.from_numpy(weights)
        bands.append((slice(first, last), slice(low, high), known[key, is_inner]))
    return bands


def _weights(own, near, n, taps, reflect):
    """Weights of pixels for others, with those of their mirror images on request."""
    reach = len(taps) // 2
    apart = [own - near]
    if reflect:
        # A line is mirrored as often as the filter reaches beyond it.
        turns = [2 * n * k for k in range((reach + n - 1) // (2 * n) + 1)]
        apart += [own - near + sign * turn for turn in turns[1:] for sign in (1, -1)]
        apart += [own + near + 1 + turn for turn in turns]
        apart += [own + near + 1 - 2 * n - turn for turn in turns]
    # Beyond the taps there is nothing.
    taps = np.concatenate([[0], taps, [0]], dtype=np.float32)
    return sum(taps[(step + reach + 1).clip(0, 2 * reach + 2)] for step in apart)
