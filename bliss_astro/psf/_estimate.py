# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimation of the PSF of an image from its own stars.
"""

import dataclasses

import numpy as np

from .._warnings import OutOfDomainWarning, warn
from ._compact_sources import TO_FWHM, find_compact_sources
from ._fit import as_model, cut_stamps
from ._joint_fit import StampFit, own_shapes
from ._locus import MIN_SNR, find_locus
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._model import PSFModel
from ._profile import half_maximum_radius
from ._result import PSFEstimate, StarFit, star_table
from ._robust_fit import fit_stamps
from ._star_image import read_image
from ._star_widths import excess_scatter, fit_variation, shape_errors, smooth_trend
from ._wing_prior import typical_shape

__all__ = ['estimate_from', 'estimate_psf']

# Stars of the robust first fit, the brightest ones, and of all fits at most.
_N_FIRST, _MAX_STARS = 30, 100
# Half sides of the stamps, in FWHM, and their limits in pixels.
_HALF_SIDE, _HALF_SIDE_RANGE = 3.2, (7, 24)
# Pixels of all stamps together, and of those of the first fit, which bound the time;
# but no fewer stars than that.
_MAX_PIXELS, _MAX_FIRST_PIXELS, _MIN_FIRST = 60_000, 20_000, 10
# Radius of what is masked around other sources, in FWHM, and the least
# signal-to-noise ratio of these.
_MASK_RADIUS, _NEIGHBOUR_SNR = 1.5, 6.0
# Prior width of the stars' own backgrounds in units of the noise of the sky.
_BACKGROUND_WIDTH = 0.7
# Relative error of the model, so that the brightest star does not outvote the others.
_MODEL_ERROR = 0.01
# Sigmas by which a left-out star is wider or narrower than the others; the sigma
# contains a scatter of the widths within these limits.
_MAX_WIDER, _MAX_NARROWER, _SCATTER_RANGE = 2.5, 3.5, (0.015, 0.1)
# Relative errors of the width beside what the noise makes: of the model, of the
# choice of the stars where few can check each other, and of a single source,
# that may be no star; and the largest.
_FLOOR_ERROR, _CHOICE_ERROR, _SINGLE_ERROR, _MAX_ERROR = 0.002, 0.015, 0.1, 0.15
# Relative error of the area by wings of neighbours and light that is seen nowhere,
# of one star, from simulated fields.
_AREA_ERROR = 0.1
# Relative errors of width and effective area per relative error of the width.
_WIDTH_AND_AREA = np.array([1.0, 2.0])
# Scatter of the widths that makes a finding, and its significance.
_LARGE_SCATTER, _SIGNIFICANT = 0.04, 3.0
# Effective area in units of the squared FWHM: 2.2 for a Gaussian and a pixel, 5.3
# for a Moffat profile of slope 2; and FWHM in units of that of the locus.
_AREA_RANGE, _FWHM_RANGE = (1.9, 8.0), (0.6, 1.6)
# Fewer stars cannot check each other.
_MIN_REAL_STARS = 3
# Sources brighter than the median star by this factor, round to this ellipticity
# beside the stars', and so many of them, wider by this factor.
_BRIGHTER, _ROUND, _MIN_BRIGHT, _WIDER = 3.0, 0.15, 5, 1.12
# Lower limits of signal-to-noise ratio, the second where stars are few.
_MIN_SNRS = (MIN_SNR, 12.0)


def estimate_psf(
    image,
    *,
    background=None,
    bkg_error=None,
    effective_gain=None,
    mask=None,
    saturation=None,
    vary='auto',
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
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
        The image. The properties of an exposure may not be given again. A file is
        read by `Exposure.read <bliss_astro.exposures.ExposureRead>` first.

    background : float or 2D array, optional
        Sky that is still in the image, in its unit; measured by default.

    bkg_error : float or 2D array, optional
        Standard deviation of a pixel of empty sky; measured by default.

    effective_gain : float, optional
        Electrons per unit of the image, for the stars' own noise, which is
        neglected by default.

    mask : 2D bool array, optional
        `True` in bad pixels; those that are not finite are added.

    saturation : float, optional
        Level at and above which pixels are saturated. A plateau of equal
        pixels at the image's maximum is recognised without it.

    vary : {'auto', True, False}, optional
        Whether the PSF varies over the image. ``'auto'``: with more than 60 stars
        and where that makes the stars agree significantly better. `True` needs
        10 stars.

    normalization_radius : float, optional
        Radius in pixels within which the flux is counted.

    Returns
    -------
    estimate : `PSFEstimate`
        The PSF, its error, the stars, the residuals and the findings.

    Raises
    ------
    TypeError
        If the image is a file or of another type.

    ValueError
        If no source of the image can show the width of its PSF, or an argument is
        not allowed.

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
    if vary not in ('auto', True, False):
        msg = f"vary must be 'auto', True or False, got {vary!r}"
        raise ValueError(msg)
    star_image = read_image(
        image,
        background=background,
        bkg_error=bkg_error,
        effective_gain=effective_gain,
        mask=mask,
        saturation=saturation,
    )
    estimate = estimate_from(star_image, vary=vary, radius=normalization_radius)
    for finding in estimate.findings:
        warn(finding, OutOfDomainWarning)
    return estimate


# Trial steps of a fit may overflow; they are not taken.
@np.errstate(over='ignore', invalid='ignore', divide='ignore', under='ignore')
def estimate_from(image, *, vary='auto', radius=DEFAULT_NORMALIZATION_RADIUS):
    """Estimate the PSF of a `StarImage`, without warnings."""
    sources = find_compact_sources(image, threshold=_NEIGHBOUR_SNR)
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
    chosen = np.flatnonzero(locus.reasons == '')
    if locus.n_stars == 0:
        chosen = chosen[:2]
    stars = _fit_stars(image, sources, locus, chosen, radius)
    return _result(image, sources, locus, stars, vary)


def _fit_stars(image, sources, locus, chosen, radius):
    """Joint fits: robustly to the brightest stars, then to all that agree."""
    half = int(np.clip(np.ceil(_HALF_SIDE * locus.fwhm), *_HALF_SIDE_RANGE))
    n_pixels = (2 * half + 1) ** 2
    chosen = chosen[: int(min(_MAX_STARS, max(5, _MAX_PIXELS // n_pixels)))]
    n_first = np.clip(_MAX_FIRST_PIXELS // n_pixels, _MIN_FIRST, _N_FIRST)
    shape = typical_shape(0.95 * locus.fwhm)
    shape[6:] = locus.e1, locus.e2
    start = StampFit.of_star(
        shape, np.zeros((0, 4)), radius=radius, background_width=_BACKGROUND_WIDTH
    )
    stars = _joint(image, sources, chosen[:n_first], half, start, range(6))
    first = stars.chosen
    locus.reasons[first[~stars.used]] = 'fits badly'
    chosen = np.concatenate([first[stars.used], chosen[n_first:]])
    if len(chosen) < 3:
        return stars
    # Once more without those that are broader or narrower than the others.
    stars = _joint(image, sources, chosen, half, stars.fit, range(4, 6))
    offsets, errors = own_shapes(stars.fit, stars.stamps, stars.weights)
    used, width_errors = stars.used, errors[:, 0]
    off = offsets[:, 0] - smooth_trend(stars.places, offsets[:, 0], width_errors, used)
    scatter, _ = excess_scatter(off[used], width_errors[used])
    sigma = np.hypot(width_errors, np.clip(scatter, *_SCATTER_RANGE))
    fine = used & (off < _MAX_WIDER * sigma) & (off > -_MAX_NARROWER * sigma)
    if fine.sum() < 3 or fine.all():
        return stars
    locus.reasons[chosen[used & ~fine & (off > 0)]] = 'extended'
    locus.reasons[chosen[used & ~fine & (off < 0)]] = 'sharper than the stars'
    return _joint(image, sources, chosen[fine], half, stars.fit, range(5, 6))


def _joint(image, sources, chosen, half, start, rounds):
    """One joint fit to the stamps of the stars chosen."""
    x, y, side = sources.x[chosen], sources.y[chosen], 2 * half + 1
    corner_x, corner_y = (np.rint(v).astype(int) - half for v in (x, y))
    stamps = cut_stamps(image.pull, corner_x, corner_y, side, 0.0)
    bad = cut_stamps(image.bad, corner_x, corner_y, side, True)
    bad = bad | _neighbours(sources, chosen, corner_x, corner_y, half, start.shape)
    stamps = np.where(bad, 0, stamps).astype(float)
    local = [sources.flux[chosen] * 1.1, x - corner_x, y - corner_y, np.zeros(len(x))]
    fit, used, residual, weights = fit_stamps(
        stamps,
        bad,
        1.0,
        background=True,
        use_prior=True,
        radius=start.radius,
        gain=1 / image.photon if image.photon > 0 else None,
        model_error=_MODEL_ERROR,
        start=dataclasses.replace(start, local=np.stack(local, axis=1)),
        rounds=rounds,
    )
    corner = np.c_[corner_x, corner_y]
    return StarFit(fit, chosen, used, stamps, bad, weights, corner, residual)


def _neighbours(sources, chosen, corner_x, corner_y, half, shape):
    """Pixels of stamps that belong to other sources rather than to the star."""
    side = np.arange(2 * half + 1)
    masks = np.zeros((len(chosen), len(side), len(side)), bool)
    fwhm = 2 * half_maximum_radius(shape)
    for k, star in enumerate(chosen):
        dx, dy = sources.x - sources.x[star], sources.y - sources.y[star]
        apart = np.hypot(dx, dy)
        near = (apart > fwhm) & (np.maximum(abs(dx), abs(dy)) < 1.5 * half)
        for other in np.flatnonzero(near):
            reach = _MASK_RADIUS * max(fwhm, TO_FWHM * sources.width[other])
            reach = min(reach, 0.6 * apart[other])
            xx = side - (sources.x[other] - corner_x[k])
            yy = side - (sources.y[other] - corner_y[k])
            masks[k] |= np.hypot(*np.meshgrid(xx, yy)) < reach
    return masks


def _implausible(psf, locus):
    """Finding that a fit is no PSF that a telescope has, or an empty string."""
    fwhm, area = psf.fwhm, psf.n_eff / psf.fwhm**2
    near = _FWHM_RANGE[0] < fwhm / locus.fwhm < _FWHM_RANGE[1]
    if near and _AREA_RANGE[0] < area < _AREA_RANGE[1]:
        return ''
    return (
        f'the PSF fitted to the image (FWHM {fwhm:.3g} px, effective area '
        f'{psf.n_eff:.3g} px^2) is none that telescopes have; one of the FWHM of the '
        f'compact sources, {locus.fwhm:.3g} px, with usual wings was taken: give psf '
        'or fwhm'
    )


def _result(image, sources, locus, stars, vary):
    """Collect PSF, errors, variation and findings."""
    fit, used = stars.fit, stars.used
    n_stars = int(used.sum())
    offsets, errors = own_shapes(fit, stars.stamps, stars.weights)
    scatter, significance = excess_scatter(offsets[used, 0], errors[used, 0])
    psf = as_model(fit, stars.residual)
    result, wrong = psf, _implausible(psf, locus)
    if wrong:
        result = psf = PSFModel.from_fwhm(locus.fwhm, normalization_radius=fit.radius)
        errors_of, findings = _MAX_ERROR * _WIDTH_AND_AREA, [wrong]
    else:
        # Relative errors of the width and of the effective area.
        counted = stars.weights * used[:, None, None]
        noise, misfit = shape_errors(fit, stars.stamps, counted, photon=image.photon)
        errors_of = np.hypot(np.hypot(noise, misfit), _FLOOR_ERROR * _WIDTH_AND_AREA)
        findings = []
    real = locus.n_stars and n_stars >= _MIN_REAL_STARS
    if not (real or wrong):
        errors_of = np.hypot(errors_of, _SINGLE_ERROR * _WIDTH_AND_AREA)
        findings = [_no_star(psf, n_stars)]
    elif not wrong:
        if vary is not False:
            own = stars.places[used], offsets[used], errors[used]
            varying, left = fit_variation(psf, *own, image.shape, vary)
            if varying is not None:
                result = varying
                scatter, significance = excess_scatter(left, errors[used, 0])
        others = _CHOICE_ERROR / n_stars
        if significance > _SIGNIFICANT:
            others = np.hypot(others, scatter)
        errors_of = np.hypot(errors_of, others * _WIDTH_AND_AREA)
        errors_of[1] = np.hypot(errors_of[1], _AREA_ERROR / np.sqrt(n_stars))
        if significance > _SIGNIFICANT and scatter > _LARGE_SCATTER:
            findings.append(_scattering(psf, n_stars, scatter))
        findings += _brightest_wider(sources, locus)
    errors_of = np.minimum(errors_of, _MAX_ERROR * _WIDTH_AND_AREA)
    numbers = {
        'fwhm_error': float(errors_of[0]) * psf.fwhm,
        'effective_area_error': float(errors_of[1]) * psf.n_eff,
        'width_scatter': float(scatter),
        'findings': tuple(findings),
    }
    result.fit_info = numbers | {
        'residual': stars.residual,
        'converged': fit.converged,
        'used': used,
        'n_stars': n_stars,
    }
    return PSFEstimate(
        psf=result,
        # Fluxes depend on the area, the network on the width: the larger of the two.
        psf_error=float(np.max(errors_of / _WIDTH_AND_AREA)),
        **numbers,
        stars=star_table(sources, locus, stars, offsets, errors, image),
        stamps=stars.stamps * image.noise,
        residuals=np.where(stars.bad, np.nan, stars.residuals) * image.noise,
        central=psf,
        _fit=stars,
    )


def _no_star(psf, n_stars):
    """Finding that the PSF rests on sources that may be no stars."""
    more = 's' if n_stars != 1 else ''
    return (
        f'psf was measured on {n_stars} compact source{more} of the image (FWHM '
        f'{psf.fwhm:.3g} px), which may be no star{more}, with the wings of a '
        'usual telescope; fluxes and errors rest on it: give psf or fwhm'
    )


def _scattering(psf, n_stars, scatter):
    """Finding that the widths of the stars scatter."""
    return (
        f'the widths of {n_stars} stars scatter by {100 * scatter:.0f} % '
        f'beyond their noise about the FWHM of {psf.fwhm:.3g} px (a plate, '
        'trailed or variable images?); psf_error is set to it'
    )


def _brightest_wider(sources, locus):
    """Finding that the brightest round sources are wider than the stars, or none."""
    star = locus.reasons == ''
    level = _BRIGHTER * np.median(sources.snr[star])
    round_ = np.hypot(sources.e1 - locus.e1, sources.e2 - locus.e2) < _ROUND
    bright = (sources.snr > level) & sources.clean & round_
    bright &= ~np.isin(locus.reasons, ['cosmic ray', 'saturated'])
    ratio = sources.width[bright] / np.exp(locus.log_size)
    if bright.sum() < _MIN_BRIGHT or np.median(ratio) < _WIDER:
        return []
    wide = TO_FWHM * float(np.median(sources.width[bright]))
    text = (
        f'the {bright.sum()} brightest sources are wider (FWHM {wide:.3g} px) than the '
        f'fainter stars ({locus.fwhm:.3g} px, both as moments): photographic, '
        'saturated or not linear; the PSF is not that of the brightest'
    )
    return [text]
