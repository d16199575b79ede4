# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Grids of coadds: pixels of one image in another, and the grid that covers all.
"""

from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS, Sip
from astropy.wcs.utils import pixel_to_pixel

from bliss_astro._warnings import collect_warnings

from ..exposures._wcs import check_wcs, cut_wcs

__all__ = [
    'OutputGrid',
    'PixelMapping',
    'check_celestial',
    'common_grid',
    'is_celestial',
    'map_pixels',
    'parse_grid',
    'pixel_area',
]

# The mapping is computed on nodes this far apart, in pixels, and interpolated
# with cubic splines; more accurate than the inversion of a distortion, whose
# tolerance is the largest error allowed.
_SPACING = 16
_TOLERANCE = 1e-4
_N_CHECKS = 97


def map_pixels(wcs_from, wcs_to, x, y):
    """Map pixels of one image to those of another."""
    with collect_warnings():
        # Places far outside of a distorted image, whose inversion does not
        # converge, become NaN; astropy says so in a warning of no class.
        x, y = pixel_to_pixel(wcs_from, wcs_to, x, y)
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)


class PixelMapping:
    """Where the pixels of an output grid lie in an input image."""

    def __init__(self, wcs_out, wcs_in, shape):
        self.wcs_out, self.wcs_in, self.shape = wcs_out, wcs_in, tuple(shape)
        self._splines = self._interpolated()

    def _interpolated(self):
        """Return splines of the mapping, or `None` if they are not good enough."""
        from scipy.interpolate import RectBivariateSpline

        # One pixel more on each side, for the derivatives at the edges.
        ys, xs = (
            np.linspace(-1, n, max(4, int(np.ceil((n + 1) / _SPACING)) + 1))
            for n in self.shape
        )
        nodes = map_pixels(self.wcs_out, self.wcs_in, *np.meshgrid(xs, ys))
        if not np.isfinite(nodes).all():
            return None
        splines = [RectBivariateSpline(ys, xs, values) for values in nodes]
        rng = np.random.default_rng(0)
        check_y, check_x = (rng.uniform(-1, n, _N_CHECKS) for n in self.shape)
        exact = map_pixels(self.wcs_out, self.wcs_in, check_x, check_y)
        error = [
            np.abs(spline.ev(check_y, check_x) - value).max()
            for spline, value in zip(splines, exact, strict=True)
        ]
        # NaN is not good enough either.
        return splines if max(error) < _TOLERANCE else None

    def rows(self, start, stop):
        """Map some rows of the output grid."""
        ys = np.arange(start - 1, stop + 1, dtype=float)
        xs = np.arange(-1, self.shape[1] + 1, dtype=float)
        if self._splines is not None:
            places = [spline(ys, xs) for spline in self._splines]
        else:
            places = map_pixels(self.wcs_out, self.wcs_in, *np.meshgrid(xs, ys))
        jacobian = [
            [(v[1:-1, 2:] - v[1:-1, :-2]) / 2, (v[2:, 1:-1] - v[:-2, 1:-1]) / 2]
            for v in places
        ]
        x, y = (v[1:-1, 1:-1] for v in places)
        return x, y, np.array(jacobian)

    def blocks(self, n_pixels=2**18):
        """Go through the rows of the output grid, some at a time."""
        step = max(1, n_pixels // self.shape[1])
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))


def pixel_area(jacobian):
    """Return the area of an output pixel in input pixels."""
    return np.abs(jacobian[0, 0] * jacobian[1, 1] - jacobian[0, 1] * jacobian[1, 0])


# Places on each side of an exposure by which its outline is followed.
_N_OUTLINE = 33


def is_celestial(wcs):
    """Tell whether both axes of a WCS are positions on the sky."""
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    types = low_level.world_axis_physical_types
    return all(kind is not None and 'pos.' in kind for kind in types)


def check_celestial(wcs, index):
    """Check that an exposure can be placed on the sky."""
    if wcs is None:
        msg = f'exposures[{index}] has no wcs; give it one with replace(wcs=...).'
        raise ValueError(msg)
    if not is_celestial(wcs):
        low_level = getattr(wcs, 'low_level_wcs', wcs)
        msg = (
            f'exposures[{index}].wcs must have two celestial axes, such as RA and Dec; '
            f'got {list(low_level.world_axis_physical_types)}.'
        )
        raise ValueError(msg)


class OutputGrid(NamedTuple):
    """A grid that exposures are put on."""

    wcs: object
    shape: tuple

    def box(self, wcs, shape):
        """Return the part of the grid that an image may cover."""
        x, y = map_pixels(wcs, self.wcs, *_outline(shape))
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return None
        if not known.all():
            return slice(0, self.shape[0]), slice(0, self.shape[1])
        bounds = []
        for places, n in ((y, self.shape[0]), (x, self.shape[1])):
            # Two pixels more, as a distorted side bulges between its places.
            start = max(int(np.floor(places.min())) - 2, 0)
            stop = min(int(np.ceil(places.max())) + 3, n)
            if stop <= start:
                return None
            bounds.append(slice(start, stop))
        return tuple(bounds)

    def cut(self, box):
        """Return the WCS of a part of the grid."""
        whole = tuple(slice(0, n) for n in self.shape)
        return self.wcs if tuple(box) == whole else cut_wcs(self.wcs, *box)


def parse_grid(wcs_out, shape_out):
    """Check a grid that was given."""
    if hasattr(wcs_out, 'cards'):
        wcs_out = WCS(wcs_out)
    try:
        check_wcs(wcs_out)
    except TypeError as error:
        msg = f'wcs_out must be a FITS header or a two-dimensional astropy WCS; {error}'
        raise TypeError(msg) from None
    if not is_celestial(wcs_out):
        msg = 'wcs_out must have two celestial axes, such as RA and Dec.'
        raise ValueError(msg)
    if shape_out is None:
        shape_out = getattr(wcs_out, 'low_level_wcs', wcs_out).array_shape
    if shape_out is None:
        msg = (
            'shape_out must be given, as (ny, nx), because wcs_out does not say how '
            'large its image is.'
        )
        raise ValueError(msg)
    try:
        shape = tuple(int(n) for n in shape_out)
        sound = len(shape) == 2 and all(
            n > 0 and n == m for n, m in zip(shape, shape_out, strict=True)
        )
    except (TypeError, ValueError):
        sound = False
    if not sound:
        msg = f'shape_out must be two positive integers (ny, nx); got {shape_out!r}.'
        raise ValueError(msg)
    if isinstance(wcs_out, WCS):
        wcs_out = wcs_out.deepcopy()
        wcs_out.array_shape = shape
    return OutputGrid(wcs_out, shape)


def common_grid(footprints, shape_out=None):
    """Extend the grid of the first exposure by whole pixels to cover all."""
    if shape_out is not None:
        msg = f'shape_out={shape_out} needs wcs_out, which says where the grid lies.'
        raise ValueError(msg)
    first, first_shape = footprints[0]
    boxes = []
    for k, (wcs, shape) in enumerate(footprints):
        check_celestial(wcs, k)
        x, y = _outline(shape)
        if k > 0:
            x, y = map_pixels(wcs, first, x, y)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            msg = (
                f'exposures[{k}] cannot be placed on the grid of exposures[0]: they do '
                'not overlap, or its distortion does not reach so far. Give wcs_out '
                'and shape_out.'
            )
            raise ValueError(msg)
        # The centres of the pixels of this grid that lie within the exposure.
        small = 1e-3
        boxes.append(
            (
                int(np.ceil(x.min() - small)),
                int(np.floor(x.max() + small)),
                int(np.ceil(y.min() - small)),
                int(np.floor(y.max() + small)),
            )
        )
    _check_connected(boxes)
    x0, y0 = (min(box[k] for box in boxes) for k in (0, 2))
    x1, y1 = (max(box[k] for box in boxes) for k in (1, 3))
    shape = (y1 - y0 + 1, x1 - x0 + 1)
    return OutputGrid(_extended(first, x0, y0, shape, first_shape), shape)


def _outline(shape):
    """Return places along the outermost pixel centres of an image."""
    ny, nx = shape
    along = np.linspace(0, 1, _N_OUTLINE)
    low, high = np.zeros(_N_OUTLINE), np.ones(_N_OUTLINE)
    x = np.concatenate([along, along, low, high]) * (nx - 1)
    y = np.concatenate([low, high, along, along]) * (ny - 1)
    return x, y


def _check_connected(boxes):
    """Check that all boxes are connected with the first."""
    together = {0}
    waiting = [0]
    while waiting:
        a = boxes[waiting.pop()]
        for k, b in enumerate(boxes):
            apart = a[1] < b[0] or b[1] < a[0] or a[3] < b[2] or b[3] < a[2]
            if k not in together and not apart:
                together.add(k)
                waiting.append(k)
    alone = sorted(set(range(len(boxes))) - together)
    if alone:
        k = alone[0]
        msg = (
            f'exposures[{k}] does not overlap with the others: on the grid of '
            f'exposures[0] it covers x from {boxes[k][0]} to {boxes[k][1]} and y from '
            f'{boxes[k][2]} to {boxes[k][3]}. Leave it out, or give wcs_out and '
            'shape_out.'
        )
        raise ValueError(msg)


def _extended(wcs, x0, y0, shape, old_shape):
    """Move the origin of a WCS to pixel (x0, y0), which may be negative."""
    if not isinstance(wcs, WCS):
        if (x0, y0) == (0, 0) and shape == tuple(old_shape):
            return wcs
        msg = (
            f'wcs_out must be given: the {type(wcs).__name__} of exposures[0] cannot '
            'be extended beyond its image to cover the others.'
        )
        raise ValueError(msg)
    # WCS.slice takes a negative start for one that counts from the end.
    wcs = wcs.deepcopy()
    shift = np.array([x0, y0], dtype=float)
    if wcs.sip is not None:
        sip = wcs.sip
        wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - shift)
    for table in (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2):
        if table is not None:
            table.crval = np.asarray(table.crval) - shift
    wcs.wcs.crpix = wcs.wcs.crpix - shift
    wcs.array_shape = shape
    return wcs
