# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sky background on a mesh, and the error of its level.
"""

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro._warnings import collect_warnings

__all__ = []

# -- mesh --
# Share of a cell covered by sources above which their mask is not used in it.
_CROWDED_SHARE = 0.7
# Standard deviation (pixels) of the smoothing that shows sources, their threshold in
# sigma of the smoothed image, and the growth of their areas (pixels).
_SMOOTHING, _SOURCE_SIGMA, _GROWTH = 1.5, 3, 4
# Cells along an axis from which on a mesh shows a gradient; change of the sky from
# cell to cell, over the noise, below which it is level; rounds of taking it off.
_MIN_CELLS, _LEVEL_CHANGE, _MAX_SLOPE_ROUNDS = 3, 0.2, 4
# Percentage of bad pixels above which a cell of the mesh is left out.
_MAX_BAD_PERCENT = 90.0
# A background is single precision if that rounds it by less than this share of the
# noise, which has to lie well within its range; pixels that show the scatter.
_ROUNDING_SHARE, _MIN_SCALE, _MAX_SCALE, _N_SCATTER = 1e-3, 1e-30, 1e30, 200_000

# -- error of the level --
# Side (pixels) of the cells that show structure, and of those of the mesh.
_STRUCTURE_SIDE, _MESH_SIDE = 32, 64
# Share of a cell's pixels without sources below which its mean shows nothing.
_MIN_BLANK_SHARE = 0.2
# Error of a mesh over that of one of its cells: a median of three by three cells and
# the bias by peaks of noise that are taken for sources.
_MESH_FACTOR = 0.7
# Bias by faint sources and wings of bright ones, in units of the noise, over the
# square of the optical depth of the sources that are seen, as simulated fields of
# stars and galaxies have it; the largest depth that a cell can show.
_CONFUSION, _MAX_DEPTH = 0.042, 3.0
# Range of the errors that networks were trained with.
_ERROR_RANGE = 0.001, 0.3


def measure_background(data, mask, *, box_size=64, quantum=0.0, correlation=(0.0, 0.0)):
    """
    Sky of an image on a mesh, in two passes.

    The first pass takes SExtractor's estimate of the mode of each cell. The
    second takes the clipped mean of the pixels without sources above the
    first, except in cells where so few are left that the mode says more.

    Parameters
    ----------
    data : float `~numpy.ndarray`, shape (ny, nx)
        The image.

    mask : bool `~numpy.ndarray`, shape (ny, nx)
        `True` in bad pixels.

    box_size : int, optional
        Side of a cell of the mesh in pixels.

    quantum : float, optional
        Step of the data, if they were rounded to whole counts. Medians of
        rounded numbers are rounded too, and their error would be several
        times what the mean of a cell allows; the steps are smoothed out first.

    correlation : tuple of float, optional
        Correlation of the noise of neighbouring pixels in x and in y; peaks of
        correlated noise are not to be taken for sources, which would make the
        sky too low.

    Returns
    -------
    background : float `~numpy.ndarray`, shape (ny, nx)
        The sky, smooth on the scale of the mesh; float32 where that is precise.

    Raises
    ------
    ValueError
        If too few good pixels are left in every cell of the mesh.
    """
    from photutils.background import MeanBackground, SExtractorBackground

    bad = mask | ~np.isfinite(data)
    # Single precision from here on, in units in which any image fits into it.
    middle, scale = _level_and_scatter(data[~bad])
    image = np.where(bad, 0, (np.asarray(data, dtype=float) - middle) / scale)
    image = np.clip(image, -_MAX_SCALE, _MAX_SCALE).astype(np.float32)
    if quantum > 0:
        # Any fixed seed serves: this noise averages out in each cell.
        steps = np.random.default_rng(0).random(image.shape, dtype=np.float32)
        image += np.float32(quantum / scale) * (steps - np.float32(0.5))
    box = tuple(min(box_size, length) for length in image.shape)
    first = _mesh(image, bad, box, SExtractorBackground(sigma_clip=None))
    # The mesh ends at the middle of the outer cells: flat beyond, it is off by half
    # a cell of a gradient, which within cells hides sources too. Filtered meshes
    # show most of a gradient, so that it takes some turns.
    slope = np.zeros((1, 1), np.float32)
    for _ in range(_MAX_SLOPE_ROUNDS):
        more = _slope(first, image.shape, box)
        if more is None:
            break
        image -= more
        slope = slope + more
        first = _mesh(image, bad, box, SExtractorBackground(sigma_clip=None))
    level = _interpolate(first.background_mesh, image.shape, box)
    scatter = _interpolate(first.background_rms_mesh, image.shape, box)
    sources = _find_covered(image - level, scatter, bad, correlation=correlation)
    sources &= _cell_shares(sources, box) <= _CROWDED_SHARE
    second = _mesh(image, bad | sources, box, MeanBackground(sigma_clip=None))
    background = np.asarray(second.background, dtype=float) + slope
    background = background * scale + middle
    # Where rounding is far below the noise, half the memory does.
    step = np.spacing(np.float32(np.abs(background).max()))
    if _MIN_SCALE < scale < _MAX_SCALE and step < _ROUNDING_SHARE * scale:
        return background.astype(np.float32)
    return background


def _level_and_scatter(values):
    """Median and scatter of the good pixels; 0 and 1 where these have none."""
    values = values[:: max(1, values.size // _N_SCATTER)].astype(float)
    if values.size == 0:
        return 0.0, 1.0
    middle = float(np.median(values))
    off = np.abs(values - middle)
    return middle, float(np.median(off)) or float(off.mean()) or 1.0


def _mesh(image, bad, box, estimator):
    """Run photutils' mesh with sigma clipping."""
    from astropy.stats import SigmaClip
    from photutils.background import Background2D

    with collect_warnings(AstropyUserWarning):
        try:
            return Background2D(
                image,
                box,
                mask=bad,
                filter_size=3,
                sigma_clip=SigmaClip(sigma=3.0, maxiters=10),
                bkg_estimator=estimator,
                exclude_percentile=_MAX_BAD_PERCENT,
            )
        except ValueError as error:
            n_good = np.count_nonzero(~bad)
            msg = (
                f'background cannot be measured: {n_good} of {bad.size} pixels are '
                f'good, fewer than {100 - _MAX_BAD_PERCENT:g} % in each cell of '
                f'{box[1]} x {box[0]} px; give background (0 if it was subtracted)'
            )
            raise ValueError(msg) from error


def _slope(first, shape, box):
    """Plane through a mesh, (ny, nx), or None where it is nearly level."""
    mesh, noise = first.background_mesh, np.median(first.background_rms_mesh)
    if min(mesh.shape) < _MIN_CELLS:
        return None
    rows, columns = np.indices(mesh.shape).reshape(2, -1)
    # Cells cut off by the edge are not where whole ones would be.
    whole = (rows < shape[0] // box[0]) & (columns < shape[1] // box[1])
    design = np.c_[np.ones(len(rows)), columns * box[1], rows * box[0]]
    values, weights = mesh.ravel(), whole.astype(float)
    for _ in range(5):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(design * root[:, None], values * root)[0]
        off = np.abs(values - design @ solution)
        # Sources in cells are held back, as least absolute deviations do.
        weights = whole / np.maximum(off, 1e-3 * noise)
    change = np.abs(solution[1:]) * box[0]
    if change.max() < _LEVEL_CHANGE * noise:
        return None
    y, x = (np.arange(n, dtype=np.float32) for n in shape)
    plane = solution[1] * (x - x.mean()) + solution[2] * (y - y.mean())[:, None]
    return plane.astype(np.float32)


def _interpolate(mesh, shape, box):
    """Interpolate a mesh linearly: for a first pass photutils' splines are slow."""
    rows, columns = (
        np.array(
            [
                np.interp(np.arange(n), (np.arange(cells) + 0.5) * side - 0.5, one)
                for one in np.eye(cells)
            ],
            dtype=np.float32,
        )
        for n, cells, side in zip(shape, mesh.shape, box, strict=True)
    )
    return rows.T @ mesh.astype(np.float32) @ columns


def _find_covered(residual, noise, bad, *, correlation=(0.0, 0.0)):
    """Find pixels in or near sources, in a smoothed image."""
    from scipy.ndimage import binary_dilation, gaussian_filter

    smooth = gaussian_filter(np.where(bad, 0, residual), _SMOOTHING)
    bright = smooth > _SOURCE_SIGMA * _noise_of_smoothed(correlation) * noise
    return binary_dilation(bright, iterations=_GROWTH)


def _noise_of_smoothed(correlation):
    """Noise that the smoothing leaves of noise that a Gaussian kernel correlated."""
    white = 1 / (2 * np.sqrt(np.pi) * _SMOOTHING)
    # The variance of the kernel in x and in y, of which the correlation is known.
    own = -0.25 / np.log(np.clip(correlation, 1e-6, 0.99))
    left = np.maximum(white, np.sqrt(own / (own + _SMOOTHING**2)))
    return float(np.sqrt(np.prod(left)))


def _cell_shares(flags, box):
    """Share of flagged pixels of each cell, spread over its pixels."""
    starts = [np.arange(0, n, side) for n, side in zip(flags.shape, box, strict=True)]
    sides = [
        np.diff(np.append(first, n))
        for first, n in zip(starts, flags.shape, strict=True)
    ]
    shares = np.add.reduceat(flags.astype(np.float32), starts[0], axis=0)
    shares = np.add.reduceat(shares, starts[1], axis=1) / np.outer(*sides)
    return np.repeat(np.repeat(shares, sides[0], axis=0), sides[1], axis=1)


def estimate_background_error(exposure):
    """
    Error of a sky level from a mesh, in units of the noise.

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
    blank = good & ~_find_covered(pull, 1.0, ~good, correlation=correlation)
    # Variance of a mean over that of as many independent pixels.
    x, y = np.clip(correlation, 0, None)
    wider = (1 + 2 * x) * (1 + 2 * y)
    n_good, n_blank = (_sum_whole_cells(v, _STRUCTURE_SIDE) for v in (good, blank))
    share = n_blank / np.maximum(n_good, 1)
    seen = n_good > 0.5 * n_good.max()
    depth = -np.log(np.maximum(share[seen], np.exp(-_MAX_DEPTH)))
    confusion = _CONFUSION * np.sqrt(np.mean(depth**4))
    # Correlated noise hides brighter sources.
    confusion *= _noise_of_smoothed(correlation) / _noise_of_smoothed((0.0, 0.0))
    usable = seen & (share > _MIN_BLANK_SHARE)
    structure = 0.0
    if usable.any():
        mean = _sum_whole_cells(pull * blank, _STRUCTURE_SIDE)[usable] / n_blank[usable]
        noise = np.mean(wider / n_blank[usable])
        noise *= 1 + np.sqrt(2 / np.count_nonzero(usable))
        structure = np.sqrt(max(float(np.mean(np.square(mean))) - noise, 0.0))
    in_mesh = float(np.median(_sum_whole_cells(blank, _MESH_SIDE)))
    cells = _MESH_FACTOR * np.sqrt(wider / max(in_mesh, 1.0))
    total = float(np.sqrt(cells**2 + structure**2 + confusion**2))
    return float(np.clip(total, *_ERROR_RANGE))


def _sum_whole_cells(values, side):
    """Sums over whole cells of an image; of the image where it is smaller."""
    box = [min(side, n) for n in values.shape]
    ny, nx = (n // b * b for n, b in zip(values.shape, box, strict=True))
    cells = values[:ny, :nx].reshape(ny // box[0], box[0], nx // box[1], box[1])
    return cells.sum(axis=(1, 3), dtype=float)
