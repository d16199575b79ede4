# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimation of the PSF of an image from its own stars.
"""

import numpy as np

from .._plugins import exposure_of
from .._warnings import OutOfDomainWarning, warn
from ._fit import as_model, cut_stamps
from ._joint_fit import StampFit, fit_stars, own_shapes, rms
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._model import PSFModel
from ._profile import (
    effective_pixels,
    half_maximum_radius,
    integral,
    profile,
    squared_radius,
)
from ._result import PSFEstimate, star_table
from ._stars import MIN_SNR, TO_FWHM, StarImage, find_locus, find_sources, places_of
from ._varying import excess_scatter, fit_polynomial, trend
from ._wing_prior import to_shape, typical_shape

# Stars of the fit at most, and pixels of all stamps together, which bound the time; but
# no fewer stars than that.
_MAX_STARS, _MAX_PIXELS, _MIN_STARS = 100, 60_000, 5
# Half sides of the stamps, in FWHM, and their limits in pixels.
_HALF_SIDE, _HALF_SIDE_RANGE = 3.2, (7, 24)
# Lower limits of signal-to-noise ratio of stars, the second where stars are few, and of
# peaks. Radius of what is masked around other sources, in FWHM.
_MIN_SNRS, _NEIGHBOUR_SNR, _MASK_RADIUS = (MIN_SNR, 12.0), 6.0, 1.5
# Prior width of the stars' own backgrounds in units of the noise of the sky.
_BACKGROUND_WIDTH = 0.7
# Relative error of the model, so that the brightest star does not outvote the others.
_MODEL_ERROR = 0.01
# Sigmas by which a left-out star is wider or narrower than the others; the sigma
# contains a scatter of the widths within these limits.
_MAX_WIDER, _MAX_NARROWER, _SCATTER_RANGE = 2.5, 3.5, (0.015, 0.1)
# Fewer stars cannot check each other.
_MIN_REAL_STARS = 3
# Relative errors of the width beside what the stars show: of the model, of the
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
# Sources brighter than the median star by this factor, round to this ellipticity
# beside the stars', and so many of them, wider by this factor.
_BRIGHTER, _ROUND, _MIN_BRIGHT, _WIDER = 3.0, 0.15, 5, 1.12

# Step in theta of numerical derivatives of the width and the area.
_THETA_STEP = 1e-4
# Radius of the polynomial of the core's mean residual in half-maximum radii.
_CORE_RADIUS = 1.6
# Width of the rings of mean residuals in half-maximum radii, and at least in pixels.
_RING_WIDTH, _MIN_RING_WIDTH = 0.3, 0.4

# Error of widths added in fits of planes.
_PLANE_ERROR = 0.02


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
    if vary not in ('auto', True, False):
        msg = f"vary must be 'auto', True or False, got {vary!r}"
        raise ValueError(msg)
    exposure = exposure_of(image, given)
    estimate = estimate_from(exposure, vary=vary, radius=normalization_radius)
    for finding in estimate.findings:
        warn(finding, OutOfDomainWarning)
    return estimate


# Trial steps of a fit may overflow; they are not taken.
@np.errstate(over='ignore', invalid='ignore', divide='ignore', under='ignore')
def estimate_from(exposure, *, vary='auto', radius=DEFAULT_NORMALIZATION_RADIUS):
    """Estimate the PSF of an exposure, without warnings."""
    image = StarImage.of(exposure)
    sources = find_sources(image, threshold=_NEIGHBOUR_SNR)
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
    half = int(np.clip(np.ceil(_HALF_SIDE * locus.fwhm), *_HALF_SIDE_RANGE))
    most = max(_MIN_STARS, _MAX_PIXELS // (2 * half + 1) ** 2)
    chosen = np.flatnonzero(locus.reasons == '')[: min(_MAX_STARS, most)]
    stars = _Stars(image, sources, locus, chosen if locus.n_stars else chosen[:2], half)
    stars.fit_shape(radius)
    result, errors, scatter, findings = _judge(stars, exposure.shape, vary)
    psf = getattr(result, 'psf', result)
    numbers = {
        'fwhm_error': float(errors[0]) * psf.fwhm,
        'effective_area_error': float(errors[1]) * psf.n_eff,
        'width_scatter': float(scatter),
        'findings': tuple(findings),
    }
    used, n_stars = stars.used, int(stars.used.sum())
    result.fit_info = psf.fit_info | numbers | {'used': used, 'n_stars': n_stars}
    table = star_table(stars, image.noise, exposure.unit)
    stars.fit.local[:, [0, 3]] *= image.noise
    stamps = stars.stamps * image.noise
    residuals = stamps - stars.fit.model(stamps.shape[1:])
    return PSFEstimate(
        psf=result,
        # Fluxes depend on the area, the network on the width: the larger of the two.
        psf_error=float(np.max(errors / _WIDTH_AND_AREA)),
        **numbers,
        stars=table,
        stamps=stamps,
        residuals=np.where(stars.bad, np.nan, residuals),
        central=psf,
        _fit=stars.fit,
    )


class _Stars:
    """
    Stamps of the stars chosen among sources, their joint fit, and who agrees with it.
    """

    def __init__(self, image, sources, locus, chosen, half):
        self.image, self.sources, self.locus = image, sources, locus
        self.chosen, side = chosen, 2 * half + 1
        self.corners = np.rint(places_of(sources[chosen])).astype(int) - half
        bad = cut_stamps(image.bad, self.corners, side, True)
        self.bad = bad | self._neighbours(half)
        stamps = cut_stamps(image.pull, self.corners, side, 0.0).astype(float)
        self.stamps = np.where(self.bad, 0.0, stamps)

    @property
    def places(self):
        """Positions (x, y) on the image, (n, 2)."""
        return self.fit.local[:, 1:3] + self.corners

    def _neighbours(self, half):
        """Pixels of stamps that belong to other sources rather than to the star."""
        places, fwhm = places_of(self.sources), 0.95 * self.locus.fwhm
        masks = np.zeros((len(self.chosen), *(2 * (2 * half + 1,))), bool)
        grid = np.moveaxis(np.indices(masks.shape[1:])[::-1], 0, -1)
        for mask, star, corner in zip(masks, self.chosen, self.corners, strict=True):
            off = np.abs(places - places[star])
            apart = np.hypot(*off.T)
            for k in np.flatnonzero((apart > fwhm) & (off.max(1) < 1.5 * half)):
                reach = _MASK_RADIUS * max(fwhm, TO_FWHM * self.sources.width[k])
                distance = np.linalg.norm(grid - (places[k] - corner), axis=-1)
                mask |= distance < min(reach, 0.6 * apart[k])
        return masks

    def fit_shape(self, radius):
        """Fit one shape robustly to all stars."""
        own, locus, photon = self.sources[self.chosen], self.locus, self.image.photon
        shape = typical_shape(0.95 * locus.fwhm)
        shape[6:] = locus.e1, locus.e2
        local = np.c_[own.flux * 1.1, places_of(own) - self.corners, 0 * own.flux]
        options = {'radius': radius, 'background_width': _BACKGROUND_WIDTH}
        self.fit = StampFit.of_star(shape, local, **options)
        self.used, self.weights = fit_stars(
            *(self.fit, self.stamps, self.bad, 1.0, ~self.bad.all((1, 2))),
            background=True,
            model_error=_MODEL_ERROR,
            gain=1 / photon if photon > 0 else None,
            accept=self._accept if len(own) >= _MIN_REAL_STARS else None,
        )
        self.offsets, self.errors = own_shapes(self.fit, self.stamps, self.weights)
        self.residual = rms(self.fit, self.stamps, ~self.bad & self.used[:, None, None])

    def _accept(self, weights, used):
        """Stars that are neither wider nor narrower than the others."""
        offsets, errors = (v[:, 0] for v in own_shapes(self.fit, self.stamps, weights))
        sigma = np.where(used, np.hypot(errors, _PLANE_ERROR), np.inf)[:, None]
        off = offsets - trend(self.places, offsets[:, None], sigma)[:, 0]
        scatter, _ = excess_scatter(off[used], errors[used])
        sigma = np.hypot(errors, np.clip(scatter, *_SCATTER_RANGE))
        wide, narrow = off > _MAX_WIDER * sigma, off < -_MAX_NARROWER * sigma
        fine = used & ~wide & ~narrow
        if fine.sum() < _MIN_REAL_STARS:
            return used
        reasons = np.where(wide, 'extended', 'fits badly')
        reasons = np.where(narrow, 'sharper than the stars', reasons)
        self.locus.reasons[self.chosen] = np.where(fine, '', reasons)
        return fine


def _judge(stars, shape, vary):
    """PSF, relative errors of width and area, scatter of the widths, and findings."""
    fit, used, n_stars = stars.fit, stars.used, int(stars.used.sum())
    psf, findings = as_model(fit, stars.residual), []
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
    errors = np.hypot(_errors_of_stars(stars), _FLOOR_ERROR * _WIDTH_AND_AREA)
    if not (stars.locus.n_stars and n_stars >= _MIN_REAL_STARS):
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


def _errors_of_stars(stars):
    """
    Relative errors of the width and of the effective area of a joint fit.

    The largest of the noise by the covariance of theta, what the mean residual of the
    stars would add to the profile, and the scatter of the stars' shares in that, as
    wings of neighbours make them.
    """
    fit, shape = stars.fit, stars.fit.shape
    radius = half_maximum_radius(shape)
    varied = to_shape(fit.theta + _THETA_STEP * np.eye(8))
    total, pixels = integral(shape, fit.radius), effective_pixels(shape, fit.radius)
    widths = half_maximum_radius(varied.T) / radius
    areas = [effective_pixels(v, fit.radius) / pixels for v in varied]
    slopes = np.log([widths, areas]) / _THETA_STEP
    noise = np.einsum('ki,ij,kj->k', slopes, fit.covariance, slopes).clip(0)

    size, flux = stars.stamps.shape[1:], fit.local[:, :1, None]
    apart = np.sqrt(squared_radius(*fit.offsets(size), *shape[6:]))
    weights = stars.weights * stars.used[:, None, None]
    use = (weights > 0) & (apart < min(size) / 2)
    off = ((stars.stamps - fit.model(size)) / flux)[use]
    share, apart, star = np.square(weights * flux)[use], apart[use], np.nonzero(use)[0]
    # At half maximum an even polynomial of the core, less half of what is at the
    # centre, over the slope there.
    design = np.square(apart / radius)[:, None] ** np.arange(3)
    weighted = design * (share * (apart < _CORE_RADIUS * radius))[:, None]
    inverse = np.linalg.pinv(design.T @ weighted, hermitian=True)
    ahead, behind = (profile(np.square(radius * v), shape) for v in (1.01, 0.99))
    in_width = weighted @ inverse @ [0.5, 1, 1] * 0.02 * total / (behind - ahead)
    # Mean residuals in rings, times their share in ln(flux^2 / integral of the square).
    step = max(_RING_WIDTH * radius, _MIN_RING_WIDTH)
    ring = np.rint(apart / step).astype(int)
    area = np.pi * np.diff(
        np.square(step * np.append(0, np.arange(ring.max() + 1) + 0.5))
    )
    in_area = 2 * (area / np.bincount(ring, share))[ring] * share
    in_area *= 1 - profile(np.square(apart), shape) / total * pixels
    n, n_used = len(stars.used), int(stars.used.sum())
    changes = [np.bincount(star, v * off, n) for v in (in_width, in_area)]
    changes = np.array(changes)[:, stars.used]
    scatter = changes.var(1) * n_used**2 / max(n_used - 1, 1)
    return np.sqrt(np.max([noise, np.square(changes.sum(1)), scatter], axis=0))


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
