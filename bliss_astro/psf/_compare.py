# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Comparison of a stated PSF with the stars of its image.
"""

import dataclasses

import numpy as np

from ._compact_sources import find_compact_sources, half_of, level_of, measure_at
from ._locus import find_locus
from ._profile import profile, squared_radius
from ._star_image import StarImage, image_of_exposure
from ._star_widths import excess_scatter

__all__ = ['PSFComparison', 'compare_psf']

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
    comparison : `PSFComparison`
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
    image = image_of_exposure(exposure)
    sources = find_compact_sources(
        image,
        threshold=_THRESHOLD,
        max_pixels=_MAX_PIXELS,
        max_sources=3 * _MAX_STARS // 2,
    )
    if len(sources) < _MIN_STARS:
        return nothing
    locus = find_locus(sources, image.saturated_at(sources), min_snr=_MIN_SNR)
    if locus is None or locus.n_stars < _MIN_STARS:
        return nothing
    stars = sources[np.flatnonzero(locus.reasons == '')[:_MAX_STARS]]
    level = level_of(max(locus.fwhm, middle.fwhm))
    places = np.c_[stars.x, stars.y]
    found = measure_at(image, places, level)
    drawn = _drawn(exposure, places, level)
    good = (found.width > _MIN_WIDTH) & (found.snr > _MIN_SNR)
    if good.sum() < _MIN_STARS:
        return nothing
    # A PSF narrower than its pixel has hardly any width.
    off = np.log(found.width / np.maximum(drawn.width, _MIN_WIDTH))[good]
    error = np.hypot(1 / found.snr[good], _OWN_SCATTER)
    # Scatter of the ratios: variation that the stated PSF explains is none.
    scatter, _ = excess_scatter(off, error)
    weight = 1 / (error**2 + scatter**2)
    log_ratio = float(np.median(off))
    log_error = float(1.25 / np.sqrt(weight.sum()))
    n, ratio = int(good.sum()), float(np.exp(log_ratio))
    return PSFComparison(
        ratio,
        ratio * log_error,
        middle.fwhm,
        middle.fwhm * ratio,
        n,
        _finding(log_ratio, log_error, scatter, n, middle.fwhm),
    )


def _drawn(exposure, places, level):
    """Measure the stated PSF at the places of the stars."""
    half = half_of(level)
    side = 2 * half + 1
    offsets = np.arange(-half, half + 1)
    whole = np.rint(places)
    shapes = np.array(
        [exposure.psf_at(float(x), float(y)).shape_vector for x, y in places]
    )
    dx, dy = (places - whole).T[..., None, None]
    shapes = shapes.T[..., None, None]
    radius = squared_radius(offsets - dx, offsets[:, None] - dy, *shapes[6:])
    stamps = _HEIGHT * profile(radius, shapes)
    at = places - whole + half
    at[:, 0] += side * np.arange(len(places))
    canvas = np.concatenate(list(stamps), axis=1)
    no_pixels = np.zeros(canvas.shape, bool)
    return measure_at(StarImage(canvas, no_pixels, 1.0, 0.0, no_pixels), at, level)


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
