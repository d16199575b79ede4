# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise of an image and its correlation between pixels, measured in blank sky.
"""

from dataclasses import dataclass, replace

import astropy.units as u
import numpy as np

from bliss_astro._messages import counted
from bliss_astro.units import MAD_TO_SIGMA

from ._blank_noise import (
    CORRELATION_ERRORS,
    CORRELATION_RANGE,
    MIN_CORRELATION,
    NO_NOISE,
    TooFewPixelsError,
    check_enough,
    is_crowded,
    kernel_of_neighbours,
    neighbours,
    noise_of_blank,
    noise_of_crowd,
)
from ._sky import measure_background
from ._validate import check_data, check_map, check_mask

__all__ = ['NoiseMeasurement', 'measure_noise']

# Pixels below which nothing is measured.
_MIN_GOOD = 9
# A large image is sampled: pixels (errors of 0.2 %), strips and their rows.
_SAMPLE_SIZE, _MIN_STRIPS, _STRIP_ROWS = 250_000, 3, 128
# Noise in steps of the numbers below which the steps are smoothed out, and variance
# over that of a step below which there is none.
_COARSE_NOISE, _MIN_STEP_VARIANCE = 2.0, 0.1


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
    background: object = 0.0

    @property
    def noise_correlation(self):
        """Correlation of pixels next to each other, in x and in y."""
        return neighbours(self.kernel)

    @property
    def significant_correlation(self):
        """
        Correlation of neighbours, 0 where it is below 0.07 or three standard errors.
        """
        errors = neighbours(self.kernel_error)
        return tuple(
            r if abs(r) > max(MIN_CORRELATION, CORRELATION_ERRORS * error) else 0.0
            for r, error in zip(self.noise_correlation, errors, strict=True)
        )

    @property
    def area_sigma(self):
        """
        Noise of a sum over many pixels, over the square root of their number.

        It is ``sigma`` for independent pixels, and more for an image that was
        resampled. Correlation beyond the largest lag is not counted.
        """
        return self.sigma * np.sqrt(max(float(self.kernel.sum()), 0.0))

    def __repr__(self):
        along_x, along_y = self.noise_correlation
        return (
            f'<NoiseMeasurement, sigma {self.sigma:.4g} +- {self.sigma_error:.2g}, '
            f'correlation ({along_x:.3f}, {along_y:.3f}) +- '
            f'{max(neighbours(self.kernel_error)):.2g}, {self.n_pixels} pixels>'
        )


def measure_noise(data, mask=None, *, background=None, max_lag=2):
    """
    Measure the noise of an image and the correlation between its pixels.

    Sources are found and left out, and so are outliers and regions whose noise
    differs from that of most of the image. ```detect_sources``` estimates
    the noise of an image that does not state it in the same way.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The image.

    mask : 2D bool array_like, optional
        `True` in bad pixels. Those that are not finite are bad anyway.

    background : float or 2D array_like, optional
        Sky in the unit of ``data``, by default measured on a mesh of 64 pixels.
        From the rest a plane is taken off in each cell of about 64 pixels.

    max_lag : int, optional
        Largest distance in pixels along each axis at which the correlation is
        measured.

    Returns
    -------
    noise : `NoiseMeasurement`
        Noise, correlation and sky.

    Raises
    ------
    TypeError
        If an argument has an impossible type.

    ValueError
        If shapes do not fit, the image has no noise, or fewer than 100 pixels are
        blank.

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

    Where faint sources cover the sky, pixels are alike for another reason. Noise and
    correlation then come from first and second differences of pixels, which hardly
    see smooth light: with the correlation r of noise that a kernel smoothed,
    :math:`r^4` at two pixels, these have the variances :math:`2 - 2 r` and
    :math:`6 - 8 r + 2 r^4` in units of the variance of a pixel, and the ratio
    :math:`3 - r - r^2 - r^3`.

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
    check_enough(~bad, 'good')
    quantum = step_of_values(data[~bad])
    if background is None:
        background, _ = measure_sky(data, bad, quantum=quantum)
    background = check_map('background', background, data.shape)
    residual = np.asarray(data, dtype=float) - background
    noise = noise_of_residual(
        residual, bad, quantum=quantum, max_lag=int(max_lag), needs_blank=True
    )
    if unit is None:
        return replace(noise, background=background)
    return replace(
        noise,
        sigma=noise.sigma * unit,
        sigma_error=noise.sigma_error * unit,
        background=background * unit,
    )


def step_of_values(values):
    """Step of whole numbers, 0.0 for others; most of these show in a few pixels."""
    for some in (values[:1000], values):
        if not np.all(some == np.rint(some)):
            return 0.0
    return 1.0


def measure_sky(data, bad, *, quantum=0.0, correlation=None):
    """
    Sky on a mesh, and the noise above it or None where that is not known.

    The noise's correlation, measured unless given, keeps its peaks from being
    taken for sources.
    """
    box_size = 64 if min(data.shape) >= 128 else 128
    sky = {'box_size': box_size, 'quantum': quantum}
    background = measure_background(data, bad, **sky)
    try:
        noise = noise_of_residual(data - background, bad, quantum=quantum)
    except ValueError:
        noise = None
    if correlation is None:
        correlation = (0.0, 0.0) if noise is None else noise.significant_correlation
    if max(correlation) > 0:
        background = measure_background(data, bad, **sky, correlation=correlation)
        noise = None
    return background, noise


def noise_of_residual(residual, bad, *, quantum=0.0, max_lag=2, needs_blank=False):
    """
    Noise of an image without its sky; the work behind `measure_noise`.

    Parameters
    ----------
    residual : float `~numpy.ndarray`, shape (ny, nx)
        Image without its sky.

    bad : bool `~numpy.ndarray`, shape (ny, nx)
        Bad pixels.

    quantum : float, optional
        Step of the data, if they were rounded. Where it is not small against the
        noise, most pixels have one value: the steps are smoothed out by noise of
        known variance, which is taken off again.

    max_lag : int, optional
        Largest lag of the correlation in pixels.

    needs_blank : bool, optional
        Whether to raise where too few pixels are blank, and not to return the
        scatter of the pixels below the sky.
    """
    good = ~bad
    n_good = int(np.count_nonzero(good))
    if n_good < _MIN_GOOD:
        pixels = counted(n_good, 'pixel')
        msg = f'bkg_error cannot be estimated from {pixels}; give bkg_error'
        raise ValueError(msg)
    # In the precision of the image, as its numbers are.
    scale = _scatter_below(residual[good])
    if not scale > 0:
        raise ValueError(NO_NOISE)
    if scale < _COARSE_NOISE * quantum:
        return _noise_of_rounded(residual, bad, quantum, max_lag, needs_blank)
    # In units of the noise no number of any image is too small or large.
    rows = _strips(residual.shape)
    scaled = np.where(good[rows], residual[rows] / scale, 0.0)
    bad = bad[rows]
    if len(scaled) < len(residual):
        # Rows of two strips are not neighbours.
        for lag in range(max_lag):
            bad[lag::_STRIP_ROWS] = True
    try:
        sigma, kernel, errors, n_pixels, used = noise_of_blank(scaled, bad, max_lag)
    except TooFewPixelsError:
        if needs_blank:
            raise
        kernel = kernel_of_neighbours((0.0, 0.0), max_lag)
        return NoiseMeasurement(
            float(scale),
            float(scale / np.sqrt(2 * n_good)),
            kernel,
            0 * kernel,
            n_good,
            good,
        )
    if not sigma > 0:
        raise ValueError(NO_NOISE)
    sigma, error = float(sigma), sigma * np.sqrt(np.sum(kernel**2) / (2 * n_pixels))
    if is_crowded(kernel, errors):
        sigma, pair = noise_of_crowd(scaled, bad)
        kernel = kernel_of_neighbours(pair, max_lag)
    blank = np.zeros(residual.shape, dtype=bool)
    blank[rows] = used
    return NoiseMeasurement(
        float(sigma * scale), float(error * scale), kernel, errors, n_pixels, blank
    )


def _noise_of_rounded(residual, bad, quantum, max_lag, needs_blank):
    """Noise of numbers with steps about as large as their noise."""
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
    pair = [
        float(np.clip(r * share, *CORRELATION_RANGE))
        for r in noise.significant_correlation
    ]
    return replace(
        noise,
        sigma=float(np.sqrt(variance)),
        sigma_error=float(noise.sigma_error * np.sqrt(share)),
        kernel=kernel_of_neighbours(pair, max_lag),
    )


def _scatter_below(residual):
    """Scatter of the pixels below the sky: sources only brighten pixels."""
    below = residual[residual < 0]
    return MAD_TO_SIGMA * np.median(np.abs(below)) if len(below) else 0.0


def _strips(shape):
    """Rows of some strips of a large image, evenly spread; else all of them."""
    ny, nx = shape
    n_strips = max(_MIN_STRIPS, round(_SAMPLE_SIZE / (nx * _STRIP_ROWS)))
    if n_strips * _STRIP_ROWS >= ny:
        return np.arange(ny)
    starts = np.linspace(0, ny - _STRIP_ROWS, n_strips).astype(int)
    return (starts[:, None] + np.arange(_STRIP_ROWS)).ravel()
