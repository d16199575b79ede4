# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Where the pixels of one image lie in another.
"""

import numpy as np
from astropy.wcs.utils import pixel_to_pixel

from bliss_astro._warnings import collect_warnings

__all__ = ['PixelMapping', 'map_pixels', 'pixel_area']

# The mapping is computed on nodes this far apart, in pixels, and interpolated
# with cubic splines; more accurate than the inversion of a distortion, whose
# tolerance is the largest error allowed.
_SPACING = 16
_TOLERANCE = 1e-4
_N_CHECKS = 97


def map_pixels(wcs_from, wcs_to, x, y):
    """
    Map pixels of one image to those of another.

    Parameters
    ----------
    wcs_from, wcs_to : object
        The two WCS.

    x, y : float `~numpy.ndarray`
        Places, pixels.

    Returns
    -------
    x, y : float `~numpy.ndarray`
        The same places in the other image; NaN where there is none.
    """
    with collect_warnings():
        # Places far outside of a distorted image, whose inversion does not
        # converge, become NaN; astropy says so in a warning of no class.
        x, y = pixel_to_pixel(wcs_from, wcs_to, x, y)
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)


class PixelMapping:
    """
    Where the pixels of an output grid lie in an input image.

    Parameters
    ----------
    wcs_out, wcs_in : object
        The two WCS.

    shape : tuple of int
        Shape of the output grid.
    """

    def __init__(self, wcs_out, wcs_in, shape):
        self.wcs_out, self.wcs_in, self.shape = wcs_out, wcs_in, tuple(shape)
        self._splines = self._interpolated()

    def _interpolated(self):
        """
        Return splines of the mapping, or `None` if they are not good enough.
        """
        from scipy.interpolate import RectBivariateSpline

        # One pixel more on each side, for the derivatives at the edges.
        ys, xs = (
            np.linspace(-1, n, max(4, int(np.ceil((n + 1) / _SPACING)) + 1))
            for n in self.shape
        )
        nodes = map_pixels(self.wcs_out, self.wcs_in, *np.meshgrid(xs, ys))
        if not np.isfinite(nodes).all():
            return None
        splines = [RectBivariateSpline(ys, xs, values) for values in nodes]
        rng = np.random.default_rng(0)
        check_y, check_x = (rng.uniform(-1, n, _N_CHECKS) for n in self.shape)
        exact = map_pixels(self.wcs_out, self.wcs_in, check_x, check_y)
        error = [
            np.abs(spline.ev(check_y, check_x) - value).max()
            for spline, value in zip(splines, exact, strict=True)
        ]
        # NaN is not good enough either.
        return splines if max(error) < _TOLERANCE else None

    def rows(self, start, stop):
        """
        Map some rows of the output grid.

        Parameters
        ----------
        start, stop : int
            The first row, and the one after the last.

        Returns
        -------
        x, y : float `~numpy.ndarray`, shape (stop - start, nx)
            Places in the input image, pixels.

        jacobian : float `~numpy.ndarray`, shape (2, 2, stop - start, nx)
            Derivatives of (x, y) with respect to the output's (x, y).
        """
        ys = np.arange(start - 1, stop + 1, dtype=float)
        xs = np.arange(-1, self.shape[1] + 1, dtype=float)
        if self._splines is not None:
            places = [spline(ys, xs) for spline in self._splines]
        else:
            places = map_pixels(self.wcs_out, self.wcs_in, *np.meshgrid(xs, ys))
        jacobian = [
            [(v[1:-1, 2:] - v[1:-1, :-2]) / 2, (v[2:, 1:-1] - v[:-2, 1:-1]) / 2]
            for v in places
        ]
        x, y = (v[1:-1, 1:-1] for v in places)
        return x, y, np.array(jacobian)

    def blocks(self, n_pixels=2**18):
        """
        Go through the rows of the output grid, some at a time.

        Parameters
        ----------
        n_pixels : int, optional
            About how many pixels at a time.

        Yields
        ------
        rows : slice
            The rows.
        """
        step = max(1, n_pixels // self.shape[1])
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))


def pixel_area(jacobian):
    """
    Return the area of an output pixel in input pixels.

    Parameters
    ----------
    jacobian : float `~numpy.ndarray`, shape (2, 2, ...)
        Derivatives of the input's pixels with respect to the output's.

    Returns
    -------
    area : float `~numpy.ndarray`
        The area.
    """
    return np.abs(jacobian[0, 0] * jacobian[1, 1] - jacobian[0, 1] * jacobian[1, 0])
