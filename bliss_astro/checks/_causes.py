# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Causes of residuals that are not noise: structure by its shape, and single places.

Noise that is misstated is as strong between neighbours as over the image, and on no
side of zero; a wrong background is on one side of it everywhere; the rest is structure,
classified by sign, scale and place, or the light of sources.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.special import ndtr

from bliss_astro._arguments import two_digits
from bliss_astro._filters import local_maxima
from bliss_astro._threads import map_threads
from bliss_astro.units import FWHM_PER_SIGMA, MEDIAN_ERROR

from ._residuals import (
    LIMIT,
    PSF_WIDTH,
    MatchedFilter,
    half_width,
    nearest_pixel,
    normal_p_value,
    sigmas_of,
)

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
# Scales in pixels by which light that is no star may be broader, and how much more
# significant a broad peak must be to be called one.
_BROADER, _CLEARLY = (0.0, 2.0, 4.0), 0.7
# Significance above which peaks are looked at, and the most of them of each sign.
_PEAK_SIGMAS, _MAX_PEAKS = 4.0, 500
# Share of the light of bright stars that their profiles may leave, where the PSF is
# right and where it was found to be wrong, and of galaxies, which have arms.
_RIGHT, _WRONG, _ARMS = 0.02, 0.3, 0.15
# Excess of a source's width that matters, and the signal-to-noise ratio from
# which on it is looked at.
_SOURCE_WIDTH, _WIDTH_SNR = 0.03, 20.0

_CLAUSES = {
    'noise': (
        'the noise is not as stated or estimated: give bkg_error, or effective_gain, '
        'by which sources are noisier than the sky'
    ),
    'object': (
        'one object around ({x:.0f}, {y:.0f}) is larger than those of the training, '
        'and no row has all of its light: mask it or take off a model of it'
    ),
    'sources': (
        'where the rows have light, by more than their noise: the PSF is not exact, or '
        'sources are too crowded to be separated; give psf'
    ),
    'slope': (
        'the sky slopes towards ({x:.0f}, {y:.0f}), by scattered light or the moon: '
        'give background as a map'
    ),
    'structure': (
        'there is structure that is neither sky nor sources (a nebula, cirrus, '
        'fringes): mask it or give background as a map'
    ),
}
_CLAUSES['rows'] = _CLAUSES['columns'] = (
    'its {kind} of pixels differ by {times} times the noise: stripes of the detector; '
    'take off the median of each'
)

# -- structure ---------------------------------------------------------------------


def sky_levels(ratio, good):
    """Medians of cells of an image, NaN where few pixels are good; side of a cell."""
    side = _CELL if min(ratio.shape) >= 4 * _CELL else max(2, _CELL // 2)
    n_rows, n_columns = (n // side for n in ratio.shape)
    levels = np.empty((n_rows, n_columns), dtype=ratio.dtype)

    def fill(row):
        at = slice(row * side, (row + 1) * side), slice(n_columns * side)
        cells = np.where(good[at], ratio[at], np.nan).reshape(side, n_columns, side)
        levels[row] = _medians(cells.swapaxes(0, 1).reshape(n_columns, side**2))

    map_threads(fill, range(n_rows))
    return levels, side


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

    The 2D arrays are the residual in units of the noise, the pixels that count
    (bool), the correlation of the noise by lag, and bool the part of the image that is
    explained and where the light of rows is above the noise.

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
    error = MEDIAN_ERROR * near / math.sqrt(lines.shape[1])
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
    # Rows may have taken the light of its middle.
    falls = np.argmax([ring.mean() for ring in rings]) <= 1
    explained = within - noise < (1 - _EXPLAINED) * (total - noise)
    return 'object' if falls and explained else 'structure'


def describe_cause(cause):
    """Return a clause about a cause of `explain_residual` and what to do."""
    text = _CLAUSES.get(cause['kind'], _CLAUSES['structure'])
    return text.format(**cause, times=two_digits(cause['size']))


# -- places ------------------------------------------------------------------------


class Place(NamedTuple):
    """
    A place in pixels where an image and its catalogue differ.

    ``kind`` is 'missing', 'extended', 'surplus' (``value`` is a flux), 'broad',
    'narrow' (a relative width) or 'misfit'; the p-value is that of any place of an
    image without faults.
    """

    kind: str
    x: float
    y: float
    sigmas: float
    p_value: float
    value: float = 0.0


def find_peaks(residuals, *, fwhm, scale):
    """Find light that is left over, or that was taken off too much (list of `Place`).

    The noise is larger than stated by a factor ``scale``.
    """
    left, narrow = residuals.ratio * residuals.error, fwhm / FWHM_PER_SIGMA
    best = np.zeros(residuals.shape, dtype=np.float32)
    flux, which = np.zeros_like(best), np.zeros(best.shape, np.int8)
    for k, broader in enumerate(_BROADER):
        matched = MatchedFilter(residuals, float(np.hypot(narrow, broader)), scale)
        value = matched(left)
        snr = np.where(matched.seen, value / matched.error, 0)
        more = np.abs(snr) > np.abs(best) + _CLEARLY * (k > 0)
        best, flux = np.where(more, snr, best), np.where(more, value, flux)
        which[more] = k
    n_places = 2 * len(_BROADER) * best.size / (4 * np.pi * narrow**2)
    places = []
    for sign in (1, -1):
        rows, columns = local_maxima(sign * best, _PEAK_SIGMAS, math.ceil(fwhm))
        order = np.argsort(-sign * best[rows, columns])[:_MAX_PEAKS]
        for row, column in zip(rows[order], columns[order], strict=True):
            sigmas = abs(float(best[row, column]))
            p_value = float(ndtr(-sigmas)) * n_places
            kind = 'extended' if which[row, column] else 'missing'
            kind = kind if sign > 0 else 'surplus'
            if p_value <= LIMIT:
                numbers = sigmas, p_value, float(flux[row, column])
                places.append(Place(kind, column, row, *numbers))
    return places


def sources_off(residuals, stars, sources, scale, shift, *, psf_is_wrong):
    """
    Find sources that are broader or narrower than stars, or otherwise not as stated.

    Their `SourceStatistics` are those of the median of all draws, so that it is not one
    draw's misfortune; p-values err on the safe side.  Stars are broader than the PSF
    by ``shift``.
    """
    x, y = sources.x[stars.index], sources.y[stars.index]
    star = ~sources.is_galaxy[stars.index]
    n = max(len(x), 1)
    excess = stars.distortion[0] - shift
    pull = np.abs(excess) / np.hypot(scale * stars.distortion_err[0], _SOURCE_WIDTH / 3)
    p_values = np.minimum(1, n * normal_p_value(pull))
    wrong = (p_values < LIMIT) & (np.abs(excess) > _SOURCE_WIDTH)
    wrong &= (stars.snr > _WIDTH_SNR) & star
    places = []
    for k in np.nonzero(wrong)[0]:
        kind = 'broad' if excess[k] > 0 else 'narrow'
        numbers = x[k], y[k], pull[k], float(p_values[k]), float(excess[k])
        places.append(Place(kind, *numbers))
    if psf_is_wrong:
        return places
    # A galaxy need not be a simple profile, so this is a test of stars only. Some is
    # allowed for an error of the PSF that does not matter.
    pixels = np.maximum(stars.n_pixels, 1)
    slack = scale**2 + (PSF_WIDTH * stars.snr) ** 2 / pixels
    p_values = n * residuals.chi2_p_value(stars.chi2 / slack, pixels)
    return places + [
        Place('misfit', x[k], y[k], sigmas_of(p_values[k] / n), float(p_values[k]))
        for k in np.nonzero(star & (p_values < LIMIT))[0]
    ]


def join_places(places, bright, *, psf_is_wrong, fwhm):
    """Leave out what a wrong profile explains, and all but the gravest within 2 FWHM.

    Parameters are a list of `Place` and the brighter `Sources`.
    """
    flux_off = ('missing', 'extended', 'surplus')
    places = [
        place
        for place in places
        if place.kind not in flux_off
        or not _explained(place, bright, psf_is_wrong, fwhm)
    ]
    places.sort(key=lambda place: -place.sigmas)
    kept = []
    for place in places:
        if all(math.dist(place[1:3], p[1:3]) > 2.0 * fwhm for p in kept):
            kept.append(place)
    return kept


def _explained(peak, bright, psf_is_wrong, fwhm):
    """Whether a peak is what a wrong profile leaves of a bright source nearby."""
    apart = np.hypot(bright.x - peak.x, bright.y - peak.y)
    share = np.full(len(bright), _WRONG if psf_is_wrong else _RIGHT)
    reach = np.full(len(bright), 2.0 * fwhm)
    # Spiral arms, bars and rings.
    share[bright.is_galaxy] = np.maximum(share[bright.is_galaxy], _ARMS)
    reach[bright.is_galaxy] += bright.galaxy[bright.is_galaxy, 4:].max(1)
    # Rings and wings are fainter the farther out they are.
    share = np.maximum(share * np.exp(-apart / reach), 2e-3 * (apart < 4 * reach))
    return bool(np.any(np.abs(peak.value) < share * bright.flux))


def describe_places(places, exposure, bright, fwhm):
    """Kind, text and `Place` of each finding, with what lies near it."""
    masked = exposure.mask
    if masked.any():
        masked = binary_dilation(masked, iterations=int(2 * fwhm))
    ny, nx = masked.shape
    for place in places:
        apart = np.hypot(bright.x - place.x, bright.y - place.y)
        n_near = int(np.count_nonzero(apart < 2.0 * fwhm))
        kind, text = _kind_and_text(place, n_near, exposure.unit)
        ends = place.x + 0.5, place.y + 0.5, nx - 0.5 - place.x, ny - 0.5 - place.y
        if masked[nearest_pixel(place.x, place.y, masked.shape)]:
            text += ', next to masked pixels'
        elif min(ends) < 2.5 * fwhm:
            text += ', at the border: light of a source beyond it?'
        yield kind, text, place


def _kind_and_text(place, n_near, unit):
    where = f'({place.x:.0f}, {place.y:.0f})'
    words = f'{place.sigmas:.1f} sigma'
    if place.kind in ('broad', 'narrow'):
        cause = 'a galaxy or a blend' if place.kind == 'broad' else 'a blemish'
        return 'source shape', (
            f'the source at {where} is {100 * abs(place.value):.0f} % {place.kind}er '
            f'than a star ({words}): {cause}?'
        )
    if place.kind == 'misfit' or (n_near and place.kind != 'surplus'):
        which = f'the {n_near} sources' if n_near > 1 else 'the source'
        return 'source shape', (
            f'{which} at {where} of the catalogue {"are" if n_near > 1 else "is"} not '
            f'what the image has there ({words}): a galaxy or a blend?'
        )
    if place.kind == 'surplus':
        text = f'the catalogue has light at {where} that the image lacks ({words})'
        return 'surplus light', text
    flux = f'flux about {abs(place.value):.3g}{"" if unit is None else f" {unit}"}'
    source = 'a point source' if place.kind == 'missing' else 'an extended source'
    text = f'{source} at {where} that the catalogue lacks ({words}, {flux})'
    return f'{place.kind} source', text
