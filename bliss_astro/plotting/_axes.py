# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Axes, colours and positions shared by the figures.
"""

import numpy as np
from astropy.table import Table

__all__ = []

# The colours of Okabe and Ito.
BLUE, ORANGE, GREEN, SKY_BLUE = '#0072B2', '#D55E00', '#009E73', '#56B4E9'
COLORS = (BLUE, ORANGE, GREEN, '#CC79A7', '#E69F00', SKY_BLUE)
MARKERS = ('o', 's', '^', 'D', 'v', 'P')


def new_axes(figsize, wcs=None):
    """
    The only axes of a new figure.
    """
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=figsize, layout='constrained')
    return figure.add_subplot(projection=wcs)


def as_positions(catalog, name):
    """
    Pixel positions of a table or an (n, 2) array.
    """
    if isinstance(catalog, Table):
        missing = {'x_centroid', 'y_centroid'} - set(catalog.colnames)
        if missing:
            msg = (
                f'{name} lacks the columns {sorted(missing)}; it has {catalog.colnames}'
            )
            raise ValueError(msg)
        columns = [catalog['x_centroid'], catalog['y_centroid']]
        columns = [np.asarray(getattr(c, 'value', c), dtype=float) for c in columns]
        return np.stack(columns, axis=1)
    positions = np.asarray(catalog, dtype=float)
    if positions.size == 0:
        return positions.reshape(0, 2)
    if positions.ndim != 2 or positions.shape[1] != 2:
        msg = f'{name} must be a table or have the shape (n, 2), got {positions.shape}'
        raise ValueError(msg)
    return positions


def label_pixels(ax, wcs):
    """
    Name the axes: sky coordinates if the axes have a WCS, pixels otherwise.
    """
    if not hasattr(ax, 'coords'):
        ax.set_xlabel('x (pixel)')
        ax.set_ylabel('y (pixel)')
        return
    ctypes = [str(c)[:4] for c in getattr(getattr(wcs, 'wcs', None), 'ctype', ())]
    names = {
        'RA--': 'Right ascension',
        'DEC-': 'Declination',
        'GLON': 'Galactic longitude',
        'GLAT': 'Galactic latitude',
    }
    for k, ctype in enumerate(ctypes[:2]):
        if ctype in names:
            ax.coords[k].set_axislabel(names[ctype])
