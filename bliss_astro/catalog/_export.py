# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues as regions and as segmentation images, for other programs.
"""

import numbers

import astropy.units as u
import numpy as np

from .._atomic import atomic_write
from ._checks import own_exposure
from ._rendering import renderer_of, scale_of, sources_of

__all__ = ['make_regions', 'plot', 'segment']

# Radius of a region in pixels where the PSF is not known.
_RADIUS = 5.0
# Colours of regions in DS9: of stars, of galaxies.
_COLORS = ('cyan', 'orange')


def plot(catalog, image, **kwargs):
    """
    Draw a catalogue over an image; see `ProbabilisticCatalog.plot`.

    Parameters
    ----------
    catalog : `ProbabilisticCatalog`
        The catalogue.

    image : object or None
        The image, by default the catalogue's own.

    **kwargs
        For `~bliss_astro.plotting.plot_catalog`.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.

    Raises
    ------
    ValueError
        If the image has another shape than that of the catalogue's posterior.
    """
    # A way for a person: nothing of the catalogue rests on matplotlib.
    import bliss_astro

    image = own_exposure(catalog, image, name='image')
    posterior = catalog.posterior
    shape = np.shape(getattr(image, 'data', image))
    if posterior is not None and len(shape) == 2 and shape != tuple(posterior.shape):
        msg = (
            f'image has the shape {shape}, but the catalogue is of one of '
            f'{tuple(posterior.shape)}'
        )
        raise ValueError(msg)
    kwargs.setdefault('wcs', getattr(image, 'wcs', None) or catalog.wcs)
    return bliss_astro.plotting.plot_catalog(image, catalog, **kwargs)


# -- regions -------------------------------------------------------------------------


def make_regions(catalog, path, *, sky, radius, overwrite):
    """
    Make a circle of each row; see `ProbabilisticCatalog.to_regions`.

    Parameters
    ----------
    catalog, path, sky, radius, overwrite
        As there.

    Returns
    -------
    regions : `regions.Regions`
        The circles.
    """
    try:
        from regions import CirclePixelRegion, CircleSkyRegion, PixCoord, Regions
    except ImportError as error:
        msg = 'to_regions needs the package regions: pip install regions'
        raise ImportError(msg) from error
    has_sky = 'sky_centroid' in catalog.colnames
    sky = has_sky if sky is None else sky
    if sky and not has_sky:
        msg = 'sky=True needs positions on the sky: the image had no WCS'
        raise ValueError(msg)
    radius = _radius(catalog, radius, sky=sky)
    galaxies = np.zeros(len(catalog), dtype=bool)
    if 'galaxy_probability' in catalog.colnames:
        galaxies = np.ma.filled(catalog['galaxy_probability'], 0) > 0.5
    circles = []
    for row, galaxy in zip(catalog, galaxies, strict=True):
        meta = {'text': str(row['id']), 'tag': [f'p={row["probability"]:.3f}']}
        visual = {'color': _COLORS[int(galaxy)]}
        if sky:
            centre, kind = row['sky_centroid'], CircleSkyRegion
        else:
            centre, kind = PixCoord(row['x_centroid'], row['y_centroid']), None
        kind = kind or CirclePixelRegion
        circles.append(kind(centre, radius, meta=meta, visual=visual))
    regions = Regions(circles)
    if path is not None:
        with atomic_write(path, overwrite=overwrite) as temporary:
            regions.write(temporary, format='ds9', overwrite=True)
    return regions


def _radius(catalog, radius, *, sky):
    """
    Radius of the circles: pixels, or an angle on the sky.
    """
    if radius is None:
        radius = _fwhm(catalog) or _RADIUS
    if isinstance(radius, u.Quantity) and radius.unit.is_equivalent(u.pix):
        radius = radius.to_value(u.pix)
    is_angle = isinstance(radius, u.Quantity) and radius.unit.is_equivalent(u.arcsec)
    if not is_angle and not isinstance(radius, numbers.Real):
        msg = f'radius must be a number of pixels or an angle, got {radius!r:.60}'
        raise TypeError(msg)
    if not (np.isfinite(radius) and radius > 0 * getattr(radius, 'unit', 1)):
        msg = f'radius must be positive, got {radius}'
        raise ValueError(msg)
    if is_angle == sky:
        return radius
    scale = scale_of(catalog)
    if scale is None:
        msg = (
            'the size of a pixel on the sky is not known; give radius as '
            f'{"an angle" if sky else "a number of pixels"}'
        )
        raise ValueError(msg)
    return radius * scale * u.arcsec if sky else radius.to_value(u.arcsec) / scale


def _fwhm(catalog):
    """
    Full width at half maximum of the PSF in pixels, or `None`.
    """
    exposure = catalog.exposure
    if exposure is None or exposure.psf is None:
        return None
    ny, nx = exposure.shape
    return float(exposure.psf_at(nx // 2, ny // 2).fwhm)


# -- segmentation --------------------------------------------------------------------


def segment(catalog, shape, *, psf, n_sigma):
    """
    Label the pixels of each row; see `ProbabilisticCatalog.segmentation`.

    Parameters
    ----------
    catalog, shape, psf, n_sigma
        As there.

    Returns
    -------
    segmentation : `photutils.segmentation.SegmentationImage`
        The labels.
    """
    from photutils.segmentation import SegmentationImage

    if not isinstance(n_sigma, numbers.Real) or not 0 < n_sigma < np.inf:
        msg = f'n_sigma must be a positive number, got {n_sigma!r:.60}'
        raise ValueError(msg)
    ids = np.asarray(catalog['id'])
    if len(np.unique(ids)) < len(ids) or np.any(ids < 1):
        msg = (
            "column 'id' must hold different positive numbers, which become the "
            'labels; number rows of several catalogues anew'
        )
        raise ValueError(msg)
    renderer = renderer_of(catalog, shape=shape, psf=psf)
    sources = sources_of(catalog, scale=scale_of(catalog))
    limit = n_sigma * renderer.noise
    labels = np.zeros(renderer.shape, dtype=int)
    # A pixel belongs to the row that has most light there.
    most = np.zeros(renderer.shape, dtype=np.float32)
    halos = renderer.halo_of(sources)
    for k, label in enumerate(ids):
        one = sources.select(np.array([k]))
        window = _window(one.x[0], one.y[0], halos[k], renderer.shape)
        if window is None:
            continue
        light = renderer(one, window=window)
        # However faint a row is, the pixel that it lies on is its own.
        y, x = (
            round(float(place)) - part.start
            for place, part in zip((one.y[0], one.x[0]), window, strict=True)
        )
        footprint = light > limit
        if 0 <= y < light.shape[0] and 0 <= x < light.shape[1]:
            footprint[y, x] = True
        wins = footprint & ((light > most[window]) | (labels[window] == 0))
        labels[window][wins] = label
        most[window][wins] = light[wins]
    return SegmentationImage(labels)


def _window(x, y, halo, shape):
    """
    Part of an image around a place, or `None` if there is none.
    """
    ends = []
    for place, n in zip((y, x), shape, strict=True):
        low = max(0, place - halo)
        high = min(n, place + halo + 1)
        if not low < high:
            return None
        ends.append(slice(int(low), int(np.ceil(high))))
    return tuple(ends)
