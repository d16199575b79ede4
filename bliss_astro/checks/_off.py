# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sources that are not what a catalogue says, and what a wrong PSF makes of them.
"""

import numpy as np
from scipy.special import gammaincc

from ._places import Place, join_places
from ._statistics import LIMIT, PSF_WIDTH, normal_p_value, sigmas_of

__all__ = ['join_all', 'sources_off']

# Excess of a source's width that matters, and the signal-to-noise ratio from
# which on it is told.
_SOURCE_WIDTH, _WIDTH_SNR = 0.03, 20.0
# Share of a galaxy's light that no simple profile describes.
_ARMS = 0.15


def join_all(peaks, found, stars, sources, psf_is_wrong, fwhm):
    """
    Join all places that differ, without what a wrong PSF explains.

    Parameters
    ----------
    peaks, found : list of `~bliss_astro.checks._places.Place`
        Of residuals, and of sources.

    stars : `~bliss_astro.checks._stars.SourceStatistics`
        Brighter sources.

    sources : `~bliss_astro.rendering._scene.Sources`
        All sources.

    psf_is_wrong : bool
        Whether it was found to be.

    fwhm : float
        Of the PSF in pixels.

    Returns
    -------
    places : list of `~bliss_astro.checks._places.Place`
        Each once, the most significant first.
    """
    bright = sources.select(stars.index)
    left = [p for p in peaks if not _explained(p, bright, psf_is_wrong, fwhm)]
    return join_places(found + left, 2.0 * fwhm)


def sources_off(stars, also, sources, scale, shift, psf_is_wrong):
    """
    Find sources that are broader or narrower than stars, or otherwise off.

    They must be so in the first draw and against the median of all, so that it is
    not one draw's misfortune.

    Parameters
    ----------
    stars, also : `~bliss_astro.checks._stars.SourceStatistics`
        Of the residuals of the first draw, and of the median.

    sources : `~bliss_astro.rendering._scene.Sources`
        All sources of the first draw.

    scale : float
        Factor by which the noise is larger than stated.

    shift : float
        By how much stars are broader than the PSF, relative.

    psf_is_wrong : bool
        Whether it was found to be.

    Returns
    -------
    places : list of `~bliss_astro.checks._places.Place`
        In no order.
    """
    x, y = sources.x[stars.index], sources.y[stars.index]
    n = max(len(stars.snr), 1)
    places, pulls = [], []
    for part in (stars, also):
        error = np.hypot(scale * part.distortion_err[0], _SOURCE_WIDTH / 3)
        pulls.append((part.distortion[0] - shift) / error)
    same = np.sign(pulls[0]) == np.sign(pulls[1])
    pull = np.where(same, np.min(np.abs(pulls), axis=0), 0)
    p_values = np.minimum(1, n * normal_p_value(pull))
    excess = stars.distortion[0] - shift
    told = (p_values < LIMIT) & (np.abs(excess) > _SOURCE_WIDTH)
    told &= (stars.snr > _WIDTH_SNR) & ~sources.is_galaxy[stars.index]
    for k in np.nonzero(told)[0]:
        kind = 'broad' if excess[k] > 0 else 'narrow'
        found = (pull[k], float(p_values[k]), float(excess[k]))
        places.append(Place(kind, x[k], y[k], *found))
    if psf_is_wrong:
        return places
    # A galaxy need not be a simple profile, so much is told of stars only.
    both = [_misfit(part, scale) for part in (stars, also)]
    p_values = np.minimum(1, n * np.maximum(*both))
    p_values[sources.is_galaxy[stars.index]] = 1.0
    for k in np.nonzero(p_values < LIMIT)[0]:
        sigmas = sigmas_of(p_values[k] / n)
        places.append(Place('misfit', x[k], y[k], sigmas, float(p_values[k]), 0.0))
    return places


def _misfit(stars, scale):
    """P-values of the chi-square of sources' own pixels."""
    # What an error of the PSF that does not matter adds.
    slack = scale**2 + (PSF_WIDTH * stars.snr) ** 2 / np.maximum(stars.n_pixels, 1)
    with np.errstate(invalid='ignore', divide='ignore'):
        step = stars.chi2_err**2 / (2 * stars.n_pixels)
        freedom = 2 * stars.n_pixels**2 / stars.chi2_err**2
        p_values = gammaincc(freedom / 2, stars.chi2 / slack / step / 2)
    return np.nan_to_num(p_values, nan=1.0)


def _explained(peak, bright, psf_is_wrong, fwhm):
    """Whether a peak is what a wrong profile leaves of a bright source nearby."""
    if len(bright) == 0:
        return False
    apart = np.hypot(bright.x - peak.x, bright.y - peak.y)
    share = np.full(len(bright), 0.3 if psf_is_wrong else 0.02)
    reach = np.full(len(bright), 2.0 * fwhm)
    if bright.galaxy is not None:
        # Spiral arms, bars and rings.
        radius = bright.galaxy[:, 4:].max(1)
        share = np.where(bright.is_galaxy, np.maximum(share, _ARMS), share)
        reach = np.where(bright.is_galaxy, reach + radius, reach)
    # Rings and wings are fainter the farther out they are.
    share = np.maximum(share * np.exp(-apart / reach), 2e-3 * (apart < 4 * reach))
    return bool(np.any(np.abs(peak.value) < share * bright.flux))
