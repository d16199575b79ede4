# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pixels without sky, areas of one exact value or far below the sky; steps of the sky.
"""

import numpy as np
from astropy.nddata import reshape_as_blocks

from bliss_astro._filters import box_mean
from bliss_astro._warnings import warn
from bliss_astro.units import MAD_TO_SIGMA, median_and_scatter

from ._sky import step_of

# -- areas of one exact value --
# Pixels whose eight neighbours have their value too that make an area; and where the
# noise itself is rounded to few values, which many small areas per pixel show.
_AREA_PIXELS, _AREA_PIXELS_ROUNDED, _SMALL_AREAS_PER_PIXEL = 64, 4096, 2e-4
# Share of other values within an area, in spots of at most so many pixels: sky of
# so few photons that most pixels have none is no such area.
_SPOT_SHARE, _SPOT_PIXELS = 1e-3, 9
# Height above the median, in units of the scatter, from which an area is saturated.
_PLATEAU_SIGMA = 50.0
# Share of good pixels that has to remain for areas to be masked.
_MIN_REMAINDER = 0.02

# -- dark areas --
# Light only adds: the mean of square patches (pixels a side), each pixel clipped to so
# many sigma, is not that many sigma below the sky; connected patches that make an area.
_PATCH, _PULL_LIMIT, _DARK_SIGMA, _DARK_PIXELS = 5, 10.0, -4.5, 64

# -- steps of the sky --
# Side of squares (pixels) and how many are looked at; depth of their median below the
# sky, in sigma of a pixel, and share of squares that are as dark, for steps.
_SQUARE, _MAX_SQUARES, _DARK_SQUARE_SIGMA, _DARK_SQUARE_SHARE = 16, 1000, 1.0, 0.1
# Columns or rows that show a step, and pixels of each that are looked at; columns for
# which a step lasts; share of it between two columns; its height over that of usual
# changes.
_MIN_LINES, _LINE_PIXELS, _LASTING, _SUDDEN_SHARE, _UNUSUAL = 64, 256, 8, 0.7, 4.0

_EIGHT_NEIGHBOURS = np.ones((3, 3))


def find_exact_areas(data, bad):
    """
    Find large areas in which all pixels have one exact value.

    Each comes with its value, its pixels as a bool array, and whether it is the
    plateau of something bright.
    """
    from scipy.ndimage import binary_dilation, find_objects, label

    bad = bad | ~np.isfinite(data)
    right = (data[:, 1:] == data[:, :-1]) & ~bad[:, 1:]
    if np.count_nonzero(right) < _AREA_PIXELS:
        return []
    # Pixels whose neighbours have their value; beyond the edge there are none.
    values = np.where(bad, np.nan, data)
    right = np.pad(values[:, 1:] == values[:, :-1], ((0, 0), (1, 1)), constant_values=1)
    above = np.pad(values[1:] == values[:-1], ((1, 1), (0, 0)), constant_values=1)
    line = np.pad(right[:, 1:] & right[:, :-1], ((1, 1), (0, 0)), constant_values=1)
    core = ~bad & above[1:] & above[:-1] & line[2:] & line[1:-1] & line[:-2]
    labels, n_areas = label(core, _EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=n_areas + 1)[1:]
    n_small = np.count_nonzero(sizes < _AREA_PIXELS)
    rounded = n_small > _SMALL_AREAS_PER_PIXEL * data.size
    good = data[~bad]
    middle, scatter = median_and_scatter(good)
    areas = []
    for k, box in enumerate(find_objects(labels), 1):
        if sizes[k - 1] < (_AREA_PIXELS_ROUNDED if rounded else _AREA_PIXELS):
            continue
        # With the pixels around the core, which have the value too.
        box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        area = np.zeros(data.shape, dtype=bool)
        area[box] = binary_dilation(labels[box] == k, _EIGHT_NEIGHBOURS) & ~bad[box]
        if not _is_spotted(area[box]):
            value = float(data[area][0])
            areas.append((value, area, value > middle + _PLATEAU_SIGMA * scatter))
    return areas


def _is_spotted(area):
    """Whether an area is riddled with single pixels of another value."""
    from scipy.ndimage import binary_fill_holes, label

    holes, _ = label(binary_fill_holes(area) & ~area)
    n_spots = np.count_nonzero(np.bincount(holes.ravel())[1:] <= _SPOT_PIXELS)
    return n_spots > _SPOT_SHARE * np.count_nonzero(area)


def mask_exact_areas(exposure, estimated):
    """Mask areas of one exact value, with a warning and an entry of ``estimated``."""
    areas = find_exact_areas(exposure.data, exposure.mask)
    covered = sum(np.count_nonzero(area) for _, area, _ in areas)
    n_left = np.count_nonzero(~exposure.mask) - covered
    if not areas or n_left < _MIN_REMAINDER * exposure.data.size:
        return exposure
    mask, saturated = exposure.mask.copy(), exposure.saturated.copy()
    empty, n_full = [], 0
    for value, area, bright in areas:
        (saturated if bright else mask)[area] = True
        n = np.count_nonzero(area)
        n_full += n * bright
        empty += [] if bright else [(n, value, area)]
    if n_full:
        estimated['saturated'] = f'{n_full} pixels in plateaus of one exact value'
    if empty:
        n = covered - n_full
        estimated['mask'] = f'{n} pixels added in areas of one exact value'
        _, value, largest = max(empty, key=lambda one: one[0])
        y, x = np.argwhere(largest)[0]
        more = f' and {len(empty) - 1} more' if len(empty) > 1 else ''
        warn(
            f'{n} pixels of data lie in areas of one exact value (the largest '
            f'with {value:g} at x={x}, y={y}{more}) and are masked, as without data.'
        )
    return exposure.replace(mask=mask, saturated=saturated)


def mask_dark(exposure):
    """Mask areas too far below the sky to be sky."""
    from scipy.ndimage import binary_dilation, label

    pull = (exposure.data - exposure.background) / exposure.bkg_error
    pull = np.where(exposure.mask, 0.0, np.clip(pull, -_PULL_LIMIT, _PULL_LIMIT))
    low = box_mean(pull, _PATCH) < _DARK_SIGMA
    if np.count_nonzero(low) < _DARK_PIXELS:
        return exposure
    labels, _ = label(low)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    dark = (sizes >= _DARK_PIXELS)[labels]
    if not dark.any():
        return exposure
    # To the edge of an area its mean over a square does not reach.
    near = binary_dilation(dark, iterations=_PATCH // 2 + 1)
    dark |= near & (pull < _DARK_SIGMA / 2)
    return exposure.replace(mask=exposure.mask | dark)


def warn_of_dark(before, after, estimated):
    """Warn of the pixels that were masked as dark, and record them."""
    dark = after.mask & ~before.mask
    y, x = np.argwhere(dark)[0]
    warn(
        f'{np.count_nonzero(dark)} pixels of data lie in areas far below the sky (at '
        f'x={x}, y={y}) and are masked. Trim the image, give mask, or '
        'background if they are sound.'
    )
    others = [estimated['mask']] if 'mask' in estimated else []
    how = f'{np.count_nonzero(dark)} pixels added in areas far below the sky'
    estimated['mask'] = '; '.join([*others, how])


def has_steps(exposure):
    """Whether the sky changes more abruptly than the background follows."""
    quantum = step_of(exposure)
    residual = np.where(exposure.mask, np.nan, exposure.data - exposure.background)
    squares = _squares(residual)
    if len(squares) == 0:
        return False
    # Between squares the sky may have steps, within most of them it has none.
    low, middle = _quantiles(squares, 0.1587, 0.5)
    # Medians of rounded numbers are off by up to half a step.
    limit = max(_DARK_SQUARE_SIGMA * np.median(middle - low), quantum)
    dark = middle < -limit
    if np.mean(dark) > _DARK_SQUARE_SHARE:
        # Stripes are lines that differ, with no step in particular.
        even = residual - _quantiles(residual, 0.5)[0][:, None]
        even = _squares(even - _quantiles(even.T, 0.5)[0])
        dark &= _quantiles(even, 0.5)[0] < -limit / 2
        if np.mean(dark) > _DARK_SQUARE_SHARE:
            return True
    return any(_jump(lines) > limit for lines in (residual, residual.T))


def _squares(residual):
    """A sample of squares of pixels most of which are good, (n, pixels)."""
    side = min(_SQUARE, *residual.shape)
    ny, nx = (length // side * side for length in residual.shape)
    squares = reshape_as_blocks(residual[:ny, :nx], side).reshape(-1, side**2)
    squares = squares[:: max(1, len(squares) // _MAX_SQUARES)]
    return squares[np.isfinite(squares).sum(axis=1) > side**2 // 2]


def _quantiles(values, *levels):
    """Quantiles along the last axis of finite values, in a tenth of numpy's time."""
    values = np.sort(values, axis=-1)  # NaN are sorted to the end
    last = np.isfinite(values).sum(axis=-1, keepdims=True) - 1
    places = (np.rint(level * last).astype(int) for level in levels)
    return [np.take_along_axis(values, place, -1)[..., 0] for place in places]


def _jump(residual):
    """Largest sharp jump between neighbouring columns that lasts."""
    ny = len(residual)
    residual = residual[:: max(1, ny // _LINE_PIXELS)]
    residual = residual[:, np.isfinite(residual).sum(axis=0) > len(residual) // 2]
    if min(ny, residual.shape[1]) < _MIN_LINES:
        return 0.0
    (level,) = _quantiles(residual.T, 0.5)
    sides = np.median(np.lib.stride_tricks.sliding_window_view(level, _LASTING), axis=1)
    lasting = sides[_LASTING:] - sides[:-_LASTING]
    sudden = np.diff(level)[_LASTING - 1 : len(level) - _LASTING]
    sharp = (lasting * sudden > 0) & (np.abs(sudden) > _SUDDEN_SHARE * np.abs(lasting))
    # Stripes differ from one to the next everywhere.
    sharp &= np.abs(sudden) > _UNUSUAL * MAD_TO_SIGMA * np.median(np.abs(sudden))
    jump = float(np.max(np.abs(lasting) * sharp, initial=0.0))
    # Crowds of stars make columns unlike too, but all of them.
    return jump if jump > _UNUSUAL * np.median(np.abs(lasting)) else 0.0
