# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Where light is missing in a catalogue, or in its image.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

from ._statistics import normal_p_value

__all__ = ['Place', 'correlated_factor', 'find_peaks', 'join_places']

# Scales in pixels by which light that is no star may be broader.
_BROADER = (0.0, 2.0, 4.0)
# How much more significant a broad peak must be to be called one, and the
# most peaks of each sign that are kept.
_CLEARLY = 0.7
_N_MOST = 500


@dataclass
class Place:
    """
    A place where an image and its catalogue differ.

    Attributes
    ----------
    kind : str
        ``'missing'``, ``'extended'``, ``'surplus'``, ``'broad'``, ``'narrow'``
        or ``'misfit'``.

    x, y : float
        Pixels.

    sigmas : float
        How significant it is, positive.

    p_value : float
        That any place of an image without faults has as much.

    value : float
        Flux, or relative width; see ``kind``.
    """

    kind: str
    x: float
    y: float
    sigmas: float
    p_value: float
    value: float


def _filtered(residual, inverse, sigma):
    """
    Flux of a Gaussian centred on each pixel, and its error for white noise.
    """
    total = gaussian_filter(residual * inverse, sigma, mode='constant', truncate=3.5)
    # The square of a Gaussian is a narrower one of height 1 / (4 pi sigma^2).
    weight = gaussian_filter(inverse, sigma / np.sqrt(2), mode='constant', truncate=4)
    weight = np.maximum(weight, 1e-6 * weight.max()) / (4 * np.pi * sigma**2)
    return total / weight, 1 / np.sqrt(weight)


def correlated_factor(kernel, sigma):
    """
    By how much correlations change the variance of what a Gaussian weights.

    Parameters
    ----------
    kernel : float `~numpy.ndarray`
        Correlation of the noise.

    sigma : float
        Of the Gaussian, in pixels.

    Returns
    -------
    factor : float
        Above 1 for positive correlations.
    """
    half = len(kernel) // 2
    step = np.arange(-half, half + 1)
    overlap = np.exp(-(step[:, None] ** 2 + step**2) / (4 * sigma**2))
    return max(float((kernel * overlap).sum()), 0.05)


def find_peaks(residual, error, good, *, fwhm, kernel, scale, limit):
    """
    Find light that is left over, or that was taken off too much.

    Parameters
    ----------
    residual, error : float `~numpy.ndarray`, shape (ny, nx)
        Image less the catalogue, and the noise of each pixel.

    good : bool `~numpy.ndarray`, shape (ny, nx)
        Pixels to use.

    fwhm : float
        Of the PSF, in pixels.

    kernel : float `~numpy.ndarray`
        Correlation of the noise.

    scale : float
        Factor by which the noise is larger than stated.

    limit : float
        Largest p-value, allowing for the number of places.

    Returns
    -------
    places : list of `Place`
        The most significant first.
    """
    inverse = np.where(good, 1 / np.square(error), 0).astype(np.float32)
    # Half of a filter's weight must be on good pixels.
    best, flux, which = None, None, None
    for k, broader in enumerate(_BROADER):
        sigma = float(np.hypot(fwhm / 2.355, broader))
        value, own = _filtered(np.where(good, residual, 0), inverse, sigma)
        own *= scale * np.sqrt(correlated_factor(kernel, sigma))
        seen = gaussian_filter(good.astype(np.float32), sigma, mode='constant') > 0.5
        snr = np.where(seen, value / own, 0)
        if best is None:
            best, flux, which = snr, value, np.zeros(snr.shape, np.int8)
            n_places = 2 * len(_BROADER) * snr.size / (4 * np.pi * sigma**2)
            continue
        more = np.abs(snr) > np.abs(best) + _CLEARLY
        best, flux = np.where(more, snr, best), np.where(more, value, flux)
        which[more] = k
    threshold = 4.0
    places = []
    reach = 2 * int(np.ceil(fwhm)) + 1
    for sign in (1, -1):
        snr = sign * best
        peak = (snr > threshold) & (snr == maximum_filter(snr, reach))
        rows, columns = np.nonzero(peak)
        order = np.argsort(-snr[rows, columns])[:_N_MOST]
        for row, column in zip(rows[order], columns[order], strict=True):
            sigmas = float(snr[row, column])
            p_value = float(normal_p_value(sigmas, two_sided=False)) * n_places
            if p_value > limit:
                continue
            kind = 'surplus'
            if sign > 0:
                kind = 'missing' if which[row, column] == 0 else 'extended'
            value = float(flux[row, column])
            places.append(
                Place(kind, float(column), float(row), sigmas, min(p_value, 1.0), value)
            )
    return sorted(places, key=lambda place: -place.sigmas)


def join_places(places, reach):
    """
    Keep the most significant of places next to each other.

    Parameters
    ----------
    places : list of `Place`
        Any number.

    reach : float
        Distance in pixels.

    Returns
    -------
    places : list of `Place`
        The most significant first.
    """
    from scipy.spatial import cKDTree

    places = sorted(places, key=lambda place: -place.sigmas)
    if len(places) < 2:
        return places
    points = np.array([(place.x, place.y) for place in places])
    near = cKDTree(points).query_ball_point(points, reach)
    kept, taken = [], np.zeros(len(places), dtype=bool)
    for k, place in enumerate(places):
        if not taken[k]:
            kept.append(place)
            taken[near[k]] = True
    return kept
