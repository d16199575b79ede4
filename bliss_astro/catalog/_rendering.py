# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues drawn as images.
"""

import astropy.units as u
import numpy as np
import torch

from bliss_astro._warnings import warn
from bliss_astro.exposures._validate import two_slices
from bliss_astro.exposures._psf import PSFAccess, check_psf
from bliss_astro.psf._mixture import LOG_AREA, describe_shape
from bliss_astro.rendering import GALAXY_SHAPE_NAMES
from bliss_astro.rendering._scene import (
    ModelRenderer,
    Sources,
    cell_middles,
    cell_side,
    psf_grid,
)

__all__ = ['render_catalog', 'renderer_of', 'scale_of', 'sources_of']

# -- sources -----------------------------------------------------------------------


def sources_of(table, *, scale=None, quiet=False):
    """
    Take the sources, shapes of galaxies and all, out of a table.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        A catalogue, or one that a posterior drew.

    scale : float or None, optional
        Arcsec per pixel, for radii that are angles.

    quiet : bool, optional
        Whether not to say that galaxies without shapes are drawn as stars.

    Returns
    -------
    sources : `~bliss_astro.rendering._scene.Sources`
        One for each row. Rows whose flux is not finite have none, and galaxies
        whose shape is not known or impossible are stars.

    Raises
    ------
    ValueError
        If radii are angles and there is no celestial WCS.

    Warns
    -----
    AstropyUserWarning
        If there are galaxies, but no columns with their shapes.
    """
    sources = Sources.of(table)
    sources.flux = np.where(np.isfinite(sources.flux), sources.flux, 0.0)
    missing = [name for name in GALAXY_SHAPE_NAMES if name not in table.colnames]
    if missing:
        n = int(sources.is_galaxy.sum())
        if n and not quiet:
            text = (
                f'the catalogue has no column {missing[0]!r}: without '
                f'{", ".join(GALAXY_SHAPE_NAMES)} its {n} galaxies are drawn as stars'
            )
            warn(text)
        sources.is_galaxy = np.zeros(len(sources), dtype=bool)
        return sources
    galaxy = np.stack([_plain(table, name, scale) for name in GALAXY_SHAPE_NAMES], 1)
    with np.errstate(invalid='ignore'):
        sound = np.isfinite(galaxy).all(1) & (galaxy[:, 2:] > 0).all(1)
        sound &= (
            (galaxy[:, 0] >= 0) & (galaxy[:, 0] <= 1) & (galaxy[:, 2:4] <= 1).all(1)
        )
    sources.is_galaxy = sources.is_galaxy & sound
    sources.galaxy = np.where(sound[:, None], galaxy, 0.5)
    return sources


def _plain(table, name, scale):
    """
    One number of the shapes in the units of rendering: radians and pixels.
    """
    column = table[name]
    unit = getattr(column, 'unit', None)
    values = np.ma.filled(getattr(column, 'value', column), np.nan)
    values = np.asarray(getattr(values, 'unmasked', values), dtype=float)
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
    Arcsec per pixel of a catalogue's image, or `None` where that is not known.

    Parameters
    ----------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        The catalogue.

    wcs : WCS object or None, optional
        For a catalogue that knows neither its scale nor a WCS.

    Returns
    -------
    scale : float or None
        That by which the radii of the table were made, if it is known.
    """
    known = catalog.image.get('pixel_scale')
    if known is not None:
        return float(known)
    for own in (getattr(catalog.posterior, 'wcs', None), catalog.wcs, wcs):
        if own is not None and getattr(own, 'has_celestial', True):
            from ._shapes import pixel_scale

            return pixel_scale(own)
    return None


# -- what draws them ---------------------------------------------------------------


def image_shape(catalog):
    """Shape ``(ny, nx)`` of the image of a catalogue, or `None`."""
    shape = catalog.image.get('shape')
    if shape is None:
        shape = getattr(catalog.posterior, 'shape', None)
    return None if shape is None else tuple(int(n) for n in shape)


def renderer_of(catalog, *, shape=None, psf=None):
    """
    Make what draws the image of a catalogue.

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
    shape = _check_shape(image_shape(catalog) if shape is None else shape)
    if psf is not None:
        grid = psf_grid(shape, PSFAccess(check_psf(psf)))
        return ModelRenderer.of_parts(shape, grid, _noise_of_rows(catalog, grid))
    tiles = getattr(catalog.posterior, 'tile_posterior', None)
    if tiles is None:
        msg = (
            'the catalogue has no posterior that knows its PSF (it was stacked, or '
            'read from a format that keeps rows only); give one with psf=..., or '
            'use reconstruct(exposure, catalog)'
        )
        raise ValueError(msg)
    floor = np.asarray(catalog.posterior.flux_floor, dtype=float)
    log_floor = tiles.inputs.log_flux_floor[0, 0].double().cpu().numpy()
    noise = float(np.median(floor / np.exp(log_floor)))
    return ModelRenderer.of_parts(shape, _posterior_grid(tiles, shape), noise)


def _posterior_grid(tiles, shape):
    """
    The PSF in the middles of cells, as `psf_grid` has it, out of a map by tiles.
    """
    maps = tiles.inputs.psf[0].movedim(0, -1).float().cpu()
    side = cell_side(varies=maps.shape[0] * maps.shape[1] > 1)
    rows, columns = (
        ((cell_middles(side, n) + 0.5) // tiles.grid.size)
        .astype(int)
        .clip(max=most - 1)
        for n, most in zip(shape, maps.shape, strict=False)
    )
    shapes = maps[torch.from_numpy(rows)[:, None], torch.from_numpy(columns)]
    return side, shapes.contiguous(), float(tiles.inputs.normalization_radius)


def _noise_of_rows(catalog, grid):
    """
    About the noise of a pixel, by the errors of the fluxes of faint sources.
    """
    error = catalog['flux_err']
    error = np.asarray(getattr(error, 'value', error), dtype=float)
    error = error[np.isfinite(error) & (error > 0)]
    if len(error) == 0:
        return 0.0
    _, shapes, radius = grid
    described = describe_shape(shapes.reshape(-1, shapes.shape[-1]), radius=radius)
    area = np.exp(float(described[:, 1].median()) + LOG_AREA)
    return float(np.quantile(error, 0.1) / np.sqrt(area))


def _check_shape(shape):
    if shape is None:
        msg = 'the catalogue does not know the shape of its image; give shape=(ny, nx)'
        raise ValueError(msg)
    values = np.asarray(shape)
    if values.shape != (2,) or values.dtype.kind not in 'iu' or values.min() < 1:
        msg = f'shape must be two positive whole numbers (ny, nx), got {shape!r:.60}'
        raise ValueError(msg)
    return tuple(int(n) for n in values)


# -- the image ---------------------------------------------------------------------


def render_catalog(catalog, *, shape=None, cutout=None, psf=None):
    """
    Draw a catalogue; the work behind `ProbabilisticCatalog.render`.

    Parameters
    ----------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        The rows.

    shape, cutout, psf
        As there.

    Returns
    -------
    image : float32 `~numpy.ndarray` or `~astropy.units.Quantity`
        The light of the rows.
    """
    renderer = renderer_of(catalog, shape=shape, psf=psf)
    try:
        window = None if cutout is None else two_slices(cutout, renderer.shape)
    except (TypeError, ValueError) as error:
        msg = f'cutout: {error}'
        raise type(error)(msg) from None
    sources = sources_of(catalog, scale=scale_of(catalog))
    image = renderer(sources, window=window)
    unit = getattr(catalog['flux'], 'unit', None)
    return image if unit is None else u.Quantity(image, unit, copy=False)
