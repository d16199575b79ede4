# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cut-outs: what was asked for, and where it lies on the sky.
"""

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS

from bliss_astro._warnings import warn

__all__ = ['check_wcs', 'cut_wcs', 'sky_wcs', 'two_slices']

# Places along each axis at which a WCS is tried.
_N_PLACES = 5
# wcslib takes NaN for its mark of what is not defined, 9.9e107, and counts on.
_UNDEFINED = 1e100


def check_wcs(wcs):
    """
    Check that coordinates are a two-dimensional astropy WCS.

    Parameters
    ----------
    wcs : object
        What was given.

    Returns
    -------
    wcs : object
        The same.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if wcs is None:
        return None
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    n_dim = getattr(low_level, 'pixel_n_dim', None)
    if n_dim != 2:
        what = type(wcs).__name__ if n_dim is None else f'one of {n_dim} dimensions'
        msg = f'wcs must be a two-dimensional astropy WCS; got {what}.'
        raise TypeError(msg)
    return wcs


def sky_wcs(wcs, shape):
    """
    Check that coordinates are a two-dimensional astropy WCS, of the sky.

    Parameters
    ----------
    wcs : object
        What was given.

    shape : tuple of int
        The shape (ny, nx) of the image.

    Returns
    -------
    wcs : object or None
        The same; `None`, with a warning, if it gives no position on the sky.

    Raises
    ------
    TypeError
        If it is something else.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If it gives no position on the sky anywhere, or in a part of the image.
    """
    if check_wcs(wcs) is None:
        return None
    failure, share = _sky_failure(wcs, shape)
    if failure is not None:
        msg = f'wcs is left out, so that rows have no sky position: {failure}'
    elif share > 0:
        msg = (
            f'wcs gives no position on the sky in {100 * share:.0f} % of the image; '
            'rows there have none (NaN).'
        )
    else:
        return wcs
    warn(msg)
    return None if failure is not None else wcs


def _sky_failure(wcs, shape):
    """
    Say why a WCS gives no sky positions, or in which share of the image.
    """
    x, y = np.meshgrid(*(np.linspace(0, n - 1, _N_PLACES) for n in reversed(shape)))
    try:
        if not getattr(wcs, 'has_celestial', True):
            names = ', '.join(str(name) or 'none' for name in wcs.wcs.ctype)
            return f'its axes ({names}) are not celestial', 1.0
        high = wcs if hasattr(wcs, 'pixel_to_world') else HighLevelWCSWrapper(wcs)
        # Angles that are no numbers are told below, not by numpy.
        with np.errstate(invalid='ignore'):
            sky = high.pixel_to_world(x.ravel(), y.ravel())
            if not isinstance(sky, SkyCoord):
                return f'it gives {type(sky).__name__} in place of SkyCoord', 1.0
            sky = sky.icrs
        bad = ~(np.isfinite(sky.ra.deg) & np.isfinite(sky.dec.deg))
        low = high.low_level_wcs.pixel_to_world_values(x.ravel(), y.ravel())
        bad |= ~np.all(np.abs(low) < _UNDEFINED, axis=0)
    except Exception as error:  # noqa: BLE001
        # Each library fails in its own ways, none of which spoils the image.
        return ' '.join(str(error).split()) or type(error).__name__, 1.0
    if bad.all():
        return 'it gives no finite position', 1.0
    still = np.ptp(sky.ra.deg[~bad]) == 0 and np.ptp(sky.dec.deg[~bad]) == 0
    if still and max(shape) > 1:
        return 'all pixels have one position', 1.0
    return None, float(bad.mean())


def cut_wcs(wcs, rows, columns):
    """
    Shift a WCS to the origin of a cut-out.

    Parameters
    ----------
    wcs : object
        The WCS.

    rows, columns : slice
        The bounds of the cut-out.

    Returns
    -------
    wcs : object
        The WCS of the cut-out.
    """
    if hasattr(wcs, 'slice'):
        cut = wcs.slice((rows, columns))
        cut.array_shape = (rows.stop - rows.start, columns.stop - columns.start)
        return cut
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    return HighLevelWCSWrapper(SlicedLowLevelWCS(low_level, (rows, columns)))


def two_slices(item, shape):
    """
    Turn an index into two slices with explicit bounds.

    Parameters
    ----------
    item : object
        What stood in the brackets.

    shape : tuple of int
        The shape of the image.

    Returns
    -------
    slices : list of slice
        Rows and columns.

    Raises
    ------
    TypeError
        If it is not made of slices.

    ValueError
        If the slices have steps, or nothing of the image in them.
    """
    if not isinstance(item, tuple):
        item = (item, slice(None))
    if len(item) != 2 or not all(isinstance(part, slice) for part in item):
        msg = (
            'an exposure is cut by two slices, exposure[y0:y1, x0:x1]; got '
            f'{item!r}. Index exposure.data for single pixels.'
        )
        raise TypeError(msg)
    bounds = []
    for part, length, axis in zip(item, shape, 'yx', strict=True):
        start, stop, step = part.indices(length)
        if step != 1:
            msg = f'a cut-out must take every pixel; got step {step} in {axis}.'
            raise ValueError(msg)
        if stop <= start:
            msg = (
                f'a cut-out must have pixels; {part.start}:{part.stop} in {axis} has '
                f'none within 0:{length}.'
            )
            raise ValueError(msg)
        bounds.append(slice(start, stop))
    return bounds
