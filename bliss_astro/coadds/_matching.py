# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Matching of exposures: flux scales, levels of the sky, outlying pixels.
"""

import astropy.units as u
import numpy as np

from bliss_astro._warnings import warn

from ..units import MAD_TO_SIGMA, NANOMAGGY_ZERO_POINT, is_surface_brightness

# -- flux scales -------------------------------------------------------------------

# Units of detectors; such numbers have no flux without a zero point.
_COUNTS = (u.adu, u.ct, u.electron, u.photon, u.DN)


def number_of(name, numbers, k):
    """Return the number of an exposure, from one for all or a list."""
    if np.ndim(numbers) == 0:
        return numbers
    if k >= len(numbers):
        check_length(name, numbers, k + 1)
    return numbers[k]


def check_length(name, numbers, count):
    """Check that there is a number for each exposure."""
    if np.ndim(numbers) and len(numbers) != count:
        more = 'at least ' if count > len(numbers) else ''
        msg = (
            f'{name} must have a number for each of {more}{count} exposures; got '
            f'{len(numbers)}.'
        )
        raise ValueError(msg)


class FluxScale:
    """Factors that bring exposures to one scale, one exposure after the other."""

    def __init__(self, zero_points, zero_point_out):
        if zero_point_out is not None and zero_points is None:
            msg = 'zero_point_out needs zero_points, those of the exposures.'
            raise ValueError(msg)
        kinds = 'an AB magnitude, or one for each exposure'
        self.zero_points = _magnitudes('zero_points', zero_points, kinds, 1)
        out = _magnitudes('zero_point_out', zero_point_out, 'one AB magnitude', 0)
        self.zero_point = None if out is None else float(out)
        self._to_nmgy = self.zero_point == NANOMAGGY_ZERO_POINT
        self._begun = False

    def apply(self, exposure, k):
        """Return an exposure on the common scale."""
        if not self._begun:
            self._begin(exposure.unit)
        factor = self._factor(exposure.unit, k)
        if factor == 1 and exposure.unit == self.unit:
            return exposure
        changes = {'effective_gain': exposure.effective_gain / factor}
        for name in ('data', 'background', 'bkg_error', 'saturation'):
            value = getattr(exposure, name)
            changes[name] = None if value is None else value * factor
        return exposure.replace(**changes, unit=self.unit)

    def _begin(self, unit):
        """Take the unit of the first exposure for that of the result."""
        self._begun, self._first = True, unit
        self.unit = u.nmgy if self._to_nmgy else unit
        if self._to_nmgy and is_surface_brightness(unit):
            msg = (
                f'zero_point_out={NANOMAGGY_ZERO_POINT} makes nanomaggies per pixel, '
                f'and the exposures are in {unit}, a surface brightness. Leave it '
                'out, or multiply the exposures by the area of their pixels.'
            )
            raise ValueError(msg)
        if self.zero_points is None and unit is not None:
            rates = (count / time for count in _COUNTS for time in (1, u.s))
            if any(unit.is_equivalent(rate) for rate in rates):
                warn(
                    f'exposures are in {unit} and zero_points is None: they are taken '
                    'to have one exposure time and one transparency. Give '
                    'zero_points, AB magnitudes, if they do not.'
                )

    def _factor(self, unit, k):
        """Return the factor of an exposure."""
        first = self._first
        mixed = is_surface_brightness(unit) != is_surface_brightness(first)
        if self.zero_points is not None and not mixed:
            own = number_of('zero_points', self.zero_points, k)
            if self.zero_point is None:
                self.zero_point = float(own)
            return float(10 ** (0.4 * (self.zero_point - own)))
        if self.zero_points is None and unit == first:
            return 1.0
        if not mixed and None not in (unit, first) and unit.is_equivalent(first):
            return float(unit.to(first))
        advice = 'give zero_points, AB magnitudes, to bring them together'
        advice = 'one of both is a surface brightness' if mixed else advice
        msg = (
            f'exposures differ in unit: exposures[0] is in {first}, exposures[{k}] in '
            f'{unit}; {advice}.'
        )
        raise ValueError(msg)


def _magnitudes(name, value, kinds, max_ndim):
    """Check magnitudes of at most so many dimensions; `None` stays."""
    if value is None:
        return None
    array = np.asarray(getattr(value, 'value', value))
    sound = array.dtype.kind in 'fiu' and array.ndim <= max_ndim
    if not (sound and np.isfinite(array).all()):
        msg = f'{name} must be {kinds}; got {value!r:.60}.'
        raise ValueError(msg)
    return array.astype(float)


# -- levels of the sky -------------------------------------------------------------

# Fits of the sky: the fewest common pixels, and the most that are looked at.
_MIN_PIXELS, _MAX_PIXELS = 200, 200_000
_MAX_ROUNDS, _N_SIGMA = 10, 3.0
# Coefficients by the argument ``match_background``.
_N_COEFFICIENTS = {'constant': 1, 'plane': 3}


def check_match(match_background):
    """Return the number of coefficients of a match, 0 for none."""
    if isinstance(match_background, bool):
        return int(match_background)
    if isinstance(match_background, str) and match_background in _N_COEFFICIENTS:
        return _N_COEFFICIENTS[match_background]
    msg = (
        "match_background must be False, True, 'constant' or 'plane'; got "
        f'{match_background!r}.'
    )
    raise ValueError(msg)


def fit_sky(difference, use, n):
    """Fit n coefficients of one sky above another, robustly; None of few pixels."""
    y, x = np.nonzero(use)
    if len(y) < _MIN_PIXELS:
        return None
    step = -(-len(y) // _MAX_PIXELS)
    y, x = y[::step], x[::step]
    values = np.asarray(difference[y, x], dtype=float)
    terms = _sky_terms(y, x, difference.shape, n)
    keep = np.ones(len(values), dtype=bool)
    for _ in range(_MAX_ROUNDS):
        coefficients = np.linalg.lstsq(terms[keep], values[keep], rcond=None)[0]
        residual = values - terms @ coefficients
        # The median takes out what the stars leave in the first rounds.
        middle = np.median(residual[keep])
        scatter = MAD_TO_SIGMA * np.median(np.abs(residual[keep] - middle))
        now = np.abs(residual - middle) <= _N_SIGMA * scatter
        if (now == keep).all() or now.sum() < _MIN_PIXELS // 2:
            break
        keep = now
    return coefficients.tolist()


def sky_surface(coefficients, shape):
    """Return the map of the coefficients of `fit_sky`."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return _sky_terms(y, x, shape, len(coefficients)) @ coefficients


def _sky_terms(y, x, shape, n):
    """Return the first n of 1, x and y, from the middle of the image."""
    terms = [np.ones(np.shape(x)), x - (shape[1] - 1) / 2, y - (shape[0] - 1) / 2]
    return np.stack(terms[:n], axis=-1)


# -- outlying pixels ---------------------------------------------------------------

# Side in pixels of the window whose brightest pixel bounds the brightness of a star
# in another exposure.
_WINDOW = 5
# Allowances for stars: beyond the difference of the PSFs, as a factor and a share of
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
    Highest and lowest value of each pixel, with its weight and exposure.

    An outlier would drag a mean along with it. A mean without the two does not
    follow it.
    """

    def __init__(self, shape):
        kind = [('value', float), ('weight', float), ('index', np.int32)]
        self.high, self.low = np.zeros((2, *shape), kind)
        self.high['index'] = self.low['index'] = -1

    def add(self, layer):
        """Take in a layer."""
        first = self.high['index'] < 0
        for extreme, beyond in ((self.high, np.greater), (self.low, np.less)):
            new = layer.good & (first | beyond(layer.data, extreme['value']))
            extreme['value'][new] = layer.data[new]
            extreme['weight'][new] = layer.weight[new]
            extreme['index'][new] = layer.index


class Clipper:
    """
    Outliers of each exposure, by the sums of a first pass.

    Parameters
    ----------
    sums : `bliss_astro.coadds._combine.CoaddSums`
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
        self.sums, self.extremes, self.n_sigma = sums, extremes, n_sigma
        self._shares = _psf_shares(sums.psf)

    def outliers(self, layer):
        """Return the pixels of a layer to leave out."""
        from scipy.ndimage import binary_dilation, maximum_filter

        sums = self.sums
        count, weight, total = self._others(layer)
        testable = layer.good & (count > 0) & (weight > 0)
        weight = np.where(testable, weight, 1.0)
        reference = np.where(testable, total / weight, sums.mean)
        # Upper bounds, as they still hold the noise of the extremes.
        squared = layer.weight**2
        variance = (sums.variance - squared * layer.variance) / weight**2
        variance = np.maximum(variance, 0)
        inverse_gain = (sums.inverse_gain - squared / layer.gain) / weight**2
        inverse_gain = 1 / layer.gain + np.maximum(inverse_gain, 0)
        error = layer.variance + variance + np.maximum(reference, 0) * inverse_gain
        near = maximum_filter(reference, _WINDOW) - 3 * np.sqrt(variance)
        limit = self.n_sigma * np.sqrt(error)
        limit += self._shares[layer.index] * np.maximum(near, 0)
        residual = layer.data - reference
        low = (self.extremes.low['index'] == layer.index) & (residual < -limit)
        outliers = testable & ((residual > limit) | low)
        around = testable & binary_dilation(outliers, np.ones((3, 3)))
        return outliers | (around & (np.abs(residual) > _NEIGHBOUR_LIMIT * limit))

    def _others(self, layer):
        """Number, weights and weighted values without a layer and the extremes."""
        sums, high, low = self.sums, self.extremes.high, self.extremes.low
        count = sums.count - layer.good
        weight = sums.weight - layer.weight
        total = sums.total - layer.weight * layer.data
        not_high, not_low = (
            (extreme['index'] >= 0) & (extreme['index'] != layer.index)
            for extreme in (high, low)
        )
        # Of two, the lower one is what the higher one is compared with.
        not_low &= (sums.count > 2) & (low['index'] != high['index'])
        for extreme, leave_out in ((high, not_high), (low, not_low)):
            own = np.where(leave_out, extreme['weight'], 0)
            count = count - leave_out
            weight = weight - own
            total = total - own * extreme['value']
        return count, weight, total


def _psf_shares(psf):
    """Share of the light by which the PSF of each exposure differs from the others."""
    if psf.lacking or len(psf.central) < 2:
        indices = [*psf.lacking, *(index for index, *_ in psf.central)]
        return dict.fromkeys(indices, _LIGHT_SHARE_WITHOUT_PSF)
    indices, images, weights = zip(*psf.central, strict=True)
    images, weights = np.array(images), np.array(weights)
    total = np.tensordot(weights, images, axes=1)
    order = np.argsort(images.max(axis=(1, 2))).tolist()
    shares = {}
    for k, index in enumerate(indices):
        # The mean may also lack another, of which these matter most.
        lacking = [[k]]
        if len(images) > 2:
            extreme = dict.fromkeys((*order[:2], *order[-2:]))
            lacking += [[k, j] for j in extreme if j != k]
        rests = (
            (total - np.tensordot(weights[without], images[without], axes=1))
            / (weights.sum() - weights[without].sum())
            for without in lacking
        )
        largest = max(_difference(images[k], rest) for rest in rests)
        shares[index] = _PSF_FACTOR * largest + _LIGHT_SHARE
    return shares


def _difference(image, rest):
    """Return the largest difference from a mean PSF, in units of the light near."""
    from scipy.ndimage import maximum_filter

    near = maximum_filter(rest, _WINDOW)
    use = near > _FAINTEST_PSF * near.max()
    return float(np.max(np.abs(image - rest)[use] / near[use]))
