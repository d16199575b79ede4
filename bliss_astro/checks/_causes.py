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

from bliss_astro._arguments import two_digits

from ._residuals import half_width

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


def sky_levels(ratio, good):
    """Medians of cells of an image, NaN where few pixels are good; side of a cell."""
    side = _CELL if min(ratio.shape) >= 4 * _CELL else max(2, _CELL // 2)
    ny, nx = (n // side * side for n in ratio.shape)
    cells = np.where(good, ratio, np.nan)[:ny, :nx]
    cells = cells.reshape(ny // side, side, nx // side, side).swapaxes(1, 2)
    return _medians(cells.reshape(*cells.shape[:2], side**2)), side


def _medians(values):
    """Medians along the last axis of what is no NaN, if there is enough of it."""
    count = np.isfinite(values).sum(-1)
    # NaN are sorted to the end.
    values = np.sort(values, axis=-1)
    middle = np.take_along_axis(values, (count // 2)[..., None], -1)[..., 0]
    return np.where(count > _GOOD_SHARE * values.shape[-1], middle, np.nan)


def local_noise(ratio, good, kernel):
    """
    Scatter of pixels against their neighbours, which structure does not reach.

    It is in units of the stated noise; infinite with too few pixels.
    """
    middle = len(kernel) // 2
    lines = [
        np.pad(line, (0, 6))
        for line in (kernel[middle:, middle], kernel[middle, middle:])
    ]
    lag = 3 if max(line[1] for line in lines) > _CORRELATED else 1
    found = [math.inf]
    for axis, line in enumerate(lines):
        values, use = np.moveaxis(ratio, axis, 0), np.moveaxis(good, axis, 0)
        step = values[lag:-lag] - 0.5 * (values[: -2 * lag] + values[2 * lag :])
        step = step[use[lag:-lag] & use[: -2 * lag] & use[2 * lag :]]
        if len(step):
            variance = max(1.5 - 2 * line[lag] + 0.5 * line[2 * lag], 0.05)
            found.append(half_width(step) / math.sqrt(variance))
    # Stripes are steps in one direction only.
    return float(min(found))


def explain_residual(ratio, good, kernel, *, where=None, lit=None):
    """
    Find the cause of a residual that is not noise.

    Parameters
    ----------
    ratio : 2D array
        Residual in units of the noise.

    good, where, lit : 2D bool array
        Pixels that count, the part of the image that is explained, and where the
        light of rows is above the noise.

    kernel : 2D array
        Correlation of the noise by lag, 1 in the middle.

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
    if known.sum() < _CELLS_MIN or not 0 < near < math.inf:
        return cause
    if scatter < _STRUCTURE * near:
        cause['kind'] = 'noise'
        # Noise is everywhere; what models leave is where they have light.
        dark = ratio[part & ~lit] if lit is not None else ()
        if len(dark) >= _DARK_MIN and scatter > _STRUCTURE * half_width(dark):
            cause['kind'] = 'sources'
        return cause
    excess = math.sqrt(max(scatter**2 - near**2, 0.0))
    smooth = gaussian_filter(np.where(known, levels, np.nanmedian(levels)), 1)
    i, j = np.unravel_index(np.argmax(np.where(known, smooth, -np.inf)), smooth.shape)
    # Where most of the image is ordinary, its cells show their own scatter.
    quiet = np.count_nonzero(part) < 0.5 * np.count_nonzero(good)
    kind = _shape(levels, known, quiet=quiet)
    for axis, name in ((0, 'rows'), (1, 'columns')):
        if _striped(np.where(good, ratio, np.nan), axis, excess, near):
            kind = name
    place = {'x': float(j + 0.5) * side - 0.5, 'y': float(i + 0.5) * side - 0.5}
    return {'kind': kind, 'size': excess, **place}


def _striped(ratio, axis, excess, near):
    """Whether the lines of an image (NaN in bad pixels) differ, and by steps."""
    lines = np.moveaxis(ratio, axis, 0)
    lines = lines[:, :: max(1, lines.shape[1] // _ROW_PIXELS)]
    middle = _medians(lines)
    steps = np.diff(middle)
    steps = steps[np.isfinite(steps)]
    error = 1.25 * near / math.sqrt(lines.shape[1])
    if len(steps) < _CELLS_MIN or np.std(steps) / math.sqrt(2) < _STEP * error:
        return False
    left = lines - middle[:, None]
    left = half_width(left[np.isfinite(left)]) ** 2 - near**2
    return left < (1 - _EXPLAINED) * excess**2


def _shape(levels, known, *, quiet):
    """Shape of the structure that levels of cells show."""
    row, column = np.nonzero(known)
    value = levels[known]
    total, noise, least = value.var(), 0.0, np.percentile(value, 20)
    if quiet:
        width, middle = half_width(value), np.median(value)
        noise = min(width**2, 0.9 * total)
        least = min(middle + 3 * width, value.max() - 1e-6)
    plane = np.column_stack([np.ones(len(row)), row, column])
    fit = plane @ np.linalg.lstsq(plane, value, rcond=None)[0]
    if 1 - (value - fit).var() / total > _EXPLAINED:
        return 'slope'
    # An ellipse about the light; its rings have one brightness each.
    light = np.square((value - least).clip(0))
    weight = light / light.sum()
    place = np.column_stack([row, column]) - [weight @ row, weight @ column]
    second = (weight * place.T) @ place + 0.1 * np.eye(2)
    order = np.argsort(((place @ np.linalg.inv(second)) * place).sum(1))
    # Fine ones within, where the object is.
    edges = _RING * _GROWTH ** np.arange(math.log(len(value)) / math.log(_GROWTH))
    rings = np.split(value[order], edges[edges < len(value) - _RING].astype(int))
    within = sum(ring.var() * len(ring) for ring in rings) / len(value)
    falls = rings[0].mean() == max(ring.mean() for ring in rings)
    explained = within - noise < (1 - _EXPLAINED) * (total - noise)
    return 'object' if falls and explained else 'structure'


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
