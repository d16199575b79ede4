# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What others find in an SDSS frame: SEP, photutils and the survey itself.
"""

import time
import warnings

import astropy.units as u
import numpy as np

from bliss_astro import detect_sources

__all__ = ['find_ours', 'find_photo', 'find_photutils', 'find_sep', 'magnitude']

_GALAXY, _STAR = 3, 6


def magnitude(flux):
    """Magnitude of a flux in nmgy; NaN if that is not positive."""
    flux = np.asarray(flux, dtype=float)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(flux > 0, 22.5 - 2.5 * np.log10(flux), np.nan)


def _catalog(x, y, flux, *, is_galaxy=None, seconds=np.nan):
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    mag = magnitude(flux)
    good = np.isfinite(x) & np.isfinite(y)
    found = {'x': x[good], 'y': y[good], 'mag': mag[good]}
    if is_galaxy is not None:
        found['is_galaxy'] = np.asarray(is_galaxy, dtype=bool)[good]
    return found, seconds


def _clean(exposure):
    # Sky-subtracted, bad pixels filled: what a person would give to them.
    data = np.array(exposure.data - exposure.background, dtype=np.float64, order='C')
    data[~np.isfinite(data)] = 0.0
    return data


def find_ours(exposure, *, encoder=None, threshold=0.5):
    """
    What `~bliss_astro.detect_sources` finds.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        In nmgy.

    encoder : str or None, optional
        A name or file; the default encoder if `None`.

    threshold : float, optional
        Smallest probability of a source.

    Returns
    -------
    found : dict of array
        ``x``, ``y``, ``mag`` and, of an encoder that knows galaxies, ``is_galaxy``.

    seconds : float
        Time.
    """
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        catalog = detect_sources(exposure, threshold=threshold, encoder=encoder)
    seconds = time.perf_counter() - start
    is_galaxy = None
    if 'galaxy_probability' in catalog.colnames:
        is_galaxy = np.asarray(catalog['galaxy_probability']) > 0.5
    return _catalog(
        catalog['x_centroid'],
        catalog['y_centroid'],
        u.Quantity(catalog['flux']).to_value(u.nmgy),
        is_galaxy=is_galaxy,
        seconds=seconds,
    )


def find_sep(exposure, *, threshold=1.5, n_pixels=5):
    """
    What SEP finds, with its default background, filter and deblending.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        In nmgy.

    threshold : float, optional
        In units of the background's standard deviation.

    n_pixels : int, optional
        Smallest number of pixels.

    Returns
    -------
    found, seconds
        As `find_ours`, without types.

    Raises
    ------
    ImportError
        If SEP is not installed.
    """
    import sep

    data = _clean(exposure)
    start = time.perf_counter()
    background = sep.Background(data)
    data = data - background.back()
    # Crowded fields have more blends than it makes room for.
    sep.set_extract_pixstack(3_000_000)
    sep.set_sub_object_limit(20_000)
    objects = sep.extract(data, threshold, err=background.globalrms, minarea=n_pixels)
    x, y, flux = objects['x'], objects['y'], objects['flux'].copy()
    theta = np.clip(objects['theta'], -np.pi / 2, np.pi / 2)
    good = np.isfinite(objects['a']) & np.isfinite(objects['b']) & (objects['b'] > 0)
    ellipse = [v[good] for v in (x, y, objects['a'], objects['b'], theta)]
    radius, _ = sep.kron_radius(data, *ellipse, 6.0)
    usable = np.isfinite(radius) & (radius > 0)
    index = np.flatnonzero(good)[usable]
    ellipse = [v[usable] for v in ellipse]
    # Not below SExtractor's smallest Kron aperture.
    scale = np.maximum(2.5 * radius[usable], 3.5)
    auto, *_ = sep.sum_ellipse(data, *ellipse, scale, subpix=5)
    flux[index] = np.where(auto > 0, auto, flux[index])
    return _catalog(x, y, flux, seconds=time.perf_counter() - start)


def find_photutils(exposure, *, of_smoothed=False):
    """
    What photutils finds: detection on the smoothed image, deblending, Kron fluxes.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        In nmgy.

    of_smoothed : bool, optional
        Whether the threshold is 1.5 sigma of the smoothed image rather than of the
        image itself.

    Returns
    -------
    found, seconds
        As `find_ours`, without types.
    """
    from astropy.convolution import convolve
    from photutils.background import Background2D
    from photutils.segmentation import (
        SourceCatalog,
        SourceFinder,
        make_2dgaussian_kernel,
    )

    data = _clean(exposure)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        background = Background2D(data, 64)
        data = data - background.background
        kernel = make_2dgaussian_kernel(3.0, size=5)
        smooth = convolve(data, kernel)
        sigma = background.background_rms
        if of_smoothed:
            sigma = sigma * np.sqrt((kernel.array**2).sum())
        finder = SourceFinder(5, progress_bar=False)
        segments = finder(smooth, 1.5 * sigma)
        if segments is None:
            empty = np.empty(0)
            return _catalog(empty, empty, empty)
        catalog = SourceCatalog(data, segments, convolved_data=smooth)
        flux = np.asarray(catalog.kron_flux, dtype=float)
        flux = np.where(np.isfinite(flux), flux, catalog.segment_flux)
    return _catalog(
        catalog.x_centroid,
        catalog.y_centroid,
        flux,
        seconds=time.perf_counter() - start,
    )


def find_photo(path, exposure):
    """
    What the survey's own single-exposure catalogue holds.

    Parameters
    ----------
    path : path_like
        The photoObj file of the field.

    exposure : `~bliss_astro.exposures.Exposure`
        The frame, which says field and band.

    Returns
    -------
    found, seconds
        As `find_ours`, ``is_galaxy`` from ``OBJC_TYPE``; parents of blends are
        left out. Stars have PSF magnitudes, galaxies those of the better
        profile (composite ones where the file has them).

    Raises
    ------
    ValueError
        If the file is of another field, or no photoObj file.
    """
    from bliss_astro.surveys.sdss import BANDS, read_photoobj

    objects = read_photoobj(path)
    for key in ('run', 'camcol', 'field'):
        own, other = exposure.meta[key], objects.meta[key]
        if own >= 0 and other >= 0 and own != other:
            msg = f'photoobj is of {key} {other}, but the frame is of {key} {own}'
            raise ValueError(msg)
    band = BANDS.index(exposure.meta['band'])
    kind = np.asarray(objects['OBJC_TYPE'])
    use = np.isin(kind, (_GALAXY, _STAR))
    if 'NCHILD' in objects.colnames:
        use &= np.asarray(objects['NCHILD']) == 0
    if 'MODE' in objects.colnames:
        use &= np.isin(np.asarray(objects['MODE']), (1, 2))
    elif 'THING_ID' in objects.colnames:
        use &= np.asarray(objects['THING_ID']) != -1
    names = ('CMODELFLUX', 'MODELFLUX', 'PSFFLUX')
    profile = next(name for name in names if name in objects.colnames)
    flux = np.where(
        kind == _STAR,
        np.asarray(objects['PSFFLUX'])[:, band],
        np.asarray(objects[profile])[:, band],
    )
    return _catalog(
        np.asarray(objects['x'])[use, band],
        np.asarray(objects['y'])[use, band],
        flux[use],
        is_galaxy=kind[use] == _GALAXY,
    )
