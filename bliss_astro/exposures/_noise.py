# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise of blank pixels and its correlation, where sources are sparse or crowd.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation, correlate

from bliss_astro._arguments import counted, require
from bliss_astro._filters import smooth, spread_cells, sums_of_cells
from bliss_astro.units import MAD_TO_SIGMA, median, median_and_scatter

NO_NOISE = 'bkg_error cannot be estimated: the image has no noise; give bkg_error'
# Correlations below this count for none, and differences from others below so many
# standard errors.
_MIN_CORRELATION, _CORRELATION_ERRORS = 0.07, 3.0
# Range of correlations that rounding and differences of pixels can show.
_CORRELATION_RANGE = -0.5, 0.99
# Good pixels below which nothing is measured; blank ones from which noise is, in a
# crowd by differences.
_MIN_GOOD, _MIN_BLANK, _CROWD_MIN_BLANK = 9, 100, 1000
# A large image is sampled: pixels (errors of 0.2 %), strips and their rows.
_SAMPLE_SIZE, _MIN_STRIPS, _STRIP_ROWS = 250_000, 3, 128
# Noise in steps of the numbers below which the steps are smoothed out, and variance
# over that of a step below which there is none.
_COARSE_NOISE, _MIN_STEP_VARIANCE = 2.0, 0.1

# Standard deviation (pixels) of the smoothing that shows sources, and growth of their
# areas (pixels), here and where the sky is measured.
SMOOTHING, GROWTH = 1.5, 4
# Thresholds of sources in the smoothed image and of single pixels (sigma); in crowds.
_SOURCE_SIGMA, _PIXEL_SIGMA = 3.5, 5.0
_CROWD_SOURCE_SIGMA, _CROWD_PIXEL_SIGMA = 4.0, 6.0
# Rounds of finding sources, and pixels of the sample that thresholds are taken from.
_N_ROUNDS, _N_MEDIAN = 3, 50_000
# Side (pixels) of the cells in each of which a plane of three parameters is taken off.
_CELL_SIDE = 64
# Blank share, and relative deviation of the variance, for a cell to count.
_BLANK_SHARE, _VARIANCE_TOLERANCE = 0.3, 0.3

# Excess of the correlation at two pixels over that of smoothed noise, r^4, above which
# faint sources make pixels alike: simulated fields with 0.008 sources per pixel have
# 0.25, smoothed noise has 0.02 at most; of strongly correlated noise (above the last
# number), photographic plates have 0.11.
_CROWD_EXCESS, _CROWD_EXCESS_STRONG, _STRONG_CORRELATION = 0.05, 0.12, 0.5


@dataclass(frozen=True)
class NoiseMeasurement:
    """
    Noise of an image, as measured in blank sky.

    Parameters
    ----------
    sigma : float or `~astropy.units.Quantity`
        Standard deviation of a pixel, in the unit of the image.

    sigma_error : float or `~astropy.units.Quantity`
        Its standard error.

    kernel : float `~numpy.ndarray`, shape (2 L + 1, 2 L + 1)
        Correlation of two pixels by their distance, ``kernel[L + dy, L + dx]``.

    kernel_error : float `~numpy.ndarray`, shape (2 L + 1, 2 L + 1)
        Its standard errors.

    n_pixels : int
        Number of pixels used.

    blank : bool `~numpy.ndarray`, shape (ny, nx)
        Pixels used: blank sky, of a large image in strips of rows.

    background : float, `~numpy.ndarray` or `~astropy.units.Quantity`, optional
        Sky above which the noise was measured.
    """

    sigma: float
    sigma_error: float
    kernel: np.ndarray
    kernel_error: np.ndarray
    n_pixels: int
    blank: np.ndarray
    background: object = 0.0

    @property
    def noise_correlation(self):
        """Correlation of pixels next to each other, in x and in y."""
        return neighbours(self.kernel)

    @property
    def significant_correlation(self):
        """Correlation of neighbours, 0 if below 0.07 or three standard errors."""
        errors = neighbours(self.kernel_error)
        return tuple(
            r if abs(r) > max(_MIN_CORRELATION, _CORRELATION_ERRORS * error) else 0.0
            for r, error in zip(self.noise_correlation, errors, strict=True)
        )

    @property
    def area_sigma(self):
        """
        Noise of a sum over many pixels, over the square root of their number.

        It is ``sigma`` for independent pixels, and more after resampling.
        """
        return self.sigma * np.sqrt(max(float(self.kernel.sum()), 0.0))

    def __repr__(self):
        along_x, along_y = self.noise_correlation
        return (
            f'<NoiseMeasurement, sigma {self.sigma:.4g} +- {self.sigma_error:.2g}, '
            f'correlation ({along_x:.3f}, {along_y:.3f}) +- '
            f'{max(neighbours(self.kernel_error)):.2g}, {self.n_pixels} pixels>'
        )


def check_enough(use, kind):
    """Refuse too few pixels."""
    n, allowed = int(np.count_nonzero(use)), f'have at least {_MIN_BLANK} {kind} pixels'
    require(n >= _MIN_BLANK, 'data', allowed, n)


def noise_of_residual(residual, bad, *, quantum=0.0, max_lag=2, needs_blank=False):
    """
    Noise of an image ``(ny, nx)`` in blank sky, a `NoiseMeasurement` in its unit.

    ``residual`` is the image without its sky, in steps of ``quantum`` where its numbers
    are rounded. Too few pixels that are blank raise an error if ``needs_blank``; else
    the scatter of those below the sky, as sources are not, counts as white noise.
    """
    n_good = int(np.count_nonzero(~bad))
    if n_good < _MIN_GOOD:
        text = f'bkg_error cannot be estimated from {counted(n_good, "pixel")}'
        raise ValueError(f'{text}; give bkg_error')
    # Sources only brighten pixels.
    below = residual[~bad & (residual < 0)]
    scale = MAD_TO_SIGMA * median(np.abs(below)) if len(below) else 0.0
    if not scale > 0:
        raise ValueError(NO_NOISE)
    if scale < _COARSE_NOISE * quantum:
        return _noise_of_rounded(residual, bad, quantum, max_lag, needs_blank)
    # In units of the noise no number of any image is too small or large.
    rows = _strips(*residual.shape)
    scaled, bad_row = np.where(bad[rows], 0.0, residual[rows] / scale), bad[rows]
    if len(scaled) < len(residual):
        # Rows of two strips are not neighbours.
        for lag in range(max_lag):
            bad_row[lag::_STRIP_ROWS] = True
    try:
        sigma, kernel, errors, n, used = _noise_of_blank(scaled, bad_row, max_lag)
    except ValueError:
        if needs_blank:
            raise
        kernel = _kernel_of_neighbours((0.0, 0.0), max_lag)
        error = float(scale / np.sqrt(2 * n_good))
        return NoiseMeasurement(float(scale), error, kernel, 0 * kernel, n_good, ~bad)
    if not sigma > 0:
        raise ValueError(NO_NOISE)
    if _is_crowded(kernel, errors):
        sigma, pair = _noise_of_crowd(scaled, bad_row)
        kernel = _kernel_of_neighbours(pair, max_lag)
        errors = _bartlett(kernel, n)
    error = sigma * np.sqrt(np.sum(kernel**2) / (2 * n))
    blank = np.zeros(residual.shape, dtype=bool)
    blank[rows] = used
    sigma, error = float(sigma * scale), float(error * scale)
    return NoiseMeasurement(sigma, error, kernel, errors, n, blank)


def _noise_of_rounded(residual, bad, quantum, max_lag, needs_blank):
    """Noise of numbers with steps about as large, which added noise smooths out."""
    # Any fixed seed serves, as in measure_background.
    steps = np.random.default_rng(1).uniform(-0.5, 0.5, residual.shape)
    noise = noise_of_residual(
        residual + quantum * steps, bad, max_lag=max_lag, needs_blank=needs_blank
    )
    added = quantum**2 / 12
    variance = noise.sigma**2 - added
    if not variance > _MIN_STEP_VARIANCE * added:
        raise ValueError(NO_NOISE)
    share = noise.sigma**2 / variance
    pair = np.clip(
        np.multiply(noise.significant_correlation, share), *_CORRELATION_RANGE
    )
    return replace(
        noise,
        sigma=float(np.sqrt(variance)),
        sigma_error=float(noise.sigma_error * np.sqrt(share)),
        kernel=_kernel_of_neighbours(pair, max_lag),
    )


def _strips(ny, nx):
    """Rows of some strips of a large image, evenly spread; else all of them."""
    n_strips = max(_MIN_STRIPS, round(_SAMPLE_SIZE / (nx * _STRIP_ROWS)))
    if n_strips * _STRIP_ROWS >= ny:
        return np.arange(ny)
    starts = np.linspace(0, ny - _STRIP_ROWS, n_strips).astype(int)
    return (starts[:, None] + np.arange(_STRIP_ROWS)).ravel()


def _noise_of_blank(residual, bad, max_lag):
    """Noise, kernel and its errors, number of the pixels without sources, and these."""
    bad = bad | ~np.isfinite(residual)
    check_enough(~bad, 'good')
    cells = _cells(residual.shape)
    residual, blank = _blank_sky(residual, bad, cells)
    products, pairs = _lagged_sums_by_cell(residual, blank, max_lag, cells[0])
    keep = _usual_cells(products[0, max_lag], pairs[0, max_lag], blank.size)
    products, pairs = (v[:, :, keep].sum(-1) for v in (products, pairs))
    n = pairs[0, max_lag]
    # What the planes took off each covariance, from a first estimate of them all.
    lowered = max(kernel_of_sums(products, pairs).sum(), 0.0) * products[0, max_lag] / n
    products = products + pairs * lowered * 3 * np.count_nonzero(keep) / n
    kernel = kernel_of_sums(products, pairs)
    sigma = float(np.sqrt(products[0, max_lag] / n))
    return sigma, kernel, _bartlett(kernel, n), int(n), blank


def _cells(shape):
    """First rows and columns of cells, and places in them from -1 to 1."""
    axes = [np.array_split(np.arange(n), max(1, round(n / _CELL_SIDE))) for n in shape]
    starts = [[part[0] for part in axis] for axis in axes]
    y, x = (np.hstack([np.linspace(-1, 1, len(k)) for k in axis]) for axis in axes)
    return starts, y[:, None], x


def _blank_sky(residual, bad, cells):
    """Find blank sky, and take a plane off each of its cells."""
    # Not to magnify the noise between bad pixels.
    share = np.maximum(smooth(~bad, SMOOTHING), 0.2)
    residual = np.where(bad, 0.0, residual - median(residual[~bad]))
    for _ in range(_N_ROUNDS):
        light = smooth(residual.clip(-1e30, 1e30), SMOOTHING) / share
        # Correlated noise is smoothed less than white noise: measured, not known.
        middle, sigma = _robust(light[~bad])
        sources = (light - middle > _SOURCE_SIGMA * sigma) & ~bad
        blank = ~(bad | binary_dilation(sources, iterations=GROWTH))
        check_enough(blank, 'blank')
        middle, sigma = _robust(residual[blank])
        blank &= np.abs(residual - middle) <= _PIXEL_SIGMA * sigma
        residual = np.where(bad, 0.0, residual - _planes(residual, blank, *cells))
    return np.where(blank, residual, 0.0), blank


def _planes(values, use, starts, y, x):
    """Fit a plane to those values of each cell that are used."""

    def moments(weights, most):
        # Along x first, which leaves few numbers for powers of y.
        powers = [(p, q) for p in range(most + 1) for q in range(most + 1 - p)]
        terms = (weights * x**p for p in range(most + 1))
        rows = [np.add.reduceat(term, starts[1], 1, float) for term in terms]
        return np.array([np.add.reduceat(rows[p] * y**q, starts[0]) for p, q in powers])

    # Products of 1, y and x among the moments 1, y, y^2, x, x y, x^2.
    matrix = moments(use, 2)[[[0, 1, 3], [1, 2, 4], [3, 4, 5]]]
    # Without pixels, or with too few, what they leave open is zero.
    inverse = np.linalg.pinv(matrix.transpose(2, 3, 0, 1), rcond=1e-6)
    fit = np.einsum('rcij,jrc->irc', inverse, moments(use * values, 1))
    level, by_y, by_x = (spread_cells(part, starts, values.shape) for part in fit)
    return level + by_y * y + by_x * x


def _robust(values):
    """Median and scatter of a sample."""
    return median_and_scatter(values[:: max(1, values.size // _N_MEDIAN)])


def _usual_cells(products, n, size):
    """Choose the cells whose variance is that of most."""
    enough = n >= _BLANK_SHARE * size / len(n)
    if not enough.any():
        enough = n > 0
    variance = np.where(enough, products / np.maximum(n, 1), np.nan)
    tolerance = np.maximum(_VARIANCE_TOLERANCE, 10 / np.sqrt(np.maximum(n, 1)))
    # Of halves of unlike noise the lower counts, not their mean.
    for method in ('linear', 'lower'):
        usual = np.nanpercentile(variance, 50, method=method)
        keep = enough & ~(np.abs(variance - usual) > tolerance * usual)
        if keep.any() and usual > 0:
            return keep
    return enough


def _lagged_sums_by_cell(residual, blank, max_lag, starts):
    """Sum products and pairs by lag and by cell, (max_lag + 1, 2 max_lag + 1, n)."""
    shape = (max_lag + 1, 2 * max_lag + 1, math.prod(map(len, starts)))
    products, pairs = np.zeros(shape), np.zeros(shape)
    for dy, dx in np.ndindex(shape[:2]):
        one, two = lagged_views(residual.shape, dy, dx - max_lag)
        for sums, values in ((products, residual), (pairs, blank)):
            # Filed under the cell of the first of both pixels.
            product = np.zeros_like(values)
            np.multiply(values[one], values[two], out=product[one])
            sums[dy, dx] = sums_of_cells(product, starts).ravel()
    return products, pairs


def _bartlett(kernel, n):
    """Standard errors of a measured correlation."""
    # Sums of products of the kernel with itself, shifted by up to twice its lags.
    max_lag = len(kernel) // 2
    sums = correlate(np.pad(kernel, 2 * max_lag), kernel, mode='constant')
    sums = sums[max_lag : 5 * max_lag + 1, max_lag : 5 * max_lag + 1]
    once, twice = sums[max_lag:-max_lag, max_lag:-max_lag], sums[::2, ::2]
    total = np.sum(kernel**2)
    variance = total * (1 + 2 * kernel**2) + twice - 4 * kernel * once
    # It is 1 by definition.
    variance[max_lag, max_lag] = 0
    return np.sqrt(np.maximum(variance, 0) / n)


def _is_crowded(kernel, errors):
    """Whether faint sources, and not noise, make pixels alike."""
    n = len(kernel) // 2
    strong = max(neighbours(kernel)) >= _STRONG_CORRELATION
    limit = _CROWD_EXCESS_STRONG if strong else _CROWD_EXCESS
    # One and two pixels apart, in x and in y.
    return n > 1 and any(
        r[n + 1] > _MIN_CORRELATION
        and r[n + 2] - r[n + 1] ** 4 > max(limit, _CORRELATION_ERRORS * error[n + 2])
        for r, error in ((kernel[n], errors[n]), (kernel[:, n], errors[:, n]))
    )


def _noise_of_crowd(values, bad):
    """Noise and correlation of neighbours where hardly a pixel is without sources."""
    sigma, correlation = 1.0, (0.0, 0.0)
    light = smooth(values.clip(-1e30, 1e30), SMOOTHING)
    seen = MAD_TO_SIGMA * median(np.abs(light[~bad]))
    for _ in range(_N_ROUNDS):
        # Stars make the scatter here; noise at most twice that of white noise.
        scatter = min(seen, sigma / (np.sqrt(np.pi) * SMOOTHING))
        sources = light > _CROWD_SOURCE_SIGMA * scatter
        sources |= np.abs(values) > _CROWD_PIXEL_SIGMA * sigma
        empty = ~(binary_dilation(sources, iterations=GROWTH) | bad)
        if np.count_nonzero(empty) < _CROWD_MIN_BLANK:
            break
        sigma, correlation = _from_differences(values, empty)
    return sigma, correlation


def _from_differences(values, blank):
    """Noise and correlation from first and second differences of blank pixels."""
    variances, correlation = [], []
    grid = np.linspace(*_CORRELATION_RANGE, 1000)
    ratios = 3 - grid - grid**2 - grid**3
    for image, good in ((values, blank), (values.T, blank.T)):
        use = good[:, :-2] & good[:, 1:-1] & good[:, 2:]
        left, middle, right = (image[:, k : k + use.shape[1]][use] for k in range(3))
        first = np.mean((middle - left) ** 2)
        second = np.mean((left - 2 * middle + right) ** 2)
        if not first > 0:
            raise ValueError(NO_NOISE)
        r = float(np.interp(-second / first, -ratios, grid))
        variances.append(first / (2 - 2 * r))
        correlation.append(r)
    return float(np.sqrt(np.mean(variances))), correlation


def neighbours(kernel):
    """Values of a kernel one pixel off its centre, in x and in y."""
    n = len(kernel) // 2
    return float(kernel[n, n + 1]), float(kernel[n + 1, n])


def _kernel_of_neighbours(pair, max_lag):
    """Kernel of smoothed noise, r^(d^2) along each axis, of neighbours in x and y."""
    lags = np.arange(-max_lag, max_lag + 1)
    x, y = (correlation_at(lags, r) for r in pair)
    return np.outer(y, x)


def correlation_at(lags, r):
    """Correlation of smoothed noise at some lags, r^(lag^2), of that of neighbours."""
    return np.sign(r) ** np.abs(lags) * np.abs(r) ** np.square(lags, dtype=float)


def lagged_views(shape, dy, dx):
    """Slices of all pixels p of an image, and of the pixels p + (dy, dx), dy >= 0."""
    ny, nx = shape
    one = slice(0, max(ny - dy, 0)), slice(max(-dx, 0), max(nx - max(dx, 0), 0))
    two = slice(dy, ny), slice(max(dx, 0), max(nx + min(dx, 0), 0))
    return one, two


def kernel_of_sums(products, pairs):
    """Correlation kernel of sums by lag in y from 0 and lag in x from -L."""
    max_lag = len(products) - 1
    with np.errstate(invalid='ignore'):
        half = products / pairs
        half = np.nan_to_num(half / half[0, max_lag])
    kernel = np.concatenate([half[::-1, ::-1], half[1:]])
    kernel[max_lag, max_lag] = 1.0
    return kernel
