# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Places where a catalogue and its image differ: peaks of the residual, in plain words.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from bliss_astro.units import FWHM_PER_SIGMA

from ._residuals import LIMIT, MatchedFilter, local_peaks, normal_p_value

__all__ = ['CheckFinding', 'Place', 'describe_places', 'find_peaks', 'join_places']

# Scales in pixels by which light that is no star may be broader, and how much more
# significant a broad peak must be to be called one.
_BROADER, _CLEARLY = (0.0, 2.0, 4.0), 0.7
# Significance above which peaks are looked at, and the most of them of each sign.
_PEAK_SIGMAS, _MAX_PEAKS = 4.0, 500
# Share of the light of bright stars that their profiles may leave, where the PSF is
# right and where it was found to be wrong, and of galaxies, which have arms.
_RIGHT, _WRONG, _ARMS = 0.02, 0.3, 0.15


@dataclass(frozen=True)
class CheckFinding:
    """
    One test of a catalogue against its image.

    Attributes
    ----------
    kind : str
        Quantity tested: ``'noise'``, ``'photon noise'``, ``'background'``,
        ``'psf'``, ``'psf shape'``, ``'cells'``, ``'draws'``, or of a place
        ``'missing source'``, ``'extended source'``, ``'surplus light'``, ``'source
        shape'``.

    text : str
        Meaning, in plain words.

    alarm : bool
        Whether it is a fault: more than noise makes, and more than matters.

    x, y : float
        The place in pixels; NaN if it is not about one place.

    value, error : float
        Measured quantity: relative error of the noise or of the sources' variance,
        offset of the sky in units of its noise, relative error of the PSF's
        width, share of regions, flux of a place, relative excess of a source's width.

    sigmas, p_value : float
        Its significance; the p-value allows for the tests of its kind, not for the
        other kinds.
    """

    kind: str
    text: str
    alarm: bool
    x: float
    y: float
    value: float
    error: float
    sigmas: float
    p_value: float


@dataclass(frozen=True)
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
        Significance, positive.

    p_value : float
        P-value of any place of an image without faults.

    value : float
        Flux, or relative width; see ``kind``.
    """

    kind: str
    x: float
    y: float
    sigmas: float
    p_value: float
    value: float


def find_peaks(residuals, *, fwhm, scale):
    """
    Find light that is left over, or that was taken off too much.

    Parameters
    ----------
    residuals : `~bliss_astro.checks._residuals.Residuals`
        Image less the catalogue.

    fwhm : float
        Full width at half maximum of the PSF in pixels.

    scale : float
        Factor by which the noise is larger than stated.

    Returns
    -------
    places : list of `Place`
        The most significant first.
    """
    left = residuals.ratio * residuals.error
    narrow = fwhm / FWHM_PER_SIGMA
    best = flux = which = None
    for k, broader in enumerate(_BROADER):
        matched = MatchedFilter(residuals, float(np.hypot(narrow, broader)), scale)
        value = matched(left)
        snr = np.where(matched.seen, value / matched.error, 0)
        if best is None:
            best, flux, which = snr, value, np.zeros(snr.shape, np.int8)
            continue
        more = np.abs(snr) > np.abs(best) + _CLEARLY
        best, flux = np.where(more, snr, best), np.where(more, value, flux)
        which[more] = k
    n_places = 2 * len(_BROADER) * best.size / (4 * np.pi * narrow**2)
    places = []
    for sign in (1, -1):
        snr = sign * best
        rows, columns = local_peaks(snr, _PEAK_SIGMAS, fwhm)
        order = np.argsort(-snr[rows, columns])[:_MAX_PEAKS]
        for row, column in zip(rows[order], columns[order], strict=True):
            sigmas = float(snr[row, column])
            p_value = float(normal_p_value(sigmas, two_sided=False)) * n_places
            if p_value > LIMIT:
                continue
            kind = 'surplus'
            if sign > 0:
                kind = 'missing' if which[row, column] == 0 else 'extended'
            value = float(flux[row, column])
            places.append(
                Place(kind, float(column), float(row), sigmas, p_value, value)
            )
    return places


def join_places(peaks, found, bright, psf_is_wrong, fwhm):
    """
    Join all places that differ, without what a wrong profile explains.

    Parameters
    ----------
    peaks, found : list of `Place`
        Peaks of residuals, and sources.

    bright : `~bliss_astro.rendering._scene.Sources`
        Brighter sources.

    psf_is_wrong : bool
        Whether it was found to be.

    fwhm : float
        Full width at half maximum of the PSF in pixels.

    Returns
    -------
    places : list of `Place`
        The most significant ones within two FWHM, and the most significant first.
    """
    places = found + [p for p in peaks if not _explained(p, bright, psf_is_wrong, fwhm)]
    places.sort(key=lambda place: -place.sigmas)
    if len(places) < 2:
        return places
    points = np.array([(place.x, place.y) for place in places])
    near = cKDTree(points).query_ball_point(points, 2.0 * fwhm)
    kept, taken = [], np.zeros(len(places), dtype=bool)
    for k, place in enumerate(places):
        if not taken[k]:
            kept.append(place)
            taken[near[k]] = True
    return kept


def _explained(peak, bright, psf_is_wrong, fwhm):
    """Whether a peak is what a wrong profile leaves of a bright source nearby."""
    apart = np.hypot(bright.x - peak.x, bright.y - peak.y)
    share = np.full(len(bright), _WRONG if psf_is_wrong else _RIGHT)
    reach = np.full(len(bright), 2.0 * fwhm)
    if bright.galaxy is not None:
        # Spiral arms, bars and rings.
        radius = bright.galaxy[:, 4:].max(1)
        share = np.where(bright.is_galaxy, np.maximum(share, _ARMS), share)
        reach = np.where(bright.is_galaxy, reach + radius, reach)
    # Rings and wings are fainter the farther out they are.
    share = np.maximum(share * np.exp(-apart / reach), 2e-3 * (apart < 4 * reach))
    return bool(np.any(np.abs(peak.value) < share * bright.flux))


# -- words -------------------------------------------------------------------------


def describe_places(places, exposure, bright, fwhm):
    """
    Turn places into findings, with what lies near them.

    Parameters
    ----------
    places : list of `Place`
        The places.

    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    bright : `~bliss_astro.rendering._scene.Sources`
        Sources that are bright enough to matter.

    fwhm : float
        Full width at half maximum of the PSF in pixels.

    Returns
    -------
    findings : list of `CheckFinding`
        Alarms.
    """
    masked = exposure.mask
    if masked.any():
        masked = binary_dilation(masked, iterations=int(2 * fwhm))
    findings = []
    for place in places:
        apart = np.hypot(bright.x - place.x, bright.y - place.y)
        n_near = int(np.count_nonzero(apart < 2.0 * fwhm))
        kind, text = _kind_and_text(place, n_near, exposure.unit)
        text += _circumstances(place, masked, fwhm)
        numbers = (place.x, place.y, place.value, np.nan, place.sigmas, place.p_value)
        findings.append(CheckFinding(kind, text, True, *numbers))
    return findings


def _kind_and_text(place, n_near, unit):
    where = f'({place.x:.0f}, {place.y:.0f})'
    words = f'{place.sigmas:.1f} sigma'
    if place.kind in ('broad', 'narrow'):
        side, cause = {
            'broad': ('broader', 'a galaxy or a blend'),
            'narrow': ('narrower', 'a blemish'),
        }[place.kind]
        return 'source shape', (
            f'the source at {where} is {100 * abs(place.value):.0f} % {side} '
            f'than a star ({words}): {cause}?'
        )
    if place.kind == 'misfit' or (n_near and place.kind != 'surplus'):
        which = f'the {n_near} sources' if n_near > 1 else 'the source'
        return 'source shape', (
            f'{which} at {where} of the catalogue {"are" if n_near > 1 else "is"} not '
            f'what the image has there ({words}): a galaxy or a blend?'
        )
    if place.kind == 'surplus':
        text = f'the catalogue has light at {where} that the image lacks ({words})'
        return 'surplus light', text
    flux = f'flux about {abs(place.value):.3g}{"" if unit is None else f" {unit}"}'
    source = 'a point source' if place.kind == 'missing' else 'an extended source'
    text = f'{source} at {where} that the catalogue lacks ({words}, {flux})'
    return f'{place.kind} source', text


def _circumstances(place, masked, fwhm):
    ny, nx = masked.shape
    row = int(np.clip(round(place.y), 0, ny - 1))
    column = int(np.clip(round(place.x), 0, nx - 1))
    if masked[row, column]:
        return ', next to masked pixels'
    edge = min(place.x + 0.5, place.y + 0.5, nx - 0.5 - place.x, ny - 0.5 - place.y)
    return ', at the border: light of a source beyond it?' if edge < 2.5 * fwhm else ''
