# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars against the PSF, and places where a catalogue and its image differ.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from scipy.special import ndtr

from bliss_astro.psf._mixture import profile_of_shape, profile_with_gradient
from bliss_astro.units import FWHM_PER_SIGMA

from ._residuals import (
    LIMIT,
    PSF_WIDTH,
    MatchedFilter,
    Stamps,
    local_peaks,
    normal_p_value,
    sigmas_of,
    stamp_half,
)

# Smallest signal-to-noise ratio of the sources that are looked at, and the most of
# the brightest.
_SNR_MIN, _MAX_SOURCES = 8.0, 3000
# Relative step of the derivatives, and how many stars are worked on at once.
_STEP, _PIECE = 0.02, 256
# Error of a PSF's width that no survey avoids: no star counts for more.
_FLOOR = 0.01
# Lengths among the parameters of a PSF's shape.
_LENGTHS = torch.tensor([True, True, False, True, False, False, False, False])
# Scales in pixels by which light that is no star may be broader, and how much more
# significant a broad peak must be to be called one.
_BROADER, _CLEARLY = (0.0, 2.0, 4.0), 0.7
# Significance above which peaks are looked at, and the most of them of each sign.
_PEAK_SIGMAS, _MAX_PEAKS = 4.0, 500
# Share of the light of bright stars that their profiles may leave, where the PSF is
# right and where it was found to be wrong, and of galaxies, which have arms.
_RIGHT, _WRONG, _ARMS = 0.02, 0.3, 0.15
# Excess of a source's width that matters, and the signal-to-noise ratio from
# which on it is looked at.
_SOURCE_WIDTH, _WIDTH_SNR = 0.03, 20.0


class SourceStatistics(NamedTuple):
    """
    Signal, shape and chi-square of N sources (rows ``index``) by their pixels.

    ``distortion`` and ``distortion_err`` ``(3, N)`` are the width of the source over
    that of the PSF less 1, and its ellipticities e1, e2 less those of the PSF; ``chi2``
    is that of the ``n_pixels`` within a FWHM.
    """

    index: np.ndarray
    snr: np.ndarray
    distortion: np.ndarray
    distortion_err: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray


def source_statistics(residuals, sources, renderer, fwhm, *, index=None):
    """Compare the brighter sources, or those of an index, with PSF and noise."""
    chosen = index is not None
    if not chosen:
        index = sources.brightest(residuals.shape, _MAX_SOURCES)
    pieces = [
        _one_piece(residuals, sources.select(part), renderer, fwhm)
        for part in np.array_split(index, max(1, -(-len(index) // _PIECE)))
    ]
    columns = [np.concatenate(parts, axis=-1) for parts in zip(*pieces, strict=True)]
    columns = [index, *columns]
    if not chosen:
        bright = columns[1] > _SNR_MIN
        columns = [values[..., bright] for values in columns]
    return SourceStatistics(*columns)


def _one_piece(residuals, sources, renderer, fwhm):
    """Statistics of a few hundred sources, without their index."""
    stamps = Stamps(residuals, sources.x, sources.y, stamp_half(fwhm))
    good = torch.from_numpy(stamps.use.astype(np.float32))
    ratio = torch.from_numpy(residuals.ratio[stamps.at]) * good
    shape = renderer.shape_at(sources.x, sources.y)[:, None, None]
    scale = sources.flux[:, None, None] * stamps.weight
    templates = _templates(shape, stamps.dx, stamps.dy, renderer.radius)
    templates = templates * torch.from_numpy(scale.astype(np.float32))
    snr = templates[0].square().sum((1, 2)).sqrt() / np.sqrt(residuals.excess)
    near = good * (stamps.dx**2 + stamps.dy**2 <= max(fwhm, 2.0) ** 2)
    distortions = _distortions(templates, ratio, residuals.kernel)
    columns = snr, *distortions, (ratio**2 * near).sum((1, 2)), near.sum((1, 2))
    return [value.double().numpy() for value in columns]


def _templates(shape, dx, dy, radius):
    """Profile, its two shifts, and three distortions, ``(6, N, P, P)``."""

    def slope(change):
        low, high = (
            profile_of_shape(change(step), dx, dy, radius=radius)
            for step in (-_STEP, _STEP)
        )
        return (high - low) / (2 * _STEP)

    width = slope(lambda step: shape * torch.where(_LENGTHS, 1 + step, 1.0))
    axes = torch.eye(8)[6:]
    elongation = [slope(lambda step, axis=axis: shape + step * axis) for axis in axes]
    parts = profile_with_gradient(shape, dx, dy, radius=radius)
    return torch.stack([*parts, width, *elongation])


def _distortions(templates, ratio, kernel):
    """Each distortion by itself and its error ``(3, N)``, beside flux and position."""
    base = templates[:3].flatten(2).permute(1, 2, 0)  # (N, P P, 3)
    # Columns of unit length, so that the solution is well conditioned.
    base = base / base.norm(dim=1, keepdim=True).clamp(min=1e-12)
    gram = base.transpose(1, 2) @ base + 1e-6 * torch.eye(3)
    lags = torch.from_numpy(kernel.astype(np.float32))[None, None]
    values, errors = [], []
    for template in templates[3:]:
        flat = template.flatten(1)[..., None]
        known = torch.linalg.solve(gram, base.transpose(1, 2) @ flat)
        own = (flat - base @ known)[..., 0]
        strength = (own * own).sum(-1).clamp(min=1e-12)
        spread = torch.nn.functional.conv2d(
            own.view_as(template)[:, None], lags, padding=len(kernel) // 2
        )
        variance = (own * spread.flatten(1)).sum(-1).clamp(min=0.05 * strength)
        values.append((own * ratio.flatten(1)).sum(-1) / strength)
        errors.append(variance.sqrt() / strength)
    return torch.stack(values), torch.stack(errors)


def combine(values, errors):
    """
    Mean of what most sources agree on, its error and pull, and the number used.

    Outliers are left out.  The pull is the mean in units of its error without the one
    source that makes it most significant: a fault of the PSF is seen in more than one.
    """
    spread = np.hypot(errors, _FLOOR)
    weight = spread**-2
    order = np.argsort(values)
    share = np.cumsum(weight[order])
    middle = values[order][np.searchsorted(share, 0.5 * share[-1])] if len(order) else 0
    for _ in range(5):
        keep = np.abs(values - middle) < 4 * spread
        if not keep.any():
            return np.nan, np.nan, 0.0, 0
        total = weight[keep].sum()
        middle = np.sum(weight[keep] * values[keep]) / total
    value, weight, noise = values[keep], weight[keep], (weight * errors)[keep] ** 2
    error = np.sqrt(noise.sum()) / total
    others = np.sum(weight * value) - weight * value
    left = np.sqrt(np.maximum(noise.sum() - noise, 1e-30))
    pull = np.abs(others / left).min() if len(value) > 1 else 0.0
    return float(middle), float(error), float(pull), int(keep.sum())


# -- places ----------------------------------------------------------------------


class Place(NamedTuple):
    """
    A place in pixels where an image and its catalogue differ.

    ``kind`` is 'missing', 'extended', 'surplus' (``value`` is a flux), 'broad',
    'narrow' (a relative width) or 'misfit'; the p-value is that of any place of an
    image without faults.
    """

    kind: str
    x: float
    y: float
    sigmas: float
    p_value: float
    value: float = 0.0


def find_peaks(residuals, *, fwhm, scale):
    """Find light that is left over, or that was taken off too much (list of `Place`).

    The noise is larger than stated by a factor ``scale``.
    """
    left, narrow = residuals.ratio * residuals.error, fwhm / FWHM_PER_SIGMA
    best = np.zeros(residuals.shape, dtype=np.float32)
    flux, which = np.zeros_like(best), np.zeros(best.shape, np.int8)
    for k, broader in enumerate(_BROADER):
        matched = MatchedFilter(residuals, float(np.hypot(narrow, broader)), scale)
        value = matched(left)
        snr = np.where(matched.seen, value / matched.error, 0)
        more = np.abs(snr) > np.abs(best) + _CLEARLY * (k > 0)
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
            kind = 'missing' if which[row, column] == 0 else 'extended'
            kind = kind if sign > 0 else 'surplus'
            numbers = sigmas, float(ndtr(-sigmas)) * n_places, float(flux[row, column])
            places.append(Place(kind, float(column), float(row), *numbers))
    return [place for place in places if place.p_value <= LIMIT]


def sources_off(residuals, stars, sources, scale, shift, *, psf_is_wrong):
    """
    Find sources that are broader or narrower than stars, or otherwise not as stated.

    Their `SourceStatistics` are those of the median of all draws, so that it is not one
    draw's misfortune; p-values err on the safe side.  Stars are broader than the PSF
    by ``shift``.
    """
    x, y = sources.x[stars.index], sources.y[stars.index]
    star = ~sources.is_galaxy[stars.index]
    n = max(len(x), 1)
    excess = stars.distortion[0] - shift
    pull = np.abs(excess) / np.hypot(scale * stars.distortion_err[0], _SOURCE_WIDTH / 3)
    p_values = np.minimum(1, n * normal_p_value(pull))
    wrong = (p_values < LIMIT) & (np.abs(excess) > _SOURCE_WIDTH)
    wrong &= (stars.snr > _WIDTH_SNR) & star
    places = []
    for k in np.nonzero(wrong)[0]:
        kind = 'broad' if excess[k] > 0 else 'narrow'
        numbers = x[k], y[k], pull[k], float(p_values[k]), float(excess[k])
        places.append(Place(kind, *numbers))
    if psf_is_wrong:
        return places
    # A galaxy need not be a simple profile, so this is a test of stars only. Some is
    # allowed for an error of the PSF that does not matter.
    pixels = np.maximum(stars.n_pixels, 1)
    slack = scale**2 + (PSF_WIDTH * stars.snr) ** 2 / pixels
    p_values = n * residuals.chi2_p_value(stars.chi2 / slack, pixels)
    return places + [
        Place('misfit', x[k], y[k], sigmas_of(p_values[k] / n), float(p_values[k]))
        for k in np.nonzero(star & (p_values < LIMIT))[0]
    ]


def join_places(places, bright, *, psf_is_wrong, fwhm):
    """Leave out what a wrong profile explains, and all but the gravest within 2 FWHM.

    Parameters are a list of `Place` and the brighter `Sources`.
    """
    flux_off = ('missing', 'extended', 'surplus')
    places = [
        place
        for place in places
        if place.kind not in flux_off
        or not _explained(place, bright, psf_is_wrong, fwhm)
    ]
    places.sort(key=lambda place: -place.sigmas)
    kept = []
    for place in places:
        if all(math.dist(place[1:3], p[1:3]) > 2.0 * fwhm for p in kept):
            kept.append(place)
    return kept


def _explained(peak, bright, psf_is_wrong, fwhm):
    """Whether a peak is what a wrong profile leaves of a bright source nearby."""
    apart = np.hypot(bright.x - peak.x, bright.y - peak.y)
    share = np.full(len(bright), _WRONG if psf_is_wrong else _RIGHT)
    reach = np.full(len(bright), 2.0 * fwhm)
    if bright.galaxy is not None:
        # Spiral arms, bars and rings.
        share = np.where(bright.is_galaxy, np.maximum(share, _ARMS), share)
        reach += bright.is_galaxy * bright.galaxy[:, 4:].max(1)
    # Rings and wings are fainter the farther out they are.
    share = np.maximum(share * np.exp(-apart / reach), 2e-3 * (apart < 4 * reach))
    return bool(np.any(np.abs(peak.value) < share * bright.flux))


# -- words -------------------------------------------------------------------------


def describe_places(places, exposure, bright, fwhm):
    """Kind, text and `Place` of each finding, with what lies near it."""
    masked = exposure.mask
    if masked.any():
        masked = binary_dilation(masked, iterations=int(2 * fwhm))
    ny, nx = masked.shape
    for place in places:
        apart = np.hypot(bright.x - place.x, bright.y - place.y)
        n_near = int(np.count_nonzero(apart < 2.0 * fwhm))
        kind, text = _kind_and_text(place, n_near, exposure.unit)
        row, column = (
            int(np.clip(round(v), 0, n - 1)) for v, n in ((place.y, ny), (place.x, nx))
        )
        ends = place.x + 0.5, place.y + 0.5, nx - 0.5 - place.x, ny - 0.5 - place.y
        if masked[row, column]:
            text += ', next to masked pixels'
        elif min(ends) < 2.5 * fwhm:
            text += ', at the border: light of a source beyond it?'
        yield kind, text, place


def _kind_and_text(place, n_near, unit):
    where = f'({place.x:.0f}, {place.y:.0f})'
    words = f'{place.sigmas:.1f} sigma'
    if place.kind in ('broad', 'narrow'):
        cause = 'a galaxy or a blend' if place.kind == 'broad' else 'a blemish'
        return 'source shape', (
            f'the source at {where} is {100 * abs(place.value):.0f} % {place.kind}er '
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
