# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Compact sources of an image and their widths, before its PSF is known.

Peaks are searched in a pyramid of binned images, so that stars of any width from
a pixel to some ten are found by the scale that fits them. Sizes are adaptive
moments (Bernstein & Jarvis 2002; Hirata & Seljak 2003): second moments under the
elliptical Gaussian that they describe themselves.
"""

import types

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

from bliss_astro.units import MAD_TO_SIGMA

__all__ = []

# Standard deviation in binned pixels of the filter of a level, and the number of
# levels, each of which halves the resolution.
_SIGMA, _N_LEVELS = 0.8, 4
# Half sides in pixels of the stamps on which sources of a level are measured.
_HALF = (8, 12, 21, 40)
# Sources of a level that are measured at most, the brightest first, where the stamps
# have no more than so many pixels.
_MAX_SOURCES, _STAMP_PIXELS = 300, 700
# Images larger than this are sampled by windows of this side, in pixels.
_MAX_PIXELS, _WINDOW = 3_000_000, 320
# Steps of the moments at most, and changes in pixels that end them.
_N_STEPS, _CONVERGED = 20, 0.003
# Standard deviation of the filter under which moments are taken, and whose variance
# is taken off again: a weight narrower than a pixel would fall onto one.
_SMOOTH = 0.7
# Largest standard deviation that moments may take, in units of the half side.
_MAX_WIDTH = 0.4
# Width in pixels of sources that are no wider than a pixel.
_MIN_WIDTH = 0.05
# From a Gaussian's standard deviation to its full width at half maximum.
TO_FWHM = 2 * np.sqrt(2 * np.log(2))


class Sources(types.SimpleNamespace):
    """
    Compact sources, each attribute an array of shape (n,).

    ``x, y`` and ``flux``; ``width``, the geometric mean of the two standard deviations
    in pixels; ``e1, e2``, the distortion of the moments; ``snr``, the signal-to-noise
    ratio within them; ``peak``, the brightest pixel of the core in units of the noise;
    ``sharp``, its share in the light of the 3 x 3 pixels around it; ``clean``, whether
    no pixel of the core is bad and none beyond the edge.
    """

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return Sources(**{name: value[index] for name, value in vars(self).items()})

    @classmethod
    def joined(cls, parts):
        """Join several sets."""
        columns = [vars(part).values() for part in parts]
        joined = [np.concatenate(values) for values in zip(*columns, strict=True)]
        return cls(**dict(zip(vars(parts[0]), joined, strict=True)))


def find_compact_sources(
    image, *, threshold, max_pixels=_MAX_PIXELS, max_sources=_MAX_SOURCES
):
    """
    Find and measure the compact sources of an image in units of its noise.

    Parameters
    ----------
    image : `~bliss_astro.psf._star_image.StarImage`
        The image.

    threshold : float
        Least signal-to-noise ratio of a peak.

    max_pixels : int, optional
        Larger images are sampled by windows.

    max_sources : int, optional
        Sources of a level that are measured at most.

    Returns
    -------
    sources : `Sources`
        Brightest first, none twice.
    """
    peaks = [
        _peaks(image.pull[rows, columns], image.bad[rows, columns], threshold)
        + np.array([columns.start, rows.start, 0, 0])
        for rows, columns in _windows(image.shape, max_pixels)
    ]
    peaks = _greedy(np.concatenate(peaks), max_sources)
    padded = _padded(image)
    found = []
    for level in range(_N_LEVELS):
        # Wide stamps are fewer, so that each level takes about the same time.
        most = int(max_sources * min(1, _STAMP_PIXELS / (2 * _HALF[level] + 1) ** 2))
        own = peaks[peaks[:, 2] == level][:most]
        if len(own):
            found.append(_measure(*padded, own[:, :2], level, image.photon))
    if not found:
        names = ('x', 'y', 'width', 'e1', 'e2', 'flux', 'snr', 'peak', 'sharp')
        nothing = {name: np.empty(0) for name in names}
        return Sources(**nothing, clean=np.empty(0, bool))
    return _once(Sources.joined(found))


def measure_at(image, places, level):
    """Measure sources at given places as those of a level."""
    return _measure(*_padded(image), places, level, image.photon)


def level_of(fwhm):
    """Return the level whose stamps hold sources of a width."""
    return int(np.searchsorted(_HALF[:-1], 3 * fwhm))


def half_of(level):
    """Return half the side of the stamps of a level."""
    return _HALF[level]


def _padded(image):
    """Pad image and bad pixels by the widest stamp."""
    reach = max(_HALF)
    plain = np.where(image.bad, 0, image.pull).astype(np.float32)
    return np.pad(plain, reach), np.pad(image.bad, reach, constant_values=True)


def _windows(shape, max_pixels):
    """Return slices of the whole image, or of windows spread over a large one."""
    ny, nx = shape
    if ny * nx <= max_pixels:
        return [(slice(0, ny), slice(0, nx))]
    share = np.sqrt(max_pixels / (ny * nx))
    spans = []
    for length in shape:
        n = max(1, int(length * share / _WINDOW))
        side = min(length, int(length * share / n))
        first = np.rint((np.arange(n) + 0.5) * length / n - side / 2).astype(int)
        spans.append([slice(k, k + side) for k in first.clip(0, length - side)])
    return [(rows, columns) for rows in spans[0] for columns in spans[1]]


def _peaks(image, bad, threshold):
    """Return (x, y, level, snr) of the maxima of each level, (n, 4)."""
    level_image = np.where(bad, 0, image).astype(np.float32)
    peaks = []
    for level in range(_N_LEVELS):
        side = 2**level
        if min(level_image.shape) < 8:
            break
        fine = gaussian_filter(level_image, _SIGMA, truncate=3)
        band = fine - gaussian_filter(level_image, 2 * _SIGMA, truncate=3)
        band /= _scatter(band)
        high = (band > threshold) & (band == maximum_filter(band, 3))
        rows, columns = np.nonzero(high)
        x, y = (side * (k + 0.5) - 0.5 for k in (columns, rows))
        peaks.append(np.c_[x, y, np.full(len(x), level), band[rows, columns]])
        ny, nx = (n // 2 * 2 for n in level_image.shape)
        blocks = level_image[:ny, :nx].reshape(ny // 2, 2, nx // 2, 2)
        level_image = blocks.sum((1, 3)) / 2
    return np.concatenate(peaks) if peaks else np.empty((0, 4))


def _scatter(band):
    """Robust standard deviation, at least a tiny number."""
    some = band[::2, ::2]
    return max(float(MAD_TO_SIGMA * np.median(np.abs(some - np.median(some)))), 1e-12)


def _greedy(peaks, max_sources):
    """Keep of peaks that lie within the filter of another one the highest."""
    # A level has no more to offer than are measured of it, with some to spare.
    parts = [peaks[peaks[:, 2] == level] for level in range(_N_LEVELS)]
    parts = [p[np.argsort(-p[:, 3])][: 4 * max_sources] for p in parts]
    peaks = np.concatenate(parts)
    peaks = peaks[np.argsort(-peaks[:, 3])]
    reach = np.maximum(2.0, 1.8 * _SIGMA * 2.0 ** peaks[:, 2])
    return peaks[_first_within(peaks[:, :2], reach)]


def _first_within(places, reach):
    """Whether no earlier place that is kept itself has each within its reach."""
    from scipy.spatial import cKDTree

    alive = np.ones(len(places), bool)
    if len(places):
        near = cKDTree(places).query_ball_point(places, reach)
        for k, others in enumerate(near):
            if alive[k]:
                others = np.asarray(others)
                alive[others[others > k]] = False
    return alive


def _once(sources):
    """Drop what converged to the same place as a brighter one."""
    good = np.isfinite(sources.snr) & (sources.snr > 0)
    sources = sources[good]
    sources = sources[np.argsort(-sources.snr)]
    places = np.c_[sources.x, sources.y]
    return sources[_first_within(places, np.maximum(1.0, sources.width))]


def _measure(padded, unusable, places, level, photon):
    """Adaptive moments of the sources of one level."""
    reach, half = max(_HALF), _HALF[level]
    column, row = np.rint(places).astype(int).T
    offsets = np.arange(-half, half + 1)
    rows = (row[:, None] + offsets + reach)[:, :, None]
    columns = (column[:, None] + offsets + reach)[:, None, :]
    stamps = padded[rows, columns]
    bad = unusable[rows, columns]
    ring = np.ones(stamps.shape[1:], bool)
    ring[1:-1, 1:-1] = False
    edge = np.where(bad, np.nan, stamps)[:, ring]
    empty = np.isnan(edge).all(1)
    edge[empty] = 0
    level_of_sky = np.nanmedian(edge, axis=1)[:, None, None].astype(np.float32)
    stamps = np.where(bad, 0, stamps - level_of_sky)
    smooth = gaussian_filter(stamps, (0, _SMOOTH, _SMOOTH), truncate=3.5)
    start = np.full(len(places), (1.0, 1.5, 2.7, 5.2)[level])
    x, y, m, weight = _adapt(smooth, offsets, places - np.c_[column, row], start)
    mass = np.einsum('nij,nij->n', weight, smooth)
    # The noise of a sum under the weight, itself under the filter.
    area = np.sqrt(m[0] * m[1] - m[2] ** 2)
    noise = np.sqrt(np.pi * area**2 / (area + _SMOOTH**2))
    power = np.einsum('nij,nij->n', weight**2, np.maximum(smooth, 0))
    noise *= np.sqrt(1 + photon * power / np.einsum('nij,nij->n', weight, weight))
    m[:2] -= _SMOOTH**2
    core = weight > 0.5
    peak = np.where(core, stamps, -np.inf).max((1, 2))
    side = np.einsum('nij,nij->n', (weight > 0.02).astype(np.float32), bad * 1.0)
    return Sources(
        x=column + x,
        y=row + y,
        width=np.sqrt(
            np.sqrt(np.maximum(m[0].clip(0) * m[1].clip(0) - m[2] ** 2, _MIN_WIDTH**4))
        ),
        e1=(m[0] - m[1]) / np.maximum(m[0] + m[1], _MIN_WIDTH),
        e2=2 * m[2] / np.maximum(m[0] + m[1], _MIN_WIDTH),
        flux=2 * mass,
        snr=mass / noise,
        peak=peak,
        sharp=_sharpness(stamps, weight),
        clean=(side == 0) & (np.hypot(x, y) < half / 2) & (peak > 0),
    )


def _sharpness(stamps, weight):
    """Share of the brightest pixel of the core in its 3 x 3 pixels."""
    n, side, _ = stamps.shape
    inner = np.where(weight > 0.1, stamps, -np.inf)[:, 1:-1, 1:-1]
    top = inner.reshape(n, -1).argmax(1)
    row, column = top // (side - 2) + 1, top % (side - 2) + 1
    around = np.arange(-1, 2)
    rows = (row[:, None] + around)[:, :, None]
    columns = (column[:, None] + around)[:, None, :]
    box = stamps[np.arange(n)[:, None, None], rows, columns]
    return box[:, 1, 1] / np.maximum(box.sum((1, 2)), 1e-12)


def _adapt(stamps, offsets, start, sigma):
    """Iterate centre and moments; returns x, y, (xx, yy, xy) and the weights."""
    x, y = start.T.astype(np.float32)
    m = np.array([sigma**2, sigma**2, 0 * sigma], np.float32)
    widest = (_MAX_WIDTH * offsets[-1]) ** 2
    grid = offsets.astype(np.float32)
    for _ in range(_N_STEPS):
        det = np.maximum(m[0] * m[1] - m[2] ** 2, 1e-4)
        dx, dy = grid - x[:, None], grid - y[:, None]
        a, b, c = m[1] / det, m[0] / det, -m[2] / det
        quadratic = (
            (a[:, None] * dx**2)[:, None, :]
            + (b[:, None] * dy**2)[:, :, None]
            + 2 * c[:, None, None] * dy[:, :, None] * dx[:, None, :]
        )
        weight = np.exp(-0.5 * quadratic)
        light = weight * stamps
        by_x, by_y = light.sum(1), light.sum(2)
        total = np.maximum(by_x.sum(1), 1e-12)
        mean_x, mean_y = (by_x * dx).sum(1) / total, (by_y * dy).sum(1) / total
        xy = np.einsum('nij,ni,nj->n', light, dy, dx) / total
        new = np.array(
            [(by_x * dx**2).sum(1) / total, (by_y * dy**2).sum(1) / total, xy]
        )
        x = (x + np.clip(1.5 * mean_x, -1, 1)).clip(grid[0], grid[-1])
        y = (y + np.clip(1.5 * mean_y, -1, 1)).clip(grid[0], grid[-1])
        new *= 2
        new[:2] = new[:2].clip((0.7 * _SMOOTH) ** 2, widest)
        most = 0.95 * np.sqrt(new[0] * new[1])
        new[2] = new[2].clip(-most, most)
        moved = max(np.abs(mean_x).max(), np.abs(mean_y).max())
        change = np.abs(np.sqrt(new[:2]) - np.sqrt(m[:2])).max()
        m = new
        if max(moved, change) < _CONVERGED:
            break
    return x, y, m, weight
