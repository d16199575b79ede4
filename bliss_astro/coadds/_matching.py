# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Matching of exposures: flux scales, levels of the sky, outlying pixels.
"""

import astropy.units as u
import numpy as np

from bliss_astro._warnings import warn

from ..units import MAD_TO_SIGMA, NANOMAGGY_ZERO_POINT, is_surface_brightness

__all__ = []

# The zero point of nanomaggies.
_NMGY = NANOMAGGY_ZERO_POINT
# What a detector counts; such numbers say nothing of the sky without a zero point.
_COUNTS = (u.adu, u.ct, u.electron, u.photon, u.DN)
# Keys under which the meta of an exposure may name its band.
_BAND_KEYS = ('band', 'BAND', 'filter', 'FILTER')
# Fits of the sky: the fewest common pixels, and the most that are looked at.
_MIN_PIXELS, _MAX_PIXELS = 200, 200_000
_MATCHES = (False, True, 'constant', 'plane')


class FluxScale:
    """The factors that bring exposures to one scale, found one by one."""

    def __init__(self, zero_points, zero_point_out):
        self.zero_points = _check_zero_points(zero_points)
        self.zero_point = _check_zero_point_out(zero_point_out, self.zero_points)
        self.to_nmgy = zero_point_out is not None and self.zero_point == _NMGY
        self.first = None
        self.band = None

    def apply(self, exposure, k):
        """Return an exposure on the common scale."""
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
        """Take the unit of the first exposure for that of the result."""
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
        """Return what the numbers of an exposure are multiplied by."""
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
        """Check that there is a zero point for each exposure."""
        points = self.zero_points
        if points is not None and np.ndim(points) and len(points) != count:
            more = 'at least ' if count > len(points) else ''
            msg = (
                f'zero_points must have a number for each of {more}{count} exposures; '
                f'got {len(points)}.'
            )
            raise ValueError(msg)

    def _check_band(self, exposure, k):
        """Refuse exposures that say that they are of different bands."""
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
    """Return the kind of match, `None` or ``'constant'`` or ``'plane'``."""
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
    """Fit what one sky is above another, robustly."""
    y, x = np.nonzero(use)
    if len(y) < _MIN_PIXELS:
        return None
    step = -(-len(y) // _MAX_PIXELS)
    y, x = y[::step], x[::step]
    values = np.asarray(difference[y, x], dtype=float)
    terms = np.stack(_terms(x, y, difference.shape, kind), axis=-1)
    keep = np.ones(len(values), dtype=bool)
    for _ in range(10):
        coefficients = np.linalg.lstsq(terms[keep], values[keep], rcond=None)[0]
        residual = values - terms @ coefficients
        # The median takes out what the stars leave in the first rounds.
        middle = np.median(residual[keep])
        scatter = MAD_TO_SIGMA * np.median(np.abs(residual[keep] - middle))
        now = np.abs(residual - middle) <= 3 * scatter
        if (now == keep).all() or now.sum() < _MIN_PIXELS // 2:
            break
        keep = now
    return coefficients.tolist()


def sky_surface(coefficients, shape):
    """Return what `fit_sky` found, as a number or a map."""
    if len(coefficients) == 1:
        return coefficients[0]
    y, x = np.mgrid[: shape[0], : shape[1]]
    terms = _terms(x, y, shape, 'plane')
    return sum(c * term for c, term in zip(coefficients, terms, strict=True))


def _terms(x, y, shape, kind):
    """Return what the coefficients multiply."""
    ones = np.ones(np.shape(x))
    if kind == 'constant':
        return [ones]
    return [ones, x - (shape[1] - 1) / 2, y - (shape[0] - 1) / 2]


# Side in pixels of the window whose brightest pixel says how bright a star may
# be in another exposure.
_WINDOW = 5
# Allowances for stars: on top of what the PSFs say, as a factor and a share of
# the light, for PSF models and alignments that are not perfect.
_PSF_FACTOR, _LIGHT_SHARE = 1.25, 0.1
# Share of the light allowed where PSFs are not known.
_LIGHT_SHARE_WITHOUT_PSF = 0.5
# Parts of the PSF fainter than this, in units of the peak, do not count.
_FAINTEST_PSF = 1e-3
# Neighbours of clipped pixels are held to this share of the limit.
_NEIGHBOUR_LIMIT = 0.5


class Extremes:
    """
    The highest and the lowest value of each pixel among the exposures.

    An outlier would drag a mean along with it. A mean without the two does not
    follow it.
    """

    def __init__(self, shape):
        self.high = _Extreme(shape)
        self.low = _Extreme(shape)

    def add(self, layer):
        """Take in a layer."""
        good = layer.good
        first = self.high.index < 0
        self.high.set(layer, good & (first | (layer.data > self.high.value)))
        self.low.set(layer, good & (first | (layer.data < self.low.value)))


class _Extreme:
    """A value of each pixel, with its weight and whose it is."""

    def __init__(self, shape):
        self.value = np.zeros(shape)
        self.weight = np.zeros(shape)
        self.index = np.full(shape, -1, dtype=np.int32)

    def set(self, layer, where):
        """Take the values of a layer at some pixels."""
        self.value[where] = layer.data[where]
        self.weight[where] = layer.weight[where]
        self.index[where] = layer.index


class Clipper:
    """
    Tells the outliers of each exposure from the sums of a first pass.

    Parameters
    ----------
    sums : `bliss_astro.coadds._layers.CoaddSums`
        The sums over all exposures.

    extremes : `Extremes`
        The highest values of them all.

    n_sigma : float
        The limit in units of the error.

    Notes
    -----
    An exposure is compared with the mean of the others, less the highest and the
    lowest of them, so that an outlier has no part in what it or others are compared
    with. (Of three, the middle one is kept; of two, only the higher one can
    be an outlier, as most outliers are bright.)
    The limit is ``n_sigma`` times the error of the difference (sky and
    sources) and a share of the light near the pixel. That share, one for each
    exposure, is the largest difference between its PSF and that of the
    others: the core of a star is sharper in good seeing, and that is no outlier.
    It plays the part of the derivative in the test of the drizzle package,
    but as the PSFs are known it need not be guessed.

    Values that are too low are sought in the exposure with the lowest one alone, since
    two bright outliers in one pixel spoil the comparison for the others.
    """

    def __init__(self, sums, extremes, n_sigma):
        self.sums = sums
        self.extremes = extremes
        self.n_sigma = n_sigma
        self.shares = psf_shares(sums)

    def outliers(self, layer):
        """
        Find the outliers of a layer.

        Parameters
        ----------
        layer : `bliss_astro.coadds._layers.Layer`
            The layer, as it went into the sums.

        Returns
        -------
        outliers : bool `~numpy.ndarray`, shape (ny, nx)
            The pixels to leave out.
        """
        from scipy.ndimage import binary_dilation, maximum_filter

        sums = self.sums
        count, weight, total = self._others(layer)
        testable = layer.good & (count > 0) & (weight > 0)
        weight = np.where(testable, weight, 1.0)
        reference = np.where(testable, total / weight, sums.mean)
        signal = np.maximum(reference, 0)
        # Upper bounds, as they still hold the noise of the extremes.
        squared = layer.weight**2
        variance = (sums.variance - squared * layer.variance) / weight**2
        inverse_gain = (sums.inverse_gain - squared / layer.gain) / weight**2
        error = np.sqrt(
            layer.variance
            + np.maximum(variance, 0)
            + signal * (1 / layer.gain + np.maximum(inverse_gain, 0))
        )
        near = maximum_filter(reference, _WINDOW) - 3 * np.sqrt(np.maximum(variance, 0))
        limit = self.n_sigma * error + self.shares[layer.index] * np.maximum(near, 0)
        residual = layer.data - reference
        low = (self.extremes.low.index == layer.index) & (residual < -limit)
        outliers = testable & ((residual > limit) | low)
        around = testable & binary_dilation(outliers, np.ones((3, 3)))
        return outliers | (around & (np.abs(residual) > _NEIGHBOUR_LIMIT * limit))

    def _others(self, layer):
        """
        Sum the exposures other than one and the extremes.

        Returns number, weights, and weighted values of what is left.
        """
        sums, high, low = self.sums, self.extremes.high, self.extremes.low
        count = sums.count - layer.good
        weight = sums.weight - layer.weight
        total = sums.total - layer.weight * layer.data
        not_high = (high.index >= 0) & (high.index != layer.index)
        # Of two, the lower one is what the higher one is compared with.
        not_low = (low.index >= 0) & (low.index != layer.index) & (sums.count > 2)
        not_low &= low.index != high.index
        for extreme, leave_out in ((high, not_high), (low, not_low)):
            count = count - leave_out
            weight = weight - np.where(leave_out, extreme.weight, 0)
            total = total - np.where(leave_out, extreme.weight * extreme.value, 0)
        return count, weight, total


def psf_shares(sums):
    """Compare the PSF of each exposure with that of the others."""
    psf = sums.psf
    if psf.lacking or len(psf.central) < 2:
        indices = [*psf.lacking, *(index for index, *_ in psf.central)]
        return dict.fromkeys(indices, _LIGHT_SHARE_WITHOUT_PSF)
    indices, images, weights = zip(*psf.central, strict=True)
    images, weights = np.array(images), np.array(weights)
    total = np.tensordot(weights, images, axes=1)
    order = np.argsort(images.max(axis=(1, 2)))
    shares = {}
    for k, index in enumerate(indices):
        # The mean may also lack another, of which these matter most.
        extreme = [int(j) for j in (*order[:2], *order[-2:]) if j != k]
        lacking = [[], *([j] for j in dict.fromkeys(extreme) if len(images) > 2)]
        largest = max(
            _difference(images[k], total, images, weights, [k, *more])
            for more in lacking
        )
        shares[index] = _PSF_FACTOR * largest + _LIGHT_SHARE
    return shares


def _difference(image, total, images, weights, without):
    """Return the largest difference from a mean PSF, in units of the light near."""
    from scipy.ndimage import maximum_filter

    rest = total - np.tensordot(weights[without], images[without], axes=1)
    rest = rest / (weights.sum() - weights[without].sum())
    near = maximum_filter(rest, _WINDOW)
    use = near > _FAINTEST_PSF * near.max()
    return float(np.max(np.abs(image - rest)[use] / near[use]))
