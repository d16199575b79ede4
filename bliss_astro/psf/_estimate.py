# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimation of the PSF of an image from its stars, and comparison of a stated one.
"""

import dataclasses
import operator

import numpy as np

from bliss_astro._arguments import require
from bliss_astro._lazy import exposure_of
from bliss_astro._sample import Sample, windows_of
from bliss_astro._threads import map_threads
from bliss_astro._warnings import OutOfDomainWarning, warn
from bliss_astro.units import MEDIAN_ERROR

from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._model import PSFModel
from ._profile import profile, squared_radius
from ._result import MIN_REAL_STARS, PSFEstimate, PSFStars, StarImage
from ._stars import (
    MIN_SNR,
    TO_FWHM,
    find_locus,
    find_sources,
    level_of,
    measure_at,
    measure_stamps,
    places_of,
)
from ._varying import excess_scatter, fit_polynomial

# -- estimate --
# Lower limits of signal-to-noise ratio of stars, the second where stars are few, and of
# peaks.
_MIN_SNRS, _NEIGHBOUR_SNR = (MIN_SNR, 12.0), 6.0
# Relative errors of the width beside what the stars show: of the model, of the
# choice of the stars where few can check each other, and of a single source,
# that may be no star; and the largest.
_FLOOR_ERROR, _CHOICE_ERROR, _SINGLE_ERROR, _MAX_ERROR = 0.002, 0.015, 0.1, 0.15
# Relative error of the area by wings of neighbours and light that is seen nowhere,
# of one star, from simulated fields.
_AREA_ERROR = 0.1
# Relative errors of width and effective area per relative error of the width.
_WIDTH_AND_AREA = np.array([1.0, 2.0])
# Scatter of the widths that makes a finding; significance of scatter and differences.
_LARGE_SCATTER, _SIGNIFICANT = 0.04, 3.0
# Effective area in units of the squared FWHM: 2.2 for a Gaussian and a pixel, 5.3
# for a Moffat profile of slope 2; and FWHM in units of that of the locus.
_AREA_RANGE, _FWHM_RANGE = (1.9, 8.0), (0.6, 1.6)
# Sources brighter than the median star by this factor, round to this ellipticity
# beside the stars', and so many of them, wider by this factor.
_BRIGHTER, _ROUND, _MIN_BRIGHT, _WIDER = 3.0, 0.15, 5, 1.12

# -- comparison --
# Pixels that are searched and stars that are compared at most, which bound the time.
_MAX_PIXELS, _MAX_STARS = 250_000, 30
# Least signal-to-noise ratios of peaks and of stars.
_THRESHOLD, _MIN_SNR = 15.0, 25.0
# Difference of the widths, as logarithms, from which a PSF of 10 % too much or too
# little is recognised with its error.
_MIN_DIFFERENCE = 0.06
# Stars that make a difference credible: galaxies are broader than the PSF, and
# nothing is narrower. Scatter of the widths of what may be stars.
_MIN_STARS, _MIN_STARS_BROADER, _MAX_SCATTER = 3, 5, 0.06
# Height of the drawn stars in units of the noise, far above it; scatter of single
# widths that is allowed for beside the measured one; least width of moments in pixels.
_HEIGHT, _OWN_SCATTER, _MIN_WIDTH = 1e4, 0.01, 0.2

_quiet = np.errstate(over='ignore', invalid='ignore', divide='ignore', under='ignore')


def estimate_psf(
    image, *, vary='auto', normalization_radius=DEFAULT_NORMALIZATION_RADIUS, **given
):
    """
    Estimate the PSF of an image from the stars on it.

    Stars are the locus of compact sources in size against brightness, without
    those saturated, blended, extended, elongated or sharper than the telescope
    allows. `PSFModel` is fitted to all of them together, each with its own flux,
    position and background, under a prior on the wings: the range of real
    telescopes, from Gaussian and Airy patterns to Moffat profiles of slope 2.

    Parameters
    ----------
    image : `~bliss_astro.exposures.Exposure`, NDData, Cutout2D, Quantity or 2D array
        The image, or a file of one.

    vary : {'auto', True, False}, optional
        Whether the PSF varies over the image. ``'auto'``: with more than 60 stars
        and where that makes the stars agree significantly better. `True` needs
        10 stars.

    normalization_radius : float, optional
        Radius in pixels within which the flux is counted.

    **given
        Properties of an image that is no exposure, as for `Exposure.read
        <bliss_astro.exposures.ExposureRead>`: ``background``, ``bkg_error``,
        ``effective_gain``, ``mask``, ``saturation``. Those not given are measured.

    Returns
    -------
    estimate : `PSFEstimate`
        The PSF, its error, the stars, the residuals and the findings.

    Raises
    ------
    TypeError, ValueError
        If no source of the image can show the width of its PSF, or an argument is
        not allowed or given although the exposure has it.

    Warns
    -----
    bliss_astro.OutOfDomainWarning
        If the estimate rests on one or two sources, the fit was no plausible PSF, or
        the widths of the stars scatter by much more than their noise.

    See Also
    --------
    PSFModel.fit_stars : A fit to stars whose positions are known.
    compare_psf : A stated PSF against the stars of an image.

    References
    ----------
    .. [1] Bertin, E. 2011, "Automated Morphometry with SExtractor and PSFEx",
       ASP Conf. Ser. 442, 435
    .. [2] Jarvis, M. et al. 2021, "Dark Energy Survey year 3 results: point spread
       function modelling", MNRAS 501, 1282

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator
    >>> from bliss_astro.psf import estimate_psf
    >>> exposure, truth = CoaddSimulator(1, shape=(200, 200)).sample(rng=1)
    >>> estimate = estimate_psf(exposure)
    >>> bool(abs(estimate.psf.fwhm / exposure.psf.fwhm - 1) < 0.03)
    True
    """
    good = vary in ('auto', True, False)
    require(good, 'vary', "be 'auto', True or False", f'{vary!r}')
    exposure = exposure_of(image, given)
    estimate = estimate_from(exposure, vary=vary, radius=normalization_radius)
    for finding in estimate.findings:
        warn(finding, OutOfDomainWarning)
    return estimate


# Trial steps of a fit may overflow; they are not taken.
@_quiet
def estimate_from(
    exposure, sample=None, *, vary='auto', radius=DEFAULT_NORMALIZATION_RADIUS
):
    """Estimate the PSF of an exposure, or of a `Sample` of one, without warnings."""
    if sample is None:
        sample = Sample(exposure.shape, exposure.mask)
    exposure = sample.of(exposure)
    image = StarImage.of(exposure)
    sources = find_sources(image, sample.windows, threshold=_NEIGHBOUR_SNR)
    saturated = image.saturated_at(sources)
    for min_snr in _MIN_SNRS:
        locus = find_locus(sources, saturated, min_snr=min_snr)
        if locus is not None and locus.n_stars:
            break
    if locus is None:
        msg = (
            'psf cannot be estimated: the image has no compact, unsaturated source '
            f'above a signal-to-noise ratio of {_MIN_SNRS[-1]:g}; give psf or fwhm'
        )
        raise ValueError(msg)
    stars = PSFStars(image, sources, locus, sample)
    stars.fit_shape(radius)
    result, errors, scatter, findings = _judge(stars, sample.image_shape, vary)
    psf = getattr(result, 'psf', result)
    numbers = {
        'fwhm_error': float(errors[0]) * psf.fwhm,
        'effective_area_error': float(errors[1]) * psf.n_eff,
        'width_scatter': float(scatter),
        'findings': tuple(findings),
    }
    used = {'used': stars.used, 'n_stars': int(stars.used.sum())}
    result.fit_info = psf.fit_info | numbers | used
    stars.fit.local[:, [0, 3]] *= image.noise
    stamps = stars.stamps * image.noise
    residuals = stamps - stars.fit.model(stamps.shape[1:])
    return PSFEstimate(
        psf=result,
        # Fluxes depend on the area, the network on the width: the larger of the two.
        psf_error=float(np.max(errors / _WIDTH_AND_AREA)),
        **numbers,
        stars=stars.table(exposure.unit),
        stamps=stamps,
        residuals=np.where(stars.bad, np.nan, residuals),
        central=psf,
        _fit=stars.fit,
    )


def _judge(stars, shape, vary):
    """PSF, relative errors of width and area, scatter of the widths, and findings."""
    fit, used, n_stars = stars.fit, stars.used, int(stars.used.sum())
    psf, findings = PSFModel.from_fit(fit, stars.residual), []
    width_errors = stars.errors[used, 0]
    scatter, significance = excess_scatter(stars.offsets[used, 0], width_errors)
    fwhm, area = psf.fwhm, psf.n_eff / psf.fwhm**2
    near = _FWHM_RANGE[0] < fwhm / stars.locus.fwhm < _FWHM_RANGE[1]
    if not (near and _AREA_RANGE[0] < area < _AREA_RANGE[1]):
        text = (
            f'the PSF fitted to the image (FWHM {fwhm:.3g} px, effective area '
            f'{psf.n_eff:.3g} px^2) is none that telescopes have; one of the FWHM of '
            f'the compact sources, {stars.locus.fwhm:.3g} px, with usual wings was '
            'taken: give psf or fwhm'
        )
        findings = [text]
        other = PSFModel.from_fwhm(stars.locus.fwhm, normalization_radius=fit.radius)
        other.fit_info = psf.fit_info
        return other, _MAX_ERROR * _WIDTH_AND_AREA, scatter, findings
    result = psf
    errors = np.hypot(stars.relative_errors(), _FLOOR_ERROR * _WIDTH_AND_AREA)
    if not (stars.locus.n_stars and n_stars >= MIN_REAL_STARS):
        errors = np.hypot(errors, _SINGLE_ERROR * _WIDTH_AND_AREA)
        more = 's' if n_stars != 1 else ''
        text = (
            f'psf was measured on {n_stars} compact source{more} of the image (FWHM '
            f'{fwhm:.3g} px), which may be no star{more}, with the wings of a '
            'usual telescope; fluxes and errors rest on it: give psf or fwhm'
        )
        findings = [text]
    else:
        if vary is not False:
            own = stars.places[used], stars.offsets[used], stars.errors[used]
            result, left = fit_polynomial(psf, *own, shape, vary)
            scatter, significance = excess_scatter(left, width_errors)
        others = _CHOICE_ERROR / n_stars
        if significance > _SIGNIFICANT:
            others = np.hypot(others, scatter)
        errors = np.hypot(errors, others * _WIDTH_AND_AREA)
        errors[1] = np.hypot(errors[1], _AREA_ERROR / np.sqrt(n_stars))
        if significance > _SIGNIFICANT and scatter > _LARGE_SCATTER:
            text = (
                f'the widths of {n_stars} stars scatter by {100 * scatter:.0f} % '
                f'beyond their noise about the FWHM of {fwhm:.3g} px (a plate, '
                'trailed or variable images?); psf_error is set to it'
            )
            findings = [text]
        findings += _brightest_wider(stars.sources, stars.locus)
    return result, np.minimum(errors, _MAX_ERROR * _WIDTH_AND_AREA), scatter, findings


def _brightest_wider(sources, locus):
    """Finding that the brightest round sources are wider than the stars, or none."""
    level = _BRIGHTER * np.median(sources.snr[locus.reasons == ''])
    round_ = np.hypot(sources.e1 - locus.e1, sources.e2 - locus.e2) < _ROUND
    bright = (sources.snr > level) & sources.clean & round_
    bright &= ~np.isin(locus.reasons, ['cosmic ray', 'saturated'])
    wide = TO_FWHM * np.median(sources.width[bright]) if bright.any() else 0.0
    if bright.sum() < _MIN_BRIGHT or wide < _WIDER * locus.fwhm:
        return []
    text = (
        f'the {bright.sum()} brightest sources are wider (FWHM {wide:.3g} px) than the '
        f'fainter stars ({locus.fwhm:.3g} px, both as moments): photographic, '
        'saturated or not linear; the PSF is not that of the brightest'
    )
    return [text]


# -- comparison ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PSFComparison:
    """
    Widths of the stars of an image over those of its stated PSF.

    Attributes
    ----------
    ratio, ratio_error : float
        Width of the stars over that of the stated PSF at the same places, and its
        standard error; NaN where no star could be measured.

    fwhm, stars_fwhm : float
        Full widths at half maximum in pixels of the stated PSF and of the stars.

    n_stars : int
        Number of stars.

    finding : str
        A sentence where the two differ by some 10 % or more and significantly; else
        empty.
    """

    ratio: float
    ratio_error: float
    fwhm: float
    stars_fwhm: float
    n_stars: int
    finding: str


@_quiet
def _sources_of(exposure):
    """`StarImage` of an exposure and the sources of `compare_psf`."""
    image = StarImage.of(exposure)
    options = {'max_sources': 3 * _MAX_STARS // 2, 'threshold': _THRESHOLD}
    windows = windows_of(exposure.shape, _MAX_PIXELS)
    return image, find_sources(image, windows, least=_MIN_STARS, **options)


@_quiet
def compare_psf(exposure):
    """
    Compare the stated PSF of an image with the widths of its stars.

    Stars are found as `estimate_psf` finds them. Their sizes, adaptive moments, are
    compared with those of the stated PSF drawn at the same places.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, with a PSF.

    Returns
    -------
    comparison : PSFComparison
        Both widths, and a sentence where they do not agree.

    Raises
    ------
    ValueError
        If the exposure has no PSF.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator
    >>> from bliss_astro.psf import PSFModel, compare_psf
    >>> exposure, truth = CoaddSimulator(1, shape=(200, 200)).sample(rng=1)
    >>> compare_psf(exposure).finding
    ''
    >>> wrong = exposure.replace(psf=PSFModel.from_fwhm(1.3 * exposure.psf.fwhm))
    >>> 'narrower' in compare_psf(wrong).finding
    True
    """
    ny, nx = exposure.shape
    # A survey's PSF is fitted now, and stars are found meanwhile.
    parts = lambda: exposure.psf_at(nx / 2, ny / 2), lambda: _sources_of(exposure)
    middle, (image, sources) = map_threads(operator.call, parts)
    nothing = PSFComparison(np.nan, np.nan, middle.fwhm, np.nan, 0, '')
    if len(sources) < _MIN_STARS:
        return nothing
    locus = find_locus(sources, image.saturated_at(sources), min_snr=_MIN_SNR)
    if locus is None or locus.n_stars < _MIN_STARS:
        return nothing
    places = places_of(sources[np.flatnonzero(locus.reasons == '')[:_MAX_STARS]])
    level, half = level_of(max(locus.fwhm, middle.fwhm))
    found = measure_at(image, places, level)
    # The stated PSF, drawn and measured at the same places.
    shapes = exposure._psf_access.shapes_at(*places.T)
    shapes, offsets = shapes.T[..., None, None], places - np.rint(places)
    dx, dy = np.arange(-half, half + 1) - offsets.T[..., None]
    radius = squared_radius(dx[:, None], dy[..., None], *shapes[6:])
    stamps = (_HEIGHT * profile(radius, shapes)).astype(np.float32)
    drawn = measure_stamps(stamps, np.zeros(stamps.shape, bool), offsets, level)
    good = (found.width > _MIN_WIDTH) & (found.snr > _MIN_SNR)
    n = int(good.sum())
    if n < _MIN_STARS:
        return nothing
    # A PSF narrower than its pixel has hardly any width.
    off = np.log(found.width / np.maximum(drawn.width, _MIN_WIDTH))[good]
    error = np.hypot(1 / found.snr[good], _OWN_SCATTER)
    # Scatter of the ratios: variation that the stated PSF explains is none.
    scatter, _ = excess_scatter(off, error)
    log_ratio, fwhm = float(np.median(off)), middle.fwhm
    log_error = float(MEDIAN_ERROR / np.sqrt(np.sum(1 / (error**2 + scatter**2))))
    ratio = float(np.exp(log_ratio))
    finding = _finding(log_ratio, log_error, scatter, n, fwhm)
    return PSFComparison(ratio, ratio * log_error, fwhm, fwhm * ratio, n, finding)


def _finding(log_ratio, log_error, scatter, n, fwhm):
    """Finding that the widths differ, or an empty string."""
    if abs(log_ratio) < max(_MIN_DIFFERENCE, _SIGNIFICANT * log_error):
        return ''
    # A large difference is credible with more scatter: undersampled, ratios vary.
    scattered = scatter > max(_MAX_SCATTER, log_ratio / 2)
    if log_ratio > 0 and (scattered or n < _MIN_STARS_BROADER):
        return ''
    ratio = np.exp(log_ratio)
    word = 'broader' if ratio > 1 else 'narrower'
    return (
        f'the stars of the image are {100 * abs(ratio - 1):.0f} % {word} than the '
        f'stated psf (FWHM {ratio * fwhm:.3g} px of {n} stars, {fwhm:.3g} px stated): '
        'fluxes and probabilities rest on the psf; give the right one, or none to have '
        'it estimated'
    )
