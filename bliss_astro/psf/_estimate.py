# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimation of the PSF of an image from its own stars.
"""

import numpy as np

from .._warnings import OutOfDomainWarning, warn
from ._candidates import TO_FWHM, find_sources
from ._engine import StampFit, to_theta
from ._estimate_errors import shape_errors
from ._fit import as_model, cut_stamps, fit_robustly
from ._locus import MIN_SNR, find_locus
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._model import PSFModel
from ._profile import half_maximum_radius
from ._result import PSFEstimate, star_table
from ._star_image import read_image
from ._star_widths import excess_scatter, own_shapes
from ._varying import fit_variation, smooth_trend
from ._wings import LOOSE_MEAN, LOOSE_WIDTH, typical_shape

__all__ = ['estimate_psf']

# Stars of the robust first fit, the brightest ones, and of all fits at most.
_N_FIRST, _N_MOST = 30, 100
# Half sides of the stamps, in FWHM, and their limits in pixels.
_REACH, _HALF = 3.2, (7, 24)
# Pixels of all stamps together, and of those of the first fit, which bound the time;
# but no fewer stars than that.
_MAX_PIXELS, _FIRST_PIXELS, _LEAST_FIRST = 60_000, 20_000, 10
# Radius of what is masked around other sources, in FWHM, and the least
# signal-to-noise ratio of these.
_MASK, _NEIGHBOUR_SNR = 1.5, 6.0
# Prior width of the stars' own backgrounds in units of the noise of the sky.
_BACKGROUND = 0.7
# Relative error of the model, so that the brightest star has not all the say.
_MODEL_ERROR = 0.01
# A star whose width differs from the others' by so many sigma is left out; the
# sigma contains a scatter of the widths of its own.
_WIDE, _NARROW, _OWN_SCATTER, _MOST_SCATTER = 2.5, 3.5, 0.015, 0.1
# Relative errors of the width beside what the noise makes: of the model, of the
# choice of the stars where few can check each other, and of a single source,
# that may be no star.
_LEAST_ERROR, _CHOICE_ERROR, _SINGLE_ERROR = 0.002, 0.015, 0.1
_MOST_ERROR = 0.15
# Relative error of the area by wings of neighbours and light that is seen nowhere,
# of one star, as simulated fields have it.
_AREA_ERROR = 0.1
# What a relative error of the width is of the width and of the effective area.
_WIDTH_AND_AREA = np.array([1.0, 2.0])
# Scatter of the widths that is told, and its significance.
_MUCH_SCATTER, _SIGNIFICANT = 0.04, 3.0
# Effective area in units of the squared FWHM: 2.2 for a Gaussian and a pixel, 5.3
# for a Moffat profile of slope 2.
_AREAS = (1.9, 8.0)
# Fewer stars cannot check each other.
_FEW = 3
# Sources brighter than the median star by this factor, round to this ellipticity
# beside the stars', and so many of them, wider by this factor.
_BRIGHTEST, _ROUND, _MIN_BRIGHTEST, _WIDER = 3.0, 0.15, 5, 1.12
# Lower limits of signal-to-noise ratio that are tried where stars are few.
_FAINTER = (MIN_SNR, 12.0)


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
        The image. What an exposure holds may not be given again. A file is read by
        `Exposure.read <bliss_astro.exposures.ExposureRead>` first.

    background : float or 2D array, optional
        What of the sky is still in the image, in its unit; measured by default.

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
        The PSF, its error, the stars, the residuals and what was noticed.

    Raises
    ------
    TypeError
        If the image is a file or another thing that is none.

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
    >>> exposure, truth = CoaddSimulator(1, shape=(200, 200)).simulate(rng=1)
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
    """
    Estimate the PSF of an image that is in units of its noise, without warnings.
    """
    sources = find_sources(
        image.pull, image.bad, photon=image.photon, threshold=_NEIGHBOUR_SNR
    )
    saturated = image.saturated_at(sources)
    for min_snr in _FAINTER:
        locus = find_locus(sources, saturated, min_snr=min_snr)
        if locus is not None and locus.n_stars:
            break
    if locus is None:
        msg = (
            'psf cannot be estimated: the image has no compact, unsaturated source '
            f'above a signal-to-noise ratio of {_FAINTER[-1]:g}; give psf or fwhm'
        )
        raise ValueError(msg)
    chosen = np.flatnonzero(locus.reasons == '')
    if locus.n_stars == 0:
        chosen = chosen[:2]
    fit, chosen, work = _fit(image, sources, locus, chosen, radius)
    psf = as_model(fit, None, work['residual'], radius)
    return _result(image, sources, locus, chosen, fit, psf, work, vary)


def _fit(image, sources, locus, chosen, radius):
    """Joint fits: robustly to the brightest stars, then to all that agree."""
    half = int(np.clip(np.ceil(_REACH * locus.fwhm), *_HALF))
    n_most = int(min(_N_MOST, max(5, _MAX_PIXELS // (2 * half + 1) ** 2)))
    chosen = chosen[:n_most]
    n_first = np.clip(_FIRST_PIXELS // (2 * half + 1) ** 2, _LEAST_FIRST, _N_FIRST)
    first = chosen[:n_first]
    shape = typical_shape(0.95 * locus.fwhm)
    shape[6:] = locus.e1, locus.e2
    start = StampFit(
        to_theta(shape),
        np.zeros((0, 4)),
        prior_mean=LOOSE_MEAN,
        prior_width=LOOSE_WIDTH,
        radius=radius,
        wings=True,
        background_width=_BACKGROUND,
    )
    fit, used, _, work = _joint(image, sources, first, half, start, range(6))
    locus.reasons[first[~used]] = 'fits badly'
    chosen = np.concatenate([first[used], chosen[n_first:]])
    if len(chosen) < 3:
        return fit, first, work | {'used': used}
    # Once more without those that are broader or narrower than the others.
    start = StampFit(**{**vars(fit), 'local': np.zeros((0, 4))})
    fit, used, _, work = _joint(image, sources, chosen, half, start, range(4, 6))
    offsets, errors = own_shapes(fit, work['stamps'], work['weights'])
    places = fit.local[:, 1:3] + work['corner']
    off = offsets[:, 0] - smooth_trend(places, offsets[:, 0], errors[:, 0], used)
    scatter, _ = excess_scatter(off[used], errors[used, 0])
    sigma = np.hypot(errors[:, 0], np.clip(scatter, _OWN_SCATTER, _MOST_SCATTER))
    fine = used & (off < _WIDE * sigma) & (off > -_NARROW * sigma)
    if fine.sum() < 3 or fine.all():
        return fit, chosen, work | {'used': used}
    work['used'] = fine
    locus.reasons[chosen[used & ~fine & (off > 0)]] = 'extended'
    locus.reasons[chosen[used & ~fine & (off < 0)]] = 'sharper than the stars'
    chosen = chosen[fine]
    start = StampFit(**{**vars(fit), 'local': np.zeros((0, 4))})
    fit, used, _, work = _joint(image, sources, chosen, half, start, range(5, 6))
    return fit, chosen, work | {'used': used}


def _joint(image, sources, chosen, half, start, rounds):
    """One joint fit to the stamps of the stars chosen."""
    x, y = sources.x[chosen], sources.y[chosen]
    corner_x, corner_y = (np.rint(v).astype(int) - half for v in (x, y))
    stamps, bad = cut_stamps(image.pull, image.bad, corner_x, corner_y, 2 * half + 1)
    bad = bad | _neighbours(sources, chosen, corner_x, corner_y, half, start.shape)
    stamps = np.where(bad, 0, stamps).astype(float)
    start.local = np.c_[
        sources.flux[chosen] * 1.1, x - corner_x, y - corner_y, np.zeros(len(x))
    ]
    fit, used, residual, weights = fit_robustly(
        stamps,
        bad,
        1.0,
        background=True,
        use_prior=True,
        radius=start.radius,
        near_center=True,
        gain=1 / image.photon if image.photon > 0 else None,
        model_error=_MODEL_ERROR,
        start=start,
        rounds=rounds,
    )
    work = {
        'stamps': stamps,
        'bad': bad,
        'weights': weights,
        'corner': np.c_[corner_x, corner_y],
        'residual': residual,
    }
    return fit, used, residual, work


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
            reach = _MASK * max(fwhm, TO_FWHM * sources.width[other])
            reach = min(reach, 0.6 * apart[other])
            xx = side - (sources.x[other] - corner_x[k])
            yy = side - (sources.y[other] - corner_y[k])
            masks[k] |= np.hypot(*np.meshgrid(xx, yy)) < reach
    return masks


def _implausible(psf, locus):
    """Say what is wrong with a fit that is no PSF that a telescope has, or ''."""
    fwhm, area = psf.fwhm, psf.n_eff / psf.fwhm**2
    near = 0.6 < fwhm / locus.fwhm < 1.6
    if near and _AREAS[0] < area < _AREAS[1]:
        return ''
    return (
        f'the PSF fitted to the image (FWHM {fwhm:.3g} px, effective area '
        f'{psf.n_eff:.3g} px^2) is none that telescopes have; one of the FWHM of the '
        f'compact sources, {locus.fwhm:.3g} px, with usual wings was taken: give psf '
        'or fwhm'
    )


def _result(image, sources, locus, chosen, fit, psf, work, vary):
    """Collect errors, variation and findings."""
    used = work['used']
    offsets, errors = own_shapes(fit, work['stamps'], work['weights'])
    n_stars = int(used.sum())
    scatter, significance = excess_scatter(offsets[used, 0], errors[used, 0])
    counted = work['weights'] * used[:, None, None]
    # Relative errors of the width and of the effective area.
    noise, misfit = shape_errors(fit, work['stamps'], counted, photon=image.photon)
    errors_of = np.hypot(np.hypot(noise, misfit), _LEAST_ERROR * _WIDTH_AND_AREA)
    real = locus.n_stars and n_stars >= _FEW
    varying, findings = None, []
    wrong = _implausible(psf, locus)
    if wrong:
        psf = PSFModel.from_fwhm(locus.fwhm, normalization_radius=fit.radius)
        errors_of, findings = _MOST_ERROR * _WIDTH_AND_AREA, [wrong]
    elif not real:
        errors_of = np.hypot(errors_of, _SINGLE_ERROR * _WIDTH_AND_AREA)
        more = 's' if n_stars != 1 else ''
        findings.append(
            f'psf was measured on {n_stars} compact source{more} of the image (FWHM '
            f'{psf.fwhm:.3g} px), which may be no star{more}, with the wings of a '
            'usual telescope; fluxes and errors rest on it: give psf or fwhm'
        )
    else:
        if vary is not False:
            places = fit.local[:, 1:3] + work['corner']
            varying, left = fit_variation(
                psf, places[used], offsets[used], errors[used], image.shape, vary
            )
            if varying is not None:
                scatter, significance = excess_scatter(left, errors[used, 0])
        others = _CHOICE_ERROR / n_stars
        if significance > _SIGNIFICANT:
            others = np.hypot(others, scatter)
        errors_of = np.hypot(errors_of, others * _WIDTH_AND_AREA)
        errors_of[1] = np.hypot(errors_of[1], _AREA_ERROR / np.sqrt(n_stars))
        if significance > _SIGNIFICANT and scatter > _MUCH_SCATTER:
            findings.append(
                f'the widths of {n_stars} stars scatter by {100 * scatter:.0f} % '
                f'beyond their noise about the FWHM of {psf.fwhm:.3g} px (a plate, '
                'trailed or variable images?); psf_error is set to it'
            )
        findings += _brightest_wider(sources, locus)
    result = psf if varying is None else varying
    errors_of = np.minimum(errors_of, _MOST_ERROR * _WIDTH_AND_AREA)
    # Fluxes feel the area, the network the width: the larger of the two is stated.
    error = float(np.max(errors_of / _WIDTH_AND_AREA))
    result.fit_info = {
        'residual': work['residual'],
        'converged': fit.converged,
        'used': used,
        'n_stars': n_stars,
        'fwhm_error': float(errors_of[0]) * psf.fwhm,
        'effective_area_error': float(errors_of[1]) * psf.n_eff,
        'width_scatter': float(scatter),
        'findings': tuple(findings),
    }
    residual = work['stamps'] - fit.model(work['stamps'].shape[1:])
    return PSFEstimate(
        psf=result,
        psf_error=error,
        fwhm_error=result.fit_info['fwhm_error'],
        effective_area_error=result.fit_info['effective_area_error'],
        width_scatter=float(scatter),
        stars=star_table(
            sources, locus, chosen, used, fit, work, offsets, errors, image
        ),
        stamps=work['stamps'] * image.noise,
        residuals=np.where(work['bad'], np.nan, residual) * image.noise,
        findings=tuple(findings),
        central=psf,
    )


def _brightest_wider(sources, locus):
    """Say it where the brightest round sources are wider than the stars."""
    star = locus.reasons == ''
    level = _BRIGHTEST * np.median(sources.snr[star])
    round_ = np.hypot(sources.e1 - locus.e1, sources.e2 - locus.e2) < _ROUND
    bright = (sources.snr > level) & sources.clean & round_
    bright &= ~np.isin(locus.reasons, ['cosmic ray', 'saturated'])
    ratio = sources.width[bright] / np.exp(locus.log_size)
    if bright.sum() < _MIN_BRIGHTEST or np.median(ratio) < _WIDER:
        return []
    wide = TO_FWHM * float(np.median(sources.width[bright]))
    text = (
        f'the {bright.sum()} brightest sources are wider (FWHM {wide:.3g} px) than the '
        f'fainter stars ({locus.fwhm:.3g} px, both as moments): photographic, '
        'saturated or not linear; the PSF is not that of the brightest'
    )
    return [text]
