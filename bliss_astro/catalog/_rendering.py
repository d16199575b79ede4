# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of catalogues: the light of the rows, and the pixels that it fills.

`render` and `segmentation` are methods of
`~bliss_astro.catalog.ProbabilisticCatalog`.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import NoOverlapError, overlap_slices

from bliss_astro._arguments import check_choice, check_image_shape, check_number
from bliss_astro._warnings import warn
from bliss_astro.exposures._psf import PSFAccess
from bliss_astro.exposures._validate import two_slices
from bliss_astro.priors import GALAXY_SHAPE_NAMES
from bliss_astro.rendering._scene import (
    ModelRenderer,
    Sources,
    psf_grid,
)

from ._bands import bands_of
from ._columns import COLUMNS, pixel_scale, plain_numbers

# Quantile of the errors of the fluxes that is taken for that of faint sources.
_FAINT_QUANTILE = 0.1

# -- sources -----------------------------------------------------------------------


def sources_of(table, *, scale=None, quiet=False, band=None):
    """
    Sources of a table, shapes of galaxies and all.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        A catalogue, or one that a posterior drew.

    scale : float or None, optional
        Arcsec per pixel, for radii that are angles.

    quiet : bool, optional
        Whether to leave out the warning that galaxies without shapes are drawn as
        stars.

    band : str or None, optional
        Band of the fluxes; by default those of the column ``flux``.

    Returns
    -------
    sources : `~bliss_astro.rendering._scene.Sources`
        One for each row. Rows whose flux is not finite have none, and galaxies
        whose shape is unknown or impossible are stars.
    """
    if band is not None:
        check_choice('band', band, bands_of(table))
    sources = Sources.of(table, band)
    missing = [name for name in GALAXY_SHAPE_NAMES if name not in table.colnames]
    if missing:
        n = int(sources.is_galaxy.sum())
        if n and not quiet:
            warn(
                f'the catalogue has no column {missing[0]!r}: without '
                f'{", ".join(GALAXY_SHAPE_NAMES)} its {n} galaxies are drawn as stars'
            )
        sources.is_galaxy = np.zeros(len(sources), dtype=bool)
        return sources
    values = [_plain_shape(table, name, scale) for name in GALAXY_SHAPE_NAMES]
    sound = np.isfinite(values).all(0)
    for name, value in zip(GALAXY_SHAPE_NAMES, values, strict=True):
        # An angle outside of its range is the same as one inside.
        if name != 'angle':
            low, high, *_ = COLUMNS[name].limits
            sound &= (value >= low) & (value <= high)
        if name.endswith('ratio'):
            sound &= value > 0
    sources.is_galaxy = sources.is_galaxy & sound
    sources.galaxy = np.where(sound[:, None], np.stack(values, 1), 0.5)
    return sources


def _plain_shape(table, name, scale):
    """One number of the shapes in the units of rendering: radians and pixels."""
    column = table[name]
    unit = getattr(column, 'unit', None)
    values = plain_numbers(column)
    if name == 'angle':
        # Without a unit it is in that of the tables.
        return values * (unit or u.deg).to(u.rad)
    if not name.endswith('radius') or unit is None or unit.is_equivalent(u.pix):
        return values
    if scale is None:
        msg = (
            f'column {name!r} is in {unit}, and there is no celestial wcs to turn '
            'that into pixels; give radii in pixels'
        )
        raise ValueError(msg)
    return values * unit.to(u.arcsec) / scale


def scale_of(catalog, *, wcs=None):
    """
    Pixel scale in arcsec by which radii were converted; `None` if it is unknown.

    A ``wcs`` is for catalogues that hold neither their scale nor a WCS.
    """
    known = catalog.image.get('pixel_scale')
    if known is not None:
        return float(known)
    for own in (getattr(catalog.posterior, 'wcs', None), catalog.wcs, wcs):
        if own is not None and getattr(own, 'has_celestial', True):
            return pixel_scale(own)
    return None


# -- renderers ---------------------------------------------------------------------


def renderer_of(catalog, *, shape=None, psf=None):
    """
    Renderer of a catalogue's image.

    Parameters
    ----------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        With a posterior, unless ``psf`` is given.

    shape : tuple of int or None, optional
        ``(ny, nx)``; by default that of the catalogue's image.

    psf : object or None, optional
        Any PSF that an exposure may have.

    Returns
    -------
    renderer : `~bliss_astro.rendering._scene.ModelRenderer`
        On the whole grid.
    """
    posterior = catalog.posterior
    if shape is None:
        shape = catalog.image.get('shape', getattr(posterior, 'shape', None))
    if shape is None:
        msg = 'the catalogue lacks the shape of its image; give shape=(ny, nx)'
        raise ValueError(msg)
    shape = check_image_shape('shape', shape)
    facts = getattr(posterior, 'facts', None)
    if getattr(posterior, 'binning', 1) > 1:
        # The encoder has the PSF of joined pixels.
        facts = None
        psf = getattr(catalog.exposure, 'psf', None) if psf is None else psf
    if psf is not None:
        grid = psf_grid(shape, PSFAccess(psf))
        return ModelRenderer(shape, grid, _noise_of_rows(catalog, grid))
    if facts is None:
        msg = (
            'the catalogue has no posterior with its PSF (it was stacked, read from a '
            'format that keeps rows only, or of joined pixels); give one with psf=..., '
            'or use reconstruct(exposure, catalog)'
        )
        raise ValueError(msg)
    return ModelRenderer(shape, facts.psf_grid, facts.noise)


def _noise_of_rows(catalog, grid):
    """Noise of a pixel, roughly, by the errors of the fluxes of faint sources."""
    error = plain_numbers(catalog['flux_err'])
    error = error[np.isfinite(error) & (error > 0)]
    if len(error) == 0:
        return 0.0
    area = float(grid[1].effective_area.median())
    return float(np.quantile(error, _FAINT_QUANTILE) / np.sqrt(area))


# -- images ------------------------------------------------------------------------


def render(self, *, shape=None, cutout=None, psf=None, band=None):
    """
    Render the rows: the image of the catalogue, without noise.

    Stars have the shape of the PSF where they lie, galaxies are a
    disk and a bulge seen through it. A row is a galaxy if its
    ``galaxy_probability`` exceeds 0.5; its shape is in the columns
    ``disk_fraction``, ``angle``, ``disk_axis_ratio``, ``bulge_axis_ratio``,
    ``disk_radius`` and ``bulge_radius``. A galaxy whose shape is unknown is
    drawn as a star.

    Parameters
    ----------
    shape : tuple of int, optional
        ``(ny, nx)`` of the image; by default that of the image that the
        catalogue was made of. Pixels are the same.

    cutout : pair of slice, optional
        Rows and columns to draw of the image, by default all; pixels
        have the same values as in the whole image.

    psf : object, optional
        The PSF, of any kind that `~bliss_astro.exposures.Exposure` takes. By
        default that of the encoder's inputs in the reference band, which `posterior`
        holds, but of another band that of `exposures`, where the catalogue has them.

    band : str, optional
        Band of the fluxes (``flux_g``). By default the reference band.

    Returns
    -------
    image : float32 `~numpy.ndarray` or `~astropy.units.Quantity`, shape (ny, nx)
        The light of the rows without the sky, in the unit of ``flux``.

    Raises
    ------
    TypeError
        If ``psf`` is none, or if ``cutout`` is not made of slices.

    ValueError
        If there is neither a posterior nor ``psf``, if the shape of the image is
        unknown, if ``cutout`` holds no pixels, if radii are angles and there is no
        WCS, or if there is no such band.

    Warns
    -----
    AstropyUserWarning
        If there are galaxies, but no columns with their shapes.

    See Also
    --------
    bliss_astro.checks.reconstruct : The same, compared with the image.

    Notes
    -----
    The PSF is that in the middle of a cell of 128 pixels (256 pixels where it
    is the same everywhere). A source is drawn on a part of its cell and around
    it out to 24, 72 or 216 pixels, the first at which it is fainter than 0.5 % of
    the noise of the sky, or else to the ends of the image. The wings of
    galaxies end earlier, at a square of 64 to 1024 pixels whose half side is
    at least 5 half-light radii of the disk, 8 of the bulge and 12 ``sigma1`` of the
    PSF (`~bliss_astro.rendering.RenderingAccuracy`).

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, detect_sources
    >>> exposure, truth = CoaddSimulator().sample(rng=3)
    >>> catalog = detect_sources(exposure, encoder='stars')
    >>> image = catalog.render()
    >>> image.shape == exposure.shape
    True
    """
    sources = sources_of(self, scale=scale_of(self), band=band)
    images = self.exposures
    if psf is None and images and band in images and band != images.reference:
        psf = images[band].psf
    renderer = renderer_of(self, shape=shape, psf=psf)
    try:
        window = None if cutout is None else two_slices(cutout, renderer.shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f'cutout: {error}') from None
    image = renderer(sources, window=window)
    unit = getattr(self['flux'], 'unit', None)
    return image if unit is None else u.Quantity(image, unit, copy=False)


def segmentation(self, shape=None, *, psf=None, n_sigma=1.0):
    """
    Label the pixels that the light of each row fills.

    Parameters
    ----------
    shape : tuple of int, optional
        ``(ny, nx)`` of the image; by default that of the catalogue's.

    psf : object, optional
        As for `render`.

    n_sigma : float, optional
        A footprint ends where the row's light falls below that many sigma of
        the sky's noise in a pixel.

    Returns
    -------
    segmentation : `~photutils.segmentation.SegmentationImage`
        The labels are the numbers of the column ``id``, 0 is sky. A pixel of
        several footprints belongs to the row that is brightest there; the pixel
        that a row lies on is in its footprint, however faint it is.

    Raises
    ------
    ValueError
        As for `render`, if numbers in ``id`` repeat, or if ``n_sigma`` is not
        positive.
    """
    from photutils.segmentation import SegmentationImage

    check_number('n_sigma', n_sigma, 'positive', error=ValueError)
    ids = np.asarray(self['id'])
    if len(np.unique(ids)) < len(ids) or np.any(ids < 1):
        msg = (
            "column 'id' must hold different positive numbers, which become the "
            'labels; number rows of several catalogues anew'
        )
        raise ValueError(msg)
    renderer = renderer_of(self, shape=shape, psf=psf)
    sources = sources_of(self, scale=scale_of(self))
    limit = n_sigma * renderer.noise
    labels = np.zeros(renderer.shape, dtype=int)
    # A pixel belongs to the row that has most light there.
    most = np.zeros(renderer.shape, dtype=np.float32)
    # Sources that fill the image have no end.
    halos = np.minimum(renderer.halo_of(sources), 4 * max(renderer.shape))
    for k, label in enumerate(ids):
        one = sources.select(np.array([k]))
        place, side = (one.y[0], one.x[0]), 2 * int(np.ceil(halos[k])) + 1
        try:
            window, _ = overlap_slices(renderer.shape, (side, side), place, 'trim')
        except NoOverlapError:
            continue
        light = renderer(one, window=window)
        footprint = light > limit
        # However faint a row is, the pixel that it lies on is its own.
        y, x = (round(float(v)) - w.start for v, w in zip(place, window, strict=True))
        if 0 <= y < light.shape[0] and 0 <= x < light.shape[1]:
            footprint[y, x] = True
        wins = footprint & ((light > most[window]) | (labels[window] == 0))
        labels[window][wins] = label
        most[window][wins] = light[wins]
    return SegmentationImage(labels)
