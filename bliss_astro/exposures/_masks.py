# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Masks of pixels without sky: exact values, dark areas, saturation; steps of the sky.
"""

import numpy as np

from bliss_astro._warnings import warn
from bliss_astro.units import MAD_TO_SIGMA

__all__ = []

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

# -- saturation and rounding --
# Sigma above the sky within which a saturation level is none.
_SATURATION_SIGMA = 2.0
# Whole numbers are coarse where the noise is below the first number and the sky so
# many times its variance, which is as large as the sky where photons are counted.
_COARSE_NOISE, _PHOTON_RATIO = 1 / 3, 5.0

_EIGHT_NEIGHBOURS = np.ones((3, 3))


def find_exact_areas(data, bad):
    """
    Find large areas in which all pixels have one exact value.

    Parameters
    ----------
    data : float `~numpy.ndarray`, shape (ny, nx)
        The image.

    bad : bool `~numpy.ndarray`, shape (ny, nx)
        `True` in bad pixels.

    Returns
    -------
    areas : list of tuple
        Each with its value, its pixels as a bool `~numpy.ndarray` of shape
        (ny, nx), and whether it is the plateau of something bright.
    """
    from scipy.ndimage import binary_dilation, find_objects, label

    values = np.where(bad, np.nan, data)
    core = _surrounded_by_equals(values)
    if np.count_nonzero(core) < _AREA_PIXELS:
        return []
    labels, n_areas = label(core, _EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=n_areas + 1)
    sizes[0] = 0
    n_small = np.count_nonzero(sizes[1:] < _AREA_PIXELS)
    rounded = n_small > _SMALL_AREAS_PER_PIXEL * data.size
    least = _AREA_PIXELS_ROUNDED if rounded else _AREA_PIXELS
    good = values[np.isfinite(values)]
    middle = np.median(good)
    scatter = MAD_TO_SIGMA * np.median(np.abs(good - middle))
    areas = []
    boxes = find_objects(labels)
    for k in np.flatnonzero(sizes >= least):
        # With the pixels around the core, which have the value too.
        box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[k - 1])
        own = binary_dilation(labels[box] == k, _EIGHT_NEIGHBOURS)
        own &= np.isfinite(values[box])
        if _is_spotted(own):
            continue
        value = float(values[box][own][0])
        area = np.zeros(data.shape, dtype=bool)
        area[box] = own
        areas.append((value, area, value > middle + _PLATEAU_SIGMA * scatter))
    return areas


def _surrounded_by_equals(values):
    """Find pixels whose neighbours have their value; beyond the edge there are none."""
    even = np.isfinite(values)
    right = values[:, 1:] == values[:, :-1]
    if np.count_nonzero(right) < _AREA_PIXELS:
        return np.zeros(values.shape, dtype=bool)
    even[:, :-1] &= right
    even[:, 1:] &= right
    down = values[1:] == values[:-1]
    row = even.copy()
    even[:-1] &= down & row[1:]
    even[1:] &= down & row[:-1]
    return even


def _is_spotted(area):
    """Whether an area is riddled with single pixels of another value."""
    from scipy.ndimage import binary_fill_holes, label

    holes, n_holes = label(binary_fill_holes(area) & ~area)
    sizes = np.bincount(holes.ravel(), minlength=n_holes + 1)[1:]
    n_spots = np.count_nonzero(sizes <= _SPOT_PIXELS)
    return n_spots > _SPOT_SHARE * np.count_nonzero(area)


def mask_exact_areas(exposure, estimated):
    """
    Mask areas of one exact value, with a warning and an entry of ``estimated``.
    """
    areas = find_exact_areas(exposure.data, exposure.mask)
    n_left = np.count_nonzero(~exposure.mask)
    n_left -= sum(np.count_nonzero(area) for _, area, _ in areas)
    if not areas or n_left < _MIN_REMAINDER * exposure.data.size:
        return exposure
    changes = {}
    full = [area for _, area, bright in areas if bright]
    empty = [(value, area) for value, area, bright in areas if not bright]
    if full:
        saturated = np.logical_or.reduce(full)
        changes['saturated'] = exposure.saturated | saturated
        n = np.count_nonzero(saturated)
        estimated['saturated'] = f'{n} pixels in plateaus of one exact value'
    if empty:
        mask = np.logical_or.reduce([area for _, area in empty])
        changes['mask'] = exposure.mask | mask
        n = np.count_nonzero(mask)
        estimated['mask'] = f'{n} pixels added in areas of one exact value'
        value, largest = max(empty, key=lambda one: np.count_nonzero(one[1]))
        y, x = np.argwhere(largest)[0]
        more = f' and {len(empty) - 1} more' if len(empty) > 1 else ''
        warn(
            f'{n} pixels of data lie in areas of one exact value (the largest '
            f'with {value:g} at x={x}, y={y}{more}): taken to hold no data and masked. '
            'Give mask to say so yourself.'
        )
    return exposure.replace(**changes)


def find_dark(exposure):
    """
    Find areas too far below the sky to be sky, or `None`.
    """
    from scipy.ndimage import binary_dilation, label, uniform_filter

    pull = (exposure.data - exposure.background) / exposure.bkg_error
    pull = np.where(exposure.mask, 0.0, np.clip(pull, -_PULL_LIMIT, _PULL_LIMIT))
    labels, _ = label(uniform_filter(pull, _PATCH, mode='nearest') < _DARK_SIGMA)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    dark = (sizes >= _DARK_PIXELS)[labels]
    if not dark.any():
        return None
    # To the edge of an area its mean over a square does not reach.
    near = binary_dilation(dark, iterations=_PATCH // 2 + 1)
    return dark | (near & (pull < _DARK_SIGMA / 2))


def warn_of_dark(exposure, dark, estimated):
    """
    Warn of areas far below the sky that are masked.
    """
    n_dark = np.count_nonzero(dark & ~exposure.mask)
    y, x = np.argwhere(dark)[0]
    warn(
        f'{n_dark} pixels of data lie in areas far below the sky (the first at x={x}, '
        f'y={y}), as overscan, collateral columns and badly subtracted skies do; they '
        'are masked. Trim the image, give mask, or give background if they are sound.'
    )
    before = f'{estimated["mask"]}; ' if 'mask' in estimated else ''
    estimated['mask'] = f'{before}{n_dark} pixels added in areas far below the sky'


def has_steps(exposure, quantum):
    """
    Whether the sky changes more abruptly than the background follows.
    """
    residual = np.where(exposure.mask, np.nan, exposure.data - exposure.background)
    squares = _squares(residual)
    if len(squares) == 0:
        return False
    # Between squares the sky may have steps, within most of them it has none.
    low, middle = _quantiles(squares, (0.1587, 0.5))
    # Medians of rounded numbers are off by up to half a step.
    limit = max(_DARK_SQUARE_SIGMA * np.median(middle - low), quantum)
    dark = middle < -limit
    if np.mean(dark) > _DARK_SQUARE_SHARE:
        # Stripes are lines that differ, with no step in particular.
        even = residual - _quantiles(residual, (0.5,))[0][:, None]
        even = _squares(even - _quantiles(even.T, (0.5,))[0])
        dark &= _quantiles(even, (0.5,))[0] < -limit / 2
        if np.mean(dark) > _DARK_SQUARE_SHARE:
            return True
    return any(_jump(lines) > limit for lines in (residual, residual.T))


def _squares(residual):
    """A sample of squares of pixels most of which are good, (n, pixels)."""
    side = min(_SQUARE, *residual.shape)
    ny, nx = (length // side * side for length in residual.shape)
    squares = residual[:ny, :nx].reshape(ny // side, side, nx // side, side)
    squares = squares.swapaxes(1, 2).reshape(-1, side**2)
    squares = squares[:: max(1, len(squares) // _MAX_SQUARES)]
    return squares[np.isfinite(squares).sum(axis=1) > side**2 // 2]


def _quantiles(values, levels):
    """Quantiles along the last axis of finite values, in a tenth of numpy's time."""
    values = np.sort(values, axis=-1)  # NaN are sorted to the end
    last = np.isfinite(values).sum(axis=-1) - 1
    places = [np.rint(level * last).astype(int)[..., None] for level in levels]
    return [np.take_along_axis(values, place, -1)[..., 0] for place in places]


def _jump(residual):
    """Largest sharp jump between neighbouring columns that lasts."""
    ny, nx = residual.shape
    if min(ny, nx) < _MIN_LINES:
        return 0.0
    residual = residual[:: max(1, ny // _LINE_PIXELS)]
    residual = residual[:, np.isfinite(residual).sum(axis=0) > len(residual) // 2]
    if residual.shape[1] < _MIN_LINES:
        return 0.0
    (level,) = _quantiles(residual.T, (0.5,))
    sides = np.median(np.lib.stride_tricks.sliding_window_view(level, _LASTING), axis=1)
    lasting = sides[_LASTING:] - sides[:-_LASTING]
    sudden = np.diff(level)[_LASTING - 1 : len(level) - _LASTING]
    sharp = (lasting * sudden > 0) & (np.abs(sudden) > _SUDDEN_SHARE * np.abs(lasting))
    # Stripes differ from one to the next everywhere.
    sharp &= np.abs(sudden) > _UNUSUAL * MAD_TO_SIGMA * np.median(np.abs(sudden))
    jump = float(np.max(np.abs(lasting) * sharp, initial=0.0))
    # Crowds of stars make columns unlike too, but all of them.
    return jump if jump > _UNUSUAL * np.median(np.abs(lasting)) else 0.0


def warn_of_steps():
    """
    Warn of a sky that the background does not follow.
    """
    warn(
        'the sky of data changes abruptly, between halves of a detector or at the edge '
        'of a nebula, and the background that was measured on a mesh does not follow '
        'it: fluxes and flags are off there. Give background as a map, or detect in '
        'each half by itself.'
    )


def check_saturation(exposure):
    """
    Refuse a saturation level that the sky reaches.
    """
    known = exposure.data[exposure.saturated | ~exposure.mask]
    sky = np.median(known)
    noise = MAD_TO_SIGMA * np.median(np.abs(known - sky))
    level = np.median(exposure.saturation)
    if level > sky + _SATURATION_SIGMA * noise:
        return
    n_full = np.count_nonzero(exposure.saturated)
    msg = (
        f'saturation must lie above the sky; {n_full} of {exposure.mask.size} pixels '
        f'reach {level:.6g}, and the median is {sky:.6g}. It is in the unit of data, '
        'and counts the sky where data do.'
    )
    raise ValueError(msg)


def warn_of_rounding(exposure):
    """
    Warn of whole numbers that noise hardly changes, but for counts of few photons.
    """
    level, noise = (
        float(np.median(values)) for values in (exposure.background, exposure.bkg_error)
    )
    if noise <= _COARSE_NOISE and level >= _PHOTON_RATIO * noise**2:
        warn(
            f'data are whole numbers, in steps of {1 / noise:.2g} times the noise: the '
            'sky and its noise are lost in the rounding, and with them faint sources. '
            'Give the image before it was rounded.'
        )
