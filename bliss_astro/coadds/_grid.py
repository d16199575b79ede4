# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Grids of coadds: pixels of one image in another, and the grid that covers all.
"""

from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS, Sip
from astropy.wcs.utils import pixel_to_pixel

from bliss_astro._arguments import check_image_shape, require
from bliss_astro._warnings import collect_warnings
from bliss_astro.exposures._geometry import check_wcs, cut_wcs, grid_offset

# The mapping is computed on nodes this far apart, in pixels, and interpolated
# with cubic splines; more accurate than the inversion of a distortion, whose
# tolerance is the largest error allowed, at that many random places.
_SPACING, _TOLERANCE, _N_CHECKS = 16, 1e-4, 97
# Places on each side of an exposure by which its outline is followed.
_N_OUTLINE = 33
# Centres of pixels so far outside of an exposure still lie within it (pixels).
_EDGE = 1e-3
# Grids whose corners agree to this many pixels are one grid.
_SAME_GRID = 1e-6


def map_pixels(wcs_from, wcs_to, x, y):
    """Map pixels of one image to those of another."""
    with collect_warnings():
        # Places far outside of a distorted image, whose inversion does not
        # converge, become NaN; astropy says so in a warning of no class.
        return np.asarray(pixel_to_pixel(wcs_from, wcs_to, x, y), dtype=float)


class PixelMapping:
    """Positions of the pixels of an output grid in an input image."""

    def __init__(self, wcs_out, wcs_in, shape):
        from scipy.interpolate import RectBivariateSpline

        self.wcs_out, self.wcs_in, self.shape = wcs_out, wcs_in, tuple(shape)
        self._splines = None
        # One pixel more on each side, for the derivatives at the edges.
        ys, xs = (
            np.linspace(-1, n, max(4, int(np.ceil((n + 1) / _SPACING)) + 1))
            for n in self.shape
        )
        nodes = map_pixels(wcs_out, wcs_in, *np.meshgrid(xs, ys))
        if not np.isfinite(nodes).all():
            return
        splines = [RectBivariateSpline(ys, xs, values) for values in nodes]
        rng = np.random.default_rng(0)
        y, x = (rng.uniform(-1, n, _N_CHECKS) for n in self.shape)
        exact = map_pixels(wcs_out, wcs_in, x, y)
        if np.abs([spline.ev(y, x) for spline in splines] - exact).max() < _TOLERANCE:
            self._splines = splines

    def rows(self, rows):
        """Map a slice of rows: x, y, and their derivatives ``(2, 2, n, nx)``."""
        ys = np.arange(rows.start - 1, rows.stop + 1, dtype=float)
        xs = np.arange(-1, self.shape[1] + 1, dtype=float)
        if self._splines is not None:
            places = [spline(ys, xs) for spline in self._splines]
        else:
            places = map_pixels(self.wcs_out, self.wcs_in, *np.meshgrid(xs, ys))
        jacobian = [
            [(v[1:-1, 2:] - v[1:-1, :-2]) / 2, (v[2:, 1:-1] - v[:-2, 1:-1]) / 2]
            for v in places
        ]
        return *(v[1:-1, 1:-1] for v in places), np.array(jacobian)

    def blocks(self, n_pixels=2**16):
        """Go through the rows of the output grid, some at a time, that caches hold."""
        step = max(1, n_pixels // self.shape[1])
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))


def pixel_area(jacobian):
    """Return the area of an output pixel in input pixels."""
    return np.abs(jacobian[0, 0] * jacobian[1, 1] - jacobian[0, 1] * jacobian[1, 0])


def same_grid(one, other, shape):
    """Whether the pixels of two WCS lie on each other."""
    return grid_offset(one, other, shape) < _SAME_GRID


class OutputGrid(NamedTuple):
    """A grid that exposures are put on."""

    wcs: object
    shape: tuple

    def box(self, wcs, shape):
        """Return the part of the grid that an image may cover, as slices, or None."""
        places = map_pixels(wcs, self.wcs, *_outline(shape))
        known = np.isfinite(places).all(axis=0)
        if not known.any():
            return None
        if not known.all():
            return tuple(slice(0, n) for n in self.shape)
        # Two pixels more, as a distorted side bulges between its places.
        low = np.maximum(np.floor(places[::-1].min(axis=1)).astype(int) - 2, 0)
        high = np.ceil(places[::-1].max(axis=1)).astype(int) + 3
        high = np.minimum(high, self.shape)
        return tuple(map(slice, low, high)) if (high > low).all() else None

    def cut(self, box):
        """Return the WCS of a part of the grid."""
        whole = tuple(slice(0, n) for n in self.shape)
        return self.wcs if tuple(box) == whole else cut_wcs(self.wcs, *box)


def check_any(exposures):
    """Check that there are exposures."""
    require(exposures, 'exposures', 'not be empty', 'none')


def output_grid(footprints, wcs_out, shape_out):
    """Return the grid of the arguments, or that which covers all WCS and shapes."""
    if wcs_out is not None:
        return _parse_grid(wcs_out, shape_out)
    if shape_out is not None:
        msg = f'shape_out={shape_out} needs wcs_out, the coordinates of that image.'
        raise ValueError(msg)
    footprints = list(footprints)
    check_any(footprints)
    wcs, shape = footprints[0]
    if all(own == shape and same_grid(one, wcs, shape) for one, own in footprints):
        return OutputGrid(wcs, shape)
    return _common_grid(footprints)


def _parse_grid(wcs_out, shape_out):
    """Check a grid that was given."""
    if hasattr(wcs_out, 'cards'):
        wcs_out = WCS(wcs_out)
    try:
        check_wcs(wcs_out)
    except TypeError as error:
        msg = f'wcs_out must be a FITS header or a two-dimensional astropy WCS; {error}'
        raise TypeError(msg) from None
    low_level = getattr(wcs_out, 'low_level_wcs', wcs_out)
    kinds = low_level.world_axis_physical_types
    celestial = all('pos.' in str(kind) for kind in kinds)
    require(celestial, 'wcs_out', 'have two celestial axes, such as RA and Dec', kinds)
    shape = low_level.array_shape if shape_out is None else shape_out
    allowed = 'be given, as (ny, nx), where wcs_out does not state a shape'
    require(shape is not None, 'shape_out', allowed, shape)
    shape = check_image_shape('shape_out', shape)
    if isinstance(wcs_out, WCS):
        wcs_out = wcs_out.deepcopy()
        wcs_out.array_shape = shape
    return OutputGrid(wcs_out, shape)


def _common_grid(footprints):
    """Extend the grid of the first exposure by whole pixels to cover all."""
    first, first_shape = footprints[0]
    boxes = []
    for k, (wcs, shape) in enumerate(footprints):
        places = _outline(shape)
        if k > 0:
            places = map_pixels(wcs, first, *places)
        if not np.isfinite(places).all():
            msg = (
                f'exposures[{k}] cannot be placed on the grid of exposures[0]: they do '
                'not overlap, or its distortion does not reach so far. Give wcs_out '
                'and shape_out.'
            )
            raise ValueError(msg)
        # The centres of the pixels of this grid that lie within the exposure.
        low = np.ceil(places.min(axis=1) - _EDGE)
        boxes.append([low, np.floor(places.max(axis=1) + _EDGE)])
    boxes = np.array(boxes, dtype=int)
    _check_connected(boxes)
    low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
    shape = tuple(map(int, (high - low + 1)[::-1]))
    return OutputGrid(_extended(first, low, shape, first_shape), shape)


def _outline(shape):
    """Return places (x, y) along the outermost pixel centres of an image."""
    along = np.linspace(0, 1, _N_OUTLINE)
    low, high = np.zeros(_N_OUTLINE), np.ones(_N_OUTLINE)
    x = np.concatenate([along, along, low, high]) * (shape[1] - 1)
    y = np.concatenate([low, high, along, along]) * (shape[0] - 1)
    return np.array([x, y])


def _check_connected(boxes):
    """Check that all boxes, (n, 2, 2) low and high x and y, join up with the first."""
    from scipy.sparse.csgraph import connected_components

    low, high = boxes[:, 0], boxes[:, 1]
    touching = (low[:, None] <= high).all(-1)
    labels = connected_components(touching & touching.T)[1]
    alone = np.flatnonzero(labels != labels[0])
    if alone.size:
        k = alone[0]
        (x0, y0), (x1, y1) = boxes[k].tolist()
        msg = (
            f'exposures[{k}] does not overlap with the others: on the grid of '
            f'exposures[0] it covers x from {x0} to {x1} and y from {y0} to {y1}. '
            'Leave it out, or give wcs_out and shape_out.'
        )
        raise ValueError(msg)


def _extended(wcs, origin, shape, old_shape):
    """Move the origin of a WCS to pixel (x, y), which may be negative."""
    if not isinstance(wcs, WCS):
        if not origin.any() and shape == tuple(old_shape):
            return wcs
        msg = (
            f'wcs_out must be given: the {type(wcs).__name__} of exposures[0] cannot '
            'be extended beyond its image to cover the others.'
        )
        raise ValueError(msg)
    # WCS.slice takes a negative start for one that counts from the end.
    wcs = wcs.deepcopy()
    if wcs.sip is not None:
        sip = wcs.sip
        wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - origin)
    for table in (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2):
        if table is not None:
            table.crval = np.asarray(table.crval) - origin
    wcs.wcs.crpix = wcs.wcs.crpix - origin
    wcs.array_shape = shape
    return wcs
