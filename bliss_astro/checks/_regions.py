# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Regions of an image: labels of pixels, and chi-square and offset of each region.
"""

import numpy as np
from scipy.special import gammaincc

from bliss_astro.exposures._noise import lagged_views

__all__ = ['block_slices', 'cell_statistics', 'cells_of']


def block_slices(shape, n_blocks):
    """Slices of equal parts along each axis of an image."""
    return [
        [slice(n * k // number, n * (k + 1) // number) for k in range(number)]
        for n, number in zip(shape, n_blocks, strict=True)
    ]


def cells_of(regions, shape):
    """
    Turn regions into labels of pixels.

    Parameters
    ----------
    regions : None, int, pair of int or 2D int array
        See `~bliss_astro.catalog.ProbabilisticCatalog.check`.

    shape : tuple of int
        ``(ny, nx)``.

    Returns
    -------
    labels : int `~numpy.ndarray`, shape (ny, nx)
        Number of each pixel's region; negative for none.

    grid : tuple of int or None
        Rows and columns of a grid of cells.
    """
    ny, nx = shape
    if isinstance(regions, np.ndarray) and regions.ndim == 2:
        if regions.shape != tuple(shape) or regions.dtype.kind not in 'iu':
            msg = (
                f'regions must be a map of whole numbers of shape {tuple(shape)}, got '
                f'{regions.dtype} of shape {regions.shape}'
            )
            raise ValueError(msg)
        if regions.max() < 0:
            msg = (
                'regions must hold a region, a number that is not negative, got '
                f'numbers up to {regions.max()}'
            )
            raise ValueError(msg)
        return regions.astype(np.int64), None
    if regions is None:
        regions = int(np.clip(min(shape) // 8, 24, 64))
    wrong = isinstance(regions, bool)
    if not wrong and isinstance(regions, int | np.integer):
        rows, columns = (
            max(1, round(n / regions)) if regions > 0 else 0 for n in shape
        )
    elif not wrong and isinstance(regions, tuple | list) and len(regions) == 2:
        rows, columns = regions
        wrong = not all(isinstance(n, int | np.integer) for n in regions)
    else:
        wrong = True
    if wrong:
        msg = (
            'regions must be the side of a cell in pixels, a pair (rows, columns) of '
            f'whole numbers or a 2D array of labels, got {regions!r:.80}'
        )
        raise TypeError(msg)
    if not (1 <= rows <= ny and 1 <= columns <= nx):
        msg = f'regions must have at least a pixel each, got {regions} for {ny} x {nx}'
        raise ValueError(msg)
    row = np.arange(ny) * int(rows) // ny
    column = np.arange(nx) * int(columns) // nx
    return row[:, None] * int(columns) + column, (int(rows), int(columns))


def _pairs(residuals, labels, n_labels):
    """Sum of squared correlations over all pairs of pixels in each region."""
    good = residuals.good & (labels >= 0)
    total = np.bincount(labels[good], minlength=n_labels).astype(float)
    half = len(residuals.kernel) // 2
    for dy in range(half + 1):
        for dx in range(-half, half + 1):
            value = residuals.kernel[half + dy, half + dx]
            if value == 0 or (dy == 0 and dx <= 0):
                continue
            one, two = lagged_views(labels.shape, dy, dx)
            both = good[one] & good[two] & (labels[one] == labels[two])
            number = np.bincount(labels[one][both], minlength=n_labels)
            total += 2 * value**2 * number
    return total


def cell_statistics(residuals, labels):
    """
    Chi-square and offset of each region.

    Parameters
    ----------
    residuals : `Residuals`
        The residuals.

    labels : int `~numpy.ndarray`, shape (ny, nx)
        From `cells_of`.

    Returns
    -------
    cells : dict of str to `~numpy.ndarray`
        ``n_pixels``, ``chi2``, ``chi2_err`` (of replicated noise, about
        ``n_pixels``), ``p_value`` (that replicated noise has a larger one),
        ``offset`` and ``offset_err`` (of the sky, in units of its noise), ``x``
        and ``y`` (mean position of the pixels).
    """
    use = residuals.good & (labels >= 0)
    label, n_labels = labels[use], int(labels.max()) + 1

    def total(values):
        return np.bincount(label, values, minlength=n_labels)

    ratio = residuals.ratio[use].astype(float)
    share = residuals.sky_share[use].astype(float)
    n, chi2 = total(None).astype(float), total(ratio**2)
    variance = 2 * _pairs(residuals, labels, n_labels)
    weight = total(share)
    with np.errstate(invalid='ignore', divide='ignore'):
        # A sum of correlated squares is nearly a scaled chi-square.
        scale, freedom = variance / (2 * n), 2 * n**2 / variance
        p_value = gammaincc(freedom / 2, chi2 / scale / 2)
        mean = total(np.sqrt(share) * ratio) / weight
        mean_err = np.sqrt(residuals.excess / weight)
        row, column = np.nonzero(use)
        x, y = total(column.astype(float)) / n, total(row.astype(float)) / n
    return {
        'x': x,
        'y': y,
        'n_pixels': n.astype(int),
        'chi2': chi2,
        'chi2_err': np.sqrt(variance),
        'p_value': p_value,
        'offset': mean,
        'offset_err': mean_err,
    }
