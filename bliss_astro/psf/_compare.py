# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Comparison of a stated PSF with the stars of its image.
"""

import dataclasses

import numpy as np

from ._profile import profile, squared_radius
from ._stars import (
    StarImage,
    find_locus,
    find_sources,
    level_of,
    measure_at,
    measure_stamps,
    places_of,
)
from ._varying import excess_scatter

# Pixels that are searched and stars that are compared at most, which bound the time.
_MAX_PIXELS, _MAX_STARS = 250_000, 30
# Least signal-to-noise ratios of peaks and of stars.
_THRESHOLD, _MIN_SNR = 15.0, 25.0
# Differences of the widths, as logarithms, from which a PSF of 10 % too much or too
# little is recognised with its error, and their significance.
_MIN_DIFFERENCE, _SIGNIFICANT = 0.06, 3.0
# Stars that make a difference credible: galaxies are broader than the PSF, and
# nothing is narrower. Scatter of the widths of what may be stars.
_MIN_STARS, _MIN_STARS_BROADER, _MAX_SCATTER = 3, 5, 0.06
# Height of the drawn stars in units of the noise, far above it.
_HEIGHT = 1e4
# Scatter of single widths that is allowed for beside the measured one.
_OWN_SCATTER = 0.01
# Least width of moments in pixels that is compared.
_MIN_WIDTH = 0.2


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


@np.errstate(over='ignore', invalid='ignore', divide='ignore', under='ignore')
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
    middle = exposure.psf_at(nx / 2, ny / 2)
    nothing = PSFComparison(np.nan, np.nan, middle.fwhm, np.nan, 0, '')
    image = StarImage.of(exposure)
    sources = find_sources(
        image,
        threshold=_THRESHOLD,
        max_pixels=_MAX_PIXELS,
        max_sources=3 * _MAX_STARS // 2,
    )
    locus = find_locus(sources, image.saturated_at(sources), min_snr=_MIN_SNR)
    if locus is None or locus.n_stars < _MIN_STARS:
        return nothing
    places = places_of(sources[np.flatnonzero(locus.reasons == '')[:_MAX_STARS]])
    level, half = level_of(max(locus.fwhm, middle.fwhm))
    found = measure_at(image, places, level)
    # The stated PSF, drawn and measured at the same places.
    shapes = np.array(
        [exposure.psf_at(*place).shape_vector for place in places.tolist()]
    )
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
    log_error = float(1.25 / np.sqrt(np.sum(1 / (error**2 + scatter**2))))
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
