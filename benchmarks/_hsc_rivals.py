# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What SEP and photutils find in a small image.
"""

import itertools
import warnings

import numpy as np

__all__ = [
    'PHOTUTILS_GRID',
    'SEP_GRID',
    'find_photutils',
    'find_sep',
    'known_sources',
]

# Threshold in sigma of the filtered image, and the contrast of the deblending with
# 32 levels, below the usual ones, which hide faint sources beside bright ones.
SEP_GRID = tuple(itertools.product((1.0, 1.5, 2.5), (5e-4, 5e-5, 5e-6)))
PHOTUTILS_GRID = tuple(itertools.product((1.5, 2.5), (1e-3, 1e-4, 1e-5)))
_LEAST_PIXELS = 5
_PHOTUTILS = ('x', 'y', 'x_peak', 'y_peak', 'segment', 'kron')
# Width of the smoothing, that of the PSF.
_FWHM = 3.4


def _data(exposure):
    data = np.array(exposure.data - exposure.background, dtype=float, order='C')
    error = np.array(np.broadcast_to(exposure.bkg_error, data.shape), dtype=float)
    return data, error


def _filter():
    # A Gaussian as wide as the PSF: the matched filter.
    step = np.arange(-3, 4)
    line = np.exp(-0.5 * (step / (_FWHM / 2.355)) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def find_sep(exposure, threshold=1.5, contrast=0.005, *, n_levels=32):
    """
    Detect with SEP, with deblending.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        In nmgy, without sky.

    threshold : float, optional
        In sigma.

    contrast, n_levels : float, int, optional
        Of the deblending.

    Returns
    -------
    found : dict of array
        ``x``, ``y`` (centroid), ``x_peak``, ``y_peak`` and fluxes in nmgy:
        ``isophotal`` (deblended), ``kron`` and ``kron_masked``, without the pixels that
        belong to others.
    """
    import sep

    data, error = _data(exposure)
    objects, segments = sep.extract(
        data,
        threshold,
        err=error,
        minarea=_LEAST_PIXELS,
        filter_kernel=_filter(),
        deblend_nthresh=n_levels,
        deblend_cont=contrast,
        segmentation_map=True,
    )
    x, y = objects['x'].astype(float), objects['y'].astype(float)
    found = {
        'x': x,
        'y': y,
        'x_peak': objects['xcpeak'].astype(float),
        'y_peak': objects['ycpeak'].astype(float),
        'isophotal': objects['flux'].astype(float),
    }
    masks = {'kron': {}, 'kron_masked': {}}
    if len(x):
        number = np.arange(1, len(x) + 1, dtype=np.int32)
        masks['kron_masked'] = {'segmap': segments, 'seg_id': number}
    for name, mask in masks.items():
        found[name] = _kron(data, objects, mask, found['isophotal'])
    return found


def _kron(data, objects, mask, instead):
    import sep

    flux = instead.copy()
    theta = np.clip(objects['theta'], -np.pi / 2, np.pi / 2)
    good = np.isfinite(objects['a']) & (objects['b'] > 0)
    if not good.any():
        return flux
    ellipse = [objects[k][good] for k in ('x', 'y', 'a', 'b')] + [theta[good]]
    mask = {k: v[good] if k == 'seg_id' else v for k, v in mask.items()}
    radius, _ = sep.kron_radius(data, *ellipse, 6.0, **mask)
    # Not below SExtractor's smallest Kron aperture.
    scale = np.where(np.isfinite(radius), np.maximum(2.5 * radius, 3.5), 3.5)
    value, *_ = sep.sum_ellipse(data, *ellipse, scale, subpix=5, **mask)
    flux[good] = np.where(np.isfinite(value), value, flux[good])
    return flux


def find_photutils(exposure, threshold=1.5, contrast=0.001):
    """
    Detect with photutils' segmentation, with deblending.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        In nmgy, without sky.

    threshold : float, optional
        On the smoothed image, in sigma of that.

    contrast : float, optional
        Of the deblending.

    Returns
    -------
    found : dict of array
        ``x``, ``y`` (centroid), ``x_peak``, ``y_peak`` and fluxes in nmgy: ``segment``
        and ``kron`` (pixels that belong to others are replaced by those opposite).
    """
    from photutils.segmentation import SourceCatalog, SourceFinder
    from scipy.signal import fftconvolve

    data, error = _data(exposure)
    kernel = _filter()
    smooth = fftconvolve(data, kernel, mode='same')
    sigma = error * np.sqrt(np.sum(kernel**2))
    finder = SourceFinder(_LEAST_PIXELS, contrast=contrast, progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        segments = finder(smooth, threshold * sigma)
        if segments is None:
            empty = np.empty(0)
            return dict.fromkeys(_PHOTUTILS, empty)
        catalog = SourceCatalog(data, segments, convolved_data=smooth)
        segment = np.atleast_1d(np.asarray(catalog.segment_flux, dtype=float))
        kron = np.atleast_1d(np.asarray(catalog.kron_flux, dtype=float))
        return {
            'x': np.atleast_1d(np.asarray(catalog.x_centroid, dtype=float)),
            'y': np.atleast_1d(np.asarray(catalog.y_centroid, dtype=float)),
            'x_peak': np.atleast_1d(catalog.max_value_xindex).astype(float),
            'y_peak': np.atleast_1d(catalog.max_value_yindex).astype(float),
            'segment': segment,
            'kron': np.where(np.isfinite(kron), kron, segment),
        }


def known_sources(exposure, peaks):
    """
    Where a blend has sources, by the survey's peaks and a deep run of SEP.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The blend as it is.

    peaks : array ``(n, 2)``
        The survey's.

    Returns
    -------
    known : array ``(k, 2)``
        Places (x, y).
    """
    found = find_sep(exposure, 2.0, 0.0005)
    places = np.column_stack([found['x'], found['y']])
    apart = np.hypot(*(places[:, None] - peaks).transpose(2, 0, 1))
    return np.concatenate([peaks, places[apart.min(1) > 2]])
