# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sums of coadds: layers on one flux scale, their weights, their sums, outlying pixels.
"""

import astropy.units as u
import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter

from bliss_astro._arguments import must, require
from bliss_astro._warnings import warn
from bliss_astro.units import NANOMAGGY_ZERO_POINT, is_surface_brightness

from ._noise import input_kernel
from ._psf import Cells, PSFMean

# Units of detectors; such numbers have no flux without a zero point.
_COUNTS = (u.adu, u.ct, u.electron, u.photon, u.DN)
_WEIGHTS = ('inverse_variance', 'uniform')
# Pixels so many sigma above the sky belong to a source, as do those around them.
_SOURCE_SIGMA, _SOURCE_MARGIN = 3.5, 4
# Side in pixels of the window whose brightest pixel bounds the brightness of a star
# in another exposure.
_WINDOW = 5
# Allowances for stars: beyond the difference of the PSFs, as a factor and a share of
# the light, for PSF models and alignments that are not perfect; and the share of the
# light where PSFs are not known.
_PSF_FACTOR, _LIGHT_SHARE, _LIGHT_SHARE_WITHOUT_PSF = 1.25, 0.1, 0.5
# Parts of the PSF fainter than this, in units of the peak, do not count.
_FAINTEST_PSF = 1e-3
# Neighbours of clipped pixels are held to this share of the limit.
_NEIGHBOUR_LIMIT = 0.5

# -- layers ------------------------------------------------------------------------


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
        allowed = f'have a number for each of {more}{count} exposures'
        raise ValueError(must(name, allowed, len(numbers)))


class FluxScale:
    """Factors that bring exposures to one scale, one exposure after the other."""

    def __init__(self, zero_points, zero_point_out):
        if zero_point_out is not None and zero_points is None:
            msg = 'zero_point_out needs zero_points, those of the exposures.'
            raise ValueError(msg)
        self.zero_points = _magnitudes(
            'zero_points', zero_points, 'an AB magnitude, or one for each exposure', 1
        )
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
    sound = sound and np.isfinite(array).all()
    require(sound, name, f'be {kinds}', f'{value!r:.60}')
    return array.astype(float)


class Weights:
    """Weights of an exposure, not normalised, by the argument ``weights``."""

    def __init__(self, weights):
        self.name, self.numbers = weights, None
        if isinstance(weights, str) and weights in _WEIGHTS:
            return
        try:
            numbers = np.array(weights, dtype=float)
        except (TypeError, ValueError):
            numbers = np.array(np.nan)
        sound = np.isfinite(numbers).all() and (numbers >= 0).all() and numbers.any()
        allowed = (
            "be 'inverse_variance', 'uniform' or a number for each exposure, none "
            'negative and not all 0'
        )
        sound = sound and numbers.ndim == 1
        require(sound, 'weights', allowed, f'{weights!r:.60}')
        self.name, self.numbers = numbers.tolist(), numbers

    def __call__(self, exposure, index):
        """Return the weight of an aligned exposure, a number or a map."""
        if self.name == 'inverse_variance':
            return _depth_weights(exposure)
        numbers = 1.0 if self.numbers is None else self.numbers
        return number_of('weights', numbers, index)


def _depth_weights(exposure):
    """Return the inverse variance of the sky's noise over areas, pixel by pixel."""
    # Interpolation moves variance from a pixel into its covariance with the next, and
    # how much depends on where the new pixel lies between the old ones. The sum over
    # all distances stays: the depth of an exposure. Weights by the variance alone
    # would favour what was smoothed most, and the PSF would change by the pixel.
    variance = np.square(exposure.bkg_error, dtype=float)
    total = float(input_kernel(exposure).sum())
    # Smoothing changes variance and gain by opposite factors, so that their
    # product is that of the exposure before.
    product = variance * exposure.effective_gain
    if total <= 1 or np.ndim(product) == 0:
        return 1 / (variance * max(total, 1))
    good = ~exposure.mask
    mean = np.mean(np.broadcast_to(variance, exposure.shape)[good])
    return np.mean(product[good]) / (mean * total) / product


class Layer:
    """Aligned exposure on the grid: light above the sky, and `Weights` by number."""

    def __init__(self, exposure, index, weights):
        self.exposure, self.index = exposure, index
        counts = getattr(exposure, 'n_exposures', None)
        covered = np.ones(exposure.shape, bool) if counts is None else counts > 0
        saturated = covered & exposure.saturated
        maps = exposure.maps()
        self.good = covered & ~exposure.mask
        self.data = np.where(self.good, exposure.data - exposure.background, 0.0)
        self.variance = np.square(maps['bkg_error'], dtype=float)
        self.gain = np.asarray(maps['effective_gain'], dtype=float)
        self.weight = np.where(self.good, weights(exposure, index), 0.0)
        self.good = self.weight > 0
        self.n_masked = int(np.sum(covered & exposure.mask & ~saturated))
        self.n_saturated = int(np.sum(saturated))


# -- sums --------------------------------------------------------------------------


class CoaddSums:
    """Weighted sums over layers."""

    def __init__(self, shape, psf_shapes=None):
        self.cells = Cells(shape)
        self.psf = PSFMean(self.cells, psf_shapes)
        self.weight, self.total = np.zeros((2, *shape))
        self.variance, self.inverse_gain = np.zeros((2, *shape))
        self.count = np.zeros(shape, dtype=np.int32)
        self.saturated = np.zeros(shape, dtype=bool)
        # By layer: its kernel, and the variance that it adds to each cell.
        self._kernels = []
        self._psf_error = self._background_error = 0.0

    def add(self, layer, weight=None):
        """Add a layer."""
        weight = layer.weight if weight is None else weight
        squared = weight**2
        share = squared * layer.variance
        self.weight += weight
        self.total += weight * layer.data
        self.variance += share
        self.inverse_gain += squared / layer.gain
        self.count += weight > 0
        self.saturated |= layer.exposure.saturated
        # Errors of the PSF are taken to be common to all, those of the sky not.
        self._psf_error += weight.sum() * layer.exposure.psf_error
        self._background_error += share.sum() * layer.exposure.background_error**2
        self._kernels.append((input_kernel(layer.exposure), self.cells.sum(share)))
        self.psf.add(layer.exposure, self.cells.sum(weight), layer.index)

    @property
    def mean(self):
        """Weighted mean so far; 0 where nothing counts."""
        return self.total / np.where(self.weight > 0, self.weight, 1)

    def sources(self):
        """Pixels in or near sources, and those without exposures."""
        mean, empty = self.mean, self.count == 0
        level = np.median(mean[~empty])
        noise = np.sqrt(self.variance) / np.where(empty, 1, self.weight)
        bright = ~empty & (mean - level > _SOURCE_SIGMA * noise)
        return empty | binary_dilation(bright, iterations=_SOURCE_MARGIN)

    def _kernel(self):
        """Correlation of the noise, the mean over the pixels."""
        half = max(2, *(len(kernel) // 2 for kernel, _ in self._kernels))
        sums = sum(
            share[..., None, None] * np.pad(kernel, half - len(kernel) // 2)
            for kernel, share in self._kernels
        )
        norm = sums[..., half, half]
        covered = self.cells.sum(self.weight > 0)
        each = sums / np.where(norm > 0, norm, 1)[..., None, None]
        kernel = np.tensordot(covered, each, axes=2) / covered[norm > 0].sum()
        # Rounding must not spoil what holds exactly.
        kernel = (kernel + kernel[::-1, ::-1]) / 2
        return kernel / kernel[half, half]

    def arguments(self, dtype):
        """Return the arguments of the coadd: data, noise and PSF."""
        good = self.count > 0
        require(good.any(), 'exposures', 'have good pixels on the grid', 'no pixel')
        if self.psf.lacking:
            warn(
                f'exposures {self.psf.lacking} have no psf, so that the coadd has none '
                'either; give them one, or give the coadd one with replace(psf=...).'
            )
        psf, psf_image = self.psf.finish()
        # An exposure has the median where pixels are bad.
        weight = np.where(good, self.weight, np.nan)
        gain = weight**2 / np.where(good, self.inverse_gain, 1.0)
        return {
            'data': (self.total / weight).astype(dtype),
            'bkg_error': (np.sqrt(self.variance) / weight).astype(dtype),
            'effective_gain': gain.astype(dtype),
            'saturated': self.saturated & ~good,
            'psf': psf,
            'psf_image': psf_image,
            'noise_kernel': self._kernel(),
            'psf_error': float(self._psf_error / self.weight.sum()),
            'background_error': float(
                np.sqrt(self._background_error / self.variance.sum())
            ),
            'n_exposures': self.count,
        }


# -- outlying pixels ---------------------------------------------------------------


class Clipper:
    """
    Outliers of each exposure, by the sums of a first pass over all of them.

    An exposure is compared with the mean of the others, less the highest and the
    lowest of them, so that an outlier has no part in what it or others are compared
    with. (Of three, the middle one is kept; of two, only the higher one can
    be an outlier, as most outliers are bright.)
    The limit is ``n_sigma`` times the error of the difference (sky and
    sources) and a share of the light near the pixel. That share, one for each
    exposure, is the largest difference between its PSF and that of the
    others: the core of a star is sharper in good seeing, and that is no outlier
    (it stands for the derivative in the test of the drizzle package). Values that are
    too low are sought in the exposure with the lowest one alone, since two bright
    outliers in one pixel spoil the comparison for the others.
    """

    def __init__(self, shape, n_sigma):
        self.n_sigma = n_sigma
        # Highest and lowest value of each pixel, with its weight and exposure.
        kind = [('value', float), ('weight', float), ('index', np.int32)]
        self.high, self.low = np.zeros((2, *shape), kind)
        self.high['index'] = self.low['index'] = -1

    def add(self, layer):
        """Take in a layer of the first pass."""
        first = self.high['index'] < 0
        for extreme, beyond in ((self.high, np.greater), (self.low, np.less)):
            new = layer.good & (first | beyond(layer.data, extreme['value']))
            extreme['value'][new] = layer.data[new]
            extreme['weight'][new] = layer.weight[new]
            extreme['index'][new] = layer.index

    def outliers(self, layer, sums, share):
        """Return the pixels of a layer to leave out; stars differ by that share."""
        count, weight, total = self._others(layer, sums)
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
        limit = self.n_sigma * np.sqrt(error) + share * np.maximum(near, 0)
        residual = layer.data - reference
        low = (self.low['index'] == layer.index) & (residual < -limit)
        outliers = testable & ((residual > limit) | low)
        around = testable & binary_dilation(outliers, np.ones((3, 3)))
        return outliers | (around & (np.abs(residual) > _NEIGHBOUR_LIMIT * limit))

    def _others(self, layer, sums):
        """Number, weights and weighted values without a layer and the extremes."""
        count = sums.count - layer.good
        weight = sums.weight - layer.weight
        total = sums.total - layer.weight * layer.data
        for extreme in (self.high, self.low):
            out = (extreme['index'] >= 0) & (extreme['index'] != layer.index)
            if extreme is self.low:
                # Of two, the lower one is what the higher one is compared with.
                out &= (sums.count > 2) & (extreme['index'] != self.high['index'])
            own = np.where(out, extreme['weight'], 0)
            count, weight = count - out, weight - own
            total = total - own * extreme['value']
        return count, weight, total


def psf_shares(psf):
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
    near = maximum_filter(rest, _WINDOW)
    use = near > _FAINTEST_PSF * near.max()
    return float(np.max(np.abs(image - rest)[use] / near[use]))
