# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The Hubble rows that a crowded frame is held against, and how they lie on it.
"""

from pathlib import Path

import numpy as np
from astropy.table import Table

__all__ = ['Cells', 'align', 'read_hubble', 'reference_completeness']

# Columns and rows of the frame whose rows are withheld: a published study's box.
WITHHELD = ((307.0, 413.0), (627.0, 733.0))
_CELL = 10
_COLUMNS = ('MatchID', 'Filter', 'MatchRA', 'MatchDec')
# Half the distance in pixels that rows must surround a pixel by, to be fitted.
_REACH = 8.0


def read_hubble(path, wcs, *, magnitude='MagAuto', band='F606W'):
    """
    Read the rows of one filter, one for each ``MatchID``.

    Several rows of one ``MatchID`` become one, with the medians of their positions
    and magnitudes.

    Parameters
    ----------
    path : path_like
        A CSV file of the Hubble Source Catalog.

    wcs : `~astropy.wcs.WCS`
        Of the frame.

    magnitude : {'MagAuto', 'MagAper2'}, optional
        Which magnitude.

    band : str, optional
        The filter.

    Returns
    -------
    rows : dict of array
        ``x``, ``y`` (0-based pixels of the frame) and ``mag``.

    Raises
    ------
    ValueError
        If a column is missing, or no row is of that filter.
    """
    table = Table.read(path, format='ascii.csv')
    name = Path(path).name
    missing = [c for c in (*_COLUMNS, magnitude) if c not in table.colnames]
    if missing:
        known = ', '.join(table.colnames)
        msg = f'truth={name!r} lacks the column {missing[0]!r}; it has {known}'
        raise ValueError(msg)
    table = table[np.asarray(table['Filter']) == band]
    if not len(table):
        msg = f'truth={name!r} has no rows of the filter {band!r}'
        raise ValueError(msg)
    x, y = wcs.all_world2pix(
        np.asarray(table['MatchRA'], float), np.asarray(table['MatchDec'], float), 0
    )
    mag = np.asarray(table[magnitude], float)
    _, which = np.unique(np.asarray(table['MatchID']), return_inverse=True)
    groups = [np.flatnonzero(which == k) for k in range(which.max() + 1)]
    merged = {
        key: np.array([np.median(values[group]) for group in groups])
        for key, values in (('x', x), ('y', y), ('mag', mag))
    }
    good = np.isfinite(merged['mag']) & (np.abs(merged['mag']) < 50)
    return {key: values[good] for key, values in merged.items()}


class Cells:
    """
    The 10 px cells that hold rows, without what is withheld.

    Parameters
    ----------
    x, y : 1D array
        Positions of the rows on the frame.

    withheld : pair of pair of float, optional
        Columns and rows within which nothing counts.
    """

    def __init__(self, x, y, *, withheld=WITHHELD):
        self.withheld = withheld
        cells = np.unique(np.column_stack([x, y]) // _CELL, axis=0).astype(int)
        self.cells = cells
        self._index = {tuple(cell): k for k, cell in enumerate(cells)}

    def __len__(self):
        return len(self.cells)

    def of(self, x, y):
        """
        Number of the cell of each position; -1 where nothing counts.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        keys = np.column_stack([x, y]) // _CELL
        number = np.array([self._index.get((int(a), int(b)), -1) for a, b in keys], int)
        (x0, x1), (y0, y1) = self.withheld
        number[(x > x0) & (x < x1) & (y > y0) & (y < y1)] = -1
        return number

    def mask(self, shape, origin=(0, 0)):
        """
        Pixels of a cut-out that lie in the cells.

        Parameters
        ----------
        shape : tuple of int
            ``(ny, nx)`` of the cut-out.

        origin : (x, y) pair of int, optional
            Where its first pixel is on the frame.

        Returns
        -------
        inside : 2D bool array
            `True` in the cells.
        """
        yy, xx = np.mgrid[: shape[0], : shape[1]]
        number = self.of((xx + origin[0]).ravel(), (yy + origin[1]).ravel())
        return (number >= 0).reshape(shape)

    def bounds(self, margin, shape):
        """
        The cut-out of the frame that holds all cells.

        Parameters
        ----------
        margin : int
            Pixels around them.

        shape : tuple of int
            ``(ny, nx)`` of the frame.

        Returns
        -------
        slices : pair of slice
            Rows and columns.
        """
        low = self.cells.min(0) * _CELL - margin
        high = (self.cells.max(0) + 1) * _CELL + margin
        columns, rows = (
            slice(max(0, int(a)), min(n, int(b)))
            for a, b, n in zip(low, high, shape[::-1], strict=True)
        )
        return rows, columns


def _surrounded(x, y, shape):
    """Pixels that have rows within a reach in all four quadrants."""
    from scipy.spatial import cKDTree

    yy, xx = np.mgrid[: shape[0], : shape[1]]
    places = np.column_stack([xx.ravel(), yy.ravel()])
    near = cKDTree(np.column_stack([x, y])).query_ball_point(places, _REACH)
    inside = np.zeros(len(places), dtype=bool)
    for k, rows in enumerate(near):
        if len(rows) < 4:
            continue
        east, north = x[rows] > places[k, 0], y[rows] > places[k, 1]
        inside[k] = len(set(zip(east.tolist(), north.tolist(), strict=True))) == 4
    return inside.reshape(shape)


def _robust(design, data):
    """Linear fit that outliers do not move: reweighted least squares."""
    found = np.array([1.3, 0.2, 0.0, 0.0])
    for _ in range(30):
        residual = data - design @ found
        scatter = max(1.4826 * np.median(np.abs(residual)), 0.02)
        sigma = np.hypot(scatter, 0.03 * design[:, 0])
        weight = 1 / (1 + (residual / sigma / 2) ** 2) ** 2 / sigma
        found = np.linalg.lstsq(design * weight[:, None], data * weight, rcond=None)[0]
    return found, np.median(np.abs(data - design @ found))


def align(cutout, rows, origin):
    """
    Fit shift and zero point of the rows to the pixels, whoever detects what.

    The rows are drawn with the frame's PSF; one shift, one factor of the flux and
    an inclined plane of unresolved light are fitted to the pixels that rows surround.

    Parameters
    ----------
    cutout : `~bliss_astro.exposures.Exposure`
        In nmgy, the survey's sky subtracted.

    rows : dict of array
        From `read_hubble`.

    origin : (x, y) pair of int
        Where the cut-out's first pixel is on the frame.

    Returns
    -------
    fit : dict
        ``shift`` (x, y; add it to the rows' positions), ``zero_point`` (add it to
        their magnitudes), ``background`` (nmgy in the middle), ``scatter`` (median
        absolute residual in nmgy) and ``n_pixels``.
    """
    import torch
    from scipy.ndimage import binary_erosion
    from scipy.optimize import minimize

    from bliss_astro.rendering import TorchStarRenderer

    data = np.asarray(cutout.data - cutout.background, float)
    x, y = rows['x'] - origin[0], rows['y'] - origin[1]
    flux = 10 ** (-0.4 * (rows['mag'] - 22.5))
    use = binary_erosion(_surrounded(x, y, data.shape), iterations=2) & ~cutout.mask
    psf = cutout.psf_at(float(np.median(x)), float(np.median(y)))
    yy, xx = np.mgrid[: data.shape[0], : data.shape[1]]
    planes = [np.ones_like(data), xx / 50 - 2, yy / 50 - 2]
    renderer = TorchStarRenderer()

    def fit(shift):
        with torch.no_grad():
            image = renderer.render(psf, x + shift[0], y + shift[1], flux, data.shape)
        design = np.stack([np.asarray(image, float), *planes], -1)[use]
        return _robust(design, data[use])

    first = [(0.0, 0.0), (0.25, 0.0), (0.1, 0.2)]
    best = minimize(
        lambda shift: fit(shift)[1],
        first[0],
        method='Nelder-Mead',
        options={'initial_simplex': first, 'xatol': 1e-2, 'fatol': 2e-4, 'maxiter': 25},
    )
    (scale, level, *_), scatter = fit(best.x)
    return {
        'shift': tuple(float(v) for v in best.x),
        'zero_point': float(-2.5 * np.log10(scale)),
        'background': float(level),
        'scatter': float(scatter),
        'n_pixels': int(use.sum()),
    }


def reference_completeness(path, wcs, *, faintest=21.9, radius=0.3):
    """
    How complete the F606W rows are, by rows of another camera.

    The F438W rows come from another visit and another camera (WFC3), so that
    what they hold can be looked for among those of F606W (ACS). Stars that both miss,
    beside saturated ones, are seen by neither: this is an upper limit.

    Parameters
    ----------
    path : path_like
        As for `read_hubble`.

    wcs : `~astropy.wcs.WCS`
        Of the frame.

    faintest : float, optional
        F438W magnitude; stars of r = 21 have about 21.9.

    radius : float, optional
        Pixels.

    Returns
    -------
    n_found, n : int
        How many of how many F438W rows have an F606W row.
    """
    from scipy.spatial import cKDTree

    blue = read_hubble(path, wcs, band='F438W')
    own = read_hubble(path, wcs)
    bright = blue['mag'] < faintest
    places = np.column_stack([blue['x'], blue['y']])[bright]
    distance, _ = cKDTree(np.column_stack([own['x'], own['y']])).query(places)
    return int((distance < radius).sum()), int(bright.sum())
