# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What resampling does to noise, measured on realisations of noise alone.
"""

import numpy as np

from ._noise_kernel import (
    MAX_LAG,
    correlated_noise,
    input_kernel,
    kernel_of_sums,
    lagged_sums,
)
from ._pixel_mapping import pixel_area
from ._resampled_noise import LEAST_WEIGHT, NoiseOnGrid, value_scale

__all__ = ['sampled_noise']

# Side of the box, in pixels, over which the variance of a few realisations is
# averaged, and how many values of the noise they hold at least.
_BOX = 25
_N_VALUES = 200_000

# Numbers that a stack of realisations holds at most.
_STACK = 2**24


def sampled_noise(exposure, mapping, planes, covered, resample, *, n_noise, rng):
    """
    Measure the noise of a resampled exposure on realisations of noise alone.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    mapping : `PixelMapping`
        Where the pixels of the grid lie in it.

    planes : dict of str to float `~numpy.ndarray`, shape (ny, nx)
        Resampled means: ``bad`` and ``saturated`` as shares, ``variance`` and
        ``gain`` where these are maps.

    covered : bool `~numpy.ndarray`, shape (ny, nx)
        Where there are data.

    resample : callable
        Resamples a stack (n, ny_in, nx_in), as means and not as sums.

    n_noise : int
        Realisations, at least.

    rng : `numpy.random.Generator`
        The generator.

    Returns
    -------
    noise : `NoiseOnGrid`
        The noise.
    """
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
    """
    Measure how resampling reduces and correlates an exposure's noise.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    resample : callable
        Resamples a stack (n, ny_in, nx_in), as means and not as sums.

    level : float `~numpy.ndarray`, shape (ny, nx)
        Standard deviation of the input around each output pixel.

    use : bool `~numpy.ndarray`, shape (ny, nx)
        Pixels that count.

    n_noise : int
        Realisations, at least: a small image gets more.

    rng : `numpy.random.Generator`
        The generator.

    Returns
    -------
    reduction : float `~numpy.ndarray`, shape (ny, nx)
        Variance over ``level**2``, averaged over 25 x 25 pixels.

    kernel : float `~numpy.ndarray`, shape (5, 5)
        Mean correlation.
    """
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
    """
    Average over a box those values that count.
    """
    from scipy.ndimage import uniform_filter

    share = uniform_filter(use.astype(float), _BOX, mode='constant')
    total = uniform_filter(np.where(use, values, 0.0), _BOX, mode='constant')
    # Sums of a running box leave rounding errors where they should be 0.
    enough = share > 1e-6
    mean = values[use].mean() if use.any() else 1.0
    return np.where(enough, total / np.where(enough, share, 1), mean)
