# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of images: catalogues over them, and maps of probability.
"""

from collections.abc import Mapping

import numpy as np
from astropy.nddata import NDData
from astropy.table import Table

from bliss_astro._arguments import check_choice, check_positive, require
from bliss_astro.metrics._matching import as_positions
from bliss_astro.units import median_and_scatter

from . import _axes
from ._color_images import choose_bands, color_image

# Percentile of the image at the white end of the grey scale.
_LOW_PERCENTILE = 20
_STRETCHES = ('asinh', 'sqrt', 'log', 'linear')


def _as_image(data, wcs):
    """Return the pixels as floats with NaN for bad ones, and their WCS."""
    mask = getattr(data, 'mask', None)
    wcs = getattr(data, 'wcs', None) if wcs is None else wcs
    if isinstance(data, NDData) or not isinstance(data, np.ndarray):
        data = getattr(data, 'data', data)
    if isinstance(data, np.ma.MaskedArray):
        mask = data.mask
    image = np.array(getattr(data, 'value', data), dtype=float)
    sound = image.ndim == 2 and image.size
    require(sound, 'data', 'be a 2D image that is not empty', f'shape {image.shape}')
    if mask is not None and np.shape(mask) in ((), image.shape):
        image[np.broadcast_to(mask, image.shape)] = np.nan
    image[~np.isfinite(image)] = np.nan
    return image, wcs


def _as_picture(data, wcs, bands):
    """Return pixels to show, grey or in colours, which of them are bad, and the WCS."""
    chosen = choose_bands(data, bands)
    if isinstance(data, Mapping):
        wcs = getattr(next(iter(data.values())), 'wcs', None) if wcs is None else wcs
    if chosen is None:
        first = next(iter(data.values())) if isinstance(data, Mapping) else data
        image, wcs = _as_image(first, wcs)
        return image, np.isnan(image), wcs
    own = {str(name): image for name, image in data.items()}
    images = [_as_image(own[name], wcs)[0] for name in chosen]
    shapes = {image.shape for image in images}
    require(len(shapes) == 1, 'data', 'be images of one shape', shapes)
    known = [image[np.isfinite(image)] for image in images]
    skies = [median_and_scatter(v) if v.size else (0.0, 0.0) for v in known]
    above = [image - sky for image, (sky, _) in zip(images, skies, strict=True)]
    picture = color_image(above, [noise or 1.0 for _, noise in skies])
    return picture, np.isnan(images).any(0), wcs


def _stretch(image, stretch, percentile):
    """Return the normalisation of an image: percentiles, then a stretch."""
    from astropy.visualization import simple_norm

    check_choice('stretch', stretch, _STRETCHES)
    limits = percentile if np.ndim(percentile) else (_LOW_PERCENTILE, percentile)
    allowed = (
        f'be a number above {_LOW_PERCENTILE} or a pair of increasing numbers within '
        '0 to 100'
    )
    require(0 <= limits[0] < limits[1] <= 100, 'percentile', allowed, percentile)
    good = image[np.isfinite(image)]
    vmin, vmax = np.percentile(good, limits) if good.size else (0.0, 1.0)
    vmax = vmax if vmax > vmin else vmin + 1.0
    return simple_norm(image, stretch, vmin=vmin, vmax=vmax, clip=False)


def plot_catalog(
    data,
    catalog,
    *,
    truth=None,
    ax=None,
    wcs=None,
    bands=None,
    stretch='asinh',
    percentile=99.5,
    cmap='gray_r',
    probability_cmap=None,
    radius=None,
    error_scale=None,
    colorbar=True,
    legend=True,
):
    """
    Draw a catalogue over its image.

    Detections are circles whose colour is their probability. Error ellipses and the
    true positions can be added.

    Parameters
    ----------
    data : 2D array_like, `~astropy.nddata.NDData` or `~bliss_astro.exposures.Exposure`
        Image, or a mapping of them by band, such as an
        `~bliss_astro.exposures.ExposureSet`: a colour picture (`make_lupton_rgb
        <astropy.visualization.make_lupton_rgb>`) of three, each in units of its noise,
        or of less the first one. Bad pixels (NaN or masked) are shown in light blue,
        with an entry in the legend.

    catalog : table or (n, 2) array_like
        Detections: ``x_centroid`` and ``y_centroid``, and where the table has
        them ``probability`` for the colours and ``x_err, y_err, x_y_cov`` for the
        error ellipses. An empty catalogue is fine.

    truth : table, (n, 2) array_like or `None`, optional
        True positions, drawn as crosses.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure. By default those of a new one, with sky coordinates if
        there is a WCS.

    wcs : `~astropy.wcs.WCS` or `None`, optional
        WCS for new axes. By default that of ``data``, if any.

    bands : three str, optional
        Bands to show in red, green and blue. By default the first one and its
        neighbours in wavelength.

    stretch : {'asinh', 'sqrt', 'log', 'linear'}, optional
        Stretch from pixel values to grey levels. This, ``percentile`` and ``cmap`` are
        not for colour pictures.

    percentile : float or tuple of two floats, optional
        Percentiles of the pixel values at the ends of the grey scale; a single
        number is the upper one, with 20 as the lower, which leaves the sky light.

    cmap : str or `~matplotlib.colors.Colormap`, optional
        Colours of the image.

    probability_cmap : str, `~matplotlib.colors.Colormap` or `None`, optional
        Colours of the probabilities. By default from blue to orange, all of them
        readable on grey.

    radius : float or `None`, optional
        Radius of the circles in pixels. By default 1/60 of the image's longer
        side, but at least 2.5 pixels.

    error_scale : float or `None`, optional
        If given, draw the error ellipses magnified by this factor.

    colorbar : bool, optional
        Whether to draw the scale of the probabilities, from the threshold of the
        catalogue to 1.

    legend : bool, optional
        Whether to draw a legend above the image, where there is more to explain than
        detections.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        Axes of the figure.

    Raises
    ------
    ValueError
        If ``data`` is no image, a column is missing or a number is not allowed.

    Examples
    --------
    .. plot::
        :include-source:

        import numpy as np
        from astropy.table import QTable
        from bliss_astro.plotting import plot_catalog

        rng = np.random.default_rng(1)
        x, y = rng.uniform(5, 75, (2, 12))
        flux = rng.pareto(1, 12) * 300 + 200
        yy, xx = np.mgrid[:80, :80]
        image = rng.normal(0, 10, (80, 80))
        for star in zip(x, y, flux):
            r2 = (xx - star[0]) ** 2 + (yy - star[1]) ** 2
            image += star[2] * np.exp(-r2 / 4) / (4 * np.pi)
        catalog = QTable({'x_centroid': x, 'y_centroid': y})
        catalog['probability'] = rng.uniform(0.5, 1, 12)
        plot_catalog(image, catalog)
    """
    image, bad, wcs = _as_picture(data, wcs, bands)
    positions = as_positions(catalog, 'catalog')
    true_positions = None if truth is None else as_positions(truth, 'truth')
    radius = max(2.5, max(bad.shape) / 60) if radius is None else radius
    check_positive(radius=radius, error_scale=error_scale)
    norm = _stretch(image, stretch, percentile)
    ax = _axes.image_axes(bad.shape, wcs, ax)
    _axes.show_image(ax, image, cmap, norm=norm)
    dark = image.ndim == 3
    cmap = (
        _probability_colors(dark=dark) if probability_cmap is None else probability_cmap
    )
    color = _axes.SKY_BLUE if dark else _axes.BLUE
    circles, color = _add_circles(ax, catalog, positions, radius, cmap, color)
    handles = [_entry('detected', marker='o', mfc='none', mec=color, mew=1.4)]
    if error_scale is not None:
        _add_errors(ax, catalog, positions, error_scale)
        label = f'error ellipse x {error_scale:g}'
        style = {'mfc': 'none', 'mec': _axes.SKY_BLUE, 'mew': 1.0}
        handles.append(_entry(label, marker='o', **style))
    if true_positions is not None:
        style = {'color': _axes.GREEN, 'ms': 6, 'mew': 1.3, 'label': 'true'}
        handles += ax.plot(*true_positions.T, 'x', **style)
    if colorbar and circles is not None:
        _axes.add_colorbar(circles, ax, 'Probability of the detection')
    if bad.any():
        style = {'ms': 9, 'mfc': _axes.BAD_PIXELS, 'mec': 'none'}
        handles.append(_entry('masked', marker='s', **style))
    if legend and len(handles) > 1:
        # Above the image, where it hides no source.
        place = {'loc': 'lower left', 'bbox_to_anchor': (0, 1), 'borderaxespad': 0.2}
        style = {'frameon': False, 'handletextpad': 0.3, 'columnspacing': 1.5}
        ax.legend(handles=handles, ncols=len(handles), **place, **style)
    _axes.label_pixels(ax, wcs)
    return ax


def _entry(label, **style):
    """Make an entry of the legend that looks like its mark in the figure."""
    from matplotlib.lines import Line2D

    return Line2D([], [], ls='none', label=label, **style)


def _add_ellipses(ax, positions, axes, angles, **style):
    """Draw ellipses in data units."""
    from matplotlib.collections import EllipseCollection

    style = {'units': 'xy', 'facecolors': 'none', 'offsets': positions, **style}
    ellipses = EllipseCollection(*axes, angles, offset_transform=ax.transData, **style)
    ax.add_collection(ellipses)
    return ellipses


def _probability_colors(*, dark):
    """Colours of probabilities without the end that is hard to see on the sky."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    ends = (0.35, 1) if dark else (0, 0.8)
    return ListedColormap(colormaps['plasma'](np.linspace(*ends, 256)))


def _add_circles(ax, catalog, positions, radius, cmap, color):
    """Draw circles, coloured by probability where there is one, and their colour."""
    size = np.full(len(positions), 2.0 * radius)
    shape = (size, size), np.zeros(len(positions))
    style = {'linewidths': 1.4}
    if not isinstance(catalog, Table) or 'probability' not in catalog.colnames:
        _add_ellipses(ax, positions, *shape, edgecolors=color, **style)
        return None, color
    circles = _add_ellipses(ax, positions, *shape, cmap=cmap, **style)
    probability = _axes.values_of(catalog, 'probability')
    circles.set_array(probability)
    # The scale begins at the threshold, unless rows lie below it, in tenths.
    threshold, lowest = catalog.meta.get('threshold'), 0.0
    if isinstance(threshold, float) and 0 < threshold < 1:
        lowest = np.floor(10 * np.min(probability, initial=threshold) + 1e-9) / 10
    circles.set_clim(float(lowest), 1)
    return circles, circles.cmap(1.0)


def _add_errors(ax, catalog, positions, scale):
    """Draw magnified 1 sigma ellipses of the positions."""
    names = catalog.colnames if isinstance(catalog, Table) else ()
    if not {'x_err', 'y_err'} <= set(names):
        msg = 'error_scale needs a catalog with the columns x_err and y_err'
        raise ValueError(msg)
    x_err, y_err = _axes.values_of(catalog, 'x_err'), _axes.values_of(catalog, 'y_err')
    cov = _axes.values_of(catalog, 'x_y_cov') if 'x_y_cov' in names else 0 * x_err
    half_sum, half_diff = (x_err**2 + y_err**2) / 2, (x_err**2 - y_err**2) / 2
    root = np.hypot(half_diff, cov) * np.array([[1], [-1]])
    axes = 2 * scale * np.sqrt(np.maximum(half_sum + root, 0))
    angles = np.rad2deg(np.arctan2(cov, half_diff) / 2)
    style = {'edgecolors': _axes.SKY_BLUE, 'linewidths': 1.1}
    _add_ellipses(ax, positions, axes, angles, **style)


def plot_probability_map(
    probability,
    *,
    catalog=None,
    ax=None,
    wcs=None,
    tile_size=1,
    vmax=None,
    cmap='cividis',
    label='Probability of a source',
    colorbar=True,
):
    """
    Draw a map of probabilities or expected counts.

    Parameters
    ----------
    probability : 2D array_like
        Map, one value per tile (or per pixel).

    catalog : table, (n, 2) array_like or `None`, optional
        Positions in pixels to mark.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure. By default those of a new one.

    wcs : `~astropy.wcs.WCS` or `None`, optional
        WCS of the image, for the axes of a new figure.

    tile_size : int, optional
        Side of a tile in pixels.

    vmax : float or `None`, optional
        Upper end of the colour scale. By default 1, or the maximum if that is
        larger, as for expected counts.

    cmap : str or `~matplotlib.colors.Colormap`, optional
        Colours.

    label : str, optional
        Label of the colour bar.

    colorbar : bool, optional
        Whether to draw the colour bar.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        Axes of the figure, in pixels of the image.

    Raises
    ------
    ValueError
        If ``probability`` is no map, or negative, or ``tile_size`` is not positive.
    """
    values = np.asarray(probability, dtype=float)
    sound, got = values.ndim == 2 and values.size, f'shape {values.shape}'
    require(sound, 'probability', 'be a 2D map that is not empty', got)
    least = np.nanmin(values, initial=0)
    require(least >= 0, 'probability', 'not be negative', least)
    check_positive(tile_size=tile_size)
    positions = None if catalog is None else as_positions(catalog, 'catalog')
    ny, nx = values.shape
    extent = (-0.5, nx * tile_size - 0.5, -0.5, ny * tile_size - 0.5)
    vmax = max(1.0, np.nanmax(values, initial=0)) if vmax is None else vmax
    ax = _axes.image_axes(values.shape, wcs, ax)
    shown = _axes.show_image(ax, values, cmap, extent, vmin=0, vmax=vmax)
    if positions is not None:
        # White with a dark rim stays visible on both ends of the colour scale.
        for color, width in (('black', 2.6), ('white', 1.2)):
            ax.plot(*positions.T, 'o', ms=9, mfc='none', mec=color, mew=width)
    if colorbar:
        _axes.add_colorbar(shown, ax, label)
    _axes.label_pixels(ax, wcs)
    return ax
