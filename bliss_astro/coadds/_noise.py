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

from dataclasses import dataclass

import numpy as np

from ..exposures._blank_noise import kernel_of_sums, lagged_views
from ..units import is_surface_brightness
from ._grid import pixel_area

__all__ = [
    'LEAST_WEIGHT',
    'MAX_LAG',
    'NoiseOnGrid',
    'bilinear_noise',
    'check_kernel',
    'correlated_noise',
    'input_kernel',
    'kernel_of_pair',
    'kernel_of_sums',
    'lagged_sums',
    'lagged_views',
    'sampled_noise',
]

# Pixels farther apart than this, along an axis, are taken to be independent.
MAX_LAG = 2


def kernel_of_pair(along_x, along_y):
    """Make a correlation kernel of two neighbours' correlations."""
    return np.outer([0, along_y, 1, along_y, 0], [0, along_x, 1, along_x, 0])


def check_kernel(name, kernel):
    """Check a correlation kernel."""
    kernel = np.array(kernel, dtype=float)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) % 2 == 0:
        msg = f'{name} must be a square of odd side; got shape {kernel.shape}.'
        raise ValueError(msg)
    middle = len(kernel) // 2
    sound = np.isfinite(kernel).all() and abs(kernel[middle, middle] - 1) < 1e-6
    if not (sound and (np.abs(kernel) < 1 + 1e-6).all()):
        msg = (
            f'{name} must be 1 at its centre and between -1 and 1 elsewhere; got '
            f'{kernel.tolist()}.'
        )
        raise ValueError(msg)
    if not np.allclose(kernel, kernel[::-1, ::-1], rtol=0, atol=1e-6):
        msg = f'{name} must be the same at opposite lags; got {kernel.tolist()}.'
        raise ValueError(msg)
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
    """Sum the products of pixels at each lag."""
    sums = np.zeros((2, max_lag + 1, 2 * max_lag + 1))
    for dy in range(max_lag + 1):
        for dx in range(-max_lag, max_lag + 1):
            one, two = lagged_views(values.shape, dy, dx)
            sums[0, dy, dx + max_lag] = np.vdot(values[one], values[two])
            sums[1, dy, dx + max_lag] = np.count_nonzero(use[one] & use[two])
    return sums


# A pixel with a smaller weight than this does not contribute.
LEAST_WEIGHT = 1e-3

# So many pixels, at random, give the mean correlation.
_N_SAMPLES = 60_000


@dataclass
class NoiseOnGrid:
    """
    An exposure's noise and blemishes on the output grid.

    Parameters
    ----------
    variance : float `~numpy.ndarray`, shape (ny, nx)
        Variance of the sky.

    gain : float `~numpy.ndarray`, shape (ny, nx)
        Effective gain.

    area : float `~numpy.ndarray`, shape (ny, nx)
        Input pixels per output pixel.

    scale : float `~numpy.ndarray`, shape (ny, nx)
        Factor from means over input pixels to values of output pixels, see
        `value_scale`.

    coverage, bad, saturated : bool `~numpy.ndarray`, shape (ny, nx)
        Where there are data, and where bad or saturated pixels contribute.

    kernel : float `~numpy.ndarray`, shape (5, 5)
        Mean correlation of the noise.
    """

    variance: np.ndarray
    gain: np.ndarray
    area: np.ndarray
    scale: np.ndarray
    coverage: np.ndarray
    bad: np.ndarray
    saturated: np.ndarray
    kernel: np.ndarray


class _Taps:
    """The four pixels that bilinear interpolation takes, and their weights."""

    def __init__(self, x, y, shape):
        ny, nx = shape
        # The inversion of a distortion is exact to this only.
        small = LEAST_WEIGHT
        with np.errstate(invalid='ignore'):
            self.covered = (x >= -small) & (x <= nx - 1 + small)
            self.covered &= (y >= -small) & (y <= ny - 1 + small)
        (self._x0, self._x1), self.x_weights = _pair(x, nx, self.covered)
        (y0, y1), self.y_weights = _pair(y, ny, self.covered)
        self._y0, self._y1 = y0 * nx, y1 * nx

    def __iter__(self):
        """Give the flat indices and the weights of one pixel after the other."""
        for y, weight_y in zip((self._y0, self._y1), self.y_weights, strict=True):
            for x, weight_x in zip((self._x0, self._x1), self.x_weights, strict=True):
                yield y + x, weight_y * weight_x

    def mean(self, values, power=1):
        """Sum weights, or powers of them, times a map or a number."""
        if np.ndim(values) == 0:
            return values * sum(weight**power for _, weight in self)
        flat = np.ravel(values)
        return sum(weight**power * flat[index] for index, weight in self)

    def any(self, flags):
        """Tell where a flagged pixel contributes."""
        if not flags.any():
            return np.zeros(self.covered.shape, dtype=bool)
        flat = np.ravel(flags)
        out = np.zeros(self.covered.shape, dtype=bool)
        for index, weight in self:
            out |= flat[index] & (weight > LEAST_WEIGHT)
        return out & self.covered

    def correlation_factor(self, kernel):
        """Return the variance under correlated noise over that under white noise."""
        middle = len(kernel) // 2
        # Interpolated pixels share themselves and their neighbours only.
        inner = kernel[middle - 1 : middle + 2, middle - 1 : middle + 2]
        if inner.shape != (3, 3) or np.count_nonzero(inner) == 1:
            return 1.0
        own = [a**2 + b**2 for a, b in (self.y_weights, self.x_weights)]
        next_ = [a * b for a, b in (self.y_weights, self.x_weights)]
        along_y, along_x = ((n, o, n) for o, n in zip(own, next_, strict=True))
        total = sum(
            inner[j, i] * along_y[j] * along_x[i] for j in range(3) for i in range(3)
        )
        return total / (own[0] * own[1])


def _pair(x, n, covered):
    """Return the two pixels around places along an axis, and their weights."""
    x = np.where(covered, x, 0.0)
    low = np.clip(np.floor(x).astype(np.intp), 0, max(n - 2, 0))
    share = np.clip(x - low, 0, 1)
    return (low, np.minimum(low + 1, n - 1)), (1 - share, share)


def overlap(x1, x2):
    """Sum over pixels the product of the weights of two places along an axis."""
    floor1, floor2 = np.floor(x1), np.floor(x2)
    f1, f2 = x1 - floor1, x2 - floor2
    step = floor2 - floor1
    same = (1 - f1) * (1 - f2) + f1 * f2
    return np.where(
        step == 0,
        same,
        np.where(step == 1, f1 * (1 - f2), np.where(step == -1, (1 - f1) * f2, 0)),
    )


def value_scale(unit, area):
    """Return what means over input pixels are multiplied by."""
    return np.ones_like(area) if is_surface_brightness(unit) else area


def bilinear_noise(exposure, mapping):
    """Compute the noise of a bilinearly resampled exposure, exactly."""
    shape = mapping.shape
    floats = [np.empty(shape, dtype=np.float32) for _ in range(4)]
    flags = [np.empty(shape, dtype=bool) for _ in range(3)]
    variance_in = np.square(exposure.bkg_error)
    kernel = input_kernel(exposure)
    samples = []
    wanted = _N_SAMPLES / np.prod(shape)
    rng = np.random.default_rng(0)
    for rows in mapping.blocks():
        x, y, jacobian = mapping.rows(rows.start, rows.stop)
        area = pixel_area(jacobian)
        scale = value_scale(exposure.unit, area)
        taps = _Taps(x, y, exposure.shape)
        # Reduction of the variance, sources and sky alike.
        variance = taps.mean(variance_in, power=2) * taps.correlation_factor(kernel)
        variance *= scale**2
        gain = taps.mean(exposure.effective_gain) * scale
        gain *= taps.mean(variance_in) / np.where(taps.covered, variance, 1)
        bad = taps.any(exposure.mask)
        parts = (
            (variance, gain, area, scale),
            (taps.covered, bad, taps.any(exposure.saturated)),
        )
        for targets, values in zip((floats, flags), parts, strict=True):
            for target, value in zip(targets, values, strict=True):
                target[rows] = value
        chosen = taps.covered & ~bad
        if wanted < 1:
            chosen &= rng.random(chosen.shape) < wanted
        samples.append([x[chosen], y[chosen], jacobian[:, :, chosen]])
    x, y, jacobian = (
        np.concatenate(part, axis=-1) for part in zip(*samples, strict=True)
    )
    return NoiseOnGrid(*floats, *flags, bilinear_kernel(x, y, jacobian, kernel))


def bilinear_kernel(x, y, jacobian, kernel):
    """Compute the mean correlation of bilinearly interpolated noise."""
    size = 2 * MAX_LAG + 1
    if len(x) == 0:
        return kernel_of_pair(0, 0)
    half = len(kernel) // 2
    terms = [(j - half, i - half, kernel[j, i]) for j, i in np.argwhere(kernel != 0)]
    covariance = np.zeros((size, size))
    for dy in range(MAX_LAG + 1):
        for dx in range(-MAX_LAG, MAX_LAG + 1):
            if dy == 0 and dx < 0:
                continue
            x2 = x + jacobian[0, 0] * dx + jacobian[0, 1] * dy
            y2 = y + jacobian[1, 0] * dx + jacobian[1, 1] * dy
            value = sum(
                (c * overlap(x, x2 - i) * overlap(y, y2 - j)).mean()
                for j, i, c in terms
            )
            covariance[MAX_LAG + dy, MAX_LAG + dx] = value
            covariance[MAX_LAG - dy, MAX_LAG - dx] = value
    return covariance / covariance[MAX_LAG, MAX_LAG]


# Side of the box, in pixels, over which the variance of a few realisations is
# averaged, and how many values of the noise they hold at least.
_BOX = 25
_N_VALUES = 200_000

# Numbers that a stack of realisations holds at most.
_STACK = 2**24


def sampled_noise(exposure, mapping, planes, covered, resample, *, n_noise, rng):
    """Measure the noise of a resampled exposure on realisations of noise alone."""
    area = np.empty(mapping.shape, dtype=np.float32)
    for rows in mapping.blocks():
        area[rows] = pixel_area(mapping.rows(rows.start, rows.stop)[2])
    none = np.zeros(mapping.shape)
    bad = covered & (planes['bad'] > LEAST_WEIGHT)
    saturated = covered & (planes.get('saturated', none) > LEAST_WEIGHT)
    variance = planes.get('variance', np.square(np.asarray(exposure.bkg_error, float)))
    gain = planes.get('gain', exposure.effective_gain)
    variance = np.where(covered, variance, 1.0)
    reduction, kernel = monte_carlo_noise(
        exposure, resample, np.sqrt(variance), covered & ~bad, n_noise=n_noise, rng=rng
    )
    scale = value_scale(exposure.unit, area)
    gain = np.where(covered, gain, 1.0) / (reduction * scale)
    variance = variance * reduction * scale**2
    return NoiseOnGrid(variance, gain, area, scale, covered, bad, saturated, kernel)


def monte_carlo_noise(exposure, resample, level, use, *, n_noise, rng):
    """Measure how resampling reduces and correlates an exposure's noise."""
    kernel = input_kernel(exposure)
    n_good = max(int(use.sum()), 1)
    n_noise = max(n_noise, int(np.ceil(_N_VALUES / n_good)))
    # Few at a time, to bound the memory.
    n_at_once = max(1, _STACK // max(np.prod(exposure.shape), use.size))
    total = 0
    squares = np.zeros(use.shape)
    sums = np.zeros((2, MAX_LAG + 1, 2 * MAX_LAG + 1))
    while total < n_noise:
        n = min(n_at_once, n_noise - total)
        total += n
        noise = np.stack(
            [correlated_noise(exposure.shape, kernel, rng) for _ in range(n)]
        )
        for image in resample(noise * exposure.bkg_error):
            scaled = np.where(use, image / level, 0.0)
            squares += scaled**2
            sums += lagged_sums(scaled, use, MAX_LAG)
    reduction = _smooth(squares / total, use)
    return reduction, kernel_of_sums(*sums)


def _smooth(values, use):
    """Average over a box those values that count."""
    from scipy.ndimage import uniform_filter

    share = uniform_filter(use.astype(float), _BOX, mode='constant')
    total = uniform_filter(np.where(use, values, 0.0), _BOX, mode='constant')
    # Sums of a running box leave rounding errors where they should be 0.
    enough = share > 1e-6
    mean = values[use].mean() if use.any() else 1.0
    return np.where(enough, total / np.where(enough, share, 1), mean)
