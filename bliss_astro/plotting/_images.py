# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues over images, and maps.
"""

import numpy as np
from astropy.nddata import NDData
from astropy.table import Table

from ._axes import BLUE, GREEN, SKY_BLUE, as_positions, label_pixels, new_axes

__all__ = ['plot_catalog', 'plot_probability_map']

# Percentile of the image that is drawn white, and the colour of what is left out.
_LOW, _LEFT_OUT = 20, '#9fd6f7'


def _as_image(data, wcs):
    """
    Return the pixels as floats with NaN for bad ones, and their WCS.
    """
    mask = getattr(data, 'mask', None)
    wcs = getattr(data, 'wcs', None) if wcs is None else wcs
    if isinstance(data, NDData) or not isinstance(data, np.ndarray):
        data = getattr(data, 'data', data)
    if isinstance(data, np.ma.MaskedArray):
        mask = data.mask
    image = np.array(getattr(data, 'value', data), dtype=float)
    if image.ndim != 2 or not image.size:
        msg = f'data must be a 2D image that is not empty, got the shape {image.shape}'
        raise ValueError(msg)
    if mask is not None and np.shape(mask) in ((), image.shape):
        image[np.broadcast_to(mask, image.shape)] = np.nan
    image[~np.isfinite(image)] = np.nan
    return image, wcs


def _stretch(image, stretch, percentile):
    """
    The normalisation of an image: limits from percentiles, then a stretch.
    """
    from astropy.visualization import (
        AsinhStretch,
        ImageNormalize,
        LinearStretch,
        LogStretch,
        SqrtStretch,
    )

    stretches = {
        'asinh': AsinhStretch(0.1),
        'linear': LinearStretch(),
        'log': LogStretch(),
        'sqrt': SqrtStretch(),
    }
    if stretch not in stretches:
        msg = f'stretch must be one of {sorted(stretches)}, got {stretch!r}'
        raise ValueError(msg)
    low, high = percentile if np.ndim(percentile) else (_LOW, percentile)
    if not 0 <= low < high <= 100:
        msg = (
            f'percentile must be a number above {_LOW} or a pair of increasing '
            f'numbers within 0 to 100, got {percentile!r}'
        )
        raise ValueError(msg)
    good = image[np.isfinite(image)]
    vmin, vmax = np.percentile(good, [low, high]) if good.size else (0.0, 1.0)
    if not vmax > vmin:
        vmax = vmin + 1.0
    return ImageNormalize(vmin=vmin, vmax=vmax, stretch=stretches[stretch], clip=False)


def plot_catalog(
    data,
    catalog,
    *,
    truth=None,
    ax=None,
    wcs=None,
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
        The image. Bad pixels (NaN or masked) are shown in light blue, and the legend
        says so.

    catalog : table or (n, 2) array_like
        The detections: ``x_centroid`` and ``y_centroid``, and where the table has
        them ``probability`` for the colours and ``x_err, y_err, x_y_cov`` for the
        error ellipses. An empty catalogue is fine.

    truth : table, (n, 2) array_like or `None`, optional
        True positions, drawn as crosses.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure, with sky coordinates
        if there is a WCS.

    wcs : `~astropy.wcs.WCS` or `None`, optional
        The WCS for new axes. By default that of ``data``, if any.

    stretch : {'asinh', 'sqrt', 'log', 'linear'}, optional
        How pixel values become grey levels.

    percentile : float or tuple of two floats, optional
        The percentiles of the pixel values at the ends of the grey scale; a single
        number is the upper one, with 20 as the lower, which leaves the sky light.

    cmap : str or `~matplotlib.colors.Colormap`, optional
        The colours of the image.

    probability_cmap : str, `~matplotlib.colors.Colormap` or `None`, optional
        The colours of probabilities from the threshold of the catalogue to 1. By
        default from blue to orange, all of them readable on grey.

    radius : float or `None`, optional
        The radius of the circles in pixels. By default 1/60 of the image's longer
        side, but at least 2.5 pixels.

    error_scale : float or `None`, optional
        If given, draw the error ellipses magnified by this factor.

    colorbar : bool, optional
        Whether to draw the scale of the probabilities.

    legend : bool, optional
        Whether to draw a legend.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.

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
    image, wcs = _as_image(data, wcs)
    positions = as_positions(catalog, 'catalog')
    true_positions = None if truth is None else as_positions(truth, 'truth')
    if radius is None:
        radius = max(2.5, max(image.shape) / 60)
    for name, value in (('radius', radius), ('error_scale', error_scale)):
        if value is not None and not (np.isscalar(value) and value > 0):
            msg = f'{name} must be a positive number, got {value!r}'
            raise ValueError(msg)
    norm = _stretch(image, stretch, percentile)
    if ax is None:
        aspect = min(max(image.shape[0] / image.shape[1], 0.4), 2.0)
        ax = new_axes((6.8, 5.6 * aspect + 0.4), wcs)
    _show_image(ax, image, norm, cmap)

    handles = []
    circles = _add_circles(ax, catalog, positions, radius, probability_cmap)
    handles.append(_ring('detected', BLUE if circles is None else circles))
    if error_scale is not None:
        color = _add_ellipses(ax, catalog, positions, error_scale)
        label = f'error ellipse x {error_scale:g}'
        handles.append(_ring(label, color, width=1.0))
    if true_positions is not None:
        (crosses,) = ax.plot(
            *true_positions.T, 'x', color=GREEN, ms=6, mew=1.3, ls='none', label='true'
        )
        handles.append(crosses)
    if colorbar and circles is not None:
        bar = ax.figure.colorbar(circles, ax=ax, shrink=0.85, pad=0.02)
        bar.set_label('Probability of the detection')
    if np.isnan(image).any():
        handles.append(_square('masked', _LEFT_OUT))
    if legend and len(handles) > 1:
        # Above the image, where it hides no source.
        ax.legend(
            handles=handles,
            loc='lower left',
            bbox_to_anchor=(0.0, 1.0),
            ncols=len(handles),
            frameon=False,
            handletextpad=0.3,
            columnspacing=1.5,
            borderaxespad=0.2,
        )
    label_pixels(ax, wcs)
    return ax


def _show_image(ax, image, norm, cmap):
    from matplotlib import colormaps
    from matplotlib.colors import Colormap

    cmap = cmap if isinstance(cmap, Colormap) else colormaps[cmap]
    cmap = cmap.with_extremes(bad=_LEFT_OUT)
    ny, nx = image.shape
    masked = np.ma.masked_invalid(image)
    ax.imshow(masked, origin='lower', norm=norm, cmap=cmap, interpolation='nearest')
    ax.set_xlim(-0.5, nx - 0.5)
    ax.set_ylim(-0.5, ny - 0.5)


def _add_circles(ax, catalog, positions, radius, cmap):
    """
    Circles in data units; coloured by probability where the catalogue has it.
    """
    from matplotlib import colormaps
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import ListedColormap

    if cmap is None:
        # Without its yellow end, which is hard to see on a light sky.
        cmap = ListedColormap(colormaps['plasma'](np.linspace(0, 0.8, 256)))
    size = np.full(len(positions), 2.0 * radius)
    shape = {
        'widths': size,
        'heights': size,
        'angles': np.zeros(len(positions)),
        'units': 'xy',
        'offsets': positions,
        'offset_transform': ax.transData,
        'facecolors': 'none',
        'linewidths': 1.4,
    }
    if not isinstance(catalog, Table) or 'probability' not in catalog.colnames:
        ax.add_collection(EllipseCollection(edgecolors=BLUE, **shape))
        return None
    circles = EllipseCollection(cmap=cmap, **shape)
    probability = np.asarray(catalog['probability'], dtype=float)
    circles.set_array(probability)
    circles.set_clim(_least_probability(catalog, probability), 1)
    ax.add_collection(circles)
    return circles


def _least_probability(catalog, probability):
    """
    Lower end of the colours: the threshold, unless rows lie below it.
    """
    threshold = catalog.meta.get('threshold')
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        return 0.0
    least = np.min(probability, initial=threshold)
    # In tenths, which a scale is labelled with.
    return float(np.floor(10 * least + 1e-9) / 10)


def _add_ellipses(ax, catalog, positions, scale):
    """
    Magnified 1 sigma ellipses of the positions; returns their colour.
    """
    from matplotlib.collections import EllipseCollection

    names = {'x_err', 'y_err'}
    if not isinstance(catalog, Table) or not names <= set(catalog.colnames):
        msg = 'error_scale needs a catalog with the columns x_err and y_err'
        raise ValueError(msg)
    columns = [
        np.asarray(getattr(catalog[name], 'value', catalog[name]), dtype=float)
        for name in ('x_err', 'y_err', 'x_y_cov')
        if name in catalog.colnames
    ]
    x_err, y_err = columns[:2]
    cov = columns[2] if len(columns) == 3 else np.zeros(len(x_err))
    half_sum, half_diff = (x_err**2 + y_err**2) / 2, (x_err**2 - y_err**2) / 2
    root = np.hypot(half_diff, cov)
    axes = [
        2 * scale * np.sqrt(np.maximum(half_sum + sign * root, 0)) for sign in (1, -1)
    ]
    ellipses = EllipseCollection(
        *axes,
        np.rad2deg(np.arctan2(cov, half_diff) / 2),
        units='xy',
        offsets=positions,
        offset_transform=ax.transData,
        facecolors='none',
        edgecolors=SKY_BLUE,
        linewidths=1.1,
    )
    ax.add_collection(ellipses)
    return SKY_BLUE


def _ring(label, color, width=1.4):
    """
    A legend entry that looks like a circle of the plot.
    """
    from matplotlib.lines import Line2D

    if not isinstance(color, str):
        color = color.cmap(1.0)
    return Line2D(
        [], [], ls='none', marker='o', mfc='none', mec=color, mew=width, label=label
    )


def _square(label, color):
    """
    A legend entry that looks like a pixel of the plot.
    """
    from matplotlib.patches import Patch

    return Patch(facecolor=color, edgecolor='none', label=label)


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
        The map, one value per tile (or per pixel).

    catalog : table, (n, 2) array_like or `None`, optional
        Positions in pixels to mark on it.

    ax : `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    wcs : `~astropy.wcs.WCS` or `None`, optional
        The WCS of the image, for the axes of a new figure.

    tile_size : int, optional
        The side of a tile in pixels.

    vmax : float or `None`, optional
        The upper end of the colour scale. By default 1, or the maximum if that is
        larger, as for expected counts.

    cmap : str or `~matplotlib.colors.Colormap`, optional
        The colours.

    label : str, optional
        The label of the colour bar.

    colorbar : bool, optional
        Whether to draw the colour bar.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes, in pixels of the image.
    """
    values = np.asarray(probability, dtype=float)
    if values.ndim != 2 or not values.size:
        msg = f'probability must be a 2D map that is not empty, got {values.shape}'
        raise ValueError(msg)
    if np.nanmin(values, initial=0) < 0:
        msg = f'probability must not be negative, got {np.nanmin(values)}'
        raise ValueError(msg)
    if not tile_size > 0:
        msg = f'tile_size must be positive, got {tile_size!r}'
        raise ValueError(msg)
    positions = None if catalog is None else as_positions(catalog, 'catalog')
    ny, nx = values.shape
    extent = (-0.5, nx * tile_size - 0.5, -0.5, ny * tile_size - 0.5)
    if vmax is None:
        vmax = max(1.0, np.nanmax(values, initial=0))
    if ax is None:
        aspect = min(max(ny / nx, 0.4), 2.0)
        ax = new_axes((6.8, 5.6 * aspect + 0.4), wcs)
    image = ax.imshow(
        values,
        origin='lower',
        extent=extent,
        vmin=0,
        vmax=vmax,
        cmap=cmap,
        interpolation='nearest',
    )
    if positions is not None:
        # White with a dark rim stays visible on both ends of the colour scale.
        ax.plot(*positions.T, 'o', ms=9, mfc='none', mec='black', mew=2.6, ls='none')
        ax.plot(*positions.T, 'o', ms=9, mfc='none', mec='white', mew=1.2, ls='none')
    ax.set_xlim(extent[:2])
    ax.set_ylim(extent[2:])
    if colorbar:
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, pad=0.02)
        bar.set_label(label)
    label_pixels(ax, wcs)
    return ax
