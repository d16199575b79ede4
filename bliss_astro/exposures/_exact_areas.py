# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Areas of one exact value: pixels that no detector recorded, and plateaus.
"""

import numpy as np

from bliss_astro._warnings import warn

__all__ = ['find_exact_areas', 'mask_exact_areas']

# An area has so many pixels whose eight neighbours have their value too; and many
# more where the noise itself is rounded to few values.
_LEAST, _LEAST_ROUNDED = 64, 4096
# Small areas per pixel, above which that is the case.
_ROUNDED = 2e-4
# Share of other values within an area, in spots of at most so many pixels: sky of
# so few photons that most pixels have none is no such area.
_SPOTS, _SPOT_SIZE = 1e-3, 9
# What is so many times the scatter of the image above its median is full.
_FULL = 50.0
# Where less of the image would remain, it is taken as it is.
_REMAINDER = 0.02


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
    values = np.where(bad, np.nan, data)
    core = _even(values)
    if np.count_nonzero(core) < _LEAST:
        return []
    from scipy.ndimage import binary_dilation, find_objects, label

    labels, n_areas = label(core, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=n_areas + 1)
    small = np.count_nonzero(sizes[1:] < _LEAST)
    least = _LEAST_ROUNDED if small > _ROUNDED * data.size else _LEAST
    good = values[np.isfinite(values)]
    middle = np.median(good)
    scatter = 1.4826 * np.median(np.abs(good - middle))
    areas = []
    boxes = find_objects(labels)
    for k in np.flatnonzero(sizes >= least):
        if k == 0:
            continue
        # With the pixels around the core, which have the value too.
        box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[k - 1])
        own = binary_dilation(labels[box] == k, np.ones((3, 3)))
        own &= np.isfinite(values[box])
        if _is_spotted(own):
            continue
        value = float(values[box][own][0])
        area = np.zeros(data.shape, dtype=bool)
        area[box] = own
        areas.append((value, area, value > middle + _FULL * scatter))
    return areas


def _even(values):
    """
    Find pixels whose neighbours have their value; beyond the edge there are none.
    """
    even = np.isfinite(values)
    right = values[:, 1:] == values[:, :-1]
    if np.count_nonzero(right) < _LEAST:
        return np.zeros(values.shape, dtype=bool)
    even[:, :-1] &= right
    even[:, 1:] &= right
    down = values[1:] == values[:-1]
    row = even.copy()
    even[:-1] &= down & row[1:]
    even[1:] &= down & row[:-1]
    return even


def _is_spotted(area):
    """
    Tell whether an area is riddled with single pixels of another value.
    """
    from scipy.ndimage import binary_fill_holes, label

    holes, n_holes = label(binary_fill_holes(area) & ~area)
    sizes = np.bincount(holes.ravel(), minlength=n_holes + 1)[1:]
    return np.count_nonzero(sizes <= _SPOT_SIZE) > _SPOTS * np.count_nonzero(area)


def mask_exact_areas(exposure, estimated):
    """
    Mask areas of one exact value, with a warning.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    estimated : dict
        Says what was done, under ``'mask'`` or ``'saturated'``; changed in place.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The same, or one with a larger mask.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If there are areas that hold no data.
    """
    areas = find_exact_areas(exposure.data, exposure.mask)
    empty = [(value, area) for value, area, full in areas if not full]
    full = [(value, area) for value, area, full in areas if full]
    n_good = np.count_nonzero(~exposure.mask)
    n_left = n_good - sum(np.count_nonzero(area) for _, area in empty + full)
    if not areas or n_left < _REMAINDER * exposure.data.size:
        return exposure
    changes = {}
    if full:
        saturated = np.logical_or.reduce([area for _, area in full])
        changes['saturated'] = exposure.saturated | saturated
        estimated['saturated'] = f'{_count(saturated)} in plateaus of one exact value'
    if empty:
        mask = np.logical_or.reduce([area for _, area in empty])
        changes['mask'] = exposure.mask | mask
        estimated['mask'] = f'{_count(mask)} added in areas of one exact value'
        value, largest = max(empty, key=lambda one: np.count_nonzero(one[1]))
        y, x = np.argwhere(largest)[0]
        more = f' and {len(empty) - 1} more' if len(empty) > 1 else ''
        msg = (
            f'{_count(mask)} of data lie in areas of one exact value (the largest '
            f'with {value:g} at x={x}, y={y}{more}): taken to hold no data and masked. '
            'Give mask to say so yourself.'
        )
        warn(msg)
    return exposure.replace(**changes)


def _count(mask):
    """
    Say how many pixels are marked.
    """
    return f'{np.count_nonzero(mask)} pixels'
