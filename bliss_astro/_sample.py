# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sample of a large image: windows spread over it, put side by side.
"""

import math

import numpy as np

# Pixels above which numbers that hold for all of an image are those of a sample.
LARGE = 4096**2
# Pixels of the windows of a sample, the side of one, and pixels around each, as far as
# stamps of stars reach.
_MAX_PIXELS, _WINDOW, _MARGIN = 3_000_000, 320, 64
# Share of good pixels in windows, over that in the image, below which these are too
# few; step in pixels along both axes at which this is looked at.
_LEAST_SHARE, _EVERY = 0.5, 8
# Pixels on the borders between windows that are left out, so that noise a lag apart is
# that of pixels a lag apart.
_SEAM = 2


def windows_of(shape, max_pixels=None):
    """Slices of rows and of columns of windows spread over an image, or of all."""
    max_pixels = _MAX_PIXELS if max_pixels is None else max_pixels
    share, spans = min(1.0, np.sqrt(max_pixels / math.prod(shape))), []
    for length in shape:
        n = max(1, int(length * share / _WINDOW)) if share < 1 else 1
        side = int(length * share / n)
        first = np.rint((np.arange(n) + 0.5) * length / n - side / 2).astype(int)
        spans.append([slice(k, k + side) for k in first.clip(0, length - side)])
    return spans


class Sample:
    """
    Windows spread over a large image, side by side with the pixels around each.

    An image that is not large is its own sample, with windows in it. Where these see
    few of its good pixels, as what is exposed may be a strip, all of an image is its
    sample, and the window; for that ``bad`` pixels ``(ny, nx)`` are given.

    Attributes
    ----------
    cut : tuple of list of slice
        Rows and columns of the image.

    windows : list of list of slice
        Rows and columns of the windows in the sample.

    shape, image_shape : tuple of int
        Shapes of the sample and of the image.
    """

    def __init__(self, shape, bad=None):
        self.image_shape, self.windows = tuple(shape), windows_of(shape)
        self.is_large = math.prod(shape) > LARGE
        self.cut = tuple([slice(0, n)] for n in shape)
        if bad is not None and _misses(self.windows, bad):
            self.is_large, self.windows = False, list(self.cut)
        if self.is_large:
            self.cut = tuple(
                [
                    slice(max(w.start - _MARGIN, 0), min(w.stop + _MARGIN, n))
                    for w in own
                ]
                for own, n in zip(self.windows, shape, strict=True)
            )
        self._index = [indices(part) for part in self.cut]
        self.shape = tuple(map(len, self._index))
        if self.is_large:
            # Windows lie apart, so that each of their pixels is there once.
            self.windows = [
                [slice(*np.searchsorted(index, [w.start, w.stop])) for w in own]
                for own, index in zip(self.windows, self._index, strict=True)
            ]

    def pixels(self, value):
        """The sample of a map; a number, or a map of the sample, as it is."""
        if np.ndim(value) < 2 or not self.is_large or value.shape == self.shape:
            return value
        return value[np.ix_(*self._index)]

    def seams(self):
        """Pixels on borders between windows, bool of the shape of the sample."""
        return np.logical_or.outer(*(seam_of(part) for part in self.cut))

    def places(self, places):
        """Positions (n, 2) of the image for such of the sample."""
        index = self._index[::-1]
        nearest = [
            np.rint(p).astype(int).clip(0, len(i) - 1)
            for p, i in zip(places.T, index, strict=True)
        ]
        shift = [i[k] - k for k, i in zip(nearest, index, strict=True)]
        return places + np.stack(shift, axis=1)

    def of(self, exposure):
        """The sample of an exposure, an exposure without coordinates."""
        if not self.is_large or exposure.shape == self.shape:
            return exposure
        state, shape = exposure._state(), exposure.shape
        maps = {name: v for name, v in state.items() if np.shape(v) == shape}
        maps = {name: self.pixels(value) for name, value in maps.items()}
        maps |= {'mask': maps['mask'] | self.seams(), 'wcs': None}
        return exposure.replace(data=self.pixels(exposure.data), **maps)


def _misses(windows, bad):
    """Whether windows see few of the good pixels."""
    seen = ~bad[np.ix_(*(indices(part)[::_EVERY] for part in windows))]
    return seen.mean() < _LEAST_SHARE * np.mean(~bad[::_EVERY, ::_EVERY])


def indices(part):
    """Pixels along an axis of a slice, or of a list of slices."""
    parts = [part] if isinstance(part, slice) else part
    return np.concatenate([np.arange(own.start, own.stop) for own in parts])


def seam_of(part):
    """Pixels of a list of slices at the ends of each but the first and last."""
    seam = np.concatenate([np.arange(p.stop - p.start) for p in part]) < _SEAM
    seam |= np.concatenate([np.arange(p.start - p.stop, 0) for p in part]) >= -_SEAM
    seam[:_SEAM] = seam[-_SEAM:] = False
    return seam
