# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The noise of an image and its correlation, measured in blank sky.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np

from ._noise_lags import kernel_of_sums, lagged_views
from ._sky import measure_background
from ._validate import check_data, check_map, check_mask

__all__ = ['NoiseMeasurement', 'measure_noise']

# Sources are found in the image smoothed by this sigma (pixels), above so many
# sigma of it, and grown by so many pixels; single pixels are left out above so
# many sigma of their own.
_SMOOTHING, _SOURCE, _GROWN, _OUTLIER = 1.5, 3.5, 4, 5.0
_N_ROUNDS = 3
# Values from which medians for thresholds are taken.
_SAMPLE = 50_000

# About the side of the cells, in each of which a plane is taken off the sky, and
# which are compared with each other; how much of one has to be blank, and by how
# much its variance may be off.
_CELL, _BLANK_SHARE, _OFF = 64, 0.3, 0.3
_N_PLANE = 3  # numbers of a plane

# The sky is measured on a mesh only where it has several cells.
_MESH = 256

_FEWEST = 100


@dataclass(frozen=True)
class NoiseMeasurement:
    """
    The noise of an image, as measured in blank sky.

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
        How many pixels were used.

    blank : bool `~numpy.ndarray`, shape (ny, nx)
        Which ones.

    See Also
    --------
    measure_noise : Makes it.
    """

    sigma: float
    sigma_error: float
    kernel: np.ndarray
    kernel_error: np.ndarray
    n_pixels: int
    blank: np.ndarray

    @property
    def noise_correlation(self):
        """Correlation of pixels next to each other, in x and in y."""
        n = len(self.kernel) // 2
        return float(self.kernel[n, n + 1]), float(self.kernel[n + 1, n])

    @property
    def area_sigma(self):
        """
        Noise of a sum over many pixels, over the square root of their number.

        It is ``sigma`` for independent pixels, and more for an image that was
        resampled. Correlation beyond the largest lag is not counted.
        """
        return self.sigma * np.sqrt(max(float(self.kernel.sum()), 0.0))

    def __repr__(self):
        """
        Give the numbers with their errors.
        """
        n = len(self.kernel) // 2
        along_x, along_y = self.noise_correlation
        error = max(self.kernel_error[n, n + 1], self.kernel_error[n + 1, n])
        return (
            f'<NoiseMeasurement, sigma {self.sigma:.4g} +- {self.sigma_error:.2g}, '
            f'correlation ({along_x:.3f}, {along_y:.3f}) +- {error:.2g}, '
            f'{self.n_pixels} pixels>'
        )


def measure_noise(data, mask=None, *, background=None, max_lag=2):
    """
    Measure the noise of an image and the correlation between its pixels.

    Sources are found and left out, and so are outliers and regions whose noise
    differs from that of most of the image.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The image.

    mask : 2D bool array_like, optional
        `True` in bad pixels. Those that are not finite are bad anyway.

    background : float or 2D array_like, optional
        The sky. By default it is measured on a mesh of 128 pixels, where the
        image has at least 256. Whatever it leaves, a plane in each cell of
        about 64 pixels is taken off.

    max_lag : int, optional
        The largest distance, in pixels along each axis, at which the
        correlation is measured.

    Returns
    -------
    noise : `NoiseMeasurement`
        The noise.

    Raises
    ------
    TypeError
        If an argument has an impossible type.

    ValueError
        If shapes do not fit, or fewer than 100 pixels are blank.

    See Also
    --------
    bliss_astro.coadds.align_exposures : States the noise of what it resamples.

    Notes
    -----
    Standard errors are those of stationary Gaussian noise with the
    correlation :math:`\\rho` that is measured (Bartlett's formula [1]_), for
    which N pixels have

    .. math::

        \\mathrm{var}(\\hat\\sigma^2) / \\sigma^4 = \\frac{2}{N} \\sum_l \\rho_l^2 .

    The planes that were taken off the sky lower each covariance, in a cell of n
    pixels by :math:`3 \\sigma^2 \\sum_l \\rho_l / n`, which is added again.

    References
    ----------
    .. [1] Bartlett, M. S. 1946, "On the Theoretical Specification and
       Sampling Properties of Autocorrelated Time-Series", Supplement to the
       Journal of the Royal Statistical Society 8, 27

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.exposures import measure_noise
    >>> rng = np.random.default_rng(1)
    >>> white = rng.normal(0, 3, (201, 200))
    >>> noise = measure_noise((white[1:] + white[:-1]) / 2)
    >>> round(noise.sigma, 2), round(noise.sigma_error, 2)
    (2.12, 0.01)
    >>> [round(value, 1) + 0 for value in noise.noise_correlation]
    [0.0, 0.5]
    """
    unit = data.unit if isinstance(data, u.Quantity) else None
    if unit is not None:
        data = data.value
        if isinstance(background, u.Quantity):
            background = background.to_value(unit)
    data, bad = check_data(data)
    given = check_mask('mask', mask, data.shape)
    if given is not None:
        bad |= given
    if isinstance(max_lag, bool) or not isinstance(max_lag, (int, np.integer)):
        msg = f'max_lag must be an integer; got {max_lag!r}.'
        raise TypeError(msg)
    if not 1 <= max_lag < min(data.shape) / 2:
        msg = (
            f'max_lag must be at least 1, and less than half the shorter side of data, '
            f'{min(data.shape)}; got {max_lag}.'
        )
        raise ValueError(msg)
    _check_enough(~bad, 'good')
    if background is None:
        background = 0.0
        if min(data.shape) >= _MESH:
            background = measure_background(data, bad)
    background = check_map('background', background, data.shape)
    residual = np.asarray(data, dtype=float) - background
    cells = [
        np.linspace(0, n, max(1, round(n / _CELL)), endpoint=False).astype(int)
        for n in data.shape
    ]
    residual, blank = _blank_sky(residual, bad, cells)
    return _measure(residual, blank, int(max_lag), cells, unit or 1)


def _check_enough(use, what):
    """
    Check that there are pixels to measure the noise by.
    """
    n = int(np.count_nonzero(use))
    if n < _FEWEST:
        msg = f'data must have at least {_FEWEST} {what} pixels; got {n}.'
        raise ValueError(msg)


def _blank_sky(residual, bad, cells):
    """
    Find blank sky, and take a plane off each of its cells.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter

    share = gaussian_filter((~bad).astype(float), _SMOOTHING)
    share = np.maximum(share, 0.2)  # not to magnify the noise between bad pixels
    residual = np.where(bad, 0.0, residual - np.median(residual[~bad]))
    for _ in range(_N_ROUNDS):
        smooth = gaussian_filter(residual, _SMOOTHING) / share
        # Correlated noise is smoothed less than white noise: measured, not known.
        middle, sigma = _robust(smooth[~bad])
        sources = (smooth - middle > _SOURCE * sigma) & ~bad
        sources = binary_dilation(sources, iterations=_GROWN)
        blank = ~(bad | sources)
        _check_enough(blank, 'blank')
        middle, sigma = _robust(residual[blank])
        blank &= np.abs(residual - middle) <= _OUTLIER * sigma
        residual = np.where(bad, 0.0, residual - _planes(residual, blank, cells))
    return np.where(blank, residual, 0.0), blank


def _planes(values, use, cells):
    """
    Fit a plane to those values of each cell that are used.
    """
    sides = [
        np.diff(np.append(starts, n))
        for starts, n in zip(cells, use.shape, strict=True)
    ]
    y, x = (np.concatenate([np.linspace(-1, 1, n) for n in each]) for each in sides)
    terms = [np.ones(use.shape), np.broadcast_to(x, use.shape), y[:, None] + 0 * x]
    matrix = [[_by_cell(use * a * b, cells) for a in terms] for b in terms]
    right = [_by_cell(use * a * values, cells) for a in terms]
    # Without pixels, or with too few, what they leave open is zero.
    inverse = np.linalg.pinv(np.moveaxis(np.array(matrix), -1, 0), rcond=1e-6)
    fit = np.einsum('kij,jk->ik', inverse, np.array(right))

    def spread(each):
        each = each.reshape(len(cells[0]), len(cells[1]))
        return np.repeat(np.repeat(each, sides[0], axis=0), sides[1], axis=1)

    return sum(spread(number) * term for number, term in zip(fit, terms, strict=True))


def _by_cell(values, cells):
    """
    Sum over each cell, (n_cells,).
    """
    sums = np.add.reduceat(values, cells[0], axis=0, dtype=float)
    return np.add.reduceat(sums, cells[1], axis=1).ravel()


def _robust(values):
    """
    Return the median and the scaled median absolute deviation, of a sample.
    """
    values = values[:: max(1, values.size // _SAMPLE)]
    middle = np.median(values)
    return middle, 1.482602 * np.median(np.abs(values - middle))


def _measure(residual, blank, max_lag, cells, unit):
    """
    Average products of pixels over cells that agree.
    """
    products, pairs = _lagged_cells(residual, blank, max_lag, cells)
    keep = _alike(products[0, max_lag], pairs[0, max_lag], blank.size)
    n_cells = np.count_nonzero(keep)
    products, pairs = (v[:, :, keep].sum(-1) for v in (products, pairs))
    n = pairs[0, max_lag]
    # What the planes took off each covariance, from a first estimate of them all.
    lowered = max(kernel_of_sums(products, pairs).sum(), 0.0) * products[0, max_lag] / n
    products = products + pairs * lowered * _N_PLANE * n_cells / n
    kernel = kernel_of_sums(products, pairs)
    sigma = np.sqrt(products[0, max_lag] / n)
    sigma_error = sigma * np.sqrt(np.sum(kernel**2) / (2 * n))
    return NoiseMeasurement(
        sigma=float(sigma) * unit,
        sigma_error=float(sigma_error) * unit,
        kernel=kernel,
        kernel_error=_bartlett(kernel, n),
        n_pixels=int(n),
        blank=blank,
    )


def _alike(products, n, size):
    """
    Choose the cells whose variance is that of most.
    """
    enough = n >= _BLANK_SHARE * size / len(n)
    if not enough.any():
        enough = n > 0
    variance = np.where(enough, products / np.maximum(n, 1), np.nan)
    usual = np.nanmedian(variance)
    if not usual > 0:
        return enough
    tolerance = np.maximum(_OFF, 10 / np.sqrt(np.maximum(n, 1)))
    keep = enough & ~(np.abs(variance / usual - 1) > tolerance)
    if not keep.any():
        # Halves of unlike noise, and their mean between both: the lower.
        usual = np.nanpercentile(variance, 50, method='lower')
        keep = enough & ~(np.abs(variance / usual - 1) > tolerance)
    return keep


def _lagged_cells(residual, blank, max_lag, cells):
    """
    Sum products and pairs by lag and by cell, (max_lag + 1, 2 max_lag + 1, n).
    """
    shape = (max_lag + 1, 2 * max_lag + 1, len(cells[0]) * len(cells[1]))
    products, pairs = np.zeros(shape), np.zeros(shape)
    for dy in range(max_lag + 1):
        for dx in range(-max_lag, max_lag + 1):
            one, two = lagged_views(residual.shape, dy, dx)
            # Filed under the cell of the first of both pixels.
            whole = np.zeros(residual.shape)
            whole[one] = residual[one] * residual[two]
            products[dy, dx + max_lag] = _by_cell(whole, cells)
            whole[...] = 0.0
            whole[one] = blank[one] & blank[two]
            pairs[dy, dx + max_lag] = _by_cell(whole, cells)
    return products, pairs


def _bartlett(kernel, n):
    """
    Return the standard errors of a measured correlation.
    """
    max_lag = len(kernel) // 2
    width = 4 * max_lag  # beyond which all products vanish
    rho = np.pad(kernel, width - max_lag)
    size = np.arange(-max_lag, max_lag + 1)
    errors = np.zeros_like(kernel)
    for j, dy in enumerate(size):
        for i, dx in enumerate(size):
            # Nothing is rolled across the edges: the padding is wide enough.
            ahead, behind = (np.roll(rho, (s * dy, s * dx), (0, 1)) for s in (-1, 1))
            own = kernel[j, i]
            terms = rho**2 + ahead * behind - 4 * own * rho * behind
            errors[j, i] = np.sum(terms + 2 * own**2 * rho**2)
    return np.sqrt(np.maximum(errors, 0) / n)
