# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sky background on a mesh, the error of its level, and `measure_noise` above it.
"""

from dataclasses import replace
from functools import partial

import astropy.units as u
import numpy as np
from astropy.nddata import block_reduce
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro._arguments import check_integer
from bliss_astro._filters import smooth, spread_cells, sums_of_cells
from bliss_astro._warnings import collect_warnings

from ._noise import GROWTH, SMOOTHING, check_enough, noise_of_residual
from ._validate import check_data, check_map, check_mask, join_masks, strip_unit

# -- mesh --
# Side (pixels) of the cells, of large images and of those smaller than two of them.
_BOX_SIZE, _BOX_SIZE_SMALL = 64, 128
# Share of a cell covered by sources above which their mask is not used in it.
_CROWDED_SHARE = 0.7
# Threshold of sources in sigma of the smoothed image. It is lower than that for noise,
# which would be too low without its highest peaks; here, light left in is the harm.
_SOURCE_SIGMA = 3
# Cells along an axis from which on a mesh shows a gradient; change of the sky from
# cell to cell, over the noise, below which it is level; rounds of taking it off.
_MIN_CELLS, _LEVEL_CHANGE, _MAX_SLOPE_ROUNDS = 3, 0.2, 4
# Percentage of bad pixels above which a cell of the mesh is left out.
_MAX_BAD_PERCENT = 90.0
# A background is single precision if that rounds it by less than this share of the
# noise, which has to lie well within its range; pixels that show the scatter.
_ROUNDING_SHARE, _MIN_SCALE, _MAX_SCALE, _N_SCATTER = 1e-3, 1e-30, 1e30, 200_000

# -- error of the level --
# Side (pixels) of the cells that show structure, and of those of the mesh.
_STRUCTURE_SIDE, _MESH_SIDE = 32, 64
# Share of a cell's pixels without sources below which its mean shows nothing.
_MIN_BLANK_SHARE = 0.2
# Error of a mesh over that of one of its cells: a median of three by three cells and
# the bias by peaks of noise that are taken for sources.
_MESH_FACTOR = 0.7
# Bias by faint sources and wings of bright ones, in units of the noise, over the
# square of the optical depth of the sources that are seen, as simulated fields of
# stars and galaxies have it; the largest depth that a cell can show.
_CONFUSION, _MAX_DEPTH = 0.042, 3.0
# Range of the errors that networks were trained with.
_ERROR_RANGE = 0.001, 0.3


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
        data, background = data.value, strip_unit('background', background, unit)
    data, bad = check_data(data)
    bad = join_masks(data.shape, bad, check_mask('mask', mask, data.shape))
    max_lag = check_integer('max_lag', max_lag, 1, (min(data.shape) - 1) // 2)
    check_enough(~bad, 'good')
    quantum = step_of_values(data[~bad])
    if background is None:
        background, _ = measure_sky(data, bad, quantum=quantum)
    background = check_map('background', background, data.shape)
    residual = np.asarray(data, dtype=float) - background
    noise = noise_of_residual(
        residual, bad, quantum=quantum, max_lag=int(max_lag), needs_blank=True
    )
    noise = replace(noise, background=background)
    if unit is None:
        return noise
    names = ('sigma', 'sigma_error', 'background')
    return replace(noise, **{name: getattr(noise, name) * unit for name in names})


def step_of_values(values):
    """Step of whole numbers, 0.0 for others; most of these show in a few pixels."""
    whole = (np.all(some == np.rint(some)) for some in (values[:1000], values))
    return float(all(whole))


def measure_sky(data, bad, *, quantum=0.0, correlation=None):
    """
    Sky on a mesh, and the noise above it or None where that is not known.

    The noise's correlation, measured unless given, keeps its peaks from being
    taken for sources.
    """
    small = min(data.shape) < 2 * _BOX_SIZE
    sky = {'box_size': _BOX_SIZE_SMALL if small else _BOX_SIZE, 'quantum': quantum}
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


def measure_background(
    data, mask, *, box_size=_BOX_SIZE, quantum=0.0, correlation=(0.0, 0.0)
):
    """
    Sky of an image on a mesh, in two passes.

    The first takes SExtractor's estimate of the mode of each cell, the second the
    clipped mean of the pixels without sources above the first, except in cells where
    few are left. Steps of rounded data (``quantum``), of which medians would be rounded
    too, are smoothed out. Peaks of noise of a ``correlation`` are no sources.
    """
    from photutils.background import MeanBackground, SExtractorBackground

    bad = mask | ~np.isfinite(data)
    good = data[~bad]
    good = good[:: max(1, good.size // _N_SCATTER)].astype(float)
    middle = float(np.median(good)) if good.size else 0.0
    off = np.abs(good - middle) if good.size else np.ones(1)
    scale = float(np.median(off)) or float(off.mean()) or 1.0
    # Single precision from here on, in units in which any image fits into it.
    image = np.where(bad, 0, (np.asarray(data, dtype=float) - middle) / scale)
    image = np.clip(image, -_MAX_SCALE, _MAX_SCALE).astype(np.float32)
    if quantum > 0:
        # Any fixed seed serves: this noise averages out in each cell.
        steps = np.random.default_rng(0).random(image.shape, dtype=np.float32)
        image += np.float32(quantum / scale) * (steps - np.float32(0.5))
    box = tuple(min(box_size, length) for length in image.shape)
    first = _mesh(image, bad, box, SExtractorBackground(sigma_clip=None))
    # The mesh ends at the middle of the outer cells: flat beyond, it is off by half
    # a cell of a gradient, which within cells hides sources too. Filtered meshes
    # show most of a gradient, so that it takes some turns.
    slope = np.zeros((1, 1), np.float32)
    for _ in range(_MAX_SLOPE_ROUNDS):
        more = _slope(first, image.shape, box)
        if more is None:
            break
        image -= more
        slope = slope + more
        first = _mesh(image, bad, box, SExtractorBackground(sigma_clip=None))
    level = _interpolate(first.background_mesh, image.shape, box)
    scatter = _interpolate(first.background_rms_mesh, image.shape, box)
    sources = _find_covered(image - level, scatter, bad, correlation)
    sources &= ~_crowded(sources, box)
    second = _mesh(image, bad | sources, box, MeanBackground(sigma_clip=None))
    background = _spline(second.background_mesh, image.shape, box) + slope
    background *= scale
    background += middle
    # Where rounding is far below the noise, half the memory does.
    step = np.spacing(np.float32(np.abs(background).max()))
    if _MIN_SCALE < scale < _MAX_SCALE and step < _ROUNDING_SHARE * scale:
        return background.astype(np.float32)
    return background


def _mesh(image, bad, box, estimator):
    """Run photutils' mesh with sigma clipping."""
    from astropy.stats import SigmaClip
    from photutils.background import Background2D

    with collect_warnings(AstropyUserWarning):
        try:
            return Background2D(
                image,
                box,
                mask=bad,
                filter_size=3,
                sigma_clip=SigmaClip(sigma=3.0, maxiters=10),
                bkg_estimator=estimator,
                exclude_percentile=_MAX_BAD_PERCENT,
            )
        except ValueError as error:
            n_good = f'{np.count_nonzero(~bad)} of {bad.size} pixels are good'
            msg = (
                f'background cannot be measured: {n_good}; give background (0 if it '
                'was subtracted)'
            )
            raise ValueError(msg) from error


def _slope(first, shape, box):
    """Plane through a mesh, (ny, nx), or None where it is nearly level."""
    mesh, noise = first.background_mesh, np.median(first.background_rms_mesh)
    if min(mesh.shape) < _MIN_CELLS:
        return None
    rows, columns = np.indices(mesh.shape).reshape(2, -1)
    # Cells cut off by the edge are not where whole ones would be.
    whole = (rows < shape[0] // box[0]) & (columns < shape[1] // box[1])
    design = np.c_[np.ones(len(rows)), columns * box[1], rows * box[0]]
    values, weights = mesh.ravel(), whole.astype(float)
    for _ in range(5):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(design * root[:, None], values * root)[0]
        # Sources in cells are held back, as least absolute deviations do.
        off = np.abs(values - design @ solution)
        weights = whole / np.maximum(off, 1e-3 * noise)
    if np.abs(solution[1:]).max() * box[0] < _LEVEL_CHANGE * noise:
        return None
    y, x = (np.arange(n, dtype=np.float32) for n in shape)
    plane = solution[1] * (x - x.mean()) + solution[2] * (y - y.mean())[:, None]
    return plane.astype(np.float32)


def _interpolate(mesh, shape, box):
    """Interpolate a mesh linearly: for a first pass photutils' splines are slow."""
    rows, columns = (
        [
            np.interp(np.arange(n), (np.arange(cells) + 0.5) * side - 0.5, one)
            for one in np.eye(cells)
        ]
        for n, cells, side in zip(shape, mesh.shape, box, strict=True)
    )
    rows, columns, mesh = (np.asarray(v, np.float32) for v in (rows, columns, mesh))
    return rows.T @ mesh @ columns


def _spline(mesh, shape, box):
    """Interpolate a mesh as photutils' ``BkgZoomInterpolator``, axis by axis."""
    from scipy.ndimage import zoom

    options = {'order': 3, 'mode': 'reflect', 'grid_mode': True}
    along_y, along_x = (
        [zoom(one, side, **options)[:n] for one in np.eye(cells)]
        for n, cells, side in zip(shape, mesh.shape, box, strict=True)
    )
    mesh = np.asarray(mesh, dtype=float)
    return (np.transpose(along_y) @ mesh @ along_x).clip(mesh.min(), mesh.max())


def _find_covered(residual, noise, bad, correlation):
    """Find pixels in or near sources, in a smoothed image."""
    from scipy.ndimage import binary_dilation

    bright = smooth(np.where(bad, 0, residual), SMOOTHING)
    bright = bright > _SOURCE_SIGMA * _noise_of_smoothed(correlation) * noise
    return binary_dilation(bright, iterations=GROWTH)


def _noise_of_smoothed(correlation):
    """Noise that the smoothing leaves of noise that a Gaussian kernel correlated."""
    white = 1 / (2 * np.sqrt(np.pi) * SMOOTHING)
    # The variance of the kernel in x and in y, of which the correlation is known.
    own = -0.25 / np.log(np.clip(correlation, 1e-6, 0.99))
    left = np.maximum(white, np.sqrt(own / (own + SMOOTHING**2)))
    return float(np.sqrt(np.prod(left)))


def _crowded(sources, box):
    """Pixels of the cells of which sources cover most."""
    starts = [np.arange(0, n, b) for n, b in zip(sources.shape, box, strict=True)]
    n_pixels = sums_of_cells(np.ones_like(sources), starts)
    crowded = sums_of_cells(sources, starts) > _CROWDED_SHARE * n_pixels
    return spread_cells(crowded, starts, sources.shape)


def step_of(exposure):
    """Step of an exposure's whole numbers, 0 for others."""
    return step_of_values(exposure.data[~exposure.mask])


def noise_of(exposure, scale=1.0, mask=False):
    """Noise of an exposure in units of a scale, without masked pixels."""
    residual = (exposure.data - exposure.background) / scale
    quantum = step_of(exposure) / np.nanmedian(scale)
    return noise_of_residual(residual, exposure.mask | mask, quantum=quantum)


# -- error of the level ------------------------------------------------------------


def estimate_background_error(exposure):
    """
    Error of a sky level from a mesh, in units of the noise.

    Three parts are added in quadrature: the noise of the cells of the mesh;
    structure that the mesh does not follow, from the means of smaller cells; and
    confusion, by the share of pixels that sources cover.
    """
    good = ~exposure.mask
    pull = (exposure.data - exposure.background) / exposure.bkg_error
    # No number is too large for single precision.
    pull = np.clip(np.where(good, pull, 0), -1e30, 1e30).astype(np.float32)
    correlation = exposure.noise_correlation
    blank = good & ~_find_covered(pull, 1.0, ~good, correlation)
    # Variance of a mean over that of as many independent pixels.
    wider = float(np.prod(1 + 2 * np.clip(correlation, 0, None)))
    n_good, n_blank, light = (
        _cell_sums(values, _STRUCTURE_SIDE) for values in (good, blank, pull * blank)
    )
    share = n_blank / np.maximum(n_good, 1)
    seen = n_good > 0.5 * n_good.max()
    depth = -np.log(np.maximum(share[seen], np.exp(-_MAX_DEPTH)))
    confusion = _CONFUSION * np.sqrt(np.mean(depth**4))
    # Correlated noise hides brighter sources.
    confusion *= _noise_of_smoothed(correlation) / _noise_of_smoothed((0.0, 0.0))
    usable = seen & (share > _MIN_BLANK_SHARE)
    structure = 0.0
    if usable.any():
        mean = light[usable] / n_blank[usable]
        noise = np.mean(wider / n_blank[usable])
        noise *= 1 + np.sqrt(2 / np.count_nonzero(usable))
        structure = np.sqrt(max(float(np.mean(mean**2)) - noise, 0.0))
    in_mesh = float(np.median(_cell_sums(blank, _MESH_SIDE)))
    cells = _MESH_FACTOR * np.sqrt(wider / max(in_mesh, 1.0))
    total = float(np.sqrt(cells**2 + structure**2 + confusion**2))
    return float(np.clip(total, *_ERROR_RANGE))


def _cell_sums(values, side):
    """Sums over whole cells of an image; of the image where it is smaller."""
    box = [min(side, n) for n in values.shape]
    return block_reduce(values, box, partial(np.sum, dtype=float))
