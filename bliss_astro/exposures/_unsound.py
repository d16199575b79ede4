# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is neither sky nor sources: dark areas, steps of the sky, saturation, rounding.
"""

import numpy as np

from bliss_astro._warnings import warn

__all__ = [
    'check_saturation',
    'find_dark',
    'has_steps',
    'warn_of_dark',
    'warn_of_rounding',
    'warn_of_steps',
]

# A level of saturation is no such thing less than so many sigma above the sky.
_WITHIN_NOISE = 2.0
# Light only adds: the mean of so many by so many pixels, each clipped to so many
# sigma, is not that far below the sky, nor are so many such places together.
_DARK_SIDE, _DARK_CLIP, _DARK, _DARK_LEAST = 5, 10.0, -4.5, 64
# The sky has steps where this share of the squares of so many pixels, of at most so
# many of them, has a median so many sigma of a pixel below it.
_SQUARE, _MOST_SQUARES, _LOW, _LOW_SHARE = 16, 1000, 1.0, 0.1
# Or where the median of a column, or row, of so many pixels at least, differs by as
# much, and most of it at once, from the one before and does so for so many columns.
_LEAST_LINES, _MOST_LINES, _LASTING, _SUDDEN, _UNUSUAL = 64, 256, 8, 0.7, 4.0
# Whole numbers are coarse where the noise is below this and the sky is so many times
# its variance, which is as large as the sky where photons are counted.
_COARSE, _PHOTONS = 1 / 3, 5.0


def check_saturation(exposure):
    """
    Refuse a saturation level that the sky reaches.
    """
    known = exposure.data[exposure.saturated | ~exposure.mask]
    sky = np.median(known)
    noise = 1.4826 * np.median(np.abs(known - sky))
    level = np.median(exposure.saturation)
    if level > sky + _WITHIN_NOISE * noise:
        return
    n_full = np.count_nonzero(exposure.saturated)
    msg = (
        f'saturation must lie above the sky; {n_full} of {exposure.mask.size} pixels '
        f'reach {level:.6g}, and the median is {sky:.6g}. It is in the unit of data, '
        'and counts the sky where data do.'
    )
    raise ValueError(msg)


def find_dark(exposure):
    """
    Find areas too far below the sky to be sky, or `None`.
    """
    from scipy.ndimage import binary_dilation, label, uniform_filter

    pull = (exposure.data - exposure.background) / exposure.bkg_error
    pull = np.where(exposure.mask, 0.0, np.clip(pull, -_DARK_CLIP, _DARK_CLIP))
    labels, n_areas = label(uniform_filter(pull, _DARK_SIDE, mode='nearest') < _DARK)
    if n_areas == 0:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    dark = (sizes >= _DARK_LEAST)[labels]
    if not dark.any():
        return None
    # To the edge of an area its mean over a square does not reach.
    near = binary_dilation(dark, iterations=_DARK_SIDE // 2 + 1)
    return dark | (near & (pull < _DARK / 2))


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
    before = estimated.get('mask')
    own = f'{n_dark} pixels added in areas far below the sky'
    estimated['mask'] = own if before is None else f'{before}; {own}'


def has_steps(exposure, quantum):
    """
    Tell whether the sky changes more abruptly than the background follows.
    """
    residual = np.where(exposure.mask, np.nan, exposure.data - exposure.background)
    squares = _squares(residual)
    if len(squares) == 0:
        return False
    # Between squares the sky may have steps, within most of them it has none.
    low, middle = _quantiles(squares, (0.1587, 0.5))
    # Medians of rounded numbers are off by up to half a step.
    limit = max(_LOW * np.median(middle - low), quantum)
    dark = middle < -limit
    if np.mean(dark) > _LOW_SHARE:
        # Stripes are lines that differ, with no step in particular.
        even = residual - _quantiles(residual, (0.5,))[0][:, None]
        even = _squares(even - _quantiles(even.T, (0.5,))[0])
        if np.mean(dark & (_quantiles(even, (0.5,))[0] < -limit / 2)) > _LOW_SHARE:
            return True
    return any(_jump(lines) > limit for lines in (residual, residual.T))


def _squares(residual):
    """
    A sample of squares of pixels most of which are good, (n, pixels).
    """
    side = min(_SQUARE, *residual.shape)
    ny, nx = (length // side * side for length in residual.shape)
    squares = residual[:ny, :nx].reshape(ny // side, side, nx // side, side)
    squares = squares.swapaxes(1, 2).reshape(-1, side**2)
    squares = squares[:: max(1, len(squares) // _MOST_SQUARES)]
    return squares[np.isfinite(squares).sum(axis=1) > side**2 // 2]


def _quantiles(values, levels):
    """
    Quantiles along the last axis of what is finite, in a tenth of numpy's time.
    """
    values = np.sort(values, axis=-1)  # NaN are sorted to the end
    last = np.isfinite(values).sum(axis=-1) - 1
    places = [np.rint(level * last).astype(int)[..., None] for level in levels]
    return [np.take_along_axis(values, place, -1)[..., 0] for place in places]


def _jump(residual):
    """
    Return the largest sharp jump between neighbouring columns that lasts.
    """
    ny, nx = residual.shape
    if min(ny, nx) < _LEAST_LINES:
        return 0.0
    residual = residual[:: max(1, ny // _MOST_LINES)]
    residual = residual[:, np.isfinite(residual).sum(axis=0) > len(residual) // 2]
    if residual.shape[1] < _LEAST_LINES:
        return 0.0
    (level,) = _quantiles(residual.T, (0.5,))
    sides = np.median(np.lib.stride_tricks.sliding_window_view(level, _LASTING), axis=1)
    lasting = sides[_LASTING:] - sides[:-_LASTING]
    sudden = np.diff(level)[_LASTING - 1 : len(level) - _LASTING]
    sharp = (lasting * sudden > 0) & (np.abs(sudden) > _SUDDEN * np.abs(lasting))
    # Stripes differ from one to the next everywhere.
    sharp &= np.abs(sudden) > _UNUSUAL * 1.4826 * np.median(np.abs(sudden))
    jump = float(np.max(np.abs(lasting) * sharp, initial=0.0))
    # Crowds of stars make columns unlike too, but all of them.
    return jump if jump > _UNUSUAL * np.median(np.abs(lasting)) else 0.0


def warn_of_steps(exposure):
    """
    Warn of a sky that the background does not follow.
    """
    warn(
        'the sky of data changes abruptly, between halves of a detector or at the edge '
        'of a nebula, and the background that was measured on a mesh does not follow '
        'it: fluxes and flags are off there. Give background as a map, or detect in '
        'each half by itself.'
    )


def warn_of_rounding(exposure):
    """
    Warn of whole numbers that noise hardly changes, but for counts of few photons.
    """
    level, noise = (
        float(np.median(values)) for values in (exposure.background, exposure.bkg_error)
    )
    if noise > _COARSE or level < _PHOTONS * noise**2:
        return
    warn(
        f'data are whole numbers, in steps of {1 / noise:.2g} times the noise: the sky '
        'and its noise are lost in the rounding, and with them faint sources. Give '
        'the image before it was rounded.'
    )
