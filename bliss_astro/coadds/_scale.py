# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures brought to one scale of flux, and to one level of the sky.
"""

import astropy.units as u
import numpy as np

from bliss_astro._warnings import warn

from ..units import is_surface_brightness

__all__ = []

# The zero point of nanomaggies.
_NMGY = 22.5
# What a detector counts; such numbers say nothing of the sky without a zero point.
_COUNTS = (u.adu, u.ct, u.electron, u.photon, u.DN)
# Keys under which the meta of an exposure may name its band.
_BAND_KEYS = ('band', 'BAND', 'filter', 'FILTER')
# Fits of the sky: the fewest common pixels, and the most that are looked at.
_FEWEST, _MOST = 200, 200_000
_MATCHES = (False, True, 'constant', 'plane')


class FluxScale:
    """
    The factors that bring exposures to one scale, found one by one.

    Parameters
    ----------
    zero_points : float, 1D array_like or None
        AB magnitude of one unit of data, of all or of each exposure.

    zero_point_out : float or None
        The one of the result; by default that of the first exposure.
    """

    def __init__(self, zero_points, zero_point_out):
        self.zero_points = _check_zero_points(zero_points)
        self.zero_point = _check_zero_point_out(zero_point_out, self.zero_points)
        self.to_nmgy = zero_point_out is not None and self.zero_point == _NMGY
        self.first = None
        self.band = None

    def apply(self, exposure, k):
        """
        Return an exposure on the common scale.

        Parameters
        ----------
        exposure : `~bliss_astro.exposures.Exposure`
            The exposure.

        k : int
            Its number.

        Returns
        -------
        exposure : `~bliss_astro.exposures.Exposure`
            The same, or a copy whose numbers and unit were changed.
        """
        if self.first is None:
            self._begin(exposure)
        self._check_band(exposure, k)
        factor = self._factor(exposure, k)
        if factor == 1 and exposure.unit == self.unit:
            return exposure
        changes = {
            name: getattr(exposure, name) * factor
            for name in ('data', 'background', 'bkg_error')
        }
        if exposure.saturation is not None:
            changes['saturation'] = exposure.saturation * factor
        gain = exposure.effective_gain / factor
        return exposure.replace(**changes, effective_gain=gain, unit=self.unit)

    def _begin(self, exposure):
        """
        Take the unit of the first exposure for that of the result.
        """
        self.first = exposure.unit
        self.unit = u.nmgy if self.to_nmgy else exposure.unit
        if self.to_nmgy and is_surface_brightness(exposure.unit):
            msg = (
                f'zero_point_out={_NMGY} asks for nanomaggies per pixel, and the '
                f'exposures are in {exposure.unit}, a surface brightness. Leave it '
                'out, or multiply the exposures by the area of their pixels.'
            )
            raise ValueError(msg)
        counts = exposure.unit is not None and any(
            exposure.unit.is_equivalent(count)
            or exposure.unit.is_equivalent(count / u.s)
            for count in _COUNTS
        )
        if counts and self.zero_points is None:
            msg = (
                f'exposures are in {exposure.unit} and zero_points is None: they are '
                'taken to have one exposure time and one transparency. Give '
                'zero_points, AB magnitudes, if they do not.'
            )
            warn(msg)

    def _factor(self, exposure, k):
        """
        Return what the numbers of an exposure are multiplied by.
        """
        if self.zero_points is None:
            if exposure.unit == self.first:
                return 1.0
            both = self.first is not None and exposure.unit is not None
            if both and exposure.unit.is_equivalent(self.first):
                return float(exposure.unit.to(self.first))
            msg = (
                f'exposures differ in unit: the first is in {self.first}, number {k} '
                f'in {exposure.unit}. Give zero_points, AB magnitudes, to bring them '
                'together.'
            )
            raise ValueError(msg)
        if is_surface_brightness(exposure.unit) != is_surface_brightness(self.first):
            msg = (
                f'exposures differ in unit: the first is in {self.first}, number {k} '
                f'in {exposure.unit}, and one of both is a surface brightness.'
            )
            raise ValueError(msg)
        if np.ndim(self.zero_points) == 0:
            own = self.zero_points
        else:
            if k >= len(self.zero_points):
                self.check_length(k + 1)
            own = self.zero_points[k]
        if self.zero_point is None:
            self.zero_point = float(own)
        return float(10 ** (0.4 * (self.zero_point - own)))

    def check_length(self, count):
        """
        Check that there is a zero point for each exposure.

        Parameters
        ----------
        count : int
            The number of exposures, or a smaller one.
        """
        points = self.zero_points
        if points is not None and np.ndim(points) and len(points) != count:
            more = 'at least ' if count > len(points) else ''
            msg = (
                f'zero_points must have a number for each of {more}{count} exposures; '
                f'got {len(points)}.'
            )
            raise ValueError(msg)

    def _check_band(self, exposure, k):
        """
        Refuse exposures that say that they are of different bands.
        """
        named = (exposure.meta.get(key) for key in _BAND_KEYS)
        band = next((str(name).strip() for name in named if name is not None), None)
        if band is None:
            return
        if self.band is None:
            self.band = band
        elif band != self.band:
            msg = (
                f'exposures differ in band: number {k} is in {band!r}, those before '
                f'it in {self.band!r}.'
            )
            raise ValueError(msg)


def _check_zero_points(zero_points):
    if zero_points is None:
        return None
    array = np.asarray(getattr(zero_points, 'value', zero_points))
    if array.dtype.kind not in 'fiu' or array.ndim > 1 or not np.isfinite(array).all():
        msg = (
            'zero_points must be an AB magnitude, or one for each exposure; got '
            f'{zero_points!r:.60}.'
        )
        raise ValueError(msg)
    return array.astype(float)


def _check_zero_point_out(value, zero_points):
    if value is None:
        return None
    if zero_points is None:
        msg = 'zero_point_out needs zero_points, those of the exposures.'
        raise ValueError(msg)
    number = np.asarray(getattr(value, 'value', value))
    if number.ndim or number.dtype.kind not in 'fiu' or not np.isfinite(number):
        msg = f'zero_point_out must be one AB magnitude; got {value!r:.60}.'
        raise ValueError(msg)
    return float(number)


def check_match(match_background):
    """
    Return the kind of match, `None` or ``'constant'`` or ``'plane'``.
    """
    if not any(match_background is m for m in _MATCHES[:2]) and (
        not isinstance(match_background, str) or match_background not in _MATCHES
    ):
        msg = (
            "match_background must be False, True, 'constant' or 'plane'; got "
            f'{match_background!r}.'
        )
        raise ValueError(msg)
    if match_background is True:
        return 'constant'
    return match_background or None


def fit_sky(difference, use, kind):
    """
    Fit what one sky is above another, robustly.

    Parameters
    ----------
    difference : float `~numpy.ndarray`, shape (ny, nx)
        Difference of two images.

    use : bool `~numpy.ndarray`, shape (ny, nx)
        Where both are good.

    kind : {'constant', 'plane'}
        What is fitted.

    Returns
    -------
    coefficients : list of float or None
        The level at the centre of the image, and for a plane its slopes in x and
        y per pixel; `None` if there are too few pixels in common.
    """
    y, x = np.nonzero(use)
    if len(y) < _FEWEST:
        return None
    step = -(-len(y) // _MOST)
    y, x = y[::step], x[::step]
    values = np.asarray(difference[y, x], dtype=float)
    terms = np.stack(_terms(x, y, difference.shape, kind), axis=-1)
    keep = np.ones(len(values), dtype=bool)
    for _ in range(10):
        coefficients = np.linalg.lstsq(terms[keep], values[keep], rcond=None)[0]
        residual = values - terms @ coefficients
        # The median takes out what the stars leave in the first rounds.
        middle = np.median(residual[keep])
        scatter = 1.4826 * np.median(np.abs(residual[keep] - middle))
        now = np.abs(residual - middle) <= 3 * scatter
        if (now == keep).all() or now.sum() < _FEWEST // 2:
            break
        keep = now
    return coefficients.tolist()


def sky_surface(coefficients, shape):
    """
    Return what `fit_sky` found, as a number or a map.
    """
    if len(coefficients) == 1:
        return coefficients[0]
    y, x = np.mgrid[: shape[0], : shape[1]]
    terms = _terms(x, y, shape, 'plane')
    return sum(c * term for c, term in zip(coefficients, terms, strict=True))


def _terms(x, y, shape, kind):
    """
    Return what the coefficients multiply.
    """
    ones = np.ones(np.shape(x))
    if kind == 'constant':
        return [ones]
    return [ones, x - (shape[1] - 1) / 2, y - (shape[0] - 1) / 2]
