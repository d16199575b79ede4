# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Causes of residuals that are not noise, by sign, scale and place.

Noise that is misstated is as strong between neighbours as over the image, and on no
side of zero; a wrong background is on one side of it everywhere; the rest is structure,
classified by its shape.
"""

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from bliss_astro._messages import two_digits

__all__ = [
    'STRUCTURES',
    'describe_cause',
    'explain_residual',
    'half_width',
    'local_noise',
    'sky_levels',
]

STRUCTURES = ('rows', 'columns', 'slope', 'object', 'structure')
"""Causes of which noise is none."""

# Side in pixels of the cells whose levels are looked at; of small images half of it.
_CELL = 16
# Smallest number of cells that show a shape, and smallest share of good pixels in one.
_CELLS_MIN, _GOOD_SHARE = 12, 0.3
# Smallest number of pixels without light of rows by which noise is measured.
_DARK_MIN = 400
# Correlation of neighbours from which on noise is measured by pixels three apart.
_CORRELATED = 0.3
# Share of the structure that a shape has to explain.
_EXPLAINED = 0.6
# Steps from row to row, over the error of a row's median, that no smooth sky has.
_STEP = 3.0
# Largest number of pixels of a row that are used for its median.
_ROW_PIXELS = 512
# Cells of the first ring about the middle of an object, and how rings grow.
_RING, _GROWTH = 4, 1.5
# Scatter over that between neighbours from which on there is structure.
_STRUCTURE = 1.25


def half_width(values):
    """Half the 16-84 % width of values, the standard deviation of normal ones."""
    low, high = np.percentile(values, (15.866, 84.134))
    return 0.5 * float(high - low)


def sky_levels(ratio, good):
    """
    Medians of cells of an image.

    Parameters
    ----------
    ratio : 2D array
        Residual in units of the noise.

    good : 2D bool array
        Pixels that count.

    Returns
    -------
    levels : 2D array
        By cell, NaN where too few pixels are good.

    side : int
        Side of a cell in pixels.
    """
    side = _CELL if min(ratio.shape) >= 4 * _CELL else max(2, _CELL // 2)
    ny, nx = (n // side * side for n in ratio.shape)
    cells = np.where(good, ratio, np.nan)[:ny, :nx]
    cells = cells.reshape(ny // side, side, nx // side, side).swapaxes(1, 2)
    cells = cells.reshape(*cells.shape[:2], side**2)
    return _medians(cells, least=_GOOD_SHARE), side


def _medians(values, *, least=0.0):
    """Medians along the last axis, of values that are no NaN."""
    count = np.isfinite(values).sum(-1)
    # NaN are sorted to the end.
    values = np.sort(values, axis=-1)
    middle = np.take_along_axis(values, (count // 2)[..., None], -1)[..., 0]
    return np.where(count > least * values.shape[-1], middle, np.nan)


def local_noise(ratio, good, kernel):
    """
    Scatter of pixels against their neighbours, which structure does not reach.

    Parameters
    ----------
    ratio : 2D array
        Residual in units of the noise.

    good : 2D bool array
        Pixels that count.

    kernel : 2D array
        Correlation of the noise by distance, 1 in the middle.

    Returns
    -------
    noise : float
        In units of the stated noise; NaN with too few pixels.
    """
    middle = [n // 2 for n in kernel.shape]
    lines = [kernel[middle[0] :, middle[1]], kernel[middle[0], middle[1] :]]
    lag = 3 if max(float(line[1:2].sum()) for line in lines) > _CORRELATED else 1
    found = []
    for axis, line in enumerate(lines):
        near, far = (float(line[k : k + 1].sum()) for k in (lag, 2 * lag))
        values, use = np.moveaxis(ratio, axis, 0), np.moveaxis(good, axis, 0)
        step = values[lag:-lag] - 0.5 * (values[: -2 * lag] + values[2 * lag :])
        step = step[use[lag:-lag] & use[: -2 * lag] & use[2 * lag :]]
        if len(step):
            variance = max(1.5 - 2 * near + 0.5 * far, 0.05)
            found.append(half_width(step) / math.sqrt(variance))
    # Stripes are steps in one direction only.
    return min(found, default=math.nan)


def explain_residual(ratio, good, kernel, *, where=None, lit=None):
    """
    Find the cause of a residual that is not noise.

    Parameters
    ----------
    ratio : 2D array
        Residual in units of the noise.

    good : 2D bool array
        Pixels that count.

    kernel : 2D array
        Correlation of the noise by distance, 1 in the middle.

    where : 2D bool array, optional
        The part of the image that is explained.

    lit : 2D bool array, optional
        Where the light of rows is above the noise.

    Returns
    -------
    cause : dict
        ``kind``, one of ``'noise'``, ``'rows'`` or ``'columns'`` (stripes),
        ``'slope'``, ``'object'``, ``'structure'``, ``'sources'`` (it is in the light
        of the rows) and ``''`` (none of these); ``size`` in units of the noise (for
        the noise itself, a factor); and ``x``, ``y`` in pixels of its brightest part.
    """
    part = good if where is None else good & where
    scatter, near = half_width(ratio[part]), local_noise(ratio, part, kernel)
    levels, side = sky_levels(ratio, good)
    known = np.isfinite(levels)
    cause = {'kind': '', 'size': scatter, 'x': 0.0, 'y': 0.0}
    if known.sum() < _CELLS_MIN or not near > 0:
        return cause
    excess = math.sqrt(max(scatter**2 - near**2, 0.0))
    if scatter < _STRUCTURE * near:
        return cause | {'kind': _noise_or_sources(ratio, part, lit, scatter)}
    smooth = gaussian_filter(np.where(known, levels, np.nanmedian(levels)), 1)
    i, j = np.unravel_index(np.argmax(np.where(known, smooth, -np.inf)), smooth.shape)
    place = {'x': float(j + 0.5) * side - 0.5, 'y': float(i + 0.5) * side - 0.5}
    # Where most of the image is ordinary, its cells show their own scatter.
    quiet = np.count_nonzero(part) < 0.5 * np.count_nonzero(good)
    cause |= {'size': excess, **place, 'kind': _shape(levels, known, quiet)}
    for axis, name in ((0, 'rows'), (1, 'columns')):
        if _striped(ratio, good, axis, excess, near):
            cause['kind'] = name
    return cause


def _noise_or_sources(ratio, part, lit, scatter):
    """Noise is everywhere; what models leave is where they have light."""
    dark = None if lit is None else part & ~lit
    if dark is None or np.count_nonzero(dark) < _DARK_MIN:
        return 'noise'
    return 'sources' if scatter > _STRUCTURE * half_width(ratio[dark]) else 'noise'


def _striped(ratio, good, axis, excess, near):
    """Whether the lines of an image differ, and by steps."""
    lines = np.moveaxis(np.where(good, ratio, np.nan), axis, 0)
    lines = lines[:, :: max(1, lines.shape[1] // _ROW_PIXELS)]
    middle = _medians(lines, least=_GOOD_SHARE)
    steps = np.diff(middle)
    steps = steps[np.isfinite(steps)]
    if len(steps) < _CELLS_MIN:
        return False
    error = 1.25 * near / math.sqrt(lines.shape[1])
    if np.std(steps) / math.sqrt(2) < _STEP * error:
        return False
    low, high = np.nanpercentile(lines - middle[:, None], (15.866, 84.134))
    left = (0.5 * (high - low)) ** 2 - near**2
    return left < (1 - _EXPLAINED) * excess**2


def _shape(levels, known, quiet):
    """Shape of the structure that levels of cells show."""
    row, column = np.nonzero(known)
    value = levels[known]
    total, noise, least = value.var(), 0.0, np.percentile(value, 20)
    if quiet:
        low, middle, high = np.percentile(value, (15.866, 50, 84.134))
        noise = min(0.25 * (high - low) ** 2, 0.9 * total)
        least = min(middle + 1.5 * (high - low), value.max() - 1e-6)
    plane = np.column_stack([np.ones(len(row)), row, column])
    fit = plane @ np.linalg.lstsq(plane, value, rcond=None)[0]
    if 1 - (value - fit).var() / total > _EXPLAINED:
        return 'slope'
    # An ellipse about the light; its rings have one brightness each.
    light = (value - least).clip(0)
    weight = light**2 / (light**2).sum()
    place = np.column_stack([row, column]) - [weight @ row, weight @ column]
    second = (weight * place.T) @ place + 0.1 * np.eye(2)
    apart = np.einsum('ni,ij,nj->n', place, np.linalg.inv(second), place)
    order = np.argsort(apart)
    # Fine ones within, where the object is.
    edges = _RING * _GROWTH ** np.arange(math.log(len(value)) / math.log(_GROWTH))
    rings = np.split(value[order], edges[edges < len(value) - _RING].astype(int))
    within = sum(((ring - ring.mean()) ** 2).sum() for ring in rings) / len(value)
    middle = [ring.mean() for ring in rings]
    falls = middle[0] == max(middle)
    return (
        'object'
        if falls and within - noise < (1 - _EXPLAINED) * (total - noise)
        else 'structure'
    )


def describe_cause(cause):
    """Return a clause about a cause of `explain_residual` and what to do."""
    place = f'({cause["x"]:.0f}, {cause["y"]:.0f})'
    if cause['kind'] in ('rows', 'columns'):
        size = two_digits(cause['size'])
        return (
            f'its {cause["kind"]} of pixels differ by {size} times the noise: '
            'stripes of the detector; take off the median of each'
        )
    return {
        'noise': (
            'the noise is not as stated or estimated: give bkg_error, or '
            'effective_gain, by which sources are noisier than the sky'
        ),
        'object': (
            f'one object around {place} is larger than those of the training, and no '
            'row has all of its light: mask it or take off a model of it'
        ),
        'sources': (
            'where the rows have light, by more than their noise: the PSF is not '
            'exact, or sources are too crowded to be separated; give psf'
        ),
        'slope': (
            f'the sky slopes towards {place}, by scattered light or the moon: give '
            'background as a map'
        ),
    }.get(
        cause['kind'],
        'there is structure that is neither sky nor sources (a nebula, cirrus, '
        'fringes): mask it or give background as a map',
    )
