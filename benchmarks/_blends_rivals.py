# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What SEP and photutils find in scenes of blended sources, deblending on.

Both are given the true background and its noise, and may convolve with
the true PSF: what they lack is the model, not the facts.
"""

import itertools
import warnings

import numpy as np
import torch

from bliss_astro.metrics import match_catalogs
from bliss_astro.rendering import render_stars

__all__ = ['GRIDS', 'RIVALS', 'find_rival', 'kernels_of', 'tune']

_EMPTY = ('image', 'x', 'y', 'flux', 'kron', 'e1', 'e2')
_SMALL = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
_NONE = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
_PSF_HALF = 4  # half-size in pixels of the PSF's image that they convolve with


def _grid(**choices):
    names = list(choices)
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*choices.values())
    ]


# Thresholds are in units of the noise of the smoothed image.
GRIDS = {
    'SEP': _grid(
        kernel=('none', 'small', 'psf'),
        threshold=(2.0, 3.0, 4.0),
        n_pixels=(1, 3, 5),
        contrast=(1e-6, 1e-5, 1e-4, 1e-3),
    ),
    'photutils': _grid(
        kernel=('none', 'small'),
        threshold=(3.0, 4.0, 5.0),
        n_pixels=(1, 3),
        contrast=(1e-6, 1e-4, 1e-3),
    ),
}


def kernels_of(scenes):
    """
    The PSF of each scene as a normalised image, array ``(B, 9, 9)``.

    Parameters
    ----------
    scenes : SimulatedImages
        B images.
    """
    n, middle = len(scenes), torch.full((len(scenes), 1), float(_PSF_HALF))
    size = (2 * _PSF_HALF + 1,) * 2
    image = render_stars(scenes.psf, middle, middle, torch.ones(n, 1), size=size)
    image = image.double().numpy()
    return image / image.sum((1, 2), keepdims=True)


def _ellipticity(a, b, theta):
    # Distortion of second moments above the threshold, PSF and all.
    e = (a**2 - b**2) / (a**2 + b**2)
    return e * np.cos(2 * theta), e * np.sin(2 * theta)


def _find_sep(data, noise, kernel, settings):
    import sep

    # The threshold is absolute: the smoothed image's noise is known.
    limit = settings['threshold'] * noise * np.sqrt((kernel**2).sum())
    objects, segments = sep.extract(
        data,
        limit,
        minarea=settings['n_pixels'],
        filter_kernel=kernel,
        filter_type='conv',
        deblend_nthresh=64,
        deblend_cont=settings['contrast'],
        segmentation_map=True,
    )
    a, b, theta = objects['a'], objects['b'], objects['theta']
    e1, e2 = _ellipticity(a, b, theta)
    flux = objects['flux'].astype(float)
    kron = flux.copy()
    good = np.flatnonzero(np.isfinite(a) & (b > 0))
    if len(good):
        # Other objects' pixels are masked out.
        ids = (good + 1).astype(np.int32)
        ellipse = [objects[k][good] for k in ('x', 'y', 'a', 'b')]
        ellipse.append(np.clip(theta[good], -np.pi / 2, np.pi / 2))
        radius, _ = sep.kron_radius(data, *ellipse, 6.0, seg_id=ids, segmap=segments)
        use = np.isfinite(radius) & (radius > 0)
        ellipse = [v[use] for v in ellipse]
        scale = np.maximum(2.5 * radius[use], 3.5)
        own = {'seg_id': ids[use], 'segmap': segments, 'subpix': 5}
        kron[good[use]] = sep.sum_ellipse(data, *ellipse, scale, **own)[0]
    return objects['x'], objects['y'], flux, kron, e1, e2


def _find_photutils(data, noise, kernel, settings):
    from astropy.convolution import convolve_fft
    from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources

    smooth = convolve_fft(data, kernel, boundary='fill', fill_value=0.0)
    limit = settings['threshold'] * noise * np.sqrt((kernel**2).sum())
    n_pixels = settings['n_pixels']
    segments = detect_sources(smooth, limit, n_pixels)
    if segments is None:
        return None
    segments = deblend_sources(
        smooth,
        segments,
        n_pixels,
        contrast=settings['contrast'],
        progress_bar=False,
    )
    catalog = SourceCatalog(data, segments, convolved_data=smooth)
    flux = np.atleast_1d(catalog.segment_flux)
    kron = np.atleast_1d(catalog.kron_flux)
    shape = [
        np.atleast_1d(catalog.semimajor_axis),
        np.atleast_1d(catalog.semiminor_axis),
    ]
    a, b = (np.asarray(getattr(v, 'value', v), float) for v in shape)
    theta = np.deg2rad(np.atleast_1d(getattr(catalog.orientation, 'value', 0.0)))
    x, y = (np.atleast_1d(v) for v in (catalog.x_centroid, catalog.y_centroid))
    return (
        x,
        y,
        flux,
        np.where(np.isfinite(kron), kron, flux),
        *_ellipticity(a, b, theta),
    )


RIVALS = {'SEP': _find_sep, 'photutils': _find_photutils}


def find_rival(name, scenes, settings, *, first=0):
    """
    What a rival finds.

    Parameters
    ----------
    name : {'SEP', 'photutils'}
        Which.

    scenes : SimulatedImages
        B images.

    settings : dict
        Of its grid.

    first : int, optional
        Number of the first image.

    Returns
    -------
    found : dict of array
        ``image``, ``x``, ``y``, ``flux`` (of its pixels, as deblended), ``kron`` (in
        the Kron aperture, others masked; nmgy both), ``e1``, ``e2`` (of
        its second moments, which the PSF and the threshold change).
    """
    background = scenes.background[:, None, None]
    images = (scenes.data - background).double().numpy()
    noise = scenes.bkg_error.double().numpy()
    scale = scenes.electrons_per_nmgy.double().numpy()
    kernels = {'none': _NONE, 'small': _SMALL}
    kernel = kernels.get(settings['kernel'])
    psf = kernels_of(scenes) if kernel is None else [kernel] * len(scenes)
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for k, data in enumerate(images):
            data = np.ascontiguousarray(data)
            found = RIVALS[name](data, noise[k], psf[k], settings)
            if found is None or len(found[0]) == 0:
                continue
            x, y, flux, kron, e1, e2 = (np.asarray(v, float) for v in found)
            image = np.full(len(x), first + k)
            parts.append((image, x, y, flux / scale[k], kron / scale[k], e1, e2))
    values = zip(*parts, strict=True) if parts else [[np.empty(0)]] * len(_EMPTY)
    found = dict(zip(_EMPTY, map(np.concatenate, values), strict=True))
    found['image'] = found['image'].astype(int)
    good = np.isfinite(found['x']) & np.isfinite(found['y'])
    return {k: v[good] for k, v in found.items()}


def tune(name, batches, *, keep):
    """
    The settings with the highest F1.

    Parameters
    ----------
    name : {'SEP', 'photutils'}
        Which.

    batches : list of (SimulatedImages, dict)
        Scenes of a separate set with their truth.

    keep : callable
        Which detections count, by their x and y.

    Returns
    -------
    best : dict
        Settings.

    table : list of dict
        All settings with ``precision``, ``recall`` and ``f1``.
    """
    table = []
    for settings in GRIDS[name]:
        n_found = n_true = n_pairs = 0
        for scenes, truth in batches:
            found = find_rival(name, scenes, settings)
            good = keep(found['x'], found['y'])
            found = {k: v[good] for k, v in found.items()}
            match = match_catalogs(
                (found['x'], found['y']),
                (truth['x'], truth['y']),
                images=(found['image'], truth['image']),
            )
            n_found += match.n_estimated
            n_true += match.n_truth
            n_pairs += len(match)
        table.append(
            settings
            | {
                'precision': n_pairs / max(n_found, 1),
                'recall': n_pairs / max(n_true, 1),
                'f1': 2 * n_pairs / max(n_found + n_true, 1),
            }
        )
    best = max(table, key=lambda row: row['f1'])
    return {k: best[k] for k in GRIDS[name][0]}, table
