# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimates of what is not given: sky, noise, PSF and cosmic rays of an image.
"""

import dataclasses
import math

import numpy as np
from scipy.ndimage import binary_dilation

from bliss_astro._messages import counted
from bliss_astro._warnings import OutOfDomainWarning, warn
from bliss_astro.encoders import Domain
from bliss_astro.exposures._psf import central_psf
from bliss_astro.exposures._read import exposure_of
from bliss_astro.psf import PSFModel, compare_psf
from bliss_astro.psf._estimate import estimate_from
from bliss_astro.psf._star_image import image_of_exposure

__all__ = [
    'PreparedImage',
    'as_exposure',
    'find_cosmic_rays',
    'prepare_image',
    'psf_findings',
    'psf_of_stars',
]

# Light only adds, so no sky is that many sigma below the background; and
# no star is that many above it.
_FAR_BELOW, _FAR_ABOVE = -20.0, 1e7

# Smallest relative error of a measured PSF: estimates are ellipses, without coma.
_PSF_ERROR_MIN = 0.01
# The PSF that is taken where nothing in the image shows one: usual seeing on
# usual pixels, in pixels, with the largest error that a PSF may be stated with.
_USUAL_FWHM, _USUAL_ERROR = 3.0, 0.15

# Cosmic rays. Pixels above so many sigma are looked at; their neighbours must be this
# many sigma too faint for half of what the PSF demands, those next to them so many.
_PEAK, _LACK, _LACK_BESIDE = 8.0, 6.0, 2.5
# Half of what the PSF demands; of narrow ones three quarters of what one a third
# narrower does (a Gaussian's shares go with its width by powers).
_MARGIN, _NARROW_MARGIN, _POWER = 0.5, 0.75, 1.7
# Pairs of neighbours: rows and columns.
_PAIRS = ((0, 1), (1, 0), (1, 1), (1, -1))
# A larger share of the image cannot be cosmic rays: then the PSF is wrong.
_RAY_SHARE = 0.01


@dataclasses.dataclass
class PreparedImage:
    """
    An exposure with all that a measurement needs, and where it comes from.

    Attributes
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        With a PSF; cosmic rays are masked.

    sources : dict of str to str
        Sources of the numbers that were not given.

    cosmic_rays : bool `~numpy.ndarray`, shape (ny, nx)
        Pixels that are sharper than the PSF.

    psf_messages : list of str
        Texts of warnings about the PSF.

    psf_comparison : dict
        A stated PSF against the stars; empty where none could be compared.
    """

    exposure: object
    sources: dict
    cosmic_rays: np.ndarray
    psf_messages: list
    psf_comparison: dict


def prepare_image(data, given, encoder):
    """
    Read an image, estimate what is not given, and mask cosmic rays.

    Parameters
    ----------
    data : object
        As for `detect_sources`.

    given : dict
        Options that describe the image, without those to be estimated.

    encoder : `~bliss_astro.encoders.Encoder`
        Encoder, whose card states the largest error of a PSF.

    Returns
    -------
    image : `PreparedImage`
        The image.
    """
    exposure, sources = as_exposure(data, **given)
    domain = Domain.of(encoder)
    exposure, messages, comparison = psf_findings(
        exposure,
        measured='psf' in sources,
        most=math.inf if domain is None else domain.psf_error,
    )
    # Stars that are narrower than their stated PSF are none.
    width = min(comparison['ratio'], 1.0) if messages and comparison else 1.0
    rays = find_cosmic_rays(exposure, width=width)
    n_rays = int(np.count_nonzero(rays))
    if n_rays:
        text = f'{n_rays} pixels of cosmic rays, sharper than the PSF'
        sources['mask'] = '; '.join(filter(None, [sources.get('mask'), text]))
        exposure = exposure.replace(mask=exposure.mask | rays)
    return PreparedImage(exposure, sources, rays, messages, comparison)


def as_exposure(data, **given):
    """
    Make an exposure of an image and what is known of it.

    Parameters
    ----------
    data : object
        A path, HDU, list of HDUs, Cutout2D, `~bliss_astro.exposures.Exposure`,
        NDData, Quantity or array.

    **given
        Keywords of `detect_sources` about the image; those that are `None` are
        estimated.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything that a measurement needs.

    estimated : dict of str to str
        Sources of the numbers that were not given.
    """
    given = {name: value for name, value in given.items() if value is not None}
    error = given.get('psf_error')
    estimated = {}
    exposure = exposure_of(data, given, estimated)
    exposure = _without_impossible(exposure, estimated)
    if exposure.psf is None:
        psf, found = psf_of_stars(exposure, estimated)
        exposure = exposure.replace(
            psf=psf, psf_error=found if error is None else error
        )
    return exposure, estimated


def _without_impossible(exposure, estimated):
    """Mask pixels that no sky and no star can explain, and record it."""
    with np.errstate(over='ignore', invalid='ignore'):
        pull = (exposure.data - exposure.background) / exposure.bkg_error
        strange = ((pull < _FAR_BELOW) | (pull > _FAR_ABOVE)) & ~exposure.mask
    n_strange = np.count_nonzero(strange)
    if not n_strange:
        return exposure
    if n_strange > 0.5 * np.count_nonzero(~exposure.mask):
        msg = (
            f'background and bkg_error do not fit data: {n_strange} pixels are more '
            f'than {-_FAR_BELOW:g} sigma below the background. The background is '
            'what is still IN the data: 0 if the sky has been subtracted'
        )
        raise ValueError(msg)
    pixels = counted(n_strange, 'pixel')
    estimated['mask'] = f'{pixels} added that neither sky nor stars explain'
    return exposure.replace(mask=exposure.mask | strange)


# -- PSF -------------------------------------------------------------------------


def psf_of_stars(exposure, estimated):
    """
    Measure the PSF of an exposure on its stars.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, without a PSF.

    estimated : dict
        Gets an entry ``'psf'``: how it was measured.

    Returns
    -------
    psf : `~bliss_astro.psf.PSFModel` or `~bliss_astro.psf.PolynomialPSF`
        The PSF, with the numbers of its fit in ``fit_info``.

    psf_error : float
        Relative error of its width.

    Warns
    -----
    bliss_astro.OutOfDomainWarning
        If the image shows no PSF, or only one or two sources do.
    """
    try:
        estimate = estimate_from(image_of_exposure(exposure))
    except ValueError:
        estimated['psf'] = (
            f'assumed: a usual PSF of FWHM {_USUAL_FWHM:g} px, as the image has no '
            'compact source to measure it'
        )
        warn(
            'psf was not given and the image has no compact source to measure it; a '
            f'usual PSF of FWHM {_USUAL_FWHM:g} px was taken: give psf or fwhm',
            OutOfDomainWarning,
        )
        return PSFModel.from_fwhm(_USUAL_FWHM), _USUAL_ERROR
    n = estimate.n_stars
    varies = ' (it varies)' if estimate.psf is not estimate.central else ''
    estimated['psf'] = f'fit to {n} star{"s"[: n != 1]} of the image{varies}'
    return estimate.psf, max(estimate.psf_error, _PSF_ERROR_MIN)


def psf_findings(exposure, *, measured, most=math.inf):
    """
    Compare the PSF of an exposure with its stars.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, with a PSF.

    measured : bool
        Whether the PSF was measured on the image itself.

    most : float, optional
        Largest relative error of a PSF that can be made use of.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The same, or where its stars contradict its stated PSF one whose ``psf_error``
        is as large as the difference, up to ``most``.

    messages : list of str
        Texts of warnings.

    numbers : dict
        `~bliss_astro.psf.PSFComparison` of a stated PSF as a dictionary with the
        ``psf_error`` that was taken, empty where no star could be compared.
    """
    if measured:
        info = getattr(exposure.psf, 'fit_info', None) or {}
        return exposure, list(info.get('findings', ())), {}
    comparison = compare_psf(exposure)
    if not math.isfinite(comparison.ratio):
        return exposure, [], {}
    numbers = dataclasses.asdict(comparison)
    finding = numbers.pop('finding')
    # Only significant differences, which allow for the comparison's own error.
    error = min(abs(math.log(comparison.ratio)), most) if finding else 0.0
    if error > exposure.psf_error:
        exposure = exposure.replace(psf_error=error)
    numbers['psf_error'] = float(exposure.psf_error)
    return exposure, [finding] if finding else [], numbers


# -- cosmic rays -----------------------------------------------------------------


def find_cosmic_rays(exposure, *, width=1.0):
    """
    Find cosmic rays and hot pixels: light that is sharper than the PSF.

    Whatever lies on the sky, a pixel's neighbours on either side have together at
    least the share of its light that they have for a star in its middle.  Cosmic rays
    do not pass the optics and need not keep to that (van Dokkum 2001, PASP 113, 1420,
    uses the same contrast without a PSF).

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        With a PSF.

    width : float, optional
        Width of the image's stars over that of the PSF.

    Returns
    -------
    rays : bool `~numpy.ndarray`, shape (ny, nx)
        `True` in cosmic rays and hot pixels.
    """
    psf = central_psf(exposure)
    signal = np.asarray(exposure.data - exposure.background, dtype=float)
    sky = np.broadcast_to(np.asarray(exposure.bkg_error, dtype=float), exposure.shape)
    gain = np.broadcast_to(np.asarray(exposure.effective_gain, float), exposure.shape)
    bright = (signal > _PEAK * sky) & ~exposure.mask
    lack = _lack(signal, sky, gain, exposure.mask, bright, psf, width)
    rays = lack > _LACK
    if not rays.any():
        return rays
    # The fainter pixels of a track.
    beside = binary_dilation(rays, np.ones((3, 3))) & (signal > 3 * sky)
    beside &= ~exposure.mask & ~rays
    lack = _lack(signal, sky, gain, exposure.mask | rays, beside, psf, width)
    rays |= lack > _LACK_BESIDE
    if np.count_nonzero(rays) > _RAY_SHARE * np.count_nonzero(~exposure.mask):
        return np.zeros_like(rays)
    return rays


def _lack(signal, sky, gain, mask, chosen, psf, width):
    """By how many sigma neighbours are too faint, 2D; 0 where not chosen."""
    result = np.zeros(signal.shape)
    rows, columns = np.nonzero(chosen)
    if len(rows) == 0:
        return result
    light = np.pad(np.where(mask, np.inf, signal), 1, constant_values=np.inf)
    own, variance = signal[rows, columns], sky[rows, columns] ** 2
    photons = own.clip(0) / gain[rows, columns]
    x0, y0 = float(psf.x_0.value), float(psf.y_0.value)
    middle = float(psf(x0, y0))
    worst = np.zeros(len(rows))
    for dy, dx in _PAIRS:
        share = max(float(psf(x0 + dx / width, y0 + dy / width)) / middle, 0.0)
        share = min(_MARGIN * share, _NARROW_MARGIN * share**_POWER)
        pair = 0.5 * (
            light[rows + 1 + dy, columns + 1 + dx]
            + light[rows + 1 - dy, columns + 1 - dx]
        )
        # The neighbours' own photons, if they were as bright as demanded.
        noise = share**2 * (variance + photons) + 0.5 * (variance + share * photons)
        worst = np.maximum(worst, (share * own - pair) / np.sqrt(noise))
    result[rows, columns] = worst
    return result
