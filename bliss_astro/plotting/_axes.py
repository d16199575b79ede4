# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Axes, colours and error bars shared by the figures.
"""

import numpy as np

from bliss_astro._arguments import require
from bliss_astro.catalog._columns import plain_numbers

# The colours of Okabe and Ito.
BLUE, ORANGE, GREEN, SKY_BLUE = '#0072B2', '#D55E00', '#009E73', '#56B4E9'
COLORS = (BLUE, ORANGE, GREEN, '#CC79A7', '#E69F00', SKY_BLUE)
MARKERS = ('o', 's', '^', 'D', 'v', 'P')

# Colour of bad pixels.
BAD_PIXELS = '#9fd6f7'


def new_figure(figsize):
    """Make a figure whose panels keep clear of one another."""
    from matplotlib import pyplot as plt

    return plt.figure(figsize=figsize, layout='constrained')


def get_axes(ax, figsize=(6.4, 4.4)):
    """Return the given axes or those of a new figure, with a grid."""
    if ax is None:
        ax = new_figure(figsize).add_subplot()
    ax.grid(alpha=0.25, lw=0.6)
    return ax


def get_panels(ax, n, figsize, names='', n_rows=1):
    """Return n given axes, or those of a new figure, side by side in rows."""
    if ax is None:
        return list(np.ravel(new_figure(figsize).subplots(n_rows, n // n_rows)))
    axes = list(np.ravel(ax))
    sound = len(axes) == n and all(hasattr(part, 'imshow') for part in axes)
    require(sound, 'ax', f'be {n} axes{names}', f'{ax!r:.80}')
    return axes


def image_axes(shape, wcs, ax=None):
    """Return the given axes or new ones for an image, in sky coordinates with a WCS."""
    if ax is not None:
        return ax
    figure = new_figure((6.8, 5.6 * aspect_of(shape) + 0.4))
    return figure.add_subplot(projection=wcs)


def aspect_of(shape):
    """Return height over width of an image, within what fits a page."""
    return min(max(shape[0] / shape[1], 0.4), 2.0)


def show_image(ax, image, cmap, extent=None, **options):
    """Draw an image with one square a pixel; bad pixels have a colour of their own."""
    from matplotlib import colormaps

    options = {'origin': 'lower', 'interpolation': 'nearest', **options}
    cmap = colormaps.get_cmap(cmap).with_extremes(bad=BAD_PIXELS)
    masked = np.ma.masked_invalid(image)
    shown = ax.imshow(masked, cmap=cmap, extent=extent, **options)
    left, right, low, high = shown.get_extent()
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)
    return shown


def add_colorbar(shown, ax, label, **options):
    """Draw the scale of an image beside it."""
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.85, pad=0.02, **options)
    bar.set_label(label)


def values_of(table, name):
    """Return a column without its unit."""
    return plain_numbers(table[name])


def draw_points(ax, x, table, name, *, k=0, scale=1.0, zero=0.0, **style):
    """Draw a column with its error bars, ``_low`` and ``_high`` or ``_err``."""
    value = values_of(table, name)
    good = np.isfinite(value)
    if f'{name}_low' in table.colnames:
        low, high = values_of(table, f'{name}_low'), values_of(table, f'{name}_high')
        error = np.maximum([value - low, high - value], 0)[:, good]
    else:
        error = np.nan_to_num(values_of(table, f'{name}_err')[good])
    style = {'fmt': MARKERS[k % len(MARKERS)], 'ms': 4.5, 'capsize': 2, **style}
    style['color'] = style.get('color') or COLORS[k % len(COLORS)]
    shown = scale * (value - zero)[good]
    return ax.errorbar(np.asarray(x)[good], shown, yerr=scale * error, **style)


def side_by_side(n, width):
    """Return offsets that keep the error bars of n groups apart."""
    return width * (np.arange(n) - (n - 1) / 2)


def add_reference(ax, y=0.0, width=None, label=None):
    """Draw the line of a perfect result, with a band of half width ``width``."""
    ax.axhline(y, color='0.3', lw=0.9, zorder=1)
    if width:
        ax.axhspan(y - width, y + width, color='0.5', alpha=0.18, lw=0, label=label)


def add_legend(ax, **options):
    """Draw a legend if anything has a label."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(**{'loc': 'best', 'framealpha': 0.9, **options})


def label_pixels(ax, wcs=None):
    """Name the axes: sky coordinates if the axes have a WCS, pixels otherwise."""
    if not hasattr(ax, 'coords'):
        ax.set_xlabel('x (pixel)')
        ax.set_ylabel('y (pixel)')
        return
    names = {
        'RA--': 'Right ascension',
        'DEC-': 'Declination',
        'GLON': 'Galactic longitude',
        'GLAT': 'Galactic latitude',
    }
    ctypes = getattr(getattr(wcs, 'wcs', None), 'ctype', ())
    for coordinate, ctype in zip(ax.coords, ctypes, strict=False):
        if name := names.get(str(ctype)[:4]):
            coordinate.set_axislabel(name)
