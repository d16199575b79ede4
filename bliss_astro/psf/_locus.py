# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The stars among the compact sources of an image, by size against brightness.

Stars have one size and one ellipticity whatever their brightness, and nothing
that came through the telescope is smaller. So they are the densest place of the
plane of size and ellipticity at the lower edge of the sizes; what lies below it,
cosmic rays and hot pixels, has no common ellipticity or is sharper than pixels
allow. PSFEx (Bertin 2011) and Piff (Jarvis et al. 2021) go by the same plane.
"""

import dataclasses

import numpy as np

from ._compact_sources import TO_FWHM

__all__ = ['MIN_SNR', 'Locus', 'find_locus']

# Signal-to-noise ratio from which a source may show the width of the PSF.
MIN_SNR = 20.0
# Range of full widths at half maximum of a PSF, pixel included, in pixels, and the
# largest one that rests on one or two sources.
_MIN_FWHM, _MAX_FWHM, _MAX_FWHM_ALONE = 1.2, 30.0, 12.0
# Share of the brightest pixel in 3 x 3: 0.7 for a PSF of the least width that is
# centred on a pixel.
_MAX_SHARPNESS = 0.62
_MAX_ELLIPTICITY = 0.6
# Errors of logarithm of size and of ellipticity beside that of the noise: PSFs
# vary over an image, and moments with the place within a pixel.
_SIZE_ERROR, _ELLIPTICITY_ERROR = 0.03, 0.06
# The lower edge: the smallest size at which the density of sources is at least so
# many sources, and this share of the largest density.
_MIN_DENSITY, _DENSITY_SHARE = 2.4, 0.3
# Sizes beyond the lower edge, as a logarithm, within which the locus lies.
_LOCUS_WIDTH = 0.15
# Members differ from the locus by no more, beside 2.5 times their own error.
_SIZE_SPAN, _ELLIPTICITY_SPAN = 0.10, 0.12
# Stars from which size and ellipticity may vary over the image, and turns in which
# the members are found.
_MIN_TREND, _N_TURNS = 20, 5
# Sources that the density is taken of at most.
_MAX_SOURCES = 500
# Neighbours within so many FWHM and above this share of a star's flux are blends.
_BLEND_RADIUS, _BLEND_SHARE = 3.0, 0.08


@dataclasses.dataclass
class Locus:
    """
    Locus of the stars: logarithm of size, ellipticity, and who belongs to it.

    ``reasons`` (n,) are those why a source is no star to be measured, '' for members;
    ``n_stars`` is 0 where no locus was found and the width is that of the brightest
    compact sources.
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
    """
    Find the stars among sources.

    Parameters
    ----------
    sources : `~bliss_astro.psf._compact_sources.Sources`
        Brightest first.

    saturated : (n,) bool array
        Which of them are.

    min_snr : float, optional
        Those fainter are not looked at.

    Returns
    -------
    locus : `Locus` or None
        `None` where no source can show the width of the PSF.
    """
    reasons = _unfit(sources, saturated, min_snr)
    usable = np.flatnonzero(reasons == '')[:_MAX_SOURCES]
    if len(usable) == 0:
        return None
    size = np.log(sources.width)
    error = np.hypot(1 / sources.snr, _SIZE_ERROR)
    e_error = np.hypot(1.5 / sources.snr, _ELLIPTICITY_ERROR)
    center = _lower_edge(sources[usable], size[usable], error[usable], e_error[usable])
    few = center is None
    if few:
        # A single broad source is a galaxy rather than a star.
        narrow = TO_FWHM * sources.width[usable] < _MAX_FWHM_ALONE
        usable = usable[narrow]
        if len(usable) == 0:
            return None
        center = _brightest(sources[usable])
    own = np.stack([size, sources.e1, sources.e2], axis=1)
    local = np.broadcast_to(own[usable[center]], own.shape)
    for _ in range(_N_TURNS):
        near = _members(sources, own - local, usable)
        local = _trend(sources, own, near)
    near = _members(sources, own - local, usable)
    if len(near) == 0:
        near = usable[[center]]
    values = tuple(np.median(local[near], axis=0))
    fine = np.zeros(len(sources), bool)
    fine[near] = True
    off = size - local[:, 0]
    rest = (reasons == '') & ~fine
    reasons[rest & (off > 0)] = 'extended'
    reasons[rest & (off <= 0)] = 'sharper than the stars'
    round_ = np.abs(off) < _SIZE_SPAN + 2.5 / sources.snr
    reasons[rest & round_] = 'ellipticity'
    _mark_blends(sources, reasons, np.exp(values[0]) * TO_FWHM)
    n_stars = 0 if few else int(np.count_nonzero(reasons == ''))
    return Locus(*(float(v) for v in values), reasons, n_stars)


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


def _lower_edge(sources, size, error, e_error):
    """Index of the middle of the locus, or `None` where there is none."""
    off = np.subtract.outer(size, size) ** 2 / (np.add.outer(error**2, error**2))
    both = np.add.outer(e_error**2, e_error**2)
    for e in (sources.e1, sources.e2):
        off += np.subtract.outer(e, e) ** 2 / both
    weight = np.minimum(1.0, sources.snr / (2 * MIN_SNR))
    density = np.exp(-0.5 * off) @ weight
    if not density.max() >= _MIN_DENSITY:
        return None
    dense = density >= max(_MIN_DENSITY, _DENSITY_SHARE * density.max())
    edge = size[dense].min()
    within = dense & (size <= edge + _LOCUS_WIDTH)
    return int(np.argmax(np.where(within, density, -1)))


def _brightest(sources):
    """Index of the sharpest of the brightest sources: what a star would be."""
    bright = sources.snr >= 0.3 * sources.snr.max()
    return int(np.argmin(np.where(bright, sources.width, np.inf)))


def _members(sources, off, usable):
    """Indices of those that agree with the size and ellipticity of the stars."""
    size_span = _SIZE_SPAN + 2.5 / sources.snr
    e_span = _ELLIPTICITY_SPAN + 3.5 / sources.snr
    fine = (np.abs(off[:, 0]) < size_span) & (np.hypot(*off[:, 1:].T) < e_span)
    return usable[fine[usable]]


def _trend(sources, own, near):
    """Size and ellipticity of the stars at each source: planes where they are many."""
    if len(near) == 0:
        return np.broadcast_to(np.median(own, axis=0), own.shape)
    middle = np.median(own[near], axis=0)
    if len(near) < _MIN_TREND:
        return np.broadcast_to(middle, own.shape)
    place = np.c_[sources.x, sources.y]
    low, high = place[near].min(0), place[near].max(0)
    # Beyond the stars the plane is not followed.
    scaled = (2 * (place - low) / np.maximum(high - low, 1) - 1).clip(-1.2, 1.2)
    design = np.c_[np.ones(len(scaled)), scaled]
    weight = np.ones((len(near), 1))
    for _ in range(3):
        share = weight * np.minimum(1, sources.snr[near] / 50)[:, None]
        solution = np.linalg.lstsq(design[near] * share, (own[near] - middle) * share)[
            0
        ]
        pull = (own[near] - middle - design[near] @ solution)[:, :1] / _SIZE_ERROR
        weight = 1 / np.sqrt(1 + pull**2)
    return middle + design @ solution


def _mark_blends(sources, reasons, fwhm):
    """Mark stars with neighbours; the clearest stay where none would be left."""
    from scipy.spatial import cKDTree

    stars = np.flatnonzero(reasons == '')
    if len(stars) == 0:
        return
    places = np.c_[sources.x, sources.y]
    near = cKDTree(places).query_ball_point(places[stars], _BLEND_RADIUS * fwhm)
    # Cosmic rays are dealt with pixel by pixel.
    real = reasons != 'cosmic ray'
    worst = np.zeros(len(stars))
    for n, (k, others) in enumerate(zip(stars, near, strict=True)):
        others = np.array([j for j in others if j != k and real[j]], int)
        if len(others):
            apart = np.hypot(
                sources.x[others] - sources.x[k], sources.y[others] - sources.y[k]
            )
            share = np.maximum(sources.flux[others], 0) / sources.flux[k]
            # What a neighbour leaves at the star falls steeply with the distance.
            worst[n] = np.max(share * (fwhm / np.maximum(apart, fwhm)) ** 2)
    limit = _BLEND_SHARE
    while np.count_nonzero(worst <= limit) < min(5, len(stars)):
        limit *= 2
    reasons[stars[worst > limit]] = 'blended'
