# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Compact sources of an image, before its PSF is known, and the stars among them.

Peaks are searched in a pyramid of binned images, so that stars of any width from a
pixel to some ten are found by the scale that fits them. Sizes are adaptive moments
(Bernstein & Jarvis 2002; Hirata & Seljak 2003): second moments under the elliptical
Gaussian that they describe themselves. Stars have one size and one ellipticity, and
nothing that came through the telescope is smaller: they are the densest place of the
plane of both at the lower edge of the sizes, as in PSFEx and Piff (Jarvis et al. 2021).
"""

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from bliss_astro._filters import local_maxima, smooth
from bliss_astro.units import MAD_TO_SIGMA

from ._fit import cut_stamps
from ._varying import trend

# Standard deviation in binned pixels of the filter of a level, and number of levels,
# each of half the resolution.
_SIGMA, _N_LEVELS = 0.8, 4
# Half sides in pixels of the stamps on which sources of a level are measured, and
# standard deviations in pixels with which the moments begin.
_HALF, _BEGIN = (8, 12, 21, 40), (1.0, 1.5, 2.7, 5.2)
# Sources of a level that are measured at most, the brightest first, where the stamps
# have no more than so many pixels; peaks that are looked at for each.
_MAX_SOURCES, _STAMP_PIXELS, _PEAKS_PER_SOURCE = 300, 700, 16
# Steps of the moments at most, and changes in pixels that end them.
_N_STEPS, _CONVERGED = 20, 0.003
# Standard deviation of the filter under which moments are taken, and whose variance
# is taken off again: a weight narrower than a pixel would fall onto one.
_SMOOTH = 0.7
# Largest standard deviation that moments may take, in units of the half side, and the
# least one in pixels.
_MAX_WIDTH, _MIN_WIDTH = 0.4, 0.05
# Offsets of the pixels of a core, and columns of sources.
_CORE = np.mgrid[-1:2, -1:2]
_COLUMNS = [
    (name, np.float32) for name in ('width', 'e1', 'e2', 'flux', 'snr', 'sharp')
]
_COLUMNS = [('x', float), ('y', float), *_COLUMNS, ('clean', bool)]
# From a Gaussian's standard deviation to its full width at half maximum.
TO_FWHM = 2 * np.sqrt(2 * np.log(2))


def places_of(sources):
    """Positions (n, 2) of sources."""
    return np.c_[sources.x, sources.y]


def find_sources(image, windows, *, threshold, max_sources=_MAX_SOURCES, least=0):
    """
    Find and measure the compact sources in windows (rows, columns) of a `StarImage`.

    Those of peaks of at least a signal-to-noise ratio, brightest first and none twice
    (and none at all of fewer than ``least`` peaks), as a record array: ``x, y`` and
    ``flux``; ``width``, the geometric mean of the two standard deviations in pixels;
    ``e1, e2``, the distortion of the moments; ``snr``, the signal-to-noise ratio within
    them; ``sharp``, the share of the brightest of the 3 x 3 pixels of the core;
    ``clean``, whether no pixel of the core is bad and none beyond the edge.
    """
    peaks = [
        _peaks(image.pull[window], image.bad[window], threshold)
        + np.array([window[1].start, window[0].start, 0, 0])
        for window in itertools.product(*windows)
    ]
    peaks = np.concatenate(peaks)
    peaks = peaks[np.argsort(-peaks[:, 3])][: _PEAKS_PER_SOURCE * max_sources]
    # Of peaks that lie within the filter of another one the highest stays.
    reach = np.maximum(2.0, 1.8 * _SIGMA * 2.0 ** peaks[:, 2])
    peaks = peaks[_first_within(peaks[:, :2], reach)]
    found, peaks = [], peaks if len(peaks) >= least else peaks[:0]
    for level, half in enumerate(_HALF):
        # Wide stamps are fewer, so that each level takes about the same time.
        most = int(max_sources * min(1, _STAMP_PIXELS / (2 * half + 1) ** 2))
        places = peaks[peaks[:, 2] == level][:most, :2]
        if len(places) or not level:
            found.append(measure_at(image, places, level))
    sources = np.concatenate(found).view(np.recarray)
    sources = sources[sources.snr > 0]
    sources = sources[np.argsort(-sources.snr)]
    return sources[_first_within(places_of(sources), np.maximum(1.0, sources.width))]


def _peaks(image, bad, threshold):
    """Columns x, y, level and signal-to-noise ratio of the maxima of each level."""
    image, peaks = np.where(bad, 0, image).astype(np.float32), [np.empty((0, 4))]
    for level in range(_N_LEVELS):
        if min(image.shape) < 8:
            break
        fine, broad = (smooth(image, k * _SIGMA, truncate=3) for k in (1, 2))
        band = fine - broad
        some = band[::2, ::2]
        scatter = MAD_TO_SIGMA * _median(np.abs(some - _median(some)))
        band /= max(float(scatter), 1e-12)
        rows, columns = local_maxima(band, threshold, 1)
        x, y = (2**level * (k + 0.5) - 0.5 for k in (columns, rows))
        values = x, y, np.full(len(x), level), band[rows, columns]
        peaks.append(np.stack(values, axis=1))
        # Sums over 2 x 2 pixels, in units of their noise.
        ny, nx = (n // 2 * 2 for n in image.shape)
        pair = image[:ny:2, :nx] + image[1:ny:2, :nx]
        image = (pair[:, ::2] + pair[:, 1::2]) / 2
    return np.concatenate(peaks)


def _median(values):
    # Of few values, sorting takes a fifth of the time of `numpy.median`.
    values = np.sort(values, axis=None)
    return 0.5 * (values[(len(values) - 1) // 2] + values[len(values) // 2])


def _first_within(places, reach):
    """Whether no earlier place that is kept itself has each within its reach."""
    alive = np.ones(len(places), bool)
    near = cKDTree(places).query_ball_point(places, reach) if len(places) else ()
    for k, others in enumerate(near):
        if alive[k]:
            alive[[other for other in others if other > k]] = False
    return alive


def level_of(fwhm):
    """Level whose stamps hold sources of a width, and half their side in pixels."""
    level = int(np.searchsorted(_HALF[:-1], 3 * fwhm))
    return level, _HALF[level]


def measure_at(image, places, level):
    """Measure sources at given places as those of a level."""
    half = _HALF[level]
    pixels = np.rint(places).astype(int)
    pull, bad = (
        cut_stamps(values, pixels - half, 2 * half + 1, fill)
        for values, fill in ((image.pull, 0.0), (image.bad, True))
    )
    stamps = np.where(bad, 0, pull - _sky_of(pull, bad))
    sources = measure_stamps(stamps, bad, places - pixels, level, image.photon)
    sources.x += pixels[:, 0]
    sources.y += pixels[:, 1]
    return sources


def _sky_of(stamps, bad):
    """Medians of the good pixels on the edges of stamps, 0 without any, (n, 1, 1)."""
    ring = np.ones(bad.shape[1:], bool)
    ring[1:-1, 1:-1] = False
    # Bad pixels are sorted to the end.
    edge = np.sort(np.where(bad, np.inf, stamps)[:, ring], axis=1)
    count = np.maximum(np.isfinite(edge).sum(1, keepdims=True), 1)
    pair = [np.take_along_axis(edge, k, 1) for k in ((count - 1) // 2, count // 2)]
    middle = 0.5 * (pair[0] + pair[1])[..., None]
    return np.where(np.isfinite(middle), middle, 0).astype(np.float32)


def measure_stamps(stamps, bad, offsets, level, photon=0.0):
    """Adaptive moments of the sources at offsets from the middles of stamps."""
    half = _HALF[level]
    filtered = gaussian_filter(stamps, (0, _SMOOTH, _SMOOTH), truncate=3.5)
    x, y, m, weight = _adapt(filtered, half, offsets, _BEGIN[level])
    mass = np.einsum('nij,nij->n', weight, filtered)
    # The noise of a sum under the weight, itself under the filter.
    area = np.sqrt(m[0] * m[1] - m[2] ** 2)
    noise = np.sqrt(np.pi * area**2 / (area + _SMOOTH**2))
    power = np.einsum('nij,nij->n', weight**2, np.maximum(filtered, 0))
    noise *= np.sqrt(1 + photon * power / np.einsum('nij,nij->n', weight, weight))
    m[:2] -= _SMOOTH**2
    det = m[0].clip(0) * m[1].clip(0) - m[2] ** 2
    total = np.maximum(m[0] + m[1], _MIN_WIDTH)
    peak = np.where(weight > 0.5, stamps, -np.inf).max((1, 2))
    middle = (half + np.rint([y, x])).astype(int).clip(1, 2 * half - 1)
    rows, columns = middle[:, :, None, None] + _CORE[:, None]
    core = stamps[np.arange(len(stamps))[:, None, None], rows, columns]
    width = np.maximum(det, _MIN_WIDTH**4) ** 0.25
    sources = np.empty(len(stamps), _COLUMNS).view(np.recarray)
    columns = x, y, width, (m[0] - m[1]) / total, 2 * m[2] / total, 2 * mass
    columns += np.nan_to_num(mass / noise), core.max((1, 2))
    for name, values in zip(sources.dtype.names[:-1], columns, strict=True):
        sources[name] = values
    sources['sharp'] /= np.maximum(core.sum((1, 2)), 1e-12)
    sources['clean'] = ~(bad & (weight > 0.02)).any((1, 2))
    sources['clean'] &= (np.hypot(x, y) < half / 2) & (peak > 0)
    return sources


def _adapt(stamps, half, offsets, sigma):
    """Iterate centre and moments; returns x, y, (xx, yy, xy) and the weights."""
    place, n = offsets.T.astype(np.float32), len(offsets)
    m = np.zeros((3, n), np.float32)
    m[:2] = sigma**2
    # `numpy.clip` takes longer than any other of these operations.
    low, high = (0.7 * _SMOOTH) ** 2, (_MAX_WIDTH * half) ** 2
    grid = np.arange(-half, half + 1, dtype=np.float32)
    # Powers of the offsets along x and along y, and the form that they make.
    powers = np.ones((2, n, 3, len(grid)), np.float32)
    form = np.zeros((n, 3, 3), np.float32)
    for _ in range(_N_STEPS):
        np.subtract(grid, place[..., None], out=powers[:, :, 1])
        np.square(powers[:, :, 1], out=powers[:, :, 2])
        by_x, by_y = powers
        scale = -0.5 / np.maximum(m[0] * m[1] - m[2] ** 2, 1e-4)
        form[:, 0, 2], form[:, 2, 0] = m[1] * scale, m[0] * scale
        form[:, 1, 1] = -2 * m[2] * scale
        weight = np.exp(by_y.swapaxes(1, 2) @ (form @ by_x))
        sums = by_y @ ((weight * stamps) @ by_x.swapaxes(1, 2))
        sums /= np.maximum(sums[:, :1, :1], 1e-12)
        moved = sums[:, [0, 1], [1, 0]].T
        new = 2 * sums[:, [0, 2, 1], [2, 0, 1]].T
        place += np.minimum(np.maximum(1.5 * moved, -1), 1)
        np.minimum(np.maximum(place, -half, out=place), half, out=place)
        np.minimum(np.maximum(new[:2], low, out=new[:2]), high, out=new[:2])
        most = 0.95 * np.sqrt(new[0] * new[1])
        new[2] = np.minimum(np.maximum(new[2], -most), most)
        change = np.sqrt(new[:2]) - np.sqrt(m[:2])
        m = new
        if max(np.abs(v).max(initial=0) for v in (moved, change)) < _CONVERGED:
            break
    return *place, m, weight


# Signal-to-noise ratio from which a source may show the width of the PSF.
MIN_SNR = 20.0
# Range of full widths at half maximum of a PSF, pixel included, in pixels, and the
# largest one that rests on one or two sources.
_MIN_FWHM, _MAX_FWHM, _MAX_FWHM_ALONE = 1.2, 30.0, 12.0
# Share of the brightest pixel in 3 x 3: 0.7 for a PSF of the least width that is
# centred on a pixel.
_MAX_SHARPNESS = 0.62
_MAX_ELLIPTICITY = 0.6
# Errors of log size and of ellipticities beside that of the noise: PSFs vary over an
# image, and moments with the place within a pixel.
_ERRORS, _NOISE_ERRORS = np.array([0.03, 0.06, 0.06]), np.array([1.0, 1.5, 1.5])
# The lower edge: the least size where the density is so many sources and this share.
_MIN_DENSITY, _DENSITY_SHARE = 2.4, 0.3
# Sizes beyond the lower edge, as a logarithm, within which the locus lies.
_LOCUS_WIDTH = 0.15
# Members differ from it in size and ellipticity by no more beside so many own errors.
_SPANS, _SPAN_ERRORS = (0.10, 0.12), (2.5, 3.5)
# Turns in which the members are found.
_N_TURNS = 5
# Sources that the density is taken of at most.
_MAX_DENSITY_SOURCES = 500
# Neighbours within so many FWHM and above this share of a star's flux are blends.
_BLEND_RADIUS, _BLEND_SHARE = 3.0, 0.08


@dataclass
class Locus:
    """
    Log size and ellipticity of the stars, and reasons (n,) why a source is none.

    ``n_stars`` is 0 where no locus was found and the size is that of the brightest.
    """

    log_size: float
    e1: float
    e2: float
    reasons: np.ndarray
    n_stars: int

    @property
    def fwhm(self):
        """Full width at half maximum of a Gaussian of that size in pixels."""
        return TO_FWHM * float(np.exp(self.log_size))


def find_locus(sources, saturated, *, min_snr=MIN_SNR):
    """Find the stars among sources; `None` where none can show the width of the PSF."""
    reasons = _unfit(sources, saturated, min_snr)
    usable = np.flatnonzero(reasons == '')[:_MAX_DENSITY_SOURCES]
    own = np.stack([np.log(sources.width), sources.e1, sources.e2], axis=1)
    errors = np.hypot(_NOISE_ERRORS / sources.snr[:, None], _ERRORS)
    center = _lower_edge(sources.snr[usable], own[usable], errors[usable])
    few = center is None
    if few:
        # A single broad source is a galaxy rather than a star.
        usable = usable[TO_FWHM * sources.width[usable] < _MAX_FWHM_ALONE]
        if len(usable) == 0:
            return None
        # The sharpest of the brightest sources: what a star would be.
        snr = sources.snr[usable]
        bright = snr >= 0.3 * snr.max()
        center = np.argmin(np.where(bright, sources.width[usable], np.inf))
    spans = np.add(_SPANS, _SPAN_ERRORS / sources.snr[:, None])
    can_show = np.isin(np.arange(len(own)), usable)
    local = np.broadcast_to(own[usable[center]], own.shape)
    places = places_of(sources)
    for _ in range(_N_TURNS + 1):
        off = own - local
        fits = np.c_[np.abs(off[:, 0]), np.hypot(*off[:, 1:].T)] < spans
        near = can_show & fits.all(1)
        if not near.any():
            near[usable[center]] = True
            break
        local = trend(places, own, np.where(near[:, None], errors, np.inf))
    rest = (reasons == '') & ~near
    reasons[rest & (off[:, 0] > 0)] = 'extended'
    reasons[rest & (off[:, 0] <= 0)] = 'sharper than the stars'
    reasons[rest & fits[:, 0]] = 'ellipticity'
    locus = Locus(*np.median(own[near], axis=0).tolist(), reasons, 0)
    _mark_blends(sources, reasons, locus.fwhm)
    locus.n_stars = 0 if few else int(np.count_nonzero(reasons == ''))
    return locus


def _unfit(sources, saturated, min_snr):
    """Reasons why sources cannot show the width of the PSF; '' where there is none."""
    fwhm = sources.width * TO_FWHM
    reasons = np.full(len(sources), '', dtype='U24')
    for bad, why in (
        (sources.snr < min_snr, 'faint'),
        (np.hypot(sources.e1, sources.e2) > _MAX_ELLIPTICITY, 'elongated'),
        (fwhm > _MAX_FWHM, 'extended'),
        ((fwhm < _MIN_FWHM) | (sources.sharp > _MAX_SHARPNESS), 'cosmic ray'),
        (~sources.clean, 'bad pixels'),
        (saturated, 'saturated'),
    ):
        reasons[bad] = why
    return reasons


def _lower_edge(snr, own, errors):
    """Index of the middle of the locus, or `None` where there is none."""
    off = np.square(own[:, None] - own) / (errors[:, None] ** 2 + errors**2)
    density = np.exp(-0.5 * off.sum(-1)) @ np.minimum(1.0, snr / (2 * MIN_SNR))
    most = density.max(initial=0)
    if not most >= _MIN_DENSITY:
        return None
    dense = density >= max(_MIN_DENSITY, _DENSITY_SHARE * most)
    within = dense & (own[:, 0] <= own[dense, 0].min() + _LOCUS_WIDTH)
    return int(np.argmax(np.where(within, density, -1)))


def _mark_blends(sources, reasons, fwhm):
    """Mark stars with neighbours; the clearest stay where none would be left."""
    stars = np.flatnonzero(reasons == '')
    apart = np.hypot(*(v[stars, None] - v for v in (sources.x, sources.y)))
    # What a neighbour leaves at the star falls steeply with the distance.
    share = np.maximum(sources.flux, 0) / sources.flux[stars, None]
    share = share * (fwhm / np.maximum(apart, fwhm)) ** 2
    # Cosmic rays are dealt with pixel by pixel.
    none = (apart > _BLEND_RADIUS * fwhm) | (apart == 0) | (reasons == 'cosmic ray')
    worst = np.where(none, 0, share).max(1, initial=0)
    limit = _BLEND_SHARE
    while np.count_nonzero(worst <= limit) < min(5, len(stars)):
        limit *= 2
    reasons[stars[worst > limit]] = 'blended'
