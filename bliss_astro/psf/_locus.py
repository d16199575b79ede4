# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars among the compact sources of an image: their locus in size and ellipticity.

Stars have one size and one ellipticity whatever their brightness, and nothing
that came through the telescope is smaller. So they are the densest place of the
plane of size and ellipticity at the lower edge of the sizes, as in PSFEx (Bertin 2011)
and Piff (Jarvis et al. 2021).
"""

from dataclasses import dataclass

import numpy as np

from ._stars import TO_FWHM, places_of
from ._varying import trend

# Signal-to-noise ratio from which a source may show the width of the PSF.
MIN_SNR = 20.0
# Range of full widths at half maximum of a PSF, pixel included, in pixels, and the
# largest one that rests on one or two sources.
_MIN_FWHM, _MAX_FWHM, _MAX_FWHM_ALONE = 1.2, 30.0, 12.0
# Share of the brightest pixel in 3 x 3: 0.7 for a PSF of the least width that is
# centred on a pixel.
_MAX_SHARPNESS = 0.62
_MAX_ELLIPTICITY = 0.6
# Errors of logarithm of size and of ellipticities beside that of the noise: PSFs
# vary over an image, and moments with the place within a pixel.
_ERRORS, _NOISE_ERRORS = np.array([0.03, 0.06, 0.06]), np.array([1.0, 1.5, 1.5])
# The lower edge: the smallest size at which the density of sources is at least so
# many sources, and this share of the largest density.
_MIN_DENSITY, _DENSITY_SHARE = 2.4, 0.3
# Sizes beyond the lower edge, as a logarithm, within which the locus lies.
_LOCUS_WIDTH = 0.15
# Members differ from the locus by no more, beside so many times their own error.
_SIZE_SPAN, _ELLIPTICITY_SPAN, _SPAN_ERRORS = 0.10, 0.12, (2.5, 3.5)
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
    spans = np.array([_SIZE_SPAN, _ELLIPTICITY_SPAN])
    spans = spans + _SPAN_ERRORS / sources.snr[:, None]
    local = np.broadcast_to(own[usable[center]], own.shape)
    places = places_of(sources)
    for _ in range(_N_TURNS + 1):
        off = own - local
        near = np.zeros(len(own), bool)
        near[usable] = True
        near &= (np.abs(off[:, 0]) < spans[:, 0]) & (
            np.hypot(*off[:, 1:].T) < spans[:, 1]
        )
        if not near.any():
            near[usable[center]] = True
            break
        local = trend(places, own, np.where(near[:, None], errors, np.inf))
    rest = (reasons == '') & ~near
    reasons[rest & (off[:, 0] > 0)] = 'extended'
    reasons[rest & (off[:, 0] <= 0)] = 'sharper than the stars'
    reasons[rest & (np.abs(off[:, 0]) < spans[:, 0])] = 'ellipticity'
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
