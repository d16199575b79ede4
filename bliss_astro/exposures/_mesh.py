# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sky background on a mesh, of images of any size section by section.

The first pass takes SExtractor's estimate of the mode of each cell, the second the
clipped mean of the pixels without sources above the first, except in cells where few
are left. What is taken from all of the image is small, so that sections may be read one
after the other, by whoever has them: results are those of the whole.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bliss_astro import _sample
from bliss_astro._filters import smooth, spread_cells, sums_of_cells
from bliss_astro._threads import map_threads
from bliss_astro.units import median

from ._noise import GROWTH, SMOOTHING

# Side (pixels) of the cells, of large images and of those smaller than two of them.
CELL, _CELL_SMALL = 64, 128
# Side of the sections of a large image, and pixels around each, in which sources of
# another show, in whole cells.
_SECTION, MARGIN = 2048, 64
# Cells beyond which none changes the spline of the mesh by more than rounding.
_REACH = 24
# Share of a cell covered by sources above which their mask is not used in it.
_CROWDED_SHARE = 0.7
# Threshold of sources in sigma of the smoothed image. It is lower than that for noise,
# which would be too low without its highest peaks; here, light left in is the harm.
_SOURCE_SIGMA = 3
# Cells along an axis from which on a mesh shows a gradient; change of the sky from
# cell to cell, over the noise, below which it is level; rounds of taking it off.
_MIN_CELLS, _LEVEL_CHANGE, _MAX_SLOPE_ROUNDS = 3, 0.2, 4
# A background is single precision if that rounds it by less than this share of the
# noise, which has to lie well within its range; pixels that show the scatter.
_ROUNDING_SHARE, _MIN_SCALE, _MAX_SCALE, _N_SCATTER = 1e-3, 1e-30, 1e30, 200_000
# Evenly spread numbers in the place of steps of rounded pixels, of which medians would
# be rounded too. Any fixed seed serves: they average out in each cell.
_STEPS = np.random.default_rng(0).random((64, 64), dtype=np.float32)
_STEPS -= _STEPS.mean()


class Section(NamedTuple):
    """Rows and columns of an image that are read, and its own ones within these."""

    place: tuple
    own: tuple

    @classmethod
    def around(cls, own, shape):
        """One with pixels around, of slices of an image."""
        place = tuple(
            slice(max(s.start - MARGIN, 0), min(s.stop + MARGIN, n))
            for s, n in zip(own, shape, strict=True)
        )
        pairs = zip(own, place, strict=True)
        return cls(
            place, tuple(slice(s.start - p.start, s.stop - p.start) for s, p in pairs)
        )


def sections_of(shape):
    """Sections of a large image, of whole cells; or the whole of a smaller one."""
    side = _SECTION if math.prod(shape) > _sample.LARGE else max(shape)
    rows, columns = (
        [slice(k, min(k + side, n)) for k in range(0, n, side)] for n in shape
    )
    return [Section.around((y, x), shape) for y in rows for x in columns]


@dataclass(frozen=True)
class MeshFrame:
    """
    Unit of the mesh of an image, in which any fits into single precision.

    With the planes, changes by pixel along x and y, that are taken off before.
    """

    shape: tuple
    box: tuple
    quantum: float
    middle: float
    scale: float
    planes: tuple = ()

    @classmethod
    def of(cls, data, bad, shape, box_size, quantum):
        """That of an image with such pixels, or a sample of them."""
        if box_size is None:
            small = min(shape) < 2 * CELL
            box_size = _CELL_SMALL if small else CELL
        box = tuple(min(box_size, length) for length in shape)
        good = data[~bad]
        good = good[:: max(1, good.size // _N_SCATTER)].astype(float)
        middle = float(median(good)) if good.size else 0.0
        off = np.abs(good - middle) if good.size else np.ones(1)
        scale = float(median(off)) or float(off.mean()) or 1.0
        return cls(tuple(shape), box, float(quantum), middle, scale)

    def plane(self, place):
        """The planes at a section, in units of the frame."""
        y, x = (
            np.arange(part.start, part.stop) - (n - 1) / 2
            for part, n in zip(place, self.shape, strict=True)
        )
        planes = [
            (by_x * x + by_y * y[:, None]).astype(np.float32)
            for by_x, by_y in self.planes
        ]
        return sum(planes, np.zeros((1, 1), np.float32))

    def image(self, data, bad, place):
        """A section less the planes."""
        image = np.where(bad, 0, (np.asarray(data, float) - self.middle) / self.scale)
        image = np.clip(image, -_MAX_SCALE, _MAX_SCALE).astype(np.float32)
        if self.quantum > 0:
            rows, columns = (np.arange(s.start, s.stop) % len(_STEPS) for s in place)
            image += np.float32(self.quantum / self.scale) * _STEPS[rows][:, columns]
        return image - self.plane(place)


@dataclass(frozen=True)
class SkyMesh:
    """
    Sky of an image on a mesh, or that of a part of it.

    Values are in units of the frame, ``first`` are the row and column of the first
    cell, and ``bounds`` the least and largest value of the mesh of the whole image.
    """

    frame: MeshFrame
    values: np.ndarray
    bounds: tuple
    first: tuple = (0, 0)

    @classmethod
    def of(cls, frame, values):
        """That of a whole image."""
        return cls(
            frame, values.astype(float), (float(values.min()), float(values.max()))
        )

    def part(self, place):
        """The cells that matter for a section (slices of rows and columns)."""
        cells = [
            slice(max(s.start // b - _REACH - k, 0), -(-s.stop // b) + _REACH - k)
            for s, b, k in zip(place, self.frame.box, self.first, strict=True)
        ]
        first = tuple(s.start + k for s, k in zip(cells, self.first, strict=True))
        return replace(self, values=self.values[tuple(cells)], first=first)

    @property
    def dtype(self):
        """Type of the sky: where rounding is far below the noise, half the memory."""
        frame = self.frame
        slopes = np.abs(np.sum(frame.planes or np.zeros((1, 2)), axis=0))
        height = np.abs(self.bounds).max() + slopes @ frame.shape[::-1] / 2
        step = np.spacing(np.float32(height * frame.scale + abs(frame.middle)))
        single = step < _ROUNDING_SHARE * frame.scale
        return np.float32 if single and _MIN_SCALE < frame.scale < _MAX_SCALE else float

    def at(self, place):
        """The sky of a section, or of the parts of slices of a sample, ``(ny, nx)``."""
        rows, columns = ([s] if isinstance(s, slice) else s for s in place)
        parts = [[self._at((y, x)) for x in columns] for y in rows]
        return parts[0][0] if len(rows) == len(columns) == 1 else np.block(parts)

    def _at(self, place):
        part = self.part(place)
        within = [
            slice(s.start - k * b, s.stop - k * b)
            for s, k, b in zip(place, part.first, self.frame.box, strict=True)
        ]
        sky = _spline(part.values, within, self.frame.box).clip(*self.bounds)
        sky += self.frame.plane(place)
        sky *= self.frame.scale
        sky += self.frame.middle
        return sky.astype(self.dtype, copy=False)

    def map(self):
        """The sky of the whole image, ``(ny, nx)``."""
        sections = sections_of(self.frame.shape)
        if len(sections) == 1:
            return self.at(sections[0].place)
        sky = np.empty(self.frame.shape, self.dtype)

        def fill(section):
            rows, columns = section.place
            sky[rows, columns] = self.at(section.place)

        map_threads(fill, sections)
        return sky


class MeshWork:
    """
    Measurement of the mesh of an image.

    ``each(function, of)`` calls a function with data and bad pixels of each `Section`
    of the image, it and what ``of`` returns for it, and returns pairs of the section
    and the result, in any order. Data and bad pixels of the image itself, or its
    `Sample`, show the unit and the scatter.
    """

    def __init__(self, each, data, bad, shape, *, box_size=None, quantum=0.0):
        self._each, self._n_good = each, (np.count_nonzero(~bad), bad.size)
        frame = MeshFrame.of(data, bad, shape, box_size, quantum)
        # The mesh ends at the middle of the outer cells: flat beyond, it is off by half
        # a cell of a gradient, which within cells hides sources too. Filtered meshes
        # show most of a gradient, so that it takes some turns.
        for turn in range(_MAX_SLOPE_ROUNDS + 1):
            first = self._mesh(_first_cells, frame, lambda _, own=frame: (own,))
            more = _slope(*first, frame) if turn < _MAX_SLOPE_ROUNDS else None
            if more is None:
                break
            frame = replace(frame, planes=(*frame.planes, more))
        self.frame, self._first = frame, first

    def mesh(self, correlation=(0.0, 0.0)):
        """`SkyMesh`; peaks of noise of a correlation are no sources."""

        def of(section):
            # With the cells next to it.
            cells = [
                slice(max(s.start // b - 1, 0), -(-s.stop // b) + 1)
                for s, b in zip(section.place, self.frame.box, strict=True)
            ]
            near = [own[tuple(cells)] for own in self._first]
            corner = [own.start for own in cells]
            return self.frame, near, corner, tuple(correlation)

        return SkyMesh.of(self.frame, self._mesh(_second_cells, self.frame, of)[0])

    def _mesh(self, function, frame, of):
        """Level and scatter of all cells, filtered."""
        shape = [-(-n // b) for n, b in zip(frame.shape, frame.box, strict=True)]
        cells = np.full((2, *shape), np.nan, np.float32)
        for section, found in self._each(function, of):
            starts = [
                (place.start + own.start) // b
                for place, own, b in zip(*section, frame.box, strict=True)
            ]
            rows, columns = (
                slice(k, k + n) for k, n in zip(starts, found.shape[1:], strict=True)
            )
            cells[:, rows, columns] = found
        if np.isnan(cells[0]).all():
            n_good = '{} of {} pixels are good'.format(*self._n_good)
            msg = (
                f'background cannot be measured: {n_good}; give background (0 if it '
                'was subtracted)'
            )
            raise ValueError(msg)
        return [_filtered(own) for own in cells]


# -- of a section ------------------------------------------------------------------


def _first_cells(data, bad, section, frame):
    """Level and scatter of the cells of a section, (2, rows, columns)."""
    from ._cells import cells_of

    image = frame.image(data, bad, section.place)[section.own]
    return cells_of(image, bad[section.own], frame.box, mode=True)


def _second_cells(data, bad, section, frame, first, corner, correlation):
    """The same of the pixels without sources above cells of a first mesh."""
    from ._cells import cells_of

    image = frame.image(data, bad, section.place)
    place = [
        slice(s.start - k * b, s.stop - k * b)
        for s, k, b in zip(section.place, corner, frame.box, strict=True)
    ]
    level, scatter = (_interpolate(own, place, frame.box) for own in first)
    sources = find_covered(image - level, scatter, bad, correlation)[section.own]
    sources &= ~_crowded(sources, frame.box)
    bad = bad[section.own] | sources
    return cells_of(image[section.own], bad, frame.box, mode=False)


def find_covered(residual, noise, bad, correlation):
    """Find pixels in or near sources, in a smoothed image."""
    from scipy.ndimage import binary_dilation

    bright = smooth(np.where(bad, 0, residual), SMOOTHING)
    bright = bright > _SOURCE_SIGMA * noise_of_smoothed(correlation) * noise
    return binary_dilation(bright, iterations=GROWTH)


def noise_of_smoothed(correlation):
    """Noise that the smoothing leaves of noise that a Gaussian kernel correlated."""
    white = 1 / (2 * np.sqrt(np.pi) * SMOOTHING)
    # The variance of the kernel in x and in y, of which the correlation is known.
    own = -0.25 / np.log(np.clip(correlation, 1e-6, 0.99))
    left = np.maximum(white, np.sqrt(own / (own + SMOOTHING**2)))
    return float(np.sqrt(np.prod(left)))


def _crowded(sources, box):
    """Pixels of the cells of which sources cover most."""
    starts = [np.arange(0, n, b) for n, b in zip(sources.shape, box, strict=True)]
    n_pixels = sums_of_cells(np.ones_like(sources), starts)
    crowded = sums_of_cells(sources, starts) > _CROWDED_SHARE * n_pixels
    return spread_cells(crowded, starts, sources.shape)


# -- of the mesh -------------------------------------------------------------------


def _filtered(mesh):
    """Fill the cells that were left out, and take medians of 3 x 3, as photutils."""
    from photutils.utils import ShepardIDWInterpolator

    out = np.isnan(mesh)
    if out.any():
        nearest = ShepardIDWInterpolator(np.argwhere(~out), mesh[~out])
        mesh[out] = nearest(np.argwhere(out), n_neighbors=10)
    padded = np.pad(mesh, 1, constant_values=np.nan)
    near = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    # NaN beyond the edge are sorted to the end.
    near = np.sort(near.reshape(*mesh.shape, 9), axis=-1)
    n = np.isfinite(near).sum(-1, keepdims=True)
    low, high = (np.take_along_axis(near, k, -1) for k in ((n - 1) // 2, n // 2))
    return ((low + high) / 2)[..., 0]


def _slope(level, scatter, frame):
    """Change by pixel along x and y of a mesh, or None where it is nearly level."""
    (ny, nx), (height, width), noise = frame.shape, frame.box, np.median(scatter)
    if min(level.shape) < _MIN_CELLS:
        return None
    rows, columns = np.indices(level.shape).reshape(2, -1)
    # Cells cut off by the edge are not where whole ones would be.
    whole = (rows < ny // height) & (columns < nx // width)
    design = np.c_[np.ones(len(rows)), columns * width, rows * height]
    values, weights = level.ravel(), whole.astype(float)
    for _ in range(5):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(design * root[:, None], values * root)[0]
        # Sources in cells are held back, as least absolute deviations do.
        off = np.abs(values - design @ solution)
        weights = whole / np.maximum(off, max(1e-3 * noise, 1e-6))
    if np.abs(solution[1:]).max() * height <= _LEVEL_CHANGE * noise:
        return None
    return tuple(solution[1:].tolist())


def _interpolate(mesh, place, box):
    """Interpolate a mesh linearly: for a first pass photutils' splines are slow."""
    rows, columns = (
        [
            np.interp(np.arange(s.start, s.stop), (np.arange(n) + 0.5) * side - 0.5, v)
            for v in np.eye(n)
        ]
        for s, n, side in zip(place, mesh.shape, box, strict=True)
    )
    rows, columns, mesh = (np.asarray(v, np.float32) for v in (rows, columns, mesh))
    return rows.T @ mesh @ columns


def _spline(mesh, place, box):
    """Interpolate a mesh as photutils' ``BkgZoomInterpolator``, axis by axis."""
    from scipy.ndimage import zoom

    options = {'order': 3, 'mode': 'reflect', 'grid_mode': True}
    along_y, along_x = (
        [zoom(one, side, **options)[part] for one in np.eye(cells)]
        for part, cells, side in zip(place, mesh.shape, box, strict=True)
    )
    return np.transpose(along_y) @ np.asarray(mesh, float) @ along_x
