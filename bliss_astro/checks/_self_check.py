# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Residual check: the rows of a catalogue, rendered, against their image.

The quick sibling of `ProbabilisticCatalog.check`, which every detection can afford: one
image of the rows' medians, one matched filter, one pass over blocks.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import (
    distance_transform_edt,
    find_objects,
    gaussian_filter,
    label,
    maximum_filter,
)
from scipy.spatial import cKDTree

from bliss_astro._messages import two_digits
from bliss_astro.catalog._rendering import scale_of, sources_of
from bliss_astro.checks._places import correlated_factor
from bliss_astro.flags import CatalogFlag
from bliss_astro.rendering import RenderingAccuracy
from bliss_astro.rendering._scene import ModelRenderer

from ._residual_cause import describe_cause, explain_residual, sky_levels

__all__ = ['self_check']

# Peaks of the residual count from this significance on; rows above this probability
# without this signal-to-noise ratio in the image have no light.
_PEAK_SIGMAS, _SURE, _LIGHT_SIGMAS = 10.0, 0.9, 2.0
# A peak belongs to a row within so many FWHM.
_OWN_REACH = 1.0
# What a model may leave of its own light before a peak counts: of the light at the
# place; and of sources around (wings, spikes, arms), within distances in units of the
# PSF's standard deviation.
_MODEL_ERROR = 0.3
_HALOS = ((3.0, 0.03), (10.0, 0.001))
# Peaks within so many FWHM of the brightest belong together; more than this share do.
_CLUSTER, _MOSTLY = 12.0, 0.6
# Radii of a saturated core around it that are left out.
_CORES = 4.0
# Side in pixels of blocks, and the residual scatter over the noise that is ordinary.
_BLOCK, _SCATTER = 64, (0.8, 1.25)
# Pixels per block that tell a scatter.
_FEWEST = 400
# Bright isolated rows whose fluxes are compared: signal-to-noise ratio, distance in
# FWHM to others above so much of it, radius of the aperture in FWHM, the fewest of
# them, the most.
_BRIGHT_SNR, _ALONE, _RIVAL, _APERTURE, _FEW, _MANY = 30.0, 4.0, 0.1, 3.0, 3, 300
# Radius of the ring around an aperture, over its own.
_ANNULUS = 1.5
# Level of the residual in units of the noise that a background may leave, and the
# scatter of such levels over it that is still everywhere alike.
_LEVEL, _EVEN = 0.5, 0.5
# What is said aloud: shares of peaks and of empty rows, relative flux, share of blocks.
_PEAK_SHARE, _EMPTY_SHARE, _BLOCK_SHARE = 0.03, 0.03, 0.1
_FLUX_OFF, _FLUX_SLACK = 0.05, 0.15
# Fewer than these happen on any real frame.
_FEW_PEAKS, _FEW_EMPTY, _RAY_SHARE = 4, 2, 0.1
_SPOILED = CatalogFlag.NEAR_MASKED | CatalogFlag.SATURATED | CatalogFlag.BLENDED


@dataclass
class _Scene:
    """Image, model and their filtered versions, plain arrays ``(ny, nx)``."""

    signal: np.ndarray
    model: np.ndarray
    error: np.ndarray
    good: np.ndarray
    fwhm: float
    kernel_factor: float
    scale: np.ndarray

    def filtered(self, image, *, sigma=None):
        """Flux of a Gaussian as wide as the PSF, centred on each pixel."""
        sigma = self.fwhm / 2.355 if sigma is None else sigma
        total = gaussian_filter(image * self.inverse, sigma, mode='constant')
        return total / self.weight

    def prepare(self):
        """Compute weights and the error of the filtered flux."""
        sigma = self.fwhm / 2.355
        self.inverse = np.where(self.good, self.error**-2.0, 0).astype(np.float32)
        weight = gaussian_filter(self.inverse, sigma / math.sqrt(2), mode='constant')
        floor = 1e-6 * max(float(weight.max()), 1e-30)
        self.weight = np.maximum(weight, floor) / (4 * math.pi * sigma**2)
        self.flux_error = np.sqrt(self.kernel_factor / self.weight) * self.scale
        # Half of a filter's weight must be on good pixels.
        seen = gaussian_filter(self.good.astype(np.float32), sigma, mode='constant')
        self.seen = seen > 0.5


def self_check(exposure, catalog, *, cosmic_rays=None):
    """
    Search the residual of a catalogue for what its rows do not explain.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, with all that was estimated.

    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        Its rows.

    cosmic_rays : bool `~numpy.ndarray`, shape (ny, nx), optional
        Pixels that were masked because they are sharper than the PSF.

    Returns
    -------
    result : dict
        Plain values: ``cosmic_rays`` (``n``), ``peaks`` (``n``, ``x``, ``y``, ``snr``
        of the brightest, ``n_around`` it), ``empty_rows`` (``n`` of ``n_sure``, ``x``,
        ``y`` of one),
        ``blocks`` (``n``, ``n_bad``, median ``scatter``, ``worst`` and its ``x``,
        ``y``, and where they matter their ``cause``), ``sky`` (median ``level`` of the
        residual in units of the noise and the ``spread`` of cells), ``flux`` (``n``
        bright rows, ``ratio`` of their light over that of the image in
        apertures, its ``error``), ``passed`` and ``text``.
    """
    scene = _scene(exposure, catalog)
    places = np.column_stack([catalog['x_centroid'], catalog['y_centroid']])
    ratio = (scene.signal - scene.model) / scene.error
    blocks, bad = _blocks(scene, ratio)
    if _matter(blocks):
        lit = scene.model > scene.error
        blocks['cause'] = explain_residual(
            ratio, scene.good, _kernel(exposure), where=bad, lit=lit
        )
    scene.prepare()
    residual = scene.filtered(scene.signal - scene.model)
    own = scene.filtered(scene.model)
    snr = (residual + own) / scene.flux_error
    at = _pixels(places, snr.shape)
    peaks = _peaks(scene, residual, own, places)
    n_rays = 0
    if cosmic_rays is not None and cosmic_rays.any():
        n_rays = int(label(cosmic_rays, structure=np.ones((3, 3)))[1])
    result = {
        'cosmic_rays': {'n': n_rays},
        'peaks': peaks,
        'empty_rows': _empty_rows(catalog, snr[at], scene.seen[at], places),
        'blocks': blocks,
        'sky': _sky(ratio, scene.good),
        'flux': _flux_ratio(scene, catalog, snr[at], places),
    }
    n_bright = int(np.count_nonzero(snr[at] > _PEAK_SIGMAS))
    faults = _faults(result, n_bright, len(catalog))
    result['passed'] = not faults
    result['text'] = '; '.join(faults)
    return result


def _scene(exposure, catalog):
    ny, nx = exposure.shape
    fwhm = float(exposure.psf_at(nx // 2, ny // 2).fwhm)
    sources = sources_of(catalog, scale=scale_of(catalog), quiet=True)
    # In units of the noise any image fits into single precision.
    unit = float(np.median(exposure.bkg_error))
    sources = dataclasses.replace(sources, flux=sources.flux / unit)
    # What of far wings comes in from the other side of a stamp is 0.01 of the noise.
    renderer = ModelRenderer(exposure, accuracy=RenderingAccuracy(period=1.0))
    model = np.asarray(renderer(sources), dtype=np.float32)
    signal = np.subtract(exposure.data, exposure.background, dtype=float) / unit
    signal = signal.astype(np.float32)
    good = ~exposure.mask
    signal[exposure.mask] = 0
    # Photons of what the catalogue has, and of what it may lack.
    light = np.maximum(model, gaussian_filter(signal, fwhm / 2.355)).clip(0)
    gain = np.asarray(exposure.effective_gain * unit, dtype=np.float32)
    variance = np.asarray(exposure.bkg_error / unit, dtype=np.float32) ** 2
    variance = variance + light / gain
    good &= ~around_saturated(exposure.saturated, fwhm)
    kernel = _kernel(exposure)
    return _Scene(
        signal,
        model,
        np.sqrt(variance).astype(np.float32),
        good,
        fwhm,
        correlated_factor(kernel, fwhm / 2.355),
        np.ones((1, 1), dtype=np.float32),
    )


def around_saturated(saturated, fwhm):
    """Pixels that the wings and spikes of saturated stars spoil, 2D bool array."""
    spoiled = np.zeros(saturated.shape, dtype=bool)
    if not saturated.any():
        return spoiled
    labels, _ = label(saturated, structure=np.ones((3, 3)))
    for k, box in enumerate(find_objects(labels), start=1):
        part = labels[box] == k
        # Light falls off from the edge of the core by its own radius.
        radius = math.sqrt(np.count_nonzero(part) / math.pi)
        reach = math.ceil(2 * fwhm + _CORES * radius)
        wide = tuple(slice(max(b.start - reach, 0), b.stop + reach) for b in box)
        apart = distance_transform_edt(labels[wide] != k)
        spoiled[wide] |= apart <= reach
    return spoiled


def _kernel(exposure):
    from bliss_astro.coadds._noise_kernel import input_kernel

    return np.asarray(input_kernel(exposure), dtype=float)


def _pixels(places, shape):
    """Row and column of the pixel that each place lies in."""
    x, y = np.rint(places).astype(int).T
    return np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)


def _blocks(scene, ratio):
    """Scatter of residual over noise by block, bad pixels; sets the scene's scale."""
    ny, nx = ratio.shape
    n_rows, n_columns = max(1, round(ny / _BLOCK)), max(1, round(nx / _BLOCK))
    rows = np.linspace(0, ny, n_rows + 1).astype(int)
    columns = np.linspace(0, nx, n_columns + 1).astype(int)
    scatter = np.full((n_rows, n_columns), np.nan)
    for i in range(n_rows):
        for j in range(n_columns):
            cell = np.s_[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
            values = ratio[cell][scene.good[cell]]
            if len(values) >= _FEWEST:
                low, high = np.percentile(values, (15.866, 84.134))
                scatter[i, j] = 0.5 * (high - low)
    known = np.isfinite(scatter)
    if not known.any():
        return {'n': 0, 'n_bad': 0}, None
    middle = float(np.median(scatter[known]))
    # Significances are in units of the noise that there is.
    even = np.where(known, scatter, middle).clip(1, None)
    index = [np.repeat(np.arange(len(e) - 1), np.diff(e)) for e in (rows, columns)]
    pixels = index[0][:, None], index[1]
    scene.scale = even.astype(np.float32)[pixels]
    bad = known & ((scatter < _SCATTER[0]) | (scatter > _SCATTER[1]))
    off = np.where(known, np.abs(np.log(np.maximum(scatter, 1e-3))), -1)
    i, j = np.unravel_index(np.argmax(off), off.shape)
    result = {
        'n': int(known.sum()),
        'n_bad': int(bad.sum()),
        'scatter': middle,
        'worst': float(scatter[i, j]),
        'x': float(0.5 * (columns[j] + columns[j + 1])),
        'y': float(0.5 * (rows[i] + rows[i + 1])),
    }
    return result, bad[pixels]


def _matter(blocks):
    return blocks['n_bad'] > max(1, _BLOCK_SHARE * blocks['n'])


def _sky(ratio, good):
    """Level of the sky that is left, and how it varies from cell to cell."""
    levels = sky_levels(ratio, good)[0]
    levels = levels[np.isfinite(levels)]
    if len(levels) == 0:
        return {}
    low, middle, high = np.percentile(levels, (15.866, 50, 84.134))
    return {'level': float(middle), 'spread': float(0.5 * (high - low))}


def _peaks(scene, residual, own, places):
    """Peaks of the residual that no row is near to."""
    allowed = _MODEL_ERROR * np.maximum(own, 0) + _halo(scene.model, scene.fwhm)
    snr = np.where(scene.seen, (residual - allowed) / scene.flux_error, 0)
    border = math.ceil(scene.fwhm)
    snr[:border] = snr[-border:] = snr[:, :border] = snr[:, -border:] = 0
    reach = 2 * math.ceil(scene.fwhm) + 1
    high = snr > _PEAK_SIGMAS
    if not high.any():
        return {'n': 0}
    y, x = np.nonzero(high & (snr == maximum_filter(snr, reach)))
    if len(places) and len(x):
        apart = cKDTree(places).query(np.column_stack([x, y]))[0]
        free = apart > max(_OWN_REACH * scene.fwhm, 1.5)
        x, y = x[free], y[free]
    if len(x) == 0:
        return {'n': 0}
    k = int(np.argmax(snr[y, x]))
    around = np.hypot(x - x[k], y - y[k]) < _CLUSTER * scene.fwhm
    return {
        'n': len(x),
        'x': float(x[k]),
        'y': float(y[k]),
        'snr': float(snr[y[k], x[k]]),
        'n_around': int(np.count_nonzero(around)),
    }


def _halo(model, fwhm):
    """Flux that may be left over around the sources of a model."""
    step = max(1, int(0.8 * fwhm))
    ny, nx = model.shape
    padded = np.pad(model.clip(0), ((0, -ny % step), (0, -nx % step)))
    coarse = padded.reshape(len(padded) // step, step, -1, step).sum((1, 3))
    total = np.zeros_like(coarse)
    for reach, share in _HALOS:
        sigma = reach * fwhm / 2.355 / step
        # Gaussians of unit height.
        total += share * 2 * math.pi * sigma**2 * gaussian_filter(coarse, sigma)
    return total.repeat(step, 0).repeat(step, 1)[:ny, :nx]


def _empty_rows(catalog, snr, seen, places):
    """Rows that are nearly certain although the image has no light there."""
    sure = np.asarray(catalog['probability'], dtype=float) > _SURE
    index = np.flatnonzero(sure & seen & (snr < _LIGHT_SIGMAS))
    result = {'n': len(index), 'n_sure': int(np.count_nonzero(sure & seen))}
    if len(index):
        k = index[np.argmin(snr[index])]
        result |= {'x': float(places[k, 0]), 'y': float(places[k, 1])}
    return result


def _flux_ratio(scene, catalog, snr, places):
    """Light of the model over that of the image, in apertures on bright rows."""
    ny, nx = scene.signal.shape
    radius = _APERTURE * scene.fwhm
    flags = np.asarray(catalog['flags'])
    use = (snr > _BRIGHT_SNR) & (flags & int(_SPOILED) == 0)
    x, y = places.T
    use &= (x > radius) & (x < nx - 1 - radius) & (y > radius) & (y < ny - 1 - radius)
    use[use] = _alone(places, snr, np.flatnonzero(use), _ALONE * scene.fwhm)
    half = math.ceil(_ANNULUS * radius)
    yy, xx = np.ogrid[-half : half + 1, -half : half + 1]
    apart = np.hypot(xx, yy)
    inside, around = apart <= radius, (apart > radius) & (apart <= _ANNULUS * radius)
    left = scene.signal - scene.model
    ratios = []
    for k in np.flatnonzero(use)[:_MANY]:
        row, column = round(y[k]), round(x[k])
        top, start = max(row - half, 0), max(column - half, 0)
        box = np.s_[top : row + half + 1, start : column + half + 1]
        ny, nx = scene.good[box].shape
        own = np.s_[top - row + half :, start - column + half :]
        aperture, ring = (part[own][:ny, :nx] for part in (inside, around))
        if not scene.good[box][aperture].all():
            continue
        # What is left around belongs to no row.
        ring = ring & scene.good[box]
        level = np.median(left[box][ring]) if ring.any() else 0.0
        values = scene.signal[box][aperture].astype(float)
        total = float(values.sum() - level * len(values))
        if total > 0:
            ratios.append(float(scene.model[box][aperture].sum(dtype=float)) / total)
    if len(ratios) < _FEW:
        return {'n': len(ratios)}
    low, middle, high = np.percentile(ratios, (15.866, 50, 84.134))
    error = 1.25 * 0.5 * (high - low) / math.sqrt(len(ratios))
    return {'n': len(ratios), 'ratio': float(middle), 'error': float(error)}


def _alone(places, snr, index, reach):
    """Which of the chosen rows have none of a tenth of their light around them."""
    tree = cKDTree(places)
    near = tree.query_ball_point(places[index], reach)
    return np.array(
        [
            np.count_nonzero(snr[rows] > _RIVAL * snr[k]) == 1
            for k, rows in zip(index, near, strict=True)
        ],
        dtype=bool,
    )


# -- words -------------------------------------------------------------------------


def _faults(result, n_bright, n_rows):
    """What of the result matters, a clause each."""
    faults = []
    peaks, empty = result['peaks'], result['empty_rows']
    n_rays = result['cosmic_rays']['n']
    if n_rays > max(_FEW_PEAKS, _RAY_SHARE * n_rows):
        faults.append(
            f'{n_rays} cosmic rays or hot pixels, sharper than the PSF, are masked'
        )
    if peaks['n'] > max(_FEW_PEAKS, _PEAK_SHARE * n_bright):
        where = f'({peaks["x"]:.0f}, {peaks["y"]:.0f})'
        text = f'{peaks["n"]} peaks above {_PEAK_SIGMAS:g} sigma have no row, '
        if peaks['n_around'] > _MOSTLY * peaks['n']:
            text += (
                f'most of them around {where} (a saturated star or a large galaxy? '
                'give saturation or mask)'
            )
        else:
            text += f'the brightest at {where}'
        faults.append(text)
    if empty['n'] > max(_FEW_EMPTY, _EMPTY_SHARE * empty['n_sure']):
        faults.append(
            f'{empty["n"]} of {empty["n_sure"]} rows of probability above {_SURE:g} '
            f'have no light, one at ({empty["x"]:.0f}, {empty["y"]:.0f})'
        )
    flux = result['flux']
    if 'ratio' in flux:
        off = flux['ratio'] - 1
        # The scatter of few rows is not well known.
        if abs(off) > _FLUX_OFF + 1.5 * flux['error'] + _FLUX_SLACK / flux['n']:
            more = 'above' if off > 0 else 'below'
            faults.append(
                f'the light of {flux["n"]} isolated bright rows is '
                f'{100 * abs(off):.0f} % {more} that in apertures: the PSF is '
                'wrong; give psf or fwhm'
            )
    blocks, sky = result['blocks'], result['sky']
    if _matter(blocks):
        faults.append(
            f'the residual scatters by {two_digits(blocks["worst"])} times the noise '
            f'around ({blocks["x"]:.0f}, {blocks["y"]:.0f}), by '
            f'{two_digits(blocks["scatter"])} times in the median: '
            f'{describe_cause(blocks["cause"])}'
        )
    # Where a level varies from place to place, it has been told as structure.
    level = sky.get('level', 0.0)
    if abs(level) > max(_LEVEL, sky.get('spread', 0.0) / _EVEN):
        faults.append(
            f'the sky lies by {two_digits(abs(level))} times its noise '
            f'{"above" if level > 0 else "below"} the background everywhere (or faint '
            'sources without rows do): give background'
        )
    return faults
