# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise of blank pixels: where sources are sparse, where they crowd, and its kernel.
"""

import numpy as np

from bliss_astro.units import MAD_TO_SIGMA

__all__ = []

NO_NOISE = 'bkg_error cannot be estimated: the image has no noise; give bkg_error'
# Correlations below this count for none, and differences from others below so many
# standard errors.
MIN_CORRELATION, CORRELATION_ERRORS = 0.07, 3.0
# Range of correlations that rounding and differences of pixels can show.
CORRELATION_RANGE = -0.5, 0.99

# Smoothing (sigma, pixels) that shows sources; their threshold in sigma of the
# smoothed image; growth of their areas (pixels); threshold of single pixels (sigma).
_SMOOTHING, _SOURCE_SIGMA, _GROWTH, _PIXEL_SIGMA = 1.5, 3.5, 4, 5.0
_N_ROUNDS = 3
# Pixels of the sample from which medians for thresholds are taken.
_N_MEDIAN = 50_000
# Side (pixels) of the cells in each of which a plane is taken off the sky; share of
# a cell that is blank, and relative deviation of its variance, for it to count.
_CELL_SIDE, _BLANK_SHARE, _VARIANCE_TOLERANCE = 64, 0.3, 0.3
_N_PLANE_PARAMETERS = 3
# Pixels from which noise is measured, at least.
MIN_BLANK = 100

# Excess of the correlation at two pixels over that of smoothed noise, r^4, above which
# faint sources make pixels alike: simulated fields with 0.008 sources per pixel have
# 0.25, smoothed noise has 0.02 at most; of strongly correlated noise (above the last
# number), photographic plates have 0.11.
_CROWD_EXCESS, _CROWD_EXCESS_STRONG, _STRONG_CORRELATION = 0.05, 0.12, 0.5
# Thresholds of sources in a crowd: smoothed image and single pixels (sigma), and the
# blank pixels needed.
_CROWD_SOURCE_SIGMA, _CROWD_PIXEL_SIGMA, _CROWD_MIN_BLANK = 4.0, 6.0, 1000


class TooFewPixelsError(ValueError):
    """Too few pixels to measure noise by."""


def check_enough(use, kind):
    """Refuse too few pixels."""
    n = int(np.count_nonzero(use))
    if n < MIN_BLANK:
        msg = f'data must have at least {MIN_BLANK} {kind} pixels; got {n}.'
        raise TooFewPixelsError(msg)


# -- sparse fields -------------------------------------------------------------


def noise_of_blank(residual, bad, max_lag):
    """
    Noise of the pixels without sources.

    Returns its standard deviation, correlation kernel and that one's standard errors,
    the number of pixels used, and which ones they are.
    """
    residual = np.asarray(residual, dtype=float)
    bad = bad | ~np.isfinite(residual)
    check_enough(~bad, 'good')
    cells = [
        np.linspace(0, n, max(1, round(n / _CELL_SIDE)), endpoint=False).astype(int)
        for n in residual.shape
    ]
    residual, blank = _blank_sky(residual, bad, cells)
    products, pairs = _lagged_cells(residual, blank, max_lag, cells)
    keep = _cells_alike(products[0, max_lag], pairs[0, max_lag], blank.size)
    n_cells = np.count_nonzero(keep)
    products, pairs = (v[:, :, keep].sum(-1) for v in (products, pairs))
    n = pairs[0, max_lag]
    # What the planes took off each covariance, from a first estimate of them all.
    lowered = max(kernel_of_sums(products, pairs).sum(), 0.0) * products[0, max_lag] / n
    products = products + pairs * lowered * _N_PLANE_PARAMETERS * n_cells / n
    kernel = kernel_of_sums(products, pairs)
    sigma = np.sqrt(products[0, max_lag] / n)
    return sigma, kernel, _bartlett(kernel, n), int(n), blank


def _blank_sky(residual, bad, cells):
    """Find blank sky, and take a plane off each of its cells."""
    from scipy.ndimage import binary_dilation, gaussian_filter

    share = gaussian_filter((~bad).astype(float), _SMOOTHING)
    share = np.maximum(share, 0.2)  # not to magnify the noise between bad pixels
    residual = np.where(bad, 0.0, residual - np.median(residual[~bad]))
    for _ in range(_N_ROUNDS):
        smooth = gaussian_filter(residual, _SMOOTHING) / share
        # Correlated noise is smoothed less than white noise: measured, not known.
        middle, sigma = _robust(smooth[~bad])
        sources = (smooth - middle > _SOURCE_SIGMA * sigma) & ~bad
        sources = binary_dilation(sources, iterations=_GROWTH)
        blank = ~(bad | sources)
        check_enough(blank, 'blank')
        middle, sigma = _robust(residual[blank])
        blank &= np.abs(residual - middle) <= _PIXEL_SIGMA * sigma
        residual = np.where(bad, 0.0, residual - _planes(residual, blank, cells))
    return np.where(blank, residual, 0.0), blank


def _planes(values, use, cells):
    """Fit a plane to those values of each cell that are used."""
    sides = [
        np.diff(np.append(starts, n))
        for starts, n in zip(cells, use.shape, strict=True)
    ]
    y, x = (np.concatenate([np.linspace(-1, 1, n) for n in each]) for each in sides)
    terms = [np.ones(use.shape), np.broadcast_to(x, use.shape), y[:, None] + 0 * x]
    matrix = [[_sum_cells(use * a * b, cells) for a in terms] for b in terms]
    right = [_sum_cells(use * a * values, cells) for a in terms]
    # Without pixels, or with too few, what they leave open is zero.
    inverse = np.linalg.pinv(np.moveaxis(np.array(matrix), -1, 0), rcond=1e-6)
    fit = np.einsum('kij,jk->ik', inverse, np.array(right))
    fit = fit.reshape(-1, len(cells[0]), len(cells[1]))
    fit = np.repeat(np.repeat(fit, sides[0], axis=1), sides[1], axis=2)
    return sum(number * term for number, term in zip(fit, terms, strict=True))


def _sum_cells(values, cells):
    """Sum over each cell, (n_cells,)."""
    sums = np.add.reduceat(values, cells[0], axis=0, dtype=float)
    return np.add.reduceat(sums, cells[1], axis=1).ravel()


def _robust(values):
    """Median and scaled median absolute deviation of a sample."""
    values = values[:: max(1, values.size // _N_MEDIAN)]
    middle = np.median(values)
    return middle, MAD_TO_SIGMA * np.median(np.abs(values - middle))


def _cells_alike(products, n, size):
    """Choose the cells whose variance is that of most."""
    enough = n >= _BLANK_SHARE * size / len(n)
    if not enough.any():
        enough = n > 0
    variance = np.where(enough, products / np.maximum(n, 1), np.nan)
    usual = np.nanmedian(variance)
    if not usual > 0:
        return enough
    tolerance = np.maximum(_VARIANCE_TOLERANCE, 10 / np.sqrt(np.maximum(n, 1)))
    keep = enough & ~(np.abs(variance / usual - 1) > tolerance)
    if not keep.any():
        # Halves of unlike noise, and their mean between both: the lower.
        usual = np.nanpercentile(variance, 50, method='lower')
        keep = enough & ~(np.abs(variance / usual - 1) > tolerance)
    return keep


def _lagged_cells(residual, blank, max_lag, cells):
    """Sum products and pairs by lag and by cell, (max_lag + 1, 2 max_lag + 1, n)."""
    shape = (max_lag + 1, 2 * max_lag + 1, len(cells[0]) * len(cells[1]))
    products, pairs = np.zeros(shape), np.zeros(shape)
    for dy, dx in np.ndindex(shape[:2]):
        one, two = lagged_views(residual.shape, dy, dx - max_lag)
        # Filed under the cell of the first of both pixels.
        whole = np.zeros(residual.shape)
        whole[one] = residual[one] * residual[two]
        products[dy, dx] = _sum_cells(whole, cells)
        whole[...] = 0.0
        whole[one] = blank[one] & blank[two]
        pairs[dy, dx] = _sum_cells(whole, cells)
    return products, pairs


def _bartlett(kernel, n):
    """Standard errors of a measured correlation."""
    max_lag = len(kernel) // 2
    width = 4 * max_lag  # beyond which all products vanish
    rho = np.pad(kernel, width - max_lag)
    errors = np.zeros_like(kernel)
    for j, i in np.ndindex(kernel.shape):
        lag = np.array([j, i]) - max_lag
        # Nothing is rolled across the edges: the padding is wide enough.
        ahead, behind = (np.roll(rho, sign * lag, (0, 1)) for sign in (-1, 1))
        own = kernel[j, i]
        terms = rho**2 + ahead * behind - 4 * own * rho * behind
        errors[j, i] = np.sum(terms + 2 * own**2 * rho**2)
    return np.sqrt(np.maximum(errors, 0) / n)


# -- crowded fields ------------------------------------------------------------


def is_crowded(kernel, errors):
    """Whether faint sources, and not noise, make pixels alike."""
    n = len(kernel) // 2
    strong = max(neighbours(kernel)) >= _STRONG_CORRELATION
    limit = _CROWD_EXCESS_STRONG if strong else _CROWD_EXCESS
    lags = ((n, n + 1), (n, n + 2)), ((n + 1, n), (n + 2, n))
    return n > 1 and any(
        kernel[one] > MIN_CORRELATION
        and kernel[two] - kernel[one] ** 4
        > max(limit, CORRELATION_ERRORS * errors[two])
        for one, two in lags
    )


def noise_of_crowd(values, bad):
    """Noise and correlation of neighbours where hardly a pixel is without sources."""
    from scipy.ndimage import binary_dilation, gaussian_filter

    sigma, correlation = 1.0, (0.0, 0.0)
    smooth = gaussian_filter(values, _SMOOTHING)
    seen = MAD_TO_SIGMA * np.median(np.abs(smooth[~bad]))
    for _ in range(_N_ROUNDS):
        # Stars make the scatter here; noise at most twice that of white noise.
        scatter = min(seen, sigma / (np.sqrt(np.pi) * _SMOOTHING))
        sources = smooth > _CROWD_SOURCE_SIGMA * scatter
        sources |= np.abs(values) > _CROWD_PIXEL_SIGMA * sigma
        empty = ~(binary_dilation(sources, iterations=_GROWTH) | bad)
        if np.count_nonzero(empty) < _CROWD_MIN_BLANK:
            break
        sigma, correlation = _from_differences(values, empty)
    return sigma, correlation


def _from_differences(values, blank):
    """Noise and correlation from first and second differences of blank pixels."""
    variances, correlation = [], []
    for image, good in ((values, blank), (values.T, blank.T)):
        use = good[:, :-2] & good[:, 1:-1] & good[:, 2:]
        left, middle, right = (image[:, k : k + use.shape[1]][use] for k in range(3))
        first = np.mean((middle - left) ** 2)
        second = np.mean((left - 2 * middle + right) ** 2)
        if not first > 0:
            raise ValueError(NO_NOISE)
        # One real root: the left side only grows.
        roots = np.roots([1.0, 1.0, 1.0, second / first - 3])
        root = roots[np.argmin(np.abs(roots.imag))].real
        r = float(np.clip(root, *CORRELATION_RANGE))
        variances.append(first / (2 - 2 * r))
        correlation.append(r)
    return float(np.sqrt(np.mean(variances))), correlation


# -- kernels ---------------------------------------------------------------------


def neighbours(kernel):
    """Values of a kernel one pixel off its centre, in x and in y."""
    n = len(kernel) // 2
    return float(kernel[n, n + 1]), float(kernel[n + 1, n])


def kernel_of_neighbours(pair, max_lag):
    """Kernel of smoothed noise, r^(d^2) along each axis, of neighbours in x and y."""
    lags = np.arange(-max_lag, max_lag + 1)
    x, y = (np.sign(r) ** np.abs(lags) * np.abs(r) ** (lags**2.0) for r in pair)
    return np.outer(y, x)


def lagged_views(shape, dy, dx):
    """Slices of all pixels p of an image, and of the pixels p + (dy, dx), dy >= 0."""
    ny, nx = shape
    one = slice(0, max(ny - dy, 0)), slice(max(-dx, 0), max(nx - max(dx, 0), 0))
    two = slice(dy, ny), slice(max(dx, 0), max(nx + min(dx, 0), 0))
    return one, two


def kernel_of_sums(products, pairs):
    """
    Correlation kernel of sums over pairs of pixels.

    Parameters
    ----------
    products, pairs : float `~numpy.ndarray`, shape (max_lag + 1, 2 max_lag + 1)
        Sums of products and numbers of pairs, by lag in y from 0 and lag in x
        from ``-max_lag``.

    Returns
    -------
    kernel : float `~numpy.ndarray`, shape (2 max_lag + 1, 2 max_lag + 1)
        The kernel.
    """
    max_lag = len(products) - 1
    with np.errstate(invalid='ignore'):
        half = products / pairs
        half = np.nan_to_num(half / half[0, max_lag])
    kernel = np.zeros((2 * max_lag + 1, 2 * max_lag + 1))
    kernel[max_lag:] = half
    kernel[: max_lag + 1] = half[::-1, ::-1]
    kernel[max_lag, max_lag] = 1.0
    return kernel
