# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise of empty sky, and the correlation of neighbouring pixels, for any image.
"""

import numpy as np

from bliss_astro._messages import counted

from ._measured_noise import measure_noise

__all__ = ['NO_NOISE', 'estimate_sky_noise']

NO_NOISE = 'bkg_error cannot be estimated: the image has no noise; give bkg_error'
# Correlations below this, or below so many standard errors, are taken for none.
_LEAST_CORRELATION, _N_ERRORS = 0.07, 3.0
# What the correlation at two pixels exceeds that of smoothed noise by where faint
# sources, not noise, make pixels alike: simulated fields with 0.008 sources per
# pixel have 0.25, smoothed noise has 0.02 at most. Of strongly correlated noise,
# photographic plates have 0.11.
_CONFUSED, _CONFUSED_STRONG, _STRONG = 0.05, 0.12, 0.5
# Noise is measured on about so many pixels, in so many strips at least of so many
# rows: errors of 0.2 %.
_MOST_PIXELS, _LEAST_STRIPS, _STRIP = 250_000, 3, 128
# In crowded fields: rounds, the smoothing that shows sources, and pixels needed.
_N_ROUNDS, _SMOOTHING, _FEWEST = 3, 1.5, 1000
# Steps of rounded data matter above their number of times this, and variance below so
# large a share of that of one step is none.
_COARSE, _LEAST_VARIANCE = 2.0, 0.1
# Of so few pixels nothing can be told of their noise.
_LEAST_PIXELS = 9


def estimate_sky_noise(residual, mask, *, quantum=0.0):
    """
    Estimate the noise of empty sky and its correlation.

    Parameters
    ----------
    residual : float `~numpy.ndarray`, shape (ny, nx)
        The image without its sky.

    mask : bool `~numpy.ndarray`, shape (ny, nx)
        `True` in bad pixels.

    quantum : float, optional
        Step of the data, if they were rounded to whole counts. Where it is not small
        against the noise, most pixels have one value, and medians tell nothing: the
        steps are smoothed out by noise of known variance, which is taken off again.

    Returns
    -------
    bkg_error : float
        Standard deviation of a pixel.

    noise_correlation : tuple of float
        Correlation of pixels next to each other, in x and in y.

    Raises
    ------
    ValueError
        If the image has no noise.

    Notes
    -----
    In sparse fields both are those of the pixels without sources. Where faint
    sources cover the sky, they come from first and second differences of pixels,
    which hardly see smooth light: with the correlation r of noise that a kernel
    smoothed, :math:`r^4` at two pixels, these have the variances :math:`2 - 2 r` and
    :math:`6 - 8 r + 2 r^4` in units of the variance of a pixel, and the ratio
    :math:`3 - r - r^2 - r^3`.
    """
    good = ~mask
    n_good = int(good.sum())
    if n_good < _LEAST_PIXELS:
        pixels = counted(n_good, 'pixel')
        msg = f'bkg_error cannot be estimated from {pixels}; give bkg_error'
        raise ValueError(msg)
    scale = _below(residual[good])
    if not scale > 0:
        raise ValueError(NO_NOISE)
    if scale < _COARSE * quantum:
        return _of_rounded(residual, mask, quantum)
    # In units of the noise no number of any image is too small or large.
    scaled = np.where(good, residual / scale, 0.0)
    scaled, bad = _strips(scaled, mask)
    try:
        measured = measure_noise(scaled, bad, background=0.0)
    except ValueError:
        # Too few pixels, or too few of them without sources.
        return float(scale), (0.0, 0.0)
    if not measured.sigma > 0:
        raise ValueError(NO_NOISE)
    sigma, correlation = measured.sigma, measured.noise_correlation
    kernel, errors = measured.kernel, measured.kernel_error
    n = len(kernel) // 2
    lags = ((n, n + 1), (n + 1, n)), ((n, n + 2), (n + 2, n))
    limit = _CONFUSED if max(correlation) < _STRONG else _CONFUSED_STRONG
    if any(
        kernel[one] > _LEAST_CORRELATION
        and kernel[two] - kernel[one] ** 4 > max(limit, _N_ERRORS * errors[two])
        for one, two in zip(*lags, strict=True)
    ):
        sigma, correlation = _in_a_crowd(scaled, bad)
    least = [max(_LEAST_CORRELATION, _N_ERRORS * errors[one]) for one in lags[0]]
    correlation = tuple(
        float(r) if abs(r) > limit else 0.0
        for r, limit in zip(correlation, least, strict=True)
    )
    return float(sigma * scale), correlation


def _of_rounded(residual, mask, quantum):
    """
    Noise and correlation of numbers with steps about as large as their noise.
    """
    # Any fixed seed serves, as in measure_background.
    steps = np.random.default_rng(1).uniform(-0.5, 0.5, residual.shape)
    sigma, correlation = estimate_sky_noise(residual + quantum * steps, mask)
    added = quantum**2 / 12
    variance = sigma**2 - added
    if not variance > _LEAST_VARIANCE * added:
        raise ValueError(NO_NOISE)
    share = sigma**2 / variance
    correlation = tuple(float(np.clip(r * share, -0.5, 0.99)) for r in correlation)
    return float(np.sqrt(variance)), correlation


def _below(residual):
    """
    Scatter of the pixels below the sky: sources only brighten pixels.
    """
    below = residual[residual < 0]
    return 1.4826 * np.median(np.abs(below)) if len(below) else 0.0


def _strips(values, bad):
    """
    Take some strips of a large image, evenly spread, with bad rows between them.
    """
    ny, nx = values.shape
    n_strips = max(_LEAST_STRIPS, round(_MOST_PIXELS / (nx * _STRIP)))
    if n_strips * _STRIP >= ny:
        return values, bad
    starts = np.linspace(0, ny - _STRIP, n_strips).astype(int)
    rows = (starts[:, None] + np.arange(_STRIP)).ravel()
    bad = bad[rows]
    # As many as the largest distance at which pixels are compared.
    for first in range(0, len(rows), _STRIP):
        bad[first : first + 2] = True
    return values[rows], bad


def _in_a_crowd(values, bad):
    """
    Noise and its correlation where hardly a pixel is without sources.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter

    sigma, correlation = 1.0, (0.0, 0.0)
    for _ in range(_N_ROUNDS):
        smooth = gaussian_filter(values, _SMOOTHING)
        scatter = 1.4826 * np.median(np.abs(smooth[~bad]))
        # Stars make the scatter here; noise at most twice that of white noise.
        scatter = min(scatter, sigma / (np.sqrt(np.pi) * _SMOOTHING))
        sources = (smooth > 4 * scatter) | (np.abs(values) > 6 * sigma)
        empty = ~(binary_dilation(sources, iterations=4) | bad)
        if np.count_nonzero(empty) < _FEWEST:
            break
        sigma, correlation = _from_differences(values, empty)
    return sigma, correlation


def _from_differences(values, blank):
    """
    Noise and its correlation from differences of pixels of blank sky.
    """
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
        r = float(np.clip(roots[np.argmin(np.abs(roots.imag))].real, -0.5, 0.99))
        variances.append(first / (2 - 2 * r))
        correlation.append(r)
    return float(np.sqrt(np.mean(variances))), correlation
