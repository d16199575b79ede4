# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Residual check of every detection: the rows of a catalogue, rendered, against the image.

The quick sibling of ``catalog.check``, which every detection can afford: one
image of the rows' medians, one matched filter, one pass over blocks.
"""

import itertools
import math

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects, label
from scipy.spatial import cKDTree

from bliss_astro._arguments import two_digits
from bliss_astro._filters import local_maxima, row_blocks, smooth, spread_cells
from bliss_astro._threads import map_threads
from bliss_astro.catalog._rendering import scale_of, sources_of
from bliss_astro.coadds._noise import input_kernel
from bliss_astro.exposures._psf import central_psf
from bliss_astro.exposures._set import images_by_band
from bliss_astro.flags import CatalogFlag
from bliss_astro.rendering import RenderingAccuracy
from bliss_astro.rendering._scene import draw_together
from bliss_astro.units import FWHM_PER_SIGMA, typical

from ._causes import describe_cause, explain_residual, sky_levels
from ._residuals import (
    MatchedFilter,
    Residuals,
    Stamps,
    half_width,
    nearest_pixel,
)

# Peaks of the residual count from this significance on; rows above this probability
# without this signal-to-noise ratio in the image have no light.
_PEAK_SIGMAS, _CERTAIN, _LIGHT_SIGMAS = 10.0, 0.9, 2.0
# Reach of a row in FWHM (and in pixels at least), within which a peak is its own.
_OWN_REACH, _OWN_PIXELS = 1.0, 1.5
# What a model may leave of its own light before a peak counts: of the light at the
# place; and of sources around (wings, spikes, arms), within distances in units of the
# PSF's standard deviation.
_MODEL_ERROR = 0.3
_HALOS = ((3.0, 0.03), (10.0, 0.001))
# Peaks within so many FWHM of the brightest belong together, and the share of them
# from which on they are called one cluster.
_CLUSTER, _CLUSTER_SHARE = 12.0, 0.6
# Noise, in units of that of the sky, by which the reach of sources is chosen: many add
# up in a crowd.
_WINGS = 0.3
# Radii of a saturated core around it that are left out.
_CORES = 4.0
# Side in pixels of blocks, their smallest number of good pixels, and the residual
# scatter over the noise that is ordinary.
_BLOCK, _BLOCK_PIXELS, _SCATTER = 64, 400, (0.8, 1.25)
# Bright isolated rows whose fluxes are compared: signal-to-noise ratio, distance in
# FWHM to others above so much of it, and their smallest and largest number.
_BRIGHT_SNR, _ALONE, _RIVAL, _ROWS = 30.0, 4.0, 0.1, (3, 300)
# Radius of an aperture in FWHM, and of the ring around it over its own.
_APERTURE, _ANNULUS = 3.0, 1.5
# Level of the residual in units of the noise that a background may leave, and the
# scatter of such levels over it that is still everywhere alike.
_LEVEL, _LEVEL_SPREAD = 0.5, 0.5
# Thresholds of a warning: shares of peaks and of empty rows, relative flux and its
# error by few rows, share of blocks.
_PEAK_SHARE, _EMPTY_SHARE, _BLOCK_SHARE = 0.03, 0.03, 0.1
_FLUX_OFF, _FLUX_ERROR = 0.05, 0.15
# Fewer than these happen on any real frame.
_PEAKS_MIN, _EMPTY_MIN, _RAY_SHARE = 4, 2, 0.1
# Diagonal neighbours are one object.
_TOUCHING = np.ones((3, 3))
_SPOILED = CatalogFlag.NEAR_MASKED | CatalogFlag.SATURATED | CatalogFlag.BLENDED


def self_check(exposure, catalog, *, cosmic_rays=None, models=None):
    """
    Search the residual of a catalogue for what its rows do not explain.

    ``exposure`` is the image, or an `ExposureSet`; ``cosmic_rays`` its pixels that were
    masked because they are sharper than the PSF (bool, or None), by band alike;
    ``models`` are those of `render_rows`.

    Returns
    -------
    result : dict
        Plain values: ``cosmic_rays`` (``n``), ``peaks`` (``n``, ``x``, ``y``, ``snr``
        of the brightest, ``n_around`` it), ``empty_rows`` (without light in any band:
        ``n`` of ``n_sure``, ``x``, ``y`` of one), ``blocks`` (``n``, ``n_bad``, median
        ``scatter``, ``worst`` and its ``x``, ``y``, and where they matter their
        ``cause``), ``sky`` (median ``level`` of the residual in units of the noise and
        the ``spread`` of cells), ``flux`` (``n`` bright rows, ``ratio`` of their light
        over that of the image in apertures, its ``error``), ``passed`` and ``text``.
        Those of bands other than the reference have its name: ``peaks_g``.
    """
    models = models or render_rows([exposure], [catalog])[0]
    places = np.column_stack([catalog['x_centroid'], catalog['y_centroid']])
    images, rays = images_by_band(exposure), images_by_band(cosmic_rays)
    parts = [
        _check_band(image, catalog, places, rays.get(band), model)
        for (band, image), model in zip(images.items(), models, strict=True)
    ]
    results, snr, seen = zip(*parts, strict=True)
    light, any_seen = np.where(seen, snr, -np.inf).max(0), np.any(seen, 0)
    results[0]['empty_rows'] = _empty_rows(catalog, light, any_seen, places)
    found, faults = {}, []
    for band, result, own in zip(images, results, snr, strict=True):
        texts = _faults(result, np.count_nonzero(own > _PEAK_SIGMAS), len(catalog))
        faults += texts if band is None else [f'band {band!r}: {t}' for t in texts]
        end = f'_{band}' if found else ''
        found |= {f'{name}{end}': value for name, value in result.items()}
    return found | {'passed': not faults, 'text': '; '.join(faults)}


def _check_band(exposure, catalog, places, cosmic_rays, model):
    """Result of one band, signal-to-noise ratios of rows, and whether they are seen."""
    fwhm = float(central_psf(exposure).fwhm)
    residuals = _subtract(exposure, model, fwhm)
    ratio, good, kernel = residuals.ratio, residuals.good, residuals.kernel
    blocks, bad, scale = _blocks(residuals)
    if _matter(blocks):
        where, lit = _spread(bad, ratio.shape), model > residuals.error
        blocks['cause'] = explain_residual(ratio, good, kernel, where=where, lit=lit)
    at = nearest_pixel(*places.T, ratio.shape)
    snr, seen, peaks = _filtered(residuals, model, scale, at, fwhm)
    levels = sky_levels(ratio, good)[0]
    levels, sky = levels[np.isfinite(levels)], {}
    if len(levels):
        sky = {'level': float(np.median(levels)), 'spread': half_width(levels)}
    result = {
        'cosmic_rays': {'n': _count(cosmic_rays)},
        'peaks': _peaks(model, peaks, places, fwhm),
        'blocks': blocks,
        'sky': sky,
        'flux': _flux_ratio(model, residuals, catalog, places, snr, fwhm),
    }
    return result, snr, seen


def render_rows(exposures, catalogs):
    """Models ``(ny, nx)`` of rows in units of the sky's noise: lists of each band."""
    images, drawn = [], []
    for exposure, catalog in zip(exposures, catalogs, strict=True):
        options = {'scale': scale_of(catalog), 'quiet': True}
        for band, image in images_by_band(exposure).items():
            sources = sources_of(catalog, band=band, **options)
            # In units of the noise any image fits into single precision.
            sources.flux = sources.flux / typical(image.bkg_error)
            images.append(image)
            drawn.append(sources)
    # The far wings beyond a stamp's other side are 0.01 of the noise.
    rough = {'accuracy': RenderingAccuracy(period=1.0), 'tolerance': 1e-4}
    models = iter(draw_together(images, drawn, noise=_WINGS, **rough))
    numbers = (len(images_by_band(exposure)) for exposure in exposures)
    return [list(itertools.islice(models, number)) for number in numbers]


def _subtract(exposure, model, fwhm):
    """`Residuals` of a model, in units of the sky's noise."""
    # With the photons of sources that the catalogue lacks.
    smoothing = {'smoothing': fwhm / FWHM_PER_SIGMA}
    unit = typical(exposure.bkg_error)
    residuals = Residuals.of(
        exposure, model, input_kernel(exposure), unit=unit, **smoothing
    )
    return residuals.keep(~around_saturated(exposure.saturated, fwhm))


def _count(pixels):
    """Number of groups of pixels that touch each other, 0 for None."""
    if pixels is None or not pixels.any():
        return 0
    return int(label(pixels, structure=_TOUCHING)[1])


def around_saturated(saturated, fwhm):
    """Pixels that the wings and spikes of saturated stars spoil, 2D bool array."""
    spoiled = np.zeros(saturated.shape, dtype=bool)
    if not saturated.any():
        return spoiled
    labels, _ = label(saturated, structure=_TOUCHING)
    for k, box in enumerate(find_objects(labels), start=1):
        # Light falls off from the edge of the core by its own radius.
        radius = math.sqrt(np.count_nonzero(labels[box] == k) / math.pi)
        reach = math.ceil(2 * fwhm + _CORES * radius)
        wide = tuple(slice(max(b.start - reach, 0), b.stop + reach) for b in box)
        spoiled[wide] |= distance_transform_edt(labels[wide] != k) <= reach
    return spoiled


def _blocks(residuals):
    """Scatter of residual over noise by block, bad blocks, and scale of the noise."""
    grid = tuple(max(1, round(n / _BLOCK)) for n in residuals.shape)
    scatter = np.full(grid, np.nan)
    firsts = zip(_starts(residuals.shape, grid), residuals.shape, strict=True)
    spans = [itertools.pairwise([*first, n]) for first, n in firsts]
    for k, ends in enumerate(itertools.product(*spans)):
        block = tuple(slice(*pair) for pair in ends)
        values = residuals.ratio[block][residuals.good[block]]
        if len(values) >= _BLOCK_PIXELS:
            scatter.flat[k] = half_width(values)
    known = np.isfinite(scatter)
    if not known.any():
        return {'n': 0, 'n_bad': 0}, known, np.ones(grid, np.float32)
    middle = float(np.median(scatter[known]))
    bad = known & ((scatter < _SCATTER[0]) | (scatter > _SCATTER[1]))
    worst = np.argmax(np.where(known, np.abs(np.log(np.maximum(scatter, 1e-3))), -1))
    y, x = np.add(divmod(int(worst), grid[1]), 0.5) * residuals.shape / grid
    result = {'n': int(known.sum()), 'n_bad': int(bad.sum()), 'scatter': middle}
    result |= {'worst': float(scatter.flat[worst]), 'x': float(x), 'y': float(y)}
    # Significances are in units of the noise that there is.
    scale = np.where(known, scatter, middle).clip(1, None).astype(np.float32)
    return result, bad, scale


def _starts(shape, grid):
    """First rows and columns of nearly equal blocks."""
    return [-(-np.arange(k) * n // k) for n, k in zip(shape, grid, strict=True)]


def _spread(values, shape, rows=slice(None)):
    """Values of blocks at each pixel of some rows."""
    return spread_cells(values, _starts(shape, values.shape), shape, rows)


def _matter(blocks):
    return blocks['n_bad'] > max(1, _BLOCK_SHARE * blocks['n'])


def _filtered(residuals, model, scale, at, fwhm):
    """
    Signal-to-noise ratio at some pixels, whether they are seen, and what stands out.

    The latter are rows and columns of pixels, the flux of residual and model there, and
    its error.
    """
    sigma, border = fwhm / FWHM_PER_SIGMA, math.ceil(fwhm)
    snr, seen = np.zeros(len(at[0]), np.float32), np.zeros(len(at[0]), bool)

    def search(block):
        wide, inner, own = block
        some = residuals.select_rows(wide)
        matched = MatchedFilter(some, sigma, _spread(scale, residuals.shape, wide))
        left, light = matched(np.stack([some.ratio * some.error, model[wide]]))
        here = np.flatnonzero((at[0] >= own.start) & (at[0] < own.stop))
        where = at[0][here] - wide.start, at[1][here]
        snr[here] = (left[where] + light[where]) / matched.error[where]
        seen[here] = matched.seen[where]
        high = (left > _PEAK_SIGMAS * matched.error) & matched.seen
        y, x = np.nonzero(high[inner, border:-border])
        where = y + inner.start, x + border
        values = (value[where] for value in (left, light, matched.error))
        return y + own.start, x + border, *values

    ny = len(model)
    parts = map_threads(search, row_blocks(ny, int(4 * sigma + 1)))
    peaks = np.concatenate([np.array(part, dtype=float) for part in parts], axis=1)
    inside = (peaks[0] >= border) & (peaks[0] < ny - border)
    return snr, seen, peaks[:, inside]


def _peaks(model, peaks, places, fwhm):
    """Peaks of the residual that no row is near to."""
    *at, left, own, error = peaks
    if len(left) == 0:
        return {'n': 0}
    at = tuple(place.astype(int) for place in at)
    allowed = _MODEL_ERROR * own.clip(0) + _halo(model, fwhm, at)
    snr = np.zeros(model.shape, dtype=np.float32)
    snr[at] = (left - allowed) / error
    y, x = local_maxima(snr, _PEAK_SIGMAS, math.ceil(fwhm))
    apart = cKDTree(places).query(np.column_stack([x, y]))[0]
    free = apart > max(_OWN_REACH * fwhm, _OWN_PIXELS)
    x, y = x[free], y[free]
    if len(x) == 0:
        return {'n': 0}
    k = int(np.argmax(snr[y, x]))
    around = np.hypot(x - x[k], y - y[k]) < _CLUSTER * fwhm
    return {
        'n': len(x),
        'x': float(x[k]),
        'y': float(y[k]),
        'snr': float(snr[y[k], x[k]]),
        'n_around': int(np.count_nonzero(around)),
    }


def _halo(model, fwhm, at):
    """Flux that may be left over around the sources of a model, at some pixels."""
    step = max(1, int(0.8 * fwhm))
    # Sums over cells, those at the edges with nothing beyond.
    cells = torch.nn.functional.avg_pool2d(
        torch.from_numpy(model)[None], step, ceil_mode=True, divisor_override=1
    )
    coarse, total = cells[0].numpy().clip(0), 0.0
    for reach, share in _HALOS:
        sigma = reach * fwhm / FWHM_PER_SIGMA / step
        # Gaussians of unit height.
        total += share * 2 * math.pi * sigma**2 * smooth(coarse, sigma)
    return total[at[0] // step, at[1] // step]


def _empty_rows(catalog, snr, seen, places):
    """Rows that are nearly certain although the image has no light there."""
    certain = (np.asarray(catalog['probability'], dtype=float) > _CERTAIN) & seen
    index = np.flatnonzero(certain & (snr < _LIGHT_SIGMAS))
    result = {'n': len(index), 'n_sure': int(np.count_nonzero(certain))}
    if len(index):
        x, y = places[index[np.argmin(snr[index])]]
        result |= {'x': float(x), 'y': float(y)}
    return result


def _flux_ratio(model, residuals, catalog, places, snr, fwhm):
    """Light of the model over that of the image, in apertures on bright rows."""
    radius = _APERTURE * fwhm
    ends = np.array(model.shape[::-1]) - 1 - radius
    use = (snr > _BRIGHT_SNR) & (np.asarray(catalog['flags']) & int(_SPOILED) == 0)
    index = np.flatnonzero(use & ((places > radius) & (places < ends)).all(1))
    if len(index) == 0:
        return {'n': 0}
    near = cKDTree(places).query_ball_point(places[index], _ALONE * fwhm)
    # Those with none of a tenth of their light around them.
    index = [
        k
        for k, rows in zip(index, near, strict=True)
        if np.count_nonzero(snr[rows] > _RIVAL * snr[k]) == 1
    ]
    x, y = places[index[: _ROWS[1]]].T
    stamps = Stamps(residuals, x, y, math.ceil(_ANNULUS * radius))
    apart, good = torch.hypot(stamps.dx, stamps.dy).numpy(), stamps.use
    inside = apart <= radius
    light = (model[stamps.at] * inside).sum((1, 2), dtype=float)
    left = (residuals.ratio[stamps.at] * residuals.error[stamps.at]).astype(float)
    # What is left around belongs to no row.
    ring = good & ~inside & (apart <= _ANNULUS * radius)
    level = [np.median(v[r]) if r.any() else 0 for v, r in zip(left, ring, strict=True)]
    left -= np.reshape(level, (-1, 1, 1))
    total = light + (left * inside).sum((1, 2))
    keep = (good | ~inside).all((1, 2)) & (total > 0)
    ratios = light[keep] / total[keep]
    if len(ratios) < _ROWS[0]:
        return {'n': len(ratios)}
    error = 1.25 * half_width(ratios) / math.sqrt(len(ratios))
    return {'n': len(ratios), 'ratio': float(np.median(ratios)), 'error': error}


# -- words -------------------------------------------------------------------------


def _faults(result, n_bright, n_rows):
    """Clauses about what matters of a result."""
    peaks, empty = result['peaks'], result.get('empty_rows')
    n_rays = result['cosmic_rays']['n']
    if n_rays > max(_PEAKS_MIN, _RAY_SHARE * n_rows):
        yield (f'{n_rays} cosmic rays or hot pixels, sharper than the PSF, are masked')
    if peaks['n'] > max(_PEAKS_MIN, _PEAK_SHARE * n_bright):
        where = f'({peaks["x"]:.0f}, {peaks["y"]:.0f})'
        which = f'the brightest at {where}'
        if peaks['n_around'] > _CLUSTER_SHARE * peaks['n']:
            which = (
                f'most of them around {where} (a saturated star or a large galaxy? '
                'give saturation or mask)'
            )
        yield f'{peaks["n"]} peaks above {_PEAK_SIGMAS:g} sigma have no row, {which}'
    if empty and empty['n'] > max(_EMPTY_MIN, _EMPTY_SHARE * empty['n_sure']):
        yield (
            f'{empty["n"]} of {empty["n_sure"]} rows of probability above {_CERTAIN:g} '
            f'have no light, one at ({empty["x"]:.0f}, {empty["y"]:.0f})'
        )
    flux = result['flux']
    if 'ratio' in flux:
        off = flux['ratio'] - 1
        # The scatter of few rows is not well known.
        if abs(off) > _FLUX_OFF + 1.5 * flux['error'] + _FLUX_ERROR / flux['n']:
            more = 'above' if off > 0 else 'below'
            yield (
                f'the light of {flux["n"]} isolated bright rows is '
                f'{100 * abs(off):.0f} % {more} that in apertures: the PSF is '
                'wrong; give psf or fwhm'
            )
    blocks, sky = result['blocks'], result['sky']
    if _matter(blocks):
        yield (
            f'the residual scatters by {two_digits(blocks["worst"])} times the noise '
            f'around ({blocks["x"]:.0f}, {blocks["y"]:.0f}), by '
            f'{two_digits(blocks["scatter"])} times in the median: '
            f'{describe_cause(blocks["cause"])}'
        )
    # A level that varies from place to place is structure, a cause of the blocks.
    level = sky.get('level', 0.0)
    if abs(level) > max(_LEVEL, sky.get('spread', 0.0) / _LEVEL_SPREAD):
        yield (
            f'the sky lies by {two_digits(abs(level))} times its noise '
            f'{"above" if level > 0 else "below"} the background everywhere (or faint '
            'sources without rows do): give background'
        )
