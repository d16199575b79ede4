# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sky background on a mesh, the error of its level, and `measure_noise` above it.
"""

from dataclasses import replace
from functools import partial

import astropy.units as u
import numpy as np
from astropy.nddata import block_reduce

from bliss_astro._arguments import check_integer
from bliss_astro._sample import Sample

from ._mesh import MeshWork, find_covered, noise_of_smoothed, sections_of
from ._noise import check_enough, noise_of_residual
from ._validate import check_data, check_map, check_mask, join_masks, strip_unit

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
        background, _ = sky_of_image(data, bad, quantum=quantum)
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


def measure_sky(
    each, data, bad, sample, *, quantum=0.0, correlation=None, box_size=None
):
    """
    `SkyMesh` of an image, and, where they are known, the sky and the noise of a sample.

    Arguments are those of `MeshWork`, and the `Sample` of the image whose data and bad
    pixels these are. The noise's correlation, measured unless given,
    keeps its peaks from being taken for sources.
    """
    own = {'quantum': quantum, 'box_size': box_size}
    work = MeshWork(each, data, bad, sample.image_shape, **own)
    mesh, sky, noise = work.mesh(), None, None
    if correlation is None:
        sky = mesh.at(sample.cut)
        try:
            noise = noise_of_residual(data - sky, bad, quantum=quantum)
        except ValueError:
            return mesh, sky, None
        correlation = noise.significant_correlation
    if max(correlation) > 0:
        return work.mesh(correlation), None, None
    return mesh, sky, noise


def _sections_in_memory(data, bad):
    """The sections of an image in memory, as `MeshWork` takes them."""
    sections = sections_of(data.shape)

    def each(function, of):
        for section in sections:
            y, x = section.place
            yield section, function(data[y, x], bad[y, x], section, *of(section))

    return each


def sky_of_image(data, bad, **options):
    """Sky of an image and the noise above it or None, as `measure_sky`."""
    sample = Sample(data.shape, bad)
    some = sample.pixels(data), sample.pixels(bad) | sample.seams(), sample
    mesh, sky, noise = measure_sky(_sections_in_memory(data, bad), *some, **options)
    return mesh.map() if sky is None or sample.is_large else sky, noise


def measure_background(data, mask, *, box_size=64, quantum=0.0):
    """Sky of an image on a mesh with cells of a side, ``(ny, nx)``."""
    bad = mask | ~np.isfinite(data)
    sample = Sample(data.shape, bad)
    some = sample.pixels(data), sample.pixels(bad), data.shape
    each = _sections_in_memory(data, bad)
    return MeshWork(each, *some, box_size=box_size, quantum=quantum).mesh().map()


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
    blank = good & ~find_covered(pull, 1.0, ~good, correlation)
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
    confusion *= noise_of_smoothed(correlation) / noise_of_smoothed((0.0, 0.0))
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
