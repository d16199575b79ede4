# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Noise of resampled exposures: variance, gain and correlation between pixels.

A pixel of bilinear interpolation is a weighted sum of input pixels, :math:`y_p = J_p
\sum_a w_{pa} x_a` with :math:`\sum_a w_{pa} = 1` and :math:`J_p` input pixels in the
area of an output one. With the covariance of the input
:math:`\sigma_a \sigma_b c_{a - b}`,

.. math::

    \mathrm{cov}(y_p, y_q) = J_p J_q \sum_{a, b} w_{pa} w_{qb}
        \sigma_a \sigma_b c_{a - b} .

For other methods it is measured on realisations of noise alone.
"""

from typing import NamedTuple

import numpy as np

from bliss_astro._arguments import must
from bliss_astro.exposures._noise import kernel_of_sums, lagged_views
from bliss_astro.units import is_surface_brightness

from ._grid import pixel_area

# Pixels farther apart than this, along an axis, are taken to be independent.
MAX_LAG = 2
# A pixel with a smaller weight than this does not contribute.
LEAST_WEIGHT = 1e-3
# So many pixels, at random, give the mean correlation.
_N_SAMPLES = 60_000
# Side of the box, in pixels, over which the variance of a few realisations is
# averaged; how many values of the noise they hold at least, and how many numbers a
# stack of them holds at most.
_BOX, _N_VALUES, _STACK = 25, 200_000, 2**24


def kernel_of_pair(along_x, along_y):
    """Make a correlation kernel of two neighbours' correlations."""
    return np.outer([0, along_y, 1, along_y, 0], [0, along_x, 1, along_x, 0])


def check_kernel(kernel):
    """Check the argument ``noise_kernel``."""
    kernel = np.array(kernel, dtype=float, ndmin=1)
    middle, allowed = len(kernel) // 2, None
    if kernel.shape != (2 * middle + 1,) * 2 or middle == 0:
        allowed = 'be a square of odd side, at least 3 x 3'
    elif not (
        abs(kernel[middle, middle] - 1) < 1e-6 and (abs(kernel) < 1 + 1e-6).all()
    ):
        allowed = 'be 1 at its centre and between -1 and 1 elsewhere'
    elif not np.allclose(kernel, kernel[::-1, ::-1], rtol=0, atol=1e-6):
        allowed = 'be the same at opposite lags'
    if allowed:
        got = f'shape {kernel.shape}: {kernel.tolist()}'
        raise ValueError(must('noise_kernel', allowed, got))
    return kernel


def input_kernel(exposure):
    """Return the correlation kernel of an exposure's own noise."""
    kernel = getattr(exposure, 'noise_kernel', None)
    return kernel_of_pair(*exposure.noise_correlation) if kernel is None else kernel


def correlated_noise(shape, kernel, rng):
    """Draw noise of unit variance with a given correlation."""
    white = rng.standard_normal(shape)
    if np.count_nonzero(kernel) == 1:
        return white
    half = len(kernel) // 2
    response = np.zeros(shape)
    for j, i in np.argwhere(kernel != 0):
        # Added, because lags may coincide in an image smaller than the kernel.
        response[(j - half) % shape[0], (i - half) % shape[1]] += kernel[j, i]
    # A rounded or truncated kernel may have a slightly negative power.
    power = np.maximum(np.fft.rfft2(response).real, 0)
    return np.fft.irfft2(np.fft.rfft2(white) * np.sqrt(power), s=shape)


def lagged_sums(values, use, max_lag):
    """Sum the products of pixels, and the pairs of them, at each lag."""
    sums = np.zeros((2, max_lag + 1, 2 * max_lag + 1))
    for dy, dx in np.ndindex(sums.shape[1:]):
        one, two = lagged_views(values.shape, dy, dx - max_lag)
        sums[:, dy, dx] = (
            np.vdot(values[one], values[two]),
            np.count_nonzero(use[one] & use[two]),
        )
    return sums


class NoiseOnGrid(NamedTuple):
    """
    Noise and blemishes of an exposure on the output grid.

    Variance of the sky, effective gain, and input pixels per output pixel; where there
    are data, and where bad or saturated pixels contribute, all ``(ny, nx)``; and the
    mean correlation of the noise, ``(5, 5)``.
    """

    variance: np.ndarray
    gain: np.ndarray
    area: np.ndarray
    coverage: np.ndarray
    bad: np.ndarray
    saturated: np.ndarray
    kernel: np.ndarray


def value_scale(unit, area):
    """Return what means over input pixels are multiplied by."""
    return np.ones_like(area) if is_surface_brightness(unit) else area


# -- bilinear interpolation --------------------------------------------------------


class _Taps:
    """The four pixels that bilinear interpolation takes, and their weights."""

    def __init__(self, x, y, shape):
        # The inversion of a distortion is exact to this only.
        low, (high_y, high_x) = -LEAST_WEIGHT, np.array(shape) - 1 + LEAST_WEIGHT
        with np.errstate(invalid='ignore'):
            self.covered = (x >= low) & (x <= high_x) & (y >= low) & (y <= high_y)
        columns, self._along_x = _pair(x, shape[1], self.covered)
        rows, self._along_y = _pair(y, shape[0], self.covered)
        self._taps = [
            (row * shape[1] + column, weight_y * weight_x)
            for row, weight_y in zip(rows, self._along_y, strict=True)
            for column, weight_x in zip(columns, self._along_x, strict=True)
        ]

    def take(self, values):
        """Take the values of a flat map, or one number for all."""
        if values.size == 1:
            return [values[0]] * len(self._taps)
        return [values[index] for index, _ in self._taps]

    def mean(self, taken, power=1):
        """Sum weights, or powers of them, times values."""
        pairs = zip(self._taps, taken, strict=True)
        return sum(weight**power * values for (_, weight), values in pairs)

    def any(self, flags):
        """Where a flagged pixel of a flat map, or of none, contributes."""
        out = np.zeros(self.covered.shape, dtype=bool)
        if flags is None:
            return out
        for index, weight in self._taps:
            out |= flags[index] & (weight > LEAST_WEIGHT)
        return out & self.covered

    def correlation_factor(self, kernel):
        """Return the variance under correlated noise over that under white noise."""
        if np.count_nonzero(kernel) == 1:
            return 1.0
        # Interpolated pixels share themselves and their neighbours only.
        n = len(kernel) // 2 - 1
        along_y, along_x = (
            (a * b, a**2 + b**2, a * b) for a, b in (self._along_y, self._along_x)
        )
        total = sum(
            kernel[n + j, n + i] * along_y[j] * along_x[i] for j, i in np.ndindex(3, 3)
        )
        return total / (along_y[1] * along_x[1])


def _pair(x, n, covered):
    """Return the two pixels around places along an axis, and their weights."""
    x = np.where(covered, x, 0.0)
    low = np.clip(np.floor(x).astype(np.intp), 0, max(n - 2, 0))
    share = np.clip(x - low, 0, 1)
    return (low, np.minimum(low + 1, n - 1)), (1 - share, share)


def resample_bilinear(exposure, mapping):
    """Interpolate an exposure without its sky, and compute its noise, exactly."""
    image = np.empty(mapping.shape, dtype=exposure.data.dtype)
    floats = np.empty((3, *mapping.shape), dtype=np.float32)
    flags = np.empty((3, *mapping.shape), dtype=bool)
    image_in = np.where(exposure.mask, 0, exposure.data - exposure.background)
    image_in, variance_in, gain_in = map(
        np.ravel, (image_in, np.square(exposure.bkg_error), exposure.effective_gain)
    )
    bad_in, saturated_in = (
        np.ravel(flags) if flags.any() else None
        for flags in (exposure.mask, exposure.saturated)
    )
    kernel = input_kernel(exposure)
    samples = []
    wanted = _N_SAMPLES / np.prod(mapping.shape)
    rng = np.random.default_rng(0)
    for rows in mapping.blocks():
        x, y, jacobian = mapping.rows(rows)
        area = pixel_area(jacobian)
        scale = value_scale(exposure.unit, area)
        taps = _Taps(x, y, exposure.shape)
        image[rows] = taps.mean(taps.take(image_in))
        # Reduction of the variance, sources and sky alike.
        taken = taps.take(variance_in)
        variance = taps.mean(taken, power=2) * taps.correlation_factor(kernel)
        variance *= scale**2
        gain = taps.mean(taps.take(gain_in)) * scale
        gain *= taps.mean(taken) / np.where(taps.covered, variance, 1)
        bad = taps.any(bad_in)
        floats[:, rows] = variance, gain, area
        flags[:, rows] = taps.covered, bad, taps.any(saturated_in)
        chosen = taps.covered & ~bad
        if wanted < 1:
            chosen &= rng.random(chosen.shape) < wanted
        samples.append([x[chosen], y[chosen], *jacobian[:, :, chosen].reshape(4, -1)])
    return image, NoiseOnGrid(*floats, *flags, _bilinear_kernel(samples, kernel))


def _bilinear_kernel(samples, kernel):
    """Compute the mean correlation of bilinearly interpolated noise."""
    x, y, xx, xy, yx, yy = np.concatenate(samples, axis=-1)
    if len(x) == 0:
        return kernel_of_pair(0, 0)
    half = len(kernel) // 2
    terms = np.argwhere(kernel != 0)
    covariance = np.zeros((MAX_LAG + 1, 2 * MAX_LAG + 1))
    for dy, k in np.ndindex(covariance.shape):
        dx = k - MAX_LAG
        x2, y2 = x + xx * dx + xy * dy, y + yx * dx + yy * dy
        covariance[dy, k] = sum(
            kernel[j, i]
            * (_overlap(x, x2 - i + half) * _overlap(y, y2 - j + half)).mean()
            for j, i in terms
        )
    covariance[0, :MAX_LAG] = covariance[0, :MAX_LAG:-1]
    return kernel_of_sums(covariance, np.ones_like(covariance))


def _overlap(x1, x2):
    """Sum over pixels the product of the weights of two places along an axis."""
    low = np.floor(x1)
    return sum(
        np.maximum(1 - np.abs(x1 - k), 0) * np.maximum(1 - np.abs(x2 - k), 0)
        for k in (low, low + 1)
    )


# -- other methods -----------------------------------------------------------------


def sampled_noise(exposure, mapping, planes, covered, resample, *, n_noise, rng):
    """Measure the noise of a resampled exposure on realisations of noise alone."""
    area = np.empty(mapping.shape, dtype=np.float32)
    for rows in mapping.blocks():
        area[rows] = pixel_area(mapping.rows(rows)[2])
    bad, saturated = (
        covered & (planes.get(name, np.zeros(area.shape)) > LEAST_WEIGHT)
        for name in ('bad', 'saturated')
    )
    variance = planes.get('variance', np.square(np.asarray(exposure.bkg_error, float)))
    variance = np.where(covered, variance, 1.0)
    gain = np.where(covered, planes.get('gain', exposure.effective_gain), 1.0)
    reduction, kernel = monte_carlo_noise(
        exposure, resample, np.sqrt(variance), covered & ~bad, n_noise=n_noise, rng=rng
    )
    scale = value_scale(exposure.unit, area)
    variance = variance * reduction * scale**2
    gain = gain / (reduction * scale)
    return NoiseOnGrid(variance, gain, area, covered, bad, saturated, kernel)


def monte_carlo_noise(exposure, resample, level, use, *, n_noise, rng):
    """Measure how resampling reduces and correlates an exposure's noise."""
    kernel = input_kernel(exposure)
    n_noise = max(n_noise, int(np.ceil(_N_VALUES / max(int(use.sum()), 1))))
    # Few at a time, to bound the memory.
    n_at_once = max(1, _STACK // max(np.prod(exposure.shape), use.size))
    squares = np.zeros(use.shape)
    sums = np.zeros((2, MAX_LAG + 1, 2 * MAX_LAG + 1))
    for start in range(0, n_noise, n_at_once):
        noise = [
            correlated_noise(exposure.shape, kernel, rng)
            for _ in range(min(n_at_once, n_noise - start))
        ]
        for image in resample(np.stack(noise) * exposure.bkg_error):
            scaled = np.where(use, image / level, 0.0)
            squares += scaled**2
            sums += lagged_sums(scaled, use, MAX_LAG)
    return _smooth(squares / n_noise, use), kernel_of_sums(*sums)


def _smooth(values, use):
    """Average over a box those values that count."""
    from scipy.ndimage import uniform_filter

    share = uniform_filter(use.astype(float), _BOX, mode='constant')
    total = uniform_filter(np.where(use, values, 0.0), _BOX, mode='constant')
    # Sums of a running box leave rounding errors where they should be 0.
    enough = share > 1e-6
    mean = values[use].mean() if use.any() else 1.0
    return np.where(enough, total / np.where(enough, share, 1), mean)
