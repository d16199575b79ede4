# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of a catalogue against its image, and their findings in plain words.
"""

import dataclasses

import numpy as np
from scipy.ndimage import zoom
from scipy.special import bdtrc

from bliss_astro.units import MAD_TO_SIGMA

from ._causes import STRUCTURES, describe_cause, explain_residual
from ._places import CheckFinding, describe_places, find_peaks, join_places
from ._regions import block_slices, cell_statistics
from ._residuals import (
    LIMIT,
    PSF_WIDTH,
    normal_p_value,
    offset,
    sigmas_of,
    variance_parts,
)
from ._source_statistics import combine, source_statistics, sources_off

__all__ = ['find_faults']

# Faults smaller than these do no harm that the errors would show: of the noise, of
# the sources' variance, of the sky in units of its noise, and of the PSF's
# ellipticities.
_NOISE, _GAIN, _SKY, _LEAN = 0.02, 0.08, 0.05, 0.03
# The same of residuals in shares of the light, and of the scatter of draws; and the
# fewest sources by which the latter is tested.
_SHAPE, _SPREAD, _DRAW_SOURCES = 0.03, 0.5, 60
# P-value of the regions that are counted.
_RARE = 1e-3
# Smallest signal-to-noise ratio of the stars that measure a PSF.
_STAR_SNR = 15.0
# Sides in pixels from which on parts of an image are looked at apart.
_SECTOR_MIN = 64
# Pixels in which the sky makes up this share of the variance are empty, and their
# smallest number that measures a noise.
_EMPTY, _EMPTY_PIXELS = 0.98, 64
# Radius in FWHM that places which are off spoil.
_AROUND = 4.0
_NAMES = (('lower', '', 'upper'), ('left', '', 'right'))


def find_faults(exposure, first, residuals, typical, renderer, labels, *, fwhm):
    """
    Run all tests of a catalogue against its image.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    first : `~bliss_astro.checks._refine.Refined`
        The first draw.

    residuals, typical : `~bliss_astro.checks._residuals.Residuals`
        Residuals of the first draw, which have the noise's own distribution, and of
        the median of the draws, which have less scatter.

    renderer : `~bliss_astro.rendering._scene.ModelRenderer`
        Renderer, with the PSF.

    labels : int `~numpy.ndarray`, shape (ny, nx)
        The region of each pixel.

    fwhm : float
        Full width at half maximum of the PSF in pixels.

    Returns
    -------
    tests : tuple of `CheckFinding`
        Faults of the image first, then places, the most significant first.
    """
    sources = first.sources
    scale = _noise_scale(residuals)
    sky, sectors = _sky_test(residuals, scale)
    sound, quiet = (
        dataclasses.replace(part, ratio=part.ratio - _sky_map(sectors, part))
        for part in (residuals, typical)
    )
    stars = source_statistics(sound, sources, renderer, fwhm)
    also = source_statistics(quiet, sources, renderer, fwhm, index=stars.index)
    psf, shift = _psf_test(stars, sources, scale)
    bright = sources.select(stars.index)
    peaks = find_peaks(quiet, fwhm=fwhm, scale=scale)
    found = sources_off(stars, also, sources, scale, shift, psf.alarm)
    places = join_places(peaks, found, bright, psf.alarm, fwhm)
    # Again without them: one star that is missing outshines all photon noise.
    spoiled = [p.x for p in places], [p.y for p in places], _AROUND * fwhm
    noise = _noise_tests(
        _without_galaxies(sound, sources, fwhm).without_discs(*spoiled),
        first.model,
        psf_is_wrong=psf.alarm,
    )
    sky, _ = _sky_test(residuals.without_discs(*spoiled), scale)
    regions = _cell_test(residuals, first.model, labels)
    general = [
        *_with_cause([*noise, sky], residuals),
        psf,
        regions,
        _draw_test(first),
    ]
    general.sort(key=lambda test: (not test.alarm, -abs(test.sigmas)))
    return (*general, *describe_places(places, exposure, bright, fwhm))


def _with_cause(tests, residuals):
    """Tests of noise and sky, the first fault with its cause where it is structure."""
    faults = [k for k, test in enumerate(tests) if test.alarm]
    if not faults:
        return tests
    cause = explain_residual(residuals.ratio, residuals.good, residuals.kernel)
    if cause['kind'] in STRUCTURES:
        test = tests[faults[0]]
        text = f'{test.text}; {describe_cause(cause)}'
        tests[faults[0]] = dataclasses.replace(test, text=text)
    return tests


def _without_galaxies(residuals, sources, fwhm):
    # A galaxy is no exponential or de Vaucouleurs profile to the last photon: what it
    # leaves must not be taken for the noise of photons.
    if sources.galaxy is None or not sources.is_galaxy.any():
        return residuals
    own = np.flatnonzero(sources.is_galaxy)
    size = np.nanmax(np.nan_to_num(sources.galaxy[own, 4:], nan=1.0), axis=1)
    reach = _AROUND * fwhm + 3 * size
    # Radii rounded up, so that a few passes do.
    step = np.ceil(np.log2(np.maximum(reach, 1.0)))
    for k in np.unique(step):
        some = own[step == k]
        residuals = residuals.without_discs(sources.x[some], sources.y[some], 2.0**k)
    return residuals


def _test(kind, text, value, error, p_value, tolerance):
    return CheckFinding(
        kind,
        text,
        alarm=bool(p_value < LIMIT and abs(value) > tolerance),
        x=np.nan,
        y=np.nan,
        value=float(value),
        error=float(error),
        sigmas=sigmas_of(p_value),
        p_value=float(p_value),
    )


# -- noise -----------------------------------------------------------------------


def _noise_scale(residuals):
    """Factor by which the noise of empty sky is larger than stated, if it is."""
    empty = residuals.of_sky(_EMPTY)
    n = np.count_nonzero(empty.good)
    if n < _EMPTY_PIXELS:
        return 1.0
    square = float(np.sum(np.square(empty.ratio), dtype=float)) / n
    # Within its own error it is as stated.
    error = np.sqrt(2 * residuals.excess_of_squares / n)
    return float(np.sqrt(square)) if square > 1 + 3 * error else 1.0


def _noise_tests(residuals, model, *, psf_is_wrong=False):
    """Tests of the stated noise."""
    if psf_is_wrong:
        # What it leaves of stars hides the noise of their photons.
        residuals = residuals.of_sky(_EMPTY)
    values, errors, p_shape = variance_parts(residuals, model)
    tests = []
    if np.isfinite(values[0]):
        root = np.sqrt(max(values[0], 0))
        value, error = root - 1, errors[0] / (2 * max(root, 0.1))
        p_value = normal_p_value(value / error)
        more = 'larger' if value > 0 else 'smaller'
        text = (
            f'the noise of the sky is {100 * abs(value):.1f} +- {100 * error:.1f} % '
            f'{more} than bkg_error says'
        )
        tests.append(_test('noise', text, value, error, p_value, _NOISE))
    if np.isfinite(values[2]):
        value = np.sqrt(max(values[2], 0))
        error = errors[2] / (2 * max(value, np.sqrt(errors[2])))
        text = (
            f'bright sources leave residuals of {100 * value:.1f} % of their light per '
            'pixel: the shape of the PSF is wrong'
        )
        tests.append(_test('psf shape', text, value, error, p_shape, _SHAPE))
    # Where the model of the light is wrong, its photons' noise is not measurable.
    hidden = any(test.kind == 'psf shape' and test.alarm for test in tests)
    if np.isfinite(values[1]) and not hidden:
        value, error = values[1] - 1, errors[1]
        p_value = normal_p_value(value / error)
        more, gain = ('larger', 'high') if value > 0 else ('smaller', 'low')
        text = (
            f'the photon noise of the sources (variance) is {100 * abs(value):.0f} +- '
            f'{100 * error:.0f} % {more} than effective_gain says: the gain is too '
            f'{gain}'
        )
        tests.append(_test('photon noise', text, value, error, p_value, _GAIN))
    return tests


# -- draws -------------------------------------------------------------------------


def _draw_test(first):
    """Test of the scatter of drawn fluxes and positions."""
    n = first.pulls.shape[1]
    if n < _DRAW_SOURCES:
        text = 'too few bright sources to judge the draws'
        return _test('draws', text, 0.0, np.nan, 1.0, 0.0)
    spread = MAD_TO_SIGMA * np.median(np.abs(first.pulls), axis=1)
    k = int(np.argmax(spread))
    # Standard error of a median absolute deviation; three of them.
    value, error = spread[k] - 1, 1.17 / np.sqrt(n)
    p_value = min(1.0, 3 * float(normal_p_value(value / error)))
    what = ('fluxes', 'x', 'y')[k]
    text = (
        f'drawn {what} of bright sources scatter {spread[k]:.2f} times as much as the '
        f'data allow ({n} sources): the posterior is less sharp than it could be'
    )
    return _test('draws', text, value, error, p_value, _SPREAD)


# -- sky -------------------------------------------------------------------------


def _sky_test(residuals, scale):
    """Test of the sky's level, and the levels of the parts of the image."""
    shape = residuals.ratio.shape
    n_sectors = [3 if n >= 3 * _SECTOR_MIN else 1 for n in shape]
    rows, columns = block_slices(shape, n_sectors)
    found = np.array(
        [[offset(residuals, (row, column)) for column in columns] for row in rows]
    )
    value, error = found[..., 0], found[..., 1] * scale
    if not np.isfinite(value).any():
        text = 'too little empty sky to compare with the background'
        return _test('background', text, 0.0, np.nan, 1.0, 0.0), np.zeros((1, 1))
    whole, whole_error = offset(residuals)
    whole_error *= scale
    pulls = np.append(value / error, whole / whole_error)
    pulls = np.where(np.isfinite(pulls), pulls, 0)
    p_value = min(1.0, float(normal_p_value(np.abs(pulls).max())) * len(pulls))
    centred = value - whole
    uneven = np.nanmax(np.abs(centred)) > max(0.5 * abs(whole), _SKY)
    uneven &= bool(np.nanmax(np.abs(centred / error)) > 5)
    k = np.unravel_index(np.nanargmax(np.abs(value)), value.shape)
    if uneven:
        worst, worst_error, where = value[k], error[k], _sector_name(k, value.shape)
    else:
        worst, worst_error, where = whole, whole_error, 'everywhere'
    side = 'brighter' if worst > 0 else 'darker'
    text = (
        f'the background is off by {worst:+.2f} +- {worst_error:.2f} sigma of the sky '
        f'{where}: the image is {side} there than the exposure says'
    )
    test = _test('background', text, worst, worst_error, p_value, _SKY)
    if not test.alarm:
        return test, np.zeros((1, 1))
    return test, np.nan_to_num(value) if uneven else np.full((1, 1), whole)


def _sector_name(index, shape):
    if max(shape) == 1:
        return 'everywhere'
    words = [
        names[k] for names, k, n in zip(_NAMES, index, shape, strict=True) if n == 3
    ]
    return f'in the {" ".join(filter(None, words)) or "centre"}'


def _sky_map(sectors, residuals):
    """Offset of the sky in units of each pixel's noise."""
    ny, nx = residuals.ratio.shape
    if sectors.size == 1:
        return np.float32(sectors[0, 0]) * np.sqrt(residuals.sky_share)
    factors = ny / sectors.shape[0], nx / sectors.shape[1]
    level = zoom(sectors, factors, order=1, mode='nearest', grid_mode=True)
    return level.astype(np.float32) * np.sqrt(residuals.sky_share)


# -- PSF -------------------------------------------------------------------------


def _psf_test(stars, sources, scale):
    """Test of the PSF with the brighter stars, and by how much it is too narrow."""
    use = (stars.snr > _STAR_SNR) & ~sources.is_galaxy[stars.index]
    value, error = stars.distortion[:, use], scale * stars.distortion_err[:, use]
    found = [combine(value[k], error[k]) for k in range(3)]
    n = found[0][3]
    if n == 0:
        text = 'too few bright stars to compare with the PSF'
        return _test('psf', text, 0.0, np.nan, 1.0, 0.0), 0.0
    pulls = np.array([part[2] for part in found])
    matter = np.abs([part[0] for part in found]) > [PSF_WIDTH, _LEAN, _LEAN]
    p_values = np.minimum(1, 3 * normal_p_value(pulls))
    alarm = matter & (p_values < LIMIT)
    k = int(np.argmax(np.where(alarm, np.abs(pulls), -1))) if alarm.any() else 0
    mean, err, _, n = found[k]
    worst = int(np.argmax(np.abs(value[k] / error[k])))
    at = sources.select(stars.index[use][worst : worst + 1])
    sigmas = abs(value[k, worst] / error[k, worst])
    if k == 0:
        more = 'broader' if mean > 0 else 'narrower'
        fault = f'{100 * abs(mean):.1f} +- {100 * err:.1f} % {more} than'
        shape = 'a ring'
    else:
        fault = f'more elongated (e{k} {mean:+.3f} +- {err:.3f}) than'
        shape = 'a clover leaf'
    text = (
        f'the stars are {fault} the PSF ({n} of them): the PSF is wrong; the worst '
        f'residual has {sigmas:.0f} sigma in the shape of {shape} around '
        f'({at.x[0]:.0f}, {at.y[0]:.0f})'
    )
    test = _test('psf', text, mean, err, p_values[k], (PSF_WIDTH, _LEAN, _LEAN)[k])
    return test, found[0][0] if test.alarm else 0.0


# -- regions ---------------------------------------------------------------------


def _cell_test(residuals, model, labels):
    """Test of the number of regions with a large chi-square."""
    # Beyond what an error of the PSF that does not matter makes of stars.
    slack = 1 + np.square(PSF_WIDTH * model / residuals.error)
    ratio = (residuals.ratio / np.sqrt(slack)).astype(np.float32)
    cells = cell_statistics(dataclasses.replace(residuals, ratio=ratio), labels)
    use = cells['n_pixels'] > 0
    n = int(use.sum())
    bad = int(np.sum(cells['p_value'][use] < _RARE))
    p_value = float(bdtrc(bad - 1, n, _RARE)) if bad else 1.0
    share = bad / n
    text = (
        f'{bad} of {n} regions ({100 * share:.2g} %) have a larger chi-square than '
        f'{100 * (1 - _RARE):g} % of replicated images have there'
    )
    return _test('cells', text, share, np.sqrt(_RARE / n), p_value, 2 * _RARE)
