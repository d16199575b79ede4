# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
WCS of images: checks, cut-outs and joined pixels.
"""

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS

from bliss_astro._warnings import warn

__all__ = []

# Places along each axis at which a WCS is tried.
_N_PLACES = 5
# wcslib takes NaN for its mark of what is not defined, 9.9e107, and counts on.
_UNDEFINED = 1e100
# Points along each axis, and degree of distortions, where a WCS is fitted anew.
_N_FIT_POINTS, _SIP_DEGREE = 16, 3


def check_wcs(wcs):
    """Check that coordinates are a two-dimensional astropy WCS, or None."""
    if wcs is None:
        return None
    n_dim = getattr(getattr(wcs, 'low_level_wcs', wcs), 'pixel_n_dim', None)
    if n_dim != 2:
        kind = type(wcs).__name__ if n_dim is None else f'one of {n_dim} dimensions'
        msg = f'wcs must be a two-dimensional astropy WCS; got {kind}.'
        raise TypeError(msg)
    return wcs


def sky_wcs(wcs, shape):
    """
    Check that coordinates are a two-dimensional WCS, and leave out one without sky.

    Parameters
    ----------
    wcs : object
        WCS or None.

    shape : tuple of int
        Shape (ny, nx) of the image.

    Returns
    -------
    wcs : object or None
        The same; `None`, with a warning, if it gives no position on the sky. A
        warning too if it gives none in a part of the image.
    """
    if check_wcs(wcs) is None:
        return None
    failure, share = _sky_failure(wcs, shape)
    if failure is not None:
        warn(f'wcs is left out, so that rows have no sky position: {failure}')
        return None
    if share > 0:
        warn(
            f'wcs gives no position on the sky in {100 * share:.0f} % of the image; '
            'rows there have none (NaN).'
        )
    return wcs


def _sky_failure(wcs, shape):
    """Reason for which a WCS gives no sky positions, and share of the image."""
    x, y = np.meshgrid(*(np.linspace(0, n - 1, _N_PLACES) for n in reversed(shape)))
    try:
        if not getattr(wcs, 'has_celestial', True):
            names = ', '.join(str(name) or 'none' for name in wcs.wcs.ctype)
            return f'its axes ({names}) are not celestial', 1.0
        high = _high_level(wcs)
        # Angles that are no numbers are counted below, and are no error of numpy's.
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


def _high_level(wcs):
    return wcs if hasattr(wcs, 'pixel_to_world') else HighLevelWCSWrapper(wcs)


def cut_wcs(wcs, rows, columns):
    """Shift a WCS to the origin of a cut-out with those slices as bounds."""
    if hasattr(wcs, 'slice'):
        cut = wcs.slice((rows, columns))
        cut.array_shape = (rows.stop - rows.start, columns.stop - columns.start)
        return cut
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    return HighLevelWCSWrapper(SlicedLowLevelWCS(low_level, (rows, columns)))


def whole_wcs(wcs):
    """Return a FITS WCS again, where astropy wrapped one up to cut it."""
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    base = getattr(low_level, '_wcs', None)
    slices = getattr(low_level, '_slices_array', None)
    if slices is None or not hasattr(base, 'slice'):
        return wcs
    if any(not isinstance(part, slice) for part in slices):
        return wcs
    return base.slice(tuple(slices))


def binned_wcs(wcs, shape, n):
    """WCS of an image of that shape of which n x n pixels are joined into one."""
    distortions = ('sip', 'cpdis1', 'cpdis2', 'det2im1', 'det2im2')
    is_fits = hasattr(wcs, 'sip')
    if is_fits and all(getattr(wcs, name, None) is None for name in distortions):
        # Not by slices: of a WCS with a CD matrix astropy scales CDELT.
        joined = wcs.deepcopy()
        joined.wcs.crpix = (wcs.wcs.crpix - 0.5) / n + 0.5
        if wcs.wcs.has_cd():
            joined.wcs.cd = wcs.wcs.cd * n
        else:
            joined.wcs.cdelt = wcs.wcs.cdelt * n
        joined.array_shape = tuple(length // n for length in shape)
        return joined
    # Distortions are polynomials in pixels, which are no longer the same.
    from astropy.wcs.utils import fit_wcs_from_points

    axes = (np.linspace(0, length - 1, _N_FIT_POINTS) for length in reversed(shape))
    x, y = (values.ravel() for values in np.meshgrid(*axes))
    binned = ((x + 0.5) / n - 0.5, (y + 0.5) / n - 0.5)
    sky = _high_level(wcs).pixel_to_world(x, y)
    return fit_wcs_from_points(binned, sky, sip_degree=_SIP_DEGREE)
