# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of a catalogue against its image, and their findings in plain words.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import zoom
from scipy.special import bdtrc

from bliss_astro.units import MAD_TO_SIGMA

from ._causes import (
    STRUCTURES,
    describe_cause,
    describe_places,
    explain_residual,
    find_peaks,
    join_places,
    sources_off,
)
from ._residuals import (
    LIMIT,
    PSF_WIDTH,
    Stamps,
    cell_statistics,
    cells_of,
    normal_p_value,
    sigmas_of,
    stamp_half,
    variance_parts,
)

# Faults smaller than these do no harm that the errors would show: of the noise, of
# the sources' variance, of the sky in units of its noise, and of the PSF's
# ellipticities.
_NOISE, _GAIN, _SKY, _ELLIPTICITY = 0.02, 0.08, 0.05, 0.03
# The same of residuals in shares of the light, and of the scatter of draws; and the
# fewest sources by which the latter is tested.
_SHAPE, _SPREAD, _DRAW_SOURCES = 0.03, 0.5, 60
# Standard error of a median absolute deviation of n normal numbers, times sqrt(n).
_MAD_ERROR = 1.17
# P-value of the regions that are counted.
_RARE = 1e-3
# Smallest signal-to-noise ratio of the stars that measure a PSF.
_STAR_SNR = 15.0
# Sides in pixels from which on parts of an image are looked at apart.
_SECTOR_MIN = 64
# Pixels in which the sky makes up this share of the variance are empty; the same of
# pixels that measure the level of the sky.
_EMPTY, _SKY_PIXEL = 0.98, 0.8
# Radius in FWHM that places which are off spoil; that of galaxies, in FWHM and in
# half-light radii.
_AROUND, _GALAXY_REACH = 4.0, (6.0, 4.0)
_NAMES = (('lower', '', 'upper'), ('left', '', 'right'))
# Smallest signal-to-noise ratio of the sources that are looked at, and the most of
# the brightest.
_SNR_MIN, _MAX_SOURCES = 8.0, 3000
# Number of stars that are worked on at once.
_PIECE = 256
# Error of a PSF's width that no survey avoids: no star counts for more.
_FLOOR = 0.01


def find_faults(exposure, first, residuals, typical, renderer, labels, *, fwhm):
    """
    Run all tests of a catalogue: rows of `CatalogCheck.tests`, faults first.

    The `Residuals` are those of the first draw (`Refined`), which have the noise's own
    distribution, and of the median of the draws, which have less scatter.
    """
    sources = first.sources
    scale = _noise_scale(residuals, first.model)
    _, sectors = _sky_test(residuals, scale)
    sound, quiet = (
        dataclasses.replace(part, ratio=part.ratio - _sky_map(sectors, part))
        for part in (residuals, typical)
    )
    index = sources.brightest(residuals.shape, _MAX_SOURCES)
    stars = _source_statistics(sound, sources, index, renderer, fwhm)
    stars = SourceStatistics(*(v[..., stars.snr > _SNR_MIN] for v in stars))
    also = _source_statistics(quiet, sources, stars.index, renderer, fwhm)
    psf, shift = _psf_test(stars, sources, scale)
    wrong, bright = {'psf_is_wrong': psf['alarm']}, sources.select(stars.index)
    places = sources_off(quiet, also, sources, scale, shift, **wrong)
    places += find_peaks(quiet, fwhm=fwhm, scale=scale)
    places = join_places(places, bright, fwhm=fwhm, **wrong)
    # Again without them: one star that is missing outshines all photon noise.
    spoiled = [p.x for p in places], [p.y for p in places], _AROUND * fwhm
    clean = _without_galaxies(sound, sources, fwhm).without_discs(*spoiled)
    noise = _noise_tests(clean, first.model, **wrong)
    noise.append(_sky_test(residuals.without_discs(*spoiled), scale)[0])
    faults = [test for test in noise if test['alarm']]
    if faults:
        cause = explain_residual(residuals.ratio, residuals.good, residuals.kernel)
        if cause['kind'] in STRUCTURES:
            faults[0]['text'] += f'; {describe_cause(cause)}'
    regions = _cell_test(residuals, first.model, labels)
    tests = [*noise, psf, regions, _draw_test(first.pulls)]
    tests.sort(key=lambda test: (not test['alarm'], -abs(test['sigmas'])))
    return tests + [
        _row(kind, text, True, p.value, np.nan, p.sigmas, p.p_value, p.x, p.y)
        for kind, text, p in describe_places(places, exposure, bright, fwhm)
    ]


def _row(kind, text, alarm, value, error, sigmas, p_value, x=np.nan, y=np.nan):
    numbers = {'x': x, 'y': y, 'value': value, 'error': error}
    numbers |= {'sigmas': sigmas, 'p_value': p_value}
    numbers = {name: float(number) for name, number in numbers.items()}
    return {'kind': kind, 'text': text, 'alarm': bool(alarm), **numbers}


def _test(kind, text, value=0.0, error=np.nan, p_value=1.0, tolerance=0.0):
    alarm = p_value < LIMIT and abs(value) > tolerance
    return _row(kind, text, alarm, value, error, sigmas_of(p_value), p_value)


# -- noise -----------------------------------------------------------------------


def _noise_scale(residuals, model):
    """Factor by which the noise of empty sky is larger than stated, if it is."""
    empty = residuals.keep(residuals.sky_share > _EMPTY)
    (value, *_), (error, *_), _ = variance_parts(empty, model)
    # Within its own error it is as stated, and where it is not known (NaN).
    return float(np.sqrt(value)) if value > 1 + 3 * error else 1.0


def _without_galaxies(residuals, sources, fwhm):
    # A galaxy is no exponential or de Vaucouleurs profile to the last photon: what it
    # leaves must not be taken for the noise of photons.
    some = sources.select(sources.is_galaxy)
    reach = np.array([np.full(len(some), fwhm), some.galaxy[:, 4:].max(1)])
    return residuals.without_discs(some.x, some.y, _GALAXY_REACH @ reach)


def _noise_tests(residuals, model, *, psf_is_wrong):
    """Tests of the stated noise."""
    if psf_is_wrong:  # What it leaves of stars hides the noise of their photons.
        residuals = residuals.keep(residuals.sky_share > _EMPTY)
    values, errors, p_shape = variance_parts(residuals, model)
    tests, known = [], np.isfinite(values)
    if known[0]:
        root = np.sqrt(max(values[0], 0))
        value, error = root - 1, errors[0] / (2 * max(root, 0.1))
        text = (
            f'the noise of the sky is {100 * abs(value):.1f} +- {100 * error:.1f} % '
            f'{"larger" if value > 0 else "smaller"} than bkg_error says'
        )
        p_value = normal_p_value(value / error)
        tests.append(_test('noise', text, value, error, p_value, _NOISE))
    hidden = False
    if known[2]:
        value = np.sqrt(max(values[2], 0))
        error = errors[2] / (2 * max(value, np.sqrt(errors[2])))
        text = (
            f'bright sources leave residuals of {100 * value:.1f} % of their light per '
            'pixel: the shape of the PSF is wrong'
        )
        tests.append(_test('psf shape', text, value, error, p_shape, _SHAPE))
        # Where the model of the light is wrong, its photons' noise is not measurable.
        hidden = tests[-1]['alarm']
    if known[1] and not hidden:
        value, error = values[1] - 1, errors[1]
        more, gain = ('larger', 'high') if value > 0 else ('smaller', 'low')
        text = (
            f'the photon noise of the sources (variance) is {100 * abs(value):.0f} +- '
            f'{100 * error:.0f} % {more} than effective_gain says: the gain is too '
            f'{gain}'
        )
        p_value = normal_p_value(value / error)
        tests.append(_test('photon noise', text, value, error, p_value, _GAIN))
    return tests


# -- draws and regions -------------------------------------------------------------


def _draw_test(pulls):
    """Test of the scatter of drawn fluxes and positions."""
    n = pulls.shape[1]
    if n < _DRAW_SOURCES:
        return _test('draws', 'too few bright sources to judge the draws')
    spread = MAD_TO_SIGMA * np.median(np.abs(pulls), axis=1)
    k = int(np.argmax(spread))
    value, error = spread[k] - 1, _MAD_ERROR / np.sqrt(n)
    # Three of them are tested.
    p_value = min(1.0, 3 * float(normal_p_value(value / error)))
    text = (
        f'drawn {("fluxes", "x", "y")[k]} of bright sources scatter {spread[k]:.2f} '
        f'times as much as the data allow ({n} sources): the posterior is less sharp '
        'than it could be'
    )
    return _test('draws', text, value, error, p_value, _SPREAD)


def _cell_test(residuals, model, labels):
    """Test of the number of regions with a large chi-square."""
    # Beyond what an error of the PSF that does not matter makes of stars.
    slack = 1 + np.square(PSF_WIDTH * model / residuals.error)
    ratio = (residuals.ratio / np.sqrt(slack)).astype(np.float32)
    cells = cell_statistics(dataclasses.replace(residuals, ratio=ratio), labels)
    p_values = cells['p_value'][cells['n_pixels'] > 0]
    n, bad = len(p_values), int(np.sum(p_values < _RARE))
    text = (
        f'{bad} of {n} regions ({100 * bad / n:.2g} %) have a larger chi-square than '
        f'{100 * (1 - _RARE):g} % of replicated images have there'
    )
    p_value = float(bdtrc(bad - 1, n, _RARE)) if bad else 1.0
    return _test('cells', text, bad / n, np.sqrt(_RARE / n), p_value, 2 * _RARE)


# -- sky -------------------------------------------------------------------------


def _sky_test(residuals, scale):
    """Test of the sky's level, and the levels of the parts of the image."""
    grid = tuple(3 if n >= 3 * _SECTOR_MIN else 1 for n in residuals.shape)
    empty = residuals.keep(residuals.sky_share > _SKY_PIXEL)
    labels, _ = cells_of(grid, residuals.shape)
    parts, whole = (cell_statistics(empty, v) for v in (labels, np.zeros_like(labels)))
    value, worst = parts['offset'].reshape(grid), whole['offset'][0]
    error = scale * parts['offset_err'].reshape(grid)
    worst_error = scale * whole['offset_err'][0]
    if not np.isfinite(value).any():
        text = 'too little empty sky to compare with the background'
        return _test('background', text), np.zeros((1, 1))
    pulls = np.abs([*(value / error).ravel(), worst / worst_error])
    p_value = min(1.0, float(normal_p_value(np.nanmax(pulls))) * len(pulls))
    centred = np.abs(value - worst)
    uneven = np.nanmax(centred) > max(0.5 * abs(worst), _SKY)
    uneven &= bool(np.nanmax(centred / error) > 5)
    sectors, where = np.full((1, 1), worst), 'everywhere'
    if uneven:
        sectors = np.nan_to_num(value)
        k = np.unravel_index(np.nanargmax(np.abs(value)), value.shape)
        worst, worst_error = value[k], error[k]
        words = [names[i] for names, i, n in zip(_NAMES, k, grid, strict=True) if n > 1]
        where = f'in the {" ".join(filter(None, words)) or "centre"}'
    text = (
        f'the background is off by {worst:+.2f} +- {worst_error:.2f} sigma of the sky '
        f'{where}: the image is {"brighter" if worst > 0 else "darker"} there than the '
        'exposure says'
    )
    test = _test('background', text, worst, worst_error, p_value, _SKY)
    return test, sectors if test['alarm'] else np.zeros((1, 1))


def _sky_map(sectors, residuals):
    """Offset of the sky in units of each pixel's noise."""
    if sectors.size > 1:
        factors = np.divide(residuals.shape, sectors.shape)
        sectors = zoom(sectors, factors, order=1, mode='nearest', grid_mode=True)
    return sectors.astype(np.float32) * np.sqrt(residuals.sky_share)


# -- PSF -------------------------------------------------------------------------


class SourceStatistics(NamedTuple):
    """Signal, shape and chi-square of N sources (rows ``index``) by their pixels."""

    index: np.ndarray
    snr: np.ndarray
    # (3, N), width over that of the PSF less 1, and e1, e2 less those of the PSF.
    distortion: np.ndarray
    distortion_err: np.ndarray
    # Within a FWHM.
    chi2: np.ndarray
    n_pixels: np.ndarray


def _source_statistics(residuals, sources, index, renderer, fwhm):
    """Compare the sources of an index with PSF and noise."""
    pieces = [
        _one_piece(residuals, sources.select(part), renderer, fwhm)
        for part in np.array_split(index, max(1, -(-len(index) // _PIECE)))
    ]
    columns = (np.concatenate(parts, axis=-1) for parts in zip(*pieces, strict=True))
    return SourceStatistics(index, *columns)


def _one_piece(residuals, sources, renderer, fwhm):
    """Statistics of a few hundred sources, without their index."""
    stamps = Stamps(residuals, sources.x, sources.y, stamp_half(fwhm))
    good = torch.from_numpy(stamps.use.astype(np.float32))
    ratio = torch.from_numpy(residuals.ratio[stamps.at]) * good
    psf = renderer.psf_at(sources.x, sources.y)[:, None, None]
    scale = sources.flux[:, None, None] * stamps.weight
    dx, dy = stamps.dx, stamps.dy
    star, by_x, by_y = psf(dx, dy, gradient=True)
    # Derivatives by a factor of all lengths, but for the flux, and by ellipticities.
    width = dx * by_x + dy * by_y
    e1, e2 = 0.5 * (dx * by_x - dy * by_y), 0.5 * (dy * by_x + dx * by_y)
    templates = torch.stack([star, by_x, by_y, width, e1, e2])
    templates = templates * torch.from_numpy(scale.astype(np.float32))
    snr = templates[0].square().sum((1, 2)).sqrt() / np.sqrt(residuals.excess)
    near = good * (dx**2 + dy**2 <= max(fwhm, 2.0) ** 2)
    distortions = _distortions(templates, ratio, residuals.kernel)
    columns = snr, *distortions, (ratio**2 * near).sum((1, 2)), near.sum((1, 2))
    return [value.double().numpy() for value in columns]


def _distortions(templates, ratio, kernel):
    """
    Each distortion by itself and its error ``(3, N)``, beside flux and position.

    Templates are the profile, its two shifts and three distortions, ``(6, N, P, P)``.
    """
    base = templates[:3].flatten(2).permute(1, 2, 0)  # (N, P P, 3)
    # Columns of unit length, so that the solution is well conditioned.
    base = base / base.norm(dim=1, keepdim=True).clamp(min=1e-12)
    gram = base.mT @ base + 1e-6 * torch.eye(3)
    lags = torch.from_numpy(kernel.astype(np.float32))[None, None]
    flat = templates[3:].flatten(2)[..., None]
    known = torch.linalg.solve(gram, base.mT @ flat)
    own = (flat - base @ known)[..., 0]
    strength = (own * own).sum(-1).clamp(min=1e-12)
    spread = torch.nn.functional.conv2d(
        own.reshape(-1, 1, *templates.shape[2:]), lags, padding=len(kernel) // 2
    )
    variance = (own * spread.view_as(own)).sum(-1).clamp(min=0.05 * strength)
    values = (own * ratio.flatten(1)).sum(-1) / strength
    return values, variance.sqrt() / strength


def _combine(values, errors):
    """Mean of what most sources agree on, its error and pull, and the number used."""
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
    # Without the source that matters most: a fault of the PSF is in more than one.
    pull = np.abs(others / left).min() if len(value) > 1 else 0.0
    return float(middle), float(error), float(pull), int(keep.sum())


def _psf_test(stars, sources, scale):
    """Test of the PSF with the brighter stars, and by how much it is too narrow."""
    use = (stars.snr > _STAR_SNR) & ~sources.is_galaxy[stars.index]
    value, error = stars.distortion[:, use], scale * stars.distortion_err[:, use]
    mean, err, pulls, n = zip(*map(_combine, value, error), strict=True)
    if n[0] == 0:
        return _test('psf', 'too few bright stars to compare with the PSF'), 0.0
    tolerance = np.array([PSF_WIDTH, _ELLIPTICITY, _ELLIPTICITY])
    p_values = np.minimum(1, 3 * normal_p_value(pulls))
    alarm = (np.abs(mean) > tolerance) & (p_values < LIMIT)
    # The width where there is no alarm.
    k = int(np.argmax(np.where(alarm, np.abs(pulls), -1)))
    sigmas = np.abs(value[k] / error[k])
    worst = int(np.argmax(sigmas))
    x, y = (v[stars.index[use][worst]] for v in (sources.x, sources.y))
    shape, fault = 'a ring', f'{100 * abs(mean[k]):.1f} +- {100 * err[k]:.1f} %'
    fault += ' broader than' if mean[k] > 0 else ' narrower than'
    if k:
        shape = 'a clover leaf'
        fault = f'more elongated (e{k} {mean[k]:+.3f} +- {err[k]:.3f}) than'
    text = (
        f'the stars are {fault} the PSF ({n[k]} of them): the PSF is wrong; the worst '
        f'residual has {sigmas[worst]:.0f} sigma in the shape of {shape} around '
        f'({x:.0f}, {y:.0f})'
    )
    test = _test('psf', text, mean[k], err[k], p_values[k], tolerance[k])
    return test, mean[0] if test['alarm'] else 0.0
