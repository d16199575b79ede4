# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cut-outs: what was asked for, and where it lies on the sky.
"""

__all__ = ['check_wcs', 'cut_wcs', 'two_slices']


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
    from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS

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
