# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sky level and sky noise, measured in an image.
"""

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro._warnings import collect_warnings, warn

__all__ = [
    'find_covered',
    'measure_background',
    'measure_noise_ratio',
    'noise_of_smoothed',
]

# Above this share of pixels with sources, a cell of the mesh is crowded.
_CROWDED = 0.7
# Standard deviation in pixels of the smoothing that shows sources.
_SMOOTHING = 1.5
# Cells along an axis from which on a mesh shows a gradient, and the change of the sky
# from cell to cell, in units of the noise, below which it is level; and turns.
_LEAST_CELLS, _LEVEL, _MOST_TURNS = 3, 0.2, 4
# Percentage of bad pixels above which a cell of the mesh is left out.
_MOST_BAD = 90.0
# A background is single precision if that rounds it by less than this share of the
# noise, which has to lie well within its range; pixels to tell the scatter.
_ROUNDING, _SMALLEST, _LARGEST, _SAMPLE = 1e-3, 1e-30, 1e30, 200_000


def measure_background(
    data, mask, *, box_size=128, quantum=0.0, correlation=(0.0, 0.0)
):
    """
    Estimate the sky of an image on a mesh, in two passes.

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
        Side of a cell of the mesh, pixels.

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
    image = np.clip(image, -_LARGEST, _LARGEST).astype(np.float32)
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
    for _ in range(_MOST_TURNS):
        more = _slope(first, image.shape, box)
        if more is None:
            break
        image -= more
        slope = slope + more
        first = _mesh(image, bad, box, SExtractorBackground(sigma_clip=None))
    level = _spread(first.background_mesh, image.shape, box)
    scatter = _spread(first.background_rms_mesh, image.shape, box)
    sources = find_covered(image - level, scatter, bad, correlation=correlation)
    crowded = _cell_mean(sources, box) > _CROWDED
    sources &= ~crowded
    second = _mesh(image, bad | sources, box, MeanBackground(sigma_clip=None))
    background = np.asarray(second.background, dtype=float) + slope
    background = background * scale + middle
    # Where rounding is far below the noise, half the memory does.
    step = np.spacing(np.float32(np.abs(background).max()))
    if _SMALLEST < scale < _LARGEST and step < _ROUNDING * scale:
        return background.astype(np.float32)
    return background


def _level_and_scatter(values):
    """
    Median and scatter of the good pixels; 1 where these have no scatter.
    """
    values = values[:: max(1, values.size // _SAMPLE)].astype(float)
    middle = float(np.median(values)) if values.size else 0.0
    scatter = float(np.median(np.abs(values - middle))) if values.size else 0.0
    if scatter == 0:
        scatter = float(np.abs(values - middle).mean()) if values.size else 0.0
    return middle, scatter if scatter > 0 else 1.0


def measure_noise_ratio(residual, bkg_error, mask, *, box_size=64):
    """
    Compare the scatter of pixels without sources with what it should be.

    Parameters
    ----------
    residual : float `~numpy.ndarray`, shape (ny, nx)
        The image without its sky.

    bkg_error : float or `~numpy.ndarray`
        The expected standard deviation.

    mask : bool `~numpy.ndarray`, shape (ny, nx)
        `True` in bad pixels.

    box_size : int, optional
        Side of the cells, of which the median is taken, pixels.

    Returns
    -------
    ratio : float
        Measured over expected standard deviation. Where sources cover nearly
        everything it is 1, with a warning, because nothing can be measured.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If there are not enough pixels without sources.
    """
    bad = mask | ~np.isfinite(residual)
    scaled = np.where(bad, 0, residual / bkg_error)
    blank = ~(find_covered(scaled, 1.0, bad) | bad)
    box = min(box_size, *scaled.shape)
    ny, nx = (length // box * box for length in scaled.shape)

    def cells(values):
        blocks = values[:ny, :nx].reshape(ny // box, box, nx // box, box)
        return blocks.sum(axis=(1, 3), dtype=float)

    n = cells(blank)
    total, squares = cells(blank * scaled), cells(blank * scaled**2)
    enough = n > 0.4 * box**2
    if not enough.any():
        msg = (
            'the noise of the sky cannot be measured: sources or bad pixels cover '
            'the image. The expected noise is taken as it is.'
        )
        warn(msg)
        return 1.0
    variance = squares[enough] / n[enough] - (total[enough] / n[enough]) ** 2
    return float(np.sqrt(np.median(variance)))


def _mesh(image, bad, box, estimator):
    """
    Run photutils' mesh with sigma clipping.
    """
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
                exclude_percentile=_MOST_BAD,
            )
        except ValueError as error:
            n_good = np.count_nonzero(~bad)
            msg = (
                f'background cannot be measured: {n_good} of {bad.size} pixels are '
                f'good, fewer than {100 - _MOST_BAD:g} % in each cell of '
                f'{box[1]} x {box[0]} px; give background (0 if it was subtracted)'
            )
            raise ValueError(msg) from error


def _slope(first, shape, box):
    """
    Return the plane through a mesh, (ny, nx), or None where it is nearly level.
    """
    mesh = first.background_mesh
    if min(mesh.shape) < _LEAST_CELLS:
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
        weights = whole / np.maximum(off, 1e-3 * np.median(first.background_rms_mesh))
    change = np.abs(solution[1:]) * box[0]
    if change.max() < _LEVEL * np.median(first.background_rms_mesh):
        return None
    y, x = (np.arange(n, dtype=np.float32) for n in shape)
    plane = solution[1] * (x - x.mean()) + solution[2] * (y - y.mean())[:, None]
    return plane.astype(np.float32)


def _spread(mesh, shape, box):
    """
    Interpolate a mesh linearly: for a first pass photutils' splines are slow.
    """
    weights = []
    for n_pixels, n_cells, length in zip(shape, mesh.shape, box, strict=True):
        centres = (np.arange(n_cells) + 0.5) * length - 0.5
        unit = np.eye(n_cells)
        places = np.arange(n_pixels)
        rows = [np.interp(places, centres, unit[k]) for k in range(n_cells)]
        weights.append(np.array(rows, dtype=np.float32))
    return weights[0].T @ mesh.astype(np.float32) @ weights[1]


def find_covered(residual, noise, bad, *, correlation=(0.0, 0.0)):
    """
    Find pixels in or near sources, in a smoothed image.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter

    smooth = gaussian_filter(np.where(bad, 0, residual), _SMOOTHING)
    bright = smooth > 3 * noise_of_smoothed(correlation) * noise
    return binary_dilation(bright, iterations=4)


def noise_of_smoothed(correlation):
    """
    Noise that the smoothing leaves of noise that a Gaussian kernel correlated.
    """
    white = 1 / (2 * np.sqrt(np.pi) * _SMOOTHING)
    # The variance of the kernel in x and in y, of which the correlation is known.
    own = -0.25 / np.log(np.clip(correlation, 1e-6, 0.99))
    left = np.maximum(white, np.sqrt(own / (own + _SMOOTHING**2)))
    return float(np.sqrt(np.prod(left)))


def _cell_mean(flags, box):
    """
    Spread the share of flagged pixels of each cell over its pixels.
    """
    by, bx = box
    ny, nx = flags.shape
    shares = np.add.reduceat(flags.astype(np.float32), np.arange(0, ny, by), axis=0)
    shares = np.add.reduceat(shares, np.arange(0, nx, bx), axis=1)
    heights = np.diff(np.append(np.arange(0, ny, by), ny))
    widths = np.diff(np.append(np.arange(0, nx, bx), nx))
    shares /= np.outer(heights, widths)
    return np.repeat(np.repeat(shares, heights, axis=0), widths, axis=1)
